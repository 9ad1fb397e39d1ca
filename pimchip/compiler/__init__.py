"""From a converted network to a Program: trace, lower, map."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import TYPE_CHECKING

from pimchip.chip import ChipSpec, load_chip
from pimchip.compiler.build import compile_network
from pimchip.compiler.faults import faults_of
from pimchip.compiler.program import Program
from pimchip.errors import InputError, PimchipWarning

if TYPE_CHECKING:
    from torch import Tensor, nn

    from pimchip.profile import Profile

__all__ = ["Program", "compile", "compile_network"]


def compile(
    module: nn.Module,
    example: Tensor,
    chip: ChipSpec | str | Path,
    profile: Profile | None = None,
    *,
    classes: tuple[str, ...] | None = None,
    name: str = "network",
    replicas: int = 1,
) -> Program:
    """Compile a converted network (see pimchip.qat.convert) for a chip.

    example: an image batch [n, c, h, w], uint8 or floats in 0..1, of which the shape is used. classes: their names; None:
    those that the network was trained on, else numbers. profile: of the die it is meant for; its operating points must
    cover the network's. replicas: a layer is held so often at most, so that its positions are computed side by side, where
    that saves time and there is room (see pimchip.compiler.replicas). Raises CompileError naming the module that cannot be
    compiled and where it stands; InputError for everything else.
    Warns (PimchipWarning) of a network of which nothing is on the chip.
    """
    from pimchip.profile import Profile
    from pimchip.qat import given
    from pimchip.qat.conversion import conversion
    from pimchip.qat.convert import CHIP_WANTED

    given.module(module)
    given.an(ChipSpec | str | Path, chip, "chip", CHIP_WANTED)  # type: ignore[arg-type]
    spec = chip if isinstance(chip, ChipSpec) else load_chip(chip)
    if profile is not None:
        given.an(Profile, profile, "profile", "a Profile is wanted: pimchip.Profile.load(folder)")
    given.tensor(example, "example")
    if example.ndim != 4 or not len(example):
        raise InputError(f"example is {list(example.shape)}; an image batch [n, c, h, w] is wanted")
    if isinstance(replicas, bool) or not isinstance(replicas, int) or replicas < 1:
        raise InputError(f"replicas = {replicas!r}: want a number from 1")
    shape = (example.shape[1], example.shape[2], example.shape[3])
    made = conversion(module)
    if classes is None and made is not None and made.image_shape == shape and made.classes:
        classes = made.classes
    program = compile_network(
        module,
        spec,
        shape,
        classes,
        name=name,
        profile_hash=None if profile is None else profile.hash,
        data=made.data if made is not None else "",
        faults=None if profile is None else faults_of(profile),
        replicas=replicas,
    )
    if profile is not None:
        check_profile(program, profile)
    warn_of_no_tiles(program, stacklevel=3)
    return program


def warn_of_no_tiles(program: Program, stacklevel: int = 2) -> None:
    """Warn (PimchipWarning), with the layers' names, of a program that uses no chip at all."""
    from pimchip.qat.layers import none_on_chip

    if not program.tiles:
        warnings.warn(none_on_chip(list(program.manifest.layers)), PimchipWarning, stacklevel=stacklevel)


def check_profile(program: Program, profile: Profile) -> None:
    """InputError where a profile is of another chip or lacks an operating point that the program runs at."""
    if profile.spec_hash != program.spec.hash:
        raise InputError(
            f"profile {profile.path} is of chip {profile.chip}, the program is for {program.spec.name}; characterize that chip"
        )
    for mac in program.adcs_used():
        profile.serving(mac)
