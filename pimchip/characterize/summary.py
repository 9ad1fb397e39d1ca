"""A profile in a few numbers, for tables and limits."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import numpy as np

from pimchip.profile import PointResult, Profile


@dataclass(frozen=True)
class PointSummary:
    """One operating point over its converters. LSB but for gain; spreads are standard deviations over converters."""

    adc_bits: int
    range_divisor: int
    adcs: int
    gain: float
    gain_spread: float
    offset: float
    offset_spread: float
    max_inl: float
    noise: float
    half_width: float
    cycles: int
    reads: int


@dataclass(frozen=True)
class Summary:
    """A profile: points in the order measured. max_inl_lsb, noise_lsb, half_width_lsb: of the first point; flags: converters by flag."""

    points: tuple[PointSummary, ...]
    adcs: int
    reads: int
    max_inl_lsb: float | None
    noise_lsb: float | None
    half_width_lsb: float | None
    flags: dict[str, int]


def summarize(profile: Profile) -> Summary:
    """Means over the converters that gave a value; None where none did."""
    points = tuple(_point(p) for p in profile.points)
    flagged = Counter(flag for point in profile.points for flags in point.flags for flag in flags)
    first = points[0]
    return Summary(
        points,
        max(p.adcs for p in points),
        sum(p.reads for p in points),
        _number(first.max_inl),
        _number(first.noise),
        _number(first.half_width),
        dict(sorted(flagged.items())),
    )


def _point(point: PointResult) -> PointSummary:
    measured = ~point.flagged("not-measured")
    rms = np.sqrt(_mean(point.threshold_se**2))
    return PointSummary(
        point.mac.adc_bits,
        point.mac.range_divisor,
        int(measured.sum()),
        _mean(point.gain),
        _spread(point.gain),
        _mean(point.offset),
        _spread(point.offset),
        float(np.nanmax(point.max_inl)) if np.isfinite(point.max_inl).any() else float("nan"),
        _mean(point.noise_lsb),
        1.96 * float(rms),
        point.cycles * point.levels,
        point.reads * point.levels * int(measured.sum()),
    )


def _mean(values: np.ndarray) -> float:
    known = values[np.isfinite(values)]
    return float(known.mean()) if known.size else float("nan")


def _spread(values: np.ndarray) -> float:
    known = values[np.isfinite(values)]
    return float(known.std(ddof=1)) if known.size > 1 else 0.0


def _number(value: float) -> float | None:
    return value if np.isfinite(value) else None
