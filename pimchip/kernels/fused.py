"""A whole layer in one pass over the CPU: digits, column sums, noise, conversion, shift-and-add, requantization.

Four input vectors go through together, so everything between the feature map and the outputs stays in the first
cache; partial sums are never written to memory. Same integers as pimchip.chip.reference, on any number of threads:
vectors are independent, and their noise is numbered. It takes what `takes` says: exact cells, converters of table,
noise, rounding and clipping, and sums that 16-bit partial sums hold. Compiled code is cached between runs.

A matrix of vectors is a map of 1 x 1 positions. The rows of a group may come in any order as long as its cells do too:
here by kernel position, then channel, so that a position's channels are copied at once.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numba
import numpy as np
from numpy.typing import NDArray

from pimchip.chip.adc import LSB_BITS, SATURATION, column_stride
from pimchip.chip.gauss import FRACTION_BITS
from pimchip.chip.layers import Geometry, Requant
from pimchip.chip.mac import Int32, Mac
from pimchip.chip.philox import MASK, Domain
from pimchip.errors import InputError
from pimchip.kernels import dot, noise, simd, threads
from pimchip.kernels.converters import Converters
from pimchip.kernels.maps import SLACK, FeatureMap, fits_bytes

LEAST = 64
"""Vectors that are worth a call."""
LARGEST_DEVIATE = 22211
"""gauss() reaches 5.42 sigma in units of 2^-12."""
_NARROW = ((1 << 31) - (1 << 28)) // LARGEST_DEVIATE
"""Up to this S, S * gauss(r) and its rounding stay within 32 bits."""


def takes(mac: Mac, converters: Converters, groups: int) -> bool:
    """True where this kernel computes the layer exactly."""
    product = groups * mac.rows * ((1 << mac.act_bits) - 1) * (mac.weight_max + 1)
    return (
        converters.plain
        and dot.fits(mac)
        and max(mac.largest_output(groups), product) < 1 << 31
        and converters.tables.transfer.size < 1 << 31
        and converters.tables.sigma.max(initial=0) <= 1 << 27
    )


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
    cells: NDArray[np.int8]
    starts: NDArray[np.int64]
    """[groups]: where a group's cells begin."""
    used: NDArray[np.int64]
    """[groups]: rows of a group, padded as dot.pack pads them."""
    runs: NDArray[np.int64]
    """[groups, positions, 2]: first channel and number of channels that a group takes of each kernel position."""

    @property
    def padded(self) -> int:
        """Columns with their padding."""
        return -(-self.columns // dot.STRIP) * dot.STRIP

    @cached_property
    def row_stride(self) -> int:
        """Digits of one vector and group, padded."""
        return -(-self.mac.rows // dot.ROWS_STEP) * dot.ROWS_STEP


def pack(cells: NDArray[np.int8], mac: Mac, geometry: Geometry, *, raw: bool = False) -> Packed:
    """Prepare cells, int8 [depth, columns] with rows numbered channel-major as Geometry says.

    raw: outputs are the codes of the columns themselves, for inputs of one DAC slice.
    """
    if cells.shape[0] != geometry.depth or (
        cells.size and (cells.min() < (-mac.cell_max if mac.signed else 0) or cells.max() > mac.cell_max)
    ):
        raise InputError(f"cells {list(cells.shape)} do not fit {mac.describe()} and {geometry.depth} products")
    positions = geometry.kernel[0] * geometry.kernel[1]
    lookups = dot.uses_lookups(mac)
    packed, starts, used, runs = [], [0], [], []
    for first in range(0, geometry.depth, mac.rows):
        k = np.arange(first, min(first + mac.rows, geometry.depth))
        channel, position = k // positions, k % positions
        order = np.lexsort((channel, position))
        packed.append(dot.pack(cells[k[order]], lookups))
        starts.append(starts[-1] + packed[-1].size)
        used.append(-(-len(k) // dot.USED_STEP) * dot.USED_STEP)
        taken = [channel[position == p] for p in range(positions)]
        runs.append([(int(c[0]) if len(c) else 0, len(c)) for c in taken])
    columns = cells.shape[1]
    plane_weights = np.ones(1, np.int64) if raw else mac.plane_weights
    return Packed(
        mac,
        geometry,
        columns,
        np.resize(plane_weights, -(-columns // dot.STRIP) * dot.STRIP).astype(np.int32),
        len(plane_weights),
        1 if raw else mac.slices,
        lookups,
        np.concatenate([*packed, np.zeros(SLACK, np.int8)]),
        np.array(starts[:-1], np.int64),
        np.array(used, np.int64),
        np.array(runs, np.int64),
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
    """[groups, padded columns / 4]: third counter word of each Philox block."""
    strays: NDArray[np.int64]
    """[n, 3]: group, column and counter word of columns whose macro is not their block's."""
    transfer: Int32


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
        tags=np.ascontiguousarray(blocks),
        strays=np.stack([group, column, tag[group, column]], axis=1).astype(np.int64),
        transfer=tables.transfer.reshape(-1),
    )


_round_noise = simd.with_constant(simd.i32x8, "add", 1 << (FRACTION_BITS - 1))
_shift_noise = simd.with_constant(simd.i32x8, "ashr", FRACTION_BITS)
_round_code = simd.with_constant(simd.i32x8, "add", 1 << (LSB_BITS - 1))
# S * z + 2^11, and the code's rounding 2^15 already under the shift by 12 that follows.
_round_both = simd.with_constant(simd.i32x8, "add", (1 << (FRACTION_BITS - 1)) + (1 << (LSB_BITS - 1 + FRACTION_BITS)))
_shift_code = simd.with_constant(simd.i32x8, "ashr", LSB_BITS)
_low_sigma = simd.with_constant(simd.i32x8, "and_", (1 << FRACTION_BITS) - 1)
assert SATURATION + (1 << 28) < 1 << 31  # so table plus noise stays within 32 bits


@numba.njit(error_model="numpy")
def _keep(acc, at, codes, low, high, c, place):  # type: ignore[no-untyped-def]
    """Clip codes and add them, times the digit's place, to what is there."""
    clipped = simd.min32(simd.max32(codes, simd.load_words(low, c)), simd.load_words(high, c))
    simd.store_words(acc, at, simd.add32(simd.load_words(acc, at), simd.shift_left32(clipped, place)))


@numba.njit(error_model="numpy")
def _convert_silent(sums, at, columns, start, low, high, p, transfer, place, acc):  # type: ignore[no-untyped-def]
    for c in range(0, columns, 8):
        t = simd.gather(transfer, simd.add32(simd.load_words(sums, at + c), simd.load_words(start, p + c)))
        _keep(acc, at + c, _shift_code(_round_code(t)), low, high, p + c, place)


@numba.njit(error_model="numpy")
def _convert(sums, z, at, columns, start, sigma, low, high, p, transfer, place, acc):  # type: ignore[no-untyped-def]
    for c in range(0, columns, 8):
        t = simd.gather(transfer, simd.add32(simd.load_words(sums, at + c), simd.load_words(start, p + c)))
        n = _shift_noise(_round_both(simd.mul32(simd.load_words(sigma, p + c), simd.load_words(z, c))))
        _keep(acc, at + c, _shift_code(simd.add32(t, n)), low, high, p + c, place)


@numba.njit(error_model="numpy")
def _convert_loud(sums, z, at, columns, start, sigma, low, high, p, transfer, place, acc):  # type: ignore[no-untyped-def]
    """The same for any S: its product with z in two parts, S = (S >> 12 << 12) + (S & 4095)."""
    for c in range(0, columns, 8):
        t = simd.gather(transfer, simd.add32(simd.load_words(sums, at + c), simd.load_words(start, p + c)))
        s, d = simd.load_words(sigma, p + c), simd.load_words(z, c)
        n = simd.add32(simd.mul32(_shift_noise(s), d), _shift_noise(_round_noise(simd.mul32(_low_sigma(s), d))))
        _keep(acc, at + c, _shift_code(_round_code(simd.add32(t, n))), low, high, p + c, place)


@numba.njit(error_model="numpy")
def _gather_digits(  # type: ignore[no-untyped-def]
    x, base, height, width, channels, iy, ix, runs, first_run, kernel_y, kernel_x, shift, mask, out, at
):  # fmt: skip
    """One DAC slice of one vector's inputs of a group into out, kernel position by position; outside the map: 0."""
    run = 2 * first_run
    for y in range(iy, iy + kernel_y):
        for z in range(ix, ix + kernel_x):
            first, count = simd.long_at(runs, run), simd.long_at(runs, run + 1)
            run += 2
            source = base + (y * width + z) * channels + first
            inside = 0 <= y < height and 0 <= z < width
            # Outside, any readable bytes do, with no bit of them kept.
            source = source if inside else 0
            kept = mask if inside else simd.splat32(np.int32(0))
            for k in range(0, count, 32):
                digit = simd.shift_right32(simd.bytes_to_words(simd.load_bytes(x, source + k)), shift)
                simd.store_bytes(out, at + k, simd.words_to_bytes(simd.and32(digit, kept)))
            at += count


@numba.njit(error_model="numpy")
def _weighted(acc, at, weights, c):  # type: ignore[no-untyped-def]
    return simd.mul32(simd.load_words(acc, at + c), simd.load_words(weights, c))


@numba.njit(error_model="numpy")
def _recombine(acc, at, planes, weights, columns, out, to):  # type: ignore[no-untyped-def]
    """out[o] = sum over an output's planes of weights * acc; weights: int32 [columns]; all padded to whole strips."""
    if planes == 4:
        for c in range(0, columns, 32):
            first = simd.pair_sums(_weighted(acc, at, weights, c), _weighted(acc, at, weights, c + 8))
            last = simd.pair_sums(_weighted(acc, at, weights, c + 16), _weighted(acc, at, weights, c + 24))
            simd.store_words(out, to + (c >> 2), simd.pair_sums(first, last))
    elif planes == 2:
        for c in range(0, columns, 16):
            sums = simd.pair_sums(_weighted(acc, at, weights, c), _weighted(acc, at, weights, c + 8))
            simd.store_words(out, to + (c >> 1), sums)
    elif planes == 1:
        for c in range(0, columns, 8):
            simd.store_words(out, to + c, simd.load_words(acc, at + c))
    else:
        for o in range(columns // planes):
            total = np.int32(0)
            for c in range(o * planes, (o + 1) * planes):
                total += simd.word_at(acc, at + c) * simd.word_at(weights, c)
            simd.put_word(out, to + o, total)


def _compile(sources: str) -> Any:
    """The kernel; `sources`, a digest of what it is made of, is part of its key in numba's cache."""

    @numba.njit(cache=True, nogil=True, error_model="numpy")
    def span(begin, end, shape, conv, sizes, flags, given, bank, results, scratch):  # type: ignore[no-untyped-def]
        """Vectors begin..end of a layer; see `run` for what the arguments hold. Memory by address."""
        height, width, channels = shape
        kernel_y, kernel_x, stride_y, stride_x, pad_y, pad_x, out_h, out_w = conv
        groups, slices, dac_bits, columns, padded, row_stride, planes, first_cycle, stride = sizes
        lookups, noisy, loud, epoch, scaled, small, both, strays = flags
        x, runs, cells, cell_starts, used, weights, scale, keys, table = given
        start, sigma, low, high, tags, stray, transfer = bank
        out, analog = results
        sums, acc, exact, z, row, digits, pairs, tables = scratch
        if sources == "":
            return
        outputs = columns // planes
        positions = kernel_y * kernel_x
        block = dot.VECTORS * padded
        zero = simd.splat32(np.int32(0))
        whole = columns == padded  # so that a vector's outputs end where the next one's begin
        for first in range(begin, end, dot.VECTORS):
            count = min(dot.VECTORS, end - first)
            for c in range(0, block, 8):
                simd.store_words(acc, c, zero)
            if both:
                for c in range(0, block, 8):
                    simd.store_words(exact, c, zero)
            for g in range(groups):
                p = g * padded
                rows = simd.long_at(used, g)
                cell = simd.long_at(cell_starts, g)
                for s in range(slices):
                    place = np.int32(s * dac_bits)
                    # A slice of the top bits may be narrower; what lies beyond is the next byte's.
                    mask = simd.splat32(np.int32(((1 << min(dac_bits, 8 - s * dac_bits)) - 1) * 0x01010101))
                    image = first // (out_h * out_w)
                    oy = first % (out_h * out_w) // out_w
                    ox = first % out_w
                    for v in range(count):
                        _gather_digits(
                            x, image * height * width * channels, height, width, channels, oy * stride_y - pad_y,
                            ox * stride_x - pad_x, runs, g * positions, kernel_y, kernel_x, place, mask,
                            digits, v * row_stride,
                        )  # fmt: skip
                        ox += 1
                        if ox == out_w:
                            ox = 0
                            oy += 1
                            if oy == out_h:
                                oy = 0
                                image += 1
                    if lookups:
                        dot.make_tables(digits, row_stride, rows, pairs, tables)
                        dot.sums_by_lookup(tables, row_stride, rows, cells, cell, padded, sums)
                    else:
                        dot.sums_by_product(digits, row_stride, rows, cells, cell, padded, sums)
                    if both:
                        for c in range(0, block, 8):
                            shifted = simd.shift_left32(simd.load_words(sums, c), place)
                            simd.store_words(exact, c, simd.add32(simd.load_words(exact, c), shifted))
                    for v in range(count):
                        at = v * padded
                        if not noisy:
                            _convert_silent(sums, at, padded, start, low, high, p, transfer, place, acc)
                            continue
                        index = (first_cycle + ((first + v) * groups + g) * slices + s) * stride
                        noise.deviates(index >> 2, tags, p >> 2, epoch, keys, table, z, padded)
                        for k in range(0, 3 * strays, 3):
                            if simd.long_at(stray, k) == g:
                                c = simd.long_at(stray, k + 1)
                                d = noise.one_deviate(index + c, simd.long_at(stray, k + 2), epoch, keys, table)
                                simd.put_word(z, c, np.int32(d))
                        if loud:
                            _convert_loud(sums, z, at, padded, start, sigma, low, high, p, transfer, place, acc)
                        else:
                            _convert(sums, z, at, padded, start, sigma, low, high, p, transfer, place, acc)
            for v in range(count):
                o = (first + v) * outputs
                if whole and not scaled:
                    _recombine(acc, v * padded, planes, weights, padded, out, o)
                else:
                    _recombine(acc, v * padded, planes, weights, padded, row, 0)
                    for k in range(outputs):
                        value = np.int64(simd.word_at(row, k))
                        if scaled:
                            value = value * simd.long_at(scale, k) + simd.long_at(scale, outputs + k)
                            value >>= simd.long_at(scale, 2 * outputs + k)
                            value = min(max(value, simd.long_at(scale, 3 * outputs)), simd.long_at(scale, 4 * outputs))
                        if small:
                            simd.put_byte(out, o + k, np.uint8(value))
                        else:
                            simd.put_word(out, o + k, np.int32(value))
                if both:
                    _recombine(exact, v * padded, planes, weights, padded, row, 0)
                    for k in range(outputs):
                        simd.put_word(analog, o + k, simd.word_at(row, k))

    return span


def _digest() -> str:
    """Numba looks at one file's date; the kernel is made of several, so it is cached by what they say."""
    names = ("simd", "noise", "dot", "fused")
    sources = b"".join(Path(__file__).with_name(f"{name}.py").read_bytes() for name in names)
    return hashlib.sha256(sources).hexdigest() + str(simd.AVX2)


_span = _compile(_digest())
_NO_WORDS = np.zeros(0, np.int32)
_NO_SCALE = np.zeros((5, 1), np.int64)


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
) -> tuple[FeatureMap, Int32 | None]:
    """A layer's outputs as a map: recombined codes, or those after `requant`; and the recombined sums, or None.

    x: a map of bytes; bits beyond the operating point's act_bits are cut off. requant: its acc_max must be above what
    codes can reach. analog: also return the recombined sums before the ADC, int32 [vectors, outputs].
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
    small = requant is not None and fits_bytes(requant.low, requant.high)
    out = FeatureMap.empty((images, out_h, out_w, outputs), small)
    exact = np.empty(vectors * outputs, np.int32) if analog else _NO_WORDS
    scale = _NO_SCALE
    if requant is not None:
        scale = np.zeros((5, outputs), np.int64)
        scale[0], scale[1], scale[2] = requant.multiplier, requant.offset, requant.shift
        scale[3], scale[4] = requant.low, requant.high
    loudest = int(converters.sigma.max(initial=0))
    keys = noise.round_keys(seed or 0)
    shape = (height, width, channels)
    conv = (*geometry.kernel, *geometry.stride, *geometry.padding, out_h, out_w)
    sizes = (
        groups,
        packed.slices,
        mac.dac_bits,
        packed.columns,
        packed.padded,
        packed.row_stride,
        packed.planes,
        first_vector * groups * packed.slices,
        column_stride(packed.columns),
    )
    flags = (
        int(packed.lookups),
        int(seed is not None and loudest > 0),
        int(loudest > _NARROW),
        epoch & MASK,
        int(requant is not None),
        int(small),
        int(analog),
        len(converters.strays),
    )
    given = _addresses(
        x.flat, packed.runs, packed.cells, packed.starts, packed.used, packed.weights, scale, keys, noise.GAUSS
    )
    behind = _addresses(
        converters.start,
        converters.sigma,
        converters.low,
        converters.high,
        converters.tags,
        converters.strays,
        converters.transfer,
    )
    results = _addresses(out.flat, exact)

    def begin() -> Callable[[int, int], None]:
        vectors, rows = dot.VECTORS, packed.row_stride
        words = [np.empty(n * packed.padded, np.int32) for n in (vectors, vectors, vectors, 1, 1)]
        bytes_ = [np.zeros(n * rows + SLACK, np.uint8) for n in (vectors, 2, 4 * vectors)]
        where = _addresses(*words, *bytes_)

        def work(first: int, last: int, kept: object = (words, bytes_)) -> None:
            _span(first, last, shape, conv, sizes, flags, given, behind, results, where)

        return work

    threads.share(begin, vectors, LEAST)
    return out, exact.reshape(vectors, outputs) if analog else None


def _addresses(*arrays: NDArray[Any]) -> tuple[int, ...]:
    """Where arrays begin. The caller keeps them alive while the kernel runs."""
    if not all(array.flags.c_contiguous for array in arrays):
        raise AssertionError("the kernel reads contiguous arrays")
    return tuple(array.__array_interface__["data"][0] for array in arrays)
