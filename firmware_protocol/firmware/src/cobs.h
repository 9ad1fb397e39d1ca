/* Consistent overhead byte stuffing: bytes without a zero, so that a zero ends a frame. */
#ifndef PIM_COBS_H
#define PIM_COBS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Bytes that `count` bytes need at most when encoded, the zero not counted. */
#define PIM_COBS_MAX(count) ((count) + ((count) / 254U) + 1U)

/* An encoder fed byte by byte, so that header, payload and checksum need not lie in one place. */
typedef struct {
    uint8_t *out;
    size_t capacity;
    size_t used;
    size_t code_at; /* place of the block's length byte */
    bool full;
} pim_cobs_encoder;

void pim_cobs_begin(pim_cobs_encoder *encoder, uint8_t *out, size_t capacity);
void pim_cobs_add(pim_cobs_encoder *encoder, const uint8_t *data, size_t count);

/* Ends the frame with its zero. Returns the bytes written, 0 where they did not fit. */
size_t pim_cobs_end(pim_cobs_encoder *encoder);

/* A decoder fed byte by byte. */
typedef struct {
    uint8_t *out;
    size_t capacity;
    size_t used;      /* bytes decoded */
    uint32_t left;    /* bytes until the next length byte; 0: that is next */
    bool pending;     /* a zero belongs before the next block */
    bool overflowed;  /* more than capacity came */
    bool started;     /* a byte came since the last reset */
} pim_cobs_decoder;

void pim_cobs_decoder_begin(pim_cobs_decoder *decoder, uint8_t *out, size_t capacity);

/* Takes one byte that is not zero. */
void pim_cobs_decode(pim_cobs_decoder *decoder, uint8_t byte);

/* True where the bytes so far are whole blocks. */
bool pim_cobs_complete(const pim_cobs_decoder *decoder);

#endif
