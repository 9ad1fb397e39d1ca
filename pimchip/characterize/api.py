"""characterize(board): plan, measure and fit every converter at every operating point, and keep it as a profile."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from pimchip.board import Board
from pimchip.board.restarts import conditions, through_restarts
from pimchip.characterize.estimators import Z95
from pimchip.characterize.fit import fit
from pimchip.characterize.measure import Clock, check_adcs, measure
from pimchip.characterize.plan import FEWEST_READS, Plan, check_steps, expected_se, nominal_noise, pilot, plan
from pimchip.chip import ChipSpec, Mac
from pimchip.errors import InputError
from pimchip.profile import Counts, Health, PointResult, Profile, Record

Progress = Callable[[int, int], None]


def default_points(
    spec: ChipSpec, *, adc_bits: int | None = None, range_divisors: Sequence[int] | None = None
) -> list[Mac]:
    """The chip's operating point with the widest DAC, at each range divisor (None: all); adc_bits None: all of them.

    A curve measured with a wide DAC serves narrower ones, not the other way round.
    """
    activation = max(spec.operating.act_bits, spec.dac.bits)
    divisors = spec.adc.range_divisors if range_divisors is None else range_divisors
    return [
        spec.mac(act_bits=activation, dac_bits=spec.dac.bits, adc_bits=adc_bits, range_divisor=divisor)
        for divisor in divisors
    ]


def characterize(
    board: Board,
    *,
    points: Sequence[Mac] | None = None,
    half_width: float = 0.1,
    reads: int | None = None,
    adcs: Sequence[int] | None = None,
    seed: int = 0,
    configurations: int = 1,
    out: str | Path,
    progress: Progress | None = None,
    health: Health | None = None,
    bench: Callable[[], Mapping[str, Any]] | None = None,
) -> Profile:
    """Measure a die and write its profile under OUT; the array's content is overwritten.

    points: operating points, None for default_points. half_width: of the pointwise 95 % interval of a transition level,
    LSB, root mean square over converters; what was reached is in the result. reads: of a converter at a level, instead.
    adcs: converters, None for all. seed: of the order of rows. configurations: sets of rows a level is read
    with, see measure. progress: called with macros done and macros in all. health: what a health test of the die found, to
    be kept in the profile. bench: asked, when all is measured, for what stands around the board (Bench.snapshot), which the
    profile keeps; its supply counts where the board cannot tell its own.
    Raises InputError for wrong arguments or where steps are too coarse for the noise, DeviceError when the board fails.
    """
    info = board.info()
    spec = info.spec
    chosen = check_adcs(spec, adcs)
    macs = default_points(spec) if points is None else list(points)
    for mac in macs:
        spec.check(mac)
    if not macs or len(set(macs)) != len(macs):
        raise InputError("points: name at least one operating point, and none twice")
    if not 0.001 <= half_width <= 10:
        raise InputError(f"half_width = {half_width}: want 0.001..10 LSB")
    if reads is not None and not FEWEST_READS <= reads <= 1 << 20:
        raise InputError(f"reads = {reads}: want {FEWEST_READS}..{1 << 20}")
    if not 0 <= configurations <= 1 << 16:
        raise InputError(f"configurations = {configurations}: want 0..{1 << 16}")
    if not 0 <= seed < 1 << 64:
        raise InputError(f"seed = {seed}: want 0..2^64-1")

    temperature, supply, age = conditions(board)
    registers = through_restarts(board.registers)
    trim = [code for name, code in sorted(registers.items(), key=_natural) if name.startswith("trim")]
    macros = len({adc // spec.adc.per_macro for adc in chosen})
    done = 0

    def tick() -> None:
        nonlocal done
        done += 1
        if progress:
            progress(done, macros * len(macs))

    clock = Clock(seed)
    first_macro = [adc for adc in chosen if adc // spec.adc.per_macro == chosen[0] // spec.adc.per_macro]
    counts: list[Counts] = []
    results: list[PointResult] = []
    for mac in macs:
        planned = _plan(board, spec, mac, first_macro, half_width, reads, seed, clock)
        counts.append(
            measure(board, planned, adcs=chosen, seed=seed, clock=clock, tick=tick, configurations=configurations)
        )
        results.append(_checked(fit(counts[-1])))
    around = None if bench is None else dict(bench())
    if supply is None and around is not None:
        supply = around.get("supply")
    now = datetime.now(UTC)
    record = Record(
        uid=info.uid,
        spec=spec,
        temperature=temperature,
        seed=seed,
        created=now.date().isoformat(),
        method=_method(spec, results, half_width, reads, info.firmware, trim, configurations),
        points=tuple(results),
        supply=supply,
        age=age,
        measured=now.isoformat(timespec="milliseconds"),
        health=health,
        bench=around,
    )
    return Profile.save(out, record, counts)


def measure_point(
    board: Board, mac: Mac, *, half_width: float, adcs: Sequence[int] | None = None, seed: int = 0
) -> PointResult:
    """Converters (None: all) at one operating point, without a profile: for loops that measure, change and measure again."""
    chosen = check_adcs(board.info().spec, adcs)
    clock, per_macro = Clock(seed), board.info().spec.adc.per_macro
    first_macro = [adc for adc in chosen if adc // per_macro == chosen[0] // per_macro]
    planned = _plan(board, board.info().spec, mac, first_macro, half_width, None, seed, clock)
    return fit(measure(board, planned, adcs=chosen, seed=seed, clock=clock))


def _plan(
    board: Board,
    spec: ChipSpec,
    mac: Mac,
    adcs: Sequence[int],
    half_width: float,
    reads: int | None,
    seed: int,
    clock: Clock,
) -> Plan:
    """Lay the staircase out for the noise that a short look at the first macro's converters shows."""
    columns = spec.columns_per_adc
    expected = nominal_noise(spec, mac)
    while True:
        trial = pilot(spec, mac, columns, expected)
        seen = fit(measure(board, trial, adcs=adcs, seed=seed, clock=clock))
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


def _checked(result: PointResult) -> PointResult:
    """Refuse a point at which every converter that could be fitted suffers from coarse steps."""
    fitted = np.isfinite(result.gain)
    if fitted.any() and result.flagged("coarse-steps")[fitted].all():
        noise = result.noise_lsb[np.isfinite(result.noise_lsb)]
        check_steps(result.mac, result.step, float(noise.max(initial=0.0)), 0.0)
    return result


def _method(
    spec: ChipSpec,
    results: Sequence[PointResult],
    half_width: float,
    reads: int | None,
    firmware: str,
    trim: list[int],
    configurations: int,
) -> dict[str, Any]:
    asked: dict[str, Any] = {"half_width_lsb": float(half_width)} if reads is None else {"reads": reads}
    reached = [r.rms_half_width for r in results if np.isfinite(r.rms_half_width)]
    order = "in random order" if configurations else "in their own order"
    if configurations > 1:
        order = f"in up to {configurations} random orders a level"
    return {
        "stimulus": f"staircase of column sums, all cells full, rows {order}",
        "thresholds": "Spearman-Kaerber, standard error pooled over a converter's thresholds",
        "line": "least squares of T_k on k - 1/2",
        "noise": "probit likelihood pooled over transitions, Cox-Reid adjusted",
        "confidence": 0.95,
        "quantile": Z95,
        "reads_per_cycle": spec.columns_per_adc,
        "reads_note": "each column of a converter counts as a read of it",
        "array_cycles": sum(r.cycles * r.levels for r in results),
        "firmware": firmware,
        "half_width_reached_lsb": reached,
        "trim": trim,
        "asked": asked,
    }


def _natural(item: tuple[str, int]) -> tuple[str, int]:
    name = item[0]
    digits = name[len(name.rstrip("0123456789")) :]
    return name.removesuffix(digits), int(digits or 0)
