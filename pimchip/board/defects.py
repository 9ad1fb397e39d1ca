"""Cells that do not hold what was programmed: where they are, for people and for JSON."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from pimchip.chip import Tile

Cell = tuple[int, int]
"""Row and column within a tile."""
SHOWN = 8
"""Rows, columns and macros that are named; of more, how many they are is said."""


@dataclass(frozen=True)
class WrongCells:
    """Of one macro: how many cells of what was programmed there are wrong, and their wordlines and bitlines, rising."""

    macro: int
    cells: int
    rows: tuple[int, ...]
    columns: tuple[int, ...]

    def __str__(self) -> str:
        return f"macro {self.macro}: {self.place}"

    @property
    def place(self) -> str:
        """How many, and where in the macro."""
        return f"{cells_text(self.cells)}, {_named('row', self.rows)}, {_named('column', self.columns)}"


def by_macro(wrong: Iterable[tuple[Tile, Sequence[Cell]]]) -> tuple[WrongCells, ...]:
    """Wrong cells of tiles, collected by macro; macros without any are left out."""
    found: dict[int, list[Cell]] = {}
    for tile, cells in wrong:
        found.setdefault(tile.macro, []).extend((tile.row + row, tile.column + column) for row, column in cells)
    return tuple(
        WrongCells(macro, len(cells), _each(row for row, _ in cells), _each(column for _, column in cells))
        for macro, cells in sorted(found.items())
        if cells
    )


def describe(found: Sequence[WrongCells]) -> str:
    """Where they are, in one line: the worst macros by name."""
    worst = sorted(found, key=lambda macro: -macro.cells)[:SHOWN]
    rest = len(found) - len(worst)
    more = f"; and {rest} more macro{'s' * (rest > 1)}" if rest else ""
    return "; ".join(str(macro) for macro in sorted(worst, key=lambda macro: macro.macro)) + more


def cells_text(count: int) -> str:
    """A number of cells, in words that agree with it."""
    return "1 cell" if count == 1 else f"{count:,} cells"


def _each(values: Iterable[int]) -> tuple[int, ...]:
    return tuple(sorted(set(values)))


def _named(what: str, numbers: Sequence[int]) -> str:
    if len(numbers) == 1:
        return f"{what} {numbers[0]}"
    if len(numbers) > SHOWN:
        return f"{len(numbers)} {what}s from {numbers[0]} to {numbers[-1]}"
    return f"{what}s {', '.join(map(str, numbers))}"
