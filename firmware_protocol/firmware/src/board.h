/* The board: cells and converters of a die, feature memory, and inference on them. Knows no wire. */
#ifndef PIM_BOARD_H
#define PIM_BOARD_H

#include "die.h"
#include "memory.h"
#include "processor.h"

#define PIM_SLOTS 96U /* buffers that can be filled at once */
#define PIM_PLACEMENT_BYTES 28U
#define PIM_PLACEMENTS_MAX 4096U /* of a layer: each is compared with all others */

typedef struct {
    uint32_t macro;
    uint32_t row;
    uint32_t column;
    uint32_t rows;
    uint32_t columns;
} pim_tile;

/* Counted since the start; order and names are the host's. */
typedef struct {
    uint64_t conversions;
    uint64_t dac_steps;
    uint64_t array_cycles;
    uint64_t cell_writes;
    uint64_t row_writes;
    uint64_t digital_macs;
    uint64_t bytes_in;
    uint64_t bytes_out;
} pim_counters;

typedef struct {
    pim_die *die;
    int8_t *cells;    /* [macros][rows][columns], as written */
    int8_t *largest;  /* the same, what a full cell was worth when written; NULL where no cell is stuck */
    uint16_t *trim;   /* [die->registers] */
    uint32_t state;   /* counts writes of cells and trims */
    uint8_t *inputs;  /* [rows] */
    uint8_t *digits;  /* [rows] */
    int32_t *narrow;  /* [columns] */
    int64_t *sums;    /* [columns] */
    int32_t *codes;   /* [columns] */
    pim_counters counters;
    pim_memory memory;
    pim_slot slots[PIM_SLOTS];
} pim_board;

/* Which noise a call draws. */
typedef struct {
    uint32_t epoch;
    uint64_t first; /* vector of a convert, image of a conv */
} pim_run;

/* A layer in the array. placements: PIM_PLACEMENT_BYTES each, seven words little-endian: macro, row, column, rows,
 * columns of the tile, row group, first column in the layer. copies: at least 1; counts: of more, a word each,
 * little-endian: how many of the placements are its, in their order; else NULL. */
typedef struct {
    pim_point point;
    pim_geometry geometry;
    const uint8_t *placements;
    uint32_t placement_count;
    uint32_t copies;
    const uint8_t *counts;
    pim_correction correction;
} pim_layer;

/* Lays the board out in `arena`, of `size` bytes, aligned to 8. False where it is too small. die: must outlive it. */
bool pim_board_begin(pim_board *board, pim_die *die, uint8_t *arena, size_t size);

bool pim_board_has_tile(const pim_board *board, const pim_tile *tile);

/* cells: int8 [tile rows][tile columns]; full: what a full cell is worth, 0 for the chip's own. */
pim_status pim_board_write(pim_board *board, const pim_tile *tile, const uint8_t *cells, uint32_t full);

/* Cells of one row of a tile as they are, int8 [tile columns]. row: within the tile. */
pim_status pim_board_read_row(const pim_board *board, const pim_tile *tile, uint32_t row, uint8_t *cells);

/* A trim register: of the offset of a converter, counted over all macros, or behind those of its gain. */
pim_status pim_board_trim(pim_board *board, uint32_t adc, uint32_t code);

/* Ready for conversions: the tables, and what the tile holds can be fed to them. */
pim_status pim_board_ready(const pim_board *board, const pim_tile *tile, const pim_point *point,
                           const pim_die_point **at);

/* Codes of one vector: x [tile rows] of one DAC slice; board->codes[tile columns] after it. number: of the vector. */
pim_status pim_board_convert(pim_board *board, const pim_tile *tile, const pim_die_point *at, const uint8_t *x,
                             uint32_t epoch, uint64_t number);

/* Operations on buffers by number; a failed one leaves its destination as it was. */
pim_status pim_board_conv(pim_board *board, const pim_layer *layer, uint32_t src, uint32_t dst,
                          const pim_requant *requant, bool accumulate, const pim_run *run);
pim_status pim_board_digital(pim_board *board, const uint8_t *weights, size_t weights_size, const pim_geometry *g,
                             uint32_t src, uint32_t dst, const pim_requant *requant);
pim_status pim_board_requantize(pim_board *board, uint32_t src, uint32_t dst, const pim_requant *requant);
pim_status pim_board_add(pim_board *board, uint32_t a, uint32_t b, uint32_t dst, const pim_addition *how);
pim_status pim_board_pool(pim_board *board, uint32_t src, uint32_t dst, const pim_pooling *how);

#endif
