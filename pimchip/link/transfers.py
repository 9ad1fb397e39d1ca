"""Regions of a device's memory, written and read whole: in chunks, resumed where they were cut, checked by CRC."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator

from pimchip.errors import InputError, LinkError, ProtocolError, RestartedError, TransferError
from pimchip.link.constants import MAX_CHUNKS, Op, Region, Status
from pimchip.link.messages import BeginReply, BeginRequest, ReadRequest
from pimchip.link.refusals import refused
from pimchip.link.requests import Requests

ATTEMPTS = 3
"""Times a transfer is begun before it fails: a device may lose it, or find its CRC wrong."""
SMALL_PART = 256
"""Bytes a frame on a line that damages nearly every long one."""
STEP = 64
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
    view = memoryview(data)
    while True:
        chunk = _chunk(link, len(view))
        try:
            return _write(link, region, handle, view, shape, chunk, told)
        except RestartedError:
            raise
        except LinkError:
            if not _smaller(link, chunk):
                raise


def _write(link: Requests, region: Region, handle: int, view: memoryview, shape: Shape, chunk: int, told: Told) -> int:
    chunks = -(-len(view) // chunk)
    begin = BeginRequest(region, handle, len(view), chunk, zlib.crc32(view), shape).pack()
    sent, status, text = 0, Status.OK, b""
    for _ in range(ATTEMPTS):
        reply = BeginReply.unpack(link.request(Op.BEGIN, begin))
        if reply.chunks != chunks or reply.received > chunks:
            raise ProtocolError(
                f"{link.name}: BEGIN of {chunks} chunks is answered with {reply.received} of {reply.chunks}"
            )
        missing = range(chunks) if reply.received == 0 else _missing(link, chunks)
        status, text = _send(link, view, chunk, missing, told)
        sent += len(missing)
        if status is Status.OK:
            status, text = link.ask(Op.COMMIT)
        if status is Status.OK:
            return sent
        if status not in _AGAIN:
            raise refused(link.name, Op.COMMIT, status, text, link.statistics)
    raise TransferError(
        f"{link.name}: a transfer to {region.name} failed {ATTEMPTS} times: {status.name} (link: {link.statistics})"
    )


def _chunk(link: Requests, size: int) -> int:
    """Bytes a chunk; InputError for more than MAX_CHUNKS of them."""
    largest = link.hello.max_payload
    if not 1 <= size <= MAX_CHUNKS * largest:
        raise InputError(f"a transfer of {size} bytes: want 1 to {MAX_CHUNKS * largest}; use a smaller batch")
    fewest = -(-size // MAX_CHUNKS)
    return min(max(link.largest_part, -(-fewest // STEP) * STEP), largest)


def _smaller(link: Requests, part: int) -> bool:
    """Parts got lost for so long that a call failed. True where shorter ones may get through, from now on."""
    if link.largest_part <= SMALL_PART or part <= SMALL_PART:
        return False
    link.largest_part = SMALL_PART
    return True


def _send(link: Requests, view: memoryview, chunk: int, missing: range | list[int], told: Told) -> tuple[Status, bytes]:
    """WRITE chunks. Returns the first refusal, after which the rest goes out all the same."""
    items = ((bytes(view[number * chunk : (number + 1) * chunk]), number * chunk) for number in missing)
    worst: tuple[Status, bytes] = Status.OK, b""
    there = len(view) - len(missing) * chunk
    for status, text in link.ask_many(Op.WRITE, items):
        there += chunk
        told(max(there, 0))
        if worst[0] is Status.OK:
            worst = status, text
    return worst


def _missing(link: Requests, chunks: int) -> list[int]:
    """Chunks that the transfer under way lacks; all where it is gone meanwhile."""
    size = (chunks + 7) // 8
    status, bitmap = link.ask(Op.READ, ReadRequest(Region.BITMAP, 0, size).pack())
    if status is not Status.OK or len(bitmap) != size:
        return list(range(chunks))
    return [number for number in range(chunks) if not bitmap[number >> 3] >> (number & 7) & 1]


def read_region(link: Requests, region: Region, handle: int, length: int) -> bytes:
    """The first `length` bytes of a region. Raises as write_region."""
    out = bytearray()
    while True:
        part = min(link.hello.max_payload, link.largest_part)
        try:
            _read(link, region, handle, length, part, out)
            return bytes(out)
        except RestartedError:
            raise
        except LinkError:
            if not _smaller(link, part):
                raise


def _read(link: Requests, region: Region, handle: int, length: int, part: int, out: bytearray) -> None:
    """Adds to `out` what it lacks, as far as it comes."""
    start = len(out)

    def items() -> Iterator[tuple[bytes, int]]:
        for offset in range(start, length, part):
            yield ReadRequest(region, handle, min(part, length - offset)).pack(), offset

    for status, data in link.ask_many(Op.READ, items()):
        if status is not Status.OK:
            raise refused(link.name, Op.READ, status, data, link.statistics)
        wanted = min(part, length - len(out))
        if len(data) != wanted:
            raise ProtocolError(f"{link.name}: READ of {wanted} bytes of {region.name} is answered with {len(data)}")
        out += data
