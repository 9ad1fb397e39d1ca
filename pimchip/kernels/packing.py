"""A layer as the fused kernel reads it: its cells, the converters behind them, and where windows lie. See pimchip.kernels.fused.

The kernel takes what `takes` says: exact cells, converters of table, noise, rounding and clipping, and sums that 16-bit
partial sums hold. The rows of a group may come in any order as long as its cells do too: here by kernel position, then
channel, so that a position's channels are copied at once.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import cached_property, lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pimchip.chip.adc import LSB_BITS, AdcTables
from pimchip.chip.layers import Geometry
from pimchip.chip.mac import Int32, Mac
from pimchip.chip.philox import Domain
from pimchip.errors import InputError
from pimchip.kernels import dot, noise, simd
from pimchip.kernels.convert import NARROW, QUADS
from pimchip.kernels.converters import Converters
from pimchip.kernels.maps import SLACK, FeatureMap
from pimchip.kernels.span import STRAY

WINDOWS_HELD, BANKS_HELD = 16, 4
LINE_MAX = float(1 << 21)
_NO_LINE = np.zeros(2, np.float32)

Float32 = NDArray[np.float32]


def takes(mac: Mac, converters: Converters, geometry: Geometry) -> bool:
    """True where this kernel computes the layer exactly."""
    groups = mac.groups(geometry.depth)
    product = groups * mac.rows * ((1 << mac.act_bits) - 1) * (mac.weight_max + 1)
    parts = _parts(mac, geometry)
    lookups = _looks_up(mac, parts)
    return (
        converters.plain
        and all(dot.fits(mac, [len(k) for k in part], lookups) for part in parts)
        and max(mac.largest_output(groups), product) < 1 << 31
        and converters.tables.transfer.size < 1 << 31
        and int(converters.tables.sigma.max(initial=0)) <= 1 << 27
    )


@lru_cache(maxsize=256)
def _parts(mac: Mac, geometry: Geometry) -> list[list[NDArray[np.int64]]]:
    """Rows of each group at each kernel position, numbered as Geometry numbers them."""
    positions = geometry.kernel[0] * geometry.kernel[1]
    parts = []
    for first in range(0, geometry.depth, mac.rows):
        k = np.arange(first, min(first + mac.rows, geometry.depth))
        parts.append([k[k % positions == p] for p in range(positions)])
    return parts


def _looks_up(mac: Mac, parts: list[list[NDArray[np.int64]]]) -> bool:
    """True where sums are looked up: tables are of every four channels of a pixel, so groups must begin on one."""
    aligned = all(len(k) == 0 or k[0] // len(part) % 4 == 0 for part in parts for k in part)
    return dot.uses_lookups(mac) and aligned


@dataclass(frozen=True)
class Packed:
    """A layer's cells as the kernel reads them. Built by `pack`."""

    mac: Mac
    geometry: Geometry
    columns: int
    weights: Int32
    """[padded columns]: the plane weight of each column."""
    planes: int
    slices: int
    lookups: bool
    quads: NDArray[np.int64]
    """[groups]: times four rows of a kernel position, padded."""
    cells: NDArray[np.int8]
    starts: NDArray[np.int64]
    """[copies * groups]: where a group's cells begin."""
    channels: NDArray[np.int64]
    """[groups, positions]: first channel that a group takes of each kernel position."""
    copies: int = 1
    """Of the layer (pimchip.chip.copies)."""
    read: dict[tuple[int, int], tuple[NDArray[np.int64], NDArray[np.int64]]] = field(default_factory=dict)
    """What `windows` has given before."""

    @property
    def padded(self) -> int:
        """Columns with their padding."""
        return -(-self.columns // dot.STRIP) * dot.STRIP

    @cached_property
    def where(self) -> tuple[int, ...]:
        """Addresses for the kernel."""
        return simd.addresses(self.cells, self.starts, self.quads, self.weights, noise.GAUSS)

    @cached_property
    def at_once(self) -> bool:
        """True where the kernel sums an output's planes as it converts them: codes, sums and weights are 16-bit integers."""
        mac = self.mac
        held = max(-mac.code_min, mac.code_max, -mac.sum_min, mac.sum_max, int(np.abs(self.weights).max(initial=0)))
        return QUADS and self.planes == 4 and held <= NARROW

    @cached_property
    def bounds(self) -> tuple[int, int]:
        """No output lies outside, and some may lie below 0."""
        largest = self.mac.largest_output(len(self.quads))
        return -largest, largest

    @property
    def outputs(self) -> int:
        """Outputs of a vector."""
        return self.columns // self.planes

    def measurable(self, vectors: int) -> bool:
        """True where sums of squares over so many vectors, of recombined codes and of recombined sums, are within 63 bits."""
        mac = self.mac
        exact = self.bounds[1] // mac.levels * mac.sum_max
        return vectors * max(self.bounds[1], exact) ** 2 < 1 << 63

    def output_map(self, x: FeatureMap) -> tuple[int, int, int, int]:
        """Shape of the outputs' map (images, height, width, channels). InputError for a map that the kernel does not take."""
        images, height, width, channels = x.shape
        if not x.small or channels != self.geometry.in_channels:
            raise InputError(
                f"a map of shape {list(x.shape)} ({x.flat.dtype}) is not one of {self.geometry.in_channels} channels"
            )
        _, out_h, out_w = self.geometry.output_shape((channels, height, width))
        return images, out_h, out_w, self.outputs

    def windows(self, row: int, pixel: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Where in a window of prepared pixels the kernel reads, by group and kernel position; and where each group begins.

        row, pixel: bytes of a row of prepared pixels and of one of them. With lookups a position takes several reads.
        """
        if (row, pixel) in self.read:
            return self.read[row, pixel]
        positions = self.channels.shape[1]
        ky, kx = np.divmod(np.arange(positions), self.geometry.kernel[1])
        ky, kx = ky * self.geometry.dilation[0], kx * self.geometry.dilation[1]
        offsets, ends = [], [0]
        for first, quads in zip(self.channels, self.quads.tolist(), strict=True):
            each = ky * row + kx * pixel + first * (4 if self.lookups else 1)
            reads = np.arange(0, quads, dot.LOOKUPS) * 16 if self.lookups else np.zeros(1, np.int64)
            offsets.append((each[:, None] + reads).reshape(-1))
            ends.append(ends[-1] + offsets[-1].size)
        if len(self.read) >= WINDOWS_HELD:
            self.read.clear()
        self.read[row, pixel] = np.concatenate(offsets).astype(np.int64), np.array(ends, np.int64)
        return self.read[row, pixel]


def pack(cells: NDArray[np.int8], mac: Mac, geometry: Geometry, *, raw: bool = False, copies: int = 1) -> Packed:
    """Prepare cells, int8 [depth, columns] with rows numbered channel-major as Geometry says.

    raw: outputs are the codes of the columns themselves, for inputs of one DAC slice. copies: of the layer; their cells
    follow one another, or are given once where all hold the same.
    """
    if cells.shape[0] not in (geometry.depth, copies * geometry.depth) or (
        cells.size and (cells.min() < (-mac.cell_max if mac.signed else 0) or cells.max() > mac.cell_max)
    ):
        raise InputError(f"cells {list(cells.shape)} do not fit {mac.describe()} and {geometry.depth} products")
    empty = _layout(mac, geometry, cells.shape[1], raw)
    packed, starts = [], [0]
    for first in range(0, len(cells), geometry.depth):
        for group, times in zip(_parts(mac, geometry), empty.quads.tolist(), strict=True):
            rows = np.zeros((len(group), 4 * times, empty.columns), np.int8)
            for p, k in enumerate(group):
                rows[p, : len(k)] = cells[first + k]
            packed.append(dot.pack(rows.reshape(-1, empty.columns), empty.lookups))
            starts.append(starts[-1] + packed[-1].size)
    whole = np.concatenate([*packed, np.zeros(SLACK, np.int8)])
    of_groups = np.resize(
        np.array(starts[:-1], np.int64), copies * len(empty.quads)
    )  # again for copies that hold the same
    return replace(empty, cells=whole, starts=of_groups, copies=copies)


@lru_cache(maxsize=256)
def _layout(mac: Mac, geometry: Geometry, columns: int, raw: bool) -> Packed:
    """A layer without its cells and where they start: training packs new ones in every step."""
    positions = geometry.kernel[0] * geometry.kernel[1]
    parts = _parts(mac, geometry)
    quads = [max(-(-len(k) // 4) for k in group) for group in parts]
    channels = np.array([[k[0] // positions if len(k) else 0 for k in group] for group in parts], np.int64)
    lookups = _looks_up(mac, parts)
    if lookups:
        quads = [-(-times // dot.LOOKUPS) * dot.LOOKUPS for times in quads]
    padded = -(-columns // dot.STRIP) * dot.STRIP
    plane_weights = np.ones(1, np.int64) if raw else mac.plane_weights
    return Packed(
        mac,
        geometry,
        columns,
        np.resize(plane_weights, padded).astype(np.int32),
        len(plane_weights),
        1 if raw else mac.slices,
        lookups,
        np.array(quads, np.int64),
        np.zeros(0, np.int8),
        np.zeros(0, np.int64),
        channels,
    )


@dataclass(frozen=True)
class Bank:
    """The converters behind a packed layer's columns, as the kernel reads them; [copies * groups, padded columns] each."""

    start: Int32
    """Where the converter's table has the entry of sum 0."""
    sigma: Int32
    low: Int32
    high: Int32
    tags: NDArray[np.int64]
    """[copies * groups, padded columns / 32, 8]: third counter word of each Philox block, eights in noise.BLOCK_ORDER."""
    strays: NDArray[np.int64]
    """[n, STRAY]: group of all copies' groups, column and eight times the counter word of columns whose macro is not their block's."""
    transfer: Int32
    line: Float32 | None
    """Slope and offset of the line that gives every code without noise, where there is one: see `line_of`."""

    @cached_property
    def loudest(self) -> int:
        """The largest S."""
        return int(self.sigma.max(initial=0))

    @cached_property
    def where(self) -> tuple[int, ...]:
        """Addresses for the kernel."""
        line = _NO_LINE if self.line is None else self.line
        return simd.addresses(self.start, self.sigma, self.low, self.high, self.tags, self.strays, self.transfer, line)


def line_of(tables: AdcTables) -> Float32 | None:
    """float32 [slope, offset] with clip(round(v * slope + offset)), in float32, the code of every column sum v without noise.

    None where the converters are several, or where no such line gives all their codes. It is several times faster than a
    table that the first cache does not hold.
    """
    mac, table = tables.mac, tables.transfer[0].astype(np.int64)
    if len(tables.transfer) > 1 or len(table) < 2 or mac.sum_max >= 1 << 24:
        return None
    v = np.arange(mac.sum_min, mac.sum_max + 1, dtype=np.int64)
    codes = np.clip((table + (1 << LSB_BITS - 1)) >> LSB_BITS, mac.code_min, mac.code_max)
    slope = np.float32((table[-1] - table[0]) / (len(table) - 1) / (1 << LSB_BITS))
    above = codes - v * float(slope)  # how far each code's middle is; clipped codes have one end only
    least = np.max(above - 0.5, where=codes > mac.code_min, initial=-LINE_MAX)
    most = np.min(above + 0.5, where=codes < mac.code_max, initial=LINE_MAX)
    line = np.array([slope, (least + most) / 2], np.float32)
    t = v.astype(np.float32) * line[0] + line[1]
    right = np.array_equal(np.clip(np.rint(t), mac.code_min, mac.code_max), codes)
    return line if right and float(np.abs(t).max()) < LINE_MAX else None


def bank(packed: Packed, converters: Converters) -> Bank:
    """Arrange the converters of a layer, or give what was arranged of the same ones before."""
    parts = (converters.tables, converters.adc, converters.macro, converters.present)
    key = (packed.mac, packed.columns, *map(id, parts))
    held = converters.arranged.get(key)
    if held is None:
        if len(converters.arranged) >= BANKS_HELD:
            converters.arranged.clear()
        held = converters.arranged[key] = parts, _arrange(packed, converters)  # parts: so that their ids stay theirs
    made: Bank = held[1]
    return made


def _arrange(packed: Packed, converters: Converters) -> Bank:
    mac, tables = packed.mac, converters.tables
    adc, macro = converters.adc, converters.macro
    shape = (len(adc), packed.padded)

    def wide(values: NDArray[Any], fill: int) -> Int32:
        out = np.full(shape, fill, np.int32)
        out[:, : packed.columns] = values
        return out

    present = np.ones(adc.shape, bool) if converters.present is None else converters.present
    tag = wide(macro, 0).astype(np.int64) | int(Domain.NOISE) << 24
    blocks = tag[:, ::4]
    group, column = np.nonzero((tag != np.repeat(blocks, 4, axis=1))[:, : packed.columns])
    return Bank(
        start=wide(adc * tables.transfer.shape[1] - mac.sum_min, -mac.sum_min),
        sigma=wide(tables.sigma[adc], 0),
        low=wide(np.where(present, mac.code_min, 0), 0),
        high=wide(np.where(present, mac.code_max, 0), 0),
        tags=np.ascontiguousarray(blocks.reshape(len(adc), -1, 8)[:, :, noise.BLOCK_ORDER]),
        strays=np.stack([group, column, *[tag[group, column]] * (STRAY - 2)], axis=1).astype(np.int64),
        transfer=tables.transfer.reshape(-1),
        line=line_of(tables),
    )
