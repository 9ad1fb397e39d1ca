"""From a converted network to a Program: trace, lower, map."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import TYPE_CHECKING

from pimchip.chip import ChipSpec, load_chip
from pimchip.compiler.build import compile_network
from pimchip.compiler.program import Program
from pimchip.errors import CompileError, InputError, PimchipWarning

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
) -> Program:
    """Compile a converted network (see pimchip.qat.convert) for a chip.

    example: an image batch [n, c, h, w], uint8 or floats in 0..1, of which the shape is used; it also finds the number of
    classes if `classes` names none. profile: of the die it is meant for; its operating points must cover the network's. Raises CompileError
    naming the module that cannot be compiled and where it stands; InputError for everything else.
    Warns (PimchipWarning) of a network of which nothing is on the chip.
    """
    import copy

    import torch

    from pimchip.profile import Profile
    from pimchip.qat import given
    from pimchip.qat.convert import CHIP_WANTED

    given.module(module)
    given.an(ChipSpec | str | Path, chip, "chip", CHIP_WANTED)  # type: ignore[arg-type]
    spec = chip if isinstance(chip, ChipSpec) else load_chip(chip)
    if profile is not None:
        given.an(Profile, profile, "profile", "a Profile is wanted: pimchip.Profile.load(folder)")
    given.tensor(example, "example")
    if example.ndim != 4 or not len(example):
        raise InputError(f"example is {list(example.shape)}; an image batch [n, c, h, w] is wanted")
    if classes is None:
        with torch.no_grad():
            image = example[:1].float() if example.is_floating_point() else example[:1].float() / given.PIXELS
            try:
                out = copy.deepcopy(module).eval()(image)
            except RuntimeError as error:  # torch's, of shapes
                said = str(error).splitlines()[0]
                raise InputError(f"the network does not take images of shape {list(image.shape[1:])}: {said}") from None
        if not isinstance(out, torch.Tensor) or not out.ndim:
            raise CompileError("the network returns something other than one tensor")
        classes = tuple(str(i) for i in range(out.shape[-1]))
    shape = (example.shape[1], example.shape[2], example.shape[3])
    program = compile_network(
        module, spec, shape, classes, name=name, profile_hash=None if profile is None else profile.hash
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
