"""Philox and the integer Gaussian in vectors: the words of pimchip.chip.philox and the deviates of .gauss.

Words are made for STRIP columns of CHAINS rows at a time: a round waits for the one before it, and rows wait together.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np
from numba import types
from numpy.typing import NDArray

from pimchip.chip.gauss import TABLE
from pimchip.chip.philox import MASK, MULTIPLIERS, ROUNDS, WEYL, split_seed
from pimchip.kernels import simd
from pimchip.kernels.instructions import gather_near, with_sign
from pimchip.kernels.processor import AVX512, WORDS

if TYPE_CHECKING:  # llvmlite has no types
    ir: Any
else:
    from llvmlite import ir

STRIP = 32
"""Columns drawn together, in eight Philox blocks."""
CHAINS = 4 if AVX512 else 1
"""Rows drawn together: as many as registers hold."""
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

_blocks = simd.Vector(64, 8 * CHAINS)  # words in the low halves; what products leave above them reaches no low half
BLOCK_ORDER = (0, 2, 1, 3, 4, 6, 5, 7) if WORDS == 8 else (0, 4, 1, 5, 2, 6, 3, 7)
"""Which of a row's eight blocks sits in each lane, so that bringing words in order moves little across a vector."""


def _product_with(value: int) -> Any:
    """f(x): the low 32 bits of each lane times a 32-bit constant, all 64 bits of it."""
    low = _blocks.constant(MASK)
    return simd.operation(_blocks, (_blocks,), lambda b, x: b.mul(b.and_(x, low), _blocks.constant(value)))


def _rows(b: Any, rows: Sequence[Any]) -> Any:
    """CHAINS vectors of eight lanes as one."""
    while len(rows) > 1:
        lanes = range(2 * rows[0].type.count)
        rows = [simd.shuffle(b, *rows[k : k + 2], lanes) for k in range(0, len(rows), 2)]
    return rows[0]


def _counters(b: Any, first: Any, step: Any) -> Any:
    """Of eight blocks from `first`, and with every row from `step` on."""
    rows = []
    for _ in range(CHAINS):
        start = simd.splat(b, ir.VectorType(first.type, 8), first)
        rows.append(b.add(start, ir.Constant(start.type, list(BLOCK_ORDER))))
        first = b.add(first, step)
    return _rows(b, rows)


def _load_rows(b: Any, data: Any, i: Any) -> Any:
    long = ir.IntType(64)
    row = b.load(simd.at(b, data, i, long, ir.VectorType(long, 8)), align=1)
    return _rows(b, [row] * CHAINS)


def _store_rows(b: Any, data: Any, i: Any, *held: Any) -> None:
    """Word j of the blocks in held[j] to words from i, STRIP a row, in natural order."""
    natural = [half + 2 * BLOCK_ORDER.index(block) + word for block in range(8) for half in (0, 16) for word in (0, 1)]
    for row in range(CHAINS):
        lanes = range(8 * row, 8 * row + 8)
        w = [b.bitcast(simd.shuffle(b, x, x, lanes), ir.VectorType(simd.I32, 16)) for x in held]
        pairs = [lane for block in range(8) for lane in (2 * block, 16 + 2 * block)]
        first, last = simd.shuffle(b, w[0], w[1], pairs), simd.shuffle(b, w[2], w[3], pairs)
        for k in range(0, STRIP, WORDS):
            place = b.add(i, ir.Constant(i.type, STRIP * row + k))
            part = simd.shuffle(b, first, last, natural[k : k + WORDS])
            b.store(part, simd.at(b, data, place, simd.I32, part.type), align=1)


_product0, _product1 = _product_with(MULTIPLIERS[0]), _product_with(MULTIPLIERS[1])
_high = simd.with_constant(_blocks, "lshr", 32)
_xor = simd.binary(_blocks, "xor")
_splat = simd.operation(_blocks, (types.int64,), lambda b, x: simd.splat(b, _blocks.ir, x))
_count = simd.operation(_blocks, (types.int64, types.int64), _counters)
_load = simd.operation(_blocks, (types.intp, types.intp), _load_rows)
_store = simd.operation(types.void, (types.intp, types.intp) + (_blocks,) * 4, _store_rows)
_not_zero = simd.with_constant(simd.words, "or_", 1 << SPARE)
_odd = simd.with_constant(simd.words, "and_", 0x7FFFFF << 8 | 1 << SPARE)
_segment = simd.with_constant(simd.words, "lshr", 17)
_base = simd.with_constant(simd.words, "lshr", 12)
_fall = simd.with_constant(simd.words, "and_", 0xFFF)
_place = simd.with_constant(simd.words, "and_", 0x1FFFF)
_last_shift = simd.with_constant(simd.words, "lshr", 4)


@lru_cache(maxsize=16)
def round_keys(seed: int) -> NDArray[np.int64]:
    """int64 [2 * ROUNDS], to be read: the two key words of every round, in turn."""
    key = split_seed(seed)
    return np.array([(key[k] + r * WEYL[k]) & MASK for r in range(ROUNDS) for k in (0, 1)], np.int64)


@simd.part
def draw(first_block, step, tags, first_tag, epoch, keys, out, at):  # type: ignore[no-untyped-def]
    """Words of a strip of CHAINS rows into words of out, from `at`, STRIP a row.

    first_block: counter of the first row's first Philox block; step: from there to the next row's; tags: int64, third
    counter word of each of eight blocks, from first_tag, in BLOCK_ORDER.
    """
    c0 = _count(first_block, step)
    c1 = _high(c0)
    c2 = _load(tags, first_tag)
    c3 = _splat(epoch)
    for r in range(ROUNDS):
        p0 = _product0(c0)
        p1 = _product1(c2)
        c0 = _xor(_high(p1), _xor(c1, _splat(simd.long_at(keys, 2 * r))))
        c2 = _xor(_high(p0), _xor(c3, _splat(simd.long_at(keys, 2 * r + 1))))
        c1 = p1
        c3 = p0
    _store(out, at, c0, c1, c2, c3)


@simd.part
def gauss(words, table):  # type: ignore[no-untyped-def]
    """Deviates of a vector of words, in units of 2^-12. table: address of GAUSS."""
    kept = _not_zero(words)
    bits = simd.float_bits(_odd(kept))
    entry = gather_near(table, _segment(bits))
    fall = _segment(simd.mul32(_fall(entry), _place(bits)))
    return with_sign(_last_shift(simd.sub32(_base(entry), fall)), kept)
