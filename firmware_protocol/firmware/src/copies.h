/* Placements of a layer, and which copy of it each belongs to: CHIP.md, section 7. */
#ifndef PIM_COPIES_H
#define PIM_COPIES_H

#include "board.h"

typedef struct {
    pim_tile tile;
    uint32_t group;
    uint32_t first_column;
} pim_placement;

/* Placements first..end - 1. */
typedef struct {
    uint32_t first;
    uint32_t end;
} pim_range;

pim_placement pim_placement_at(const pim_layer *layer, uint32_t i);

/* True where two placements are of the same column of the same row group. */
bool pim_placements_overlap(const pim_placement *a, const pim_placement *b);

/* Those of a copy. Of copies in turn they follow one another. */
pim_range pim_copy_range(const pim_layer *layer, uint32_t copy);

/* How many of `vectors` vectors from `first` on a copy computes. */
uint64_t pim_copy_share(const pim_layer *layer, uint32_t copy, uint64_t first, uint64_t vectors);

/* True where there is one copy, or where each has placements, and they are all that there are. */
bool pim_copies_counted(const pim_layer *layer);

/* True where there is one copy, or where all hold the same columns of the same row groups, once each, and share no cell.
 * pim_copies_counted must hold. */
bool pim_copies_valid(const pim_layer *layer);

#endif
