"""Source-meters, as sources of voltage that measure current: Keithley 2400 and 2450."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any, ClassVar

from pimchip.errors import DeviceError, InputError
from pimchip.instruments.roles import Accuracy, Quantity
from pimchip.instruments.scpi import ScpiSource, number

K2400_SOURCE = "Model 2400 Service Manual, appendix A: one year, 23 +- 5 degrees Celsius"
K2450_SOURCE = "SPEC-2450 Rev. A: one year, 23 +- 5 degrees Celsius, 1 PLC"
CYCLES = tuple(range(1, 11))


class _Keithley(ScpiSource):
    """What both families share: one channel, four wires, volts sourced and amperes measured."""

    PROTECTION: ClassVar[tuple[float, ...]]
    VOLTS: ClassVar[dict[float, tuple[float, float]]]
    """By range: measuring accuracy as (fraction of reading, volts)."""
    AMPERES: ClassVar[dict[float, tuple[float, float]]]
    SOURCE: ClassVar[str]
    channels = (1,)
    _current_range: float | None = None

    def switch(self, channel: int, on: bool) -> None:
        self._check_switch(channel, on)
        self._set_state(f":OUTP {'ON' if on else 'OFF'}", ":OUTP?", on)

    def _off_command(self, channel: int) -> str:
        return ":OUTP OFF"

    def is_on(self, channel: int) -> bool:
        self._check_channel(channel)
        return self._ask_on(":OUTP?")

    def set_voltage(self, channel: int, volts: float) -> None:
        self._check_volts(channel, volts)
        self._set_number(f":SOUR:VOLT {number(volts)}", ":SOUR:VOLT?", volts, 1e-3)

    def _protection(self, channel: int, volts: float) -> float:
        """The step of over-voltage protection; InputError for what is none."""
        self._check_channel(channel)
        if volts not in self.PROTECTION:
            raise InputError(
                f"{self.name}: over-voltage protection at {volts:g} V; a {self.FAMILY} knows "
                f"{', '.join(f'{step:g}' for step in self.PROTECTION)} V"
            )
        return volts

    def set_integration(self, channel: int, cycles: int) -> None:
        self._check_channel(channel)
        self._check_cycles(cycles, CYCLES)
        self._set_number(f":SENS:CURR:NPLC {cycles}", ":SENS:CURR:NPLC?", cycles, 0.0)

    def set_current_range(self, channel: int, amperes: float) -> None:
        self._check_channel(channel)
        chosen = self._range_for(amperes, tuple(self.AMPERES), "A")
        self._set_number(f":SENS:CURR:RANG {number(chosen)}", ":SENS:CURR:RANG?", chosen, 0.1 * chosen)
        self._current_range = chosen

    @abstractmethod
    def measure_both(self, channel: int) -> tuple[float, float]:
        """Volts and amperes of one reading; the output must be on."""

    def measure_voltage(self, channel: int) -> float:
        return self.measure_both(channel)[0]

    def measure_current(self, channel: int) -> float:
        return self.measure_both(channel)[1]

    def accuracy(self, channel: int, quantity: Quantity) -> Accuracy | None:
        """On the current range that was set; of volts on the range that holds the rail's limit."""
        self._check_channel(channel)
        if quantity == "volts":
            limit = self.limits.get(channel)
            if limit is None:
                return None
            reading, floor = self.VOLTS[
                self._range_for(max(abs(limit.min_volts), limit.max_volts), tuple(self.VOLTS), "V")
            ]
            return Accuracy(reading, floor, self.SOURCE)
        if self._current_range is None:
            return None
        reading, floor = self.AMPERES[self._current_range]
        return Accuracy(reading, floor, self.SOURCE)

    def _source_range(self, channel: int) -> float:
        limit = self._limit(channel)
        return self._range_for(max(abs(limit.min_volts), abs(limit.max_volts)), tuple(self.VOLTS), "V")

    def _pair(self, command: str) -> tuple[float, float]:
        said = self._ask(command)
        parts = said.split(",")
        if len(parts) != 2:
            raise DeviceError(f"{self.name} ({self.resource}), {command!r}: {said!r} is not volts and amperes")
        return self._number(command, parts[0]), self._number(command, parts[1])


class Keithley2400(_Keithley):
    """Keithley 2400 (SCPI).

    Series 2400 SourceMeter User's Manual (2400S-900-01), sections 17 and 18: :SOURce:VOLTage, :SENSe:CURRent:PROTection,
    :SOURce:VOLTage:PROTection, :FORMat:ELEMents, :READ?. Its over-voltage protection is in steps from 20 V. READ? gives as
    many readings as arm and trigger count say, so both are set. Looked at again: the same commands in programs of others.
    """

    FAMILY = "Keithley 2400 source-meter"
    VENDOR = r"KEITHLEY INSTRUMENTS.*"
    MODEL = r"MODEL 2400(-?C|-?LV)?"
    ERROR_QUERY = ":SYST:ERR?"
    SERIAL = {"baud_rate": 9600}
    PROTECTION = (20.0, 40.0, 60.0, 80.0, 100.0, 120.0, 160.0)
    VOLTS = {0.2: (1.2e-4, 300e-6), 2.0: (1.2e-4, 300e-6), 20.0: (1.5e-4, 1.5e-3), 200.0: (1.5e-4, 10e-3)}
    AMPERES = {
        1e-6: (2.9e-4, 300e-12),
        10e-6: (2.7e-4, 700e-12),
        100e-6: (2.5e-4, 6e-9),
        1e-3: (2.7e-4, 60e-9),
        10e-3: (3.5e-4, 600e-9),
        100e-3: (5.5e-4, 6e-6),
        1.0: (2.2e-3, 570e-6),
    }
    SOURCE = K2400_SOURCE

    def prepare(self, channel: int) -> None:
        self._check_channel(channel)
        range_ = self._source_range(channel)
        for command in (
            ":SOUR:FUNC VOLT",
            ":SOUR:VOLT:MODE FIX",
            f":SOUR:VOLT:RANG {number(range_)}",
            ":SENS:FUNC:CONC ON",
            ":SENS:FUNC 'VOLT','CURR'",
            ":FORM:ELEM VOLT,CURR",
            ":ARM:COUN 1",
            ":TRIG:COUN 1",
            ":SYST:RSEN ON",
        ):
            self._set(command)

    def set_current_limit(self, channel: int, amperes: float) -> None:
        self._check_amperes(channel, amperes)
        self._set_number(f":SENS:CURR:PROT {number(amperes)}", ":SENS:CURR:PROT?", amperes, 1e-3 * amperes)

    def set_over_voltage(self, channel: int, volts: float) -> None:
        step = self._protection(channel, volts)
        self._set_number(f":SOUR:VOLT:PROT {number(step)}", ":SOUR:VOLT:PROT?", step, 0.05 * step)

    def tripped(self, channel: int) -> bool:
        """Whether it is in compliance: a 2400 cannot be asked whether its over-voltage limit acts."""
        self._check_channel(channel)
        return self._ask_on(":SENS:CURR:PROT:TRIP?")

    def measure_both(self, channel: int) -> tuple[float, float]:
        self._check_channel(channel)
        return self._pair(":READ?")

    def settings(self) -> dict[str, Any]:
        return {
            "channel 1": {
                "on": self.is_on(1),
                "volts": self._ask_number(":SOUR:VOLT?"),
                "current_limit": self._ask_number(":SENS:CURR:PROT?"),
                "over_voltage": self._ask_number(":SOUR:VOLT:PROT?"),
                "current_range": self._ask_number(":SENS:CURR:RANG?"),
                "power_line_cycles": self._ask_number(":SENS:CURR:NPLC?"),
            }
        }


class Keithley2450(_Keithley):
    """Keithley 2450 with its SCPI command set (not TSP, not 2400 emulation).

    Model 2450 Reference Manual (2450-901-01), section 6: :SOURce[1]:VOLTage:ILIMit, :SOURce[1]:VOLTage:PROTection,
    :SOURce[1]:VOLTage:READ:BACK, :SENSe[1]:CURRent:NPLCycles, :READ? with buffer elements, *LANG?. Looked at again: pages
    6-73 and 6-74 (PROT2 and so on, also as it answers), PyMeasure's driver, READ? with SOUR and READ in programs of others.
    """

    FAMILY = "Keithley 2450 source-meter"
    VENDOR = r"KEITHLEY INSTRUMENTS.*"
    MODEL = r"MODEL 2450"
    ERROR_QUERY = ":SYST:ERR?"
    LANGUAGE_QUERY = "*LANG?"
    PROTECTION = (2.0, 5.0, 10.0, 20.0, 40.0, 60.0, 80.0, 100.0, 120.0, 140.0, 160.0, 180.0)
    VOLTS = {
        0.02: (1e-3, 150e-6),
        0.2: (1.2e-4, 200e-6),
        2.0: (1.2e-4, 300e-6),
        20.0: (1.5e-4, 1e-3),
        200.0: (1.5e-4, 10e-3),
    }
    AMPERES = {
        1e-6: (2.5e-4, 300e-12),
        10e-6: (2.5e-4, 700e-12),
        100e-6: (2e-4, 6e-9),
        1e-3: (2e-4, 60e-9),
        10e-3: (2e-4, 600e-9),
        100e-3: (2.5e-4, 6e-6),
        1.0: (3e-4, 500e-6),
    }
    SOURCE = K2450_SOURCE

    def prepare(self, channel: int) -> None:
        self._check_channel(channel)
        range_ = self._source_range(channel)
        for command in (
            ":SOUR:FUNC VOLT",
            f":SOUR:VOLT:RANG {number(range_)}",
            ":SOUR:VOLT:READ:BACK ON",
            ':SENS:FUNC "CURR"',
            ":SENS:CURR:RSEN ON",
        ):
            self._set(command)

    def set_current_limit(self, channel: int, amperes: float) -> None:
        self._check_amperes(channel, amperes)
        self._set_number(f":SOUR:VOLT:ILIM {number(amperes)}", ":SOUR:VOLT:ILIM?", amperes, 1e-3 * amperes)

    def set_over_voltage(self, channel: int, volts: float) -> None:
        step = f"PROT{self._protection(channel, volts):g}"
        command = f":SOUR:VOLT:PROT {step}"
        self._set(command)
        held = self._ask(":SOUR:VOLT:PROT?")
        if held.upper() != step:
            raise DeviceError(f"{self.name} ({self.resource}), {command!r}: it holds {held}")

    def tripped(self, channel: int) -> bool:
        self._check_channel(channel)
        return self._ask_on(":SOUR:VOLT:PROT:TRIP?")

    def measure_both(self, channel: int) -> tuple[float, float]:
        self._check_channel(channel)
        return self._pair(':READ? "defbuffer1",SOUR,READ')

    def settings(self) -> dict[str, Any]:
        return {
            "channel 1": {
                "on": self.is_on(1),
                "volts": self._ask_number(":SOUR:VOLT?"),
                "current_limit": self._ask_number(":SOUR:VOLT:ILIM?"),
                "over_voltage": self._ask(":SOUR:VOLT:PROT?"),
                "current_range": self._ask_number(":SENS:CURR:RANG?"),
                "power_line_cycles": self._ask_number(":SENS:CURR:NPLC?"),
            }
        }
