"""pimchip finetune."""

from __future__ import annotations

import hashlib
import shlex
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import click

from pimchip.cli.common import Command, Reply, check_out, command_options, device_options, load_factory, table
from pimchip.cli.model_options import model_options
from pimchip.errors import InputError

if TYPE_CHECKING:
    from pimchip.qat import EpochReport, ModelFile, TrainState

NO_REPLICAS = "layers that are trained on a chip are held there once; `pimchip deploy MODEL --replicas N` holds them several times"


@click.command("finetune", cls=Command, hints={"--replicas": NO_REPLICAS})
@click.argument("model", type=click.Path(path_type=Path))
@click.option("--device", help="Device URL.  [default: $PIMCHIP_DEVICE, else emulator:sram65]")
@model_options(
    profile="This die's profile: its trim is loaded and broken converters are avoided, as deploy does with it; with --mode "
    "layers, what is not on the chip yet trains on its converters.",
    data="Data set.  [default: the model's]",
)
@click.option(
    "--mode",
    type=click.Choice(["whole", "layers"]),
    default="whole",
    show_default=True,
    help="The whole network on the chip in every step, or layer after layer, each frozen once it is programmed.",
)
@click.option(
    "--epochs",
    type=click.IntRange(1, 100_000),
    default=2,
    show_default=True,
    help="Passes over the data; with --mode layers, for each layer.",
)
@click.option("--batch-size", type=click.IntRange(2, 65536), default=64, show_default=True, help="Images a step.")
@click.option(
    "--learning-rate",
    type=click.FloatRange(0.0, 1000.0, min_open=True),
    default=0.01,
    show_default=True,
    help="At its highest; it falls along a cosine.",
)
@click.option(
    "--tolerate-cells",
    type=click.IntRange(0, 1 << 40),
    default=0,
    show_default=True,
    help="Go on when so many cells do not hold what was programmed.",
)
@click.option("--limit", type=click.IntRange(1), help="Test images to use.  [default: all]")
@click.option("--resume", is_flag=True, help="Go on where OUT was left, with the same options.")
@click.option(
    "--deterministic",
    is_flag=True,
    help="One thread: the same checkpoint on any number of cores, from a board that is emulated.",
)
@click.option("--out", type=click.Path(path_type=Path), help="The checkpoint.  [default: MODEL with -tuned.pt]")
@command_options
@device_options
def command(
    reply: Reply,
    *,
    model: Path,
    device: str | None,
    profile: Path | None,
    mode: Literal["whole", "layers"],
    data: str | None,
    data_dir: Path | None,
    epochs: int,
    batch_size: int,
    learning_rate: float,
    tolerate_cells: int,
    limit: int | None,
    resume: bool,
    deterministic: bool,
    factory: str | None,
    out: Path | None,
) -> None:
    """Train MODEL (model.pt) on with a board in the loop: forward on the chip, backward in software.

    Accuracies of epochs are on the chip, without the BN calibration that deploy does afterwards. The checkpoint is written after
    every epoch; it is fitted to this die.
    """
    target = out or model.with_name(f"{model.stem}-tuned.pt")
    check_out(target, keep={"the model": model})

    from pimchip.board import default_device, open_board
    from pimchip.board.urls import DEFAULT_DEVICE
    from pimchip.cli.train_output import Output
    from pimchip.profile import Profile
    from pimchip.qat import Settings, TrainState, load_model, pim_layers, save_model
    from pimchip.qat.checkpoint import load_state
    from pimchip.qat.data import load_dataset
    from pimchip.runtime.evaluate import Accuracy
    from pimchip.runtime.finetune import finetune
    from pimchip.workflows.models import read_model

    start = read_model(model)
    name = data or str(start.training.get("data", ""))
    if not name:
        raise InputError(f"{model} names no data set; give one with --data")
    dataset = load_dataset(name, data_dir, limit_test=limit)
    if dataset.image_shape != start.image_shape or dataset.classes != start.classes:
        raise InputError(f"data {name} has other images or classes than {model} was trained on")
    network = start.build(load_factory(factory))
    settings = Settings(
        epochs=epochs, batch_size=batch_size, learning_rate=learning_rate, seed=reply.seed, deterministic=deterministic
    )
    url = device or default_device()
    macs = list(dict.fromkeys(layer.mac for layer in pim_layers(network).values()))
    measured = None if profile is None else Profile.load(profile, serving=macs)
    state = TrainState()
    with open_board(url, seed=reply.seed) as board:
        info = board.info()
        if info.spec.hash != start.chip.hash:
            raise InputError(
                f"{model} is for chip {start.chip.name} ({start.chip.hash[:8]}), the device is a {info.spec.name} "
                f"({info.spec.hash[:8]}): name a device of that chip"
            )
        how = {
            "uid": info.uid,
            "model": hashlib.sha256(model.read_bytes()).hexdigest(),
            "mode": mode,
            "epochs a layer": epochs if mode == "layers" else None,  # they say when each layer's turn is
            "profile": None if measured is None else measured.hash,
            "data_digest": dataset.digest,
        }
        if resume:
            if not target.is_file():
                raise InputError(
                    f"--resume: {target} is not there, so there is nothing to go on with; name the model that the run began "
                    "with, and its --out"
                )
            held = load_model(target)
            _check_same(target, held, how)
            assert held.resume is not None
            load_state(network, held.state)
            state = TrainState.from_dict(held.resume)
        stages = len(pim_layers(network)) if mode == "layers" else 1
        output = Output(
            reply,
            network,
            replace(settings, epochs=epochs * stages),
            where="on the chip",
            searched=True,
            log=None,
            plot=None,
        )

        def finished(report: EpochReport, state: TrainState) -> None:
            training: dict[str, Any] = {**start.training, "finetune": how, "data": name}
            save_model(target, replace(start, state=network.state_dict(), training=training, resume=state.to_dict()))
            reply.interrupted = (
                f"interrupted; {target} holds epoch {state.epoch}: the same command with --resume goes on from there"
            )
            output.epoch(report, state)

        def staged(epoch: int, names: list[str]) -> None:
            if mode == "layers":
                reply.show(f"from epoch {epoch + 1} on the chip and frozen: {', '.join(names)}")

        if state.epoch >= epochs * stages:
            reply.show(
                f"already done: {target} holds epoch {state.epoch}"
                + ("; raise --epochs to train on" if mode == "whole" else "")
            )
        reply.interrupted = "interrupted before the end of an epoch; the device is closed, nothing was written"
        with output.running(state):
            tuned = finetune(
                network,
                board,
                dataset,
                settings,
                mode=mode,
                profile=measured,
                tolerate_cells=tolerate_cells,
                state=state,
                on_step=output.step,
                on_epoch=finished,
                on_stage=staged,
            )
    images = len(dataset.test.labels)
    assert state.deployed is not None
    found = Accuracy(round(state.deployed["accuracy"] * images), images)
    reply.show(
        table(f"{start.model} on {info.uid}: chip in the loop, {mode}", ["", ""], [
            ["accuracy on the chip, BN as trained", str(found)],
            ["epochs", str(state.epoch)],
            ["tiles programmed", f"{tuned.tiles:,}"],
            ["checkpoint", str(target)],
        ])
    )  # fmt: skip
    words = ["pimchip", "deploy", str(target), *([] if url == DEFAULT_DEVICE else ["--device", url])]
    words += [] if profile is None else ["--profile", str(profile)]
    words += [] if data_dir is None else ["--data-dir", str(data_dir)]
    words += [] if factory is None else ["--factory", factory]
    reply.show(f"next: {shlex.join(words)}")
    reply.done(
        {
            **found.keys("accuracy_on_chip"),
            "chip_uid": info.uid,
            "mode": mode,
            "epochs": state.epoch,
            "tiles_programmed": tuned.tiles,
            "checkpoint": str(target),
            "history": state.history,
        },
        hashes={"chip": info.spec.hash, "data": dataset.digest},
    )


def _check_same(path: Path, held: ModelFile, now: dict[str, Any]) -> None:
    """InputError where a checkpoint is not of the run that is to go on."""
    before = held.training.get("finetune")
    if held.resume is None or not isinstance(before, dict):
        raise InputError(f"--resume: {path} is no checkpoint of finetune; start without --resume")
    for name, value in now.items():
        if before.get(name) != value:
            raise InputError(f"--resume: {path} was made with {name} = {before.get(name)}, this run has {value}")
