"""Going on with an interrupted run of `pimchip train`: with the options that it was given, unless told otherwise."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from pimchip.errors import InputError

if TYPE_CHECKING:
    from pimchip.qat import ModelFile

NEVER = ("init", "resume", "out", "log", "plot", "profile", "factory", "as_json", "debug")
"""Options that no checkpoint gives: files, what runs code, and a profile, whose outcome is kept in its place."""
POINT = ("scheme", "rows", "weight_bits", "act_bits", "dac_bits", "adc_bits", "range_divisor")
"""Options of convert() that are of the operating point."""


def point_of(options: Mapping[str, Any]) -> dict[str, Any]:
    """Those that all layers have in common, for ChipSpec.mac."""
    return {name: value for name, value in options.items() if name in POINT and not isinstance(value, dict)}


def options_given(seed: int, bits: int) -> dict[str, Any]:
    """The options of the run that goes on, in plain values, for its checkpoint. bits: what --train-adc-bits came to."""
    from pimchip.chip import known_chips
    from pimchip.qat.data import DATASETS

    parameters = click.get_current_context().params
    given = {name: value for name, value in parameters.items() if name not in NEVER and value is not None}
    # As load_dataset and load_chip read them: a known name wins over a file of that name.
    for name, known in (("data", DATASETS), ("chip", known_chips()), ("data_dir", ())):
        if name in given and given[name] not in known and Path(given[name]).exists():
            given[name] = str(Path(given[name]).absolute())
    dies = [str(Path(die).absolute()) for die in given["dies"]]
    return given | {"seed": seed, "train_adc_bits": str(bits), "dies": dies}


def as_resumed(function: Callable[..., None]) -> Callable[..., None]:
    """A command that, with --resume, takes what is not on the command line from the checkpoint; --out is then that file.

    The command gets the checkpoint as `resumed`, None without.
    """

    @functools.wraps(function)
    def run(reply: Any, **parameters: Any) -> None:
        held = None
        if parameters["resume"] is not None and parameters["init"] is None:
            from pimchip.qat import load_model

            held = load_model(parameters["resume"])
            parameters = _filled(reply, parameters, held)
        function(reply, resumed=held, **parameters)

    return run


def _filled(reply: Any, parameters: dict[str, Any], held: ModelFile) -> dict[str, Any]:
    context, path = click.get_current_context(), parameters["resume"]
    given = held.training.get("options", {})
    if not isinstance(given, dict):
        raise InputError(f"{path}: its options are no table; start from its weights with --init")

    def typed(name: str) -> bool:
        return context.get_parameter_source(name) is ParameterSource.COMMANDLINE

    maker = held.model.removeprefix("factory:")
    if maker != held.model and not typed("factory") and not typed("model"):
        raise InputError(f"the network of {path} comes from {maker!r}: name it with --factory {maker}")
    if not typed("out"):
        parameters["out"] = path
    for option in context.command.params:
        name = str(option.name)
        if name in given and name not in NEVER and not typed(name):
            if given[name] is None:  # click takes that for left out, and options left out are not kept
                raise InputError(f"{path}: its option {name} is None; give {option.opts[0]} again")
            try:
                value = option.type_cast_value(context, given[name])  # as if typed: a file may hold anything
            except (click.BadParameter, TypeError, ValueError, AttributeError, OverflowError) as error:
                raise InputError(f"{path}: its option {name} is {given[name]!r}: {error}") from None
            if name == "seed":
                reply.seed = value
            else:
                parameters[name] = value
    context.params.update(parameters)  # which options_given reads again
    return parameters


def found_ranges(held: ModelFile) -> dict[str, int]:
    """The ranges that a run to be resumed found when it began; InputError where it looked for none."""
    ranges = held.options.get("range_divisor")
    if not isinstance(ranges, dict):
        given = "the chip's" if ranges is None else f"--range-divisor {ranges}"
        raise InputError(
            f"the run to --resume was trained at one range for all layers ({given}), not --range-divisor auto; "
            "give the same, or start from its weights with --init"
        )
    return ranges


def check_same_run(path: Path, held: ModelFile, now: ModelFile) -> None:
    """Raise InputError, naming what differs, where a checkpoint is not of the run that is asked for."""
    if held.resume is None:
        raise InputError(f"--resume {path} holds no training state; start from its weights with --init")
    before, after = _facts(held), _facts(now)
    if held.training.get("data_digest") != now.training.get("data_digest"):  # wherever it lies
        names = [str(file.training.get("data")) for file in (held, now)]
        what = f"is now {names[1]}" if names[0] != names[1] else "was changed since"
        raise InputError(
            f"--resume {path} was trained with data = {names[0]}, which {what}; go on with the data of then, or start from "
            "its weights with --init"
        )
    for name in sorted(before.keys() | after.keys()):
        if before.get(name) != after.get(name):
            was, now_is = (_said(v.get(name)) for v in (before, after))
            raise InputError(
                f"--resume {path} was trained with {name} = {was}, this run has {now_is}; leave the option out to go on "
                "as it was, or start from its weights with --init"
            )


def _said(value: Any) -> str:
    return "one for each layer" if isinstance(value, dict) else str(value)


def _facts(file: ModelFile) -> dict[str, Any]:
    """What must not change within a run, by name, as it came out: an option left out and its default are the same."""
    from pimchip.qat.convert import ACTIVATION_SCALE

    mac = asdict(file.chip.mac(**point_of(file.options)))
    settled = {name: mac[name] for name in POINT} | {"activation_scale": ACTIVATION_SCALE} | file.options
    return settled | {
        "scheme": str(settled["scheme"]),
        "chip": f"{file.chip.name} ({file.chip.hash[:8]})",
        "model": file.model,
        "on_die": file.training.get("on_die") or [],
        "train_adc_bits": file.training.get("train_adc_bits"),
    }
