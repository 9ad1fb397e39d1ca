"""Where noise and offsets come from, told by the ranges: the array's part is in volts, the converter's in LSB.

    sigma^2 = (sigma_array v)^2 + sigma_adc^2,    offset = offset_array v + offset_adc,    v = divisor * 2^(b - adc.bits)

v: what a volt at the array is worth at an operating point, against full resolution and range divisor 1. Of each converter
a weighted line through its squared noise figures, and through its offsets, over the points; and the mean over converters,
whose error is that of their scatter, or of the reads where there are few of them. Results are in LSB of the converter at
full resolution and range divisor 1.

An offset here is the mean of k - 1/2 - gain T_k over the transitions that all points with as many bits reach, without those
near the ends, and with one gain for all: so the curve adds as much to each, which goes to offset_adc, and nothing to
offset_array. Offsets of points of different bits hold other codes of the curve, so points of the most common bits are taken.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy.stats import chi2

from pimchip.characterize.array.estimate import NOTHING, Estimate, NotToldError
from pimchip.characterize.estimators import Z95, Float
from pimchip.chip import ChipSpec, Mac
from pimchip.profile import PointResult
from pimchip.profile.model import code_positions

_ENOUGH = 16
"""Converters whose scatter is taken for the error of their mean."""
_FEWEST = 8
"""Transitions that all points reach."""


@dataclass(frozen=True)
class Parts:
    """Two parts of a figure by converter. array, adc: float64 [adcs], NaN where not known; array_se, adc_se: of each.
    Of noise these are squares, LSB^2, which can come out below 0."""

    array: Float
    adc: Float
    array_se: Float
    adc_se: Float


@dataclass(frozen=True)
class Origins:
    """volts: v of each point. noise: squares, offset: LSB. noise_array, noise_adc: root mean square over converters, LSB.
    offset_array, offset_adc: standard deviation over converters, LSB, the estimates' own error taken off. p: the chance that
    noise at more than two points is off the line as far as it is, NaN at two. adcs: that are in it."""

    volts: tuple[float, ...]
    noise: Parts
    offset: Parts
    noise_array: Estimate
    noise_adc: Estimate
    offset_array: Estimate
    offset_adc: Estimate
    p: float
    adcs: int


def origins(spec: ChipSpec, points: Sequence[PointResult]) -> Origins:
    """Array and converter told apart over points of one chip that differ in range or bits.

    Raises InputError at one range, naming what would do.
    """
    volts = _volts(spec, points)
    if len(set(volts.tolist())) < 2:
        raise NotToldError(one_range(spec, [p.mac for p in points]))
    usable = np.asarray(np.all([np.isfinite(p.noise_lsb) & np.isfinite(p.offset) for p in points], axis=0))
    if not usable.any():
        raise NotToldError(
            "array and converters cannot be told apart: no converter has noise and offset at every range"
        )
    square = np.stack([p.noise_lsb**2 for p in points], axis=1)[usable]
    log_se = np.stack([np.log(p.noise_high / p.noise_low) / (2 * Z95) for p in points], axis=1)[usable]
    # Expected squares for the weights, the same for all converters: own ones would favour what came out low.
    square_se = 2 * square.mean(axis=0) * log_se
    noise, rest = _line(volts**2, square, square_se, len(usable), usable)
    alike = _alike(points)
    offset, offset_se = _offsets(alike)
    there = np.asarray(np.isfinite(offset).all(axis=1))
    by_offset, _ = _line(_volts(spec, alike), offset[there], offset_se[there], len(usable), there)
    # One gain for all points: its error moves all offsets alike, by as much as the range's middle is away from 0.
    gain_se = np.sqrt(np.sum([p.gain_se**2 for p in alike], axis=0)) / len(alike)
    by_offset = replace(by_offset, adc_se=np.hypot(by_offset.adc_se, gain_se * alike[0].mac.levels / 2))
    df = int(usable.sum()) * (len(points) - 2)
    return Origins(
        volts=tuple(volts.tolist()),
        noise=noise,
        offset=by_offset,
        noise_array=_mean(noise.array[usable], noise.array_se[usable]).root,
        noise_adc=_mean(noise.adc[usable], noise.adc_se[usable]).root,
        offset_array=_spread(by_offset.array[there], by_offset.array_se[there]),
        offset_adc=_spread(by_offset.adc[there], by_offset.adc_se[there]),
        p=float(chi2.sf(rest, df)) if df else float("nan"),
        adcs=int(usable.sum()),
    )


def _volts(spec: ChipSpec, points: Sequence[PointResult]) -> Float:
    return np.array([p.mac.range_divisor * 2.0 ** (p.mac.adc_bits - spec.adc.bits) for p in points])


def _alike(points: Sequence[PointResult]) -> list[PointResult]:
    """The points of the number of bits that has most ranges."""
    by_bits: dict[int, list[PointResult]] = {}
    for p in points:
        by_bits.setdefault(p.mac.adc_bits, []).append(p)
    return max(by_bits.values(), key=len)


def _offsets(points: Sequence[PointResult]) -> tuple[Float, Float]:
    """Offsets over common transitions and their standard errors, LSB, [adcs, points]; NaN where there are too few."""
    adcs = len(points[0].flags)
    offset, se = np.full((2, adcs, len(points)), np.nan)
    positions = code_positions(points[0].mac)
    for j in range(adcs):
        noise = np.array([p.noise_lsb[j] for p in points])
        if not np.isfinite(noise).all():
            continue
        common = np.flatnonzero(np.all([p.reachable[j] for p in points], axis=0))
        margin = int(np.ceil(4 * noise.max()))
        common = common[margin : len(common) - margin]
        if len(common) < _FEWEST:
            continue
        gain = np.mean([p.gain[j] for p in points])
        offset[j] = [np.mean(positions[common] - gain * p.thresholds[j, common]) for p in points]
        # The sum of transitions that share reads: D^2 times the variance of a code, over R, a level.
        alone = np.array([p.threshold_se[j] for p in points]) * gain / np.sqrt(len(common))
        se[j] = alone * np.sqrt(np.maximum((noise**2 + 1 / 12) * np.sqrt(np.pi) / noise, 1))
    return offset, se


def one_range(spec: ChipSpec, macs: Sequence[Mac]) -> str:
    """Why one range does not do, and what would."""
    offered = [d for d in spec.adc.range_divisors if d not in {mac.range_divisor for mac in macs}]
    mend = (
        f"measure a second range too (--range-divisor {offered[0]})"
        if offered
        else "measure fewer --adc-bits too, as the chip has one range"
    )
    return f"array and converters cannot be told apart at one range: {mend}"


def _line(x: Float, y: Float, se: Float, adcs: int, usable: NDArray[np.bool_]) -> tuple[Parts, float]:
    """Weighted lines y = array x + adc, row by row, and the sum of squared residuals in standard errors."""
    weight = 1 / se**2
    total = weight.sum(axis=1)
    centre = (weight * x).sum(axis=1) / total
    size = (weight * (x - centre[:, None]) ** 2).sum(axis=1)
    slope = (weight * (x - centre[:, None]) * y).sum(axis=1) / size
    base = (weight * y).sum(axis=1) / total - slope * centre
    rest = float((((y - base[:, None] - slope[:, None] * x) / se) ** 2).sum())

    def spread_out(values: Float) -> Float:
        out = np.full(adcs, np.nan)
        out[usable] = values
        return out

    slope_se, base_se = 1 / np.sqrt(size), np.sqrt(1 / total + centre**2 / size)
    return Parts(spread_out(slope), spread_out(base), spread_out(slope_se), spread_out(base_se)), rest


def _mean(values: Float, se: Float) -> Estimate:
    if len(values) >= _ENOUGH:
        return Estimate.of_mean(values)
    return Estimate.normal(float(values.mean()), float(np.sqrt((se**2).sum())) / len(values))


def _spread(values: Float, se: Float) -> Estimate:
    """Standard deviation over converters of what was estimated with errors `se`."""
    n = len(values)
    if n < 2:
        return NOTHING
    seen, own = float(values.var(ddof=1)), float((se**2).mean())
    low, high = ((n - 1) * seen / float(chi2.ppf(q, n - 1)) - own for q in (0.975, 0.025))
    return Estimate(seen - own, seen * (2 / (n - 1)) ** 0.5, low, high).root
