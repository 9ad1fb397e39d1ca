"""Philox and the integer Gaussian in vectors: the words of pimchip.chip.philox and .gauss, 32 conversions at a time."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from pimchip.chip.gauss import TABLE
from pimchip.chip.philox import MASK, MULTIPLIERS, ROUNDS, WEYL, split_seed
from pimchip.kernels import simd

STEP = 32
"""Columns drawn together: a row's deviates are padded to a multiple of this."""
SPARE = 7
"""gauss()'s odd number is taken 2^7 times too large, which spares its shift; the table's index moves along."""

TABLE_START = (127 + SPARE) << 6


def _shifted_table() -> NDArray[np.int32]:
    entries = TABLE.astype(np.int64)
    rounded = ((entries >> 12) + 8) << 12 | (entries & 0xFFF)  # gauss() adds 8 before its last shift
    table = np.zeros(TABLE_START + len(TABLE), np.int64)
    table[TABLE_START:] = rounded
    return table.astype(np.uint32).view(np.int32)


GAUSS = _shifted_table()
"""int32: gauss's table, indexed by the upper bits of a float32."""

_product0, _product1 = simd.product_with(MULTIPLIERS[0]), simd.product_with(MULTIPLIERS[1])
_high = simd.with_constant(simd.i64x8, "lshr", 32)
_count = simd.constant(simd.i64x8, simd.WORD_ORDER)
_not_zero = simd.with_constant(simd.i32x8, "or_", 1 << SPARE)
_odd = simd.with_constant(simd.i32x8, "and_", 0x7FFFFF << 8 | 1 << SPARE)
_segment = simd.with_constant(simd.i32x8, "lshr", 17)
_base = simd.with_constant(simd.i32x8, "lshr", 12)
_fall = simd.with_constant(simd.i32x8, "and_", 0xFFF)
_place = simd.with_constant(simd.i32x8, "and_", 0x1FFFF)
_last_shift = simd.with_constant(simd.i32x8, "lshr", 4)


@lru_cache(maxsize=16)
def round_keys(seed: int) -> NDArray[np.int64]:
    """int64 [2 * ROUNDS], to be read: the two key words of every round, in turn."""
    key = split_seed(seed)
    return np.array([(key[k] + r * WEYL[k]) & MASK for r in range(ROUNDS) for k in (0, 1)], np.int64)


@simd.part
def _gauss(words, table):  # type: ignore[no-untyped-def]
    """Deviates of eight words, in units of 2^-12."""
    kept = _not_zero(words)
    bits = simd.float_bits(_odd(kept))
    entry = simd.gather_near(table, _segment(bits))
    fall = _segment(simd.mul32(_fall(entry), _place(bits)))
    return simd.with_sign(_last_shift(simd.sub32(_base(entry), fall)), kept)


@simd.part
def deviates(first_block, tags, first_tag, epoch, keys, table, out, columns):  # type: ignore[no-untyped-def]
    """Deviates of a row of conversions into out[start : columns], int32; columns: a multiple of STEP.

    first_block: counter of the row's first Philox block; tags: int64 [columns / 4], third counter word of each block.
    """
    fourth = simd.splat64(epoch)
    for c in range(0, columns, STEP):
        block = c >> 2
        # Words sit in the low halves of 64-bit lanes; what products leave above them never reaches a low half.
        c0 = simd.add64(simd.splat64(first_block + block), _count())
        c1 = _high(c0)
        c2 = simd.load_longs(tags, first_tag + block)
        c3 = fourth
        for r in range(ROUNDS):
            p0 = _product0(c0)
            p1 = _product1(c2)
            c0 = simd.xor64(_high(p1), simd.xor64(c1, simd.splat64(simd.long_at(keys, 2 * r))))
            c2 = simd.xor64(_high(p0), simd.xor64(c3, simd.splat64(simd.long_at(keys, 2 * r + 1))))
            c1 = p1
            c3 = p0
        first, second, third, last = simd.interleave(c0, c1, c2, c3)
        simd.store_words(out, c, _gauss(first, table))
        simd.store_words(out, c + 8, _gauss(second, table))
        simd.store_words(out, c + 16, _gauss(third, table))
        simd.store_words(out, c + 24, _gauss(last, table))
