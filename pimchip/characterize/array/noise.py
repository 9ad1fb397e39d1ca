"""Noise against code: sigma_k^2 = a + b m + c m^2 over the range, m from 0 at code_min to 1 at code_max, with a test of b = c = 0.

sigma of a stretch of codes is the staircase's probit (see pimchip.characterize.noise) with the transitions of that
stretch alone. Of each converter the squares are taken relative to its mean, so that converters of different noise are of
one shape; the shape is a weighted least-squares fit over all of them. Its covariance is that of the converters' own shapes
where there are enough of them, as stretches share reads where they meet, else that of the weights.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.stats import chi2, f

from pimchip.characterize.array.estimate import Estimate, NotToldError
from pimchip.characterize.curve import SLOPE_WINDOW, inner, local_slope
from pimchip.characterize.estimators import Z95, Float
from pimchip.characterize.fit import BLOCK
from pimchip.characterize.noise import Window, fit_noise
from pimchip.profile import Counts, PointResult

STRETCHES = 8
"""Of the range, each with one noise figure a converter."""
_ENOUGH = 16
"""Converters whose scatter says what the fit's error is."""
_LEVEL = 0.01
_FEWEST = 4
"""Transitions of a stretch with a noise figure."""
SMALLEST_SLOPE, LARGEST_SE = 0.05, 0.5
"""As for the figure of the whole range (see fit)."""


@dataclass(frozen=True)
class NoiseByCode:
    """codes: float64 [stretches], middle of each stretch, LSB of code. sigma, sigma_low, sigma_high: float64 [adcs,
    stretches], LSB, NaN where not known. a, b, c: of the mean squared noise over converters, LSB^2. grows: noise at the
    last code over that at the first, less one. p: the chance of such b and c where noise does not depend on the code;
    depends: p below 0.01. adcs: that are in it."""

    codes: Float
    sigma: Float
    sigma_low: Float
    sigma_high: Float
    a: Estimate
    b: Estimate
    c: Estimate
    grows: Estimate
    p: float
    adcs: int

    @property
    def depends(self) -> bool:
        """True where noise depends on the code beyond chance."""
        return self.p < _LEVEL


def noise_by_code(counts: Counts, point: PointResult, stretches: int = STRETCHES) -> NoiseByCode:
    """Noise over the range, from a staircase's counts and its result.

    Raises InputError where too few codes have a noise figure to fit three coefficients to.
    """
    sigma, log_se, codes = stretch_noise(counts, point, stretches)
    known = np.isfinite(sigma) & np.isfinite(log_se)
    used = known.sum(axis=1) >= 4
    if not used.any():
        raise NotToldError(
            f"{counts.mac.describe()}: noise against code: too few reads disagree within an eighth of the range to fit its "
            "noise: measure with more --reads, or at a larger --range-divisor"
        )
    square = np.where(known, sigma**2, np.nan)
    square_se = 2 * square * log_se
    m = (codes - counts.mac.code_min) / (counts.mac.code_max - counts.mac.code_min)
    shapes, covariances, levels = [], [], []
    for j in np.flatnonzero(used):
        here = known[j]
        # Weights of the converter's mean, not of each stretch's own square: these would favour what came out low.
        weight = 1 / (np.average(square[j, here]) * log_se[j, here] * 2) ** 2
        design = np.stack([np.ones_like(m[here]), m[here], m[here] ** 2], axis=1)
        inverse = np.linalg.inv(design.T @ (weight[:, None] * design))
        solution = inverse @ (design.T @ (weight * square[j, here]))
        level = float(np.average(square[j, here], weights=weight))
        shapes.append(solution / level)
        weighted = design * (weight * square_se[j, here])[:, None]
        spread = inverse @ (weighted.T @ weighted) @ inverse
        covariances.append(spread / level**2)
        levels.append(level)
    shape, covariance, df = _pooled(np.array(shapes), np.array(covariances))
    mean = float(np.mean(levels))
    b_and_c = shape[1:]
    statistic = float(b_and_c @ np.linalg.solve(covariance[1:, 1:], b_and_c))
    p = float(chi2.sf(statistic, 2)) if df is None else float(f.sf(statistic * (df - 1) / (2 * df), 2, df - 1))
    first, last = shape[0], shape.sum()
    gradient = np.array([1 / first - last / first**2, 1 / first, 1 / first])
    ratio = Estimate.normal(last / first, float(np.sqrt(gradient @ covariance @ gradient)), df or np.inf)
    fitted = [
        Estimate.normal(float(shape[i]) * mean, float(np.sqrt(covariance[i, i])) * mean, df or np.inf) for i in range(3)
    ]
    return NoiseByCode(
        codes=codes,
        sigma=sigma,
        sigma_low=sigma * np.exp(-Z95 * log_se),
        sigma_high=sigma * np.exp(Z95 * log_se),
        a=fitted[0],
        b=fitted[1],
        c=fitted[2],
        grows=ratio.root.mapped(lambda r: r - 1),
        p=p,
        adcs=int(used.sum()),
    )


def _pooled(shapes: Float, covariances: Float) -> tuple[Float, Float, int | None]:
    """Mean shape, its covariance, and degrees of freedom; None for a covariance that is known from the reads."""
    n = len(shapes)
    if n < _ENOUGH:
        return shapes.mean(axis=0), covariances.sum(axis=0) / n**2, None
    return shapes.mean(axis=0), np.cov(shapes.T) / n, n - 1


def stretch_noise(counts: Counts, point: PointResult, stretches: int) -> tuple[Float, Float, Float]:
    """Noise of each stretch, LSB of code, and the standard error of its logarithm, float64 [adcs, stretches], and the
    middles of the stretches, LSB of code. NaN where a converter has no noise figure there."""
    adcs, transitions = point.thresholds.shape
    edges = np.linspace(0, transitions, stretches + 1).round().astype(np.int64)
    middles = counts.mac.code_min + (edges[1:] + edges[:-1]) / 2
    sigma, log_se = np.full((2, adcs, stretches), np.nan)
    who = np.flatnonzero(np.isfinite(point.noise_lsb) & np.isfinite(point.gain))
    for first in range(0, len(who), BLOCK):
        chosen = who[first : first + BLOCK]
        thresholds, start = point.thresholds[chosen], point.noise_lsb[chosen]
        pad = min(int(np.ceil(8 * start.max())) + 2, transitions + 1)
        padded = np.pad(counts.histogram[chosen].astype(np.float64), ((0, 0), (0, 0), (pad, pad)))
        base = counts.base[chosen].astype(np.int64) - counts.mac.code_min - pad
        window = Window(padded, base, counts.inputs, counts.reads_at[chosen].astype(np.float64))
        slope = np.maximum(local_slope(thresholds), SMALLEST_SLOPE)
        used = inner(thresholds, SLOPE_WINDOW)
        for i in range(stretches):
            here = np.full(thresholds.shape, np.nan)
            here[:, edges[i] : edges[i + 1]] = used[:, edges[i] : edges[i + 1]]
            enough = np.isfinite(here).sum(axis=1) >= _FEWEST
            if enough.any():
                found, error = fit_noise(window, here, slope, np.where(enough, start, np.nan))
                good = error < LARGEST_SE
                sigma[chosen, i], log_se[chosen, i] = np.where(good, found, np.nan), np.where(good, error, np.nan)
    return sigma, log_se, middles
