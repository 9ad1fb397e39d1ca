"""A session and a device with a paced line between them, under a clock of its own: nothing waits, and times are exact."""

from __future__ import annotations

import heapq
import math
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, field

from pimchip.link.calls import Call
from pimchip.link.constants import Op
from pimchip.link.exchange import Exchange
from pimchip.link.server import Line, Server
from pimchip.link.session import Session

BITS = 10
"""Of a byte on a serial line: 8N1."""
START = 1000.0
"""What the clock says first, seconds."""
Tap = Callable[[str, bytes], None]
"""Told of bytes as they enter the line: ">" to the device, "<" from it."""


@dataclass
class _Way:
    """One direction: bytes follow each other at the line's rate, and each arrives `latency` later."""

    seconds_per_byte: float
    latency: float
    free: float = 0.0
    carried: int = 0
    under_way: list[tuple[float, int, bytes]] = field(default_factory=list)

    def push(self, now: float, data: bytes) -> None:
        for frame in data.split(b"\0")[:-1]:
            self.free = max(self.free, now) + (len(frame) + 1) * self.seconds_per_byte
            self.carried += len(frame) + 1
            heapq.heappush(self.under_way, (self.free + self.latency, self.carried, frame + b"\0"))

    def pop(self, now: float) -> Iterator[bytes]:
        while self.under_way and self.under_way[0][0] <= now:
            yield heapq.heappop(self.under_way)[2]

    @property
    def timer(self) -> float:
        return self.under_way[0][0] if self.under_way else math.inf


class PacedLine(Exchange):
    """An open link to a server that answers at once. baud: of the line, 8N1; infinity for one that takes no time.

    latency: seconds each way, beside that. now: the clock, seconds.
    """

    def __init__(
        self, server: Server, baud: float, latency: float, *, identity: int = 1, token: bytes = bytes(32), tap: Tap | None = None
    ) -> None:  # fmt: skip
        self.name = "the paced line"
        self.now = START
        self.held_bytes = 0
        """Most bytes that the session had in hand at a time: requests unanswered, and waiting to be sent."""
        self._server, self._line, self._tap = server, Line(), tap
        self._session = Session(identity, self.name, token)
        self.statistics = self._session.statistics
        self._there, self._back = (_Way(BITS / baud, latency) for _ in range(2))
        self._session.connected(self.now)
        self.request(Op.LINK)

    def close(self) -> None:
        """End the session."""
        self.request(Op.CLOSE)

    def _now(self) -> float:
        return self.now

    def _asked(self, waiting: Collection[Call]) -> None:
        self.held_bytes = max(self.held_bytes, sum(len(call.payload) + len(call.frame) for call in waiting))

    def _wait(self, call: Call) -> None:
        while not call.done:
            self._step()

    def _step(self) -> None:
        """What happens next."""
        self._enter(">", self._there, self._session.output())
        self.now = max(self.now, min(self._there.timer, self._back.timer, self._session.timer))
        for frame in self._there.pop(self.now):
            self._enter("<", self._back, self._server.feed(self._line, self.now, frame))
        for frame in self._back.pop(self.now):
            self._session.received(self.now, frame)
        if self.now >= self._session.timer:
            self._session.tick(self.now)

    def _enter(self, direction: str, way: _Way, data: bytes) -> None:
        if data and self._tap is not None:
            self._tap(direction, data)
        way.push(self.now, data)
