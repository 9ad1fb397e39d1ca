"""What the array's load does: few large against many small contributions, near against far rows, and by the column's current.

Few against many: the same sum from as few rows as can be, driven fully, and from as many, driven weakly, in pairs of
random sets. Near against far: the slope of the rows' weights (see rows) over their place. A loss by the column's own current
depends on the sum alone, as a converter's curve does, so at one range the two cannot be told apart. Over two ranges they
can: the curve goes by the code, the loss by the sum. With a loss of alpha at full scale the column's sum s becomes
s (1 - alpha s / full), and a transition that the curve has at x comes, at range divisor D with L levels, at

    T_k - alpha T_k^2 / (L D) = x + a(D)

with a the array's offset there. So the difference of transitions at two ranges is a line plus alpha times the difference of
T_k^2 / (L D); the line's slope takes up a difference of the gains, of which there should be none.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from pimchip.board import Board
from pimchip.characterize.array.estimate import NOTHING, Estimate, NotToldError
from pimchip.characterize.array.reading import by_macro, check_dithered, middle_totals, random_ranks, random_rows, read
from pimchip.characterize.array.rows import RowsResult
from pimchip.characterize.estimators import Float
from pimchip.characterize.measure import Clock
from pimchip.chip import Mac
from pimchip.errors import InputError
from pimchip.profile import PointResult

SETS, REPEATS = 256, 4
_TAG = 18


@dataclass(frozen=True)
class LoadResult:
    """few_many: mean code with few rows, driven fully, less that with many, weakly, at the same sum, LSB. few, many: rows
    in use. far: what the row farthest from the converters (the last) adds less than the first, relative; NaN where rows were
    not weighed. cycles: array cycles spent on few_many."""

    mac: Mac
    few: int
    many: int
    few_many: Estimate
    far: Estimate
    cycles: int
    left_out: tuple[int, ...]


def measure_load(
    board: Board,
    mac: Mac,
    *,
    rows: RowsResult | None = None,
    adcs: Sequence[int] | None = None,
    sets: int = SETS,
    repeats: int = REPEATS,
    seed: int = 0,
    clock: Clock | None = None,
    tick: Callable[[], None] = lambda: None,
) -> LoadResult:
    """Few against many rows on the converters `adcs` (None: all); rows: their weights, for near against far.

    Overwrites the cells. Raises InputError where nothing can be told: with one DAC bit a sum takes one number of rows.
    """
    spec = board.info().spec
    spec.check(mac)
    if mac.digit < 3:
        raise NotToldError(
            f"{mac.describe()}: with one DAC bit a sum takes one number of rows, so few large contributions cannot be "
            "compared with many small ones: measure with more DAC bits"
        )
    if sets < 2 or repeats < 2:
        raise InputError("load: 2 sets and 2 reads of each at least are wanted")
    top = mac.digit - 1
    totals = np.resize(middle_totals(mac), sets)
    few, many = -(-int(totals.max()) // top), min(mac.rows, int(totals.min()))
    clock, found = clock or Clock(seed), []
    for macro, here in by_macro(spec, adcs):
        tag = _TAG + 16 * macro
        large = random_rows(totals, mac, seed, tag)
        rank = random_ranks(sets, mac.rows, seed, tag + 4)
        each, more = np.divmod(totals[:, None], many)
        small = np.where(rank < more, each + 1, np.where(rank < many, each, 0)).astype(np.uint8)
        pairs = np.stack([large, small], axis=1).reshape(2 * sets, mac.rows)  # in turns, so that drift hits both alike
        found.append(read(board, mac, pairs, repeats, here, macro, clock))
        tick()
    check_dithered(found, mac, fewest=1)
    differences = []
    for reads in found:
        if len(reads.adc):
            means = reads.codes.mean(axis=(0, 2), dtype=np.float64).reshape(sets, 2)
            differences.append(means[:, 0] - means[:, 1])
    return LoadResult(
        mac=mac,
        few=few,
        many=many,
        few_many=Estimate.of_mean(np.concatenate(differences)),
        far=NOTHING if rows is None else far_loss(rows),
        cycles=2 * sets * repeats * len(found),
        left_out=tuple(adc for reads in found for adc in reads.left_out),
    )


def far_loss(rows: RowsResult) -> Estimate:
    """What the last row adds less than the first, from a line through all rows' weights, relative to the first's.

    Its error is that of the scatter of rows about the line, which holds cells' mismatch and weak rows as well as noise.
    """
    n = rows.weights.shape[1]
    place = (np.arange(n) - (n - 1) / 2) / max(n - 1, 1)
    size = float((place * place).sum())
    slopes = (rows.weights * place).sum(axis=1) / size
    residual = rows.weights - slopes[:, None] * place
    df = len(slopes) * (n - 2)
    if df < 1 or not np.isfinite(slopes).all():
        return NOTHING
    scatter = float((residual**2).sum()) / df
    slope = float(slopes.mean())
    loss = Estimate.normal(-slope, math.sqrt(scatter / (size * len(slopes))), df)
    return loss.times(1 / (1 - slope / 2))


@dataclass(frozen=True)
class RangeLoad:
    """loss: share that a column at full scale loses by its own current. divisors: the two ranges it is from. by_adc:
    float64 [adcs], of each converter, NaN where it has no result at one of them."""

    loss: Estimate
    divisors: tuple[int, int]
    by_adc: Float


def range_load(points: Sequence[PointResult]) -> RangeLoad:
    """The loss by the column's own current, from converters measured at two ranges. Raises InputError at one range."""
    macs = [p.mac for p in points]
    pairs = [
        (a, b)
        for i, a in enumerate(points)
        for b in points[i + 1 :]
        if (a.mac.adc_bits, a.mac.rows, a.mac.scheme) == (b.mac.adc_bits, b.mac.rows, b.mac.scheme)
        and a.mac.range_divisor != b.mac.range_divisor
    ]
    if not pairs:
        seen = ", ".join(f"1/{mac.range_divisor}" for mac in macs) or "none"
        raise NotToldError(
            f"load by a column's current: it cannot be told from the converters' curve at one range (measured: {seen}): "
            "measure a second one (--range-divisor)"
        )
    one, other = max(pairs, key=lambda p: abs(1 / p[0].mac.range_divisor - 1 / p[1].mac.range_divisor))
    d1, d2, levels = one.mac.range_divisor, other.mac.range_divisor, one.mac.levels
    found = np.full(len(one.flags), np.nan)
    for j in range(len(found)):
        both = np.flatnonzero(one.reachable[j] & other.reachable[j])
        # The ends of a curve that was seen through wide noise stay rounded (see curve).
        margin = math.ceil(4 * np.nan_to_num(max(one.noise_lsb[j], other.noise_lsb[j])))
        known = both[margin : len(both) - margin]
        if len(known) < 8:
            continue
        t1, t2 = one.thresholds[j, known], other.thresholds[j, known]
        bend = np.abs(t1) * t1 / (levels * d1) - np.abs(t2) * t2 / (levels * d2)
        design = np.stack([np.ones_like(t1), (t1 + t2) / (2 * levels), bend], axis=1)
        found[j] = np.linalg.lstsq(design, t1 - t2, rcond=None)[0][2]
    usable = found[np.isfinite(found)]
    if len(usable) < 2:
        raise NotToldError("load by a column's current: two converters with curves at both ranges are wanted (--adcs)")
    return RangeLoad(Estimate.of_mean(usable), (d1, d2), found)
