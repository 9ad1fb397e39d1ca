"""Records and log lines that a device sends unasked: bounded in number, and no gap goes unsaid."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

from pimchip.errors import PimchipError, ProtocolError
from pimchip.link.constants import Flag, Kind
from pimchip.link.frames import Frame
from pimchip.link.messages import Credit, LogHead, StreamHead
from pimchip.link.texts import readable

WINDOW = 64
"""Records that a device may have sent before any was taken."""
SILENCE = 4
"""Periods without a record after which credit is given anew: all that was under way may be lost."""
LOG_LINES = 1000
LOG_TEXT = 8192
"""Bytes of one line, over all its frames."""


class Record(NamedTuple):
    """One record. lost: records just before it that the line lost; dropped: that the device could not send, for want of
    credit, since the record before."""

    number: int
    time_us: int
    data: bytes
    lost: int = 0
    dropped: int = 0

    @property
    def gap(self) -> int:
        """Records missing just before this one."""
        return self.lost + self.dropped


@dataclass
class Stream:
    """The host's end of one stream. granted: records that the device may send since the start, in all."""

    source: int
    period: float
    window: int = WINDOW
    granted: int = 0
    lost: int = 0
    dropped: int = 0
    over: int = 0
    """Records beyond what was granted: not taken in, told as lost."""
    ended: PimchipError | None = None
    """Why there will be no more records; None while there may be."""
    quiet_at: float = 0.0
    """When to give credit anew, and to ask whether the device is there, if nothing comes, seconds."""
    _next: int = 0
    _records: deque[Record] = field(default_factory=deque)

    def add(self, now: float, payload: bytes) -> None:
        """A STREAM frame came. ProtocolError where it is none."""
        if len(payload) < StreamHead.size():
            raise ProtocolError(f"a stream record of {len(payload)} bytes: want at least {StreamHead.size()}")
        head = StreamHead.unpack(payload[: StreamHead.size()])
        lost = (head.index - self._next) & 0xFFFFFFFF
        if lost >= 1 << 31:
            return  # came twice, or late: it was counted as lost when a later one came
        if len(self._records) >= 2 * self.window or head.index > self.granted + self.window:
            self.over += 1
            return
        dropped = (head.dropped - self.dropped) & 0xFFFFFFFF
        self._records.append(Record(head.index, head.time_us, payload[StreamHead.size() :], lost, dropped))
        self.lost += lost
        self.dropped = head.dropped
        self._next = (head.index + 1) & 0xFFFFFFFF
        self.rest(now)

    def take(self) -> list[Record]:
        """The records that came, oldest first."""
        taken = list(self._records)
        self._records.clear()
        return taken

    def rest(self, now: float) -> None:
        """Wait for a record from now on."""
        self.quiet_at = now + max(SILENCE * self.period, 0.5)

    def credit(self, now: float) -> int | None:
        """What to grant now, None for nothing new."""
        room = self.window - len(self._records)
        wanted = self._next + room
        if now >= self.quiet_at:
            if not self._records:
                wanted = self.granted + self.window
            self.rest(now)
        if wanted - self.granted < self.window // 2:
            return None
        self.granted = wanted
        return wanted


class Streams:
    """The streams that a host has open, by source."""

    def __init__(self) -> None:
        self._open: dict[int, Stream] = {}

    def __bool__(self) -> bool:
        return bool(self._open)

    def open(self, now: float, stream: Stream) -> None:
        """Take its records from now on."""
        stream.rest(now)
        self._open[stream.source] = stream

    def close(self, stream: Stream) -> None:
        """Its records are wanted no more."""
        if self._open.get(stream.source) is stream:
            del self._open[stream.source]

    def end(self, error: PimchipError) -> None:
        """None of them has more records to come, for this reason."""
        for stream in self._open.values():
            stream.ended = error
        self._open.clear()

    def add(self, now: float, frame: Frame) -> bool:
        """A STREAM frame came: whether it is of one of them. ProtocolError where it is no record."""
        stream = self._open.get(frame.arg)
        if stream is None:
            return False
        stream.add(now, frame.payload)
        return True

    def credit(self, now: float, key: int) -> Iterator[Frame]:
        """What to grant now. key: the session's."""
        for source, stream in self._open.items():
            granted = stream.credit(now)
            if granted is not None:
                yield Frame(Kind.CREDIT, 0, 0, key, source, Credit(granted & 0xFFFFFFFF).pack())

    @property
    def quiet_at(self) -> float:
        """When the first of them will have been silent for too long; infinity where there is none."""
        return min((stream.quiet_at for stream in self._open.values()), default=math.inf)


class LogLine(NamedTuple):
    """A device's log line. level: 0 debug, 1 information, 2 warning, 3 error; lost: lines missing just before it."""

    time_us: int
    level: int
    text: str
    lost: int = 0


@dataclass
class Log:
    """A device's log lines as they come, the last LOG_LINES of them."""

    lines: deque[LogLine] = field(default_factory=lambda: deque(maxlen=LOG_LINES))
    _seq: int | None = None
    _dropped: int = 0
    _text: bytes = b""
    _lost: int = 0

    def add(self, frame: Frame) -> int:
        """A LOG frame came. Returns how many frames are missing before it. ProtocolError where it is none."""
        size = LogHead.size()
        if len(frame.payload) < size:
            raise ProtocolError(f"a log frame of {len(frame.payload)} bytes: want at least {size}")
        head = LogHead.unpack(frame.payload[:size])
        missing = 0 if self._seq is None else (frame.seq - self._seq - 1) & 0xFFFF
        if missing >= 0x8000:
            return 0  # came twice
        missing += (head.dropped - self._dropped) & 0xFFFF if head.dropped > self._dropped else 0
        self._seq, self._dropped = frame.seq, head.dropped
        self._lost += missing
        self._text = (self._text + frame.payload[size:])[:LOG_TEXT]
        if not frame.flags & Flag.MORE:
            self.lines.append(LogLine(head.time_us, head.level, readable(self._text), self._lost))
            self._text, self._lost = b"", 0
        return missing

    def restarted(self) -> None:
        """The device counts from 0 again."""
        self._seq, self._dropped, self._text = None, 0, b""
