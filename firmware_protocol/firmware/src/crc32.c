#include "crc32.h"

#include "bytes.h"

/* Row 0 is the CRC of each byte; row k that of the byte followed by k zeros, so that four bytes go in one step.
   Filled at first use: 4 KiB of RAM in place of as much ROM and a generator. */
#define ROWS 4U
static uint32_t table[ROWS][256];
static uint32_t ready;

static void fill(void)
{
    for (uint32_t i = 0U; i < 256U; i++) {
        uint32_t c = i;
        for (uint32_t bit = 0U; bit < 8U; bit++) {
            c = ((c & 1U) != 0U) ? ((c >> 1) ^ 0xEDB88320U) : (c >> 1);
        }
        table[0][i] = c;
    }
    for (uint32_t row = 1U; row < ROWS; row++) {
        for (uint32_t i = 0U; i < 256U; i++) {
            uint32_t c = table[row - 1U][i];
            table[row][i] = (c >> 8) ^ table[0][c & 0xFFU];
        }
    }
    ready = 1U;
}

uint32_t pim_crc32(uint32_t before, const uint8_t *data, size_t count)
{
    uint32_t c = before ^ 0xFFFFFFFFU;
    size_t i = 0U;
    if (ready == 0U) {
        fill();
    }
    for (; (count - i) >= 4U; i += 4U) {
        c ^= pim_get32(&data[i]);
        c = table[3][c & 0xFFU] ^ table[2][(c >> 8) & 0xFFU] ^ table[1][(c >> 16) & 0xFFU] ^ table[0][c >> 24];
    }
    for (; i < count; i++) {
        c = (c >> 8) ^ table[0][(c ^ data[i]) & 0xFFU];
    }
    return c ^ 0xFFFFFFFFU;
}
