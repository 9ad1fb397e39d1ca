"""One operating point from first look to counts: evenly over all levels, or where the uncertainty is."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from pimchip.board import Board
from pimchip.characterize.adaptive import SWEEPS, Staircase, lay_out
from pimchip.characterize.bands import LEVEL
from pimchip.characterize.cost import Cost, cost
from pimchip.characterize.curve import widening
from pimchip.characterize.estimators import BIAS_SHARE, Z95, step_bias
from pimchip.characterize.fit import fit
from pimchip.characterize.journal import Arrays, Steps
from pimchip.characterize.measure import Clock, measure
from pimchip.characterize.plan import (
    LARGEST_STRIDE,
    Plan,
    check_steps,
    expected_se,
    levels,
    nominal_noise,
    pilot,
    plan,
    unit,
)
from pimchip.chip import ChipSpec, Mac
from pimchip.profile import Counts, PointResult
from pimchip.tails import normal_isf


@dataclass(frozen=True)
class Wanted:
    """What is to be measured at every point. half_width: LSB, of a pointwise interval or, simultaneous, of a band of all of a
    converter's transitions. reads: at a level, instead of it, None to plan them. adcs: rising. even: all levels of all
    macros alike, instead of where the uncertainty is."""

    half_width: float
    reads: int | None
    adcs: tuple[int, ...]
    seed: int
    configurations: int = 1
    even: bool = False
    simultaneous: bool = False

    def pointwise(self, mac: Mac) -> float:
        """Half-width of a pointwise interval at a point, LSB: narrower where the wanted one is of a simultaneous band."""
        return self.half_width * (at_once(mac) if self.simultaneous else 1.0)

    @property
    def adaptive(self) -> bool:
        """Whether reads are shared out as they come."""
        return not self.even and self.reads is None and self.configurations == 1


def at_once(mac: Mac) -> float:
    """Half-width of a pointwise 95 % interval over that of a band of all transitions of a converter (Bonferroni)."""
    return Z95 / float(normal_isf((1 - LEVEL) / 2 / (mac.code_max - mac.code_min)))


def first_macro(spec: ChipSpec, adcs: Sequence[int]) -> list[int]:
    """Of the converters those in the macro of the first."""
    return [adc for adc in adcs if adc // spec.adc.per_macro == adcs[0] // spec.adc.per_macro]


def measured(
    board: Board, mac: Mac, wanted: Wanted, clock: Clock, journal: Steps, name: str, tick: Callable[[], None]
) -> Counts:
    """Counts of a point. name: of its steps in the journal. tick: called twice a macro."""
    if wanted.adaptive:
        return _adaptive(board, mac, wanted, clock, journal, name, tick)
    spec, begun = board.info().spec, clock.vector

    def work() -> Arrays:
        clock.vector = begun
        planned = looked(board, spec, mac, first_macro(spec, wanted.adcs), wanted, clock)

        def twice() -> None:
            tick()
            tick()

        found = measure(
            board,
            planned,
            adcs=wanted.adcs,
            seed=wanted.seed,
            clock=clock,
            tick=twice,
            configurations=wanted.configurations,
        )
        figures = np.array([found.reads, found.cycles, found.array_cycles, clock.vector], np.int64)
        return {"levels": found.levels, "base": found.base, "histogram": found.histogram, "figures": figures}

    held = journal.step(f"{name}-even", work)
    reads, cycles, total, clock.vector = (int(n) for n in held["figures"])
    return Counts(mac, held["levels"], reads, cycles, held["base"], held["histogram"], total)


def looked(board: Board, spec: ChipSpec, mac: Mac, adcs: Sequence[int], wanted: Wanted, clock: Clock) -> Plan:
    """Lay an even staircase out for the noise that a short look at some converters shows."""
    columns, reads, half_width = spec.columns_per_adc, wanted.reads, wanted.pointwise(mac)
    expected = nominal_noise(spec, mac)
    while True:
        trial = pilot(spec, mac, columns, expected)
        seen = fit(measure(board, trial, adcs=adcs, seed=wanted.seed, clock=clock))
        known = np.isfinite(seen.noise_lsb)
        smallest = float(seen.noise_lsb[known].min()) if known.any() else 0.0
        lively = ~(seen.flagged("few-transitions") | seen.flagged("not-measured"))
        if trial.stride == 1 or smallest >= trial.step / 2 or not lively.any():
            break
        expected = min(smallest, expected / 2)
    if not lively.any():
        return plan(spec, mac, columns, expected, expected, half_width, reads)  # the fit will say what is wrong
    mean = float(seen.noise_lsb[known].mean()) if known.any() else 0.0
    best = float(seen.noise_lsb[known].max()) if known.any() else 0.0
    laid = plan(spec, mac, columns, mean, smallest, half_width, reads)
    if reads is None:
        check_steps(mac, laid.step, best, expected_se(half_width))
    return laid


def _adaptive(
    board: Board, mac: Mac, wanted: Wanted, clock: Clock, journal: Steps, name: str, tick: Callable[[], None]
) -> Counts:
    staircase = swept(board, mac, wanted, clock, journal, name)
    for macro in staircase.macros:
        tick()
        staircase.finish(macro, wanted.pointwise(mac))
        tick()
    return staircase.result()


def swept(
    board: Board, mac: Mac, wanted: Wanted, clock: Clock, journal: Steps, name: str, *, only_first: bool = False
) -> Staircase:
    """A staircase whose macros (only_first: the first alone) were swept once, at steps fine enough for all of them."""
    spec = board.info().spec
    expected = nominal_noise(spec, mac)
    stride = _stride(expected, mac)
    for attempt in range(2 * LARGEST_STRIDE.bit_length()):
        laid = lay_out(spec, Plan(mac, levels(spec, mac, stride, expected), stride, 1, expected))
        staircase = Staircase(board, laid, wanted.adcs, wanted.seed, clock, journal, f"{name}-{attempt}")
        for macro in staircase.macros[: 1 if only_first else None]:
            staircase.first(macro)
            finer, noise = _judged(staircase.of(macro)[1], laid, wanted.pointwise(mac))
            widened = noise > 1.5 * expected
            if finer or widened:
                break
        else:
            break
        stride, expected = (_stride(noise, mac), noise) if widened else (stride // 2, expected)
    return staircase


@dataclass(frozen=True)
class Forecast:
    """What measuring a point will take, from a look at the first macro. noise: mean and largest over its converters, LSB.
    half_width: of a pointwise 95 % interval of a transition of the noisiest converter, LSB; simultaneous: of a band of
    all of a converter's transitions. reads_per_lsb: of a converter."""

    mac: Mac
    noise: float
    largest_noise: float
    half_width: float
    simultaneous: float
    reads_per_lsb: float
    cost: Cost


def forecast(board: Board, mac: Mac, wanted: Wanted, clock: Clock, journal: Steps, name: str) -> Forecast:
    """What measured() will take at a point. Overwrites the first macro's cells, as it does. Other macros are taken to be
    as the first one."""
    spec = board.info().spec
    macros = len({adc // spec.adc.per_macro for adc in wanted.adcs})
    if not wanted.adaptive:
        laid = looked(board, spec, mac, first_macro(spec, wanted.adcs), wanted, clock)
        per_lsb = laid.cycles * spec.columns_per_adc / laid.step
        half_width = Z95 * math.sqrt(laid.sigma / math.sqrt(math.pi) / per_lsb) * float(widening(laid.sigma))
        cycles, noises, sweeps = laid.cycles * len(laid.levels) * macros, [laid.sigma], 1
    else:
        staircase = swept(board, mac, wanted, clock, journal, name, only_first=True)
        macro, laid = staircase.macros[0], staircase.plan
        noise = staircase.of(macro)[1].noise_lsb
        half_width, first = staircase.expected(macro, wanted.pointwise(mac))
        cycles, noises, sweeps = first * macros, noise[np.isfinite(noise)].tolist(), SWEEPS + 1
        per_lsb = first * spec.columns_per_adc / (len(laid.levels) * laid.step)
    taken = cost(
        spec, mac, array_cycles=cycles, levels=len(laid.levels), macros=macros, adcs=len(wanted.adcs), sweeps=sweeps
    )
    mean, largest = (float(np.mean(noises)), float(np.max(noises))) if noises else (math.nan, math.nan)
    return Forecast(mac, mean, largest, half_width, half_width / at_once(mac), per_lsb, taken)


def _stride(sigma: float, mac: Mac) -> int:
    """The largest power of two of input counts within sigma: halves stay on the grid."""
    return 1 << max(min(int(sigma / unit(mac)), LARGEST_STRIDE).bit_length() - 1, 0)


def _judged(seen: PointResult, laid: Plan, half_width: float) -> tuple[bool, float]:
    """Whether the first sweep of a macro wants finer steps, and the mean noise, LSB, 0 where none is known.

    Raises InputError where no finer steps are left and the least silent converter is still too silent for them.
    """
    known = np.isfinite(seen.noise_lsb)
    lively = ~(seen.flagged("few-transitions") | seen.flagged("stuck") | seen.flagged("stuck-bit"))
    if not lively.any():
        return False, 0.0
    smallest = float(seen.noise_lsb[known].min()) if (known | ~lively).all() else 0.0
    # The least noise is known roughly here, and finer steps cost all macros reads: only for bias that would matter.
    bias = float(step_bias(laid.step, np.array(smallest)))
    if laid.stride > 1 and bias > BIAS_SHARE / 2 * expected_se(half_width):
        return True, 0.0
    check_steps(laid.mac, laid.step, float(seen.noise_lsb[known].max(initial=0.0)), expected_se(half_width))
    return False, float(seen.noise_lsb[known].mean()) if known.any() else 0.0
