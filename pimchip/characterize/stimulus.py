"""Inputs that put a wanted sum on every column: full rows and one that makes up the rest, in a random order of rows."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from pimchip.chip import Mac
from pimchip.chip.philox import Domain, words


def inputs(sums: NDArray[np.int64], mac: Mac, seed: int, configuration: int = 0) -> NDArray[np.uint8]:
    """DAC inputs uint8 [levels, mac.rows] whose total times cell_max is |sum|, for multiples of cell_max.

    Rows are taken in an order drawn for each sum and sign anew from `seed`, so that none is favoured and the errors of
    single cells do not pile up along the curve. The order depends on the sum alone, not on what else is measured.
    configuration: another order for each number below 2^32; what several of them have in common is the converter's.
    """
    total = np.abs(sums) // mac.cell_max
    index = total[:, None] * mac.rows + np.arange(mac.rows)
    drawn = np.where(
        (sums < 0)[:, None],
        words(index, seed=seed, tag=1, epoch=configuration, domain=Domain.PLAN),
        words(index, seed=seed, tag=0, epoch=configuration, domain=Domain.PLAN),
    )
    rank = drawn.argsort(axis=1, kind="stable").argsort(axis=1, kind="stable")
    return filled(total, rank, mac)


def thermometer(sums: NDArray[np.int64], mac: Mac) -> NDArray[np.uint8]:
    """The same with rows taken in their own order, the first ones first: cells' errors pile up along the curve."""
    return filled(np.abs(sums) // mac.cell_max, np.arange(mac.rows)[None], mac)


def filled(total: NDArray[np.int64], rank: NDArray[np.integer], mac: Mac) -> NDArray[np.uint8]:
    """Full rows in the order of `rank`, int [levels, rows], and one that makes up the rest of each total."""
    return np.clip(total[:, None] - rank * (mac.digit - 1), 0, mac.digit - 1).astype(np.uint8)
