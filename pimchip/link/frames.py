"""Frames: bytes on the line to header and payload, and back. Nothing here waits, and no stream of bytes makes it grow."""

from __future__ import annotations

import re
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

from cobs import cobs

from pimchip.errors import ProtocolError
from pimchip.link.constants import (
    CRC_SIZE,
    HEADER_SIZE,
    MAX_ENCODED,
    MAX_FRAME,
    MAX_PAYLOAD,
    VERSION,
    Flag,
    Kind,
)

KEPT = 256
"""Bytes outside frames that are kept, the last ones."""
BAD = ("oversize", "cobs", "short", "crc", "header")
"""Why bytes before a zero are no frame; SPEC.md, "Receiving", has the order."""
_RUNS = re.compile(rb"[^\0]+|\0+")
_HEADER = struct.Struct("<BBBBHHII")
_CRC = struct.Struct("<I")
_FLAGS = int(Flag.MORE | Flag.REPEAT)


class Frame(NamedTuple):
    """One frame. What a frame of another version means is not known but for op, seq, session and arg."""

    kind: int
    op: int = 0
    seq: int = 0
    session: int = 0
    arg: int = 0
    payload: bytes = b""
    status: int = 0
    flags: int = 0
    version: int = VERSION

    def encode(self) -> bytes:
        """With the zero that ends it. ProtocolError where a field or the payload is out of its range."""
        if len(self.payload) > MAX_PAYLOAD:
            raise ProtocolError(f"a payload of {len(self.payload)} bytes: a frame takes {MAX_PAYLOAD}")
        try:
            head = _HEADER.pack(
                self.version, self.kind, self.op, self.flags, self.seq, self.status, self.session, self.arg
            )
        except struct.error as error:
            raise ProtocolError(f"frame {self}: {error}") from None
        body = head + self.payload
        encoded: bytes = cobs.encode(body + _CRC.pack(zlib.crc32(body)))
        return encoded + b"\0"


@dataclass
class Decoder:
    """Bytes in, frames out. bad: how often bytes were no frame, by reason; kept: the last bytes outside frames."""

    bad: dict[str, int] = field(default_factory=lambda: dict.fromkeys(BAD, 0))
    resyncs: int = 0
    """How often sound frames came again after bytes that were none."""
    kept: bytes = b""
    _part: bytearray = field(default_factory=bytearray)
    _overflowed: bool = False
    _lost: bool = False

    @property
    def bad_frames(self) -> int:
        """Of all reasons."""
        return sum(self.bad.values())

    def feed(self, data: bytes) -> Iterator[Frame]:
        """The frames that `data` completes, also those of other versions. Iterate to the end: the rest is kept then."""
        for run in _RUNS.finditer(data):
            if run[0][0]:
                self._add(run[0])
            elif self._part or self._overflowed:
                frame = self._judge(bytes(self._part))
                self._part.clear()
                self._overflowed = False
                if frame is not None:
                    yield frame

    def forget(self) -> None:
        """The line was cut: what came of a frame will not be finished."""
        if self._part:
            self._keep(bytes(self._part))
        self._part.clear()
        self._overflowed = False

    def _add(self, data: bytes) -> None:
        if self._overflowed:
            self._keep(data)
        else:
            self._part += data
            if len(self._part) > MAX_ENCODED:
                self._keep(bytes(self._part))
                self._part.clear()
                self._overflowed = True

    def _judge(self, chunk: bytes) -> Frame | None:
        found = "oversize" if self._overflowed else parse(chunk)
        if isinstance(found, str):
            self.bad[found] += 1
            self._lost = True
            self._keep(chunk)
            return None
        self.resyncs += self._lost
        self._lost = False
        return found

    def _keep(self, data: bytes) -> None:
        self.kept = (self.kept + data[-KEPT:])[-KEPT:]


def parse(chunk: bytes) -> Frame | str:
    """What the bytes before a zero are: a frame, or the reason why not."""
    try:
        data = cobs.decode(chunk)
    except cobs.DecodeError:
        return "oversize" if _cut(chunk) > MAX_FRAME else "cobs"
    if len(data) > MAX_FRAME:
        return "oversize"
    if len(data) < HEADER_SIZE + CRC_SIZE:
        return "short"
    if zlib.crc32(data[:-CRC_SIZE]) != _CRC.unpack(data[-CRC_SIZE:])[0]:
        return "crc"
    version, kind, op, flags, seq, status, session, arg = _HEADER.unpack(data[:HEADER_SIZE])
    if version == VERSION and (kind > max(Kind) or flags & ~_FLAGS):
        return "header"
    return Frame(kind, op, seq, session, arg, data[HEADER_SIZE:-CRC_SIZE], status, flags, version)


def _cut(chunk: bytes) -> int:
    """Bytes that came out before the end of a chunk that ends within a block."""
    at = out = 0
    while at < len(chunk):
        count = chunk[at]
        out += min(count, len(chunk) - at) - 1 + (count < 0xFF and at + count < len(chunk))
        at += count
    return out
