/* READ: part of a region. */
#include <string.h>

#include "bytes.h"
#include "server.h"

#define COUNTERS 8U

static uint16_t copy(pim_server *server, pim_request *request, const uint8_t *from, size_t size)
{
    const uint32_t offset = request->header->arg;
    const uint32_t length = pim_get32(&request->payload[8]);
    if (from == NULL) {
        return PIMP_ERROR_EMPTY;
    }
    if ((offset > size) || (length > (size - offset))) {
        return PIMP_ERROR_ARGUMENT;
    }
    (void)memcpy(server->payload, &from[offset], length);
    request->reply_size = length;
    return 0U;
}

/* Registers and counters, eight bytes each: they are few, so all up to the end of the part are looked at. */
static uint16_t read_words(pim_server *server, pim_request *request, bool counters)
{
    const pim_board *board = &server->board;
    const uint64_t count = counters ? COUNTERS : (1U + (uint64_t)board->die->registers);
    const uint64_t offset = request->header->arg;
    const uint32_t length = pim_get32(&request->payload[8]);
    const uint64_t all[COUNTERS] = {
        board->counters.conversions, board->counters.dac_steps,  board->counters.array_cycles,
        board->counters.cell_writes, board->counters.row_writes, board->counters.digital_macs,
        board->counters.bytes_in,    board->counters.bytes_out,
    };
    if ((offset + length) > (8U * count)) {
        return PIMP_ERROR_ARGUMENT;
    }
    for (uint32_t i = 0U; i < length; i++) {
        const uint64_t number = (offset + i) / 8U;
        uint64_t value = counters ? all[number] : board->state;
        if (!counters && (number > 0U)) {
            value = board->trim[number - 1U];
        }
        server->payload[i] = (uint8_t)((value >> (8U * ((offset + i) % 8U))) & 0xFFU);
    }
    request->reply_size = length;
    return 0U;
}

/* A map as bytes or words, whichever it is kept as. */
static uint16_t read_map(pim_server *server, pim_request *request, bool small)
{
    const uint64_t offset = request->header->arg;
    const uint32_t length = pim_get32(&request->payload[8]);
    const uint32_t width = small ? 1U : 4U;
    uint32_t slot = 0U;
    if (!pim_memory_find(&server->board.memory, pim_get32(&request->payload[4]), &slot)) {
        return PIMP_ERROR_EMPTY;
    }
    const pim_map map = pim_memory_map(&server->board.memory, slot);
    if ((offset + length) > ((uint64_t)pim_map_size(&map) * width)) {
        return PIMP_ERROR_ARGUMENT;
    }
    for (uint32_t i = 0U; i < length; i++) {
        const uint64_t place = offset + i;
        const int32_t value = pim_map_get(&map, (size_t)(place / width));
        if (small && ((value < 0) || (value > 255))) {
            return PIMP_ERROR_SHAPE;
        }
        server->payload[i] = (uint8_t)(((uint32_t)value >> (8U * (place % width))) & 0xFFU);
    }
    server->board.counters.bytes_out += length;
    request->reply_size = length;
    return 0U;
}

static uint16_t read_bitmap(pim_server *server, pim_request *request)
{
    if (!server->transfer.active) {
        return PIMP_ERROR_NO_TRANSFER;
    }
    return copy(server, request, server->bitmap, (server->transfer.chunks + 7U) / 8U);
}

static uint16_t read_object(pim_server *server, pim_request *request, uint32_t region)
{
    size_t size = 0U;
    const uint8_t *bytes = pim_object(server, region, 0U, &size);
    return copy(server, request, bytes, size);
}

uint16_t pim_region_read(pim_server *server, pim_request *request)
{
    if (request->size != PIMP_READ_REQUEST_SIZE) {
        return PIMP_ERROR_BAD_LENGTH;
    }
    const uint32_t region = pim_get32(request->payload);
    const uint32_t handle = pim_get32(&request->payload[4]);
    const uint32_t length = pim_get32(&request->payload[8]);
    if ((length == 0U) || (length > server->max_payload)) {
        return PIMP_ERROR_ARGUMENT;
    }
    if ((region != PIMP_REGION_MAP8) && (region != PIMP_REGION_MAP32) && (handle != 0U)) {
        return PIMP_ERROR_REGION;
    }
    switch (region) {
    case PIMP_REGION_BITMAP:
        return read_bitmap(server, request);
    case PIMP_REGION_BLOB:
        return copy(server, request, server->die->description, server->die->description_size);
    case PIMP_REGION_REGISTERS:
        return read_words(server, request, false);
    case PIMP_REGION_COUNTERS:
        return read_words(server, request, true);
    case PIMP_REGION_READBACK:
    case PIMP_REGION_CHECKS:
    case PIMP_REGION_CODES:
    case PIMP_REGION_STATS:
        return read_object(server, request, region);
    case PIMP_REGION_MAP8:
    case PIMP_REGION_MAP32:
        return read_map(server, request, region == PIMP_REGION_MAP8);
    default:
        return PIMP_ERROR_REGION;
    }
}
