"""What a tile is to hold, and what programming it came to."""

from __future__ import annotations

import zlib
from dataclasses import dataclass

import numpy as np

from pimchip.board.defects import Cell
from pimchip.chip import Mac, Tile
from pimchip.chip.mac import Int8
from pimchip.errors import InputError


@dataclass(frozen=True)
class TileCells:
    """What a tile is to hold. cells: int8 [tile.rows, tile.columns]; mac: as of Board.program."""

    tile: Tile
    cells: Int8
    mac: Mac | None = None

    def check(self) -> None:
        """InputError where the cells do not fill the tile."""
        tile, cells = self.tile, np.asarray(self.cells)
        if cells.shape != (tile.rows, tile.columns) or cells.dtype != np.int8:
            raise InputError(
                f"cells {cells.dtype} {list(cells.shape)} do not fill tile {tile}: want int8 [{tile.rows}, {tile.columns}]"
            )


@dataclass(frozen=True)
class VerifyReport:
    """Cells read back against what was programmed. rows: wordlines of the tile that differ; empty when all is well."""

    tile: Tile
    rows: tuple[int, ...] = ()

    @property
    def ok(self) -> bool:
        """True when every row is as programmed."""
        return not self.rows


@dataclass(frozen=True)
class Programmed:
    """What programming a tile came to. report: the last read-back; pulses: how often it was programmed; steady: False
    where two reads of the same cells differed, so that it is the reading that fails; wrong: rows and columns, within the
    tile, of the cells that then held something else, rising."""

    report: VerifyReport
    pulses: int = 1
    steady: bool = True
    wrong: tuple[Cell, ...] = ()


PULSES = 5
"""Pulses a tile gets before its cells count as bad. Where one cell in a hundred ignores a pulse, a tile of 65536 cells is
still wrong after five with a chance of 7e-6; a stuck cell costs four pulses in vain."""


def row_checksums(cells: Int8) -> tuple[int, ...]:
    """CRC-32 of each row's cells, by which programmed and read-back tiles are compared."""
    rows, columns = cells.shape
    held = cells.tobytes()
    return tuple(zlib.crc32(held[r * columns : (r + 1) * columns]) for r in range(rows))
