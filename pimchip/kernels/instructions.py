"""Operations on vectors for which processors have one instruction and LLVM has no portable one, or not so fast a one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pimchip.kernels.processor import AVX2, AVX512, BYTES, WORDS
from pimchip.kernels.simd import I32, at, bytes_, call, join, operation, shorts, shuffle, split, words

if TYPE_CHECKING:  # llvmlite has no types
    ir: Any
else:
    from llvmlite import ir


def _dot_pairs(b: Any, x: Any, y: Any) -> Any:
    """Unsigned bytes x times signed bytes y, neighbours added, to shorts; what passes 16 bits is the caller's sin."""
    if AVX2:
        return call(b, "llvm.x86.avx2.pmadd.ub.sw", shorts.ir, (x, y))
    halves = []
    for first in (0, 1):
        lanes = range(first, BYTES, 2)
        halves.append(b.mul(b.zext(shuffle(b, x, x, lanes), shorts.ir), b.sext(shuffle(b, y, y, lanes), shorts.ir)))
    return b.add(*halves)


def _add_pairs(b: Any, x: Any) -> Any:
    """Neighbouring signed shorts added to 32-bit integers."""
    if AVX2:
        return call(b, "llvm.x86.avx2.pmadd.wd", words.ir, (x, shorts.constant(1)))
    even, odd = (b.sext(shuffle(b, x, x, range(first, 2 * WORDS, 2)), words.ir) for first in (0, 1))
    return b.add(even, odd)


def _dot_quads(b: Any, total: Any, x: Any, y: Any) -> Any:
    """total plus unsigned bytes x times signed bytes y, each four added, in 32 bits. AVX-512."""
    return call(b, "llvm.x86.avx512.vpdpbusd.512", words.ir, (total, b.bitcast(x, words.ir), b.bitcast(y, words.ir)))


def _look_up_or_zero(b: Any, table: Any, index: Any) -> Any:
    """table[byte & 15] within each 16 bytes, 0 where byte is negative. AVX-512."""
    return call(b, "llvm.x86.avx512.pshuf.b.512", bytes_.ir, (table, index))


def _look_up(b: Any, table: Any, index: Any) -> Any:
    """table[byte & 15] within each half of 16 bytes. AVX2: LLVM has no portable instruction for it."""
    return call(b, "llvm.x86.avx2.pshuf.b", bytes_.ir, (table, index))


def _pick(b: Any, table: Any, index: Any) -> Any:
    """table[byte & 63]. AVX-512."""
    return call(b, "llvm.x86.avx512.permvar.qi.512", bytes_.ir, (table, index))


def add_products(b: Any, total: Any, x: Any, y: Any) -> Any:
    """total + x * y of rows of words, x and y within 16 bits with their sign."""
    if not (AVX2 or AVX512):
        return b.add(total, b.mul(x, y))
    count = total.type.count // WORDS
    parts = zip(*(split(b, value, count) for value in (total, x, y)), strict=True)
    if AVX512:
        return join(b, [call(b, "llvm.x86.avx512.vpdpwssd.512", words.ir, each) for each in parts])
    halves = ([b.bitcast(value, shorts.ir) for value in each[1:]] for each in parts)
    return b.add(total, join(b, [call(b, "llvm.x86.avx2.pmadd.wd", words.ir, each) for each in halves]))


def sum_quads(b: Any, rows: Any, weights: Any) -> Any:
    """Each four neighbours of four rows times four weights, all within 16 bits, added: [outputs, rows]. AVX-512.

    weights: words, the same four again and again.
    """
    if not AVX512:
        raise AssertionError("four planes are summed at once with AVX-512 only")

    def packed(x: Any, y: Any) -> Any:  # four of x, four of y, ...
        return call(b, "llvm.x86.avx512.packssdw.512", shorts.ir, (x, y))

    row, times = split(b, rows, 4), packed(weights, weights)
    # Two planes' sums: first and last of row 0, first and last of row 1; and the same of rows 2 and 3.
    pairs = [call(b, "llvm.x86.avx512.pmaddw.d.512", words.ir, (packed(row[k], row[k + 1]), times)) for k in (0, 2)]
    lanes = [first + n for first in range(0, WORDS, 4) for n in (0, 2, WORDS, WORDS + 2)]
    return b.add(*(shuffle(b, pairs[0], pairs[1], [lane + n for lane in lanes]) for n in (0, 1)))


def with_sign(b: Any, x: Any, y: Any) -> Any:
    """x, negated where y is negative. y is never 0."""
    if AVX2:
        return call(b, "llvm.x86.avx2.psign.d", words.ir, (x, y))
    return b.select(b.icmp_signed("<", y, ir.Constant(y.type, [0] * y.type.count)), b.neg(x), x)


def gather(b: Any, data: Any, index: Any) -> Any:
    """The words at an address and an index a lane. AVX2's instruction is slower than loads on AMD's processors."""
    if AVX512:
        return gather_near(b, data, index)
    out = ir.Constant(index.type, ir.Undefined)
    for lane in (ir.Constant(I32, k) for k in range(index.type.count)):
        place = b.zext(b.extract_element(index, lane), ir.IntType(64))
        out = b.insert_element(out, b.load(at(b, data, place, I32)), lane)
    return out


def gather_near(b: Any, data: Any, index: Any) -> Any:
    """The same from a table that stays in the first cache, where the gather instruction is the faster one."""
    byte = ir.IntType(8)
    pointer = b.inttoptr(data, byte.as_pointer())
    if AVX2:
        values = (words.constant(0), pointer, index, words.constant(-1), ir.Constant(byte, 4))
        return call(b, "llvm.x86.avx2.gather.d.d.256", words.ir, values)
    if AVX512:
        every = ir.Constant(ir.VectorType(ir.IntType(1), WORDS), [True] * WORDS)
        parts = [
            (words.constant(0), pointer, part, every, ir.Constant(I32, 4))
            for part in split(b, index, index.type.count // WORDS)
        ]
        return join(b, [call(b, "llvm.x86.avx512.mask.gather.dpi.512", words.ir, values) for values in parts])
    return gather(b, data, index)


dot_pairs = operation(shorts, (bytes_, bytes_), _dot_pairs)
add_pairs = operation(words, (shorts,), _add_pairs)
dot_quads = operation(words, (words, bytes_, bytes_), _dot_quads)
look_up = operation(bytes_, (bytes_, bytes_), _look_up)
pick = operation(bytes_, (bytes_, bytes_), _pick)
look_up_or_zero = operation(bytes_, (bytes_, bytes_), _look_up_or_zero)
