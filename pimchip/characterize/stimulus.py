"""Inputs that put a wanted sum on every column: full rows and one that makes up the rest, in a random order of rows."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from pimchip.chip import Mac
from pimchip.chip.philox import Domain, words


def inputs(sums: NDArray[np.int64], mac: Mac, seed: int) -> NDArray[np.uint8]:
    """DAC inputs uint8 [levels, mac.rows] whose total times cell_max is |sum|, for multiples of cell_max.

    Rows are taken in an order drawn for each sum and sign anew from `seed`, so that none is favoured and the errors of
    single cells do not pile up along the curve. The order depends on the sum alone, not on what else is measured.
    """
    total = np.abs(sums) // mac.cell_max
    index = total[:, None] * mac.rows + np.arange(mac.rows)
    drawn = np.where(
        (sums < 0)[:, None],
        words(index, seed=seed, tag=1, domain=Domain.PLAN),
        words(index, seed=seed, tag=0, domain=Domain.PLAN),
    )
    rank = drawn.argsort(axis=1, kind="stable").argsort(axis=1, kind="stable")
    return np.clip(total[:, None] - rank * (mac.digit - 1), 0, mac.digit - 1).astype(np.uint8)
