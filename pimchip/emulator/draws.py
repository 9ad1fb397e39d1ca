"""A die's random numbers: one Philox stream for each quantity, so that adding a quantity moves no other.

A tag, once released, keeps its meaning: another would change everyone's dies.
"""

from __future__ import annotations

from enum import IntEnum

import numpy as np
from numpy.typing import NDArray

from pimchip.chip.gauss import FRACTION_BITS, gauss
from pimchip.chip.philox import Domain, words

Float = NDArray[np.float64]
Bool = NDArray[np.bool_]
Int64 = NDArray[np.int64]


class AdcTag(IntEnum):
    """Streams of the converters, in the domain DIE; the index is the converter, times values a converter."""

    GAIN = 1
    OFFSET_ARRAY = 2
    OFFSET = 3
    GAIN_DRIFT = 4
    OFFSET_DRIFT = 5
    MASTER = 6
    RESIDUAL = 7
    NOISE_ARRAY = 8
    NOISE_ADC = 9
    SUPPLY_GAIN = 10
    SUPPLY_OFFSET = 11
    FLICKER = 12
    CAPACITOR = 13
    DEAD = 14
    STUCK = 15
    STUCK_BIT = 16
    STUCK_VALUE = 17


class CellTag(IntEnum):
    """Streams of the cells, in the domain CELL; the index is (macro * rows + row) * columns + column."""

    MISMATCH = 1
    PROGRAM = 2
    RETENTION = 3
    WEAK_ROW = 4
    """The index is macro * rows + row."""
    STUCK = 5
    STUCK_SIGN = 6
    WRITE_FAILURE = 7
    ROUNDING = 8


class Draws:
    """The streams of die `number`. index: integers of any shape, which the results have too."""

    def __init__(self, number: int) -> None:
        self._number = number

    def words(self, tag: AdcTag | CellTag, index: Int64, epoch: int = 0) -> NDArray[np.uint32]:
        """32 random bits for each index."""
        domain = Domain.DIE if isinstance(tag, AdcTag) else Domain.CELL
        return words(index, seed=self._number, tag=tag, epoch=epoch, domain=domain)

    def normal(self, tag: AdcTag | CellTag, index: Int64, epoch: int = 0) -> Float:
        """Standard normal deviates."""
        return gauss(self.words(tag, index, epoch)).astype(np.float64) / (1 << FRACTION_BITS)

    def uniform(self, tag: AdcTag | CellTag, index: Int64, epoch: int = 0) -> Float:
        """Multiples of 2^-32 in 0..1, 1 excluded: `uniform() < p` has chance p, for p = 0 and 1 exactly."""
        drawn: Float = self.words(tag, index, epoch).astype(np.float64) * 2.0**-32
        return drawn
