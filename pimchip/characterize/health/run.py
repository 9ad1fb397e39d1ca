"""examine(board): every macro's cells, converters, rows and steadiness, as one Health.

The chance of any false fault on a sound die is ALPHA at most: a quarter each for missing codes, falling codes, rows and
drift (Bonferroni), and Holm's adjustment among all tests of a quarter over the die. Stuck cells, dead converters and the
like are certain; what a spec allows its sound converters (pimchip.board.margins) is five standard deviations wide.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from pimchip.board import Board
from pimchip.board.margins import Margins
from pimchip.board.restarts import through_restarts
from pimchip.board.selftest import widest
from pimchip.characterize.health.cells import CellTest, test_cells
from pimchip.characterize.health.converters import Judged, judge, lost_by_sound
from pimchip.characterize.health.drift import Moved, drift_faults, moved
from pimchip.characterize.health.rows import DEAD, ONE_SIDED_99, TOLERATED, Weighed, weigh
from pimchip.characterize.health.sweep import repeats_of, sweep
from pimchip.characterize.measure import Clock
from pimchip.chip import ChipSpec, Mac, Tile
from pimchip.profile.health import BROKEN_ADC, Fault, FaultKind, Health, columns_by_adc
from pimchip.profile.multiple import holm
from pimchip.tails import normal_isf

ALPHA = 0.005
"""Of any false fault on a sound die."""
PARTS = 4
"""Kinds of test in which reads decide, among which ALPHA is divided."""

Progress = Callable[[int, int], None]


@dataclass
class _Macro:
    """What one macro showed."""

    cells: CellTest
    judged: dict[int, Judged]
    moved: Moved
    weighed: list[Weighed] = field(default_factory=list)
    step: float = 0.0


def examine(board: Board, *, seed: int = 0, alpha: float = ALPHA, progress: Progress | None = None) -> Health:
    """Find what is broken in a die. Overwrites all cells.

    alpha: the chance of any false fault on a sound die, at most. seed: of the noise indices. progress: called with macros
    done and macros in all. Raises DeviceError when the board fails.
    """
    spec = board.info().spec
    mac, share, clock = widest(spec), alpha / PARTS, Clock(seed)
    margins = Margins.of(board, spec)
    before = clock.vector
    found: list[_Macro] = []
    for macro in range(spec.array.macros):
        found.append(through_restarts(lambda macro=macro: _macro(board, spec, mac, macro, margins, share, clock)))  # type: ignore[misc]
        if progress:
            progress(macro + 1, spec.array.macros)
    faults = [fault for each in found for fault in (*each.cells.faults, *_sure(each.judged))]
    for more in (_missing(found, share), _falling(found, share), _weak(found, share)):
        faults += more
    drifts, finds = drift_faults([each.moved for each in found], share)
    faults += drifts
    order = list(FaultKind)
    faults.sort(key=lambda f: (f.macro, order.index(f.kind), f.adc or 0, f.row or 0, f.column or 0, f.detail or 0))
    tile = Tile(0, 0, 0, 1, spec.array.columns)
    columns = {
        adc + macro * spec.adc.per_macro: own
        for macro in range(spec.array.macros)
        for adc, own in columns_by_adc(spec.adcs_of(tile)).items()
    }
    finds |= _sizes(found, share, spec, mac, margins)
    return Health(tuple(faults), alpha, finds, tuple(_untested(found)), columns, clock.vector - before)


def _macro(board: Board, spec: ChipSpec, mac: Mac, macro: int, margins: Margins, share: float, clock: Clock) -> _Macro:
    cells = test_cells(board, spec, macro)
    swept = sweep(board, spec, mac, macro, cells.stuck, repeats_of(spec, mac, share), clock)
    judged = {adc: judge(swept, macro, adc, margins) for adc in swept.words}
    broken = frozenset(adc for adc, each in judged.items() if any(f.kind in BROKEN_ADC for f in each.sure))
    out = _Macro(cells, judged, moved(swept, macro, broken), step=swept.step)
    owner = spec.adcs_of(Tile(macro, 0, 0, 1, spec.array.columns))
    works = np.array([adc not in broken for adc in owner])
    for first in range(0, spec.array.rows, mac.rows):
        tile = Tile(macro, first, 0, min(mac.rows, spec.array.rows - first), spec.array.columns)
        used: NDArray[np.bool_] = ~cells.stuck[first : first + tile.rows] & works
        weighed = weigh(board, spec, mac, tile, used, share, clock)
        out.weighed += [] if weighed is None else [weighed]
    return out


def _sure(judged: Mapping[int, Judged]) -> list[Fault]:
    return [fault for each in judged.values() for fault in each.sure]


def _macro_of(found: list[_Macro]) -> list[tuple[int, int, Judged]]:
    return [(macro, adc, each) for macro, held in enumerate(found) for adc, each in held.judged.items()]


def _missing(found: list[_Macro], alpha: float) -> list[Fault]:
    """Codes that never came, though one of NARROW LSB would have, anywhere in the die."""
    looked = sum(each.codes for _, _, each in _macro_of(found))
    places, chances, widths = [], [], []
    for macro, adc, each in _macro_of(found):
        for code in each.unseen:
            places.append((macro, adc, code))
            chances.append(each.unseen_p)
            widths.append(float(np.log(looked / alpha)) / each.reads)
    if not places:
        return []
    p = holm(np.concatenate([chances, np.ones(max(looked - len(places), 0))]))[: len(places)]
    return [
        Fault(FaultKind.MISSING_CODE, macro, adc=adc, detail=code, size=round(width, 4), p=chance)
        for (macro, adc, code), width, chance in zip(places, widths, p.tolist(), strict=True)
        if chance <= alpha
    ]


def _falling(found: list[_Macro], alpha: float) -> list[Fault]:
    every = _macro_of(found)
    p = holm([each.fall[2] for _, _, each in every])
    return [
        Fault(FaultKind.NON_MONOTONIC, macro, adc=adc, detail=each.fall[1], size=round(each.fall[0], 4), p=chance)
        for (macro, adc, each), chance in zip(every, p.tolist(), strict=True)
        if chance <= alpha
    ]


def _weak(found: list[_Macro], alpha: float) -> list[Fault]:
    blocks = [block for each in found for block in each.weighed]
    if not blocks:
        return []
    p = holm(np.concatenate([block.p for block in blocks]))
    faults, at = [], 0
    for block in blocks:
        for row, loss in enumerate(block.loss.tolist()):
            chance = float(p[at])
            at += 1
            if chance <= alpha:
                kind = FaultKind.DEAD_ROW if loss > DEAD else FaultKind.WEAK_ROW
                faults.append(Fault(kind, block.macro, row=block.first + row, size=round(loss, 4), p=chance))
    return faults


def _sizes(found: list[_Macro], alpha: float, spec: ChipSpec, mac: Mac, margins: Margins) -> dict[str, float]:
    """Sizes found with a chance of 99 %, by kind."""
    sizes = {str(FaultKind.SATURATED): max(lost_by_sound(mac, adc, margins) for adc in found[0].judged) + found[0].step}
    rows = sum(len(block.loss) for each in found for block in each.weighed)
    if rows:
        worst = max(float(np.nanmax(block.se)) for each in found for block in each.weighed)
        sizes[str(FaultKind.WEAK_ROW)] = TOLERATED + (float(normal_isf(alpha / rows)) + ONE_SIDED_99) * worst
    pulses = sum(each.cells.written for each in found)
    if pulses:
        sizes[str(FaultKind.WEAK_WRITES)] = float(np.log(100)) / pulses
    reads = [each.reads for _, _, each in _macro_of(found) if each.codes]
    if reads:  # none of N w reads falls on a code of w LSB with a chance of 99 %
        sizes[str(FaultKind.MISSING_CODE)] = -float(np.log(0.99)) / max(reads)
    return sizes


def _untested(found: list[_Macro]) -> list[str]:
    out = []
    coarse = [adc for _, adc, each in _macro_of(found) if not each.codes and not each.sure]
    if coarse:
        out.append(
            f"missing codes of {len(coarse)} converters: steps of {found[0].step:.2f} LSB are wider than their noise; more "
            "DAC bits or rows help"
        )
    if not all(each.weighed for each in found):
        out.append("rows: too few rows or working columns to weigh them against each other")
    return out


def measurable(spec: ChipSpec, health: Health) -> list[int]:
    """Converters, by number, none of whose columns has a stuck cell in the rows that characterization fills."""
    rows = widest(spec).rows
    bad = {(f.macro, f.column) for f in health.of(FaultKind.STUCK_CELL) if f.row is not None and f.row < rows}
    per_macro = spec.adc.per_macro
    return [
        adc
        for adc, columns in sorted(health.columns.items())
        if not any((adc // per_macro, column) in bad for column in columns)
    ]
