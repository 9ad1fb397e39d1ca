/* The board's processor: exact integer operations on feature maps, section 8 of CHIP.md. */
#ifndef PIM_PROCESSOR_H
#define PIM_PROCESSOR_H

#include "memory.h"

#define PIM_SHIFT_MAX 62U

/* Most that one request may ask for; beyond it is FULL. SPEC.md, section 9, says what is counted. A slow processor takes
 * less: what it cannot do within an op's budget it should not begin. */
#ifndef PIM_IMAGE_WORK
#define PIM_IMAGE_WORK (1ULL << 28) /* values of one padded image, and of all its windows */
#endif
#ifndef PIM_CONV_WORK
#define PIM_CONV_WORK (1ULL << 38)
#endif
#ifndef PIM_DIGITAL_WORK
#define PIM_DIGITAL_WORK (1ULL << 35)
#endif
#ifndef PIM_POOL_WORK
#define PIM_POOL_WORK (1ULL << 32)
#endif
#define PIM_WINDOW_MAX 16777216U /* products of an output of a digital convolution */

/* A convolution's index arithmetic; a linear layer is one with a 1 x 1 kernel. Pairs are vertical, horizontal. */
typedef struct {
    uint32_t in_channels;
    uint32_t out_channels;
    uint32_t kernel[2];
    uint32_t stride[2];
    uint32_t padding[2];
    uint32_t dilation[2];
} pim_geometry;

/* Rescaling. entries: for each channel PIM_REQUANT_BYTES as they come over the wire, little-endian: multiplier and offset
 * of 64 bits, a shift of 32 bits, 4 bytes unused. */
#define PIM_REQUANT_BYTES 24U
typedef struct {
    uint32_t channels;
    const uint8_t *entries;
    int32_t low;
    int32_t high;
    uint64_t acc_max;
} pim_requant;

typedef struct {
    int64_t factor[2];
    uint32_t shift;
    int32_t low;
    int32_t high;
} pim_addition;

typedef struct {
    bool largest; /* else sums */
    uint32_t kernel[2];
    uint32_t stride[2];
    uint32_t padding[2];
} pim_pooling;

/* What an op does at each output position. */
typedef struct {
    uint64_t window; /* values of the map that it looks at, the padding's included */
    uint64_t each;   /* times that each of them is used */
    uint64_t most;   /* that the op may use in all */
} pim_work;

/* a * b, or UINT64_MAX where that passes it. */
uint64_t pim_times(uint64_t a, uint64_t b);

/* Output positions `size` of the map x are no more work than one request may ask for. */
bool pim_work_fits(const pim_work *work, const pim_map *x, const uint32_t padding[2], const uint32_t size[2]);

/* Products of an output, up to 2^32 - 1; false beyond, or where a field is outside 1..2^24 (padding: 0..2^24). */
bool pim_geometry_depth(const pim_geometry *g, uint32_t *depth);

/* The map as the layer reads it: where its values are one input vector, it becomes [n][in_channels][1][1]. */
bool pim_geometry_feed(const pim_geometry *g, pim_map *x);

/* Height and width of the output for a map that feeds the layer; false where the kernel does not fit. */
bool pim_geometry_output(const pim_geometry *g, const pim_map *x, uint32_t size[2]);

/* inputs[count]: products first .. first + count - 1 of the output at (y, x) of an image; 0 in the padding.
 * Values are taken as bytes: the caller has checked them. */
void pim_gather(const pim_geometry *g, const pim_map *map, const uint32_t at[3], uint32_t first, uint32_t count,
                uint8_t *inputs);

/* Checked once, before use: no product with |acc| <= acc_max passes 63 bits. */
pim_status pim_requant_check(const pim_requant *r, uint32_t channels);

/* One value of a channel below r->channels; PIM_BEYOND beyond acc_max. */
pim_status pim_requant_value(const pim_requant *r, uint32_t channel, int64_t acc, int32_t *out);

/* True where results lie in 0..255, so that a map of bytes takes them. */
static inline bool pim_fits_byte(int32_t low, int32_t high)
{
    return (low >= 0) && (high <= 255);
}

/* Fields in their ranges. */
bool pim_add_possible(const pim_addition *how);
bool pim_pool_possible(const pim_pooling *how);

/* Maps onto maps of the right shape, which the caller has made; fields are in their ranges. */
pim_status pim_requantize(const pim_map *x, const pim_requant *r, const pim_map *out);
pim_status pim_add(const pim_map *a, const pim_map *b, const pim_addition *how, const pim_map *out);
pim_status pim_pool(const pim_map *x, const pim_pooling *how, const pim_map *out);

/* Height and width of a pooled map; false where the kernel does not fit. */
bool pim_pool_output(const pim_pooling *how, const pim_map *x, uint32_t size[2]);

/* weights: int8 [out][in][kernel_h][kernel_w]. r: NULL for accumulators. */
pim_status pim_digital(const pim_map *x, const uint8_t *weights, const pim_geometry *g, const pim_requant *r,
                       const pim_map *out);

/* Of one channel over images and positions. PIM_OVERFLOW where squares could pass 63 bits. */
pim_status pim_stats(const pim_map *x, uint32_t channel, int64_t *total, int64_t *squares);

#endif
