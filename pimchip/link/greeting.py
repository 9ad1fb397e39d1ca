"""HELLO, and what it is answered with, as the host takes it."""

from __future__ import annotations

import math
from dataclasses import dataclass

from pimchip.errors import LinkError, PimchipError, ProtocolError
from pimchip.link.constants import (
    MAX_ENCODED,
    MAX_PAYLOAD,
    MAX_WINDOW,
    MENDS,
    MIN_WINDOW,
    RTO_FIRST_MS,
    VERSION,
    Kind,
    Op,
    Status,
)
from pimchip.link.frames import Frame
from pimchip.link.messages import HelloReply, HelloRequest, VersionRange
from pimchip.link.texts import readable

ASK_AGAIN = 0.25
"""Seconds until a board that is busy or owned is asked again."""

HELLO_MOST = 0.5
"""Seconds at most until HELLO is sent again: copies of it do nothing, and patience with a bad line is to be for many."""
GREETINGS = 14
"""Times that HELLO is sent on one line."""
PROBES = 3
"""Times that HELLO is sent on a line that may be dead, before it is opened anew."""


@dataclass
class Greeting:
    """HELLO as it is sent now: how often, and when again."""

    number: int = 1
    """HELLO's arg: an answer to an earlier greeting, which was answered, is none to this one."""
    tries: int = 0
    due: float = math.inf
    owned: Frame | None = None
    """What it was answered with last, where another host has the board."""
    probing: bool = False
    """It is to tell whether short frames get through where long ones do not, on a line that was not opened anew."""

    @property
    def most(self) -> int:
        """Times that it is sent on this line."""
        return PROBES if self.probing else GREETINGS

    def frame(self, identity: int, seq: int, token: bytes) -> bytes:
        """HELLO, encoded. identity: the session's; seq: the number before the next request's."""
        payload = HelloRequest(VERSION, VERSION, 0, MAX_PAYLOAD, token).pack()
        return Frame(Kind.REQUEST, Op.HELLO, seq, identity, self.number, payload).encode()

    def sent(self, now: float, srtt: float) -> None:
        """Once more. srtt: seconds that a reply takes."""
        self.due = now + max(min(RTO_FIRST_MS / 1000 * 2**self.tries, HELLO_MOST), srtt)
        self.tries += 1

    def put_off(self, now: float, frame: Frame) -> None:
        """Another host has the board: it is asked again in a while."""
        self.owned, self.due, self.tries = frame, now + ASK_AGAIN, 1

    def answered(self) -> None:
        """The next one is another."""
        self.number = (self.number + 1) & 0xFFFFFFFF


def refused_hello(name: str, frame: Frame, end: str) -> PimchipError:
    """What to raise where a board refuses. name: of the board; end: of the text."""
    text = readable(frame.payload)
    try:
        status = Status(frame.status)
    except ValueError:
        return ProtocolError(f"{name}: unknown status {frame.status:#06x} to HELLO{end}")
    if status is Status.VERSION and len(frame.payload) == VersionRange.size():
        known = VersionRange.unpack(frame.payload)
        text = f"it speaks versions {known.lowest}..{known.highest}, this host {VERSION}"
    elif status is Status.STALE:
        text = "another host took the board meanwhile"
    return LinkError(f"{name} refuses: {text or status.name}; {MENDS[status]}{end}")


def read_hello(payload: bytes) -> HelloReply:
    """The reply to HELLO. ProtocolError where it is none, or says what the rest cannot rely on."""
    hello = HelloReply.unpack(payload)
    wrong = [
        text
        for text, is_wrong in (
            (f"version {hello.version}", hello.version != VERSION),
            (f"a window of {hello.window_frames} frames", not MIN_WINDOW <= hello.window_frames <= MAX_WINDOW),
            (f"a window of {hello.window_bytes} bytes", hello.window_bytes < MAX_ENCODED + 1),
            ("a key of 0", not hello.key),
            (f"payloads of {hello.max_payload} bytes", not 256 <= hello.max_payload <= MAX_PAYLOAD),
        )
        if is_wrong
    ]
    if wrong:
        raise ProtocolError(f"{', '.join(wrong)}: out of range")
    return hello


def changed_hello(name: str, before: HelloReply, hello: HelloReply, end: str) -> PimchipError | None:
    """What is wrong with a greeting by the same boot as the last one; None for nothing."""
    if not hello.resumed:
        return LinkError(f"{name}: another host took the board meanwhile{end}")
    if before.key != hello.key:
        return ProtocolError(f"{name} goes on with a session under another key{end}")
    return None
