"""A device's memory of what it answered: requests that come again get the same reply, and nothing is executed twice."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

SEEN = 0x8000
"""Numbers less than this far behind the newest were seen, or passed over."""


class Kept(NamedTuple):
    """The reply to one request."""

    seq: int
    op: int
    status: int
    payload: bytes


@dataclass
class Replies:
    """Of one session. window: numbers that a host may be waiting for."""

    window: int
    newest: int = 0
    _kept: dict[int, Kept] = field(default_factory=dict)

    def begin(self, newest: int) -> None:
        """A session begins with the number after this one."""
        self.newest = newest
        self._kept.clear()

    def behind(self, seq: int) -> int:
        """How far a number is behind the newest; SEEN and more are ahead of it."""
        return (self.newest - seq) & 0xFFFF

    def find(self, seq: int, op: int) -> Kept | None:
        """What a request that was seen was answered with; None where it was not answered yet."""
        kept = self._kept.get(seq % self.window)
        return kept if kept is not None and (kept.seq, kept.op) == (seq, op) else None

    def advance(self, seq: int) -> None:
        """A number ahead of the newest came: it is the newest. What is kept under those passed is of 2^16 numbers ago."""
        for number in range(min((seq - self.newest) & 0xFFFF, self.window)):
            self._kept.pop((seq - number) % self.window, None)
        self.newest = seq

    def keep(self, seq: int, op: int, status: int, payload: bytes) -> None:
        """A request was executed."""
        self._kept[seq % self.window] = Kept(seq, op, status, payload)
