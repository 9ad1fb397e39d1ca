"""From a converted network to a Program: trace, lower, map."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pimchip.chip import ChipSpec, load_chip
from pimchip.compiler.build import compile_network
from pimchip.compiler.program import Program
from pimchip.errors import InputError

if TYPE_CHECKING:
    from torch import Tensor, nn

    from pimchip.profile import Profile

__all__ = ["Program", "compile", "compile_network"]


def compile(
    module: nn.Module,
    example: Tensor,
    chip: ChipSpec | str,
    profile: Profile | None = None,
    *,
    classes: tuple[str, ...] | None = None,
    name: str = "network",
) -> Program:
    """Compile a converted network (see pimchip.qat.convert) for a chip.

    example: an image batch [n, c, h, w], of which the shape is used; it also finds the number of classes if `classes`
    names none. profile: of the die it is meant for; its operating points must cover the network's. Raises CompileError
    naming the module that cannot be compiled and where it stands; InputError for everything else.
    """
    import copy

    import torch

    spec = load_chip(chip) if isinstance(chip, str) else chip
    if example.ndim != 4:
        raise InputError(f"example is {list(example.shape)}; an image batch [n, c, h, w] is wanted")
    if classes is None:
        with torch.no_grad():
            out = copy.deepcopy(module).eval()(example[:1].float())
        classes = tuple(str(i) for i in range(out.shape[-1]))
    shape = (example.shape[1], example.shape[2], example.shape[3])
    program = compile_network(
        module, spec, shape, classes, name=name, profile_hash=None if profile is None else profile.hash
    )
    if profile is not None:
        check_profile(program, profile)
    return program


def check_profile(program: Program, profile: Profile) -> None:
    """InputError where a profile is of another chip or lacks an operating point that the program runs at."""
    if profile.spec_hash != program.spec.hash:
        raise InputError(
            f"profile {profile.path} is of chip {profile.chip}, the program is for {program.spec.name}; characterize that chip"
        )
    for mac in program.adcs_used():
        profile.serving(mac)
