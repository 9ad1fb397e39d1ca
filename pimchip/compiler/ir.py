"""The compiler's intermediate form: a graph of operations whose every result has a type, at one of three levels.

    network    maps of reals, as trained: modules and functions of the user's network
    integers   maps of integers, each worth a scale: what array and processor do, step by step
    placed     the same, with a tile for every cell that holds a weight

A pass takes a graph and gives another; see pimchip.compiler.passes. Graphs are never changed in place.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from numpy.typing import NDArray
from torch import nn

from pimchip.compiler.records import LayerRecord, NormRecord

Shape = tuple[int, int, int]
"""(channels, height, width)"""
NetworkKind = Literal[
    "input", "layer", "norm", "quantize", "relu", "max_pool", "avg_pool", "global_pool", "flatten", "identity", "add", "concat",
    "output",
]  # fmt: skip
IntegerKind = Literal["input", "pim", "digital", "requantize", "add", "pool"]
INPUT = "image"
"""Name of the image's map at the levels of integers."""


@dataclass(frozen=True)
class Real:
    """A map of reals; shape None until the pass `shapes`."""

    shape: Shape | None = None


@dataclass(frozen=True)
class Ints:
    """A map of integers in low..high, each worth `scale`."""

    shape: Shape
    scale: float
    low: int
    high: int

    @property
    def peak(self) -> int:
        """Largest magnitude, at least 1."""
        return max(abs(self.low), abs(self.high), 1)


@dataclass(frozen=True)
class NetworkOp:
    """An operation of the network. where: how to name it to its owner. norm: the normalization folded into a layer."""

    name: str
    kind: NetworkKind
    inputs: tuple[str, ...]
    type: Real
    where: str
    module: nn.Module | None = None
    norm: nn.Module | None = None


@dataclass(frozen=True)
class Network:
    """Operations in the order they run; the last is the output."""

    ops: tuple[NetworkOp, ...]


@dataclass(frozen=True)
class Rescale:
    """out = clip(round(real / scale)), of a normalization's real or, with none, of the integers' own."""

    norm: str | None


@dataclass(frozen=True)
class Sum:
    """out = clip((a * factors[0] + b * factors[1] + half) >> shift)."""

    factors: tuple[int, int]
    shift: int


@dataclass(frozen=True)
class Window:
    """Maximum or sum over windows."""

    kind: Literal["max", "sum"]
    kernel: tuple[int, int]
    stride: tuple[int, int]
    padding: tuple[int, int]


@dataclass(frozen=True)
class IntegerOp:
    """A step on maps. layer: of pim and digital; detail: of the others."""

    name: str
    kind: IntegerKind
    inputs: tuple[str, ...]
    type: Ints
    layer: str = ""
    detail: Rescale | Sum | Window | None = None


@dataclass(frozen=True)
class Integers:
    """Steps in the order they run, layers, normalizations and tensors as a Program has them. passes: None until placed.
    orders: by step whose channels the pass `order` moved, which of the channels of before is at each place."""

    ops: tuple[IntegerOp, ...]
    output: str
    layers: dict[str, LayerRecord] = field(default_factory=dict)
    norms: dict[str, NormRecord] = field(default_factory=dict)
    tensors: dict[str, NDArray[Any]] = field(default_factory=dict)
    passes: int | None = None
    orders: dict[str, NDArray[Any]] = field(default_factory=dict)

    @property
    def types(self) -> dict[str, Ints]:
        """By operation."""
        return {op.name: op.type for op in self.ops}


Graph = Network | Integers


def level(graph: Graph) -> Literal["network", "integers", "placed"]:
    """Which of the three a graph is at."""
    if isinstance(graph, Network):
        return "network"
    return "integers" if graph.passes is None else "placed"
