"""From a model or program file to a Program."""

from __future__ import annotations

import hashlib
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pimchip._version import __version__
from pimchip.characterize.journal import Arrays
from pimchip.chip import ChipSpec, known_chips, load_chip
from pimchip.compiler import Program, check_profile, compile_network, warn_of_no_tiles
from pimchip.compiler.faults import Faults, faults_of
from pimchip.compiler.order import Knowledge
from pimchip.compiler.passes import Observer, run_passes
from pimchip.errors import InputError
from pimchip.profile.files import MANIFEST
from pimchip.runtime.steps import Parts, Result, Steps
from pimchip.workflows.fitted import Fitted

if TYPE_CHECKING:
    from torch import nn

    from pimchip.profile import Profile
    from pimchip.qat.checkpoint import ModelFile
    from pimchip.qat.models import Factory

DEFAULT_CHIP = "sram65"
"""Of a state dict, which names none."""
COMPILED = {".pim": "is a compiled program", ".deployed": "is deployed already; `pimchip infer` runs it"}


@dataclass(frozen=True)
class Compilation:
    """How a model.pt is compiled. chip: None for the model's own. profile: whose faults are avoided. factory: makes a network that
    is not of the zoo. data, data_dir: whose images and classes a plain state dict is for, and where its files are. fitted: what to
    fit to the profile's die; it is told what was found. replicas: a layer is held so often at most."""

    chip: ChipSpec | None = None
    profile: Path | None = None
    factory: Factory | None = None
    data: str | None = None
    data_dir: Path | None = None
    fitted: Fitted | None = None
    replicas: int = 1

    def read(self, path: Path) -> ModelFile:
        """A model.pt or, with a factory, the plain state dict of a network that Brevitas trained.

        Raises InputError for what is compiled already, and for a state dict of which nothing says what images it is for.
        """
        from pimchip.qat.checkpoint import load_weights
        from pimchip.qat.data import load_dataset
        from pimchip.qat.imported_file import ImportedFile

        if self.factory is None or path.suffix in COMPILED:
            return read_model(path)
        found = load_weights(path)
        if not isinstance(found, dict):
            return found
        if self.data is None:
            raise InputError(
                f"{path} holds a state dict, which does not say what images and classes it is for: name a data set with --data"
            )
        data = load_dataset(self.data, self.data_dir)
        return ImportedFile.of(path, found, data, self.data, self.chip or load_chip(DEFAULT_CHIP))


def compile_model(path: Path, how: Compilation, observer: Observer | None = None) -> tuple[Program, Profile | None]:
    """Compile a model.pt; and the profile, if one is named. observer: is told of every pass.

    Raises InputError or CompileError, naming file or layer.
    """
    file = how.read(path)
    spec = how.chip or file.chip

    def compiled(
        faults: Faults | None,
        observer: Observer | None,
        network: nn.Module | None = None,
        known: Knowledge | None = None,
    ) -> Program:
        return compile_network(
            file.build(how.factory) if network is None else network,
            spec,
            file.image_shape,
            file.classes,
            name=file.model,
            data=str(file.training.get("data", "")),
            observer=observer,
            faults=faults,
            known=known,
            replicas=how.replicas,
        )

    program = compiled(None, None if how.profile else observer)
    warn_of_no_tiles(program)
    if how.profile is None:
        return program, None
    measured = _serving(program, how.profile)  # which of a die's profiles it is, the operating points say
    faults = faults_of(measured)
    if how.fitted is not None:
        network, known = how.fitted.to(measured, file.build(how.factory), file, spec)
        program = compiled(faults, observer, network, known if how.fitted.noise_aware else None)
    elif faults or observer is not None:
        program = compiled(faults, observer)
    return program.with_profile(measured.hash), measured


def read_model(path: Path) -> ModelFile:
    """A model.pt; InputError for what is compiled already."""
    from pimchip.qat import load_model

    if path.is_file() and path.suffix in COMPILED:
        raise InputError(f"{path} {COMPILED[path.suffix]}; a model.pt is wanted here")
    return load_model(path)


def run_passes_of(path: Path, how: Compilation, stop_after: str, observer: Observer) -> None:
    """Compile a model.pt only so far."""
    file, spec = how.read(path), how.chip
    run_passes(
        file.build(how.factory), spec or file.chip, file.image_shape, observer, stop_after, replicas=how.replicas
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
    compiled = model.with_name(f"{model.stem}-{Path(chip).stem}.pim")
    changed = ", of one name but another description" if own.name == spec.name else ""
    raise InputError(
        f"{model} is for chip {own.name} ({own.hash[:8]}), the device is a {spec.name} ({spec.hash[:8]}){changed}: name a "
        f"device of that chip, or compile for this one and deploy that: `pimchip compile {source} --chip {chip} --out "
        f"{compiled}`, `pimchip deploy {compiled} --device {shlex.quote(url)}`"
    )


def origin(url: str, seed: int) -> dict[str, object]:
    """What results depend on beside die, program and data: of an emulated die, what it was opened as."""
    return {"device": url if url.startswith("emulator") else "", "seed": seed}


def load_program(
    path: Path, how: Compilation | None = None, steps: Steps | None = None
) -> tuple[Program, Profile | None]:
    """A .pim file as it is, anything else as a model.pt to compile; and the profile, if one is named.

    steps: keeps what was compiled, as step `compile`.
    """
    how = how or Compilation()
    if path.suffix != ".pim" and steps is not None:
        return _compiled_once(path, how, steps)
    if path.suffix != ".pim":
        return compile_model(path, how)
    if steps is not None:
        steps.kept("compile")
    program = Program.load(path)
    return program, None if how.profile is None else _serving(program, how.profile)


def _compiled_once(path: Path, how: Compilation, steps: Steps) -> tuple[Program, Profile | None]:
    """Compiled, unless it is the same model and the profiles are the same as before."""

    def work(parts: Parts) -> tuple[Result, Arrays]:
        program, _ = compile_model(path, how)
        points = [] if how.fitted is None else how.fitted.points
        return {"manifest": program.manifest.model_dump(mode="json"), "points": points}, program.tensors

    def holds(result: Result) -> str:
        return "" if how.factory is None else "its factory may make another network now"

    profiles = []
    if how.profile is not None:
        folder = how.profile.parent if how.profile.name == MANIFEST else how.profile
        profiles = sorted(_file_hash(file) for file in folder.rglob(MANIFEST))
    inputs = {
        "version": __version__,
        "model": _file_hash(path),
        "profile": how.profile is not None,
        "profiles": profiles,
        "fitted": None if how.fitted is None else how.fitted.inputs(how.read(path)),
        "replicas": how.replicas,
    }
    result, tensors = steps.step("compile", inputs, work, holds)
    if how.fitted is not None:
        how.fitted.points = result["points"]
    program = Program.from_parts(result["manifest"], tensors, f"what {path} was compiled to")
    return program, None if how.profile is None else _serving(program, how.profile)


def _file_hash(path: Path) -> str:
    """SHA-256; "" for what is no file, which whoever reads it then refuses."""
    return hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else ""


def _serving(program: Program, profile: Path) -> Profile:
    """The profile; of a die's folder, the latest that has all operating points of the program. InputError if it lacks one."""
    from pimchip.profile import Profile

    measured = Profile.load(profile, serving=list(program.adcs_used()))
    check_profile(program, measured)
    return measured
