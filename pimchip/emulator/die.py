"""One emulated die: each converter's gain, offset, curve and noise, drawn from the die's seed.

Transfer of converter j, in LSB of the operating point, for a column sum at fraction p of full scale (0..1, or -1..1
for signed sums):

    u = gain_j * p * levels + offset_j                    gain and both offsets, with their temperature coefficients
    t = u + k * (master(p') + residual_j(p'))             p' = u / levels, held to the range; k = 2^(b - adc.bits)

Offsets and noise have a part in volts at the array, which grows with the range divisor and shrinks in LSB with fewer
bits, and a part of the converter that is the same in LSB at any setting. Only +, -, *, /, sqrt and comparisons of
float64 are used, all exactly rounded by IEEE 754, so a seed gives the same tables on any processor.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from pimchip.chip import AdcTables, ChipSpec, Mac, ideal_tables
from pimchip.chip.adc import LSB_BITS, to_table
from pimchip.chip.gauss import FRACTION_BITS, gauss
from pimchip.chip.philox import Domain, words

Float = NDArray[np.float64]

REFERENCE_TEMPERATURE = 25.0
"""Degrees Celsius at which the spec's errors hold."""
TEMPERATURE_STEP = 0.25
"""Kelvin; tables change in steps of this."""
SMALLEST_SPREAD = 0.2
"""A converter's noise is never drawn below this share of the nominal one."""

_MASTER_ORDERS = range(2, 7)
_RESIDUAL_ORDERS = range(2, 13)


class TransferSource(Protocol):
    """What gives a virtual board its converters: a drawn die, or a measured profile."""

    @property
    def uid(self) -> str:
        """The die's unique name."""

    def tables(self, mac: Mac, trim: NDArray[np.int64], temperature: float) -> AdcTables:
        """Tables at an operating point; trim: register codes int64 [adcs]; temperature in degrees Celsius."""


@dataclass(frozen=True)
class DieParameters:
    """What variation drew; each array is [adcs] unless said. Hidden from everything behind Board."""

    gain: Float
    offset_array: Float
    offset: Float
    gain_drift: Float
    offset_drift: Float
    noise_array: Float
    noise_adc: Float
    master: Float
    """Chebyshev coefficients of the common curve, LSB, orders 2..6."""
    residual: Float
    """[adcs, 11]: Chebyshev coefficients of each converter's own curve, LSB, orders 2..12."""


class Die:
    """A die of a chip by its number. The same spec, number and setting give the same tables bit for bit."""

    def __init__(self, spec: ChipSpec, number: int) -> None:
        self.spec = spec
        self.number = number
        self.parameters = _draw(spec, number)

    @property
    def uid(self) -> str:
        """Names the spec's content and the die number: another spec of the same name is another die."""
        return f"emu-{self.spec.name}-{self.spec.hash[:8]}-{self.number:04d}"

    def tables(self, mac: Mac, trim: NDArray[np.int64], temperature: float) -> AdcTables:
        """Transfer and noise at an operating point, temperature in degrees Celsius, rounded to steps of 0.25 K."""
        self.spec.check(mac)
        p = self.parameters
        adc = self.spec.adc
        warm = np.rint((temperature - REFERENCE_TEMPERATURE) / TEMPERATURE_STEP) * TEMPERATURE_STEP
        volts = mac.range_divisor * 2.0 ** (mac.adc_bits - adc.bits)
        offset = p.offset_array * volts + p.offset + p.offset_drift * warm
        if adc.trim_bits:
            offset = offset + (trim - (1 << (adc.trim_bits - 1))) * adc.trim_step
        gain = p.gain + p.gain_drift * warm
        v = np.arange(mac.sum_min, mac.sum_max + 1, dtype=np.float64)
        ideal = v * (mac.levels * mac.range_divisor) / mac.sum_max
        curve_scale = 2.0 ** (mac.adc_bits - adc.bits)
        transfer = np.empty((len(gain), len(v)), np.int32)
        for j in range(len(gain)):
            u = gain[j] * ideal + offset[j]
            place = np.clip(u / mac.levels, -1.0 if mac.signed else 0.0, 1.0)
            place = place if mac.signed else 2 * place - 1
            curve = _chebyshev(place, p.master) + _chebyshev(place, p.residual[j])
            transfer[j] = to_table(u + curve_scale * curve)
        noise = np.sqrt((p.noise_array * volts) ** 2 + p.noise_adc**2)
        return AdcTables(mac, transfer, np.rint(noise * 2.0**LSB_BITS).astype(np.int32))


def _chebyshev(x: Float, coefficients: Float) -> Float:
    """sum_k c_k T_(k+2)(x), by the recurrence, in a fixed order of operations."""
    before, here = x, 2 * x * x - 1
    total = np.zeros_like(x)
    for c in coefficients:
        total = total + c * here
        before, here = here, 2 * x * here - before
    return total


def _draw(spec: ChipSpec, number: int) -> DieParameters:
    count = spec.array.macros * spec.adc.per_macro

    def normal(tag: int, size: int) -> Float:
        drawn = gauss(words(np.arange(size), seed=number, tag=tag, domain=Domain.DIE))
        return drawn.astype(np.float64) / (1 << FRACTION_BITS)

    adc, noise = spec.adc, spec.noise
    master = normal(6, len(_MASTER_ORDERS)) / np.array([k - 1 for k in _MASTER_ORDERS], np.float64)
    grid = np.arange(-64, 65, dtype=np.float64) / 64
    peak = np.abs(_chebyshev(grid, master)).max()
    residual = normal(7, count * len(_RESIDUAL_ORDERS)).reshape(count, -1)
    # T_k has mean square near 1/2, so n equal coefficients of sigma s give an rms of s * sqrt(n / 2).
    residual_scale = adc.inl_residual * np.sqrt(2 / len(_RESIDUAL_ORDERS))
    return DieParameters(
        gain=1 + adc.gain_sigma * normal(1, count),
        offset_array=adc.offset_array_sigma * normal(2, count),
        offset=adc.offset_sigma * normal(3, count),
        gain_drift=adc.gain_drift_sigma * normal(4, count),
        offset_drift=adc.offset_drift_sigma * normal(5, count),
        noise_array=noise.array_sigma * np.maximum(1 + noise.spread * normal(8, count), SMALLEST_SPREAD),
        noise_adc=noise.adc_sigma * np.maximum(1 + noise.spread * normal(9, count), SMALLEST_SPREAD),
        master=master * (adc.inl_master / peak),
        residual=residual * residual_scale,
    )


class IdealDie:
    """A die whose converters are perfect and silent: what `emulator:CHIP?die=ideal` opens."""

    def __init__(self, spec: ChipSpec) -> None:
        self.spec = spec

    @property
    def uid(self) -> str:
        """Names the spec's content."""
        return f"emu-{self.spec.name}-{self.spec.hash[:8]}-ideal"

    def tables(self, mac: Mac, trim: NDArray[np.int64], temperature: float) -> AdcTables:
        """A straight line for every converter, whatever the trim and temperature."""
        self.spec.check(mac)
        count = self.spec.array.macros * self.spec.adc.per_macro
        return AdcTables(mac, np.repeat(ideal_tables(mac).transfer, count, axis=0), np.zeros(count, np.int32))
