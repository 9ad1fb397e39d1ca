"""What a session is doing, and the requests that it has to do."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from pimchip.errors import PimchipError
from pimchip.link.constants import MAX_REPLY, RULES, Op, Status
from pimchip.link.frames import Frame

SMALLEST_PART = 64
"""Bytes of content that every line must carry in a frame: the smallest chunk of a transfer."""


class State(Enum):
    """DOWN: no line; GREETING: HELLO was sent; OPEN: requests go out; ENDED: for good."""

    DOWN = "down"
    GREETING = "greeting"
    OPEN = "open"
    ENDED = "ended"


@dataclass(eq=False)
class Call:
    """One request and what came of it. Times in seconds."""

    op: Op
    payload: bytes
    arg: int
    budget: float
    deadline: float
    seq: int = 0
    frame: bytes = b""
    tries: int = 0
    first_sent: float = 0.0
    due: float = 0.0
    size: int = 0
    """Bytes under way when it was sent last, those that it asks for included."""
    batch: object = None
    """What it was asked with, where the order of all of that does not matter."""
    order: int = 0
    overtaken: int = 0
    not_before: float = 0.0
    refused: int = 0
    """Times that the device was too busy for it."""
    done: bool = False
    status: Status = Status.OK
    reply: bytes = b""
    error: PimchipError | None = None

    @property
    def part(self) -> int:
        """Bytes of content that its longest frame carries: what can be asked for in shorter parts, 0 where none is moved."""
        return max(len(self.payload), self.asked) if self.op in (Op.READ, Op.WRITE) else 0

    @property
    def is_long(self) -> bool:
        """Whether the same could be had in shorter frames."""
        return self.part > SMALLEST_PART

    @property
    def asked(self) -> int:
        """Bytes that the reply is to have, where they count."""
        return int.from_bytes(self.payload[8:12], "little") if self.op is Op.READ else 0

    def fail(self, error: PimchipError) -> None:
        """It ends so."""
        self.error, self.done = error, True

    def take(self, frame: Frame) -> str:
        """The reply is this frame, unless its status or size cannot be: returns what is wrong with it, "" for nothing."""
        try:
            self.status = Status(frame.status)
        except ValueError:
            return f"unknown status {frame.status:#06x}"
        wanted, size = RULES[self.op].reply, len(frame.payload)
        if self.status is Status.OK and (wanted not in (-1, size) or (self.op != Op.READ and size > MAX_REPLY)):
            return f"a reply of {size} bytes, want {wanted if wanted >= 0 else f'up to {MAX_REPLY}'}"
        self.reply, self.done = frame.payload, True
        return ""
