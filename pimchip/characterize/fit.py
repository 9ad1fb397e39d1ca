"""From raw counts to thresholds, gain, offset, curve and noise of every converter. The same counts give the same bits.

Sums run along fixed axes, never through a matrix product whose order of addition depends on the number of threads.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from numpy.typing import NDArray

from pimchip.characterize import estimators
from pimchip.characterize.bands import pooled_by_code, quantiles
from pimchip.characterize.curve import SLOPE_WINDOW, inner, local_slope, unsmooth, widening
from pimchip.characterize.drift import steadied
from pimchip.characterize.ends import CODE_VARIANCE, VARIANCE, at_the_ends, local, outer, zone
from pimchip.characterize.ends import allowance as kinks
from pimchip.characterize.estimators import BIAS_SHARE, Z95, Float
from pimchip.characterize.line import line, widths
from pimchip.characterize.noise import Window, fit_noise
from pimchip.characterize.staircase import Block, block_of, freedom_of_scatter, scatter, sparsity
from pimchip.chip.stuck import stuck_bits
from pimchip.kernels.threads import count as thread_count
from pimchip.profile import Counts, PointResult
from pimchip.profile.model import (
    ADDED_ARRAYS,
    FLAGS,
    HALF_WIDTH_SE,
    MIN_TRANSITIONS,
    OUTER,
    RESULT_ARRAYS,
    result_shape,
)

BLOCK, MOST_THREADS = 32, 8
"""Converters fitted at once, and blocks of them; bounds the memory."""
_CLEARANCE = 3.0
"""A threshold is given when the levels go on for this many sigma on both sides of it."""
_END_SHARE = 0.02
"""Share of reads on the wrong side that the outermost levels may show."""
_CUT_SHARE = 0.1
"""The part of a transition beyond the last level may bias its threshold by this share of the standard error."""
_SMALLEST_SLOPE = 0.05
"""LSB of input an LSB of code; a missing code must not bring the local slope to nothing."""
_ROUGH_SE = 0.1
_SURE = 4.5
"""Standard errors of a drift that is taken for one; of 10,000 steady converters less than one shows it."""
_LARGEST_SE = 0.5
"""A standard error of log sigma above this is no noise figure."""
_Fitted = tuple[dict[str, Float], dict[str, NDArray[np.bool_]]]
"""Figures and flags by name, of a block of converters."""


def fit(counts: Counts, *, rough: bool = False, lines: bool = True) -> PointResult:
    """Fit one operating point; see PointResult for the definitions. A function of the counts alone.

    rough: noise from the width of the transitions, without likelihood, at a fifth of the time. lines: False leaves lines,
    widths of codes and intervals out, NaN, and the flag missing-codes; with rough, at a tenth of the time: for planning.
    """
    adcs = len(counts.base)
    measured = np.flatnonzero(counts.measured)
    flags: list[tuple[str, ...]] = [("not-measured",)] * adcs
    arrays: dict[str, Float] = {}
    blocks = [measured[first : first + BLOCK] for first in range(0, len(measured), BLOCK)]
    for who, (found, raised) in zip(
        blocks, _over(lambda who: _fit_block(counts, who, rough, lines), blocks), strict=True
    ):
        for name, values in found.items():
            if name not in arrays:
                arrays[name] = np.full((adcs, *values.shape[1:]), np.nan)
            arrays[name][who] = values
        for i, j in enumerate(who):
            flags[j] = tuple(flag for flag in FLAGS if flag in raised and raised[flag][i])
    return PointResult(
        mac=counts.mac,
        flags=tuple(flags),
        reads=counts.reads,
        cycles=counts.cycles,
        levels=len(counts.levels),
        step=counts.step,
        array_cycles=counts.array_cycles,
        all_reads=int(counts.reads_at.sum()) if counts.array_cycles else 0,
        **{name: arrays[name] if name in arrays else _nothing(name, counts) for name in RESULT_ARRAYS},
        **{name: arrays[name] for name in ADDED_ARRAYS if name in arrays},
    )


def _nothing(name: str, counts: Counts) -> Float:
    return np.full(result_shape(name, len(counts.base), counts.mac), np.nan)


def _over(work: Callable[[NDArray[np.intp]], _Fitted], blocks: Sequence[NDArray[np.intp]]) -> list[_Fitted]:
    """The work on each block, on as many threads as compiled code may use, up to MOST_THREADS; which does which changes nothing."""
    threads = min(thread_count(), MOST_THREADS, len(blocks))
    if threads < 2:
        return [work(who) for who in blocks]
    with ThreadPoolExecutor(threads) as pool:
        return list(pool.map(work, blocks))


def _fit_block(counts: Counts, who: NDArray[np.intp], rough: bool, lines: bool) -> _Fitted:
    block = block_of(counts, who)
    step, top = block.step, float(block.u[-1])

    share_sum = block.at_or_above(block.share)
    thresholds = estimators.spearman_karber(share_sum, top, step)
    own = scatter(block)
    whole = _settled(block)
    sigma_first, moving = _first_sigma(block, share_sum, own, whole)
    reachable = _reachable(block, thresholds, sigma_first) & whole
    count = reachable.sum(axis=1)
    # Transitions that all fall on one place are a step, not a line.
    apart = np.where(reachable, thresholds, -np.inf).max(axis=1) - np.where(reachable, thresholds, np.inf).min(axis=1)
    enough = (count >= MIN_TRANSITIONS) & (apart >= step)

    known = np.where(reachable & enough[:, None], thresholds, np.nan)
    uneven = local_slope(known) * (1.0 if rough else sparsity(block, known, sigma_first))
    by_code, _ = pooled_by_code(own, reachable, uneven)
    start = np.where(moving & enough, sigma_first, np.nan)
    sigma, log_se = (start, np.full(len(start), _ROUGH_SE)) if rough else _noise(block, known, start)
    unclear = ~(log_se < _LARGEST_SE)
    sigma, log_se = np.where(unclear, np.nan, sigma), np.where(unclear, np.nan, log_se)

    bias = estimators.step_bias(step, np.where(unclear, 0.0, sigma))
    pooled = (by_code * reachable).sum(axis=1) / np.maximum(count, 1)
    coarse = enough & (bias > BIAS_SHARE * np.sqrt(pooled))
    summed = known
    known, wider, codes_wider = unsmooth(summed, sigma, errors=lines)
    beyond = (np.full((block.adcs, 2 * OUTER), np.nan),) * 2
    if rough:
        allowance = np.zeros(known.shape)
    else:
        near = zone(reachable & ~np.isnan(known), sigma)
        alone = local(block, known, local_slope(known), sigma, near)
        allowance = kinks(alone - summed, np.sqrt(by_code), sigma)
        known, wider = np.where(near, alone, known), np.where(near, VARIANCE**0.5, wider)
        beyond = outer(block, known, local_slope(known), sigma)
        codes_wider = np.where(near | np.roll(near, -1, axis=1), CODE_VARIANCE**0.5, codes_wider)
    pooled, by_code = pooled * widening(sigma) ** 2, by_code * wider**2
    steady = steadied(counts.drift[who], counts.when[who], block.u, step, known, sigma, local_slope(known))
    known, by_code = known + steady.shift, by_code + steady.variance
    pooled = pooled + (steady.variance * reachable).sum(axis=1) / np.maximum(count, 1)
    sigma, log_se = sigma * steady.noise, np.hypot(log_se, steady.log_se)
    for_bias = np.where(coarse, bias, 0.0)
    found: dict[str, Float] = {}
    if lines:
        found = line(block, known, reachable, by_code, allowance)
        found |= widths(block, known, reachable, found["gain"], allowance, sigma, codes_wider)
        found["se_by_code"] = np.where(reachable, np.sqrt(by_code + allowance**2 + for_bias[:, None] ** 2), np.nan)
        found["outer_inputs"], found["outer_codes"] = beyond[0] + at_the_ends(steady.shift, ~np.isnan(known)), beyond[1]
        found["quantile"], found["simultaneous"] = quantiles(freedom_of_scatter(block), count)
    found = {name: np.where(_column(enough, values), values, np.nan) for name, values in found.items()}
    found |= {
        "thresholds": known,
        "threshold_se": np.where(enough, np.sqrt(pooled + for_bias**2), np.nan),
        "noise_lsb": sigma,
        "noise_low": sigma * np.exp(-Z95 * log_se),
        "noise_high": sigma * np.exp(Z95 * log_se),
    }
    # What was found of a converter whose codes fold back is no description of it.
    broken = np.asarray(stuck_bits(block.histogram, block.code, counts.mac).any(axis=1))
    found = {name: np.where(_column(broken, values), np.nan, values) for name, values in found.items()}
    raised = {
        "stuck": (block.by_code(block.histogram) > 0).sum(axis=1) == 1,
        "few-transitions": ~enough & ~broken,
        "noise-not-identified": unclear & ~broken,
        "coarse-steps": coarse & ~broken,
        "stuck-bit": broken,
        "missing-codes": (found["missing"] == 1).any(axis=1) if lines else np.zeros(block.adcs, bool),
        "drift": _drifted(counts.drift[who], HALF_WIDTH_SE * found["threshold_se"]) & ~broken,
    }
    return found, raised


def _drifted(drift: Float, half_width: Float) -> NDArray[np.bool_]:
    """Where a converter moved by more than the half-width of its thresholds, and surely by some of it."""
    size, se = np.abs(drift[:, 0]), drift[:, 1]
    with np.errstate(invalid="ignore"):
        return np.asarray((size > half_width) & (size > _SURE * se))


def _column(mask: NDArray[np.bool_], like: Float) -> NDArray[np.bool_]:
    return mask.reshape(-1, *(1,) * (like.ndim - 1))


def _first_sigma(
    block: Block, share_sum: Float, own: Float, whole: NDArray[np.bool_]
) -> tuple[Float, NDArray[np.bool_]]:
    """A robust first noise figure [adcs], LSB, NaN without a whole transition; and where any reads disagree at all."""
    top, step = float(block.u[-1]), block.step
    moment = block.at_or_above(block.share * block.u[:, None])
    variance = np.where(whole, estimators.spread(share_sum, moment, top, step), np.nan)
    # Below a quarter step the moments say nothing, but the likelihood still may.
    return np.sqrt(np.maximum(_median(variance), (step / 4) ** 2)), (own * whole).sum(axis=1) > 0


def _settled(block: Block) -> NDArray[np.bool_]:
    """bool [adcs, transitions]: all but a few reads are below the code at the lowest level and above at the highest."""
    low, high = (block.at_or_above(block.share[:, at], block.code[:, at]) for at in (slice(0, 1), slice(-1, None)))
    return np.asarray((low <= _END_SHARE) & (high >= 1 - _END_SHARE))


def _reachable(block: Block, thresholds: Float, sigma: Float) -> NDArray[np.bool_]:
    """Which transitions the levels cover from end to end, so that the sum is the threshold and not the end value."""
    s = sigma[:, None]
    room = np.minimum(thresholds - block.u[0], block.u[-1] - thresholds)
    se = np.sqrt(s / (block.per_lsb[:, None] * np.sqrt(np.pi)))
    with np.errstate(invalid="ignore"):
        covered = (room >= _CLEARANCE * s) & (estimators.cut_bias(room, s) <= _CUT_SHARE * se)
    return np.asarray(covered)


def _noise(block: Block, thresholds: Float, start: Float) -> tuple[Float, Float]:
    """Pad the histogram so that every transition near a level has a place beside what was seen, then fit."""
    widest = float(np.nanmax(start, initial=0.0))
    pad = min(int(np.ceil(8 * widest)) + 2, block.transitions + 1)
    padded = np.pad(block.histogram, ((0, 0), (0, 0), (pad, pad)))
    slope = np.maximum(local_slope(thresholds), _SMALLEST_SLOPE)
    # The slope is known worst at the ends, where curves bend most.
    used = inner(thresholds, SLOPE_WINDOW)
    guess = start / np.where(np.isnan(start), 1.0, _median(slope))
    return fit_noise(Window(padded, block.base - pad, block.u, block.reads), used, slope, guess)


def _median(values: Float) -> Float:
    """Of each row, without NaN; NaN for a row of nothing else."""
    some = ~np.isnan(values).all(axis=1)
    out = np.full(len(values), np.nan)
    out[some] = np.nanmedian(values[some], axis=1)
    return out
