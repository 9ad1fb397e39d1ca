#include "processor.h"

#include "bytes.h"

#define FIELD_MAX 16777216U /* 2^24 */

_Static_assert(PIM_WINDOW_MAX <= FIELD_MAX, "sums of a digital convolution would pass 63 bits");

static bool dimension(uint32_t v)
{
    return (v >= 1U) && (v <= FIELD_MAX);
}

bool pim_geometry_depth(const pim_geometry *g, uint32_t *depth)
{
    bool valid = dimension(g->in_channels) && dimension(g->out_channels);
    for (uint32_t i = 0U; i < 2U; i++) {
        valid = valid && dimension(g->kernel[i]) && dimension(g->stride[i]) && dimension(g->dilation[i]) &&
                (g->padding[i] <= FIELD_MAX);
    }
    if (!valid) {
        return false;
    }
    uint64_t products = (uint64_t)g->in_channels * g->kernel[0]; /* up to 2^48 */
    if (products > UINT32_MAX) {
        return false;
    }
    products *= g->kernel[1]; /* up to 2^56 */
    *depth = (uint32_t)(products & UINT32_MAX);
    return products <= UINT32_MAX;
}

uint64_t pim_times(uint64_t a, uint64_t b)
{
    return ((b != 0U) && (a > (UINT64_MAX / b))) ? UINT64_MAX : (a * b);
}

bool pim_work_fits(const pim_work *work, const pim_map *x, const uint32_t padding[2], const uint32_t size[2])
{
    const uint64_t rows = (uint64_t)x->h + (2ULL * padding[0]);
    const uint64_t columns = (uint64_t)x->w + (2ULL * padding[1]);
    const uint64_t windows = pim_times((uint64_t)size[0] * size[1], work->window);
    return (pim_times(pim_times(rows, columns), x->c) <= PIM_IMAGE_WORK) && (windows <= PIM_IMAGE_WORK) &&
           (pim_times(pim_times(windows, x->n), work->each) <= work->most);
}

bool pim_geometry_feed(const pim_geometry *g, pim_map *x)
{
    const uint64_t values = (uint64_t)x->c * x->h * x->w; /* a map's size is below 2^31 */
    if (x->c == g->in_channels) {
        return true;
    }
    if ((values != g->in_channels) || (g->kernel[0] != 1U) || (g->kernel[1] != 1U)) {
        return false;
    }
    x->c = g->in_channels;
    x->h = 1U;
    x->w = 1U;
    return true;
}

/* (size + 2 padding - extent) / stride + 1, or 0 where the window does not fit. */
static uint32_t positions(uint32_t size, uint32_t padding, uint64_t extent, uint32_t stride)
{
    const uint64_t room = (uint64_t)size + (2ULL * padding);
    return (room < extent) ? 0U : (uint32_t)(((room - extent) / stride) + 1U);
}

bool pim_geometry_output(const pim_geometry *g, const pim_map *x, uint32_t size[2])
{
    const uint32_t given[2] = {x->h, x->w};
    for (uint32_t i = 0U; i < 2U; i++) {
        const uint64_t extent = (((uint64_t)g->kernel[i] - 1U) * g->dilation[i]) + 1U;
        size[i] = positions(given[i], g->padding[i], extent, g->stride[i]);
    }
    return (size[0] > 0U) && (size[1] > 0U);
}

/* Place in the map of a window's product; false in the padding. */
static bool tap(const pim_geometry *g, const pim_map *map, const uint32_t at[3], const uint32_t k[3], size_t *place)
{
    const int64_t y = ((int64_t)at[1] * g->stride[0]) + ((int64_t)k[1] * g->dilation[0]) - g->padding[0];
    const int64_t x = ((int64_t)at[2] * g->stride[1]) + ((int64_t)k[2] * g->dilation[1]) - g->padding[1];
    if ((y < 0) || (x < 0) || (y >= (int64_t)map->h) || (x >= (int64_t)map->w)) {
        return false;
    }
    *place = (((((size_t)at[0] * map->c) + k[0]) * map->h + (size_t)y) * map->w) + (size_t)x;
    return true;
}

/* The next product: channel, row, column of the kernel, the column fastest. */
static void step(const pim_geometry *g, uint32_t k[3])
{
    k[2]++;
    if (k[2] == g->kernel[1]) {
        k[2] = 0U;
        k[1]++;
        if (k[1] == g->kernel[0]) {
            k[1] = 0U;
            k[0]++;
        }
    }
}

void pim_gather(const pim_geometry *g, const pim_map *map, const uint32_t at[3], uint32_t first, uint32_t count,
                uint8_t *inputs)
{
    const uint32_t row = first / g->kernel[1];
    uint32_t k[3] = {row / g->kernel[0], row % g->kernel[0], first % g->kernel[1]};
    for (uint32_t i = 0U; i < count; i++) {
        size_t place = 0U;
        const bool inside = (k[0] < map->c) && tap(g, map, at, k, &place);
        inputs[i] = inside ? (uint8_t)(pim_map_get(map, place) & 0xFF) : 0U;
        step(g, k);
    }
}

pim_status pim_requant_check(const pim_requant *r, uint32_t channels)
{
    if ((r->low > r->high) || (r->channels != channels)) {
        return (r->low > r->high) ? PIM_BAD_ARGUMENT : PIM_BAD_SHAPE;
    }
    for (uint32_t c = 0U; c < r->channels; c++) {
        const uint8_t *entry = &r->entries[(size_t)c * PIM_REQUANT_BYTES];
        const uint64_t m = pim_magnitude(pim_signed64(pim_get64(entry)));
        const uint64_t o = pim_magnitude(pim_signed64(pim_get64(&entry[8])));
        if ((pim_get32(&entry[16]) > PIM_SHIFT_MAX) || (o > (uint64_t)INT64_MAX)) {
            return PIM_BAD_ARGUMENT;
        }
        if ((r->acc_max > 0U) && (m > (((uint64_t)INT64_MAX - o) / r->acc_max))) {
            return PIM_BAD_ARGUMENT;
        }
    }
    return PIM_OK;
}

pim_status pim_requant_value(const pim_requant *r, uint32_t channel, int64_t acc, int32_t *out)
{
    const uint8_t *entry = &r->entries[(size_t)channel * PIM_REQUANT_BYTES];
    const int64_t m = pim_signed64(pim_get64(entry));
    const int64_t o = pim_signed64(pim_get64(&entry[8]));
    if (pim_magnitude(acc) > r->acc_max) {
        return PIM_BEYOND;
    }
    /* acc_max 0 leaves m unchecked, but then acc is 0. */
    const int64_t product = (acc == 0) ? 0 : (acc * m);
    *out = (int32_t)pim_clip(pim_asr(product + o, pim_get32(&entry[16])), r->low, r->high);
    return PIM_OK;
}

pim_status pim_requantize(const pim_map *x, const pim_requant *r, const pim_map *out)
{
    const size_t plane = (size_t)x->h * x->w;
    const size_t planes = (size_t)x->n * x->c;
    for (size_t p = 0U; p < planes; p++) {
        const uint32_t channel = (uint32_t)(p % x->c);
        for (size_t i = p * plane; i < ((p + 1U) * plane); i++) {
            int32_t value = 0;
            const pim_status status = pim_requant_value(r, channel, pim_map_get(x, i), &value);
            if (status != PIM_OK) {
                return status;
            }
            pim_map_put(out, i, value);
        }
    }
    return PIM_OK;
}

static uint64_t peak_of(const pim_map *x)
{
    const size_t size = pim_map_size(x);
    uint64_t peak = 0U;
    for (size_t i = 0U; i < size; i++) {
        const uint64_t m = pim_magnitude(pim_map_get(x, i));
        peak = (m > peak) ? m : peak;
    }
    return peak;
}

bool pim_add_possible(const pim_addition *how)
{
    return (how->shift <= PIM_SHIFT_MAX) && (how->low <= how->high);
}

/* False where a * f + b * g + half could pass 63 bits. */
static bool sum_fits(const pim_map *a, const pim_map *b, const pim_addition *how, uint64_t half)
{
    const uint64_t room = (uint64_t)INT64_MAX - half;
    const uint64_t peak_a = peak_of(a);
    const uint64_t peak_b = peak_of(b);
    const uint64_t f = pim_magnitude(how->factor[0]);
    const uint64_t g = pim_magnitude(how->factor[1]);
    if ((peak_a > 0U) && (f > (room / peak_a))) {
        return false;
    }
    return (peak_b == 0U) || (g <= ((room - (f * peak_a)) / peak_b));
}

pim_status pim_add(const pim_map *a, const pim_map *b, const pim_addition *how, const pim_map *out)
{
    const size_t size = pim_map_size(a);
    const int64_t half = (how->shift == 0U) ? 0 : ((int64_t)1 << (how->shift - 1U));
    if (!sum_fits(a, b, how, (uint64_t)half)) {
        return PIM_OVERFLOW;
    }
    for (size_t i = 0U; i < size; i++) {
        const int64_t left = pim_map_get(a, i);
        const int64_t right = pim_map_get(b, i);
        /* A factor beside a map of zeros is not bounded by the check. */
        const int64_t sum = ((left == 0) ? 0 : (left * how->factor[0])) + ((right == 0) ? 0 : (right * how->factor[1]));
        pim_map_put(out, i, (int32_t)pim_clip(pim_asr(sum + half, how->shift), how->low, how->high));
    }
    return PIM_OK;
}

bool pim_pool_possible(const pim_pooling *how)
{
    bool possible = true;
    for (uint32_t i = 0U; i < 2U; i++) {
        possible = possible && dimension(how->kernel[i]) && dimension(how->stride[i]) &&
                   (how->padding[i] <= (how->kernel[i] / 2U));
    }
    return possible;
}

bool pim_pool_output(const pim_pooling *how, const pim_map *x, uint32_t size[2])
{
    const uint32_t given[2] = {x->h, x->w};
    for (uint32_t i = 0U; i < 2U; i++) {
        size[i] = positions(given[i], how->padding[i], how->kernel[i], how->stride[i]);
    }
    return (size[0] > 0U) && (size[1] > 0U);
}

/* A window's limits along one axis, the padding left out. */
static void window(uint32_t at, uint32_t stride, uint32_t padding, uint32_t kernel, uint32_t size, uint32_t span[2])
{
    const int64_t first = ((int64_t)at * stride) - padding;
    span[0] = (uint32_t)pim_clip(first, 0, size);
    span[1] = (uint32_t)pim_clip(first + kernel, 0, size);
}

/* Maximum or sum of rows and columns of one channel of one image, which starts at `base`. */
static int64_t pooled(const pim_map *x, size_t base, const uint32_t rows[2], const uint32_t columns[2], bool largest)
{
    int64_t sum = 0;
    int64_t most = INT64_MIN;
    for (uint32_t i = rows[0]; i < rows[1]; i++) {
        for (uint32_t j = columns[0]; j < columns[1]; j++) {
            const int64_t v = pim_map_get(x, base + ((size_t)i * x->w) + j);
            sum += v; /* below 2^31 values of 32 bits */
            most = (v > most) ? v : most;
        }
    }
    return largest ? most : sum;
}

pim_status pim_pool(const pim_map *x, const pim_pooling *how, const pim_map *out)
{
    const size_t planes = (size_t)out->n * out->c;
    size_t to = 0U;
    for (size_t p = 0U; p < planes; p++) {
        for (uint32_t i = 0U; i < out->h; i++) {
            uint32_t rows[2];
            window(i, how->stride[0], how->padding[0], how->kernel[0], x->h, rows);
            for (uint32_t j = 0U; j < out->w; j++) {
                uint32_t columns[2];
                window(j, how->stride[1], how->padding[1], how->kernel[1], x->w, columns);
                const int64_t v = pooled(x, p * x->h * x->w, rows, columns, how->largest);
                if ((v > INT32_MAX) || (v < INT32_MIN)) {
                    return PIM_OVERFLOW;
                }
                pim_map_put(out, to, (int32_t)v);
                to++;
            }
        }
    }
    return PIM_OK;
}

/* An output of a digital convolution. depth: up to 2^24 products of at most 2^38, so that the sum stays below 2^63. */
static int64_t correlate(const pim_map *x, const uint8_t *weights, const pim_geometry *g, const uint32_t at[3],
                         uint32_t depth)
{
    uint32_t k[3] = {0U, 0U, 0U};
    int64_t sum = 0;
    for (uint32_t i = 0U; i < depth; i++) {
        size_t place = 0U;
        if (tap(g, x, at, k, &place)) {
            sum += (int64_t)pim_map_get(x, place) * pim_signed8(weights[i]);
        }
        step(g, k);
    }
    return sum;
}

pim_status pim_digital(const pim_map *x, const uint8_t *weights, const pim_geometry *g, const pim_requant *r,
                       const pim_map *out)
{
    const size_t plane = (size_t)out->h * out->w;
    const size_t size = pim_map_size(out);
    uint32_t depth = 0U;
    if (!pim_geometry_depth(g, &depth) || (depth > PIM_WINDOW_MAX)) {
        return PIM_BAD_ARGUMENT;
    }
    for (size_t i = 0U; i < size; i++) {
        const uint32_t channel = (uint32_t)((i / plane) % out->c);
        const uint32_t at[3] = {(uint32_t)(i / (plane * out->c)), (uint32_t)((i % plane) / out->w),
                                (uint32_t)(i % out->w)};
        const int64_t acc = correlate(x, &weights[(size_t)channel * depth], g, at, depth);
        int32_t value = 0;
        if ((acc > INT32_MAX) || (acc < INT32_MIN)) {
            return PIM_OVERFLOW;
        }
        value = (int32_t)acc;
        if (r != NULL) {
            const pim_status status = pim_requant_value(r, channel, acc, &value);
            if (status != PIM_OK) {
                return status;
            }
        }
        pim_map_put(out, i, value);
    }
    return PIM_OK;
}

pim_status pim_stats(const pim_map *x, uint32_t channel, int64_t *total, int64_t *squares)
{
    const size_t plane = (size_t)x->h * x->w;
    const uint64_t count = (uint64_t)x->n * plane; /* 1..2^31 - 1 */
    const uint64_t square_max = (uint64_t)INT64_MAX / count;
    *total = 0;
    *squares = 0;
    for (uint32_t n = 0U; n < x->n; n++) {
        const size_t first = (((size_t)n * x->c) + channel) * plane;
        for (size_t i = first; i < (first + plane); i++) {
            const uint64_t m = pim_magnitude(pim_map_get(x, i));
            if ((m * m) > square_max) { /* m is at most 2^31 */
                return PIM_OVERFLOW;
            }
            *total += pim_map_get(x, i);
            *squares += (int64_t)(m * m);
        }
    }
    return PIM_OK;
}
