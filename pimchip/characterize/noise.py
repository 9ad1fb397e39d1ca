"""One noise figure a converter: probit likelihood of all its transitions, with the thresholds known by estimate only.

With z = (u_j - T_k) / (q_k sigma), q_k the curve's local slope, the reads at or above code k follow a binomial law of
probability Phi(z). The score for log sigma is summed over the transitions. Thresholds estimated from the same reads
bias that score, by the same amount for each of K transitions however many the reads. Cox and Reid (J. R. Stat. Soc. B
49, 1987) put it at -1/2, from the information about T_k going as 1 / sigma. The full first-order term (McCullagh and
Tibshirani, J. R. Stat. Soc. B 52, 1990), worked out for a uniform staircase and for Spearman-Kaerber thresholds, whose
error is -(D/R) sum (y - Phi), is

    E[score at T^] = E[d2 score / dT2] var(T^) / 2 + cov(d score / dT, T^)  =  Z / (2 sqrt pi) - A
    Z = integral of z^2 w,  A = integral of z w (2 Phi - 1),  w = phi^2 / (Phi (1 - Phi))

or -0.5687. It is taken out; without it sigma comes out 1 % low at 76 reads an LSB and 0.35 LSB of noise.

Transitions share reads where they overlap (sigma above 0.3 LSB), so the summed likelihood is composite: the estimate
stands, but its variance is that of the score, taken over the reads of each level, over the squared information.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import erfcx

from pimchip.characterize.estimators import Float

_REACH = 8.0
"""Levels further than this from a threshold, in sigma of the first guess, say nothing about it."""
_SCORE_BIAS = 0.568705981628
_ITERATIONS = 30
_CONVERGED = 1e-10
_LONGEST_STEP = 0.5


@dataclass(frozen=True)
class Window:
    """Reads near the diagonal of a block of converters.

    histogram: float64 [adcs, levels, span], reads that gave code first + i, with room on both sides of what was seen.
    first: int [adcs, levels], index of that code, which may lie outside the codes. u: float64 [levels],
    LSB. reads: float64 [adcs, levels], 0 where a level was not read.
    """

    histogram: Float
    first: NDArray[np.int64]
    u: Float
    reads: Float


def fit_noise(window: Window, thresholds: Float, slope: Float, start: Float) -> tuple[Float, Float]:
    """Sigma in LSB of code and the standard error of its logarithm, both float64 [adcs]; NaN where not to be had.

    thresholds: [adcs, transitions], transition n is to code index n + 1, NaN for those to leave out. slope: q_k, of the
    same shape, LSB of input an LSB of code. start: first guess of sigma [adcs], NaN to skip a converter.
    """
    adcs, levels, span = window.histogram.shape
    transitions = thresholds.shape[1]
    above = window.histogram[:, :, ::-1].cumsum(axis=2)[:, :, ::-1]
    index = window.first[:, :, None] + np.arange(span) - 1
    inside = (index >= 0) & (index < transitions)
    row = np.arange(adcs)[:, None, None]
    at = np.where(inside, index, 0)
    distance = (window.u[None, :, None] - thresholds[row, at]) / slope[row, at]
    near = inside & (np.abs(distance) <= _REACH * start[:, None, None])
    who = np.broadcast_to(row, near.shape)[near]
    d, upper = distance[near], above[near]
    reads = np.broadcast_to(window.reads[:, :, None], near.shape)[near]
    lower = reads - upper
    count = np.array([np.count_nonzero(~np.isnan(t)) for t in thresholds], np.float64)

    theta = np.log(start)
    with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
        for _ in range(_ITERATIONS):
            z = d * np.exp(-theta)[who]
            g, h = _hazards(z)
            score = np.bincount(who, z * (lower * h - upper * g), adcs) + _SCORE_BIAS * count
            # Expected information: always positive, so the iteration cannot turn away from the maximum.
            information = np.bincount(who, reads * z * z * g * h, adcs)
            change = np.clip(score / information, -_LONGEST_STEP, _LONGEST_STEP)
            theta = theta + change
            if not np.nanmax(np.abs(change), initial=0.0) > _CONVERGED:
                break
        z = d * np.exp(-theta)[who]
        g, h = _hazards(z)
        bend = upper * (z * g - z * z * g * (z + g)) - lower * (z * h - z * z * h * (z - h))
        information = -np.bincount(who, bend, adcs)
        passing = np.zeros(near.shape)
        passing[near] = -z * (g + h)  # of a read's score when it passes from below code k to k or above
        by_code = passing.cumsum(axis=2)
        some, fewer = np.maximum(window.reads, 1), np.maximum(window.reads - 1, 1)
        mean = (window.histogram * by_code).sum(axis=2) / some
        square = (window.histogram * by_code * by_code).sum(axis=2) / some
        variance = ((square - mean * mean) * window.reads**2 / fewer).sum(axis=1)
        sigma, se = np.exp(theta), np.sqrt(variance) / information
    bad = ~(np.isfinite(sigma) & np.isfinite(se) & (information > 0) & (se > 0))
    return np.where(bad, np.nan, sigma), np.where(bad, np.nan, se)


def _hazards(z: Float) -> tuple[Float, Float]:
    """phi(z) / Phi(z) and phi(z) / Phi(-z), exact far out too, for |z| below 25."""
    x = np.abs(z) * math.sqrt(0.5)
    small = erfcx(x)
    large = 2 * np.exp(x * x) - small
    right = z > 0
    scale = math.sqrt(2 / math.pi)
    return scale / np.where(right, large, small), scale / np.where(right, small, large)
