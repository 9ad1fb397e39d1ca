"""Whether a macro moved while it was tested: references read again and again, and once more after cells are written anew.

A change over the test is looked for in all converters together (their mean change at either reference, by Student's t
over converters, as what they share, such as cells that lose) and in each alone (against the scatter of its reads, from
MOVED on, as what differs among them, such as temperature coefficients). A common loss that grows with the sum and that
writing the cells again takes back is read disturb, else it is drift.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pimchip.characterize.health.sweep import REFERENCE_READS, Sweep
from pimchip.profile.health import Fault, FaultKind
from pimchip.profile.multiple import holm
from pimchip.tails import normal_isf, normal_sf, student_isf, student_sf

MOVED = 0.25
"""LSB that a single converter may move."""
FEWEST = 4
"""Converters for a test of what they share."""
_RETURNED = 0.01
"""Of the common loss's taking back: the chance to see one where there is none."""

Float = NDArray[np.float64]


@dataclass(frozen=True)
class Moved:
    """One macro. common: mean change over converters at either reference, float64 [2], LSB, se and p with it.

    change, se: of each converter at the upper reference, LSB. adcs: their numbers. taken_back: True where writing the
    cells again undid the common change. spent: array cycles it took. top: the upper reference, LSB.
    """

    macro: int
    adcs: tuple[int, ...]
    common: Float
    common_se: Float
    common_p: Float
    change: Float
    se: Float
    taken_back: bool
    spent: int
    top: float


def moved(found: Sweep, macro: int, broken: frozenset[int]) -> Moved:
    """What a sweep's references say; `broken` converters are left out."""
    adcs = tuple(adc for adc in found.references if adc not in broken)
    if not adcs:
        none = np.full(2, np.nan)
        return Moved(macro, (), none, none, none, np.zeros(0), np.zeros(0), False, found.spent, 0.0)
    seen = np.stack([found.references[adc] for adc in adcs])  # [converters, checkpoints, 2]
    swept, after = seen[:, :-1], seen[:, -1]
    time = np.linspace(-0.5, 0.5, swept.shape[1])
    size = float((time**2).sum())
    change = (swept * time[None, :, None]).sum(axis=1) / size
    variance = np.array([found.scatter[adc] + 1 / 12 for adc in adcs])  # of a read about the mean of all columns
    se = np.sqrt(variance / REFERENCE_READS / size)
    count = len(adcs)
    common, common_se = change.mean(axis=0), np.full(2, np.nan)
    p = np.full(2, np.nan)
    taken_back = False
    if count >= FEWEST:
        common_se = change.std(axis=0, ddof=1) / math.sqrt(count)
        p = _two_sided(common, common_se, count)
        back = after[:, 1] - (swept[:, :, 1].mean(axis=1) + change[:, 1] / 2)
        back_p = _two_sided(back.mean(keepdims=True), back.std(ddof=1, keepdims=True) / math.sqrt(count), count)
        taken_back = bool(back_p[0] < _RETURNED and back.mean() * common[1] < 0)
    top = 0.75 * found.mac.levels
    return Moved(macro, adcs, common, common_se, p, change[:, 1], se, taken_back, found.spent, top)


def _two_sided(mean: Float, se: Float, count: int) -> Float:
    with np.errstate(divide="ignore", invalid="ignore"):
        t = np.where(se > 0, np.abs(mean) / se, np.where(mean == 0, 0.0, np.inf))
    return np.asarray(2 * student_sf(t, count - 1))


def drift_faults(macros: list[Moved], alpha: float) -> tuple[list[Fault], dict[str, float]]:
    """Faults of all macros, half of alpha for what is common and half for single converters; and the sizes found."""
    faults: list[Fault] = []
    common = holm(np.stack([m.common_p for m in macros]))
    for m, p in zip(macros, common, strict=True):
        if not np.nanmin(p, initial=1.0) <= alpha / 2:
            continue
        worst = float(np.nanmin(p))
        if m.taken_back and m.common[1] < 0:
            share = -float(m.common[1]) / m.top / max(m.spent, 1) * 1e6
            faults.append(Fault(FaultKind.READ_DISTURB, m.macro, size=round(share, 9), p=worst))
        else:
            faults.append(Fault(FaultKind.DRIFT, m.macro, size=round(float(np.abs(m.common).max()), 4), p=worst))
    told = {fault.macro for fault in faults}
    owner = [(m.macro, adc) for m in macros for adc in m.adcs]
    if owner:
        change = np.concatenate([np.abs(m.change) for m in macros])
        se = np.concatenate([m.se for m in macros])
        single = holm(2 * normal_sf((change - MOVED) / se))
        for (macro, adc), size, p in zip(owner, change.tolist(), single.tolist(), strict=True):
            if p <= alpha / 2 and macro not in told:
                faults.append(Fault(FaultKind.DRIFT, macro, adc=adc, size=round(size, 4), p=p))
    return faults, _finds(macros, alpha, len(owner))


def _finds(macros: list[Moved], alpha: float, converters: int) -> dict[str, float]:
    """LSB of a common change and of one converter's, and the share lost by a million cycles, found with 99 %."""
    finds = {}
    known = [m for m in macros if np.isfinite(m.common_se).all()]
    if known:
        size = max(
            float(m.common_se[1])
            * float(student_isf(alpha / 8 / len(macros), len(m.adcs) - 1) + student_isf(0.01, len(m.adcs) - 1))
            for m in known
        )
        finds[f"common {FaultKind.DRIFT}"] = size
        finds[str(FaultKind.READ_DISTURB)] = max(size / m.top / max(m.spent, 1) * 1e6 for m in known)
    if converters:
        critical = float(normal_isf(alpha / 4 / converters) + normal_isf(0.01))
        finds[str(FaultKind.DRIFT)] = MOVED + critical * max(float(m.se.max()) for m in macros if m.adcs)
    return finds
