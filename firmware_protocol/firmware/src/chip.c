#include "chip.h"

#include "bytes.h"
#include "random.h"

#define LSB_BITS 16U
#define MAP_BITS 6U
#define GAUSS_BITS 12U
#define GAUSS_HALF 2048
#define SUM_LIMIT 16777216 /* 2^24 */

static bool between(uint32_t v, uint32_t low, uint32_t high)
{
    return (v >= low) && (v <= high);
}

static bool in_range(const pim_point *p)
{
    const bool native = (p->scheme == (uint32_t)PIM_NATIVE);
    return (p->scheme <= (uint32_t)PIM_BIT_SERIAL) && between(p->rows, 1U, 65536U) &&
           between(p->weight_bits, 2U, 8U) && between(p->act_bits, 1U, 8U) &&
           between(p->dac_bits, 1U, p->act_bits) &&
           between(p->adc_bits, native ? 2U : 1U, native ? 15U : 14U) && between(p->range_divisor, 1U, 256U);
}

static void derive_planes(pim_point *p)
{
    for (uint32_t k = 0U; k < PIM_PLANES_MAX; k++) {
        p->plane_weights[k] = 0;
    }
    if (p->scheme == (uint32_t)PIM_NATIVE) {
        p->planes = 1U;
        p->plane_weights[0] = 1;
    } else if (p->scheme == (uint32_t)PIM_DIFFERENTIAL) {
        p->planes = 2U;
        p->plane_weights[0] = 1;
        p->plane_weights[1] = -1;
    } else {
        p->planes = p->weight_bits;
        for (uint32_t k = 0U; k < p->planes; k++) {
            p->plane_weights[k] = (int32_t)((uint32_t)1 << k);
        }
        p->plane_weights[p->planes - 1U] = -p->plane_weights[p->planes - 1U];
    }
}

bool pim_point_derive(pim_point *point)
{
    if (!in_range(point)) {
        return false;
    }
    const bool native = (point->scheme == (uint32_t)PIM_NATIVE);
    const int32_t weight_max = (int32_t)((uint32_t)1 << (point->weight_bits - 1U)) - 1;
    point->cell_max = (point->scheme == (uint32_t)PIM_BIT_SERIAL) ? 1 : weight_max;
    const int64_t sum_max = (int64_t)point->rows * ((int64_t)((uint32_t)1 << point->dac_bits) - 1) * point->cell_max;
    if (sum_max >= SUM_LIMIT) {
        return false;
    }
    point->slices = (point->act_bits + point->dac_bits - 1U) / point->dac_bits;
    point->sum_max = (int32_t)sum_max;
    point->sum_min = native ? -point->sum_max : 0;
    point->code_max = (int32_t)((uint32_t)1 << (native ? (point->adc_bits - 1U) : point->adc_bits)) - 1;
    point->code_min = native ? -point->code_max : 0;
    derive_planes(point);
    return true;
}

uint32_t pim_map_entries(const pim_point *point)
{
    return (uint32_t)(point->code_max - point->code_min + 1) << MAP_BITS;
}

static bool transfer_valid(const pim_tables *tables)
{
    const size_t count = (size_t)tables->gains * tables->trims * tables->converters * tables->sums;
    for (size_t i = 0U; i < count; i++) {
        if ((tables->transfer[i] > PIM_SATURATION) || (tables->transfer[i] < -PIM_SATURATION)) {
            return false;
        }
    }
    return true;
}

static bool unsigned_valid(const uint32_t *values, size_t count)
{
    for (size_t i = 0U; i < count; i++) {
        if (values[i] > (uint32_t)INT32_MAX) {
            return false;
        }
    }
    return true;
}

static bool map_valid(const pim_point *point, const pim_tables *tables)
{
    const size_t count = (size_t)tables->converters * pim_map_entries(point);
    for (size_t i = 0U; i < count; i++) {
        if ((tables->code_map[i] < point->code_min) || (tables->code_map[i] > point->code_max)) {
            return false;
        }
    }
    return true;
}

bool pim_tables_valid(const pim_point *point, const pim_tables *tables)
{
    const size_t sigmas = (size_t)tables->converters * (tables->sigma_by_sum ? tables->sums : 1U);
    if ((tables->sums != (uint32_t)(point->sum_max - point->sum_min + 1)) || (tables->converters == 0U)) {
        return false;
    }
    if (tables->slow != NULL) {
        if (!between(tables->octaves, 1U, PIM_OCTAVES_MAX) || !unsigned_valid(tables->slow, tables->converters)) {
            return false;
        }
    }
    if ((tables->code_map != NULL) && !map_valid(point, tables)) {
        return false;
    }
    return transfer_valid(tables) && unsigned_valid(tables->sigma, sigmas);
}

/* The code of a sum with its noise, i in 2^-6 LSB. */
static int32_t decide(const pim_point *point, const pim_tables *tables, uint32_t adc, int64_t i)
{
    if (tables->code_map == NULL) {
        return (int32_t)pim_clip(pim_asr(i, MAP_BITS), point->code_min, point->code_max);
    }
    const int64_t low = (int64_t)point->code_min * 64;
    const int64_t entry = pim_clip(i, low, ((int64_t)point->code_max * 64) + 63) - low;
    return tables->code_map[((size_t)adc * pim_map_entries(point)) + (size_t)entry];
}

static const int32_t *transfer_of(const pim_tables *tables, uint32_t adc)
{
    const size_t gain = (tables->gain == NULL) ? 0U : (size_t)tables->gain[adc];
    const size_t trim = (gain * tables->trims) + ((tables->trim == NULL) ? 0U : (size_t)tables->trim[adc]);
    return &tables->transfer[((trim * tables->converters) + adc) * tables->sums];
}

int32_t pim_convert(const pim_point *point, const pim_tables *tables, uint32_t adc, int64_t v, uint32_t q,
                    int32_t deviate, int32_t slow_sum)
{
    const int64_t unit = (int64_t)1 << q;
    const int64_t clamped = pim_clip(v, point->sum_min * unit, point->sum_max * unit);
    const size_t place = (size_t)(pim_asr(clamped, q) - point->sum_min);
    const int64_t fraction = clamped - (pim_asr(clamped, q) * unit);
    const int32_t *row = transfer_of(tables, adc);
    int64_t t = row[place];
    if (fraction > 0) { /* never at the last entry: the clamp leaves it no fraction */
        t += pim_asr(((int64_t)row[place + 1U] - row[place]) * fraction, q);
    }
    const size_t at = tables->sigma_by_sum ? (((size_t)adc * tables->sums) + place) : (size_t)adc;
    t += pim_asr(((int64_t)tables->sigma[at] * deviate) + GAUSS_HALF, GAUSS_BITS);
    if (tables->slow != NULL) {
        t += pim_asr(((int64_t)tables->slow[adc] * slow_sum) + GAUSS_HALF, GAUSS_BITS);
    }
    return decide(point, tables, adc, pim_asr(t + 32768, LSB_BITS - MAP_BITS));
}

int32_t pim_slow_sum(const pim_noise *noise, uint32_t octaves, uint32_t adc, uint64_t cycle)
{
    const pim_stream stream = {noise->seed, noise->epoch, PIM_DOMAIN_SLOW, adc};
    int32_t total = 0;
    for (uint32_t octave = 0U; octave < octaves; octave++) {
        total += pim_gauss(pim_word(&stream, ((cycle >> (octave + 1U)) * PIM_OCTAVES_MAX) + octave));
    }
    return total;
}

uint64_t pim_column_stride(uint32_t columns)
{
    return (((uint64_t)columns + 3U) / 4U) * 4U;
}

static void convert_silent(const pim_point *point, const pim_tables *tables, const pim_columns *columns,
                           int32_t *codes)
{
    for (uint32_t i = 0U; i < columns->count; i++) {
        codes[i] = pim_convert(point, tables, columns->adc_first + columns->adc[i], columns->sums[i], columns->q, 0, 0);
    }
}

void pim_convert_columns(const pim_point *point, const pim_tables *tables, const pim_noise *noise,
                         const pim_columns *columns, int32_t *codes)
{
    if (noise->silent) {
        convert_silent(point, tables, columns, codes);
        return;
    }
    const pim_stream stream = {noise->seed, noise->epoch, PIM_DOMAIN_NOISE, columns->macro};
    uint32_t words[4] = {0U, 0U, 0U, 0U};
    uint32_t slow_of = 0U;
    int32_t slow_sum = 0;
    for (uint32_t i = 0U; i < columns->count; i++) {
        const uint64_t index = columns->index + i;
        const uint32_t adc = columns->adc_first + columns->adc[i];
        if ((i == 0U) || ((index & 3U) == 0U)) {
            pim_block(&stream, index >> 2, words);
        }
        if ((tables->slow != NULL) && ((i == 0U) || (adc != slow_of))) {
            slow_sum = pim_slow_sum(noise, tables->octaves, adc, columns->cycle);
            slow_of = adc;
        }
        codes[i] = pim_convert(point, tables, adc, columns->sums[i], columns->q, pim_gauss(words[index & 3U]), slow_sum);
    }
}

void pim_recombine(const pim_point *point, uint32_t slice, uint32_t first_column, const int32_t *codes,
                   uint32_t count, int64_t *y)
{
    const int64_t digit = (int64_t)((uint32_t)1 << (slice * point->dac_bits)); /* the shift is below act_bits, 8 */
    uint32_t output = first_column / point->planes;
    uint32_t plane = first_column % point->planes;
    for (uint32_t i = 0U; i < count; i++) {
        y[output] += digit * point->plane_weights[plane] * codes[i];
        plane++;
        if (plane == point->planes) {
            plane = 0U;
            output++;
        }
    }
}

bool pim_correction_valid(const pim_point *point, const pim_correction *correction)
{
    const size_t count = (size_t)correction->converters * (size_t)(point->code_max - point->code_min + 1);
    if (correction->fraction_bits > PIM_CORRECTION_BITS_MAX) {
        return false;
    }
    /* Twice the largest code, as far as 16 bits hold it. */
    const int32_t widest = (2 * point->code_max) * (int32_t)((uint32_t)1 << correction->fraction_bits);
    const int32_t limit = (widest < INT16_MAX) ? widest : INT16_MAX;
    for (size_t i = 0U; i < count; i++) {
        const int32_t value = pim_signed16(pim_get16(&correction->values[2U * i]));
        if ((value > limit) || (value < -limit)) {
            return false;
        }
    }
    return true;
}

void pim_correct(const pim_point *point, const pim_correction *correction, uint32_t adc_first, const uint16_t *adc,
                 uint32_t count, int32_t *codes)
{
    const size_t entries = (size_t)(point->code_max - point->code_min + 1);
    for (uint32_t i = 0U; i < count; i++) {
        const size_t at = (((size_t)adc_first + adc[i]) * entries) + (size_t)(codes[i] - point->code_min);
        codes[i] = pim_signed16(pim_get16(&correction->values[2U * at]));
    }
}

int64_t pim_corrected_sum(const pim_point *point, const pim_correction *correction, uint32_t groups, int64_t sum)
{
    int64_t digits = 0;
    int64_t weights = 0;
    for (uint32_t slice = 0U; slice < point->slices; slice++) {
        digits += (int64_t)((uint32_t)1 << (slice * point->dac_bits));
    }
    for (uint32_t plane = 0U; plane < point->planes; plane++) {
        weights += (point->plane_weights[plane] < 0) ? -point->plane_weights[plane] : point->plane_weights[plane];
    }
    const int64_t largest = (int64_t)groups * digits * weights * point->code_max;
    const int64_t half = (int64_t)(((uint32_t)1 << correction->fraction_bits) >> 1U);
    return pim_clip(pim_asr(sum + half, correction->fraction_bits), -largest, largest);
}
