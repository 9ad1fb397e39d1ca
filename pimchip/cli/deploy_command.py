"""pimchip deploy."""

from __future__ import annotations

from pathlib import Path

import click

from pimchip.cli.common import Command, Reply, check_out, command_options, load_factory, table

TEMPERATURE_MARGIN = 5.0
"""Kelvin between a die and its profile beyond which a warning is due."""


@click.command("deploy", cls=Command)
@click.argument("model", type=click.Path(path_type=Path))
@click.option("--device", help="Device URL.  [default: $PIMCHIP_DEVICE, else emulator:sram65]")
@click.option(
    "--profile", type=click.Path(path_type=Path), help="This die's profile: checked, and used to predict the accuracy."
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
@click.option("--limit", type=click.IntRange(1), help="Test images to use.  [default: all]")
@click.option(
    "--factory", metavar="MODULE:CALLABLE", help="Your own network's maker, as given to train. Runs your code."
)
@click.option("--out", type=click.Path(path_type=Path), help="What was deployed.  [default: MODEL with .deployed]")
@command_options
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
    limit: int | None,
    factory: str | None,
    out: Path | None,
) -> None:
    """Put MODEL (model.pt or model.pim) on a board: program, verify, calibrate BN there, evaluate."""
    target = out or model.with_suffix(".deployed")
    check_out(target, keep={"the model": model if out else None})

    from pimchip.board import default_device, open_board
    from pimchip.errors import InputError
    from pimchip.profile import Profile
    from pimchip.runtime import deploy
    from pimchip.workflows.images import load_matching
    from pimchip.workflows.modelled import per_image
    from pimchip.workflows.models import load_program

    measured = None if profile is None else Profile.load(profile)
    program = load_program(model, profile=measured, factory=load_factory(factory))
    name = data or program.manifest.data
    if not name:
        raise InputError(f"{model} names no data set; give one with --data")
    dataset = load_matching(program.manifest, name, data_dir, limit)
    with open_board(device or default_device(), seed=reply.seed) as board, reply.stages() as tell:
        temperature = board.temperature()
        result = deploy(
            program,
            board,
            dataset,
            profile=measured,
            bn_batches=bn_batches,
            bn_batch_size=bn_batch_size,
            on_progress=tell,
        )
    if measured is not None and abs(temperature - measured.temperature) > TEMPERATURE_MARGIN:
        reply.show(
            f"warning: the die is at {temperature:g} °C, its profile was measured at {measured.temperature:g} °C; "
            "the prediction is for that temperature"
        )
    assert result.before is not None and result.after is not None
    result.save(target)
    assert result.executor is not None
    modelled = per_image(program, min(result.executor.batch_size(), result.after.images))
    rows = [["before BN calibration", str(result.before)], ["after BN calibration", str(result.after)]]
    if result.predicted is not None:
        rows.append(["predicted from the profile", str(result.predicted)])
    reply.show(table(f"{program.manifest.name} on {result.uid}: {result.after.images} images", ["accuracy", ""], rows))
    took = result.programmed
    again = f", {took.repulsed} after further pulses" if took.repulsed else ""
    reply.show(
        f"{program.tiles} tiles in {program.manifest.passes} passes, verified with {result.verify_errors} errors{again}; "
        f"written to {target}"
    )
    reply.show(str(modelled))
    reply.done(
        {
            **result.before.keys("accuracy_before_bn"),
            **result.after.keys("accuracy_after_bn"),
            **(result.predicted.keys("predicted_accuracy") if result.predicted else {"predicted_accuracy": None}),
            "temperature": temperature,
            "profile_temperature": None if measured is None else measured.temperature,
            "images": result.after.images,
            **modelled.keys,
            "tiles": program.tiles,
            "passes": program.manifest.passes,
            "verify_errors": result.verify_errors,
            "extra_pulses": took.extra_pulses,
            "tiles_repulsed": took.repulsed,
            "deployed": str(target),
        },
        uid=result.uid,
        hashes={
            "model": program.manifest.model_hash,
            "chip": program.spec.hash,
            "profile": result.profile_hash,
            "data": dataset.digest,
        },
    )
