"""pimchip compare."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

from pimchip.cli.common import NO_CHIP, Command, Reply, command_options, device_options, table

if TYPE_CHECKING:
    from pimchip.runtime.comparison import LayerComparison


@click.command("compare", cls=Command, hints={"--chip": NO_CHIP})
@click.argument("deployed", type=click.Path(path_type=Path))
@click.option("--device", help="Device URL.  [default: $PIMCHIP_DEVICE, else emulator:sram65]")
@click.option(
    "--profile",
    type=click.Path(path_type=Path),
    help="This die's profile: its twin then says what is to be expected of each column, else the chip's description does.",
)
@click.option("--data", help="Data set whose test images are run.  [default: what it was calibrated on]")
@click.option("--data-dir", type=click.Path(path_type=Path), help="Where the data set's files are.")
@click.option("--limit", type=click.IntRange(2), default=32, show_default=True, help="Images to run.")
@click.option(
    "--repeats",
    type=click.IntRange(2, 1000),
    default=4,
    show_default=True,
    help="Runs of each layer on the chip, by which noise is told from the fixed pattern.",
)
@command_options
@device_options
def command(
    reply: Reply,
    *,
    deployed: Path,
    device: str | None,
    profile: Path | None,
    data: str | None,
    data_dir: Path | None,
    limit: int,
    repeats: int,
) -> None:
    """Compare DEPLOYED (what `deploy` wrote) layer by layer: the chip beside its twin and the ideal chip.

    Each layer gets the inputs that it has on the chip, so that its figures are its own. Exit code 1 where a layer is
    worse than on a sound die; what is suspected is named by macro, converter, column and row.
    """
    from pimchip.board import default_device, open_board, open_twin
    from pimchip.board.conditions import MEND, differences
    from pimchip.profile import Profile
    from pimchip.runtime import Deployed
    from pimchip.runtime.comparison import compare
    from pimchip.workflows.images import images_of

    held = Deployed.load(deployed)
    manifest = held.program.manifest
    measured = None
    if profile is not None:
        measured = Profile.load(profile, serving=list(held.program.adcs_used()))
    images = images_of(manifest, data, data_dir, limit, default=held.data)
    with ExitStack() as open_, reply.stages() as tell:
        board = open_.enter_context(open_board(device or default_device(), seed=reply.seed))
        executor = held.attach(board)
        twin = None
        if measured is not None:
            info = board.info()
            measured.check_board(info.uid, info.spec)
            for difference in differences(board, measured):
                reply.warn(f"{difference}: {MEND}")
            used = set[int]().union(*held.program.adcs_used().values())
            twin = open_.enter_context(open_twin(measured, seed=reply.seed + 1, used=used))
        found = compare(executor, images, twin=twin, repeats=repeats, seed=reply.seed, progress=tell)
    columns = ["layer", "chip, dB", "twin, dB", "ideal, dB", "fixed", "noise", "bias", "followed", ""]
    title = f"{manifest.name} on {found.uid}: {found.images} images, each layer {found.repeats} times"
    reply.show(table(title, columns, [_row(layer) for layer in found.layers]))
    for layer in found.layers:
        for suspect in layer.suspects:
            reply.show(f"{layer.name}: {suspect.cause}: {suspect.text}")
    if found.first_divergence is None:
        reply.show("no layer is worse than on a sound die")
    else:
        reply.show(f"first worse than on a sound die: {found.first_divergence}")
    reply.done(
        {
            "layers": [asdict(layer) for layer in found.layers],
            "first_divergence": found.first_divergence,
            "images": found.images,
            "repeats": found.repeats,
            "profile": None if measured is None else str(measured.path),
            "passed": found.first_divergence is None,
        },
        uid=found.uid,
        hashes={
            "model": manifest.model_hash,
            "chip": held.program.spec.hash,
            "profile": None if measured is None else measured.hash,
        },
        ok=found.first_divergence is None,
    )


def _row(layer: LayerComparison) -> list[str]:
    def number(value: float | None, form: str) -> str:
        return "-" if value is None else format(value, form)

    exact = {None: "", True: "exact", False: "not exact"}[layer.exact]
    return [
        layer.name,
        number(layer.chip, ".1f"),
        number(layer.twin, ".1f"),
        number(layer.ideal, ".1f"),
        number(layer.fixed, ".1%"),
        number(layer.temporal, ".1%"),
        number(layer.bias, "+.1%"),
        number(layer.followed, ".3f"),
        exact or ("diverges" if layer.diverges else ""),
    ]
