"""Standard errors of single thresholds, and the quantiles that make intervals of them.

The pooled variance of a converter is the mean over its thresholds: with each threshold's own, simultaneous bands cover
too little, as the smallest of many noisy variances counts. Where the variances follow the code, tested, a parabola in
the code takes the mean's place.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from pimchip.characterize.estimators import Float
from pimchip.tails import f_isf, student_isf

LEVEL = 0.95
_BINS = 12
"""Groups of neighbouring codes whose variances are compared."""
_FEWEST_IN_BIN = 2
_RISK = 1e-3
"""Chance that a converter of even noise is taken to have noise that follows the code."""
_LEAST_SHARE = 0.25
"""Of the pooled variance: the parabola's lowest."""


def pooled_by_code(scatter: Float, reachable: NDArray[np.bool_], uneven: Float) -> tuple[Float, NDArray[np.bool_]]:
    """Variance of each threshold [adcs, transitions], and where the noise follows the code [adcs].

    scatter: from each threshold's own reads, LSB^2. uneven: what is known to make the variances differ, to a factor: dT/dk,
    as noise of one size in LSB of code is wider at the input where the curve is steep, and the variance is as the slope;
    and how many reads there were near each. What is left of it is pooled, unless it follows the code:
    compared are means of groups of neighbouring codes, and their scatter about a parabola is what they are compared with,
    so that thresholds that share reads do no harm.
    """
    count = reachable.sum(axis=1)
    mean = np.where(reachable, uneven, 0.0).sum(axis=1) / np.maximum(count, 1)
    with np.errstate(divide="ignore", invalid="ignore"):
        relative = np.where(reachable & (uneven > 0), uneven / mean[:, None], 1.0)
    relative = np.clip(np.nan_to_num(relative, nan=1.0), _LEAST_SHARE, 1 / _LEAST_SHARE)
    # So that the mean over the thresholds is that of their own reads, whatever is known of them.
    pooled = (scatter * reachable).sum(axis=1) / np.maximum((relative * reachable).sum(axis=1), 1e-300)
    scatter = scatter / relative
    out = np.repeat(pooled[:, None], scatter.shape[1], axis=1)
    varies = np.zeros(len(scatter), bool)
    critical = float(f_isf(_RISK, 2, _BINS - 3))
    x = (np.arange(_BINS) - (_BINS - 1) / 2) / (_BINS / 2)
    design = np.stack([np.ones(_BINS), x, x * x - (x * x).mean()])
    size = (design * design).sum(axis=1)
    for j in np.flatnonzero(count >= _BINS * _FEWEST_IN_BIN):
        own = np.flatnonzero(reachable[j])
        edges = np.linspace(0, len(own), _BINS + 1).astype(np.int64)
        means = np.add.reduceat(scatter[j, own], edges[:-1]) / np.diff(edges)
        fitted = (design * means).sum(axis=1) / size
        rest = means - (fitted[:, None] * design).sum(axis=0)
        left = float((rest * rest).sum()) / (_BINS - 3)
        if float((fitted[1:] ** 2 * size[1:]).sum()) / 2 > critical * left:
            varies[j] = True
            place = ((np.arange(len(own)) + 0.5) / len(own) * 2 - 1) * 1.0
            curve = fitted[0] + fitted[1] * place + fitted[2] * (place * place - (x * x).mean())
            out[j, own] = np.maximum(curve, _LEAST_SHARE * pooled[j])
    return out * relative, varies


def quantiles(freedom: Float, count: NDArray[np.integer]) -> tuple[Float, Float]:
    """Student's two-sided 95 % quantiles [adcs], for one threshold and, after Bonferroni, for `count` at once."""
    risk = 1 - LEVEL
    return (
        np.asarray(student_isf(risk / 2, freedom), np.float64),
        np.asarray(student_isf(risk / 2 / np.maximum(count, 1), freedom), np.float64),
    )
