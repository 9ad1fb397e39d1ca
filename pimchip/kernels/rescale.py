"""Requantization in vectors: how its integers are laid out for the kernels, and when they may use it."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from pimchip.chip.layers import Requant
from pimchip.kernels import simd
from pimchip.kernels.processor import WORDS

NONE = np.zeros(1, np.int64)
"""In place of a layout where nothing is requantized."""


def possible(requant: Requant, largest: int) -> bool:
    """True where values up to `largest` in magnitude may be requantized in vectors, exactly."""
    m, o = (int(np.abs(v).max(initial=0)) for v in (requant.multiplier, requant.offset))
    return requant.acc_max >= largest and m < 1 << 31 and m * largest + o < simd.RESCALE_BIAS


def layout(requant: Requant, repeat: int = 1) -> NDArray[np.int64]:
    """[6, channels, `repeat` times, padded to a multiple of WORDS]: offset, shift, bias, low, high; then words of multipliers."""
    multiplier, offset, shift = (np.tile(v, repeat) for v in (requant.multiplier, requant.offset, requant.shift))
    channels = -(-len(multiplier) // WORDS) * WORDS
    held = np.zeros((6, channels), np.int64)
    used = slice(len(multiplier))
    held[0, used], held[1, used] = offset + simd.RESCALE_BIAS, shift
    held[2, used] = simd.RESCALE_BIAS >> shift
    held[3], held[4] = requant.low, requant.high
    held[5].view(np.int32)[used] = multiplier
    return held


@simd.part
def rescaled(values, k, scale, channels):  # type: ignore[no-untyped-def]
    """A vector of values, of channels k.., requantized. scale: address of a layout of `channels`, padded."""
    return simd.rescale(
        values,
        simd.load_words(scale, 10 * channels + k),
        simd.load_longs(scale, k),
        simd.load_longs(scale, channels + k),
        simd.load_longs(scale, 2 * channels + k),
        simd.load_longs(scale, 3 * channels + k),
        simd.load_longs(scale, 4 * channels + k),
    )
