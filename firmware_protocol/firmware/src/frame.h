/* Frames: COBS( header | payload | CRC-32 ) and a zero. */
#ifndef PIM_FRAME_H
#define PIM_FRAME_H

#include "cobs.h"
#include "pimp_protocol.h"

typedef struct {
    uint8_t version;
    uint8_t kind;
    uint8_t op;
    uint8_t flags;
    uint16_t seq;
    uint16_t status;
    uint32_t session;
    uint32_t arg;
} pim_header;

/* What one more byte led to. The last five are frames that are dropped, in the order in which they are looked for. */
typedef enum {
    PIM_FRAME_NONE = 0, /* more is to come */
    PIM_FRAME_GOOD,
    PIM_FRAME_LONG,   /* more than the largest frame */
    PIM_FRAME_COBS,   /* ends within a block */
    PIM_FRAME_SHORT,  /* less than a header and a CRC */
    PIM_FRAME_CRC,    /* damaged */
    PIM_FRAME_HEADER  /* of version 1, with flags or a kind that there are not */
} pim_frame_event;

typedef struct {
    pim_cobs_decoder cobs;
    uint8_t bytes[PIMP_MAX_FRAME];
    pim_header header;      /* after PIM_FRAME_GOOD, until the next byte */
    const uint8_t *payload; /* the same */
    size_t payload_size;
} pim_frame_decoder;

void pim_frame_begin(pim_frame_decoder *decoder);
pim_frame_event pim_frame_decode(pim_frame_decoder *decoder, uint8_t byte);

/* Encodes a frame with its zero. Returns its bytes, 0 where it does not fit `capacity` or the largest frame. */
size_t pim_frame_encode(const pim_header *header, const uint8_t *payload, size_t payload_size, uint8_t *out,
                        size_t capacity);

#endif
