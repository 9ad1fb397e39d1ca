"""The local shape of a measured curve T_k over k: its slope, and what the noise makes of its bend.

The transition to code k happens at T(k - 1/2 - n) for the noise n in LSB of code. Spearman-Kaerber returns its mean,
T + sigma^2 / 2 * T'', not the median that defines T_k: the curve is seen smoothed over the noise. At 0.35 LSB that is
nothing; at 2.6 LSB it is more than the standard error. The second derivative, from a parabola through the
neighbours, takes it out, where the curve is smooth over a few sigma. Curves that bend sharply, as converters do at the
ends of their range, are not; there ends.py looks at each transition by itself.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr

from pimchip.characterize.estimators import Float

_NARROWEST = 5
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


def unsmooth(thresholds: Float, sigma: Float, *, errors: bool = True) -> tuple[Float, Float, Float]:
    """Thresholds with the noise's smoothing taken out, and the factors [adcs, transitions] by which the standard errors of
    each and of the distance to the next grow, 1 for unknown ones, and for all without `errors`.

    thresholds: as for local_slope. sigma: noise in LSB of code [adcs]; NaN leaves a row as it is. Towards the ends the
    window is shorter, as curves bend more there.
    """
    known = ~np.isnan(thresholds)
    width, count = thresholds.shape[1], known.sum(axis=1, keepdims=True)
    place = np.arange(width) - known.argmax(axis=1)[:, None]
    inside = np.minimum(place, count - 1 - place)
    full = _bend_window(np.nan_to_num(sigma))[:, None]
    size = np.minimum(np.minimum(full, np.maximum(inside, 0) // 2 * 2 + _NARROWEST), (count - 1) // 2 * 2 + 1)
    size = np.where(known & (count >= _NARROWEST) & np.isfinite(sigma)[:, None], size, 0)
    out, factor, of_codes = thresholds.copy(), np.ones(thresholds.shape), np.ones(thresholds.shape)
    for n in np.unique(size[size > 0]).tolist():
        rows = np.flatnonzero((size == n).any(axis=1))
        here = size[rows] == n
        bent = sigma[rows, None] ** 2 / 2 * _windowed(thresholds[rows], known[rows], _bend(n))
        out[rows] -= np.where(here, bent, 0.0)
        if not errors:
            continue
        factor[rows] = np.where(here, _widening(sigma[rows], n)[:, None], factor[rows])
        of_codes[rows] = np.where(here, _code_widening(sigma[rows], n)[:, None], of_codes[rows])
    return out, factor, of_codes


def widening(sigma: Float | float) -> Float:
    """The factor by which unsmooth widens a threshold's standard error away from the ends, for noise of sigma LSB: at most
    1.016, that is 3 % of the variance."""
    at = np.asarray(sigma, np.float64)
    size = _bend_window(np.nan_to_num(at.reshape(-1)))
    out = np.ones(size.shape)
    for n in np.unique(size).tolist():
        out[size == n] = _widening(np.nan_to_num(at.reshape(-1)[size == n]), n)
    return out.reshape(at.shape)


def _bend_window(sigma: Float) -> NDArray[np.int64]:
    """Transitions for the second derivative, odd: so many that its error adds 3 % to the variance of a threshold at most."""
    return np.maximum(2 * np.ceil((12 * sigma + 0.25) / 2).astype(np.int64) + 1, 5)


def _bend(n: int) -> Float:
    """Weights of n neighbours that give the second derivative of the parabola through them."""
    x = np.arange(n) - (n - 1) / 2
    bend = x * x - (x * x).mean()
    return np.asarray(2 * bend / (bend * bend).sum())


def _widening(sigma: Float, n: int) -> Float:
    own = (np.arange(n) == n // 2).astype(np.float64)
    return np.asarray(np.maximum(np.sqrt(_quadratic(own - sigma[:, None] ** 2 / 2 * _bend(n), sigma)), 1.0))


def _code_widening(sigma: Float, n: int) -> Float:
    own, bend = np.arange(n + 1) == n // 2, np.pad(_bend(n), (0, 1))
    filters = own - sigma[:, None] ** 2 / 2 * bend
    both = np.roll(filters, 1, axis=1) - filters
    plain = 2 * (1 - _correlation(np.ones(1), sigma))
    return np.asarray(np.sqrt(np.maximum(_quadratic(both, sigma) / np.maximum(plain, 1e-12), 1.0)))


def _quadratic(filters: Float, sigma: Float) -> Float:
    """Variance of sums of neighbours with weights `filters` [adcs, n], that of one being 1."""
    x = np.arange(filters.shape[1])
    apart = _correlation(x.astype(np.float64), sigma[:, None])  # hangs on the distance alone
    shared = apart[:, np.abs(x[:, None] - x[None, :])]
    return np.asarray((filters[:, :, None] * filters[:, None, :] * shared).sum(axis=(1, 2)))


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
    # What a run of fewer than n gets is not used; it need only lie inside.
    index = np.arange(len(values))[:, None] * width + np.minimum(start, max(width - n, 0))
    flat = values.ravel()
    for i, weight in enumerate(weights):
        total += weight * flat.take(index + i, mode="clip")
    return np.where(known, total, np.nan)
