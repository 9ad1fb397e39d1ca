"""A profile in a few numbers, for tables and limits."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import numpy as np

from pimchip.profile import PointResult, Profile

LEFT_OUT = "not-measured"
FATAL = ("stuck", "few-transitions")
"""Flags with which a converter has no result."""


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
    """A profile: points in the order measured.

    max_inl_lsb: the largest over all points. noise_lsb, half_width_lsb: of the first point, which is the widest range
    in the default order. flags: measured converters that carry a flag at any point, by flag.
    """

    points: tuple[PointSummary, ...]
    adcs: int
    reads: int
    max_inl_lsb: float | None
    noise_lsb: float | None
    half_width_lsb: float | None
    flags: dict[str, int]

    @property
    def fatal(self) -> list[str]:
        """Flags found that leave a converter without a result."""
        return [flag for flag in FATAL if flag in self.flags]


def summarize(profile: Profile) -> Summary:
    """Means over the converters that gave a value; None where none did."""
    points = tuple(_point(p) for p in profile.points)
    carrying = {(adc, flag) for point in profile.points for adc, flags in enumerate(point.flags) for flag in flags}
    flagged = Counter(flag for _, flag in carrying if flag != LEFT_OUT)
    first = points[0]
    inl_known = any(np.isfinite(p.max_inl) for p in points)
    return Summary(
        points,
        max(p.adcs for p in points),
        sum(p.reads for p in points),
        _number(float(np.nanmax([p.max_inl for p in points], initial=-1.0))) if inl_known else None,
        _number(first.noise),
        _number(first.half_width),
        dict(sorted(flagged.items())),
    )


def _point(point: PointResult) -> PointSummary:
    measured = ~point.flagged("not-measured")
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
        point.rms_half_width,
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
