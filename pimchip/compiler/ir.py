"""The compiler's intermediate form: a graph of operations whose every result has a type, at one of three levels.

    network    maps of reals, as trained: modules and functions of the user's network
    integers   maps of integers, each worth a scale: what array and processor do, step by step
    placed     the same, with a tile for every cell that holds a weight

A pass takes a graph and gives another; see pimchip.compiler.passes. Graphs are never changed in place.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from math import prod
from typing import Any, Literal

from numpy.typing import NDArray
from torch import Tensor, nn

from pimchip.compiler.records import LayerRecord, NormRecord

Image = tuple[int, int, int]
"""(channels, height, width)"""
Shape = tuple[int, ...]
"""Of a map, (channels, height, width); of what attention makes, any number of axes. Never with the images' axis."""
NetworkKind = Literal[
    "input", "layer", "norm", "quantize", "relu", "max_pool", "avg_pool", "global_pool", "flatten", "identity", "add", "concat",
    "output", "constant", "arrange", "layer_norm", "function", "softmax", "matmul", "attention", "scale", "mean", "join",
    "product", "group_norm",
]  # fmt: skip
IntegerKind = Literal[
    "input", "pim", "digital", "requantize", "add", "pool",
    "constant", "arrange", "normalize", "softmax", "lookup", "matmul", "multiply", "join",
]  # fmt: skip
INPUT = "image"
"""Name of the image's map at the levels of integers."""


@dataclass(frozen=True)
class Real:
    """A map of reals; shape None until the pass `shapes`."""

    shape: Shape | None = None


@dataclass(frozen=True)
class Ints:
    """A map of integers in low..high, each worth `scale` above the one that stands for 0, `zero`."""

    shape: Shape
    scale: float
    low: int
    high: int
    zero: int = 0

    @property
    def peak(self) -> int:
        """Largest magnitude, at least 1."""
        return max(abs(self.low), abs(self.high), 1)


@dataclass(frozen=True)
class Arrange:
    """Axes split, of each of which a range is kept, grouped and ordered anew: dims are those of the result, each of which
    holds some of the parts. None of it knows the images' axis."""

    split: tuple[int, ...]
    cut: tuple[tuple[int, int], ...]
    dims: tuple[tuple[int, ...], ...]

    @property
    def shape(self) -> Shape:
        """Of the result."""
        return tuple(prod(self.cut[part][1] - self.cut[part][0] for part in dim) for dim in self.dims)


@dataclass(frozen=True)
class Moved:
    """What a step of the host does to the places of values: as Arrange, with the order of parts and the shape that they are
    read as."""

    split: tuple[int, ...]
    cut: tuple[tuple[int, int], ...]
    order: tuple[int, ...]
    shape: Shape

    @property
    def idle(self) -> bool:
        """True where every value stays where it is."""
        whole = all(c == (0, size) for c, size in zip(self.cut, self.split, strict=True))
        return whole and self.order == tuple(range(len(self.split)))


@dataclass(frozen=True)
class NetworkOp:
    """An operation of the network. where: how to name it to its owner. norm: the normalization folded into a layer.

    detail: what an operation without a module is given; of softmax (axis, kept), of attention (scale, kept), kept being what a
    mask leaves, bool, or None. run: what it does with real tensors, [n, ...] each; None where the
    kind and the module tell.
    """

    name: str
    kind: NetworkKind
    inputs: tuple[str, ...]
    type: Real
    where: str
    module: nn.Module | None = None
    norm: nn.Module | None = None
    detail: Any = None
    run: Callable[..., Tensor] | None = None


@dataclass(frozen=True)
class Network:
    """Operations in the order they run; the last is the output."""

    ops: tuple[NetworkOp, ...]


@dataclass(frozen=True)
class Rescale:
    """out = clip(round(real / scale) + zero), of a normalization's real or, with none, of the integers' own times `factor`."""

    norm: str | None
    factor: float = 1.0


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
class Along:
    """Normalization or softmax along an axis. epsilon: of the former; table, shift and the mask's name of the latter; see
    pimchip.kernels.tokens."""

    axis: int
    epsilon: int = 0
    table: str = ""
    shift: int = 0
    mask: str = ""


@dataclass(frozen=True)
class Lookup:
    """A function by its table; see pimchip.kernels.tokens."""

    table: str
    first: int
    shift: int
    ends: tuple[int, int]


@dataclass(frozen=True)
class Product:
    """clip((a @ b + half) >> shift) over the last two axes."""

    shift: int


@dataclass(frozen=True)
class Times:
    """clip((a * b + half) >> shift), value by value; an axis of one value is repeated."""

    shift: int


@dataclass(frozen=True)
class Join:
    """Maps one after another along an axis."""

    axis: int


@dataclass(frozen=True)
class Constant:
    """The same for every image: a tensor's name."""

    name: str


Detail = Rescale | Sum | Window | Moved | Along | Lookup | Product | Times | Join | Constant


@dataclass(frozen=True)
class IntegerOp:
    """A step on maps. layer: of pim and digital; detail: of the others. of: the network's operation that the host does."""

    name: str
    kind: IntegerKind
    inputs: tuple[str, ...]
    type: Ints
    layer: str = ""
    detail: Detail | None = None
    of: str = ""


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
