"""Thermometers: Keysight 34970A with thermocouples, Lake Shore 218."""

from __future__ import annotations

from pimchip.errors import DeviceError, InputError
from pimchip.instruments.scpi import ScpiInstrument

TYPES = ("B", "E", "J", "K", "N", "R", "S", "T")


class Keysight34970A(ScpiInstrument):
    """Keysight (Agilent, Hewlett-Packard) 34970A and 34972A with a multiplexer; channel 101 is slot 1, input 01.

    34970A/34972A Command Reference (34972-90001): CONFigure:TEMPerature, UNIT:TEMPerature, [SENSe:]TEMPerature:NPLC,
    [SENSe:]TEMPerature:TRANsducer:TC:RJUNction:TYPE, ROUTe:SCAN, READ?. An open thermocouple reads +9.9E+37. Looked at
    again: the same commands with channel lists in programs of others, and the family's help pages (34980A), where a fixed
    reference junction at 0 degrees is the default; so the multiplexer's own is asked for.
    """

    FAMILY = "Keysight 34970A data acquisition unit"
    VENDOR = r"(Keysight Technologies|Agilent Technologies|HEWLETT-PACKARD).*"
    MODEL = r"3497[02]A"
    channels = ()

    def configure_sensor(self, channel: int, thermocouple: str | None) -> None:
        self._check_input(channel)
        if thermocouple is None:
            return
        if thermocouple not in TYPES:
            raise InputError(f"{self.name}: thermocouple {thermocouple!r} is none of {', '.join(TYPES)}")
        self._set(f"CONF:TEMP TC,{thermocouple},(@{channel})")
        self._set(f"TEMP:TRAN:TC:RJUN:TYPE INT,(@{channel})")
        self._set(f"UNIT:TEMP C,(@{channel})")
        self._set_number(f"TEMP:NPLC 10,(@{channel})", f"TEMP:NPLC? (@{channel})", 10, 0.0)

    def read_temperature(self, channel: int) -> float:
        self._check_input(channel)
        self._set(f"ROUT:SCAN (@{channel})")
        return self._ask_number("READ?")

    def _check_input(self, channel: int) -> None:
        if not 101 <= channel <= 340:
            raise InputError(f"{self.name} has no channel {channel}; channels are slot and input, 101 to 340")


class LakeShore218(ScpiInstrument):
    """Lake Shore 218S and 218E: eight inputs, readings only.

    Model 218 User's Manual, chapter 6: CRDG? <input>, RDGST? <input>, *IDN?. It has no error queue and nothing is set;
    its serial line has 7 data bits with odd parity, and messages end with CR LF. Looked at again: pages 6-22 and 6-29.
    """

    FAMILY = "Lake Shore 218 temperature monitor"
    VENDOR = r"LSCI"
    MODEL = r"MODEL218[SE]?"
    ERROR_QUERY = None
    TERMINATOR = "\r\n"
    SERIAL = {"baud_rate": 9600, "data_bits": 7, "parity": "odd"}
    STATUS = {
        16: "temperature under range",
        32: "temperature over range",
        64: "units under range",
        128: "units over range",
    }

    def configure_sensor(self, channel: int, thermocouple: str | None) -> None:
        self._check_input(channel)
        if thermocouple is not None:
            raise InputError(f"{self.name}: a {self.FAMILY} reads diodes and resistors; leave thermocouple out")

    def read_temperature(self, channel: int) -> float:
        self._check_input(channel)
        command = f"RDGST? {channel}"
        status = int(self._ask_number(command))
        if status:
            said = ", ".join(text for bit, text in self.STATUS.items() if status & bit) or "invalid reading"
            raise DeviceError(f"{self.name} ({self.resource}), {command!r}: input {channel}: {said} ({status})")
        return self._ask_number(f"CRDG? {channel}")

    def _check_input(self, channel: int) -> None:
        if not 1 <= channel <= 8:
            raise InputError(f"{self.name} has no input {channel}; it has 1 to 8")
