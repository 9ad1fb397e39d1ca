"""Twins of what measures and drives: a Keysight 34461A, a 33512B and a 34970A, in the dialects of their manuals."""

from __future__ import annotations

from pimchip.emulator.instruments.chip import PoweredChip, TestInput
from pimchip.emulator.instruments.scpi import ScpiError, ScpiTwin, channel_list, on, state, value
from pimchip.emulator.instruments.specimen import Specimen
from pimchip.emulator.instruments.wiring import Wiring
from pimchip.emulator.state import Sine

RANGES = {
    "VOLT": {0.1: (5e-5, 3.5e-5), 1.0: (4e-5, 7e-6), 10.0: (3.5e-5, 5e-6), 100.0: (4.5e-5, 6e-6), 1e3: (4.5e-5, 1e-5)},
    "CURR": {1e-4: (5e-4, 2.5e-4), 1e-3: (5e-4, 6e-5), 1e-2: (5e-4, 2e-4), 0.1: (5e-4, 5e-5), 1.0: (1e-3, 1e-4), 3.0: (2e-3, 2e-4)},
}  # fmt: skip
"""Of the 34461A: (fraction of reading, fraction of range) by range."""
CYCLES = (0.02, 0.2, 1, 10, 100)
THERMOCOUPLE = (0.0, 1.0)
"""Of the 34970A with a type K thermocouple, degrees Celsius."""
THERMOMETER_SECONDS = 0.4
"""10 PLC with autozero."""


class Truevolt34461ATwin(ScpiTwin):
    """A multimeter across or in series with a rail. Accuracy of the 34461A, one year."""

    SIGNED = True

    def __init__(self, wiring: Wiring, rail: str | None, specimen: Specimen, line_hertz: float) -> None:
        super().__init__("Keysight Technologies,34461A,MY00000000,A.03.03-03.15-03.03-00.52-02-01")
        self._wiring, self._rail, self._specimen, self._hertz = wiring, rail, specimen, line_hertz
        self.reset()

    def reset(self) -> None:
        self._quantity, self._range = "VOLT", {"VOLT": 10.0, "CURR": 1e-3}
        self._cycles = {"VOLT": 10.0, "CURR": 10.0}

    def _configure(self, quantity: str, arguments: list[str]) -> None:
        ranges = RANGES[quantity]
        wanted = value(arguments, 0, 0, max(ranges)) if arguments else max(ranges)
        self._quantity = quantity
        self._range[quantity] = min(r for r in ranges if r * 1.2 >= wanted)

    @on("CONFigure[:VOLTage][:DC]")
    def _configure_volts(self, _: int, arguments: list[str]) -> None:
        self._configure("VOLT", arguments)

    @on("CONFigure:CURRent[:DC]")
    def _configure_amperes(self, _: int, arguments: list[str]) -> None:
        self._configure("CURR", arguments)

    @on("[SENSe:]VOLTage[:DC]:RANGe[:UPPer]?")
    def _volts_range(self, _: int, arguments: list[str]) -> str:
        return f"{self._range['VOLT']:+.8E}"

    @on("[SENSe:]CURRent[:DC]:RANGe[:UPPer]?")
    def _amperes_range(self, _: int, arguments: list[str]) -> str:
        return f"{self._range['CURR']:+.8E}"

    def _set_cycles(self, quantity: str, arguments: list[str]) -> None:
        wanted = value(arguments, 0, 0.02, 100)
        self._cycles[quantity] = min(c for c in CYCLES if c >= wanted)

    @on("[SENSe:]VOLTage[:DC]:NPLC")
    def _volts_cycles(self, _: int, arguments: list[str]) -> None:
        self._set_cycles("VOLT", arguments)

    @on("[SENSe:]CURRent[:DC]:NPLC")
    def _amperes_cycles(self, _: int, arguments: list[str]) -> None:
        self._set_cycles("CURR", arguments)

    @on("[SENSe:]VOLTage[:DC]:NPLC?")
    def _volts_cycles_held(self, _: int, arguments: list[str]) -> str:
        return f"{self._cycles['VOLT']:+.8E}"

    @on("[SENSe:]CURRent[:DC]:NPLC?")
    def _amperes_cycles_held(self, _: int, arguments: list[str]) -> str:
        return f"{self._cycles['CURR']:+.8E}"

    @on("[SENSe:]VOLTage[:DC]:ZERO:AUTO")
    @on("[SENSe:]CURRent[:DC]:ZERO:AUTO")
    def _autozero(self, _: int, arguments: list[str]) -> None:
        state(arguments)

    @on("READ?")
    def _read(self, _: int, arguments: list[str]) -> str:
        kind, range_ = self._quantity, self._range[self._quantity]
        volts, amperes = self._wiring.measure(self._rail, self._cycles[kind] / self._hertz)
        true = volts if kind == "VOLT" else amperes
        if abs(true) > 1.2 * range_:
            return "+9.90000000E+37"
        reading, share = RANGES[kind][range_]
        shown = self._specimen.reading(f"{kind} {range_}", true, (reading, share * range_), self._cycles[kind])
        return f"{shown:+.8E}"


class Generator33512BTwin(ScpiTwin):
    """Two outputs; the first drives a test input where the chip has one. At *RST a load of 50 ohms and outputs off."""

    SIGNED = True
    LARGEST = 10.0
    """Volts into high impedance."""

    def __init__(self, target: TestInput | None = None) -> None:
        super().__init__("Agilent Technologies,33512B,MY00000000,2.03-1.19-2.00-52-00")
        self._target = target
        self.reset()

    def reset(self) -> None:
        self._held: dict[int, dict[str, str | float]] = {
            n: {"FUNC": "SIN", "FREQ": 1e3, "VOLT": 0.1, "OFFS": 0.0, "LOAD": 50.0} for n in (1, 2)
        }
        self._on = {1: False, 2: False}
        self._tell()

    def _of(self, channel: int) -> dict[str, str | float]:
        if channel not in self._held:
            raise ScpiError(-113)
        return self._held[channel]

    def _tell(self) -> None:
        """A constant voltage or a sine; another waveform is told as its offset."""
        held = self._of(1)
        if self._target is None:
            return
        if self._on[1] and held["FUNC"] == "SIN":
            self._target.drive_sine(Sine(float(held["FREQ"]), float(held["VOLT"]), float(held["OFFS"])))
        else:
            self._target.drive(float(held["OFFS"]) if self._on[1] else None)

    @on("[SOURce<n>:]FUNCtion")
    def _function(self, channel: int, arguments: list[str]) -> None:
        if not arguments or arguments[0].upper() not in ("SIN", "SQU", "RAMP", "DC", "SINUSOID", "SQUARE"):
            raise ScpiError(-224 if arguments else -109)
        self._of(channel)["FUNC"] = arguments[0].upper()[:3] if arguments[0].upper() != "RAMP" else "RAMP"
        self._tell()

    @on("[SOURce<n>:]FUNCtion?")
    def _function_held(self, channel: int, arguments: list[str]) -> str:
        return str(self._of(channel)["FUNC"])

    @on("[SOURce<n>:]FREQuency")
    def _frequency(self, channel: int, arguments: list[str]) -> None:
        self._of(channel)["FREQ"] = value(arguments, 0, 1e-6, 20e6)

    @on("[SOURce<n>:]FREQuency?")
    def _frequency_held(self, channel: int, arguments: list[str]) -> str:
        return f"{self._of(channel)['FREQ']:+.15E}"

    @on("[SOURce<n>:]VOLTage:UNIT")
    def _unit(self, channel: int, arguments: list[str]) -> None:
        if not arguments or arguments[0].upper() != "VPP":
            raise ScpiError(-224 if arguments else -109)

    @on("[SOURce<n>:]VOLTage")
    def _amplitude(self, channel: int, arguments: list[str]) -> None:
        held = self._of(channel)
        held["VOLT"] = value(arguments, 0, 1e-3, 2 * (self._largest(channel) - abs(float(held["OFFS"]))))

    @on("[SOURce<n>:]VOLTage?")
    def _amplitude_held(self, channel: int, arguments: list[str]) -> str:
        return f"{self._of(channel)['VOLT']:+.15E}"

    @on("[SOURce<n>:]VOLTage:OFFSet")
    def _offset(self, channel: int, arguments: list[str]) -> None:
        held = self._of(channel)
        room = self._largest(channel) - (0 if held["FUNC"] == "DC" else float(held["VOLT"]) / 2)
        held["OFFS"] = value(arguments, 0, -room, room)
        self._tell()

    @on("[SOURce<n>:]VOLTage:OFFSet?")
    def _offset_held(self, channel: int, arguments: list[str]) -> str:
        return f"{self._of(channel)['OFFS']:+.15E}"

    def _largest(self, channel: int) -> float:
        return self.LARGEST if self._of(channel)["LOAD"] == 9.9e37 else self.LARGEST / 2

    @on("OUTPut<n>:LOAD")
    def _load(self, channel: int, arguments: list[str]) -> None:
        infinite = bool(arguments) and arguments[0].upper() in ("INF", "INFINITY")
        self._of(channel)["LOAD"] = 9.9e37 if infinite else value(arguments, 0, 1, 10e3)

    @on("OUTPut<n>:LOAD?")
    def _load_held(self, channel: int, arguments: list[str]) -> str:
        return f"{self._of(channel)['LOAD']:+.15E}"

    @on("OUTPut<n>[:STATe]")
    def _switch(self, channel: int, arguments: list[str]) -> None:
        self._of(channel)
        self._on[channel] = state(arguments)
        self._tell()

    @on("OUTPut<n>[:STATe]?")
    def _switched(self, channel: int, arguments: list[str]) -> str:
        self._of(channel)
        return str(int(self._on[channel]))


class Logger34970ATwin(ScpiTwin):
    """Thermocouples on the chip: every channel from 101 to 120 sees its temperature."""

    SIGNED = True

    def __init__(self, chip: PoweredChip, wiring: Wiring, specimen: Specimen) -> None:
        super().__init__("HEWLETT-PACKARD,34970A,0,13-2-2")
        self._chip, self._wiring, self._specimen = chip, wiring, specimen
        self.reset()

    def reset(self) -> None:
        self._scan = 0
        self._types: dict[int, str] = {}
        self._cycles: dict[int, float] = {}

    def _channel(self, arguments: list[str]) -> int:
        channel = channel_list(arguments)
        if not 101 <= channel <= 120:
            raise ScpiError(-222)
        return channel

    @on("CONFigure:TEMPerature")
    def _configure(self, _: int, arguments: list[str]) -> None:
        channel = self._channel(arguments)
        if (
            len(arguments) != 3
            or arguments[0].upper() not in ("TC", "TCOUPLE")
            or arguments[1].upper() not in "BEJKNRST"
        ):
            raise ScpiError(-224)
        self._types[channel], self._scan = arguments[1].upper(), channel

    @on("[SENSe:]TEMPerature:TRANsducer:TC:RJUNction:TYPE")
    def _junction(self, _: int, arguments: list[str]) -> None:
        self._channel(arguments)
        if arguments[0].upper() not in ("INT", "INTERNAL"):
            raise ScpiError(-224)  # this twin knows no other

    @on("UNIT:TEMPerature")
    def _unit(self, _: int, arguments: list[str]) -> None:
        self._channel(arguments)
        if arguments[0].upper() != "C":
            raise ScpiError(-224)

    @on("[SENSe:]TEMPerature:NPLCycles")
    @on("[SENSe:]TEMPerature:NPLC")
    def _set_cycles(self, _: int, arguments: list[str]) -> None:
        self._cycles[self._channel(arguments)] = value(arguments, 0, 0.02, 200)

    @on("[SENSe:]TEMPerature:NPLC?")
    def _cycles_held(self, _: int, arguments: list[str]) -> str:
        return f"{self._cycles.get(self._channel(arguments), 1.0):+.8E}"

    @on("ROUTe:SCAN")
    def _set_scan(self, _: int, arguments: list[str]) -> None:
        self._scan = self._channel(arguments)

    @on("READ?")
    def _read(self, _: int, arguments: list[str]) -> str:
        if self._scan not in self._types:
            return "+9.90000000E+37"
        self._wiring.clock.sleep(THERMOMETER_SECONDS)
        shown = self._specimen.reading(f"channel {self._scan}", self._chip.temperature(), THERMOCOUPLE)
        return f"{shown:+.8E}"
