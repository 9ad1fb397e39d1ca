/* A die: everything physical about a chip, as tables. Read in place from an image (README.md, "Die files"). */
#ifndef PIM_DIE_H
#define PIM_DIE_H

#include "chip.h"

#define PIM_DIE_POINTS 32U
#define PIM_HASH_BYTES 32U

/* An operating point that the die has tables for. act_bits does not matter to the tables and is the widest. */
typedef struct {
    pim_point point;
    pim_tables tables;
} pim_die_point;

typedef struct {
    uint32_t macros;
    uint32_t rows;
    uint32_t columns;
    uint32_t per_macro; /* converters of a macro */
    uint32_t trim_codes; /* codes that a trim register of an offset takes, 0: none */
    uint32_t trims;     /* codes that the tables are given for, 1: they cannot be set */
    uint32_t gain_codes; /* the same of gains; where there are none, so are their registers */
    uint32_t gains;
    uint32_t registers; /* trim registers: of the offsets of all converters, and behind them of their gains */
    const uint8_t *held; /* u16 [registers], their codes at the start; NULL: the middle */
    int32_t full;       /* value of a full cell where a write does not say */
    bool silent;
    uint64_t seed;
    int32_t temperature; /* millidegrees Celsius */
    uint32_t supply;     /* microvolts */
    uint64_t age;        /* milliseconds since programming */
    uint64_t feature_memory; /* bytes, as the chip's description has it */
    uint32_t q;          /* bits of the cells' errors */
    int32_t error_low;   /* cell value of a cell's first error */
    uint32_t error_values;
    const int32_t *errors;    /* [macros][rows][columns][error_values], or NULL */
    const uint8_t *stuck;     /* [macros][rows][columns]: 0 free, 1 at zero, 2 full, 3 full and negative; or NULL */
    const uint16_t *adc;      /* [columns]: converter of a column within its macro */
    const uint8_t *uid;
    uint32_t uid_size;
    const uint8_t *chip; /* name of the kind of chip */
    uint32_t chip_size;
    const uint8_t *description; /* compressed JSON, handed to hosts as it is */
    uint32_t description_size;
    uint8_t spec_hash[PIM_HASH_BYTES];
    uint32_t points;
    pim_die_point point[PIM_DIE_POINTS];
} pim_die;

typedef enum {
    PIM_DIE_OK = 0,
    PIM_DIE_SHORT,     /* ends before it should */
    PIM_DIE_MAGIC,     /* no die file */
    PIM_DIE_VERSION,   /* of another version */
    PIM_DIE_CRC,       /* damaged */
    PIM_DIE_ALIGNMENT, /* not at a multiple of 8, or this machine is big-endian */
    PIM_DIE_SECTION,   /* a section is missing, twice there, or of a wrong size */
    PIM_DIE_VALUE      /* a field or table entry is out of its range */
} pim_die_status;

/* Reads an image of `size` bytes, which must outlive the die and lie at a multiple of 8. */
pim_die_status pim_die_read(pim_die *die, const uint8_t *image, size_t size);

/* The tables for an operating point; NULL where the die has none. Only what decides tables is compared. */
const pim_die_point *pim_die_find(const pim_die *die, const pim_point *point);

#endif
