/* Transfers: BEGIN, WRITEs in any order, COMMIT. What is received lies in a slot without a name until COMMIT. */
#include <string.h>

#include "bytes.h"
#include "crc32.h"
#include "server.h"

#define CHUNK_MIN 64U

static bool is_map(uint32_t region)
{
    return (region == PIMP_REGION_MAP8) || (region == PIMP_REGION_MAP32);
}

/* The largest handle of a region in *last; false where it cannot be written. */
static bool writable(uint32_t region, uint32_t *last)
{
    *last = 0U;
    switch (region) {
    case PIMP_REGION_CELLS:
    case PIMP_REGION_INPUTS:
        return true;
    case PIMP_REGION_LAYER:
    case PIMP_REGION_REQUANT:
    case PIMP_REGION_WEIGHTS:
        *last = PIM_HANDLES - 1U;
        return true;
    case PIMP_REGION_MAP8:
    case PIMP_REGION_MAP32:
        *last = UINT32_MAX;
        return true;
    default:
        return false;
    }
}

void pim_transfer_drop(pim_server *server)
{
    pim_transfer *t = &server->transfer;
    if (t->active) {
        pim_memory_drop(t->in_maps ? &server->board.memory : &server->objects, t->slot);
        t->active = false;
    }
}

/* A BEGIN's payload, the slot and what was received left out. */
static pim_transfer asked(const uint8_t *p)
{
    pim_transfer t;
    (void)memset(&t, 0, sizeof t);
    t.region = pim_get32(p);
    t.handle = pim_get32(&p[4]);
    t.length = pim_get32(&p[8]);
    t.chunk = pim_get32(&p[12]);
    t.crc = pim_get32(&p[16]);
    for (uint32_t i = 0U; i < 4U; i++) {
        t.shape[i] = pim_get32(&p[20U + (4U * (size_t)i)]);
    }
    t.in_maps = is_map(t.region);
    return t;
}

static bool same(const pim_transfer *a, const pim_transfer *b)
{
    return a->active && (a->region == b->region) && (a->handle == b->handle) && (a->length == b->length) &&
           (a->chunk == b->chunk) && (a->crc == b->crc) && (memcmp(a->shape, b->shape, sizeof a->shape) == 0);
}

static uint16_t check(const pim_server *server, pim_transfer *t)
{
    size_t values = 0U;
    uint32_t last = 0U;
    if (!writable(t->region, &last)) {
        return PIMP_ERROR_REGION;
    }
    if ((t->length == 0U) || (t->length > (uint32_t)INT32_MAX) || (t->chunk < CHUNK_MIN) ||
        (t->chunk > server->max_payload)) {
        return PIMP_ERROR_ARGUMENT;
    }
    t->chunks = ((t->length - 1U) / t->chunk) + 1U;
    if (t->chunks > PIMP_MAX_CHUNKS) {
        return PIMP_ERROR_ARGUMENT;
    }
    if (t->handle > last) {
        return PIMP_ERROR_REGION;
    }
    if (t->in_maps) {
        if (!pim_shape_size(t->shape, &values) ||
            (((uint64_t)values * ((t->region == PIMP_REGION_MAP8) ? 1U : 4U)) != t->length)) {
            return PIMP_ERROR_SHAPE;
        }
    }
    return 0U;
}

static pim_status make_slot(pim_server *server, pim_transfer *t)
{
    const uint32_t shape[4] = {1U, 1U, 1U, t->length};
    if (t->in_maps) {
        const bool small = (t->region == PIMP_REGION_MAP8);
        return pim_memory_make(&server->board.memory, t->handle, t->shape, small, &t->slot);
    }
    return pim_memory_make(&server->objects, pim_object_key(t->region, t->handle), shape, true, &t->slot);
}

uint16_t pim_transfer_begin(pim_server *server, pim_request *request)
{
    if (request->size != PIMP_BEGIN_REQUEST_SIZE) {
        return PIMP_ERROR_BAD_LENGTH;
    }
    pim_transfer t = asked(request->payload);
    if (!same(&server->transfer, &t)) {
        const uint16_t error = check(server, &t);
        if (error != 0U) {
            return error;
        }
        pim_transfer_drop(server);
        const pim_status status = make_slot(server, &t);
        if (status != PIM_OK) {
            return pim_answer(server, status);
        }
        t.active = true;
        server->transfer = t;
        (void)memset(server->bitmap, 0, sizeof server->bitmap);
    }
    pim_put32(server->payload, server->transfer.chunks);
    pim_put32(&server->payload[4], server->transfer.received);
    request->reply_size = PIMP_BEGIN_REPLY_SIZE;
    return 0U;
}

static uint8_t *bytes_of(const pim_server *server)
{
    const pim_transfer *t = &server->transfer;
    return pim_memory_map(t->in_maps ? &server->board.memory : &server->objects, t->slot).bytes;
}

uint16_t pim_transfer_write(pim_server *server, pim_request *request)
{
    pim_transfer *t = &server->transfer;
    const uint32_t offset = request->header->arg;
    if (!t->active) {
        return PIMP_ERROR_NO_TRANSFER;
    }
    if ((offset >= t->length) || ((offset % t->chunk) != 0U)) {
        return PIMP_ERROR_ARGUMENT;
    }
    const uint32_t rest = t->length - offset;
    if (request->size != ((rest < t->chunk) ? rest : t->chunk)) {
        return PIMP_ERROR_BAD_LENGTH;
    }
    const uint32_t chunk = offset / t->chunk; /* below chunks, which is within the bitmap */
    const uint8_t bit = (uint8_t)(1U << (chunk & 7U));
    (void)memcpy(&bytes_of(server)[offset], request->payload, request->size);
    if ((server->bitmap[chunk >> 3] & bit) == 0U) {
        server->bitmap[chunk >> 3] |= bit;
        t->received++;
    }
    return 0U;
}

uint16_t pim_transfer_commit(pim_server *server, pim_request *request)
{
    pim_transfer *t = &server->transfer;
    (void)request;
    if (!t->active) {
        return PIMP_ERROR_NO_TRANSFER;
    }
    if (t->received != t->chunks) {
        return PIMP_ERROR_INCOMPLETE;
    }
    const uint8_t *bytes = bytes_of(server);
    uint16_t error = (pim_crc32(0U, bytes, t->length) == t->crc) ? 0U : PIMP_ERROR_TRANSFER_CRC;
    if (error == 0U) {
        error = pim_object_check(t->region, bytes, t->length);
    }
    pim_memory *memory = t->in_maps ? &server->board.memory : &server->objects;
    if ((error == 0U) && !pim_memory_may_keep(memory, t->slot)) { /* ops have filled it since BEGIN */
        error = pim_answer(server, PIM_NO_MEMORY);
    }
    if (error != 0U) {
        pim_transfer_drop(server);
        pim_log(server, 2U, "a transfer was dropped at its COMMIT");
        return error;
    }
    pim_memory_keep(memory, t->slot);
    if (t->in_maps) {
        server->board.counters.bytes_in += t->length;
    }
    t->active = false;
    return 0U;
}
