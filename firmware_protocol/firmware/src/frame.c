#include "frame.h"

#include "bytes.h"
#include "crc32.h"

void pim_frame_begin(pim_frame_decoder *decoder)
{
    pim_cobs_decoder_begin(&decoder->cobs, decoder->bytes, sizeof decoder->bytes);
}

static void read_header(const uint8_t *p, pim_header *h)
{
    h->version = p[0];
    h->kind = p[1];
    h->op = p[2];
    h->flags = p[3];
    h->seq = pim_get16(&p[4]);
    h->status = pim_get16(&p[6]);
    h->session = pim_get32(&p[8]);
    h->arg = pim_get32(&p[12]);
}

static void write_header(const pim_header *h, uint8_t *p)
{
    p[0] = h->version;
    p[1] = h->kind;
    p[2] = h->op;
    p[3] = h->flags;
    pim_put16(&p[4], h->seq);
    pim_put16(&p[6], h->status);
    pim_put32(&p[8], h->session);
    pim_put32(&p[12], h->arg);
}

/* What the bytes before a zero were. */
static pim_frame_event judge(pim_frame_decoder *d)
{
    const size_t size = d->cobs.used;
    if (d->cobs.overflowed) {
        return PIM_FRAME_LONG;
    }
    if (!pim_cobs_complete(&d->cobs)) {
        return PIM_FRAME_COBS;
    }
    if (size < (PIMP_HEADER_SIZE + PIMP_CRC_SIZE)) {
        return PIM_FRAME_SHORT;
    }
    if (pim_crc32(0U, d->bytes, size - PIMP_CRC_SIZE) != pim_get32(&d->bytes[size - PIMP_CRC_SIZE])) {
        return PIM_FRAME_CRC;
    }
    read_header(d->bytes, &d->header);
    d->payload = &d->bytes[PIMP_HEADER_SIZE];
    d->payload_size = size - PIMP_HEADER_SIZE - PIMP_CRC_SIZE;
    if ((d->header.version == PIMP_VERSION) &&
        (((d->header.flags & ~(PIMP_FLAG_MORE | PIMP_FLAG_REPEAT)) != 0U) || (d->header.kind > PIMP_KIND_CREDIT))) {
        return PIM_FRAME_HEADER;
    }
    return PIM_FRAME_GOOD;
}

pim_frame_event pim_frame_decode(pim_frame_decoder *decoder, uint8_t byte)
{
    pim_frame_event event = PIM_FRAME_NONE;
    if (byte != 0U) {
        pim_cobs_decode(&decoder->cobs, byte);
    } else {
        if (decoder->cobs.started) { /* zeros between frames are no frames */
            event = judge(decoder);
        }
        pim_frame_begin(decoder);
    }
    return event;
}

size_t pim_frame_encode(const pim_header *header, const uint8_t *payload, size_t payload_size, uint8_t *out,
                        size_t capacity)
{
    uint8_t head[PIMP_HEADER_SIZE];
    uint8_t tail[PIMP_CRC_SIZE];
    pim_cobs_encoder encoder;
    if (payload_size > PIMP_MAX_PAYLOAD) {
        return 0U;
    }
    write_header(header, head);
    pim_put32(tail, pim_crc32(pim_crc32(0U, head, sizeof head), payload, payload_size));
    pim_cobs_begin(&encoder, out, capacity);
    pim_cobs_add(&encoder, head, sizeof head);
    pim_cobs_add(&encoder, payload, payload_size);
    pim_cobs_add(&encoder, tail, sizeof tail);
    return pim_cobs_end(&encoder);
}
