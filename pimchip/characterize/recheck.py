"""Is a profile still true of its die: a few levels on every converter, compared with what the profile predicts there.

At each of LEVELS sums over the range the mean code is predicted from the profile's thresholds and noise, code_min +
sum_k Phi((u - T_k) / sigma), and measured from a few array cycles. The differences of a converter are fitted by a shift
in the middle of the range and a change of gain; both in units of their standard errors, of reads and of the profile
together, beyond TOLERATED LSB, are tested for every converter, with Holm's adjustment. What all converters share is tested
apart.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import ndtr

from pimchip.board import Board
from pimchip.board.restarts import through_restarts
from pimchip.board.trims import set_trim
from pimchip.characterize.curve import local_slope
from pimchip.characterize.estimators import Float
from pimchip.characterize.measure import Clock, columns_of
from pimchip.characterize.stimulus import inputs
from pimchip.chip import ChipSpec, Mac, Tile
from pimchip.chip.mac import Int64
from pimchip.errors import InputError
from pimchip.profile import PointResult, Profile
from pimchip.profile.model import ideal_inputs
from pimchip.profile.multiple import holm
from pimchip.profile.shared import Change
from pimchip.profile.tables import constant_codes
from pimchip.tails import normal_isf, normal_sf, student_isf, student_sf

ALPHA = 0.01
"""The chance that a check calls an unchanged die stale, at most: half of it each for single converters and for all."""
LEVELS = 48
READS = 16
"""Of a converter at a level, at least."""
TOLERATED = 0.1
"""LSB: shifts that are no harm, as the half-width that profiles are measured to."""
ONE_SIDED_99 = 2.3263478740408408
_MARGIN = 4.0
"""LSB from the ends of the codes, where a shift hardly shows."""

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Shifted:
    """A converter that is not as its profile says. shift: the largest over its range, LSB; NaN for one that now gives one
    code, or no longer does. p: adjusted for all converters and points."""

    adc: int
    mac: Mac
    shift: float
    p: float


@dataclass(frozen=True)
class Recheck:
    """What a check found. shifted: converters, one entry a point. middle, gain: what all share, at the first point.

    finds: LSB, a shift of one converter that is found with a chance of 99 %; finds_common: one that all share.
    unchecked: converters that the profile has no curve of. cycles: array cycles.
    """

    shifted: tuple[Shifted, ...]
    middle: Change
    gain: Change
    drifted: bool
    finds: float
    finds_common: float
    converters: int
    unchecked: tuple[int, ...]
    cycles: int

    @property
    def stale(self) -> bool:
        """True where the profile no longer holds."""
        return bool(self.shifted) or self.drifted


@dataclass(frozen=True)
class _Point:
    """One operating point: [adcs] of converters with a curve: shift in the middle and change of gain over the range's
    half, LSB, with standard errors; p against TOLERATED. constant: converters that gave one code, or give it now, wrongly."""

    mac: Mac
    adcs: Int64
    middle: Float
    middle_se: Float
    tilt: Float
    tilt_se: Float
    constant: tuple[int, ...]
    cycles: int

    @property
    def p(self) -> Float:
        """The larger of the two, doubled for two tests of two sides."""
        z = [(np.abs(v) - TOLERATED) / se for v, se in ((self.middle, self.middle_se), (self.tilt, self.tilt_se))]
        return np.asarray(np.minimum(4 * normal_sf(np.maximum(*z)), 1.0))

    @property
    def largest(self) -> Float:
        """Of the shift over the range, LSB, with its sign."""
        ends = np.stack([self.middle - self.tilt, self.middle + self.tilt])
        at = np.abs(ends).argmax(axis=0)
        return np.asarray(np.take_along_axis(ends, at[None], axis=0)[0])


def recheck(
    board: Board,
    profile: Profile,
    *,
    seed: int = 0,
    macs: Sequence[Mac] | None = None,
    progress: Progress | None = None,
) -> Recheck:
    """Check a profile's die in some array cycles; programs the trim of the profile, overwrites the array.

    seed: of the levels' rows and the noise indices. macs: only the points that serve these. progress: called with
    macros done and macros in all. Raises InputError for another die, DeviceError when the board fails.
    """
    info = board.info()
    profile.check_board(info.uid, info.spec)
    set_trim(board, profile.trim)
    clock, spec = Clock(seed), info.spec
    wanted = list(profile.points) if macs is None else list({id(p): p for p in map(profile.serving, macs)}.values())
    macros = spec.array.macros * len(wanted)
    done = 0

    def tick() -> None:
        nonlocal done
        done += 1
        if progress:
            progress(done, macros)

    raw = profile.raw()
    points = [
        _check(board, spec, point, constant_codes(point, counts), clock, seed, tick)
        for point, counts in zip(profile.points, raw, strict=True)
        if any(point is each for each in wanted)
    ]
    p = holm(np.concatenate([point.p for point in points]))
    shifted, at = [], 0
    for point in points:
        for j, adc in enumerate(point.adcs.tolist()):
            chance = float(p[at + j])
            if chance <= ALPHA / 2:
                shifted.append(Shifted(adc, point.mac, float(point.largest[j]), chance))
        at += len(point.adcs)
        shifted += [Shifted(adc, point.mac, math.nan, 0.0) for adc in point.constant]
    first = points[0]
    shared = [_shared(first.middle), _shared(first.tilt)]
    half = first.mac.levels if first.mac.signed else first.mac.levels / 2
    drifted = any(chance <= ALPHA / 4 for _, chance, _ in shared)
    critical = float(normal_isf(ALPHA / 8 / max(len(p), 1))) + ONE_SIDED_99
    worst = max((float(point.middle_se.max()) for point in points if len(point.adcs)), default=math.nan)
    known = np.isfinite(wanted[0].gain) & ~wanted[0].flagged("not-measured")
    constant = wanted[0].flagged("stuck")
    return Recheck(
        tuple(shifted),
        shared[0][0],
        Change(shared[1][0].value / half, shared[1][0].half_width / half),
        drifted,
        TOLERATED + critical * worst,
        shared[0][2],
        int(known.sum()),
        tuple(np.flatnonzero(~known & ~constant).tolist()),
        sum(point.cycles for point in points),
    )


def _shared(values: Float) -> tuple[Change, float, float]:
    """Mean over converters with its half-width, its p-value, and the size found with 99 %."""
    if len(values) < 3:
        return Change(math.nan, math.nan), 1.0, math.nan
    freedom, se = len(values) - 1, float(values.std(ddof=1)) / math.sqrt(len(values))
    mean = float(values.mean())
    p = float(2 * student_sf(abs(mean) / se, freedom)) if se > 0 else float(mean == 0)
    finds = se * float(student_isf(ALPHA / 8, freedom) + student_isf(0.01, freedom))
    return Change(mean, float(student_isf(0.025, freedom)) * se), p, finds


def _check(
    board: Board,
    spec: ChipSpec,
    point: PointResult,
    constants: dict[int, int],
    clock: Clock,
    seed: int,
    tick: Callable[[], None],
) -> _Point:
    mac = point.mac
    sums = _sums(mac)
    usable = np.isfinite(point.gain) & np.isfinite(point.noise_lsb)
    repeats = -(-READS // spec.columns_per_adc)
    fitted: list[tuple[float, float, float, float]] = []
    who: list[int] = []
    wrong: list[int] = []
    for macro in range(spec.array.macros):
        adcs = np.arange(spec.adc.per_macro) + macro * spec.adc.per_macro
        adcs = adcs[usable[adcs] | point.flagged("stuck")[adcs]]
        if len(adcs):
            codes = through_restarts(lambda a=adcs, m=macro: _read(board, spec, mac, sums, m, a, repeats, clock, seed))  # type: ignore[misc]
            for adc, own in zip(adcs.tolist(), codes, strict=True):
                one = bool(np.all(own == own[0, 0]))
                if adc in constants or one:
                    wrong += [adc] if not one or own[0, 0] != constants.get(adc) else []
                    continue
                fitted.append(_fitted(own, point, adc, sums))
                who.append(adc)
        tick()
    cycles = len(sums) * repeats * spec.array.macros
    middle, middle_se, tilt, tilt_se = np.array(fitted, np.float64).reshape(-1, 4).T
    return _Point(mac, np.array(who, np.int64), middle, middle_se, tilt, tilt_se, tuple(wrong), cycles)


def _sums(mac: Mac) -> Int64:
    """Column sums over the range, rising, none of them a whole number of codes from another on purpose."""
    top = mac.rows * (mac.digit - 1) // mac.range_divisor
    share = (np.arange(LEVELS) + (np.arange(LEVELS) * 0.6180339887498949) % 1) / LEVELS
    total = np.rint((2 * share - 1 if mac.signed else share) * top).astype(np.int64)
    return np.asarray(np.unique(total) * mac.cell_max)


def _read(
    board: Board, spec: ChipSpec, mac: Mac, sums: Int64, macro: int, adcs: Int64, repeats: int, clock: Clock, seed: int
) -> Int64:
    """Codes int64 [adcs, sums, reads] of a macro's converters."""
    columns = columns_of(spec, macro, adcs.tolist())
    tile = Tile(macro, 0, int(columns.min()), mac.rows, int(columns.max() - columns.min()) + 1)
    parts = []
    for sign in (-1, 1):
        own = sums[sums < 0] if sign < 0 else sums[sums >= 0]
        if len(own):
            full = np.full((tile.rows, tile.columns), sign * mac.cell_max, np.int8)
            board.program_verified(tile, full, mac=mac)
            run = clock.take(len(own) * repeats)
            codes = board.convert(tile, inputs(own, mac, seed), repeats, mac=mac, run=run)
            parts.append(codes[:, :, columns - tile.column])
    joined = np.concatenate(parts, axis=1)
    return joined.transpose(2, 1, 0, 3).reshape(len(adcs), joined.shape[1], -1).astype(np.int64)


def _fitted(codes: Int64, point: PointResult, adc: int, sums: Int64) -> tuple[float, float, float, float]:
    """Shift in the middle of the range, and at its end beside that, LSB of code, each with its standard error."""
    mac = point.mac
    known = ~np.isnan(point.thresholds[adc])
    thresholds = point.thresholds[adc][known]
    lowest = mac.code_min + int(known.argmax())
    slope = float(np.nanmedian(local_slope(point.thresholds[adc][None])[0]))
    sigma = max(float(point.noise_lsb[adc]) * slope, 1e-6)
    u = ideal_inputs(sums, mac)
    predicted = lowest + ndtr((u[:, None] - thresholds) / sigma).sum(axis=1)
    highest = lowest + len(thresholds)
    inside = (predicted > lowest + _MARGIN) & (predicted < highest - _MARGIN)
    if inside.sum() < 4:
        raise InputError(f"ADC {adc}: too few codes to check at {mac.describe()}: characterize it again")
    apart = (codes.mean(axis=1) - predicted)[inside]
    x = u[inside] / (mac.levels if mac.signed else mac.levels / 2) - (0.0 if mac.signed else 1.0)
    # A read scatters by its noise and by where between two codes it lies; the profile's thresholds by their error.
    each = codes.var(axis=1, ddof=1)[inside].mean() / codes.shape[1] + point.threshold_se[adc] ** 2
    centre = x.mean()
    size = float(((x - centre) ** 2).sum())
    tilt = float(((x - centre) * apart).sum()) / size
    shift = float(apart.mean()) - tilt * float(centre)
    # Neighbouring levels share thresholds' errors hardly; the line's centre is known best.
    return shift, math.sqrt(each * (1 / len(x) + centre**2 / size)), tilt, math.sqrt(each / size)
