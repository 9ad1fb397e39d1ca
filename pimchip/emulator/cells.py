"""The cells of a board's macros: what they hold, and what each of them adds to its column's sum.

A cell that holds B adds B * f to the sum. Its error (pimchip.chip.adc) is E = floor(2^q * B * (f - 1) + u), u uniform
in 0..1 and fixed for each cell: rounding to the nearest would lose, or double, a small loss that all cells share, and
this keeps its mean. f is the product of

    1 + mismatch_sigma * g                              fixed for the die
    1 + program_sigma * g'                              drawn anew by each pulse that the cell takes
    1 - weak_row_loss                                   on weak wordlines
    1 - ir_drop * row / (rows - 1)                      row 0 is next to the converters
    1 - retention_loss * decades * (1 + spread * g'')   decades = log10(1 + hours); the loss of a cell is never negative
    1 - read_disturb * cycles / 10^6                    array cycles of the macro since the cell was programmed

each held to 0 from below. A cell that holds 0 adds 0. A pulse fails at a cell with the chance write_failure and then
leaves it as it was, by a draw for each cell and pulse; so the same dies programmed in the same order hold the same.

A stuck cell keeps its value whatever is written, and reads back so. A full one is at the largest value of the operating
point in use, for reads that of the operating point that the cell was written for; a signed one at either end, with equal
chances.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from pimchip.chip import ChipSpec, Mac, Tile
from pimchip.chip.mac import Int8
from pimchip.chip.parts import Cells
from pimchip.emulator.draws import Bool, CellTag, Draws, Float, Int64
from pimchip.emulator.state import Conditions
from pimchip.errors import InputError

FRACTION_BITS = 8
"""q of the cells' errors. Rounding them to 2^-8 counts moves the sum of n rows at full drive by at most 2^-9 * sqrt(n) of
a cell's drive, rms: a fiftieth of an LSB for 144 one-bit rows and 7 bits, and less for wider cells. Sums of any operating
point stay exact, in float32 for the built-in chips and far below the 53 bits of float64 for all (kernels.crossbar)."""
MILLION = 1e6
_Draw = Callable[[CellTag, Int64, int], Float]
FACTORS_HELD = 64
"""Tiles whose factors are kept between calls."""


class CellArray:
    """State of all cells. draws: of the die, None for exact cells."""

    def __init__(self, spec: ChipSpec, draws: Draws | None, at: Conditions) -> None:
        self._array = spec.array
        self._full = spec.mac().cell_max
        self._signed = spec.mac().signed
        self._physics = spec.cells if draws is not None else Cells()
        self._draws = draws or Draws(0)
        self._at = at
        self.version = 0
        """Changes whenever what a cell adds may have changed."""
        self.cycles = [0] * spec.array.macros
        """Array cycles of each macro."""
        c, shape = self._physics, (spec.array.macros, spec.array.rows, spec.array.columns)
        self._values = np.zeros(shape, np.int8)
        counted = bool(c.program_sigma or c.write_failure)
        # Pulses given to each cell, and which of them it took last; 0 is none.
        self._pulses = np.zeros(shape, np.uint32) if counted else None
        self._taken = np.zeros(shape, np.uint32) if c.write_failure else self._pulses
        self._since = np.zeros(shape, np.int64) if c.read_disturb else None
        # What a full cell reads as: the largest value of what it was last written for.
        self._largest = np.full(shape, self._full, np.int8) if c.stuck_full else None
        self._stuck: dict[int, tuple[Bool, Int8]] = {}
        self._factors: dict[Tile, tuple[Float, Float]] = {}

    @property
    def fraction_bits(self) -> int:
        """q of what `given` returns: 0 where no effect can make a cell add more or less than it holds."""
        c = self._physics
        aged = c.retention_loss and self._at.age
        weak = c.weak_rows and c.weak_row_loss
        active = c.mismatch_sigma or c.program_sigma or weak or c.ir_drop or aged or c.read_disturb
        return FRACTION_BITS if active else 0

    def write(self, tile: Tile, cells: Int8, full: int | None = None) -> None:
        """One pulse for each cell of a tile. full: what a full cell is worth there, None for the chip's own."""
        at = _region(tile)
        if self._largest is not None:
            self._largest[at] = self._full if full is None else full
        took = np.ones(cells.shape, bool)
        if self._pulses is not None and self._taken is not None:
            self._pulses[at] += 1
            if self._physics.write_failure:
                drawn = self._by_pulse(self._draws.uniform, CellTag.WRITE_FAILURE, tile, self._pulses[at])
                took = drawn >= self._physics.write_failure
                self._taken[at] = np.where(took, self._pulses[at], self._taken[at])
        self._values[at] = np.where(took, cells, self._values[at])
        if self._since is not None:
            self._since[at] = np.where(took, self.cycles[tile.macro], self._since[at])
        self._factors = {t: f for t, f in self._factors.items() if t.macro != tile.macro}
        self.version += 1

    def read(self, tile: Tile) -> Int8:
        """What the cells of a tile hold."""
        return self._held(tile, self._full if self._largest is None else self._largest[_region(tile)])

    def work(self, macro: int, cycles: int) -> None:
        """Count array cycles of a macro."""
        self.cycles[macro] += cycles
        if self._since is not None and cycles:
            self.version += 1

    def given(self, tile: Tile, mac: Mac) -> NDArray[np.float32]:
        """(B << q) + E of a tile now: float32 [rows, columns] of integers below 2^24, as the kernels take them.

        InputError where the tile holds what the operating point's converters cannot be fed.
        """
        cells = self._held(tile, mac.cell_max)
        low, high = -mac.cell_max if mac.signed else 0, mac.cell_max
        if cells.min() < low or cells.max() > high:
            raise InputError(
                f"tile {tile} holds cells in {cells.min()}..{cells.max()}; scheme {mac.scheme} with {mac.weight_bits} b "
                f"weights takes {low}..{high}: program it for this operating point"
            )
        if not self.fraction_bits:
            return cells.astype(np.float32)
        out: NDArray[np.float32] = (cells * float(1 << FRACTION_BITS) + self._errors(tile, cells)).astype(np.float32)
        return out

    def errors(self, tile: Tile, value: int) -> Int64:
        """E of a tile's cells if each held `value` now, int64 [rows, columns] in 2^-fraction_bits counts."""
        if not self.fraction_bits:
            return np.zeros((tile.rows, tile.columns), np.int64)
        return self._errors(tile, np.full((tile.rows, tile.columns), value, np.int8)).astype(np.int64)

    def stuck(self, macro: int) -> NDArray[np.uint8]:
        """uint8 [rows, columns] of a macro: 0 for a sound cell, 1 stuck at zero, 2 stuck full, 3 full and negative."""
        stuck, sign = self._stuck_cells(macro)
        return np.where(stuck, np.array([3, 1, 2], np.uint8)[sign + 1], np.uint8(0))

    def _errors(self, tile: Tile, cells: Int8) -> Float:
        factor, dither = self._factor(tile)
        if self._since is not None:
            seen = self.cycles[tile.macro] - self._since[_region(tile)]
            factor = factor * np.maximum(1 - self._physics.read_disturb * (seen / MILLION), 0)
        return np.floor(cells.astype(np.float64) * (1 << FRACTION_BITS) * (factor - 1) + dither)

    def _held(self, tile: Tile, full: int | Int8) -> Int8:
        cells = self._values[_region(tile)].copy()
        if self._physics.stuck_zero or self._physics.stuck_full:
            rows, columns = _region(tile)[1:]
            stuck, sign = (part[rows, columns] for part in self._stuck_cells(tile.macro))
            cells[stuck] = (sign * np.asarray(full, np.int8))[stuck]
        return cells

    def _stuck_cells(self, macro: int) -> tuple[Bool, Int8]:
        """[rows, columns] of a macro: which are stuck, and at what share of the largest value, -1, 0 or 1."""
        if macro not in self._stuck:
            index = self._index(Tile(macro, 0, 0, self._array.rows, self._array.columns))
            c, drawn = self._physics, self._draws.uniform(CellTag.STUCK, index)
            sign = np.ones(index.shape, np.int8)
            if self._signed:
                sign[self._draws.uniform(CellTag.STUCK_SIGN, index) < 0.5] = -1
            zero = drawn < c.stuck_zero
            self._stuck[macro] = drawn < c.stuck_zero + c.stuck_full, np.where(zero, np.int8(0), sign)
        return self._stuck[macro]

    def _factor(self, tile: Tile) -> tuple[Float, Float]:
        """f without read disturb, and u; float64 [rows, columns], computed once for each programming of the macro."""
        if tile in self._factors:
            return self._factors[tile]
        c, rows, index = self._physics, tile.row + np.arange(tile.rows), self._index(tile)
        factor = np.ones(index.shape)
        if c.mismatch_sigma:
            factor = factor * _gain(c.mismatch_sigma * self._draws.normal(CellTag.MISMATCH, index))
        if c.program_sigma and self._taken is not None:
            drawn = self._by_pulse(self._draws.normal, CellTag.PROGRAM, tile, self._taken[_region(tile)])
            factor = factor * _gain(c.program_sigma * drawn)
        if c.weak_rows and c.weak_row_loss:
            drawn = self._draws.uniform(CellTag.WEAK_ROW, tile.macro * self._array.rows + rows)
            factor = factor * np.where(drawn < c.weak_rows, 1 - c.weak_row_loss, 1.0)[:, None]
        if c.ir_drop:
            factor = factor * (1 - c.ir_drop * (rows / max(self._array.rows - 1, 1)))[:, None]
        if c.retention_loss and self._at.age:
            share = _gain(c.retention_spread * self._draws.normal(CellTag.RETENTION, index))
            factor = factor * _gain(-c.retention_loss * self._at.decades * share)
        if len(self._factors) >= FACTORS_HELD:
            self._factors.clear()
        self._factors[tile] = factor, self._draws.uniform(CellTag.ROUNDING, index)
        return self._factors[tile]

    def _by_pulse(self, draw: _Draw, tag: CellTag, tile: Tile, pulses: NDArray[np.uint32]) -> Float:
        """Draws of cells by the pulse in question, which most often is the same for a whole tile."""
        index, out = self._index(tile), np.empty(pulses.shape)
        for pulse in np.unique(pulses).tolist():
            here = pulses == pulse
            out[here] = draw(tag, index[here], pulse)
        return out

    def _index(self, tile: Tile) -> Int64:
        """Index of each cell over all macros, int64 [rows, columns]."""
        wordline = tile.macro * self._array.rows + tile.row + np.arange(tile.rows)
        return wordline[:, None] * self._array.columns + tile.column + np.arange(tile.columns)


def _gain(error: Float) -> Float:
    """1 + error, held to 0 from below."""
    return np.maximum(1 + error, 0)


def _region(tile: Tile) -> tuple[int, slice, slice]:
    rows = slice(tile.row, tile.row + tile.rows)
    return tile.macro, rows, slice(tile.column, tile.column + tile.columns)
