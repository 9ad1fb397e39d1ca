"""How much an error of each output of a layer in the array moves the logits, and what each of its columns is given.

An output's errors move a logit by the logit's derivative, so its share of the logits' mean square error is its error's
variance times the mean square of these derivatives, summed over positions: the diagonal of Fisher's information, drawn
with random signs of the logits as Hutchinson estimates a trace. A change of all logits alike is none.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from pimchip.qat.feeding import floats
from pimchip.qat.pim import PimLayerModule

SIGNS = 8
"""Draws of signs of the logits."""
VECTORS = 2048
"""Input vectors of a layer that are kept, evenly over images and positions."""


@dataclass(frozen=True)
class Seen:
    """Of one layer. vectors: float32 [M, K], integers it was given; None of one with channels in groups. hurt: float64
    [outputs], squared change of the logits by a squared error of one accumulator count, an image."""

    vectors: NDArray[np.float32] | None
    hurt: NDArray[np.float64]


def look(network: nn.Module, images: NDArray[np.uint8], units: dict[str, float], seed: int = 0) -> dict[str, Seen]:
    """Run images uint8 [n, c, h, w] through a converted network in eval mode. units: what an accumulator count of each
    layer looked at is worth in its output."""
    layers = {n: m for n, m in network.named_modules() if n in units and isinstance(m, PimLayerModule)}
    given, gave = dict[str, Tensor](), dict[str, Tensor]()

    def note(name: str) -> RemovableHandle:
        def hook(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
            given[name], gave[name] = inputs[0].detach(), output

        return layers[name].register_forward_hook(hook)

    hooks = [note(name) for name in layers]
    try:
        with torch.enable_grad():
            x = floats(
                network, torch.from_numpy(images)
            ).requires_grad_()  # so that frozen networks have derivatives too
            logits = network(x)
            squares = _squares(logits, list(gave.values()), [layers[name].linear for name in gave], seed)
    finally:
        for handle in hooks:
            handle.remove()
    return {
        name: Seen(_vectors(layers[name], given[name]), square * units[name] ** 2 / len(images))
        for name, square in zip(gave, squares, strict=True)
    }


def _squares(logits: Tensor, maps: list[Tensor], linear: list[bool], seed: int) -> list[NDArray[np.float64]]:
    """For each map the sum over images and positions of its squared derivatives, by channel, the mean over signs."""
    rng = np.random.default_rng(seed)
    found = [torch.zeros(m.shape[-1 if last else 1], dtype=torch.float64) for m, last in zip(maps, linear, strict=True)]
    for draw in range(SIGNS):
        signs = torch.from_numpy(rng.choice([-1.0, 1.0], tuple(logits.shape))).to(logits.dtype)
        signs = signs - signs.mean(dim=1, keepdim=True)
        slopes = torch.autograd.grad((logits * signs).sum(), maps, retain_graph=draw < SIGNS - 1, allow_unused=True)
        for total, slope, last in zip(found, slopes, linear, strict=True):
            if slope is not None:
                by_channel = slope if last else slope.movedim(1, -1)
                total += by_channel.double().square().reshape(-1, len(total)).sum(0) / SIGNS
    return [total.numpy() for total in found]


@torch.no_grad()
def _vectors(layer: PimLayerModule, x: Tensor) -> NDArray[np.float32] | None:
    """Some of the integer vectors that a layer was given."""
    if layer.groups > 1:
        return None
    held, grid, _ = layer.read(x)
    g = layer.product_geometry
    windows = F.unfold((held * grid.steps).round(), g.kernel, g.dilation, g.padding, g.stride)  # K is channel-major
    flat = windows.transpose(1, 2).reshape(-1, g.depth)
    kept = flat[:: max(1, len(flat) // VECTORS)][:VECTORS]
    found: NDArray[np.float32] = kept.contiguous().numpy().astype(np.float32)
    return found
