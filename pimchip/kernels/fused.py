"""A whole layer in one pass over the CPU: digits, column sums, noise, conversion, shift-and-add, requantization.

Four input vectors go through together, so everything between the feature map and the outputs stays in the first
cache; partial sums are never written to memory. Same integers as pimchip.chip.reference, on any number of threads:
vectors are independent, and their noise is numbered. What it takes, and how a layer's cells and converters are laid out
for it, is in pimchip.kernels.packing. Compiled code is cached between runs.

A matrix of vectors is a map of 1 x 1 positions.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from pimchip.chip.adc import column_stride
from pimchip.chip.layers import Requant
from pimchip.chip.mac import Int32
from pimchip.chip.philox import MASK
from pimchip.kernels import dot, noise, rescale, simd, threads
from pimchip.kernels.compiling import announced
from pimchip.kernels.convert import NARROW
from pimchip.kernels.maps import SLACK, FeatureMap, UInt8
from pimchip.kernels.packing import Bank, Packed
from pimchip.kernels.processor import WORDS
from pimchip.kernels.span import span

BLOCK = 128
"""Vectors, roughly, whose input pixels are prepared together."""
COPY_BLOCK = 32
"""Of them, those of one copy of the layer, at least: they go through four at a time, and the last four may be fewer."""
PIXELS = 1 << 26
"""Bytes of prepared pixels of a block, roughly: huge strides get by with fewer rows at a time."""

_NO_WORDS, _NO_FLOATS = np.zeros(0, np.int32), np.zeros(0, np.float32)


def _scratch(*sizes: int) -> tuple[UInt8, tuple[int, ...]]:
    """Memory, the first part zero, and where parts of these sizes, bytes, begin in it, each on a line of the cache."""
    starts = np.cumsum([0, *(-(-size // SLACK) * SLACK for size in sizes)])
    held = np.empty(int(starts[-1]) + SLACK, np.uint8)
    (first,) = simd.addresses(held)
    aside = -first % SLACK
    held[aside : aside + sizes[0]] = 0  # sums, which conversions timed alone take as they are
    first += aside
    return held, tuple(first + start for start in starts[:-1].tolist())


@dataclass(frozen=True)
class _Output:
    """Where outputs go, and what is done to them. out, analog: arrays of one output each; the second may be empty.

    scale: of `requant`, as rescale lays it out. gain: float32 [channels] of whole vectors, where outputs are to be measured.
    """

    out: NDArray[Any]
    analog: Int32 = field(default_factory=lambda: _NO_WORDS)
    requant: Requant | None = None
    gain: NDArray[np.float32] | None = None


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
    bounds = packed.bounds if requant is None else (requant.low, requant.high)
    out = FeatureMap.empty(packed.output_map(x), bounds)
    exact = np.empty(out.size, np.int32) if analog else _NO_WORDS
    _launch(x, packed, converters, _Output(out.flat, exact, requant), (seed, epoch, first_vector), only)
    return out, exact.reshape(-1, packed.outputs) if analog else None


def run_measured(
    x: FeatureMap,
    packed: Packed,
    converters: Bank,
    gain: NDArray[np.float32],
    y: NDArray[np.float32],
    *,
    seed: int | None,
    epoch: int = 0,
    first_vector: int = 0,
) -> NDArray[np.int64]:
    """Recombined codes times gain [outputs] into y, flat, of packed.output_map's shape; and their moments.

    Moments: int64 [5, outputs], over vectors the sums of codes, of their squares, of recombined sums before the ADC, of
    their squares, and of the products of both; packed.measurable must hold. What they are of is never in memory.
    """
    outputs = packed.outputs
    padded = np.zeros(-(-outputs // WORDS) * WORDS, np.float32)
    padded[:outputs] = gain
    if y.size != math.prod(packed.output_map(x)) or y.dtype != np.float32:
        raise AssertionError(f"{y.size} outputs of {y.dtype} do not fit a map of {packed.output_map(x)}")
    found = _launch(x, packed, converters, _Output(y, gain=padded), (seed, epoch, first_vector))
    moments: NDArray[np.int64] = np.sum(found, axis=0)[:, :outputs]
    return moments


def _launch(
    x: FeatureMap,
    packed: Packed,
    converters: Bank,
    to: _Output,
    noise_of: tuple[int | None, int, int],
    only: Literal["sums", "conversion"] | None = None,
) -> list[NDArray[np.int64]]:
    """Run the kernel on all threads. noise_of: seed, epoch, first vector. Returns what each thread measured."""
    mac, geometry = packed.mac, packed.geometry
    images, height, width, channels = x.shape
    seed, epoch, first_vector = noise_of
    _, out_h, out_w, _ = packed.output_map(x)
    groups, measured = len(packed.quads), to.gain is not None
    scale = rescale.NONE if to.requant is None else rescale.layout(to.requant)
    gain = _NO_FLOATS if to.gain is None else to.gain
    noisy = seed is not None and converters.loudest > 0
    keys = noise.round_keys(seed or 0)
    shape = (height, width, channels, images)
    # A stride along which there is one output does nothing, but would be room between windows.
    stride = tuple(s if size > 1 else 1 for s, size in zip(geometry.stride, (out_h, out_w), strict=True))
    conv = (*geometry.extent, *stride, *geometry.padding, out_h, out_w)
    grain = -(-channels // 4) * 16 if packed.lookups else channels
    row_grain = (width + 2 * geometry.padding[1]) * grain
    block_rows = min(-(-max(BLOCK, COPY_BLOCK * packed.copies) // out_w), max(PIXELS // (stride[0] * row_grain), 1))
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
        packed.copies,
        first_vector % packed.copies,
        column_stride(packed.columns),
        block_rows,
        grain,
        row_grain,
        room,
    )
    flags = (
        int(packed.lookups),
        int(noisy),
        int(converters.loudest > NARROW),
        int(converters.line is not None and not noisy),
        epoch & MASK,
        int(to.requant is not None),
        int(to.out.dtype == np.uint8),
        int(measured or to.analog.size > 0),
        int(measured),
        len(converters.strays),
        int(only != "conversion"),
        int(only != "sums"),
        int(packed.at_once),
    )
    offsets, windows = packed.windows(row_grain, grain)
    given = (*simd.addresses(x.flat, offsets, windows, scale, gain, keys), *packed.where)
    results = simd.addresses(to.out, to.analog)
    found: list[NDArray[np.int64]] = []

    def begin() -> Callable[[int, int], None]:
        strip, block = 4 * dot.VECTORS * dot.STRIP, 4 * dot.VECTORS * packed.padded
        held, where = _scratch(strip, strip, block, block, block, SLACK, packed.slices * room, 8 * touched)
        moments = np.zeros((5, gain.size), np.int64)
        found.append(moments)
        where += simd.addresses(moments)

        def work(first: int, last: int, kept: object = held) -> None:
            span(first, last, shape, conv, sizes, flags, given, converters.where, results, where)

        return work

    with announced("of plain layers", span):
        threads.share(begin, blocks, 1)
    return found
