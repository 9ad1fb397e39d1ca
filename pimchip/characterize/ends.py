"""Transitions near the ends of the codes, each by itself: local probit likelihood with a bend of its own.

Converters bend most where their range ends, and what they do past their last code shows in no other transition. A sum over
a whole transition (Spearman and Kaerber) then is off by what the noise makes of the bend, and neighbours do not tell it.
Within 2 sigma of a transition the probit of the share at or above its code is fitted by a cubic in the input (local
likelihood: Tibshirani and Hastie, J. Am. Stat. Assoc. 82, 1987); where it is 0, half of the reads pass. The curve's bend
goes into the cubic and not into the threshold; the price is 1.9 times the variance. A kink, where the slope jumps, stays
rounded a little: how much is told by how far the sum and the cubic are apart there.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr

from pimchip.characterize.estimators import Float
from pimchip.characterize.staircase import Block
from pimchip.profile.model import OUTER

_REACH = 2.0
"""Sigma on both sides of a transition from which reads are taken."""
VARIANCE = 1.9076
"""Of a threshold over that of the sum: (M^-1)_00 sqrt(pi), M_ij = integral of w z^(i+j) over |z| <= 2, w = phi^2 / (Phi
(1 - Phi)). A test works it out by quadrature."""
CODE_VARIANCE = 2.45
"""Of the distance of two such thresholds over that of sums: at most, for any noise."""
_PRIOR = np.array([0.0, 1.0, 1.0, 4.0])
"""Precision of the cubic's coefficients about 0, 1, 0, 0: bends of a slope of its own size within a sigma are likely."""
_BEND = 0.5
"""LSB, and share of the slope, by which a curve is likely to leave its tangent beyond the outermost threshold."""
_KINK_SHARE, KINK_CODES = 0.69, 3.0
_ITERATIONS = 12
_CONVERGED = 1e-8
_STEEPEST = 0.25
"""Of the slope that is expected: the lowest at the threshold."""


def zone(known: NDArray[np.bool_], sigma: Float) -> NDArray[np.bool_]:
    """bool [adcs, transitions]: which are so near the end of the known ones that neighbours do not tell their bend."""
    width = known.shape[1]
    place = np.arange(width) - known.argmax(axis=1)[:, None]
    inside = np.minimum(place, known.sum(axis=1, keepdims=True) - 1 - place)
    return np.asarray(known & np.isfinite(sigma)[:, None] & (inside < 2 + 4 * np.nan_to_num(sigma)[:, None]))


def local(block: Block, thresholds: Float, slope: Float, sigma: Float, which: NDArray[np.bool_]) -> Float:
    """Thresholds `which` anew, float64 [adcs, transitions], NaN elsewhere.

    thresholds: where to look, LSB. slope: LSB of input an LSB of code. sigma: noise, LSB of code [adcs].
    """
    out = np.full(thresholds.shape, np.nan)
    who, code = np.nonzero(which)
    if not len(who):
        return out
    start, spread = thresholds[who, code], sigma[who] * np.clip(slope[who, code], _STEEPEST, 1 / _STEEPEST)
    first = np.searchsorted(block.u, start - _REACH * spread)
    last = np.searchsorted(block.u, start + _REACH * spread, side="right")
    level = first[:, None] + np.arange(int((last - first).max()))
    inside = level < last[:, None]
    level = np.minimum(level, len(block.u) - 1)
    v = (block.u[level] - start[:, None]) / spread[:, None]
    reads = np.where(inside, block.reads[who[:, None], level], 0.0)
    share = _share(block, who, level, code)

    expected, prior = (np.repeat(np.array(each)[None], len(who), axis=0) for each in ([0.0, 1.0, 0.0, 0.0], _PRIOR))
    beta = _cubic(v, np.zeros_like(v), share, reads, expected, prior)
    root = np.zeros(len(who))
    for _ in range(_ITERATIONS):
        value = ((beta[:, 3] * root + beta[:, 2]) * root + beta[:, 1]) * root + beta[:, 0]
        steepness = (3 * beta[:, 3] * root + 2 * beta[:, 2]) * root + beta[:, 1]
        root = np.clip(root - value / np.maximum(steepness, _STEEPEST), -_REACH, _REACH)
    out[who, code] = start + root * spread
    return out


def outer(block: Block, thresholds: Float, slope: Float, sigma: Float) -> tuple[Float, Float]:
    """The curve from the outermost thresholds on to where levels end or codes do: inputs, LSB, and codes there, float64
    [adcs, 2 * OUTER], NaN where nothing is seen; rising, first those below, then those above.

    thresholds: NaN outside one run in each row. At such levels no transition shows from end to end, but reads still pass
    some: a cubic in the input is fitted to the shares at or above all codes near, at the nominal places of the codes.
    """
    known = ~np.isnan(thresholds)
    rows = np.flatnonzero(known.any(axis=1) & np.isfinite(sigma))
    inputs, codes = np.full((len(thresholds), 2 * OUTER), np.nan), np.full((len(thresholds), 2 * OUTER), np.nan)
    if not len(rows):
        return inputs, codes
    n, s = thresholds.shape[1], sigma[rows]
    for end, sign in ((known[rows].argmax(axis=1), -1.0), (n - 1 - known[rows][:, ::-1].argmax(axis=1), 1.0)):
        start, steep = thresholds[rows, end], np.clip(slope[rows, end], _STEEPEST, 1 / _STEEPEST)
        spread = s * steep
        limit = block.u[0] if sign < 0 else block.u[-1]
        length = np.minimum(np.maximum(4 * spread, 3 * spread + 1.5), sign * (limit - start))
        low, high = (start - length, start + _REACH * spread) if sign < 0 else (start - _REACH * spread, start + length)
        first = np.searchsorted(block.u, low - 1e-9)
        last = np.searchsorted(block.u, high + 1e-9, side="right")
        level = first[:, None] + np.arange(max(int((last - first).max()), 1))
        inside = level < last[:, None]
        level = np.minimum(level, len(block.u) - 1)
        wide = int(np.ceil(6 * float(s.max()) + 1))
        code = end[:, None] + np.arange(-wide, wide + 1)
        scale = np.maximum(length, _REACH * spread)
        v = np.repeat(((block.u[level] - start[:, None]) / scale[:, None])[:, :, None], code.shape[1], axis=2)
        above = np.repeat(((code - end[:, None]) / s[:, None])[:, None, :], level.shape[1], axis=1)
        expected = (scale / spread)[:, None] * np.array([0.0, 1.0, 0.0, 0.0])
        near = inside[:, :, None] & ((code >= 0) & (code < n))[:, None, :]
        near &= np.abs(v * expected[:, 1, None, None] - above) <= 3.0 + 1.0 / s[:, None, None]
        reads = np.where(near, block.reads[rows[:, None], level][:, :, None], 0.0)
        share = _share(
            block, rows, np.repeat(level[:, :, None], code.shape[1], axis=2), np.clip(code, 0, n - 1)[:, None, :]
        )
        flat = (len(rows), -1)
        prior = np.stack(
            [np.zeros(len(s)), *(s * s / np.maximum(_BEND * (scale if i == 1 else 1.0), 1e-9) ** 2 for i in (1, 2, 3))],
            axis=1,
        )
        beta = _cubic(v.reshape(flat), above.reshape(flat), share.reshape(flat), reads.reshape(flat), expected, prior)
        seen = (length > block.step / 2) & (reads.sum(axis=(1, 2)) > 0)
        part = (np.arange(OUTER, 0, -1) if sign < 0 else np.arange(1, OUTER + 1)) / OUTER
        at = sign * length[:, None] * part / scale[:, None]
        found = ((beta[:, 3:] * at + beta[:, 2:3]) * at + beta[:, 1:2]) * at + beta[:, :1]
        place = slice(0, OUTER) if sign < 0 else slice(OUTER, None)
        inputs[rows, place] = np.where(seen[:, None], start[:, None] + sign * length[:, None] * part, np.nan)
        codes[rows, place] = np.where(
            seen[:, None], end[:, None] + block.mac.code_min + 0.5 + s[:, None] * found, np.nan
        )
    return inputs, codes


def at_the_ends(shift: Float, known: NDArray[np.bool_]) -> Float:
    """How far to move the inputs of outer(), where the known thresholds are moved by `shift` [adcs, transitions]."""
    row = np.arange(len(shift))
    first, last = known.argmax(axis=1), known.shape[1] - 1 - known[:, ::-1].argmax(axis=1)
    return np.repeat(np.stack([shift[row, first], shift[row, last]], axis=1), OUTER, axis=1)


def _cubic(v: Float, above: Float, share: Float, reads: Float, expected: Float, prior: Float) -> Float:
    """Coefficients [m, 4] of the cubic in v whose probit, less `above`, is the share of `reads`; all [m, n]. expected: what
    coefficients are likely to be about, with precision `prior`, both [m, 4]."""
    count = expected.shape[1]
    powers = [np.ones_like(v)]
    for _ in range(2 * (count - 1)):
        powers.append(powers[-1] * v)
    order = np.arange(count)[:, None] + np.arange(count)
    beta = expected.copy()
    for _ in range(_ITERATIONS):
        eta = -above
        for i in range(count):
            eta = eta + beta[:, i, None] * powers[i]
        eta = np.clip(eta, -6.0, 6.0)
        p = ndtr(eta)
        density = np.exp(-eta * eta / 2) / math.sqrt(2 * math.pi)
        weight = reads * density / (p * (1 - p))
        residual, weight = weight * (share - p), weight * density
        score = np.stack([(residual * power).sum(axis=1) for power in powers[:count]], axis=1) - prior * (
            beta - expected
        )
        moments = np.stack([(weight * power).sum(axis=1) for power in powers], axis=1)
        information = moments[:, order] + (prior + 1e-9)[:, :, None] * np.eye(count)
        change = np.clip(np.linalg.solve(information, score[:, :, None])[:, :, 0], -0.5, 0.5)
        beta = beta + change
        if float(np.abs(change).max()) < _CONVERGED:
            break
    return beta


def _share(block: Block, who: NDArray[np.intp], level: NDArray[np.intp], code: NDArray[np.intp]) -> Float:
    """Of the reads of converters `who` [m] at levels [m, ...]: the share above transition code + 1, [m, ...] or alike."""
    row = who.reshape(-1, *(1,) * (level.ndim - 1))
    code = code.reshape(*code.shape, *(1,) * (level.ndim - code.ndim))
    place = code + 1 - block.base[row, level]
    above = block.above()[row, level, np.clip(place, 0, block.histogram.shape[2] - 1)]
    return np.where(place <= 0, 1.0, np.where(place >= block.histogram.shape[2], 0.0, above))


def allowance(moved: Float, se: Float, sigma: Float) -> Float:
    """How far thresholds may still be off where the slope jumps, LSB, 0 where nothing speaks for it.

    moved: how far the cubic is from the sum [adcs, transitions], NaN outside the zone; se: of the sum. About a place where
    the slope jumps by delta, sum and cubic come apart by 0.236 delta sigma at the most, and the cubic is off by 0.163 delta
    sigma and its slope by 0.483 delta (the linear functionals that both are, applied to a kink: a test does so). The first
    shows within a sigma of the place, so the largest difference near counts, less what is chance; the shares are
    _KINK_SHARE for a threshold and, over sigma, KINK_CODES times that for the width of a code.
    """
    excess = np.sqrt(np.maximum(np.nan_to_num(moved) ** 2 - (VARIANCE - 1) * se**2, 0.0))
    out = np.zeros(moved.shape)
    near = np.maximum(np.ceil(np.nan_to_num(sigma)), 1).astype(np.int64)
    width = moved.shape[1]
    for shift in range(-int(near.max(initial=1)), int(near.max(initial=1)) + 1):
        some = np.abs(shift) <= near
        at = np.clip(np.arange(width) + shift, 0, width - 1)
        out = np.maximum(out, np.where(some[:, None], excess[:, at], 0.0))
    return np.where(np.isnan(moved), 0.0, _KINK_SHARE * out)
