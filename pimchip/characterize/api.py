"""characterize(board): plan, measure and fit every converter at every operating point, and keep it as a profile."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pimchip.board import Board
from pimchip.board.api import BoardInfo
from pimchip.board.restarts import Conditions, conditions, through_restarts
from pimchip.characterize.estimators import Z95
from pimchip.characterize.fit import fit
from pimchip.characterize.journal import Journal, Unkept
from pimchip.characterize.ladder import models_of
from pimchip.characterize.measure import Clock, check_adcs
from pimchip.characterize.measuring import Wanted, measured
from pimchip.characterize.plan import FEWEST_READS, check_steps
from pimchip.chip import ChipSpec, Mac
from pimchip.errors import InputError, PimchipWarning
from pimchip.profile import Counts, Health, PointResult, Profile, Record
from pimchip.profile.validity import Validity

if TYPE_CHECKING:
    from pimchip.characterize.testinput import Drive
    from pimchip.profile.array import ArraySection

Progress = Callable[[int, int], None]
STEPS_VERSION = 1
"""Of what steps depend on: goes up when the same arguments would read other levels."""
SAME_TEMPERATURE, SAME_SUPPLY = 2.0, 0.02
"""Kelvin and volts by which a measurement may be apart from its beginning and still be gone on with."""


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
    even: bool = False,
    simultaneous: bool = False,
    out: str | Path,
    progress: Progress | None = None,
    health: Health | None = None,
    bench: Callable[[], Mapping[str, Any]] | None = None,
    array: Sequence[str] = (),
    valid_days: float | None = None,
    models: bool = False,
    drive: Drive | None = None,
) -> Profile:
    """Measure a die and write its profile under OUT; the array's content is overwritten.

    points: operating points, None for default_points. half_width: of the pointwise 95 % interval of a transition level,
    LSB; reads go where they are wanted until every converter has it. even: as many reads at every level of every macro
    instead, for that half-width as root mean square over converters. simultaneous: it is that of a band which holds all of a
    converter's transitions at once. reads: of a converter at a level, evenly, instead.
    adcs: converters, None for all. seed: of the order of rows. configurations: sets of rows a level is read
    with, see measure. progress: called with macros done and macros in all. health: what a health test of the die found, to
    be kept in the profile. bench: asked, when all is measured, for what stands around the board (Bench.snapshot), which the
    profile keeps; its supply counts where the board cannot tell its own. array: names of
    pimchip.characterize.array.MEASUREMENTS, to be made and kept too. valid_days: for how long the profile claims to hold; the
    conditions that it holds in are about those of the measurement (pimchip.profile.validity). models: fit the ladder of models
    to every point, and keep what comes of it. drive: what drives the converters' test input, for the measurement "input".
    What was read is kept under OUT/.unfinished until the profile is written: the same call goes on from there after Ctrl-C
    or a cut, to the same profile bit for bit.
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
    if valid_days is not None and not 0 < valid_days <= 1e6:
        raise InputError(f"valid_days = {valid_days}: want more than 0, up to 1e6")

    registers = through_restarts(board.registers)
    trim = [code for name, code in sorted(registers.items(), key=_natural) if name.startswith("trim")]
    wanted = Wanted(half_width, reads, tuple(chosen), seed, configurations, even, simultaneous)
    journal, held = _begun(board, info, macs, wanted, trim, Path(out), bench)
    macros = len({adc // spec.adc.per_macro for adc in chosen})
    done = 0

    def tick() -> None:
        nonlocal done
        done += 1
        if progress and done % 2 == 0:
            progress(done // 2, macros * len(macs))

    clock = Clock(seed)
    counts: list[Counts] = []
    results: list[PointResult] = []
    try:
        for number, mac in enumerate(macs):
            counts.append(measured(board, mac, wanted, clock, journal, f"{number}", tick))
            results.append(_checked(fit(counts[-1])))
    except InputError:
        journal.done()  # what is refused is refused again
        raise
    around = None if bench is None else dict(bench())
    supply = held.supply
    if supply is None and around is not None:
        supply = around.get("supply")
    now = datetime.now(UTC)
    record = Record(
        uid=info.uid,
        spec=spec,
        temperature=held.temperature,
        seed=seed,
        created=now.date().isoformat(),
        method=_method(spec, results, wanted, info.firmware, trim, clock.vector),
        points=tuple(results),
        supply=supply,
        age=held.age,
        measured=now.isoformat(timespec="milliseconds"),
        health=health,
        bench=around,
        array=_array(board, array, results, counts, chosen, seed, drive) if array else None,
        validity=Validity.around(spec.supply.volts, held.temperature, supply, held.age, valid_days),
        models=models_of(results, counts, seed) if models else None,
    )
    profile = Profile.save(out, record, counts)
    journal.done()
    return profile


def _array(board: Board, wanted: Sequence[str], *rest: Any) -> ArraySection:
    from pimchip.characterize.array.section import array_section  # takes long to import, and most do without

    return array_section(board, wanted, *rest)


def measure_point(
    board: Board, mac: Mac, *, half_width: float, adcs: Sequence[int] | None = None, seed: int = 0
) -> PointResult:
    """Converters (None: all) at one operating point, without a profile: for loops that measure, change and measure again."""
    wanted = Wanted(half_width, None, tuple(check_adcs(board.info().spec, adcs)), seed)
    return fit(measured(board, mac, wanted, Clock(seed), Unkept(), "point", lambda: None))


def _begun(
    board: Board,
    info: BoardInfo,
    macs: Sequence[Mac],
    wanted: Wanted,
    trim: list[int],
    out: Path,
    bench: Callable[[], Mapping[str, Any]] | None,
) -> tuple[Journal, Conditions]:
    """Where steps are kept, and the conditions under which the measurement was begun; anew where they are no more."""
    what = {
        "uid": info.uid,
        "chip": info.spec.hash,
        "points": [mac.describe() for mac in macs],
        "wanted": asdict(wanted),
        "trim": trim,
        "emulated": info.url if info.url and info.url.startswith("emulator") else "",
        "version": STEPS_VERSION,
    }
    now = conditions(board)
    if bench is not None:  # what the board cannot tell of its supply, the bench does
        around = bench()
        rails = {
            name: rail and [rail.get("on"), rail.get("set_volts")] for name, rail in around.get("rails", {}).items()
        }
        what["bench"] = {"name": around.get("bench"), "rails": rails}
        if now.supply is None:
            now = now._replace(supply=around.get("supply"))
    journal = Journal(out, what)

    def noted() -> dict[str, np.ndarray]:
        figures = [math.nan if value is None else value for value in now]
        return {"conditions": np.array(figures, np.float64)}

    first, *others = journal.step("conditions", noted)["conditions"].tolist()
    held = Conditions(first, *(None if math.isnan(value) else value for value in others))
    there = held.temperature, held.supply or 0.0
    here = now.temperature, now.supply or 0.0
    if abs(there[0] - here[0]) > SAME_TEMPERATURE or abs(there[1] - here[1]) > SAME_SUPPLY:
        warnings.warn(
            f"{journal.folder} was begun at {there[0]:g} °C and {there[1]:g} V, and it is {here[0]:g} °C and {here[1]:g} V: "
            "measuring anew",
            PimchipWarning,
            stacklevel=3,
        )
        journal.done()
        journal.step("conditions", noted)
        held = now
    return journal, held


def _checked(result: PointResult) -> PointResult:
    """Refuse a point at which every converter that could be fitted suffers from coarse steps."""
    fitted = np.isfinite(result.gain)
    if fitted.any() and result.flagged("coarse-steps")[fitted].all():
        noise = result.noise_lsb[np.isfinite(result.noise_lsb)]
        check_steps(result.mac, result.step, float(noise.max(initial=0.0)), 0.0)
    return result


def _method(
    spec: ChipSpec, results: Sequence[PointResult], wanted: Wanted, firmware: str, trim: list[int], cycles: int
) -> dict[str, Any]:
    half_width, reads, configurations = wanted.half_width, wanted.reads, wanted.configurations
    asked: dict[str, Any] = {"half_width_lsb": float(half_width)} if reads is None else {"reads": reads}
    reached = [r.rms_half_width for r in results if np.isfinite(r.rms_half_width)]
    order = "in random order" if configurations else "in their own order"
    if configurations > 1:
        order = f"in up to {configurations} random orders a level"
    return {
        "stimulus": f"staircase of column sums, all cells full, rows {order}",
        "thresholds": "Spearman-Kaerber, standard error pooled over a converter's thresholds; near the ends local cubic probit",
        "line": "least squares of T_k on k - 1/2",
        "noise": "probit likelihood pooled over transitions, Cox-Reid adjusted",
        "confidence": 0.95,
        "quantile": Z95,
        "reads_per_cycle": spec.columns_per_adc,
        "reads_note": "each column of a converter counts as a read of it",
        "reads_shared_out": "where the uncertainty is, until every converter's half-width is reached; levels in random order"
        if wanted.adaptive
        else "evenly",
        "array_cycles": cycles,
        "firmware": firmware,
        "half_width_reached_lsb": reached,
        "trim": trim,
        "asked": asked,
    }


def _natural(item: tuple[str, int]) -> tuple[str, int]:
    name = item[0]
    digits = name[len(name.rstrip("0123456789")) :]
    return name.removesuffix(digits), int(digits or 0)
