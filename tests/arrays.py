"""What the tests of array measurements share: small chips of known truth, their boards, and what an interval must hold."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import binom

from pimchip.board.inprocess import InProcessBoard
from pimchip.characterize.array import Estimate
from pimchip.chip import ChipSpec, Mac, Run, Tile, load_chip
from pimchip.emulator.cells import CellArray
from pimchip.emulator.die import Die
from pimchip.emulator.draws import Draws
from pimchip.emulator.state import Conditions
from pimchip.emulator.virtual import VirtualBoard


def small(rows: int = 64, adcs: int = 16, columns: int = 4, macros: int = 1, **changes: dict[str, Any]) -> ChipSpec:
    """sram65 with fewer rows, converters and columns of each, and changes by section."""
    data = load_chip("sram65").to_dict()
    data["array"] |= {"macros": macros, "rows": rows, "columns": adcs * columns}
    data["adc"] |= {"per_macro": adcs}
    data["operating"] |= {"rows": rows}
    for section, values in changes.items():
        data[section] = data[section] | values
    return ChipSpec.from_dict(data)


def board_of(spec: ChipSpec, die: int = 1, seed: int = 1) -> InProcessBoard:
    return InProcessBoard(VirtualBoard(spec, Die(spec, die), noise_seed=seed), "")


def true_cells(spec: ChipSpec, die: int, macro: int = 0) -> NDArray[np.float64]:
    """What a full cell adds, in shares of what it should: [rows, columns], from the die's hidden truth."""
    array = CellArray(spec, Draws(die), Conditions())
    tile = Tile(macro, 0, 0, spec.array.rows, spec.array.columns)
    return np.asarray(1 + array.errors(tile, 1) / (1 << array.fraction_bits))


def within(name: str, hits: int, trials: int, level: float = 0.95, risk: float = 1e-4) -> None:
    """The share of intervals that hold the truth is what a 95 % interval's should be, to within chance."""
    low, high = binom.ppf([risk, 1 - risk], trials, level)
    assert low <= hits <= high, f"{name}: {hits} of {trials}, expected {low:.0f}..{high:.0f}"


def near(found: Estimate, truth: float, reach: float = 4.0) -> bool:
    """Whether an estimate is off by no more than chance makes of one in ten thousand; intervals are tested over many."""
    return abs(found.value - truth) < reach * max(found.se, (found.high - found.low) / 4)


class BentDrivers(InProcessBoard):
    """A chip whose row drivers have errors of their own: ideal converters with normal noise behind
    sum_i cell_i dac[i, x_i]. The integer model of the emulated chip has no such term: its cells' errors multiply the input.

    dac: float64 [rows, 2^dac_bits], what each code of each row really drives.
    """

    def __init__(self, spec: ChipSpec, dac: NDArray[np.float64], sigma: float = 0.4, seed: int = 0) -> None:
        super().__init__(VirtualBoard(spec, Die(spec, 0), noise_seed=0), "")
        self._dac, self._sigma, self._rng = dac, sigma, np.random.default_rng(seed)

    def convert(
        self, tile: Tile, x: NDArray[np.integer], repeats: int = 1, *, mac: Mac | None = None, run: Run | None = None
    ) -> NDArray[np.int32]:
        assert mac is not None
        driven = self._dac[np.arange(tile.rows), x].sum(axis=1) * mac.levels * mac.range_divisor / mac.sum_max
        t = driven[None, :, None] + self._sigma * self._rng.standard_normal((repeats, len(x), tile.columns))
        return np.clip(np.floor(t + 0.5), mac.code_min, mac.code_max).astype(np.int32)
