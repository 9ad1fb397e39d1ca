"""From a real affine map per channel to exact integers: out = (acc * multiplier + offset) >> shift.

Stated error: with out_real = a * acc + b in output units, the integer before clipping differs from out_real by at most
1/2 + (acc_max + 1) * 2^-(shift + 1), the half being the rounding to an integer that any quantizer does. Shifts
are as large as 31-bit multipliers and 62-bit products allow: where the multiplier is what limits the shift, the second
term is below (acc_max + 1) * |a| * 2^-30. A slope that passes more than the range in a step of the accumulator, as of a map
that was 0 on all images, is replaced by a gentler one that crosses it at the same place: exact after clipping.
"""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray

from pimchip.chip.layers import REQUANT_SHIFT_MAX, Requant
from pimchip.errors import CompileError

MULTIPLIER_BITS = 31


def requantization(
    a: NDArray[np.float64], b: NDArray[np.float64], *, low: int, high: int, acc_max: int, name: str = "requantization"
) -> Requant:
    """Integers for out = round(a * acc + b), half up, clipped; a, b: float64 [channels] in output units an accumulator.

    Raises CompileError where a channel's slope or offset is too large for 64-bit products, naming it.
    """
    multipliers, offsets, shifts = [], [], []
    for channel, (slope, intercept) in enumerate(zip(a.tolist(), b.tolist(), strict=True)):
        given = f"slope {slope:.3g} and offset {intercept:.3g}"
        if not (math.isfinite(slope) and math.isfinite(intercept)):
            raise CompileError(f"{name}: channel {channel} has {given}; is a BN variance zero or NaN?")
        if abs(slope) > high - low + 2:
            slope, intercept = _gentler(slope, intercept, low, high, acc_max)
        shift = REQUANT_SHIFT_MAX
        while shift > 0 and not _fits(slope, intercept, shift, acc_max):
            shift -= 1
        if not _fits(slope, intercept, shift, acc_max):
            raise CompileError(f"{name}: channel {channel} has {given}, out of 64-bit range")
        multipliers.append(round(math.ldexp(slope, shift)))
        offsets.append(round(math.ldexp(intercept, shift)) + ((1 << shift) >> 1))
        shifts.append(shift)
    return Requant(
        np.array(multipliers, np.int64), np.array(offsets, np.int64), np.array(shifts, np.int64), low, high, acc_max
    )


def _gentler(slope: float, intercept: float, low: int, high: int, acc_max: int) -> tuple[float, float]:
    """Of a slope that passes more than the range in a step: whole numbers that give the same after clipping. At most one
    accumulator, n, gives what lies within the range; on its two sides are the range's ends."""
    a, b = Fraction(slope), Fraction(intercept)
    n = min(max(round((Fraction(low + high, 2) - b) / a), -acc_max), acc_max)
    middle = min(max(math.floor(a * n + b + Fraction(1, 2)), low), high)
    step = (1 if a > 0 else -1) * (max(abs(low), abs(high)) + abs(middle) + 1)
    return float(step), float(middle - step * n)


def _fits(slope: float, intercept: float, shift: int, acc_max: int) -> bool:
    if abs(slope) >= 1 << MULTIPLIER_BITS or abs(intercept) >= 1 << 62:
        return False  # at no shift, and ldexp could overflow
    multiplier, offset = abs(math.ldexp(slope, shift)), abs(math.ldexp(intercept, shift)) + 2.0**shift
    return multiplier < 1 << MULTIPLIER_BITS and multiplier * acc_max + offset < 2.0**62


def affine(
    norm: dict[str, NDArray[np.float64]], unit: float, eps: float
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """(a, b) in real units: real = a * acc + b, of a normalization's tensors; float64 [channels]."""
    with np.errstate(divide="ignore", invalid="ignore"):  # requantization() refuses what is not finite, by channel
        slope = norm["gamma"] / np.sqrt(norm["var"] + eps)
        return slope * unit, norm["beta"] + (norm["bias"] - norm["mean"]) * slope
