"""model.pt: a network's weights and everything needed to build it again, as plain tensors in plain dicts.

Read with weights_only, so a file can hold data but never code; every field is checked before it is used.
"""

from __future__ import annotations

import pickle
import warnings
import zipfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from pimchip.chip import ChipSpec
from pimchip.errors import InputError, PimchipWarning, unknown
from pimchip.files import replacing
from pimchip.qat import given
from pimchip.qat.conversion import conversion
from pimchip.qat.convert import convert, pim_layers, trained_on
from pimchip.qat.data import Dataset
from pimchip.qat.fitted import as_before
from pimchip.qat.graph import LAYERS
from pimchip.qat.models import MODELS, Factory, build_model, made_by

FORMAT = "pimchip.model"
VERSION = 2
"""2: first and last layers follow the order in which they run, and first layers take normalized images as they come."""
_WHOLE, _NAME = (int, type(None)), (str, type(None))
_OPTIONS: dict[str, tuple[type, ...]] = {
    **{name: _WHOLE for name in ("rows", "weight_bits", "act_bits", "dac_bits", "adc_bits")},
    "scheme": _NAME,
    "range_divisor": (int, dict, type(None)),
    "pim_skip": (list, tuple, set),
    "activation_scale": (float, int),
    "backward": (str,),
    "eta": (str,),
    "digital": (bool,),
    "noise_lsb": (int, float),
    "bit_aug": (int,),
    **{name: (str,) for name in ("xi", "range", "scales", "clip", "coding")},
    "signed_inputs": (dict, type(None)),
    "weight_scale": (str, dict),
}
"""Keywords of convert() and what each may be in a file."""


@dataclass
class ModelFile:
    """What model.pt holds. options: keywords of convert(); training: how it was trained; resume: optimizer state; version:
    of the file that it was read from."""

    model: str
    image_shape: tuple[int, int, int]
    classes: tuple[str, ...]
    chip: ChipSpec
    options: dict[str, Any]
    state: dict[str, Tensor]
    training: dict[str, Any] = field(default_factory=dict)
    resume: dict[str, Any] | None = None
    version: int = VERSION

    def build(self, factory: Factory | nn.Module | None = None) -> nn.Module:
        """The converted network with its weights, in eval mode.

        factory: for a network that is not of the zoo: the float network, of any weights, or what makes it. Raises InputError
        where it is wanted, and where weights and network do not fit.
        """
        if factory is None and self.model not in MODELS:
            kind, _, own = self.model.partition(":")
            if kind == "factory":
                raise InputError(f"the checkpoint's network comes from {own!r}: name it with --factory {own}")
            raise InputError(
                f"the checkpoint holds a network of your own ({own or self.model}): give build() that float network, or name "
                "what makes it with --factory package.module:callable"
            )
        if factory is None:
            network = build_model(self.model, self.image_shape, len(self.classes))
        elif isinstance(factory, nn.Module):
            network = factory
        else:
            called = f"build({given.described(factory)})"
            mend = "; give build() the float network itself"
            network = made_by(factory, self.image_shape, len(self.classes), called, mend)
        if self.version < 2 and self.model not in MODELS:
            text = (
                "this checkpoint is of an older pimchip: a network of your own that normalizes its images, or that runs its "
                "layers in another order than it registers them, now computes something else; evaluate it before you trust it"
            )
            warnings.warn(text, PimchipWarning, stacklevel=2)
        layers = [name for name, module in network.named_modules() if isinstance(module, LAYERS)]
        # As it was trained, whatever auto says.
        held = {name: "kept" for name in layers if f"{name}.scale_kept" in self.state}
        converted = convert(network, self.chip, **{**self.options, "weight_scale": held})
        load_state(converted, self.state)
        trained_on(converted)
        made = conversion(converted)
        assert made is not None
        made.model, made.options, made.training = self.model, self.options, self.training
        made.image_shape, made.classes = self.image_shape, self.classes
        made.data = str(self.training.get("data", ""))
        return converted.eval()


def load_state(network: nn.Module, state: dict[str, Tensor]) -> None:
    """Load weights; InputError names the first missing, unknown, misshapen or non-finite tensor."""
    own, state = network.state_dict(), {**as_before(network, state.keys()), **state}
    for name in sorted(own.keys() ^ state.keys()):
        only = "network" if name in own else "checkpoint"
        mend = "; they have other scales: convert(weight_scale=...)" if name.endswith("scale_kept") else ""
        raise InputError(f"checkpoint and network differ: {name} is only in the {only}{mend}")
    for name, tensor in state.items():
        if tensor.shape != own[name].shape or tensor.dtype != own[name].dtype or tensor.layout != own[name].layout:
            raise InputError(f"checkpoint: {name} is {_kind(tensor)}, the network wants {_kind(own[name])}")
        if tensor.is_floating_point() and not torch.isfinite(tensor).all():
            bad = int((~torch.isfinite(tensor)).sum())
            raise InputError(
                f"checkpoint: {name} has {bad} NaN or infinite values; train again from an earlier checkpoint"
            )
    network.load_state_dict(state)


def _kind(tensor: Tensor) -> str:
    layout = "" if tensor.layout == torch.strided else f"{tensor.layout} "
    return f"{layout}{str(tensor.dtype).removeprefix('torch.')} {list(tensor.shape)}"


def save_model(path: Path | str, what: nn.Module | ModelFile, *, data: Dataset | None = None) -> None:
    """Write model.pt through a temporary file and a rename, so that a full disk or Ctrl-C leaves the old one.

    what: a converted network, which knows its chip, its options and, once trained, its images and classes; or all of it by
    hand. data: whose images and classes a network takes that train() has not seen. Raises InputError for a network that
    convert() did not make, and where nothing says what its images are.
    """
    file = what if isinstance(what, ModelFile) else _described(what, data)
    content = {
        "format": FORMAT,
        "version": VERSION,
        "model": file.model,
        "image_shape": list(file.image_shape),
        "classes": list(file.classes),
        "chip": file.chip.to_dict(),
        "options": file.options,
        "state": {name: tensor.detach().cpu().clone() for name, tensor in file.state.items()},
        "training": file.training,
        "resume": file.resume,
    }
    with replacing(Path(path)) as temporary:
        try:
            with temporary.open("wb") as out:  # given a path, torch would write its name into the file
                torch.save(content, out)
        except RuntimeError as error:  # torch's own, where the disk is full
            raise OSError(str(error)) from None


def _described(network: object, data: Dataset | None) -> ModelFile:
    """What a converted network knows of itself."""
    found = given.an(nn.Module, network, "what is to be saved", "a converted network, or a ModelFile, is wanted")
    made = conversion(found)
    if made is None:
        raise InputError("this network was not made by pimchip.qat.convert: convert it, or save it with torch.save")
    shape, classes, name = made.image_shape, made.classes, made.data
    if data is not None:
        given.an(Dataset, data, "data", "a Dataset is wanted: pimchip.qat.data.load_dataset(name) reads one")
        shape, classes, name = data.image_shape, data.classes, data.name
    if shape is None:
        raise InputError(
            "nothing says which images and classes the network is for: save_model(path, network, data=dataset)"
        )
    ranges = {layer: held.mac.range_divisor for layer, held in pim_layers(found).items()}
    options = made.options | ({"range_divisor": ranges} if ranges else {})
    training = made.training | {"data": name}
    return ModelFile(made.model, shape, classes, made.chip, options, found.state_dict(), training)


def load_model(path: Path | str) -> ModelFile:
    """Read model.pt. InputError for a missing, damaged or foreign file, and for a pickle that wants to run code."""
    path, content = Path(path), _read(Path(path))
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        hint = "`pimchip train` or pimchip.qat.save_model writes one"
        if _is_state(content):
            hint = (
                "it holds a state dict: `pimchip train --init` starts from one of a float network, compile and deploy take one of a "
                "Brevitas network with --factory and --data"
            )
        raise InputError(f"model file {path} was not written by pimchip; {hint}")
    version = content.get("version")
    if type(version) is not int or not 1 <= version <= VERSION:
        raise InputError(f"model file {path} has version {version!r}; this pimchip reads 1 to {VERSION}")
    return _checked(content, path)


def load_weights(path: Path | str) -> ModelFile | dict[str, Tensor]:
    """A model.pt, or the state dict of a float network that torch.save wrote. InputError as of load_model."""
    content = _read(Path(path))
    return dict(content) if isinstance(content, dict) and _is_state(content) else load_model(path)


def _is_state(content: object) -> bool:
    return (
        isinstance(content, dict)
        and bool(content)
        and all(isinstance(name, str) and isinstance(tensor, Tensor) for name, tensor in content.items())
    )


def _read(path: Path) -> Any:
    """What torch reads of a file without running anything."""
    if not path.is_file():
        raise InputError(f"model file {path} is not there; `pimchip train --out {path}` writes one")
    damaged = f"model file {path} is damaged or no model.pt; write it again with `pimchip train`"
    try:
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                if archive.testzip() is not None:  # torch does not compare checksums
                    raise InputError(damaged)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of torch about odd pickles; what they hold is checked below
            return torch.load(path, map_location="cpu", weights_only=True)
    except InputError:
        raise
    except pickle.UnpicklingError as error:
        wanted = _wanted_global(str(error))
        if wanted:
            raise InputError(
                f"model file {path} wants to run code ({wanted}) and is refused; save plain tensors and dicts"
            ) from None
        raise InputError(damaged) from None
    except Exception:  # readers of zip files and pickles raise of everything on damaged ones
        raise InputError(damaged) from None


def _wanted_global(message: str) -> str | None:
    """The callable that torch refused to load, from its message."""
    for marker in ("GLOBAL ", "Unsupported global: "):
        if marker in message:
            return message.split(marker, 1)[1].split()[0].strip("`'\"")
    return None


def _checked(content: dict[str, Any], path: Path) -> ModelFile:
    def fail(what: str) -> InputError:
        return InputError(f"model file {path}: {what}; write it again with `pimchip train`")

    shape, classes, state = content.get("image_shape"), content.get("classes"), content.get("state")
    if not (isinstance(shape, list) and len(shape) == 3 and all(isinstance(s, int) and 1 <= s <= 4096 for s in shape)):
        raise fail("image_shape is not three sizes in 1..4096")
    if not (isinstance(classes, list) and 2 <= len(classes) <= 100_000 and all(isinstance(c, str) for c in classes)):
        raise fail("classes is not a list of at least two names")
    if not (isinstance(state, dict) and all(isinstance(k, str) and isinstance(v, Tensor) for k, v in state.items())):
        raise fail("state is not a dict of tensors")
    for name in ("options", "training"):
        if not isinstance(content.get(name), dict):
            raise fail(f"{name} is not a dict")
    for name, value in content["options"].items():
        if name not in _OPTIONS:
            raise fail(unknown("option", str(name), _OPTIONS))
        parts = list(value) if name == "pim_skip" and isinstance(value, list | tuple | set) else []
        if not isinstance(value, _OPTIONS[name]) or not all(isinstance(part, str) for part in parts):
            raise fail(f"option {name} is {value!r}")
    if not isinstance(content.get("model"), str):
        raise fail("model is not a name")
    if content.get("resume") is not None and not isinstance(content["resume"], dict):
        raise fail("resume is not a dict")
    return ModelFile(
        content["model"],
        (shape[0], shape[1], shape[2]),
        tuple(classes),
        ChipSpec.from_dict(content.get("chip"), f"model file {path}: chip"),
        content["options"],
        state,
        content["training"],
        content.get("resume"),
        content["version"],
    )
