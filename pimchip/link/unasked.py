"""What a device sends without being asked each time: records of streams, as far as it has credit, and lines of its log."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from pimchip.link.constants import MAX_REPLY, Flag, Kind, Source, Status
from pimchip.link.frames import Frame
from pimchip.link.messages import LogHead, StreamHead, StreamRequest
from pimchip.link.refusals import Refusal

MIN_PERIOD_US = 1000
WARNING = 2
QUIET = 255
"""Log level at which nothing is sent."""


@dataclass
class _Stream:
    period: float
    granted: int
    due: float
    index: int = 0
    dropped: int = 0


@dataclass
class Unasked:
    """Of one device. telemetry: makes a Telemetry message. Times in seconds."""

    telemetry: Callable[[], bytes]
    level: int = WARNING
    _streams: dict[int, _Stream] = field(default_factory=dict)
    _log_seq: int = 0
    _started: float | None = None

    def start(self, now: float) -> None:
        """Device time counts from the first call."""
        if self._started is None:
            self._started = now

    def stop(self) -> None:
        """The session has ended: no more records."""
        self._streams.clear()

    def restarted(self) -> None:
        """As a loss of power does it."""
        self.stop()
        self.level, self._log_seq = WARNING, 0

    def set_stream(self, now: float, asked: StreamRequest, source: int) -> None:
        """STREAM: Refusal where there is no such source or period."""
        if source not in tuple(Source) or 0 < asked.period_us < MIN_PERIOD_US:
            raise Refusal(Status.ARGUMENT)
        self._streams.pop(source, None)
        if asked.period_us:
            period = asked.period_us / 1e6
            self._streams[source] = _Stream(period, asked.granted, now + period)

    def credit(self, source: int, granted: int) -> None:
        """The host takes so many records in all."""
        stream = self._streams.get(source)
        if stream is not None:
            stream.granted = max(stream.granted, granted)

    def tick(self, now: float, key: int, out: bytearray | None) -> float | None:
        """Puts records that are due into `out`; without one they are dropped. Returns when to come again, None for never."""
        for source, stream in self._streams.items():
            while stream.due <= now:
                self._record(now, key, out, Source(source), stream)
                stream.due += stream.period
                if stream.due < now - 1.0:  # far behind, as after a long op: leave records out, and say so
                    late = int((now - stream.due) / stream.period)
                    stream.due += late * stream.period
                    stream.dropped += late
        return min((stream.due for stream in self._streams.values()), default=None)

    def log(self, now: float, key: int, out: bytearray, level: int, text: str) -> None:
        """Puts a line for people into `out`, if its level is sent."""
        if self.level == QUIET or level < self.level:
            return
        data = text.encode()
        room = MAX_REPLY - LogHead.size()
        for start in range(0, max(len(data), 1), room):
            head = LogHead(self._time_us(now), 0, level, bytes(3)).pack()
            more = Flag.MORE if start + room < len(data) else 0
            out += Frame(Kind.LOG, 0, self._log_seq, key, 0, head + data[start : start + room], flags=more).encode()
            self._log_seq = (self._log_seq + 1) & 0xFFFF

    def _record(self, now: float, key: int, out: bytearray | None, source: Source, stream: _Stream) -> None:
        if stream.index >= stream.granted or out is None:
            stream.dropped += 1
            return
        pattern = bytes((stream.index + place) & 0xFF for place in range(64))
        data = self.telemetry() if source is Source.TELEMETRY else pattern
        head = StreamHead(stream.index, stream.dropped, self._time_us(now)).pack()
        out += Frame(Kind.STREAM, 0, 0, key, source, head + data).encode()
        stream.index += 1

    def _time_us(self, now: float) -> int:
        return int((now - (self._started or 0.0)) * 1e6)
