#include "cobs.h"

#define BLOCK 0xFFU

static void put(pim_cobs_encoder *e, uint8_t byte)
{
    if (e->used < e->capacity) {
        e->out[e->used] = byte;
        e->used++;
    } else {
        e->full = true;
    }
}

/* Writes the length of the block that ends here and starts the next. */
static void close_block(pim_cobs_encoder *e)
{
    const size_t length = e->used - e->code_at;
    if (!e->full) {
        e->out[e->code_at] = (uint8_t)length;
    }
    e->code_at = e->used;
    put(e, 0U);
}

void pim_cobs_begin(pim_cobs_encoder *encoder, uint8_t *out, size_t capacity)
{
    encoder->out = out;
    encoder->capacity = capacity;
    encoder->used = 0U;
    encoder->code_at = 0U;
    encoder->full = false;
    put(encoder, 0U);
}

void pim_cobs_add(pim_cobs_encoder *encoder, const uint8_t *data, size_t count)
{
    for (size_t i = 0U; i < count; i++) {
        /* A full block is closed only when more follows, so that none is empty at the end. */
        if ((encoder->used - encoder->code_at) == BLOCK) {
            close_block(encoder);
        }
        if (data[i] == 0U) {
            close_block(encoder);
        } else {
            put(encoder, data[i]);
        }
    }
}

size_t pim_cobs_end(pim_cobs_encoder *encoder)
{
    if (!encoder->full) {
        encoder->out[encoder->code_at] = (uint8_t)(encoder->used - encoder->code_at);
    }
    put(encoder, 0U);
    return encoder->full ? 0U : encoder->used;
}

void pim_cobs_decoder_begin(pim_cobs_decoder *decoder, uint8_t *out, size_t capacity)
{
    decoder->out = out;
    decoder->capacity = capacity;
    decoder->used = 0U;
    decoder->left = 0U;
    decoder->pending = false;
    decoder->overflowed = false;
    decoder->started = false;
}

static void take(pim_cobs_decoder *d, uint8_t byte)
{
    if (d->used < d->capacity) {
        d->out[d->used] = byte;
        d->used++;
    } else {
        d->overflowed = true;
    }
}

void pim_cobs_decode(pim_cobs_decoder *decoder, uint8_t byte)
{
    decoder->started = true;
    if (decoder->left > 0U) {
        decoder->left--;
        take(decoder, byte);
        return;
    }
    if (decoder->pending) {
        take(decoder, 0U);
    }
    decoder->left = (uint32_t)byte - 1U;
    decoder->pending = (byte != BLOCK);
}

bool pim_cobs_complete(const pim_cobs_decoder *decoder)
{
    return decoder->left == 0U;
}
