"""Column sums of four input vectors with AVX-512: 64 products an instruction, and 64 lookups. See pimchip.kernels.dot.

A lookup gives 16 columns their sums of 16 rows, each in four bytes that are then added into 32 bits: the table is of the
four sums of four rows each that one input pixel's 16 channels make, and a cell byte says which of the four and which sum.
"""

from __future__ import annotations

import numpy as np

from pimchip.kernels import simd
from pimchip.kernels.instructions import dot_quads, look_up_or_zero, pick
from pimchip.kernels.simd import add8, load_bytes, long_at, repeat4, splat32, store_bytes, store_words

_ones = simd.constant(simd.bytes_, 1)
# Of every four inputs a, b, c, d: 0, a, b, a and 0, 0, 0, b, and the same of c and d; -1 gives zero.
_ab, _b, _cd, _d = (
    simd.constant(
        simd.bytes_, [-1 if place < 0 else place + k for _ in range(4) for k in range(0, 16, 4) for place in each]
    )
    for each in ((-1, 0, 1, 0), (-1, -1, -1, 1), (-1, 2, 3, 2), (-1, -1, -1, 3))
)
# Then of each four times four: the sums of a and b that bits 0 and 1 choose, and those of c and d that bits 2 and 3 do.
_quads = [[4 * quad for quad in range(4 * r, 4 * r + 4) for _ in range(16)] for r in range(4)]
_low0, _low1, _low2, _low3 = (
    simd.constant(simd.bytes_, [first + (n & 3) for n, first in enumerate(each)]) for each in _quads
)
_high0, _high1, _high2, _high3 = (
    simd.constant(simd.bytes_, [first + (n >> 2 & 3) for n, first in enumerate(each)]) for each in _quads
)


@simd.part
def make_tables(inputs, spare, tables, at):  # type: ignore[no-untyped-def]
    """The 16 sums of every four of 64 inputs into tables, bytes from `at`."""
    x = add8(look_up_or_zero(inputs, _ab()), look_up_or_zero(inputs, _b()))
    y = add8(look_up_or_zero(inputs, _cd()), look_up_or_zero(inputs, _d()))
    store_bytes(tables, at, add8(pick(x, _low0()), pick(y, _high0())))
    store_bytes(tables, at + 64, add8(pick(x, _low1()), pick(y, _high1())))
    store_bytes(tables, at + 128, add8(pick(x, _low2()), pick(y, _high2())))
    store_bytes(tables, at + 192, add8(pick(x, _low3()), pick(y, _high3())))


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
