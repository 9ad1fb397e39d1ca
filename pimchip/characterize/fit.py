"""From raw counts to thresholds, gain, offset, curve and noise of every converter. The same counts give the same bits.

Everything that is linear in the thresholds is a sum over reads of a function of the code alone: with T_k = const -
D/R sum of [code >= k], sum_k c_k T_k = const - D/R sum of A(code), A(c) = sum over k <= c of c_k. So its variance, with
all covariances of thresholds that share reads, is that of A(code) within the levels.

Sums run along fixed axes, never through a matrix product whose order of addition depends on the number of threads.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pimchip.characterize import estimators
from pimchip.characterize.curve import SLOPE_WINDOW, inner, local_slope, unsmooth
from pimchip.characterize.estimators import BIAS_SHARE, Z95, Float
from pimchip.characterize.noise import Window, fit_noise
from pimchip.chip import Mac
from pimchip.chip.stuck import stuck_bits
from pimchip.profile import Counts, PointResult
from pimchip.profile.model import FLAGS, MIN_TRANSITIONS, RESULT_ARRAYS, code_positions

BLOCK = 32
"""Converters fitted at once; bounds the memory."""
_CLEARANCE = 3.0
"""A threshold is given when the levels go on for this many sigma on both sides of it."""
_END_SHARE = 0.02
"""Share of reads on the wrong side that the outermost levels may show."""
_CUT_SHARE = 0.1
"""The part of a transition beyond the last level may bias its threshold by this share of the standard error."""
_SMALLEST_SLOPE = 0.05
"""LSB of input an LSB of code; a missing code must not bring the local slope to nothing."""
_LARGEST_SE = 0.5
"""A standard error of log sigma above this is no noise figure."""


def fit(counts: Counts) -> PointResult:
    """Fit one operating point; see PointResult for the definitions. A function of the counts alone."""
    adcs = len(counts.base)
    measured = np.flatnonzero(counts.measured)
    flags: list[tuple[str, ...]] = [("not-measured",)] * adcs
    arrays: dict[str, Float] = {}
    for first in range(0, len(measured), BLOCK):
        who = measured[first : first + BLOCK]
        found, raised = _fit_block(counts, who)
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
        **{name: arrays[name] for name in RESULT_ARRAYS},
    )


@dataclass(frozen=True)
class _Block:
    """Counts of some converters. Code indices count from code_min; transition n is to code index n + 1."""

    mac: Mac
    u: Float
    step: float
    reads: int
    histogram: Float
    """[adcs, levels, span]"""
    code: NDArray[np.int64]
    """[adcs, levels, span], code index of each cell of the histogram, held to the codes there are."""

    @property
    def adcs(self) -> int:
        return len(self.histogram)

    @property
    def transitions(self) -> int:
        return self.mac.code_max - self.mac.code_min

    def by_code(self, values: Float) -> Float:
        """Sum values [adcs, levels, span] over the levels by code; float64 [adcs, codes]."""
        codes = self.transitions + 1
        key = self.code + np.arange(self.adcs)[:, None, None] * codes
        summed = np.bincount(key.ravel(), np.broadcast_to(values, key.shape).ravel(), self.adcs * codes)
        return np.asarray(summed, np.float64).reshape(self.adcs, codes)

    def at_or_above(self, values: Float) -> Float:
        """The same summed over codes >= k: float64 [adcs, transitions]."""
        return self.by_code(values)[:, ::-1].cumsum(axis=1)[:, -2::-1]


def _fit_block(counts: Counts, who: NDArray[np.intp]) -> tuple[dict[str, Float], dict[str, NDArray[np.bool_]]]:
    base = counts.base[who].astype(np.int64) - counts.mac.code_min
    span = counts.histogram.shape[2]
    codes = counts.mac.code_max - counts.mac.code_min + 1
    code = np.minimum(base[:, :, None] + np.arange(span), codes - 1)
    histogram = counts.histogram[who].astype(np.float64)
    block = _Block(counts.mac, counts.inputs, counts.step, counts.reads, histogram, code)
    step, reads, top = block.step, block.reads, float(block.u[-1])

    share_sum = block.at_or_above(histogram) / reads
    thresholds = estimators.spearman_karber(share_sum, top, step)
    scatter = _scatter(block)
    sigma_first, moving = _first_sigma(block, share_sum, scatter)
    reachable = _reachable(block, thresholds, sigma_first)
    count = reachable.sum(axis=1)
    # Transitions that all fall on one place are a step, not a line.
    apart = np.where(reachable, thresholds, -np.inf).max(axis=1) - np.where(reachable, thresholds, np.inf).min(axis=1)
    enough = (count >= MIN_TRANSITIONS) & (apart >= step)

    pooled = (scatter * reachable).sum(axis=1) / np.maximum(count, 1)
    known = np.where(reachable & enough[:, None], thresholds, np.nan)
    start = np.where(moving & enough, sigma_first, np.nan)
    sigma, log_se = _noise(block, base, known, start)
    unclear = ~(log_se < _LARGEST_SE)
    sigma, log_se = np.where(unclear, np.nan, sigma), np.where(unclear, np.nan, log_se)

    bias = estimators.step_bias(step, np.where(unclear, 0.0, sigma))
    coarse = enough & (bias > BIAS_SHARE * np.sqrt(pooled))
    known, wider = unsmooth(known, sigma)
    pooled = pooled * wider**2
    line = _line(block, known, reachable, pooled)
    found = {name: np.where(_column(enough, values), values, np.nan) for name, values in line.items()}
    found |= {
        "thresholds": known,
        "threshold_se": np.where(enough, np.sqrt(pooled + np.where(coarse, bias, 0.0) ** 2), np.nan),
        "noise_lsb": sigma,
        "noise_low": sigma * np.exp(-Z95 * log_se),
        "noise_high": sigma * np.exp(Z95 * log_se),
    }
    # What was found of a converter whose codes fold back is no description of it.
    broken = np.asarray(stuck_bits(histogram, code, counts.mac).any(axis=1))
    found = {name: np.where(_column(broken, values), np.nan, values) for name, values in found.items()}
    raised = {
        "stuck": (block.by_code(histogram) > 0).sum(axis=1) == 1,
        "few-transitions": ~enough & ~broken,
        "noise-not-identified": unclear & ~broken,
        "coarse-steps": coarse & ~broken,
        "stuck-bit": broken,
    }
    return found, raised


def _column(mask: NDArray[np.bool_], like: Float) -> NDArray[np.bool_]:
    return mask.reshape(-1, *(1,) * (like.ndim - 1))


def _scatter(block: _Block) -> Float:
    """Sampling variance of each threshold from its own reads, LSB^2 [adcs, transitions]: D^2 sum_j p (1-p) / (R-1)."""
    above = block.histogram[:, :, ::-1].cumsum(axis=2)[:, :, ::-1]
    share = above / block.reads
    # A cell's own code k: share is P(code >= k). Cells past the last code are empty and add nothing.
    return block.by_code(share * (1 - share))[:, 1:] * (block.step**2 / (block.reads - 1))


def _first_sigma(block: _Block, share_sum: Float, scatter: Float) -> tuple[Float, NDArray[np.bool_]]:
    """A robust first noise figure [adcs], LSB, NaN without a whole transition; and where any reads disagree at all."""
    top, step = float(block.u[-1]), block.step
    moment = block.at_or_above(block.histogram * block.u[:, None]) / block.reads
    whole = _settled(block)
    variance = np.where(whole, estimators.spread(share_sum, moment, top, step), np.nan)
    # Below a quarter step the moments say nothing, but the likelihood still may.
    return np.sqrt(np.maximum(_median(variance), (step / 4) ** 2)), (scatter * whole).sum(axis=1) > 0


def _settled(block: _Block) -> NDArray[np.bool_]:
    """bool [adcs, transitions]: all but a few reads are below the code at the lowest level and above at the highest."""
    ends = np.zeros((2, *block.histogram.shape))
    ends[0, :, 0] = block.histogram[:, 0]
    ends[1, :, -1] = block.histogram[:, -1]
    low, high = (block.at_or_above(end) for end in ends)
    return np.asarray((low <= _END_SHARE * block.reads) & (high >= (1 - _END_SHARE) * block.reads))


def _reachable(block: _Block, thresholds: Float, sigma: Float) -> NDArray[np.bool_]:
    """Which transitions the levels cover from end to end, so that the sum is the threshold and not the end value."""
    s = sigma[:, None]
    room = np.minimum(thresholds - block.u[0], block.u[-1] - thresholds)
    se = np.sqrt(block.step * s / (block.reads * np.sqrt(np.pi)))
    with np.errstate(invalid="ignore"):
        covered = (room >= _CLEARANCE * s) & (estimators.cut_bias(room, s) <= _CUT_SHARE * se)
    return np.asarray(covered & _settled(block))


def _noise(block: _Block, base: NDArray[np.int64], thresholds: Float, start: Float) -> tuple[Float, Float]:
    """Pad the histogram so that every transition near a level has a place beside what was seen, then fit."""
    widest = float(np.nanmax(start, initial=0.0))
    pad = min(int(np.ceil(8 * widest)) + 2, block.transitions + 1)
    padded = np.pad(block.histogram, ((0, 0), (0, 0), (pad, pad)))
    slope = np.maximum(local_slope(thresholds), _SMALLEST_SLOPE)
    # The slope is known worst at the ends, where curves bend most.
    used = inner(thresholds, SLOPE_WINDOW)
    guess = start / np.where(np.isnan(start), 1.0, _median(slope))
    return fit_noise(Window(padded, base - pad, block.u, block.reads), used, slope, guess)


def _median(values: Float) -> Float:
    """Of each row, without NaN; NaN for a row of nothing else."""
    some = ~np.isnan(values).all(axis=1)
    out = np.full(len(values), np.nan)
    out[some] = np.nanmedian(values[some], axis=1)
    return out


def _line(block: _Block, thresholds: Float, reachable: NDArray[np.bool_], pooled: Float) -> dict[str, Float]:
    """Least squares T_k = a + q x_k over the reachable k, x_k = k - 1/2: gain, offset, INL, standard errors."""
    x = code_positions(block.mac)[None, :]
    used = reachable.astype(np.float64)
    count = np.maximum(used.sum(axis=1, keepdims=True), 1)
    centre = (used * x).sum(axis=1, keepdims=True) / count
    size = np.maximum((used * (x - centre) ** 2).sum(axis=1, keepdims=True), 1e-300)
    for_q = used * (x - centre) / size
    for_a = used / count - centre * for_q
    clean = np.where(np.isnan(thresholds), 0.0, thresholds)
    q, a = (for_q * clean).sum(axis=1), (for_a * clean).sum(axis=1)

    reads, scale = block.reads, block.step**2 / (block.reads - 1)
    share = block.histogram / reads
    row = np.arange(block.adcs)[:, None, None]
    steps = [
        np.concatenate([np.zeros((block.adcs, 1)), c.cumsum(axis=1)], axis=1)[row, block.code] for c in (for_q, for_a)
    ]
    means = [(share * s).sum(axis=2, keepdims=True) for s in steps]

    def covariance(i: int, j: int) -> Float:
        within = (share * steps[i] * steps[j]).sum(axis=2) - (means[i] * means[j])[:, :, 0]
        return np.asarray(within.sum(axis=1) * scale)

    def with_threshold(i: int) -> Float:
        deviation = share * (steps[i] - means[i])
        return block.at_or_above(deviation) * scale

    var_q, var_a, cov = covariance(0, 0), covariance(1, 1), covariance(0, 1)
    cov_tq, cov_ta = with_threshold(0), with_threshold(1)
    with np.errstate(divide="ignore", invalid="ignore"):
        gain, offset = 1 / q, -a / q
        inl = (clean - a[:, None] - q[:, None] * x) * gain[:, None]
        fitted = var_a[:, None] + 2 * x * cov[:, None] + x * x * var_q[:, None]
        inl_variance = pooled[:, None] + fitted - 2 * (cov_ta + x * cov_tq)
        inl_se = np.sqrt(np.maximum(inl_variance, 0)) * gain[:, None]
        return {
            "gain": gain,
            "gain_se": np.sqrt(var_q) * gain**2,
            "offset": offset,
            "offset_se": np.sqrt(np.maximum(var_a + 2 * offset * cov + offset**2 * var_q, 0)) * gain,
            "inl": np.where(reachable, inl, np.nan),
            "inl_se": np.where(reachable, inl_se, np.nan),
            "max_inl": np.where(reachable, np.abs(inl), 0.0).max(axis=1),
        }
