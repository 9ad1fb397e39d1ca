"""Rows weighed against each other: which of them add less than their neighbours.

Half of the rows are driven, at random, and then the other half: the column's sum stays, so that the converter's curve is
used in one place only and says nothing, and half the difference of the two codes is sum_i s_i w_i / 2 with s_i = +-1 and
w_i what row i adds. Least squares over many such pairs gives each w_i apart from their mean; all columns of the macro see
the same rows, and scatter over them, cells' mismatch and noise together, gives the standard error (a weighing design:
H. Hotelling, Ann. Math. Statist. 15, 1944). A line through the rows takes out what falls along the bitline by its
resistance; a row is weak where it is below that line by more than TOLERATED of it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.stats import norm, theilslopes

from pimchip.board import Board
from pimchip.characterize.health.sweep import fill
from pimchip.characterize.measure import Clock
from pimchip.characterize.plan import nominal_noise
from pimchip.chip import ChipSpec, Mac, Tile
from pimchip.chip.philox import Domain, words

TOLERATED = 0.02
"""Share that a sound row may lack, beside what falls along the bitline."""
WANTED = 0.1
"""Share that is found with a chance of 99 %: repeats are laid out for it."""
DEAD = 0.75
"""Rows that lose more change nothing, as it were."""
FEWEST_ROWS = 4
ONE_SIDED_99 = 2.3263478740408408
_STREAM = 4
_OUTLYING = 4.0
"""Standard errors off the line of medians (Theil and Sen), from which on a row has no part in the line of least squares."""

Float = NDArray[np.float64]


@dataclass(frozen=True)
class Weighed:
    """Rows of one macro, from `first` on. loss: float64 [rows], the share each lacks; se: of it; p: one-sided, against
    TOLERATED. slope: share lost from the first row to the last, along the bitline."""

    macro: int
    first: int
    loss: Float
    se: Float
    slope: float

    @property
    def p(self) -> Float:
        """float64 [rows]: chance that a row lacking TOLERATED looks like this."""
        return np.asarray(norm.sf((self.loss - TOLERATED) / self.se))


def weigh(
    board: Board, spec: ChipSpec, mac: Mac, tile: Tile, used: NDArray[np.bool_], alpha: float, clock: Clock
) -> Weighed | None:
    """Weigh the rows of a tile; None with too few rows or columns. Overwrites it.

    used: bool [tile.rows, columns], cells that hold what is programmed, in columns whose converter works. alpha: of all
    rows of the die together.
    """
    columns = np.flatnonzero(used.any(axis=0))
    if tile.rows < FEWEST_ROWS or len(columns) < 2:
        return None
    fill(board, tile, 1, mac)
    unit = (mac.digit - 1) * mac.cell_max / mac.scale
    signs = _signs(tile.rows)
    noise = math.sqrt(nominal_noise(spec, mac) ** 2 + 1 / 12) / unit
    critical = float(norm.isf(alpha / (spec.array.macros * spec.array.rows))) + ONE_SIDED_99
    single = noise * math.sqrt(4 / (len(signs) * len(columns)))  # of as many pairs as twice the rows
    repeats = max(math.ceil((single * critical / (WANTED - TOLERATED)) ** 2), 1)
    drive = np.concatenate([signs > 0, signs < 0]).astype(np.int64) * (mac.digit - 1)
    codes = board.convert(tile, drive, repeats, mac=mac, run=clock.take(len(drive) * repeats))
    total = codes.sum(axis=0, dtype=np.int64)[:, columns]
    difference = (total[: len(signs)] - total[len(signs) :]) / (2 * repeats)
    # What the mean row adds is known from the sums; only deviations from it are sought.
    difference = difference - signs.sum(axis=1)[:, None] * (unit / 2)
    design = signs.astype(np.float64)
    # As the signs of a line add up to nothing, the mean of all rows is no solution's business: the ones put it at 0.
    deviation = 2 * np.linalg.solve(design.T @ design + 1.0, design.T @ difference)
    return _against_line(tile, deviation, used[:, columns], unit)


def _signs(rows: int) -> NDArray[np.int64]:
    """int64 [2 rows, rows] of +-1: in each line half of the rows are driven."""
    drawn = words(np.arange(2 * rows * rows), seed=0, tag=_STREAM, domain=Domain.PLAN).reshape(2 * rows, rows)
    rank = drawn.argsort(axis=1, kind="stable").argsort(axis=1, kind="stable")
    return np.where(rank < rows // 2, 1, -1).astype(np.int64)


def _against_line(tile: Tile, deviation: Float, used: NDArray[np.bool_], unit: float) -> Weighed:
    """deviation: float64 [rows, columns], LSB. used: the cells that count."""
    count = used.sum(axis=1)
    known = count > 0
    mean = np.where(used, deviation, 0.0).sum(axis=1) / np.maximum(count, 1)
    freedom = max(int(np.maximum(count - 1, 0).sum()), 1)
    variance = float((np.where(used, deviation - mean[:, None], 0.0) ** 2).sum()) / freedom
    x = np.linspace(-0.5, 0.5, tile.rows)
    robust = theilslopes(mean[known], x[known])
    line = robust.intercept + robust.slope * x
    kept = known & (np.abs(mean - line) <= _OUTLYING * np.sqrt(variance / np.maximum(count, 1)))
    slope = float(robust.slope)
    if kept.sum() > FEWEST_ROWS:
        centred = x[kept] - x[kept].mean()
        slope = float((centred * mean[kept]).sum() / (centred**2).sum())
        line = mean[kept].mean() + slope * (x - x[kept].mean())
    # A sound row adds the nominal amount, to within the gains of the converters that saw it; the line is about the mean row.
    reference = np.maximum(unit + line - line.mean(), unit / 4)
    loss = np.where(known, (line - mean) / reference, np.nan)
    se = np.sqrt(variance / np.maximum(count, 1)) / reference
    return Weighed(tile.macro, tile.row, loss, se, -slope / unit)
