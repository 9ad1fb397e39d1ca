"""pimchip characterize."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

from pimchip.cli.array_output import array_table, refused_lines
from pimchip.cli.common import NO_CHIP, Command, Reply, check_out, command_options, device_options
from pimchip.cli.with_bench import bench_hash, bench_options, board_beside, driver
from pimchip.errors import InputError

if TYPE_CHECKING:
    from pimchip.board import Board
    from pimchip.characterize import TrimResult
    from pimchip.characterize.correction import CorrectionGain
    from pimchip.profile import Health


FLAG_MEANINGS = {
    "not-measured": "left out by --adcs, or by --health for stuck cells in its columns",
    "stuck": "one code at every level, as of a dead converter: no result",
    "stuck-bit": "one bit of the codes never changes: no result",
    "few-transitions": "fewer than three transitions between codes within reach: no result",
    "noise-not-identified": "hardly two reads disagree: no noise figure; more reads help",
    "missing-codes": "codes that never come, with DNL of -0.9 LSB or less",
    "drift": "it moved while it was measured, by more than the half-width; that was taken out, but let the board warm up",
    "coarse-steps": "levels are too far apart for the noise, so that transitions may be off: measure at fewer "
    "--adc-bits, or give the chip's file more [dac] bits or [operating] rows",
}
LIMIT_MEANINGS = {
    "max_inl_lsb": "largest deviation from the fitted line, LSB",
    "noise_lsb": "noise of one conversion, LSB rms",
    "gain_error": "distance of the gain from 1",
    "offset_lsb": "size of the offset, LSB",
    "max_dnl_lsb": "largest deviation of a code's width from an LSB",
    "missing_codes": "codes that never come",
    "faults": "of the die, with --health, but the mild ones",
    "stuck_cells": "of the die, with --health",
    "drift_lsb": "largest move during --health, LSB",
}


def _explain(title: str, meanings: dict[str, str]) -> str:
    """A block of the help that click leaves as it is."""
    return "\b\n" + "\n".join([title, *(f"  {name:<21} {meaning}" for name, meaning in meanings.items())])


EPILOG = "\n\n".join(
    [
        _explain("Flags of converters, with which they fail where there is no result:", FLAG_MEANINGS),
        _explain("Limits, each on the worst converter at each range:", LIMIT_MEANINGS),
        "Exit code 1: a limit is missed, or a converter has no result. The profile is written all the same.",
    ]
)


@click.command("characterize", cls=Command, epilog=EPILOG, hints={"--chip": NO_CHIP})
@click.option("--device", help="Device URL.  [default: $PIMCHIP_DEVICE, else emulator:sram65]")
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    default=Path("calibration_data"),
    show_default=True,
    help="Folder of profiles; this one goes to UID/DATE-HASH in it.",
)
@click.option(
    "--half-width",
    type=float,
    default=0.1,
    show_default=True,
    help="Wanted 95 % half-width of a transition level, LSB.",
)
@click.option(
    "--reads", type=click.IntRange(2, 1_000_000), help="Reads a level, instead of planning them from --half-width."
)
@click.option(
    "--configurations",
    type=click.IntRange(0, 1 << 16),
    default=1,
    show_default=True,
    help="Random sets of rows that a level's reads are shared among: more of them average cells' errors out; 0 takes rows "
    "in their own order, in which these pile up.",
)
@click.option(
    "--even", is_flag=True, help="As many reads at every level of every macro, instead of where the uncertainty is."
)
@click.option(
    "--simultaneous", is_flag=True, help="--half-width is of a band of all of a converter's transitions at once."
)
@click.option("--plan", is_flag=True, help="Only say what measuring will take, from a look at the first macro.")
@click.option(
    "--models", is_flag=True, help="Afterwards fit models of the curves: line, common curve, residual, SAR bits."
)
@click.option(
    "--plot",
    type=click.Path(path_type=Path, file_okay=False),
    metavar="DIR",
    help="Afterwards draw every converter, and all together.",
)
@click.option(
    "--measure",
    "wanted",
    metavar="LIST",
    help="Also measure the array and noise: all, or of rows, components, dac, load, noise, flicker, origins, memory, input, with commas.",
)
@click.option(
    "--valid-days",
    type=click.FloatRange(0, 1e6, min_open=True),
    help="For how many days the profile holds; what uses it later says so.  [default: without an end]",
)
@click.option("--adcs", help="Converters to measure: 0,3,8-15.  [default: all]")
@click.option("--adc-bits", type=int, help="Operating point: resolution.  [default: the chip's]")
@click.option(
    "--range-divisor", "range_divisors", type=int, multiple=True, help="Ranges to measure; repeatable.  [default: all]"
)
@click.option(
    "--trim",
    "wants_trim",
    is_flag=True,
    help="First find and program the trim of every converter's offset, and of its gain where there are registers for that, "
    "one for all points that are measured; `deploy --profile` loads it.",
)
@click.option(
    "--limits",
    type=click.Path(path_type=Path),
    help="TOML of limits such as max_inl_lsb = 2.0; below is what there is. Exit code 1 if one is missed.",
)
@click.option(
    "--from",
    "source",
    type=click.Path(path_type=Path),
    help="Fit the raw counts of a profile again instead of measuring, or those of an .npz (calibration_data/README.md).",
)
@click.option(
    "--health",
    "look",
    is_flag=True,
    help="First look for what is broken: cells, rows, converters. Kept in the profile; overwrites all cells. Converters with "
    "stuck cells are then left out.",
)
@click.option(
    "--linearize",
    "correct",
    is_flag=True,
    help="Afterwards measure what correcting codes by this profile is worth: errors of fresh random products.",
)
@click.option(
    "--check",
    type=click.Path(path_type=Path),
    metavar="PROFILE",
    help="Only ask whether PROFILE is still true of its die: seconds. Exit code 1 if it is stale. Writes nothing.",
)
@bench_options(
    "With --bench: emulated instruments, powered up around an emulated board, whose codes follow them.", required=False
)
@command_options
@device_options
def command(
    reply: Reply,
    *,
    device: str | None,
    out: Path,
    half_width: float,
    reads: int | None,
    configurations: int,
    even: bool,
    simultaneous: bool,
    plan: bool,
    models: bool,
    plot: Path | None,
    wanted: str | None,
    valid_days: float | None,
    adcs: str | None,
    adc_bits: int | None,
    range_divisors: tuple[int, ...],
    wants_trim: bool,
    limits: Path | None,
    source: Path | None,
    bench_path: Path | None,
    twin: bool,
    look: bool,
    correct: bool,
    check: Path | None,
) -> None:
    """Measure a die: every converter's gain, offset, curve and noise, with intervals, at every range.

    Writes a profile folder (raw counts, results, conditions) under --out and says where.
    """
    measures = {
        "--adcs": adcs,
        "--trim": wants_trim,
        "--reads": reads,
        "--adc-bits": adc_bits,
        "--range-divisor": range_divisors,
        "--health": look,
        "--linearize": correct,
        "--bench": bench_path,
        "--measure": wanted,
        "--plan": plan,
        "--valid-days": valid_days,
        "--even": even,
        "--simultaneous": simultaneous,
    }
    told = [name for name, value in measures.items() if value]
    if check is not None:
        told += [n for n, v in {"--from": source, "--limits": limits, "--models": models, "--plot": plot}.items() if v]
        if told:
            raise InputError(f"--check asks whether a profile is still true: leave out {', '.join(told)}")
        _check(reply, check, device)
        return
    check_out(out, folder=True)
    if source is not None and (device or told):
        told = ["--device"] * bool(device) + told
        raise InputError(f"--from fits counts that are there: leave out what concerns measuring: {', '.join(told)}")

    from pimchip.characterize import (
        adcs_text,
        characterize,
        check_limits,
        default_points,
        load_limits,
        parse_adcs,
        refit,
        summarize,
    )
    from pimchip.characterize.correction import correction_gains
    from pimchip.characterize.measure import check_adcs
    from pimchip.characterize.measuring import Wanted
    from pimchip.cli.characterize_output import planned, points_table, show_models, show_plan, wire, write_plots
    from pimchip.cli.die_output import correction_keys, health_keys, show_correction, show_health
    from pimchip.cli.trim_output import show_trim, trim, trim_keys

    start = time.perf_counter()
    bounds = load_limits(limits) if limits else None
    trimmed: dict[str, TrimResult] = {}
    health: Health | None = None
    left_out: list[int] = []
    gains: list[CorrectionGain] = []
    if source is not None:
        profile = refit(source, out, models=models, seed=reply.seed)
    else:
        with board_beside(device, bench_path, twin, reply.seed) as (board, bench), reply.stages() as tell:
            spec = board.info().spec
            points = default_points(spec, adc_bits=adc_bits, range_divisors=range_divisors or None)
            chosen = parse_adcs(adcs, spec.array.macros * spec.adc.per_macro) if adcs else None
            driven = driver(bench) is not None
            array: tuple[str, ...] = ()
            if wanted:
                from pimchip.characterize.array import check_told, parse_measurements  # slow to import

                array = parse_measurements(wanted, driven=driven)
                if wanted.strip() != "all":
                    check_told(spec, array, points, driven=driven)
            if plan:
                asked = Wanted(
                    half_width, reads, tuple(check_adcs(spec, chosen)), reply.seed, configurations, even, simultaneous
                )
                also = {"--health": look, "--trim": wants_trim, "--linearize": correct}
                beside = [name for name, given in also.items() if given]
                reply.done(show_plan(reply, planned(board, points, asked, out, tell), beside), uid=board.info().uid)
                return
            if look:
                health, chosen, left_out = _health(reply, board, chosen, tell)
            if wants_trim:
                trimmed = trim(board, points, chosen, reply.seed, tell)
            profile = characterize(
                board,
                points=points,
                half_width=half_width,
                reads=reads,
                even=even,
                simultaneous=simultaneous,
                adcs=chosen,
                seed=reply.seed,
                configurations=configurations,
                array=array,
                valid_days=valid_days,
                models=models,
                drive=driver(bench),
                out=out,
                health=health,
                progress=lambda done, total: tell("reading", done, total),
                bench=bench.snapshot if bench else None,
            )
            if correct:
                gains = correction_gains(board, profile, seed=reply.seed)
    seconds = time.perf_counter() - start
    summary = summarize(profile)
    misses = check_limits(profile, bounds) if bounds else []
    reply.show(points_table(profile.uid, summary.points))
    show_trim(reply, trimmed)
    for flag, flagged in summary.told.items():
        reply.show(f"flag {flag}: {adcs_text(flagged)}: {FLAG_MEANINGS[flag]}")
    if summary.fatal:
        reply.show("Converters without a result are in no mean, spread or maximum of the table.")
    if profile.array is not None and source is None:
        reply.show(array_table(profile.array))
        for line in refused_lines(profile.array):
            reply.show(line)
    failures = [f"limit missed: {miss}" for miss in misses] + summary.failures
    with reply.stages() as tell:
        modelled = show_models(reply, profile)
        if plot is not None:
            write_plots(reply, profile, plot, tell)
    if gains:
        show_correction(reply, gains)
    if health is not None:
        show_health(reply, health)
        if left_out:
            reply.show(f"not measured, for stuck cells in their columns: {adcs_text(left_out)}")
        failures += [] if health.ok else [f"{len(health.severe)} faults of the die that are not mild"]
    reply.show(f"profile {profile.path}" + (f", in {out.resolve()}" if not out.is_absolute() else ""))
    if bounds and not misses:
        reply.show(f"within the limits of {limits}: {', '.join(bounds)}")
    if failures:
        reply.show(f"failed: {'; '.join(failures)}")
    reply.done(
        {
            "profile": str(profile.path),
            "chip_uid": profile.uid,
            "adcs": summary.adcs,
            "reads": summary.reads,
            "seconds": seconds,
            "max_inl_lsb": summary.max_inl_lsb,
            "noise_lsb": summary.noise_lsb,
            "half_width_lsb": summary.half_width_lsb,
            "flags": summary.flags,
            "flagged_adcs": summary.flagged,
            "left_out_adcs": left_out,
            "temperature": profile.temperature,
            "supply": profile.supply,
            "age": profile.age,
            "holds": profile.holds.to_dict(),
            **trim_keys(trimmed),
            "limits_missed": misses,
            "correction": correction_keys(gains) if gains else None,
            "health": None if health is None else health_keys(health),
            "failures": failures,
            "passed": not failures,
            "array": None if profile.array is None else profile.array.values,
            "points": [asdict(p) for p in summary.points],
            "models": modelled,
            "wire": wire(profile),
            "bench": profile.bench,
        },
        uid=profile.uid,
        hashes={"profile": profile.hash, "chip": profile.spec_hash, **bench_hash(bench_path)},
        ok=not failures,
    )


def _health(
    reply: Reply, board: Board, adcs: list[int] | None, tell: Callable[[str, int, int], None]
) -> tuple[Health, list[int], list[int]]:
    """What is broken, and of the converters asked for (None: all) those that can be measured and those that cannot."""
    from pimchip.characterize.health import examine, measurable

    health = examine(board, seed=reply.seed, progress=lambda done, total: tell("looking for faults", done, total))
    asked, able = adcs or sorted(health.columns), set(measurable(board.info().spec, health))
    chosen = [adc for adc in asked if adc in able]
    if not chosen:
        raise InputError("every converter asked for has stuck cells in its columns: none can be measured")
    return health, chosen, [adc for adc in asked if adc not in able]


def _check(reply: Reply, path: Path, device: str | None) -> None:
    """Say whether a profile is still true of its die."""
    from pimchip.board import default_device, open_board
    from pimchip.board.conditions import differences
    from pimchip.characterize.recheck import recheck
    from pimchip.cli.die_output import recheck_keys, show_recheck
    from pimchip.profile import Profile

    profile = Profile.load(path)
    start = time.perf_counter()
    with open_board(device or default_device(), seed=reply.seed) as board, reply.stages() as tell:
        found = recheck(board, profile, seed=reply.seed, progress=lambda done, total: tell("checking", done, total))
        told = differences(board, profile)
    seconds = time.perf_counter() - start
    for difference in told:
        reply.warn(difference)
    show_recheck(reply, found, profile.uid, seconds)
    reply.done(
        {"profile": str(profile.path), "chip_uid": profile.uid, "seconds": seconds, **recheck_keys(found)},
        uid=profile.uid,
        hashes={"profile": profile.hash, "chip": profile.spec_hash},
        ok=not found.stale,
    )
