/* The random words and the Gaussian: sections 5 and 6 of CHIP.md. */
#ifndef PIM_RANDOM_H
#define PIM_RANDOM_H

#include <stdint.h>

#define PIM_DOMAIN_NOISE 0U
#define PIM_DOMAIN_SLOW 3U
#define PIM_GAUSS_ENTRIES 1536U

extern const uint32_t pim_gauss_table[PIM_GAUSS_ENTRIES];

/* What a noise word depends on beside its index. tag: 24 bits. */
typedef struct {
    uint64_t seed;
    uint32_t epoch;
    uint32_t domain;
    uint32_t tag;
} pim_stream;

/* Philox4x32-10 in place: counter[4] becomes the four words. */
void pim_philox(uint32_t counter[4], uint32_t key0, uint32_t key1);

/* The four words of indices 4 * block .. 4 * block + 3. */
void pim_block(const pim_stream *stream, uint64_t block, uint32_t words[4]);

/* The word of an index. */
uint32_t pim_word(const pim_stream *stream, uint64_t index);

/* A standard normal deviate in units of 2^-12, -22200..22200. */
int32_t pim_gauss(uint32_t word);

#endif
