"""What changed for all converters alike, told from what single ones did and from what was trimmed in between.

A converter's change is c + sum_i (1 + w_i) t_i and chance: t_i what register i was moved by, times what the chip's file says a
code is worth, and w_i by how much that is wrong, the same for all converters. A file's step is nominal, and a curve bends what
it is worth on a fitted line: off by 0.5 % it looks like a drift of all, as means are known to a thousandth of an LSB. c and w
are found by Huber's regression (Ann. Math. Stat. 35, 1964), then by least squares over the converters that do not lie far off.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pimchip.tails import student_isf, student_sf

Float = NDArray[np.float64]

FEWEST = 3
"""Converters with a line in both profiles, beyond what is fitted, for anything to be said of them together."""
WORTH_OFF = 0.3
"""What a trim code is worth may be so far off what the chip's file says."""
_OUTLYING = 4.0
_MAD = 1.4826
_ALIKE = 1e-9
"""Register moves that differ by less than this share of the largest are the same but for rounding."""
_ROUNDS, _SETTLED = 30, 0.02


@dataclass(frozen=True)
class Change:
    """A change with its 95 % interval's half-width. NaN where too few converters have a line in both."""

    value: float
    half_width: float

    def __str__(self) -> str:
        return f"{self.value:+.4f} ± {self.half_width:.4f}"


@dataclass(frozen=True)
class Shared:
    """change: of all. p: two-sided chance of it where nothing changed; NaN where too few are known. worth: of each column, what
    a code is worth over its nominal step, None where no two converters were moved by different amounts. beside: [adcs], what is
    left of each, NaN where unknown. se: [adcs], standard error of what was taken out, of those that are far off; of others it
    is in their own."""

    change: Change
    p: float
    worth: tuple[float | None, ...]
    beside: Float
    se: Float


def shared(values: Float, se: Float, trimmed: Sequence[Float]) -> Shared:
    """values: changes [adcs], NaN where unknown. se: standard error of each. trimmed: by how much each register was moved,
    in units of `values` at the nominal step, [adcs] each."""
    known = np.isfinite(values) & np.isfinite(se)
    worth: list[float | None] = [None] * len(trimmed)
    rest, floor = values - sum(trimmed, np.zeros(len(values))), float(np.median(se[known])) if known.any() else 0.0
    told = [i for i, t in enumerate(trimmed) if known.any() and np.ptp(t[known]) > _ALIKE * np.abs(t[known]).max()]
    while True:
        if known.sum() < FEWEST + len(told):
            told = told[:-1]
            if known.sum() < FEWEST:
                nothing = np.full(len(values), np.nan)
                return Shared(Change(math.nan, math.nan), math.nan, tuple(worth), nothing, np.zeros(len(values)))
            continue
        design = np.stack([np.ones(len(values)), *(trimmed[i] for i in told)], axis=1)
        fitted, kept = _fit(design, rest, known, floor)
        beyond = [(n, i) for n, i in enumerate(told) if abs(fitted[n + 1]) > WORTH_OFF]
        if not beyond:
            break
        for n, i in beyond:  # no register is that far off: the bound is taken out, what is left moved
            bound = math.copysign(WORTH_OFF, fitted[n + 1])
            rest, worth[i] = rest - bound * trimmed[i], 1 + bound
        told = [i for i in told if worth[i] is None]
    for n, i in enumerate(told):
        worth[i] = 1 + float(fitted[n + 1])
    beside = rest - (design * fitted).sum(axis=1)
    freedom = int(kept.sum()) - len(fitted)
    covariance = _inverse(design[kept]) * float((beside[kept] ** 2).sum()) / max(freedom, 1)
    error = math.sqrt(max(float(covariance[0, 0]), 0.0))
    p = float(2 * student_sf(abs(fitted[0]) / error, freedom)) if error > 0 else float(fitted[0] == 0)
    apart = np.sqrt(np.maximum(np.einsum("ni,ij,nj->n", design, covariance, design), 0.0))
    change = Change(float(fitted[0]), float(student_isf(0.025, freedom)) * error)
    return Shared(change, p, tuple(worth), beside, np.where(kept, 0.0, apart))


def _fit(design: Float, values: Float, known: NDArray[np.bool_], floor: float) -> tuple[Float, NDArray[np.bool_]]:
    """Coefficients, and the converters that they rest on. floor: what chance alone scatters the values by."""
    unit, x, y = max(floor, 1e-12), design[known], values[known]
    weight = np.ones(len(y))
    for _ in range(_ROUNDS):
        root, before = np.sqrt(weight), weight
        found = _least_squares(x * root[:, None], y * root)
        weight = np.minimum(1.0, unit / np.maximum(np.abs(y - (x * found).sum(axis=1)), 1e-300))
        if np.abs(weight - before).max() < _SETTLED:
            break
    near = np.ones(len(y), bool)
    for _ in range(3):
        left = y - (x * found).sum(axis=1)
        off = np.abs(left - np.median(left))
        near = off <= _OUTLYING * max(_MAD * float(np.median(off)), unit)
        found = _least_squares(x[near], y[near])
    kept = known.copy()
    kept[known] = near
    return found, kept


def _least_squares(x: Float, y: Float) -> Float:
    # By sums in a fixed order: a matrix product's may hang on the number of threads.
    return np.asarray((_inverse(x) * (x * y[:, None]).sum(axis=0)).sum(axis=1))


def _inverse(x: Float) -> Float:
    """Of x'x, of what of it is not singular."""
    size = np.maximum(np.abs(x).max(axis=0), 1e-300)
    unit = x / size
    gram = (unit[:, :, None] * unit[:, None, :]).sum(axis=0)
    return np.asarray(np.linalg.pinv(gram, hermitian=True) / size[:, None] / size[None, :])
