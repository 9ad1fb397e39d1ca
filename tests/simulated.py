"""A whole link under a clock of its own: session, two bad lines and a server, without sockets or waiting."""

from __future__ import annotations

import math
import struct
import zlib
from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

from pimchip.link.calls import Call, State
from pimchip.link.constants import Op, Region, Status
from pimchip.link.exchange import Exchange
from pimchip.link.faults import BadLine
from pimchip.link.frames import Decoder, Frame
from pimchip.link.messages import HelloReply, HelloRequest
from pimchip.link.refusals import Refusal
from pimchip.link.server import Identity, Line, Server, part_of
from pimchip.link.session import Session
from pimchip.link.transfers import Shape

RECONNECT = 0.05
KEY = zlib.crc32(struct.pack("<QI", 1, 9))
"""Of session 9 at boot 1, as SPEC.md proposes it."""
HELLO = HelloRequest(1, 1, 0, 4096, bytes(32)).pack()


def number(n: int) -> bytes:
    """The payload of a FREE."""
    return n.to_bytes(4, "little")


def one_frame(data: bytes) -> Frame:
    """The one frame that bytes are."""
    [found] = Decoder().feed(data)
    return found


@dataclass
class Memory:
    """A Backend that is memory, and counts runs: FREE is one, its payload tells it from others."""

    identity: Identity = field(default_factory=lambda: Identity("die", "chip", bytes(32), "memory"))
    blob: bytes = b"blob"
    held: dict[tuple[Region, int], bytes] = field(default_factory=dict)
    runs: list[bytes] = field(default_factory=list)
    commits: int = 0
    resets: int = 0
    owners: int = 0
    rests: int = 0

    def read(self, region: Region, handle: int, offset: int, length: int) -> bytes:
        if (region, handle) not in self.held:
            raise Refusal(Status.EMPTY)
        return part_of(self.held[region, handle], offset, length)

    def check(self, region: Region, handle: int, length: int, shape: Shape) -> None:
        if length > 1 << 26:
            raise Refusal(Status.FULL)

    def commit(self, region: Region, handle: int, data: bytes, shape: Shape) -> None:
        self.held[region, handle] = data
        self.commits += 1

    def execute(self, op: Op, payload: bytes, arg: int) -> bytes:
        if op is not Op.FREE:
            raise Refusal(Status.LACKS)
        self.runs.append(payload)
        return b""

    def telemetry(self) -> bytes:
        return bytes(24)

    def new_owner(self) -> None:
        self.owners += 1

    def safe(self) -> None:
        self.rests += 1

    def reset(self) -> None:
        self.held.clear()
        self.runs.clear()
        self.resets += 1


class Simulated(Exchange):
    """rates: of faults on the way there, and back. latency: seconds each way. rate: bytes a second of the line there."""

    def __init__(
        self, rates: Mapping[str, float] | None = None, seed: int = 0, *, latency: float = 0.001, server: Server | None = None,
        identity: int = 77, now: float = 100.0, rate: float = math.inf,
    ) -> None:  # fmt: skip
        self.name = "simulated"
        self.now = now
        self.latency = latency
        self.rate = rate
        self.free_at = now
        self.backend = Memory() if server is None else server.backend
        self.server = server or Server(self.backend, boot_id=1)
        self.server.watch = self._executed
        self.executed: Counter[tuple[int, int, int, int]] = Counter()
        self.session = self._session = Session(identity, "simulated")
        self.statistics = self.session.statistics
        back = {kind: rate for kind, rate in (rates or {}).items() if kind != "kill"}
        self.there, self.back = BadLine(2 * seed, rates or {}), BadLine(2 * seed + 1, back)
        self.line = Line()
        self.up_at = now
        self.calls: dict[Call, None] = {}

    def _executed(self, boot: int, frame: Frame) -> None:
        self.executed[boot, frame.session, frame.seq, frame.op] += 1

    @property
    def hello(self) -> HelloReply:
        while self.session.hello is None:
            self.ask(Op.LINK)
        return self.session.hello

    def close(self) -> None:
        self.request(Op.CLOSE)

    def _now(self) -> float:
        return self.now

    def _asked(self, waiting: Collection[Call]) -> None:
        self.calls |= dict.fromkeys(waiting)

    def _wait(self, call: Call) -> None:
        while not call.done:
            self.step()

    def step(self, until: float = math.inf) -> None:
        """What happens next, or nothing until then."""
        if self.session.state is State.DOWN and self.now >= self.up_at:
            self.session.connected(self.now)
        self._send(self.session.output())
        times = [self.session.timer, self.there.timer, self.back.timer, until]
        if self.session.state is State.DOWN:
            times.append(self.up_at)
        self.now = max(self.now, min(times))
        assert self.now < math.inf, "nothing will ever happen"
        for piece in self.there.pop(self.now):
            self.back.push(self.now + self.latency, self.server.feed(self.line, self.now, piece))
        pieces = self.back.pop(self.now)
        if pieces:
            for piece in pieces:
                self.session.received(self.now, piece)
        if self.now >= self.session.timer:
            self.session.tick(self.now)
        if self.there.killed:
            self.server.restart()
        if self.there.cut or self.back.cut or self.there.killed:
            self.cut()

    def _send(self, data: bytes) -> None:
        for frame in data.split(b"\0")[:-1]:
            self.free_at = max(self.free_at, self.now) + (len(frame) + 1) / self.rate
            self.there.push(self.free_at + self.latency, frame + b"\0")

    def cut(self) -> None:
        """The line breaks, and is there again soon."""
        self.there.clear()
        self.back.clear()
        self.server.hung_up(self.line)
        self.line = Line()
        self.session.disconnected(self.now, "cut")
        self.up_at = self.now + RECONNECT
