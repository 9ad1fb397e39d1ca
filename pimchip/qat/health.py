"""What keeps a PIM layer from learning, seen from its codes: dead layers, and ADCs at the end of their range."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from pimchip.chip.mac import Mac
from pimchip.kernels import crossbar, integer
from pimchip.qat.pim import PimLayerModule

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


@torch.no_grad()
def saturation(network: nn.Module, images: Tensor) -> dict[str, float]:
    """Share of codes at the end of the ADC's range, by PIM layer: of ideal converters, first row group and DAC slice.

    images: float, as the network takes them; a few dozen do. The lowest code of unsigned converters is that of a sum of
    zero and does not count.
    """
    found: dict[str, float] = {}
    names = {id(m): name for name, m in network.named_modules() if isinstance(m, PimLayerModule)}

    def look(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        assert isinstance(module, PimLayerModule)
        if not module.options.digital:
            found[names[id(module)]] = _share(module, inputs[0])

    hooks = [m.register_forward_pre_hook(look) for m in network.modules() if isinstance(m, PimLayerModule)]
    was_training = network.training
    try:
        network.eval()(images)
    finally:
        network.train(was_training)
        for hook in hooks:
            hook.remove()
    return found


def _share(layer: PimLayerModule, x: Tensor) -> float:
    mac: Mac = layer.mac
    x, held, _ = layer.read(x)
    source, grid = layer.part(x, held, 0)
    vectors = integer.unfold(torch.round(source * grid.steps), layer.product_geometry)
    vectors = vectors[:: -(-len(vectors) // WINDOWS), : mac.rows]
    q = layer.integers()[: layer.geometry.out_channels]
    cells = crossbar.cells(q.reshape(len(q), -1).t(), mac)[: mac.rows]
    codes = crossbar.codes(vectors % mac.digit, cells, mac)
    ends = codes == mac.code_max
    if mac.signed:
        ends |= codes == mac.code_min
    return float(ends.double().mean())


def advice(name: str, share: float, layer: PimLayerModule) -> str:
    """One line on a saturated layer, with the mend."""
    divisor = layer.mac.range_divisor
    mend = f"use a smaller --range-divisor than {divisor}" if divisor > 1 else "it is the full range: use fewer --rows"
    return f"layer {name}: {100 * share:.1f} % of its codes are at the end of the ADC's range: {mend}"
