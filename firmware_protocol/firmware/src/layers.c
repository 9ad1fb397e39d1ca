/* Layers on the array: from a feature map through placements, slices and columns to a feature map. */
#include <string.h>

#include "board_parts.h"
#include "bytes.h"
#include "copies.h"

/* All that stays the same over the vectors of one conv. */
typedef struct {
    const pim_layer *layer;
    const pim_die_point *at;
    pim_map x;
    uint32_t size[2]; /* of the output */
    uint32_t depth;
    uint32_t groups;
    uint32_t groups_held; /* those that have a placement */
    uint64_t stride;
    uint32_t epoch;
    uint64_t first_vector;
    int64_t *y; /* [out_channels] */
} conv_job;

static uint32_t group_rows(const conv_job *job, uint32_t group)
{
    const uint32_t rest = job->depth - (group * job->layer->point.rows);
    return (rest < job->layer->point.rows) ? rest : job->layer->point.rows;
}

/* A placement lies in the layer, over no earlier one of its copy, and its tile is ready. first: the copy's first one. */
static pim_status check_placement(const pim_board *board, conv_job *job, uint32_t first, uint32_t i)
{
    const pim_layer *layer = job->layer;
    const uint64_t columns = (uint64_t)layer->geometry.out_channels * layer->point.planes;
    const pim_placement p = pim_placement_at(layer, i);
    if (!pim_board_has_tile(board, &p.tile) || (p.group >= job->groups) ||
        (((uint64_t)p.first_column + p.tile.columns) > columns) || (p.tile.rows != group_rows(job, p.group))) {
        return PIM_BAD_TILE;
    }
    bool held = first > 0U; /* other copies have the groups of the first one */
    for (uint32_t j = first; j < i; j++) {
        const pim_placement other = pim_placement_at(layer, j);
        if (pim_placements_overlap(&p, &other)) {
            return PIM_BAD_TILE;
        }
        held = held || (other.group == p.group);
    }
    job->groups_held += held ? 0U : 1U;
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

/* Indices of the call's conversions stay below 2^63. */
static bool index_fits(const conv_job *job, uint64_t first_image)
{
    const uint64_t positions = (uint64_t)job->size[0] * job->size[1];
    const uint64_t images = first_image + job->x.n; /* 2^40 and 2^31 */
    uint64_t total = pim_times(pim_times(images, positions), (uint64_t)job->groups * job->layer->point.slices);
    total = pim_times(total, job->stride);
    return total <= ((uint64_t)INT64_MAX + 1U);
}

/* The map, and that shapes fit one another. */
static pim_status fit(const pim_board *board, conv_job *job, uint32_t src)
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
    return PIM_OK;
}

/* The noise, the operating point, the placements and their cells, the activations. */
static pim_status prepare(const pim_board *board, conv_job *job, const pim_run *run)
{
    const pim_layer *layer = job->layer;
    job->epoch = run->epoch;
    if (!index_fits(job, run->first)) {
        return PIM_BAD_ARGUMENT;
    }
    job->first_vector = run->first * job->size[0] * job->size[1];
    job->at = pim_die_find(board->die, &layer->point);
    if (job->at == NULL) {
        return PIM_BAD_POINT;
    }
    if ((layer->correction.values != NULL) && (layer->correction.converters != job->at->tables.converters)) {
        return PIM_BAD_CORRECTION;
    }
    for (uint32_t copy = 0U; copy < layer->copies; copy++) {
        const pim_range own = pim_copy_range(layer, copy);
        for (uint32_t i = own.first; i < own.end; i++) {
            const pim_status status = check_placement(board, job, own.first, i);
            if (status != PIM_OK) {
                return status;
            }
        }
    }
    return check_inputs(&job->x, layer->point.act_bits);
}

static bool work_fits(const conv_job *job)
{
    const pim_layer *layer = job->layer;
    const pim_work work = {
        .window = job->depth,
        .each = (uint64_t)layer->geometry.out_channels * layer->point.planes * layer->point.slices,
        .most = PIM_CONV_WORK,
    };
    return pim_work_fits(&work, &job->x, layer->geometry.padding, job->size);
}

/* Recombined codes of one output position by its copy, job->y. at: image, row, column. */
static void run_vector(pim_board *board, const conv_job *job, const uint32_t at[3])
{
    const pim_point *point = &job->layer->point;
    const pim_correction *correction = &job->layer->correction;
    const uint64_t position = ((((uint64_t)at[0] * job->size[0]) + at[1]) * job->size[1]) + at[2];
    const uint64_t vector = job->first_vector + position;
    const pim_range own = pim_copy_range(job->layer, (uint32_t)(vector % job->layer->copies));
    uint32_t gathered = job->groups; /* the group that board->inputs holds */
    (void)memset(job->y, 0, (size_t)job->layer->geometry.out_channels * sizeof job->y[0]);
    for (uint32_t i = own.first; i < own.end; i++) {
        const pim_placement p = pim_placement_at(job->layer, i);
        if (p.group != gathered) {
            pim_gather(&job->layer->geometry, &job->x, at, p.group * point->rows, p.tile.rows, board->inputs);
            gathered = p.group;
        }
        for (uint32_t slice = 0U; slice < point->slices; slice++) {
            const uint64_t number = ((vector * job->groups) + p.group) * point->slices + slice;
            for (uint32_t r = 0U; r < p.tile.rows; r++) {
                const uint32_t digit = (uint32_t)board->inputs[r] >> (slice * point->dac_bits);
                board->digits[r] = (uint8_t)(digit & (((uint32_t)1 << point->dac_bits) - 1U));
            }
            pim_board_cycle(board, &p.tile, job->at, job->epoch, number, (number * job->stride) + p.first_column);
            if (correction->values != NULL) {
                pim_correct(point, correction, p.tile.macro * board->die->per_macro, &board->die->adc[p.tile.column],
                            p.tile.columns, board->codes);
            }
            pim_recombine(point, slice, p.first_column, board->codes, p.tile.columns, job->y);
        }
    }
    for (uint32_t c = 0U; (correction->values != NULL) && (c < job->layer->geometry.out_channels); c++) {
        job->y[c] = pim_corrected_sum(point, correction, job->groups_held, job->y[c]);
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

/* The buffer that is added to has the output's shape. */
static bool adds_to(const pim_board *board, const conv_job *job, uint32_t slot)
{
    const uint32_t *shape = board->memory.slots[slot].shape;
    return (shape[0] == job->x.n) && (shape[1] == job->layer->geometry.out_channels) && (shape[2] == job->size[0]) &&
           (shape[3] == job->size[1]);
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

static void count_cycles(pim_board *board, const conv_job *job, uint64_t vectors)
{
    const pim_layer *layer = job->layer;
    for (uint32_t copy = 0U; copy < layer->copies; copy++) {
        const pim_range own = pim_copy_range(layer, copy);
        const uint64_t share = pim_copy_share(layer, copy, job->first_vector, vectors);
        for (uint32_t i = own.first; i < own.end; i++) {
            const pim_placement p = pim_placement_at(layer, i);
            pim_board_count(board, &p.tile, share * layer->point.slices);
        }
    }
}

pim_status pim_board_conv(pim_board *board, const pim_layer *layer, uint32_t src, uint32_t dst,
                          const pim_requant *requant, bool accumulate, const pim_run *run)
{
    conv_job job = {.layer = layer};
    uint32_t slot = 0U;
    uint32_t before = 0U;
    if ((accumulate && (requant != NULL)) || (run->first >= (1ULL << 40))) {
        return PIM_BAD_ARGUMENT;
    }
    if (accumulate && !pim_memory_find(&board->memory, dst, &before)) {
        return PIM_NO_BUFFER;
    }
    pim_status status = fit(board, &job, src);
    if ((status == PIM_OK) && (requant != NULL)) {
        status = pim_requant_check(requant, layer->geometry.out_channels);
    }
    if ((status == PIM_OK) && accumulate && !adds_to(board, &job, before)) {
        status = PIM_BAD_SHAPE;
    }
    if ((status == PIM_OK) && !work_fits(&job)) {
        status = PIM_TOO_MUCH;
    }
    if (status == PIM_OK) {
        status = prepare(board, &job, run);
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
    if (status == PIM_OK) {
        count_cycles(board, &job, (uint64_t)shape[0] * shape[2] * shape[3]);
    }
    return pim_board_finish(board, slot, status);
}
