"""How a network is given images, and what it gives for them: what does not fit is one line."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import Tensor, nn

from pimchip.errors import InputError
from pimchip.qat import given
from pimchip.qat.layers import Misfit, QuantizedLayer

_OF_SHAPES = ("channels", "shape", "size", "elements")
"""Words of torch's own errors where an input does not fit."""


def floats(network: nn.Module, images: Tensor) -> Tensor:
    """uint8 images as 0..1, floats as they come, both in the kind of floats that the network computes with."""
    held = (p.dtype for p in (*network.parameters(), *network.buffers()) if p.is_floating_point())
    x = images if images.is_floating_point() else images.float().div_(given.PIXELS)
    return x.to(next(held, x.dtype))


def in_range(network: nn.Module, images: Tensor) -> None:
    """Raise InputError for floats outside 0..1 where a converted network's first layer would clip them to that."""
    for layer in network.modules():
        if isinstance(layer, QuantizedLayer) and layer.clips_pixels:
            given.pixels(images)


@contextmanager
def fitting(images: Tensor) -> Iterator[None]:
    """Run a network on images inside: errors of shapes, torch's too, come out as InputError, which names that of the images."""
    try:
        yield
    except (RuntimeError, Misfit) as error:
        said = str(error).splitlines()[0] if str(error) else ""
        if not isinstance(error, Misfit) and not any(word in said for word in _OF_SHAPES):
            raise
        raise InputError(f"the network does not take images of shape {list(images.shape[1:])}: {said}") from None


def logits(network: nn.Module, images: Tensor, classes: int | None = None) -> Tensor:
    """What the network gives for images, [n, classes]; None: any number. InputError where they and it do not fit."""
    x = floats(network, images)
    with fitting(x):
        found: object = network(x)
    if not isinstance(found, Tensor) or found.ndim != 2 or classes not in (None, found.shape[1]):
        got = list(found.shape) if isinstance(found, Tensor) else given.described(found)
        wanted = (
            f"[{len(x)}, classes], logits,"
            if classes is None
            else f"[{len(x)}, {classes}], a logit a class of the data,"
        )
        raise InputError(f"the network gives {got} for {len(x)} images; {wanted} are wanted")
    return found
