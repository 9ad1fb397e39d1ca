/* What a refusal is called on the wire, and in words. */
#include "server.h"

uint16_t pim_error_of(pim_status status)
{
    switch (status) {
    case PIM_OK:
        return 0U;
    case PIM_BAD_SHAPE:
        return PIMP_ERROR_SHAPE;
    case PIM_NO_BUFFER:
        return PIMP_ERROR_EMPTY;
    case PIM_NO_MEMORY:
    case PIM_TOO_MUCH:
        return PIMP_ERROR_FULL;
    case PIM_OVERFLOW:
    case PIM_BEYOND:
        return PIMP_ERROR_OVERFLOW;
    case PIM_NOT_ABLE:
        return PIMP_ERROR_LACKS;
    case PIM_BAD_ARGUMENT:
    case PIM_BAD_TILE:
    case PIM_BAD_POINT:
    case PIM_BAD_CELLS:
    case PIM_BAD_INPUT:
    case PIM_BAD_CORRECTION:
    default:
        return PIMP_ERROR_ARGUMENT;
    }
}

/* In the order of pim_status. */
static const char *const reasons[] = {
    "",
    "a field is out of its range",
    "maps, geometry, channels or lengths do not fit one another",
    "a tile is outside the chip, or a placement outside the layer or over another one",
    "this die has no tables for that operating point",
    "the tile holds cells that the operating point cannot take: program it for this one",
    "an input is not within the bits of the operating point",
    "an accumulator is beyond the acc_max that the requantization was made for",
    "the buffer is empty",
    "feature memory is full, or there are too many buffers",
    "a result passes 32 bits, or a sum 63",
    "this board cannot do that",
    "more work than one request may ask for; use a smaller batch, kernel or padding",
    "the layer's correction is of another number of converters than the chip has",
};

uint16_t pim_answer(pim_server *server, pim_status status)
{
    if ((status != PIM_OK) && ((size_t)status < (sizeof reasons / sizeof reasons[0]))) {
        server->reason = reasons[status];
    }
    return pim_error_of(status);
}
