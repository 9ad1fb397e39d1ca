"""What callers hand over, checked where it comes in: one line that says what was given and what is wanted."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from pimchip.errors import InputError

T = TypeVar("T")
PIXELS = 255
"""Images are taken to this many steps between 0 and 1."""


def an(kind: type[T], value: object, what: str, mend: str) -> T:
    """The value, of this kind; else InputError: '`what` is a str; `mend`'."""
    if not isinstance(value, kind):
        raise InputError(f"{what} is {described(value)}; {mend}")
    return value


def described(value: object) -> str:
    """What a value is, in a word or two: 'a str', 'None', 'a numpy array', 'the class Linear'."""
    if value is None:
        return "None"
    if isinstance(value, type):
        return f"the class {value.__name__}"
    if isinstance(value, np.ndarray):
        return "a numpy array"
    name = type(value).__name__
    return f"{'an' if name[0].lower() in 'aeiou' else 'a'} {name}"


def by_name(value: object, what: str, wanted: str = "choices by layer's name") -> Mapping[str, Any]:
    """A mapping with names for keys, or InputError."""
    found: Mapping[Any, Any] = an(Mapping, value, what, f"{wanted}, are wanted")  # type: ignore[type-abstract]
    for name in found:
        an(str, name, f"a key of {what}", "the name of a layer is wanted, such as 'layer1.conv1'")
    return found


def module(value: object, what: str = "the network") -> nn.Module:
    """A torch module, or InputError."""
    return an(nn.Module, value, what, "a torch.nn.Module is wanted")


def tensor(value: object, what: str = "images") -> Tensor:
    """A torch tensor of uint8 or floats, or InputError."""
    mend = "a torch tensor is wanted"
    if isinstance(value, np.ndarray):
        mend += f": torch.from_numpy({what})"
    found = an(Tensor, value, what, mend)
    if found.dtype != torch.uint8 and not found.is_floating_point():
        dtype = str(found.dtype).removeprefix("torch.")
        raise InputError(f"{what} are {dtype}; uint8, or floats in 0..1, are wanted: images.to(torch.uint8)")
    return found


def pixels(images: object) -> Tensor:
    """Images as uint8 of the same shape; floats, which must be in 0..1, are taken to the nearest of 256 values.

    InputError for what is neither, for NaN and infinite values, and for floats outside 0..1 by more than rounding mends,
    with the extremes found.
    """
    x = tensor(images)
    if x.dtype == torch.uint8 or not x.numel():
        return x.to(torch.uint8)
    x = x.detach()
    bad = int((~torch.isfinite(x)).reshape(len(x), -1).any(1).sum()) if x.ndim else int(not torch.isfinite(x))
    if bad:
        raise InputError(
            f"{bad} of the {len(x) if x.ndim else 1} images given hold NaN or infinite values: mend the data"
        )
    low, high = (float(end) for end in torch.aminmax(x))
    steps = torch.round(x.float() * PIXELS)
    if steps.min() < 0 or steps.max() > PIXELS:
        if low >= 0 and high <= PIXELS:
            mend = f"divide them by {PIXELS}, or hand them over as uint8"
        else:
            mend = "hand over pixels divided by 255, without a mean taken off or a deviation divided by"
        raise InputError(f"images reach from {low:.3g} to {high:.3g}; floats in 0..1 are wanted: {mend}")
    return steps.clamp(0, PIXELS).to(torch.uint8)
