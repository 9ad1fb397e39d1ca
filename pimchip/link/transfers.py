"""Regions of a device's memory, written and read whole: in chunks, resumed where they were cut, checked by CRC."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from pimchip.errors import InputError, LongFrameError, ProtocolError, TransferError
from pimchip.link.constants import MAX_CHUNKS, Op, Region, Status
from pimchip.link.messages import BeginReply, BeginRequest, ReadRequest
from pimchip.link.refusals import refused
from pimchip.link.requests import Requests

ATTEMPTS = 3
"""Times a transfer is begun before it fails: a device may lose it, or find its CRC wrong."""
PARTS = (1024, 256, 64)
"""Bytes a frame on lines that lose longer ones, as far down as it takes: the last is the smallest chunk there is."""
STEP = 64
STUCK = 3
"""Times in a row that the shortest frames which a transfer can have get nothing through, after which it fails."""
_AGAIN = (Status.NO_TRANSFER, Status.INCOMPLETE, Status.TRANSFER_CRC)
Shape = tuple[int, int, int, int]
Told = Callable[[int], None]


def nothing_told(size: int) -> None:
    """Of progress that nobody watches."""


def write_region(
    link: Requests,
    region: Region,
    handle: int,
    data: bytes | memoryview,
    shape: Shape = (0, 0, 0, 0),
    told: Told = nothing_told,
) -> int:
    """Fill a region and make it live. Returns how many chunks were sent: fewer than all where the device had some. told: of
    how many bytes of this attempt are there.

    Raises LinkError where the link or the transfer fails, ProtocolError for replies that cannot be, and what the device's
    refusal means; InputError for more bytes than a transfer takes.
    """
    transfer = _Transfer(link, region, handle, memoryview(data), shape, told)
    stuck = 0
    while True:
        chunk, had = _chunk(link, len(data)), transfer.arrived
        try:
            return transfer.attempt(chunk)
        except LongFrameError:
            if _shorten(link, chunk) and _chunk(link, len(data)) < chunk:
                transfer.arrived = 0
                continue
            stuck = 0 if transfer.arrived > had else stuck + 1  # what did arrive is there: only the rest is sent again
            if stuck >= STUCK:
                raise


@dataclass
class _Transfer:
    """What is to be written, and how far that got."""

    link: Requests
    region: Region
    handle: int
    view: memoryview
    shape: Shape
    told: Told
    sent: int = 0
    """Chunks, those that got lost included."""
    arrived: int = 0
    """The most of them that the device was found to have when a transfer in chunks of this size was begun."""

    def attempt(self, chunk: int) -> int:
        """All of it in such chunks, as far as the device lacks them. Returns how many were sent."""
        link, view = self.link, self.view
        chunks = -(-len(view) // chunk)
        begin = BeginRequest(self.region, self.handle, len(view), chunk, zlib.crc32(view), self.shape).pack()
        status, text = Status.OK, b""
        for _ in range(ATTEMPTS):
            reply = BeginReply.unpack(link.request(Op.BEGIN, begin))
            if reply.chunks != chunks or reply.received > chunks:
                raise ProtocolError(
                    f"{link.name}: BEGIN of {chunks} chunks is answered with {reply.received} of {reply.chunks}"
                )
            self.arrived = max(self.arrived, reply.received)
            missing = range(chunks) if reply.received == 0 else _missing(link, chunks)
            status, text = self._send(chunk, missing)
            if status is Status.OK:
                status, text = link.ask(Op.COMMIT)
            if status is Status.OK:
                return self.sent
            if status not in _AGAIN:
                raise refused(link.name, Op.COMMIT, status, text, link.statistics)
        raise TransferError(
            f"{link.name}: a transfer to {self.region.name} failed {ATTEMPTS} times: {status.name}"
            f" (link: {link.statistics})"
        )

    def _send(self, chunk: int, missing: range | list[int]) -> tuple[Status, bytes]:
        """WRITE chunks. Returns the first refusal, after which the rest goes out all the same."""
        view = self.view

        def items() -> Iterator[tuple[bytes, int]]:
            for number in missing:
                self.sent += 1
                yield bytes(view[number * chunk : (number + 1) * chunk]), number * chunk

        worst: tuple[Status, bytes] = Status.OK, b""
        there = len(view) - len(missing) * chunk
        for status, text in self.link.ask_many(Op.WRITE, items()):
            there += chunk
            self.told(max(there, 0))
            if worst[0] is Status.OK:
                worst = status, text
        return worst


def _chunk(link: Requests, size: int) -> int:
    """Bytes a chunk; InputError for more than MAX_CHUNKS of them."""
    largest = link.hello.max_payload
    if not 1 <= size <= MAX_CHUNKS * largest:
        raise InputError(f"a transfer of {size} bytes: want 1 to {MAX_CHUNKS * largest}; use a smaller batch")
    fewest = -(-size // MAX_CHUNKS)
    return min(max(link.largest_part, -(-fewest // STEP) * STEP), largest)


def _shorten(link: Requests, part: int) -> bool:
    """Frames of such parts do not get through: shorter ones are used from now on. False where there are none."""
    shorter = [size for size in PARTS if size < min(part, link.largest_part)]
    if not shorter:
        return False
    link.largest_part = shorter[0]
    return True


def _missing(link: Requests, chunks: int) -> list[int]:
    """Chunks that the transfer under way lacks; all where it is gone meanwhile."""
    size = (chunks + 7) // 8
    bitmap = bytearray()
    for status, part in link.ask_many(Op.READ, _parts(link, Region.BITMAP, 0, 0, size)):
        if status is not Status.OK:
            return list(range(chunks))
        bitmap += part
    if len(bitmap) != size:
        return list(range(chunks))
    return [number for number in range(chunks) if not bitmap[number >> 3] >> (number & 7) & 1]


def _parts(link: Requests, region: Region, handle: int, start: int, length: int) -> Iterator[tuple[bytes, int]]:
    """READs of a region's bytes from `start` on, up to `length`."""
    part = min(link.hello.max_payload, link.largest_part)
    for offset in range(start, length, part):
        yield ReadRequest(region, handle, min(part, length - offset)).pack(), offset


def read_region(link: Requests, region: Region, handle: int, length: int) -> bytes:
    """The first `length` bytes of a region. Raises as write_region."""
    out = bytearray()
    while True:
        try:
            _read(link, region, handle, length, out)
            return bytes(out)
        except LongFrameError:
            if not _shorten(link, link.largest_part):
                raise


def _read(link: Requests, region: Region, handle: int, length: int, out: bytearray) -> None:
    """Adds to `out` what it lacks, as far as it comes."""
    part = min(link.hello.max_payload, link.largest_part)
    for status, data in link.ask_many(Op.READ, _parts(link, region, handle, len(out), length)):
        if status is not Status.OK:
            raise refused(link.name, Op.READ, status, data, link.statistics)
        wanted = min(part, length - len(out))
        if len(data) != wanted:
            raise ProtocolError(f"{link.name}: READ of {wanted} bytes of {region.name} is answered with {len(data)}")
        out += data
