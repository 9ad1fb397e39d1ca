"""Memory of converters (hysteresis): the code of one sum after a small one and after a large one.

Sums about the middle of the range are read in turns after one at a fifth and after one at four fifths of the range. What was
converted before must not matter; the difference of a converter's codes, after large minus after small, is its memory. Pairs are
two array cycles apart, so slow noise and drift fall out. The emulated chip has none: its conversions are independent.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats import norm

from pimchip.board import Board
from pimchip.characterize.array.estimate import Estimate, NotToldError
from pimchip.characterize.array.reading import by_macro, middle_totals, random_rows, read
from pimchip.characterize.estimators import Float
from pimchip.characterize.measure import Clock
from pimchip.chip import Mac
from pimchip.profile.multiple import holm

REPEATS = 32
LEVEL = 0.01
_TAG = 11
_SHARES = (0.2, 0.8)
"""Of the range, of the sums before."""


@dataclass(frozen=True)
class MemoryResult:
    """shift, shift_se: float64 [adcs], of each converter's code after a large sum against after a small one, LSB. which: int
    numbers of these, as float64 [adcs]. mean: over converters. largest: of the one that is surest to have a memory, worst: its
    number; p: the chance that converters without one show it, over all (Holm). left_out: at the end of their range."""

    shift: Float
    shift_se: Float
    which: Float
    mean: Estimate
    largest: Estimate
    worst: int
    p: float
    left_out: tuple[int, ...]

    @property
    def remembers(self) -> bool:
        """Whether any converter has a memory, beyond chance."""
        return self.p < LEVEL


def measure_memory(
    board: Board,
    mac: Mac,
    *,
    adcs: Sequence[int] | None = None,
    repeats: int = REPEATS,
    seed: int = 0,
    clock: Clock | None = None,
    tick: Callable[[], None] = lambda: None,
) -> MemoryResult:
    """Read the pairs on the converters `adcs` (None: all). Overwrites the cells. Raises NotToldError where every converter is
    at the end of its range, DeviceError when the board fails."""
    spec = board.info().spec
    spec.check(mac)
    clock = clock or Clock(seed)
    middle = middle_totals(mac)
    top = 2 * float(np.mean(middle))
    before = [int(round(share * top)) for share in _SHARES]
    totals = np.concatenate([[before[0], m, before[1], m] for m in middle.tolist()]).astype(middle.dtype)
    shift, se, which, left_out = [], [], list[int](), list[int]()
    for macro, here in by_macro(spec, adcs):
        x = random_rows(totals, mac, seed, _TAG + 16 * macro)
        x[3::4] = x[1::4]  # the same rows for both of a pair
        found = read(board, mac, x, repeats, here, macro, clock)
        left_out += found.left_out
        tick()
        if not len(found.adc):
            continue
        apart = found.by_adc((found.codes[:, 3::4] - found.codes[:, 1::4]).astype(np.float64))
        apart = apart.reshape(-1, apart.shape[-1])
        shift.append(apart.mean(axis=0))
        se.append(apart.std(axis=0, ddof=1) / np.sqrt(len(apart)))
        which += np.unique(found.adc).tolist()
    if not which:
        raise NotToldError(
            "memory: every converter is at the end of its range in the middle of it; another range would tell"
        )
    moved, error = np.concatenate(shift), np.concatenate(se)
    with np.errstate(divide="ignore", invalid="ignore"):
        z = np.where(error > 0, np.abs(moved) / error, np.where(moved == 0, 0.0, np.inf))
    p = holm(2 * norm.sf(z))
    worst = int(np.argmax(z))
    return MemoryResult(
        moved,
        error,
        np.array(which, np.float64),
        Estimate.of_mean(moved),
        Estimate.normal(float(moved[worst]), float(error[worst])),
        which[worst],
        float(p.min()),
        tuple(left_out),
    )
