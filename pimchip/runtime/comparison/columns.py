"""A layer's tiles converted column by column from what the layer is really fed, beside what sound parts would give."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray

from pimchip.board.margins import Margins
from pimchip.board.restarts import through_restarts
from pimchip.chip import Mac, Run, Tile
from pimchip.chip.mac import Int8, Int32, Int64
from pimchip.kernels import integer
from pimchip.runtime.executor import COLUMNS_RUN, Executor

Float = NDArray[np.float64]

VECTORS = 384
"""Input vectors that a tile is converted with, at most: enough to tell causes apart, few enough for a slow line."""
TWIN_MARGIN = 1.0
"""LSB that a column's mean code may be off from a measured die's twin: the curve's own uncertainty, and drift."""
_GRID = 33


@dataclass(frozen=True)
class TileCodes:
    """Codes of one tile. V vectors, of R repeats each.

    digits: int [V, tile.rows], what the rows were driven with. cells: int8 [tile.rows, columns], as programmed. adc:
    int64 [columns]. codes: int32 [R, V, columns]. ideal: float64 [V, columns], u = sum * levels / full scale, not
    clipped, LSB. expected, low, high: float64 [V, columns], mean codes of sound parts and where theirs may lie.
    """

    tile: Tile
    mac: Mac
    group: int
    first_column: int
    digits: Int64
    cells: Int8
    adc: Int64
    codes: Int32
    ideal: Float
    expected: Float
    low: Float
    high: Float
    noise_limit: float
    """Standard deviation of repeated reads that sound converters stay below, LSB."""

    @property
    def mean(self) -> Float:
        """Mean codes over the repeats, float64 [V, columns]."""
        return np.asarray(self.codes.mean(axis=0))

    @property
    def scatter(self) -> Float:
        """Standard deviation of repeated reads of each column, root mean square over vectors, float64 [columns], LSB."""
        if len(self.codes) < 2:
            return np.zeros(self.codes.shape[2])
        return np.asarray(np.sqrt(self.codes.var(axis=0, ddof=1).mean(axis=0)))


def tile_codes(
    executor: Executor, twin: Executor | None, name: str, fed: Int32, repeats: int, seed: int
) -> Iterator[TileCodes]:
    """Convert every tile of layer `name` with vectors drawn from the map `fed`, int32 [n, c, h, w].

    twin: the program on the measured die's twin, programmed here as needed; None: what the chip's description allows.
    """
    program, board = executor.program, executor.board
    layer = program.layer(name)
    mac, geometry = layer.mac, layer.geometry
    vectors = integer.unfold(fed, geometry).astype(np.int64)
    vectors = np.unique(vectors, axis=0)  # equal vectors, as of empty corners, tell nothing twice
    chosen = np.random.default_rng(seed).permutation(len(vectors))[:VECTORS]
    slices = [(vectors[chosen] >> (mac.dac_bits * s)) & (mac.digit - 1) for s in range(mac.slices)]
    digits = np.concatenate(slices)[:: mac.slices]
    weights = mac.cells(program.tensors[f"weight.{name}"])
    margins = Margins.of(board, program.spec)
    begun = 0
    for record in sorted(program.manifest.layers[name].tiles, key=lambda t: t.residency):
        placement = record.placement()
        tile = placement.tile
        first = placement.group * mac.rows
        driven = digits[:, first : first + tile.rows]
        part = slice(placement.first_column, placement.first_column + tile.columns)
        cells = np.ascontiguousarray(weights[first : first + tile.rows, part])
        run = Run(executor.epoch(name, COLUMNS_RUN), begun)
        begun += repeats * len(driven)
        codes = through_restarts(partial(_converted, executor, record.residency, tile, driven, repeats, mac, run))
        ideal = (driven @ cells.astype(np.int64)) / mac.scale
        adc = np.array([program.spec.adc_of(tile.macro, c) for c in range(tile.column, tile.column + tile.columns)])
        if twin is None:
            expected, low, high = _allowed(margins, mac, ideal, driven, adc)
            limit = margins.scatter(mac)
        else:
            seen = _converted(twin, record.residency, tile, driven, repeats, mac, run)
            expected = seen.mean(axis=0)
            spread = np.sqrt(seen.var(axis=0, ddof=1).mean(axis=0)) if repeats > 1 else np.zeros(tile.columns)
            margin = TWIN_MARGIN + 5 * spread * np.sqrt(2 / repeats)
            low, high = expected - margin, expected + margin
            limit = 0.5 + 2 * float(spread.max(initial=0.0))
        yield TileCodes(
            tile, mac, placement.group, placement.first_column, driven, cells, adc.astype(np.int64), codes, ideal,
            expected, low, high, limit,
        )  # fmt: skip


def _converted(
    executor: Executor, residency: int, tile: Tile, digits: Int64, repeats: int, mac: Mac, run: Run
) -> Int32:
    executor.load_pass(residency)
    return executor.board.convert(tile, digits, repeats, mac=mac, run=run)


def _allowed(
    margins: Margins, mac: Mac, ideal: Float, digits: Int64, adc: NDArray[np.integer]
) -> tuple[Float, Float, Float]:
    """Ideal codes, and the lowest and highest mean codes that the chip's description allows, float64 [V, columns]."""
    expected = np.clip(ideal, mac.code_min, mac.code_max)
    rows = int((digits > 0).sum(axis=1).mean())
    grid = np.linspace(mac.code_min, mac.code_max, _GRID)
    # Converters of a chip share one description, so one of them stands for all.
    bounds = np.array([margins.around(mac, float(code), max(rows, 1), [int(adc[0])]) for code in grid])
    low, high = (np.interp(expected, grid, bounds[:, i]) for i in (0, 1))
    return expected, np.maximum(low, mac.code_min), np.minimum(high, mac.code_max)
