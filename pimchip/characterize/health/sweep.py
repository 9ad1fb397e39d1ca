"""The sweep that converters are judged by: the whole range in fine equal steps, reference sums read again and again between.

Rows are driven in one order, each sum by those of the sum below it and more: a row that lacks makes a curve steeper or
flatter somewhere, never falling. All converters of a macro are read at once, through those of their columns that hold
what was programmed.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pimchip.board import Board
from pimchip.characterize.measure import Clock
from pimchip.characterize.plan import unit
from pimchip.characterize.stimulus import thermometer
from pimchip.chip import ChipSpec, Mac, Tile
from pimchip.profile.health import columns_by_adc
from pimchip.profile.model import ideal_inputs

STEP = 0.25
"""LSB between levels, where the chip's sums are as fine."""
NARROW = 0.1
"""LSB: a code that is narrower, of a DNL below -0.9, is missing."""
CHECKPOINTS = 9
"""Times that the references are read."""
REFERENCE_READS = 32
"""Of a converter at each reference and checkpoint."""
FEWEST_REPEATS = 2

Float = NDArray[np.float64]


@dataclass(frozen=True)
class Sweep:
    """One macro's reads. u: float64 [levels], LSB, rising. step: between them, LSB.

    words: by converter, over all macros, int64 [levels, reads], codes counted from the lowest. scatter: by converter,
    variance of repeated reads of one sum by one column, LSB^2. references: by converter, float64 [checkpoints, 2], mean
    codes at a quarter and at three quarters of the range; the last checkpoint follows the cells' being written anew.
    spent: array cycles between the first checkpoint and the last but one.
    """

    mac: Mac
    u: Float
    step: float
    words: dict[int, NDArray[np.int64]]
    scatter: dict[int, float]
    references: dict[int, Float]
    spent: int


def repeats_of(spec: ChipSpec, mac: Mac, alpha: float) -> int:
    """Repeats of a level, so that a code of NARROW LSB or more stays unseen anywhere in the die with chance alpha at most."""
    codes = spec.array.macros * spec.adc.per_macro * (mac.code_max - mac.code_min)
    wanted = math.log(codes / alpha) / NARROW  # reads an LSB: of N w reads that fall on a code none does with exp(-N w)
    return max(math.ceil(wanted * _stride(mac) * unit(mac) / spec.columns_per_adc), FEWEST_REPEATS)


def sweep(
    board: Board, spec: ChipSpec, mac: Mac, macro: int, stuck: NDArray[np.bool_], repeats: int, clock: Clock
) -> Sweep:
    """Read a macro. stuck: bool [rows, columns], cells that are. Overwrites the macro; raises DeviceError."""
    tile = Tile(macro, 0, 0, mac.rows, spec.array.columns)
    stride = _stride(mac)
    last = mac.rows * (mac.digit - 1) // stride
    bad = np.asarray(stuck[: mac.rows].any(axis=0))
    columns = {}
    for adc, own in columns_by_adc(spec.adcs_of(tile)).items():
        sound = [column for column in own if not bad[column]]
        columns[adc] = sound or list(own)
    references = np.rint(np.array([0.25, 0.75]) * mac.rows * (mac.digit - 1)).astype(np.int64) * mac.cell_max
    again = -(-REFERENCE_READS // spec.columns_per_adc)
    held: list[NDArray[np.int64]] = []
    seen: list[Float] = []
    levels: list[NDArray[np.int64]] = []
    spent = begun = 0

    def look() -> None:
        codes = board.convert(tile, thermometer(references, mac), again, mac=mac, run=clock.take(2 * again))
        seen.append(codes.mean(axis=0))

    for sign in (-1, 1) if mac.signed else (1,):
        fill(board, tile, sign, mac)
        sums = np.arange(1 if sign < 0 else 0, last + 1, dtype=np.int64) * (sign * stride * mac.cell_max)
        sums = sums[::sign]
        for part in np.array_split(np.arange(len(sums)), CHECKPOINTS - 2 if sign > 0 else 1):
            if sign > 0:
                look()
                begun = begun or clock.vector
            codes = board.convert(
                tile,
                thermometer(sums[part], mac),
                repeats,
                mac=mac,
                run=clock.take(len(part) * repeats),
            )
            held.append(codes.transpose(1, 0, 2).astype(np.int64) - mac.code_min)
        levels.append(sums)
    look()
    spent = clock.vector - begun
    fill(board, tile, 1, mac)
    look()
    words = np.concatenate(held)
    sums = np.concatenate(levels)
    apart = words.var(axis=1, ddof=1).mean(axis=0)
    by_adc = {adc: words[:, :, own].reshape(len(words), -1) for adc, own in columns.items()}
    return Sweep(
        mac,
        ideal_inputs(sums, mac),
        stride * unit(mac),
        by_adc,
        {adc: float(apart[own].mean()) for adc, own in columns.items()},
        {adc: np.stack([codes[:, own].mean(axis=1) for codes in seen]) for adc, own in columns.items()},
        spent,
    )


def fill(board: Board, tile: Tile, sign: int, mac: Mac) -> None:
    """Make all cells of a tile full, as far as they take it."""
    board.program_verified(tile, np.full((tile.rows, tile.columns), sign * mac.cell_max, np.int8), mac=mac)


def _stride(mac: Mac) -> int:
    return max(int(STEP / unit(mac)), 1)
