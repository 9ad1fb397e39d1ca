"""Multimeters on a fixed DC range, over whole power-line cycles: Keysight Truevolt and Keithley DMM6500."""

from __future__ import annotations

from typing import Any, ClassVar

from pimchip.errors import InputError
from pimchip.instruments.roles import Accuracy, Quantity
from pimchip.instruments.scpi import ScpiInstrument, number

TRUEVOLT_SOURCE = "34461A data sheet (5991-1983EN): one year, 23 +- 5 degrees Celsius"
DMM6500_SOURCE = "DMM6500 Calibration and Adjustment Manual (DMM6500-905-01): one year"


class _Multimeter(ScpiInstrument):
    """Ranges, and readings of what was configured."""

    RANGES: ClassVar[dict[Quantity, tuple[float, ...]]]
    PUBLISHED: ClassVar[dict[Quantity, dict[float, tuple[float, float]]]]
    """By range: accuracy as (fraction of reading, fraction of range)."""
    SOURCE: ClassVar[str]
    CYCLES: ClassVar[tuple[int, ...]]
    _configured: tuple[Quantity, float, int] | None = None

    def read(self) -> float:
        if self._configured is None:
            raise InputError(f"{self.name}: configure it before it is read")
        return self._ask_number(self._read_command())

    def _read_command(self) -> str:
        return "READ?"

    def _chosen(self, quantity: Quantity, range_: float, cycles: int) -> float:
        self._check_cycles(cycles, self.CYCLES)
        return self._range_for(range_, self.RANGES[quantity], "V" if quantity == "volts" else "A")

    def accuracy_of(self, quantity: Quantity, range_: float) -> Accuracy | None:
        chosen = self._range_for(range_, self.RANGES[quantity], "V" if quantity == "volts" else "A")
        figures = self.PUBLISHED[quantity].get(chosen)
        return None if figures is None else Accuracy(figures[0], figures[1] * chosen, self.SOURCE)

    def settings(self) -> dict[str, Any]:
        if self._configured is None:
            return {}
        quantity, range_, cycles = self._configured
        return {"measures": quantity, "range": range_, "power_line_cycles": cycles}


class KeysightTruevolt(_Multimeter):
    """Keysight 34460A, 34461A, 34465A and 34470A; published accuracy of the 34461A.

    Truevolt Series Operating and Service Guide (34460-90901), SCPI reference: CONFigure, [SENSe:]CURRent[:DC]:NPLC,
    :ZERO:AUTO, :RANGe?, READ?. Looked at again: the same in programs of others for 34461A and 34465A.
    """

    FAMILY = "Keysight Truevolt multimeter"
    VENDOR = r"(Keysight|Agilent) Technologies.*"
    MODEL = r"344(60|61|65|70)A"
    RANGES = {
        "volts": (0.1, 1.0, 10.0, 100.0, 1000.0),
        "amperes": (100e-6, 1e-3, 10e-3, 100e-3, 1.0, 3.0),
    }
    PUBLISHED = {
        "volts": {0.1: (5e-5, 3.5e-5), 1.0: (4e-5, 7e-6), 10.0: (3.5e-5, 5e-6), 100.0: (4.5e-5, 6e-6)},
        "amperes": {
            100e-6: (5e-4, 2.5e-4),
            1e-3: (5e-4, 6e-5),
            10e-3: (5e-4, 2e-4),
            100e-3: (5e-4, 5e-5),
            1.0: (1e-3, 1e-4),
            3.0: (2e-3, 2e-4),
        },
    }
    SOURCE = TRUEVOLT_SOURCE
    CYCLES = (1, 10, 100)

    def configure(self, quantity: Quantity, range_: float, cycles: int) -> None:
        chosen = self._chosen(quantity, range_, cycles)
        node = "VOLT:DC" if quantity == "volts" else "CURR:DC"
        self._configured = None
        self._set_number(f"CONF:{node} {number(chosen)}", f"{node}:RANG?", chosen, 0.0)
        self._set_number(f"{node}:NPLC {cycles}", f"{node}:NPLC?", cycles, 0.0)
        self._set(f"{node}:ZERO:AUTO ON")
        self._configured = quantity, chosen, cycles

    def accuracy_of(self, quantity: Quantity, range_: float) -> Accuracy | None:
        """None for models other than the 34461A: give the data sheet's figures in the bench file."""
        return super().accuracy_of(quantity, range_) if self.identity.model == "34461A" else None


class KeithleyDMM6500(_Multimeter):
    """Keithley DMM6500 with its SCPI command set.

    Model DMM6500 Reference Manual (DMM6500-901-01), section 12: [:SENSe[1]]:FUNCtion[:ON], :CURRent[:DC]:RANGe[:UPPer],
    :NPLCycles, :AZERo[:STATe], :READ?, *LANG?. Looked at again: the manual's own example, as programs of others quote it.
    """

    FAMILY = "Keithley DMM6500 multimeter"
    VENDOR = r"KEITHLEY INSTRUMENTS.*"
    MODEL = r"MODEL DMM6500"
    ERROR_QUERY = ":SYST:ERR?"
    LANGUAGE_QUERY = "*LANG?"
    RANGES = {
        "volts": (0.1, 1.0, 10.0, 100.0, 1000.0),
        "amperes": (10e-6, 100e-6, 1e-3, 10e-3, 100e-3, 1.0, 3.0),
    }
    PUBLISHED = {"volts": {10.0: (25e-6, 5e-6)}, "amperes": {}}
    SOURCE = DMM6500_SOURCE
    CYCLES = tuple(range(1, 13))  # 12 is the most at 50 Hz

    def configure(self, quantity: Quantity, range_: float, cycles: int) -> None:
        chosen = self._chosen(quantity, range_, cycles)
        node = "VOLT" if quantity == "volts" else "CURR"
        self._configured = None
        self._set(f':SENS:FUNC "{node}:DC"')
        self._set_number(f":SENS:{node}:RANG {number(chosen)}", f":SENS:{node}:RANG?", chosen, 0.0)
        self._set_number(f":SENS:{node}:NPLC {cycles}", f":SENS:{node}:NPLC?", cycles, 0.0)
        self._set(f":SENS:{node}:AZER ON")
        self._configured = quantity, chosen, cycles

    def _read_command(self) -> str:
        return ":READ?"
