/* What is asked of layers and feature maps: payloads to calls of the board. */
#include "bytes.h"
#include "ops.h"

/* The requantization of a handle, or none: *requant is NULL then. held: where it is put. */
static bool optional_requant(const pim_server *s, uint32_t handle, pim_requant *held, const pim_requant **requant)
{
    *requant = NULL;
    if (handle == PIMP_NO_HANDLE) {
        return true;
    }
    *requant = held;
    return pim_read_requant(s, handle, held);
}

uint16_t pim_op_conv(pim_server *s, pim_request *request)
{
    const uint8_t *p = request->payload;
    const uint32_t accumulate = pim_get32(&p[16]);
    const pim_run run = {pim_get32(&p[20]), pim_get64(&p[24])};
    pim_layer layer;
    pim_requant held;
    const pim_requant *requant = NULL;
    if ((accumulate > 1U) || ((accumulate == 1U) && (pim_get32(&p[12]) != PIMP_NO_HANDLE)) ||
        (run.first >= (1ULL << 40))) {
        return PIMP_ERROR_ARGUMENT;
    }
    if (!pim_read_layer(s, pim_get32(p), &layer) || !optional_requant(s, pim_get32(&p[12]), &held, &requant)) {
        return PIMP_ERROR_EMPTY;
    }
    return pim_answer(
        s, pim_board_conv(&s->board, &layer, pim_get32(&p[4]), pim_get32(&p[8]), requant, accumulate == 1U, &run));
}

uint16_t pim_op_digital(pim_server *s, pim_request *request)
{
    const uint8_t *p = request->payload;
    const uint8_t *weights = NULL;
    size_t size = 0U;
    pim_geometry g;
    pim_requant held;
    const pim_requant *requant = NULL;
    if (!pim_read_weights(s, pim_get32(p), &g, &weights, &size) ||
        !optional_requant(s, pim_get32(&p[12]), &held, &requant)) {
        return PIMP_ERROR_EMPTY;
    }
    return pim_answer(
        s, pim_board_digital(&s->board, weights, size, &g, pim_get32(&p[4]), pim_get32(&p[8]), requant));
}

uint16_t pim_op_requantize(pim_server *s, pim_request *request)
{
    const uint8_t *p = request->payload;
    pim_requant requant;
    if (!pim_read_requant(s, pim_get32(&p[8]), &requant)) {
        return PIMP_ERROR_EMPTY;
    }
    return pim_answer(s, pim_board_requantize(&s->board, pim_get32(p), pim_get32(&p[4]), &requant));
}

uint16_t pim_op_add(pim_server *s, pim_request *request)
{
    const uint8_t *p = request->payload;
    const pim_addition how = {
        .factor = {pim_signed64(pim_get64(&p[24])), pim_signed64(pim_get64(&p[32]))},
        .shift = pim_get32(&p[12]),
        .low = pim_signed32(pim_get32(&p[16])),
        .high = pim_signed32(pim_get32(&p[20])),
    };
    return pim_answer(s, pim_board_add(&s->board, pim_get32(p), pim_get32(&p[4]), pim_get32(&p[8]), &how));
}

uint16_t pim_op_pool(pim_server *s, pim_request *request)
{
    const uint8_t *p = request->payload;
    const uint32_t kind = pim_get32(&p[8]);
    const pim_pooling how = {
        .largest = (kind == 0U),
        .kernel = {pim_get32(&p[12]), pim_get32(&p[16])},
        .stride = {pim_get32(&p[20]), pim_get32(&p[24])},
        .padding = {pim_get32(&p[28]), pim_get32(&p[32])},
    };
    return (kind > 1U) ? (uint16_t)PIMP_ERROR_ARGUMENT
                       : pim_answer(s, pim_board_pool(&s->board, pim_get32(p), pim_get32(&p[4]), &how));
}

uint16_t pim_op_stats(pim_server *s, pim_request *request)
{
    uint32_t slot = 0U;
    if (!pim_memory_find(&s->board.memory, pim_get32(request->payload), &slot)) {
        return PIMP_ERROR_EMPTY;
    }
    const pim_map map = pim_memory_map(&s->board.memory, slot);
    if (map.c > ((uint32_t)INT32_MAX / PIMP_STATS_CHANNEL_SIZE)) {
        return PIMP_ERROR_FULL;
    }
    uint8_t *out = pim_object_make(s, PIMP_REGION_STATS, 0U, map.c * PIMP_STATS_CHANNEL_SIZE);
    if (out == NULL) {
        return PIMP_ERROR_FULL;
    }
    for (uint32_t c = 0U; c < map.c; c++) {
        int64_t total = 0;
        int64_t squares = 0;
        const pim_status status = pim_stats(&map, c, &total, &squares);
        if (status != PIM_OK) {
            pim_memory_free(&s->objects, pim_object_key(PIMP_REGION_STATS, 0U));
            return pim_answer(s, status);
        }
        pim_put64(&out[(size_t)c * PIMP_STATS_CHANNEL_SIZE], (uint64_t)total);
        pim_put64(&out[((size_t)c * PIMP_STATS_CHANNEL_SIZE) + 8U], (uint64_t)squares);
    }
    pim_put64(s->payload, (uint64_t)map.n * map.h * map.w);
    pim_put32(&s->payload[8], map.c);
    request->reply_size = PIMP_STATS_REPLY_SIZE;
    return 0U;
}

uint16_t pim_op_map(pim_server *s, pim_request *request)
{
    uint32_t slot = 0U;
    if (!pim_memory_find(&s->board.memory, pim_get32(request->payload), &slot)) {
        return PIMP_ERROR_EMPTY;
    }
    const pim_map map = pim_memory_map(&s->board.memory, slot);
    int32_t low = pim_map_get(&map, 0U); /* no map is empty */
    int32_t high = low;
    for (size_t i = 1U; i < pim_map_size(&map); i++) {
        const int32_t v = pim_map_get(&map, i);
        low = (v < low) ? v : low;
        high = (v > high) ? v : high;
    }
    for (uint32_t i = 0U; i < 4U; i++) {
        pim_put32(&s->payload[4U * (size_t)i], s->board.memory.slots[slot].shape[i]);
    }
    pim_put32(&s->payload[16], (uint32_t)low);
    pim_put32(&s->payload[20], (uint32_t)high);
    request->reply_size = PIMP_MAP_REPLY_SIZE;
    return 0U;
}

uint16_t pim_op_free(pim_server *s, pim_request *request)
{
    pim_memory_free(&s->board.memory, pim_get32(request->payload));
    return 0U;
}
