"""Two profiles beside each other: is it the same die, has it drifted, which converters moved.

A converter is compared by two figures that are nearly independent: what its line gives in the middle of the range, LSB,
and its gain. The change that all share, with an interval from the scatter over converters, is drift. What is left of each
converter's change, over its standard errors, is chi-square with two degrees of freedom where it did not move; Holm's
adjustment accounts for all converters at all operating points.

Whether it is the same die the dies' own variation tells: the correlation over converters of both figures, standardized,
which of unrelated dies is 0 but for chance. Its p-value is that of Pearson's r under normal variation (Fisher 1915).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pimchip.chip import ChipSpec, Mac
from pimchip.profile.model import Float, PointResult, code_positions
from pimchip.profile.multiple import holm
from pimchip.tails import chi2_sf, student_isf, student_sf

ALPHA = 0.01
"""The chance that any converter of an unchanged die is said to have moved, at most, and that a drift is said to be."""
UNRELATED = 1e-4
"""Dies are the same where unrelated ones look as alike with a smaller chance."""
STEP_OFF = 0.3
"""What a trim code is worth may be so far off what the chip's file says: it is measured by the two profiles themselves."""
FEWEST, FEWEST_TRIMMED = 3, 8
"""Converters with a line in both, for anything to be said of them together, and for what a trim code is worth."""


@dataclass(frozen=True)
class Change:
    """A change with its 95 % interval's half-width. NaN where too few converters have a line in both."""

    value: float
    half_width: float

    def __str__(self) -> str:
        return f"{self.value:+.4f} ± {self.half_width:.4f}"


@dataclass(frozen=True)
class MovedAdc:
    """A converter whose line changed more than the others'. middle: LSB, in the middle of the range, and gain: both beside
    what all share. p: adjusted for all converters and points."""

    adc: int
    middle: float
    gain: float
    p: float


@dataclass(frozen=True)
class PointChange:
    """One operating point. converters: with a line in both. middle, gain: what all share. drifted: one of these is no
    chance. moved: converters, by number. lost, gained: those that have a line only before, and only after."""

    mac: Mac
    converters: int
    middle: Change
    gain: Change
    drifted: bool
    moved: tuple[MovedAdc, ...]
    lost: tuple[int, ...]
    gained: tuple[int, ...]


@dataclass(frozen=True)
class Comparison:
    """What two profiles of one kind of chip say of each other, the second as the later one.

    correlation: over converters, of both figures. p_unrelated: the chance that unrelated dies are as alike. same: they are
    one die, as far as that tells; None with too few converters.
    """

    points: tuple[PointChange, ...]
    correlation: float
    p_unrelated: float
    same: bool | None

    @property
    def drifted(self) -> bool:
        """True where what all converters share changed, at any point."""
        return any(point.drifted for point in self.points)

    @property
    def moved(self) -> tuple[int, ...]:
        """Converters that moved, or have lost or gained a line, at any point."""
        return tuple(sorted({adc for p in self.points for adc in (*(m.adc for m in p.moved), *p.lost, *p.gained)}))

    @property
    def unchanged(self) -> bool:
        """True for the same die, as it was; False too where too few converters tell."""
        return self.same is True and not self.drifted and not self.moved


def compare_points(
    spec: ChipSpec,
    before: Sequence[PointResult],
    after: Sequence[PointResult],
    trims: tuple[Sequence[int], Sequence[int]] = ((), ()),
) -> Comparison:
    """Points that both measured, at the same operating point. trims: codes in the registers, whose steps are taken out of
    offsets and gains; those of one alone are not looked at."""
    pairs = [(a, b) for a in before for b in after if a.mac == b.mac]
    moved = [_changes(a, b, *(f(spec, trims, len(a.gain)) for f in (_trimmed, _gain_trimmed))) for a, b in pairs]
    p = holm(np.concatenate([each.p for each in moved])) if moved else np.zeros(0)
    points, at = [], 0
    shared = holm([each.shared_p for each in moved])
    for (a, b), each, drift in zip(pairs, moved, np.asarray(shared).tolist(), strict=True):
        adjusted = p[at : at + len(each.p)]
        at += len(each.p)
        points.append(_point(a, b, each, adjusted, drift <= ALPHA))
    r, chance = _fingerprint(pairs, _trimmed(spec, trims, len(pairs[0][0].gain)) if pairs else np.zeros(0))
    return Comparison(tuple(points), r, chance, None if math.isnan(chance) else chance < UNRELATED)


@dataclass(frozen=True)
class _Changes:
    """[adcs], NaN where a line is missing: changes in the middle and of the gain, beside the shared ones, and p-values."""

    middle: Float
    gain: Float
    p: Float
    shared: tuple[Change, Change]
    shared_p: float


def _trimmed(spec: ChipSpec, trims: tuple[Sequence[int], Sequence[int]], adcs: int) -> Float:
    """LSB by which the offsets were moved on purpose, between the profiles."""
    a, b = (np.asarray(codes, np.float64) for codes in trims)
    return (b - a)[:adcs] * spec.adc.trim_step if len(a) == len(b) >= adcs else np.zeros(adcs)


def _gain_trimmed(spec: ChipSpec, trims: tuple[Sequence[int], Sequence[int]], adcs: int) -> Float:
    """By which the gains were moved on purpose."""
    a, b = (np.asarray(codes[adcs:], np.float64) for codes in trims)
    return (b - a) * spec.adc.gain_trim_step if len(a) == len(b) == adcs else np.zeros(adcs)


def _middle(point: PointResult) -> tuple[Float, Float]:
    """What each line gives in the middle of the range, LSB, and its standard error, [adcs]."""
    at = 0.0 if point.mac.signed else point.mac.levels / 2
    # The line's centre and slope are independent; offset is the line at 0, at a distance of `at` from the centre.
    variance = point.offset_se**2 - (at * point.gain_se) ** 2
    floor = point.threshold_se**2 / np.maximum(point.reachable.sum(axis=1), 1)
    return point.offset + point.gain * at, np.sqrt(np.maximum(variance, floor))


def _changes(a: PointResult, b: PointResult, trimmed: Float, gain_trimmed: Float) -> _Changes:
    one_se, two_se = _middle(a)[1], _middle(b)[1]
    middle, gain, at = _line_changes(a, b)
    middle_se, gain_se = np.hypot(one_se, two_se), np.hypot(a.gain_se, b.gain_se)
    known = np.isfinite(middle) & np.isfinite(gain) & np.isfinite(middle_se) & np.isfinite(gain_se)
    if known.sum() < FEWEST:
        none = Change(math.nan, math.nan)
        return _Changes(middle, gain, np.full(len(middle), np.nan), (none, none), math.nan)
    gain, tilted = _without(np.where(known, gain, np.nan), gain_trimmed)
    # A gain turns the line about the input 0.
    middle, shifted = _without(np.where(known, middle, np.nan) - (1 + tilted.off) * gain_trimmed * at, trimmed)
    shared = [_shared(middle, shifted), _shared(gain, tilted)]
    beside = middle - shared[0][0].value, gain - shared[1][0].value
    square = (beside[0] / middle_se) ** 2 + (beside[1] / gain_se) ** 2
    p = np.where(known, chi2_sf(square, 2), np.nan)
    return _Changes(beside[0], beside[1], p, (shared[0][0], shared[1][0]), min(2 * min(s[1] for s in shared), 1.0))


def _line_changes(a: PointResult, b: PointResult) -> tuple[Float, Float, Float]:
    """Change of each line in the middle of its range, LSB, and of its gain, and where that middle was, LSB of input, [adcs],
    over the transitions known in both: over others the curve's ends would count in one line and not in the other."""
    apart = b.thresholds - a.thresholds
    used = ~np.isnan(apart)
    k = code_positions(a.mac)
    count = np.maximum(used.sum(axis=1), 1)
    centre = (used * k).sum(axis=1) / count
    from_centre = np.where(used, k - centre[:, None], 0.0)
    clean = np.where(used, apart, 0.0)
    size = np.maximum((from_centre**2).sum(axis=1), 1e-300)
    middle, tilt = clean.sum(axis=1) / count, (from_centre * clean).sum(axis=1) / size
    some = used.sum(axis=1) >= 2
    gain = a.gain / (1 + tilt * a.gain)  # of the line that b has now
    at = np.where(used, a.thresholds, 0.0).sum(axis=1) / count
    return np.where(some, -middle * gain, np.nan), np.where(some, -tilt * a.gain * gain, np.nan), at


_OUTLYING = 4.0
_MAD = 1.4826


@dataclass(frozen=True)
class _Step:
    """What a step of a register was found to be. off: over the nominal one, less 1. spread: by how much the variance of a
    mean over converters is larger for not knowing it; fitted: figures taken from them beside the mean."""

    off: float = 0.0
    spread: float = 1.0
    fitted: int = 0


def _without(values: Float, trimmed: Float) -> tuple[Float, _Step]:
    """Changes, NaN where unknown, without those that were made on purpose, and what a step of these was.

    A real step is not the nominal one, and a line bends what it is worth: off by 0.5 % it looks like a drift of all, since
    means are known to a thousandth of an LSB. Codes that moved by different amounts tell it: the slope of changes over codes,
    by least squares over converters that do not lie far off. Where all moved alike the nominal step stands.
    """
    values = values - trimmed
    known = np.isfinite(values)
    kept, off = known & _near(values), 0.0
    for _ in range(3):  # so that one that moved does not tilt what all share
        t = trimmed[kept]
        about = t - t.mean() if kept.any() else t
        size = float((about**2).sum())
        if len(t) < FEWEST_TRIMMED or size <= 0:
            return values, _Step()
        off = float((about * values[kept]).sum() / size)
        kept = known & _near(values - off * trimmed)
    off = min(max(off, -STEP_OFF), STEP_OFF)
    return values - off * trimmed, _Step(off, 1 + len(t) * float(t.mean()) ** 2 / size, 1)


def _near(values: Float) -> NDArray[np.bool_]:
    """Which of the values, NaN where unknown, are not far off the rest."""
    apart = np.abs(values - np.nanmedian(values))
    return np.asarray(apart <= _OUTLYING * max(_MAD * float(np.nanmedian(apart)), 1e-12))


def _shared(values: Float, step: _Step) -> tuple[Change, float]:
    """Mean over converters without those far off the rest, its half-width, and its two-sided p-value."""
    kept = values[_near(values)]  # so that one that moved does not move what all share
    freedom = len(kept) - 1 - step.fitted
    se = float(kept.std(ddof=1 + step.fitted)) * math.sqrt(step.spread / len(kept)) if freedom > 0 else 0.0
    mean, freedom = float(kept.mean()), max(freedom, 1)
    p = float(2 * student_sf(abs(mean) / se, freedom)) if se > 0 else float(mean == 0)
    return Change(mean, float(student_isf(0.025, freedom)) * se), p


def _point(a: PointResult, b: PointResult, found: _Changes, p: Float, drifted: bool) -> PointChange:
    with_line = np.isfinite(a.gain), np.isfinite(b.gain)
    measured = ~(a.flagged("not-measured") | b.flagged("not-measured"))
    moved = tuple(
        MovedAdc(int(j), float(found.middle[j]), float(found.gain[j]), float(p[j])) for j in np.flatnonzero(p <= ALPHA)
    )
    lost, gained = (tuple(np.flatnonzero(measured & x & ~y).tolist()) for x, y in (with_line, with_line[::-1]))
    return PointChange(a.mac, int((with_line[0] & with_line[1]).sum()), *found.shared, drifted, moved, lost, gained)


def _fingerprint(pairs: Sequence[tuple[PointResult, PointResult]], trimmed: Float) -> tuple[float, float]:
    """Correlation of both figures over converters at the first point, and its p-value; NaN with too few."""
    if not pairs:
        return math.nan, math.nan
    a, b = pairs[0]
    known = np.isfinite(a.gain) & np.isfinite(b.gain)
    if known.sum() < FEWEST:
        return math.nan, math.nan
    own = [_middle(a)[0][known], a.gain[known]], [(_middle(b)[0] - trimmed)[known], b.gain[known]]
    x, y = (np.concatenate([_standard(each) for each in side]) for side in own)
    r = float((x * y).sum() / math.sqrt(max(float((x * x).sum() * (y * y).sum()), 1e-300)))
    freedom = 2 * int(known.sum()) - 4  # two means were taken out
    t = r * math.sqrt(freedom / max(1 - r * r, 1e-15))
    return r, float(student_sf(t, freedom))


def _standard(values: Float) -> Float:
    centred = values - values.mean()
    return np.asarray(centred / max(float(np.sqrt((centred**2).mean())), 1e-12))
