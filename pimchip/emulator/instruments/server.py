"""Twin instruments on TCP, each on a port of 127.0.0.1, as raw SCPI sockets: one line in, one line out."""

from __future__ import annotations

import selectors
import socket
import threading
from collections.abc import Mapping
from typing import Literal, Self

from pimchip.emulator.instruments.scpi import ScpiTwin

LINE_LIMIT = 4096
"""Bytes of one command; a peer that sends more without an end of line is cut off."""

Trouble = Literal["silent", "gone"]


class InstrumentServer:
    """Serves instruments by name until it is closed; resources holds their VISA resource strings.

    troubles: by instrument, for tests of what a bench does then: "silent" hears and does nothing, "gone" hangs up.
    """

    def __init__(self, instruments: Mapping[str, ScpiTwin]) -> None:
        self.instruments = dict(instruments)
        self.troubles: dict[str, Trouble] = {}
        self.resources: dict[str, str] = {}
        self._selector = selectors.DefaultSelector()
        self._listening: list[socket.socket] = []
        self._connections: dict[socket.socket, bytearray] = {}
        for name in self.instruments:
            listener = socket.create_server(("127.0.0.1", 0))
            listener.setblocking(False)
            self._selector.register(listener, selectors.EVENT_READ, name)
            self._listening.append(listener)
            self.resources[name] = f"TCPIP::127.0.0.1::{listener.getsockname()[1]}::SOCKET"
        self._wake, self._woken = socket.socketpair()
        self._selector.register(self._woken, selectors.EVENT_READ, None)
        self._thread = threading.Thread(target=self._run, name="scpi-twin", daemon=True)
        self._thread.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End the thread and close all sockets. Twice is no error."""
        if self._thread.is_alive():
            self._wake.send(b"x")
            self._thread.join()
        for one in (*self._listening, *self._connections, self._wake, self._woken):
            one.close()
        self._connections.clear()
        self._selector.close()

    def _run(self) -> None:
        while True:
            for key, _ in self._selector.select():
                stream = key.fileobj
                assert isinstance(stream, socket.socket)
                if key.data is None:
                    return
                if stream in self._connections:
                    self._receive(stream, key.data)
                else:
                    self._accept(stream, key.data)

    def _accept(self, listener: socket.socket, name: str) -> None:
        try:
            connection, _ = listener.accept()
        except OSError:
            return
        connection.setblocking(True)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._connections[connection] = bytearray()
        self._selector.register(connection, selectors.EVENT_READ, name)

    def _receive(self, connection: socket.socket, name: str) -> None:
        try:
            data = connection.recv(LINE_LIMIT)
            if hasattr(
                socket, "TCP_QUICKACK"
            ):  # pyvisa-py waits for it between a set and the query after it, else 40 ms
                connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 1)
        except OSError:
            data = b""
        held = self._connections[connection]
        held += data
        trouble = self.troubles.get(name)
        if not data or len(held) > LINE_LIMIT or trouble == "gone":
            self._drop(connection)
            return
        while b"\n" in held:
            line, _, rest = bytes(held).partition(b"\n")
            held[:] = rest
            if trouble == "silent":
                continue
            reply = self.instruments[name].handle(line.decode("ascii", "replace").strip())
            if reply is not None:
                try:
                    connection.sendall(reply.encode("ascii") + b"\n")
                except OSError:
                    self._drop(connection)
                    return

    def _drop(self, connection: socket.socket) -> None:
        self._selector.unregister(connection)
        del self._connections[connection]
        connection.close()
