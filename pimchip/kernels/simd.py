"""Vectors of integers inside numba functions: a type and the few operations that the fused kernel is made of.

Memory is given by address, `array.ctypes.data`, and by index in units of what is read: arrays as arguments would be
counted, and counting takes longer than what is done with them. Whoever calls keeps the arrays alive and the indices
within them; nothing here checks.

Numba's own loops leave the conversion at a tenth of this speed, because LLVM will not vectorize table lookups, 32 x 32
bit products and byte dot products together. These operations are LLVM's portable vector instructions, which any
processor can run; on processors with AVX2 four of them are single instructions instead (`AVX2`), with equal results.
PIMCHIP_SIMD=generic in the environment leaves those out, for tests.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import llvmlite.binding as llvm
import numba
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic, models, register_model
from numpy.typing import NDArray

if TYPE_CHECKING:  # llvmlite has no types
    ir: Any
else:
    from llvmlite import ir

AVX2 = bool(llvm.get_host_cpu_features().get("avx2")) and os.environ.get("PIMCHIP_SIMD") != "generic"
"""Whether single instructions of AVX2 are used."""

_WITHOUT_WRAPPERS: dict[str, Any] = {"no_cpython_wrapper": True, "no_cfunc_wrapper": True}
part = numba.njit(error_model="numpy", **_WITHOUT_WRAPPERS)
"""Decorates functions that only kernels call: without the wrappers for Python a kernel compiles in two thirds of the time."""

I32 = ir.IntType(32)


def digest(*modules: str) -> str:
    """What modules of this package say, for a kernel's key in numba's cache: numba looks at one file's date only."""
    here = Path(__file__).parent
    chip = [here.parent / "chip" / f"{name}.py" for name in ("adc", "gauss", "philox")]  # constants of the model
    sources = b"".join(path.read_bytes() for path in (*chip, *(here / f"{name}.py" for name in modules)))
    return f"{hashlib.sha256(sources).hexdigest()} {AVX2}"


class Vector(types.Type):
    """`lanes` integers of `bits` bits."""

    def __init__(self, bits: int, lanes: int) -> None:
        self.bits, self.lanes = bits, lanes
        super().__init__(name=f"i{bits}x{lanes}")

    @property
    def ir(self) -> Any:
        """As LLVM knows it."""
        return ir.VectorType(ir.IntType(self.bits), self.lanes)

    def constant(self, values: int | Sequence[int]) -> Any:
        """One value in every lane, or a value a lane."""
        return ir.Constant(self.ir, [values] * self.lanes if isinstance(values, int) else list(values))


@register_model(Vector)
class _VectorModel(models.PrimitiveModel):
    def __init__(self, manager: Any, vector: Vector) -> None:
        super().__init__(manager, vector, vector.ir)


i8x32, i16x16, i32x8, i32x16, i64x8 = (Vector(b, n) for b, n in ((8, 32), (16, 16), (32, 8), (32, 16), (64, 8)))


def _operation(returns: Any, takes: Sequence[Any], emit: Callable[..., Any]) -> Any:
    """An intrinsic of fixed types; emit(builder, *values) gives the result."""

    def typing(*_: Any) -> Any:
        def generate(context: Any, builder: Any, signature: Any, values: Any) -> Any:
            result = emit(builder, *values)
            if isinstance(returns, types.UniTuple):
                return context.make_tuple(builder, returns, result)
            return context.get_dummy_value() if result is None else result

        return returns(*takes), generate

    # numba wants a positional parameter an argument.
    def none(typingctx: Any) -> Any:
        return typing()

    def one(typingctx: Any, a: Any) -> Any:
        return typing(a)

    def two(typingctx: Any, a: Any, b: Any) -> Any:
        return typing(a, b)

    def three(typingctx: Any, a: Any, b: Any, c: Any) -> Any:
        return typing(a, b, c)

    def four(typingctx: Any, a: Any, b: Any, c: Any, d: Any) -> Any:
        return typing(a, b, c, d)

    def seven(typingctx: Any, a: Any, b: Any, c: Any, d: Any, e: Any, f: Any, g: Any) -> Any:
        return typing(a, b, c, d, e, f, g)

    return intrinsic({0: none, 1: one, 2: two, 3: three, 4: four, 7: seven}[len(takes)])


def _shuffle(builder: Any, a: Any, b: Any, lanes: Sequence[int]) -> Any:
    return builder.shuffle_vector(a, b, ir.Constant(ir.VectorType(I32, len(lanes)), list(lanes)))


def _call(builder: Any, name: str, result: Any, values: Sequence[Any]) -> Any:
    kind = ir.FunctionType(result, [value.type for value in values])
    return builder.call(cgutils.get_or_insert_function(builder.module, kind, name), values)


def _splat(builder: Any, vector: Any, scalar: Any) -> Any:
    one = builder.insert_element(ir.Constant(vector, ir.Undefined), scalar, ir.Constant(I32, 0))
    return _shuffle(builder, one, one, [0] * vector.count)


def addresses(*arrays: NDArray[Any]) -> tuple[int, ...]:
    """Where arrays begin. The caller keeps them alive while a kernel runs."""
    if not all(array.flags.c_contiguous for array in arrays):
        raise AssertionError("kernels read contiguous arrays")
    return tuple(array.__array_interface__["data"][0] for array in arrays)


def _at(builder: Any, address: Any, index: Any, unit: Any, kind: Any = None) -> Any:
    """Pointer to `kind` (else to a unit) at address plus index units."""
    pointer = builder.gep(builder.inttoptr(address, unit.as_pointer()), [index])
    return builder.bitcast(pointer, (kind or unit).as_pointer())


def _loader(vector: Vector) -> Any:
    unit = ir.IntType(vector.bits)
    return _operation(
        vector, (types.intp, types.intp), lambda b, data, i: b.load(_at(b, data, i, unit, vector.ir), align=1)
    )


def _storer(vector: Vector) -> Any:
    unit = ir.IntType(vector.bits)

    def emit(b: Any, data: Any, i: Any, value: Any) -> None:
        b.store(value, _at(b, data, i, unit, vector.ir), align=1)

    return _operation(types.void, (types.intp, types.intp, vector), emit)


load_bytes, load_words, load_longs = _loader(i8x32), _loader(i32x8), _loader(i64x8)
"""vector = load(address, index of the first)"""
store_bytes, store_words = _storer(i8x32), _storer(i32x8)
"""store(address, index of the first, vector)"""


def _scalar(kind: Any, bits: int) -> Any:
    unit = ir.IntType(bits)
    return _operation(kind, (types.intp, types.intp), lambda b, data, i: b.load(_at(b, data, i, unit), align=1))


def _scalar_storer(kind: Any, bits: int) -> Any:
    def emit(b: Any, data: Any, i: Any, value: Any) -> None:
        b.store(value, _at(b, data, i, ir.IntType(bits)), align=1)

    return _operation(types.void, (types.intp, types.intp, kind), emit)


byte_at, word_at, long_at = (
    _scalar(kind, bits) for kind, bits in ((types.uint8, 8), (types.int32, 32), (types.int64, 64))
)
"""integer = at(address, index)"""
put_byte, put_word, put_long = (
    _scalar_storer(kind, bits) for kind, bits in ((types.uint8, 8), (types.int32, 32), (types.int64, 64))
)
"""put(address, index, integer)"""


def _binary(vector: Vector, name: str) -> Any:
    return _operation(vector, (vector, vector), lambda b, x, y: getattr(b, name)(x, y))


add8, add16, add32, add64 = (_binary(v, "add") for v in (i8x32, i16x16, i32x8, i64x8))
sub32, mul32, xor64 = _binary(i32x8, "sub"), _binary(i32x8, "mul"), _binary(i64x8, "xor")
and32 = _binary(i32x8, "and_")
min32 = _operation(i32x8, (i32x8, i32x8), lambda b, x, y: b.select(b.icmp_signed("<", x, y), x, y))
max32 = _operation(i32x8, (i32x8, i32x8), lambda b, x, y: b.select(b.icmp_signed(">", x, y), x, y))


def with_constant(vector: Vector, name: str, value: int) -> Any:
    """One operand and a constant in every lane: f(x) = x <name> value, name one of LLVM's integer instructions."""
    return _operation(vector, (vector,), lambda b, x: getattr(b, name)(x, vector.constant(value)))


def constant(vector: Vector, values: int | Sequence[int]) -> Any:
    """A function without arguments that gives a constant vector."""
    return _operation(vector, (), lambda b: vector.constant(values))


def product_with(value: int) -> Any:
    """f(x): the low 32 bits of each 64-bit lane times a 32-bit constant, all 64 bits of it."""

    def emit(b: Any, x: Any) -> Any:
        return b.mul(b.and_(x, i64x8.constant((1 << 32) - 1)), i64x8.constant(value))

    return _operation(i64x8, (i64x8,), emit)


splat32 = _operation(i32x8, (types.int32,), lambda b, x: _splat(b, i32x8.ir, x))
splat64 = _operation(i64x8, (types.int64,), lambda b, x: _splat(b, i64x8.ir, x))
shift_right32 = _operation(i32x8, (i32x8, types.int32), lambda b, x, n: b.lshr(x, _splat(b, i32x8.ir, n)))
shift_down32 = _operation(i32x8, (i32x8, types.int32), lambda b, x, n: b.ashr(x, _splat(b, i32x8.ir, n)))
shift_left32 = _operation(i32x8, (i32x8, types.int32), lambda b, x, n: b.shl(x, _splat(b, i32x8.ir, n)))
bytes_to_words = _operation(i32x8, (i8x32,), lambda b, x: b.bitcast(x, i32x8.ir))
words_to_bytes = _operation(i8x32, (i32x8,), lambda b, x: b.bitcast(x, i8x32.ir))
bytes_to_shorts = _operation(i16x16, (i8x32,), lambda b, x: b.bitcast(x, i16x16.ir))


def _repeat(width: int) -> Any:
    """f(address, index): the `width` bytes there, repeated over 32."""

    def emit(b: Any, data: Any, i: Any) -> Any:
        byte = ir.IntType(8)
        value = b.load(_at(b, data, i, byte, ir.VectorType(byte, width)), align=1)
        return _shuffle(b, value, value, list(range(width)) * (32 // width))

    return _operation(i8x32, (types.intp, types.intp), emit)


repeat4, repeat8, repeat16 = _repeat(4), _repeat(8), _repeat(16)

float_bits = _operation(
    i32x8, (i32x8,), lambda b, x: b.bitcast(b.sitofp(x, ir.VectorType(ir.FloatType(), 8)), i32x8.ir)
)
"""The bits of each lane as a float32; exact for what has at most 24 significant bits."""


def _widen(b: Any, x: Any) -> list[Any]:
    return [b.zext(_shuffle(b, x, x, range(first, first + 8)), i32x8.ir) for first in (0, 8)]


widen = _operation(types.UniTuple(i32x8, 2), (i16x16,), _widen)
"""Lanes 0..7 and 8..15 of unsigned shorts, as 32-bit integers."""


WORD_ORDER = (0, 2, 1, 3, 4, 6, 5, 7)
"""Which of eight blocks sits in each 64-bit lane, so that `interleave` needs no instruction across halves."""


def _interleave(b: Any, *words: Any) -> list[Any]:
    """Word j of eight blocks in WORD_ORDER, in the low halves of words[j], to four vectors in natural order."""
    w = [b.bitcast(x, i32x16.ir) for x in words]
    pairs = [lane for block in range(8) for lane in (2 * block, 16 + 2 * block)]
    first, last = _shuffle(b, w[0], w[1], pairs), _shuffle(b, w[2], w[3], pairs)
    lanes = [[2 * lane, 2 * lane + 1, 16 + 2 * lane, 17 + 2 * lane] for lane in (WORD_ORDER.index(k) for k in range(8))]
    return [_shuffle(b, first, last, lanes[k] + lanes[k + 1]) for k in (0, 2, 4, 6)]


interleave = _operation(types.UniTuple(i32x8, 4), (i64x8,) * 4, _interleave)


def _pair_sums(b: Any, x: Any, y: Any) -> Any:
    """x0 + x1, x2 + x3, ... x6 + x7, y0 + y1, ... y6 + y7."""
    return b.add(*(_shuffle(b, x, y, range(first, 16, 2)) for first in (0, 1)))


pair_sums = _operation(i32x8, (i32x8, i32x8), _pair_sums)


RESCALE_BIAS = 1 << 62


def _rescale(b: Any, x: Any, multiplier: Any, offset: Any, shift: Any, bias: Any, low: Any, high: Any) -> Any:
    """clip((x * multiplier + offset) >> shift, low, high) of 32-bit x and multiplier, the rest in 64 bits.

    offset has RESCALE_BIAS in it and bias is RESCALE_BIAS >> shift: a shift of what cannot be negative, since AVX2 has
    no other. x * multiplier + offset must lie within +-2^62 without it.
    """
    product = b.mul(b.sext(x, i64x8.ir), b.sext(multiplier, i64x8.ir))
    value = b.sub(b.lshr(b.add(product, offset), shift), bias)
    value = b.select(b.icmp_signed("<", value, low), low, value)
    return b.trunc(b.select(b.icmp_signed(">", value, high), high, value), i32x8.ir)


rescale = _operation(i32x8, (i32x8, i32x8) + (i64x8,) * 5, _rescale)


def _load_small(b: Any, data: Any, i: Any) -> Any:
    byte = ir.IntType(8)
    return b.zext(b.load(_at(b, data, i, byte, ir.VectorType(byte, 8)), align=1), i32x8.ir)


load_small = _operation(i32x8, (types.intp, types.intp), _load_small)
"""words = load(address, index): eight bytes, each as a word."""


def _put_bytes(b: Any, data: Any, i: Any, x: Any) -> None:
    byte = ir.IntType(8)
    small = ir.VectorType(byte, 8)
    b.store(b.trunc(x, small), _at(b, data, i, byte, small), align=1)


put_bytes = _operation(types.void, (types.intp, types.intp, i32x8), _put_bytes)
"""put(address, index, vector): the low bytes of eight words."""


def _dot_pairs(b: Any, x: Any, y: Any) -> Any:
    """Unsigned bytes x times signed bytes y, neighbours added, to shorts; what passes 16 bits is the caller's sin."""
    if AVX2:
        return _call(b, "llvm.x86.avx2.pmadd.ub.sw", i16x16.ir, (x, y))
    halves = []
    for first in (0, 1):
        lanes = range(first, 32, 2)
        halves.append(b.mul(b.zext(_shuffle(b, x, x, lanes), i16x16.ir), b.sext(_shuffle(b, y, y, lanes), i16x16.ir)))
    return b.add(*halves)


def _add_pairs(b: Any, x: Any) -> Any:
    """Neighbouring signed shorts added to 32-bit integers."""
    if AVX2:
        return _call(b, "llvm.x86.avx2.pmadd.wd", i32x8.ir, (x, i16x16.constant(1)))
    even, odd = (b.sext(_shuffle(b, x, x, range(first, 16, 2)), i32x8.ir) for first in (0, 1))
    return b.add(even, odd)


def _look_up(b: Any, table: Any, index: Any) -> Any:
    """table[byte & 15] within each half of 16 bytes. AVX2 only: LLVM has no portable instruction for it."""
    return _call(b, "llvm.x86.avx2.pshuf.b", i8x32.ir, (table, index))


def _with_sign(b: Any, x: Any, y: Any) -> Any:
    """x, negated where y is negative. y is never 0."""
    if AVX2:
        return _call(b, "llvm.x86.avx2.psign.d", i32x8.ir, (x, y))
    return b.select(b.icmp_signed("<", y, i32x8.constant(0)), b.neg(x), x)


def _gather(b: Any, data: Any, index: Any) -> Any:
    """The words at an address and eight indices, by eight loads, which the processors at hand do faster than their gather instruction."""
    out = ir.Constant(i32x8.ir, ir.Undefined)
    for lane in (ir.Constant(I32, k) for k in range(8)):
        place = b.zext(b.extract_element(index, lane), ir.IntType(64))
        out = b.insert_element(out, b.load(_at(b, data, place, I32)), lane)
    return out


def _gather_near(b: Any, data: Any, index: Any) -> Any:
    """The same from a table that stays in the first cache, where the gather instruction is the faster one."""
    if not AVX2:
        return _gather(b, data, index)
    byte = ir.IntType(8)
    pointer = b.inttoptr(data, byte.as_pointer())
    values = (i32x8.constant(0), pointer, index, i32x8.constant(-1), ir.Constant(byte, 4))
    return _call(b, "llvm.x86.avx2.gather.d.d.256", i32x8.ir, values)


dot_pairs = _operation(i16x16, (i8x32, i8x32), _dot_pairs)
add_pairs = _operation(i32x8, (i16x16,), _add_pairs)
look_up = _operation(i8x32, (i8x32, i8x32), _look_up)
with_sign = _operation(i32x8, (i32x8, i32x8), _with_sign)
gather = _operation(i32x8, (types.intp, i32x8), _gather)
gather_near = _operation(i32x8, (types.intp, i32x8), _gather_near)
