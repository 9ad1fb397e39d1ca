"""A board's side of a transfer to it: chunks in any order, and nothing of it counts before all of it is right."""

from __future__ import annotations

import zlib
from collections.abc import Callable
from dataclasses import dataclass

from pimchip.link.constants import MAX_CHUNKS, WRITABLE, Region, Status
from pimchip.link.messages import BeginReply, BeginRequest
from pimchip.link.refusals import Refusal
from pimchip.link.transfers import Shape

MIN_CHUNK = 64

Check = Callable[[Region, int, int, Shape], None]
"""(region, handle, length, shape): raises where a board cannot take it."""


@dataclass
class _UnderWay:
    asked: BeginRequest
    data: bytearray
    bitmap: bytearray
    received: int = 0

    @property
    def chunks(self) -> int:
        return -(-self.asked.length // self.asked.chunk)


class Incoming:
    """The one transfer that may be under way. Every method raises Refusal for what SPEC.md refuses."""

    def __init__(self) -> None:
        self._now: _UnderWay | None = None

    @property
    def _under_way(self) -> _UnderWay:
        if self._now is None:
            raise Refusal(Status.NO_TRANSFER)
        return self._now

    @property
    def bitmap(self) -> bytes:
        """A bit for each chunk that is there."""
        return bytes(self._under_way.bitmap)

    def forget(self) -> None:
        """As a loss of power does it."""
        self._now = None

    def begin(self, asked: BeginRequest, max_payload: int, check: Check) -> bytes:
        """Start, or go on with what was begun with the same words. check: the board's own."""
        if self._now is None or self._now.asked != asked:
            if asked.region not in WRITABLE:
                raise Refusal(Status.REGION)
            if asked.length < 1 or not MIN_CHUNK <= asked.chunk <= max_payload:
                raise Refusal(Status.ARGUMENT)
            chunks = -(-asked.length // asked.chunk)
            if chunks > MAX_CHUNKS:
                raise Refusal(Status.ARGUMENT)
            check(Region(asked.region), asked.handle, asked.length, shape_of(asked))
            self._now = _UnderWay(asked, bytearray(asked.length), bytearray((chunks + 7) // 8))
        return BeginReply(self._now.chunks, self._now.received).pack()

    def write(self, data: bytes, offset: int) -> None:
        """Take a chunk."""
        held = self._under_way
        asked = held.asked
        if offset % asked.chunk or offset >= asked.length:
            raise Refusal(Status.ARGUMENT)
        if len(data) != min(asked.chunk, asked.length - offset):
            raise Refusal(Status.BAD_LENGTH)
        held.data[offset : offset + len(data)] = data
        number = offset // asked.chunk
        bit = 1 << (number & 7)
        held.received += not held.bitmap[number >> 3] & bit
        held.bitmap[number >> 3] |= bit

    def finish(self) -> tuple[BeginRequest, bytes]:
        """What was begun and all its bytes. The transfer is over, also where its CRC differs."""
        held = self._under_way
        if held.received != held.chunks:
            raise Refusal(Status.INCOMPLETE)
        self._now = None
        if zlib.crc32(held.data) != held.asked.crc:
            raise Refusal(Status.TRANSFER_CRC)
        return held.asked, bytes(held.data)


def shape_of(asked: BeginRequest) -> Shape:
    """What a BEGIN says of the form of its bytes."""
    return asked.shape[0], asked.shape[1], asked.shape[2], asked.shape[3]
