"""pimchip deploy."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Sequence
from dataclasses import asdict
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import click

from pimchip.cli.common import NO_CHIP, Command, Reply, check_out, command_options, device_options, load_factory, table
from pimchip.cli.with_bench import bench_hash, bench_options, board_beside
from pimchip.errors import InputError

if TYPE_CHECKING:
    from pimchip.runtime.calibrate import Calibrated
    from pimchip.runtime.steps import Done

BATCHES_MAX = 100_000


@click.command("deploy", cls=Command, hints={"--chip": NO_CHIP})
@click.argument("model", type=click.Path(path_type=Path))
@click.option("--device", help="Device URL.  [default: $PIMCHIP_DEVICE, else emulator:sram65]")
@click.option(
    "--profile",
    type=click.Path(path_type=Path),
    help="This die's profile: checked, and used to predict the accuracy. Of a die's folder, the one measured last.",
)
@click.option(
    "--linearize",
    is_flag=True,
    help="With --profile: correct codes by its curves before they are added up, on the board where it can, else on the host.",
)
@click.option("--data", help="Data set for calibration and accuracy.  [default: the model's]")
@click.option("--data-dir", type=click.Path(path_type=Path), help="Where the data set's files are.")
@click.option(
    "--bn-batches",
    metavar="N|auto",
    default="20",
    show_default=True,
    help="Batches of BN calibration on the chip; auto: until the statistics are known as well as --bn-tolerance wants.",
)
@click.option(
    "--bn-batch-size", type=click.IntRange(1, 65536), default=100, show_default=True, help="Images a batch of it."
)
@click.option(
    "--bn-mode",
    type=click.Choice(["parallel", "sequential"]),
    default="parallel",
    show_default=True,
    help="All BN at once, each batch normalized by itself; or one BN after the other, those before it as they will be.",
)
@click.option(
    "--bn-tolerance",
    type=click.FloatRange(0.0, 1.0, min_open=True, max_open=True),
    default=0.02,
    show_default=True,
    help="With auto: the statistics' standard error, as a share of the sums' deviation.",
)
@click.option(
    "--stale-profile", is_flag=True, help="Go on with a profile that was measured under other conditions than now."
)
@click.option(
    "--fresh", is_flag=True, help="Do every step anew.  [default: those that still hold, by OUT.steps, are skipped]"
)
@click.option(
    "--tolerate-cells",
    metavar="N|P%",
    default="0",
    show_default=True,
    help="Go on when so many of the program's cells, or such a share, do not hold what was programmed.",
)
@click.option("--limit", type=click.IntRange(1), help="Test images to use.  [default: all]")
@click.option(
    "--factory", metavar="MODULE:CALLABLE", help="Your own network's maker, as given to train. Runs your code."
)
@click.option("--out", type=click.Path(path_type=Path), help="What was deployed.  [default: MODEL with .deployed]")
@bench_options(
    "With --bench: emulated instruments, powered up around an emulated board, whose codes follow them.", required=False
)
@command_options
@device_options
def command(
    reply: Reply,
    *,
    model: Path,
    device: str | None,
    profile: Path | None,
    linearize: bool,
    data: str | None,
    data_dir: Path | None,
    bn_batches: str,
    bn_batch_size: int,
    bn_mode: Literal["parallel", "sequential"],
    bn_tolerance: float,
    stale_profile: bool,
    fresh: bool,
    tolerate_cells: str,
    limit: int | None,
    factory: str | None,
    out: Path | None,
    bench_path: Path | None,
    twin: bool,
) -> None:
    """Put MODEL (model.pt or model.pim) on a board: program, verify, calibrate BN there, evaluate.

    Steps: compile, profile, trim, program, verify, evaluate-before, calibrate, evaluate, predict, report. Each leaves a
    record in OUT.steps. The same command again skips what still holds, and goes on where it was cut short.
    """
    target = out or model.with_suffix(".deployed")
    check_out(target, keep={"the model": model if out else None})
    batches = _batches(bn_batches)

    from pimchip.board import default_device
    from pimchip.board.defects import describe
    from pimchip.board.restarts import conditions
    from pimchip.runtime import deploy
    from pimchip.runtime.steps import Steps
    from pimchip.workflows.images import load_matching, other_data
    from pimchip.workflows.modelled import per_image
    from pimchip.workflows.models import check_device, load_program, origin

    folder = target.with_name(f"{target.name}.steps")
    if fresh:
        shutil.rmtree(folder, ignore_errors=True)
    steps = Steps(folder)
    reply.interrupted = "interrupted; the device is closed, the same command goes on where it stopped"
    program, measured = load_program(model, profile=profile, factory=load_factory(factory), steps=steps)
    tolerated = _tolerated(tolerate_cells, program.cells_used)
    name = data or program.manifest.data
    if not name:
        raise InputError(f"{model} names no data set; give one with --data")
    try:
        dataset = load_matching(program.manifest, name, data_dir, limit)
    except InputError as error:
        hint = "" if data else f"; {name!r} is what {model} was trained on: name where it is, or another, with --data"
        raise InputError(f"{error}{hint}") from None
    other = other_data(name, program.manifest.data)
    if other is not None:
        reply.warn(f"{other}, which the network was trained on: it is calibrated and judged on the former")
    url = device or default_device()
    with board_beside(url, bench_path, twin, reply.seed) as (board, bench), reply.stages() as tell:
        check_device(program, model, board.info().spec, url)
        temperature, supply, age = conditions(board)
        result = deploy(
            program,
            board,
            dataset,
            profile=measured,
            bn_batches=batches,
            bn_batch_size=bn_batch_size,
            bn_mode=bn_mode,
            bn_tolerance=bn_tolerance,
            tolerate_cells=tolerated,
            stale_profile=stale_profile,
            linearize=linearize,
            steps=steps,
            origin=origin(url, reply.seed),
            on_progress=tell,
        )
        result.bench = bench.snapshot() if bench else None
    assert result.before is not None and result.after is not None
    result.data = name
    with steps.always("report") as said:
        result.save(target)
        said |= {"deployed": str(target), "sha256": hashlib.sha256(target.read_bytes()).hexdigest()}
    assert result.executor is not None
    modelled = per_image(program, min(result.executor.batch_size(), result.after.images))
    rows = [["before BN calibration", str(result.before)], ["after BN calibration", str(result.after)]]
    if not program.calibrates:
        rows = [["no BN to calibrate", str(result.after)]]
    if result.predicted is not None:
        rows.append(["predicted from the profile", str(result.predicted)])
    reply.show(table(f"{program.manifest.name} on {result.uid}: {result.after.images} images", ["accuracy", ""], rows))
    _show_calibration(reply, result.calibration, batches)
    took = result.programmed
    again = f", further pulses {took.repulsed} times" if took.repulsed else ""
    reply.show(
        f"{program.tiles} tiles in {program.manifest.passes} passes, verified with {result.verify_errors} errors{again}; "
        f"written to {target}"
    )
    if took.wrong_cells:
        share = 100 * took.wrong_cells / program.cells_used
        reply.show(
            f"{took.wrong_cells:,} of {program.cells_used:,} cells ({share:.2g} %) do not hold what was programmed: "
            f"{describe(took.where)}"
        )
        if result.predicted is not None:
            reply.warn("the prediction knows the converters alone: cells that do not hold are not in it")
    if measured is not None:
        reply.show(f"profile {measured.path}, measured {measured.measured or measured.created}")
    if result.corrections:
        where = "on the board" if "correct" in result.executor.board.info().capabilities else "on the host"
        reply.show(f"codes are corrected by the profile, {where}")
    reply.show(str(modelled))
    _show_steps(reply, steps.done)
    reply.done(
        {
            **result.before.keys("accuracy_before_bn"),
            **result.after.keys("accuracy_after_bn"),
            **(result.predicted.keys("predicted_accuracy") if result.predicted else {"predicted_accuracy": None}),
            "temperature": temperature,
            "supply": supply,
            "age": age,
            "profile": None if measured is None else str(measured.path),
            "profile_measured": None if measured is None else measured.measured or measured.created,
            "profile_temperature": None if measured is None else measured.temperature,
            "profile_supply": None if measured is None else measured.supply,
            "profile_age": None if measured is None else measured.age,
            "linearized": bool(result.corrections),
            "unmodelled_adcs": list(result.unmodelled_adcs),
            "data": name,
            "images": result.after.images,
            **modelled.keys,
            "tiles": program.tiles,
            "passes": program.manifest.passes,
            "verify_errors": result.verify_errors,
            "extra_pulses": took.extra_pulses,
            "tiles_repulsed": took.repulsed,
            "cells": program.cells_used,
            "tolerate_cells": tolerated,
            "wrong_cells": took.wrong_cells,
            "wrong_cells_at": [asdict(macro) for macro in took.where],
            "deployed": str(target),
            "bn_mode": bn_mode,
            "bn_batches": result.calibration.batches if result.calibration else None,
            "bn_standard_error": result.calibration.standard_error if result.calibration else None,
            "steps": [asdict(done) for done in steps.done],
            "bench": result.bench,
        },
        uid=result.uid,
        hashes={
            "model": program.manifest.model_hash,
            "chip": program.spec.hash,
            "profile": result.profile_hash,
            "data": dataset.digest,
            **bench_hash(bench_path),
        },
    )


def _batches(text: str) -> int | None:
    """ "20" or "auto", which is None. Raises InputError for anything else."""
    if text == "auto":
        return None
    if not text.isascii() or not text.isdigit() or not 1 <= int(text) <= BATCHES_MAX:
        raise InputError(f"--bn-batches {text!r}: want a number from 1 to {BATCHES_MAX:,}, or auto")
    return int(text)


def _show_calibration(reply: Reply, found: Calibrated | None, batches: int | None) -> None:
    """What BN calibration came to, where the number of batches was left open."""
    if found is None or batches is not None or found.standard_error is None:
        return
    error = f"standard error {100 * found.standard_error:.1f} % of the deviation"
    reply.show(f"BN from {found.batches} batches: {error}")
    if not found.enough:
        reply.warn(f"BN calibration has taken all training images: {error}, more than --bn-tolerance wants")


def _show_steps(reply: Reply, done: Sequence[Done]) -> None:
    """Which steps were skipped, where some were."""
    kept = [step.name for step in done if step.state != "done"]
    if not kept or kept == ["compile"] or set(kept) <= {"compile", "trim"}:
        return
    anew = [f"{step.name} ({step.why})" for step in done if step.why]
    resumed = [step.name for step in done if step.state == "resumed"]
    reply.show(f"still held: {', '.join(name for name in kept if name not in resumed) or 'nothing'}")
    if resumed:
        reply.show(f"resumed: {', '.join(resumed)}")
    if anew:
        reply.show(f"done anew: {', '.join(anew)}")


def _tolerated(text: str, cells: int) -> int:
    """ "12" or "0.1%" of so many cells, as a number of cells. Raises InputError for anything else."""
    number, percent, rest = text.strip().partition("%")
    try:
        value = Fraction(number) if percent else Fraction(int(number))  # 0.57 of a float would be less
    except ValueError:
        value = Fraction(-1)
    if rest or "_" in text or not 0 <= value <= (100 if percent else cells):
        raise InputError(
            f"--tolerate-cells {text!r}: want a number of cells up to the program's {cells:,}, or a share of them such as 0.1%"
        )
    return int(value * cells / 100) if percent else int(value)
