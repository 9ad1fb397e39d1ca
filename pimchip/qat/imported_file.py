"""A plain state dict of a network that Brevitas trained, read as a model.pt: what the file does not say, its caller does.

The network that the factory makes may say how it is to be imported: its attribute `import_options` is a dict of keywords
of pimchip.qat.imported.from_brevitas (pim_skip, rows, adc_bits, range_divisor, ...).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from pimchip.chip import ChipSpec
from pimchip.errors import InputError
from pimchip.qat import given
from pimchip.qat.checkpoint import ModelFile
from pimchip.qat.data import Dataset
from pimchip.qat.imported import from_brevitas, has_quantized_layers
from pimchip.qat.models import Factory, made_by


@dataclass
class ImportedFile(ModelFile):
    """See the module. path: of the state dict, for messages."""

    path: Path = Path()

    @classmethod
    def of(cls, path: Path, state: dict[str, Tensor], data: Dataset, name: str, chip: ChipSpec) -> ImportedFile:
        """data: whose images and classes the network is for; name: as its owner calls it."""
        training = {"data": name}
        return cls(path.stem, data.image_shape, data.classes, chip, {}, state, training, path=path)

    def build(self, factory: Factory | nn.Module | None = None) -> nn.Module:
        """The imported network. factory: makes the Brevitas network that the state dict is of, with any weights.

        Raises InputError where the two do not fit, naming the first tensor that does not, CompileError as from_brevitas.
        """
        if factory is None or isinstance(factory, nn.Module):
            raise InputError(f"{self.path} holds a state dict: name what makes its network with --factory")
        network = made_by(factory, self.image_shape, len(self.classes), "the factory")
        if not has_quantized_layers(network):
            raise InputError(
                f"{self.path} holds a state dict, and the factory's network has no quantized layer of Brevitas; of torch's "
                f"layers, `pimchip train --init {self.path} --epochs 0` with the same --factory and --data makes a model.pt"
            )
        self._load(network)
        options = given.by_name(getattr(network, "import_options", {}), "import_options", "keywords of from_brevitas")
        return from_brevitas(network.eval(), self.chip, **options)

    def _load(self, network: nn.Module) -> None:
        """The weights into the network. Brevitas' own loading sees to what it learns with the first batches."""
        for name, tensor in self.state.items():
            if tensor.is_floating_point() and not torch.isfinite(tensor).all():
                raise InputError(f"{self.path}: {name} holds NaN or infinite values; take an earlier checkpoint")
        own = network.state_dict()
        for name, tensor in self.state.items():
            if name in own and own[name].shape != tensor.shape and own[name].numel() != tensor.numel():
                raise InputError(
                    f"{self.path} and the factory's network differ: {name} is {list(tensor.shape)} in the file, the network "
                    f"wants {list(own[name].shape)}"
                )
        try:
            missing, unexpected = network.load_state_dict(self.state, strict=False)
        except RuntimeError as error:
            said = str(error).splitlines()
            raise InputError(f"{self.path} and the factory's network differ: {said[-1].strip()}") from None
        for names, where in ((missing, "network"), (unexpected, "file")):
            if names:
                raise InputError(f"{self.path} and the factory's network differ: {names[0]} is only in the {where}")
