#include "die.h"

#include <string.h>

#include "bytes.h"
#include "crc32.h"

#define HEADER 32U
#define ENTRY 24U
#define SECTIONS_MAX 256U
#define CHIP_SIZE 112U
#define POINT_SIZE 48U
#define TRIMS_HEAD 8U
#define CELLS_MAX 0x7FFFFFFFU

/* Sections. From SECTION_POINT on they belong to an operating point, by its number. */
enum {
    SECTION_CHIP = 1,
    SECTION_UID = 2,
    SECTION_DESCRIPTION = 3,
    SECTION_ADC = 4,
    SECTION_ERRORS = 5,
    SECTION_STUCK = 6,
    SECTION_NAME = 7,
    SECTION_TRIMS = 8,
    SECTION_POINT = 16,
    SECTION_TRANSFER = 17,
    SECTION_SIGMA = 18,
    SECTION_SLOW = 19,
    SECTION_MAP = 20
};

typedef struct {
    const uint8_t *bytes;
    size_t size;
} span;

static const uint8_t magic[8] = {'P', 'I', 'M', 'D', 'I', 'E', 0, 0};

static bool little_endian(void)
{
    const uint32_t one = 1U;
    uint8_t first = 0U;
    (void)memcpy(&first, &one, 1U);
    return first == 1U;
}

static pim_die_status check_header(const uint8_t *image, size_t size)
{
    if (size < HEADER) {
        return PIM_DIE_SHORT;
    }
    if (memcmp(image, magic, sizeof magic) != 0) {
        return PIM_DIE_MAGIC;
    }
    if (pim_get32(&image[8]) != 1U) {
        return PIM_DIE_VERSION;
    }
    if (!little_endian() || (((uintptr_t)image & 7U) != 0U)) {
        return PIM_DIE_ALIGNMENT;
    }
    const uint64_t length = pim_get64(&image[16]);
    const uint64_t count = pim_get32(&image[12]);
    if ((length > size) || (length < (HEADER + (count * ENTRY)))) {
        return PIM_DIE_SHORT;
    }
    if ((count > SECTIONS_MAX) || (pim_get32(&image[28]) != 0U)) {
        return PIM_DIE_SECTION;
    }
    return (pim_crc32(0U, &image[HEADER], (size_t)length - HEADER) == pim_get32(&image[24])) ? PIM_DIE_OK : PIM_DIE_CRC;
}

/* Every section lies within the file, at a multiple of 8. */
static bool sections_inside(const uint8_t *image)
{
    const uint64_t length = pim_get64(&image[16]);
    const uint32_t count = pim_get32(&image[12]);
    for (uint32_t i = 0U; i < count; i++) {
        const uint8_t *entry = &image[HEADER + ((size_t)i * ENTRY)];
        const uint64_t at = pim_get64(&entry[8]);
        const uint64_t size = pim_get64(&entry[16]);
        if (((at & 7U) != 0U) || (at > length) || (size > (length - at))) {
            return false;
        }
    }
    return true;
}

/* The one section of a kind and number: 1 found, 0 none, 2 more than one. */
static uint32_t find(const uint8_t *image, uint32_t kind, uint32_t number, span *found)
{
    const uint32_t count = pim_get32(&image[12]);
    uint32_t seen = 0U;
    found->bytes = NULL;
    found->size = 0U;
    for (uint32_t i = 0U; i < count; i++) {
        const uint8_t *entry = &image[HEADER + ((size_t)i * ENTRY)];
        if ((pim_get32(entry) == kind) && (pim_get32(&entry[4]) == number)) {
            found->bytes = &image[(size_t)pim_get64(&entry[8])];
            found->size = (size_t)pim_get64(&entry[16]);
            seen = (seen == 0U) ? 1U : 2U;
        }
    }
    return seen;
}

static bool sized(const uint8_t *image, uint32_t kind, uint32_t number, uint64_t size, span *found)
{
    return (find(image, kind, number, found) == 1U) && (found->size == size);
}

/* A section that may be missing: true without it, with `found` empty. */
static bool sized_if_there(const uint8_t *image, uint32_t kind, uint32_t number, uint64_t size, span *found)
{
    return (find(image, kind, number, found) == 0U) || sized(image, kind, number, size, found);
}

static pim_die_status read_chip(pim_die *die, const uint8_t *image)
{
    span s;
    if (!sized(image, SECTION_CHIP, 0U, CHIP_SIZE, &s)) {
        return PIM_DIE_SECTION;
    }
    const uint8_t *p = s.bytes;
    die->macros = pim_get32(&p[0]);
    die->rows = pim_get32(&p[4]);
    die->columns = pim_get32(&p[8]);
    die->per_macro = pim_get32(&p[12]);
    die->trim_codes = pim_get32(&p[16]);
    die->trims = pim_get32(&p[20]);
    die->full = pim_signed32(pim_get32(&p[24]));
    die->silent = (pim_get32(&p[28]) == 0U);
    die->seed = pim_get64(&p[32]);
    die->temperature = pim_signed32(pim_get32(&p[40]));
    die->supply = pim_get32(&p[44]);
    die->age = pim_get64(&p[48]);
    die->feature_memory = pim_get64(&p[56]);
    die->q = pim_get32(&p[64]);
    die->error_low = pim_signed32(pim_get32(&p[68]));
    die->error_values = pim_get32(&p[72]);
    die->points = pim_get32(&p[76]);
    (void)memcpy(die->spec_hash, &p[80], PIM_HASH_BYTES);
    return PIM_DIE_OK;
}

/* Ranges that the rest relies on: products of sizes below then stay within 64 bits. */
static bool chip_valid(const pim_die *die)
{
    const uint64_t wordlines = (uint64_t)die->macros * die->rows;
    if ((wordlines == 0U) || (die->columns == 0U) || (wordlines > CELLS_MAX) ||
        ((wordlines * die->columns) > CELLS_MAX)) {
        return false;
    }
    const uint64_t converters = (uint64_t)die->macros * die->per_macro;
    return (die->per_macro >= 1U) && (die->per_macro <= 65536U) && (converters <= CELLS_MAX) &&
           (die->trim_codes <= 65536U) && ((die->trims == 1U) || (die->trims == die->trim_codes)) &&
           (die->full >= 1) && (die->full <= 127) && (die->q <= PIM_FRACTION_BITS_MAX) && (die->points >= 1U) &&
           (die->points <= PIM_DIE_POINTS) && (die->error_low >= -128) && (die->error_low <= 0) &&
           (die->error_values <= 256U) && ((die->error_values > 0U) == (die->q > 0U));
}

/* The codes of every register at the start, each below `codes`. */
static bool held_valid(const pim_die *die, uint32_t first, uint32_t codes)
{
    const uint32_t converters = die->macros * die->per_macro;
    for (uint32_t j = first; j < (first + converters); j++) {
        if (pim_get16(&die->held[2U * (size_t)j]) >= codes) {
            return false;
        }
    }
    return true;
}

/* Registers of gains, and what registers hold at the start; a die without the section has no gains to trim. */
static pim_die_status read_trims(pim_die *die, const uint8_t *image)
{
    const uint32_t converters = die->macros * die->per_macro; /* chip_valid: below 2^31 */
    span s;
    die->gain_codes = 0U;
    die->gains = 1U;
    die->registers = converters;
    die->held = NULL;
    const uint32_t found = find(image, SECTION_TRIMS, 0U, &s);
    if (found == 0U) {
        return PIM_DIE_OK;
    }
    if ((found != 1U) || (s.size < TRIMS_HEAD)) {
        return PIM_DIE_SECTION;
    }
    die->gain_codes = pim_get32(s.bytes);
    die->gains = pim_get32(&s.bytes[4]);
    const uint32_t codes = (die->trim_codes > 0U) ? die->trim_codes : 1U;
    const uint32_t gains = (die->gain_codes > 0U) ? die->gain_codes : 1U;
    /* Every register can be set, or none: TRIM then needs no more than the number of tables. */
    const bool alike = ((die->trims == codes) && (die->gains == gains)) || ((die->trims == 1U) && (die->gains == 1U));
    if ((gains > 65536U) || !alike || (((uint64_t)die->trims * die->gains) > CELLS_MAX) ||
        (converters > (CELLS_MAX / 2U))) {
        return PIM_DIE_VALUE;
    }
    die->registers = (die->gain_codes > 0U) ? (2U * converters) : converters;
    if (s.size != (TRIMS_HEAD + (2ULL * die->registers))) {
        return PIM_DIE_SECTION;
    }
    die->held = &s.bytes[TRIMS_HEAD];
    const bool valid = held_valid(die, 0U, codes) && ((die->gain_codes == 0U) || held_valid(die, converters, gains));
    return valid ? PIM_DIE_OK : PIM_DIE_VALUE;
}

static bool adc_valid(const pim_die *die)
{
    for (uint32_t i = 0U; i < die->columns; i++) {
        if (die->adc[i] >= die->per_macro) {
            return false;
        }
    }
    return true;
}

static bool stuck_valid(const pim_die *die, size_t cells)
{
    for (size_t i = 0U; i < cells; i++) {
        if (die->stuck[i] > 3U) {
            return false;
        }
    }
    return true;
}

/* Sections that belong to the whole chip. The casts are of addresses that sections_inside found aligned. */
static pim_die_status read_cells(pim_die *die, const uint8_t *image)
{
    const uint64_t cells = (uint64_t)die->macros * die->rows * die->columns;
    span s;
    if (!sized(image, SECTION_ADC, 0U, 2ULL * die->columns, &s)) {
        return PIM_DIE_SECTION;
    }
    die->adc = (const uint16_t *)(const void *)s.bytes;
    if (!sized_if_there(image, SECTION_ERRORS, 0U, 4U * cells * die->error_values, &s) ||
        ((s.bytes != NULL) != (die->error_values > 0U))) {
        return PIM_DIE_SECTION;
    }
    die->errors = (const int32_t *)(const void *)s.bytes;
    if (!sized_if_there(image, SECTION_STUCK, 0U, cells, &s)) {
        return PIM_DIE_SECTION;
    }
    die->stuck = s.bytes;
    if (!adc_valid(die) || ((die->stuck != NULL) && !stuck_valid(die, (size_t)cells))) {
        return PIM_DIE_VALUE;
    }
    return PIM_DIE_OK;
}

static pim_die_status read_texts(pim_die *die, const uint8_t *image)
{
    span s;
    if ((find(image, SECTION_UID, 0U, &s) != 1U) || (s.size == 0U) || (s.size > 255U)) {
        return PIM_DIE_SECTION;
    }
    die->uid = s.bytes;
    die->uid_size = (uint32_t)s.size;
    if ((find(image, SECTION_NAME, 0U, &s) != 1U) || (s.size == 0U) || (s.size > 255U)) {
        return PIM_DIE_SECTION;
    }
    die->chip = s.bytes;
    die->chip_size = (uint32_t)s.size;
    if ((find(image, SECTION_DESCRIPTION, 0U, &s) != 1U) || (s.size > 65536U)) {
        return PIM_DIE_SECTION;
    }
    die->description = s.bytes;
    die->description_size = (uint32_t)s.size;
    return PIM_DIE_OK;
}

static pim_die_status read_point(pim_die *die, const uint8_t *image, uint32_t number)
{
    pim_die_point *out = &die->point[number];
    pim_point *point = &out->point;
    pim_tables *tables = &out->tables;
    span s;
    if (!sized(image, SECTION_POINT, number, POINT_SIZE, &s)) {
        return PIM_DIE_SECTION;
    }
    point->scheme = pim_get32(&s.bytes[0]);
    point->rows = pim_get32(&s.bytes[4]);
    point->weight_bits = pim_get32(&s.bytes[8]);
    point->act_bits = pim_get32(&s.bytes[12]);
    point->dac_bits = pim_get32(&s.bytes[16]);
    point->adc_bits = pim_get32(&s.bytes[20]);
    point->range_divisor = pim_get32(&s.bytes[24]);
    tables->octaves = pim_get32(&s.bytes[28]);
    tables->sigma_by_sum = (pim_get32(&s.bytes[32]) != 0U);
    if (!pim_point_derive(point)) {
        return PIM_DIE_VALUE;
    }
    tables->converters = die->macros * die->per_macro;
    tables->sums = (uint32_t)(point->sum_max - point->sum_min + 1);
    tables->trims = die->trims;
    tables->trim = NULL;
    tables->gains = die->gains;
    tables->gain = NULL;
    /* Each factor is held to what the next product can take: CELLS_MAX twice, and 4 bytes, stay below 2^64. */
    const uint64_t entries = (uint64_t)tables->converters * tables->sums; /* 2^56 */
    const uint64_t codes = (uint64_t)tables->trims * tables->gains;       /* read_trims: at most CELLS_MAX */
    if (entries > CELLS_MAX) {
        return PIM_DIE_VALUE;
    }
    if (!sized(image, SECTION_TRANSFER, number, 4U * entries * codes, &s)) {
        return PIM_DIE_SECTION;
    }
    tables->transfer = (const int32_t *)(const void *)s.bytes;
    if (!sized(image, SECTION_SIGMA, number, 4ULL * (tables->sigma_by_sum ? entries : tables->converters), &s)) {
        return PIM_DIE_SECTION;
    }
    tables->sigma = (const uint32_t *)(const void *)s.bytes;
    if (!sized_if_there(image, SECTION_SLOW, number, 4ULL * tables->converters, &s)) {
        return PIM_DIE_SECTION;
    }
    tables->slow = (const uint32_t *)(const void *)s.bytes;
    const uint64_t map = 2ULL * tables->converters * pim_map_entries(point);
    if (!sized_if_there(image, SECTION_MAP, number, map, &s)) {
        return PIM_DIE_SECTION;
    }
    tables->code_map = (const int16_t *)(const void *)s.bytes;
    return pim_tables_valid(point, tables) ? PIM_DIE_OK : PIM_DIE_VALUE;
}

pim_die_status pim_die_read(pim_die *die, const uint8_t *image, size_t size)
{
    pim_die_status status = check_header(image, size);
    if (status != PIM_DIE_OK) {
        return status;
    }
    if (!sections_inside(image)) {
        return PIM_DIE_SECTION;
    }
    status = read_chip(die, image);
    if (status != PIM_DIE_OK) {
        return status;
    }
    if (!chip_valid(die)) {
        return PIM_DIE_VALUE;
    }
    status = read_trims(die, image);
    if (status == PIM_DIE_OK) {
        status = read_cells(die, image);
    }
    if (status == PIM_DIE_OK) {
        status = read_texts(die, image);
    }
    for (uint32_t i = 0U; (i < die->points) && (status == PIM_DIE_OK); i++) {
        status = read_point(die, image, i);
    }
    return status;
}

const pim_die_point *pim_die_find(const pim_die *die, const pim_point *point)
{
    for (uint32_t i = 0U; i < die->points; i++) {
        const pim_point *have = &die->point[i].point;
        /* Weights of bit planes are of any width: a cell holds one bit of them. */
        if ((have->scheme == point->scheme) && (have->rows == point->rows) && (have->cell_max == point->cell_max) &&
            (have->dac_bits == point->dac_bits) && (have->adc_bits == point->adc_bits) &&
            (have->range_divisor == point->range_divisor)) {
            return &die->point[i];
        }
    }
    return NULL;
}
