"""The forms in which maps of integers are held while a network is lowered, and the steps that make one of another.

What a layer leaves is pending: accumulators with a normalization still to be applied. It becomes a map when a reader says in
which form it wants it: activations (on the grid of the quantizer), signed, wide (16 more binary places, for sums of branches
and what the host does), narrow (wide with fewer), or logits.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pimchip.chip import ChipSpec, Geometry, Mac
from pimchip.compiler.checks import NORM_TENSORS
from pimchip.compiler.ir import IntegerOp, Ints, NetworkOp, Rescale, Shape, Sum
from pimchip.compiler.records import WIDE_BITS, LayerRecord, NormRecord
from pimchip.compiler.requant import affine
from pimchip.errors import CompileError
from pimchip.qat.imported import GridQuant

WIDE_LIMIT = 1 << 30


@dataclass(frozen=True)
class Value:
    """A map that a step made."""

    op: str
    type: Ints


@dataclass(frozen=True)
class Pending:
    """Accumulators of a layer, before its normalization."""

    op: str
    type: Ints
    norm: str
    relu: bool = False


@dataclass(frozen=True)
class PendingSum:
    """Two wide-compatible maps still to be added; factors to wide units, each worth `scale`."""

    a: Value
    b: Value
    factors: tuple[int, int]
    scale: float
    name: str
    relu: bool = False


Result = Value | Pending | PendingSum


@dataclass
class Forms:
    """State of one lowering. act_bits: of the finest activations, which sums of branches are held under. shapes: of the
    network's tensors."""

    spec: ChipSpec
    act_bits: int
    shapes: Mapping[str, Shape]
    ops: list[IntegerOp] = field(default_factory=list)
    layers: dict[str, LayerRecord] = field(default_factory=dict)
    norms: dict[str, NormRecord] = field(default_factory=dict)
    tensors: dict[str, NDArray[Any]] = field(default_factory=dict)
    _taken: set[str] = field(default_factory=set)
    _held: dict[tuple[int, str], Value] = field(default_factory=dict)
    _kept: list[Result] = field(default_factory=list)

    def step(self, op: IntegerOp) -> Value:
        """Add a step."""
        self.ops.append(op)
        return Value(op.name, op.type)

    def record(
        self, name: str, g: Geometry, w: NDArray[np.int8], out: Shape, mac: Mac | None, groups: int = 1
    ) -> Literal["pim", "digital"]:
        self.tensors[f"weight.{name}"] = w
        kind: Literal["pim", "digital"] = "digital" if mac is None else "pim"
        self.layers[name] = LayerRecord(
            kind=kind,
            in_channels=g.in_channels,
            out_channels=g.out_channels,
            kernel=g.kernel,
            stride=g.stride,
            padding=g.padding,
            positions=out[1] * out[2],
            groups=groups,
            dilation=g.dilation,
            mac=None if mac is None else {k: v if isinstance(v, int) else str(v) for k, v in _mac_fields(mac).items()},
        )
        return kind

    def affine(self, name: str, channels: int, unit: float, gamma: Tensor | None, beta: Tensor | None) -> None:
        """A normalization of no layer: gamma and beta."""
        values = {
            "gamma": (gamma, 1.0),
            "beta": (beta, 0.0),
            "mean": (None, 0.0),
            "var": (None, 1.0),
            "bias": (None, 0.0),
        }
        for key, (tensor, default) in values.items():
            self.tensors[f"norm.{name}.{key}"] = numpy64(tensor, channels, default)
        self.norms[name] = NormRecord(layer="", unit=unit, eps=0.0, calibrated=False, channels=channels)

    def pending(self, value: Value, norm: str) -> Pending:
        """A map with a normalization still to be applied."""
        return Pending(value.op, value.type, norm)

    def shared(self, kind: Literal["table", "constant"], called: str, values: NDArray[np.int32]) -> str:
        """The name of a tensor of this kind, one for all that are equal."""
        number = 0
        while True:
            name = called if not number else f"{called}.{number}"
            held = self.tensors.setdefault(f"{kind}.{name}", values)
            if np.array_equal(held, values):
                return name
            number += 1

    # -- forms ----------------------------------------------------------------------------------------------------

    def activations(self, source: Result, bits: int, op: NetworkOp) -> Value:
        """On the grid k / (2^bits - 1), 0..2^bits - 1."""
        high = (1 << bits) - 1
        t = source.type if isinstance(source, Value) else None
        if isinstance(source, Value) and t and t.scale == 1 / high and t.low >= 0 and t.high <= high:
            return source
        return self.made(source, f"act{bits}", 1 / high, 0, high, op)

    def wide(self, source: Result, op: NetworkOp) -> Value:
        """With WIDE_BITS binary places below an activation step."""
        low = 0 if not isinstance(source, Value) and source.relu else -WIDE_LIMIT
        high = WIDE_LIMIT
        if isinstance(source, Pending) and not self.norms[source.norm].layer:  # of tokens, whose bounds are known
            high = min(high, math.ceil(self.reach(source) / self.wide_scale) + 1)
            low = max(low, -high)
        return self.made(source, "wide", self.wide_scale, low, high, op)

    def exactly_wide(self, source: Result, op: NetworkOp) -> Value:
        """Wide, a map of another scale too."""
        value = self.stored(source, op)
        return value if value.type.scale == self.wide_scale else self.wide(value, op)

    def narrowed(self, value: Value, limit: int, op: NetworkOp) -> Value:
        """A map of integers up to `limit`, each worth a power of two as much as before."""
        shift, t = 0, value.type
        while -(-t.peak >> shift) > limit:
            shift += 1
        if not shift:
            return value
        return self.made(value, f"narrow{shift}", t.scale * 2.0**shift, t.low >> shift, -(-t.high >> shift), op)

    def signed(
        self, source: Result, bits: int, step: float, zero: int, padding: tuple[int, int], op: NetworkOp
    ) -> Value:
        """On the grid (k - zero) * step, k in 0..2^bits - 1; with a border of 0 put around it by the processor."""
        top = (1 << bits) - 1
        if isinstance(source, PendingSum):
            source = self.wide(source, op)
        t = source.type if isinstance(source, Value) else None
        if isinstance(source, Value) and t and (t.scale, t.zero, zero) == (step, 0, 0) and t.low >= 0 and t.high <= top:
            return source
        if any(padding) and zero:
            x = self.made(source, f"centred{bits} {step} {zero}", step, -zero, top - zero, op)
            channels, h, w = x.type.shape
            name = self.free(f"{named(op)}.border")
            shape = (channels, h + 2 * padding[0], w + 2 * padding[1])
            self.record(name, Geometry(channels, channels, padding=padding), _identity(channels), shape, None)
            source = self.step(IntegerOp(name, "digital", (x.op,), replace(x.type, shape=shape), layer=name))
        return self.made(source, f"signed{bits} {step} {zero}", step, 0, top, op, zero)

    def on_grid(self, source: Result, grid: GridQuant, op: NetworkOp) -> Value:
        """On an imported quantizer's grid."""
        if isinstance(source, PendingSum):
            source = self.wide(source, op)
        if isinstance(source, Pending):
            source = replace(source, relu=False)  # which the grid's lower end is
        return self.made(source, f"grid {grid.scale} {grid.low} {grid.high}", grid.scale, grid.low, grid.high, op)

    def by_output(self, name: str, ratios: NDArray[np.float64]) -> None:
        """Put weights on a scale of each output's own into its layer's normalization: accumulators are worth `ratios` of unit.

        A BN takes such a factor out: its statistics become those of sums of one unit. Elsewhere it is a gamma.
        """
        keys = {key: f"norm.{name}.{key}" for key in NORM_TENSORS}
        for key in ("mean", "bias"):
            self.tensors[keys[key]] = self.tensors[keys[key]] / ratios
        record = self.norms[name]
        if record.calibrated:
            self.tensors[keys["var"]] = (self.tensors[keys["var"]] + record.eps) / ratios**2 - record.eps
        else:
            self.tensors[keys["gamma"]] = self.tensors[keys["gamma"]] * ratios

    @property
    def wide_limit(self) -> int:
        """The largest wide integer."""
        return WIDE_LIMIT

    @property
    def wide_scale(self) -> float:
        return 1 / ((1 << self.act_bits) - 1) / (1 << WIDE_BITS)

    def stored(self, source: Result, op: NetworkOp) -> Value:
        """As it is if it is a map; wide otherwise."""
        return source if isinstance(source, Value) else self.wide(source, op)

    def made(self, source: Result, form: str, scale: float, low: int, high: int, op: NetworkOp, zero: int = 0) -> Value:
        key = (id(source), form)
        if key in self._held:
            return self._held[key]
        if isinstance(source, PendingSum):
            shift = round(np.log2(scale / source.scale))
            if source.scale * 2.0**shift != scale:
                raise CompileError(f"{op.where} wants another activation width than the sum before it")
            made = IntegerOp(
                self.free(f"{source.name}.{form}"),
                "add",
                (source.a.op, source.b.op),
                Ints(source.a.type.shape, scale, low, high),
                detail=Sum(source.factors, shift),
            )
        else:
            norm = source.norm if isinstance(source, Pending) else None
            result = Ints(source.type.shape, scale, low, high, zero)
            name = self.free(f"{source.op}.{form.partition(' ')[0]}")
            made = IntegerOp(name, "requantize", (source.op,), result, detail=Rescale(norm))
        self._kept.append(source)  # ids stay unique while the object lives
        self._held[key] = self.step(made)
        return self._held[key]

    def free(self, name: str) -> str:
        """A name that no step has."""
        free = name
        while free in self._taken:
            free += "_"
        self._taken.add(free)
        return free

    def reach(self, source: Pending) -> float:
        """The largest magnitude that accumulators can come to, normalized as in training."""
        norm = {key: self.tensors[f"norm.{source.norm}.{key}"] for key in NORM_TENSORS}
        a, b = affine(norm, source.type.scale, self.norms[source.norm].eps)
        return float((np.abs(a) * source.type.peak + np.abs(b)).max(initial=0.0))


def _identity(channels: int) -> NDArray[np.int8]:
    return np.eye(channels, dtype=np.int8)[:, :, None, None]


def numpy64(tensor: Tensor | None, like: int, default: float) -> NDArray[np.float64]:
    """A tensor as float64 [channels], or a constant where there is none."""
    full = torch.full((like,), default, dtype=torch.float64)
    return (full if tensor is None else tensor.detach().to(torch.float64)).cpu().numpy().copy()


def _mac_fields(mac: Mac) -> dict[str, Any]:
    # coding is the chip's own: ChipSpec.check refuses others.
    return {name: getattr(mac, name) for name in mac.__dataclass_fields__ if name != "coding"}


def named(op: NetworkOp) -> str:
    """The name of the layer that an operation is."""
    return op.where.split()[1]
