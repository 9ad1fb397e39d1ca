"""A device in this process at the other end of a line that loses nothing: frames and all, but no socket."""

from __future__ import annotations

import threading
import time

from pimchip.link.server import Line, Server


class InProcessTransport:
    """A line to a Server. What is written is executed at once, by who writes."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self._line: Line | None = None
        self._came = threading.Condition()
        self._data = bytearray()
        self._serving = threading.Lock()

    def open(self) -> None:
        self._line = Line()
        self._data.clear()

    def read(self, seconds: float) -> bytes:
        self._tick()
        with self._came:
            if not self._data:
                self._came.wait(seconds)
            if self._line is None:
                raise OSError("not connected")
            data = bytes(self._data)
            self._data.clear()
        return data

    def write(self, data: bytes) -> None:
        with self._serving:
            line = self._line
            if line is None:
                raise OSError("not connected")
            out = self._server.feed(line, time.monotonic(), data) + bytes(line.out)
            self._server.answered(line, time.monotonic())
            line.out.clear()
        self._give(out)

    def close(self) -> None:
        line, self._line = self._line, None
        if line is not None:
            self._server.hung_up(line)
        with self._came:
            self._came.notify_all()

    def _tick(self) -> None:
        if self._serving.acquire(blocking=False):
            try:
                line = self._line
                self._server.tick(time.monotonic())
                out = b"" if line is None else bytes(line.out)
                if line is not None:
                    line.out.clear()
            finally:
                self._serving.release()
            self._give(out)

    def _give(self, data: bytes) -> None:
        with self._came:
            self._data += data
            if data:
                self._came.notify_all()
