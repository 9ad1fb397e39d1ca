"""What all drivers share: identity, the error queue after every set, values read back, limits, numbers as text.

SCPI-1999 volume 1 and IEEE 488.2. A driver holds the limits of its own outputs, so no way to an output goes round them.
"""

from __future__ import annotations

import math
import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

from pimchip.errors import DeviceError, InputError
from pimchip.instruments.roles import Identity, Limit
from pimchip.instruments.visa import Line

OVERFLOW = 9.0e37
"""SCPI answers 9.9E37 for overload and 9.91E37 for no number (SCPI-1999 volume 1, 7.2.1.4)."""
QUEUE = 40
"""Errors read before a queue counts as endless; instruments hold 20 or 30."""


def number(value: float) -> str:
    """A value as the text that is sent: 7 significant digits, more than any instrument here resolves."""
    return f"{value:.7g}"


class ScpiInstrument:
    """Base of the drivers. A subclass says whom it is for and how its error queue is asked.

    VENDOR, MODEL: regular expressions that fields one and two of *IDN? must match whole. FAMILY: for people.
    """

    FAMILY: ClassVar[str]
    VENDOR: ClassVar[str]
    MODEL: ClassVar[str]
    ERROR_QUERY: ClassVar[str | None] = "SYST:ERR?"
    LANGUAGE_QUERY: ClassVar[str | None] = None
    TERMINATOR: ClassVar[str] = "\n"
    SERIAL: ClassVar[dict[str, Any]] = {}
    channels: tuple[int, ...] = ()

    def __init__(self, line: Line, limits: Mapping[int, Limit] | None = None) -> None:
        """Identify the instrument and empty its error queue; its settings and outputs stay as they are.

        limits: by channel. Raises DeviceError where another instrument answers.
        """
        self._line = line
        self.name, self.resource = line.name, line.address
        self.limits = dict(limits or {})
        self.identity = self._identify()
        self.channels = self._channels()
        for channel in self.limits:
            self._check_channel(channel)
        if self.ERROR_QUERY is not None:
            line.write("*CLS")
        self._check_language()

    def _identify(self) -> Identity:
        said = self._line.query("*IDN?")
        fields = [part.strip() for part in said.split(",", 3)]
        fields += [""] * (4 - len(fields))
        if not re.fullmatch(self.VENDOR, fields[0], re.I) or not re.fullmatch(self.MODEL, fields[1], re.I):
            raise DeviceError(
                f"{self.name} ({self.resource}) is {fields[1] or said!r} of {fields[0]!r}, not a {self.FAMILY}; "
                "correct its driver or resource in the bench file"
            )
        return Identity(*fields)

    def _channels(self) -> tuple[int, ...]:
        return self.channels

    def _check_language(self) -> None:
        """Of instruments that can be switched to another command set."""
        said = "SCPI" if self.LANGUAGE_QUERY is None else self._ask(self.LANGUAGE_QUERY)
        if said.upper() != "SCPI":
            raise DeviceError(
                f"{self.name} ({self.resource}) speaks {said}; send *LANG SCPI, or set it in its System Settings, and restart it"
            )

    # -- talking ------------------------------------------------------------------------------------------------------

    def _set(self, command: str) -> None:
        """Send a command, then read the error queue to its end; DeviceError with all that is in it."""
        self._line.write(command)
        errors = self._errors()
        if errors:
            raise DeviceError(f"{self.name} ({self.resource}), {command!r}: it refuses: {'; '.join(errors)}")

    def _errors(self) -> list[str]:
        if self.ERROR_QUERY is None:
            return []
        found: list[str] = []
        while len(found) < QUEUE:
            said = self._line.query(self.ERROR_QUERY)
            code, _, _ = said.partition(",")
            try:
                if int(code) == 0:
                    return found
            except ValueError:
                raise DeviceError(
                    f"{self.name} ({self.resource}), {self.ERROR_QUERY!r}: {said!r} is no entry of an error queue"
                ) from None
            found.append(said)
        return found

    def _ask(self, command: str) -> str:
        return self._line.query(command)

    def _ask_number(self, command: str) -> float:
        """One number; overload and what is no number are DeviceErrors."""
        return self._number(command, self._ask(command))

    def _number(self, command: str, said: str) -> float:
        try:
            value = float(said)
        except ValueError:
            raise DeviceError(f"{self.name} ({self.resource}), {command!r}: {said!r} is no number") from None
        if not math.isfinite(value) or abs(value) > OVERFLOW:
            raise DeviceError(
                f"{self.name} ({self.resource}), {command!r}: overload, open input or no reading ({said})"
            )
        return value

    def _ask_on(self, command: str) -> bool:
        """A state: 1, 0, ON or OFF."""
        said = self._ask(command).strip('"').upper()
        if said not in ("0", "1", "ON", "OFF", "YES", "NO"):
            raise DeviceError(f"{self.name} ({self.resource}), {command!r}: {said!r} is neither on nor off")
        return said in ("1", "ON", "YES")

    def _set_number(self, command: str, query: str, value: float, resolution: float) -> None:
        """Set by `command` (which ends in the value) and read back by `query`; resolution: of the instrument."""
        self._set(command)
        held = self._ask_number(query)
        if abs(held - value) > resolution + 1e-6 * abs(value):
            raise DeviceError(
                f"{self.name} ({self.resource}), {command!r}: it holds {held:g} instead of {value:g}; "
                "choose a value that it can be set to"
            )

    def _set_state(self, command: str, query: str, on: bool) -> None:
        self._set(command)
        if self._ask_on(query) != on:
            raise DeviceError(f"{self.name} ({self.resource}), {command!r}: it is still {'off' if on else 'on'}")

    # -- what it can do -----------------------------------------------------------------------------------------------

    def _check_channel(self, channel: int) -> None:
        if channel not in self.channels:
            known = ", ".join(map(str, self.channels)) or "none"
            raise InputError(f"{self.name} has no channel {channel}; this {self.identity.model} has {known}")

    def _check_cycles(self, cycles: int, known: Sequence[int]) -> None:
        if cycles not in known:
            raise InputError(
                f"{self.name}: {cycles} power-line cycles; it integrates over {', '.join(map(str, known))}"
            )

    def _range_for(self, value: float, ranges: Sequence[float], unit: str) -> float:
        """The smallest range that holds a value."""
        for one in sorted(ranges):
            if abs(value) <= one * (1 + 1e-9):
                return one
        raise InputError(f"{self.name}: {value:g} {unit} is over its largest range, {max(ranges):g} {unit}")

    # -- outputs, where it has some -----------------------------------------------------------------------------------

    def off(self) -> None:
        """Every output off, read back."""

    def force_off(self) -> None:
        """Send every output's off command."""

    def recover(self) -> None:
        self._line.recover()

    def settings(self) -> dict[str, Any]:
        return {}

    def close(self) -> None:
        self._line.close()


class ScpiSource(ScpiInstrument, ABC):
    """Base of the drivers of instruments with outputs, on none of which more is set than its limits allow."""

    @abstractmethod
    def switch(self, channel: int, on: bool) -> None:
        """The output on or off; read back."""

    @abstractmethod
    def _off_command(self, channel: int) -> str: ...

    def off(self) -> None:
        """Every output off, read back; all are tried before the first error is raised."""
        self._at_each(lambda channel: self.switch(channel, False))

    def force_off(self) -> None:
        """Send every output's off command; raises the first DeviceError once all were tried."""
        self._at_each(lambda channel: self._line.write(self._off_command(channel)))

    def _at_each(self, act: Callable[[int], None]) -> None:
        first: DeviceError | None = None
        for channel in self.channels:
            try:
                act(channel)
            except DeviceError as error:
                first = first or error
        if first is not None:
            raise first

    def _limit(self, channel: int) -> Limit:
        """What the bench file allows a channel; InputError for one that it does not name, which stays off."""
        self._check_channel(channel)
        limit = self.limits.get(channel)
        if limit is None:
            raise InputError(
                f"{self.name} channel {channel} is no rail or input of the bench file and stays off; name it there"
            )
        return limit

    def _check_volts(self, channel: int, volts: float) -> None:
        """InputError, before anything is sent, for a value outside what the bench file allows."""
        self._limit(channel).check_volts(volts)

    def _check_switch(self, channel: int, on: bool) -> None:
        """An output that the bench file does not name has no limits and is not switched on."""
        self._check_channel(channel)
        if on:
            self._limit(channel)

    def _check_amperes(self, channel: int, amperes: float) -> None:
        self._check_channel(channel)
        limit = self.limits.get(channel)
        if limit is None or limit.max_amperes is None:
            raise InputError(f"{self.name} channel {channel} has no current limit in the bench file; name it as a rail")
        if not 0 < amperes <= limit.max_amperes:
            raise InputError(
                f"{limit.rail}: a current limit of {amperes:g} A is outside 0 to {limit.max_amperes:g} A; nothing was sent"
            )
