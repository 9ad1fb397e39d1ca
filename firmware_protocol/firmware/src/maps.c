/* The processor's operations on buffers: what is there, what fits, room for the result, and the operation. */
#include <string.h>

#include "board_parts.h"

pim_status pim_board_finish(pim_board *board, uint32_t slot, pim_status status)
{
    if (status == PIM_OK) {
        pim_memory_keep(&board->memory, slot);
    } else {
        pim_memory_drop(&board->memory, slot);
    }
    return status;
}

pim_status pim_board_digital(pim_board *board, const uint8_t *weights, size_t weights_size, const pim_geometry *g,
                             uint32_t src, uint32_t dst, const pim_requant *requant)
{
    uint32_t from = 0U;
    uint32_t slot = 0U;
    uint32_t depth = 0U;
    uint32_t size[2];
    if (!pim_memory_find(&board->memory, src, &from)) {
        return PIM_NO_BUFFER;
    }
    pim_map x = pim_memory_map(&board->memory, from);
    if (!pim_geometry_depth(g, &depth)) {
        return PIM_BAD_ARGUMENT;
    }
    if (!pim_geometry_feed(g, &x) || !pim_geometry_output(g, &x, size) ||
        (((uint64_t)depth * g->out_channels) != weights_size)) {
        return PIM_BAD_SHAPE;
    }
    pim_status status = (requant == NULL) ? PIM_OK : pim_requant_check(requant, g->out_channels);
    if (status != PIM_OK) {
        return status;
    }
    const pim_work work = {.window = depth, .each = g->out_channels, .most = PIM_DIGITAL_WORK};
    if (!pim_work_fits(&work, &x, g->padding, size)) {
        return PIM_TOO_MUCH;
    }
    const uint32_t shape[4] = {x.n, g->out_channels, size[0], size[1]};
    const bool small = (requant != NULL) && pim_fits_byte(requant->low, requant->high);
    status = pim_memory_make(&board->memory, dst, shape, small, &slot);
    if (status != PIM_OK) {
        return status;
    }
    x = pim_memory_map(&board->memory, from);
    const pim_map out = pim_memory_map(&board->memory, slot);
    status = pim_geometry_feed(g, &x) ? pim_digital(&x, weights, g, requant, &out) : PIM_BAD_SHAPE;
    if (status == PIM_OK) {
        board->counters.digital_macs += (uint64_t)pim_map_size(&out) * depth;
    }
    return pim_board_finish(board, slot, status);
}

pim_status pim_board_requantize(pim_board *board, uint32_t src, uint32_t dst, const pim_requant *requant)
{
    uint32_t from = 0U;
    uint32_t slot = 0U;
    if (!pim_memory_find(&board->memory, src, &from)) {
        return PIM_NO_BUFFER;
    }
    const uint32_t *shape = board->memory.slots[from].shape;
    pim_status status = pim_requant_check(requant, shape[1]);
    if (status == PIM_OK) {
        status = pim_memory_make(&board->memory, dst, shape, pim_fits_byte(requant->low, requant->high), &slot);
    }
    if (status != PIM_OK) {
        return status;
    }
    const pim_map x = pim_memory_map(&board->memory, from);
    const pim_map out = pim_memory_map(&board->memory, slot);
    return pim_board_finish(board, slot, pim_requantize(&x, requant, &out));
}

pim_status pim_board_add(pim_board *board, uint32_t a, uint32_t b, uint32_t dst, const pim_addition *how)
{
    uint32_t slot_a = 0U;
    uint32_t slot_b = 0U;
    uint32_t slot = 0U;
    if (!pim_add_possible(how)) {
        return PIM_BAD_ARGUMENT;
    }
    if (!pim_memory_find(&board->memory, a, &slot_a) || !pim_memory_find(&board->memory, b, &slot_b)) {
        return PIM_NO_BUFFER;
    }
    const uint32_t *shape = board->memory.slots[slot_a].shape;
    if (memcmp(shape, board->memory.slots[slot_b].shape, sizeof board->memory.slots[slot_b].shape) != 0) {
        return PIM_BAD_SHAPE;
    }
    const pim_status status = pim_memory_make(&board->memory, dst, shape, pim_fits_byte(how->low, how->high), &slot);
    if (status != PIM_OK) {
        return status;
    }
    const pim_map left = pim_memory_map(&board->memory, slot_a);
    const pim_map right = pim_memory_map(&board->memory, slot_b);
    const pim_map out = pim_memory_map(&board->memory, slot);
    return pim_board_finish(board, slot, pim_add(&left, &right, how, &out));
}

pim_status pim_board_pool(pim_board *board, uint32_t src, uint32_t dst, const pim_pooling *how)
{
    uint32_t from = 0U;
    uint32_t slot = 0U;
    uint32_t size[2];
    if (!pim_pool_possible(how)) {
        return PIM_BAD_ARGUMENT;
    }
    if (!pim_memory_find(&board->memory, src, &from)) {
        return PIM_NO_BUFFER;
    }
    pim_map x = pim_memory_map(&board->memory, from);
    if (!pim_pool_output(how, &x, size)) {
        return PIM_BAD_SHAPE;
    }
    const uint64_t window = pim_times((uint64_t)how->kernel[0] * how->kernel[1], x.c);
    const pim_work work = {.window = window, .each = 1U, .most = PIM_POOL_WORK};
    if (!pim_work_fits(&work, &x, how->padding, size)) {
        return PIM_TOO_MUCH;
    }
    const uint32_t shape[4] = {x.n, x.c, size[0], size[1]};
    const pim_status status = pim_memory_make(&board->memory, dst, shape, x.small && how->largest, &slot);
    if (status != PIM_OK) {
        return status;
    }
    x = pim_memory_map(&board->memory, from);
    const pim_map out = pim_memory_map(&board->memory, slot);
    return pim_board_finish(board, slot, pim_pool(&x, how, &out));
}
