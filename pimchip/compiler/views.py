"""torch's operators that give a view: what each does to a layout, and to a real tensor of any number of images."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from itertools import accumulate, pairwise
from math import prod
from typing import Any

from torch import Tensor, fx

from pimchip.compiler.layout import Layout

Move = Callable[[Tensor], Tensor]
View = Callable[[fx.Node, Layout, tuple[int, ...]], tuple[Layout | None, Move]]


@dataclass(frozen=True)
class Ref:
    """What a node gives: a view of what an operation gave, and the moves that make it of that."""

    op: str
    layout: Layout
    moves: tuple[Move, ...] = ()


@dataclass(frozen=True)
class Repeated:
    """A view whose values are repeated along axes where it has one."""

    ref: Ref


@dataclass(frozen=True)
class Masked:
    """A view of scores, of which only those that are kept have a share of a softmax. kept: bool, without the images' axis, with
    an axis of one where it is the same along it; fill: what stands for the others."""

    ref: Ref
    kept: Tensor
    fill: float

    def filled(self, x: Tensor) -> Tensor:
        """Real scores [n, ...] as the network has them."""
        return x.masked_fill(~self.kept, self.fill)


def moved(moves: tuple[Move, ...]) -> Move:
    """One after the other."""
    return partial(_moved, moves)


def _moved(moves: tuple[Move, ...], x: Tensor) -> Tensor:
    for move in moves:
        x = move(x)
    return x


def _reshape(node: fx.Node, layout: Layout, shape: tuple[int, ...]) -> tuple[Layout | None, Move]:
    found = layout.reshaped(shape)
    images = layout.sizes[0]
    held = next((axis for axis, dim in enumerate(found.dims) if 0 in dim), 0) if found is not None else 0
    return found, partial(_reshaped, tuple(s // images if a == held else s for a, s in enumerate(shape)), held)


def _reshaped(sizes: tuple[int, ...], held: int, x: Tensor) -> Tensor:
    images = x.numel() // prod(sizes)
    return x.reshape([size * images if axis == held else size for axis, size in enumerate(sizes)])


def _permute(node: fx.Node, layout: Layout, shape: tuple[int, ...]) -> tuple[Layout | None, Move]:
    dims: Any = node.args[1]
    order = tuple(dim % len(shape) for dim in dims)
    return layout.permuted(order), lambda x: x.permute(order)


def _transpose(node: fx.Node, layout: Layout, shape: tuple[int, ...]) -> tuple[Layout | None, Move]:
    one, other = (_argument(node, at, f"dim{at - 1}", 0) % len(shape) for at in (1, 2))
    order = list(range(len(shape)))
    order[one], order[other] = other, one
    return layout.permuted(tuple(order)), lambda x: x.transpose(one, other)


def _select(node: fx.Node, layout: Layout, shape: tuple[int, ...]) -> tuple[Layout | None, Move]:
    whole = layout.shape
    axis = _argument(node, 1, "dim", 0) % len(whole)
    index = _argument(node, 2, "index", 0) % whole[axis]
    cut = layout.narrowed(axis, index, index + 1)
    return None if cut is None else cut.reshaped(shape), lambda x: x.select(axis, index)


def _slice(node: fx.Node, layout: Layout, shape: tuple[int, ...]) -> tuple[Layout | None, Move]:
    axis = _argument(node, 1, "dim", 0) % len(shape)
    size = layout.shape[axis]
    start, stop = (_argument(node, at, name, least) for at, name, least in ((2, "start", 0), (3, "end", size)))
    start, stop, step = *(min(at + size if at < 0 else at, size) for at in (start, stop)), _argument(node, 4, "step", 1)
    if step != 1 or stop <= start:
        return None, lambda x: x
    return layout.narrowed(axis, start, stop), lambda x: x[(slice(None),) * axis + (slice(start, stop),)]


def _narrow(node: fx.Node, layout: Layout, shape: tuple[int, ...]) -> tuple[Layout | None, Move]:
    axis = _argument(node, 1, "dim", 0) % len(shape)
    start, length = _argument(node, 2, "start", 0) % max(layout.shape[axis], 1), _argument(node, 3, "length", 1)
    return layout.narrowed(axis, start, start + length), lambda x: x.narrow(axis, start, length)


VIEWS: dict[str, View] = {
    **dict.fromkeys(("view", "reshape", "_unsafe_view", "flatten", "unflatten", "squeeze", "unsqueeze"), _reshape),
    "permute": _permute,
    "transpose": _transpose,
    "select": _select,
    "slice": _slice,
    "narrow": _narrow,
}
SEVERAL = ("split", "split_with_sizes", "chunk", "unbind")
"""Give several tensors."""


def parts_of(node: fx.Node, name: str, shape: tuple[int, ...]) -> list[tuple[int, tuple[int, int, bool, Move]]]:
    """Of each tensor that is given: the axis, and (start, stop, whether the axis goes, what it is of a real tensor)."""
    axis = _argument(node, 1 if name == "unbind" else 2, "dim", 0) % len(shape)
    size = shape[axis]
    if name == "unbind":
        return [(axis, (at, at + 1, True, partial(_selected, axis, at))) for at in range(size)]
    given: Any = node.args[1]
    if name == "chunk":
        given = -(-size // given)
    lengths = (
        list(given)
        if isinstance(given, list | tuple)
        else [given] * (size // given) + [size % given] * (size % given > 0)
    )
    ends = pairwise(accumulate(lengths, initial=0))
    return [(axis, (start, stop, False, partial(_kept, axis, start, stop))) for start, stop in ends]


def _selected(axis: int, at: int, x: Tensor) -> Tensor:
    return x.select(axis, at)


def _kept(axis: int, start: int, stop: int, x: Tensor) -> Tensor:
    return x.narrow(axis, start, stop - start)


def _argument(node: fx.Node, at: int, name: str, default: int) -> int:
    """A whole number that a node is given by position or by name."""
    found: Any = node.args[at] if len(node.args) > at else node.kwargs.get(name)
    return default if found is None else int(found)
