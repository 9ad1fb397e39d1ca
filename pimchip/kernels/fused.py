"""A whole layer in one pass over the CPU: digits, column sums, noise, conversion, shift-and-add, requantization.

Four input vectors go through together, so everything between the feature map and the outputs stays in the first
cache; partial sums are never written to memory. Same integers as pimchip.chip.reference, on any number of threads:
vectors are independent, and their noise is numbered. It takes what `takes` says: exact cells, converters of table,
noise, rounding and clipping, and sums that 16-bit partial sums hold. Compiled code is cached between runs.

A matrix of vectors is a map of 1 x 1 positions. The rows of a group may come in any order as long as its cells do too:
here by kernel position, then channel, so that a position's channels are copied at once.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from pimchip.chip.adc import column_stride
from pimchip.chip.layers import Geometry, Requant
from pimchip.chip.mac import Int32, Mac
from pimchip.chip.philox import MASK, Domain
from pimchip.errors import InputError
from pimchip.kernels import dot, noise, rescale, simd, threads
from pimchip.kernels.compiling import announced
from pimchip.kernels.convert import NARROW, QUADS
from pimchip.kernels.converters import Converters
from pimchip.kernels.maps import SLACK, FeatureMap, UInt8
from pimchip.kernels.span import STRAY, span

BLOCK = 128
"""Vectors, roughly, whose input pixels are prepared together."""
PIXELS = 1 << 26
"""Bytes of prepared pixels of a block, roughly: huge strides get by with fewer rows at a time."""


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
    """[groups]: where a group's cells begin."""
    channels: NDArray[np.int64]
    """[groups, positions]: first channel that a group takes of each kernel position."""
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
        """True where the kernel sums an output's planes as it converts them."""
        held = max(-self.mac.code_min, self.mac.code_max, int(np.abs(self.weights).max(initial=0))) <= NARROW
        return QUADS and self.planes == 4 and held

    @cached_property
    def bounds(self) -> tuple[int, int]:
        """No output lies outside, and some may lie below 0."""
        largest = self.mac.largest_output(len(self.starts))
        return -largest, largest

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
        if len(self.read) >= _WINDOWS_HELD:
            self.read.clear()
        self.read[row, pixel] = np.concatenate(offsets).astype(np.int64), np.array(ends, np.int64)
        return self.read[row, pixel]


def pack(cells: NDArray[np.int8], mac: Mac, geometry: Geometry, *, raw: bool = False) -> Packed:
    """Prepare cells, int8 [depth, columns] with rows numbered channel-major as Geometry says.

    raw: outputs are the codes of the columns themselves, for inputs of one DAC slice.
    """
    if cells.shape[0] != geometry.depth or (
        cells.size and (cells.min() < (-mac.cell_max if mac.signed else 0) or cells.max() > mac.cell_max)
    ):
        raise InputError(f"cells {list(cells.shape)} do not fit {mac.describe()} and {geometry.depth} products")
    positions = geometry.kernel[0] * geometry.kernel[1]
    columns = cells.shape[1]
    parts = _parts(mac, geometry)
    quads = [max(-(-len(k) // 4) for k in group) for group in parts]
    channels = np.array([[k[0] // positions if len(k) else 0 for k in group] for group in parts], np.int64)
    lookups = _looks_up(mac, parts)
    if lookups:
        quads = [-(-times // dot.LOOKUPS) * dot.LOOKUPS for times in quads]
    packed, starts = [], [0]
    for group, times in zip(parts, quads, strict=True):
        rows = np.zeros((positions, 4 * times, columns), np.int8)
        for p, k in enumerate(group):
            rows[p, : len(k)] = cells[k]
        packed.append(dot.pack(rows.reshape(-1, columns), lookups))
        starts.append(starts[-1] + packed[-1].size)
    plane_weights = np.ones(1, np.int64) if raw else mac.plane_weights
    return Packed(
        mac,
        geometry,
        columns,
        np.resize(plane_weights, -(-columns // dot.STRIP) * dot.STRIP).astype(np.int32),
        len(plane_weights),
        1 if raw else mac.slices,
        lookups,
        np.array(quads, np.int64),
        np.concatenate([*packed, np.zeros(SLACK, np.int8)]),
        np.array(starts[:-1], np.int64),
        channels,
    )


@dataclass(frozen=True)
class Bank:
    """The converters behind a packed layer's columns, as the kernel reads them; [groups, padded columns] each."""

    start: Int32
    """Where the converter's table has the entry of sum 0."""
    sigma: Int32
    low: Int32
    high: Int32
    tags: NDArray[np.int64]
    """[groups, padded columns / 32, 8]: third counter word of each Philox block, eights in noise.BLOCK_ORDER."""
    strays: NDArray[np.int64]
    """[n, STRAY]: group, column and eight times the counter word of columns whose macro is not their block's."""
    transfer: Int32

    @cached_property
    def loudest(self) -> int:
        """The largest S."""
        return int(self.sigma.max(initial=0))

    @cached_property
    def where(self) -> tuple[int, ...]:
        """Addresses for the kernel."""
        return simd.addresses(self.start, self.sigma, self.low, self.high, self.tags, self.strays, self.transfer)


def bank(packed: Packed, converters: Converters) -> Bank:
    """Arrange the converters of a layer. Cheap beside a layer's run, but worth keeping between runs."""
    mac, tables = packed.mac, converters.tables
    adc, macro = converters.adc.numpy(), converters.macro.numpy()
    shape = (len(adc), packed.padded)

    def wide(values: NDArray[Any], fill: int) -> Int32:
        out = np.full(shape, fill, np.int32)
        out[:, : packed.columns] = values
        return out

    present = np.ones(adc.shape, bool) if converters.present is None else converters.present.numpy()
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
    )


_NO_WORDS = np.zeros(0, np.int32)
_WINDOWS_HELD = 16


def _scratch(*sizes: int) -> tuple[UInt8, tuple[int, ...]]:
    """Memory, the first part zero, and where parts of these sizes, bytes, begin in it, each on a line of the cache."""
    starts = np.cumsum([0, *(-(-size // SLACK) * SLACK for size in sizes)])
    held = np.empty(int(starts[-1]) + SLACK, np.uint8)
    (first,) = simd.addresses(held)
    aside = -first % SLACK
    held[aside : aside + sizes[0]] = 0  # sums, which conversions timed alone take as they are
    first += aside
    return held, tuple(first + start for start in starts[:-1].tolist())


def run(
    x: FeatureMap,
    packed: Packed,
    converters: Bank,
    *,
    seed: int | None,
    epoch: int = 0,
    first_vector: int = 0,
    requant: Requant | None = None,
    analog: bool = False,
    only: Literal["sums", "conversion"] | None = None,
) -> tuple[FeatureMap, Int32 | None]:
    """A layer's outputs as a map: recombined codes, or those after `requant`; and the recombined sums, or None.

    x: a map of bytes; bits beyond the operating point's act_bits are cut off. requant: rescale.possible must hold.
    analog: also return the recombined sums before the ADC, int32 [vectors, outputs]. only: leave the rest of the work
    out, to time a part; the outputs then mean nothing.
    """
    mac, geometry = packed.mac, packed.geometry
    images, height, width, channels = x.shape
    if not x.small or channels != geometry.in_channels:
        raise InputError(
            f"a map of shape {list(x.shape)} ({x.flat.dtype}) is not one of {geometry.in_channels} channels"
        )
    _, out_h, out_w = geometry.output_shape((channels, height, width))
    groups = len(packed.starts)
    outputs = packed.columns // packed.planes
    vectors = images * out_h * out_w
    bounds = packed.bounds if requant is None else (requant.low, requant.high)
    out = FeatureMap.empty((images, out_h, out_w, outputs), bounds)
    exact = np.empty(vectors * outputs, np.int32) if analog else _NO_WORDS
    scale = rescale.NONE if requant is None else rescale.layout(requant)
    loudest = converters.loudest
    keys = noise.round_keys(seed or 0)
    shape = (height, width, channels, images)
    # A stride along which there is one output does nothing, but would be room between windows.
    stride = tuple(s if size > 1 else 1 for s, size in zip(geometry.stride, (out_h, out_w), strict=True))
    conv = (*geometry.extent, *stride, *geometry.padding, out_h, out_w)
    grain = -(-channels // 4) * 16 if packed.lookups else channels
    row_grain = (width + 2 * geometry.padding[1]) * grain
    block_rows = min(-(-BLOCK // out_w), max(PIXELS // (stride[0] * row_grain), 1))
    blocks = -(-images * out_h // block_rows)
    # Pixels of a block: a window of rows for each image that it touches.
    touched = (block_rows - 2) // out_h + 2
    windows_rows = block_rows * stride[0] + touched * (geometry.extent[0] - 1)
    room = windows_rows * row_grain + 4 * SLACK
    sizes = (
        groups,
        packed.slices,
        mac.dac_bits,
        mac.dac_bits if packed.slices == 1 else mac.act_bits,
        packed.columns,
        packed.padded,
        packed.planes,
        first_vector * groups * packed.slices,
        column_stride(packed.columns),
        block_rows,
        grain,
        row_grain,
        room,
    )
    flags = (
        int(packed.lookups),
        int(seed is not None and loudest > 0),
        int(loudest > NARROW),
        epoch & MASK,
        int(requant is not None),
        int(out.small),
        int(analog),
        len(converters.strays),
        int(only != "conversion"),
        int(only != "sums"),
        int(packed.at_once),
    )
    offsets, windows = packed.windows(row_grain, grain)
    given = (*simd.addresses(x.flat, offsets, windows, scale, keys), *packed.where)
    results = simd.addresses(out.flat, exact)

    def begin() -> Callable[[int, int], None]:
        strip, block = 4 * dot.VECTORS * dot.STRIP, 4 * dot.VECTORS * packed.padded
        held, where = _scratch(strip, strip, block, block, block, SLACK, packed.slices * room, 8 * touched)

        def work(first: int, last: int, kept: object = held) -> None:
            span(first, last, shape, conv, sizes, flags, given, converters.where, results, where)

        return work

    with announced("of plain layers", span):
        threads.share(begin, blocks, 1)
    return out, exact.reshape(vectors, outputs) if analog else None
