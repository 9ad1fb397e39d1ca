"""What a die's behaviour depends on beside itself: temperature, supply and age."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from pimchip.chip.parts import REFERENCE_KELVIN, REFERENCE_TEMPERATURE

TEMPERATURE_STEP = 0.25
"""Kelvin; tables change in steps of this."""
LOG10_2 = 0.30102999566398120
_LOG_BITS = 40


class Sine(NamedTuple):
    """offset + volts_peak_to_peak / 2 * sin(2 pi hertz t), volts."""

    hertz: float
    volts_peak_to_peak: float
    offset: float

    def at(self, seconds: NDArray[np.float64]) -> NDArray[np.float64]:
        """Volts at some times."""
        return np.asarray(self.offset + self.volts_peak_to_peak / 2 * np.sin(2 * math.pi * self.hertz * seconds))


class Around(NamedTuple):
    """What is around a die: degrees Celsius of it, volts at its analog supply, and what drives the test input of its
    converters: volts, a sine, or None."""

    temperature: float
    supply: float
    test_input: float | Sine | None = None


Surrounding = Callable[[], Around]
"""Asked for now."""


@dataclass(frozen=True)
class Conditions:
    """temperature: degrees Celsius. supply: volts, None is the chip's nominal. age: hours since programming."""

    temperature: float = REFERENCE_TEMPERATURE
    supply: float | None = None
    age: float = 0.0

    @property
    def warming(self) -> float:
        """Kelvin above the reference temperature, in whole steps."""
        return round((self.temperature - REFERENCE_TEMPERATURE) / TEMPERATURE_STEP) * TEMPERATURE_STEP

    @property
    def heat(self) -> float:
        """Absolute temperature over that of the reference; exactly 1 there."""
        return (REFERENCE_KELVIN + self.warming) / REFERENCE_KELVIN

    def surplus(self, nominal: float) -> float:
        """Volts of supply above the nominal ones."""
        return 0.0 if self.supply is None else self.supply - nominal

    @property
    def decades(self) -> float:
        """log10(1 + age), to 1e-11: bit by bit with exactly rounded products, so the same on any processor."""
        mantissa, exponent = 1.0 + self.age, 0
        while mantissa >= 2.0:
            mantissa, exponent = mantissa / 2.0, exponent + 1
        log2 = 0
        for _ in range(_LOG_BITS):
            mantissa *= mantissa
            log2 <<= 1
            if mantissa >= 2.0:
                mantissa, log2 = mantissa / 2.0, log2 | 1
        return (exponent + log2 / (1 << _LOG_BITS)) * LOG10_2
