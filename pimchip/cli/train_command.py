"""pimchip train."""

from __future__ import annotations

import os
import shlex
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from pimchip.cli.common import Command, Reply, check_out, command_options, load_factory, table
from pimchip.cli.train_options import train_options
from pimchip.cli.train_output import Output
from pimchip.cli.train_resume import as_resumed, check_same_run, found_ranges, options_given, point_of
from pimchip.cli.train_run import (
    SEARCH_IMAGES,
    check_digital,
    check_measured,
    load_die,
    load_start,
    measured_divisors,
    next_command,
    on_die_of,
    parse_divisor,
    parse_milestones,
    parse_skip,
)
from pimchip.errors import InputError

if TYPE_CHECKING:
    from pimchip.qat import EpochReport, ModelFile, TrainState

SEVERAL = """\b
Several processes, each taking its share of every batch, with the result of one but for rounding:
  torchrun --nproc-per-node 2 -m pimchip train --data cifar10 --out model.pt
On several machines (each needs the data, and the checkpoint for --resume, under the same names):
  torchrun --nnodes 2 --node-rank 0 --master-addr HOST --master-port 29500 --nproc-per-node 2 -m pimchip train ...
The first process alone prints and writes."""


@click.command("train", cls=Command, epilog=SEVERAL)
@train_options
@command_options
@as_resumed
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
    warmup: float | None,
    milestones: str | None,
    label_smoothing: float,
    clip_gradient: float,
    ema: float,
    validation: float | None,
    patience: int,
    log: Path | None,
    plot: Path | None,
    range_divisor: str | None,
    pim_skip: str | None,
    dies: tuple[Path, ...],
    init: Path | None,
    resume: Path | None,
    resumed: ModelFile | None,
    deterministic: bool,
    out: Path,
    **options: Any,
) -> None:
    """Train a network for a chip: with its ADC in the loop (PIM-QAT), or conventionally with --digital.

    The checkpoint is written after every epoch. Accuracies are those of the test images on ideal ADCs, an epoch's at
    the resolution trained at and the last one's at --adc-bits; with --on-die an epoch's are on the measured die. An early
    stop judges by training images held out for it, never by the test. --resume goes on with the options that the run was
    given, the files of --log, --plot and --factory apart; with more --epochs it prolongs the run: the learning rate then
    goes on as in one of that length.
    """
    reply.silent = os.environ.get("WORLD_SIZE", "1") != "1" and os.environ.get("RANK", "0") != "0"
    kept_files = {"--out": out, "--init": init, "--resume": resume}
    check_out(out, keep={"--init": init})
    named = click.get_current_context().get_parameter_source("out") is not ParameterSource.DEFAULT
    if out.exists() and not named and resume is None:  # hours of work, and nobody said that they may go
        raise InputError(f"{out} is there already: name another file with --out, or replace it with --out {out}")
    if log is not None:
        check_out(log, keep=kept_files, option="--log")
    if plot is not None:
        from pimchip.report.training_plot import check_picture

        check_out(plot, keep={**kept_files, "--log": log}, option="--plot")
        check_picture(plot)
    if profile is not None and train_adc_bits != "auto":
        raise InputError("--profile is read for --train-adc-bits auto; add that, or leave --profile out")
    if dies and options["digital"]:
        raise InputError(
            "--digital trains without the chip's ADC, --on-die with a measured one; leave one of them out "
            "(to see what a digital network does on a die, train it and run pimchip deploy)"
        )
    if options["digital"]:
        check_digital({**options, "train_adc_bits": train_adc_bits})
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
        find_ranges,
        load_model,
        pim_layers,
        predict,
        save_model,
        train,
    )
    from pimchip.qat.checkpoint import load_state, load_weights
    from pimchip.qat.convert import as_if_seen
    from pimchip.qat.data import calibration_images, load_dataset
    from pimchip.qat.distributed import joined
    from pimchip.qat.precision import training_bits
    from pimchip.runtime.evaluate import Accuracy, accuracy

    start = None if init is None else load_weights(init)
    if isinstance(start, ModelFile) and options["activation_scale"] is not None:
        raise InputError(
            "--init brings BN's gammas and betas with it, on their own scale; leave --activation-scale out"
        )

    settings = Settings(
        epochs=epochs,
        batch_size=batch_size,
        learning_rate=learning_rate,
        schedule=schedule,
        warmup=warmup,
        milestones=parse_milestones(milestones),
        label_smoothing=label_smoothing,
        clip_gradient=clip_gradient,
        ema=ema,
        validation=validation,
        patience=patience,
        seed=reply.seed,
        deterministic=deterministic,
    )

    if milestones and settings.milestones[-1] >= epochs:
        beyond = ", ".join(str(epoch) for epoch in settings.milestones if epoch >= epochs)
        reply.warn(f"--milestones {beyond}: the run ends after epoch {epochs}, before the rate drops there")
    spec = load_chip(chip)
    chosen = {name: value for name, value in options.items() if value is not None}
    if pim_skip is not None:
        chosen["pim_skip"] = parse_skip(pim_skip)
    searching = range_divisor == "auto"
    if range_divisor is not None and not searching:
        chosen["range_divisor"] = parse_divisor(range_divisor)
    elif searching and resumed is not None:  # found when that run began
        chosen["range_divisor"], searching = found_ranges(resumed), False
    mac = spec.mac(**point_of(chosen))
    measured = None if profile is None else Profile.load(profile)
    if measured is not None:
        measured.check_chip(spec)
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
    if isinstance(start, dict):  # of the float network: convert carries it over, its BN's statistics too
        load_state(floating, start)
    network = convert(floating, spec, **{**chosen, "adc_bits": bits})
    # What cannot be put on the chip is better refused before hours of training than after.
    compile_network(as_if_seen(network), spec, dataset.image_shape, dataset.classes)
    state = TrainState()
    at = None if range_divisor == "auto" else replace(mac, adc_bits=bits)
    profiles = [load_die(path, at) for path in dies]
    if isinstance(start, ModelFile):
        load_start(network, start, name)
    if searching:
        offered = measured_divisors(network, spec, profiles, chip)
        if len(offered) == 1 < len(spec.adc.range_divisors):
            reply.warn(
                f"--range-divisor auto has no choice: the profiles measured range 1/{offered[0]} alone; measure more with "
                "pimchip characterize --range-divisor"
            )
        seen = torch.from_numpy(calibration_images(dataset, SEARCH_IMAGES))
        chosen["range_divisor"] = find_ranges(network, seen, divisors=offered)
        found = ", ".join(f"{layer} 1/{divisor}" for layer, divisor in chosen["range_divisor"].items())
        among = ""
        if len(offered) < len(spec.adc.range_divisors):
            among = f" (among {', '.join(f'1/{d}' for d in offered)}, which the profiles measured)"
        reply.show(f"ranges found{among}: {found}")
    kept = ModelFile(
        name,
        dataset.image_shape,
        dataset.classes,
        spec,
        {**chosen, "adc_bits": mac.adc_bits},
        {},
        {
            "data": data,
            "data_digest": dataset.digest,
            "train_adc_bits": bits,
            "on_die": [p.hash for p in profiles],
            "options": options_given(reply.seed, bits),
        },
    )
    if resumed is not None:
        assert resume is not None
        check_same_run(resume, resumed, kept)
        assert resumed.resume is not None
        load_state(network, resumed.state)
        state = TrainState.from_dict(resumed.resume)
    check_measured(network, spec, profiles, chip)
    put_on_dies(network, spec, dataset.image_shape, profiles)

    def save(state: TrainState) -> None:
        training = {**kept.training, "threads": state.threads}
        save_model(out, replace(kept, state=network.state_dict(), training=training, resume=state.to_dict()))
        again = shlex.join(["pimchip", "train", "--resume", str(out), *(["--factory", factory] if factory else [])])
        reply.interrupted = f"interrupted; {out} holds epoch {state.epoch}: `{again}` goes on from there"

    def finished(report: EpochReport, state: TrainState) -> None:
        if not reply.silent:
            save(state)
            output.epoch(report, state)

    reply.interrupted = "interrupted before the end of an epoch; nothing was written"
    where = "on die" if dies else "accuracy"
    searched = isinstance(chosen.get("range_divisor"), dict)
    output = Output(reply, network, settings, where=where, searched=searched, log=log, plot=plot)
    with joined(), output.running(state):
        reports = train(network, dataset, settings, state=state, on_step=output.step, on_epoch=finished)
    if reply.silent:
        return
    if not reports:
        save(state)
    final = load_model(out).build(make)
    result = accuracy(predict(final, dataset.test).numpy(), dataset.test.labels)
    seconds = [r.seconds for r in reports]
    by_layer = ""
    if searched:
        by_layer = mac.describe().replace(f"range 1/{mac.range_divisor}", "range by layer")
    how = "conventional quantization" if chosen.get("digital") else f"PIM-QAT at {bits} bits"
    if not pim_layers(network):
        how = "quantized, no layer on the chip"
    if patience:
        stopped = f"stopped after epoch {state.epoch}; " if state.stopped(patience) else ""
        reply.show(f"{stopped}{out} holds epoch {state.best_epoch}, the best of the images held out")
    on_die = None
    if dies and state.deployed:
        images = len(dataset.test.labels)
        on_die = Accuracy(round(state.deployed["accuracy"] * images), images)
    reply.show(table(f"{factory or model} on {dataset.name}: {how}", ["", ""], [
        ["accuracy" if chosen.get("digital") else f"accuracy, ideal ADCs of {mac.adc_bits} bits", str(result)],
        *([] if on_die is None else [[on_die_of(len(profiles), bits), str(on_die)]]),
        ["operating point", by_layer or mac.describe()],
        ["checkpoint", str(out)],
    ]))  # fmt: skip
    on = profiles[0] if len(profiles) == 1 and bits == mac.adc_bits else None
    reply.show(f"next: {next_command(out, chip, data_dir, factory, on)}")
    reply.done(
        {
            **result.keys("accuracy"),
            "epochs": state.epoch,
            "best_epoch": state.best_epoch,
            "stopped_early": state.stopped(patience),
            **({"accuracy_on_die": None} if on_die is None else on_die.keys("accuracy_on_die")),
            "range_divisors": chosen["range_divisor"] if searched else None,
            "seconds_per_epoch": sum(seconds) / len(seconds) if seconds else None,
            "checkpoint": str(out),
            "train_adc_bits": bits,
            "threads": state.threads,
            "processes": state.processes,
            "history": state.history,
            "history_accuracy": "digital"
            if chosen.get("digital")
            else "on die"
            if dies
            else f"ideal ADCs of {bits} bits",
        },
        hashes={"chip": spec.hash, "data": dataset.digest},
    )
