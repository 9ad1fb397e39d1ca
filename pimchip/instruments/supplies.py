"""Power supplies: Rigol DP800 and Keysight E36300. Command syntax as their manuals publish it."""

from __future__ import annotations

from typing import Any

from pimchip.instruments.roles import Accuracy, Quantity
from pimchip.instruments.scpi import ScpiSource, number

RIGOL_SOURCE = "DP800 Performance Verification Manual, tables 2-1 and 3-1: one year, 25 +- 5 degrees Celsius"


class RigolDP800(ScpiSource):
    """Rigol DP811 to DP832 and their A models.

    DP800 Series Programming Guide (PGH03108), chapter 2: :SOURce<n>:VOLTage and :CURRent, :OUTPut:OVP:VALue, :OUTPut,
    :MEASure:VOLTage?, :OUTPut:OVP:QUES?, :SYSTem:ERRor?. Looked at again: pages 2-35 (with its examples and 8.800), 2-56, 2-57.
    """

    FAMILY = "Rigol DP800 power supply"
    VENDOR = r"RIGOL TECHNOLOGIES.*"
    MODEL = r"DP8[1-3]\dA?"
    ERROR_QUERY = ":SYST:ERR?"

    def _channels(self) -> tuple[int, ...]:
        return tuple(range(1, int(self.identity.model[3]) + 1))  # DP811, DP821, DP831 and DP832 have 1, 2, 3 and 3

    def prepare(self, channel: int) -> None:
        self._check_channel(channel)

    def set_voltage(self, channel: int, volts: float) -> None:
        self._check_volts(channel, volts)
        self._set_number(f":SOUR{channel}:VOLT {number(volts)}", f":SOUR{channel}:VOLT?", volts, 0.01)

    def set_current_limit(self, channel: int, amperes: float) -> None:
        self._check_amperes(channel, amperes)
        self._set_number(f":SOUR{channel}:CURR {number(amperes)}", f":SOUR{channel}:CURR?", amperes, 0.001)

    def set_over_voltage(self, channel: int, volts: float) -> None:
        self._check_channel(channel)
        self._set_number(f":OUTP:OVP:VAL CH{channel},{number(volts)}", f":OUTP:OVP:VAL? CH{channel}", volts, 0.01)
        self._set_state(f":OUTP:OVP CH{channel},ON", f":OUTP:OVP? CH{channel}", True)

    def switch(self, channel: int, on: bool) -> None:
        self._check_switch(channel, on)
        self._set_state(f":OUTP CH{channel},{'ON' if on else 'OFF'}", f":OUTP? CH{channel}", on)

    def _off_command(self, channel: int) -> str:
        return f":OUTP CH{channel},OFF"

    def is_on(self, channel: int) -> bool:
        self._check_channel(channel)
        return self._ask_on(f":OUTP? CH{channel}")

    def tripped(self, channel: int) -> bool:
        self._check_channel(channel)
        return self._ask_on(f":OUTP:OVP:QUES? CH{channel}")

    def measure_voltage(self, channel: int) -> float:
        self._check_channel(channel)
        return self._ask_number(f":MEAS:VOLT? CH{channel}")

    def measure_current(self, channel: int) -> float:
        self._check_channel(channel)
        return self._ask_number(f":MEAS:CURR? CH{channel}")

    def accuracy(self, channel: int, quantity: Quantity) -> Accuracy | None:
        """Of DP832 and DP832A, whose readback figures are at hand; None for the others."""
        self._check_channel(channel)
        if not self.identity.model.startswith("DP832"):
            return None
        if quantity == "amperes":
            return Accuracy(0.0015, 5e-3, RIGOL_SOURCE)
        return Accuracy(0.0005, 5e-3 if self.identity.model.endswith("A") else 10e-3, RIGOL_SOURCE)

    def settings(self) -> dict[str, Any]:
        return {
            f"channel {n}": {
                "on": self.is_on(n),
                "volts": self._ask_number(f":SOUR{n}:VOLT?"),
                "current_limit": self._ask_number(f":SOUR{n}:CURR?"),
                "over_voltage": self._ask_number(f":OUTP:OVP:VAL? CH{n}"),
                "over_voltage_on": self._ask_on(f":OUTP:OVP? CH{n}"),
            }
            for n in sorted(self.limits)
        }


class KeysightE36300(ScpiSource):
    """Keysight E36311A, E36312A and E36313A, three outputs each.

    E36300 Series Programming Guide (E36311-90002), subsystems SOURce, OUTPut, MEASure, SYSTem: VOLTage <v>,(@ch),
    VOLTage:PROTection and :PROTection:STATe, OUTPut <state>,(@ch), MEASure:VOLTage? (@ch). Looked at again: the guide's
    contents (E36311-90008), the same subsystems of the MP4300's, and VOLT:PROT:TRIP? (@ch) in programs of others for it.
    """

    FAMILY = "Keysight E36300 power supply"
    VENDOR = r"(Keysight|Agilent)( Technologies.*)?"
    MODEL = r"E3631[123]A"
    channels = (1, 2, 3)

    def prepare(self, channel: int) -> None:
        self._check_channel(channel)

    def set_voltage(self, channel: int, volts: float) -> None:
        self._check_volts(channel, volts)
        self._set_number(f"VOLT {number(volts)},(@{channel})", f"VOLT? (@{channel})", volts, 0.001)

    def set_current_limit(self, channel: int, amperes: float) -> None:
        self._check_amperes(channel, amperes)
        self._set_number(f"CURR {number(amperes)},(@{channel})", f"CURR? (@{channel})", amperes, 0.001)

    def set_over_voltage(self, channel: int, volts: float) -> None:
        self._check_channel(channel)
        self._set_number(f"VOLT:PROT {number(volts)},(@{channel})", f"VOLT:PROT? (@{channel})", volts, 0.01)
        self._set_state(f"VOLT:PROT:STAT ON,(@{channel})", f"VOLT:PROT:STAT? (@{channel})", True)

    def switch(self, channel: int, on: bool) -> None:
        self._check_switch(channel, on)
        self._set_state(f"OUTP {'ON' if on else 'OFF'},(@{channel})", f"OUTP? (@{channel})", on)

    def _off_command(self, channel: int) -> str:
        return f"OUTP OFF,(@{channel})"

    def is_on(self, channel: int) -> bool:
        self._check_channel(channel)
        return self._ask_on(f"OUTP? (@{channel})")

    def tripped(self, channel: int) -> bool:
        self._check_channel(channel)
        return self._ask_on(f"VOLT:PROT:TRIP? (@{channel})")

    def measure_voltage(self, channel: int) -> float:
        self._check_channel(channel)
        return self._ask_number(f"MEAS:VOLT? (@{channel})")

    def measure_current(self, channel: int) -> float:
        self._check_channel(channel)
        return self._ask_number(f"MEAS:CURR? (@{channel})")

    def accuracy(self, channel: int, quantity: Quantity) -> Accuracy | None:
        """None: give the data sheet's figures in the bench file."""
        self._check_channel(channel)
        return None

    def settings(self) -> dict[str, Any]:
        return {
            f"channel {n}": {
                "on": self.is_on(n),
                "volts": self._ask_number(f"VOLT? (@{n})"),
                "current_limit": self._ask_number(f"CURR? (@{n})"),
                "over_voltage": self._ask_number(f"VOLT:PROT? (@{n})"),
                "over_voltage_on": self._ask_on(f"VOLT:PROT:STAT? (@{n})"),
            }
            for n in sorted(self.limits)
        }
