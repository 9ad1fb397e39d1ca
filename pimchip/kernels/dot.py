"""Column sums of four input vectors at a time, in registers: bytes times bytes, and lookups where cells are one bit.

Lookups: four rows of one-bit cells give a column one of 16 sums of their four inputs. The 16 sums of each four rows
are made once an input vector; a column's are then found by its four bits, 32 columns an instruction. (T-MAC does the
same for language models: Wei et al., EuroSys 2025.) It takes inputs below 16 and AVX2's byte shuffle.
"""

from __future__ import annotations

import numba
import numpy as np
from numpy.typing import NDArray

from pimchip.chip.mac import Mac
from pimchip.kernels import simd
from pimchip.kernels.simd import (
    add8,
    add16,
    add32,
    add_pairs,
    bytes_to_shorts,
    bytes_to_words,
    dot_pairs,
    load_bytes,
    look_up,
    repeat4,
    repeat8,
    repeat16,
    store_bytes,
    store_words,
    widen,
    words_to_bytes,
)

VECTORS = 4
"""Input vectors that go through together."""
STRIP = 32
"""Columns are padded to a multiple of this."""
ROWS_STEP = 32
"""Digits of a vector are padded to a multiple of this, cells to a multiple of USED_STEP; what pads digits is not read
as anything: its cells are zero."""
USED_STEP = 16

_INT16_MAX = (1 << 15) - 1


def fits(mac: Mac) -> bool:
    """True where every partial sum of an operating point stays within the 16 bits that are added in."""
    largest = (mac.digit - 1) * mac.cell_max
    return -(-mac.rows // 2) * largest <= _INT16_MAX


def uses_lookups(mac: Mac) -> bool:
    """True where sums are looked up: one-bit cells, inputs below 16, and a processor that can."""
    return simd.AVX2 and mac.cell_max == 1 and not mac.signed and mac.digit <= 16


def pack(cells: NDArray[np.int8], lookups: bool) -> NDArray[np.int8]:
    """One group's cells, int8 [rows, columns], in the order that `sums` reads; a flat array, padded with zeros."""
    rows, columns = cells.shape
    padded = np.zeros((-(-rows // USED_STEP) * USED_STEP, -(-columns // STRIP) * STRIP), np.int8)
    padded[:rows, :columns] = cells
    quads, strips = len(padded) // 4, padded.shape[1] // STRIP
    if lookups:
        bits = padded.reshape(quads, 4, strips, STRIP) << np.arange(4, dtype=np.int8)[:, None, None]
        # Bytes are added to shorts as even and odd ones, so columns 0..15 lie at even places and 16..31 at odd ones.
        order = np.arange(STRIP).reshape(2, STRIP // 2).T.ravel()
        return np.ascontiguousarray(bits.sum(axis=1, dtype=np.int8)[:, :, order].transpose(1, 0, 2)).reshape(-1)
    strip16 = padded.reshape(quads, 4, strips * 2, STRIP // 2)
    return np.ascontiguousarray(strip16.transpose(2, 0, 3, 1)).reshape(-1)


_zero16 = simd.constant(simd.i16x16, 0)
_byte0 = simd.with_constant(simd.i32x8, "and_", 0xFF)
_shift8 = simd.with_constant(simd.i32x8, "lshr", 8)
_shift16 = simd.with_constant(simd.i32x8, "lshr", 16)
_shift24 = simd.with_constant(simd.i32x8, "lshr", 24)
_to_bytes_1_3 = simd.with_constant(simd.i32x8, "mul", 0x01000100)
_to_bytes_2_3 = simd.with_constant(simd.i32x8, "mul", 0x01010000)
_even = simd.with_constant(simd.i16x16, "and_", 0xFF)
_odd = simd.with_constant(simd.i16x16, "lshr", 8)
_low_pick = simd.constant(simd.i8x32, [n & 3 for n in range(16)] + [4 + (n & 3) for n in range(16)])
_high_pick = simd.constant(simd.i8x32, [n >> 2 for n in range(16)] + [4 + (n >> 2) for n in range(16)])


@numba.njit(error_model="numpy")
def make_tables(digits, rows, used, pairs, tables):  # type: ignore[no-untyped-def]
    """The 16 sums of every four rows that are used. By address: digits, bytes [VECTORS * rows]; tables, bytes
    [VECTORS * rows * 4]; pairs, bytes [2 * rows], scratch."""
    for v in range(VECTORS):
        for first in range(0, used, 32):
            x = bytes_to_words(load_bytes(digits, v * rows + first))
            # Of rows a, b, c, d: the sums {0, a, b, a + b} and {0, c, d, c + d}.
            low = add32(_to_bytes_1_3(_byte0(x)), _to_bytes_2_3(_byte0(_shift8(x))))
            high = add32(_to_bytes_1_3(_byte0(_shift16(x))), _to_bytes_2_3(_shift24(x)))
            store_bytes(pairs, first, words_to_bytes(low))
            store_bytes(pairs, rows + first, words_to_bytes(high))
        for first in range(0, used, 8):
            low = look_up(repeat8(pairs, first), _low_pick())
            high = look_up(repeat8(pairs, rows + first), _high_pick())
            store_bytes(tables, (v * rows + first) * 4, add8(low, high))


@numba.njit(error_model="numpy")
def sums_by_lookup(tables, rows, used, cells, start, columns, out):  # type: ignore[no-untyped-def]
    """Column sums into out, words [VECTORS * columns]. rows, used, columns: padded; cells: packed, from `start`."""
    step = rows * 4
    at = start
    for c in range(0, columns, STRIP):
        e0, e1, e2, e3 = _zero16(), _zero16(), _zero16(), _zero16()
        o0, o1, o2, o3 = _zero16(), _zero16(), _zero16(), _zero16()
        for t in range(0, used * 4, 64):
            # Four lookups of at most 4 * 15 stay within a byte.
            picks = load_bytes(cells, at)
            s0 = look_up(repeat16(tables, t), picks)
            s1 = look_up(repeat16(tables, t + step), picks)
            s2 = look_up(repeat16(tables, t + 2 * step), picks)
            s3 = look_up(repeat16(tables, t + 3 * step), picks)
            for k in range(1, 4):
                picks = load_bytes(cells, at + 32 * k)
                u = t + 16 * k
                s0 = add8(s0, look_up(repeat16(tables, u), picks))
                s1 = add8(s1, look_up(repeat16(tables, u + step), picks))
                s2 = add8(s2, look_up(repeat16(tables, u + 2 * step), picks))
                s3 = add8(s3, look_up(repeat16(tables, u + 3 * step), picks))
            h = bytes_to_shorts(s0)
            e0, o0 = add16(e0, _even(h)), add16(o0, _odd(h))
            h = bytes_to_shorts(s1)
            e1, o1 = add16(e1, _even(h)), add16(o1, _odd(h))
            h = bytes_to_shorts(s2)
            e2, o2 = add16(e2, _even(h)), add16(o2, _odd(h))
            h = bytes_to_shorts(s3)
            e3, o3 = add16(e3, _even(h)), add16(o3, _odd(h))
            at += 128
        _store_shorts(out, c, e0, o0)
        _store_shorts(out, c + columns, e1, o1)
        _store_shorts(out, c + 2 * columns, e2, o2)
        _store_shorts(out, c + 3 * columns, e3, o3)


@numba.njit(error_model="numpy")
def _store_shorts(out, at, even, odd):  # type: ignore[no-untyped-def]
    low, high = widen(even)
    store_words(out, at, low)
    store_words(out, at + 8, high)
    low, high = widen(odd)
    store_words(out, at + 16, low)
    store_words(out, at + 24, high)


@numba.njit(error_model="numpy")
def sums_by_product(digits, rows, used, cells, start, columns, out):  # type: ignore[no-untyped-def]
    """The same from the digits themselves, bytes [VECTORS * rows]."""
    at = start
    for c in range(0, columns, STRIP // 2):
        a0, a1, a2, a3 = _zero16(), _zero16(), _zero16(), _zero16()
        b0, b1, b2, b3 = _zero16(), _zero16(), _zero16(), _zero16()
        for t in range(0, used, 4):
            left, right = load_bytes(cells, at), load_bytes(cells, at + 32)
            x = repeat4(digits, t)
            a0, b0 = add16(a0, dot_pairs(x, left)), add16(b0, dot_pairs(x, right))
            x = repeat4(digits, t + rows)
            a1, b1 = add16(a1, dot_pairs(x, left)), add16(b1, dot_pairs(x, right))
            x = repeat4(digits, t + 2 * rows)
            a2, b2 = add16(a2, dot_pairs(x, left)), add16(b2, dot_pairs(x, right))
            x = repeat4(digits, t + 3 * rows)
            a3, b3 = add16(a3, dot_pairs(x, left)), add16(b3, dot_pairs(x, right))
            at += 64
        store_words(out, c, add_pairs(a0))
        store_words(out, c + 8, add_pairs(b0))
        store_words(out, c + columns, add_pairs(a1))
        store_words(out, c + columns + 8, add_pairs(b1))
        store_words(out, c + 2 * columns, add_pairs(a2))
        store_words(out, c + 2 * columns + 8, add_pairs(b2))
        store_words(out, c + 3 * columns, add_pairs(a3))
        store_words(out, c + 3 * columns + 8, add_pairs(b3))
