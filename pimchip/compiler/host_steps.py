"""Steps of a program that no board does: the runtime does them, in integers, so that they are the same everywhere.

What each computes is said in pimchip.kernels.tokens. Maps of theirs may have any number of axes.
"""

from __future__ import annotations

from math import prod
from typing import Annotated, Any, Literal

from pydantic import Field, SerializerFunctionWrapHandler, model_serializer

from pimchip.chip.mac import Int32
from pimchip.compiler.steps_base import Buffer, Record, Size
from pimchip.errors import InputError
from pimchip.kernels.tokens import FEATURES_MAX

Axis = Annotated[int, Field(ge=0, le=7)]
Shift = Annotated[int, Field(ge=0, le=40)]
Range = tuple[Annotated[int, Field(ge=0, le=1 << 24)], Annotated[int, Field(ge=1, le=1 << 24)]]
Word = Annotated[int, Field(ge=-(1 << 31), lt=1 << 31)]
Shape = tuple[int, ...]


class ConstantStep(Record):
    """dst = tensor `constant.NAME`, the same for every image."""

    op: Literal["constant"] = "constant"
    name: str
    dst: Buffer


class ArrangeStep(Record):
    """src's axes split into `split`, of each of which `cut` (start, stop) is kept, in the order `order`, as `shape`."""

    op: Literal["arrange"] = "arrange"
    src: Buffer
    dst: Buffer
    split: tuple[Size, ...]
    cut: tuple[Range, ...]
    order: tuple[Axis, ...]
    shape: tuple[Size, ...]


class NormalizeStep(Record):
    """Mean 0 and deviation 1 along an axis. epsilon: in the units of pimchip.kernels.tokens.normalize."""

    op: Literal["normalize"] = "normalize"
    src: Buffer
    dst: Buffer
    axis: Axis
    epsilon: Annotated[int, Field(ge=0, lt=1 << 60)]


class SoftmaxStep(Record):
    """Shares of an axis. table: `table.NAME` of exp, shift: of the steps between its entries. mask: `constant.NAME` with 1 for
    what has a share and 0 for what has none; "" for a share of all."""

    op: Literal["softmax"] = "softmax"
    src: Buffer
    dst: Buffer
    axis: Axis
    table: str
    shift: Annotated[int, Field(ge=0, le=30)]
    mask: str = ""

    @model_serializer(mode="wrap")
    def _plain(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Without what version 4 did not have, where it is not used."""
        found: dict[str, Any] = handler(self)
        return found if self.mask else {key: value for key, value in found.items() if key != "mask"}


class LookupStep(Record):
    """A function of each value by a table from `first` on, an entry every 2^shift, straight lines between, and beyond it to
    `ends`, what the function is at -2^30 and 2^30."""

    op: Literal["lookup"] = "lookup"
    src: Buffer
    dst: Buffer
    table: str
    first: Annotated[int, Field(gt=-(1 << 30), lt=1 << 30)]
    shift: Annotated[int, Field(ge=0, le=30)]
    ends: tuple[Word, Word]
    low: Word
    high: Word


class MatmulStep(Record):
    """dst = clip((a @ b + half) >> shift, low, high) over the last two axes."""

    op: Literal["matmul"] = "matmul"
    a: Buffer
    b: Buffer
    dst: Buffer
    shift: Shift
    low: Word
    high: Word


class MultiplyStep(Record):
    """dst = clip((a * b + half) >> shift, low, high), value by value; an axis of one value is repeated."""

    op: Literal["multiply"] = "multiply"
    a: Buffer
    b: Buffer
    dst: Buffer
    shift: Shift
    low: Word
    high: Word


class JoinStep(Record):
    """Maps one after another along an axis."""

    op: Literal["join"] = "join"
    maps: Annotated[tuple[Buffer, ...], Field(min_length=1, max_length=256)]
    dst: Buffer
    axis: Axis


HostStep = ConstantStep | ArrangeStep | NormalizeStep | SoftmaxStep | LookupStep | MatmulStep | MultiplyStep | JoinStep
HOST_OPS = frozenset(("constant", "arrange", "normalize", "softmax", "lookup", "matmul", "multiply", "join"))


def repeated(a: Shape, b: Shape) -> Shape | None:
    """The shape of a product of two maps, value by value, of which an axis of one value is repeated; None where they differ."""
    if len(a) != len(b) or any(x != y and 1 not in (x, y) for x, y in zip(a, b, strict=True)):
        return None
    return tuple(max(x, y) for x, y in zip(a, b, strict=True))


def host_shape(step: HostStep, shapes: list[Shape], constants: dict[str, Int32] | None = None) -> Shape:
    """The shape that a step gives for maps of `shapes`. Raises InputError where they do not fit."""
    if isinstance(step, ConstantStep):
        held = (constants or {}).get(step.name)
        if held is None:
            raise InputError(f"step constant names no constant: {step.name}")
        return held.shape
    first = shapes[0]
    if isinstance(step, ArrangeStep):
        kept = [stop - start for start, stop in step.cut]
        fits = len(step.cut) == len(step.split) and sorted(step.order) == list(range(len(step.split)))
        fits = fits and all(
            stop <= size and start < stop for size, (start, stop) in zip(step.split, step.cut, strict=False)
        )
        if not fits or prod(step.split) != prod(first) or prod(kept) != prod(step.shape):
            raise InputError(
                f"step arrange takes {list(step.split)} and gives {list(step.shape)} of a map of {list(first)}"
            )
        return tuple(step.shape)
    if isinstance(step, MatmulStep):
        a, b = shapes
        if len(a) < 2 or len(a) != len(b) or a[:-2] != b[:-2] or a[-1] != b[-2]:
            raise InputError(f"step matmul multiplies maps of {list(a)} and {list(b)}")
        return (*a[:-1], b[-1])
    if isinstance(step, MultiplyStep):
        found = repeated(shapes[0], shapes[1])
        if found is None:
            raise InputError(f"step multiply multiplies maps of {list(shapes[0])} and {list(shapes[1])}")
        return found
    if isinstance(step, LookupStep):
        return first
    if step.axis >= len(first):
        raise InputError(f"step {step.op} is along axis {step.axis} of a map of {list(first)}")
    if isinstance(step, JoinStep):
        rest = [(*s[: step.axis], *s[step.axis + 1 :]) for s in shapes]
        if any(r != rest[0] for r in rest):
            raise InputError(f"step join joins maps of {', '.join(str(list(s)) for s in shapes)}")
        return (*first[: step.axis], sum(s[step.axis] for s in shapes), *first[step.axis + 1 :])
    if isinstance(step, SoftmaxStep) and step.mask:
        held = (constants or {}).get(step.mask)
        if held is None or repeated(held.shape, first) != first:
            raise InputError(f"step softmax names no mask of a map of {list(first)}: {step.mask}")
        if held.min() < 0 or held.max() > 1 or held.max(step.axis).min() < 1:
            raise InputError(f"step softmax: mask {step.mask} is not of 0 and 1, or keeps nothing of some rows")
    if isinstance(step, NormalizeStep) and first[step.axis] > FEATURES_MAX:
        raise InputError(f"step normalize is over {first[step.axis]} values; {FEATURES_MAX} are possible")
    return first
