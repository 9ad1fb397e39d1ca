"""What a board's processor does, compiled: rescaling, adding and small convolutions, exact, on all cores."""

from __future__ import annotations

from math import gcd
from typing import Any

import numba
import numpy as np

from pimchip.chip.layers import Geometry, Requant
from pimchip.chip.mac import Int8
from pimchip.kernels import rescale, simd, threads
from pimchip.kernels.maps import FeatureMap
from pimchip.kernels.processor import WORDS, digest
from pimchip.kernels.rescale import rescaled

LEAST = 1 << 15
"""Values that are worth a call."""


@simd.part
def _load(x, small, at):  # type: ignore[no-untyped-def]
    return simd.load_small(x, at) if small else simd.load_words(x, at)


@simd.part
def _put(out, small, at, values):  # type: ignore[no-untyped-def]
    if small:
        simd.put_bytes(out, at, values)
    else:
        simd.store_words(out, at, values)


def _compile(sources: str) -> Any:
    """The kernels in vectors; `sources` is part of their key in numba's cache, as in pimchip.kernels.span."""

    @numba.njit(cache=True, nogil=True, error_model="numpy")
    def requantize(first, last, x, x_small, channels, scale, out, out_small):  # type: ignore[no-untyped-def]
        """Positions first..last of maps at addresses x and out, of a multiple of WORDS channels."""
        if sources == "":
            return
        for position in range(first, last):
            at = position * channels
            for k in range(0, channels, WORDS):
                _put(out, out_small, at + k, rescaled(_load(x, x_small, at + k), k, scale, channels))

    @numba.njit(cache=True, nogil=True, error_model="numpy")
    def add(first, last, a, a_small, b, b_small, factors, half, shift, low, high, out, out_small):  # type: ignore[no-untyped-def]
        """Values WORDS * first..WORDS * last, in 32 bits."""
        if sources == "":
            return
        factor_a, factor_b = simd.splat32(np.int32(factors[0])), simd.splat32(np.int32(factors[1]))
        middle, floor, ceiling = simd.splat32(np.int32(half)), simd.splat32(np.int32(low)), simd.splat32(np.int32(high))
        for i in range(WORDS * first, WORDS * last, WORDS):
            left, right = simd.mul32(_load(a, a_small, i), factor_a), simd.mul32(_load(b, b_small, i), factor_b)
            total = simd.shift_down32(simd.add32(simd.add32(left, right), middle), np.int32(shift))
            _put(out, out_small, i, simd.min32(simd.max32(total, floor), ceiling))

    @numba.njit(cache=True, nogil=True, error_model="numpy")
    def convolve(first, last, x, x_small, shape, conv, weights, padded, acc, out, outputs):  # type: ignore[no-untyped-def]
        """Output positions first..last; weights: words [kernel positions, channels, padded outputs]."""
        if sources == "":
            return
        height, width, channels = shape
        kernel_y, kernel_x, stride_y, stride_x, pad_y, pad_x, out_h, out_w = conv
        for position in range(first, last):
            image, rest = position // (out_h * out_w), position % (out_h * out_w)
            top, left = rest // out_w * stride_y - pad_y, rest % out_w * stride_x - pad_x
            for o in range(0, padded, WORDS):
                total = simd.splat32(np.int32(0))
                for y in range(max(top, 0), min(top + kernel_y, height)):
                    for z in range(max(left, 0), min(left + kernel_x, width)):
                        pixel = ((image * height + y) * width + z) * channels
                        tap = ((y - top) * kernel_x + z - left) * channels * padded + o
                        for c in range(channels):
                            value = np.int32(simd.byte_at(x, pixel + c)) if x_small else simd.word_at(x, pixel + c)
                            taken = simd.mul32(simd.splat32(value), simd.load_words(weights, tap + c * padded))
                            total = simd.add32(total, taken)
                simd.store_words(acc, o, total)
            for o in range(outputs):
                simd.put_word(out, position * outputs + o, simd.word_at(acc, o))

    return requantize, add, convolve


_requantize_vectors, _add_vectors, _convolve = _compile(digest("rescale", "elementwise"))


@numba.njit(cache=True, nogil=True, error_model="numpy")
def _requantize(first, last, x, multiplier, offset, shift, low, high, out):  # type: ignore[no-untyped-def]
    """Positions first..last of flat arrays, of any number of channels and any integers that 64 bits hold."""
    channels = multiplier.shape[0]
    for position in range(first, last):
        at = position * channels
        for c in range(channels):
            value = (np.int64(x[at + c]) * multiplier[c] + offset[c]) >> shift[c]
            out[at + c] = min(max(value, low), high)


@numba.njit(cache=True, nogil=True, error_model="numpy")
def _add(first, last, a, b, factor_a, factor_b, half, shift, low, high, out):  # type: ignore[no-untyped-def]
    for i in range(first, last):
        value = (np.int64(a[i]) * factor_a + np.int64(b[i]) * factor_b + half) >> shift
        out[i] = min(max(value, low), high)


def requantize(x: FeatureMap, requant: Requant) -> FeatureMap:
    """clip((x * multiplier + offset) >> shift, low, high) per channel, of values up to requant.acc_max."""
    out = FeatureMap.empty(x.shape, (requant.low, requant.high))
    channels = max(x.shape[3], 1)
    positions, least = x.size // channels, LEAST // channels + 1
    together = WORDS // gcd(channels, WORDS)  # positions that fill whole vectors
    if positions % together == 0 and rescale.possible(requant, requant.acc_max):
        scale = rescale.layout(requant, together)
        source, integers, target = simd.addresses(x.flat, scale, out.flat)
        vectors = (source, x.small, channels * together, integers, target, out.small)
        threads.share(
            lambda: lambda first, last: _requantize_vectors(first, last, *vectors), positions // together, least
        )
    else:
        rest: tuple[Any, ...] = (requant.multiplier, requant.offset, requant.shift, requant.low, requant.high, out.flat)
        threads.share(lambda: lambda first, last: _requantize(first, last, x.flat, *rest), positions, least)
    return out


def add(
    a: FeatureMap, b: FeatureMap, factors: tuple[int, int], shift: int, low: int, high: int, *, narrow: bool
) -> FeatureMap:
    """clip((a * factors[0] + b * factors[1] + half) >> shift, low, high); no overflow is the caller's care.

    narrow: no sum passes 32 bits, and the shift is below 32.
    """
    out, half = FeatureMap.empty(a.shape, (low, high)), (1 << shift) >> 1
    if narrow and a.size % WORDS == 0:
        left, right, target = simd.addresses(a.flat, b.flat, out.flat)
        vectors = (left, a.small, right, b.small, factors, half, shift, low, high, target, out.small)
        threads.share(lambda: lambda first, last: _add_vectors(first, last, *vectors), a.size // WORDS, LEAST // WORDS)
    else:
        rest = (*factors, half, shift, low, high, out.flat)
        threads.share(lambda: lambda first, last: _add(first, last, a.flat, b.flat, *rest), a.size, LEAST)
    return out


def convolve(x: FeatureMap, weights: Int8, geometry: Geometry, largest: int) -> FeatureMap:
    """Integer convolution; weights: int8 [out, in, kh, kw]; no output passes `largest`, within 32 bits."""
    images, height, width, channels = x.shape
    outputs, out_h, out_w = geometry.output_shape((channels, height, width))
    out = FeatureMap.empty((images, out_h, out_w, outputs), (-max(largest, 1), max(largest, 1)))
    padded = -(-outputs // WORDS) * WORDS
    taps = np.zeros((geometry.kernel[0] * geometry.kernel[1], channels, padded), np.int32)
    taps[:, :, :outputs] = weights.astype(np.int32).transpose(2, 3, 1, 0).reshape(-1, channels, outputs)
    conv = (*geometry.kernel, *geometry.stride, *geometry.padding, out_h, out_w)
    source, kernel, target = simd.addresses(x.flat, taps, out.flat)

    def begin() -> Any:
        acc = np.empty(padded, np.int32)
        (where,) = simd.addresses(acc)
        rest = (source, x.small, (height, width, channels), conv, kernel, padded, where, target, outputs)
        return lambda first, last, kept=acc: _convolve(first, last, *rest)

    threads.share(begin, images * out_h * out_w, LEAST // (geometry.depth * outputs) + 1)
    return out
