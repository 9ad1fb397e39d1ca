/* Objects as hosts write them: where they lie, checked once at COMMIT and read at use. */
#include "bytes.h"
#include "copies.h"
#include "server.h"

uint8_t *pim_object(const pim_server *server, uint32_t region, uint32_t handle, size_t *size)
{
    uint32_t slot = 0U;
    if (!pim_memory_find(&server->objects, pim_object_key(region, handle), &slot)) {
        return NULL;
    }
    *size = server->objects.slots[slot].size;
    return pim_memory_map(&server->objects, slot).bytes;
}

uint8_t *pim_object_make(pim_server *server, uint32_t region, uint32_t handle, uint32_t size)
{
    const uint32_t shape[4] = {1U, 1U, 1U, size};
    uint32_t slot = 0U;
    pim_memory_free(&server->objects, pim_object_key(region, handle));
    if (pim_memory_make(&server->objects, pim_object_key(region, handle), shape, true, &slot) != PIM_OK) {
        return NULL;
    }
    pim_memory_keep(&server->objects, slot);
    return pim_memory_map(&server->objects, slot).bytes;
}

bool pim_read_mac(const uint8_t *bytes, pim_point *point)
{
    point->scheme = bytes[0];
    point->weight_bits = bytes[1];
    point->act_bits = bytes[2];
    point->dac_bits = bytes[3];
    point->adc_bits = bytes[4];
    point->range_divisor = pim_get16(&bytes[6]);
    point->rows = pim_get32(&bytes[8]);
    return (bytes[5] == 0U) && pim_point_derive(point);
}

pim_geometry pim_read_geometry(const uint8_t *p)
{
    const pim_geometry g = {
        pim_get32(p),
        pim_get32(&p[4]),
        {pim_get32(&p[8]), pim_get32(&p[12])},
        {pim_get32(&p[16]), pim_get32(&p[20])},
        {pim_get32(&p[24]), pim_get32(&p[28])},
        {pim_get32(&p[32]), pim_get32(&p[36])},
    };
    return g;
}

/* Where what says of a layer's copies ends, which begins at a place or is not there; beyond the layer where it is cut. */
static uint64_t copies_end(const uint8_t *bytes, size_t size, size_t at)
{
    if (((size - at) < PIMP_COPIES_HEAD_SIZE) || (pim_get32(&bytes[at]) != 0U)) {
        return at;
    }
    return at + PIMP_COPIES_HEAD_SIZE + (4U * (uint64_t)pim_get32(&bytes[at + 4U]));
}

/* What ends a layer at a place: a correction, or none. */
static pim_correction correction_of(const uint8_t *bytes, size_t size, size_t at)
{
    pim_correction c = {0U, 0U, NULL};
    if (size > at) {
        c.converters = pim_get32(&bytes[at]);
        c.fraction_bits = pim_get32(&bytes[at + 4U]);
        c.values = &bytes[at + PIMP_CORRECTION_HEAD_SIZE];
    }
    return c;
}

/* Nothing is left, or a head and values that its converters can share. */
static bool may_correct(const uint8_t *rest, uint64_t size)
{
    if (size <= PIMP_CORRECTION_HEAD_SIZE) {
        return size == 0U;
    }
    const uint64_t converters = pim_get32(rest);
    return (converters > 0U) && (((size - PIMP_CORRECTION_HEAD_SIZE) % (2U * converters)) == 0U);
}

/* size: of the layer, which is what may_correct found it can be. at: where the correction would begin. */
static uint16_t check_correction(const uint8_t *bytes, size_t size, size_t at, const pim_point *point)
{
    const pim_correction c = correction_of(bytes, size, at);
    if (c.values == NULL) {
        return 0U;
    }
    const uint64_t entries = (uint64_t)c.converters * (uint64_t)(point->code_max - point->code_min + 1);
    if ((size - at - PIMP_CORRECTION_HEAD_SIZE) != (2U * entries)) {
        return PIMP_ERROR_SHAPE;
    }
    return pim_correction_valid(point, &c) ? 0U : PIMP_ERROR_ARGUMENT;
}

/* Placements, copies and correction, once lengths are known to fit. Returns where the correction would begin. */
static size_t find_parts(const uint8_t *bytes, size_t size, pim_layer *layer)
{
    layer->placement_count = pim_get32(&bytes[PIMP_MAC_SIZE + PIMP_GEOMETRY_SIZE]);
    layer->placements = &bytes[PIMP_LAYER_HEAD_SIZE];
    const size_t end = PIMP_LAYER_HEAD_SIZE + ((size_t)layer->placement_count * PIMP_PLACEMENT_SIZE);
    const size_t rest = (size_t)copies_end(bytes, size, end);
    layer->copies = (rest > end) ? pim_get32(&bytes[end + 4U]) : 1U;
    layer->counts = (rest > end) ? &bytes[end + PIMP_COPIES_HEAD_SIZE] : NULL;
    layer->correction = correction_of(bytes, size, rest);
    return rest;
}

static uint16_t check_layer(const uint8_t *bytes, size_t size)
{
    pim_layer layer;
    uint32_t depth = 0U;
    if (size < PIMP_LAYER_HEAD_SIZE) {
        return PIMP_ERROR_SHAPE;
    }
    const pim_geometry g = pim_read_geometry(&bytes[PIMP_MAC_SIZE]);
    const uint64_t placements = pim_get32(&bytes[PIMP_MAC_SIZE + PIMP_GEOMETRY_SIZE]);
    const uint64_t end = PIMP_LAYER_HEAD_SIZE + (placements * PIMP_PLACEMENT_SIZE);
    const uint64_t rest = (end > size) ? end : copies_end(bytes, size, (size_t)end);
    if ((rest > size) || !may_correct(&bytes[rest], size - rest)) {
        return PIMP_ERROR_SHAPE;
    }
    const size_t at = find_parts(bytes, size, &layer);
    if ((placements > PIM_PLACEMENTS_MAX) || !pim_copies_counted(&layer) || !pim_read_mac(bytes, &layer.point)) {
        return PIMP_ERROR_ARGUMENT;
    }
    const uint16_t error = check_correction(bytes, size, at, &layer.point);
    if (error != 0U) {
        return error;
    }
    return (pim_geometry_depth(&g, &depth) && pim_copies_valid(&layer)) ? 0U : PIMP_ERROR_ARGUMENT;
}

static pim_requant requant_of(const uint8_t *bytes)
{
    const pim_requant r = {
        .channels = pim_get32(bytes),
        .entries = &bytes[PIMP_REQUANT_HEAD_SIZE],
        .low = pim_signed32(pim_get32(&bytes[4])),
        .high = pim_signed32(pim_get32(&bytes[8])),
        .acc_max = pim_get64(&bytes[16]),
    };
    return r;
}

static uint16_t check_requant(const uint8_t *bytes, size_t size)
{
    if (size < PIMP_REQUANT_HEAD_SIZE) {
        return PIMP_ERROR_SHAPE;
    }
    const pim_requant r = requant_of(bytes);
    if ((PIMP_REQUANT_HEAD_SIZE + ((uint64_t)r.channels * PIMP_REQUANT_CHANNEL_SIZE)) != size) {
        return PIMP_ERROR_SHAPE;
    }
    if ((r.acc_max > (1ULL << 31)) || (pim_get32(&bytes[12]) != 0U)) {
        return PIMP_ERROR_ARGUMENT;
    }
    return pim_error_of(pim_requant_check(&r, r.channels));
}

static uint16_t check_weights(const uint8_t *bytes, size_t size)
{
    uint32_t depth = 0U;
    if (size < PIMP_GEOMETRY_SIZE) {
        return PIMP_ERROR_SHAPE;
    }
    const pim_geometry g = pim_read_geometry(bytes);
    if (!pim_geometry_depth(&g, &depth) || (depth > PIM_WINDOW_MAX)) {
        return PIMP_ERROR_ARGUMENT;
    }
    return (((uint64_t)depth * g.out_channels) == (size - PIMP_GEOMETRY_SIZE)) ? 0U : PIMP_ERROR_SHAPE;
}

uint16_t pim_object_check(uint32_t region, const uint8_t *bytes, size_t size)
{
    switch (region) {
    case PIMP_REGION_LAYER:
        return check_layer(bytes, size);
    case PIMP_REGION_REQUANT:
        return check_requant(bytes, size);
    case PIMP_REGION_WEIGHTS:
        return check_weights(bytes, size);
    default:
        return 0U;
    }
}

bool pim_read_layer(const pim_server *server, uint32_t handle, pim_layer *layer)
{
    size_t size = 0U;
    const uint8_t *bytes = (handle < PIM_HANDLES) ? pim_object(server, PIMP_REGION_LAYER, handle, &size) : NULL;
    if (bytes == NULL) {
        return false;
    }
    layer->geometry = pim_read_geometry(&bytes[PIMP_MAC_SIZE]);
    (void)find_parts(bytes, size, layer);
    return pim_read_mac(bytes, &layer->point);
}

bool pim_read_requant(const pim_server *server, uint32_t handle, pim_requant *requant)
{
    size_t size = 0U;
    const uint8_t *bytes = (handle < PIM_HANDLES) ? pim_object(server, PIMP_REGION_REQUANT, handle, &size) : NULL;
    if (bytes == NULL) {
        return false;
    }
    *requant = requant_of(bytes);
    return true;
}

bool pim_read_weights(const pim_server *server, uint32_t handle, pim_geometry *g, const uint8_t **weights, size_t *size)
{
    const uint8_t *bytes = (handle < PIM_HANDLES) ? pim_object(server, PIMP_REGION_WEIGHTS, handle, size) : NULL;
    if (bytes == NULL) {
        return false;
    }
    *g = pim_read_geometry(bytes);
    *weights = &bytes[PIMP_GEOMETRY_SIZE];
    *size -= PIMP_GEOMETRY_SIZE;
    return true;
}
