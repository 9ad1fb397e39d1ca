"""Function generators: Keysight 33500 and Rigol DG1000Z.

APPLy is not used: it switches the output on as a side effect. Siglent's SDG series speaks a language of its own
(C1:BSWV ...), without an error queue to read after a set, and has no driver here.
"""

from __future__ import annotations

import math
from typing import Any, ClassVar

from pimchip.errors import InputError
from pimchip.instruments.scpi import ScpiSource, number


class _Generator(ScpiSource):
    """Both families have the same tree; ROOT is how its commands begin."""

    ROOT: ClassVar[str]

    def set_load(self, channel: int, ohms: float) -> None:
        self._quiet(channel, "the load")
        if math.isinf(ohms):
            self._set(f"{self.ROOT}OUTP{channel}:LOAD INF")
        elif 1 <= ohms <= 10_000:
            command = f"{self.ROOT}OUTP{channel}:LOAD"
            self._set_number(f"{command} {number(ohms)}", f"{command}?", ohms, 0.5)
        else:
            raise InputError(f"{self.name}: a load of {ohms:g} ohms; give 1 to 10000, or inf for high impedance")

    def set_dc(self, channel: int, volts: float) -> None:
        self._check_volts(channel, volts)
        source = f"{self.ROOT}SOUR{channel}"
        if not self.is_on(channel) or self._ask(f"{source}:FUNC?").upper() != "DC":
            self._quiet(channel, "the waveform")
            self._set(f"{source}:FUNC DC")
        self._set_number(f"{source}:VOLT:OFFS {number(volts)}", f"{source}:VOLT:OFFS?", volts, 2e-3)

    def set_sine(self, channel: int, hertz: float, volts_peak_to_peak: float, offset_volts: float) -> None:
        if volts_peak_to_peak <= 0 or hertz <= 0:
            raise InputError(
                f"{self.name}: a sine of {volts_peak_to_peak:g} Vpp at {hertz:g} Hz; both must be above zero"
            )
        for peak in (offset_volts - volts_peak_to_peak / 2, offset_volts + volts_peak_to_peak / 2):
            self._check_volts(channel, peak)
        self._quiet(channel, "the waveform")
        source = f"{self.ROOT}SOUR{channel}"
        self._set(f"{source}:FUNC SIN")
        self._set_number(f"{source}:FREQ {number(hertz)}", f"{source}:FREQ?", hertz, 1e-6)
        self._set(f"{source}:VOLT:UNIT VPP")
        self._set_number(f"{source}:VOLT {number(volts_peak_to_peak)}", f"{source}:VOLT?", volts_peak_to_peak, 1e-3)
        self._set_number(f"{source}:VOLT:OFFS {number(offset_volts)}", f"{source}:VOLT:OFFS?", offset_volts, 2e-3)

    def _quiet(self, channel: int, what: str) -> None:
        """Amplitude and offset change one after the other: an output that is on could pass its limits in between."""
        if self.is_on(channel):
            raise InputError(f"{self.name} channel {channel}: switch the output off before {what} is changed")

    def switch(self, channel: int, on: bool) -> None:
        self._check_switch(channel, on)
        command = f"{self.ROOT}OUTP{channel}"
        self._set_state(f"{command} {'ON' if on else 'OFF'}", f"{command}?", on)

    def _off_command(self, channel: int) -> str:
        return f"{self.ROOT}OUTP{channel} OFF"

    def is_on(self, channel: int) -> bool:
        self._check_channel(channel)
        return self._ask_on(f"{self.ROOT}OUTP{channel}?")

    def settings(self) -> dict[str, Any]:
        found = {}
        for n in sorted(self.limits):
            source = f"{self.ROOT}SOUR{n}"
            function = self._ask(f"{source}:FUNC?")
            held: dict[str, Any] = {"on": self.is_on(n), "waveform": function}
            if function.upper() != "DC":
                held |= {
                    "hertz": self._ask_number(f"{source}:FREQ?"),
                    "volts_peak_to_peak": self._ask_number(f"{source}:VOLT?"),
                }
            found[f"channel {n}"] = {**held, "offset_volts": self._ask_number(f"{source}:VOLT:OFFS?")}
        return found


class Keysight33500(_Generator):
    """Keysight 33509B to 33522B and 33611A to 33622A.

    33500 and 33600 Series Operating and Service Guide (33500-90901), SCPI reference: SOURce<n>:FUNCtion, :FREQuency,
    :VOLTage, :VOLTage:OFFSet, OUTPut<n>, OUTPut<n>:LOAD. Looked at again: DC by
    FUNC DC and VOLT:OFFS in programs of others.
    """

    FAMILY = "Keysight 33500 function generator"
    VENDOR = r"(Keysight|Agilent) Technologies.*"
    MODEL = r"33(5(0|1|2)\d|6(1|2)\d)[AB]"
    ROOT = ""

    def _channels(self) -> tuple[int, ...]:
        return (1, 2) if self.identity.model[3] == "2" or self.identity.model[2:4] == "51" else (1,)


class RigolDG1000Z(_Generator):
    """Rigol DG1022Z, DG1032Z and DG1062Z.

    DG1000Z Series Programming Guide (PGB09101), chapter 2: :SOURce<n>:FUNCtion[:SHAPe], :FREQuency, :VOLTage,
    :VOLTage:OFFSet, :OUTPut<n>[:STATe], :OUTPut<n>:LOAD, :SYSTem:ERRor?. Looked at again: the same in
    programs of others, with a load that reads back as 5.000000E+01.
    """

    FAMILY = "Rigol DG1000Z function generator"
    VENDOR = r"RIGOL TECHNOLOGIES.*"
    MODEL = r"DG10[236]2Z"
    ERROR_QUERY = ":SYST:ERR?"
    ROOT = ":"
    channels = (1, 2)
