"""The ADC's range for each layer: searched for on data, or learned and then taken to the nearest that the chip offers.

A divided range has finer steps and clips large sums; how large a layer's sums really are is a matter of its weights and
activations, so the best divisor differs from layer to layer. What is compared is what BN cannot take out: the part of
the PIM product that is no affine function of the ideal one, 1 - rho^2 of its variance, channel by channel. The search
runs on the integers that the layers really see, each layer on outputs of those before it at the ranges just chosen.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from pimchip.chip import ChipSpec, Mac
from pimchip.errors import InputError
from pimchip.kernels.converters import Converters, ideal
from pimchip.qat import given
from pimchip.qat.autograd import Product, pim_forward
from pimchip.qat.bn import calibrate_bn
from pimchip.qat.carried import is_trained
from pimchip.qat.conversion import conversion
from pimchip.qat.feeding import fitting, floats, in_range
from pimchip.qat.pim import PimLayerModule
from pimchip.qat.visit import before_each

Behind = Callable[[str, PimLayerModule, Mac, int], Converters]
"""(layer's name, layer, operating point, group of channels) -> the converters behind that group's columns."""


@dataclass(frozen=True)
class LayerRanges:
    """What the search found of a layer. errors: by divisor, share of the codes' variance that no affine fit explains."""

    layer: str
    errors: dict[int, float]
    chosen: int


def spec_noise(spec: ChipSpec, mac: Mac) -> float:
    """Noise of the chip's typical converter at an operating point, LSB: of the array, in volts, and of the ADC."""
    array = spec.noise.array_sigma * mac.range_divisor * 2.0 ** (mac.adc_bits - spec.adc.bits)
    return math.hypot(array, spec.noise.adc_sigma)


def ideal_with(noise_lsb: Callable[[Mac], float], seed: int = 0) -> Behind:
    """Ideal converters with noise that depends on the operating point: ideal_with(lambda mac: spec_noise(spec, mac))."""

    def behind(name: str, layer: PimLayerModule, mac: Mac, group: int) -> Converters:
        columns = layer.geometry.out_channels * mac.planes
        return ideal(mac, mac.groups(layer.geometry.depth), columns, noise_lsb(mac), seed)

    return behind


def _check_offered(network: nn.Module, divisors: Mapping[str, Sequence[int]] | Sequence[int]) -> None:
    """Raise InputError for a range that the chip of a layer does not have. divisors: of all layers, or by name."""
    for name, layer in network.named_modules():
        if isinstance(layer, PimLayerModule) and layer.offered:
            asked = divisors.get(name, ()) if isinstance(divisors, Mapping) else divisors
            wrong = [str(divisor) for divisor in asked if divisor not in layer.offered]
            if wrong:
                offered = ", ".join(map(str, layer.offered))
                raise InputError(f"layer {name}: the chip offers the range divisors {offered}, not {', '.join(wrong)}")


def search_ranges(network: nn.Module, images: Tensor, divisors: Sequence[int], behind: Behind) -> list[LayerRanges]:
    """Find each PIM layer's best divisor and set it; layers in the order in which they run.

    network: converted; its mode and statistics are left as they are. images: uint8 [n, c, h, w] or floats in 0..1, a few hundred
    do. divisors: those that the chip offers. behind: what converts, such as ideal converters with the chip's noise. A
    channel whose sums are constant counts for nothing, one whose codes are constant though its sums are not for an error
    of its whole signal. Raises InputError for a divisor that the chip of convert() does not offer. At the noise of the
    chip's typical converter:

    >>> import torch
    >>> from pimchip.chip import load_chip
    >>> from pimchip.qat import build_model, convert
    >>> spec = load_chip("sram65")
    >>> network = convert(build_model("mlp", (1, 8, 8), 10), spec, adc_bits=5)
    >>> images = torch.rand(64, 1, 8, 8)  # of the training set, float in 0..1
    >>> behind = ideal_with(lambda mac: spec_noise(spec, mac))
    >>> found = search_ranges(network, images, spec.adc.range_divisors, behind)
    >>> [each.layer for each in found]
    ['layers.4', 'layers.7']
    >>> ranges = {each.layer: each.chosen for each in found}  # convert(..., range_divisor=ranges) has them from the start
    """
    if not len(images) or not divisors:
        raise InputError("the range search wants images and at least one divisor")
    _check_offered(network, divisors)

    def offered(name: str, mac: Mac) -> list[Mac]:
        return [replace(mac, range_divisor=d) for d in divisors]

    found = search_points(network, images, offered, behind)
    return [
        LayerRanges(each.layer, {m.range_divisor: e for m, e in each.errors.items()}, each.chosen.range_divisor)
        for each in found
    ]


@dataclass(frozen=True)
class LayerPoints:
    """What a search found of a layer. errors: by operating point, as in LayerRanges. trained: the one it had."""

    layer: str
    trained: Mac
    errors: dict[Mac, float]
    chosen: Mac


def search_points(
    network: nn.Module,
    images: Tensor,
    offered: Callable[[str, Mac], Sequence[Mac]],
    behind: Behind,
    tolerance: float = 0.0,
) -> list[LayerPoints]:
    """Find each PIM layer's best operating point and set it, as search_ranges does of divisors.

    offered: those to choose from, of a layer's name and own one. tolerance: errors that are larger than the least by no
    more than this share count as equal; of equal ones that of the fewest bits is taken, then of the widest range.
    """
    in_range(network, images)
    found: list[LayerPoints] = []

    def choose(name: str, layer: PimLayerModule, x: Tensor) -> None:
        if layer.options.range == "learned":
            raise InputError(f"layer {name}: its range is learned; search ranges of networks with range = fixed")
        trained = layer.mac
        errors = {mac: _error(layer, name, x, mac, behind) for mac in offered(name, trained)}
        most = min(errors.values()) * (1 + tolerance)
        layer.mac = min((m for m in errors if errors[m] <= most), key=lambda m: (m.adc_bits, m.range_divisor))
        found.append(LayerPoints(name, trained, errors, layer.mac))

    with fitting(images):
        before_each(network, floats(network, images), PimLayerModule, choose)
    if not found:
        raise InputError("the network has no PIM layer: run pimchip.qat.convert on it first")
    return found


def find_ranges(network: nn.Module, images: Tensor, *, divisors: Sequence[int] | None = None) -> dict[str, int]:
    """Set each PIM layer's best range divisor, found on images at the noise of its chip's typical converter; {layer: divisor}.

    search_ranges with what usually is wanted. network: made by convert(); BNs that no data has gone through are calibrated
    on these images first, in a copy. images: uint8 [n, c, h, w] or floats in 0..1, of training; a few
    hundred do. divisors: among which to search; None: all of the chip's. Raises InputError without PIM layers or images, and
    for images that the first layer would clip; sets nothing then.

    >>> import torch
    >>> from pimchip.qat import build_model, convert
    >>> network = convert(build_model("mlp", (1, 8, 8), 10), "sram65", adc_bits=5)
    >>> found = find_ranges(network, torch.randint(0, 256, (64, 1, 8, 8), dtype=torch.uint8))
    >>> found == {"layers.4": network.layers[4].mac.range_divisor, "layers.7": network.layers[7].mac.range_divisor}
    True
    """
    made = conversion(given.module(network))
    if made is None:
        raise InputError("this network was not made by pimchip.qat.convert: convert it first")
    given.tensor(images)
    in_range(network, images)  # before BNs are calibrated on them
    if divisors is not None:
        given.an(Sequence, divisors, "divisors", "a list of the chip's, such as [1, 2], is wanted")  # type: ignore[type-abstract]
    copied, spec = copy.deepcopy(network), made.chip
    norms = [m for m in copied.modules() if isinstance(m, _BatchNorm) and m.running_mean is not None]
    if not all(map(is_trained, norms)):
        calibrate_bn(copied, images, batches=1, batch_size=len(images))
    offered = spec.adc.range_divisors if divisors is None else [int(each) for each in divisors]
    found = search_ranges(copied, images, offered, ideal_with(lambda mac: spec_noise(spec, mac)))
    chosen = {each.layer: each.chosen for each in found}
    set_ranges(network, chosen)
    return chosen


def _error(layer: PimLayerModule, name: str, x: Tensor, mac: Mac, behind: Behind) -> float:
    """1 - rho^2 of a layer's PIM and ideal product at an operating point, the mean over channels that vary."""
    x, held, _ = layer.read(x)
    q, geometry = layer.integers(), layer.product_geometry
    lost_by_channel: list[float] = []
    for group in range(layer.groups):
        source, grid = layer.part(x, held, group)
        columns = slice(group * geometry.out_channels, (group + 1) * geometry.out_channels)
        call = Product(mac, geometry, grid, behind(name, layer, mac, group), mac.scale)
        pim_forward(source, q[columns], torch.ones(()), call)
        assert call.moments is not None
        pim, ideal, together = call.moments.variances()
        explained = np.divide(together**2, ideal, out=np.zeros_like(pim), where=ideal > 0)
        # Constant codes carry nothing of their signal.
        lost = np.divide(pim - explained, pim, out=np.ones_like(pim), where=pim > 0)
        lost_by_channel.extend(lost[ideal > 0])
    return float(np.mean(lost_by_channel)) if lost_by_channel else 0.0


def set_ranges(network: nn.Module, divisors: Mapping[str, int]) -> None:
    """Set PIM layers' range divisors by name. Raises InputError for a layer or range that is none, and sets nothing then."""
    layers = {name: m for name, m in network.named_modules() if isinstance(m, PimLayerModule)}
    for name in divisors:
        if name not in layers:
            raise InputError(f"no PIM layer is called {name}; there are {', '.join(layers)}")
    _check_offered(network, {name: [divisor] for name, divisor in divisors.items()})
    for name, divisor in divisors.items():
        layers[name].mac = replace(layers[name].mac, range_divisor=divisor)


def learned_ranges(network: nn.Module, divisors: Sequence[int]) -> dict[str, int]:
    """For each layer with a learned range, the divisor among those offered that is nearest to it in octaves.

    Raises InputError for a divisor that the chip of convert() does not offer. A network with these ranges fixed, and the
    weights of the trained one:

    >>> from pimchip.chip import load_chip
    >>> from pimchip.qat import build_model, convert
    >>> spec, floating = load_chip("sram65"), build_model("mlp", (1, 8, 8), 10)
    >>> network = convert(floating, spec, range="learned")  # and train it
    >>> ranges = learned_ranges(network, spec.adc.range_divisors)
    >>> ranges
    {'layers.4': 1, 'layers.7': 1}
    >>> fixed = convert(floating, spec, range_divisor=ranges)
    >>> state = {name: held for name, held in network.state_dict().items() if not name.endswith("log_range")}
    >>> fixed.load_state_dict(state)
    <All keys matched successfully>
    """
    if not divisors:
        raise InputError("learned ranges are taken to the chip's divisors: name at least one")
    _check_offered(network, divisors)
    out = {}
    for name, layer in network.named_modules():
        if isinstance(layer, PimLayerModule) and layer.options.range == "learned":
            learned = float(layer.log_range.detach())
            out[name] = min(divisors, key=lambda d: (abs(math.log(d) - learned), d))
    return out
