/* The chip in integers: operating point, tables, one conversion, the conversions of an array cycle.
 * CHIP.md defines every value; names are its own. */
#ifndef PIM_CHIP_H
#define PIM_CHIP_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define PIM_PLANES_MAX 8U
#define PIM_FRACTION_BITS_MAX 12U
#define PIM_OCTAVES_MAX 16U
#define PIM_SATURATION 1073741824 /* 2^30, the largest magnitude of T */
#define PIM_CORRECTION_BITS_MAX 8U

typedef enum { PIM_NATIVE = 0, PIM_DIFFERENTIAL = 1, PIM_BIT_SERIAL = 2 } pim_scheme;

/* Section 2. The first seven are given, pim_point_derive fills in the rest. */
typedef struct {
    uint32_t scheme;
    uint32_t rows;
    uint32_t weight_bits;
    uint32_t act_bits;
    uint32_t dac_bits;
    uint32_t adc_bits;
    uint32_t range_divisor;

    uint32_t slices;
    uint32_t planes;
    int32_t cell_max;
    int32_t sum_min;
    int32_t sum_max;
    int32_t code_min;
    int32_t code_max;
    int32_t plane_weights[PIM_PLANES_MAX];
} pim_point;

/* False where a field is outside the ranges of section 2, or sums pass 24 bits. */
bool pim_point_derive(pim_point *point);

/* Section 1: the converters of a die at an operating point. The arrays belong to the caller. */
typedef struct {
    uint32_t converters;
    uint32_t sums;           /* sum_max - sum_min + 1 */
    const int32_t *transfer; /* [gains][trims][converters][sums] */
    const uint16_t *trim;    /* [converters], the offset's trim code of each, below trims; NULL: there is one */
    uint32_t trims;          /* trim codes of offsets that transfer has, 1 without them */
    const uint16_t *gain;    /* the same of gains */
    uint32_t gains;
    const uint32_t *sigma;   /* [converters], or [converters][sums] */
    bool sigma_by_sum;
    const uint32_t *slow; /* [converters] or NULL */
    uint32_t octaves;
    const int16_t *code_map; /* [converters][64 (code_max - code_min + 1)] or NULL */
} pim_tables;

/* Entries of one converter's code map. */
uint32_t pim_map_entries(const pim_point *point);

/* True where every table's values are within section 1's ranges, so that no sum in pim_convert overflows. */
bool pim_tables_valid(const pim_point *point, const pim_tables *tables);

/* Section 4. v: the column's sum in 2^-q counts; adc: the converter, below tables->converters. */
int32_t pim_convert(const pim_point *point, const pim_tables *tables, uint32_t adc, int64_t v, uint32_t q,
                    int32_t deviate, int32_t slow_sum);

/* The noise of a run. silent: no seed, nothing is drawn. */
typedef struct {
    bool silent;
    uint64_t seed;
    uint32_t epoch;
} pim_noise;

/* Section 5: sum of the slow words' deviates of a converter in a cycle. */
int32_t pim_slow_sum(const pim_noise *noise, uint32_t octaves, uint32_t adc, uint64_t cycle);

/* Columns rounded up to whole blocks of four. */
uint64_t pim_column_stride(uint32_t columns);

/* Neighbouring columns of one macro in one array cycle. */
typedef struct {
    uint64_t cycle;
    uint64_t index; /* of the first column: cycle * stride + its number in the layer */
    uint32_t macro;
    uint32_t count;
    uint32_t q;
    uint32_t adc_first;  /* added to each entry of adc */
    const uint16_t *adc; /* [count] */
    const int64_t *sums; /* [count], V */
} pim_columns;

/* codes[count] of the columns. Every adc_first + adc[i] must be below tables->converters. */
void pim_convert_columns(const pim_point *point, const pim_tables *tables, const pim_noise *noise,
                         const pim_columns *columns, int32_t *codes);

/* Section 7, one array cycle of one slice: adds D^slice * P * code to the outputs' sums.
 * first_column: number in the layer of codes[0]; y: the layer's outputs, [columns of the layer / planes]. */
void pim_recombine(const pim_point *point, uint32_t slice, uint32_t first_column, const int32_t *codes,
                   uint32_t count, int64_t *y);

/* Section 7: what to put in place of codes. values: i16 little-endian [converters][code_max - code_min + 1] in
 * 2^-fraction_bits LSB, at any alignment; NULL for none. */
typedef struct {
    uint32_t converters;
    uint32_t fraction_bits;
    const uint8_t *values;
} pim_correction;

/* True where fraction bits and every value are in their ranges. */
bool pim_correction_valid(const pim_point *point, const pim_correction *correction);

/* L in place of each of codes[count]; converters as of pim_columns, all below correction->converters. */
void pim_correct(const pim_point *point, const pim_correction *correction, uint32_t adc_first, const uint16_t *adc,
                 uint32_t count, int32_t *codes);

/* A recombined sum of L, rounded to whole LSB and held to what codes of so many row groups can add up to. */
int64_t pim_corrected_sum(const pim_point *point, const pim_correction *correction, uint32_t groups, int64_t sum);

#endif
