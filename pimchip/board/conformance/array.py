"""Checks of cells, converters and of layers on the array."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from pimchip.board.conformance.checks import Bench, Checks, must, must_equal, must_refuse
from pimchip.board.conformance.expected import recombined, requantized, unfolded
from pimchip.board.margins import Margins
from pimchip.board.tiles import row_checksums
from pimchip.chip import Geometry, Mac, PimLayer, Placement, Requant, Run, Tile
from pimchip.chip.correction import Correction, limit, widest
from pimchip.chip.mac import Int8, Int32, Int64

CHECKS = Checks()
REPEATS = 8
"""Reads of the same, whose spread is the board's own noise."""
SURE = 7
"""Standard errors: of some thousand comparisons none fails by chance."""
TO, FROM, ACC = 3, 4, 5
"""Buffers."""


def _cells(bench: Bench, tile: Tile) -> Int8:
    mac = bench.spec.mac()
    low = -mac.cell_max if mac.signed else 0
    return bench.rng.integers(low, mac.cell_max, (tile.rows, tile.columns), endpoint=True).astype(np.int8)


def _program(bench: Bench, tile: Tile, cells: Int8) -> None:
    """With further pulses for cells that ignored one; a stuck cell is the self-test's matter."""
    done = bench.board.program_verified(tile, cells)
    share = len(done.wrong) / cells.size
    must(done.steady, f"{tile}: two reads of the same cells differ")
    must(done.report.ok or 0 < share < 0.02, f"{tile}: {len(done.wrong)} of {cells.size} cells read back wrong")


@CHECKS.add("holds what is programmed, at every corner")
def _corners(bench: Bench) -> None:
    array = bench.spec.array
    rows, columns = min(3, array.rows), min(5, array.columns)
    tiles = [
        Tile(macro, row, column, rows, columns)
        for macro in {0, array.macros - 1}
        for row in {0, array.rows - rows}
        for column in {0, array.columns - columns}
    ]
    held = {tile: _cells(bench, tile) for tile in tiles}
    for tile, cells in held.items():
        _program(bench, tile, cells)
    again = {tile: bench.board.verify(tile) for tile in tiles if bench.board.holds(tile)}
    must(len(again) == len(_disjoint(tiles)), "a tile is forgotten although nothing was programmed over it")
    for tile, report in again.items():
        must(report.tile == tile, f"verify of {tile} reports on {report.tile}")


def _disjoint(tiles: list[Tile]) -> set[Tile]:
    """Those that nothing later in the list overlaps."""
    apart = set[Tile]()
    for place, a in enumerate(tiles):
        later = [b for b in tiles[place + 1 :] if b.macro == a.macro and b != a]
        if not any(abs(a.row - b.row) < a.rows and abs(a.column - b.column) < a.columns for b in later):
            apart.add(a)
    return apart


@CHECKS.add("reads cells, not what was sent")
def _reading(bench: Bench) -> None:
    tile = Tile(0, 0, 0, min(4, bench.spec.array.rows), min(8, bench.spec.array.columns))
    full = np.full((tile.rows, tile.columns), bench.spec.mac().cell_max, np.int8)
    _program(bench, tile, full)
    part = Tile(0, 0, 0, 1, tile.columns)
    _program(bench, part, np.zeros((1, tile.columns), np.int8))
    must(not bench.board.holds(tile), "a tile counts as held although its first row was programmed over")
    found = bench.board._row_checksums(part)
    must(len(found) == 1 and found != row_checksums(full[:1]), "the first row reads back as it was before")
    must_refuse(lambda: bench.board.verify(tile), "verify of a tile that was programmed over")


@CHECKS.add("refuses tiles and inputs that cannot be")
def _refusals(bench: Bench) -> None:
    array, board, mac = bench.spec.array, bench.board, bench.spec.mac()
    for tile in (
        Tile(array.macros, 0, 0, 1, 1), Tile(0, array.rows, 0, 1, 1), Tile(0, 0, array.columns, 1, 1),
        Tile(0, 0, 0, array.rows + 1, 1), Tile(-1, 0, 0, 1, 1), Tile(0, 0, 0, 0, 1),
    ):  # fmt: skip
        must_refuse(lambda tile=tile: board.program(tile, np.zeros((tile.rows, tile.columns), np.int8)), f"{tile}")  # type: ignore[misc]
    good = Tile(0, 0, 0, 1, 8)
    _program(bench, good, np.zeros((1, 8), np.int8))
    must_refuse(lambda: board.program(good, np.zeros((2, 8), np.int8)), "cells of another shape than the tile's")
    must_refuse(lambda: board.program(good, np.zeros((1, 8), np.int64)), "cells of 64 bits")
    must_refuse(lambda: board.convert(good, np.full((1, 1), mac.digit)), f"an input of {mac.digit}, beyond the DAC")
    must_refuse(lambda: board.convert(good, np.full((1, 1), -1)), "an input of -1")
    must_refuse(lambda: board.convert(good, np.zeros((1, 2), np.int64)), "inputs of two rows for a tile of one")
    must_refuse(lambda: board.convert(good, np.zeros((1, 1), np.int64), 0), "no repeats")
    must(board.verify(good).ok, "a refused call changed cells")


@CHECKS.add("converts sums to the codes of sound parts")
def _codes(bench: Bench) -> None:
    spec, mac = bench.spec, bench.spec.mac()
    margins = Margins.of(bench.board, spec)
    rows = min(mac.rows, spec.array.rows)
    driven = [0, rows // (4 * mac.range_divisor), rows // (2 * mac.range_divisor)]
    x = np.zeros((len(driven), rows), np.int64)
    for vector, count in enumerate(driven):
        x[vector, :count] = mac.digit - 1
    for macro in range(spec.array.macros):
        tile = Tile(macro, 0, 0, rows, spec.array.columns)
        _program(bench, tile, np.full((rows, tile.columns), mac.cell_max, np.int8))
        codes = bench.board.convert(tile, x, REPEATS, run=Run(first_image=macro))
        must(codes.dtype == np.int32, f"codes are {codes.dtype}, want int32")
        must(codes.shape == (REPEATS, len(x), tile.columns), f"codes have shape {list(codes.shape)}")
        must(
            mac.code_min <= codes.min() and codes.max() <= mac.code_max,
            f"codes in {codes.min()}..{codes.max()}, want {mac.code_min}..{mac.code_max}",
        )
        adcs = sorted(set(spec.adcs_of(tile)))
        for vector, count in enumerate(driven):
            ideal = float(x[vector].sum() * mac.cell_max / mac.scale)
            low, high = margins.around(mac, ideal, count, adcs)
            got = float(np.median(codes[:, vector].mean(0)))  # a few broken converters are the self-test's matter
            must(
                low <= got <= high,
                f"macro {macro}, {count} rows driven: code {got:.2f} where sound parts give {low:.2f} to {high:.2f}",
            )


@CHECKS.add("keeps vectors, rows and columns apart")
def _order(bench: Bench) -> None:
    spec, mac = bench.spec, bench.spec.mac()
    rows, columns = min(mac.rows, spec.array.rows), spec.array.columns
    tile = Tile(spec.array.macros - 1, 0, 0, rows, columns)
    cells = np.zeros((rows, columns), np.int8)
    cells[bench.rng.random((rows, columns)) < 0.5] = mac.cell_max
    _program(bench, tile, cells)
    x = (bench.rng.random((12, rows)) < 0.5) * np.int64(mac.digit - 1)
    codes = bench.board.convert(tile, x, REPEATS).mean(0)
    wanted = x @ cells.astype(np.int64)
    # What is common to a vector or a column is taken off, and so is a converter's offset: what is left only fits in place.
    left, right = (v - v.mean(0) - v.mean(1, keepdims=True) + v.mean() for v in (codes, wanted.astype(float)))
    alike = float((left * right).sum() / np.sqrt(max((left**2).sum() * (right**2).sum(), 1e-30)))
    must(alike > 0.5, f"codes have a correlation of {alike:.2f} with the sums that belong to them")


def _layer(bench: Bench) -> tuple[PimLayer, Int64, Mac]:
    """A convolution of as many row groups as two tiles hold, its weights int64 [K, out], programmed."""
    spec, mac = bench.spec, bench.spec.mac()
    channels = min(max(mac.rows // 9 + 1, 1), 32)
    outputs = min(3, spec.array.columns // (2 * mac.planes))
    geometry = Geometry(channels, outputs, (3, 3), (2, 1), (1, 1))
    depth = geometry.depth
    weights = bench.rng.integers(-mac.weight_max, mac.weight_max, (depth, outputs), endpoint=True)
    cells = mac.cells(weights)
    placements = []
    for group in range(mac.groups(depth)):
        part = cells[group * mac.rows : (group + 1) * mac.rows]
        tile = Tile(group % spec.array.macros, 0, (group // spec.array.macros) * part.shape[1], *part.shape)
        _program(bench, tile, part)
        placements.append(Placement(tile, group, 0))
    return PimLayer("check", mac, geometry, tuple(placements)), weights, mac


def _codes_of(bench: Bench, layer: PimLayer, image: Int64) -> list[list[Int32]]:
    """Codes of single conversions of a layer's inputs by group and slice, each [REPEATS, vectors, columns]."""
    mac, vectors = layer.mac, unfolded(image, layer.geometry)
    return [
        [
            bench.board.convert(
                p.tile, vectors[:, p.group * mac.rows :][:, : p.tile.rows] // mac.digit**s % mac.digit, REPEATS
            )
            for s in range(mac.slices)
        ]
        for p in layer.placements
    ]


def _maps(sums: Int64, layer: PimLayer, image: Int64) -> Int64:
    """Recombined [REPEATS, vectors, outputs] as maps [REPEATS, outputs, height, width]."""
    channels, height, width = layer.geometry.output_shape(image.shape[1:])
    return sums.reshape(REPEATS, height, width, channels).transpose(0, 3, 1, 2)


def _spread(a: NDArray[np.integer], b: NDArray[np.integer]) -> float:
    """The standard error of the difference of the means of two sets of repeats."""
    return float(np.sqrt(a.var(0, ddof=1).mean() / len(a) + b.var(0, ddof=1).mean() / len(b)))


@CHECKS.add("runs layers as its own conversions add up", "conv")
def _layers(bench: Bench) -> None:
    board = bench.board
    layer, _, mac = _layer(bench)
    image = bench.rng.integers(0, (1 << mac.act_bits) - 1, (1, layer.geometry.in_channels, 6, 5), endpoint=True)
    board.upload(FROM, np.repeat(image, REPEATS, axis=0))
    board.conv(layer, FROM, TO)
    got = board.download(TO)
    wanted = _maps(recombined(_codes_of(bench, layer, image), mac), layer, image)
    must(got.shape == wanted.shape, f"the result has shape {list(got.shape)}, want {list(wanted.shape)}")
    spread = _spread(got, wanted)
    off = np.abs(got.mean(0) - wanted.mean(0))
    must(
        float(off.max()) <= SURE * spread,
        f"an output is off by {off.max():.1f} from what conversions of its inputs add up to, beyond noise of {spread:.2f}",
    )
    board.upload(ACC, np.full(got.shape, 100_000))
    board.conv(layer, FROM, ACC, accumulate=True)
    off = np.abs(board.download(ACC).mean(0) - 100_000 - wanted.mean(0))
    must(float(off.max()) <= SURE * spread, f"accumulated, an output is off by {off.max():.1f}")
    _rescaled(bench, layer, wanted, spread)
    must_refuse(lambda: board.conv(layer, 99, TO), "a layer on an empty buffer")


@CHECKS.add("corrects codes before they are added up", "conv", "correct")
def _corrected(bench: Bench) -> None:
    board, spec = bench.board, bench.spec
    layer, _, mac = _layer(bench)
    bits, adcs = widest(mac), spec.array.macros * spec.adc.per_macro
    codes = np.arange(mac.code_min, mac.code_max + 1)
    gains, offsets = bench.rng.normal(0, 0.1, (adcs, 1)), bench.rng.normal(0, 3, (adcs, 1))
    most = limit(mac, bits)
    values = np.clip(np.rint((codes * (1 + gains) + offsets) * 2.0**bits), -most, most).astype(np.int16)
    layer = replace(layer, correction=Correction(mac, bits, values))
    image = bench.rng.integers(0, (1 << mac.act_bits) - 1, (1, layer.geometry.in_channels, 6, 5), endpoint=True)
    board.upload(FROM, np.repeat(image, REPEATS, axis=0))
    board.conv(layer, FROM, TO)
    got = board.download(TO)
    held = [
        [values[np.array(spec.adcs_of(p.tile)), part - mac.code_min].astype(np.int32) for part in parts]
        for p, parts in zip(layer.placements, _codes_of(bench, layer, image), strict=True)
    ]
    rounded = (recombined(held, mac) + (1 << bits >> 1)) >> bits
    wanted = _maps(np.clip(rounded, -layer.largest, layer.largest), layer, image)
    must(got.shape == wanted.shape, f"the result has shape {list(got.shape)}, want {list(wanted.shape)}")
    off, spread = np.abs(got.mean(0) - wanted.mean(0)), _spread(got, wanted)
    must(
        float(off.max()) <= SURE * spread,
        f"an output is off by {off.max():.1f} from what corrected codes add up to, beyond noise of {spread:.2f}",
    )
    few = Correction(mac, bits, values[:-1]) if adcs > 1 else None
    if few is not None:
        must_refuse(lambda: board.conv(replace(layer, correction=few), FROM, TO), "a correction of too few converters")


@CHECKS.add("shares vectors between the copies of a layer", "conv", "copies")
def _copies(bench: Bench) -> None:
    board, mac, array = bench.board, bench.spec.mac(), bench.spec.array
    outputs = min(3, array.columns // (2 * mac.planes))
    geometry, alone = Geometry(min(mac.rows, 32), outputs), list[PimLayer]()
    for copy, macro in enumerate((0, array.macros - 1)):  # with weights of their own, to be told apart
        weights = bench.rng.integers(-mac.weight_max, mac.weight_max, (geometry.depth, outputs), endpoint=True)
        tile = Tile(macro, 0, copy * outputs * mac.planes, geometry.depth, outputs * mac.planes)
        _program(bench, tile, mac.cells(weights))
        alone.append(PimLayer("check", mac, geometry, (Placement(tile, 0, 0),)))
    image = bench.rng.integers(0, (1 << mac.act_bits) - 1, (1, geometry.in_channels, 5, 3), endpoint=True)
    board.upload(FROM, np.repeat(image, REPEATS, axis=0))
    both = *alone[0].placements, replace(*alone[1].placements, copy=1)
    board.conv(replace(alone[0], placements=both), FROM, TO)
    got = board.download(TO)
    each = [_maps(recombined(_codes_of(bench, layer, image), mac), layer, image) for layer in alone]
    must(got.shape == each[0].shape, f"the result has shape {list(got.shape)}, want {list(each[0].shape)}")
    board.conv(replace(alone[0], placements=both), FROM, TO, run=Run(0, 3))
    later = board.download(TO)
    for begun, images in ((0, got), (3, later)):
        for first in range(2):  # an image has an odd number of vectors
            second = (begun + first + np.arange(15).reshape(5, 3)) % 2 == 1
            wanted, found = np.where(second, each[1], each[0]), images[first::2]
            off, spread = np.abs(found.mean(0) - wanted.mean(0)), _spread(found, wanted)
            must(
                float(off.max()) <= SURE * spread,
                f"image {begun + first} of a run, {first} of a call: an output is off by {off.max():.1f} from what its vector's "
                f"copy adds up to, beyond noise of {spread:.2f}",
            )


def _rescaled(bench: Bench, layer: PimLayer, wanted: Int64, spread: float) -> None:
    channels = layer.geometry.out_channels
    shift = max(int(np.abs(wanted).max()).bit_length() - 6, 0)
    half = np.full(channels, (1 << shift) >> 1, np.int64)
    requant = Requant(np.full(channels, 3, np.int64), half, np.full(channels, shift, np.int64), -50, 60, 1 << 30)
    bench.board.conv(layer, FROM, TO, requant=requant)
    got = bench.board.download(TO)
    must(got.min() >= -50 and got.max() <= 60, f"requantized to {got.min()}..{got.max()}, want -50..60")
    off = np.abs(got.mean(0) - requantized(wanted, requant).mean(0))
    bound = SURE * 3 * spread / (1 << shift) + SURE / np.sqrt(REPEATS) * (spread > 0)
    must(float(off.max()) <= bound, f"requantized, an output is off by {off.max():.2f}")


@CHECKS.add("takes products of weights and activations", "conv")
def _products(bench: Bench) -> None:
    layer, weights, mac = _layer(bench)
    x = bench.rng.integers(0, (1 << mac.act_bits) - 1, (24, layer.geometry.in_channels, 3, 3), endpoint=True)
    geometry = Geometry(layer.geometry.in_channels, layer.geometry.out_channels, (3, 3))
    bench.board.upload(FROM, x)
    bench.board.conv(PimLayer("check", mac, geometry, layer.placements), FROM, TO)
    got = bench.board.download(TO).reshape(len(x), -1) * mac.scale
    wanted = (unfolded(x, geometry) @ weights).astype(float)
    alike = float(np.corrcoef((got - got.mean(0)).ravel(), (wanted - wanted.mean(0)).ravel())[0, 1])
    must(alike > 0.3, f"a layer's results have a correlation of {alike:.2f} with the products of its weights")
    must_equal(bench.board.download(FROM), x.astype(np.int32), "the source, after a layer ran on it,")
