"""Many tests at once: p-values adjusted so that the chance of any false finding stays below one level.

Source: S. Holm, "A simple sequentially rejective multiple test procedure", Scand. J. Statist. 6 (1979). It holds whatever
the tests have to do with each other, which here share noise, rows and reads.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from pimchip.profile.model import Float


def holm(p: ArrayLike) -> Float:
    """Adjusted p-values, float64 of p's shape, in 0..1: rejecting those up to alpha errs at all with chance alpha at most.

    p: of each test, NaN for one that was not made; it is not counted and stays NaN.
    """
    given = np.asarray(p, np.float64)
    flat, out = given.ravel(), np.full(given.size, np.nan)
    made = np.flatnonzero(~np.isnan(flat))
    order = made[np.argsort(flat[made], kind="stable")]
    left = np.arange(len(order), 0, -1)
    out[order] = np.minimum(np.maximum.accumulate(flat[order] * left), 1.0)
    return out.reshape(given.shape)
