"""Column sums of four input vectors with AVX-512: 64 products an instruction, and 64 lookups. See pimchip.kernels.dot.

A lookup gives 16 columns their sums of 16 rows, each in four bytes that are then added into 32 bits: the table is of the
four sums of four rows each that one input pixel's 16 channels make, and a cell byte says which of the four and which sum.
"""

from __future__ import annotations

import numpy as np

from pimchip.kernels import simd
from pimchip.kernels.instructions import dot_quads, pick
from pimchip.kernels.simd import add8, load_bytes, long_at, repeat4, splat32, store_bytes, store_words

_ones = simd.constant(simd.bytes_, 1)
# Of eight times four inputs a, b, c, d: 0, a, b, a | 0, c, d, c and 0, 0, 0, b | 0, 0, 0, d, 64 marking zeros.
_pairs_first = [[64, k, k + 1, k] for k in range(0, 64, 2)]
_pairs_second = [[64, 64, 64, k + 1] for k in range(0, 64, 2)]
# Then of four times four: the sums of a and b that bits 0 and 1 choose, and those of c and d that bits 2 and 3 do.
_chosen_first = [8 * k + (n & 3) for k in range(8) for n in range(16)]
_chosen_second = [8 * k + 4 + (n >> 2) for k in range(8) for n in range(16)]


_first_low, _first_high = (simd.rearranged(sum(_pairs_first[k : k + 16], [])) for k in (0, 16))
_second_low, _second_high = (simd.rearranged(sum(_pairs_second[k : k + 16], [])) for k in (0, 16))
_low_low, _low_high = (simd.rearranged(_chosen_first[k : k + 64]) for k in (0, 64))
_high_low, _high_high = (simd.rearranged(_chosen_second[k : k + 64]) for k in (0, 64))


@simd.part
def make_tables(inputs, spare, tables, at):  # type: ignore[no-untyped-def]
    """The 16 sums of every four of 64 inputs into tables, bytes from `at`."""
    x = add8(_first_low(inputs), _second_low(inputs))
    store_bytes(tables, at, add8(_low_low(x), _high_low(x)))
    store_bytes(tables, at + 64, add8(_low_high(x), _high_high(x)))
    x = add8(_first_high(inputs), _second_high(inputs))
    store_bytes(tables, at + 128, add8(_low_low(x), _high_low(x)))
    store_bytes(tables, at + 192, add8(_low_high(x), _high_high(x)))


@simd.part
def sums_by_lookup(tables, b0, b1, b2, b3, offsets, first, last, cells, start, out):  # type: ignore[no-untyped-def]
    """As in dot_narrow."""
    at = start
    zero = splat32(np.int32(0))
    ones = _ones()
    left0, left1, left2, left3 = zero, zero, zero, zero
    right0, right1, right2, right3 = zero, zero, zero, zero
    for p in range(first, last):
        t = tables + long_at(offsets, p)
        left, right = load_bytes(cells, at), load_bytes(cells, at + 64)
        x = load_bytes(t, b0)
        left0, right0 = dot_quads(left0, pick(x, left), ones), dot_quads(right0, pick(x, right), ones)
        x = load_bytes(t, b1)
        left1, right1 = dot_quads(left1, pick(x, left), ones), dot_quads(right1, pick(x, right), ones)
        x = load_bytes(t, b2)
        left2, right2 = dot_quads(left2, pick(x, left), ones), dot_quads(right2, pick(x, right), ones)
        x = load_bytes(t, b3)
        left3, right3 = dot_quads(left3, pick(x, left), ones), dot_quads(right3, pick(x, right), ones)
        at += 128
    _store(out, 0, left0, right0)
    _store(out, 32, left1, right1)
    _store(out, 64, left2, right2)
    _store(out, 96, left3, right3)


@simd.part
def _store(out, at, left, right):  # type: ignore[no-untyped-def]
    store_words(out, at, left)
    store_words(out, at + 16, right)


@simd.part
def sums_by_product(pixels, b0, b1, b2, b3, offsets, first, last, quads, cells, start, out):  # type: ignore[no-untyped-def]
    """As in dot_narrow."""
    at = start
    zero = splat32(np.int32(0))
    left0, left1, left2, left3 = zero, zero, zero, zero
    right0, right1, right2, right3 = zero, zero, zero, zero
    for p in range(first, last):
        here = pixels + long_at(offsets, p)
        for t in range(here, here + 4 * quads, 4):
            left, right = load_bytes(cells, at), load_bytes(cells, at + 64)
            x = repeat4(t, b0)
            left0, right0 = dot_quads(left0, x, left), dot_quads(right0, x, right)
            x = repeat4(t, b1)
            left1, right1 = dot_quads(left1, x, left), dot_quads(right1, x, right)
            x = repeat4(t, b2)
            left2, right2 = dot_quads(left2, x, left), dot_quads(right2, x, right)
            x = repeat4(t, b3)
            left3, right3 = dot_quads(left3, x, left), dot_quads(right3, x, right)
            at += 128
    _store(out, 0, left0, right0)
    _store(out, 32, left1, right1)
    _store(out, 64, left2, right2)
    _store(out, 96, left3, right3)
