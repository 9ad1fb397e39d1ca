"""Which levels to read how often: the fewest array cycles with which every converter's half-width is small enough.

The pooled variance of converter j's thresholds is V_j = sum_l a_jl / R_l over the levels l, a_jl = D^2 mean_k of
p_jkl (1 - p_jkl), for R_l reads of every converter at a time. The least sum of R_l with V_j <= v for all j has
R_l = sqrt(sum_j b_j a_jl) (Lagrange); the multipliers b_j are found by raising those of converters that miss and lowering
those that have too much. All converters of a macro are read at once, so the noisiest of them decides; levels that show
none of them a transition get nothing.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from pimchip.characterize.estimators import Float

_ROUNDS = 200


def information(pq: Float, step: float, window: float) -> Float:
    """a_jl, to a factor, of few reads: pq float64 [adcs, levels], sum over k of p (1 - p), smoothed over `window` LSB, as a
    few reads show it only roughly."""
    size = 2 * max(int(window / step / 2), 1) + 1
    # Outside nothing passes, so that smoothing with zeros is right.
    total = np.pad(pq, ((0, 0), (size // 2 + 1, size // 2))).cumsum(axis=1)
    return np.asarray((total[:, size:] - total[:, :-size]) / size)


def allocate(a: Float, variance: float, floor: NDArray[np.int64]) -> Float:
    """Reads R_l, float64 [levels], no fewer than `floor`, with sum_l a_jl / R_l <= variance for every converter j."""
    a = a[a.any(axis=1)]
    if not len(a):
        return floor.astype(np.float64)
    least = np.maximum(floor, 1e-9).astype(np.float64)
    # Alone, converter j needs R_l = sqrt(a_jl) sum_m sqrt(a_jm) / variance.
    alone = (np.sqrt(a).sum(axis=1) / variance) ** 2
    weight = np.where(alone >= alone.max() * 0.999, alone, 1e-6 * alone)
    reads = least
    for _ in range(_ROUNDS):
        reads = np.maximum(np.sqrt((weight[:, None] * a).sum(axis=0)), least)
        ratio = (a / reads).sum(axis=1) / variance
        if ratio.max() <= 1.0005 and (ratio.max() >= 0.9995 or np.array_equal(reads, least)):
            break
        weight = weight * np.clip(ratio, 0.2, 5.0) ** 2
    return np.asarray(np.maximum(reads * max(float(((a / reads).sum(axis=1) / variance).max()), 1.0), least))


def whole(wanted: Float) -> NDArray[np.int64]:
    """Whole numbers of cycles, int64 [levels], whose running sum stays with that of `wanted`."""
    running = np.floor(wanted.cumsum() + 0.5).astype(np.int64)
    return np.diff(running, prepend=0)
