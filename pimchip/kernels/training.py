"""What a training step needs beside the product: activations to integers, and recombined codes to floats with moments.

One pass over memory each, on all cores, with the same bits on any number of them: blocks are fixed, and so is the order
in which their sums are added. Maps are channels-last, which torch's convolutions read as they are.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numba
import numpy as np
import torch
from numba import types
from numpy.typing import NDArray
from torch import Tensor

from pimchip.kernels import simd, threads
from pimchip.kernels.maps import FeatureMap
from pimchip.kernels.processor import WORDS, digest

if TYPE_CHECKING:  # llvmlite has no types
    ir: Any
else:
    from llvmlite import ir

Work = Callable[[int, int], None]

LEAST = 1 << 15
"""Values that are worth a call."""


def _grid(b: Any, x: Any, y: Any, q: Any, inside: Any, constants: Any, i: Any) -> Any:
    byte = ir.IntType(8)

    def every(value: float) -> Any:
        return ir.Constant(simd.FLOATS, [value] * WORDS)

    def constant(index: int) -> Any:
        place = simd.at(b, constants, ir.Constant(ir.IntType(64), index), ir.FloatType())
        return simd.splat(b, simd.FLOATS, b.load(place))

    def put_bytes(data: Any, values: Any) -> None:
        b.store(values, simd.at(b, data, i, byte, values.type), align=1)

    factor, whole, top = (constant(index) for index in range(3))
    v = simd.load_floats(b, x, i)
    within = b.and_(b.fcmp_ordered(">=", v, every(0.0)), b.fcmp_ordered("<=", v, top))
    put_bytes(inside, b.zext(within, ir.VectorType(byte, WORDS)))
    clipped = b.select(b.fcmp_ordered(">", v, every(0.0)), v, every(0.0))
    clipped = b.select(b.fcmp_ordered("<", clipped, top), clipped, top)
    n = b.fsub(b.fadd(b.fmul(clipped, factor), every(simd.TO_INTEGER)), every(simd.TO_INTEGER))
    put_bytes(q, b.trunc(b.fptosi(n, simd.words.ir), ir.VectorType(byte, WORDS)))
    simd.store_floats(b, y, i, b.fmul(b.fdiv(n, whole), top))
    return b.sext(b.fcmp_unordered("uno", v, v), simd.words.ir)


_to_grid = simd.operation(simd.words, (types.intp,) * 6, _grid)
"""strange = f(x, y, q, inside, [factor, whole, top], i): see quantize; all bits of a lane are set for NaN."""


def _kept(b: Any, x: Any, keep: Any, out: Any, i: Any) -> None:
    byte = ir.IntType(8)
    held = b.load(simd.at(b, keep, i, byte, ir.VectorType(byte, WORDS)), align=1)
    kept = b.icmp_unsigned("!=", held, ir.Constant(held.type, [0] * WORDS))
    nothing = ir.Constant(simd.FLOATS, [0.0] * WORDS)
    simd.store_floats(b, out, i, b.select(kept, simd.load_floats(b, x, i), nothing))


_keep = simd.operation(types.void, (types.intp,) * 4, _kept)


def _compile(sources: str) -> Any:
    """The kernels in vectors; `sources` is part of their key in numba's cache, as in pimchip.kernels.span."""

    @numba.njit(cache=True, nogil=True, error_model="numpy")
    def quantize(first, last, x, constants, y, q, inside, bad):  # type: ignore[no-untyped-def]
        """Values WORDS * first..WORDS * last of arrays at addresses; bad: words, one vector."""
        if sources == "":
            return
        strange = simd.splat32(np.int32(0))
        for i in range(WORDS * first, WORDS * last, WORDS):
            strange = simd.or32(strange, _to_grid(x, y, q, inside, constants, i))
        simd.store_words(bad, 0, simd.or32(strange, simd.load_words(bad, 0)))

    @numba.njit(cache=True, nogil=True, error_model="numpy")
    def keep(first, last, x, kept, out):  # type: ignore[no-untyped-def]
        """Values WORDS * first..WORDS * last of arrays at addresses."""
        if sources == "":
            return
        for i in range(WORDS * first, WORDS * last, WORDS):
            _keep(x, kept, out, i)

    return quantize, keep


_quantize, _keep_only = _compile(digest("training"))


def channels_last(x: Tensor) -> Tensor:
    """A float32 map [n, c, h, w] whose values lie channels-last in memory, copied only if they do not yet."""
    return x.detach().to(torch.float32).contiguous(memory_format=torch.channels_last)


def flat(x: Tensor) -> NDArray[np.float32]:
    """The values of a map as they lie channels-last in memory, sharing it where they do."""
    n, c, h, w = x.shape
    out: NDArray[np.float32] = x.permute(0, 2, 3, 1).reshape(n * h * w * c).numpy()
    return out


def empty_map(shape: tuple[int, ...]) -> Tensor:
    """float32 [n, c, h, w], channels-last in memory, whatever its sizes."""
    n, c, h, w = shape
    return torch.empty((n, h, w, c), dtype=torch.float32).permute(0, 3, 1, 2)


def _in_vectors(size: int, arrays: Sequence[NDArray[Any]], begin: Callable[[Sequence[NDArray[Any]]], Work]) -> None:
    """Do begin(arrays)(first, last), in vectors, over flat arrays of at least `size` values; what fills no vector in copies."""
    whole = size // WORDS
    threads.share(lambda: begin(arrays), whole, LEAST // WORDS)
    if size % WORDS:
        rest = slice(whole * WORDS, size)
        parts = [np.zeros(WORDS, array.dtype) for array in arrays]
        for part, array in zip(parts, arrays, strict=True):
            part[: size % WORDS] = array[rest]
        begin(parts)(0, 1)
        for part, array in zip(parts, arrays, strict=True):
            if array.flags.writeable:
                array[rest] = part[: size % WORDS]


def quantize(x: Tensor, bits: int, ceiling: float = 1.0) -> tuple[Tensor, FeatureMap, Tensor] | None:
    """x float32 [n, c, h, w], clipped to 0..ceiling and rounded to 2^bits - 1 steps, ties to even.

    Returns (the grid's values as float32, their integers, bool [n * h * w * c] channels-last: where x lay within), or
    None if x holds NaN.
    """
    n, c, h, w = x.shape
    y = empty_map((n, c, h, w))
    q = FeatureMap.empty((n, h, w, c), (0, (1 << bits) - 1))
    inside = torch.empty(x.numel(), dtype=torch.bool)
    steps = (1 << bits) - 1
    constants = np.array([steps / ceiling, steps, ceiling], np.float32)
    bad: list[NDArray[np.int32]] = []

    def begin(arrays: Sequence[NDArray[Any]]) -> Work:
        strange = np.zeros(WORDS, np.int32)
        bad.append(strange)
        source, *made = simd.addresses(*arrays)
        given = (source, *simd.addresses(constants), *made, *simd.addresses(strange))
        return lambda first, last: _quantize(first, last, *given)

    _in_vectors(x.numel(), (flat(channels_last(x)), flat(y), q.flat, inside.numpy()), begin)
    return None if any(strange.any() for strange in bad) else (y, q, inside)


def keep_only(x: Tensor, inside: Tensor) -> Tensor:
    """x float32 [n, c, h, w] where bool `inside` [n * h * w * c], channels-last, holds, and 0 elsewhere."""
    out = empty_map(tuple(x.shape))

    def begin(arrays: Sequence[NDArray[Any]]) -> Work:
        given = simd.addresses(*arrays)
        return lambda first, last: _keep_only(first, last, *given)

    _in_vectors(x.numel(), (flat(channels_last(x)), inside.numpy(), flat(out)), begin)
    return out


@dataclass(frozen=True)
class Moments:
    """Sums over positions, float64 [channels]: of codes, of exact sums, of their squares and of their products."""

    count: int
    codes: NDArray[np.float64]
    codes_squared: NDArray[np.float64]
    sums: NDArray[np.float64]
    sums_squared: NDArray[np.float64]
    products: NDArray[np.float64]

    @classmethod
    def of(cls, codes: Tensor, exact: Tensor) -> Moments:
        """Of tensors [rows, channels] on any device."""
        a, b = codes.to(torch.float64), exact.to(torch.float64)
        parts = torch.stack([a.sum(0), (a * a).sum(0), b.sum(0), (b * b).sum(0), (a * b).sum(0)]).cpu().numpy()
        return cls(len(codes), *parts)

    def with_code(self, worth: float) -> Moments:
        """The same where a code is worth so many units of the sums, not one."""
        codes, squared = self.codes * worth, self.codes_squared * worth**2
        return Moments(self.count, codes, squared, self.sums, self.sums_squared, self.products * worth)

    def layer(self) -> Moments:
        """Of all channels taken together, as one channel."""
        whole = (
            v.sum(keepdims=True) for v in (self.codes, self.codes_squared, self.sums, self.sums_squared, self.products)
        )
        return Moments(self.count * len(self.codes), *whole)

    def variances(self) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
        """Variance of codes, variance of sums, and their covariance, [channels]; 0 where one is constant."""
        n = self.count
        codes = _spread(self.codes_squared, self.codes, n)
        sums = _spread(self.sums_squared, self.sums, n)
        together = (self.products - self.codes * self.sums / n) / n
        return codes, sums, np.where((codes > 0) & (sums > 0), together, 0.0)


def _spread(squares: NDArray[np.float64], total: NDArray[np.float64], n: int) -> NDArray[np.float64]:
    """Variance from sums. Of integers that are not all equal it is at least 1/n^2, so what is left by rounding is 0."""
    variance = (squares - total * total / n) / n
    out: NDArray[np.float64] = np.where(variance > 1e-13 * squares / n, variance, 0.0)
    return out
