"""Digital correction of codes in integers: a table by converter and code, applied before codes are recombined.

For an output of a layer, with its groups, slices s and columns c (planes), digits D = 2^dac_bits and plane weights w:

    L    = values[adc of (group, c), code - code_min]                 2^-f LSB
    sum  = sum_group sum_s sum_c w_c D^s L                            exact integer
    acc  = clip((sum + (1 << f >> 1)) >> f, -largest, largest)        arithmetic shift; largest as of uncorrected codes

So accumulators are in LSB as without a correction, and whatever reads them (requantization, statistics, sums) stays as it
is. Rounding to whole LSB is done once, after recombination, where an LSB is that of the lowest slice and plane. Where a
layer's groups are in several residency passes, each pass rounds its own share.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pimchip.chip.mac import Int64, Mac
from pimchip.errors import InputError

FRACTION_BITS_MAX = 8
VALUE_MAX = (1 << 15) - 1
REACH = 2
"""A corrected code is at most this times the largest code; a converter that is further off is no converter."""


@dataclass(frozen=True, eq=False)
class Correction:
    """What to put in place of each code. values: int16 [adcs, codes], 2^-fraction_bits LSB, by converter and code from
    mac.code_min on. Serves operating points with the codes of `mac`.

    Raises InputError for another shape or type, or values out of range.
    """

    mac: Mac
    fraction_bits: int
    values: NDArray[np.int16]

    def __post_init__(self) -> None:
        codes = self.mac.code_max - self.mac.code_min + 1
        if not 0 <= self.fraction_bits <= FRACTION_BITS_MAX:
            raise InputError(f"correction: fraction_bits = {self.fraction_bits}: want 0..{FRACTION_BITS_MAX}")
        if self.values.dtype != np.int16 or self.values.ndim != 2 or self.values.shape[1] != codes:
            raise InputError(
                f"correction: values {self.values.dtype} {list(self.values.shape)}: want int16 [converters, {codes}]"
            )
        if np.abs(self.values.astype(np.int64)).max(initial=0) > limit(self.mac, self.fraction_bits):
            raise InputError(f"correction: values pass {REACH} times the largest code")

    def __call__(self, codes: NDArray[np.integer], adcs: NDArray[np.integer]) -> Int64:
        """L of codes [..., columns] of the converters `adcs` [columns], int64 of codes' shape."""
        return np.asarray(self.values[adcs, np.asarray(codes, np.int64) - self.mac.code_min], np.int64)

    def serves(self, mac: Mac) -> bool:
        """Whether codes at `mac` are those that this corrects."""
        own = self.mac
        return (own.scheme, own.rows, own.adc_bits, own.range_divisor) == (
            mac.scheme,
            mac.rows,
            mac.adc_bits,
            mac.range_divisor,
        )


def limit(mac: Mac, fraction_bits: int) -> int:
    """The largest magnitude of a value."""
    return min(REACH * max(mac.code_max, -mac.code_min) << fraction_bits, VALUE_MAX)


def widest(mac: Mac) -> int:
    """The most fraction bits, up to 6, with which every value fits: 1/64 LSB is far below what a code can tell."""
    return max(f for f in range(7) if (REACH * max(mac.code_max, -mac.code_min)) << f <= VALUE_MAX or f == 0)


def rounded(total: Int64, fraction_bits: int, largest: int) -> Int64:
    """acc of a sum of corrected codes."""
    return np.asarray(np.clip((total + (1 << fraction_bits >> 1)) >> fraction_bits, -largest, largest))
