"""Cells by reading them back: those that keep a value, and writes that want another pulse.

A random pattern of the lowest and the highest value, its complement, and the pattern again: from the second on every cell
is to change with one pulse. A row that is wrong after that pulse and right after further ones had a failed write; a cell
that is wrong after all of them is stuck, at what it did not have to be written to: no chance is in it but that of failing
PULSES + 1 times, which at 1 % of failing pulses is 1e-12 a cell.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pimchip.board import Board
from pimchip.board.selftest import patterns
from pimchip.chip import ChipSpec, Tile
from pimchip.profile.health import Fault, FaultKind


@dataclass(frozen=True)
class CellTest:
    """faults: found. stuck: bool [rows, columns]. written: pulses by which a cell's failing to write would have shown."""

    faults: tuple[Fault, ...]
    stuck: NDArray[np.bool_]
    written: int


def test_cells(board: Board, spec: ChipSpec, macro: int) -> CellTest:
    """Test a macro's cells; overwrites them. Raises DeviceError when the board fails."""
    tile = Tile(macro, 0, 0, spec.array.rows, spec.array.columns)
    shape = tile.rows, tile.columns
    first, second = patterns(spec, tile)
    wrong_low, wrong_high = np.zeros(shape, bool), np.zeros(shape, bool)
    late: list[tuple[int, ...]] = []
    steady = True
    for turn, pattern in enumerate((first, second, first)):
        board.program(tile, pattern)
        report = board.verify(tile)
        if turn:
            late.append(report.rows)
        if report.ok:
            continue
        done = board.program_verified(tile, pattern)
        steady &= done.steady
        highest = int(pattern.max())
        for at in done.wrong:
            (wrong_high if pattern[at] == highest else wrong_low)[at] = True
    stuck = wrong_low | wrong_high
    # A cell that is wrong both when it should be low and when it should be high is at neither end.
    value = np.where(wrong_low & wrong_high, 0, np.where(wrong_high, first.min(), first.max()))
    places = zip(*(axis.tolist() for axis in np.nonzero(stuck)), strict=True)
    faults = [Fault(FaultKind.STUCK_CELL, macro, row=r, column=c, detail=int(value[r, c])) for r, c in places]
    if not steady:
        faults.append(Fault(FaultKind.UNSTEADY_READS, macro))
    sound = set(np.flatnonzero(~stuck.any(axis=1)).tolist())
    failed = sum(row in sound for rows in late for row in rows)
    tried = len(late) * len(sound)
    if failed:
        # Half a row less, so that a share of one gives a number.
        share = 1 - (1 - min(failed, tried - 0.5) / tried) ** (1 / tile.columns)
        faults.append(Fault(FaultKind.WEAK_WRITES, macro, size=round(share, 9)))
    return CellTest(tuple(faults), stuck, tried * tile.columns)
