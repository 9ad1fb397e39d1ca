#include "memory.h"

#include <string.h>

#define ALIGNMENT 8U

static size_t aligned(size_t size)
{
    return ((size + (ALIGNMENT - 1U)) / ALIGNMENT) * ALIGNMENT;
}

void pim_memory_begin(pim_memory *memory, uint8_t *arena, size_t capacity, pim_slot *slots, uint32_t slot_count)
{
    memory->arena = arena;
    memory->capacity = (capacity / ALIGNMENT) * ALIGNMENT;
    memory->limit = memory->capacity / 2U;
    memory->slots = slots;
    memory->slot_count = slot_count;
    for (uint32_t i = 0U; i < slot_count; i++) {
        slots[i].used = false;
    }
}

bool pim_shape_size(const uint32_t shape[4], size_t *values)
{
    uint64_t total = 1U;
    for (uint32_t i = 0U; i < 4U; i++) {
        total *= shape[i]; /* at most 2^31 * 2^32 */
        if ((total == 0U) || (total > (uint64_t)INT32_MAX)) {
            return false;
        }
    }
    *values = (size_t)total;
    return true;
}

/* First byte behind all maps. */
static size_t end_of(const pim_memory *memory)
{
    size_t end = 0U;
    for (uint32_t i = 0U; i < memory->slot_count; i++) {
        const pim_slot *s = &memory->slots[i];
        if (s->used && ((s->at + aligned(s->size)) > end)) {
            end = s->at + aligned(s->size);
        }
    }
    return end;
}

/* The used slot with the lowest place at or behind `from`; slot_count where there is none. */
static uint32_t next_from(const pim_memory *memory, size_t from)
{
    uint32_t found = memory->slot_count;
    for (uint32_t i = 0U; i < memory->slot_count; i++) {
        const pim_slot *s = &memory->slots[i];
        if (s->used && (s->at >= from) && ((found == memory->slot_count) || (s->at < memory->slots[found].at))) {
            found = i;
        }
    }
    return found;
}

/* Moves all maps together at the arena's start. No map is empty, so places tell them apart. */
static void compact(pim_memory *memory)
{
    size_t to = 0U;
    size_t from = 0U;
    uint32_t i = next_from(memory, from);
    while (i < memory->slot_count) {
        pim_slot *s = &memory->slots[i];
        from = s->at + aligned(s->size);
        if (s->at != to) {
            (void)memmove(&memory->arena[to], &memory->arena[s->at], s->size);
            s->at = to;
        }
        to += aligned(s->size);
        i = next_from(memory, from);
    }
}

/* A place behind all maps with room for `size` bytes; false where there is none even after moving them together. */
static bool place_for(pim_memory *memory, size_t size, size_t *at)
{
    if (size > memory->capacity) {
        return false;
    }
    *at = end_of(memory);
    if ((memory->capacity - *at) < size) {
        compact(memory);
        *at = end_of(memory);
    }
    return (memory->capacity - *at) >= size;
}

static size_t used_without(const pim_memory *memory, bool without, uint32_t number)
{
    size_t total = 0U;
    for (uint32_t i = 0U; i < memory->slot_count; i++) {
        const pim_slot *s = &memory->slots[i];
        if (s->used && s->named && !(without && (s->number == number))) {
            total += s->size;
        }
    }
    return total;
}

size_t pim_memory_used(const pim_memory *memory)
{
    return used_without(memory, false, 0U);
}

pim_status pim_memory_make(pim_memory *memory, uint32_t number, const uint32_t shape[4], bool small, uint32_t *slot)
{
    size_t size = 0U;
    uint32_t i = 0U;
    if (!pim_shape_size(shape, &size)) {
        return PIM_NO_MEMORY;
    }
    size *= small ? 1U : 4U;
    while ((i < memory->slot_count) && memory->slots[i].used) {
        i++;
    }
    if ((i == memory->slot_count) || (size > memory->limit) ||
        (used_without(memory, true, number) > (memory->limit - size))) {
        return PIM_NO_MEMORY;
    }
    size_t at = 0U;
    if (!place_for(memory, aligned(size), &at)) {
        return PIM_NO_MEMORY;
    }
    pim_slot *s = &memory->slots[i];
    s->used = true;
    s->named = false;
    s->number = number;
    (void)memcpy(s->shape, shape, sizeof s->shape);
    s->small = small;
    s->at = at;
    s->size = size;
    *slot = i;
    return PIM_OK;
}

bool pim_memory_may_keep(const pim_memory *memory, uint32_t slot)
{
    const pim_slot *s = &memory->slots[slot];
    return used_without(memory, true, s->number) <= (memory->limit - s->size);
}

void pim_memory_keep(pim_memory *memory, uint32_t slot)
{
    pim_memory_free(memory, memory->slots[slot].number);
    memory->slots[slot].named = true;
}

void pim_memory_drop(pim_memory *memory, uint32_t slot)
{
    memory->slots[slot].used = false;
}

void pim_memory_free(pim_memory *memory, uint32_t number)
{
    uint32_t slot = 0U;
    if (pim_memory_find(memory, number, &slot)) {
        memory->slots[slot].used = false;
    }
}

bool pim_memory_find(const pim_memory *memory, uint32_t number, uint32_t *slot)
{
    for (uint32_t i = 0U; i < memory->slot_count; i++) {
        if (memory->slots[i].used && memory->slots[i].named && (memory->slots[i].number == number)) {
            *slot = i;
            return true;
        }
    }
    return false;
}

pim_map pim_memory_map(const pim_memory *memory, uint32_t slot)
{
    const pim_slot *s = &memory->slots[slot];
    uint8_t *bytes = &memory->arena[s->at];
    /* The arena is aligned to 8 and every place is a multiple of 8. */
    const pim_map map = {s->shape[0], s->shape[1], s->shape[2], s->shape[3], s->small, bytes, (int32_t *)(void *)bytes};
    return map;
}

uint8_t *pim_memory_scratch(pim_memory *memory, size_t size)
{
    size_t at = 0U;
    return place_for(memory, aligned(size), &at) ? &memory->arena[at] : NULL;
}
