"""Reading sets of rows: vectors of one macro, all its cells full, with repeats, and which converters can be told from them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray

from pimchip.board import Board
from pimchip.board.restarts import through_restarts
from pimchip.characterize.array.estimate import NotToldError
from pimchip.characterize.array.rounding import FEWEST_POSITIONS, SMALLEST_SIGMA, noise_variance
from pimchip.characterize.estimators import Float
from pimchip.characterize.measure import Clock, check_adcs, columns_of, program_full
from pimchip.characterize.stimulus import filled
from pimchip.chip import ChipSpec, Mac, Tile
from pimchip.chip.philox import Domain, words

CHUNK = 4096
"""Vectors converted in one call."""
LEVELS = 16
"""Sums about the middle of the range, an LSB and a sixteenth apart: so positions between codes are spread evenly."""


@dataclass(frozen=True)
class Reads:
    """Codes of one macro. x: uint8 [vectors, rows]. codes: int32 [repeats, vectors, columns]. adc: int64 [columns], the
    converter of each, counted over all macros. left_out: converters that were read and are not in it, as they were at
    the end of their range, or gave one code only."""

    macro: int
    x: NDArray[np.uint8]
    codes: NDArray[np.int32]
    adc: NDArray[np.int64]
    left_out: tuple[int, ...]

    def by_adc(self, values: Float) -> Float:
        """Means over the columns of each converter, over the last axis."""
        _, which, count = np.unique(self.adc, return_inverse=True, return_counts=True)
        out = np.zeros((*values.shape[:-1], len(count)))
        np.add.at(out.reshape(-1, len(count)).T, which, values.reshape(-1, values.shape[-1]).T)
        return out / count

    @property
    def columns_of_adc(self) -> NDArray[np.int64]:
        """Index of each column's converter among those that are there."""
        return np.asarray(np.unique(self.adc, return_inverse=True)[1], np.int64)


def read(
    board: Board, mac: Mac, x: NDArray[np.uint8], repeats: int, adcs: Sequence[int], macro: int, clock: Clock
) -> Reads:
    """Convert every vector `repeats` times, on the converters `adcs` of a macro. Repeats follow each other in turns: all
    vectors of a call, then all again. Raises VerifyError where cells did not take, DeviceError when the board fails."""
    spec = board.info().spec
    columns = columns_of(spec, macro, adcs)
    flat = columns.ravel()
    tile = Tile(macro, 0, int(flat.min()), mac.rows, int(flat.max() - flat.min()) + 1)
    found = through_restarts(partial(_convert, board, tile, mac, x, repeats, flat - tile.column, clock, clock.vector))
    low, high = found.min(axis=(0, 1)), found.max(axis=(0, 1))
    odd = (low == mac.code_min) | (high == mac.code_max) | (low == high)
    odd_adc = odd.reshape(columns.shape).any(axis=1)
    kept = np.repeat(~odd_adc, columns.shape[1])
    owner = np.repeat(np.asarray(adcs, np.int64), columns.shape[1])
    return Reads(macro, x, found[:, :, kept], owner[kept], tuple(np.asarray(adcs)[odd_adc].tolist()))


def _convert(
    board: Board,
    tile: Tile,
    mac: Mac,
    x: NDArray[np.uint8],
    repeats: int,
    columns: NDArray[np.int64],
    clock: Clock,
    begun: int,
) -> NDArray[np.int32]:
    clock.vector = begun
    program_full(board, tile, mac, 1, set(columns.tolist()))
    at_once, parts = max(CHUNK // repeats, 1), []
    for first in range(0, len(x), at_once):
        part = x[first : first + at_once]
        parts.append(board.convert(tile, part, repeats, mac=mac, run=clock.take(len(part) * repeats))[:, :, columns])
    return np.concatenate(parts, axis=1)


def by_macro(spec: ChipSpec, adcs: Sequence[int] | None) -> Iterator[tuple[int, list[int]]]:
    """Macros and, of each, the converters wanted."""
    wanted = check_adcs(spec, adcs)
    for macro in sorted({adc // spec.adc.per_macro for adc in wanted}):
        yield macro, [adc for adc in wanted if adc // spec.adc.per_macro == macro]


def check_dithered(reads: Sequence[Reads], mac: Mac, fewest: int = FEWEST_POSITIONS) -> float:
    """Noise of one conversion from the repeats, LSB, pooled over all positions. InputError where nothing can be told from
    mean codes: no converter in reach, fewer positions than `fewest`, or noise that does not spread sums over codes."""
    squares, df, positions = 0.0, 0, 0
    for one in reads:
        positions += len(np.unique(one.x.sum(axis=1, dtype=np.int64))) * len(np.unique(one.adc))
        deviation = one.codes - one.codes.mean(axis=0)
        squares += float((deviation * deviation).sum())
        df += (one.codes.shape[0] - 1) * one.codes.shape[1] * one.codes.shape[2]
    if not df:
        raise NotToldError(
            f"{mac.describe()}: every converter is at the end of its range or gives one code at the middle of it: "
            "choose another --range-divisor, or see what is broken (info --self-test)"
        )
    if positions < fewest:
        raise NotToldError(
            f"{mac.describe()}: {positions} positions between codes say too little of what rounding does: measure more "
            "converters (--adcs)"
        )
    sigma = float(np.sqrt(noise_variance(squares / df)))
    # At a few positions the figure itself is off by up to a fifth, which says nothing against the means.
    if sigma < SMALLEST_SIGMA * (1 if positions >= FEWEST_POSITIONS else 0.8):
        raise NotToldError(
            f"{mac.describe()}: noise of {sigma:.2f} LSB does not spread a sum over codes, so that their means say too "
            f"little of it: from {SMALLEST_SIGMA} LSB on they do; choose a larger --range-divisor or more --adc-bits"
        )
    return sigma


def draws(shape: tuple[int, ...], seed: int, tag: int) -> NDArray[np.uint32]:
    """Random words of a plan. tag: of what for, from 16 on; lower ones are the staircase's."""
    return words(np.arange(int(np.prod(shape))).reshape(shape), seed=seed, tag=tag, domain=Domain.PLAN)


def random_rows(totals: NDArray[np.int64], mac: Mac, seed: int, tag: int) -> NDArray[np.uint8]:
    """Random rows driven fully and one that makes up the rest of each total: uint8 [len(totals), mac.rows]."""
    return filled(totals, random_ranks(len(totals), mac.rows, seed, tag), mac)


def random_ranks(sets: int, rows: int, seed: int, tag: int) -> NDArray[np.int64]:
    """A random order of the rows for each set, as each row's place in it: int64 [sets, rows]."""
    order = draws((sets, rows), seed, tag).argsort(axis=1, kind="stable")
    return np.asarray(order.argsort(axis=1, kind="stable"), np.int64)


def middle_totals(mac: Mac) -> NDArray[np.int64]:
    """Sums of inputs about the middle of the range, rising. At least 4, or as many as the range's middle half holds."""
    levels = max(min(LEVELS, mac.levels // (2 if mac.signed else 4)), 4)
    per_lsb = mac.sum_max / (mac.levels * mac.range_divisor * mac.cell_max)
    place = (np.arange(levels) - (levels - 1) / 2) * (1 + 1 / levels) * per_lsb
    top = mac.digit - 1
    return np.asarray(
        np.clip(np.rint(mac.rows * top / (2 * mac.range_divisor) + place), 1, mac.rows * top - 1), np.int64
    )
