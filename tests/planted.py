"""Small dies with planted faults, and what a health test must and must not say of them, by the dies' own draws."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pimchip.board.inprocess import InProcessBoard
from pimchip.board.selftest import widest
from pimchip.characterize.health import examine
from pimchip.characterize.health.sweep import NARROW
from pimchip.chip import AdcTables, ChipSpec, Mac, Run, Tile, load_chip
from pimchip.chip.adc import LSB_BITS, MAP_BITS
from pimchip.emulator.die import Die
from pimchip.emulator.draws import CellTag
from pimchip.emulator.state import Conditions
from pimchip.emulator.virtual import VirtualBoard
from pimchip.profile import FaultKind, Health

Key = tuple[FaultKind, int, int | None, int | None, int | None, int | None]
"""Kind, macro, converter, row, column, detail."""


def small(name: str = "sram65", **changes: dict[str, Any]) -> ChipSpec:
    """A chip with one macro of 32 rows, 32 columns and 8 converters, and changes by section."""
    data = load_chip(name).to_dict()
    data["array"] |= {"macros": 1, "rows": 32, "columns": 32}
    data["adc"] |= {"per_macro": 8}
    data["operating"] |= {"rows": 32}
    for section, values in changes.items():
        data[section] |= values
    return ChipSpec.from_dict(data)


class Altered:
    """A die some of whose converters clip or fold: what no spec's draws give. clip: code by converter, from which on its
    codes stay; fold: LSB by which its transfer falls in the middle of the range; extra: LSB of noise added;
    shift: LSB added."""

    def __init__(
        self, die: Die, clip: dict[int, int] | None = None, fold: dict[int, float] | None = None,
        extra: dict[int, float] | None = None,
    ) -> None:  # fmt: skip
        self._die, self.clip, self.fold, self.extra = die, clip or {}, fold or {}, extra or {}
        self.shift: dict[int, float] = {}
        self.uid, self.cell_draws = die.uid, die.cell_draws

    def tables(self, mac: Mac, trim: NDArray[np.int64], at: Conditions) -> AdcTables:
        """The die's own with the faults in them."""
        held = self._die.tables(mac, trim, at)
        transfer, sigma = held.transfer.astype(np.int64), held.sigma.copy()
        for adc, lsb in self.fold.items():
            middle = np.arange(transfer.shape[1]) >= transfer.shape[1] // 2
            transfer[adc] -= np.where(middle, round(lsb * 2**LSB_BITS), 0)
        for adc, lsb in self.shift.items():
            transfer[adc] += round(lsb * 2**LSB_BITS)
        for adc, code in self.clip.items():
            transfer[adc] = np.minimum(transfer[adc], code << LSB_BITS)
            sigma[adc] = 0 if sigma.ndim == 1 else sigma[adc]
        for adc, lsb in self.extra.items():
            sigma[adc] = np.rint(np.hypot(sigma[adc], lsb * 2**LSB_BITS))
        return AdcTables(mac, transfer.astype(np.int32), sigma, held.slow, held.octaves, held.code_map)


@dataclass
class Score:
    """Counts by kind over dies. false: faults found where none was planted; dies: how many, and how many with a false one."""

    planted: Counter[FaultKind] = field(default_factory=Counter)
    found: Counter[FaultKind] = field(default_factory=Counter)
    false: list[str] = field(default_factory=list)
    dies: int = 0
    alarmed: int = 0

    def note(self, truth: dict[Key, bool], health: Health) -> None:
        """truth: planted faults; True for those that must be found, False for those that may be."""
        said = {
            (
                f.kind,
                f.macro,
                f.adc,
                f.row,
                f.column,
                f.detail if f.kind not in (FaultKind.NON_MONOTONIC, FaultKind.SATURATED) else None,
            )
            for f in health.faults
        }
        for key, must in truth.items():
            if must:
                self.planted[key[0]] += 1
                self.found[key[0]] += key in said
        wrong = said - truth.keys()
        self.false += [str(key) for key in sorted(wrong, key=str)]
        self.dies += 1
        self.alarmed += bool(wrong)


class Warming(InProcessBoard):
    """A die that warms up with each conversion asked for: boards at rising temperatures, one after another."""

    def __init__(self, spec: ChipSpec, number: int, degrees: tuple[float, float], calls: int) -> None:
        steps = np.linspace(*degrees, calls)
        self._boards = [VirtualBoard(spec, Die(spec, number), noise_seed=number, temperature=float(t)) for t in steps]
        self._calls = 0
        super().__init__(self._boards[0], f"emulator:planted.toml?die={number}")

    def _write_cells(self, tile: Tile, cells: NDArray[np.int8], full: int) -> None:
        for board in self._boards:
            board.write_cells(tile, cells, full)

    def convert(
        self, tile: Tile, x: NDArray[np.integer], repeats: int = 1, *, mac: Mac | None = None, run: Run | None = None
    ) -> NDArray[np.int32]:
        now = self._boards[min(self._calls, len(self._boards) - 1)]
        self._calls += 1
        return now.convert(tile, x, repeats, mac or self.info().spec.mac(), run or Run())


def board_of(spec: ChipSpec, number: int, source: Any = None, **conditions: float) -> InProcessBoard:
    """A die's board, its noise keyed by its number."""
    virtual = VirtualBoard(spec, source or Die(spec, number), noise_seed=number, **conditions)
    return InProcessBoard(virtual, f"emulator:planted.toml?die={number}")


def truth_of(spec: ChipSpec, die: Die, board: InProcessBoard) -> dict[Key, bool]:
    """What a die's draws planted: dead converters and stuck bits, stuck cells, weak rows."""
    truth: dict[Key, bool] = {}
    p = die.parameters
    full = spec.mac().cell_max
    for adc in range(spec.array.macros * spec.adc.per_macro):
        macro = adc // spec.adc.per_macro
        if p.dead[adc]:
            truth[FaultKind.DEAD_ADC, macro, adc, None, None, spec.mac().code_min] = True
        elif p.stuck_bit[adc] >= 0:
            truth[FaultKind.STUCK_BIT, macro, adc, None, None, int(p.stuck_bit[adc])] = True
    for macro in range(spec.array.macros):
        stuck, share = board._board._cells._stuck_cells(macro)
        for row, column in zip(*np.nonzero(stuck), strict=True):
            at = int(row), int(column)
            truth[FaultKind.STUCK_CELL, macro, None, *at, int(share[at]) * full] = True
        drawn = die.cell_draws.uniform(CellTag.WEAK_ROW, macro * spec.array.rows + np.arange(spec.array.rows))
        if spec.cells.weak_row_loss:
            for row in np.flatnonzero(drawn < spec.cells.weak_rows).tolist():
                truth[FaultKind.WEAK_ROW, macro, None, row, None, None] = True
        if spec.cells.read_disturb:
            truth[FaultKind.READ_DISTURB, macro, None, None, None, None] = True
        if spec.cells.write_failure:
            truth[FaultKind.WEAK_WRITES, macro, None, None, None, None] = True
    return truth | of_curves(spec, die)


def of_curves(spec: ChipSpec, die: Die) -> dict[Key, bool]:
    """Codes that a SAR's capacitors leave out (to be found), those of less than a tenth of an LSB, and curves that a
    drawn INL bends so far that they fall (both may be found)."""
    mac = widest(spec)
    tables = die.tables(mac, np.full(len(die.parameters.gain), (1 << spec.adc.trim_bits) >> 1), Conditions())
    truth: dict[Key, bool] = {}
    lsb = np.clip(tables.transfer / 2.0**LSB_BITS, mac.code_min, mac.code_max)
    for adc in np.flatnonzero((np.maximum.accumulate(lsb, axis=1) - lsb).max(axis=1) > 0.02).tolist():
        truth[FaultKind.NON_MONOTONIC, adc // spec.adc.per_macro, adc, None, None, None] = False
    if tables.code_map is None:
        return truth
    fine = 1 << MAP_BITS
    for adc in np.flatnonzero(~die.parameters.dead & (die.parameters.stuck_bit < 0)).tolist():
        # Codes that the transfer passes with some LSB to spare on either side, where noise does not end.
        low, high = (int(t) * fine >> LSB_BITS for t in tables.transfer[adc][[0, -1]])
        within = tables.code_map[adc, max(low, 0) : max(high, 0)]
        seen = range(int(within.min()) + 1, int(within.max()))
        width = np.bincount(tables.code_map[adc] - mac.code_min, minlength=1 << mac.adc_bits) / fine
        for code in seen:
            if width[code - mac.code_min] < NARROW:
                truth[FaultKind.MISSING_CODE, adc // spec.adc.per_macro, adc, None, None, code] = (
                    width[code - mac.code_min] == 0
                )
    return truth


def run(spec: ChipSpec, numbers: range, score: Score, **altered: Any) -> None:
    """Examine dies and score what is said of them."""
    for number in numbers:
        die = Die(spec, number)
        source = Altered(die, **altered) if altered else die
        board = board_of(spec, number, source)
        truth = truth_of(spec, die, board)
        for adc in altered.get("clip", {}):
            truth[FaultKind.SATURATED, 0, adc, None, None, None] = True
            truth[FaultKind.OFF_ADC, 0, adc, None, None, None] = False
        for adc in altered.get("fold", {}):
            truth[FaultKind.NON_MONOTONIC, 0, adc, None, None, None] = True
            truth[FaultKind.OFF_ADC, 0, adc, None, None, None] = False
        for adc in altered.get("extra", {}):
            truth[FaultKind.NOISY_ADC, 0, adc, None, None, None] = True
        with board:
            score.note(truth, examine(board, seed=number))
