"""Conversion of a strip of column sums in vectors: table, noise, rounding, clipping, and the digit's place.

A vector here is one of WORDS columns of CHAINS rows: rows do not wait for each other's lookups.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from numba import types

from pimchip.chip.adc import LSB_BITS, SATURATION
from pimchip.chip.gauss import FRACTION_BITS
from pimchip.kernels import noise, simd
from pimchip.kernels.dot import STRIP, VECTORS
from pimchip.kernels.instructions import add_products, gather, sum_quads
from pimchip.kernels.processor import AVX512, CHAINS, WORDS
from pimchip.kernels.simd import rows, words

if TYPE_CHECKING:  # llvmlite has no types
    ir: Any
else:
    from llvmlite import ir

LARGEST_DEVIATE = 22211
"""gauss() reaches 5.42 sigma in units of 2^-12."""
NARROW = (1 << 15) - 1
"""Up to this S, S and gauss(r) are multiplied as 16-bit integers."""
assert SATURATION + (1 << 28) < 1 << 31  # so table plus noise stays within 32 bits
assert LARGEST_DEVIATE <= NARROW and STRIP == noise.STRIP and VECTORS % CHAINS == 0

QUADS = AVX512
"""Whether outputs of four planes can be summed at once, in 16 bits."""

_FLOATS = ir.VectorType(ir.FloatType(), rows.lanes)
_HALF = 1 << (FRACTION_BITS - 1)
_HALF_CODE = 1 << (LSB_BITS - 1)


def _tabled(b: Any, transfer: Any, sums: Any, start: Any) -> Any:
    return gather(b, transfer, b.add(sums, start))


def _soft(b: Any, t: Any, sigma: Any, z: Any) -> Any:
    """t + (S * z + half), rounded, where S is at most NARROW; the code's rounding already stands under the shift."""
    n = add_products(b, rows.constant(_HALF + (_HALF_CODE << FRACTION_BITS)), sigma, z)
    return b.add(t, b.ashr(n, rows.constant(FRACTION_BITS)))


def _loud(b: Any, t: Any, sigma: Any, z: Any) -> Any:
    """The same for any S: its product with z in two parts, S = (S >> 12 << 12) + (S & 4095)."""
    below = b.mul(b.and_(sigma, rows.constant((1 << FRACTION_BITS) - 1)), z)
    n = b.ashr(b.add(below, rows.constant(_HALF)), rows.constant(FRACTION_BITS))
    n = b.add(n, b.mul(b.ashr(sigma, rows.constant(FRACTION_BITS)), z))
    return b.add(b.add(t, n), rows.constant(_HALF_CODE))


def _codes(b: Any, t: Any, low: Any, high: Any) -> Any:
    codes = b.ashr(t, rows.constant(LSB_BITS))
    codes = b.select(b.icmp_signed(">", codes, low), codes, low)
    return b.select(b.icmp_signed("<", codes, high), codes, high)


def _straight(b: Any, sums: Any, line: Any, low: Any, high: Any) -> Any:
    slope, offset = (
        simd.splat(b, _FLOATS, b.load(simd.at(b, line, ir.Constant(ir.IntType(64), k), ir.FloatType()))) for k in (0, 1)
    )
    t = b.fadd(b.fmul(b.sitofp(sums, _FLOATS), slope), offset)
    # Rounded, the integer stands in the low bits of what is far larger.
    codes = b.bitcast(b.fadd(t, ir.Constant(_FLOATS, [simd.TO_INTEGER] * rows.lanes)), rows.ir)
    codes = b.sub(codes, rows.constant(simd.TO_INTEGER_BITS))
    codes = b.select(b.icmp_signed(">", codes, low), codes, low)
    return b.select(b.icmp_signed("<", codes, high), codes, high)


_table = simd.operation(rows, (types.intp, rows, rows), _tabled)
_round = simd.with_constant(rows, "add", _HALF_CODE)
_add_soft = simd.operation(rows, (rows,) * 3, _soft)
_add_loud = simd.operation(rows, (rows,) * 3, _loud)
_clip = simd.operation(rows, (rows,) * 3, _codes)
_on_line = simd.operation(rows, (rows, types.intp, rows, rows), _straight)
_add = simd.binary(rows, "add")
_sum_quads = simd.operation(words, (rows, words), sum_quads)
_shift = simd.operation(rows, (rows, types.int32), lambda b, x, n: b.shl(x, simd.splat(b, rows.ir, n)))


@simd.part
def convert(sums, words, how, bank, p, table, shift, fresh, acc, exact, to, columns, quads, weights):  # type: ignore[no-untyped-def]
    """Codes of a strip of VECTORS vectors into acc: in place of what is there if fresh, else added to it times 2^shift.

    how: (noisy, loud, straight, both). loud: some S is above NARROW; straight: codes are those of the bank's line; both: the
    sums go into exact in the same way. sums and words, of which noise is made: words [VECTORS, STRIP]; acc, exact: words,
    `columns` a vector; bank: addresses of the converters' arrays, read from p; table: noise.GAUSS. quads: each four codes
    times weights are added, and acc and exact are words [columns / 4, VECTORS].
    """
    noisy, loud, straight, both = how
    start, sigma, low, high, transfer, line = bank
    for k in range(0, STRIP, WORDS):
        for v in range(0, VECTORS, CHAINS):
            at = v * STRIP + k
            whole = simd.load_rows(sums, at, STRIP)
            least, most = simd.repeat_row(low, p + k), simd.repeat_row(high, p + k)
            if straight:
                codes = _on_line(whole, line, least, most)
            else:
                t = _table(transfer, whole, simd.repeat_row(start, p + k))
                if noisy:
                    z = noise.gauss(simd.load_rows(words, at, STRIP), table)
                    s = simd.repeat_row(sigma, p + k)
                    t = _add_loud(t, s, z) if loud else _add_soft(t, s, z)
                else:
                    t = _round(t)
                codes = _clip(t, least, most)
            if QUADS and quads:
                total = _sum_quads(codes, simd.load_words(weights, 0))
                if not fresh:
                    total = simd.add32(total, simd.shift_left32(simd.load_words(acc, to + k), shift))
                simd.store_words(acc, to + k, total)
                if both:
                    total = _sum_quads(whole, simd.load_words(weights, 0))
                    if not fresh:
                        total = simd.add32(total, simd.shift_left32(simd.load_words(exact, to + k), shift))
                    simd.store_words(exact, to + k, total)
            else:
                at = to + v * columns + k
                if not fresh:
                    codes = _add(codes, _shift(simd.load_rows(acc, at, columns), shift))
                simd.store_rows(acc, at, columns, codes)
                if both:
                    if not fresh:
                        whole = _add(whole, _shift(simd.load_rows(exact, at, columns), shift))
                    simd.store_rows(exact, at, columns, whole)
