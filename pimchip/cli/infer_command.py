"""pimchip infer."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import click

from pimchip.cli.common import NO_CHIP, Command, Reply, check_out, command_options, device_options, table
from pimchip.errors import InputError

if TYPE_CHECKING:
    from pimchip.runtime import Deployed
    from pimchip.runtime.watch import Watcher
    from pimchip.workflows.inference import Tally


@click.command("infer", cls=Command, hints={"--chip": NO_CHIP})
@click.argument("deployed", type=click.Path(path_type=Path))
@click.argument("files", nargs=-1, type=click.Path(path_type=Path))
@click.option(
    "--data",
    multiple=True,
    help="A data set's name (its test images), or what FILES may be; repeatable.  [default: the model's]",
)
@click.option("--data-dir", type=click.Path(path_type=Path), help="Where the data set's files are.")
@click.option(
    "--device",
    multiple=True,
    help="Device URL; of several, each gets every n-th batch.  [default: $PIMCHIP_DEVICE, else emulator:sram65]",
)
@click.option(
    "--also",
    multiple=True,
    type=click.Path(path_type=Path),
    metavar="DEPLOYED",
    help="What was deployed on the die of another --device; repeatable.",
)
@click.option("--limit", type=click.IntRange(1), help="Images to classify.  [default: all]")
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    help="Write predictions here as they come: .jsonl, .csv or .npz; - is stdout.",
)
@click.option("--format", "form", type=click.Choice(["jsonl", "csv", "npz"]), help="Of --out.  [default: by its name]")
@click.option(
    "--watch",
    type=click.IntRange(1),
    metavar="IMAGES",
    help="Look after so many images whether the sums have drifted, and calibrate BN anew where they have.",
)
@click.option("--update", is_flag=True, help="With --watch: write BN that was calibrated anew to DEPLOYED.")
@command_options
@device_options
def command(
    reply: Reply,
    *,
    deployed: Path,
    files: tuple[Path, ...],
    data: tuple[str, ...],
    data_dir: Path | None,
    device: tuple[str, ...],
    also: tuple[Path, ...],
    limit: int | None,
    out: Path | None,
    form: str | None,
    watch: int | None,
    update: bool,
) -> None:
    """Classify images with DEPLOYED (what `deploy` wrote), on the die it was calibrated for.

    FILES are PNG, JPEG or BMP images, folders of them, .npy arrays, .npz with `images` (and `labels`), or - for .npy arrays on
    stdin; without them, the test images of a data set. They are read and classified block by block. Programs what is
    not on the board.
    """
    _check_options(reply, out, form, watch, update, device, also)
    if out is not None and str(out) != "-":
        given = {"DEPLOYED": deployed, **{f"input {path}": path for path in (*also, *files, *map(Path, data))}}
        check_out(out, keep=given)

    from pimchip.board import default_device, open_board
    from pimchip.board.defects import describe
    from pimchip.runtime import Deployed
    from pimchip.workflows.images import other_data, source_for
    from pimchip.workflows.inference import attached, classify
    from pimchip.workflows.modelled import per_image
    from pimchip.workflows.results import writing

    held = [Deployed.load(path) for path in (deployed, *also)]
    first = held[0]
    manifest = first.program.manifest
    source, name = source_for(manifest, [*data, *map(str, files)], data_dir, limit, default=first.data)
    other = other_data(data[0], first.data or manifest.data) if name and data else None
    if other is not None:
        reply.warn(f"{other}, which the network was {'calibrated' if first.data else 'trained'} on")
    with ExitStack() as open_, reply.progress("images") as tell:
        urls = device or (default_device(),)
        boards = [open_.enter_context(open_board(url, seed=reply.seed)) for url in urls]
        ready = attached(held, boards)
        watcher = None if watch is None else _watcher(ready[0], data_dir)
        if watcher is not None and update:
            open_.callback(_update, ready[0], watcher, deployed)  # also where the stream is cut short
        writer = open_.enter_context(writing(out, form, manifest.classes))
        tally = classify(ready, source, writer, keep=out is None, watcher=watcher, every=watch or 0, progress=tell)
        executors = [one.executor for one in ready if one.executor is not None]
        modelled = per_image(first.program, max(min(min(e.batch_size() for e in executors), tally.images), 1))
    uids = ", ".join(dict.fromkeys(one.uid for one in ready))
    _show(reply, tally, uids, manifest.classes, out)
    for check in watcher.checks if watcher else ():
        if check.left is not None:
            shift = f"{100 * check.shift:.1f} % of the deviation at {check.layer}, {100 * check.left:.1f} % left"
            reply.show(f"check {check.number}: {check.temperature:.1f} °C, BN calibrated anew: {shift}")
    wrong = sum(executor.report.wrong_cells for executor in executors)
    for executor in executors:
        if executor.report.wrong_cells:
            reply.show(
                f"{executor.report.wrong_cells:,} of {first.program.cells_used:,} cells do not hold what was programmed: "
                f"{describe(executor.report.where)}"
            )
    reply.show(f"{tally.rate:,.0f} images a second")
    reply.show(str(modelled))
    result = tally.accuracy
    reply.done(
        {
            "images": tally.images,
            "images_per_second": tally.rate,
            **modelled.keys,
            "predictions": tally.predictions,
            "classes": list(manifest.classes),
            **(result.keys("accuracy") if result else {"accuracy": None}),
            "wrong_cells": wrong,
            "out": None if out is None else str(out),
            "devices": [{"uid": one.uid, "images": n} for one, n in zip(ready, tally.by_board, strict=True)],
            "checks": None if watcher is None else watcher.keys(),
        },
        uid=uids,
        hashes={"model": manifest.model_hash, "chip": first.program.spec.hash, "profile": first.profile_hash},
    )


def _check_options(
    reply: Reply,
    out: Path | None,
    form: str | None,
    watch: int | None,
    update: bool,
    device: tuple[str, ...],
    also: tuple[Path, ...],
) -> None:
    """InputError for options that do not go together."""
    from pimchip.workflows.results import STDOUT, format_of

    if form is not None and out is None:
        raise InputError("--format is of --out; name a file, or - for stdout")
    if out is not None:
        format_of(out, form)
        if str(out) == STDOUT and reply.as_json:
            raise InputError("--out - and --json both want stdout; name a file")
        reply.as_text = str(out) != STDOUT
    if update and watch is None:
        raise InputError("--update is of --watch; give --watch IMAGES too")
    if watch is not None and len(device) > 1:
        raise InputError("--watch looks after one board; name one --device")
    if also and len(device) < 2:
        raise InputError("--also is of a further --device; name that too")


def _update(held: Deployed, watcher: Watcher, path: Path) -> None:
    """Write BN that was calibrated anew."""
    from pimchip.runtime.results import drifted
    from pimchip.runtime.steps import Steps, folder_of

    if any(check.recalibrated for check in watcher.checks):
        replace(held, executor=None).save(path)
        drifted(Steps(folder_of(path)))  # or deploying again would put the BN of before back


def _watcher(held: Deployed, data_dir: Path | None) -> Watcher:
    """Calibrates by the data set that it was deployed with, until the statistics are known."""
    from pimchip.runtime.calibrate import Plan
    from pimchip.runtime.watch import Watcher
    from pimchip.workflows.images import load_matching

    if not held.data or held.levels is None:
        raise InputError("--watch: DEPLOYED has no BN calibrated on a data set; there is nothing to compare with")
    dataset = load_matching(held.program.manifest, held.data, data_dir, None)
    return Watcher(held, dataset, Plan(None, held.levels.images))


def _show(reply: Reply, tally: Tally, uids: str, classes: tuple[str, ...], out: Path | None) -> None:
    """Accuracy, or the classes of the first images and how often each class was found."""
    count = "1 image" if tally.images == 1 else f"{tally.images} images"
    result = tally.accuracy
    if result is not None:
        reply.show(f"accuracy {result} on {count}, {'dies' if ',' in uids else 'die'} {uids}")
        return
    rows = [[name, classes[place]] for name, place in tally.first]
    reply.show(table(f"{count} on {uids}", ["image", "class"], rows))
    if tally.images > len(rows):
        reply.show(f"and {tally.images - len(rows)} more images; {'--json' if out is None else out} has all")
        often = tally.counts.most_common(len(rows)) if len(tally.counts) > len(rows) else sorted(tally.counts.items())
        shares = [[classes[c], str(n), f"{100 * n / tally.images:.1f} %"] for c, n in often]
        title = "How often each class was found"
        title += f", the {len(rows)} most frequent" * (len(tally.counts) > len(rows))
        reply.show(table(title, ["class", "images", "share"], shares))
