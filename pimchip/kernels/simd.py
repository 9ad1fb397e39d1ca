"""Vectors of integers inside numba functions: a type and the few operations that the fused kernel is made of.

Memory is given by address, `array.ctypes.data`, and by index in units of what is read: arrays as arguments would be
counted, and counting takes longer than what is done with them. Whoever calls keeps the arrays alive and the indices
within them; nothing here checks.

Numba's own loops leave the conversion at a tenth of this speed, because LLVM will not vectorize table lookups, 32 x 32
bit products and byte dot products together. These operations are LLVM's portable vector instructions, which any
processor can run; those of pimchip.kernels.instructions are single instructions of AVX2 or AVX-512 where the processor
has them, with equal results. A vector is as wide as the processor's: kernels count in WORDS and BYTES.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numba
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic, models, register_model
from numpy.typing import NDArray

from pimchip.kernels.processor import BYTES, CHAINS, WORDS

if TYPE_CHECKING:  # llvmlite has no types
    ir: Any
else:
    from llvmlite import ir

_WITHOUT_WRAPPERS: dict[str, Any] = {"no_cpython_wrapper": True, "no_cfunc_wrapper": True}
part = numba.njit(error_model="numpy", **_WITHOUT_WRAPPERS)
"""Decorates functions that only kernels call: without the wrappers for Python a kernel compiles in two thirds of the time."""

I32 = ir.IntType(32)


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


bytes_, shorts, words, longs = (Vector(*kind) for kind in ((8, BYTES), (16, BYTES // 2), (32, WORDS), (64, WORDS)))
"""Vectors that kernels work in; longs are as many as words."""
rows = Vector(32, CHAINS * WORDS)
"""WORDS columns of CHAINS rows."""


def operation(returns: Any, takes: Sequence[Any], emit: Callable[..., Any]) -> Any:
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

    def six(typingctx: Any, a: Any, b: Any, c: Any, d: Any, e: Any, f: Any) -> Any:
        return typing(a, b, c, d, e, f)

    def eight(typingctx: Any, a: Any, b: Any, c: Any, d: Any, e: Any, f: Any, g: Any, h: Any) -> Any:
        return typing(a, b, c, d, e, f, g, h)

    def seven(typingctx: Any, a: Any, b: Any, c: Any, d: Any, e: Any, f: Any, g: Any) -> Any:
        return typing(a, b, c, d, e, f, g)

    return intrinsic({0: none, 1: one, 2: two, 3: three, 4: four, 6: six, 7: seven, 8: eight}[len(takes)])


def shuffle(builder: Any, a: Any, b: Any, lanes: Sequence[int]) -> Any:
    return builder.shuffle_vector(a, b, ir.Constant(ir.VectorType(I32, len(lanes)), list(lanes)))


def call(builder: Any, name: str, result: Any, values: Sequence[Any]) -> Any:
    kind = ir.FunctionType(result, [value.type for value in values])
    return builder.call(cgutils.get_or_insert_function(builder.module, kind, name), values)


def splat(builder: Any, vector: Any, scalar: Any) -> Any:
    one = builder.insert_element(ir.Constant(vector, ir.Undefined), scalar, ir.Constant(I32, 0))
    return shuffle(builder, one, one, [0] * vector.count)


def join(builder: Any, parts: Sequence[Any]) -> Any:
    """Vectors, a power of two of them, one after another as one."""
    while len(parts) > 1:
        lanes = range(2 * parts[0].type.count)
        parts = [shuffle(builder, parts[k], parts[k + 1], lanes) for k in range(0, len(parts), 2)]
    return parts[0]


def split(builder: Any, x: Any, count: int) -> list[Any]:
    """A vector in `count` parts."""
    lanes = x.type.count // count
    return [shuffle(builder, x, x, range(k * lanes, (k + 1) * lanes)) for k in range(count)] if count > 1 else [x]


def addresses(*arrays: NDArray[Any]) -> tuple[int, ...]:
    """Where arrays begin. The caller keeps them alive while a kernel runs."""
    if not all(array.flags.c_contiguous for array in arrays):
        raise AssertionError("kernels read contiguous arrays")
    return tuple(array.__array_interface__["data"][0] for array in arrays)


def at(builder: Any, address: Any, index: Any, unit: Any, kind: Any = None) -> Any:
    """Pointer to `kind` (else to a unit) at address plus index units."""
    pointer = builder.gep(builder.inttoptr(address, unit.as_pointer()), [index])
    return builder.bitcast(pointer, (kind or unit).as_pointer())


def _loader(vector: Vector) -> Any:
    unit = ir.IntType(vector.bits)
    return operation(
        vector, (types.intp, types.intp), lambda b, data, i: b.load(at(b, data, i, unit, vector.ir), align=1)
    )


def _storer(vector: Vector) -> Any:
    unit = ir.IntType(vector.bits)

    def emit(b: Any, data: Any, i: Any, value: Any) -> None:
        b.store(value, at(b, data, i, unit, vector.ir), align=1)

    return operation(types.void, (types.intp, types.intp, vector), emit)


load_bytes, load_words, load_longs = (_loader(kind) for kind in (bytes_, words, longs))
"""vector = load(address, index of the first)"""
store_bytes, store_words, store_longs = (_storer(kind) for kind in (bytes_, words, longs))
"""store(address, index of the first, vector)"""


def _each_row(b: Any, data: Any, i: Any, stride: Any) -> list[Any]:
    """Pointers to words of CHAINS rows."""
    places = [i]
    for _ in range(1, CHAINS):
        places.append(b.add(places[-1], stride))
    return [at(b, data, place, I32, words.ir) for place in places]


def _load_rows(b: Any, data: Any, i: Any, stride: Any) -> Any:
    return join(b, [b.load(row, align=1) for row in _each_row(b, data, i, stride)])


def _store_rows(b: Any, data: Any, i: Any, stride: Any, value: Any) -> None:
    for row, part in zip(_each_row(b, data, i, stride), split(b, value, CHAINS), strict=True):
        b.store(part, row, align=1)


def _repeat_row(b: Any, data: Any, i: Any) -> Any:
    return join(b, [b.load(at(b, data, i, I32, words.ir), align=1)] * CHAINS)


load_rows = operation(rows, (types.intp,) * 3, _load_rows)
"""rows = load(address, index of the first, words from a row to the next)"""
repeat_row = operation(rows, (types.intp,) * 2, _repeat_row)
"""rows = repeat(address, index of the first): the same in every row"""
store_rows = operation(types.void, (types.intp,) * 3 + (rows,), _store_rows)
"""store(address, index of the first, words from a row to the next, rows)"""


def _scalar(kind: Any, bits: int) -> Any:
    unit = ir.IntType(bits)
    return operation(kind, (types.intp, types.intp), lambda b, data, i: b.load(at(b, data, i, unit), align=1))


def _scalar_storer(kind: Any, bits: int) -> Any:
    def emit(b: Any, data: Any, i: Any, value: Any) -> None:
        b.store(value, at(b, data, i, ir.IntType(bits)), align=1)

    return operation(types.void, (types.intp, types.intp, kind), emit)


byte_at, word_at, long_at = (
    _scalar(kind, bits) for kind, bits in ((types.uint8, 8), (types.int32, 32), (types.int64, 64))
)
"""integer = at(address, index)"""
put_byte, put_word, put_long = (
    _scalar_storer(kind, bits) for kind, bits in ((types.uint8, 8), (types.int32, 32), (types.int64, 64))
)
"""put(address, index, integer)"""


def binary(vector: Vector, name: str) -> Any:
    """f(x, y) = x <name> y, name one of LLVM's integer instructions."""
    return operation(vector, (vector, vector), lambda b, x, y: getattr(b, name)(x, y))


add8, add16, add32 = (binary(vector, "add") for vector in (bytes_, shorts, words))
add64 = binary(longs, "add")
sub32, mul32, and32, or32 = (binary(words, name) for name in ("sub", "mul", "and_", "or_"))
min32 = operation(words, (words, words), lambda b, x, y: b.select(b.icmp_signed("<", x, y), x, y))
max32 = operation(words, (words, words), lambda b, x, y: b.select(b.icmp_signed(">", x, y), x, y))


def with_constant(vector: Vector, name: str, value: int) -> Any:
    """One operand and a constant in every lane: f(x) = x <name> value, name one of LLVM's integer instructions."""
    return operation(vector, (vector,), lambda b, x: getattr(b, name)(x, vector.constant(value)))


def constant(vector: Vector, values: int | Sequence[int]) -> Any:
    """A function without arguments that gives a constant vector."""
    return operation(vector, (), lambda b: vector.constant(values))


splat32 = operation(words, (types.int32,), lambda b, x: splat(b, words.ir, x))
shift_right32 = operation(words, (words, types.int32), lambda b, x, n: b.lshr(x, splat(b, words.ir, n)))
shift_down32 = operation(words, (words, types.int32), lambda b, x, n: b.ashr(x, splat(b, words.ir, n)))
shift_left32 = operation(words, (words, types.int32), lambda b, x, n: b.shl(x, splat(b, words.ir, n)))
bytes_to_words = operation(words, (bytes_,), lambda b, x: b.bitcast(x, words.ir))
words_to_bytes = operation(bytes_, (words,), lambda b, x: b.bitcast(x, bytes_.ir))
bytes_to_shorts = operation(shorts, (bytes_,), lambda b, x: b.bitcast(x, shorts.ir))


def _repeat(width: int) -> Any:
    """f(address, index): the `width` bytes there, repeated over a vector."""

    def emit(b: Any, data: Any, i: Any) -> Any:
        byte = ir.IntType(8)
        value = b.load(at(b, data, i, byte, ir.VectorType(byte, width)), align=1)
        return shuffle(b, value, value, list(range(width)) * (BYTES // width))

    return operation(bytes_, (types.intp, types.intp), emit)


repeat4, repeat8, repeat16 = _repeat(4), _repeat(8), _repeat(16)


def _widen(b: Any, x: Any) -> list[Any]:
    return [b.zext(shuffle(b, x, x, range(first, first + WORDS)), words.ir) for first in (0, WORDS)]


widen = operation(types.UniTuple(words, 2), (shorts,), _widen)
"""The first and the second half of unsigned shorts, as 32-bit integers."""


def _pair_sums(b: Any, x: Any, y: Any) -> Any:
    """Neighbours added: x0 + x1, x2 + x3, ... of x and then those of y."""
    return b.add(*(shuffle(b, x, y, range(first, 2 * WORDS, 2)) for first in (0, 1)))


pair_sums = operation(words, (words, words), _pair_sums)


def _store_pair_sums(b: Any, data: Any, i: Any, x: Any) -> None:
    sums = b.add(*(shuffle(b, x, x, range(first, WORDS, 2)) for first in (0, 1)))
    b.store(sums, at(b, data, i, I32, sums.type), align=1)


store_pair_sums = operation(types.void, (types.intp, types.intp, words), _store_pair_sums)
"""store(address, index, vector): its neighbours added, half as many words."""


RESCALE_BIAS = 1 << 62


def _rescale(b: Any, x: Any, multiplier: Any, offset: Any, shift: Any, bias: Any, low: Any, high: Any) -> Any:
    """clip((x * multiplier + offset) >> shift, low, high) of 32-bit x and multiplier, the rest in 64 bits.

    offset has RESCALE_BIAS in it and bias is RESCALE_BIAS >> shift: a shift of what cannot be negative, since AVX2 has
    no other. x * multiplier + offset must lie within +-2^62 without it.
    """
    product = b.mul(b.sext(x, longs.ir), b.sext(multiplier, longs.ir))
    value = b.sub(b.lshr(b.add(product, offset), shift), bias)
    value = b.select(b.icmp_signed("<", value, low), low, value)
    return b.trunc(b.select(b.icmp_signed(">", value, high), high, value), words.ir)


rescale = operation(words, (words, words) + (longs,) * 5, _rescale)


widen_words = operation(longs, (words,), lambda b, x: b.sext(x, longs.ir))
multiply_words = operation(longs, (words, words), lambda b, x, y: b.mul(b.sext(x, longs.ir), b.sext(y, longs.ir)))
"""Products of signed words, whole."""

FLOATS = ir.VectorType(ir.FloatType(), WORDS)
"""As many float32 as words, inside operations only."""


TO_INTEGER = 1.5 * 2.0**23
"""Added to a float32 below 2^22 in magnitude, and taken away again, leaves it rounded, ties to even."""
TO_INTEGER_BITS = 0x4B400000
"""The same as a word: what it is larger by is the rounded integer."""


def load_floats(b: Any, data: Any, i: Any) -> Any:
    """Within an operation: the float32 at an address, from index i on."""
    return b.load(at(b, data, i, ir.FloatType(), FLOATS), align=1)


def store_floats(b: Any, data: Any, i: Any, x: Any) -> None:
    """Within an operation: float32 to an address, from index i on."""
    b.store(x, at(b, data, i, ir.FloatType(), FLOATS), align=1)


def _times_floats(b: Any, x: Any, data: Any, i: Any) -> Any:
    factors = load_floats(b, data, i)
    return b.bitcast(b.fmul(b.sitofp(x, FLOATS), factors), words.ir)


times_floats = operation(words, (words, types.intp, types.intp), _times_floats)
"""f(words, address, index of the first): words as float32 times the float32 there; bits of float32."""


def _load_small(b: Any, data: Any, i: Any) -> Any:
    byte = ir.IntType(8)
    return b.zext(b.load(at(b, data, i, byte, ir.VectorType(byte, WORDS)), align=1), words.ir)


load_small = operation(words, (types.intp, types.intp), _load_small)
"""words = load(address, index): a vector's count of bytes, each as a word."""


def _put_bytes(b: Any, data: Any, i: Any, x: Any) -> None:
    byte = ir.IntType(8)
    small = ir.VectorType(byte, WORDS)
    b.store(b.trunc(x, small), at(b, data, i, byte, small), align=1)


put_bytes = operation(types.void, (types.intp, types.intp, words), _put_bytes)
"""put(address, index, vector): the low byte of each word."""


def _store_turned(b: Any, data: Any, i: Any, stride: Any, x: Any) -> None:
    for row in range(4):
        part = shuffle(b, x, x, range(row, WORDS, 4))
        b.store(part, at(b, data, i, I32, part.type), align=1)
        i = b.add(i, stride)


store_turned = operation(types.void, (types.intp,) * 3 + (words,), _store_turned)
"""store(address, index, words from a row to the next, [n, 4]): its four columns as rows"""
