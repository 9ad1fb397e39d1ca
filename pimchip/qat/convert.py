"""convert(module, chip): make a torch network one that the chip can run."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from inspect import signature
from numbers import Real
from pathlib import Path
from typing import Any, get_args

import torch
from torch import nn
from torch.nn.utils.parametrize import is_parametrized

from pimchip.chip import ChipSpec, load_chip
from pimchip.chip.mac import Coding
from pimchip.errors import InputError, PimchipWarning, unknown
from pimchip.qat import given
from pimchip.qat.carried import carry, looks_trained
from pimchip.qat.conversion import remember
from pimchip.qat.fitted import fit
from pimchip.qat.graph import LAYERS, NORMS, layers_before_views, order_of_layers, reads_images
from pimchip.qat.layers import DigitalConv2d, DigitalLinear, QuantizedLayer, none_on_chip
from pimchip.qat.options import PimOptions
from pimchip.qat.pim import Inputs, PimConv2d, PimLayerModule, PimLinear
from pimchip.qat.quantizers import ActQuant
from pimchip.qat.refusals import refuse_layer, refuse_network
from pimchip.qat.scales import kept, without_norm

DIGITAL_WEIGHT_BITS = 8
"""Weights of layers that stay on the processor."""
IMAGE_BITS = 8
"""Pixels are 0..255, fed as 0..1."""
ACTIVATION_SCALE = 0.4
"""Factor of BN's gammas and betas. Activations are clipped at 1, and what a BN as it is initialized gives has a standard
deviation of 1: a third of what is positive would be clipped. With this the clip is at 2.5 standard deviations."""
CHIP_WANTED = (
    "want a built-in chip's name such as 'sram65', the path of a TOML file, or a ChipSpec of pimchip.load_chip"
)
SKIPS = ("first", "last", "shortcut")


@dataclass(frozen=True)
class _Site:
    name: str
    module: nn.Conv2d | nn.Linear
    places: list[tuple[nn.Module, str]]
    """(parent, attribute) of each place where the module is registered."""


def convert(
    module: nn.Module,
    chip: ChipSpec | str | Path,
    *,
    scheme: str | None = None,
    rows: int | None = None,
    weight_bits: int | None = None,
    act_bits: int | None = None,
    dac_bits: int | None = None,
    adc_bits: int | None = None,
    range_divisor: int | Mapping[str, int] | None = None,
    pim_skip: Collection[str] = SKIPS,
    signed_inputs: Mapping[str, Inputs] | None = None,
    activation_scale: float = ACTIVATION_SCALE,
    weight_scale: str | Mapping[str, str] = "auto",
    **options: Any,
) -> nn.Module:
    """A copy of `module` whose Conv2d and Linear layers are PIM layers and whose ReLUs quantize.

    Point options not given are the chip's own. range_divisor may name layers: {"layer1.conv1": 2}. pim_skip: which layers
    stay on the processor, with 8-bit weights: "first" (the first of them to run, which also takes
    the image), "last", "shortcut" (1 x 1 convolutions whose name says shortcut or downsample); warns (PimchipWarning) where
    that leaves the chip nothing. signed_inputs: how layers
    whose inputs can be negative read them, by name: "offset" or "shift" (see pimchip.qat.pim); None: as the network's own
    attribute of that name says, if it has one. Other layers clip them at 0, and warn (PimchipWarning) in their first passes
    where that cuts something off. activation_scale: what the gammas and betas
    of BNs, and of other normalizations that a ReLU reads, are multiplied by, so that activations fit the grid's 0..1; those
    without gammas get it for one (pimchip.qat.fitted). Statistics that BN has gathered, and
    biases beside them, are carried over to that and to the scale of quantized weights (pimchip.qat.carried), so that a
    trained network stays one, as far as its quantization lets it. weight_scale: what quantized weights
    are worth. "adjusted": a deviation of 1 / sqrt(fan), as in the paper; "kept": the root mean square of the float
    weights, as an output wants that no BN and no quantized ReLU follows; "auto" chooses layer by layer
    (pimchip.qat.scales.kept), and of a network that was trained takes the smaller of both where a ReLU follows and no
    norm, as what is clipped is lost; by name, {"attention.q": "kept"}, the others are adjusted. options: how to train,
    the fields of pimchip.qat.options.PimOptions. Weights are kept, computed ones (parametrizations) as they came out,
    but those of a trained network that tanh would bend are made smaller, and worth as much. Layers and quantizers of a
    trained network tell (PimchipWarning) in their first passes in eval mode of much that is clipped, until it is
    trained on. Raises InputError for an operating point that the chip lacks and for NaN, CompileError for a layer that
    cannot be put on it, named.
    """
    asked = locals()
    _refuse_wrong_kinds(module, chip)
    chosen = _options(options)
    spec = chip if isinstance(chip, ChipSpec) else load_chip(chip)
    given.an(Collection, pim_skip, "pim_skip", f"want some of {', '.join(SKIPS)}, or () for none")  # type: ignore[type-abstract]
    pim_skip = [pim_skip] if isinstance(pim_skip, str) else list(pim_skip)
    for name in pim_skip:
        if name not in SKIPS:
            raise InputError(unknown("pim_skip", name, SKIPS))
    own = getattr(module, "signed_inputs", None) if signed_inputs is None else signed_inputs
    signed = dict(given.by_name(own or {}, "signed_inputs"))
    for kind in signed.values():
        if kind not in get_args(Inputs):
            raise InputError(unknown("signed_inputs", str(kind), get_args(Inputs)))
    if not isinstance(weight_scale, str):
        given.by_name(
            weight_scale, "weight_scale", "'auto', 'adjusted', 'kept', or one of the latter two by layer's name"
        )
    if chosen.idle:
        text = (
            f"digital = True trains without the chip's ADC, where {', '.join(chosen.idle)} does nothing: leave it out"
        )
        warnings.warn(text, PimchipWarning, stacklevel=2)
    if chosen.coding == "plus_minus":
        if weight_bits not in (None, 1):
            raise InputError(
                f"weight_bits = {weight_bits}: weights of coding plus_minus have 1 bit; leave weight_bits out"
            )
        weight_bits = None
    divisors = dict(range_divisor) if isinstance(range_divisor, Mapping) else {}
    common = None if isinstance(range_divisor, Mapping) else range_divisor
    if isinstance(activation_scale, bool) or not isinstance(activation_scale, Real) or not 0 < activation_scale <= 16:
        raise InputError(f"activation_scale = {activation_scale}: want a factor above 0, up to 16")
    activation_scale = float(activation_scale)
    refuse_network(module)
    trained = looks_trained(module)
    network = copy.deepcopy(module)
    _make_plain(network)
    fitted = fit(network, activation_scale, trained=trained)
    sites = _sites(network)
    pixels = reads_images(network, sites[0].name)
    for name in (*divisors, *signed):
        if name not in {site.name for site in sites}:
            raise InputError(unknown("layer", name, [site.name for site in sites]))
    _tell_shared(sites)
    free = kept(network, [site.name for site in sites], weight_scale)
    smaller = without_norm(network) if trained and weight_scale == "auto" else set()
    for index, site in enumerate(sites):
        refuse_layer(site.name, site.module)
        first, last = index == 0, index == len(sites) - 1 and index > 0
        on_processor = (
            (first and "first" in pim_skip)
            or (last and "last" in pim_skip)
            or ("shortcut" in pim_skip and _is_shortcut(site))
        )
        if on_processor and divisors.get(site.name) is not None:
            raise InputError(
                f"range_divisor: layer {site.name} stays on the processor (pim_skip) and has no ADC; leave it out"
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
        if chosen.coding != mac.coding:
            bits = 1 if chosen.coding == "plus_minus" else mac.weight_bits
            mac = replace(mac, coding=Coding.parse(chosen.coding), weight_bits=bits)
        new: QuantizedLayer
        if on_processor:
            # The first layer sees pixels, or what a normalization made of them; others see maps on the activations' grid.
            # Neither of the latter needs a second rounding.
            bits = IMAGE_BITS if first and pixels else 0
            digital = DigitalLinear if isinstance(site.module, nn.Linear) else DigitalConv2d
            new = digital(site.module, DIGITAL_WEIGHT_BITS, bits)
        else:
            in_array = PimLinear if isinstance(site.module, nn.Linear) else PimConv2d
            new = in_array(site.module, mac, chosen, inputs=signed.get(site.name, "unsigned"))
        new.name, new.takes_images, new.takes_pixels = site.name, first, first and pixels
        if isinstance(new, PimLayerModule):
            new.offered = spec.adc.range_divisors
        new.was_trained = trained
        new.train(site.module.training)
        if site.name in free or (site.name in smaller and _keeps_smaller(new)):
            new.keep_scale()
        if trained:
            new.straighten()
        for parent, attribute in site.places:
            setattr(parent, attribute, new)
    act = spec.mac(scheme=scheme, act_bits=act_bits, rows=rows, dac_bits=dac_bits, weight_bits=weight_bits).act_bits
    names = {id(child): name for name, child in network.named_modules()}
    for parent in list(network.modules()):
        for attribute, child in list(parent._modules.items()):
            if isinstance(child, nn.ReLU | nn.ReLU6):
                quantizer = ActQuant(act, learned=chosen.clip == "learned").train(child.training)
                quantizer.name = names[id(child)] if trained else ""
                setattr(parent, attribute, quantizer)
    for name in layers_before_views(module):
        network.get_submodule(name).register_forward_hook(_as_torch_lays_it)
    carry(module, network, {name: activation_scale for name in fitted})
    keywords = {name: asked[name] for name in _keywords()}
    remember(network, spec, {**keywords, "pim_skip": pim_skip, **options})
    if not pim_layers(network):
        warnings.warn(none_on_chip([site.name for site in sites]), PimchipWarning, stacklevel=2)
    return network


@torch.enable_grad()  # without, what is computed seems to be constant
def _make_plain(network: nn.Module) -> None:
    """Give layers and normalizations whose parameters are computed (torch.nn.utils.parametrize) what came out of it.

    torch's remove_parametrizations would take them from the class, which the network that this is a copy of shares.
    """
    for module in list(network.modules()):
        if isinstance(module, LAYERS + NORMS) and is_parametrized(module):
            computed = module.parametrizations
            assert isinstance(computed, nn.ModuleDict)
            found = {name: getattr(module, name) for name in computed}
            module.__class__ = type(module).__bases__[0]
            del module.parametrizations
            for name, value in found.items():
                module.register_parameter(name, nn.Parameter(value.detach().clone(), value.requires_grad))


@torch.no_grad()
def _keeps_smaller(layer: QuantizedLayer) -> bool:
    """Whether kept weights would be worth less than adjusted ones: of a trained layer's sums the grid then holds more."""
    q = layer.integers()
    adjusted = layer.scale(q)
    layer.keep_scale()
    smaller = layer.scale(q) < adjusted
    layer.scale_kept = None
    return smaller


def _as_torch_lays_it(module: nn.Module, inputs: Any, output: torch.Tensor) -> torch.Tensor:
    """A hook: maps of quantized layers lie with their channels last, of which a view as of a float network's is none."""
    return output.contiguous()


def trained_on(network: nn.Module) -> None:
    """Say that a converted network was trained since: what is clipped is then no surprise."""
    for module in network.modules():
        if isinstance(module, QuantizedLayer):
            module.was_trained = False
        elif isinstance(module, ActQuant):
            module.name = ""


def pim_layers(network: nn.Module) -> dict[str, PimLayerModule]:
    """The PIM layers of a converted network by name."""
    return {name: m for name, m in network.named_modules() if isinstance(m, PimLayerModule)}


def as_if_seen(network: nn.Module) -> nn.Module:
    """The network, or where layers of signed inputs have seen no data yet, a copy in which these have inputs within -1..1: to
    know, before it is trained, whether and how it compiles."""
    unseen = [
        name for name, layer in pim_layers(network).items() if layer.inputs != "unsigned" and not layer.inputs_seen
    ]
    if not unseen:
        return network
    seen = copy.deepcopy(network)
    for name in unseen:
        layer = seen.get_submodule(name)
        assert isinstance(layer, PimLayerModule)
        layer.inputs_seen.fill_(1)
        layer.lowest.fill_(-1.0)
        layer.highest.fill_(1.0)
    return seen


def _sites(network: nn.Module) -> list[_Site]:
    """Layers in the order in which they run, of registration where that is not known or not all run. One module under
    several names is one layer, called by its first name."""
    order = {id(module): (index, name) for index, (name, module) in enumerate(network.named_modules())}
    found: dict[int, _Site] = {}
    if isinstance(network, nn.Conv2d | nn.Linear):
        raise InputError("the network is a single layer, with no place for another: convert nn.Sequential(layer)")
    for parent in network.modules():
        for attribute, child in parent._modules.items():
            if isinstance(child, nn.Conv2d | nn.Linear):
                site = found.setdefault(id(child), _Site(order[id(child)][1], child, []))
                site.places.append((parent, attribute))
    if not found:
        raise InputError("the network has no Conv2d or Linear layer to put on the chip")
    sites = sorted(found.values(), key=lambda site: order[id(site.module)][0])
    run = order_of_layers(network)
    return sorted(sites, key=lambda site: run.index(site.name)) if len(run) == len(sites) else sites


def _tell_shared(sites: Sequence[_Site]) -> None:
    """Warn of layers that have a weight in common, as each converted one has its own."""
    names: dict[int, list[str]] = {}
    for site in sites:
        names.setdefault(id(site.module.weight), []).append(site.name)
    for shared in names.values():
        if len(shared) > 1:
            text = (
                f"layers {', '.join(shared)} share a weight; converted each has its own, and training moves them apart"
            )
            warnings.warn(text, PimchipWarning, stacklevel=3)


def _is_shortcut(site: _Site) -> bool:
    name = site.name.lower()
    return (
        isinstance(site.module, nn.Conv2d)
        and tuple(site.module.kernel_size) == (1, 1)
        and ("shortcut" in name or "downsample" in name)
    )


def _refuse_wrong_kinds(network: object, chip: object) -> None:
    found = given.module(network, "what is to be converted")
    given.an(ChipSpec | str | Path, chip, "chip", CHIP_WANTED)  # type: ignore[arg-type]
    for name, module in found.named_modules():
        if isinstance(module, QuantizedLayer | ActQuant):
            at = f"its {name} is" if name else "it is"
            raise InputError(
                f"the network is converted already ({at} {given.described(module)}): convert the float network, once, with "
                "all options"
            )


def _options(asked: dict[str, Any]) -> PimOptions:
    known = [field.name for field in fields(PimOptions)]
    for name in asked:
        if name not in known:
            raise InputError(unknown("option", name, [*known, *_keywords()]))
    return PimOptions(**asked)


def _keywords() -> list[str]:
    """Those of convert() that are no PimOptions."""
    return [p.name for p in signature(convert).parameters.values() if p.kind is p.KEYWORD_ONLY]
