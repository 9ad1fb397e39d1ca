/* One board with flat arguments, for tests that call it from Python. Shapes and points are arrays of words. */
#include <string.h>

#include "board.h"

static pim_die die;
static pim_board board;

static pim_tile tile_of(const uint32_t *t)
{
    const pim_tile tile = {t[0], t[1], t[2], t[3], t[4]};
    return tile;
}

static pim_geometry geometry_of(const uint32_t *g)
{
    const pim_geometry geometry = {g[0], g[1], {g[2], g[3]}, {g[4], g[5]}, {g[6], g[7]}, {g[8], g[9]}};
    return geometry;
}

static pim_point point_of(const uint32_t *given)
{
    pim_point p;
    (void)memset(&p, 0, sizeof p);
    p.scheme = given[0];
    p.rows = given[1];
    p.weight_bits = given[2];
    p.act_bits = given[3];
    p.dac_bits = given[4];
    p.adc_bits = given[5];
    p.range_divisor = given[6];
    return p;
}

/* The status of the die, or 100 where the arena is too small. */
uint32_t shim_open(const uint8_t *image, size_t size, uint8_t *arena, size_t arena_size)
{
    const pim_die_status status = pim_die_read(&die, image, size);
    if (status != PIM_DIE_OK) {
        return (uint32_t)status;
    }
    return pim_board_begin(&board, &die, arena, arena_size) ? 0U : 100U;
}

uint32_t shim_write(const uint32_t *tile, const uint8_t *cells, uint32_t full)
{
    const pim_tile t = tile_of(tile);
    return (uint32_t)pim_board_write(&board, &t, cells, full);
}

uint32_t shim_read(const uint32_t *tile, uint8_t *cells)
{
    const pim_tile t = tile_of(tile);
    pim_status status = PIM_OK;
    for (uint32_t r = 0U; (r < t.rows) && (status == PIM_OK); r++) {
        status = pim_board_read_row(&board, &t, r, &cells[(size_t)r * t.columns]);
    }
    return (uint32_t)status;
}

uint32_t shim_trim(uint32_t adc, uint32_t code)
{
    return (uint32_t)pim_board_trim(&board, adc, code);
}

uint32_t shim_convert(const uint32_t *tile, const uint32_t *point, const uint8_t *x, uint32_t vectors, uint32_t epoch,
                      uint64_t first, int32_t *codes)
{
    const pim_tile t = tile_of(tile);
    const pim_die_point *at = NULL;
    pim_point p = point_of(point);
    if (!pim_point_derive(&p)) {
        return (uint32_t)PIM_BAD_POINT;
    }
    pim_status status = pim_board_ready(&board, &t, &p, &at);
    for (uint32_t m = 0U; (m < vectors) && (status == PIM_OK); m++) {
        status = pim_board_convert(&board, &t, at, &x[(size_t)m * t.rows], epoch, first + m);
        (void)memcpy(&codes[(size_t)m * t.columns], board.codes, (size_t)t.columns * sizeof codes[0]);
    }
    return (uint32_t)status;
}

uint32_t shim_upload(uint32_t number, const uint32_t *shape, const int32_t *values, uint32_t small)
{
    uint32_t slot = 0U;
    const pim_status status = pim_memory_make(&board.memory, number, shape, small != 0U, &slot);
    if (status == PIM_OK) {
        const pim_map map = pim_memory_map(&board.memory, slot);
        for (size_t i = 0U; i < pim_map_size(&map); i++) {
            pim_map_put(&map, i, values[i]);
        }
        pim_memory_keep(&board.memory, slot);
    }
    return (uint32_t)status;
}

/* values: NULL for the shape alone. */
uint32_t shim_download(uint32_t number, uint32_t *shape, int32_t *values)
{
    uint32_t slot = 0U;
    if (!pim_memory_find(&board.memory, number, &slot)) {
        return (uint32_t)PIM_NO_BUFFER;
    }
    const pim_map map = pim_memory_map(&board.memory, slot);
    (void)memcpy(shape, board.memory.slots[slot].shape, sizeof board.memory.slots[slot].shape);
    for (size_t i = 0U; (values != NULL) && (i < pim_map_size(&map)); i++) {
        values[i] = pim_map_get(&map, i);
    }
    return (uint32_t)PIM_OK;
}

void shim_free(uint32_t number)
{
    pim_memory_free(&board.memory, number);
}

/* counts: of copies, NULL for one. */
uint32_t shim_conv(const uint32_t *point, const uint32_t *geometry, const uint8_t *placements, uint32_t count,
                   const uint8_t *counts, uint32_t copies, const pim_correction *correction, const uint32_t *buffers, const pim_requant *requant, uint32_t accumulate, uint32_t epoch,
                   uint64_t first)
{
    pim_layer layer = {point_of(point), geometry_of(geometry), placements, count, copies, counts, {0U, 0U, NULL}};
    if (correction != NULL) {
        layer.correction = *correction;
    }
    const pim_run run = {epoch, first};
    if (!pim_point_derive(&layer.point)) {
        return (uint32_t)PIM_BAD_POINT;
    }
    return (uint32_t)pim_board_conv(&board, &layer, buffers[0], buffers[1], requant, accumulate != 0U, &run);
}

uint32_t shim_digital(const uint8_t *weights, size_t size, const uint32_t *geometry, const uint32_t *buffers,
                      const pim_requant *requant)
{
    const pim_geometry g = geometry_of(geometry);
    return (uint32_t)pim_board_digital(&board, weights, size, &g, buffers[0], buffers[1], requant);
}

uint32_t shim_requantize(const uint32_t *buffers, const pim_requant *requant)
{
    return (uint32_t)pim_board_requantize(&board, buffers[0], buffers[1], requant);
}

uint32_t shim_add(const uint32_t *buffers, const pim_addition *how)
{
    return (uint32_t)pim_board_add(&board, buffers[0], buffers[1], buffers[2], how);
}

uint32_t shim_pool(const uint32_t *buffers, uint32_t largest, const uint32_t *window)
{
    const pim_pooling how = {largest != 0U, {window[0], window[1]}, {window[2], window[3]}, {window[4], window[5]}};
    return (uint32_t)pim_board_pool(&board, buffers[0], buffers[1], &how);
}

uint32_t shim_stats(uint32_t number, int64_t *totals, int64_t *squares)
{
    uint32_t slot = 0U;
    pim_status status = PIM_OK;
    if (!pim_memory_find(&board.memory, number, &slot)) {
        return (uint32_t)PIM_NO_BUFFER;
    }
    const pim_map map = pim_memory_map(&board.memory, slot);
    for (uint32_t c = 0U; (c < map.c) && (status == PIM_OK); c++) {
        status = pim_stats(&map, c, &totals[c], &squares[c]);
    }
    return (uint32_t)status;
}

void shim_counters(uint64_t *out)
{
    (void)memcpy(out, &board.counters, sizeof board.counters);
}
