/* The frame decoder and encoder with flat arguments, for tests that call them from Python. */
#include "frame.h"

static pim_frame_decoder decoder;

void shim_frames_begin(void)
{
    pim_frame_begin(&decoder);
}

/* Feeds bytes. For each event: its number, and of a good frame the sizes of what follows; the decoded bytes of good frames,
 * header to payload, go to `bytes` one after another. Returns how many events there were, at most `most`. */
uint32_t shim_frames_feed(const uint8_t *data, size_t count, uint32_t *events, uint32_t *sizes, uint32_t most,
                          uint8_t *bytes, size_t capacity)
{
    uint32_t found = 0U;
    size_t used = 0U;
    for (size_t i = 0U; i < count; i++) {
        const pim_frame_event event = pim_frame_decode(&decoder, data[i]);
        if ((event == PIM_FRAME_NONE) || (found == most)) {
            continue;
        }
        events[found] = (uint32_t)event;
        sizes[found] = 0U;
        if (event == PIM_FRAME_GOOD) {
            const size_t size = decoder.payload_size + PIMP_HEADER_SIZE;
            sizes[found] = (uint32_t)size;
            for (size_t k = 0U; (k < size) && (used < capacity); k++) {
                bytes[used] = decoder.bytes[k];
                used++;
            }
        }
        found++;
    }
    return found;
}

/* header: the 16 bytes as they are sent. Returns the frame's bytes, 0 where it does not fit. */
size_t shim_frame_encode(const uint8_t *header, const uint8_t *payload, size_t size, uint8_t *out, size_t capacity)
{
    const pim_header h = {
        header[0],
        header[1],
        header[2],
        header[3],
        (uint16_t)(header[4] | (header[5] << 8)),
        (uint16_t)(header[6] | (header[7] << 8)),
        (uint32_t)header[8] | ((uint32_t)header[9] << 8) | ((uint32_t)header[10] << 16) | ((uint32_t)header[11] << 24),
        (uint32_t)header[12] | ((uint32_t)header[13] << 8) | ((uint32_t)header[14] << 16) | ((uint32_t)header[15] << 24),
    };
    return pim_frame_encode(&h, payload, size, out, capacity);
}
