/* What the chip is asked to do: payloads to calls of the board. Fields are judged before what lies there. */
#include "bytes.h"
#include "crc32.h"
#include "ops.h"

#define FIRST_MAX (1ULL << 40)
#ifndef PIM_CODE_BYTES
#define PIM_CODE_BYTES ((uint64_t)1U << 26) /* of one CONVERT: what blobs say of the emulated board too */
#endif

static pim_tile read_tile(const uint8_t *p)
{
    const pim_tile tile = {pim_get32(p), pim_get32(&p[4]), pim_get32(&p[8]), pim_get32(&p[12]), pim_get32(&p[16])};
    return tile;
}

uint16_t pim_op_program(pim_server *s, pim_request *request)
{
    const pim_tile tile = read_tile(request->payload);
    const uint32_t full = pim_get32(&request->payload[20]);
    size_t size = 0U;
    if (!pim_board_has_tile(&s->board, &tile) || (full < 1U) || (full > 127U)) {
        return PIMP_ERROR_ARGUMENT;
    }
    const uint8_t *cells = pim_object(s, PIMP_REGION_CELLS, 0U, &size);
    if (cells == NULL) {
        return PIMP_ERROR_EMPTY;
    }
    const size_t offset = request->header->arg;
    const size_t count = (size_t)tile.rows * tile.columns; /* cells of a chip: 2^31 */
    if ((offset > size) || (count > (size - offset))) {
        return PIMP_ERROR_SHAPE;
    }
    s->board.counters.bytes_in += count;
    return pim_answer(s, pim_board_write(&s->board, &tile, &cells[offset], full));
}

uint16_t pim_op_read_cells(pim_server *s, pim_request *request)
{
    const pim_tile tile = read_tile(request->payload);
    pim_status status = PIM_OK;
    if (!pim_board_has_tile(&s->board, &tile)) {
        return PIMP_ERROR_ARGUMENT;
    }
    uint8_t *out = pim_object_make(s, PIMP_REGION_READBACK, 0U, tile.rows * tile.columns); /* cells of a chip: 2^31 */
    if (out == NULL) {
        return PIMP_ERROR_FULL;
    }
    for (uint32_t r = 0U; (r < tile.rows) && (status == PIM_OK); r++) {
        status = pim_board_read_row(&s->board, &tile, r, &out[(size_t)r * tile.columns]);
    }
    s->board.counters.bytes_out += (uint64_t)tile.rows * tile.columns;
    return pim_answer(s, status);
}

/* The checks of all rows, and of all cells together. The row's cells are read where its own check goes afterwards. */
uint16_t pim_op_verify(pim_server *s, pim_request *request)
{
    const pim_tile tile = read_tile(request->payload);
    uint32_t all = 0U;
    if (!pim_board_has_tile(&s->board, &tile)) {
        return PIMP_ERROR_ARGUMENT;
    }
    uint8_t *out = pim_object_make(s, PIMP_REGION_CHECKS, 0U, 4U * tile.rows);
    uint8_t *row = pim_memory_scratch(&s->objects, tile.columns);
    if ((out == NULL) || (row == NULL)) {
        return PIMP_ERROR_FULL;
    }
    size_t size = 0U;
    out = pim_object(s, PIMP_REGION_CHECKS, 0U, &size); /* the scratch may have moved it */
    for (uint32_t r = 0U; (r < tile.rows) && (out != NULL); r++) {
        const pim_status status = pim_board_read_row(&s->board, &tile, r, row);
        if (status != PIM_OK) {
            return pim_answer(s, status);
        }
        pim_put32(&out[4U * (size_t)r], pim_crc32(0U, row, tile.columns));
        all = pim_crc32(all, row, tile.columns);
    }
    s->board.counters.bytes_out += (uint64_t)tile.rows * tile.columns;
    pim_put32(s->payload, all);
    request->reply_size = PIMP_VERIFY_REPLY_SIZE;
    return 0U;
}

/* A CONVERT's fields. */
typedef struct {
    pim_tile tile;
    pim_point point;
    const pim_die_point *at;
    uint32_t epoch;
    uint64_t first;
    uint32_t vectors;
    uint64_t total; /* vectors times repeats */
    uint32_t width;
} conversion;

static uint16_t check_convert(pim_server *s, const pim_request *request, conversion *c)
{
    const uint8_t *p = request->payload;
    const uint32_t repeats = pim_get32(&p[48]);
    size_t size = 0U;
    c->tile = read_tile(p);
    c->epoch = pim_get32(&p[32]);
    c->first = pim_get64(&p[36]);
    c->vectors = pim_get32(&p[44]);
    if (!pim_board_has_tile(&s->board, &c->tile) || !pim_read_mac(&p[20], &c->point) || (c->first >= FIRST_MAX) ||
        (c->vectors == 0U) || (repeats == 0U)) {
        return PIMP_ERROR_ARGUMENT;
    }
    const uint8_t *inputs = pim_object(s, PIMP_REGION_INPUTS, 0U, &size);
    if (inputs == NULL) {
        return PIMP_ERROR_EMPTY;
    }
    if ((((uint64_t)c->vectors * c->tile.rows) != size) || (c->tile.rows > c->point.rows)) {
        return PIMP_ERROR_SHAPE;
    }
    const pim_status status = pim_board_ready(&s->board, &c->tile, &c->point, &c->at);
    if (status != PIM_OK) {
        return pim_answer(s, status);
    }
    for (size_t i = 0U; i < size; i++) {
        if (((uint32_t)inputs[i] >> c->point.dac_bits) != 0U) {
            return pim_answer(s, PIM_BAD_INPUT);
        }
    }
    c->width = (c->point.adc_bits <= 8U) ? 1U : 2U;
    c->total = (uint64_t)c->vectors * repeats;
    if (c->total > (PIM_CODE_BYTES / ((uint64_t)c->tile.columns * c->width))) {
        return PIMP_ERROR_FULL;
    }
    return 0U;
}

static void put_codes(const pim_board *board, uint32_t columns, uint32_t width, uint8_t *out)
{
    for (uint32_t i = 0U; i < columns; i++) {
        const uint32_t code = (uint32_t)board->codes[i];
        if (width == 1U) {
            out[i] = (uint8_t)(code & 0xFFU);
        } else {
            pim_put16(&out[2U * (size_t)i], (uint16_t)(code & 0xFFFFU));
        }
    }
}

uint16_t pim_op_convert(pim_server *s, pim_request *request)
{
    conversion c;
    const uint16_t error = check_convert(s, request, &c);
    if (error != 0U) {
        return error;
    }
    const size_t row = (size_t)c.tile.columns * c.width;
    uint8_t *out = pim_object_make(s, PIMP_REGION_CODES, 0U, (uint32_t)((size_t)c.total * row));
    size_t size = 0U;
    const uint8_t *inputs = pim_object(s, PIMP_REGION_INPUTS, 0U, &size); /* the codes may have moved them */
    if ((out == NULL) || (inputs == NULL)) {
        return PIMP_ERROR_FULL;
    }
    for (uint32_t i = 0U; i < (uint32_t)c.total; i++) {
        const uint8_t *x = &inputs[(size_t)(i % c.vectors) * c.tile.rows];
        const pim_status status = pim_board_convert(&s->board, &c.tile, c.at, x, c.epoch, c.first + i);
        if (status != PIM_OK) {
            pim_memory_free(&s->objects, pim_object_key(PIMP_REGION_CODES, 0U));
            return pim_answer(s, status);
        }
        put_codes(&s->board, c.tile.columns, c.width, &out[(size_t)i * row]);
    }
    s->board.counters.bytes_in += size;
    s->board.counters.bytes_out += c.total * row;
    pim_put32(s->payload, (uint32_t)((size_t)c.total * row));
    pim_put32(&s->payload[4], c.width);
    request->reply_size = PIMP_CONVERT_REPLY_SIZE;
    return 0U;
}

uint16_t pim_op_trim(pim_server *s, pim_request *request)
{
    return pim_answer(s, pim_board_trim(&s->board, pim_get32(request->payload), pim_get32(&request->payload[4])));
}
