"""The line to an instrument: a message-based resource of pyvisa, one text command at a time.

Bytes are sent and read raw, so that what goes over the wire is what stands in a driver and its terminator.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Protocol

from pimchip.errors import DeviceError, InputError


class Resource(Protocol):
    """The part of pyvisa's MessageBasedResource that is used."""

    def write_raw(self, message: bytes) -> int:
        """Send all of it."""

    def read_raw(self) -> bytes:
        """One message with its terminator."""

    def close(self) -> None:
        """End the session."""


@dataclass(frozen=True)
class LineOptions:
    """How to open a resource.

    library: pyvisa's, "@py" is pyvisa-py, "" the vendor's VISA; or FILE@sim. serial: attributes of pyvisa's resource
    that only a serial line has, as baud_rate; parity by its name there.
    """

    timeout: float = 5.0
    """Seconds for one reply."""
    library: str = "@py"
    terminator: str = "\n"
    serial: dict[str, Any] = field(default_factory=dict)


class Line:
    """Text commands over a resource. Errors are DeviceError and name instrument, resource and command."""

    def __init__(
        self,
        resource: Resource,
        name: str,
        address: str,
        terminator: str = "\n",
        timeout: float = 5.0,
        reopen: Callable[[], Resource] | None = None,
    ) -> None:
        self.name, self.address = name, address
        self._resource = resource
        self._terminator = terminator
        self._timeout = timeout
        self._reopen = reopen

    def write(self, command: str) -> None:
        """Send one command."""
        try:
            self._resource.write_raw((command + self._terminator).encode("ascii"))
        except Exception as error:
            raise self._failed(command, error) from error

    def query(self, command: str) -> str:
        """Send one query and read its reply, without terminators and outer blanks."""
        self.write(command)
        try:
            return self._resource.read_raw().decode("ascii").strip()
        except Exception as error:
            raise self._failed(command, error) from error

    def recover(self) -> None:
        """A new session in place of this one, so that a late reply or a broken connection is left behind.

        VISA's clear would be the other way; but pyvisa-py's never returns where the peer has hung up.
        """
        if self._reopen is not None:
            self.close()
            self._resource = self._reopen()

    def close(self) -> None:
        """End the session; an error of a line that is dead anyway is nobody's business."""
        with suppress(Exception):
            self._resource.close()

    def _failed(self, command: str, error: Exception) -> DeviceError:
        if "VI_ERROR_TMO" in str(error) or isinstance(error, TimeoutError):
            said = f"no reply in {self._timeout:g} s; is it on, connected, and the resource right?"
        else:
            said = " ".join(f"{type(error).__name__}: {error}".split())
        return DeviceError(f"{self.name} ({self.address}), {command!r}: {said}")


Connect = Callable[[str, str, LineOptions], Line]
"""(instrument's name, resource string, options) -> Line; open_line, or something else in tests."""


def open_line(name: str, address: str, options: LineOptions) -> Line:
    """Open a resource string such as TCPIP::192.168.1.20::5555::SOCKET. Raises DeviceError, InputError for a bad string."""
    import pyvisa
    from pyvisa import rname

    try:
        rname.ResourceName.from_string(address)
    except rname.InvalidResourceName as error:
        raise InputError(f"{name}: {address!r} is no VISA resource: {' '.join(str(error).split())}") from None

    def connect() -> Any:
        try:
            resource: Any = pyvisa.ResourceManager(options.library).open_resource(address)
        except Exception as error:
            said = " ".join(f"{error}".split())
            raise DeviceError(f"{name} ({address}) cannot be opened: {said}; check cable, address and power") from error
        try:
            resource.timeout = round(options.timeout * 1000)
            resource.read_termination = options.terminator
            resource.write_termination = options.terminator
            if address.upper().startswith("ASRL"):
                for attribute, value in options.serial.items():
                    setattr(resource, attribute, pyvisa.constants.Parity[value] if attribute == "parity" else value)
        except Exception as error:
            resource.close()
            raise DeviceError(f"{name} ({address}) cannot be set up: {' '.join(str(error).split())}") from error
        return resource

    return Line(connect(), name, address, options.terminator, options.timeout, connect)
