/* The library's parts with flat arguments, for tests that call them from Python. */
#include <string.h>

#include "bytes.h"
#include "chip.h"
#include "crc32.h"
#include "random.h"

typedef struct {
    const int32_t *transfer;
    const uint32_t *sigma;
    const uint32_t *slow;
    const int16_t *code_map;
    uint32_t converters;
    uint32_t sigma_by_sum;
    uint32_t octaves;
    uint32_t silent;
    uint64_t seed;
    uint32_t epoch;
} shim_die;

typedef struct {
    const uint32_t *point; /* [7] */
    const int8_t *cells;   /* [depth][columns] */
    const int32_t *errors; /* the same, or NULL */
    const uint32_t *adc;   /* [groups][columns] */
    const uint32_t *macro; /* [groups][columns] */
    uint64_t first_vector;
    uint32_t depth;
    uint32_t columns;
    uint32_t q;
} shim_layer;

#define COLUMNS_MAX 256U

static void read_point(const uint32_t *given, pim_point *point)
{
    point->scheme = given[0];
    point->rows = given[1];
    point->weight_bits = given[2];
    point->act_bits = given[3];
    point->dac_bits = given[4];
    point->adc_bits = given[5];
    point->range_divisor = given[6];
}

/* derived: slices, planes, cell_max, sum_min, sum_max, code_min, code_max, plane weights [8]. Returns 0 if invalid. */
uint32_t shim_point(const uint32_t *given, int32_t *derived)
{
    pim_point p;
    read_point(given, &p);
    if (!pim_point_derive(&p)) {
        return 0U;
    }
    const int32_t values[7] = {(int32_t)p.slices, (int32_t)p.planes, p.cell_max, p.sum_min,
                               p.sum_max,         p.code_min,        p.code_max};
    (void)memcpy(derived, values, sizeof values);
    (void)memcpy(&derived[7], p.plane_weights, sizeof p.plane_weights);
    return 1U;
}

void shim_philox(uint32_t *counter, const uint32_t *key)
{
    pim_philox(counter, key[0], key[1]);
}

uint32_t shim_word(uint64_t seed, uint32_t epoch, uint32_t domain, uint32_t tag, uint64_t index)
{
    const pim_stream stream = {seed, epoch, domain, tag};
    return pim_word(&stream, index);
}

int32_t shim_slow_sum(uint64_t seed, uint32_t epoch, uint32_t octaves, uint32_t adc, uint64_t cycle)
{
    const pim_noise noise = {false, seed, epoch};
    return pim_slow_sum(&noise, octaves, adc, cycle);
}

int32_t shim_gauss(uint32_t word)
{
    return pim_gauss(word);
}

uint32_t shim_crc32(uint32_t before, const uint8_t *data, size_t count)
{
    return pim_crc32(before, data, count);
}

static int64_t sum_of(const shim_layer *layer, const pim_point *p, const uint8_t *x, const uint32_t at[3])
{
    const uint32_t first = at[0] * p->rows;
    int64_t total = 0;
    for (uint32_t k = first; (k < layer->depth) && (k < (first + p->rows)); k++) {
        const int64_t digit = ((uint32_t)x[k] >> (at[1] * p->dac_bits)) & (((uint32_t)1 << p->dac_bits) - 1U);
        const size_t cell = ((size_t)k * layer->columns) + at[2];
        total += layer->cells[cell] * digit * ((int64_t)1 << layer->q);
        total += (layer->errors == NULL) ? 0 : (layer->errors[cell] * digit);
    }
    return total;
}

/* All conversions of a group and slice, a stretch of columns of one macro at a time. */
static void convert_row(const shim_die *die, const shim_layer *layer, const pim_point *p, const uint32_t at[2],
                        uint64_t cycle, const int64_t *sums, int32_t *codes)
{
    const pim_tables tables = {die->converters, (uint32_t)(p->sum_max - p->sum_min + 1), die->transfer, NULL, 1U, NULL, 1U,
                               die->sigma, die->sigma_by_sum != 0U, die->slow, die->octaves, die->code_map};
    const pim_noise noise = {die->silent != 0U, die->seed, die->epoch};
    const uint32_t *macro = &layer->macro[at[0] * layer->columns];
    uint16_t adc[COLUMNS_MAX];
    uint32_t first = 0U;
    for (uint32_t i = 0U; i < layer->columns; i++) {
        adc[i] = (uint16_t)layer->adc[(at[0] * layer->columns) + i];
    }
    for (uint32_t i = 1U; i <= layer->columns; i++) {
        if ((i == layer->columns) || (macro[i] != macro[first])) {
            const pim_columns part = {cycle, (cycle * pim_column_stride(layer->columns)) + first, macro[first],
                                      i - first, layer->q, 0U, &adc[first], &sums[first]};
            pim_convert_columns(p, &tables, &noise, &part, &codes[first]);
            first = i;
        }
    }
}

/* sums, codes: [vectors][groups][slices][columns]; y: [vectors][outputs]. Returns 0 where something is invalid. */
uint32_t shim_layer_run(const shim_die *die, const shim_layer *layer, const uint8_t *x, uint32_t vectors,
                        int64_t *sums, int32_t *codes, int64_t *y)
{
    pim_point p;
    read_point(layer->point, &p);
    if (!pim_point_derive(&p) || (layer->columns > COLUMNS_MAX)) {
        return 0U;
    }
    const pim_tables tables = {die->converters, (uint32_t)(p.sum_max - p.sum_min + 1), die->transfer, NULL, 1U, NULL, 1U,
                               die->sigma, die->sigma_by_sum != 0U, die->slow, die->octaves, die->code_map};
    if (!pim_tables_valid(&p, &tables)) {
        return 0U;
    }
    const uint32_t groups = ((layer->depth - 1U) / p.rows) + 1U;
    size_t out = 0U;
    (void)memset(y, 0, (size_t)vectors * (layer->columns / p.planes) * sizeof y[0]);
    for (uint32_t m = 0U; m < vectors; m++) {
        for (uint32_t g = 0U; g < groups; g++) {
            for (uint32_t s = 0U; s < p.slices; s++) {
                const uint32_t at[2] = {g, s};
                const uint64_t cycle = (((layer->first_vector + m) * groups) + g) * p.slices + s;
                for (uint32_t c = 0U; c < layer->columns; c++) {
                    const uint32_t where[3] = {g, s, c};
                    sums[out + c] = sum_of(layer, &p, &x[(size_t)m * layer->depth], where);
                }
                convert_row(die, layer, &p, at, cycle, &sums[out], &codes[out]);
                pim_recombine(&p, s, 0U, &codes[out], layer->columns, &y[(size_t)m * (layer->columns / p.planes)]);
                out += layer->columns;
            }
        }
    }
    return 1U;
}
