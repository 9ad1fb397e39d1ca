"""Two profiles beside each other: is it the same die, has it drifted, which converters moved.

A converter is compared by two figures that are nearly independent: what its line gives in the middle of the range, LSB,
and its gain. The change that all share, with an interval from the scatter over converters, is drift. What is left of each
converter's change, over its standard errors, is chi-square with two degrees of freedom where it did not move; Holm's
adjustment accounts for all converters at all operating points. What trim registers were moved by in between is taken out,
at what a code is found to be worth (see pimchip.profile.shared).

Whether it is the same die the dies' own variation tells: the correlation over converters of both figures, standardized,
which of unrelated dies is 0 but for chance. Its p-value is that of Pearson's r under normal variation (Fisher 1915).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from pimchip.chip import ChipSpec, Mac
from pimchip.profile.model import Float, PointResult, code_positions
from pimchip.profile.multiple import holm
from pimchip.profile.shared import FEWEST, Change, Shared, shared
from pimchip.tails import chi2_sf, student_sf

ALPHA = 0.01
"""The chance that any converter of an unchanged die is said to have moved, at most, and that a drift is said to be."""
UNRELATED = 1e-4
"""Dies are the same where unrelated ones look as alike with a smaller chance."""


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
    chance. moved: converters, by number. lost, gained: those that have a line only before, and only after. offset_worth,
    gain_worth: of a trim code over its nominal step; None where registers were not moved by different amounts, so that the
    nominal step was taken."""

    mac: Mac
    converters: int
    middle: Change
    gain: Change
    drifted: bool
    moved: tuple[MovedAdc, ...]
    lost: tuple[int, ...]
    gained: tuple[int, ...]
    offset_worth: float | None
    gain_worth: float | None


@dataclass(frozen=True)
class Comparison:
    """What two profiles of one kind of chip say of each other, the second as the later one.

    correlation: over converters, of both figures. p_unrelated: the chance that unrelated dies are as alike. same: they are
    one die, as far as that tells; None with too few converters. converters: with a line in either, at any point. retrimmed:
    of these, whose registers hold other codes; None where the two do not state the same registers, and trim is taken to be
    as it was.
    """

    points: tuple[PointChange, ...]
    correlation: float
    p_unrelated: float
    same: bool | None
    converters: int
    retrimmed: int | None

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
    offsets and gains."""
    pairs = [(a, b) for a in before for b in after if a.mac == b.mac]
    adcs = len(pairs[0][0].gain) if pairs else 0
    moves = _moves(spec, trims, adcs)
    offsets, gains = moves or (np.zeros(adcs), np.zeros(adcs))
    found = [_changes(a, b, offsets, gains) for a, b in pairs]
    p = holm(np.concatenate([each.p for each in found])) if found else np.zeros(0)
    drifts = holm([each.shared_p for each in found]).tolist()
    points = tuple(
        _point(a, b, each, p[n * adcs : (n + 1) * adcs], drift <= ALPHA)
        for n, ((a, b), each, drift) in enumerate(zip(pairs, found, drifts, strict=True))
    )
    r, chance = _fingerprint(pairs, offsets, gains)
    some = np.zeros(adcs, bool)
    for a, b in pairs:
        some |= np.isfinite(a.gain) | np.isfinite(b.gain)
    retrimmed = None if moves is None else int((some & ((offsets != 0) | (gains != 0))).sum())
    return Comparison(points, r, chance, None if math.isnan(chance) else chance < UNRELATED, int(some.sum()), retrimmed)


@dataclass(frozen=True)
class _Changes:
    """[adcs], NaN where a line is missing: changes in the middle and of the gain, beside the shared ones, and p-values."""

    p: Float
    middle: Shared
    gain: Shared

    @property
    def shared_p(self) -> float:
        """The chance of what all share."""
        return min(2 * float(np.fmin(self.middle.p, self.gain.p)), 1.0)


def _moves(spec: ChipSpec, trims: tuple[Sequence[int], Sequence[int]], adcs: int) -> tuple[Float, Float] | None:
    """By how much registers were moved between the profiles, offsets in LSB and gains, at their nominal steps; None where
    the two do not state the same registers."""
    a, b = (np.asarray(codes, np.float64) for codes in trims)
    if len(a) != len(b):
        return None
    moved = np.zeros(2 * adcs)
    moved[: len(a)] = (b - a)[: 2 * adcs]
    return moved[:adcs] * spec.adc.trim_step, moved[adcs:] * spec.adc.gain_trim_step


def _centre(mac: Mac) -> float:
    """The input in the middle of the range, LSB."""
    return 0.0 if mac.signed else mac.levels / 2


def _middle(point: PointResult) -> tuple[Float, Float]:
    """What each line gives in the middle of the range, LSB, and its standard error, [adcs]."""
    at = _centre(point.mac)
    # The line's centre and slope are independent; offset is the line at 0, at a distance of `at` from the centre.
    variance = point.offset_se**2 - (at * point.gain_se) ** 2
    floor = point.threshold_se**2 / np.maximum(point.reachable.sum(axis=1), 1)
    return point.offset + point.gain * at, np.sqrt(np.maximum(variance, floor))


def _changes(a: PointResult, b: PointResult, offsets: Float, gains: Float) -> _Changes:
    """offsets, gains: by how much registers moved them, at their nominal steps."""
    middle, gain, at = _line_changes(a, b)
    middle_se, gain_se = np.hypot(_middle(a)[1], _middle(b)[1]), np.hypot(a.gain_se, b.gain_se)
    lines = np.isfinite(middle) & np.isfinite(gain) & np.isfinite(middle_se) & np.isfinite(gain_se)
    middle, gain, at = np.where(lines, middle, np.nan), np.where(lines, gain, np.nan), np.where(lines, at, 0.0)
    # A gain turns the line about the input 0.
    in_middle, in_gain = shared(middle, middle_se, (offsets, gains * at)), shared(gain, gain_se, (gains,))
    square = (in_middle.beside / np.hypot(middle_se, in_middle.se)) ** 2 + (
        in_gain.beside / np.hypot(gain_se, in_gain.se)
    ) ** 2
    known = np.isfinite(square)
    return _Changes(np.where(known, chi2_sf(np.where(known, square, 0.0), 2), np.nan), in_middle, in_gain)


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


def _point(a: PointResult, b: PointResult, found: _Changes, p: Float, drifted: bool) -> PointChange:
    with_line = np.isfinite(a.gain), np.isfinite(b.gain)
    measured = ~(a.flagged("not-measured") | b.flagged("not-measured"))
    moved = tuple(
        MovedAdc(int(j), float(found.middle.beside[j]), float(found.gain.beside[j]), float(p[j]))
        for j in np.flatnonzero(p <= ALPHA)
    )
    lost, gained = (tuple(np.flatnonzero(measured & x & ~y).tolist()) for x, y in (with_line, with_line[::-1]))
    return PointChange(
        a.mac,
        int((with_line[0] & with_line[1]).sum()),
        found.middle.change,
        found.gain.change,
        drifted,
        moved,
        lost,
        gained,
        found.middle.worth[0],
        found.gain.worth[0],
    )


def _fingerprint(pairs: Sequence[tuple[PointResult, PointResult]], offsets: Float, gains: Float) -> tuple[float, float]:
    """Correlation of both figures over converters at the first point, and its p-value; NaN with too few."""
    if not pairs:
        return math.nan, math.nan
    a, b = pairs[0]
    known = np.isfinite(a.gain) & np.isfinite(b.gain)
    if known.sum() < FEWEST:
        return math.nan, math.nan
    middle = _middle(b)[0] - offsets - _centre(b.mac) * gains
    own = [_middle(a)[0][known], a.gain[known]], [middle[known], (b.gain - gains)[known]]
    x, y = (np.concatenate([_standard(each) for each in side]) for side in own)
    r = float((x * y).sum() / math.sqrt(max(float((x * x).sum() * (y * y).sum()), 1e-300)))
    freedom = 2 * int(known.sum()) - 4  # two means were taken out
    t = r * math.sqrt(freedom / max(1 - r * r, 1e-15))
    return r, float(student_sf(t, freedom))


def _standard(values: Float) -> Float:
    centred = values - values.mean()
    return np.asarray(centred / max(float(np.sqrt((centred**2).mean())), 1e-12))
