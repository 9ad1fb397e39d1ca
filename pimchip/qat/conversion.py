"""What a converted network remembers of its making, so that it can be saved and compiled without saying it again."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from numbers import Real
from typing import Any

import numpy as np
from torch import nn

from pimchip.chip import ChipSpec

_HELD, _ZOO = "pimchip_conversion", "pimchip_zoo"
"""Attributes of the module: the record of a converted one, the name of one of the zoo."""
OWN = "own:"
"""What the name of a network that is not of the zoo begins with; its class follows."""


@dataclass
class Conversion:
    """chip and options: what convert() was given, in plain values as a file holds them; model: the zoo's name of the float
    network, or its class. The rest is of the data that it was trained on, None or empty before."""

    chip: ChipSpec
    options: dict[str, Any]
    model: str
    image_shape: tuple[int, int, int] | None = None
    classes: tuple[str, ...] = ()
    data: str = ""
    training: dict[str, Any] = field(default_factory=dict)
    """What the file that it was built from said of its training."""


def conversion(network: nn.Module) -> Conversion | None:
    """The record of a network that convert() made; None of others."""
    found = getattr(network, _HELD, None)
    return found if isinstance(found, Conversion) else None


def remember(network: nn.Module, chip: ChipSpec, options: Mapping[str, Any]) -> None:
    """Give a converted network its record. options: keywords of convert(); those that are None are left out."""
    model = getattr(network, _ZOO, None) or f"{OWN}{type(network).__name__}"
    plain = {name: _plain(value) for name, value in options.items() if value is not None}
    setattr(network, _HELD, Conversion(chip, plain, model))


def of_zoo(network: nn.Module, name: str) -> nn.Module:
    """The network, which remembers its name in the zoo from now on."""
    setattr(network, _ZOO, name)
    return network


def _plain(value: Any) -> Any:
    if isinstance(value, str):
        return str(value)  # a Scheme is one
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, Real) and not isinstance(value, int | float):
        return float(value)
    if isinstance(value, Mapping):
        return {str(name): _plain(part) for name, part in value.items()}
    return [_plain(part) for part in value] if isinstance(value, Collection) else value
