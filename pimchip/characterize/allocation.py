"""Which levels to read how often: the fewest array cycles with which every converter's half-width is small enough.

The pooled variance of converter j's thresholds is V_j = sum_l a_jl / n_l over the levels l, a_jl = D^2 mean_k of
p_jkl (1 - p_jkl), over the reads of a cycle, for n_l cycles, each of which reads all converters of a macro. The least sum of
n_l with V_j <= v for all j has n_l = sqrt(sum_j b_j a_jl) (Lagrange); in whole cycles, one more than n is worth it where
sum_j b_j a_jl > n (n + 1). The multipliers b_j are found by raising those of converters that miss and lowering those that
have too much: the noisiest converter of a macro decides, and levels that show none of them a transition get nothing.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr

from pimchip.characterize.estimators import Float

_ROUNDS = 200
_WHOLE_ROUNDS = 4
_HALVINGS = 12
_FLAT = 0.6
"""LSB of noise above which a read tells as much at any place between two transitions, to 2 %."""
_LEAST_SHARE = 0.05
"""Of the mean: what a level far from all transitions is taken to tell, as the transitions' places are estimates."""
_TOGETHER = 7
"""Transitions over which a curve's places are averaged, so that which levels are read again does not hang on what single
reads gave there."""


def information(pq: Float, step: float, window: float) -> Float:
    """a_jl, to a factor, of few reads: pq float64 [adcs, levels], sum over k of p (1 - p), smoothed over `window` LSB, as a
    few reads show it only roughly."""
    size = 2 * max(int(window / step / 2), 1) + 1
    # Outside nothing passes, so that smoothing with zeros is right.
    total = np.pad(pq, ((0, 0), (size // 2 + 1, size // 2))).cumsum(axis=1)
    return np.asarray((total[:, size:] - total[:, :-size]) / size)


def pattern(thresholds: Float, sigma: Float, u: Float) -> Float:
    """What smoothing takes away: how much more than its neighbourhood a level tells by its place between two transitions,
    float64 [adcs, levels], 1 on average.

    With x the place in LSB of code, transitions at whole x, sum_k p (1 - p) = sum_m P(x - m) P(m - x), P the normal
    distribution of the noise, whose mean over x is sigma / sqrt(pi). thresholds: [adcs, transitions], LSB, NaN where none
    is known. sigma: [adcs], LSB of code. u: [levels], LSB.
    """
    out = np.ones((len(sigma), len(u)))
    for j in np.flatnonzero(sigma < _FLAT):
        known = np.flatnonzero(~np.isnan(thresholds[j]))
        if len(known) <= _TOGETHER:
            continue
        places = np.maximum.accumulate(thresholds[j, known])
        middle = np.convolve(places, np.full(_TOGETHER, 1 / _TOGETHER), "valid")
        x = np.interp(u, middle, np.arange(len(middle)), np.nan, np.nan)
        inside = ~np.isnan(x)
        reach = math.ceil(4 * float(sigma[j])) + 1
        z = ((x[inside] - np.floor(x[inside]))[:, None] - np.arange(-reach, reach + 2)) / sigma[j]
        out[j, inside] = (ndtr(z) * ndtr(-z)).sum(axis=1) * math.sqrt(math.pi) / sigma[j]
    return np.maximum(out, _LEAST_SHARE)


def allocate(a: Float, variance: float, floor: NDArray[np.int64]) -> NDArray[np.int64]:
    """n_l, int64 [levels], no fewer than `floor`, with sum_l a_jl / n_l <= variance for every converter j. Levels that tell
    something get one at least."""
    a = a[a.any(axis=1)]
    if not len(a):
        return floor
    least = np.maximum(floor, a.any(axis=0)).astype(np.float64)
    weight = _multipliers(a, variance, least)
    real = _cycles(a, weight, least)
    best = np.ceil(np.maximum(real * max(float(_ratio(a, real, variance).max()), 1.0), least))
    for _ in range(_WHOLE_ROUNDS):
        told, low, high = (weight[:, None] * a).sum(axis=0), 0.25, 16.0
        for _ in range(_HALVINGS):
            factor = math.sqrt(low * high)
            n = np.maximum(np.ceil(np.sqrt(factor * told + 0.25) - 0.5), least)
            ratio = _ratio(a, n, variance)
            if ratio.max() > 1:
                low = factor
                continue
            high = factor
            if n.sum() < best.sum():
                best = n
        weight = weight * high * np.maximum(ratio, 0.2) ** 2
    return best.astype(np.int64)


def _multipliers(a: Float, variance: float, least: Float) -> Float:
    """b_j, float64 [adcs], that hold for parts of cycles."""
    # Alone, converter j needs n_l = sqrt(a_jl) sum_m sqrt(a_jm) / variance.
    alone = (np.sqrt(a).sum(axis=1) / variance) ** 2
    weight = np.where(alone >= alone.max() * 0.999, alone, 1e-6 * alone)
    for _ in range(_ROUNDS):
        n = _cycles(a, weight, least)
        ratio = _ratio(a, n, variance)
        if ratio.max() <= 1.0005 and (ratio.max() >= 0.9995 or np.array_equal(n, least)):
            break
        weight = weight * np.clip(ratio, 0.2, 5.0) ** 2
    return np.asarray(weight)


def _cycles(a: Float, weight: Float, least: Float) -> Float:
    return np.asarray(np.maximum(np.sqrt((weight[:, None] * a).sum(axis=0)), least))


def _ratio(a: Float, n: Float, variance: float) -> Float:
    """V_j over what is wanted, float64 [adcs]; levels that tell nothing may have no cycles."""
    return np.asarray((a / np.maximum(n, 1e-9)).sum(axis=1) / variance)
