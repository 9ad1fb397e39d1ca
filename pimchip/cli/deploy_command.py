"""pimchip deploy."""

from __future__ import annotations

from dataclasses import asdict
from fractions import Fraction
from pathlib import Path

import click

from pimchip.cli.common import NO_CHIP, Command, Reply, check_out, command_options, device_options, load_factory, table
from pimchip.cli.with_bench import bench_hash, bench_options, board_beside
from pimchip.errors import InputError


@click.command("deploy", cls=Command, hints={"--chip": NO_CHIP})
@click.argument("model", type=click.Path(path_type=Path))
@click.option("--device", help="Device URL.  [default: $PIMCHIP_DEVICE, else emulator:sram65]")
@click.option(
    "--profile",
    type=click.Path(path_type=Path),
    help="This die's profile: checked, and used to predict the accuracy. Of a die's folder, the one measured last.",
)
@click.option("--data", help="Data set for calibration and accuracy.  [default: the model's]")
@click.option("--data-dir", type=click.Path(path_type=Path), help="Where the data set's files are.")
@click.option(
    "--bn-batches",
    type=click.IntRange(1, 100_000),
    default=20,
    show_default=True,
    help="Batches of BN calibration on the chip.",
)
@click.option(
    "--bn-batch-size", type=click.IntRange(1, 65536), default=100, show_default=True, help="Images a batch of it."
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
    data: str | None,
    data_dir: Path | None,
    bn_batches: int,
    bn_batch_size: int,
    tolerate_cells: str,
    limit: int | None,
    factory: str | None,
    out: Path | None,
    bench_path: Path | None,
    twin: bool,
) -> None:
    """Put MODEL (model.pt or model.pim) on a board: program, verify, calibrate BN there, evaluate."""
    target = out or model.with_suffix(".deployed")
    check_out(target, keep={"the model": model if out else None})

    from pimchip.board import default_device
    from pimchip.board.defects import describe
    from pimchip.board.restarts import conditions
    from pimchip.runtime import deploy
    from pimchip.workflows.images import load_matching, other_data
    from pimchip.workflows.modelled import per_image
    from pimchip.workflows.models import check_device, load_program

    program, measured = load_program(model, profile=profile, factory=load_factory(factory))
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
            bn_batches=bn_batches,
            bn_batch_size=bn_batch_size,
            tolerate_cells=tolerated,
            on_progress=tell,
        )
        result.bench = bench.snapshot() if bench else None
    assert result.before is not None and result.after is not None
    result.data = name
    result.save(target)
    assert result.executor is not None
    modelled = per_image(program, min(result.executor.batch_size(), result.after.images))
    rows = [["before BN calibration", str(result.before)], ["after BN calibration", str(result.after)]]
    if not program.calibrates:
        rows = [["no BN to calibrate", str(result.after)]]
    if result.predicted is not None:
        rows.append(["predicted from the profile", str(result.predicted)])
    reply.show(table(f"{program.manifest.name} on {result.uid}: {result.after.images} images", ["accuracy", ""], rows))
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
    reply.show(str(modelled))
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
