"""Rescaling and adding of whole maps, compiled: one pass over memory on all cores, exact in 64 bits."""

from __future__ import annotations

from typing import Any

import numba
import numpy as np

from pimchip.chip.layers import Requant
from pimchip.kernels import threads
from pimchip.kernels.maps import FeatureMap, fits_bytes

LEAST = 1 << 15
"""Values that are worth a call."""


@numba.njit(cache=True, nogil=True, error_model="numpy")
def _requantize(first, last, x, multiplier, offset, shift, low, high, out):  # type: ignore[no-untyped-def]
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
    """clip((x * multiplier + offset) >> shift, low, high) per channel; |x| within requant.acc_max is the caller's care."""
    out = FeatureMap.empty(x.shape, fits_bytes(requant.low, requant.high))
    rest: tuple[Any, ...] = (requant.multiplier, requant.offset, requant.shift, requant.low, requant.high, out.flat)
    channels = max(x.shape[3], 1)
    threads.share(
        lambda: lambda first, last: _requantize(first, last, x.flat, *rest), x.size // channels, LEAST // channels + 1
    )
    return out


def add(a: FeatureMap, b: FeatureMap, factors: tuple[int, int], shift: int, low: int, high: int) -> FeatureMap:
    """clip((a * factors[0] + b * factors[1] + half) >> shift, low, high); no overflow is the caller's care."""
    out = FeatureMap.empty(a.shape, fits_bytes(low, high))
    rest = (*factors, (1 << shift) >> 1, shift, low, high, out.flat)
    threads.share(lambda: lambda first, last: _add(first, last, a.flat, b.flat, *rest), a.size, LEAST)
    return out
