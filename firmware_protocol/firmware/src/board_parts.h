/* Between the board's files: the array cycle, and how maps that ops make are kept. */
#ifndef PIM_BOARD_PARTS_H
#define PIM_BOARD_PARTS_H

#include "board.h"

/* One array cycle: board->digits into board->codes. number, index: of the noise. */
void pim_board_cycle(pim_board *board, const pim_tile *tile, const pim_die_point *at, uint32_t epoch, uint64_t number,
                     uint64_t index);

/* Counts cycles of a tile, with a conversion of each of its columns in each. */
void pim_board_count(pim_board *board, const pim_tile *tile, uint64_t cycles);

/* Keeps a filled map, or drops it where filling failed. */
pim_status pim_board_finish(pim_board *board, uint32_t slot, pim_status status);

#endif
