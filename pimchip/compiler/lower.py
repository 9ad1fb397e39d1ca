"""The pass `lower`: operations of the network to integer steps. Real values are followed as integers times a scale; nothing
is rounded twice.

What a layer leaves is pending until a reader says in which form it wants it; see pimchip.compiler.forms.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from pimchip.chip import ChipSpec, Geometry, Mac
from pimchip.compiler import tokens
from pimchip.compiler.forms import WIDE_LIMIT, Forms, Pending, PendingSum, Result, Value, named, numpy64
from pimchip.compiler.ir import INPUT, IntegerOp, Integers, Ints, Network, NetworkOp, Shape, Sum
from pimchip.compiler.records import NormRecord
from pimchip.compiler.shapes import is_vector, window
from pimchip.errors import CompileError, InputError
from pimchip.qat.imported import GridQuant
from pimchip.qat.layers import QuantizedLayer
from pimchip.qat.pim import PimLayerModule
from pimchip.qat.quantizers import ActQuant

LOGIT_STEPS = 256
"""Integer logits hold this many steps to one accumulator count, for the bias."""


def lower(network: Network, spec: ChipSpec) -> Integers:
    """Raises CompileError or InputError naming what the array and the processor cannot do exactly."""
    modules = [op.module for op in network.ops]
    bits = [m.bits for m in modules if isinstance(m, ActQuant)]
    bits += [m.mac.act_bits for m in modules if isinstance(m, PimLayerModule)]
    state = Lowering(spec, max(bits, default=8), {op.name: op.type.shape or () for op in network.ops})
    results: dict[str, Result] = {}
    for op in network.ops:
        results[op.name] = state.apply(op, [results[name] for name in op.inputs])
    out = results[network.ops[-1].name]
    assert isinstance(out, Value)
    return Integers(tuple(state.ops), out.op, state.layers, state.norms, state.tensors)


class Lowering(Forms):
    """One lowering, operation by operation."""

    def apply(self, op: NetworkOp, sources: list[Result]) -> Result:
        """The result of one operation."""
        if op.kind == "input":
            assert op.type.shape is not None
            return self.step(IntegerOp(self.free(INPUT), "input", (), Ints(op.type.shape, 1 / 255, 0, 255)))
        if op.kind == "layer":
            return self.layer(op, sources[0])
        if isinstance(op.module, GridQuant):
            return self.on_grid(sources[0], op.module, op)
        if op.kind == "quantize":
            assert isinstance(op.module, ActQuant)
            return self.activations(sources[0], op.module.bits, op)
        if op.kind == "relu":
            return self.relu(op, sources[0])
        if op.kind == "add":
            return self.add(op, sources[0], sources[1])
        if op.kind == "concat":
            return self.concat(op, sources)
        if op.kind in ("max_pool", "avg_pool", "global_pool"):
            return self.pool(op, sources[0])
        if op.kind == "output":
            return self.output(op, sources[0])
        if op.kind != "flatten":
            return self.of_tokens(op, sources, [self.shapes[name] for name in op.inputs])
        return sources[0]  # flattened: the same integers, read another way

    def of_tokens(self, op: NetworkOp, sources: list[Result], shapes: list[Shape]) -> Result:
        """What the host does, see pimchip.compiler.tokens."""
        if op.kind == "constant":
            return tokens.constant(self, op)
        if op.kind == "arrange":
            return tokens.arrange(self, op, sources[0], shapes[0])
        if op.kind == "join":
            return tokens.join(self, op, sources)
        if op.kind == "layer_norm":
            return tokens.layer_norm(self, op, sources[0])
        if op.kind == "group_norm":
            return tokens.group_norm(self, op, sources[0])
        if op.kind == "product":
            return tokens.product(self, op, sources, shapes)
        if op.kind == "function":
            return tokens.function(self, op, sources[0])
        if op.kind == "softmax":
            axis, kept = op.detail
            return tokens.softmax(self, op, sources[0], axis, shapes[0], kept)
        if op.kind == "matmul":
            return tokens.matmul(self, op, sources[0], sources[1], (shapes[0], shapes[1]), op.name)
        if op.kind == "attention":
            return tokens.attention(self, op, sources, shapes)
        if op.kind == "scale":
            return tokens.scaled(self, op, sources[0], op.detail)
        assert op.kind == "mean"
        return tokens.mean(self, op, sources[0], shapes[0])

    # -- layers ---------------------------------------------------------------------------------------------------

    def layer(self, op: NetworkOp, source: Result) -> Result:
        module = op.module
        assert isinstance(module, QuantizedLayer)
        name, geometry = named(op), module.whole
        if name in self.layers:
            raise CompileError(f"{op.where} runs twice; give each use a module of its own")
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
        given = self.shapes[op.inputs[0]]
        back = module.linear and len(given) == 3 and not is_vector(given)  # rows of tokens
        if len(given) > 3:
            raise CompileError(
                f"{op.where} reads a tensor of {list(given)}; up to 3 axes beside the images' are supported"
            )
        if back:
            source = tokens.features_first(self, self.stored(source, op), given, name)
        extra = np.zeros(geometry.out_channels)
        if isinstance(module, PimLayerModule) and module.inputs != "unsigned":
            step, zero = module.signed_range()
            x = self.signed(source, module.act_bits, step, zero, geometry.padding, op)
            if zero:
                geometry = replace(geometry, padding=(0, 0))  # the border is there already
            extra = -zero * step * unit * weights.astype(np.int64).sum(axis=(1, 2, 3))
            extra *= 1.0 if module.ratios() is None else numpy64(module.ratios(), len(extra), 1.0)
        elif module.act_bits:
            x = self.activations(source, module.act_bits, op)
        else:
            largest = int(np.abs(weights.astype(np.int32)).sum(axis=(1, 2, 3)).max(initial=1))
            x = self.stored(source, op)
            x = self.narrowed(x, ((1 << 31) - 1) // max(largest, 1), op)
        out = geometry.output_shape(x.type.shape)
        if isinstance(module, PimLayerModule):
            mac = module.mac
            self.spec.check(mac)
            eta = float(module.eta.detach())
            unit = unit * x.type.scale * mac.scale * eta
            if not 0 < unit < math.inf:
                raise InputError(f"layer {name}: eta = {eta}; a positive forward scale is needed")
            acc_max = _pim_bound(name, mac, geometry)
            _refuse_cut_groups(name, module)
            matrix = np.ascontiguousarray(_dense(weights, module).reshape(geometry.out_channels, -1).T)
            kind = self.record(name, geometry, matrix, out, mac, module.groups)
        else:
            unit *= x.type.scale
            acc_max = int(np.abs(weights.astype(np.int32)).sum(axis=(1, 2, 3)).max()) * x.type.peak
            if acc_max >= 1 << 31:
                raise CompileError(f"{op.where} could pass 32-bit accumulators ({acc_max}); quantize its input")
            # The processor has neither groups nor dilation: zeros stand between.
            weights = _spread(_dense(weights, module), geometry)
            plain = replace(geometry, kernel=geometry.extent, dilation=(1, 1))
            kind = self.record(name, plain, weights, out, None)
        self._norm(name, geometry.out_channels, unit, op.norm, module.bias, extra)
        if (ratios := module.ratios()) is not None:
            self.by_output(name, ratios.to(torch.float64).cpu().numpy())
        bound = max(acc_max, 1)
        made = self.step(IntegerOp(self.free(name), kind, (x.op,), Ints(out, unit, -bound, bound), layer=name))
        pending = Pending(made.op, made.type, name)
        if not back:
            return pending
        assert op.type.shape is not None
        return tokens.features_last(self, self.wide(pending, op), op.type.shape, f"{name}.back")

    def _norm(
        self,
        layer: str,
        channels: int,
        unit: float,
        bn: nn.Module | None,
        bias: Tensor | None,
        extra: NDArray[np.float64],
    ) -> None:
        """The normalization of a layer: its BN's, with the layer's bias and what its inputs' zero adds."""
        values: Mapping[str, Tensor | None] = {"gamma": None, "beta": None, "mean": None, "var": None}
        eps = 0.0
        if bn is not None:
            assert isinstance(bn, nn.BatchNorm2d | nn.BatchNorm1d)
            values = {"gamma": bn.weight, "beta": bn.bias, "mean": bn.running_mean, "var": bn.running_var}
            eps = bn.eps
        ones = {"gamma": 1.0, "var": 1.0}
        for key, tensor in {**values, "bias": bias}.items():
            array = numpy64(tensor, channels, ones.get(key, 0.0))
            if key == "bias":
                array += extra
            if not np.all(np.isfinite(array)):
                raise InputError(f"layer {layer}: normalization {key} holds NaN or infinite values; train again")
            self.tensors[f"norm.{layer}.{key}"] = array
        self.norms[layer] = NormRecord(layer=layer, unit=unit, eps=eps, calibrated=bn is not None)

    # -- other operations -----------------------------------------------------------------------------------------

    def relu(self, op: NetworkOp, source: Result) -> Result:
        if isinstance(source, Value):
            t = source.type
            return source if t.low >= 0 else self.made(source, "relu", t.scale, 0, t.high, op)
        return replace(source, relu=True)

    def add(self, op: NetworkOp, a: Result, b: Result) -> PendingSum:
        first, second = self.stored(a, op), self.stored(b, op)
        factors = [v.type.scale / self.wide_scale for v in (first, second)]
        if any(abs(f - round(f)) > 1e-9 * f or not 1 <= round(f) < 1 << 24 for f in factors):
            first, second, factors = self.exactly_wide(a, op), self.exactly_wide(b, op), [1.0, 1.0]
        return PendingSum(first, second, (round(factors[0]), round(factors[1])), self.wide_scale, op.name)

    def concat(self, op: NetworkOp, sources: list[Result]) -> Value:
        """Each map's channels are put in their place by the processor, with weights of 0 and 1, and the maps added."""
        maps = [self.stored(source, op) for source in sources]
        if len({v.type.scale for v in maps}) > 1:
            maps = [self.made(source, "wide", self.wide_scale, -WIDE_LIMIT, WIDE_LIMIT, op) for source in sources]
        assert op.type.shape is not None
        channels, first, total = op.type.shape[0], 0, None
        for number, x in enumerate(maps):
            t, count = x.type, x.type.shape[0]
            weights = np.zeros((channels, count, 1, 1), np.int8)
            weights[first + np.arange(count), np.arange(count), 0, 0] = 1
            name = self.free(f"{op.name}.{number}")
            shape = (channels, *t.shape[1:])
            self.record(name, Geometry(count, channels), weights, shape, None)
            placed = Ints(shape, t.scale, min(t.low, 0), max(t.high, 0))
            put = self.step(IntegerOp(name, "digital", (x.op,), placed, layer=name))
            if total is not None:
                bounds = min(total.type.low, placed.low), max(total.type.high, placed.high)
                both = Ints(shape, t.scale, *bounds)
                ops = (total.op, put.op)
                put = self.step(IntegerOp(self.free(f"{op.name}.sum"), "add", ops, both, detail=Sum((1, 1), 0)))
            total, first = put, first + count
        assert total is not None
        return total

    def pool(self, op: NetworkOp, source: Result) -> Value:
        x = self.stored(source, op)
        w = window(op, x.type.shape)
        size = w.kernel[0] * w.kernel[1] if w.kind == "sum" else 1
        x = self.narrowed(x, ((1 << 31) - 1) // size, op)
        assert op.type.shape is not None
        low = min(x.type.low, 0) if w.padding != (0, 0) else x.type.low
        made = Ints(op.type.shape, x.type.scale / size, low * size, x.type.high * size)
        return self.step(IntegerOp(self.free(op.name), "pool", (x.op,), made, detail=w))

    def output(self, op: NetworkOp, source: Result) -> Value:
        """Logits: integers with one scale for all classes."""
        if not isinstance(source, Pending):
            return self.stored(source, op)
        limit, scale = (1 << 31) - 1, source.type.scale / LOGIT_STEPS
        while self.reach(source) > limit * scale:  # of accumulators that are large already
            scale *= 2
        return self.made(source, "logits", scale, 0 if source.relu else -limit, limit, op)


def _dense(weights: NDArray[np.int8], module: QuantizedLayer) -> NDArray[np.int8]:
    """Weights [out, in / groups, kh, kw] with zeros between groups: [out, in, kh, kw]."""
    if module.groups == 1:
        return weights
    out, each = weights.shape[:2]
    dense = np.zeros((out, each * module.groups, *weights.shape[2:]), np.int8)
    outputs = out // module.groups
    for g in range(module.groups):
        rows = slice(g * outputs, (g + 1) * outputs)
        dense[rows, g * each : (g + 1) * each] = weights[rows]
    return dense


def _spread(weights: NDArray[np.int8], geometry: Geometry) -> NDArray[np.int8]:
    """Kernels with zeros where dilation leaves positions out."""
    if geometry.dilation == (1, 1):
        return weights
    spread = np.zeros((*weights.shape[:2], *geometry.extent), np.int8)
    spread[:, :, :: geometry.dilation[0], :: geometry.dilation[1]] = weights
    return spread


def _refuse_cut_groups(name: str, module: PimLayerModule) -> None:
    """Refuse groups of channels that row groups would cut elsewhere than in training."""
    depth, rows = module.geometry.depth, module.mac.rows
    if module.groups > 1 and depth % rows and rows % depth:
        best = rows // depth * depth if depth < rows else max(r for r in range(1, rows + 1) if depth % r == 0)
        raise CompileError(
            f"layer {name}: row groups of {rows} cut its {module.groups} groups of {depth} products; one must divide the other: "
            f"convert with rows={best}"
        )


def _pim_bound(name: str, mac: Mac, geometry: Geometry) -> int:
    bound = mac.largest_output(mac.groups(geometry.depth))
    if bound >= 1 << 31:
        raise CompileError(
            f"layer {name}: recombined codes could pass 32 bits ({bound}); use fewer ADC bits, slices or groups"
        )
    return bound
