"""From a model or program file to a Program."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from pimchip.chip import ChipSpec, known_chips
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


def check_device(program: Program, model: Path, spec: ChipSpec, url: str) -> None:
    """InputError unless a device of chip `spec`, opened as `url`, is of the chip that `model` is for; it shows the command
    that compiles for the device's."""
    own = program.spec
    if own.hash == spec.hash:
        return
    chip = url.partition(":")[2].partition("?")[0] if url.startswith("emulator:") else ""
    if "profile=" in url or not chip:
        chip = spec.name if spec.name in known_chips() else "ITS-CHIP-FILE.toml"
    source = model.with_suffix(".pt")
    compiled = model.with_suffix(".pim")
    changed = ", of one name but another description" if own.name == spec.name else ""
    raise InputError(
        f"{model} is for chip {own.name} ({own.hash[:8]}), the device is a {spec.name} ({spec.hash[:8]}){changed}: name a "
        f"device of that chip, or compile for this one and deploy that: `pimchip compile {source} --chip {chip}`, "
        f"`pimchip deploy {compiled}`"
    )


def load_program(path: Path, *, profile: Profile | None = None, factory: Factory | None = None) -> Program:
    """A .pim file as it is, anything else as a model.pt to compile."""
    if path.suffix == ".pim":
        return Program.load(path)
    return compile_model(path, profile=profile, factory=factory)
