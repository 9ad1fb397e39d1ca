"""Runs a staircase on a board, macro by macro, and keeps the counts.

All columns of a converter are read in every array cycle: each is another conversion by the same converter, and the
mean over its columns is what a network in use sees of it.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from functools import partial

import numpy as np
from numpy.typing import NDArray

from pimchip.board import Board
from pimchip.board.defects import by_macro, describe
from pimchip.board.restarts import through_restarts
from pimchip.characterize.plan import Plan
from pimchip.characterize.stimulus import inputs, thermometer
from pimchip.characterize.tallies import Tally, join, tally, unread
from pimchip.chip import ChipSpec, Mac, Run, Tile
from pimchip.errors import InputError, VerifyError
from pimchip.profile import Counts

EPOCH = 1 << 31
"""Noise epochs from here on are characterization's: inference counts up from 0 and never meets the same noise."""
_CHUNK = 4096
"""Vectors converted in one call."""


class Clock:
    """Hands out noise indices, so that no two conversions of a characterization draw the same noise. Boards of silicon
    ignore them."""

    def __init__(self, seed: int) -> None:
        self.epoch = EPOCH | (seed & (EPOCH - 1))
        self.vector = 0

    def take(self, vectors: int) -> Run:
        """The run for so many vectors."""
        run = Run(self.epoch, self.vector)
        self.vector += vectors
        return run


def measure(
    board: Board,
    plan: Plan,
    *,
    adcs: Sequence[int] | None = None,
    seed: int = 0,
    clock: Clock | None = None,
    tick: Callable[[], None] = lambda: None,
    configurations: int = 1,
) -> Counts:
    """Counts of a planned staircase on the converters `adcs` (None: all; counted over all macros).

    configurations: sets of rows that each level is read with, drawn at random, which share its cycles; cells' errors
    average out over them. 0: rows in their own order at each level, in which cells' errors pile up along the curve.

    Overwrites the first plan.mac.rows rows of the macros concerned, and checks them. tick is called after each macro.
    Raises InputError for an unknown converter, VerifyError where cells did not take, DeviceError when the board fails.
    """
    spec = board.info().spec
    spec.check(plan.mac)
    clock = clock or Clock(seed)
    wanted = check_adcs(spec, adcs)
    sets = range(min(configurations, plan.cycles))
    orders = [inputs(plan.levels, plan.mac, seed, number) for number in sets] or [thermometer(plan.levels, plan.mac)]
    vectors = np.stack(orders)
    reads = plan.cycles * spec.columns_per_adc
    blocks: dict[int, Tally] = {}
    for macro in sorted({adc // spec.adc.per_macro for adc in wanted}):
        here = [adc for adc in wanted if adc // spec.adc.per_macro == macro]
        columns = columns_of(spec, macro, here)
        tile = Tile(macro, 0, int(columns.min()), plan.mac.rows, int(columns.max() - columns.min()) + 1)
        parts = []
        for sign, chosen in _halves(plan):
            half = partial(
                _half, board, tile, plan, sign, vectors[:, chosen], columns - tile.column, clock, clock.vector
            )
            parts += through_restarts(half)
        found = join(parts, axis=1)
        for i, adc in enumerate(here):
            blocks[adc] = Tally(found.base[i : i + 1], found.histogram[i : i + 1])
        tick()
    cycles = plan.cycles * len(plan.levels) * len({adc // spec.adc.per_macro for adc in wanted})
    return counts_of(spec, plan.mac, plan.levels, blocks, (reads, plan.cycles), cycles)


def counts_of(
    spec: ChipSpec,
    mac: Mac,
    levels: NDArray[np.int64],
    blocks: Mapping[int, Tally],
    most: tuple[int, int],
    array_cycles: int,
    drift: Mapping[int, tuple[float, float]] | None = None,
    when: Mapping[int, NDArray[np.float64]] | None = None,
) -> Counts:
    """Counts of the whole chip from tallies of single converters. most: reads of a converter, and cycles, at a level."""
    none = unread(1, len(levels))
    none = Tally(np.full_like(none.base, mac.code_min), none.histogram)
    total = spec.array.macros * spec.adc.per_macro
    found = join([blocks.get(adc, none) for adc in range(total)], axis=0)
    moved = np.array([(drift or {}).get(adc, (0.0, 0.0)) for adc in range(total)], np.float64)
    read = np.zeros((total, len(levels), 2))
    for adc, times in (when or {}).items():
        read[adc] = times
    return Counts(mac, levels, *most, found.base, found.histogram, array_cycles, moved, read)


def _half(
    board: Board,
    tile: Tile,
    plan: Plan,
    sign: int,
    vectors: NDArray[np.integer],
    columns: NDArray[np.int64],
    clock: Clock,
    begun: int,
) -> list[Tally]:
    """Program a tile and read levels on it, as many at a time as one call takes. vectors: [configurations, levels, rows].
    begun: where the clock stood; begun again after a restart, the same noise is drawn."""
    clock.vector = begun
    program_full(board, tile, plan.mac, sign, set(columns.ravel().tolist()))
    parts, at_once = [], max(_CHUNK // plan.cycles, 1)
    shares = np.diff(np.arange(len(vectors) + 1) * plan.cycles // len(vectors)).tolist()
    for first in range(0, vectors.shape[1], at_once):
        part = vectors[:, first : first + at_once]
        codes = np.concatenate(
            [
                board.convert(tile, x, share, mac=plan.mac, run=clock.take(len(x) * share))
                for x, share in zip(part, shares, strict=True)
            ]
        )
        parts.append(tally(codes[:, :, columns], plan.cycles * columns.shape[1]))
    return parts


def check_adcs(spec: ChipSpec, adcs: Sequence[int] | None) -> list[int]:
    """The converters meant, each once and rising; all for None. Raises InputError for one that the chip has not."""
    total = spec.array.macros * spec.adc.per_macro
    chosen = sorted(set(range(total) if adcs is None else adcs))
    if not chosen or chosen[0] < 0 or chosen[-1] >= total:
        raise InputError(
            f"ADCs {chosen[:1]}..{chosen[-1:]}: chip {spec.name} has ADC 0..{total - 1}; name at least one of them"
        )
    return chosen


def columns_of(spec: ChipSpec, macro: int, adcs: Sequence[int]) -> NDArray[np.int64]:
    """int64 [adcs, columns of a converter], of one macro."""
    owner = np.array([spec.adc_of(macro, c) for c in range(spec.array.columns)])
    return np.stack([np.flatnonzero(owner == adc) for adc in adcs]).astype(np.int64)


def _halves(plan: Plan) -> Iterator[tuple[int, NDArray[np.intp]]]:
    """Sign of the cells, and the levels that need it, rising over both halves; 0 is with the positive."""
    below = np.flatnonzero(plan.levels < 0)
    if len(below):
        yield -1, below
    yield 1, np.flatnonzero(plan.levels >= 0)


def program_full(board: Board, tile: Tile, mac: Mac, sign: int, measured: Container[int]) -> None:
    """Fill a tile with the largest value of either sign. VerifyError where cells of the `measured` columns, counted
    within it, did not take it."""
    value = sign * mac.cell_max
    done = board.program_verified(tile, np.full((tile.rows, tile.columns), value, np.int8), mac=mac)
    held = [cell for cell in done.wrong if cell[1] in measured]
    if not done.report.ok and (held or not done.steady or not done.wrong):
        wrong = by_macro([(tile, held)])
        seen = describe(wrong) if held else f"rows {list(done.report.rows[:8])}, and a second read differs"
        raise VerifyError(
            f"{tile}: cells did not take the value {value} ({seen}): leave the converters of those columns out (--adcs); "
            f'`pimchip info "{board.info().url or "DEVICE"}" --self-test` shows what is broken'
        )
