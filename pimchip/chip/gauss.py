"""An integer map of 32 random bits to a standard normal deviate.

Bit 31 is the sign. Bits 30..8 are u, 23 bits; m = 2u + 1 is odd in 1..2^24 - 1 and stands for P(|Z| > z) = m / 2^24.
With e = floor(log2 m), the 23 bits below m's leading one pick one of 64 segments of that octave (top 6 bits) and the
place within it (low 17 bits). A table entry holds z at the segment's start in units of 2^-16 (top 20 bits) and its
fall over the segment (low 12 bits); z is interpolated and rounded to units of 2^-12:

    z16  = base - ((fall * place) >> 17)
    z    = (z16 + 8) >> 4,  negated where the sign bit is set

The distribution is symmetric, its tails reach 5.42 sigma, and hardware needs a leading-one detector, 1536 words of
ROM and one 12 x 17 bit product. The table is data (`gauss_table.npy`, written by tools/generate_gauss.py).
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

FRACTION_BITS = 12
"""gauss() gives units of 2^-12 sigma."""

TABLE: NDArray[np.uint32] = np.load(Path(__file__).with_name("gauss_table.npy"), allow_pickle=False)
"""uint32 [1536]: base << 12 | fall, by octave * 64 + segment."""


def gauss(words: NDArray[np.uint32]) -> NDArray[np.int32]:
    """Standard normal deviates in units of 2^-12; words: uint32 of any shape; returns int32 of that shape."""
    r = np.asarray(words, np.uint32)
    odd = ((r >> 8) & 0x7FFFFF) * np.uint32(2) + np.uint32(1)
    # A float32 holds a 24-bit integer exactly, with the octave as its exponent and the segment atop its mantissa.
    bits = odd.astype(np.float32).view(np.int32)
    entry = TABLE[(bits >> 17) - (127 << 6)].astype(np.int64)
    place = (bits & 0x1FFFF).astype(np.int64)
    z16 = (entry >> 12) - (((entry & 0xFFF) * place) >> 17)
    z = ((z16 + 8) >> 4).astype(np.int32)
    out: NDArray[np.int32] = np.where(r >> 31, -z, z).astype(np.int32)
    return out
