"""Networks that Brevitas trained (https://github.com/Xilinx/brevitas): their integers and scales, taken as they are.

Its QuantConv2d and QuantLinear become layers of fixed integer weights, in the array or on the processor; QuantReLU and
QuantIdentity become quantizers of fixed scale. Nothing is quantized anew, so what the network computes on converters
that lose nothing is what Brevitas computes. What the chip's arithmetic cannot hold exactly is refused by name.

Modules are told by what they have (weight_quant, act_quant), so that nothing here imports Brevitas.
"""

from __future__ import annotations

import copy
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, fx, nn

from pimchip.chip import ChipSpec, load_chip
from pimchip.errors import CompileError, InputError, unknown
from pimchip.qat import given
from pimchip.qat.layers import DigitalConv2d, DigitalLinear, QuantizedLayer
from pimchip.qat.options import PimOptions
from pimchip.qat.pim import PimConv2d, PimLayerModule, PimLinear

SKIPS = ("first", "last")
POINT = {"scheme", "rows", "dac_bits", "adc_bits", "range_divisor"}
DIGITAL_BITS = 8
"""Weights of layers that stay on the processor have up to so many."""
_SAME_GRID = (nn.Identity, nn.Dropout, nn.Dropout2d, nn.Flatten, nn.MaxPool2d)
_SAME_GRID_CALLS = (torch.flatten, nn.functional.max_pool2d, "flatten", "view", "reshape")


class GridQuant(nn.Module):
    """x -> clip(round(x / scale), low, high) * scale, round half to even as torch rounds."""

    def __init__(self, scale: float, low: int, high: int) -> None:
        super().__init__()
        self.scale, self.low, self.high = scale, low, high

    def forward(self, x: Tensor) -> Tensor:
        """x: any shape."""
        return torch.clamp(torch.round(x / self.scale), self.low, self.high) * self.scale

    def extra_repr(self) -> str:
        return f"{self.low}..{self.high}, {self.scale:.6g} each"


class _Fixed(QuantizedLayer):
    """Integer weights that are not trained, and what each is worth, one number or one an output."""

    units: Tensor

    def fix(self, integers: Tensor, units: Tensor, bias: Tensor | None) -> None:
        """integers: [out, in / groups, kh, kw]; units: float64, one or [out]."""
        self.weight.data = integers.to(torch.float32).clone()
        self.weight.requires_grad_(False)
        self.register_buffer("units", units.to(torch.float64).clone())
        if bias is not None:
            self.bias = nn.Parameter(bias.detach().clone(), False)

    def integers(self) -> Tensor:
        """As they were imported."""
        return self.weight

    def scale(self, integers: Tensor) -> float:
        """The largest unit of an output."""
        return float(self.units.max())

    def ratios(self) -> Tensor | None:
        """Unit of each output over the layer's, float32 [out]; None where all are one."""
        return (self.units / self.units.max()).to(torch.float32) if self.units.numel() > 1 else None


class _FixedDigital(_Fixed):
    def _product(self, x: Tensor, w: Tensor) -> Tensor:
        ratios = self.ratios()
        y = super()._product(x, w)
        return y if ratios is None else y * ratios[None, :, None, None]


class _FixedPim(_Fixed, PimLayerModule):
    """grid: step and zero point of what it reads."""

    grid: tuple[float, int]

    def _signed_range(self, x: Tensor) -> tuple[float, int]:
        return self.grid

    def signed_range(self) -> tuple[float, int]:
        """As they were imported."""
        return self.grid


class ImportedPimConv2d(_FixedPim, PimConv2d):
    """A convolution in the array."""


class ImportedPimLinear(_FixedPim, PimLinear):
    """A linear layer in the array."""


class ImportedConv2d(_FixedDigital, DigitalConv2d):
    """A convolution on the processor."""


class ImportedLinear(_FixedDigital, DigitalLinear):
    """A linear layer on the processor."""


def from_brevitas(
    network: nn.Module, chip: ChipSpec | str | Path, *, pim_skip: Collection[str] = SKIPS, **point: Any
) -> nn.Module:
    """A copy of a network that Brevitas trained, in eval mode, for pimchip.compile.

    pim_skip: which layers stay on the processor, "first" and "last" of them to run. point: fields of the operating point, as
    convert() takes them (scheme, rows, dac_bits, adc_bits, range_divisor); bits of weights and activations are the
    network's own. Raises InputError for an operating point that the chip lacks, CompileError, naming every module, for what is
    not exactly what the array and the processor compute: other quantized modules, quantized biases and outputs, zero
    points, weights or activations of more bits, groups of scales, other rounding.

    >>> import brevitas.nn as qnn
    >>> network = nn.Sequential(
    ...     qnn.QuantIdentity(bit_width=4), qnn.QuantConv2d(3, 8, 3, weight_bit_width=4), nn.BatchNorm2d(8),
    ...     qnn.QuantReLU(bit_width=4), nn.Flatten(), qnn.QuantLinear(8 * 36, 5, bias=True, weight_bit_width=4),
    ... )
    >>> _ = network(torch.rand(4, 3, 8, 8))  # and train it
    >>> from_brevitas(network.eval(), "sram65", pim_skip=("last",))[1].mac.weight_bits
    4
    """
    given.module(network, "what is to be imported")
    for name in pim_skip:
        if name not in SKIPS:
            raise InputError(unknown("pim_skip", name, SKIPS))
    if wrong := sorted(point.keys() - POINT):
        raise InputError(unknown("keyword of from_brevitas", wrong[0], [*POINT, "pim_skip"]))
    spec = chip if isinstance(chip, ChipSpec) else load_chip(chip)
    made = copy.deepcopy(network).eval()
    modules = {name: module for name, module in made.named_modules() if _is_quantized(module)}
    outermost = {n: m for n, m in modules.items() if not any(n.startswith(f"{other}.") for other in modules if other)}
    layers = [name for name, module in outermost.items() if hasattr(module, "weight_quant")]
    if not layers:
        raise InputError("the network has no quantized layer of Brevitas: convert() takes networks of torch's layers")
    graph = _graph(made, outermost)
    run = [str(node.target) for node in graph.nodes if node.op == "call_module" and str(node.target) in layers]
    skipped = {name for name, where in ((run[0], "first"), (run[-1], "last")) if run and where in pim_skip}
    refused: dict[str, CompileError] = {}
    quantizers: dict[str, GridQuant | None] = {}
    for name in (name for name in outermost if name not in layers):
        try:
            quantizers[name] = _quantizer(name, outermost[name])
        except CompileError as error:
            # What reads it is looked at all the same, as if it gave what the chip's inputs are.
            refused[name], quantizers[name] = error, GridQuant(1.0, 0, (1 << spec.operating.act_bits) - 1)
    new: dict[str, nn.Module] = {name: found for name, found in quantizers.items() if found is not None}
    for node in graph.nodes:
        if node.op == "call_module" and str(node.target) in layers:
            name = str(node.target)
            try:
                grid = None if name in skipped else _grid(name, node, quantizers, made)
                new[name] = _layer(name, outermost[name], spec, grid, point)
            except CompileError as error:
                refused[name] = error
    if refused:
        raise CompileError("; ".join(str(refused[name]) for name in outermost if name in refused))
    for name in outermost:
        parent, _, attribute = name.rpartition(".")
        setattr(made.get_submodule(parent), attribute, new.get(name, nn.Identity()))
    first = new[run[0]]
    assert isinstance(first, QuantizedLayer)
    first.takes_images = True
    return made


def has_quantized_layers(network: nn.Module) -> bool:
    """Whether Brevitas quantizes some of its layers' weights."""
    return any(_is_quantized(module) and hasattr(module, "weight_quant") for module in network.modules())


def _is_quantized(module: nn.Module) -> bool:
    return type(module).__module__.startswith("brevitas.nn")


def _graph(network: nn.Module, quantized: Mapping[str, nn.Module]) -> fx.Graph:
    class Tracer(fx.Tracer):
        def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
            return module_qualified_name in quantized or super().is_leaf_module(m, module_qualified_name)

    try:
        return Tracer().trace(network)
    except Exception as error:  # any failure inside the user's forward
        said = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise CompileError(f"the network's forward cannot be traced: {said}") from error


def _refuse(name: str, module: nn.Module, why: str) -> CompileError:
    return CompileError(f"module {name} ({type(module).__name__}): {why}")


def _bounds(name: str, module: nn.Module, proxy: Any) -> tuple[float, int, int]:
    """Scale and range of an activation's quantizer."""
    scale, zero, bits = proxy.scale(), proxy.zero_point(), proxy.bit_width()
    if scale is None or scale.numel() != 1 or zero is None or float(zero) != 0:
        raise _refuse(
            name, module, "has no scale, several, or a zero point of its own; one scale and no zero point is supported"
        )
    if str(proxy.rounding_mode).upper() != "ROUND":
        raise _refuse(name, module, f"rounds by {proxy.rounding_mode}; rounding to the nearest is supported")
    scale, width = scale.detach(), int(bits)
    if not 1 <= width <= 8:
        raise _refuse(name, module, f"has {width} bits; 1 to 8 are supported")
    if proxy.is_signed:
        return float(scale), -(1 << (width - 1)) + bool(proxy.is_narrow_range), (1 << (width - 1)) - 1
    return float(scale), 0, (1 << width) - 1


def _quantizer(name: str, module: nn.Module) -> GridQuant | None:
    """Of an activation; None of a QuantIdentity that does nothing."""
    kind, proxy = type(module).__name__, getattr(module, "act_quant", None)
    if kind not in ("QuantReLU", "QuantIdentity") or proxy is None:
        raise _refuse(name, module, "is not supported; QuantConv2d, QuantLinear, QuantReLU and QuantIdentity are")
    if getattr(module.input_quant, "is_quant_enabled", False):
        raise _refuse(name, module, "quantizes its input before it quantizes its output")
    if not proxy.is_quant_enabled:
        if kind == "QuantReLU":
            raise _refuse(name, module, "does not quantize; use nn.ReLU, or give it a bit_width")
        return None
    scale, low, high = _bounds(name, module, proxy)
    if kind == "QuantReLU" and low:
        raise _refuse(name, module, "is quantized as if it could be negative")
    return GridQuant(scale, low, high)


def _grid(
    name: str, node: fx.Node, quantizers: Mapping[str, GridQuant | None], network: nn.Module
) -> tuple[float, int, int]:
    """Scale and range of what a layer in the array reads: of the quantizer before it, or of its own."""
    module = network.get_submodule(name)
    own: Any = module.input_quant
    if own.is_quant_enabled:
        raise _refuse(name, module, "has an input_quant of its own; put a QuantIdentity before it")
    source = node.all_input_nodes[0]
    while source.op != "placeholder":
        if source.op == "call_module":
            target = str(source.target)
            found = quantizers.get(target)
            if found is not None:
                return found.scale, found.low, found.high
            inner = network.get_submodule(target)
            if target not in quantizers and not isinstance(inner, _SAME_GRID):
                break
        elif source.target not in _SAME_GRID_CALLS:
            break
        source = source.all_input_nodes[0]
    raise _refuse(name, module, "reads what no quantizer gave; put a QuantIdentity or QuantReLU before it")


def _layer(
    name: str, module: Any, spec: ChipSpec, grid: tuple[float, int, int] | None, point: Mapping[str, Any]
) -> QuantizedLayer:
    linear = type(module).__name__ == "QuantLinear"
    if not linear and type(module).__name__ != "QuantConv2d":
        raise _refuse(name, module, "is not supported; QuantConv2d, QuantLinear, QuantReLU and QuantIdentity are")
    for what in ("output_quant", "bias_quant", "input_quant"):
        if getattr(getattr(module, what), "is_quant_enabled", False):
            raise _refuse(name, module, f"has a {what} of its own, which is not supported: use None")
    if not module.weight_quant.is_quant_enabled:
        raise _refuse(name, module, "has weights that are not quantized")
    if not linear and (isinstance(module.padding, str) or module.padding_mode != "zeros"):
        raise _refuse(name, module, "has a padding that is not numeric zero padding")
    with torch.no_grad():
        weights = module.quant_weight()
        q, scale = torch.round(weights.value / weights.scale), weights.scale.detach().double()
    if not (torch.isfinite(q).all() and torch.isfinite(scale).all()):
        raise _refuse(name, module, "has weights or scales that are not finite")
    if bool((weights.zero_point != 0).any()):
        raise _refuse(name, module, "has weights with a zero point")
    outputs = q.shape[0]
    if scale.numel() not in (1, outputs):
        raise _refuse(name, module, f"has {scale.numel()} scales; one, or one an output, is supported")
    bits = int(weights.bit_width)
    top, largest = (1 << (min(bits, DIGITAL_BITS) - 1)) - 1, int(q.abs().max())
    if bits > DIGITAL_BITS or largest > max(top, 1):
        raise _refuse(
            name, module, f"has weights of {bits} bits up to {largest}; up to {top} is supported: narrow range"
        )
    plain = nn.Linear(1, 1) if linear else nn.Conv2d(1, 1, 1)
    for key in (
        "in_features",
        "out_features",
        "in_channels",
        "out_channels",
        "kernel_size",
        "stride",
        "padding",
        "dilation",
        "groups",
    ):
        if hasattr(plain, key):
            setattr(plain, key, getattr(module, key))
    plain.weight, plain.bias = nn.Parameter(q), None
    made: _Fixed
    if grid is None:
        made = (ImportedLinear if linear else ImportedConv2d)(plain, DIGITAL_BITS, 0)
    else:
        step, low, high = grid
        width = (high - low).bit_length()
        try:
            mac = spec.mac(weight_bits=bits, act_bits=width, **point)
        except InputError as error:
            raise _refuse(name, module, f"has weights of {bits} bits and activations of {width}: {error}") from None
        made = (ImportedPimLinear if linear else ImportedPimConv2d)(plain, mac, PimOptions(), inputs="shift")
        assert isinstance(made, _FixedPim)
        made.grid, made.offered = (step, -low), spec.adc.range_divisors
    made.fix(q if not linear else q[:, :, None, None], scale.flatten(), module.bias)
    made.name = name
    return made.eval()
