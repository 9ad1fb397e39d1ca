/* What a call came to. The server turns these into the protocol's errors. */
#ifndef PIM_STATUS_H
#define PIM_STATUS_H

typedef enum {
    PIM_OK = 0,
    PIM_BAD_ARGUMENT, /* a field out of its range */
    PIM_BAD_SHAPE,    /* maps, geometry and channels do not fit one another */
    PIM_BAD_TILE,     /* outside the chip, or of a layer's part that is not there */
    PIM_BAD_POINT,    /* no tables for this operating point */
    PIM_BAD_CELLS,    /* the tile holds what the operating point's converters cannot be fed */
    PIM_BAD_INPUT,    /* an input beyond what the DAC takes */
    PIM_BEYOND,       /* an accumulator beyond what its requantization was made for */
    PIM_NO_BUFFER,    /* the buffer is empty */
    PIM_NO_MEMORY,    /* feature memory is full */
    PIM_OVERFLOW,     /* a result passes 32 bits, or a sum 63 */
    PIM_NOT_ABLE,     /* this board lacks the operation */
    PIM_TOO_MUCH,     /* more work than one request may ask for */
    PIM_BAD_CORRECTION /* of another number of converters than the chip's */
} pim_status;

#endif
