"""Lowering: nodes to integer steps. Real values are followed as integers times a scale; nothing is rounded twice.

What a layer leaves is pending: accumulators with a normalization still to be applied. It becomes a map when a reader
says in which form it wants it: activations (on the grid of the quantizer), wide (16 more binary places, for sums of
branches) or logits.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from pimchip.chip import ChipSpec, Geometry, Mac
from pimchip.compiler.mapping import Mapper
from pimchip.compiler.records import (
    WIDE_BITS,
    AddStep,
    DigitalStep,
    LayerRecord,
    NormRecord,
    PimStep,
    PoolStep,
    RequantizeStep,
    Step,
)
from pimchip.compiler.trace import Node, numpy64
from pimchip.compiler.values import Pending, PendingSum, Result, Shape, Value
from pimchip.errors import CompileError, InputError
from pimchip.qat.layers import QuantizedLayer
from pimchip.qat.pim import PimLayerModule

WIDE_LIMIT = 1 << 30
LOGIT_STEPS = 256
"""Integer logits hold this many steps to one accumulator count, for the bias."""


@dataclass
class Lowering:
    """State of one compilation."""

    spec: ChipSpec
    mapper: Mapper
    act_bits: int
    steps: list[Step] = field(default_factory=list)
    layers: dict[str, LayerRecord] = field(default_factory=dict)
    norms: dict[str, NormRecord] = field(default_factory=dict)
    tensors: dict[str, NDArray[Any]] = field(default_factory=dict)
    buffers: int = 1
    _made: dict[tuple[int, str], Value] = field(default_factory=dict)
    _kept: list[Result] = field(default_factory=list)

    def buffer(self) -> int:
        self.buffers += 1
        return self.buffers - 1

    # -- layers ---------------------------------------------------------------------------------------------------

    def layer(self, node: Node, source: Result) -> Pending:
        module = node.module
        assert isinstance(module, QuantizedLayer)
        name, geometry = _name(node), module.geometry
        if name in self.layers:
            raise CompileError(f"{node.where} runs twice; give each use a module of its own")
        if module.training_only:
            raise CompileError(
                f"layer {name}: {', '.join(module.training_only)}: this trains, but programs for the chip cannot hold it yet"
            )
        if not torch.isfinite(module.weight).all():
            raise InputError(
                f"layer {name}: its weights hold NaN or infinite values; train again from an earlier checkpoint"
            )
        with torch.no_grad():
            q = module.integers()
        weights = q.to(torch.int8).cpu().numpy()
        unit = module.scale(q)
        x = self.activations(source, module.act_bits, node) if module.act_bits else self.stored(source, node)
        try:
            out = geometry.output_shape(x.shape)
        except InputError as error:
            raise CompileError(f"{node.where} {error}") from None
        dst = self.buffer()
        if isinstance(module, PimLayerModule):
            mac = module.mac
            self.spec.check(mac)
            eta = float(module.eta.detach())
            unit = unit / ((1 << mac.act_bits) - 1) * mac.scale * eta
            if not 0 < unit < math.inf:
                raise InputError(f"layer {name}: eta = {eta}; a positive forward scale is needed")
            acc_max = _pim_bound(name, mac, geometry)
            matrix = np.ascontiguousarray(weights.reshape(geometry.out_channels, -1).T)
            self._record(name, module, "pim", matrix, out, mac)
            self.steps.append(PimStep(layer=name, src=x.buffer, dst=dst))
        else:
            unit *= x.scale
            peak = max(abs(x.low), abs(x.high))
            acc_max = int(np.abs(weights.astype(np.int64)).sum(axis=(1, 2, 3)).max()) * peak
            if acc_max >= 1 << 31:
                raise CompileError(f"{node.where} could pass 32-bit accumulators ({acc_max}); quantize its input")
            self._record(name, module, "digital", weights, out, None)
            self.steps.append(DigitalStep(layer=name, src=x.buffer, dst=dst))
        self._norm(name, geometry.out_channels, unit, None, module.bias)
        return Pending(dst, out, unit, max(acc_max, 1), name, name)

    def _record(
        self,
        name: str,
        module: QuantizedLayer,
        kind: Literal["pim", "digital"],
        w: NDArray[np.int8],
        out: Shape,
        mac: Mac | None,
    ) -> None:
        g = module.geometry
        self.tensors[f"weight.{name}"] = w
        fields = None if mac is None else {k: v if isinstance(v, int) else str(v) for k, v in _mac_fields(mac).items()}
        self.layers[name] = LayerRecord(
            kind=kind,
            in_channels=g.in_channels,
            out_channels=g.out_channels,
            kernel=g.kernel,
            stride=g.stride,
            padding=g.padding,
            positions=out[1] * out[2],
            mac=fields,
            tiles=() if mac is None else self.mapper.place(name, mac, g),
        )

    def _norm(self, layer: str, channels: int, unit: float, bn: nn.Module | None, bias: torch.Tensor | None) -> None:
        """Write (or, with a BN, replace) the normalization of a layer."""
        if bn is None:
            values = {"gamma": None, "beta": None, "mean": None, "var": None, "bias": bias}
            eps = 0.0
        else:
            assert isinstance(bn, nn.BatchNorm2d | nn.BatchNorm1d)
            values = {"gamma": bn.weight, "beta": bn.bias, "mean": bn.running_mean, "var": bn.running_var}
            eps = bn.eps
        ones = {"gamma": 1.0, "var": 1.0}
        for key, tensor in values.items():
            array = numpy64(tensor, channels, ones.get(key, 0.0))
            if not np.all(np.isfinite(array)):
                raise InputError(f"layer {layer}: normalization {key} holds NaN or infinite values; train again")
            self.tensors[f"norm.{layer}.{key}"] = array
        self.norms[layer] = NormRecord(layer=layer, unit=unit, eps=eps, calibrated=bn is not None)

    def norm(self, node: Node, source: Result) -> Pending:
        bn = node.module
        assert isinstance(bn, nn.BatchNorm2d | nn.BatchNorm1d)
        if not isinstance(source, Pending) or source.relu or self.norms[source.norm].calibrated:
            images = isinstance(source, Value) and source.buffer == 0
            mend = (
                ": put it after the first layer, which takes out the images' mean and scale as well" if images else ""
            )
            raise CompileError(f"{node.where} must follow a layer directly, to be folded into its requantization{mend}")
        if bn.running_mean is None or bn.num_features != source.shape[0]:
            raise CompileError(f"{node.where} has no running statistics or another number of channels")
        self._norm(source.layer, source.shape[0], source.unit, bn, None)
        return source

    # -- forms ----------------------------------------------------------------------------------------------------

    def activations(self, source: Result, bits: int, node: Node) -> Value:
        """On the grid k / (2^bits - 1), 0..2^bits - 1."""
        high = (1 << bits) - 1
        if isinstance(source, Value) and source.scale == 1 / high and source.low >= 0 and source.high <= high:
            return source
        return self._make(source, f"act{bits}", 1 / high, 0, high, node)

    def wide(self, source: Result, node: Node) -> Value:
        """With WIDE_BITS binary places below an activation step."""
        low = 0 if not isinstance(source, Value) and source.relu else -WIDE_LIMIT
        return self._make(source, "wide", self.wide_scale, low, WIDE_LIMIT, node)

    @property
    def wide_scale(self) -> float:
        return 1 / ((1 << self.act_bits) - 1) / (1 << WIDE_BITS)

    def stored(self, source: Result, node: Node) -> Value:
        """As it is if it is a map; wide otherwise."""
        return source if isinstance(source, Value) else self.wide(source, node)

    def _make(self, source: Result, form: str, scale: float, low: int, high: int, node: Node) -> Value:
        key = (id(source), form)
        if key in self._made:
            return self._made[key]
        dst = self.buffer()
        if isinstance(source, PendingSum):
            shift = round(np.log2(scale / source.scale))
            if source.scale * 2.0**shift != scale:
                raise CompileError(f"{node.where} wants another activation width than the sum before it")
            self.steps.append(
                AddStep(
                    a=source.a.buffer,
                    b=source.b.buffer,
                    dst=dst,
                    factors=source.factors,
                    shift=shift,
                    low=low,
                    high=high,
                )
            )
        else:
            pending = isinstance(source, Pending)
            self.steps.append(
                RequantizeStep(
                    norm=source.norm if isinstance(source, Pending) else None,
                    src=source.buffer,
                    dst=dst,
                    unit=source.unit if isinstance(source, Pending) else source.scale,
                    scale=scale,
                    low=low,
                    high=high,
                    acc_max=source.acc_max if pending else max(abs(source.low), abs(source.high), 1),  # type: ignore[union-attr]
                    channels=source.shape[0],
                )
            )
        self._kept.append(source)  # ids stay unique while the object lives
        self._made[key] = Value(dst, source.shape, scale, low, high)
        return self._made[key]

    # -- other operations -----------------------------------------------------------------------------------------

    def relu(self, node: Node, source: Result) -> Result:
        if isinstance(source, Value):
            return source if source.low >= 0 else self._make(source, "relu", source.scale, 0, source.high, node)
        return replace(source, relu=True)

    def add(self, node: Node, a: Result, b: Result) -> PendingSum:
        if a.shape != b.shape:
            raise CompileError(f"{node.where} adds maps of shapes {list(a.shape)} and {list(b.shape)}")
        values = tuple(self.stored(s, node) for s in (a, b))
        factors = [v.scale / self.wide_scale for v in values]
        if any(abs(f - round(f)) > 1e-9 * f or not 1 <= round(f) < 1 << 24 for f in factors):
            raise CompileError(
                f"{node.where} adds maps of scales that are no multiples of one another; quantize them first"
            )
        return PendingSum(values[0], values[1], (round(factors[0]), round(factors[1])), self.wide_scale)

    def pool(self, node: Node, source: Result) -> Value:
        x, module = self.stored(source, node), node.module
        _, h, w = x.shape
        if isinstance(module, nn.AdaptiveAvgPool2d):
            if module.output_size not in (1, (1, 1)):
                raise CompileError(f"{node.where} has output_size {module.output_size}; 1 is supported")
            kernel, stride, padding, kind = (h, w), (h, w), (0, 0), "sum"
        else:
            assert isinstance(module, nn.MaxPool2d | nn.AvgPool2d)
            kernel, padding = _pair(module.kernel_size), _pair(module.padding)
            if not all(0 <= p <= k // 2 for p, k in zip(padding, kernel, strict=True)):  # torch, too, refuses to run it
                raise CompileError(
                    f"{node.where} has padding {padding} for a kernel of {kernel[0]}x{kernel[1]}; up to half of it is wanted"
                )
            stride = _pair(module.stride)
            kind = "max" if isinstance(module, nn.MaxPool2d) else "sum"
            plain = getattr(module, "dilation", 1) in (1, (1, 1)) and not module.ceil_mode
            plain = plain and not getattr(module, "return_indices", False)
            if isinstance(module, nn.AvgPool2d):
                plain = plain and module.divisor_override is None and (module.count_include_pad or padding == (0, 0))
            if not plain:
                raise CompileError(
                    f"{node.where} has dilation, ceil_mode, a divisor, indices or excludes padding; use plain pooling"
                )
        out = (
            x.shape[0],
            (h + 2 * padding[0] - kernel[0]) // stride[0] + 1,
            (w + 2 * padding[1] - kernel[1]) // stride[1] + 1,
        )
        if min(out) < 1:
            raise CompileError(f"{node.where} does not fit a map of {h}x{w}")
        dst, size = self.buffer(), kernel[0] * kernel[1] if kind == "sum" else 1
        if max(abs(x.low), abs(x.high)) * size >= 1 << 31:
            raise CompileError(f"{node.where} could pass 32 bits; quantize its input")
        self.steps.append(PoolStep(kind=kind, src=x.buffer, dst=dst, kernel=kernel, stride=stride, padding=padding))  # type: ignore[arg-type]
        low = min(x.low, 0) if padding != (0, 0) else x.low
        return Value(dst, out, x.scale / size, low * size, x.high * size)

    def output(self, node: Node, source: Result) -> Value:
        """Logits: integers with one scale for all classes."""
        if not isinstance(source, Pending):
            return self.stored(source, node)
        scale = source.unit / LOGIT_STEPS
        limit = (1 << 31) - 1
        return self._make(source, "logits", scale, 0 if source.relu else -limit, limit, node)


def _name(node: Node) -> str:
    return node.where.split()[1]


def _pair(value: int | tuple[int, ...]) -> tuple[int, int]:
    return (value, value) if isinstance(value, int) else (value[0], value[1])


def _mac_fields(mac: Mac) -> dict[str, Any]:
    # coding is the chip's own: ChipSpec.check refuses others.
    return {name: getattr(mac, name) for name in mac.__dataclass_fields__ if name != "coding"}


def _pim_bound(name: str, mac: Mac, geometry: Geometry) -> int:
    bound = mac.largest_output(mac.groups(geometry.depth))
    if bound >= 1 << 31:
        raise CompileError(
            f"layer {name}: recombined codes could pass 32 bits ({bound}); use fewer ADC bits, slices or groups"
        )
    return bound
