"""Exact integer operations on feature maps: what a board's processor does beside the array.

Maps are integers [n, channels, height, width] in any layout, or FeatureMaps where speed matters. Used by the emulated
board, by the runtime where a board lacks an operation, and by the compiler's golden check.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from pimchip.chip.layers import REQUANT_SHIFT_MAX, Geometry, Requant
from pimchip.chip.mac import Int32, Int64
from pimchip.errors import InputError, WidthError
from pimchip.kernels import elementwise
from pimchip.kernels.maps import WORD, FeatureMap

PoolKind = Literal["max", "sum"]
EXACT = 1 << 53
"""Integers below this are exact in float64."""
HALF = 16
"""Bits of the low part where a sum could pass that."""


def unfold(x: NDArray[np.integer], geometry: Geometry) -> NDArray[np.integer]:
    """The vectors of a convolution. x: [n, c, h, w]; returns [n * positions, K] of its type."""
    x = x.reshape(len(x), *geometry.input_shape(tuple(x.shape[1:])))
    _, rows, columns = geometry.output_shape(tuple(x.shape[1:]))
    out = np.empty((len(x), rows, columns, geometry.in_channels, *geometry.kernel), x.dtype)
    for (y, z), window in _windows(_bordered(x, geometry.padding, 0), geometry, rows, columns):
        out[..., y, z] = window
    return out.reshape(-1, geometry.depth)


def convolve_map(x: FeatureMap, weights: NDArray[np.int8], geometry: Geometry) -> FeatureMap:
    """Integer convolution. weights: int8 [out, in, kh, kw]. WidthError where a sum passes 32 bits."""
    if weights.shape != (geometry.out_channels, geometry.in_channels, *geometry.kernel):
        raise InputError(f"weights {list(weights.shape)} do not fit {geometry}")
    images, height, width, channels = x.shape
    source = geometry.input_shape((channels, height, width))
    if source != (channels, height, width):  # read as one vector, channel-major
        x = _as_map(x.values.reshape(images, *source))
    largest = x.peak * int(np.abs(weights.astype(np.int64)).sum(axis=(1, 2, 3)).max(initial=0))
    if largest < 1 << 31 and geometry.dilation == (1, 1):
        return elementwise.convolve(x, weights, geometry, largest)
    return _as_map(to_int32(_wide(x.values, weights, geometry, largest), "accumulators"))


def _wide(x: NDArray[np.integer], weights: NDArray[np.int8], geometry: Geometry, largest: int) -> Int64:
    """A convolution of x [n, c, h, w] by float64 products; no sum of magnitudes passes `largest`, below 2^69."""
    held = _bordered(x, geometry.padding, 0).astype(np.int64)
    halves = [(held, 0)] if largest < EXACT else [(held >> HALF, HALF), (held & ((1 << HALF) - 1), 0)]
    outputs, rows, columns = geometry.output_shape(tuple(x.shape[1:]))
    total = np.zeros((len(x), rows, columns, outputs), np.int64)
    for part, bits in halves:
        sums = np.zeros(total.shape)
        for (y, z), window in _windows(part.astype(np.float64), geometry, rows, columns):
            sums += window @ weights[:, :, y, z].T.astype(np.float64)
        total += sums.astype(np.int64) << bits
    return total.transpose(0, 3, 1, 2)


def _bordered(x: NDArray[np.integer], padding: tuple[int, int], value: int) -> NDArray[np.integer]:
    """x [n, c, h, w] with a border of `value`, channels last, as maps lie in memory."""
    around = ((0, 0), (padding[0],) * 2, (padding[1],) * 2, (0, 0))
    return np.pad(x.transpose(0, 2, 3, 1), around, constant_values=value) if any(padding) else x.transpose(0, 2, 3, 1)


def _windows(
    x: NDArray[Any], geometry: Geometry, rows: int, columns: int
) -> Iterator[tuple[tuple[int, ...], NDArray[Any]]]:
    """Each position in a kernel, and what all windows over x [n, h, w, c], its border included, have there."""
    (down, right), (dy, dx) = geometry.stride, geometry.dilation
    for y, z in np.ndindex(geometry.kernel):
        yield (y, z), x[:, y * dy : y * dy + rows * down : down, z * dx : z * dx + columns * right : right]


def digital_conv(x: NDArray[np.integer], weights: NDArray[np.int8], geometry: Geometry) -> Int32:
    """convolve_map of integers [n, c, h, w]."""
    return convolve_map(_as_map(x), weights, geometry).values.astype(np.int32)


def to_int32(values: NDArray[np.float64] | NDArray[np.integer], what: str) -> Int32:
    """Integers as int32; WidthError instead of wrapping around."""
    if values.size and (values.max() > 2**31 - 1 or values.min() < -(2**31)):
        raise WidthError(f"{what} pass 32 bits")
    out: Int32 = values.astype(np.int32, copy=False)
    return out


def requantize_map(x: FeatureMap, requant: Requant) -> FeatureMap:
    """clip((acc * multiplier + offset) >> shift, low, high) per channel. WidthError for accumulators beyond acc_max."""
    requant.check_channels(x.shape[3])
    if not x.within(-requant.acc_max, requant.acc_max):
        raise WidthError(f"accumulators pass the {requant.acc_max} that the requantization was made for")
    return elementwise.requantize(x, requant)


def _peak(x: NDArray[np.integer]) -> int:
    """Largest magnitude, 0 of nothing."""
    return max(int(x.max(initial=0)), -int(x.min(initial=0)))


def add_maps(a: FeatureMap, b: FeatureMap, factors: tuple[int, int], shift: int, low: int, high: int) -> FeatureMap:
    """clip((a * factors[0] + b * factors[1] + half) >> shift, low, high), half = 2^(shift-1) or 0; maps of one shape.

    WidthError where the sum could pass 63 bits for the extremes of the values there.
    """
    if a.shape != b.shape:
        raise InputError(f"cannot add maps of shapes {list(a.values.shape)} and {list(b.values.shape)}")
    if not 0 <= shift <= REQUANT_SHIFT_MAX or not -(1 << 31) <= low <= high < 1 << 31:
        raise InputError(
            f"cannot add with shift {shift} and range {low}..{high}: want shifts in 0..{REQUANT_SHIFT_MAX}, 32 bits"
        )
    half = (1 << shift) >> 1
    largest = sum(abs(f) * x.peak for f, x in zip(factors, (a, b), strict=True)) + half
    if largest >= 1 << 63:  # by bounds; what counts are the values
        largest = sum(abs(f) * max(map(abs, x.extremes())) for f, x in zip(factors, (a, b), strict=True)) + half
    if largest >= 1 << 63:
        raise WidthError(f"cannot add with factors {factors}: the sum passes 63 bits")
    narrow = largest < 1 << 31 and shift < 32 and max(map(abs, factors)) < 1 << 31
    return elementwise.add(a, b, factors, shift, low, high, narrow=narrow)


def _as_map(x: NDArray[np.integer]) -> FeatureMap:
    """A map of words, whatever its values: bytes of it would only be converted again."""
    return FeatureMap.of(x, WORD)


def requantize(acc: Int32, requant: Requant) -> Int32:
    """requantize_map of int32 [n, c, h, w]."""
    return requantize_map(_as_map(acc), requant).values.astype(np.int32)


def add(a: Int32, b: Int32, factors: tuple[int, int], shift: int, low: int, high: int) -> Int32:
    """add_maps of int32 [n, c, h, w]."""
    return add_maps(_as_map(a), _as_map(b), factors, shift, low, high).values.astype(np.int32)


def pool(
    x: NDArray[np.integer], kind: PoolKind, kernel: tuple[int, int], stride: tuple[int, int], padding: tuple[int, int]
) -> Int32:
    """Maximum or sum over windows; padding counts as zero in sums and never wins a maximum.

    WidthError beyond 32 bits; InputError for windows that do not fit and padding of more than half of one.
    """
    geometry = Geometry(1, 1, kernel, stride, padding)
    _, rows, columns = geometry.output_shape((1, *x.shape[2:]))
    if 2 * padding[0] > kernel[0] or 2 * padding[1] > kernel[1]:
        raise InputError(f"pooling over {kernel} with padding {padding}: want at most half a window of padding")
    biggest = kind == "max"
    wide = x.dtype if biggest else np.int64 if _peak(x) * kernel[0] * kernel[1] >= 1 << 31 else np.int32
    held = _bordered(x, padding, np.iinfo(x.dtype).min if biggest else 0)
    join = np.maximum if biggest else np.add
    out = held
    for axis, size, step, places in ((1, kernel[0], stride[0], rows), (2, kernel[1], stride[1], columns)):
        # One direction after the other: a window of 100 x 100 takes 200 passes then, not 10,000.
        parts = (out[(slice(None),) * axis + (slice(i, i + places * step, step),)] for i in range(size))
        total: NDArray[np.integer] = next(parts).astype(wide)
        for part in parts:
            join(total, part, out=total)
        out = total
    return to_int32(out.transpose(0, 3, 1, 2), "maxima" if biggest else "pool sums")


def stats(x: NDArray[np.integer]) -> tuple[int, Int64, Int64]:
    """(count per channel, sum int64 [c], sum of squares int64 [c]) over images and positions, exact. WidthError beyond 63 bits."""
    v = x.astype(np.int64)
    peak = _peak(v)
    count = v.shape[0] * v.shape[2] * v.shape[3]
    if peak * peak * count >= 1 << 63:
        raise WidthError(f"sums of squares of {count} values up to {peak} pass 63 bits; use a smaller batch")
    return count, v.sum(axis=(0, 2, 3)), np.einsum("nchw,nchw->c", v, v)
