/* Feature memory: numbered maps in one arena, a byte or a word a value. Compacts itself; never allocates.
 *
 * The arena holds a map that replaces another beside the one that it replaces, so it is twice what hosts are told. */
#ifndef PIM_MEMORY_H
#define PIM_MEMORY_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "status.h"

/* A map [n][c][h][w]: bytes in 0..255 if small, else signed words. Valid until the next pim_memory_make or _scratch. */
typedef struct {
    uint32_t n;
    uint32_t c;
    uint32_t h;
    uint32_t w;
    bool small;
    uint8_t *bytes;
    int32_t *words;
} pim_map;

typedef struct {
    bool used;
    bool named; /* false while it is being filled */
    uint32_t number;
    uint32_t shape[4];
    bool small;
    size_t at;
    size_t size; /* bytes of its values */
} pim_slot;

typedef struct {
    uint8_t *arena; /* aligned to 8 */
    size_t capacity;
    size_t limit; /* bytes that all named maps may take */
    pim_slot *slots;
    uint32_t slot_count;
} pim_memory;

/* arena: aligned to 8, of `capacity` bytes; half of it is offered. */
void pim_memory_begin(pim_memory *memory, uint8_t *arena, size_t capacity, pim_slot *slots, uint32_t slot_count);

/* Values in a shape; false where they pass 2^31 - 1 or a dimension is 0. */
bool pim_shape_size(const uint32_t shape[4], size_t *values);

/* Room for a map that is to become buffer `number`, not seen under that number until it is kept. Maps may move. */
pim_status pim_memory_make(pim_memory *memory, uint32_t number, const uint32_t shape[4], bool small, uint32_t *slot);

/* Named maps have left room for it since it was made. */
bool pim_memory_may_keep(const pim_memory *memory, uint32_t slot);

/* The made map takes its number; what had it is gone. */
void pim_memory_keep(pim_memory *memory, uint32_t slot);

/* Forget a made map that is not to be kept. */
void pim_memory_drop(pim_memory *memory, uint32_t slot);

/* Forget a buffer; one that is not there is no error. */
void pim_memory_free(pim_memory *memory, uint32_t number);

/* The slot of a buffer; false where it is empty. */
bool pim_memory_find(const pim_memory *memory, uint32_t number, uint32_t *slot);

/* The map in a slot. */
pim_map pim_memory_map(const pim_memory *memory, uint32_t slot);

/* Room until the next make or scratch, aligned to 8; NULL where there is none. Maps may move. */
uint8_t *pim_memory_scratch(pim_memory *memory, size_t size);

/* Bytes of all named maps. */
size_t pim_memory_used(const pim_memory *memory);

static inline size_t pim_map_size(const pim_map *map)
{
    return (size_t)map->n * map->c * map->h * map->w;
}

static inline int32_t pim_map_get(const pim_map *map, size_t i)
{
    return map->small ? (int32_t)map->bytes[i] : map->words[i];
}

/* value: in 0..255 where the map is small. */
static inline void pim_map_put(const pim_map *map, size_t i, int32_t value)
{
    if (map->small) {
        map->bytes[i] = (uint8_t)value;
    } else {
        map->words[i] = value;
    }
}

#endif
