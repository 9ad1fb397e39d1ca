#include "board.h"

#include <string.h>

#include "board_parts.h"
#include "bytes.h"

/* Takes `count` things of `size` bytes off the arena, each part at a multiple of 8. NULL where it is used up. */
static uint8_t *take(uint8_t *arena, size_t capacity, size_t *used, size_t count, size_t size)
{
    const uint64_t wanted = ((((uint64_t)count * size) + 7U) / 8U) * 8U;
    if (wanted > (uint64_t)(capacity - *used)) {
        return NULL;
    }
    uint8_t *part = &arena[*used];
    *used += (size_t)wanted;
    return part;
}

static bool lay_out(pim_board *board, uint8_t *arena, size_t size)
{
    const pim_die *die = board->die;
    const size_t cells = (size_t)die->macros * die->rows * die->columns;
    size_t used = 0U;
    board->cells = (int8_t *)(void *)take(arena, size, &used, cells, 1U);
    board->largest = NULL;
    if (die->stuck != NULL) {
        board->largest = (int8_t *)(void *)take(arena, size, &used, cells, 1U);
    }
    board->trim = (uint16_t *)(void *)take(arena, size, &used, die->registers, sizeof(uint16_t));
    board->inputs = take(arena, size, &used, die->rows, 1U);
    board->digits = take(arena, size, &used, die->rows, 1U);
    board->narrow = (int32_t *)(void *)take(arena, size, &used, die->columns, sizeof(int32_t));
    board->codes = (int32_t *)(void *)take(arena, size, &used, die->columns, sizeof(int32_t));
    board->sums = (int64_t *)(void *)take(arena, size, &used, die->columns, sizeof(int64_t));
    if ((board->cells == NULL) || ((die->stuck != NULL) && (board->largest == NULL)) || (board->trim == NULL) ||
        (board->inputs == NULL) || (board->digits == NULL) || (board->narrow == NULL) || (board->codes == NULL) ||
        (board->sums == NULL) || ((size - used) < 64U)) {
        return false;
    }
    (void)memset(board->cells, 0, cells);
    if (board->largest != NULL) {
        (void)memset(board->largest, (int)die->full, cells);
    }
    pim_memory_begin(&board->memory, &arena[used], size - used, board->slots, PIM_SLOTS);
    return true;
}

bool pim_board_begin(pim_board *board, pim_die *die, uint8_t *arena, size_t size)
{
    (void)memset(board, 0, sizeof *board);
    board->die = die;
    if ((((uintptr_t)arena & 7U) != 0U) || !lay_out(board, arena, size)) {
        return false;
    }
    if ((uint64_t)board->memory.limit < die->feature_memory) { /* hosts were told that there is so much */
        return false;
    }
    board->memory.limit = (size_t)die->feature_memory;
    const uint32_t converters = die->macros * die->per_macro;
    for (uint32_t j = 0U; j < die->registers; j++) {
        const uint32_t middle = ((j < converters) ? die->trim_codes : die->gain_codes) / 2U;
        board->trim[j] = (die->held == NULL) ? (uint16_t)middle : pim_get16(&die->held[2U * (size_t)j]);
    }
    for (uint32_t i = 0U; i < die->points; i++) {
        die->point[i].tables.trim = (die->trims > 1U) ? board->trim : NULL;
        die->point[i].tables.gain = (die->gains > 1U) ? &board->trim[converters] : NULL;
    }
    return true;
}

static bool within(uint32_t first, uint32_t count, uint32_t size)
{
    return (count >= 1U) && (count <= size) && (first <= (size - count));
}

bool pim_board_has_tile(const pim_board *board, const pim_tile *tile)
{
    return (tile->macro < board->die->macros) && within(tile->row, tile->rows, board->die->rows) &&
           within(tile->column, tile->columns, board->die->columns);
}

/* Place of a tile's row in arrays [macros][rows][columns]. */
static size_t place_of(const pim_board *board, const pim_tile *tile, uint32_t row)
{
    return ((((size_t)tile->macro * board->die->rows) + tile->row + row) * board->die->columns) + tile->column;
}

pim_status pim_board_write(pim_board *board, const pim_tile *tile, const uint8_t *cells, uint32_t full)
{
    if (!pim_board_has_tile(board, tile)) {
        return PIM_BAD_TILE;
    }
    if (full > 127U) {
        return PIM_BAD_ARGUMENT;
    }
    const int32_t largest = (full == 0U) ? board->die->full : (int32_t)full;
    for (uint32_t r = 0U; r < tile->rows; r++) {
        const size_t at = place_of(board, tile, r);
        (void)memcpy(&board->cells[at], &cells[(size_t)r * tile->columns], tile->columns);
        if (board->largest != NULL) {
            (void)memset(&board->largest[at], (int)largest, tile->columns);
        }
    }
    board->state++;
    board->counters.cell_writes += (uint64_t)tile->rows * tile->columns;
    board->counters.row_writes += tile->rows;
    return PIM_OK;
}

/* What a cell holds; full: what a cell stuck full is worth. */
static int32_t held(const pim_board *board, size_t at, int32_t full)
{
    if (board->die->stuck != NULL) {
        switch (board->die->stuck[at]) {
        case 1U:
            return 0;
        case 2U:
            return full;
        case 3U:
            return -full;
        default:
            break;
        }
    }
    return board->cells[at];
}

pim_status pim_board_read_row(const pim_board *board, const pim_tile *tile, uint32_t row, uint8_t *cells)
{
    if (!pim_board_has_tile(board, tile) || (row >= tile->rows)) {
        return PIM_BAD_TILE;
    }
    const size_t at = place_of(board, tile, row);
    for (uint32_t c = 0U; c < tile->columns; c++) {
        const int32_t full = (board->largest == NULL) ? 0 : (int32_t)board->largest[at + c];
        cells[c] = (uint8_t)(held(board, at + c, full) & 0xFF);
    }
    return PIM_OK;
}

pim_status pim_board_trim(pim_board *board, uint32_t adc, uint32_t code)
{
    const pim_die *die = board->die;
    if ((die->trims == 1U) && (die->gains == 1U)) {
        return PIM_NOT_ABLE;
    }
    const uint32_t codes = (adc < (die->macros * die->per_macro)) ? die->trims : die->gains;
    if ((adc >= die->registers) || (code >= codes)) {
        return PIM_BAD_ARGUMENT;
    }
    board->trim[adc] = (uint16_t)code;
    board->state++;
    return PIM_OK;
}

pim_status pim_board_ready(const pim_board *board, const pim_tile *tile, const pim_point *point,
                           const pim_die_point **at)
{
    const pim_die *die = board->die;
    if (!pim_board_has_tile(board, tile)) {
        return PIM_BAD_TILE;
    }
    *at = pim_die_find(die, point);
    if (*at == NULL) {
        return PIM_BAD_POINT;
    }
    const int32_t low = (point->scheme == (uint32_t)PIM_NATIVE) ? -point->cell_max : 0;
    for (uint32_t r = 0U; r < tile->rows; r++) {
        const size_t first = place_of(board, tile, r);
        for (uint32_t c = 0U; c < tile->columns; c++) {
            const int32_t b = held(board, first + c, point->cell_max);
            if ((b < low) || (b > point->cell_max)) {
                return PIM_BAD_CELLS;
            }
            if ((die->q > 0U) && ((b < die->error_low) || ((uint32_t)(b - die->error_low) >= die->error_values))) {
                return PIM_BAD_POINT; /* the die has no errors of such cells */
            }
        }
    }
    return PIM_OK;
}

/* Sums of exact cells: |digit * cell| < 2^15, and 2^16 rows stay below 2^31. */
static void sum_exact(pim_board *board, const pim_tile *tile)
{
    int32_t *narrow = board->narrow;
    const uint32_t columns = tile->columns;
    (void)memset(narrow, 0, (size_t)columns * sizeof narrow[0]);
    for (uint32_t r = 0U; r < tile->rows; r++) {
        const int32_t digit = board->digits[r];
        if (digit != 0) {
            const int8_t *row = &board->cells[place_of(board, tile, r)];
            for (uint32_t c = 0U; c < columns; c++) {
                narrow[c] += (int16_t)(digit * row[c]);
            }
        }
    }
    for (uint32_t c = 0U; c < columns; c++) {
        board->sums[c] = narrow[c];
    }
}

/* Sums of cells with errors or stuck ones; pim_board_ready has seen that every cell has an error. */
static void sum_with_errors(pim_board *board, const pim_tile *tile, int32_t full)
{
    const pim_die *die = board->die;
    const int64_t unit = (int64_t)1 << die->q;
    (void)memset(board->sums, 0, (size_t)tile->columns * sizeof board->sums[0]);
    for (uint32_t r = 0U; r < tile->rows; r++) {
        const int64_t digit = board->digits[r];
        const size_t first = place_of(board, tile, r);
        for (uint32_t c = 0U; (c < tile->columns) && (digit != 0); c++) {
            const int32_t b = held(board, first + c, full);
            int64_t given = b * unit;
            if (die->q > 0U) {
                given += die->errors[((first + c) * die->error_values) + (uint32_t)(b - die->error_low)];
            }
            board->sums[c] += given * digit;
        }
    }
}

void pim_board_cycle(pim_board *board, const pim_tile *tile, const pim_die_point *at, uint32_t epoch, uint64_t number,
                     uint64_t index)
{
    const pim_die *die = board->die;
    if ((die->q == 0U) && (die->stuck == NULL)) {
        sum_exact(board, tile);
    } else {
        sum_with_errors(board, tile, at->point.cell_max);
    }
    const pim_noise noise = {die->silent, die->seed, epoch};
    const pim_columns columns = {
        .cycle = number,
        .index = index,
        .macro = tile->macro,
        .count = tile->columns,
        .q = die->q,
        .adc_first = tile->macro * die->per_macro,
        .adc = &die->adc[tile->column],
        .sums = board->sums,
    };
    pim_convert_columns(&at->point, &at->tables, &noise, &columns, board->codes);
}

void pim_board_count(pim_board *board, const pim_tile *tile, uint64_t cycles)
{
    board->counters.conversions += cycles * tile->columns;
    board->counters.dac_steps += cycles * tile->rows;
    board->counters.array_cycles += cycles;
}

pim_status pim_board_convert(pim_board *board, const pim_tile *tile, const pim_die_point *at, const uint8_t *x,
                             uint32_t epoch, uint64_t number)
{
    const uint64_t stride = pim_column_stride(tile->columns);
    if ((tile->rows > at->point.rows) || (number > (((uint64_t)INT64_MAX / stride) - 1U))) {
        return (tile->rows > at->point.rows) ? PIM_BAD_SHAPE : PIM_BAD_ARGUMENT;
    }
    for (uint32_t r = 0U; r < tile->rows; r++) {
        if (((uint32_t)x[r] >> at->point.dac_bits) != 0U) {
            return PIM_BAD_INPUT;
        }
        board->digits[r] = x[r];
    }
    pim_board_cycle(board, tile, at, epoch, number, number * stride);
    pim_board_count(board, tile, 1U);
    return PIM_OK;
}
