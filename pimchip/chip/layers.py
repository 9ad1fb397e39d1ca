"""What a board is asked to hold and to do: tiles of cells, convolution geometry, requantization. Plain data."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pimchip.chip.copies import check_copies
from pimchip.chip.correction import Correction
from pimchip.chip.mac import Int64, Mac
from pimchip.errors import InputError

REQUANT_SHIFT_MAX = 62


@dataclass(frozen=True, order=True)
class Tile:
    """A rectangle of cells in one macro: `rows` wordlines from `row`, `columns` bitlines from `column`."""

    macro: int
    row: int
    column: int
    rows: int
    columns: int

    def __str__(self) -> str:
        return f"macro {self.macro} rows {self.row}..{self.row + self.rows - 1} columns {self.column}..{self.column + self.columns - 1}"


@dataclass(frozen=True)
class Geometry:
    """A convolution's index arithmetic; a linear layer is one with a 1 x 1 kernel on a 1 x 1 map.

    A map whose channels times positions equal in_channels is read as one vector by a 1 x 1 kernel (flattening).
    The products of an output are numbered channel-major: k = (channel * kernel_h + ky) * kernel_w + kx.
    """

    in_channels: int
    out_channels: int
    kernel: tuple[int, int] = (1, 1)
    stride: tuple[int, int] = (1, 1)
    padding: tuple[int, int] = (0, 0)
    dilation: tuple[int, int] = (1, 1)

    def __post_init__(self) -> None:
        at_least_1 = (self.in_channels, self.out_channels, *self.kernel, *self.stride, *self.dilation)
        if min(at_least_1) < 1 or min(self.padding) < 0 or max(*at_least_1, *self.padding) > 1 << 24:
            raise InputError(
                f"{self}: want channels, kernel, stride and dilation of at least 1 and no negative padding, all up to 2^24"
            )

    @property
    def depth(self) -> int:
        """Products summed into one output, K."""
        return self.in_channels * self.kernel[0] * self.kernel[1]

    @property
    def extent(self) -> tuple[int, int]:
        """Rows and columns of the input that a window spans."""
        return (self.kernel[0] - 1) * self.dilation[0] + 1, (self.kernel[1] - 1) * self.dilation[1] + 1

    def input_shape(self, shape: tuple[int, ...]) -> tuple[int, int, int]:
        """The (channels, height, width) under which a map of `shape` (c, h, w) is read. Raises InputError."""
        c, h, w = shape
        if c == self.in_channels:
            return c, h, w
        if c * h * w == self.in_channels and self.kernel == (1, 1):
            return self.in_channels, 1, 1
        raise InputError(f"a map of shape {[c, h, w]} does not feed a layer of {self.in_channels} input channels")

    def output_shape(self, shape: tuple[int, ...]) -> tuple[int, int, int]:
        """(channels, height, width) of the output for an input map of `shape` (c, h, w)."""
        _, h, w = self.input_shape(shape)
        out = [
            (s + 2 * p - k) // t + 1 for s, p, k, t in zip((h, w), self.padding, self.extent, self.stride, strict=True)
        ]
        if min(out) < 1:
            raise InputError(
                f"a kernel of {self.extent[0]}x{self.extent[1]} does not fit a map of {h}x{w} with padding {self.padding}"
            )
        return self.out_channels, out[0], out[1]


@dataclass(frozen=True)
class Placement:
    """Where a part of a layer lives: the cells of row group `group` and of columns from `first_column`, of one copy."""

    tile: Tile
    group: int
    first_column: int
    copy: int = 0


@dataclass(frozen=True)
class PimLayer:
    """A layer computed in the array. A layer column is output * planes + plane, for an operating point `mac`.

    `placements` may cover a part of the layer (what is resident); the numbering of groups and columns, which noise is
    drawn by, is always that of the whole layer. Its copies (pimchip.chip.copies) all cover the same part.
    correction: of the codes before they are recombined, on boards that can. Raises InputError where these do not fit.
    """

    name: str
    mac: Mac
    geometry: Geometry
    placements: tuple[Placement, ...]
    correction: Correction | None = None

    def __post_init__(self) -> None:
        if self.correction is not None and not self.correction.serves(self.mac):
            raise InputError(
                f"layer {self.name}: a correction at {self.correction.mac.describe()} is none of codes at {self.mac.describe()}"
            )
        check_copies(self.name, self.placements)

    @property
    def copies(self) -> int:
        """How often the layer, or what of it is resident, is in the array."""
        return max((p.copy for p in self.placements), default=0) + 1

    @property
    def largest(self) -> int:
        """No recombined code of the placements is larger in magnitude, uncorrected."""
        return self.mac.largest_output(len({p.group for p in self.placements}))

    @property
    def columns(self) -> int:
        """Columns of the whole layer."""
        return self.geometry.out_channels * self.mac.planes

    @property
    def groups(self) -> int:
        """Row groups of the whole layer."""
        return self.mac.groups(self.geometry.depth)

    def group_rows(self, group: int) -> int:
        """Rows that a group uses; the last one may be shorter."""
        return min(self.mac.rows, self.geometry.depth - group * self.mac.rows)


@dataclass(frozen=True)
class Run:
    """Which noise a call draws: an epoch, and the index of the call's first image, which also decides by which copy of a layer
    a vector is computed (pimchip.chip.copies). Physical boards, whose noise is their own, go by it for copies alone."""

    epoch: int = 0
    first_image: int = 0

    def __post_init__(self) -> None:
        if not 0 <= self.epoch < 1 << 32 or not 0 <= self.first_image < 1 << 40:
            raise InputError(
                f"run out of range: epoch {self.epoch} (0..2^32-1), first image {self.first_image} (0..2^40-1)"
            )


@dataclass(frozen=True)
class Requant:
    """Exact integer rescaling per channel: out = clip((acc * multiplier + offset) >> shift, low, high).

    multiplier, offset, shift: int64 [channels]; the rounding half is part of offset. Products stay within int64 for
    |acc| <= acc_max; the constructor checks it.
    """

    multiplier: Int64
    offset: Int64
    shift: Int64
    low: int
    high: int
    acc_max: int

    def check_channels(self, count: int) -> None:
        """InputError unless this is a requantization of `count` channels."""
        if count != len(self.multiplier):
            raise InputError(f"{count} channels do not fit a requantization of {len(self.multiplier)}")

    def __post_init__(self) -> None:
        arrays = (self.multiplier, self.offset, self.shift)
        if any(a.dtype != np.int64 or a.ndim != 1 or len(a) != len(self.multiplier) for a in arrays):
            raise InputError("requantization wants int64 [channels] multipliers, offsets and shifts of one length")
        if np.any(self.shift < 0) or np.any(self.shift > REQUANT_SHIFT_MAX):
            raise InputError(f"requantization out of range: want shifts in 0..{REQUANT_SHIFT_MAX}")
        if not -(1 << 31) <= self.low <= self.high < 1 << 31:
            raise InputError(f"requantization out of range: want low <= high in 32 bits, got {self.low}..{self.high}")
        for m, o in zip(self.multiplier.tolist(), self.offset.tolist(), strict=True):
            if abs(m) * self.acc_max + abs(o) >= 1 << 63:
                raise InputError(
                    f"requantization overflows: multiplier {m}, offset {o}, accumulators to {self.acc_max}"
                )


def check_inputs(tile: Tile, x: NDArray[np.generic], repeats: int, mac: Mac) -> None:
    """Raise InputError where x is no int [M, tile.rows] in 0..mac.digit - 1, the DAC inputs of single conversions."""
    if x.ndim != 2 or x.shape[1] != tile.rows or tile.rows > mac.rows:
        raise InputError(f"inputs {list(x.shape)} do not fit tile {tile} at {mac.rows} rows")
    if not np.issubdtype(x.dtype, np.integer):
        raise InputError(f"inputs are {x.dtype}: want integers")
    if x.size and (x.min() < 0 or x.max() >= mac.digit):
        raise InputError(f"inputs in {x.min()}..{x.max()}: a DAC of {mac.dac_bits} bits takes 0..{mac.digit - 1}")
    if repeats < 1:
        raise InputError(f"repeats = {repeats}: want at least 1")
