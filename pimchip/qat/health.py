"""What keeps a PIM layer from learning, seen from its codes: dead layers, and sums that the ADC's range cuts off."""

from __future__ import annotations

import math

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from pimchip.kernels import crossbar
from pimchip.qat.convert import pim_layers
from pimchip.qat.pim import PimLayerModule
from pimchip.qat.visit import before_each

WINDOWS = 2048
"""Input vectors of a layer that are looked at, evenly spread."""
SATURATED = 0.02
"""Share of conversions beyond the range from which a warning is worth its line."""


def dead_layers(network: nn.Module) -> list[str]:
    """Names of PIM layers whose latest output had no variance: nothing gets through them."""
    return [name for name, m in pim_layers(network).items() if not m.options.digital and m.xi == 0]


def saturation(network: nn.Module, images: Tensor) -> dict[str, float]:
    """Share of conversions whose sum lies more than half a step beyond the last code, by PIM layer with an ADC.

    images: float, as the network takes them; a few dozen do. Of ideal converters without noise, over all row groups and
    DAC slices. A sum that just reaches the last code loses nothing and does not count: at range divisor 1 the share is 0.
    """
    found: dict[str, float] = {}

    def look(name: str, layer: PimLayerModule, x: Tensor) -> None:
        if not layer.options.digital:
            found[name] = _share(layer, x)

    before_each(network, images, PimLayerModule, look)
    return found


def _share(layer: PimLayerModule, x: Tensor) -> float:
    mac, geometry = layer.mac, layer.product_geometry
    limit = float(layer.step(mac).detach()) * (mac.levels + 0.5)
    if limit > mac.sum_max:
        return 0.0
    x, held, _ = layer.read(x)
    weights, over, count = layer.integers(), 0, 0
    for group in range(layer.groups):
        source, grid = layer.part(x, held, group)
        vectors = crossbar.unfold(torch.round(source * grid.steps), geometry)
        vectors = vectors[:: -(-len(vectors) // WINDOWS)]
        q = weights[group * geometry.out_channels : (group + 1) * geometry.out_channels]
        cells = crossbar.cells(q.reshape(len(q), -1).t(), mac).to(vectors.dtype)
        for first in range(0, vectors.shape[1], mac.rows):
            rest, held_cells = vectors[:, first : first + mac.rows], cells[first : first + mac.rows]
            for _ in range(mac.slices):
                higher = torch.floor(rest / mac.digit)
                sums = (rest - higher * mac.digit) @ held_cells
                over += int((sums.abs() > limit).sum())
                count += sums.numel()
                rest = higher
    return over / max(count, 1)


def advice(name: str, share: float, layer: PimLayerModule, *, searched: bool = False) -> str:
    """One line on a saturated layer, with the mend. searched: its range came of a search on the weights of then."""
    mend = f"use a smaller --range-divisor than {layer.mac.range_divisor}"
    if searched:
        mend = "the range was found for other weights: search again from these with --init and --range-divisor auto"
    return f"layer {name}: {100 * share:.1f} % of its sums are beyond the ADC's range: {mend}"


def learned_nothing(loss: float, accuracy: float, labels: NDArray[np.int64], classes: int) -> bool:
    """Whether an epoch was far from learning, by both its figures.

    loss: mean cross entropy of its training, at least twice ln(classes), which equal chances for all have; a short run
    that has only begun to learn lies little above once. accuracy: on images of these labels, within two standard errors
    of always answering the most frequent one.
    """
    chance = float(np.bincount(labels).max()) / len(labels)
    return loss >= 2 * math.log(classes) and accuracy <= chance + 2 * math.sqrt(chance * (1 - chance) / len(labels))
