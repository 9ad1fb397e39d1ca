"""pimchip train."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from pimchip.cli.common import Command, Reply, check_out, command_options, load_factory, table
from pimchip.errors import InputError
from pimchip.files import replacing

if TYPE_CHECKING:
    from torch import nn

    from pimchip.chip import ChipSpec
    from pimchip.qat import ModelFile
    from pimchip.qat.data import Dataset
    from pimchip.qat.train import EpochReport, TrainState

POINT = ("scheme", "rows", "weight_bits", "act_bits", "dac_bits", "adc_bits", "range_divisor")
SEARCH_IMAGES = 256
"""Training images on which --range-divisor auto looks for ranges."""


@click.command("train", cls=Command)
@click.option(
    "--data",
    default="digits",
    show_default=True,
    help="digits, fashion-mnist, cifar10, cifar100, or a folder of images.",
)
@click.option("--data-dir", type=click.Path(path_type=Path), help="Where the data set's files are.")
@click.option(
    "--model", default="tiny", show_default=True, help="mlp, tiny, resnet8, resnet20, resnet32, resnet44, resnet56."
)
@click.option(
    "--factory", metavar="MODULE:CALLABLE", help="Your own network: called with (image shape, classes). Runs your code."
)
@click.option("--chip", default="sram65", show_default=True, help="A built-in chip or a TOML file.")
@click.option("--scheme", help="native, differential or bit_serial.  [default: the chip's]")
@click.option("--adc-bits", type=int, help="Resolution to run at.  [default: the chip's]")
@click.option(
    "--train-adc-bits", metavar="N|auto", help="Resolution to train at; auto: what the noise of --profile leaves."
)
@click.option("--profile", type=click.Path(path_type=Path), help="A measured profile, for --train-adc-bits auto.")
@click.option("--rows", type=int, help="Rows that share an analog sum.  [default: the chip's]")
@click.option("--weight-bits", type=int, help="Weights.  [default: the chip's]")
@click.option("--act-bits", type=int, help="Activations.  [default: the chip's]")
@click.option("--dac-bits", type=int, help="Bits of an activation slice.  [default: the chip's]")
@click.option(
    "--range-divisor",
    metavar="N|auto",
    help="The ADC's full scale is divided by it; auto: each layer's best on data, at the chip's noise.  [default: the chip's]",
)
@click.option(
    "--noise",
    "noise_lsb",
    type=float,
    default=0.0,
    show_default=True,
    help="Noise in training, LSB before each conversion.",
)
@click.option("--backward", default="gste", show_default=True, help="Gradient through the ADC: gste, ste or lmmse.")
@click.option("--xi", default="layer", show_default=True, help="Gradient factor: one a layer, or one a channel.")
@click.option("--bit-aug", type=int, default=0, help="Train at ADC bits drawn from so many around its own.")
@click.option(
    "--on-die",
    "dies",
    multiple=True,
    type=click.Path(path_type=Path),
    help="Train on a measured die, by its profile; several: on one drawn for each pass.",
)
@click.option("--eta", default="const", show_default=True, help="Forward rescaling: const, auto or learnable.")
@click.option("--digital", is_flag=True, help="Conventional quantization, without the ADC in the loop.")
@click.option("--epochs", type=click.IntRange(0, 100_000), default=20, show_default=True, help="Passes over the data.")
@click.option("--batch-size", type=click.IntRange(2, 65536), default=64, show_default=True, help="Images a step.")
@click.option(
    "--learning-rate",
    type=click.FloatRange(0, 1000, min_open=True),
    default=0.1,
    show_default=True,
    help="Learning rate at its highest; --schedule shapes it.",
)
@click.option(
    "--schedule",
    type=click.Choice(["cosine", "multistep", "one-cycle", "constant"]),
    default="cosine",
    show_default=True,
    help="Of the learning rate.",
)
@click.option("--label-smoothing", type=float, default=0.0, help="Share of each label that goes to all classes.")
@click.option("--clip-gradient", type=float, default=0.0, help="Largest norm of all gradients together; 0: any.")
@click.option(
    "--ema", type=float, default=0.0, help="Keep an average of weights with this decay a step, such as 0.999."
)
@click.option("--validation", type=float, default=0.0, help="Share of the training images held out.")
@click.option(
    "--patience", type=int, default=0, help="Stop after so many epochs without a better --validation accuracy."
)
@click.option(
    "--log", type=click.Path(path_type=Path), help="Write each epoch's figures to this file, a JSON object a line."
)
@click.option("--plot", type=click.Path(path_type=Path), help="Draw loss, accuracy and xi to a .png, .svg or .pdf.")
@click.option(
    "--init", type=click.Path(path_type=Path), help="Start from the weights of another model.pt of this network."
)
@click.option("--resume", type=click.Path(path_type=Path), help="Go on with an interrupted run's checkpoint.")
@click.option("--deterministic", is_flag=True, help="One thread: the same checkpoint on any number of cores.")
@click.option(
    "--out", type=click.Path(path_type=Path), default=Path("model.pt"), show_default=True, help="The checkpoint."
)
@command_options
def command(
    reply: Reply,
    *,
    data: str,
    data_dir: Path | None,
    model: str,
    factory: str | None,
    chip: str,
    train_adc_bits: str | None,
    profile: Path | None,
    epochs: int,
    batch_size: int,
    learning_rate: float,
    schedule: Any,
    label_smoothing: float,
    clip_gradient: float,
    ema: float,
    validation: float,
    patience: int,
    log: Path | None,
    plot: Path | None,
    range_divisor: str | None,
    dies: tuple[Path, ...],
    init: Path | None,
    resume: Path | None,
    deterministic: bool,
    out: Path,
    **options: Any,
) -> None:
    """Train a network for a chip: with its ADC in the loop (PIM-QAT), or conventionally with --digital.

    The checkpoint is written after every epoch. Reported accuracy is that of the test images on ideal ADCs at
    --adc-bits.
    """
    check_out(out, keep={"--init": init})
    for path in (log, plot):
        if path is not None:
            check_out(path, keep={"--out": out, "--init": init})
    if plot is not None and plot.suffix not in (".png", ".svg", ".pdf"):
        raise InputError(f"--plot {plot}: name a file that ends in .png, .svg or .pdf")
    if profile is not None and train_adc_bits != "auto":
        raise InputError("--profile is read for --train-adc-bits auto; add that, or leave --profile out")
    if init is not None and resume is not None:
        raise InputError("--init starts a run and --resume goes on with one; give one of them")

    import torch

    from pimchip.chip import load_chip
    from pimchip.compiler import compile_network
    from pimchip.compiler.twins import put_on_dies
    from pimchip.profile import Profile
    from pimchip.qat import (
        ModelFile,
        Settings,
        TrainState,
        build_model,
        convert,
        load_model,
        predict,
        save_model,
        train,
    )
    from pimchip.qat.checkpoint import load_state
    from pimchip.qat.convert import pim_layers
    from pimchip.qat.data import load_dataset
    from pimchip.qat.health import SATURATED, advice
    from pimchip.qat.precision import training_bits
    from pimchip.runtime.evaluate import accuracy

    spec = load_chip(chip)
    resumed = None if resume is None else load_model(resume)
    chosen = {name: value for name, value in options.items() if value is not None}
    searching = range_divisor == "auto"
    if range_divisor is not None and not searching:
        chosen["range_divisor"] = _divisor(range_divisor)
    elif searching and resumed is not None:  # found when that run began
        chosen["range_divisor"], searching = resumed.options.get("range_divisor"), False
    point = {k: v for k, v in chosen.items() if k in POINT and not isinstance(v, dict)}
    mac = spec.mac(**point)
    measured = None if profile is None else Profile.load(profile)
    if measured is not None and measured.spec_hash != spec.hash:
        raise InputError(f"profile {profile} is of chip {measured.chip}, not of {spec.name}; characterize that chip")
    bits = training_bits(train_adc_bits, mac, measured)
    dataset = load_dataset(data, data_dir)
    make = load_factory(factory)
    classes = len(dataset.classes)
    name = f"factory:{factory}" if factory else model
    if make:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(reply.seed)
            floating = make(dataset.image_shape, classes)
    else:
        floating = build_model(model, dataset.image_shape, classes, reply.seed)
    network = convert(floating, spec, **{**chosen, "adc_bits": bits})
    # What cannot be put on the chip is better refused before hours of training than after.
    compile_network(network, spec, dataset.image_shape, dataset.classes)
    state = TrainState()
    if init is not None:
        load_state(network, load_model(init).state)
    if searching:
        chosen["range_divisor"] = _search(network, spec, dataset, trained=init is not None)
        found = ", ".join(f"{layer} 1/{divisor}" for layer, divisor in chosen["range_divisor"].items())
        reply.show(f"ranges found: {found}")
    kept = ModelFile(
        name,
        dataset.image_shape,
        dataset.classes,
        spec,
        {**chosen, "adc_bits": mac.adc_bits},
        {},
        {"data": data, "data_digest": dataset.digest, "train_adc_bits": bits},
    )
    if resumed is not None:
        assert resume is not None
        _check_same_run(resume, resumed, kept)
        assert resumed.resume is not None
        load_state(network, resumed.state)
        state = TrainState.from_dict(resumed.resume)
    if dies:
        put_on_dies(network, spec, dataset.image_shape, [Profile.load(path) for path in dies])
    settings = Settings(
        epochs=epochs,
        batch_size=batch_size,
        learning_rate=learning_rate,
        schedule=schedule,
        label_smoothing=label_smoothing,
        clip_gradient=clip_gradient,
        ema=ema,
        validation=validation,
        patience=patience,
        seed=reply.seed,
        deterministic=deterministic,
    )

    def save(state: TrainState) -> None:
        training = {**kept.training, "threads": state.threads}
        save_model(out, replace(kept, state=network.state_dict(), training=training, resume=state.to_dict()))
        again = "" if out == resume else f" --resume {out}"
        reply.interrupted = f"interrupted; {out} holds epoch {state.epoch}: the same command{again} goes on from there"

    warned: set[str] = set()

    def finished(report: EpochReport, state: TrainState) -> None:
        save(state)
        if log is not None:
            _write_log(log, state.history)
        if plot is not None:
            from pimchip.report.training import save_training

            save_training(plot, state.history)
        reply.show(_line(report, epochs))
        for layer in report.dead:
            reply.show(
                f"  warning: layer {layer} is dead, every code is zero: train with more --adc-bits or a --range-divisor"
            )
        for layer, share in report.saturated.items():
            if share >= SATURATED and layer not in warned:
                warned.add(layer)
                reply.show(f"  warning: {advice(layer, share, pim_layers(network)[layer])}")

    reply.interrupted = "interrupted before the end of an epoch; nothing was written"
    with reply.progress("training") as tell:
        reports = train(
            network,
            dataset,
            settings,
            state=state,
            on_step=lambda p: tell(p.epoch * p.steps + p.step, epochs * p.steps),
            on_epoch=finished,
        )
    if not reports:
        save(state)
    final = load_model(out).build(make)
    result = accuracy(predict(final, dataset.test).numpy(), dataset.test.labels)
    seconds = [r.seconds for r in reports]
    by_layer = ""
    if isinstance(chosen.get("range_divisor"), dict):
        by_layer = mac.describe().replace(f"range 1/{mac.range_divisor}", "range by layer")
    how = "conventional quantization" if chosen.get("digital") else f"PIM-QAT at {bits} bits"
    reply.show(table(f"{factory or model} on {dataset.name}: {how}", ["", ""], [
        ["accuracy" if chosen.get("digital") else f"accuracy, ideal ADCs of {mac.adc_bits} bits", str(result)],
        ["operating point", by_layer or mac.describe()],
        ["checkpoint", str(out)],
    ]))  # fmt: skip
    reply.done(
        {
            **result.keys("accuracy"),
            "epochs": state.epoch,
            "seconds_per_epoch": sum(seconds) / len(seconds) if seconds else None,
            "checkpoint": str(out),
            "train_adc_bits": bits,
            "threads": state.threads,
            "history": state.history,
        },
        hashes={"chip": spec.hash, "data": dataset.digest},
    )


def _divisor(text: str) -> int:
    if not (text.isascii() and text.isdigit()):
        raise InputError(f"--range-divisor {text!r}: want one of the chip's range divisors, or auto")
    return int(text)


def _search(network: nn.Module, spec: ChipSpec, data: Dataset, *, trained: bool) -> dict[str, int]:
    """Each layer's best range divisor on training images, at the noise of the chip's typical converter; set in `network`."""
    import copy

    import torch

    from pimchip.qat import calibrate_bn
    from pimchip.qat.ranges import ideal_with, search_ranges, set_ranges, spec_noise

    images = torch.from_numpy(data.train.images[:SEARCH_IMAGES])
    copied = copy.deepcopy(network)
    if not trained:  # BN has no statistics yet
        calibrate_bn(copied, images, batches=1, batch_size=SEARCH_IMAGES)
    behind = ideal_with(lambda mac: spec_noise(spec, mac))
    found = search_ranges(copied, images.float() / 255, spec.adc.range_divisors, behind)
    chosen = {each.layer: each.chosen for each in found}
    set_ranges(network, chosen)
    return chosen


def _write_log(path: Path, history: list[dict[str, Any]]) -> None:
    """All epochs so far, a JSON object a line, through a temporary file: so a resumed run's file has each of them once."""
    with replacing(path, "--log") as temporary:
        temporary.write_text("".join(json.dumps(entry) + "\n" for entry in history), encoding="utf-8")


def _check_same_run(path: Path, held: ModelFile, now: ModelFile) -> None:
    """Raise InputError, naming what differs, where a checkpoint is not of the run that is asked for."""
    if held.resume is None:
        raise InputError(f"--resume {path} holds no training state; start from its weights with --init")
    before, after = _facts(held), _facts(now)
    for name in sorted(before.keys() | after.keys()):
        if before.get(name) != after.get(name):
            raise InputError(
                f"--resume {path} was trained with {name} = {before.get(name)}, this run has {after.get(name)}; "
                "give the same options"
            )


def _facts(file: ModelFile) -> dict[str, Any]:
    """What must not change within a run, by name."""
    return file.options | {
        "chip": f"{file.chip.name} ({file.chip.hash[:8]})",
        "data": f"{file.training.get('data')} ({str(file.training.get('data_digest'))[:8]})",
        "model": file.model,
        "train_adc_bits": file.training.get("train_adc_bits"),
    }


def _line(report: EpochReport, epochs: int) -> str:
    xi = f"  xi {min(report.xi.values()):.2f}..{max(report.xi.values()):.2f}" if report.xi else ""
    return (
        f"epoch {report.epoch:>3}/{epochs}  loss {report.loss:.3f}  accuracy {100 * report.accuracy:5.1f} %{xi}"
        f"  {report.seconds:.1f} s"
    )
