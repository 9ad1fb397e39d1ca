"""What a run of `pimchip train` starts from, ranges found on data and measured dies, and what can be done with its result."""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from pimchip.errors import InputError

if TYPE_CHECKING:
    from torch import nn

    from pimchip.chip import ChipSpec, Mac
    from pimchip.profile import Profile
    from pimchip.qat import ModelFile

SEARCH_IMAGES = 256
"""Training images on which --range-divisor auto looks for ranges."""
_OF_THE_ADC = {
    "noise_lsb": "--noise",
    "bit_aug": "--bit-aug",
    "train_adc_bits": "--train-adc-bits",
    "backward": "--backward",
    "xi": "--xi",
    "eta": "--eta",
}


def check_digital(options: Mapping[str, Any]) -> None:
    """Raise InputError for options of the ADC in training, which --digital trains without. Defaults are no options."""
    context = click.get_current_context()
    for name, option in _OF_THE_ADC.items():
        if options[name] and context.get_parameter_source(name) is ParameterSource.COMMANDLINE:
            raise InputError(
                f"--digital trains without the chip's ADC, so {option} does nothing; leave one of them out"
            )


def load_start(network: nn.Module, start: ModelFile, model: str) -> None:
    """Load --init's weights into the run's network. model: its name. InputError, with both names, if they do not fit."""
    from pimchip.qat.checkpoint import load_state

    try:
        load_state(network, start.state)
    except InputError as error:
        if start.model == model:
            raise
        raise InputError(f"--init holds weights of {start.model}, this run trains {model}: {error}") from None


def parse_divisor(text: str) -> int:
    """A number from --range-divisor; whether the chip has it, its spec says."""
    if not (text.isascii() and text.isdigit()):
        raise InputError(f"--range-divisor {text!r}: want one of the chip's range divisors, or auto")
    return int(text)


def parse_skip(text: str) -> list[str]:
    """What --pim-skip keeps on the processor; convert checks the words."""
    return [] if text == "none" else [part.strip() for part in text.split(",")]


def parse_milestones(text: str | None) -> tuple[int, ...]:
    """Epochs from "10,15"; Settings checks their order."""
    parts: Sequence[str] = text.split(",") if text else ()
    if not all(part.strip().isdecimal() for part in parts):
        raise InputError(f"--milestones {text!r}: want numbers of epochs with commas between, as 10,15")
    return tuple(int(part) for part in parts)


def load_die(path: Path, mac: Mac | None) -> Profile:
    """A profile for --on-die; of a die's folder, the last one that measured `mac`, as far as that is known and there is one."""
    from pimchip.profile import Profile

    try:
        return Profile.load(path, serving=[] if mac is None else [mac])
    except InputError:
        if mac is None:
            raise
        return Profile.load(path)  # check_measured says what it lacks, and how to measure it


def measured_divisors(network: nn.Module, spec: ChipSpec, profiles: Sequence[Profile], chip: str) -> list[int]:
    """The range divisors that every profile measured at the network's operating point: all of the chip's without profiles.

    Raises InputError where there is none, with the command that measures them.
    """
    from pimchip.qat import pim_layers

    macs = [layer.mac for layer in pim_layers(network).values()]

    def measured(divisor: int) -> bool:
        return all(p.covers(replace(mac, range_divisor=divisor)) for p in profiles for mac in macs)

    found = [divisor for divisor in spec.adc.range_divisors if measured(divisor)]
    if not found:
        check_measured(network, spec, profiles, chip, spec.adc.range_divisors)
        raise InputError("the profiles of --on-die have no range in common: measure the same ones on every die")
    return found


def check_measured(
    network: nn.Module, spec: ChipSpec, profiles: Sequence[Profile], chip: str, divisors: Sequence[int] | None = None
) -> None:
    """Raise InputError where a profile lacks a layer's operating point, with the command that measures all layers' in one.

    divisors: ranges to name in it in place of the layers' own.
    """
    from pimchip.qat import pim_layers

    macs = [layer.mac for layer in pim_layers(network).values()]
    for profile in profiles:
        profile.check_chip(spec)
        lacks = [mac for mac in macs if not profile.covers(mac)]
        if not lacks:
            continue
        there = "; ".join(p.mac.describe() for p in profile.points) or "nothing"
        own = spec.mac(adc_bits=lacks[0].adc_bits)
        for name in ("scheme", "rows"):
            if getattr(own, name) != getattr(lacks[0], name):
                raise InputError(
                    f"profile {profile.path} measured {there}: characterize measures at the chip's own {name}; "
                    f"train without --{name}"
                )
        wanted = sorted(divisors or {mac.range_divisor for mac in macs})
        ranges = " ".join(f"--range-divisor {divisor}" for divisor in wanted)
        at = (point.mac.adc_bits for point in profile.points)
        other = next((bits for bits in at if all(profile.covers(replace(mac, adc_bits=bits)) for mac in macs)), None)
        simpler = "" if other is None else f"train with --adc-bits {other}, or "
        raise InputError(
            f"profile {profile.path} measured {there}; wanted {', '.join(f'range 1/{d}' for d in wanted)} at "
            f"{lacks[0].adc_bits} bits: {simpler}run pimchip characterize --device {shlex.quote(device_of(profile, chip) or 'URL')} "
            f"--adc-bits {lacks[0].adc_bits} {ranges}"
        )


def device_of(profile: Profile, chip: str) -> str | None:
    """The URL of the emulated die that a profile is of; None of others. chip: as --chip names it."""
    emulated = re.fullmatch(r"emu-.*-[0-9a-f]{8}-(\d{4,}|ideal)", profile.uid)
    if emulated is None:
        return None
    die = emulated[1]
    return f"emulator:{chip}?die={die if die == 'ideal' else int(die)}"


def next_command(out: Path, chip: str, data_dir: Path | None, factory: str | None, profile: Profile | None) -> str:
    """The command that puts the checkpoint on a device; it replaces no file. profile: of the die to take."""
    from pimchip.board.urls import DEFAULT_DEVICE

    words = ["pimchip", "deploy", str(out)]
    die = None if profile is None else device_of(profile, chip)
    if profile is not None and die is not None:
        words += ["--device", die, "--profile", str(profile.path)]
    elif f"emulator:{chip}" != DEFAULT_DEVICE:
        words += ["--device", f"emulator:{chip}"]
    if data_dir is not None:
        words += ["--data-dir", str(data_dir)]
    if factory is not None:
        words += ["--factory", factory]
    target, count = out.with_suffix(".deployed"), 2
    if target.exists():
        while (target := out.with_name(f"{out.stem}-{count}.deployed")).exists():
            count += 1
        words += ["--out", str(target)]
    return shlex.join(words)


def on_die_of(dies: int, bits: int) -> str:
    """What the accuracy of training on this many dies is called: every pass of a layer takes one of them."""
    return (
        f"accuracy on the die at {bits} bits" if dies == 1 else f"accuracy on {dies} dies at {bits} bits, drawn by pass"
    )
