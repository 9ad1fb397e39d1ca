"""The converters of a drawn die as tables: gain, offset, curve, noise and what is broken.

Transfer of converter j, in LSB of the operating point, for a column sum v, with p = v / sum_max, the share of the
largest sum (0..1, or -1..1 for signed sums):

    s = p * (1 - ir_drop_load * |p|)                      the column's own current
    u = gain_j * s * levels * range_divisor + offset_j    with their temperature and supply coefficients, and trim
    t = u + k * (master(p') + residual_j(p'))             p' = u / levels, held to the range; k = 2^(b - adc.bits)

The standard deviation of one conversion is sigma_j * (1 + code_slope * |p|). Offsets and noise have a part in volts at
the array, which grows with the range divisor and shrinks in LSB with fewer bits, and a part of the converter that is the
same in LSB at any setting. Slow noise is of the converter; its octaves have equal shares of its square. A dead
converter gives its lowest code and has no noise.

Only +, -, *, /, sqrt and comparisons of float64 are used, all exactly rounded by IEEE 754, so a seed gives the same
tables on any processor.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pimchip.chip import AdcTables, ChipSpec, Mac
from pimchip.chip.adc import LSB_BITS, SATURATION, Int16, to_table
from pimchip.chip.mac import Int32
from pimchip.emulator.draws import AdcTag, Bool, Draws, Float, Int64
from pimchip.emulator.sar import capacitors, code_map
from pimchip.emulator.state import Conditions

SMALLEST_SPREAD = 0.2
"""A converter's noise is never drawn below this share of the nominal one."""

_MASTER_ORDERS = range(2, 7)
_RESIDUAL_ORDERS = range(2, 13)


@dataclass(frozen=True)
class DieParameters:
    """What variation drew; each array is [adcs] unless said. Hidden from everything behind Board."""

    gain: Float
    offset_array: Float
    offset: Float
    gain_drift: Float
    offset_drift: Float
    gain_supply: Float
    """1/V."""
    offset_supply: Float
    """LSB/V."""
    noise_array: Float
    noise_adc: Float
    flicker: Float
    """rms over all octaves, LSB."""
    master: Float
    """Chebyshev coefficients of the common curve, LSB, orders 2..6."""
    residual: Float
    """[adcs, 11]: Chebyshev coefficients of each converter's own curve, LSB, orders 2..12."""
    capacitors: Float
    """[adcs, adc.bits]: weights of the SAR's bits, lowest first, in full-resolution LSB; ideal are 2^k."""
    dead: Bool
    stuck_bit: Int64
    """Bit of the full-resolution word that is stuck; -1 for none."""
    stuck_at: Int16
    """What it is stuck at, 0 or 1."""


def draw(spec: ChipSpec, draws: Draws) -> DieParameters:
    """The converters of a die."""
    count = spec.array.macros * spec.adc.per_macro
    adc, noise, supply = spec.adc, spec.noise, spec.supply
    each = np.arange(count)

    def normal(tag: AdcTag, size: int = count) -> Float:
        return draws.normal(tag, np.arange(size))

    def spread(tag: AdcTag) -> Float:
        return np.maximum(1 + noise.spread * normal(tag), SMALLEST_SPREAD)

    master = normal(AdcTag.MASTER, len(_MASTER_ORDERS)) / np.array([k - 1 for k in _MASTER_ORDERS], np.float64)
    grid = np.arange(-64, 65, dtype=np.float64) / 64
    peak = np.abs(_chebyshev(grid, master)).max()
    residual = normal(AdcTag.RESIDUAL, count * len(_RESIDUAL_ORDERS)).reshape(count, -1)
    # T_k has mean square near 1/2, so n equal coefficients of sigma s give an rms of s * sqrt(n / 2).
    residual_scale = adc.inl_residual * np.sqrt(2 / len(_RESIDUAL_ORDERS))
    bit = (draws.words(AdcTag.STUCK_BIT, each).astype(np.int64) * adc.bits) >> 32
    return DieParameters(
        gain=1 + adc.gain_sigma * normal(AdcTag.GAIN),
        offset_array=adc.offset_array_sigma * normal(AdcTag.OFFSET_ARRAY),
        offset=adc.offset_sigma * normal(AdcTag.OFFSET),
        gain_drift=adc.gain_drift_sigma * normal(AdcTag.GAIN_DRIFT),
        offset_drift=adc.offset_drift_sigma * normal(AdcTag.OFFSET_DRIFT),
        gain_supply=supply.gain_sigma * normal(AdcTag.SUPPLY_GAIN),
        offset_supply=supply.offset_sigma * normal(AdcTag.SUPPLY_OFFSET),
        noise_array=noise.array_sigma * spread(AdcTag.NOISE_ARRAY),
        noise_adc=noise.adc_sigma * spread(AdcTag.NOISE_ADC),
        flicker=noise.flicker_sigma * spread(AdcTag.FLICKER),
        master=master * (adc.inl_master / peak),
        residual=residual * residual_scale,
        capacitors=capacitors(normal(AdcTag.CAPACITOR, count * adc.bits).reshape(count, adc.bits), adc.sar_sigma),
        dead=draws.uniform(AdcTag.DEAD, each) < adc.dead,
        stuck_bit=np.where(draws.uniform(AdcTag.STUCK, each) < adc.stuck_bit, bit, -1),
        stuck_at=(draws.words(AdcTag.STUCK_VALUE, each) >> 31).astype(np.int16),
    )


def adc_tables(spec: ChipSpec, p: DieParameters, mac: Mac, trim: NDArray[np.int64], at: Conditions) -> AdcTables:
    """The tables of a die at an operating point. trim: register codes int64 [adcs], of gains after those of offsets where
    there are more."""
    adc, noise = spec.adc, spec.noise
    step = 2.0 ** (mac.adc_bits - adc.bits)
    volts = mac.range_divisor * step
    surplus = at.surplus(spec.supply.volts)
    offset = p.offset_array * volts + p.offset + p.offset_drift * at.warming + p.offset_supply * surplus
    if adc.trim_bits:
        offset = offset + (trim[: len(p.gain)] - (1 << (adc.trim_bits - 1))) * adc.trim_step
    gain = p.gain + p.gain_drift * at.warming + p.gain_supply * surplus
    if adc.gain_trim_bits and len(trim) > len(gain):
        gain = gain + (trim[len(gain) :] - (1 << (adc.gain_trim_bits - 1))) * adc.gain_trim_step
    v = np.arange(mac.sum_min, mac.sum_max + 1, dtype=np.float64)
    share = np.abs(v) / mac.sum_max
    ideal = v * (mac.levels * mac.range_divisor) / mac.sum_max * (1 - spec.cells.ir_drop_load * share)
    transfer = np.empty((len(gain), len(v)), np.int32)
    for j in range(len(gain)):
        u = gain[j] * ideal + offset[j]
        place = np.clip(u / mac.levels, -1.0 if mac.signed else 0.0, 1.0)
        place = place if mac.signed else 2 * place - 1
        curve = _chebyshev(place, p.master) + _chebyshev(place, p.residual[j])
        transfer[j] = to_table(u + step * curve)
    transfer[p.dead] = -SATURATION  # below every code, whatever a code map makes of the others
    array = p.noise_array * volts
    if noise.thermal:
        array = array * np.sqrt(at.heat)
    sigma = np.where(p.dead, 0.0, np.sqrt(array**2 + p.noise_adc**2))
    if noise.code_slope and sigma.any():
        sigma = sigma[:, None] * (1 + noise.code_slope * share)
    slow = None
    if noise.flicker_sigma:
        slow = _units(np.where(p.dead, 0.0, p.flicker / np.sqrt(float(noise.flicker_octaves))))
    codes = code_map(mac, adc.bits, p.capacitors if adc.sar_sigma else None, p.stuck_bit, p.stuck_at)
    if codes is not None:
        codes[p.dead] = mac.code_min
    octaves = 0 if slow is None else noise.flicker_octaves
    return AdcTables(mac, transfer, _units(sigma), slow, octaves, codes)


def _units(lsb: Float) -> Int32:
    """Noise in LSB as table entries, in 2^-16 LSB."""
    out: Int32 = np.minimum(np.rint(lsb * 2.0**LSB_BITS), SATURATION).astype(np.int32)
    return out


def _chebyshev(x: Float, coefficients: Float) -> Float:
    """sum_k c_k T_(k+2)(x), by the recurrence, in a fixed order of operations."""
    before, here = x, 2 * x * x - 1
    total = np.zeros_like(x)
    for c in coefficients:
        total = total + c * here
        before, here = here, 2 * x * here - before
    return total
