"""Drift while a converter is measured: a line over time through what repeated sweeps of the same levels gave, and taking it
out of the thresholds.

With a the codes' change over the measurement, t the time as a share of it about the mean time of all reads, and q the input
an LSB of code, a threshold read at the time t is off by -a t q from that at the mean time. A threshold's own t is that of the
reads of its transition, weighted by the noise's density. So T_k + a t_k q is the threshold at the mean time, and to its
variance (se(a) t_k q)^2 is added. The noise has a^2 var(t) too much, by the scatter of the time of a level's reads.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from pimchip.characterize.estimators import Float

_REACH = 6.0
"""Widths of the noise beyond which a level counts for nothing at a threshold."""
_LEAST_SHARE = 0.25
"""Of the variance that noise keeps, whatever is taken off."""


class Sweep(NamedTuple):
    """sums: float64 [adcs, levels] of codes; reads: int64 [levels] of a converter; time: of its middle, array cycles."""

    sums: Float
    reads: NDArray[np.int64]
    time: float


def drift_of(sweeps: Sequence[Sweep]) -> Float:
    """How far the codes of each converter moved between the first and the last sweep, LSB, and the standard error: float64
    [adcs, 2], 0 with fewer than two sweeps."""
    adcs = len(sweeps[0].sums) if sweeps else 0
    out = np.zeros((adcs, 2))
    if len(sweeps) < 2:
        return out
    sums, reads, time = _stacked(sweeps)
    # Of the reads at a level: how far their time is from the level's mean time, and their codes from its mean code.
    total = np.maximum(reads.sum(axis=0), 1)
    early = time[:, None] - (reads * time[:, None]).sum(axis=0) / total
    size = float((reads * early**2).sum())
    if size <= 0:
        return out
    out[:, 0] = (early[:, None, :] * sums).sum(axis=(0, 2)) / size
    with np.errstate(divide="ignore", invalid="ignore"):
        means = sums / reads[:, None, :]
    middle = sums.sum(axis=0) / total
    rest = np.where(reads[:, None, :] > 0, reads[:, None, :] * (np.nan_to_num(means) - middle) ** 2, 0.0)
    freedom = float((np.maximum((reads > 0).sum(axis=0) - 1, 0)).sum()) - 1
    left = np.maximum(rest.sum(axis=(0, 2)) - out[:, 0] ** 2 * size, 0.0)  # about the line
    out[:, 1] = np.sqrt(left / max(freedom, 1.0) / size)
    return out


def when_of(sweeps: Sequence[Sweep]) -> Float:
    """When the reads of each level were taken, about the mean time of all reads, in the time from the first sweep to the last,
    and the variance of that: float64 [levels, 2], 0 with fewer than two sweeps."""
    out = np.zeros((len(sweeps[0].reads) if sweeps else 0, 2))
    if len(sweeps) < 2:
        return out
    _, reads, time = _stacked(sweeps)
    total = np.maximum(reads.sum(axis=0), 1)
    out[:, 0] = (reads * time[:, None]).sum(axis=0) / total
    out[:, 1] = (reads * (time[:, None] - out[:, 0]) ** 2).sum(axis=0) / total
    out[:, 0] = np.where(reads.any(axis=0), out[:, 0] - float((reads * time[:, None]).sum() / total.sum()), 0.0)
    return out


def _stacked(sweeps: Sequence[Sweep]) -> tuple[Float, Float, Float]:
    """Sums [sweeps, adcs, levels], reads [sweeps, levels], and times [sweeps] from 0 to 1."""
    times = np.array([sweep.time for sweep in sweeps], np.float64)
    span = max(float(times[-1] - times[0]), 1.0)
    return (
        np.stack([s.sums for s in sweeps]),
        np.stack([s.reads for s in sweeps]).astype(float),
        (times - times[0]) / span,
    )


class Steadied(NamedTuple):
    """shift: float64 [adcs, transitions], to be added to thresholds, LSB. variance: what it adds to theirs. noise: [adcs],
    factors of the noise. log_se: [adcs], what they add to the standard error of its logarithm."""

    shift: Float
    variance: Float
    noise: Float
    log_se: Float


def steadied(
    drift: Float, when: Float, u: Float, step: float, thresholds: Float, sigma: Float, slope: Float
) -> Steadied:
    """What brings thresholds to the mean time of the reads. drift: [adcs, 2], as of drift_of. when: [adcs, levels, 2], as of
    when_of. u: [levels]. thresholds, slope: [adcs, transitions], NaN where there is none; slope: LSB of input an LSB of code.
    sigma: [adcs], of the noise, LSB of code."""
    adcs, transitions = thresholds.shape
    at, scatter = np.zeros((adcs, transitions)), np.zeros((adcs, transitions))
    for j in np.flatnonzero(drift.any(axis=1) & when.any(axis=(1, 2))):
        known = ~np.isnan(thresholds[j])
        width = max(float(np.nan_to_num(sigma[j])), step)
        reach = math.ceil(_REACH * width / step)
        middle = np.clip(np.rint((thresholds[j, known] - u[0]) / step).astype(np.int64), 0, len(u) - 1)
        near = middle[:, None] + np.arange(-reach, reach + 1)
        inside, near = (near >= 0) & (near < len(u)), np.clip(near, 0, len(u) - 1)
        weight = inside * np.exp(-0.5 * ((u[near] - thresholds[j, known, None]) / width) ** 2)
        weight /= np.maximum(weight.sum(axis=1, keepdims=True), 1e-300)
        at[j, known], scatter[j, known] = ((weight * when[j, near, i]).sum(axis=1) for i in range(2))
    q = np.nan_to_num(slope)
    a, se = drift[:, 0], drift[:, 1]
    count = np.maximum((~np.isnan(thresholds)).sum(axis=1), 1)
    blur = scatter.sum(axis=1) / count
    with np.errstate(divide="ignore", invalid="ignore"):
        share = np.nan_to_num(np.maximum(a**2 - se**2, 0.0) * blur / sigma**2, posinf=0.0)
        unsure = np.nan_to_num(np.abs(a) * se * blur / sigma**2, posinf=0.0)
    return Steadied(
        a[:, None] * at * q, (se[:, None] * at * q) ** 2, np.sqrt(np.maximum(1 - share, _LEAST_SHARE)), unsure
    )
