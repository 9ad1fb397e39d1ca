#include "random.h"

#define ROUNDS 10U

void pim_philox(uint32_t counter[4], uint32_t key0, uint32_t key1)
{
    uint32_t c0 = counter[0];
    uint32_t c1 = counter[1];
    uint32_t c2 = counter[2];
    uint32_t c3 = counter[3];
    uint32_t k0 = key0;
    uint32_t k1 = key1;
    for (uint32_t round = 0U; round < ROUNDS; round++) {
        const uint64_t p0 = (uint64_t)c0 * 0xD2511F53U;
        const uint64_t p1 = (uint64_t)c2 * 0xCD9E8D57U;
        c0 = (uint32_t)(p1 >> 32) ^ c1 ^ k0;
        c1 = (uint32_t)(p1 & 0xFFFFFFFFU);
        c2 = (uint32_t)(p0 >> 32) ^ c3 ^ k1;
        c3 = (uint32_t)(p0 & 0xFFFFFFFFU);
        k0 += 0x9E3779B9U;
        k1 += 0xBB67AE85U;
    }
    counter[0] = c0;
    counter[1] = c1;
    counter[2] = c2;
    counter[3] = c3;
}

void pim_block(const pim_stream *stream, uint64_t block, uint32_t words[4])
{
    words[0] = (uint32_t)(block & 0xFFFFFFFFU);
    words[1] = (uint32_t)(block >> 32);
    words[2] = (stream->domain << 24) + (stream->tag & 0xFFFFFFU);
    words[3] = stream->epoch;
    pim_philox(words, (uint32_t)(stream->seed & 0xFFFFFFFFU), (uint32_t)(stream->seed >> 32));
}

uint32_t pim_word(const pim_stream *stream, uint64_t index)
{
    uint32_t words[4];
    pim_block(stream, index >> 2, words);
    return words[index & 3U];
}

/* floor(log2 m), m in 1..2^24 - 1. */
static uint32_t leading_one(uint32_t m)
{
    uint32_t place = 0U;
    uint32_t rest = m;
    for (uint32_t step = 16U; step > 0U; step >>= 1) {
        if ((rest >> step) != 0U) {
            rest >>= step;
            place += step;
        }
    }
    return place;
}

int32_t pim_gauss(uint32_t word)
{
    const uint32_t m = (2U * ((word >> 8) & 0x7FFFFFU)) + 1U;
    const uint32_t e = leading_one(m);
    const uint32_t rest = (m - ((uint32_t)1 << e)) << (23U - e);
    const uint32_t entry = pim_gauss_table[(64U * e) + (rest >> 17)];
    const uint32_t place = rest & 0x1FFFFU;
    const uint32_t fall = ((entry & 0xFFFU) * place) >> 17; /* the product has 29 bits */
    const int32_t z = (int32_t)(((entry >> 12) - fall + 8U) >> 4);
    return ((word >> 31) != 0U) ? -z : z;
}
