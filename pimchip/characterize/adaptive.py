"""A staircase that reads where the uncertainty is, and stops when every converter's half-width is reached.

Every macro is first swept once, a cycle a level, over all levels that a converter of the chip may need. From what this
sweep shows, reads are shared out (allocation.py) and taken in a few more sweeps, each over all levels in an order drawn
anew, until the pooled half-width of every converter of the macro is small enough. What is wanted is worked out again before
each of them: of few reads the noisiest converter of many looks noisier than it is. All reads count, those of the first
sweep too. The rule looks at the variance alone, which says nothing of the thresholds' errors, and is pooled over a
converter's thresholds, so that stopping by it leaves intervals what they are; and where reads go hangs on averages over
several transitions, not on what came at the level.

Each sweep is the reference for the others: at levels that several swept, mean codes are compared, and a line through the
differences over the time of the sweeps is the drift. Time is counted in array cycles of all macros. When each level was read
is kept with the counts, and the fit brings every threshold to one time by that line (drift.py).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from pimchip.board import Board
from pimchip.board.restarts import through_restarts
from pimchip.characterize.allocation import allocate, information, pattern
from pimchip.characterize.drift import Sweep, drift_of, when_of
from pimchip.characterize.estimators import Float
from pimchip.characterize.fit import fit
from pimchip.characterize.journal import Arrays, Steps
from pimchip.characterize.measure import Clock, columns_of, counts_of, program_full
from pimchip.characterize.plan import FEWEST_READS, Plan
from pimchip.characterize.staircase import block_of
from pimchip.characterize.stimulus import inputs
from pimchip.characterize.tallies import Tally, add, join, spread, tally
from pimchip.chip import ChipSpec, Tile
from pimchip.chip.philox import Domain, words
from pimchip.errors import RestartedError
from pimchip.profile import Counts, PointResult
from pimchip.profile.model import HALF_WIDTH_SE

SWEEPS = 3
"""In which a macro's further reads are taken."""
_MOST_SWEEPS = 12
_AIM = 0.995
"""Of the variance: what is aimed for, as it is known by estimate only."""
_CHUNK = 16384
"""Vectors converted in one call."""
_WINDOW = 3.0
"""LSB over which the first sweep's variances are smoothed."""
_ORDER_TAG = 2


@dataclass
class Macro:
    """What is known of a macro's converters so far. cycles: int64 [levels]."""

    number: int
    adcs: list[int]
    columns: NDArray[np.int64]
    cycles: NDArray[np.int64]
    read: Tally | None = None
    seen: PointResult | None = None
    """What the reads gave when they were last looked at as a whole, and what follows from that, [adcs] and [adcs, levels]."""
    factor: Float | None = None
    pattern: Float | None = None
    sweeps: list[Sweep] = field(default_factory=list)


class Staircase:
    """One operating point on a board. plan: its levels; cycles of the plan are those of the first sweep."""

    def __init__(
        self, board: Board, plan: Plan, adcs: Sequence[int], seed: int, clock: Clock, journal: Steps, name: str
    ) -> None:
        spec = board.info().spec
        self.board, self.spec, self.plan, self.seed, self.clock = board, spec, plan, seed, clock
        self.journal, self.name = journal, name
        self.per_cycle = spec.columns_per_adc
        self._held: set[tuple[int, int]] = set()
        self._vectors = inputs(plan.levels, plan.mac, seed)
        self._number = 0
        self.macros = []
        for number in sorted({adc // spec.adc.per_macro for adc in adcs}):
            here = [adc for adc in adcs if adc // spec.adc.per_macro == number]
            columns = columns_of(spec, number, here)
            self.macros.append(Macro(number, here, columns, np.zeros(len(plan.levels), np.int64)))

    def first(self, macro: Macro) -> None:
        """Sweep a macro once."""
        self._sweep(macro, np.full(len(self.plan.levels), self.plan.cycles, np.int64))

    def finish(self, macro: Macro, half_width: float) -> None:
        """Read a macro until every converter of it that can be fitted has its half-width."""
        for number in range(_MOST_SWEEPS):
            if number == SWEEPS - 1:
                self._look_again(macro)
            extra = self._wanted(macro, half_width)
            if not extra.any() and number > 0:
                self._look_again(macro)
                extra = self._wanted(macro, half_width)
            if not extra.any():
                return
            # A share of what is wanted now, spread over the levels; what is still wanted is known better after it.
            running = -(-extra.cumsum() // max(SWEEPS - number, 1))
            self._sweep(macro, np.diff(running, prepend=0))

    def _look_again(self, macro: Macro) -> None:
        """Slopes, noise and reach are known better by now than the first sweep told."""
        macro.seen, macro.factor, macro.pattern = None, None, None

    def result(self) -> Counts:
        """All counts so far."""
        blocks, drift, when = {}, {}, {}
        for macro in self.macros:
            if macro.read is None:
                continue
            moved, read = drift_of(macro.sweeps), when_of(macro.sweeps)
            for i, adc in enumerate(macro.adcs):
                blocks[adc] = Tally(macro.read.base[i : i + 1], macro.read.histogram[i : i + 1])
                drift[adc] = (float(moved[i, 0]), float(moved[i, 1]))
                when[adc] = read
        most = max(int(m.cycles.max()) for m in self.macros)
        total = sum(int(m.cycles.sum()) for m in self.macros)
        return counts_of(
            self.spec, self.plan.mac, self.plan.levels, blocks, (most * self.per_cycle, most), total, drift, when
        )

    def of(self, macro: Macro) -> tuple[Counts, PointResult]:
        """A macro's counts so far, its converters alone, and what they gave when they were last looked at."""
        assert macro.read is not None
        most = int(macro.cycles.max())
        counts = Counts(
            self.plan.mac, self.plan.levels, most * self.per_cycle, most, macro.read.base, macro.read.histogram
        )
        if macro.seen is None:
            macro.seen = fit(counts, rough=True, lines=False)
        return counts, macro.seen

    def expected(self, macro: Macro, half_width: float) -> tuple[float, int]:
        """The largest half-width of a macro's converters after `finish`, LSB, and the cycles that it will have taken, as
        far as its first sweep tells."""
        extra = self._wanted(macro, half_width)
        counts, found = self.of(macro)
        reached = float(np.nanmax(found.half_width, initial=0.0))
        if extra.any():
            reached = half_width * _AIM**0.5
        return reached, int(counts.reads_at[0].sum() // self.per_cycle + extra.sum())

    def _wanted(self, macro: Macro, half_width: float) -> NDArray[np.int64]:
        """Further cycles, int64 [levels]."""
        counts, found = self.of(macro)
        who = np.flatnonzero(np.isfinite(found.threshold_se) & ~found.flagged("coarse-steps"))
        none = np.zeros(len(self.plan.levels), np.int64)
        if not len(who):
            return none
        block = block_of(counts, who)
        above = block.above()
        pq = (above * (1 - above)).sum(axis=2)
        now = (pq / block.freedom).sum(axis=1)
        # What slopes and the correction of bends do to the variance, and transitions out of reach, is in the first ratio.
        if macro.factor is None or macro.pattern is None:
            with np.errstate(divide="ignore", invalid="ignore"):
                macro.factor = np.nan_to_num(found.threshold_se[who] ** 2 / now)
            macro.pattern = pattern(found.thresholds[who], found.noise_lsb[who], block.u)
        variance, aim = macro.factor * now, (half_width / HALF_WIDTH_SE) ** 2
        if not (variance > aim).any():
            return none
        a = information(pq * block.reads / block.freedom, self.plan.step, _WINDOW) * macro.pattern
        a = a * (variance / np.maximum((a / np.maximum(macro.cycles, 1)).sum(axis=1), 1e-300))[:, None]
        extra = allocate(a, _AIM * aim, macro.cycles) - macro.cycles
        if not extra.any():
            extra[np.argmax(a[np.argmax(variance)])] = 1
        return extra

    def _sweep(self, macro: Macro, cycles: NDArray[np.int64]) -> None:
        """Read levels so often each, in an order of their own, and add what comes."""
        step, self._number = self._number, self._number + 1
        begun = self.clock.vector
        name = f"{self.name}-{step:04d}"
        found = self.journal.step(name, lambda: through_restarts(lambda: self._read(macro, cycles, step, begun)))
        self.clock.vector = begun + int(cycles.sum())
        part = Tally(found["base"], found["histogram"])
        macro.read = part if macro.read is None else add(macro.read, part)
        macro.cycles = macro.cycles + cycles
        span = np.arange(part.histogram.shape[2])
        reads = part.histogram.sum(axis=2, dtype=np.int64)
        sums = (part.histogram * (part.base[:, :, None] + span)).sum(axis=2)
        macro.sweeps.append(Sweep(np.asarray(sums, np.float64), reads[0], begun + int(cycles.sum()) / 2))

    def _read(self, macro: Macro, cycles: NDArray[np.int64], step: int, begun: int) -> Arrays:
        """begun: where the clock stood; begun again after a restart, the same noise is drawn."""
        plan, columns, levels = self.plan, macro.columns, len(self.plan.levels)
        self.clock.vector = begun
        tile = Tile(macro.number, 0, int(columns.min()), plan.mac.rows, int(columns.max() - columns.min()) + 1)
        order = np.argsort(words(np.arange(levels), seed=self.seed, tag=_ORDER_TAG, epoch=step, domain=Domain.PLAN))
        parts: list[Tally] = []
        where: list[NDArray[np.intp]] = []
        try:
            for sign, half in ((-1, plan.levels < 0), (1, plan.levels >= 0)):
                for times in np.unique(cycles[half & (cycles > 0)]).tolist():
                    self._program(tile, macro, sign)
                    chosen = order[(half & (cycles == times))[order]]
                    at_once = max(_CHUNK // times, 1)
                    for begin in range(0, len(chosen), at_once):
                        some = chosen[begin : begin + at_once]
                        run = self.clock.take(len(some) * times)
                        codes = self.board.convert(tile, self._vectors[some], times, mac=plan.mac, run=run)
                        parts.append(tally(codes[:, :, columns - tile.column], times * columns.shape[1]))
                        where.append(some)
        except RestartedError:
            self._held.clear()
            raise
        total = spread(join(parts, axis=1), np.concatenate(where), levels)
        return {"base": total.base, "histogram": total.histogram}

    def _program(self, tile: Tile, macro: Macro, sign: int) -> None:
        if (macro.number, sign) not in self._held:
            self._held.discard((macro.number, -sign))
            measured = set((macro.columns - tile.column).ravel().tolist())
            program_full(self.board, tile, self.plan.mac, sign, measured)
            self._held.add((macro.number, sign))


def lay_out(spec: ChipSpec, plan: Plan) -> Plan:
    """The first sweep of a staircase: cycles enough that the scatter of the reads can be seen."""
    return Plan(plan.mac, plan.levels, plan.stride, -(-FEWEST_READS // spec.columns_per_adc), plan.sigma)
