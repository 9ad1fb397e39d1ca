"""pimchip infer."""

from __future__ import annotations

import time
from collections import Counter
from pathlib import Path

import click

from pimchip.cli.common import NO_CHIP, Command, Reply, command_options, device_options, table

SHOWN = 20


@click.command("infer", cls=Command, hints={"--chip": NO_CHIP})
@click.argument("deployed", type=click.Path(path_type=Path))
@click.argument("files", nargs=-1, type=click.Path(path_type=Path))
@click.option(
    "--data",
    multiple=True,
    help="A data set's name (its test images), or image files; repeatable.  [default: the model's]",
)
@click.option("--data-dir", type=click.Path(path_type=Path), help="Where the data set's files are.")
@click.option("--device", help="Device URL.  [default: $PIMCHIP_DEVICE, else emulator:sram65]")
@click.option("--limit", type=click.IntRange(1), help="Images to classify.  [default: all]")
@command_options
@device_options
def command(
    reply: Reply,
    *,
    deployed: Path,
    files: tuple[Path, ...],
    data: tuple[str, ...],
    data_dir: Path | None,
    device: str | None,
    limit: int | None,
) -> None:
    """Classify images with DEPLOYED (what `deploy` wrote), on the die it was calibrated for.

    Images are PNG, JPEG or BMP files, .npy arrays, or the test images of a data set. Programs what is not on the
    board.
    """
    from pimchip.board import default_device, open_board
    from pimchip.board.defects import describe
    from pimchip.board.restarts import through_restarts
    from pimchip.runtime import Deployed, accuracy
    from pimchip.workflows.images import images_for, other_data
    from pimchip.workflows.modelled import per_image

    held = Deployed.load(deployed)
    manifest = held.program.manifest
    images, labels, source = images_for(manifest, [*data, *map(str, files)], data_dir, limit, default=held.data)
    other = other_data(data[0], held.data or manifest.data) if labels is not None and data else None
    if other is not None:
        reply.warn(f"{other}, which the network was {'calibrated' if held.data else 'trained'} on")
    with open_board(device or default_device(), seed=reply.seed) as board, reply.progress("images") as tell:
        executor = held.attach(board)
        if held.program.manifest.passes:
            through_restarts(lambda: executor.load_pass(0))
        executor.logits(images[:1])  # the first conversion loads compiled code; the rate is to be that of the rest
        start = time.perf_counter()
        logits = executor.logits(images, progress=tell)
        seconds = time.perf_counter() - start
        modelled = per_image(held.program, min(executor.batch_size(), len(images)))
    predictions = logits.argmax(axis=1)
    count = "1 image" if len(images) == 1 else f"{len(images)} images"
    rate = len(images) / seconds
    result = None if labels is None else accuracy(logits, labels)
    if labels is None:
        names = source or [str(i) for i in range(len(images))]
        rows = [[n, manifest.classes[int(p)]] for n, p in zip(names, predictions, strict=True)]
        reply.show(table(f"{count} on {held.uid}", ["image", "class"], rows[:SHOWN]))
        if len(rows) > SHOWN:
            reply.show(f"and {len(rows) - SHOWN} more images; --json has all")
            counts = Counter(int(p) for p in predictions)
            often = counts.most_common(SHOWN) if len(counts) > SHOWN else sorted(counts.items())
            tally = [[manifest.classes[c], str(n), f"{100 * n / len(rows):.1f} %"] for c, n in often]
            title = "How often each class was found" + f", the {SHOWN} most frequent" * (len(counts) > SHOWN)
            reply.show(table(title, ["class", "images", "share"], tally))
    else:
        reply.show(f"accuracy {result} on {count}, die {held.uid}")
    if executor.report.wrong_cells:
        reply.show(
            f"{executor.report.wrong_cells:,} of {held.program.cells_used:,} cells do not hold what was programmed: "
            f"{describe(executor.report.where)}"
        )
    reply.show(f"{rate:,.0f} images a second")
    reply.show(str(modelled))
    reply.done(
        {
            "images": len(images),
            "images_per_second": rate,
            **modelled.keys,
            "predictions": predictions.tolist(),
            "classes": list(manifest.classes),
            **(result.keys("accuracy") if result else {"accuracy": None}),
            "wrong_cells": executor.report.wrong_cells,
        },
        uid=held.uid,
        hashes={"model": manifest.model_hash, "chip": held.program.spec.hash, "profile": held.profile_hash},
    )
