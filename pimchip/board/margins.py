"""By how much the codes of sound parts may be off: what a spec allows, at a board's temperature, supply and age.

For telling what is broken from what is only inexact, so generous: how exact parts are, characterization tells.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from pimchip.chip import ChipSpec, Mac
from pimchip.chip.parts import REFERENCE_KELVIN, REFERENCE_TEMPERATURE

if TYPE_CHECKING:
    from pimchip.board.api import Board

SIGMAS = 5
"""Standard deviations of what is drawn that a sound part may be off."""
SHARED = 4
"""Peaks of the shared curve that it may be off: also beyond the ends of its range, for dies unlike the spec."""
ROUNDING = 2
"""LSB: of codes, and for what no spec holds."""
NOISY = 3
"""Times the noise that a spec allows its noisiest converters, beside an LSB for rounding."""
CLIPPED = 0.1
"""Share of a normal deviate's sigma, of up to 1, by which holding 1 + it to 0 from below raises its mean, and some more."""


@dataclass(frozen=True)
class Margins:
    """temperature: degrees Celsius. supply: volts, None: nominal. hours: age of the cells. registers: as the board has them."""

    spec: ChipSpec
    temperature: float
    supply: float | None
    hours: float
    registers: Mapping[str, int]

    @classmethod
    def of(cls, board: Board, spec: ChipSpec) -> Margins:
        """At a board's conditions of now, nominal and fresh where it cannot tell them. Raises DeviceError if it fails."""
        return cls(spec, board.temperature(), board.supply(), board.age() or 0.0, board.registers())

    def around(self, mac: Mac, code: float, driven: int, adcs: Sequence[int]) -> tuple[float, float]:
        """Lowest and highest mean code of sound converters `adcs` where ideal ones give `code`, with so many rows driven."""
        size = abs(code)
        margin = self._margin(mac, size, driven, adcs)
        least, most = size * (1 - self._lost(mac, size, driven)) - margin, size + margin
        return (-most, -least) if code < 0 else (least, most)

    def scatter(self, mac: Mac) -> float:
        """Largest standard deviation of repeated reads of a sound converter, LSB; over many sums, root mean square."""
        noise = self.spec.noise
        sigma = math.hypot(self._array_noise(mac), noise.adc_sigma) * (1 + max(noise.code_slope, 0.0))
        return 1 + NOISY * math.hypot(sigma, noise.flicker_sigma) * (1 + SIGMAS * noise.spread)

    def _array_noise(self, mac: Mac) -> float:
        heat = max(1.0, 1 + (self.temperature - REFERENCE_TEMPERATURE) / REFERENCE_KELVIN)
        return self.spec.noise.array_sigma * mac.range_divisor * math.sqrt(heat)

    def _margin(self, mac: Mac, code: float, driven: int, adcs: Sequence[int]) -> float:
        """LSB, up and down."""
        adc, noise, cells, volts = self.spec.adc, self.spec.noise, self.spec.cells, self.spec.supply
        warming = abs(self.temperature - REFERENCE_TEMPERATURE)
        surplus = 0.0 if self.supply is None else abs(self.supply - volts.volts)
        gain = math.hypot(adc.gain_sigma, adc.gain_drift_sigma * warming, volts.gain_sigma * surplus)
        scatter = math.hypot(cells.mismatch_sigma, cells.program_sigma)
        one = math.hypot(
            code * gain,
            code * scatter / math.sqrt(max(driven, 1)),
            adc.offset_array_sigma * mac.range_divisor,
            adc.offset_sigma,
            adc.offset_drift_sigma * warming,
            volts.offset_sigma * surplus,
            adc.inl_residual,
            adc.sar_sigma * math.sqrt(mac.levels),
            self._array_noise(mac) * (1 + max(noise.code_slope, 0.0)),
            noise.adc_sigma * (1 + max(noise.code_slope, 0.0)),
            noise.flicker_sigma,
        )
        middle = (1 << adc.trim_bits) >> 1
        trimmed = [abs(self.registers.get(f"trim{j}", middle) - middle) * adc.trim_step for j in adcs]
        # What is drawn for each converter averages out over them; what they share does not.
        margin = ROUNDING + SIGMAS * one / math.sqrt(len(adcs)) + SHARED * adc.inl_master + float(np.mean(trimmed))
        # A cell's factor is held to 0 from below, by which wide scatter adds up to this to the mean.
        return margin + code * CLIPPED * scatter

    def _lost(self, mac: Mac, code: float, driven: int) -> float:
        """Share of a code that cells may have lost."""
        cells = self.spec.cells
        weak = min(cells.weak_rows + SIGMAS * math.sqrt(cells.weak_rows / max(driven, 1)), 1.0)
        kept = 1 - min(cells.retention_loss * math.log10(1 + self.hours) * (1 + CLIPPED * cells.retention_spread), 1.0)
        kept *= (1 - cells.ir_drop) * (1 - cells.ir_drop_load * code / mac.levels) * (1 - weak * cells.weak_row_loss)
        kept *= 1 - min(cells.stuck_zero + cells.stuck_full * mac.signed, 1.0)
        return 1 - kept
