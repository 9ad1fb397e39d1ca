"""Sums over the reads of a staircase, level by level: all that thresholds, lines and bands are made of.

Levels may hold different numbers of reads, R_j. The rule of Spearman and Kaerber weighs levels, not reads, so it stands
as it is, and se^2 = D^2 sum_j p_jk (1 - p_jk) / (R_j - 1). A level without reads lies beyond what a converter can show
(adaptive measuring stops there): it is taken to show the code at the end of the levels that were read.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr

from pimchip.characterize.estimators import Float
from pimchip.chip import Mac
from pimchip.profile import Counts


@dataclass(frozen=True)
class Block:
    """Counts of some converters. Code indices count from code_min; transition n is to code index n + 1.

    histogram: float64 [adcs, levels, span]. code: int64 of that shape, code index of each cell, held to the codes there
    are. reads: float64 [adcs, levels], 0 where a level was not read. share: histogram / reads, with the end's code where
    a level was not read. u: float64 [levels], LSB.
    """

    mac: Mac
    u: Float
    step: float
    histogram: Float
    code: NDArray[np.int64]
    reads: Float
    share: Float
    base: NDArray[np.int64]

    @property
    def adcs(self) -> int:
        return len(self.histogram)

    @property
    def transitions(self) -> int:
        return self.mac.code_max - self.mac.code_min

    @property
    def freedom(self) -> Float:
        """R_j - 1, [adcs, levels], 1 where nothing was read."""
        return np.asarray(np.maximum(self.reads - 1, 1.0))

    @property
    def per_lsb(self) -> Float:
        """[adcs]: reads an LSB of input, mean over the levels that were read."""
        seen = self.reads > 0
        return np.asarray(self.reads.sum(axis=1) / np.maximum(seen.sum(axis=1), 1) / self.step)

    def by_code(self, values: Float, code: NDArray[np.int64] | None = None) -> Float:
        """Sum values [adcs, levels, span] over the levels by code; float64 [adcs, codes]. code: of levels that are not all."""
        codes = self.transitions + 1
        key = (self.code if code is None else code) + np.arange(self.adcs)[:, None, None] * codes
        summed = np.bincount(key.ravel(), np.broadcast_to(values, key.shape).ravel(), self.adcs * codes)
        return np.asarray(summed, np.float64).reshape(self.adcs, codes)

    def at_or_above(self, values: Float, code: NDArray[np.int64] | None = None) -> Float:
        """The same summed over codes >= k: float64 [adcs, transitions]."""
        return self.by_code(values, code)[:, ::-1].cumsum(axis=1)[:, -2::-1]

    def above(self) -> Float:
        """p_jk of each cell's own code k: the share of reads at its level with that code or a higher one."""
        return self.share[:, :, ::-1].cumsum(axis=2)[:, :, ::-1]


def block_of(counts: Counts, who: NDArray[np.intp]) -> Block:
    """The counts of the converters `who`."""
    codes = counts.mac.code_max - counts.mac.code_min + 1
    base = counts.base[who].astype(np.int64) - counts.mac.code_min
    span = counts.histogram.shape[2]
    histogram = counts.histogram[who].astype(np.float64)
    reads = histogram.sum(axis=2)
    share = histogram / np.maximum(reads, 1)[:, :, None]
    unread = reads == 0
    if unread.any():
        level = np.arange(reads.shape[1])
        above = level[None, :] > (reads > 0).argmax(axis=1)[:, None]
        base = np.where(unread, np.where(above, codes - 1, 0), base)
        share[:, :, 0][unread] = 1.0
    code = np.minimum(base[:, :, None] + np.arange(span), codes - 1)
    return Block(counts.mac, counts.inputs, counts.step, histogram, code, reads, share, base)


def scatter(block: Block) -> Float:
    """Sampling variance of each threshold from its own reads, LSB^2 [adcs, transitions]."""
    above = block.above()
    # Cells past the last code are empty and add nothing.
    return block.by_code(above * (1 - above) / block.freedom[:, :, None])[:, 1:] * block.step**2


def sparsity(block: Block, thresholds: Float, sigma: Float) -> Float:
    """To a factor, the variance that the numbers of reads at the levels about a threshold give it: their mean of
    1 / (R_j - 1), weighted by p (1 - p) of normal noise; float64 [adcs, transitions], 1 where nothing is known, and for
    converters whose levels were all read alike. It is a matter of the plan and has no noise of its own.

    thresholds: LSB, NaN where there is none. sigma: [adcs], LSB.
    """
    out = np.ones(thresholds.shape)
    for j in range(block.adcs):
        known = np.flatnonzero(~np.isnan(thresholds[j]))
        reads = block.reads[j, block.reads[j] > 0]
        if not len(known) or not np.isfinite(sigma[j]) or (reads == reads[0]).all():
            continue
        width = max(float(sigma[j]), block.step / 4)
        reach = math.ceil(4 * width / block.step)
        middle = np.rint((thresholds[j, known] - block.u[0]) / block.step).astype(np.int64)
        near = np.clip(middle[:, None] + np.arange(-reach, reach + 1), 0, len(block.u) - 1)
        z = (block.u[near] - thresholds[j, known, None]) / width
        weight = ndtr(z) * ndtr(-z)
        out[j, known] = (weight / block.freedom[j, near]).sum(axis=1) / weight.sum(axis=1)
    return out


def freedom_of_scatter(block: Block) -> Float:
    """Degrees of freedom of the pooled variance [adcs], after Satterthwaite: 2 mean^2 / variance.

    The variance is that of sum_jk p (1 - p) / (R_j - 1), to first order: of a read of code c the sum over k <= c of
    1 - 2 p_jk, within each level; and the part that is left where p = 1/2.
    """
    above = block.above()
    pq = above * (1 - above)
    pq[:, :, 0] = 0.0  # below the lowest code seen nothing varies
    walk = 1 - 2 * above
    walk[:, :, 0] = 0.0
    walk = walk.cumsum(axis=2)
    mean = (block.share * walk).sum(axis=2)
    first = np.maximum((block.share * walk * walk).sum(axis=2) - mean * mean, 0)
    level = (first / np.maximum(block.reads, 1) + 2 * (pq * pq).sum(axis=2) / block.freedom**2) / block.freedom**2
    total, variance = (pq.sum(axis=2) / block.freedom).sum(axis=1), level.sum(axis=1)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(variance > 0, np.clip(2 * total**2 / variance, 1.0, 1e6), 1.0)


def code_scatter(block: Block) -> Float:
    """Variance of the width of each code, T_(k+1) - T_k, from its own reads, LSB^2 [adcs, transitions - 1], the code
    index n + 1 first: D^2 sum_j d (1 - d) / (R_j - 1), d the share with that code, which holds the covariance of the
    two thresholds that share reads."""
    d = block.share * (1 - block.share) / block.freedom[:, :, None]
    return block.by_code(d)[:, 1:-1] * block.step**2
