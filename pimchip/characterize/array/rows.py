"""Random sets of rows at one sum: what cells and rows add more or less than they should.

At each of a few sums, K sets of n of the N rows are driven fully, and one in part that makes up the sum, R times each, and
every column of the macro is read. A set's mean code is off by the errors of the cells in it, which differ from set to
set, while the converter's curve is the same for all: mismatch is not INL. With sets (v), converters (j) and the m columns
of each (c),

    E MS_fast = sigma^2,  E MS_vc(j) = sigma^2 + R s_cell^2,  E MS_vj = E MS_vc(j) + R m s_slow^2,
    E MS_v = E MS_vj + R C s_row^2

after what rounding adds (see rounding). MS_fast is of the repeats within converters: noise that lasts longer than a cycle is
common to a converter's columns, and neither in it nor in MS_vc(j), but in MS_vj, with which rows are compared.

Of cells that scatter by a share sigma_c about their row and column, a random set has s_cell^2 = sigma_c^2 sum (x - mean x)^2
over the rows' drives x, in units of a full row: n (1 - n/N) for n full rows. Of rows likewise s_row^2. A row's LSB come
from how the mean code rises from sum to sum, with each converter's own slope there.

The weights of all rows at once come from least squares on which rows were in each set: a weighing design (Hotelling, Ann.
Math. Stat. 15, 1944), in which every reading says something about every row; one row at a time takes about N/2 times as many
readings for the same standard error. A column's mean gain cannot be told from its converter's, so weights are relative to
the macro's mean.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.integrate import quad
from scipy.special import log_ndtr

from pimchip.board import Board
from pimchip.characterize.array.estimate import Estimate, MeanSquare, NotToldError, component
from pimchip.characterize.array.reading import Reads, by_macro, check_dithered, middle_totals, random_rows, read
from pimchip.characterize.array.rounding import signal_variance
from pimchip.characterize.estimators import Float
from pimchip.characterize.measure import Clock
from pimchip.chip import Mac
from pimchip.errors import InputError

SETS, REPEATS = 32, 8
_TAG = 16
FEWEST_ADCS = 4
"""Converters whose scatter is taken for the error of their mean."""
SMALLEST = 1e-9
"""Of the largest eigenvalue, what counts as 0 in a design that leaves a direction open."""


@dataclass(frozen=True)
class Sets:
    """Readings of random sets. Vectors go by level, then set. totals: int64 [levels], sums of the inputs. noise: LSB."""

    mac: Mac
    totals: NDArray[np.int64]
    sets: int
    repeats: int
    noise: float
    macros: tuple[Reads, ...]

    @property
    def spread(self) -> float:
        """sum (x - mean x)^2, mean over the levels: variance of a set's sum for a variance of 1 a row."""
        full, part = np.divmod(self.totals, self.mac.digit - 1)
        squares = full + (part / (self.mac.digit - 1)) ** 2
        return float((squares - self.drive**2 / self.mac.rows).mean())

    @property
    def drive(self) -> Float:
        """Full rows that a level's sum is worth, float64 [levels]."""
        return self.totals / (self.mac.digit - 1)

    def means(self, reads: Reads) -> Float:
        """Mean codes [levels, sets, columns]."""
        return np.asarray(reads.codes.mean(axis=0), np.float64).reshape(len(self.totals), self.sets, -1)

    def slopes(self, reads: Reads) -> Float:
        """LSB a full row of each column's converter, float64 [columns]."""
        by_level = reads.by_adc(self.means(reads).mean(axis=1))
        x = self.drive - self.drive.mean()
        return np.asarray((x[:, None] * by_level).sum(axis=0) / (x * x).sum())[reads.columns_of_adc]

    def cells_by_adc(self) -> tuple[Float, Float]:
        """Of each converter, variance of sets' means in a column by its cells, LSB^2, and LSB a full row."""
        parts, slopes = [], []
        free, size = len(self.totals) * (self.sets - 1), len(self.totals) * self.sets
        for reads in self.macros:
            about = self.means(reads) - self.means(reads).mean(axis=1, keepdims=True)
            m = len(reads.adc) // len(np.unique(reads.adc))
            within = reads.codes - reads.codes.mean(axis=0)
            if m > 1:
                about = about - reads.by_adc(about)[..., reads.columns_of_adc]
                within = within - reads.by_adc(within)[..., reads.columns_of_adc]
            lost = max(m - 1, 1) / m  # degrees of freedom that a column has left beside its converter's mean
            upper = reads.by_adc((about**2).sum(axis=(0, 1))) / (free * lost)
            lower = reads.by_adc((within**2).sum(axis=(0, 1))) / (size * (self.repeats - 1) * lost)
            parts.append(upper - lower / self.repeats)
            slopes.append(reads.by_adc(self.slopes(reads)))
        return np.concatenate(parts), np.concatenate(slopes)

    def cells_share(self) -> Estimate:
        """Of cells, the variance about row and column, relative, without what rounding adds.

        Its error is the scatter over converters, where there are enough: where between codes a converter's sums lie decides
        how steep its mean codes are, which is no error of the mean squares.
        """
        by_adc, slopes = self.cells_by_adc()
        per_row = math.sqrt(float((slopes**2).mean()))
        if len(by_adc) >= FEWEST_ADCS:
            found = Estimate.of_mean(by_adc / slopes**2).times(per_row**2)
        else:
            ms = self.squares()
            found = component(ms.cells, ms.fast, self.repeats)
        return found.mapped(lambda v: signal_variance(v, self.noise) / (self.spread * per_row**2))

    def squares(self) -> Squares:
        """Mean squares over all macros and levels, of one conversion."""
        parts: dict[str, list[tuple[float, float]]] = {"noise": [], "fast": [], "cells": [], "slow": [], "rows": []}
        by_place: list[Float] = []
        vectors, free, repeats = len(self.totals) * self.sets, len(self.totals) * (self.sets - 1), self.repeats
        for reads in self.macros:
            means, columns = self.means(reads), len(reads.adc)
            adcs, size = len(np.unique(reads.adc)), columns / len(np.unique(reads.adc))
            within = reads.codes - reads.codes.mean(axis=0)
            shared = size * float((reads.by_adc(within) ** 2).sum())
            noise = float((within**2).sum())
            about = means - means.mean(axis=1, keepdims=True)
            by_adc = reads.by_adc(about)
            common = by_adc.mean(axis=2, keepdims=True)
            parts["noise"].append((noise, vectors * columns * (repeats - 1)))
            by_place.append(reads.by_adc((within**2).sum(axis=(0, 1))) / (vectors * (repeats - 1)))
            parts["fast"].append((noise - shared, vectors * (columns - adcs) * (repeats - 1)))
            own = float((about**2).sum()) - size * float((by_adc**2).sum())
            parts["cells"].append((repeats * own, free * (columns - adcs)))
            parts["slow"].append((repeats * size * float(((by_adc - common) ** 2).sum()), free * (adcs - 1)))
            parts["rows"].append((repeats * columns * float((common**2).sum()), free))
        ms = {name: MeanSquare.pooled(squares) for name, squares in parts.items()}
        # Converters differ in noise, and where between codes their sums lie: their scatter is the error of the mean.
        each = np.concatenate(by_place)
        if len(each) > 1 and (spread := float(each.var(ddof=1)) / len(each)) > 0:
            ms["noise"] = MeanSquare(ms["noise"].value, min(2 * ms["noise"].value ** 2 / spread, ms["noise"].df))
        if not ms["cells"].df:  # one column a converter: what is its own, and what its column's, is the same
            ms |= {"cells": ms["slow"], "fast": ms["noise"]}
        if not ms["slow"].df:
            ms["slow"] = ms["cells"]
        return Squares(**ms)


@dataclass(frozen=True)
class Squares:
    """noise: repeats. fast: repeats within converters, without what the columns of one share. cells: sets by columns within
    converters. slow: sets by converters, with noise that lasts longer than a cycle. rows: sets, common to a macro."""

    noise: MeanSquare
    fast: MeanSquare
    cells: MeanSquare
    slow: MeanSquare
    rows: MeanSquare


@dataclass(frozen=True)
class RowsResult:
    """mac: where it was measured. sets, levels, repeats: of the stimulus. cycles: array cycles spent.

    cell_sigma: scatter of a cell's contribution about its row's and column's, relative. row_sigma: scatter of rows' mean
    contributions, relative. weights, weight_se: float64 [macros, rows], what each row adds beyond the mean row of its
    macro, relative to it, and its standard error; macros: which. lsb_per_row: what a full row adds, LSB.
    left_out: converters at the end of their range, or dead.
    own_order_inl, random_inl: the largest error of a converter's curve that such cells make in a staircase, LSB, its
    expectation for one column a converter: with rows in their own order, and with random sets, sets of them a level.
    """

    mac: Mac
    levels: int
    sets: int
    repeats: int
    cycles: int
    noise: float
    cell_sigma: Estimate
    row_sigma: Estimate
    macros: tuple[int, ...]
    weights: Float
    weight_se: Float
    lsb_per_row: float
    own_order_inl: float
    random_inl: float
    left_out: tuple[int, ...]


def read_sets(
    board: Board,
    mac: Mac,
    *,
    adcs: Sequence[int] | None = None,
    sets: int | None = None,
    repeats: int = REPEATS,
    seed: int = 0,
    clock: Clock | None = None,
    tick: Callable[[], None] = lambda: None,
) -> Sets:
    """Read random sets of rows on the converters `adcs` (None: all). sets: at each sum, None for as many as weigh the rows.

    Overwrites the cells. Raises InputError where nothing can be told, VerifyError where cells did not take, DeviceError.
    """
    spec = board.info().spec
    spec.check(mac)
    if mac.rows < 4 * mac.range_divisor:
        raise NotToldError(f"{mac.describe()}: rows cannot be told apart with so few: use 4 rows or more at a time")
    if repeats < 2:
        raise NotToldError("sets of rows: noise cannot be told from cells with one read of each set: read 2 or more")
    totals = middle_totals(mac)
    wanted = sets or max(SETS, -(-4 * mac.rows // len(totals)))
    if not 2 <= wanted <= 1 << 16:
        raise InputError(f"sets = {wanted}: want 2..{1 << 16}")
    clock, found = clock or Clock(seed), []
    for macro, here in by_macro(spec, adcs):
        x = random_rows(np.repeat(totals, wanted), mac, seed, _TAG + 16 * macro)
        found.append(read(board, mac, x, repeats, here, macro, clock))
        tick()
    noise = check_dithered(found, mac)
    return Sets(mac, totals, wanted, repeats, noise, tuple(one for one in found if len(one.adc)))


def measure_rows(sets: Sets) -> RowsResult:
    """Cells and rows from random sets. Raises InputError where one column or one set is all there is."""
    mac, ms = sets.mac, sets.squares()
    if not ms.cells.df:
        raise NotToldError(
            "cells: with one column a macro, its cells cannot be told from its rows: measure more converters (--adcs)"
        )
    slopes = [sets.slopes(reads) for reads in sets.macros]
    per_row = math.sqrt(float(np.mean(np.concatenate(slopes) ** 2)))
    columns = float(np.mean([len(reads.adc) for reads in sets.macros]))

    def share(of: Estimate) -> Estimate:
        return of.mapped(lambda v: signal_variance(v, sets.noise) / (sets.spread * per_row**2)).root

    cell_sigma = sets.cells_share().root
    fitted = [_weigh(sets, reads, slope) for reads, slope in zip(sets.macros, slopes, strict=True)]
    own, mixed = expected_inl(cell_sigma.value, mac.rows, per_row, sets.sets)
    return RowsResult(
        mac=mac,
        levels=len(sets.totals),
        sets=sets.sets,
        repeats=sets.repeats,
        cycles=len(sets.totals) * sets.sets * sets.repeats * len(sets.macros),
        noise=sets.noise,
        cell_sigma=cell_sigma,
        row_sigma=share(component(ms.rows, ms.slow, sets.repeats * columns)),
        macros=tuple(reads.macro for reads in sets.macros),
        weights=np.stack([w for w, _ in fitted]),
        weight_se=np.stack([se for _, se in fitted]),
        lsb_per_row=per_row,
        own_order_inl=own,
        random_inl=mixed,
        left_out=tuple(adc for reads in sets.macros for adc in reads.left_out),
    )


def _weigh(sets: Sets, reads: Reads, slopes: Float) -> tuple[Float, Float]:
    """Weights of a macro's rows about their mean, relative, and standard errors; NaN where sets are fewer than rows."""
    rows, levels = sets.mac.rows, len(sets.totals)
    y = (sets.means(reads) / slopes).mean(axis=2)
    x = (reads.x / (sets.mac.digit - 1)).reshape(levels, sets.sets, rows)
    y, x = y - y.mean(axis=1, keepdims=True), x - x.mean(axis=1, keepdims=True)
    df = levels * (sets.sets - 1) - (rows - 1)
    if df < 1:
        return np.full(rows, np.nan), np.full(rows, np.nan)
    design = x.reshape(-1, rows)
    # Within a level the number of rows is fixed, so a constant over all rows is not seen; the pseudo-inverse leaves it at 0.
    inverse = np.linalg.pinv(design.T @ design, rcond=SMALLEST, hermitian=True)
    weights = inverse @ (design.T @ y.ravel())
    residual = y.ravel() - design @ weights
    return weights, np.sqrt(float(residual @ residual) / df * np.diag(inverse))


def expected_inl(sigma: float, rows: int, per_row: float, sets: int) -> tuple[float, float]:
    """Largest error of a curve measured through one column's cells that scatter by `sigma`, LSB, on average over columns.

    In their own order: a Brownian bridge, whose largest value is sqrt(pi/2) ln 2 on average (Kolmogorov). With random sets
    at each number of rows, `sets` of them averaged: independent errors of sigma sqrt(n (1 - n/N) / sets). Both against the
    line through the ends.
    """
    piled = math.sqrt(math.pi / 2) * math.log(2) * sigma * per_row * math.sqrt(rows)
    n = np.arange(1, rows)
    spread = sigma * per_row * np.sqrt(n * (1 - n / rows) / sets)
    if not spread.size or not spread.max() > 0:
        return piled, 0.0

    def beyond(z: float) -> float:
        within = 1 - 2 * np.exp(log_ndtr(-z * spread.max() / spread))
        return 1 - float(np.exp(np.log(np.maximum(within, 1e-300)).sum()))

    return piled, float(quad(beyond, 0, 10, limit=200)[0]) * float(spread.max())
