"""A profile in a few numbers, for tables and limits."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from pimchip.profile import PointResult, Profile

LEFT_OUT = "not-measured"
FATAL = ("stuck", "stuck-bit", "few-transitions")
"""Flags with which a converter has no result, and is in no mean; a converter that carries several is told by the first."""
SHOWN = 8
"""Converters that are named; of more, how many they are is said."""


@dataclass(frozen=True)
class PointSummary:
    """One operating point over its converters. LSB but for gain; spreads are standard deviations over converters.

    adcs: measured. left_out: of these, how many have no result (FATAL) and so are in no mean, spread or maximum. cycles,
    reads: array cycles and conversions in all.
    """

    adc_bits: int
    range_divisor: int
    adcs: int
    left_out: int
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
    in the default order. flagged: measured converters that carry a flag at any point, by flag.
    """

    points: tuple[PointSummary, ...]
    adcs: int
    reads: int
    max_inl_lsb: float | None
    noise_lsb: float | None
    half_width_lsb: float | None
    flagged: dict[str, tuple[int, ...]]

    @property
    def flags(self) -> dict[str, int]:
        """How many converters carry each flag."""
        return {flag: len(adcs) for flag, adcs in self.flagged.items()}

    @property
    def fatal(self) -> list[str]:
        """Flags found that leave a converter without a result."""
        return [flag for flag in FATAL if flag in self.flagged]

    @property
    def failures(self) -> list[str]:
        """Why the die cannot pass, a line a flag; empty where every converter has a result."""
        return [f"{flag}: {adcs_text(adcs)}" for flag, adcs in self.told.items() if flag in FATAL]

    @property
    def told(self) -> dict[str, tuple[int, ...]]:
        """flagged, for people: of a converter without a result the flag that says why, and none that follows from it."""
        out: dict[str, tuple[int, ...]] = {}
        explained: set[int] = set()
        for flag in (*FATAL, *(f for f in self.flagged if f not in FATAL)):
            adcs = tuple(adc for adc in self.flagged.get(flag, ()) if adc not in explained)
            out |= {flag: adcs} if adcs else {}
            explained |= set(adcs) if flag in FATAL else set()
        return out


def summarize(profile: Profile) -> Summary:
    """Means over the converters that gave a value; None where none did."""
    points = tuple(_point(p) for p in profile.points)
    carrying = {(adc, flag) for point in profile.points for adc, flags in enumerate(point.flags) for flag in flags}
    flagged: dict[str, list[int]] = {}
    for adc, flag in sorted(carrying):
        if flag != LEFT_OUT:
            flagged.setdefault(flag, []).append(adc)
    first = points[0]
    inl_known = any(np.isfinite(p.max_inl) for p in points)
    return Summary(
        points,
        max(p.adcs for p in points),
        sum(p.reads for p in points),
        _number(float(np.nanmax([p.max_inl for p in points], initial=-1.0))) if inl_known else None,
        _number(first.noise),
        _number(first.half_width),
        {flag: tuple(adcs) for flag, adcs in sorted(flagged.items())},
    )


def adcs_text(adcs: Sequence[int]) -> str:
    """ "1 converter (ADC 3)", "2 converters (ADC 3, 7)"; the first few by name."""
    named = ", ".join(map(str, adcs[:SHOWN]))
    more = ", ..." if len(adcs) > SHOWN else ""
    return f"{converters(len(adcs))} (ADC {named}{more})"


def converters(count: int) -> str:
    """A number of converters, in words that agree with it."""
    return "1 converter" if count == 1 else f"{count} converters"


def _point(point: PointResult) -> PointSummary:
    measured = ~point.flagged(LEFT_OUT)
    return PointSummary(
        point.mac.adc_bits,
        point.mac.range_divisor,
        int(measured.sum()),
        int(np.any([point.flagged(flag) for flag in FATAL], axis=0).sum()),
        _mean(point.gain),
        _spread(point.gain),
        _mean(point.offset),
        _spread(point.offset),
        float(np.nanmax(point.max_inl)) if np.isfinite(point.max_inl).any() else float("nan"),
        _mean(point.noise_lsb),
        point.rms_half_width,
        point.array_cycles or point.cycles * point.levels,
        point.all_reads or point.reads * point.levels * int(measured.sum()),
    )


def _mean(values: np.ndarray) -> float:
    known = values[np.isfinite(values)]
    return float(known.mean()) if known.size else float("nan")


def _spread(values: np.ndarray) -> float:
    known = values[np.isfinite(values)]
    return float(known.std(ddof=1)) if known.size > 1 else 0.0


def _number(value: float) -> float | None:
    return value if np.isfinite(value) else None
