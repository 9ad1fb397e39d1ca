#include "board.h"

#include <string.h>

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
    const size_t converters = (size_t)die->macros * die->per_macro;
    size_t used = 0U;
    board->cells = (int8_t *)(void *)take(arena, size, &used, cells, 1U);
    board->largest = NULL;
    if (die->stuck != NULL) {
        board->largest = (int8_t *)(void *)take(arena, size, &used, cells, 1U);
    }
    board->trim = (uint16_t *)(void *)take(arena, size, &used, converters, sizeof(uint16_t));
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
    for (uint32_t j = 0U; j < (die->macros * die->per_macro); j++) {
        board->trim[j] = (uint16_t)(die->trim_codes / 2U);
    }
    if (die->trims > 1U) {
        for (uint32_t i = 0U; i < die->points; i++) {
            die->point[i].tables.trim = board->trim;
        }
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
    if (board->die->trims == 1U) {
        return PIM_NOT_ABLE;
    }
    if ((adc >= (board->die->macros * board->die->per_macro)) || (code >= board->die->trim_codes)) {
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

/* One array cycle: board->digits into board->codes. */
static void cycle(pim_board *board, const pim_tile *tile, const pim_die_point *at, uint32_t epoch, uint64_t number,
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

static void count_work(pim_board *board, const pim_tile *tile, uint64_t cycles)
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
    cycle(board, tile, at, epoch, number, number * stride);
    count_work(board, tile, 1U);
    return PIM_OK;
}

/* ---- conv -------------------------------------------------------------------------------------------------------- */

typedef struct {
    pim_tile tile;
    uint32_t group;
    uint32_t first_column;
} placement;

/* All that stays the same over the vectors of one conv. */
typedef struct {
    const pim_layer *layer;
    const pim_die_point *at;
    pim_map x;
    uint32_t size[2]; /* of the output */
    uint32_t depth;
    uint32_t groups;
    uint64_t stride;
    uint32_t epoch;
    uint64_t first_vector;
    int64_t *y; /* [out_channels] */
} conv_job;

static placement placement_at(const pim_layer *layer, uint32_t i)
{
    const uint8_t *p = &layer->placements[(size_t)i * PIM_PLACEMENT_BYTES];
    const placement out = {
        {pim_get32(&p[0]), pim_get32(&p[4]), pim_get32(&p[8]), pim_get32(&p[12]), pim_get32(&p[16])},
        pim_get32(&p[20]),
        pim_get32(&p[24]),
    };
    return out;
}

static uint32_t group_rows(const conv_job *job, uint32_t group)
{
    const uint32_t rest = job->depth - (group * job->layer->point.rows);
    return (rest < job->layer->point.rows) ? rest : job->layer->point.rows;
}

static bool overlaps(const placement *a, const placement *b)
{
    return (a->group == b->group) && (a->first_column < (b->first_column + b->tile.columns)) &&
           (b->first_column < (a->first_column + a->tile.columns));
}

/* A placement lies in the layer, over no earlier one, and its tile is ready. */
static pim_status check_placement(const pim_board *board, conv_job *job, uint32_t i)
{
    const pim_layer *layer = job->layer;
    const uint64_t columns = (uint64_t)layer->geometry.out_channels * layer->point.planes;
    const placement p = placement_at(layer, i);
    if (!pim_board_has_tile(board, &p.tile) || (p.group >= job->groups) ||
        (((uint64_t)p.first_column + p.tile.columns) > columns) || (p.tile.rows != group_rows(job, p.group))) {
        return PIM_BAD_TILE;
    }
    for (uint32_t j = 0U; j < i; j++) {
        const placement other = placement_at(layer, j);
        if (overlaps(&p, &other)) {
            return PIM_BAD_TILE;
        }
    }
    return pim_board_ready(board, &p.tile, &layer->point, &job->at);
}

static pim_status check_inputs(const pim_map *x, uint32_t act_bits)
{
    const size_t size = pim_map_size(x);
    const int32_t top = (int32_t)((uint32_t)1 << act_bits) - 1;
    for (size_t i = 0U; i < size; i++) {
        const int32_t v = pim_map_get(x, i);
        if ((v < 0) || (v > top)) {
            return PIM_BAD_INPUT;
        }
    }
    return PIM_OK;
}

/* a * b, or UINT64_MAX where that passes it. */
static uint64_t times(uint64_t a, uint64_t b)
{
    return ((b != 0U) && (a > (UINT64_MAX / b))) ? UINT64_MAX : (a * b);
}

/* Indices of the call's conversions stay below 2^63. */
static bool index_fits(const conv_job *job, uint64_t first_image)
{
    const uint64_t positions = (uint64_t)job->size[0] * job->size[1];
    const uint64_t images = first_image + job->x.n; /* 2^40 and 2^31 */
    uint64_t total = times(times(images, positions), (uint64_t)job->groups * job->layer->point.slices);
    total = times(total, job->stride);
    return total <= ((uint64_t)INT64_MAX + 1U);
}

static pim_status prepare(pim_board *board, conv_job *job, uint32_t src, const pim_run *run)
{
    const pim_layer *layer = job->layer;
    uint32_t slot = 0U;
    if (!pim_memory_find(&board->memory, src, &slot)) {
        return PIM_NO_BUFFER;
    }
    job->x = pim_memory_map(&board->memory, slot);
    if (!pim_geometry_depth(&layer->geometry, &job->depth)) {
        return PIM_BAD_ARGUMENT;
    }
    if (!pim_geometry_feed(&layer->geometry, &job->x) || !pim_geometry_output(&layer->geometry, &job->x, job->size)) {
        return PIM_BAD_SHAPE;
    }
    job->groups = ((job->depth - 1U) / layer->point.rows) + 1U;
    job->stride = (((uint64_t)layer->geometry.out_channels * layer->point.planes) + 3U) / 4U * 4U;
    job->epoch = run->epoch;
    if ((run->first >= (1ULL << 40)) || !index_fits(job, run->first)) {
        return PIM_BAD_ARGUMENT;
    }
    job->first_vector = run->first * job->size[0] * job->size[1];
    job->at = pim_die_find(board->die, &layer->point);
    if (job->at == NULL) {
        return PIM_BAD_POINT;
    }
    for (uint32_t i = 0U; i < layer->placement_count; i++) {
        const pim_status status = check_placement(board, job, i);
        if (status != PIM_OK) {
            return status;
        }
    }
    return check_inputs(&job->x, layer->point.act_bits);
}

/* Recombined codes of one output position, job->y. at: image, row, column. */
static void run_vector(pim_board *board, const conv_job *job, const uint32_t at[3])
{
    const pim_point *point = &job->layer->point;
    const uint64_t position = ((((uint64_t)at[0] * job->size[0]) + at[1]) * job->size[1]) + at[2];
    uint32_t gathered = job->groups; /* the group that board->inputs holds */
    (void)memset(job->y, 0, (size_t)job->layer->geometry.out_channels * sizeof job->y[0]);
    for (uint32_t i = 0U; i < job->layer->placement_count; i++) {
        const placement p = placement_at(job->layer, i);
        if (p.group != gathered) {
            pim_gather(&job->layer->geometry, &job->x, at, p.group * point->rows, p.tile.rows, board->inputs);
            gathered = p.group;
        }
        for (uint32_t slice = 0U; slice < point->slices; slice++) {
            const uint64_t number = (((job->first_vector + position) * job->groups) + p.group) * point->slices + slice;
            for (uint32_t r = 0U; r < p.tile.rows; r++) {
                const uint32_t digit = (uint32_t)board->inputs[r] >> (slice * point->dac_bits);
                board->digits[r] = (uint8_t)(digit & (((uint32_t)1 << point->dac_bits) - 1U));
            }
            cycle(board, &p.tile, job->at, job->epoch, number, (number * job->stride) + p.first_column);
            pim_recombine(point, slice, p.first_column, board->codes, p.tile.columns, job->y);
        }
    }
}

/* One output position into the map: requantized, or added to what `before` holds, or as it is. */
static pim_status put_vector(const conv_job *job, const uint32_t at[3], const pim_requant *requant,
                             const pim_map *before, const pim_map *out)
{
    const size_t plane = (size_t)out->h * out->w;
    size_t to = ((size_t)at[0] * out->c * plane) + ((size_t)at[1] * out->w) + at[2];
    for (uint32_t c = 0U; c < out->c; c++) {
        const int64_t sum = job->y[c] + ((before == NULL) ? 0 : (int64_t)pim_map_get(before, to));
        if ((sum > INT32_MAX) || (sum < INT32_MIN) || (job->y[c] > INT32_MAX) || (job->y[c] < INT32_MIN)) {
            return PIM_OVERFLOW;
        }
        int32_t value = (int32_t)sum;
        if (requant != NULL) {
            const pim_status status = pim_requant_value(requant, c, sum, &value);
            if (status != PIM_OK) {
                return status;
            }
        }
        pim_map_put(out, to, value);
        to += plane;
    }
    return PIM_OK;
}

static pim_status run_vectors(pim_board *board, const conv_job *job, const pim_requant *requant,
                              const pim_map *before, const pim_map *out)
{
    for (uint32_t image = 0U; image < out->n; image++) {
        for (uint32_t row = 0U; row < out->h; row++) {
            for (uint32_t column = 0U; column < out->w; column++) {
                const uint32_t at[3] = {image, row, column};
                run_vector(board, job, at);
                const pim_status status = put_vector(job, at, requant, before, out);
                if (status != PIM_OK) {
                    return status;
                }
            }
        }
    }
    return PIM_OK;
}

/* The buffer that is added to; it must have the output's shape. */
static pim_status find_before(const pim_board *board, const conv_job *job, uint32_t dst, uint32_t *slot)
{
    if (!pim_memory_find(&board->memory, dst, slot)) {
        return PIM_NO_BUFFER;
    }
    const uint32_t *shape = board->memory.slots[*slot].shape;
    const bool fits = (shape[0] == job->x.n) && (shape[1] == job->layer->geometry.out_channels) &&
                      (shape[2] == job->size[0]) && (shape[3] == job->size[1]);
    return fits ? PIM_OK : PIM_BAD_SHAPE;
}

/* The maps of a prepared job, and its run. Slots keep their numbers while maps move; maps are looked up last. */
static pim_status run_into(pim_board *board, conv_job *job, uint32_t src, uint32_t slot, uint32_t before_slot,
                           const pim_requant *requant, bool accumulate)
{
    const size_t y_size = (size_t)job->layer->geometry.out_channels * sizeof job->y[0];
    uint32_t src_slot = 0U;
    job->y = (int64_t *)(void *)pim_memory_scratch(&board->memory, y_size);
    if ((job->y == NULL) || !pim_memory_find(&board->memory, src, &src_slot)) {
        return PIM_NO_MEMORY;
    }
    job->x = pim_memory_map(&board->memory, src_slot);
    if (!pim_geometry_feed(&job->layer->geometry, &job->x)) {
        return PIM_BAD_SHAPE;
    }
    const pim_map out = pim_memory_map(&board->memory, slot);
    const pim_map before = pim_memory_map(&board->memory, before_slot);
    return run_vectors(board, job, requant, accumulate ? &before : NULL, &out);
}

/* Keeps a filled map, or drops it where filling failed. */
static pim_status finish(pim_board *board, uint32_t slot, pim_status status)
{
    if (status == PIM_OK) {
        pim_memory_keep(&board->memory, slot);
    } else {
        pim_memory_drop(&board->memory, slot);
    }
    return status;
}

pim_status pim_board_conv(pim_board *board, const pim_layer *layer, uint32_t src, uint32_t dst,
                          const pim_requant *requant, bool accumulate, const pim_run *run)
{
    conv_job job = {.layer = layer};
    uint32_t slot = 0U;
    uint32_t before = 0U;
    pim_status status = prepare(board, &job, src, run);
    if ((status == PIM_OK) && (requant != NULL)) {
        status = accumulate ? PIM_BAD_ARGUMENT : pim_requant_check(requant, layer->geometry.out_channels);
    }
    if ((status == PIM_OK) && accumulate) {
        status = find_before(board, &job, dst, &before);
    }
    if (status != PIM_OK) {
        return status;
    }
    const uint32_t shape[4] = {job.x.n, layer->geometry.out_channels, job.size[0], job.size[1]};
    const bool small = (requant != NULL) && pim_fits_byte(requant->low, requant->high);
    status = pim_memory_make(&board->memory, dst, shape, small, &slot);
    if (status != PIM_OK) {
        return status;
    }
    status = run_into(board, &job, src, slot, accumulate ? before : slot, requant, accumulate);
    for (uint32_t i = 0U; (i < layer->placement_count) && (status == PIM_OK); i++) {
        const placement p = placement_at(layer, i);
        count_work(board, &p.tile, (uint64_t)shape[0] * shape[2] * shape[3] * layer->point.slices);
    }
    return finish(board, slot, status);
}

/* ---- the processor's operations on buffers ----------------------------------------------------------------------- */

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
    return finish(board, slot, status);
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
    return finish(board, slot, pim_requantize(&x, requant, &out));
}

pim_status pim_board_add(pim_board *board, uint32_t a, uint32_t b, uint32_t dst, const pim_addition *how)
{
    uint32_t slot_a = 0U;
    uint32_t slot_b = 0U;
    uint32_t slot = 0U;
    if (!pim_memory_find(&board->memory, a, &slot_a) || !pim_memory_find(&board->memory, b, &slot_b)) {
        return PIM_NO_BUFFER;
    }
    const uint32_t *shape = board->memory.slots[slot_a].shape;
    const pim_status status = pim_memory_make(&board->memory, dst, shape, pim_fits_byte(how->low, how->high), &slot);
    if (status != PIM_OK) {
        return status;
    }
    const pim_map left = pim_memory_map(&board->memory, slot_a);
    const pim_map right = pim_memory_map(&board->memory, slot_b);
    const pim_map out = pim_memory_map(&board->memory, slot);
    return finish(board, slot, pim_add(&left, &right, how, &out));
}

pim_status pim_board_pool(pim_board *board, uint32_t src, uint32_t dst, const pim_pooling *how)
{
    uint32_t from = 0U;
    uint32_t slot = 0U;
    uint32_t size[2];
    if (!pim_memory_find(&board->memory, src, &from)) {
        return PIM_NO_BUFFER;
    }
    pim_map x = pim_memory_map(&board->memory, from);
    if (!pim_pool_output(how, &x, size)) {
        return PIM_BAD_SHAPE;
    }
    const uint32_t shape[4] = {x.n, x.c, size[0], size[1]};
    const pim_status status = pim_memory_make(&board->memory, dst, shape, x.small && how->largest, &slot);
    if (status != PIM_OK) {
        return status;
    }
    x = pim_memory_map(&board->memory, from);
    const pim_map out = pim_memory_map(&board->memory, slot);
    return finish(board, slot, pim_pool(&x, how, &out));
}
