"""Lines to a device: serial ports and TCP. What is wrong with a line is an OSError; the link says it to the caller."""

from __future__ import annotations

import selectors
import socket
import time
from contextlib import suppress
from typing import Any, Protocol

import serial

READ_SIZE = 1 << 16
WRITE_SECONDS = 5.0
"""A line that takes no byte for so long is down."""
CONNECT_SECONDS = 5.0
CHECK = "check the name, its power and cable"


class LineError(OSError):
    """A line that does not open. mend: what to do about it, where more is known than to look at it."""

    def __init__(self, text: str, mend: str = "") -> None:
        super().__init__(text)
        self.mend = mend or CHECK


class Transport(Protocol):
    """A line of bytes. read and write may be called from two threads at a time; open after close makes a new line."""

    def open(self) -> None:
        """Raises OSError where there is none."""

    def read(self, seconds: float) -> bytes:
        """What came, at the latest after `seconds`; b"" for nothing. OSError where the line is gone."""

    def write(self, data: bytes) -> None:
        """All of data. OSError where the line is gone or takes nothing for WRITE_SECONDS."""

    def close(self) -> None:
        """Let go; a reader that waits ends soon. Twice is no error."""


def host_and_port(place: str) -> tuple[str, int | None]:
    """HOST:PORT or [HOST]:PORT; the port is None where it is no number from 0 to 65535."""
    host, _, port = place.rpartition(":")
    known = port.isascii() and port.isdigit() and len(port) <= 5 and int(port) < 1 << 16
    return host.strip("[]"), int(port) if known else None


class TcpTransport:
    """A TCP connection."""

    def __init__(self, host: str, port: int) -> None:
        self.host, self.port = host, port
        self._socket: socket.socket | None = None
        self._readable: selectors.BaseSelector | None = None
        self._writable: selectors.BaseSelector | None = None

    def open(self) -> None:
        try:
            line = socket.create_connection((self.host, self.port), CONNECT_SECONDS)
        except UnicodeError:  # a label of more than 63 characters, and the like
            raise OSError(f"{self.host!r} is no name of a host") from None
        line.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        line.setblocking(False)
        self._readable, self._writable = selectors.DefaultSelector(), selectors.DefaultSelector()
        self._readable.register(line, selectors.EVENT_READ)
        self._writable.register(line, selectors.EVENT_WRITE)
        self._socket = line

    def read(self, seconds: float) -> bytes:
        line, readable = self._socket, self._readable
        if line is None or readable is None:
            raise OSError("not connected")
        try:
            if not readable.select(seconds):
                return b""
            data = line.recv(READ_SIZE)
        except BlockingIOError:
            return b""
        except (ValueError, KeyError):  # closed meanwhile
            raise OSError("not connected") from None
        if not data:
            raise OSError("the other end hung up")
        return data

    def write(self, data: bytes) -> None:
        line, writable = self._socket, self._writable
        if line is None or writable is None:
            raise OSError("not connected")
        rest = memoryview(data)
        while rest:
            try:
                rest = rest[line.send(rest) :]
            except BlockingIOError:
                try:
                    if not writable.select(WRITE_SECONDS):
                        raise OSError(f"the line took nothing for {WRITE_SECONDS:g} s") from None
                except (ValueError, KeyError):
                    raise OSError("not connected") from None

    def close(self) -> None:
        line, self._socket = self._socket, None
        if line is not None:
            with suppress(OSError):
                line.shutdown(socket.SHUT_RDWR)  # ends a reader that waits
            for selector in (self._readable, self._writable):
                if selector is not None:
                    selector.close()
            line.close()


class SerialTransport:
    """A serial port, or whatever pyserial's serial_for_url opens, such as socket://HOST:PORT."""

    POLL = 0.05
    """Seconds that a read waits at most."""

    def __init__(self, url: str, baud: int) -> None:
        self.url, self.baud = url, baud
        self._port: serial.Serial | None = None

    def open(self) -> None:
        # A device file is this process's alone: two programs on one port garble each other.
        own: dict[str, Any] = {} if "://" in self.url else {"exclusive": True}
        try:
            self._port = serial.serial_for_url(
                self.url, baudrate=self.baud, timeout=self.POLL, write_timeout=WRITE_SECONDS, **own
            )
        except ValueError as error:
            raise OSError(str(error)) from None

    def read(self, seconds: float) -> bytes:
        port = self._port
        if port is None:
            raise OSError("not connected")
        end = time.monotonic() + seconds
        try:
            while True:
                data: bytes = port.read(1)
                if data or time.monotonic() >= end:
                    waiting = port.in_waiting
                    return data + (port.read(min(waiting, READ_SIZE)) if waiting else b"")
        except (TypeError, AttributeError):  # pyserial's way to say that it was closed meanwhile
            raise OSError("not connected") from None

    def write(self, data: bytes) -> None:
        port = self._port
        if port is None:
            raise OSError("not connected")
        rest = memoryview(data)
        try:
            while rest:
                rest = rest[port.write(rest) or 0 :]
        except (TypeError, AttributeError):
            raise OSError("not connected") from None

    def close(self) -> None:
        port, self._port = self._port, None
        if port is not None:
            port.close()
