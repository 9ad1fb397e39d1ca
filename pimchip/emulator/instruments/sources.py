"""Twins of what feeds rails: a Rigol DP832 and a Keithley 2450, in the dialects of their manuals."""

from __future__ import annotations

import re
from collections.abc import Mapping

from pimchip.emulator.instruments.scpi import ScpiError, ScpiTwin, on, state, value
from pimchip.emulator.instruments.specimen import Specimen
from pimchip.emulator.instruments.wiring import Output, Wiring

DP832_SECONDS = 0.1
"""Of one reading; the real one does not tell."""
DP832 = {1: (32.0, 3.2), 2: (32.0, 3.2), 3: (5.3, 3.2)}
"""Largest volts and amperes by channel."""
DP832_SET, DP832_VOLTS, DP832_AMPERES = (5e-4, 20e-3), (5e-4, 10e-3), (1.5e-3, 5e-3)
PROTECTION_2450 = (2, 5, 10, 20, 40, 60, 80, 100, 120, 140, 160, 180)
VOLTS_2450 = {
    0.02: (1e-3, 150e-6),
    0.2: (1.2e-4, 200e-6),
    2.0: (1.2e-4, 300e-6),
    20.0: (1.5e-4, 1e-3),
    200.0: (1.5e-4, 1e-2),
}
SET_2450 = {
    0.02: (1e-3, 200e-6),
    0.2: (1.5e-4, 200e-6),
    2.0: (2e-4, 300e-6),
    20.0: (1.5e-4, 2.4e-3),
    200.0: (1.5e-4, 24e-3),
}
AMPERES_2450 = {
    1e-6: (2.5e-4, 300e-12),
    1e-5: (2.5e-4, 700e-12),
    1e-4: (2e-4, 6e-9),
    1e-3: (2e-4, 60e-9),
    1e-2: (2e-4, 600e-9),
    1e-1: (2.5e-4, 6e-6),
    1.0: (3e-4, 500e-6),
}


class DP832Twin(ScpiTwin):
    """Three outputs. rails: by channel. Accuracy as in the DP800 Performance Verification Manual."""

    def __init__(self, wiring: Wiring, rails: Mapping[int, str], specimen: Specimen) -> None:
        super().__init__("RIGOL TECHNOLOGIES,DP832,DP8C000000000,00.01.16")
        self._wiring, self._rails, self._specimen = wiring, dict(rails), specimen
        self._outputs = {channel: Output() for channel in DP832}
        for channel, rail in rails.items():
            wiring.attach(rail, self._outputs[channel])

    def reset(self) -> None:
        for output in self._outputs.values():
            output.on, output.volts, output.true_volts, output.protected = False, 0.0, 0.0, False

    def _output(self, arguments: list[str]) -> tuple[int, Output]:
        match = re.fullmatch(r"CH([123])", arguments[0], re.I) if arguments else None
        if match is None:
            raise ScpiError(-224 if arguments else -109)
        return int(match[1]), self._outputs[int(match[1])]

    def _numbered(self, channel: int) -> Output:
        if channel not in self._outputs:
            raise ScpiError(-113)
        return self._outputs[channel]

    @on("[SOURce<n>:]VOLTage[:LEVel][:IMMediate][:AMPLitude]")
    def _volts(self, channel: int, arguments: list[str]) -> None:
        output = self._numbered(channel)
        output.volts = round(value(arguments, 0, 0, DP832[channel][0]), 3)
        output.true_volts = self._specimen.fixed(f"set {channel}", output.volts, DP832_SET)
        output.check_protection()

    @on("[SOURce<n>:]VOLTage[:LEVel][:IMMediate][:AMPLitude]?")
    def _volts_held(self, channel: int, arguments: list[str]) -> str:
        return f"{self._numbered(channel).volts:.3f}"

    @on("[SOURce<n>:]CURRent[:LEVel][:IMMediate][:AMPLitude]")
    def _limit(self, channel: int, arguments: list[str]) -> None:
        self._numbered(channel).limit = round(value(arguments, 0, 0, DP832[channel][1]), 3)

    @on("[SOURce<n>:]CURRent[:LEVel][:IMMediate][:AMPLitude]?")
    def _limit_held(self, channel: int, arguments: list[str]) -> str:
        return f"{self._numbered(channel).limit:.3f}"

    @on("OUTPut:OVP:VALue")
    def _protection(self, _: int, arguments: list[str]) -> None:
        channel, output = self._output(arguments)
        output.protection = value(arguments, 1, 0.001, DP832[channel][0] * 1.1)
        output.check_protection()

    @on("OUTPut:OVP:VALue?")
    def _protection_held(self, _: int, arguments: list[str]) -> str:
        return f"{self._output(arguments)[1].protection:.3f}"

    @on("OUTPut:OVP[:STATe]")
    def _protected(self, _: int, arguments: list[str]) -> None:
        self._output(arguments)[1].protected = state(arguments, 1)

    @on("OUTPut:OVP[:STATe]?")
    def _protected_held(self, _: int, arguments: list[str]) -> str:
        return "ON" if self._output(arguments)[1].protected else "OFF"

    @on("OUTPut:OVP:QUES?")
    def _tripped(self, _: int, arguments: list[str]) -> str:
        return "YES" if self._output(arguments)[1].tripped else "NO"

    @on("OUTPut:OVP:CLEAR")
    def _clear_trip(self, _: int, arguments: list[str]) -> None:
        self._output(arguments)[1].tripped = False

    @on("OUTPut[:STATe]")
    def _switch(self, _: int, arguments: list[str]) -> None:
        output = self._output(arguments)[1]
        output.on = state(arguments, 1) and not output.tripped
        output.check_protection()

    @on("OUTPut[:STATe]?")
    def _switched(self, _: int, arguments: list[str]) -> str:
        return "ON" if self._output(arguments)[1].on else "OFF"

    @on("MEASure[:VOLTage][:DC]?")
    def _measure_volts(self, _: int, arguments: list[str]) -> str:
        channel, volts, _amperes = self._measured(arguments)
        return f"{self._specimen.reading(f'volts {channel}', volts, DP832_VOLTS):.4f}"

    @on("MEASure:CURRent[:DC]?")
    def _measure_amperes(self, _: int, arguments: list[str]) -> str:
        channel, _volts, amperes = self._measured(arguments)
        return f"{self._specimen.reading(f'amperes {channel}', amperes, DP832_AMPERES):.4f}"

    def _measured(self, arguments: list[str]) -> tuple[int, float, float]:
        channel, output = self._output(arguments)
        rail = self._rails.get(channel)
        volts, amperes = self._wiring.measure(rail, DP832_SECONDS)
        return channel, volts if rail else output.terminal, amperes


class Keithley2450Twin(ScpiTwin):
    """A 2450 in SCPI mode, sourcing volts on one rail. Accuracy and ranges as in SPEC-2450."""

    def __init__(self, wiring: Wiring, rail: str, specimen: Specimen, line_hertz: float) -> None:
        super().__init__("KEITHLEY INSTRUMENTS,MODEL 2450,04000000,1.7.12b")
        self._wiring, self._rail, self._specimen, self._hertz = wiring, rail, specimen, line_hertz
        self._output = Output()
        wiring.attach(rail, self._output)
        self.reset()

    def reset(self) -> None:
        self._output.on, self._output.volts, self._output.true_volts = False, 0.0, 0.0
        self._output.limit, self._output.protected = 105e-6, False
        self._source_range, self._range, self._cycles, self._readback = 20.0, 1e-4, 1.0, True
        self._four_wires, self._protection = False, "NONE"

    def error_text(self, code: str, text: str) -> str:
        return f'{code},"{text};{int(code != "0")};0 0"'

    @on("*LANG?")
    def _language(self, _: int, arguments: list[str]) -> str:
        return "SCPI"

    @on("SOURce<n>:FUNCtion[:MODE]")
    def _function(self, _: int, arguments: list[str]) -> None:
        if not arguments or arguments[0].upper() not in ("VOLT", "VOLTAGE"):
            raise ScpiError(-224)  # this twin sources volts only

    @on("SOURce<n>:FUNCtion[:MODE]?")
    def _function_held(self, _: int, arguments: list[str]) -> str:
        return "VOLT"

    @on("SOURce<n>:VOLTage:RANGe")
    def _set_source_range(self, _: int, arguments: list[str]) -> None:
        wanted = value(arguments, 0, 0, 210)
        self._source_range = min(r for r in SET_2450 if r * 1.05 >= wanted)

    @on("SOURce<n>:VOLTage[:LEVel][:IMMediate][:AMPLitude]")
    def _volts(self, _: int, arguments: list[str]) -> None:
        output = self._output
        output.volts = value(arguments, 0, -1.05 * self._source_range, 1.05 * self._source_range)
        output.true_volts = self._specimen.fixed(
            f"set {self._source_range}", output.volts, SET_2450[self._source_range]
        )
        output.check_protection()

    @on("SOURce<n>:VOLTage[:LEVel][:IMMediate][:AMPLitude]?")
    def _volts_held(self, _: int, arguments: list[str]) -> str:
        return f"{self._output.volts:.6E}"

    @on("SOURce<n>:VOLTage:ILIMit[:LEVel]")
    def _limit(self, _: int, arguments: list[str]) -> None:
        self._output.limit = value(arguments, 0, 1e-9, 1.05)

    @on("SOURce<n>:VOLTage:ILIMit[:LEVel]?")
    def _limit_held(self, _: int, arguments: list[str]) -> str:
        return f"{self._output.limit:.6E}"

    @on("SOURce<n>:VOLTage:PROTection[:LEVel]")
    def _protect(self, _: int, arguments: list[str]) -> None:
        known = [*(f"PROT{v}" for v in PROTECTION_2450), "NONE"]
        if not arguments or arguments[0].upper() not in known:
            raise ScpiError(-224 if arguments else -109)
        self._protection = arguments[0].upper()
        self._output.protected = self._protection != "NONE"
        self._output.protection = float(self._protection.removeprefix("PROT")) if self._output.protected else 1e3
        self._output.check_protection()

    @on("SOURce<n>:VOLTage:PROTection[:LEVel]?")
    def _protection_held(self, _: int, arguments: list[str]) -> str:
        return self._protection

    @on("SOURce<n>:VOLTage:PROTection:TRIPped?")
    def _tripped(self, _: int, arguments: list[str]) -> str:
        return str(int(self._output.tripped))

    @on("SOURce<n>:VOLTage:READ:BACK")
    def _read_back(self, _: int, arguments: list[str]) -> None:
        self._readback = state(arguments)

    @on("SENSe<n>:FUNCtion[:ON]")
    def _sense(self, _: int, arguments: list[str]) -> None:
        if not arguments or arguments[0].strip("\"'").upper() not in ("CURR", "CURRENT", "CURR:DC"):
            raise ScpiError(-224)  # this twin measures amperes only

    @on("SENSe<n>:CURRent[:DC]:RSENse")
    def _wires(self, _: int, arguments: list[str]) -> None:
        self._four_wires = state(arguments)

    @on("SENSe<n>:CURRent[:DC]:RANGe[:UPPer]")
    def _set_range(self, _: int, arguments: list[str]) -> None:
        wanted = value(arguments, 0, 0, 1.05)
        self._range = min(r for r in AMPERES_2450 if r * 1.05 >= wanted)

    @on("SENSe<n>:CURRent[:DC]:RANGe[:UPPer]?")
    def _range_held(self, _: int, arguments: list[str]) -> str:
        return f"{self._range:.6E}"

    @on("SENSe<n>:CURRent[:DC]:NPLCycles")
    def _set_cycles(self, _: int, arguments: list[str]) -> None:
        self._cycles = value(arguments, 0, 0.01, 10)

    @on("SENSe<n>:CURRent[:DC]:NPLCycles?")
    def _cycles_held(self, _: int, arguments: list[str]) -> str:
        return f"{self._cycles:g}"

    @on("OUTPut<n>[:STATe]")
    def _switch(self, _: int, arguments: list[str]) -> None:
        self._output.on = state(arguments)
        self._output.tripped = False
        self._output.check_protection()

    @on("OUTPut<n>[:STATe]?")
    def _switched(self, _: int, arguments: list[str]) -> str:
        return str(int(self._output.on))

    @on("READ?")
    def _read(self, _: int, arguments: list[str]) -> str:
        volts, amperes = self._wiring.measure(self._rail, self._cycles / self._hertz)
        shown = self._specimen.reading(
            f"volts {self._source_range}", volts, VOLTS_2450[self._source_range], self._cycles
        )
        current = self._specimen.reading(f"amperes {self._range}", amperes, AMPERES_2450[self._range], self._cycles)
        over = abs(amperes) > 1.05 * self._range
        elements = {
            "SOUR": f"{shown if self._readback else self._output.volts:.6E}",
            "READ": "9.900000E+37" if over else f"{current:.6E}",
        }
        wanted = [a.upper() for a in arguments if not a.startswith(('"', "'"))] or ["READ"]
        if any(name not in elements for name in wanted):
            raise ScpiError(-224)
        return ",".join(elements[name] for name in wanted)
