"""What rounding to codes adds to variances, where positions between two codes are spread evenly over an LSB.

A conversion's code is c = round(t + noise). Over positions t spread evenly, c - t has the variance sigma^2 + 1/12
exactly (Sheppard). Part of it is not seen in repeats at one position: the mean code there is off by

    b(t) = sum_m (-1)^m exp(-2 pi^2 m^2 sigma^2) sin(2 pi m t) / (pi m),   of mean square  q = sum_m q_m,
    q_m = exp(-4 pi^2 m^2 sigma^2) / (2 pi^2 m^2)

(Widrow and Kollar, "Quantization Noise", 2008, chapter 9). So repeats scatter by sigma^2 + 1/12 - q, and means at
positions that scatter by a normal s scatter by s^2 + sum_m q_m (1 - exp(-4 pi^2 m^2 s^2)). From sigma = 0.3 on q is below
0.0015 LSB^2, and Sheppard's 1/12 alone is good to 2 % of the variance; below that too much hangs on the positions, and
such noise is the staircase's business.
"""

from __future__ import annotations

import math

import numpy as np
from scipy.optimize import brentq

SMALLEST_SIGMA = 0.3
"""LSB; below this repeats of one sum say too little of the noise, and means of codes too little of the sum."""
FEWEST_POSITIONS = 16
"""That repeats are pooled over."""
_ORDERS = np.arange(1, 9, dtype=np.float64)


def _hidden(sigma: float) -> np.ndarray:
    """q_m by order."""
    return np.asarray(np.exp(-4 * (math.pi * _ORDERS * sigma) ** 2) / (2 * (math.pi * _ORDERS) ** 2))


def noise_variance(seen: float) -> float:
    """sigma^2 of the noise, from the variance of repeats; 0 where that is less than rounding alone can give. LSB^2."""
    lowest = SMALLEST_SIGMA / 3

    def excess(sigma: float) -> float:
        return sigma**2 + 1 / 12 - float(_hidden(sigma).sum()) - seen

    if not math.isfinite(seen):
        return seen
    if excess(lowest) >= 0:
        return max(seen - 1 / 12, 0.0)
    return float(brentq(excess, lowest, math.sqrt(seen) + 1)) ** 2


def signal_variance(seen: float, sigma: float) -> float:
    """s^2 of what scatters before rounding, from the variance component of mean codes; sigma: noise. LSB^2.

    A component below 0 stays as it is but for the same factor, so that means over many stay unbiased.
    """
    q = _hidden(sigma)
    if not math.isfinite(seen) or not seen:
        return seen

    def excess(s2: float) -> float:
        return s2 + float((q * -np.expm1(-4 * (math.pi * _ORDERS) ** 2 * s2)).sum()) - abs(seen)

    return math.copysign(float(brentq(excess, 0.0, abs(seen) + 1e-12)), seen)
