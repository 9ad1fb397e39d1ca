"""Modules that torch.export keeps whole: an operator of our own stands for each while a network is exported.

torch.export takes modules apart, quantized ones too, whose arithmetic no operator of torch's says. So those that the
compiler knows as modules are replaced, for the time of the export, by stand-ins that call `pimchip::leaf`, which tells
nothing but the shape of what it gives; the graph then names the module, with its trained values.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from pimchip.compiler.functions import FUNCTIONS
from pimchip.errors import InputError
from pimchip.qat.imported import GridQuant
from pimchip.qat.layers import QuantizedLayer
from pimchip.qat.quantizers import ActQuant

SAME = (
    ActQuant,
    GridQuant,
    nn.BatchNorm1d,
    nn.BatchNorm2d,
    nn.LayerNorm,
    nn.GroupNorm,
    nn.ReLU,
    nn.Identity,
    nn.Dropout,
    nn.Dropout2d,
    nn.Softmax,
)
"""Give what has the shape of what they are given; so do functions."""
POOLS = (nn.MaxPool2d, nn.AvgPool2d, nn.AdaptiveAvgPool2d)
FLOAT = (nn.Conv2d, nn.Linear)
"""Not quantized, and refused by name."""
_HELD: dict[str, nn.Module] = {}


class _StandIn(nn.Module):
    """For a module, of which it has every attribute that it lacks itself."""

    def __init__(self, name: str, module: nn.Module) -> None:
        super().__init__()
        object.__setattr__(self, "stands_for", (name, module))

    def forward(self, x: Tensor) -> Tensor:
        return torch.ops.pimchip.leaf(x, self.stands_for[0])  # type: ignore[no-any-return]

    def __getattr__(self, name: str) -> Any:
        return getattr(self.__dict__["stands_for"][1], name)


@torch.library.custom_op("pimchip::leaf", mutates_args=())
def leaf(x: Tensor, name: str) -> Tensor:
    """Stands for the module called `name`. It is never computed."""
    raise RuntimeError(f"{name} is computed while the network is exported")


@leaf.register_fake
def _(x: Tensor, name: str) -> Tensor:
    module = _HELD[name]
    if isinstance(module, QuantizedLayer) and module.linear:
        if x.shape[-1] != module.geometry.in_channels:
            raise InputError(f"layer {name} takes [..., {module.geometry.in_channels}], got {list(x.shape[1:])}")
        return x.new_empty((*x.shape[:-1], module.geometry.out_channels))
    if isinstance(module, QuantizedLayer):
        try:
            return x.new_empty((len(x), *module.whole.output_shape(tuple(x.shape[1:]))))
        except (InputError, ValueError) as error:
            raise InputError(f"layer {name}: {error}") from None
    if isinstance(module, POOLS):
        return module(x)  # type: ignore[no-any-return]
    if isinstance(module, nn.Linear):
        return x.new_empty((*x.shape[:-1], module.out_features))
    if isinstance(module, nn.Conv2d):
        return torch.nn.functional.conv2d(
            x, x.new_empty(module.weight.shape), None, module.stride, module.padding, module.dilation, module.groups
        )
    return x.new_empty(x.shape)


def is_leaf(module: nn.Module) -> bool:
    """Whether a module stays whole."""
    return isinstance(module, QuantizedLayer) or type(module) in (*SAME, *POOLS, *FLOAT, *FUNCTIONS)


@contextmanager
def stand_ins(network: nn.Module) -> Iterator[Mapping[str, nn.Module]]:
    """The network with stand-ins in it, and what they stand for by name; put back at the end."""
    places, names = [], dict[int, str]()
    for parent in list(network.modules()):
        for attribute, child in list(parent._modules.items()):
            if child is not None and is_leaf(child):
                places.append((parent, attribute, child))
    for name, module in network.named_modules():
        names[id(module)] = name
    try:
        for parent, attribute, child in places:
            _HELD[names[id(child)]] = child
            parent._modules[attribute] = _StandIn(names[id(child)], child)
        yield dict(_HELD)
    finally:
        _HELD.clear()
        for parent, attribute, child in places:
            parent._modules[attribute] = child
