"""Philox and the integer Gaussian in vectors: the words of pimchip.chip.philox and the deviates of .gauss.

Words are made for STRIP columns of CHAINS rows at a time: a round waits for the one before it, and rows wait together.
"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np
from numba import types
from numpy.typing import NDArray

from pimchip.chip.gauss import TABLE
from pimchip.chip.philox import MASK, MULTIPLIERS, ROUNDS, WEYL, split_seed
from pimchip.kernels import simd
from pimchip.kernels.instructions import gather_near, with_sign
from pimchip.kernels.processor import CHAINS, WORDS
from pimchip.kernels.simd import rows

if TYPE_CHECKING:  # llvmlite has no types
    ir: Any
else:
    from llvmlite import ir

STRIP = 32
"""Columns drawn together, in eight Philox blocks."""
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
BLOCK_ORDER = (0, 2, 1, 3, 4, 6, 5, 7) if WORDS == 8 else (0, 4, 1, 5, 2, 6, 3, 7)
"""Which of a row's eight blocks sits in each lane, so that bringing words in order moves little across a vector."""


@lru_cache(maxsize=16)
def round_keys(seed: int) -> NDArray[np.int64]:
    """int64 [2 * ROUNDS], to be read: the two key words of every round, in turn."""
    key = split_seed(seed)
    return np.array([(key[k] + r * WEYL[k]) & MASK for r in range(ROUNDS) for k in (0, 1)], np.int64)


def _draw(b: Any, first: Any, step: Any, tags: Any, first_tag: Any, epoch: Any, keys: Any, out: Any, at: Any) -> None:
    """Words sit in the low halves of lanes; what products leave above them never reaches a low half."""
    eight = simd.Vector(64, 8)
    every = simd.Vector(64, 8 * CHAINS)
    starts = []
    for _ in range(CHAINS):
        starts.append(b.add(simd.splat(b, eight.ir, first), eight.constant(BLOCK_ORDER)))
        first = b.add(first, step)
    c0 = simd.join(b, starts)
    c1 = b.lshr(c0, every.constant(32))
    c2 = simd.join(b, [b.load(simd.at(b, tags, first_tag, ir.IntType(64), eight.ir), align=1)] * CHAINS)
    c3 = simd.splat(b, every.ir, epoch)
    for r in range(ROUNDS):
        k0, k1 = (
            simd.splat(b, every.ir, b.load(simd.at(b, keys, ir.Constant(at.type, 2 * r + k), ir.IntType(64))))
            for k in (0, 1)
        )
        p0, p1 = (
            b.mul(b.and_(c, every.constant(MASK)), every.constant(multiplier))
            for c, multiplier in zip((c0, c2), MULTIPLIERS, strict=True)
        )
        c0 = b.xor(b.lshr(p1, every.constant(32)), b.xor(c1, k0))
        c2 = b.xor(b.lshr(p0, every.constant(32)), b.xor(c3, k1))
        c1, c3 = p1, p0
    natural = [half + 2 * BLOCK_ORDER.index(block) + word for block in range(8) for half in (0, 16) for word in (0, 1)]
    pairs = [lane for block in range(8) for lane in (2 * block, 16 + 2 * block)]
    for row, held in enumerate(zip(*(simd.split(b, c, CHAINS) for c in (c0, c1, c2, c3)), strict=True)):
        w = [b.bitcast(x, ir.VectorType(simd.I32, 16)) for x in held]
        halves = simd.shuffle(b, w[0], w[1], pairs), simd.shuffle(b, w[2], w[3], pairs)
        for k in range(0, STRIP, WORDS):
            place = b.add(at, ir.Constant(at.type, STRIP * row + k))
            part = simd.shuffle(b, *halves, natural[k : k + WORDS])
            b.store(part, simd.at(b, out, place, simd.I32, part.type), align=1)


_draw_rows = simd.operation(types.void, (types.intp,) * 8, _draw)


@simd.part
def draw(first_block, step, tags, first_tag, epoch, keys, out, at):  # type: ignore[no-untyped-def]
    """Words of a strip of CHAINS rows into words of out, from `at`, STRIP a row.

    first_block: counter of the first row's first Philox block; step: from there to the next row's; tags: int64, third
    counter word of each of eight blocks, from first_tag, in BLOCK_ORDER.
    """
    _draw_rows(first_block, step, tags, first_tag, epoch, keys, out, at)


def _gauss(b: Any, words: Any, table: Any) -> Any:
    kept = b.or_(words, rows.constant(1 << SPARE))  # not 0, and odd
    odd = b.and_(kept, rows.constant(0x7FFFFF << 8 | 1 << SPARE))
    bits = b.bitcast(b.sitofp(odd, ir.VectorType(ir.FloatType(), rows.lanes)), rows.ir)
    entry = gather_near(b, table, b.lshr(bits, rows.constant(17)))
    fall = b.mul(b.and_(entry, rows.constant(0xFFF)), b.and_(bits, rows.constant(0x1FFFF)))
    # (base - (fall >> 17)) >> 4, both 2^12 times too large; the entry's own low 12 bits are shifted out.
    fall = b.and_(b.lshr(fall, rows.constant(5)), rows.constant(~0xFFF))
    return with_sign(b, b.lshr(b.sub(entry, fall), rows.constant(16)), kept)


gauss = simd.operation(rows, (rows, types.intp), _gauss)
"""Deviates of rows of words, in units of 2^-12; table: address of GAUSS."""
