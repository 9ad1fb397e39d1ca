"""From a model or program file to a Program."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from pimchip.chip import ChipSpec
from pimchip.compiler import Program, compile_network
from pimchip.errors import InputError

if TYPE_CHECKING:
    from pimchip.profile import Profile
    from pimchip.qat.checkpoint import Factory

COMPILED = {".pim": "is a compiled program", ".deployed": "is deployed already; `pimchip infer` runs it"}


def compile_model(
    path: Path, *, chip: ChipSpec | None = None, profile: Profile | None = None, factory: Factory | None = None
) -> Program:
    """Compile a model.pt, for its own chip or another. Raises InputError or CompileError, naming file or layer."""
    from pimchip.qat import load_model

    if path.is_file() and path.suffix in COMPILED:
        raise InputError(f"{path} {COMPILED[path.suffix]}; a model.pt is wanted here")
    file = load_model(path)
    return compile_network(
        file.build(factory),
        chip or file.chip,
        file.image_shape,
        file.classes,
        name=file.model,
        profile_hash=None if profile is None else profile.hash,
        data=str(file.training.get("data", "")),
    )


def load_program(path: Path, *, profile: Profile | None = None, factory: Factory | None = None) -> Program:
    """A .pim file as it is, anything else as a model.pt to compile."""
    if path.suffix == ".pim":
        return Program.load(path)
    return compile_model(path, profile=profile, factory=factory)
