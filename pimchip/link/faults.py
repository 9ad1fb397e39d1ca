"""A bad line, the same one for the same seed: what goes in comes out late, twice, damaged or never. For tests of either end.

Faults are drawn for each frame, that is for bytes up to a zero, but `flip` and `lose`, which are drawn for each byte.
"""

from __future__ import annotations

import heapq
import math
import random
from collections.abc import Mapping
from dataclasses import dataclass, field

from pimchip.errors import InputError, unknown
from pimchip.link.constants import MAX_ENCODED

KINDS = {
    "flip": "a bit of a byte is flipped",
    "lose": "a byte is lost",
    "drop": "a frame is lost",
    "duplicate": "a frame comes twice",
    "split": "a frame comes byte by byte",
    "delay": "a frame and what follows it come up to 50 ms late",
    "reorder": "a frame comes after the next one, or 20 ms late",
    "stall": "nothing comes for half a second",
    "disconnect": "the line is cut",
    "kill": "the device restarts",
}
DELAY, REORDER, STALL = 0.05, 0.02, 0.5


def parse_faults(text: str) -> tuple[int, dict[str, float]]:
    """SEED:KIND=RATE,... as seed and rates. InputError names the part that is wrong."""
    head, _, rest = text.partition(":")
    if not (head.isascii() and head.isdigit() and len(head) < 20) or not rest:
        raise InputError(f"faults {text!r}: want SEED:KIND=RATE,KIND=RATE, for example 7:drop=0.001,flip=0.0001")
    rates: dict[str, float] = {}
    for part in rest.split(","):
        kind, _, rate = part.partition("=")
        if kind not in KINDS:
            raise InputError(f"faults {text!r}: {unknown('kind of fault', kind, KINDS)}")
        try:
            rates[kind] = float(rate)
        except ValueError:
            rates[kind] = math.nan
        if not 0 <= rates[kind] <= 1:
            raise InputError(f"faults {text!r}: {kind} = {rate!r} is no rate from 0 to 1")
    return int(head), rates


@dataclass
class BadLine:
    """One direction. rates: chance of a fault by kind. cut, killed: set when the line or the device is to be, by whoever
    runs the line, who also calls `clear` then."""

    seed: int
    rates: Mapping[str, float]
    cut: bool = False
    killed: bool = False
    counts: dict[str, int] = field(default_factory=lambda: dict.fromkeys(KINDS, 0))
    _draw: random.Random = field(init=False)
    _part: bytearray = field(default_factory=bytearray)
    _held: bytes = b""
    _under_way: list[tuple[float, int, bytes]] = field(default_factory=list)
    _number: int = 0
    _quiet_until: float = 0.0

    def __post_init__(self) -> None:
        unknown_kinds = self.rates.keys() - KINDS.keys()
        if unknown_kinds:
            raise InputError(unknown("kind of fault", min(unknown_kinds), KINDS))
        self._draw = random.Random(self.seed)

    def push(self, now: float, data: bytes) -> None:
        """Bytes enter at a time in seconds."""
        start = 0
        while (end := data.find(b"\0", start)) >= 0:
            self._part += data[start : end + 1]
            self._frame(now, bytes(self._part))
            self._part.clear()
            start = end + 1
        self._part += data[start:]
        if len(self._part) > MAX_ENCODED:  # no frame: nothing waits for its end
            self._frame(now, bytes(self._part))
            self._part.clear()

    def pop(self, now: float) -> list[bytes]:
        """What comes out by now, each piece to be handed on by itself."""
        out = []
        while self._under_way and self._under_way[0][0] <= now:
            out.append(heapq.heappop(self._under_way)[2])
        return out

    @property
    def timer(self) -> float:
        """When something comes out next, seconds; infinity for never."""
        return self._under_way[0][0] if self._under_way else math.inf

    def clear(self) -> None:
        """The line was cut: what is under way is lost."""
        self._part.clear()
        self._under_way.clear()
        self._held, self.cut, self.killed = b"", False, False

    def _happens(self, kind: str) -> bool:
        rate = self.rates.get(kind, 0.0)
        found = rate > 0 and self._draw.random() < rate
        self.counts[kind] += found
        return found

    def _frame(self, now: float, frame: bytes) -> None:
        self.cut |= self._happens("disconnect")
        self.killed |= self._happens("kill")
        if self._happens("stall"):
            self._quiet_until = max(self._quiet_until, now) + STALL
        if self._happens("delay"):
            self._quiet_until = max(self._quiet_until, now + DELAY * self._draw.random())
        if self._happens("drop"):
            return
        frame = self._damaged(frame)
        pieces = [frame[i : i + 1] for i in range(len(frame))] if self._happens("split") else [frame]
        if self._happens("reorder") and not self._held:
            self._held = frame
            self._send(now + REORDER, [frame])
            return
        copies = 2 if self._happens("duplicate") else 1
        for _ in range(copies):
            self._send(now, pieces)
        if self._held:
            self._under_way = [item for item in self._under_way if item[2] is not self._held]
            heapq.heapify(self._under_way)
            self._send(now, [self._held])
            self._held = b""

    def _damaged(self, frame: bytes) -> bytes:
        for kind in ("flip", "lose"):
            rate = self.rates.get(kind, 0.0)
            place = self._gap(rate)
            while place < len(frame):
                self.counts[kind] += 1
                changed = bytes([frame[place] ^ 1 << self._draw.randrange(8)]) if kind == "flip" else b""
                frame = frame[:place] + changed + frame[place + 1 :]
                place += 1 + self._gap(rate)
        return frame

    def _gap(self, rate: float) -> int:
        """Sound bytes before the next damaged one."""
        if rate <= 0:
            return 1 << 62
        return int(math.log(1 - self._draw.random()) / math.log1p(-rate)) if rate < 1 else 0

    def _send(self, now: float, pieces: list[bytes]) -> None:
        for piece in pieces:
            self._number += 1
            heapq.heappush(self._under_way, (max(now, self._quiet_until), self._number, piece))
