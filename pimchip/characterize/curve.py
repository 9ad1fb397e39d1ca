"""The local shape of a measured curve T_k over k: its slope, and what the noise makes of its bend.

The transition to code k happens at T(k - 1/2 - n) for the noise n in LSB of code. Spearman-Kaerber returns its mean,
T + sigma^2 / 2 * T'', not the median that defines T_k: the curve is seen smoothed over the noise. At 0.35 LSB that is
nothing; at 2.6 LSB it is more than the standard error. The second derivative, from a parabola through the
neighbours, takes it out, where the curve is smooth over a few sigma. A kink, as at the ends of some converters'
ranges, stays rounded over about three sigma, and intervals there are too narrow when sigma is above 1 LSB.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr

from pimchip.characterize.estimators import Float

SLOPE_WINDOW = 7
"""Transitions a local slope is taken over: its error is then below 2 % at a half-width of 0.1 LSB."""


def local_slope(thresholds: Float, window: int = SLOPE_WINDOW) -> Float:
    """q_k = dT/dk, LSB of input an LSB of code, for thresholds [adcs, n] that are NaN outside one run in each row."""
    known = ~np.isnan(thresholds)
    size = _at_most(known, window)
    slope = np.full(thresholds.shape, np.nan)
    for n in np.unique(size[size >= 2]):
        x = np.arange(n) - (n - 1) / 2
        slope = np.where((size == n)[:, None], _windowed(thresholds, known, x / (x * x).sum()), slope)
    return slope


def inner(thresholds: Float, margin: int) -> Float:
    """The thresholds without the `margin` outermost known ones on each side where enough are left, else all."""
    known = ~np.isnan(thresholds)
    order = known.cumsum(axis=1)
    count = order[:, -1:]
    kept = known & (order > margin) & (order <= count - margin)
    return np.where(np.where(count > 4 * margin, kept, known), thresholds, np.nan)


def unsmooth(thresholds: Float, sigma: Float) -> tuple[Float, Float]:
    """Thresholds with the noise's smoothing taken out, and the factor [adcs] by which their standard error grows.

    thresholds: as for local_slope. sigma: noise in LSB of code [adcs]; NaN leaves a row as it is.
    """
    known = ~np.isnan(thresholds)
    size = _at_most(known, _bend_window(np.nan_to_num(sigma)))
    out, factor = thresholds.copy(), np.ones(len(thresholds))
    for n in np.unique(size[(size >= 5) & np.isfinite(sigma)]):
        rows = (size == n) & np.isfinite(sigma)
        out[rows] -= sigma[rows, None] ** 2 / 2 * _windowed(thresholds[rows], known[rows], _bend(n))
        factor[rows] = _widening(sigma[rows], n)
    return out, factor


def widening(sigma: float) -> float:
    """The factor by which unsmooth widens a threshold's standard error at noise of sigma LSB, below 1.11."""
    at = np.array([sigma])
    return float(_widening(at, int(_bend_window(at)[0]))[0])


def _bend_window(sigma: Float) -> NDArray[np.int64]:
    """Transitions for the second derivative: so many that its own error adds little, odd."""
    return np.maximum(2 * np.ceil((6 * sigma - 0.5) / 2).astype(np.int64) + 1, 5)


def _bend(n: int) -> Float:
    """Weights of n neighbours that give the second derivative of the parabola through them."""
    x = np.arange(n) - (n - 1) / 2
    bend = x * x - (x * x).mean()
    return np.asarray(2 * bend / (bend * bend).sum())


def _widening(sigma: Float, n: int) -> Float:
    x = np.arange(n) - (n - 1) / 2
    own = (np.arange(n) == n // 2).astype(np.float64)
    filters = own - sigma[:, None] ** 2 / 2 * _bend(n)
    shared = _correlation(np.abs(x[:, None] - x[None, :]), sigma[:, None, None])
    return np.asarray(np.maximum(np.sqrt((filters[:, :, None] * filters[:, None, :] * shared).sum(axis=(1, 2))), 1.0))


def _correlation(distance: Float, sigma: Float) -> Float:
    """Of the estimates of two thresholds so many LSB apart that share their reads."""
    d = distance / (np.maximum(sigma, 1e-9) * math.sqrt(2))
    return np.asarray(np.exp(-d * d / 2) - math.sqrt(2 * math.pi) * d * ndtr(-d))


def _at_most(known: NDArray[np.bool_], wanted: NDArray[np.int64] | int) -> NDArray[np.int64]:
    return np.asarray(np.minimum(known.sum(axis=1), wanted), np.int64)


def _windowed(values: Float, known: NDArray[np.bool_], weights: Float) -> Float:
    """sum_i weights_i values at the window about each place, moved inwards at the ends of the known run."""
    n, width = len(weights), values.shape[1]
    first = known.argmax(axis=1)
    last = width - known[:, ::-1].argmax(axis=1)
    start = np.clip(np.arange(width) - n // 2, first[:, None], np.maximum(last - n, first)[:, None])
    total = np.zeros(values.shape)
    row = np.arange(len(values))[:, None]
    for i, weight in enumerate(weights):
        total += weight * values[row, np.minimum(start + i, width - 1)]
    return np.where(known, total, np.nan)
