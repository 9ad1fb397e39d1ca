"""Emulated boards on TCP and pseudo-terminals. One thread runs the board and its lines; a bad line can be put between."""

from __future__ import annotations

import math
import os
import selectors
import socket
import time
from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Protocol

from pimchip.errors import InputError
from pimchip.link.faults import BadLine
from pimchip.link.server import Line, Server
from pimchip.link.transports import host_and_port

READ_SIZE = 1 << 16
OUT_LIMIT = 1 << 22
"""Bytes that a host may leave unread; more and its line is cut."""
MOST_LINES = 16
"""Connections at a time; one more takes the place of the one that was silent for longest."""
IDLE_SECONDS = 1.0
LOOPBACK = ("127.0.0.1", "::1", "localhost")


class _Stream(Protocol):
    """A socket, or a pseudo-terminal's end."""

    def fileno(self) -> int: ...
    def recv(self, size: int, /) -> bytes: ...
    def send(self, data: bytes, /) -> int: ...
    def close(self) -> None: ...


@dataclass
class _Pty:
    """The device's end of a pseudo-terminal. other: the host's end, held open so that hosts can come and go."""

    fd: int
    other: int

    def fileno(self) -> int:
        return self.fd

    def recv(self, size: int, /) -> bytes:
        return os.read(self.fd, size)

    def send(self, data: bytes, /) -> int:
        return os.write(self.fd, data)

    def close(self) -> None:
        os.close(self.fd)
        os.close(self.other)


@dataclass(eq=False)
class _Connection:
    """there, back: the bad line, where there is one. wanted: what the selector looks for."""

    stream: _Stream
    heard: float
    wanted: int = selectors.EVENT_READ
    line: Line = field(default_factory=Line)
    out: bytearray = field(default_factory=bytearray)
    there: BadLine | None = None
    back: BadLine | None = None


class BoardServer:
    """Serves one device on TCP or on a pseudo-terminal. url: where it listens, as a device URL.

    faults: seed and rates of a bad line that all connections share. Raises InputError where it cannot listen.
    """

    def __init__(
        self,
        server: Server,
        listen: str,
        *,
        expose: bool = False,
        faults: tuple[int, Mapping[str, float]] | None = None,
    ) -> None:
        self._server = server
        self._faults = faults
        self._connections: set[_Connection] = set()
        self._selector = selectors.DefaultSelector()
        self._listening: socket.socket | None = None
        self._numbers = 0
        self.faults: Counter[str] = Counter()
        """How often each kind of fault was put on lines that are gone."""
        if listen == "pty":
            self.url = self._open_pty()
        else:
            self._listening = _listen(listen, expose)
            host, port = self._listening.getsockname()[:2]
            self.url = f"tcp://{f'[{host}]' if ':' in host else host}:{port}"
            self._selector.register(self._listening, selectors.EVENT_READ)

    def _open_pty(self) -> str:
        import tty

        fd, other = os.openpty()
        tty.setraw(other)
        os.set_blocking(fd, False)
        self._add(_Pty(fd, other))
        return f"serial://{os.ttyname(other)}"

    @property
    def uid(self) -> str:
        """Of the board that is served."""
        return self._server.backend.identity.uid

    @property
    def executed(self) -> int:
        """Requests executed so far, READs not counted."""
        return self._server.executed

    def run(self, stop: Callable[[], bool] = lambda: False) -> None:
        """Serve until `stop` says so, looked at once a second, or for ever."""
        while not stop():
            self.step(IDLE_SECONDS)

    def close(self) -> None:
        """Let all hosts go and stop listening."""
        for connection in list(self._connections):
            self._drop(connection)
        if self._listening is not None:
            self._listening.close()
        self._selector.close()

    def step(self, seconds: float) -> None:
        """What there is to do, waiting for it up to so long."""
        due = self._server.tick(time.monotonic())
        for connection in list(self._connections):
            self._deliver(connection)
        timers = [due or math.inf]
        timers += [line.timer for c in self._connections for line in (c.there, c.back) if line is not None]
        wait = min(max(min(timers) - time.monotonic(), 0.0), seconds)
        for key, _ in self._selector.select(wait):
            if key.fileobj is self._listening:
                self._accept()
            elif key.data in self._connections:
                self._receive(key.data)

    def _accept(self) -> None:
        assert self._listening is not None
        with suppress(OSError):
            line, _ = self._listening.accept()
            line.setblocking(False)
            line.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            line.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)  # a host that vanished is let go some day
            if len(self._connections) >= MOST_LINES:
                others = [c for c in self._connections if not self._server.is_owner(c.line)]
                self._drop(min(others, key=lambda connection: connection.heard))
            self._add(line)

    def _add(self, stream: _Stream) -> None:
        connection = _Connection(stream, time.monotonic())
        if self._faults is not None:
            seed, rates = self._faults
            back = {kind: rate for kind, rate in rates.items() if kind != "kill"}
            connection.there = BadLine(seed + 2 * self._numbers, rates)
            connection.back = BadLine(seed + 2 * self._numbers + 1, back)
            self._numbers += 1
        self._connections.add(connection)
        self._selector.register(stream, selectors.EVENT_READ, connection)

    def _receive(self, connection: _Connection) -> None:
        try:
            data = connection.stream.recv(READ_SIZE)
        except BlockingIOError:
            data = None
        except OSError:
            data = b""
        connection.heard = time.monotonic()
        if data == b"":
            self._drop(connection)
        elif data is not None and connection.there is not None:
            connection.there.push(time.monotonic(), data)
        elif data is not None:
            self._execute(connection, data)
        if connection in self._connections:
            self._deliver(connection)

    def _execute(self, connection: _Connection, data: bytes) -> None:
        reply = self._server.feed(connection.line, time.monotonic(), data)
        self._server.answered(connection.line, time.monotonic())
        if connection.back is not None:
            connection.back.push(time.monotonic(), reply)
        else:
            connection.out += reply

    def _deliver(self, connection: _Connection) -> None:
        now = time.monotonic()
        unasked = bytes(connection.line.out)
        connection.line.out.clear()
        if connection.there is not None and connection.back is not None:
            for piece in connection.there.pop(now):
                self._execute(connection, piece)
            connection.back.push(now, unasked)
            connection.out += b"".join(connection.back.pop(now))
            self._break(connection, connection.there, connection.back)
        else:
            connection.out += unasked
        self._send(connection)

    def _break(self, connection: _Connection, there: BadLine, back: BadLine) -> None:
        if there.killed:
            self._server.restart()
        if there.cut or back.cut or there.killed:
            there.clear()
            back.clear()
            connection.out.clear()
            if isinstance(connection.stream, _Pty):  # a cable that is plugged in again at once
                self._server.hung_up(connection.line)
            else:
                self._drop(connection)

    def _send(self, connection: _Connection) -> None:
        if connection not in self._connections:
            return
        while connection.out:
            try:
                sent = connection.stream.send(bytes(connection.out[:READ_SIZE]))
            except BlockingIOError:
                break
            except OSError:
                self._drop(connection)
                return
            del connection.out[:sent]
        if len(connection.out) > OUT_LIMIT:
            if not isinstance(connection.stream, _Pty):
                self._drop(connection)
                return
            connection.out.clear()  # nobody reads there, but somebody may again
        wanted = selectors.EVENT_READ | (selectors.EVENT_WRITE if connection.out else 0)
        if wanted != connection.wanted:
            connection.wanted = wanted
            self._selector.modify(connection.stream, wanted, connection)

    def _drop(self, connection: _Connection) -> None:
        if connection in self._connections:
            self._connections.discard(connection)
            for line in (connection.there, connection.back):
                self.faults.update({} if line is None else {kind: n for kind, n in line.counts.items() if n})
            self._server.hung_up(connection.line)
            self._selector.unregister(connection.stream)
            connection.stream.close()


def _listen(url: str, expose: bool) -> socket.socket:
    host, port = host_and_port(url.removeprefix("tcp://"))
    if not url.startswith("tcp://") or port is None:
        raise InputError(f"--listen {url!r}: want tcp://127.0.0.1:PORT (port 0 takes a free one) or pty")
    if host not in LOOPBACK and not expose:
        raise InputError(
            f"--listen {url!r}: whoever reaches {host} controls the board; listen on 127.0.0.1, or add --expose-to-network and a token"
        )
    try:
        return socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET)
    except (OSError, UnicodeError) as error:
        raise InputError(f"--listen {url!r}: {getattr(error, 'strerror', None) or error}") from None
