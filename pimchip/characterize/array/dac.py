"""Row drivers: what each input code adds beside its share of full drive, and whether rows add up.

Sets of random codes d in all rows in use, all with the same sum S: an ideal array gives the same code for each. What
differs is, in input counts,

    y_v = mean + sum_i w_i X_vi + sum_d n_vd delta_d + rest,      n_vd rows of the set at code d

by least squares over the sets, each macro by itself: w_i the rows' weights, as in rows, delta_d the error of code d, common to
the drivers of all rows. As sum_d d n_vd = S, an error in proportion to d is not seen, being gain: delta is 0 at the ends, the
end-point convention, and steps are delta_d - delta_(d-1). A driver of its own error shows in what is left over when that
row is at code d: one row at a time, from all sets.

Rows add up if the rest is no more than cells and noise make it: superposition. Its excess is tested against how much the
converters' rests differ (F test), after the drivers' codes and rows' weights are taken out.

What every row adds as soon as it is driven at all, an error that is the same for all codes above 0, is as much a load by
the number of rows in use: the same readings, and not told apart.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.stats import f, t

from pimchip.board import Board
from pimchip.characterize.array.estimate import Estimate, MeanSquare, NotToldError, component
from pimchip.characterize.array.reading import Reads, by_macro, check_dithered, draws, read
from pimchip.characterize.array.rows import SMALLEST
from pimchip.characterize.estimators import Float
from pimchip.characterize.measure import Clock
from pimchip.chip import Mac
from pimchip.errors import InputError

SETS_A_ROW = 4
"""Sets for each row in use: so many times more readings than unknowns."""
TOTALS = 4
"""Sums, about 1.3 LSB apart, from which the LSB a count are known, and which spread positions between codes."""
REPEATS = 4
_APART = 1.3
_FREE = 0.5
"""Sets that are left to tell a driver's own code by, at least."""
_TAG = 17


@dataclass(frozen=True)
class DacResult:
    """mac: where it was measured. sets, repeats: of each macro. cycles: array cycles spent. macros: which.

    error, error_se: float64 [2^dac_bits], delta of each code in DAC steps, mean over macros, 0 at the ends; intervals are
    error +- reach * error_se. step, step_se: float64 [2^dac_bits - 1], delta_(d+1) - delta_d: a step's error against the
    ideal one. max_error: the largest error's magnitude, and the interval of that code's.
    drivers, driver_se: float64 [macros, rows, 2^dac_bits], error of each row's own codes about the common one, DAC steps,
    and its standard error. worst_driver: macro, row and code of the largest, and the chance that sound drivers show as large a
    one anywhere.
    superposition: rms of what sets add beyond the sum of their rows, LSB; superposition_p: the chance of as much in a
    linear array; both NaN with one converter, whose own noise is then all there is.
    """

    mac: Mac
    sets: int
    repeats: int
    cycles: int
    macros: tuple[int, ...]
    error: Float
    error_se: Float
    step: Float
    step_se: Float
    reach: float
    max_error: Estimate
    drivers: Float
    driver_se: Float
    worst_driver: tuple[int, int, int]
    worst_driver_p: float
    superposition: Estimate
    superposition_p: float
    left_out: tuple[int, ...]

    @property
    def low(self) -> Float:
        """Lower end of each code's 95 % interval, DAC steps."""
        return self.error - self.reach * self.error_se

    @property
    def high(self) -> Float:
        """Upper end."""
        return self.error + self.reach * self.error_se


def measure_dac(
    board: Board,
    mac: Mac,
    *,
    adcs: Sequence[int] | None = None,
    sets: int | None = None,
    repeats: int = REPEATS,
    seed: int = 0,
    clock: Clock | None = None,
    tick: Callable[[], None] = lambda: None,
) -> DacResult:
    """Drivers' codes and superposition on the converters `adcs` (None: all). sets: of each macro, None for enough.

    Overwrites the cells. Raises InputError where nothing can be told: one DAC bit has no code between its ends.
    """
    spec = board.info().spec
    spec.check(mac)
    if mac.digit < 3:
        raise NotToldError(
            f"{mac.describe()}: with one DAC bit a row is off or full, and there is no code between them whose error "
            "could be told: measure with more DAC bits"
        )
    active = mac.rows // mac.range_divisor
    count = sets or SETS_A_ROW * (active + mac.digit)
    if count < active + mac.digit + TOTALS:
        raise InputError(
            f"sets = {count}: {active} rows and {mac.digit} codes want {active + mac.digit + TOTALS} or more"
        )
    if repeats < 2 or active < 4:
        raise InputError("drivers: 2 reads of each set and 4 rows in use at least are wanted")
    per_count = mac.levels * mac.range_divisor / (mac.rows * (mac.digit - 1))
    totals = active * (mac.digit - 1) // 2 + np.rint((np.arange(TOTALS) - (TOTALS - 1) / 2) * _APART / per_count)
    clock, found = clock or Clock(seed), []
    for macro, here in by_macro(spec, adcs):
        wanted = totals.astype(np.int64)[np.arange(count) % TOTALS]
        x = random_codes(wanted, active, mac, seed, _TAG + 16 * macro)
        found.append(read(board, mac, x, repeats, here, macro, clock))
        tick()
    check_dithered(found, mac)
    kept = tuple(one for one in found if len(one.adc))
    fits = [_fit(one, mac, active) for one in kept]
    weight = 1 / np.array([fit.delta_se**2 for fit in fits])
    error = (np.stack([fit.delta for fit in fits]) * weight).sum(axis=0) / weight.sum(axis=0)
    error_se = 1 / np.sqrt(weight.sum(axis=0))
    step = (np.stack([np.diff(_ends(fit.delta)) for fit in fits]) * _step_weights(fits)).sum(axis=0)
    step_se = np.sqrt(((_step_weights(fits) * np.stack([fit.step_se for fit in fits])) ** 2).sum(axis=0))
    df = sum(fit.df for fit in fits)
    reach = Estimate.normal(0.0, 1.0, df).high
    largest = int(np.abs(error).argmax())
    drivers = np.stack([fit.drivers for fit in fits])
    driver_se = np.stack([fit.driver_se for fit in fits])
    place = np.unravel_index(int(np.abs(drivers / driver_se).argmax()), drivers.shape)
    worst = float(abs(drivers[place]) / driver_se[place])
    p = min(2 * float(t.sf(worst, fits[int(place[0])].df)) * drivers.size, 1.0)
    rest = MeanSquare.pooled([(fit.rest.value * fit.rest.df, fit.rest.df) for fit in fits])
    single = MeanSquare.pooled([(fit.single.value * fit.single.df, fit.single.df) for fit in fits])
    return DacResult(
        mac=mac,
        sets=count,
        repeats=repeats,
        cycles=count * repeats * len(found),
        macros=tuple(one.macro for one in kept),
        error=_ends(error),
        error_se=_ends(error_se),
        step=step,
        step_se=step_se,
        reach=reach,
        max_error=Estimate(abs(float(error[largest])), *_about(float(error[largest]), float(error_se[largest]), reach)),
        drivers=drivers,
        driver_se=driver_se,
        worst_driver=(kept[int(place[0])].macro, int(place[1]), int(place[2])),
        worst_driver_p=p,
        superposition=component(rest, single, 1.0).root.times(per_count),
        superposition_p=float(f.sf(rest.value / single.value, rest.df, single.df)),
        left_out=tuple(adc for one in found for adc in one.left_out),
    )


def random_codes(totals: NDArray[np.int64], active: int, mac: Mac, seed: int, tag: int) -> NDArray[np.uint8]:
    """Random codes of `active` random rows that add up to each total, the others 0: uint8 [len(totals), mac.rows].

    Drawn evenly, then single steps in random rows make up for what is missing.
    """
    sets, top = len(totals), mac.digit - 1
    codes = (draws((sets, active), seed, tag).astype(np.int64) * mac.digit) >> 32
    order = draws((sets, active), seed, tag + 4).argsort(axis=1, kind="stable")
    missing = totals - codes.sum(axis=1)
    while missing.any():
        shuffled = np.take_along_axis(codes, order, axis=1)
        free = np.where(missing[:, None] > 0, shuffled < top, shuffled > 0)
        moved = free & (free.cumsum(axis=1) <= np.abs(missing)[:, None])
        np.put_along_axis(codes, order, shuffled + np.sign(missing)[:, None] * moved, axis=1)
        missing = totals - codes.sum(axis=1)
    if active == mac.rows:
        return codes.astype(np.uint8)
    rows = draws((sets, mac.rows), seed, tag + 8).argsort(axis=1, kind="stable")[:, :active]
    x = np.zeros((sets, mac.rows), np.int64)
    np.put_along_axis(x, rows, codes, axis=1)
    return x.astype(np.uint8)


@dataclass(frozen=True)
class _Fit:
    """Of one macro. delta, delta_se: [codes - 2]. step_se: [codes - 1]. rest, single: variances of a set's mean over
    columns, in counts: what is left over, and what single columns' scatter makes of it."""

    delta: Float
    delta_se: Float
    step_se: Float
    df: int
    drivers: Float
    driver_se: Float
    rest: MeanSquare
    single: MeanSquare


def _fit(reads: Reads, mac: Mac, active: int) -> _Fit:
    means = reads.codes.mean(axis=0, dtype=np.float64)
    total = reads.x.sum(axis=1, dtype=np.int64)
    level = np.unique(total, return_inverse=True)[1]
    by_adc = np.stack([reads.by_adc(means[level == k]).mean(axis=0) for k in range(TOTALS)])
    at = np.unique(total) - np.unique(total).mean()
    slope = ((at[:, None] * by_adc).sum(axis=0) / (at * at).sum())[reads.columns_of_adc]  # LSB a count
    counts = means / slope
    top, sets = mac.digit - 1, len(counts)
    at_code = np.stack([(reads.x == d).sum(axis=1) for d in range(1, top)], axis=1)
    # The last row's weight and one code too many would repeat what the sum says.
    rows = reads.x.astype(np.float64)
    design = np.concatenate([np.eye(TOTALS)[level], at_code, rows[:, :-1] - rows[:, -1:]], axis=1)
    inverse = np.linalg.pinv(design.T @ design, rcond=SMALLEST, hermitian=True)
    y = counts.mean(axis=1)
    solution = inverse @ (design.T @ y)
    residual = y - design @ solution
    df = sets - design.shape[1]
    scatter = float(residual @ residual) / df
    inner = slice(TOTALS, TOTALS + top - 1)
    covariance = scatter * inverse[inner, inner]
    delta = solution[inner]
    full = np.pad(covariance, 1)
    # What a converter adds by itself, by the scatter of converters: slow noise is common to the columns of one.
    own = reads.by_adc(counts - y[:, None])
    own = own - np.stack([own[level == k].mean(axis=0) for k in range(TOTALS)])[level]
    adcs = own.shape[1]
    single = MeanSquare(
        float((own**2).sum()) / ((sets - TOTALS) * (adcs - 1)) / adcs if adcs > 1 else math.nan,
        float((sets - TOTALS) * (adcs - 1)),
    )
    drivers, driver_se = _drivers(reads.x, residual, design, inverse, mac, scatter)
    return _Fit(
        delta,
        np.sqrt(np.diag(covariance)),
        np.sqrt(np.diag(full)[1:] + np.diag(full)[:-1] - 2 * np.diag(full, 1)),
        df,
        drivers,
        driver_se,
        MeanSquare(scatter, df),
        single,
    )


def _drivers(
    x: NDArray[np.uint8], residual: Float, design: Float, inverse: Float, mac: Mac, scatter: float
) -> tuple[Float, Float]:
    """The error of each row's own code, as if it were the only one, beside the model: float64 [rows, codes], and its standard
    error; 0 and infinite where a row was never at a code."""
    error, se = np.zeros((2, x.shape[1], mac.digit))
    for d in range(mac.digit):
        here = (x == d).astype(np.float64)
        fitted = design.T @ here
        free = here.sum(axis=0) - (fitted * (inverse @ fitted)).sum(axis=0)  # z' M z, M the residual maker
        with np.errstate(divide="ignore", invalid="ignore"):
            error[:, d] = np.where(free > _FREE, (here * residual[:, None]).sum(axis=0) / free, 0.0)
            se[:, d] = np.where(free > _FREE, np.sqrt(scatter / free), np.inf)
    return error, se


def _ends(inner: Float) -> Float:
    """With zeros at the first and the last code."""
    return np.pad(inner, 1)


def _step_weights(fits: Sequence[_Fit]) -> Float:
    weight = 1 / np.stack([fit.step_se**2 for fit in fits])
    return np.asarray(weight / weight.sum(axis=0))


def _about(error: float, se: float, reach: float) -> tuple[float, float, float]:
    """Standard error and interval of an error's magnitude."""
    low, high = abs(error) - reach * se, abs(error) + reach * se
    return se, max(low, 0.0), high
