"""Requests that were sent and are not answered: how many there may be, and what their replies tell of the line."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field

from pimchip.link.calls import Call
from pimchip.link.constants import MAX_ENCODED, MAX_PAYLOAD, MAX_WINDOW, TRIES, Op
from pimchip.link.messages import HelloReply
from pimchip.link.statistics import RoundTrip

OVERTAKEN = 3
"""Replies to later requests after which an earlier one counts as lost."""
LARGE_PART, LARGE_TRIES = 256, 3
"""Frames with more content than this are sent less often before they are given up: shorter ones cost hardly more time."""
_TOGETHER = (Op.READ, Op.WRITE)
"""May be under way with others of the same op: hosts ask so for nothing whose order matters."""
_OF_A_BATCH = (Op.PROGRAM, Op.VERIFY)
"""The same, but only with those that were asked together: what was given up may be under way still."""


@dataclass
class Flight:
    """Calls under way, by number, in the order in which they were sent first."""

    trip: RoundTrip
    _calls: dict[int, Call] = field(default_factory=dict)
    _sent: int = 0
    _asked: int = 0
    _orders: int = 0
    answered_at: float = -math.inf
    """When the last reply came: only from then on is the device at what is the oldest now."""
    _resent: dict[int, tuple[float, int]] = field(default_factory=dict)
    """Of calls that were sent more than once, by number: how long the reply took, and with how many bytes under way."""

    def __iter__(self) -> Iterator[Call]:
        """A copy: calls may land meanwhile."""
        return iter(list(self._calls.values()))

    def __bool__(self) -> bool:
        return bool(self._calls)

    def get(self, seq: int) -> Call | None:
        """The call of this number."""
        return self._calls.get(seq)

    def has_room(self, call: Call, seq: int, hello: HelloReply) -> bool:
        """May the call be sent now, as number `seq`?"""
        if not self._calls:
            return True
        oldest = next(iter(self._calls.values()))
        if not _together(oldest, call) and call.op is not Op.CLOSE:  # which the device gets to when it can
            return False
        kept_free = call.op in _OF_A_BATCH  # they take long, and CLOSE waits for none of them
        if (seq - oldest.seq) & 0xFFFF >= min(hello.window_frames, MAX_WINDOW) - kept_free:
            return False
        size = len(call.payload) + MAX_ENCODED - MAX_PAYLOAD + 1
        return self._sent + size <= hello.window_bytes and self.trip.holds(self._sent + self._asked + size + call.asked)

    def take_off(self, call: Call, seq: int) -> None:
        """It will be sent for the first time."""
        call.seq = seq
        self._calls[seq] = call
        self._asked += call.asked

    def sent(self, now: float, call: Call, frame: bytes) -> None:
        """It is sent, first or again."""
        self._sent += len(frame) - len(call.frame)
        call.frame = frame
        if call.tries == 0:
            call.first_sent = now
        call.size = self._sent + self._asked
        call.due = now + self.trip.wait(call.size, call.tries)
        call.tries += 1
        call.overtaken = 0
        self._orders += 1
        call.order = self._orders

    def answered(self, now: float, call: Call) -> list[Call]:
        """A reply came: its time is measured. Returns the calls that are lost, as it seems, because later ones are answered."""
        self.answered_at = now
        if call.tries == 1 and not call.budget:
            self.trip.measured(now - call.first_sent, call.size)
        elif not call.budget:
            self._resent[call.seq] = now - call.first_sent, call.size
            if len(self._resent) > MAX_WINDOW:
                del self._resent[next(iter(self._resent))]
        lost = []
        for other in self._calls.values():
            if other is call:
                break
            other.overtaken += other.order < call.order
            if other.overtaken >= OVERTAKEN:
                lost.append(other)
        return lost

    def given_up(self, now: float, call: Call) -> bool:
        """Whether it was sent often enough, and the device had its time."""
        tries = LARGE_TRIES if call.part > LARGE_PART else TRIES
        return call.tries >= tries and now >= max(call.first_sent, self.answered_at) + call.budget

    def answered_again(self, seq: int) -> None:
        """A second reply came: so the first was to what was sent first, and the line is just slow."""
        if seq in self._resent:
            self.trip.measured(*self._resent.pop(seq))

    def land(self, call: Call) -> bool:
        """It is under way no more. False where it was not."""
        if self._calls.get(call.seq) is not call:
            return False
        del self._calls[call.seq]
        self._sent -= len(call.frame)
        self._asked -= call.asked
        return True


def _together(oldest: Call, call: Call) -> bool:
    """May the two be under way at a time, and be executed in any order?"""
    if oldest.op is not call.op:
        return False
    return call.op in _TOGETHER or (call.op in _OF_A_BATCH and call.batch is not None and call.batch is oldest.batch)
