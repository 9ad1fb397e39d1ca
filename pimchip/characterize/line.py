"""Gain, offset, INL and DNL of thresholds that share their reads.

Everything that is linear in the thresholds is a sum over reads of a function of the code alone: with T_k = const -
D sum_j p_jk, sum_k c_k T_k = const - D sum_j (mean at level j of A(code)), A(c) = sum over k <= c of c_k. So its variance,
with all covariances of thresholds that share reads, is that of A(code) within the levels:
D^2 sum_j (mean A^2 - (mean A)^2) / (R_j - 1).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from pimchip.characterize.ends import KINK_CODES
from pimchip.characterize.estimators import Float
from pimchip.characterize.staircase import Block, code_scatter
from pimchip.profile.model import code_positions

NONE_SEEN = 3.6888794541139363
"""-ln 0.025: a code that is expected more often than this is seen at least once in 97.5 % of all cases."""
MISSING_DNL = -0.9
_NEAR = 3.0
"""LSB on each side of a code whose reads could have shown it."""


def line(
    block: Block, thresholds: Float, reachable: NDArray[np.bool_], variance: Float, allowance: Float
) -> dict[str, Float]:
    """Least squares T_k = a + q x_k over the reachable k, x_k = k - 1/2, with standard errors.

    variance: of each threshold from its reads, LSB^2 [adcs, transitions]. allowance: what else each may be off, LSB. What
    moves a value most would be all off together; half of that is added, as the two ends of a converter are not.
    """
    x = code_positions(block.mac)[None, :]
    used = reachable.astype(np.float64)
    count = np.maximum(used.sum(axis=1, keepdims=True), 1)
    centre = (used * x).sum(axis=1, keepdims=True) / count
    size = np.maximum((used * (x - centre) ** 2).sum(axis=1, keepdims=True), 1e-300)
    for_q = used * (x - centre) / size
    for_a = used / count - centre * for_q
    clean = np.where(np.isnan(thresholds), 0.0, thresholds)
    q, a = (for_q * clean).sum(axis=1), (for_a * clean).sum(axis=1)
    off = np.where(reachable, allowance, 0.0)

    row = np.arange(block.adcs)[:, None, None]
    steps = [
        np.concatenate([np.zeros((block.adcs, 1)), c.cumsum(axis=1)], axis=1)[row, block.code] for c in (for_q, for_a)
    ]
    means = [(block.share * s).sum(axis=2, keepdims=True) for s in steps]
    scale = block.step**2

    def covariance(i: int, j: int) -> Float:
        within = (block.share * steps[i] * steps[j]).sum(axis=2) - (means[i] * means[j])[:, :, 0]
        return np.asarray((within / block.freedom).sum(axis=1) * scale)

    def with_threshold(i: int) -> Float:
        deviation = block.share * (steps[i] - means[i]) / block.freedom[:, :, None]
        return block.at_or_above(deviation) * scale

    var_q, var_a, cov = covariance(0, 0), covariance(1, 1), covariance(0, 1)
    off_q, off_a = (np.abs(c * off).sum(axis=1) / 2 for c in (for_q, for_a))
    cov_tq, cov_ta = with_threshold(0), with_threshold(1)
    with np.errstate(divide="ignore", invalid="ignore"):
        gain, offset = 1 / q, -a / q
        inl = (clean - a[:, None] - q[:, None] * x) * gain[:, None]
        fitted = var_a[:, None] + 2 * x * cov[:, None] + x * x * var_q[:, None]
        inl_variance = np.maximum(variance + fitted - 2 * (cov_ta + x * cov_tq), 0) + off**2
        var_offset = np.maximum(var_a + 2 * offset * cov + offset**2 * var_q, 0) + (off_a + np.abs(offset) * off_q) ** 2
        return {
            "gain": gain,
            "gain_se": np.sqrt(var_q + off_q**2) * gain**2,
            "offset": offset,
            "offset_se": np.sqrt(var_offset) * gain,
            "inl": np.where(reachable, inl, np.nan),
            "inl_se": np.where(reachable, np.sqrt(inl_variance) * gain[:, None], np.nan),
            "max_inl": np.where(reachable, np.abs(inl), 0.0).max(axis=1),
            **_ends(thresholds, reachable, x),
        }


def _ends(thresholds: Float, reachable: NDArray[np.bool_], x: Float) -> dict[str, Float]:
    """The terminal line, through the first and the last reachable threshold."""
    row = np.arange(len(thresholds))
    first, last = reachable.argmax(axis=1), reachable.shape[1] - 1 - reachable[:, ::-1].argmax(axis=1)
    low, high = thresholds[row, first], thresholds[row, last]
    with np.errstate(divide="ignore", invalid="ignore"):
        gain = (x[0, last] - x[0, first]) / (high - low)
        usable = np.isfinite(gain) & (gain > 0)
        return {
            "end_gain": np.where(usable, gain, np.nan),
            "end_offset": np.where(usable, x[0, first] - gain * low, np.nan),
        }


def widths(
    block: Block,
    thresholds: Float,
    reachable: NDArray[np.bool_],
    gain: Float,
    allowance: Float,
    sigma: Float,
    wider: Float,
) -> dict[str, Float]:
    """DNL of each code between two reachable transitions, its standard error, and which codes are missing.

    wider: factor of each width's standard error over that of sums [adcs, transitions]. The variance is pooled over a
    converter's codes. A code that was never seen is no wider, with 97.5 %, than what would
    have been expected NONE_SEEN times at the reads near it: its interval is that, not the pooled one.
    """
    adcs, n = thresholds.shape
    out = {name: np.full((adcs, n), np.nan) for name in ("dnl", "dnl_se", "missing")}
    if n < 2:
        return out
    both = reachable[:, :-1] & reachable[:, 1:]
    per_lsb = np.where(np.isfinite(gain), gain, np.nan)[:, None]
    dnl = (thresholds[:, 1:] - thresholds[:, :-1]) * per_lsb - 1
    own = code_scatter(block)
    pooled = (own * both).sum(axis=1) / np.maximum(both.sum(axis=1), 1)
    off = np.maximum(allowance[:, 1:], allowance[:, :-1]) * KINK_CODES / np.nan_to_num(sigma, nan=1.0)[:, None]
    se = np.sqrt(pooled[:, None] * wider[:, :-1] ** 2 + off**2) * per_lsb
    never = block.by_code(block.histogram)[:, 1:-1] == 0
    missing = np.zeros((adcs, n - 1), bool)
    for j, k in zip(*np.nonzero(both & never), strict=True):
        near = np.abs(block.u - thresholds[j, k]) <= _NEAR
        reads = block.reads[j, near & (block.reads[j] > 0)]
        if len(reads):
            widest = NONE_SEEN * block.step / float(reads.min()) * float(gain[j])
            missing[j, k] = widest - 1 <= MISSING_DNL and dnl[j, k] <= MISSING_DNL
    out["dnl"][:, :-1] = np.where(both, dnl, np.nan)
    out["dnl_se"][:, :-1] = np.where(both, se, np.nan)
    out["missing"][:, :-1] = np.where(both, missing, np.nan)
    return out
