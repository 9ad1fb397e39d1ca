"""The integer model of a column ADC: bit-exact everywhere, and the whole of what a board is emulated by.

A column's sum arrives in 2^-q counts, V = (sum_i B_i X_i << q) + sum_i E_i X_i, B the cells, X the DAC slice and E the
cells' errors. For converter j of an array cycle, with T, S and U in units of 2^-16 LSB:

    V'   = min(max(V, sum_min << q), sum_max << q)
    k, f = V' >> q, V' & (2^q - 1)
    t    = T[j, k] + (((T[j, k + 1] - T[j, k]) * f) >> q)        k counts from sum_min; f is 0 at the last entry
    n    = ((S[j, k] * gauss(r) + 2^11) >> 12) + ((U[j] * sum_o gauss(r_o) + 2^11) >> 12)
    i    = (t + n + 2^15) >> 10                                  64 steps an LSB
    code = clip(i >> 6, code_min, code_max)                      without a code map, else
    code = C[j, min(max(i, 64 code_min), 64 code_max + 63) - 64 code_min]

T = floor(LSB * 2^16), saturated at +-2^30, so that the ideal converter gives exactly floor(v * levels / FS + 1/2),
clipped: flooring before adding the half changes nothing. q = 0, S without k, U = 0 and no C is the fast path.

The words of the noise are Philox's (pimchip.chip.philox): r by the conversion's index, r_o by the array cycle, see
`slow_words`. Slow noise is a sum over octaves o of Gaussians held for 2^(o+1) cycles, whose spectrum falls as 1/f over
those octaves (Voss's method; Gardner, Scientific American, April 1978).
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from pimchip.chip.correction import Correction
from pimchip.chip.gauss import FRACTION_BITS, gauss
from pimchip.chip.mac import Int32, Int64, Mac
from pimchip.chip.philox import Domain, words
from pimchip.errors import InputError

LSB_BITS = 16
SATURATION = 1 << 30
MAP_BITS = 6
"""A code map has 2^6 entries an LSB."""
FRACTION_BITS_MAX = 12
"""Widest fraction of a count that cell errors are given in, bits."""
OCTAVES_MAX = 16

Int16 = NDArray[np.int16]


@dataclass(frozen=True)
class AdcTables:
    """The converters of a die in one state at one operating point.

    transfer: int32 [adcs, sums], T by converter and by column sum from mac.sum_min to mac.sum_max, 2^-16 LSB.
    sigma: int32 [adcs], S, the noise of one conversion in 2^-16 LSB; or [adcs, sums] where it depends on the sum.
    slow: int32 [adcs], U, of one octave of the slow noise, or None without it. octaves: how many octaves it has.
    code_map: int16 [adcs, (code_max - code_min + 1) * 64], C, or None. corrected: None, or the fraction bits f of a code map
        that gives corrected codes (pimchip.chip.correction) in 2^-f LSB instead.
    """

    mac: Mac
    transfer: Int32
    sigma: Int32
    slow: Int32 | None = None
    octaves: int = 0
    code_map: Int16 | None = None
    corrected: int | None = None

    def __post_init__(self) -> None:
        mac, adcs = self.mac, len(self.transfer)
        sums = mac.sum_max - mac.sum_min + 1
        if mac.levels << LSB_BITS > SATURATION:
            raise InputError(
                f"ADC tables reach {SATURATION >> LSB_BITS} LSB and {mac.adc_bits} bits want {mac.levels}: use fewer bits"
            )
        _check("transfer", self.transfer, np.int32, (adcs, sums))
        _check("sigma", self.sigma, np.int32, (adcs,) if self.sigma.ndim == 1 else (adcs, sums))
        if np.any(self.sigma < 0) or _peak(self.transfer) > SATURATION:
            raise InputError("ADC table out of range: sigma >= 0 and |transfer| <= 2^30 are wanted")
        if self.slow is not None:
            _check("slow", self.slow, np.int32, (adcs,))
            if np.any(self.slow < 0) or not 1 <= self.octaves <= OCTAVES_MAX:
                raise InputError(f"ADC table out of range: slow >= 0 and 1..{OCTAVES_MAX} octaves are wanted")
        if self.code_map is not None:
            _check("code_map", self.code_map, np.int16, (adcs, self.map_entries))
            if self.corrected is not None:
                return
            if self.code_map.min() < mac.code_min or self.code_map.max() > mac.code_max:
                raise InputError(f"ADC code map out of range: codes {mac.code_min}..{mac.code_max} are wanted")

    def with_correction(self, correction: Correction) -> AdcTables:
        """Converters whose codes come corrected; InputError where the correction is of others."""
        if not correction.serves(self.mac) or len(correction.values) != len(self.transfer):
            raise InputError(
                f"a correction of {len(correction.values)} converters at {correction.mac.describe()} is none of "
                f"{len(self.transfer)} at {self.mac.describe()}"
            )
        each = np.arange(len(self.transfer))[:, None]
        codes = self.code_map
        if codes is None:
            codes = np.repeat(np.arange(self.mac.code_min, self.mac.code_max + 1), 1 << MAP_BITS)[None].astype(np.int16)
        found = correction.values[each, codes.astype(np.int64) - self.mac.code_min]
        return replace(self, code_map=np.ascontiguousarray(found), corrected=correction.fraction_bits)

    @property
    def map_entries(self) -> int:
        """Entries of a converter's code map."""
        return (self.mac.code_max - self.mac.code_min + 1) << MAP_BITS

    @property
    def plain(self) -> bool:
        """True where only table, noise, rounding and clipping are left: the fast path."""
        return self.sigma.ndim == 1 and self.slow is None and self.code_map is None


def _check(name: str, array: NDArray[np.generic], dtype: type[np.generic], shape: tuple[int, ...]) -> None:
    if array.dtype != dtype or array.shape != shape:
        raise InputError(f"ADC table {name}: {array.dtype} {list(array.shape)}, want {np.dtype(dtype)} {list(shape)}")


def _peak(table: Int32) -> int:
    return max(int(table.max(initial=0)), -int(table.min(initial=0)))


def to_table(lsb: NDArray[np.float64]) -> Int32:
    """Transfer values in LSB as table entries: floor(LSB * 2^16), saturated; int32 of the same shape."""
    table: Int32 = np.clip(np.floor(lsb * 2.0**LSB_BITS), -SATURATION, SATURATION).astype(np.int32)
    return table


def ideal_tables(mac: Mac, divisor: float | None = None) -> AdcTables:
    """The one ideal converter of an operating point: a straight line, no noise. Computed in integers.

    divisor: of the full scale, any positive number, in place of the operating point's.
    """
    v = np.arange(mac.sum_min, mac.sum_max + 1, dtype=object)  # Python ints: the product can pass 2^63
    over, under = (mac.range_divisor, 1) if divisor is None else float(divisor).as_integer_ratio()
    t = v * (mac.levels * over << LSB_BITS) // (mac.sum_max * under)
    return AdcTables(mac, np.clip(t, -SATURATION, SATURATION).astype(np.int32)[None], np.zeros(1, np.int32))


def column_stride(columns: int) -> int:
    """Columns of a layer rounded up to whole Philox blocks of four: the index of a conversion counts in these."""
    return -(-columns // 4) * 4


def slow_words(cycle: NDArray[np.integer], adc: int, octaves: int, *, seed: int, epoch: int) -> NDArray[np.uint32]:
    """The words of converter `adc`'s slow noise in the given array cycles: uint32 [*cycle.shape, octaves].

    Octave o holds its word for 2^(o+1) cycles: index (cycle >> (o + 1)) * 16 + o of the domain SLOW with the converter
    as its tag. A conversion's cycle is its index divided by the column stride, (vector * groups + group) * slices + slice.
    """
    octave = np.arange(octaves, dtype=np.uint64)
    held = np.asarray(cycle, np.uint64)[..., None] >> (octave + np.uint64(1))
    return words(held * np.uint64(OCTAVES_MAX) + octave, seed=seed, tag=adc, epoch=epoch, domain=Domain.SLOW)


def slow_deviates(cycle: NDArray[np.integer], adc: int, octaves: int, *, seed: int, epoch: int) -> Int64:
    """Sum over octaves of the held Gaussians, int64 of cycle's shape, in units of 2^-12."""
    drawn = gauss(slow_words(cycle, adc, octaves, seed=seed, epoch=epoch))
    total: Int64 = drawn.astype(np.int64).sum(axis=-1)
    return total


def convert(
    sums: NDArray[np.integer],
    tables: AdcTables,
    adc: NDArray[np.integer],
    deviates: NDArray[np.int32] | None,
    slow: Int64 | None = None,
    fraction_bits: int = 0,
) -> Int32:
    """Codes of column sums; the executable definition of this module's formulas.

    sums: int [..., columns] in 2^-fraction_bits counts; adc: int [columns], the converter of each column; deviates:
    int32 of sums' shape from gauss(), and slow: int64 of the same from slow_deviates(), each None without that noise.
    Returns int32 codes.
    """
    mac, q = tables.mac, fraction_bits
    clipped = np.clip(np.asarray(sums, np.int64), mac.sum_min << q, mac.sum_max << q)
    place, fraction = (clipped >> q) - mac.sum_min, clipped & ((1 << q) - 1)
    t = tables.transfer[adc, place].astype(np.int64)
    if q:
        after = tables.transfer[adc, np.minimum(place + 1, tables.transfer.shape[1] - 1)].astype(np.int64)
        t = t + (((after - t) * fraction) >> q)
    half = 1 << (FRACTION_BITS - 1)
    if deviates is not None:
        sigma = tables.sigma[adc] if tables.sigma.ndim == 1 else tables.sigma[adc, place]
        t = t + ((sigma.astype(np.int64) * deviates + half) >> FRACTION_BITS)
    if slow is not None and tables.slow is not None:
        t = t + ((tables.slow[adc].astype(np.int64) * slow + half) >> FRACTION_BITS)
    fine = (t + (1 << (LSB_BITS - 1))) >> (LSB_BITS - MAP_BITS)
    if tables.code_map is None:
        codes = np.clip(fine >> MAP_BITS, mac.code_min, mac.code_max)
    else:
        low = mac.code_min << MAP_BITS
        codes = tables.code_map[adc, np.clip(fine - low, 0, tables.map_entries - 1)]
    out: Int32 = codes.astype(np.int32)
    return out
