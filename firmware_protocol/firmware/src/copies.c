/* Copies of a layer in the array. */
#include "copies.h"

#include "bytes.h"

pim_placement pim_placement_at(const pim_layer *layer, uint32_t i)
{
    const uint8_t *p = &layer->placements[(size_t)i * PIM_PLACEMENT_BYTES];
    const pim_placement out = {
        {pim_get32(&p[0]), pim_get32(&p[4]), pim_get32(&p[8]), pim_get32(&p[12]), pim_get32(&p[16])},
        pim_get32(&p[20]),
        pim_get32(&p[24]),
    };
    return out;
}

/* What two stretches from a and b on have in common. */
static uint64_t common(uint64_t a, uint64_t a_size, uint64_t b, uint64_t b_size)
{
    const uint64_t first = (a > b) ? a : b;
    const uint64_t end = ((a + a_size) < (b + b_size)) ? (a + a_size) : (b + b_size);
    return (end > first) ? (end - first) : 0U;
}

/* Columns of a row group that two placements have in common. */
static uint64_t common_columns(const pim_placement *a, const pim_placement *b)
{
    return (a->group == b->group) ? common(a->first_column, a->tile.columns, b->first_column, b->tile.columns) : 0U;
}

bool pim_placements_overlap(const pim_placement *a, const pim_placement *b)
{
    return common_columns(a, b) > 0U;
}

static bool tiles_overlap(const pim_tile *a, const pim_tile *b)
{
    return (a->macro == b->macro) && (common(a->row, a->rows, b->row, b->rows) > 0U) &&
           (common(a->column, a->columns, b->column, b->columns) > 0U);
}

static uint32_t count_of(const pim_layer *layer, uint32_t copy)
{
    return (layer->counts == NULL) ? layer->placement_count : pim_get32(&layer->counts[(size_t)copy * 4U]);
}

pim_range pim_copy_range(const pim_layer *layer, uint32_t copy)
{
    pim_range range = {0U, count_of(layer, 0U)};
    for (uint32_t c = 1U; c <= copy; c++) {
        range.first = range.end;
        range.end += count_of(layer, c);
    }
    return range;
}

uint64_t pim_copy_share(const pim_layer *layer, uint32_t copy, uint64_t first, uint64_t vectors)
{
    const uint64_t copies = layer->copies;
    const uint64_t start = ((uint64_t)copy + copies - (first % copies)) % copies;
    return (vectors > start) ? (((vectors - start - 1U) / copies) + 1U) : 0U;
}

bool pim_copies_counted(const pim_layer *layer)
{
    uint64_t all = 0U;
    if (layer->counts == NULL) {
        return true;
    }
    for (uint32_t c = 0U; c < layer->copies; c++) {
        if (count_of(layer, c) == 0U) {
            return false;
        }
        all += count_of(layer, c);
    }
    return (layer->copies >= 2U) && (all == layer->placement_count);
}

/* No earlier placement has a column in common with one of its copy, or a cell with one of another. */
static bool stands_apart(const pim_layer *layer, const pim_range *own, uint32_t i)
{
    const pim_placement p = pim_placement_at(layer, i);
    for (uint32_t j = 0U; j < i; j++) {
        const pim_placement other = pim_placement_at(layer, j);
        if ((j < own->first) ? tiles_overlap(&p.tile, &other.tile) : pim_placements_overlap(&p, &other)) {
            return false;
        }
    }
    return true;
}

/* Whether copy 0 has all columns of a placement. Its placements do not overlap. */
static bool held_first(const pim_layer *layer, const pim_placement *p)
{
    uint64_t held = 0U;
    for (uint32_t j = 0U; j < count_of(layer, 0U); j++) {
        const pim_placement other = pim_placement_at(layer, j);
        held += common_columns(p, &other);
    }
    return held == p->tile.columns;
}

bool pim_copies_valid(const pim_layer *layer)
{
    uint64_t wanted = 0U; /* columns of copy 0 */
    for (uint32_t c = 0U; (layer->counts != NULL) && (c < layer->copies); c++) {
        const pim_range own = pim_copy_range(layer, c);
        uint64_t columns = 0U;
        for (uint32_t i = own.first; i < own.end; i++) {
            const pim_placement p = pim_placement_at(layer, i);
            if (!stands_apart(layer, &own, i) || ((c > 0U) && !held_first(layer, &p))) {
                return false;
            }
            columns += p.tile.columns;
        }
        wanted = (c == 0U) ? columns : wanted;
        if (columns != wanted) {
            return false;
        }
    }
    return true;
}
