"""What keeps a PIM layer from learning, seen from its codes: dead layers, and ADCs at the end of their range."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from pimchip.kernels import crossbar, integer
from pimchip.qat.pim import PimLayerModule
from pimchip.qat.visit import before_each

WINDOWS = 2048
"""Input vectors of a layer that are looked at."""
SATURATED = 0.02
"""Share of codes at the end of the range from which a warning is worth its line."""


def dead_layers(network: nn.Module) -> list[str]:
    """Names of PIM layers whose latest output had no variance: nothing gets through them."""
    return [
        name
        for name, m in network.named_modules()
        if isinstance(m, PimLayerModule) and not m.options.digital and m.xi == 0
    ]


def saturation(network: nn.Module, images: Tensor) -> dict[str, float]:
    """Share of codes at the end of the ADC's range, by PIM layer: of ideal converters, first DAC slice and group of channels.

    images: float, as the network takes them; a few dozen do. The lowest code of unsigned converters is that of a sum of
    zero and does not count.
    """
    found: dict[str, float] = {}

    def look(name: str, layer: PimLayerModule, x: Tensor) -> None:
        if not layer.options.digital:
            found[name] = _share(layer, x)

    before_each(network, images, PimLayerModule, look)
    return found


def _share(layer: PimLayerModule, x: Tensor) -> float:
    mac = layer.mac
    x, held, _ = layer.read(x)
    source, grid = layer.part(x, held, 0)
    vectors = integer.unfold(torch.round(source * grid.steps), layer.product_geometry)
    vectors = vectors[:: -(-len(vectors) // WINDOWS)]
    q = layer.integers()[: layer.geometry.out_channels]
    cells = crossbar.cells(q.reshape(len(q), -1).t(), mac)
    over = count = 0
    for first in range(0, vectors.shape[1], mac.rows):
        rows = slice(first, first + mac.rows)
        codes = crossbar.codes(vectors[:, rows] % mac.digit, cells[rows], mac)
        ends = codes == mac.code_max
        if mac.signed:
            ends |= codes == mac.code_min
        over, count = over + int(ends.sum()), count + ends.numel()
    return over / count


def advice(name: str, share: float, layer: PimLayerModule, *, searched: bool = False) -> str:
    """One line on a saturated layer, with the mend. searched: its range came of a search on the weights of then."""
    divisor = layer.mac.range_divisor
    if searched:
        mend = "the range was found for other weights: search again from these with --init and --range-divisor auto"
        return f"layer {name}: {100 * share:.1f} % of its codes are at the end of the ADC's range: {mend}"
    mend = f"use a smaller --range-divisor than {divisor}" if divisor > 1 else "it is the full range: use fewer --rows"
    return f"layer {name}: {100 * share:.1f} % of its codes are at the end of the ADC's range: {mend}"
