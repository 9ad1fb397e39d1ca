"""What digital correction is worth on a die: errors of products with fresh random cells and inputs, corrected and not."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pimchip.board import Board
from pimchip.board.restarts import through_restarts
from pimchip.characterize.estimators import Float
from pimchip.characterize.measure import Clock
from pimchip.chip import ChipSpec, Mac, Tile
from pimchip.chip.mac import Int8
from pimchip.chip.philox import Domain, words
from pimchip.errors import InputError
from pimchip.profile import Profile
from pimchip.profile.linearize import Linearizer, affine, linearizer
from pimchip.profile.model import ideal_inputs

VECTORS = 256
_CELLS, _DRIVES, _SHARES = 5, 6, 7
"""Streams of random numbers; lower ones are those of other measurements."""
_END = 1.0
"""LSB beside the ends of the codes, where a code no longer tells the sum."""


@dataclass(frozen=True)
class Fresh:
    """Products that no curve was fitted to. codes: int64 [vectors, columns]; exact: float64 of the same, the ideal input of
    each, LSB; adcs: int64 [columns]; within: bool, those that the converters' range holds."""

    mac: Mac
    codes: NDArray[np.int64]
    exact: Float
    adcs: NDArray[np.int64]

    def rms(self, correction: Linearizer | None) -> float:
        """Root mean square of what is left after a correction, LSB; None: of the codes as they are.

        Over products whose ideal code is in the converters' range and converters that have a curve.
        """
        within = (self.exact > self.mac.code_min + _END) & (self.exact < self.mac.code_max - _END)
        values = self.codes.astype(np.float64) if correction is None else correction(self.codes, self.adcs)
        return float(np.sqrt(np.mean((values - self.exact)[within] ** 2)))

    def of(self, adcs: NDArray[np.bool_]) -> Fresh:
        """Those of some converters, bool [adcs]."""
        columns = adcs[self.adcs]
        return Fresh(self.mac, self.codes[:, columns], self.exact[:, columns], self.adcs[columns])


@dataclass(frozen=True)
class CorrectionGain:
    """RMS errors of a product, LSB: of codes as they are, after gain and offset of each converter, after its table."""

    mac: Mac
    raw: float
    affine: float
    table: float
    products: int


def correction_gains(board: Board, profile: Profile, *, seed: int = 0) -> list[CorrectionGain]:
    """At every operating point of a profile of this die, on fresh inputs. Overwrites the array.

    Raises InputError for another die, DeviceError when the board fails.
    """
    profile.check_board(board.info().uid, board.info().spec)
    clock, gains = Clock(seed), []
    for point in profile.points:
        able = np.isfinite(point.gain)
        if not able.any():
            raise InputError(f"{point.mac.describe()}: no converter has a curve to correct by")
        fresh = fresh_products(board, point.mac, seed=seed, clock=clock).of(able)
        line, table = fresh.rms(affine(point)), fresh.rms(linearizer(point))
        gains.append(CorrectionGain(point.mac, fresh.rms(None), line, table, fresh.codes.size))
    return gains


def fresh_products(board: Board, mac: Mac, *, seed: int, vectors: int = VECTORS, clock: Clock | None = None) -> Fresh:
    """Random cells and inputs on every column of a board: a share of rows drawn for each vector, and one of cells for each
    column, so that sums come from all of the range."""
    spec, clock = board.info().spec, clock or Clock(seed)
    codes, exact, adcs = [], [], []
    for macro in range(spec.array.macros):
        tile = Tile(macro, 0, 0, mac.rows, spec.array.columns)
        cells, drives = _cells(spec, mac, macro, seed), _drives(mac, macro, vectors, seed)
        run = clock.take(vectors)

        def read(tile: Tile = tile, cells: Int8 = cells, drives: NDArray[np.int64] = drives, run: object = run) -> None:
            board.program_verified(tile, cells, mac=mac)
            codes.append(board.convert(tile, drives, mac=mac, run=run)[0].astype(np.int64))  # type: ignore[arg-type]

        through_restarts(read)
        # Small integers: sums below 2^24 are exact in float64 whatever their order.
        sums = np.rint(drives.astype(np.float64) @ cells.astype(np.float64)).astype(np.int64)
        exact.append(ideal_inputs(sums, mac))
        adcs += spec.adcs_of(tile)
    return Fresh(mac, np.concatenate(codes, axis=1), np.concatenate(exact, axis=1), np.array(adcs, np.int64))


def _uniform(count: int, tag: int, seed: int, macro: int) -> Float:
    drawn = words(np.arange(count), seed=seed, tag=tag << 16 | macro, domain=Domain.PLAN)
    return drawn.astype(np.float64) * 2.0**-32


def _cells(spec: ChipSpec, mac: Mac, macro: int, seed: int) -> Int8:
    shape = mac.rows, spec.array.columns
    drawn = _uniform(shape[0] * shape[1], _CELLS, seed, macro).reshape(shape)
    share = _uniform(shape[1], _SHARES, seed, macro)[None, :]
    if mac.signed:  # from all negative to all positive
        return np.where(drawn < share, mac.cell_max, -mac.cell_max).astype(np.int8)
    return np.where(drawn < share, mac.cell_max, 0).astype(np.int8)


def _drives(mac: Mac, macro: int, vectors: int, seed: int) -> NDArray[np.int64]:
    drawn = _uniform(vectors * mac.rows, _DRIVES, seed, macro).reshape(vectors, mac.rows)
    share = _uniform(vectors, _SHARES + 1, seed, macro)[:, None]
    # Drive values in 0..digit - 1, the smaller the rarer as the share rises.
    return np.minimum((drawn ** (1 / np.maximum(4 * share, 1e-3)) * mac.digit), mac.digit - 1).astype(np.int64)
