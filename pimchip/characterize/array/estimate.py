"""An estimate with its standard error and 95 % interval, and the intervals of variances.

Variance components are differences of mean squares, for which the normal interval does not hold. Those here are the
modified large-sample ones of Graybill and Wang (J. Am. Stat. Assoc. 75, 1980) for sums and of Ting, Burdick, Graybill,
Jeyaratnam and Lu (J. Stat. Comput. Simul. 35, 1990) for differences, as in Burdick and Graybill, "Confidence Intervals
on Variance Components" (1992), section 3.3; sums of mean squares get Satterthwaite's degrees of freedom (Biometrics
Bulletin 2, 1946).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Self

import numpy as np
from numpy.typing import NDArray
from scipy.stats import chi2, f, t

from pimchip.characterize.estimators import Z95
from pimchip.errors import InputError

Float = NDArray[np.float64]
_TAIL = 0.025


class NotToldError(InputError):
    """What was asked for cannot be told from this chip or these data; the message says what would tell it."""


@dataclass(frozen=True)
class Estimate:
    """value, its standard error se, and low..high, its 95 % interval; all in one unit. NaN where there is nothing to say."""

    value: float
    se: float
    low: float
    high: float

    @classmethod
    def normal(cls, value: float, se: float, df: float = math.inf) -> Self:
        """Of a mean: Student's t with df degrees of freedom."""
        if not df >= 1:
            return cls(value, math.nan, math.nan, math.nan)
        reach = se * (Z95 if math.isinf(df) else float(t.ppf(1 - _TAIL, df)))
        return cls(value, se, value - reach, value + reach)

    @classmethod
    def of_mean(cls, values: Float) -> Self:
        """Of the mean of independent values, from their scatter."""
        n = values.size
        se = float(values.std(ddof=1)) / math.sqrt(n) if n > 1 else math.nan
        return cls.normal(float(values.mean()), se, n - 1)

    def mapped(self, function: Callable[[float], float]) -> Estimate:
        """Under a rising function; the standard error is what the interval's width is worth."""
        value, low, high = (function(x) for x in (self.value, self.low, self.high))
        return Estimate(value, (high - low) / (2 * Z95), low, high)

    def times(self, factor: float) -> Estimate:
        """In another unit. factor: above 0."""
        return Estimate(self.value * factor, self.se * factor, self.low * factor, self.high * factor)

    @property
    def root(self) -> Estimate:
        """Of a variance, the standard deviation; what is below 0 is 0."""
        return self.mapped(lambda x: math.sqrt(max(x, 0.0)))

    @property
    def found(self) -> bool:
        """True where the interval lies on one side of 0 (for what cannot be negative: does not reach down to it)."""
        return self.low > 0 or self.high < 0

    def holds(self, truth: float) -> bool:
        """True where the interval holds a value."""
        return self.low <= truth <= self.high

    def text(self, digits: int = 3, factor: float = 1.0) -> str:
        """ "0.123 (0.101 to 0.144)"."""
        value, low, high = (f"{x * factor:.{digits}f}" for x in (self.value, self.low, self.high))
        return f"{value} ({low} to {high})" if math.isfinite(self.low) else value


NOTHING = Estimate(math.nan, math.nan, math.nan, math.nan)
"""Where there is nothing to say."""


@dataclass(frozen=True)
class MeanSquare:
    """A sum of squares over its degrees of freedom."""

    value: float
    df: float

    @classmethod
    def pooled(cls, squares: Sequence[tuple[float, float]]) -> Self:
        """Of (sum of squares, degrees of freedom) of independent parts."""
        df = sum(part[1] for part in squares)
        return cls(sum(part[0] for part in squares) / df if df else math.nan, df)


def variance(ms: MeanSquare) -> Estimate:
    """Of a mean square by itself: chi-square."""
    if not ms.df >= 1:
        return NOTHING
    low, high = (ms.value / _point(tail, ms.df) for tail in (_TAIL, 1 - _TAIL))
    return Estimate(ms.value, ms.value * math.sqrt(2 / ms.df), low, high)


def component(upper: MeanSquare, lower: MeanSquare, times: float) -> Estimate:
    """Of (upper - lower) / times, a variance component. Not held to 0 from below: means of many stay unbiased."""
    n1, n2 = upper.df, lower.df
    if not (n1 >= 1 and n2 >= 1):
        return NOTHING
    a, b = upper.value, lower.value
    value = (a - b) / times
    se = math.sqrt(2 * a * a / n1 + 2 * b * b / n2) / times

    g1, h2 = 1 - 1 / _point(_TAIL, n1), 1 / _point(1 - _TAIL, n2) - 1
    ratio = _point(_TAIL, n1, n2)
    g12 = ((ratio - 1) ** 2 - (g1 * ratio) ** 2 - h2**2) / ratio
    h1, g2 = 1 / _point(1 - _TAIL, n1) - 1, 1 - 1 / _point(_TAIL, n2)
    ratio = _point(1 - _TAIL, n1, n2)
    h12 = ((1 - ratio) ** 2 - (h1 * ratio) ** 2 - g2**2) / ratio
    down = math.sqrt(max((g1 * a) ** 2 + (h2 * b) ** 2 + g12 * a * b, 0.0)) / times
    up = math.sqrt(max((h1 * a) ** 2 + (g2 * b) ** 2 + h12 * a * b, 0.0)) / times
    return Estimate(value, se, value - down, value + up)


@lru_cache(maxsize=4096)
def _point(tail: float, n1: float, n2: float = math.inf) -> float:
    """Of the F distribution, `tail` above it."""
    return float(chi2.ppf(1 - tail, n1)) / n1 if math.isinf(n2) else float(f.ppf(1 - tail, n1, n2))


def total(parts: Sequence[tuple[float, MeanSquare]]) -> Estimate:
    """Of a sum of multiples of mean squares: Satterthwaite. parts: (factor, mean square)."""
    value = sum(factor * ms.value for factor, ms in parts)
    spread = sum((factor * ms.value) ** 2 / ms.df for factor, ms in parts if ms.df)
    return variance(MeanSquare(value, value**2 / spread)) if spread > 0 else NOTHING
