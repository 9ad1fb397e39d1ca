/* What the chip and the processor are asked to do: payloads to calls of the board. */
#include "bytes.h"
#include "crc32.h"
#include "server.h"

#define FIRST_MAX (1ULL << 40)

static pim_tile read_tile(const uint8_t *p)
{
    const pim_tile tile = {pim_get32(p), pim_get32(&p[4]), pim_get32(&p[8]), pim_get32(&p[12]), pim_get32(&p[16])};
    return tile;
}

static uint16_t program(pim_server *s, pim_request *request)
{
    const pim_tile tile = read_tile(request->payload);
    const uint32_t full = pim_get32(&request->payload[20]);
    size_t size = 0U;
    const uint8_t *cells = pim_object(s, PIMP_REGION_CELLS, 0U, &size);
    if (cells == NULL) {
        return PIMP_ERROR_EMPTY;
    }
    if (!pim_board_has_tile(&s->board, &tile) || (full < 1U) || (full > 127U)) {
        return PIMP_ERROR_ARGUMENT;
    }
    if (((uint64_t)tile.rows * tile.columns) != size) {
        return PIMP_ERROR_SHAPE;
    }
    s->board.counters.bytes_in += size;
    return pim_answer(s, pim_board_write(&s->board, &tile, cells, full));
}

static uint16_t read_cells(pim_server *s, pim_request *request)
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
static uint16_t verify(pim_server *s, pim_request *request)
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
    if (!pim_read_mac(&p[20], &c->point) || (c->first >= FIRST_MAX) || (c->vectors == 0U) || (repeats == 0U)) {
        return PIMP_ERROR_ARGUMENT;
    }
    if (pim_object(s, PIMP_REGION_INPUTS, 0U, &size) == NULL) {
        return PIMP_ERROR_EMPTY;
    }
    const pim_status status = pim_board_ready(&s->board, &c->tile, &c->point, &c->at);
    if (status != PIM_OK) {
        return pim_answer(s, status);
    }
    c->width = (c->point.adc_bits <= 8U) ? 1U : 2U;
    c->total = (uint64_t)c->vectors * repeats;
    if ((((uint64_t)c->vectors * c->tile.rows) != size) || (c->tile.rows > c->point.rows)) {
        return PIMP_ERROR_SHAPE;
    }
    /* Columns are below 2^31, and a total of at most 2^31 keeps the product in 64 bits. */
    if ((c->total > (uint64_t)INT32_MAX) || ((c->total * c->tile.columns * c->width) > (uint64_t)INT32_MAX)) {
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

static uint16_t convert(pim_server *s, pim_request *request)
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

/* The requantization of a handle, or none: *requant is NULL then. held: where it is put. */
static bool optional_requant(const pim_server *s, uint32_t handle, pim_requant *held, const pim_requant **requant)
{
    *requant = NULL;
    if (handle == PIMP_NO_HANDLE) {
        return true;
    }
    *requant = held;
    return pim_read_requant(s, handle, held);
}

static uint16_t conv(pim_server *s, pim_request *request)
{
    const uint8_t *p = request->payload;
    const uint32_t accumulate = pim_get32(&p[16]);
    const pim_run run = {pim_get32(&p[20]), pim_get64(&p[24])};
    pim_layer layer;
    pim_requant held;
    const pim_requant *requant = NULL;
    if (!pim_read_layer(s, pim_get32(p), &layer) || !optional_requant(s, pim_get32(&p[12]), &held, &requant)) {
        return PIMP_ERROR_EMPTY;
    }
    if (accumulate > 1U) {
        return PIMP_ERROR_ARGUMENT;
    }
    return pim_answer(
        s, pim_board_conv(&s->board, &layer, pim_get32(&p[4]), pim_get32(&p[8]), requant, accumulate == 1U, &run));
}

static uint16_t digital(pim_server *s, pim_request *request)
{
    const uint8_t *p = request->payload;
    const uint8_t *weights = NULL;
    size_t size = 0U;
    pim_geometry g;
    pim_requant held;
    const pim_requant *requant = NULL;
    if (!pim_read_weights(s, pim_get32(p), &g, &weights, &size) ||
        !optional_requant(s, pim_get32(&p[12]), &held, &requant)) {
        return PIMP_ERROR_EMPTY;
    }
    return pim_answer(
        s, pim_board_digital(&s->board, weights, size, &g, pim_get32(&p[4]), pim_get32(&p[8]), requant));
}

static uint16_t requantize(pim_server *s, pim_request *request)
{
    const uint8_t *p = request->payload;
    pim_requant requant;
    if (!pim_read_requant(s, pim_get32(&p[8]), &requant)) {
        return PIMP_ERROR_EMPTY;
    }
    return pim_answer(s, pim_board_requantize(&s->board, pim_get32(p), pim_get32(&p[4]), &requant));
}

static uint16_t add(pim_server *s, pim_request *request)
{
    const uint8_t *p = request->payload;
    const pim_addition how = {
        .factor = {pim_signed64(pim_get64(&p[24])), pim_signed64(pim_get64(&p[32]))},
        .shift = pim_get32(&p[12]),
        .low = pim_signed32(pim_get32(&p[16])),
        .high = pim_signed32(pim_get32(&p[20])),
    };
    return pim_answer(s, pim_board_add(&s->board, pim_get32(p), pim_get32(&p[4]), pim_get32(&p[8]), &how));
}

static uint16_t pool(pim_server *s, pim_request *request)
{
    const uint8_t *p = request->payload;
    const uint32_t kind = pim_get32(&p[8]);
    const pim_pooling how = {
        .largest = (kind == 0U),
        .kernel = {pim_get32(&p[12]), pim_get32(&p[16])},
        .stride = {pim_get32(&p[20]), pim_get32(&p[24])},
        .padding = {pim_get32(&p[28]), pim_get32(&p[32])},
    };
    return (kind > 1U) ? (uint16_t)PIMP_ERROR_ARGUMENT
                       : pim_answer(s, pim_board_pool(&s->board, pim_get32(p), pim_get32(&p[4]), &how));
}

static uint16_t stats(pim_server *s, pim_request *request)
{
    uint32_t slot = 0U;
    if (!pim_memory_find(&s->board.memory, pim_get32(request->payload), &slot)) {
        return PIMP_ERROR_EMPTY;
    }
    const pim_map map = pim_memory_map(&s->board.memory, slot);
    if (map.c > ((uint32_t)INT32_MAX / PIMP_STATS_CHANNEL_SIZE)) {
        return PIMP_ERROR_FULL;
    }
    uint8_t *out = pim_object_make(s, PIMP_REGION_STATS, 0U, map.c * PIMP_STATS_CHANNEL_SIZE);
    if (out == NULL) {
        return PIMP_ERROR_FULL;
    }
    for (uint32_t c = 0U; c < map.c; c++) {
        int64_t total = 0;
        int64_t squares = 0;
        const pim_status status = pim_stats(&map, c, &total, &squares);
        if (status != PIM_OK) {
            pim_memory_free(&s->objects, pim_object_key(PIMP_REGION_STATS, 0U));
            return pim_answer(s, status);
        }
        pim_put64(&out[(size_t)c * PIMP_STATS_CHANNEL_SIZE], (uint64_t)total);
        pim_put64(&out[((size_t)c * PIMP_STATS_CHANNEL_SIZE) + 8U], (uint64_t)squares);
    }
    pim_put64(s->payload, (uint64_t)map.n * map.h * map.w);
    pim_put32(&s->payload[8], map.c);
    request->reply_size = PIMP_STATS_REPLY_SIZE;
    return 0U;
}

static uint16_t map_of(pim_server *s, pim_request *request)
{
    uint32_t slot = 0U;
    if (!pim_memory_find(&s->board.memory, pim_get32(request->payload), &slot)) {
        return PIMP_ERROR_EMPTY;
    }
    const pim_map map = pim_memory_map(&s->board.memory, slot);
    int32_t low = pim_map_get(&map, 0U); /* no map is empty */
    int32_t high = low;
    for (size_t i = 1U; i < pim_map_size(&map); i++) {
        const int32_t v = pim_map_get(&map, i);
        low = (v < low) ? v : low;
        high = (v > high) ? v : high;
    }
    for (uint32_t i = 0U; i < 4U; i++) {
        pim_put32(&s->payload[4U * (size_t)i], s->board.memory.slots[slot].shape[i]);
    }
    pim_put32(&s->payload[16], (uint32_t)low);
    pim_put32(&s->payload[20], (uint32_t)high);
    request->reply_size = PIMP_MAP_REPLY_SIZE;
    return 0U;
}

static uint16_t trim(pim_server *s, pim_request *request)
{
    return pim_answer(s, pim_board_trim(&s->board, pim_get32(request->payload), pim_get32(&request->payload[4])));
}

static uint16_t free_map(pim_server *s, pim_request *request)
{
    pim_memory_free(&s->board.memory, pim_get32(request->payload));
    return 0U;
}

typedef struct {
    uint8_t op;
    size_t size; /* of its payload */
    uint16_t (*run)(pim_server *server, pim_request *request);
} op_entry;

static const op_entry table[] = {
    {PIMP_OP_PROGRAM, PIMP_PROGRAM_REQUEST_SIZE, program},
    {PIMP_OP_VERIFY, PIMP_TILE_REQUEST_SIZE, verify},
    {PIMP_OP_READ_CELLS, PIMP_TILE_REQUEST_SIZE, read_cells},
    {PIMP_OP_CONVERT, PIMP_CONVERT_REQUEST_SIZE, convert},
    {PIMP_OP_TRIM, PIMP_TRIM_REQUEST_SIZE, trim},
    {PIMP_OP_CONV, PIMP_CONV_REQUEST_SIZE, conv},
    {PIMP_OP_DIGITAL, PIMP_DIGITAL_REQUEST_SIZE, digital},
    {PIMP_OP_REQUANTIZE, PIMP_REQUANTIZE_REQUEST_SIZE, requantize},
    {PIMP_OP_ADD, PIMP_ADD_REQUEST_SIZE, add},
    {PIMP_OP_POOL, PIMP_POOL_REQUEST_SIZE, pool},
    {PIMP_OP_STATS, PIMP_BUFFER_REQUEST_SIZE, stats},
    {PIMP_OP_MAP, PIMP_BUFFER_REQUEST_SIZE, map_of},
    {PIMP_OP_FREE, PIMP_BUFFER_REQUEST_SIZE, free_map},
};

uint16_t pim_op_run(pim_server *server, pim_request *request)
{
    for (size_t i = 0U; i < (sizeof table / sizeof table[0]); i++) {
        if (table[i].op == request->header->op) {
            return (request->size == table[i].size) ? table[i].run(server, request) : PIMP_ERROR_BAD_LENGTH;
        }
    }
    return PIMP_ERROR_UNKNOWN_OP;
}
