"""Column sums of four input vectors without AVX-512: in registers of 32 bytes, and in 16 bits. See pimchip.kernels.dot."""

from __future__ import annotations

from pimchip.kernels import simd
from pimchip.kernels.instructions import add_pairs, dot_pairs, look_up
from pimchip.kernels.simd import (
    add8,
    add16,
    add32,
    bytes_to_shorts,
    bytes_to_words,
    load_bytes,
    long_at,
    repeat4,
    repeat8,
    repeat16,
    store_bytes,
    store_words,
    widen,
    words_to_bytes,
)

LOOKUPS = 4
"""Lookups that are added as bytes."""

_zero16 = simd.constant(simd.shorts, 0)
_byte0 = simd.with_constant(simd.words, "and_", 0xFF)
_shift8 = simd.with_constant(simd.words, "lshr", 8)
_shift16 = simd.with_constant(simd.words, "lshr", 16)
_shift24 = simd.with_constant(simd.words, "lshr", 24)
_to_bytes_1_3 = simd.with_constant(simd.words, "mul", 0x01000100)
_to_bytes_2_3 = simd.with_constant(simd.words, "mul", 0x01010000)
_even = simd.with_constant(simd.shorts, "and_", 0xFF)
_odd = simd.with_constant(simd.shorts, "lshr", 8)
_low_pick = simd.constant(simd.bytes_, [n & 3 for n in range(16)] + [4 + (n & 3) for n in range(16)])
_high_pick = simd.constant(simd.bytes_, [n >> 2 for n in range(16)] + [4 + (n >> 2) for n in range(16)])


@simd.part
def make_tables(inputs, spare, tables, at):  # type: ignore[no-untyped-def]
    """The 16 sums of every four of 32 inputs into tables, bytes from `at`; spare: 64 bytes of scratch."""
    x = bytes_to_words(inputs)
    # Of four inputs a, b, c, d: the sums {0, a, b, a + b} and {0, c, d, c + d}.
    store_bytes(spare, 0, words_to_bytes(add32(_to_bytes_1_3(_byte0(x)), _to_bytes_2_3(_byte0(_shift8(x))))))
    store_bytes(spare, 32, words_to_bytes(add32(_to_bytes_1_3(_byte0(_shift16(x))), _to_bytes_2_3(_shift24(x)))))
    for first in range(0, 32, 8):
        low = look_up(repeat8(spare, first), _low_pick())
        high = look_up(repeat8(spare, 32 + first), _high_pick())
        store_bytes(tables, at + first * 4, add8(low, high))


@simd.part
def sums_by_lookup(tables, b0, b1, b2, b3, offsets, first, last, cells, start, out):  # type: ignore[no-untyped-def]
    """Column sums of VECTORS vectors into out, words [VECTORS * columns].

    tables: what make_tables gave; b0..b3: where each vector's window begins there; offsets: longs, from `first` to `last`
    where in a window each LOOKUPS tables begin; cells: packed, from `start`.
    """
    at = start
    e0, e1, e2, e3 = _zero16(), _zero16(), _zero16(), _zero16()
    o0, o1, o2, o3 = _zero16(), _zero16(), _zero16(), _zero16()
    for p in range(first, last):
        t = tables + long_at(offsets, p)
        picks = load_bytes(cells, at)
        s0, s1 = look_up(repeat16(t, b0), picks), look_up(repeat16(t, b1), picks)
        s2, s3 = look_up(repeat16(t, b2), picks), look_up(repeat16(t, b3), picks)
        for k in range(1, LOOKUPS):
            # LOOKUPS of at most 4 * 15 each stay within a byte.
            picks = load_bytes(cells, at + 32 * k)
            u = t + 16 * k
            s0, s1 = add8(s0, look_up(repeat16(u, b0), picks)), add8(s1, look_up(repeat16(u, b1), picks))
            s2, s3 = add8(s2, look_up(repeat16(u, b2), picks)), add8(s3, look_up(repeat16(u, b3), picks))
        at += 32 * LOOKUPS
        h = bytes_to_shorts(s0)
        e0, o0 = add16(e0, _even(h)), add16(o0, _odd(h))
        h = bytes_to_shorts(s1)
        e1, o1 = add16(e1, _even(h)), add16(o1, _odd(h))
        h = bytes_to_shorts(s2)
        e2, o2 = add16(e2, _even(h)), add16(o2, _odd(h))
        h = bytes_to_shorts(s3)
        e3, o3 = add16(e3, _even(h)), add16(o3, _odd(h))
    _store_shorts(out, 0, e0, o0)
    _store_shorts(out, 32, e1, o1)
    _store_shorts(out, 64, e2, o2)
    _store_shorts(out, 96, e3, o3)


@simd.part
def _store_shorts(out, at, even, odd):  # type: ignore[no-untyped-def]
    low, high = widen(even)
    store_words(out, at, low)
    store_words(out, at + 8, high)
    low, high = widen(odd)
    store_words(out, at + 16, low)
    store_words(out, at + 24, high)


@simd.part
def sums_by_product(pixels, b0, b1, b2, b3, offsets, first, last, quads, cells, start, out):  # type: ignore[no-untyped-def]
    """The same from the digits themselves; offsets: where in a window each `quads` times four digits begin."""
    at = start
    for c in range(0, 32, 16):
        a0, a1, a2, a3 = _zero16(), _zero16(), _zero16(), _zero16()
        d0, d1, d2, d3 = _zero16(), _zero16(), _zero16(), _zero16()
        for p in range(first, last):
            here = pixels + long_at(offsets, p)
            for t in range(here, here + 4 * quads, 4):
                left, right = load_bytes(cells, at), load_bytes(cells, at + 32)
                x = repeat4(t, b0)
                a0, d0 = add16(a0, dot_pairs(x, left)), add16(d0, dot_pairs(x, right))
                x = repeat4(t, b1)
                a1, d1 = add16(a1, dot_pairs(x, left)), add16(d1, dot_pairs(x, right))
                x = repeat4(t, b2)
                a2, d2 = add16(a2, dot_pairs(x, left)), add16(d2, dot_pairs(x, right))
                x = repeat4(t, b3)
                a3, d3 = add16(a3, dot_pairs(x, left)), add16(d3, dot_pairs(x, right))
                at += 64
        store_words(out, c, add_pairs(a0))
        store_words(out, c + 8, add_pairs(d0))
        store_words(out, c + 32, add_pairs(a1))
        store_words(out, c + 32 + 8, add_pairs(d1))
        store_words(out, c + 64, add_pairs(a2))
        store_words(out, c + 64 + 8, add_pairs(d2))
        store_words(out, c + 96, add_pairs(a3))
        store_words(out, c + 96 + 8, add_pairs(d3))
