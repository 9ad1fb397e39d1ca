"""Philox4x32-10, the counter-based generator behind every random number of a die and of its noise.

Source: Salmon, Moraes, Dror, Shaw, "Parallel random numbers: as easy as 1, 2, 3", SC 2011. A counter-based generator
gives the k-th word without the ones before it, so codes do not depend on batch size, threads or retries.
"""

from __future__ import annotations

from enum import IntEnum

import numpy as np
from numpy.typing import ArrayLike, NDArray

MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
WEYL = (0x9E3779B9, 0xBB67AE85)
ROUNDS = 10
MASK = 0xFFFFFFFF


class Domain(IntEnum):
    """Top byte of the third counter word: keeps streams for different purposes apart."""

    NOISE = 0
    DIE = 1
    PLAN = 2
    SLOW = 3
    CELL = 4


def philox4x32(counter: NDArray[np.uint64], key: tuple[int, int]) -> NDArray[np.uint32]:
    """Ten rounds. counter: uint64 [..., 4] of 32-bit words; key: two 32-bit words; returns uint32 [..., 4]."""
    c0, c1, c2, c3 = (np.asarray(counter[..., i], np.uint64) for i in range(4))
    mask, shift = np.uint64(MASK), np.uint64(32)
    for r in range(ROUNDS):
        k0 = np.uint64((key[0] + r * WEYL[0]) & MASK)
        k1 = np.uint64((key[1] + r * WEYL[1]) & MASK)
        p0 = c0 * np.uint64(MULTIPLIERS[0])
        p1 = c2 * np.uint64(MULTIPLIERS[1])
        c0, c1, c2, c3 = (p1 >> shift) ^ c1 ^ k0, p1 & mask, (p0 >> shift) ^ c3 ^ k1, p0 & mask
    return np.stack([c0, c1, c2, c3], axis=-1).astype(np.uint32)


def split_seed(seed: int) -> tuple[int, int]:
    """A 64-bit seed as the two key words, low first."""
    return seed & MASK, (seed >> 32) & MASK


def words(
    index: ArrayLike, *, seed: int, tag: int = 0, epoch: int = 0, domain: Domain = Domain.NOISE
) -> NDArray[np.uint32]:
    """One 32-bit word for each index (an integer below 2^64, of any shape).

    word (i & 3) of Philox with counter (i >> 2 low, i >> 2 high, domain << 24 | tag, epoch) and key = seed. `tag` is
    the macro for noise, or names a die parameter; 24 bits.
    """
    i = np.asarray(index, np.uint64)
    block = i >> np.uint64(2)
    counter = np.empty((*i.shape, 4), np.uint64)
    counter[..., 0] = block & np.uint64(MASK)
    counter[..., 1] = block >> np.uint64(32)
    counter[..., 2] = (int(domain) << 24) | (tag & 0xFFFFFF)
    counter[..., 3] = epoch & MASK
    lanes = philox4x32(counter, split_seed(seed))
    which = (i & np.uint64(3)).astype(np.intp)[..., None]
    return np.take_along_axis(lanes, which, axis=-1)[..., 0]
