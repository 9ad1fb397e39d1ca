"""Upper tails of distributions and where they lie, for tests and intervals: those of scipy.special, as importing scipy.stats
takes longer than many a command.

Names are those of scipy.stats: sf(x) is the chance of more than x, isf(p) the x that is passed with that chance. All take
and give numbers or arrays that broadcast.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import chdtrc, fdtri, ndtr, ndtri, stdtr, stdtrit

Values = float | NDArray[np.floating[Any]] | NDArray[np.integer[Any]]


def normal_sf(z: Values) -> Any:
    """Of the standard normal distribution."""
    return ndtr(-np.asarray(z))


def normal_isf(p: Values) -> Any:
    """Where the standard normal distribution is passed with a chance of p."""
    return -ndtri(p)


def student_sf(t: Values, freedom: Values) -> Any:
    """Of Student's t with so many degrees of freedom."""
    return stdtr(freedom, -np.asarray(t))


def student_isf(p: Values, freedom: Values) -> Any:
    """Where Student's t is passed with a chance of p."""
    return np.where(np.asarray(p) == 0, np.inf, -stdtrit(freedom, p))


def chi2_sf(x: Values, freedom: Values) -> Any:
    """Of the sum of so many squares of standard normal numbers; x: from 0 on."""
    return chdtrc(freedom, x)


def f_isf(p: Values, above: Values, below: Values) -> Any:
    """Where Fisher's F, with degrees of freedom above and below, is passed with a chance of p."""
    return fdtri(above, below, 1 - np.asarray(p))
