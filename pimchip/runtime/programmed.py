"""What programming a board came to, and what it then holds."""

from __future__ import annotations

from dataclasses import dataclass, field
from weakref import WeakKeyDictionary

import numpy as np

from pimchip.board import Board, Programmed, TileCells, WrongCells
from pimchip.board.defects import Cell, by_macro, cells_text, describe
from pimchip.chip import ChipSpec, Mac, Tile, known_chips, load_chip
from pimchip.chip.mac import Int8
from pimchip.compiler.program import Program
from pimchip.compiler.records import TileRecord


@dataclass
class ProgramReport:
    """What programming did: tiles and their cells, tiles that needed more than one pulse and how many more in all, and
    the tiles, by residency pass and place, whose last read-back differed to the end: what was said of them, and which
    cells."""

    tiles: int = 0
    cells: int = 0
    repulsed: int = 0
    extra_pulses: int = 0
    said: dict[tuple[int, Tile], str] = field(default_factory=dict)
    wrong: dict[tuple[int, Tile], tuple[Cell, ...]] = field(default_factory=dict)

    @property
    def errors(self) -> list[str]:
        """One line for each tile that differs."""
        return list(self.said.values())

    @property
    def wrong_cells(self) -> int:
        """Cells of the program, over its passes, that are not as they should be."""
        return sum(map(len, self.wrong.values()))

    @property
    def where(self) -> tuple[WrongCells, ...]:
        """The same by macro."""
        return by_macro((tile, cells) for (_, tile), cells in self.wrong.items())

    def note(self, residency: int, tile: Tile, layer: str, written: Programmed) -> None:
        """Take down what programming a tile of a layer came to."""
        self.tiles += 1
        self.cells += tile.rows * tile.columns
        self.repulsed += written.pulses > 1
        self.extra_pulses += written.pulses - 1
        at = residency, tile
        self.said.pop(at, None)
        self.wrong.pop(at, None)
        if not written.report.ok or not written.steady:
            seen = "a second read agrees" if written.steady else "a second read differs"
            pulses = f" after {written.pulses} pulses" if written.pulses > 1 else ""
            rows = f"rows {list(written.report.rows[:8])}" if not written.report.ok else "some rows"
            self.said[at] = f"layer {layer}, {tile}: {rows} read back wrong{pulses} ({seen})"
            self.wrong[at] = written.wrong


@dataclass(eq=False)
class Held:
    """What a board holds of a program's weights, shared by all executors of that program on it. residency: the pass all of
    whose tiles are there; of others some may be, as far as nothing was written over them."""

    residency: int | None = None
    marks: dict[tuple[str, TileRecord], object | None] = field(default_factory=dict)
    """The board's, of tiles with their layers when they were programmed."""
    cells: dict[str, Int8] = field(default_factory=dict)

    def note(self, board: Board, residency: int, tiles: list[tuple[str, TileRecord]]) -> None:
        """All of a pass is on the board now, its `tiles` since just now."""
        self.residency = residency
        self.marks = {key: mark for key, mark in self.marks.items() if self._is(board, key, mark)}
        self.marks |= {key: board.mark(key[1].placement().tile) for key in tiles}

    def missing(self, board: Board, tiles: list[tuple[str, TileRecord]]) -> list[tuple[str, TileRecord]]:
        """Of these tiles, those that are not there, or that something was programmed over since."""
        return [key for key in tiles if not self._is(board, key, self.marks.get(key))]

    @staticmethod
    def _is(board: Board, key: tuple[str, TileRecord], mark: object | None) -> bool:
        return mark is not None and board.mark(key[1].placement().tile) is mark


def tile_cells(record: TileRecord, mac: Mac, cells: Int8) -> TileCells:
    """What a tile is to hold of its layer's cells, int8 [depth, columns]."""
    first = record.group * mac.rows
    held = cells[first : first + record.rows, record.first_column : record.first_column + record.columns]
    return TileCells(record.placement().tile, np.ascontiguousarray(held), mac)


LAST: WeakKeyDictionary[Board, Held] = WeakKeyDictionary()
"""Whose weights were programmed last on each board: another program's executor may have replaced ours."""


def failure(
    report: ProgramReport, program: Program, board: Board, tolerated: int, unsteady: bool, residency: int
) -> str:
    """Why programming a pass failed and what to do, in one line. unsteady: reads of the same cells differed."""
    wrong, passes = report.wrong_cells, program.manifest.passes
    tiles = f"{len(report.errors)} tile{'s' * (len(report.errors) > 1)} failed verification"
    said = f"{tiles}; first: {report.errors[0]}"
    if wrong:
        so_far = f", seen in the first {residency + 1} of {passes} passes," if residency + 1 < passes else ""
        said += (
            f"; {cells_text(wrong)} of the program's {program.cells_used:,}{so_far} hold something else: "
            f"{describe(report.where)}"
        )
    if tolerated:
        said += f"; {cells_text(tolerated)} are tolerated"
    said += f'; `pimchip info "{board.info().url or "DEVICE"}" --self-test` shows what is broken'
    if not unsteady:
        more = " or more" if residency + 1 < passes else ""
        said += f", `pimchip deploy --tolerate-cells {wrong}`{more} (tolerate_cells={wrong} in Python) goes on with it"
    return said


def other_chip(own: ChipSpec, found: ChipSpec) -> str:
    """That a program does not fit a board, and the two ways out."""
    changed = "; both have one name, but their descriptions differ" if own.name == found.name else ""
    return (
        f"the program is for chip {own.name} ({own.hash[:8]}), the board is a {found.name} ({found.hash[:8]}){changed}: "
        f"name a device of that chip (such as emulator:{_chip_argument(own)}), or compile for the board's: "
        f"`pimchip compile model.pt --chip {_chip_argument(found)}`"
    )


def _chip_argument(spec: ChipSpec) -> str:
    """What names a chip on the command line."""
    built_in = spec.name in known_chips() and load_chip(spec.name).hash == spec.hash
    return spec.name if built_in else "ITS-CHIP-FILE.toml"
