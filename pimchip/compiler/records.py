"""What a program's manifest holds, record by record: steps, layers with their tiles, normalizations. Checked when read."""

from __future__ import annotations

from typing import Annotated, Any, Literal, NamedTuple

from pydantic import Field, SerializerFunctionWrapHandler, model_serializer

from pimchip.chip import Geometry, Mac, Placement, Scheme, Tile
from pimchip.compiler.host_steps import (
    HOST_OPS,
    ArrangeStep,
    ConstantStep,
    JoinStep,
    LookupStep,
    MatmulStep,
    MultiplyStep,
    NormalizeStep,
    SoftmaxStep,
)
from pimchip.compiler.steps_base import Buffer, Pair, Record, Size
from pimchip.errors import InputError

WIDE_BITS = 16
"""Binary places below an activation step that sums of branches are held with."""


class PimStep(Record):
    """Run a layer in the array; raw recombined codes to dst."""

    op: Literal["pim"] = "pim"
    layer: str
    src: Buffer
    dst: Buffer


class DigitalStep(Record):
    """Run a layer on the processor; raw sums to dst."""

    op: Literal["digital"] = "digital"
    layer: str
    src: Buffer
    dst: Buffer


class RequantizeStep(Record):
    """Normalize (norm, or only rescale) accumulators of `unit` to integers of `scale`, clipped to low..high."""

    op: Literal["requantize"] = "requantize"
    norm: str | None
    src: Buffer
    dst: Buffer
    unit: Annotated[float, Field(gt=0)]
    scale: Annotated[float, Field(gt=0)]
    low: int
    high: int
    acc_max: Annotated[int, Field(ge=1, lt=1 << 31)]
    channels: Size
    zero: Annotated[int, Field(ge=0, le=255)] = 0
    """The integer that stands for 0, where values can be negative and integers cannot."""
    negative: bool = False
    """Whether the sign changes."""

    @model_serializer(mode="wrap")
    def _plain(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Without what version 1 did not have, where it is not used."""
        found: dict[str, Any] = handler(self)
        return {key: value for key, value in found.items() if value or key not in ("zero", "negative")}


class AddStep(Record):
    """dst = clip((a * factors[0] + b * factors[1] + half) >> shift, low, high)."""

    op: Literal["add"] = "add"
    a: Buffer
    b: Buffer
    dst: Buffer
    factors: tuple[int, int]
    shift: Annotated[int, Field(ge=0, le=40)]
    low: int
    high: int


class PoolStep(Record):
    """Maximum or sum over windows."""

    op: Literal["pool"] = "pool"
    kind: Literal["max", "sum"]
    src: Buffer
    dst: Buffer
    kernel: Pair
    stride: Pair
    padding: Pair


BoardStep = PimStep | DigitalStep | RequantizeStep | AddStep | PoolStep
Step = Annotated[
    BoardStep
    | ConstantStep
    | ArrangeStep
    | NormalizeStep
    | SoftmaxStep
    | LookupStep
    | MatmulStep
    | MultiplyStep
    | JoinStep,
    Field(discriminator="op"),
]


def sources(step: Step) -> tuple[int, ...]:
    """The buffers that a step reads."""
    if isinstance(step, AddStep | MatmulStep | MultiplyStep):
        return step.a, step.b
    if isinstance(step, JoinStep):
        return step.maps
    return () if isinstance(step, ConstantStep) else (step.src,)


class TileRecord(Record):
    """Where a part of a layer lives, in which residency pass, and of which of the layer's copies it is."""

    residency: Annotated[int, Field(ge=0)]
    macro: Annotated[int, Field(ge=0)]
    row: Annotated[int, Field(ge=0)]
    column: Annotated[int, Field(ge=0)]
    rows: Size
    columns: Size
    group: Annotated[int, Field(ge=0)]
    first_column: Annotated[int, Field(ge=0)]
    copy_number: Annotated[int, Field(ge=0)] = 0

    @model_serializer(mode="wrap")
    def _plain(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Without what version 1 did not have, where it is not used."""
        found: dict[str, Any] = handler(self)
        return found if self.copy_number else {key: value for key, value in found.items() if key != "copy_number"}

    def placement(self) -> Placement:
        """As the board takes it."""
        tile = Tile(self.macro, self.row, self.column, self.rows, self.columns)
        return Placement(tile, self.group, self.first_column, self.copy_number)


class Block(NamedTuple):
    """`rows` wordlines of a row group, and the outputs from `first` on that they add to."""

    group: int
    rows: int
    first: int
    outputs: int


class LayerRecord(Record):
    """A layer: its geometry and, in the array, its operating point and tiles. Weights are tensor `weight.NAME`."""

    kind: Literal["pim", "digital"]
    in_channels: Size
    out_channels: Size
    kernel: tuple[Size, Size]
    stride: tuple[Size, Size]
    padding: Pair
    positions: Size
    mac: dict[str, int | str] | None = None
    tiles: tuple[TileRecord, ...] = ()
    groups: Size = 1
    """Of channels; weights between channels of two groups are zero, and what holds only such ones has no tile."""
    dilation: tuple[Size, Size] = (1, 1)

    @model_serializer(mode="wrap")
    def _plain(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Without what version 1 did not have, where it is not used."""
        found: dict[str, Any] = handler(self)
        new = {"groups": 1, "dilation": (1, 1)}
        return {key: value for key, value in found.items() if key not in new or getattr(self, key) != new[key]}

    @property
    def copies(self) -> int:
        """How often the array holds it (pimchip.chip.copies)."""
        return 1 + max((t.copy_number for t in self.tiles), default=0)

    @property
    def version(self) -> int:
        """The first version of files that can hold it."""
        if self.copies > 1:
            return 6
        return 1 if self.groups == 1 and self.dilation == (1, 1) else 2

    def geometry(self) -> Geometry:
        """As the kernels take it, of all groups."""
        return Geometry(self.in_channels, self.out_channels, self.kernel, self.stride, self.padding, self.dilation)

    def blocks(self) -> list[Block]:
        """What of a layer in the array has cells: for each row group, the outputs that it adds to."""
        mac, depth = self.operating_point(), self.geometry().depth
        each, outputs = depth // self.groups, self.out_channels // self.groups
        found = []
        for group in range(mac.groups(depth)):
            first, end = group * mac.rows, min((group + 1) * mac.rows, depth)
            low, high = first // each, -(-end // each)
            found.append(Block(group, end - first, low * outputs, (high - low) * outputs))
        return found

    def operating_point(self) -> Mac:
        """Of a layer in the array. Raises InputError for a record without or with a wrong one."""
        if self.mac is None:
            raise InputError("the layer has no operating point")
        fields = {k: v for k, v in self.mac.items() if k != "scheme"}
        try:
            return Mac(Scheme.parse(str(self.mac.get("scheme"))), **fields)  # type: ignore[arg-type]
        except TypeError as error:
            raise InputError(f"operating point {self.mac}: {error}") from None


class NormRecord(Record):
    """real = (acc * unit + bias - mean) / sqrt(var + eps) * gamma + beta, tensors `norm.NAME.gamma` and so on."""

    layer: str
    unit: Annotated[float, Field(gt=0)]
    eps: Annotated[float, Field(ge=0)]
    calibrated: bool
    """True for BN, whose mean and var are measured on the chip; false for a plain bias."""
    channels: Size | None = None
    """Of a normalization of tokens, which is of no layer."""

    @model_serializer(mode="wrap")
    def _plain(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Without what version 1 did not have, where it is not used."""
        found: dict[str, Any] = handler(self)
        return found if self.channels else {key: value for key, value in found.items() if key != "channels"}


class Manifest(Record):
    """Everything of a program but its tensors."""

    name: str
    chip: dict[str, Any]
    spec_hash: str
    input_shape: tuple[Size, Size, Size]
    classes: tuple[str, ...]
    layers: dict[str, LayerRecord]
    norms: dict[str, NormRecord]
    steps: tuple[Step, ...]
    input: Buffer
    output: Buffer
    logit_scale: Annotated[float, Field(gt=0)]
    passes: Annotated[int, Field(ge=0)]
    model_hash: str = ""
    profile_hash: str | None = None
    data: str = ""

    @property
    def version(self) -> int:
        """The first version of files that can hold it: 4 where the host has steps, or integers stand for negative values; 5 where
        maps are multiplied by elements or masked; 6 with copies of layers."""
        multiplies = any(isinstance(step, MultiplyStep) or getattr(step, "mask", "") for step in self.steps)
        host = any(
            step.op in HOST_OPS or getattr(step, "zero", 0) or getattr(step, "negative", False) for step in self.steps
        )
        steps = 5 if multiplies else 4 if host else 1
        return max([steps, *(layer.version for layer in self.layers.values())])
