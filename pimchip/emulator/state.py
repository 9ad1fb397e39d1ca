"""What a die's behaviour depends on beside itself: temperature, supply and age."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

from pimchip.chip.parts import REFERENCE_KELVIN, REFERENCE_TEMPERATURE

TEMPERATURE_STEP = 0.25
"""Kelvin; tables change in steps of this."""
LOG10_2 = 0.30102999566398120
_LOG_BITS = 40


class Around(NamedTuple):
    """What is around a die: degrees Celsius of it, volts at its analog supply, and at the test input of its converters, None
    where nothing drives that."""

    temperature: float
    supply: float
    test_input: float | None = None


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
