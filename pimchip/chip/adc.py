"""The integer model of a column ADC: a transfer table, noise, rounding and clipping, bit-exact everywhere.

For the column sum v on converter j, with T and S in units of 2^-16 LSB:

    t    = T[j, v - v_min]
    n    = (S[j] * gauss(r) + 2^11) >> 12
    code = clip((t + n + 2^15) >> 16, code_min, code_max)

T = floor(LSB * 2^16), saturated at +-2^30, so that the ideal converter gives exactly
floor(v * levels / FS + 1/2), clipped: flooring before adding the half changes nothing.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pimchip.chip.gauss import FRACTION_BITS
from pimchip.chip.mac import Int32, Mac
from pimchip.errors import InputError

LSB_BITS = 16
SATURATION = 1 << 30


@dataclass(frozen=True)
class AdcTables:
    """The converters of a die at one operating point.

    transfer: int32 [adcs, sums], T by converter and by column sum from mac.sum_min to mac.sum_max, 2^-16 LSB.
    sigma: int32 [adcs], S, the noise of one conversion in 2^-16 LSB; all zero is a noiseless converter.
    """

    mac: Mac
    transfer: Int32
    sigma: Int32

    def __post_init__(self) -> None:
        sums = self.mac.sum_max - self.mac.sum_min + 1
        if self.mac.levels << LSB_BITS > SATURATION:
            raise InputError(
                f"ADC tables reach {SATURATION >> LSB_BITS} LSB and {self.mac.adc_bits} bits want {self.mac.levels}: use fewer bits"
            )
        for name, dtype, shape in (
            ("transfer", np.int32, (len(self.transfer), sums)),
            ("sigma", np.int32, (len(self.transfer),)),
        ):
            array = getattr(self, name)
            if array.dtype != dtype or array.shape != shape:
                raise InputError(
                    f"ADC table {name}: {array.dtype} {list(array.shape)}, want {np.dtype(dtype)} {list(shape)}"
                )
        if np.any(self.sigma < 0) or np.any(np.abs(self.transfer.astype(np.int64)) > SATURATION):
            raise InputError("ADC table out of range: sigma >= 0 and |transfer| <= 2^30 are wanted")


def to_table(lsb: NDArray[np.float64]) -> Int32:
    """Transfer values in LSB as table entries: floor(LSB * 2^16), saturated; int32 of the same shape."""
    table: Int32 = np.clip(np.floor(lsb * 2.0**LSB_BITS), -SATURATION, SATURATION).astype(np.int32)
    return table


def ideal_tables(mac: Mac) -> AdcTables:
    """The one ideal converter of an operating point: a straight line, no noise. Computed in integers."""
    v = np.arange(mac.sum_min, mac.sum_max + 1, dtype=object)  # Python ints: the product can pass 2^63
    t = v * (mac.levels * mac.range_divisor << LSB_BITS) // mac.sum_max
    return AdcTables(mac, np.clip(t, -SATURATION, SATURATION).astype(np.int32)[None], np.zeros(1, np.int32))


def convert(
    sums: NDArray[np.integer], tables: AdcTables, adc: NDArray[np.integer], deviates: NDArray[np.int32] | None
) -> Int32:
    """Codes of column sums; the executable definition of this module's formulas.

    sums: int [..., columns] in mac.sum_min..mac.sum_max; adc: int [columns], the converter of each column;
    deviates: int32 of sums' shape from gauss(), or None without noise. Returns int32 codes.
    """
    t = tables.transfer[adc, sums - tables.mac.sum_min].astype(np.int64)
    if deviates is not None:
        half = 1 << (FRACTION_BITS - 1)
        t = t + ((tables.sigma[adc].astype(np.int64) * deviates + half) >> FRACTION_BITS)
    codes = (t + (1 << (LSB_BITS - 1))) >> LSB_BITS
    out: Int32 = np.clip(codes, tables.mac.code_min, tables.mac.code_max).astype(np.int32)
    return out
