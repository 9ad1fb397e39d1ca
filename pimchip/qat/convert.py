"""convert(module, chip): make a torch network one that the chip can run."""

from __future__ import annotations

import copy
from collections.abc import Collection, Mapping
from dataclasses import dataclass

from torch import nn

from pimchip.chip import ChipSpec, load_chip
from pimchip.errors import CompileError, InputError, unknown
from pimchip.qat.autograd import Backward
from pimchip.qat.layers import (
    DigitalConv2d,
    DigitalLinear,
    Eta,
    PimConv2d,
    PimLayerModule,
    PimLinear,
    PimOptions,
)
from pimchip.qat.quantizers import ActQuant

DIGITAL_WEIGHT_BITS = 8
"""Weights of layers that stay on the processor."""
IMAGE_BITS = 8
"""Pixels are 0..255, fed as 0..1."""
SKIPS = ("first", "last", "shortcut")


@dataclass(frozen=True)
class _Site:
    name: str
    module: nn.Conv2d | nn.Linear
    places: list[tuple[nn.Module, str]]
    """(parent, attribute) of each place where the module is registered."""


def convert(
    module: nn.Module,
    chip: ChipSpec | str,
    *,
    scheme: str | None = None,
    rows: int | None = None,
    weight_bits: int | None = None,
    act_bits: int | None = None,
    dac_bits: int | None = None,
    adc_bits: int | None = None,
    range_divisor: int | Mapping[str, int] | None = None,
    pim_skip: Collection[str] = SKIPS,
    backward: Backward = "gste",
    eta: Eta = "const",
    digital: bool = False,
    noise_lsb: float = 0.0,
) -> nn.Module:
    """A copy of `module` whose Conv2d and Linear layers are PIM layers and whose ReLUs quantize.

    Options not given are the chip's own operating point. range_divisor may name layers: {"layer1.conv1": 2}.
    pim_skip: which layers stay on the processor, with 8-bit weights: "first" (the first of them in the order of
    registration, which also takes the image), "last", "shortcut" (1 x 1 convolutions whose name says shortcut or
    downsample). digital: train without the ADC (conventional quantization). noise_lsb:
    Gaussian noise added before each conversion in training, LSB. Weights are kept. Raises InputError for an
    operating point that the chip lacks, CompileError for a layer it cannot hold, named.
    """
    if not 0 <= noise_lsb <= 64:
        raise InputError(f"noise_lsb = {noise_lsb}: want 0..64")
    spec = load_chip(chip) if isinstance(chip, str) else chip
    for name in pim_skip:
        if name not in SKIPS:
            raise InputError(unknown("pim_skip", name, SKIPS))
    if eta not in ("const", "auto", "learnable"):
        raise InputError(unknown("eta", eta, ("const", "auto", "learnable")))
    if backward not in ("gste", "ste"):
        raise InputError(unknown("backward", backward, ("gste", "ste")))
    divisors = dict(range_divisor) if isinstance(range_divisor, Mapping) else {}
    common = None if isinstance(range_divisor, Mapping) else range_divisor
    network = copy.deepcopy(module)
    sites = _sites(network)
    for name in divisors:
        if name not in {site.name for site in sites}:
            raise InputError(unknown("layer", name, [site.name for site in sites]))
    options = PimOptions(backward, eta, digital, noise_lsb)
    for index, site in enumerate(sites):
        _refuse(site)
        first, last = index == 0, index == len(sites) - 1 and index > 0
        on_processor = (
            (first and "first" in pim_skip)
            or (last and "last" in pim_skip)
            or ("shortcut" in pim_skip and _is_shortcut(site))
        )
        mac = spec.mac(
            scheme=scheme,
            rows=rows,
            weight_bits=weight_bits,
            act_bits=act_bits,
            dac_bits=dac_bits,
            adc_bits=adc_bits,
            range_divisor=divisors.get(site.name, common),
        )
        new: nn.Module
        if on_processor:
            # The first layer sees pixels; others see maps on the activations' grid, which need no second rounding.
            bits = IMAGE_BITS if first else 0
            kind = DigitalLinear if isinstance(site.module, nn.Linear) else DigitalConv2d
            new = kind(site.module, DIGITAL_WEIGHT_BITS, bits)
        else:
            new = (PimLinear if isinstance(site.module, nn.Linear) else PimConv2d)(site.module, mac, options)
        for parent, attribute in site.places:
            setattr(parent, attribute, new)
    act = spec.mac(scheme=scheme, act_bits=act_bits, rows=rows, dac_bits=dac_bits, weight_bits=weight_bits).act_bits
    for parent in list(network.modules()):
        for attribute, child in list(parent._modules.items()):
            if isinstance(child, nn.ReLU | nn.ReLU6):
                setattr(parent, attribute, ActQuant(act))
    return network


def pim_layers(network: nn.Module) -> dict[str, PimLayerModule]:
    """The PIM layers of a converted network by name."""
    return {name: m for name, m in network.named_modules() if isinstance(m, PimLayerModule)}


def _sites(network: nn.Module) -> list[_Site]:
    """Layers in the order of registration. One module under several names is one layer, called by its first name."""
    order = {id(module): (index, name) for index, (name, module) in enumerate(network.named_modules())}
    found: dict[int, _Site] = {}
    for parent in network.modules():
        for attribute, child in parent._modules.items():
            if isinstance(child, nn.Conv2d | nn.Linear):
                site = found.setdefault(id(child), _Site(order[id(child)][1], child, []))
                site.places.append((parent, attribute))
    if not found:
        raise InputError("the network has no Conv2d or Linear layer to put on the chip")
    return sorted(found.values(), key=lambda site: order[id(site.module)][0])


def _is_shortcut(site: _Site) -> bool:
    name = site.name.lower()
    return (
        isinstance(site.module, nn.Conv2d)
        and tuple(site.module.kernel_size) == (1, 1)
        and ("shortcut" in name or "downsample" in name)
    )


def _refuse(site: _Site) -> None:
    layer = site.module
    if isinstance(layer, nn.Linear):
        return
    wrong = None
    if layer.groups != 1:
        wrong = f"groups = {layer.groups}"
    elif tuple(layer.dilation) != (1, 1):
        wrong = f"dilation = {tuple(layer.dilation)}"
    elif isinstance(layer.padding, str) or layer.padding_mode != "zeros":
        wrong = f"padding = {layer.padding!r}, padding_mode = {layer.padding_mode!r}"
    if wrong:
        raise CompileError(
            f"layer {site.name} (Conv2d): {wrong} is not supported; use groups 1, dilation 1, numeric zero padding"
        )
