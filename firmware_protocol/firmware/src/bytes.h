/* Little-endian integers in byte arrays, at any alignment; shifts that round down. */
#ifndef PIM_BYTES_H
#define PIM_BYTES_H

#include <stddef.h>
#include <stdint.h>

static inline uint16_t pim_get16(const uint8_t *p)
{
    return (uint16_t)((uint32_t)p[0] | ((uint32_t)p[1] << 8));
}

static inline uint32_t pim_get32(const uint8_t *p)
{
    return (uint32_t)p[0] | ((uint32_t)p[1] << 8) | ((uint32_t)p[2] << 16) | ((uint32_t)p[3] << 24);
}

static inline uint64_t pim_get64(const uint8_t *p)
{
    return (uint64_t)pim_get32(p) | ((uint64_t)pim_get32(&p[4]) << 32);
}

static inline void pim_put16(uint8_t *p, uint16_t v)
{
    p[0] = (uint8_t)(v & 0xFFU);
    p[1] = (uint8_t)(v >> 8);
}

static inline void pim_put32(uint8_t *p, uint32_t v)
{
    pim_put16(p, (uint16_t)(v & 0xFFFFU));
    pim_put16(&p[2], (uint16_t)(v >> 16));
}

static inline void pim_put64(uint8_t *p, uint64_t v)
{
    pim_put32(p, (uint32_t)(v & 0xFFFFFFFFU));
    pim_put32(&p[4], (uint32_t)(v >> 32));
}

/* Two's complement without implementation-defined casts; compilers see a plain move. */
static inline int32_t pim_signed32(uint32_t v)
{
    return (v <= (uint32_t)INT32_MAX) ? (int32_t)v : (int32_t)(-(int64_t)(UINT32_MAX - v) - 1);
}

static inline int64_t pim_signed64(uint64_t v)
{
    return (v <= (uint64_t)INT64_MAX) ? (int64_t)v : (-(int64_t)(UINT64_MAX - v) - 1);
}

static inline int16_t pim_signed16(uint16_t v)
{
    return (int16_t)((v < 32768U) ? (int)v : ((int)v - 65536));
}

static inline int8_t pim_signed8(uint8_t v)
{
    return (int8_t)((v < 128U) ? (int)v : ((int)v - 256));
}

/* v / 2^n rounded down, n in 0..62: `>>` of a negative value is implementation-defined before C23. */
static inline int64_t pim_asr(int64_t v, uint32_t n)
{
    return (v >= 0) ? (v >> n) : (-1 - ((-1 - v) >> n));
}

static inline int64_t pim_clip(int64_t v, int64_t low, int64_t high)
{
    return (v < low) ? low : ((v > high) ? high : v);
}

/* |v| without overflow at INT64_MIN. */
static inline uint64_t pim_magnitude(int64_t v)
{
    return (v >= 0) ? (uint64_t)v : ((uint64_t)(-(v + 1)) + 1U);
}

#endif
