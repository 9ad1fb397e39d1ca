"""Frames of PIMP/1 as the protocol words them, in plain Python: a second truth, and a client for tests.

Imports nothing of pimchip. Numbers of ops and regions are written out, so that a changed one is noticed.
"""

from __future__ import annotations

import socket
import struct
import time
import zlib
from dataclasses import dataclass, field
from typing import NamedTuple

HEADER = struct.Struct("<BBBBHHII")
LARGEST = 16 + 4096 + 4
GOOD, LONG, COBS, SHORT, CRC, BAD_HEADER = range(1, 7)

HELLO, CLOSE, SAFE, RESET, ECHO, LINK, TELEMETRY = range(1, 8)
READ, BEGIN, WRITE, COMMIT = range(0x10, 0x14)
PROGRAM, VERIFY, READ_CELLS, CONVERT, TRIM = range(0x20, 0x25)
CONV, DIGITAL, REQUANTIZE, ADD, POOL, STATS, MAP, FREE = range(0x30, 0x38)
STREAM, LOG = 0x40, 0x41
(
    R_BITMAP, R_BLOB, R_REGISTERS, R_COUNTERS, R_CELLS, R_READBACK, R_CHECKS, R_INPUTS, R_CODES, R_MAP8, R_MAP32, R_LAYER,
    R_REQUANT, R_WEIGHTS, R_STATS,
) = range(15)  # fmt: skip
NONE = 0xFFFFFFFF


def stuff(data: bytes) -> bytes:
    """COBS, without the zero that ends a frame."""
    out = bytearray()
    blocks = data.split(b"\0")
    for number, block in enumerate(blocks):
        while len(block) >= 254:
            out += b"\xff" + block[:254]
            block = block[254:]
            if not block and number == len(blocks) - 1:
                return bytes(out)
        out += bytes([len(block) + 1]) + block
    return bytes(out)


def unstuff(data: bytes) -> bytes | None:
    """What was stuffed; None where the bytes end within a block."""
    out, at = bytearray(), 0
    while at < len(data):
        count = data[at]
        block = data[at + 1 : at + count]
        if len(block) < count - 1:
            return None
        at += count
        out += block
        if count < 255 and at < len(data):
            out.append(0)
    return bytes(out)


class Frame(NamedTuple):
    """Header fields and payload."""

    version: int
    kind: int
    op: int
    flags: int
    seq: int
    status: int
    session: int
    arg: int
    payload: bytes

    def encoded(self) -> bytes:
        """On the wire, with its zero."""
        body = HEADER.pack(*self[:8]) + self.payload
        return stuff(body + zlib.crc32(body).to_bytes(4, "little")) + b"\0"


def judge(data: bytes) -> tuple[int, bytes]:
    """The event of the bytes before a zero, and of a good frame header and payload."""
    out = unstuff(data)
    if out is None:
        # What comes out of a cut block counts too: a frame that is too long is told as such however it ends.
        cut = unstuff(_mended(data)) or b""
        return (LONG if len(cut) - _missing(data) > LARGEST else COBS), b""
    if len(out) > LARGEST:
        return LONG, b""
    if len(out) < 20:
        return SHORT, b""
    if zlib.crc32(out[:-4]) != int.from_bytes(out[-4:], "little"):
        return CRC, b""
    if out[0] == 1 and (out[3] & ~3 or out[1] > 4):
        return BAD_HEADER, b""
    return GOOD, out[:-4]


def _missing(data: bytes) -> int:
    """Bytes that the last block lacks."""
    at = 0
    while at < len(data):
        at += data[at]
    return at - len(data)


def _mended(data: bytes) -> bytes:
    return data + b"\1" * _missing(data)


class RefusedError(Exception):
    """A reply's status that is not 0."""

    def __init__(self, status: int, payload: bytes) -> None:
        super().__init__(f"{status:#06x} {payload!r}")
        self.status = status


@dataclass
class Client:
    """Stop-and-wait over a byte stream; no retries: a test sees what the device does."""

    link: socket.socket
    session: int = 7
    key: int = 0
    seq: int = 0
    buffer: bytes = b""
    others: list[Frame] = field(default_factory=list)

    @classmethod
    def to(cls, port: int, session: int = 7, timeout: float = 20.0) -> Client:
        link = socket.create_connection(("127.0.0.1", port), timeout)
        link.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return cls(link, session)

    def receive(self) -> Frame:
        """The next frame of any kind."""
        while b"\0" not in self.buffer:
            data = self.link.recv(65536)
            if not data:
                raise ConnectionError("the device hung up")
            self.buffer += data
        one, _, self.buffer = self.buffer.partition(b"\0")
        event, data = judge(one)
        assert event == GOOD, (event, one)
        return Frame(*HEADER.unpack(data[:16]), data[16:])

    def send(self, op: int, payload: bytes = b"", arg: int = 0, *, seq: int, flags: int = 0, version: int = 1) -> None:
        self.link.sendall(
            Frame(version, 0, op, flags, seq, 0, self.session if op == HELLO else self.key, arg, payload).encoded()
        )

    def reply(self, seq: int) -> Frame:
        """The next reply; what comes before it is kept in `others`."""
        while (frame := self.receive()).kind != 1:
            self.others.append(frame)
        assert frame.seq == seq, (frame, seq)
        return frame

    def call(self, op: int, payload: bytes = b"", arg: int = 0) -> bytes:
        """One request; RefusedError where it is."""
        self.seq = (self.seq + 1) & 0xFFFF
        self.send(op, payload, arg, seq=self.seq)
        frame = self.reply(self.seq)
        if frame.status:
            raise RefusedError(frame.status, frame.payload)
        return frame.payload

    def hello(self, token: bytes = bytes(32)) -> dict[str, object]:
        """Open the session; the reply's fields."""
        reply = self.call(HELLO, struct.pack("<BBHI32s", 1, 1, 0, 4096, token))
        names = [
            "version",
            "resumed",
            "window_frames",
            "window_bytes",
            "max_payload",
            "blob_size",
            "blob_crc",
            "boot_id",
        ]
        names += ["key", "firmware", "spec_hash", "chip", "uid"]
        said = dict(zip(names, struct.unpack("<BBHIIIIQI8s32s32s64s", reply), strict=True))
        self.key = said["key"]
        return said

    def begin(self, region: int, handle: int, data: bytes, shape: tuple[int, ...] = (0, 0, 0, 0)) -> tuple[int, int]:
        crc = zlib.crc32(data)
        return struct.unpack("<II", self.call(BEGIN, struct.pack("<9I", region, handle, len(data), 4096, crc, *shape)))

    def put(self, region: int, handle: int, data: bytes, shape: tuple[int, ...] = (0, 0, 0, 0)) -> None:
        """A whole transfer."""
        self.begin(region, handle, data, shape)
        for at in range(0, len(data), 4096):
            self.call(WRITE, data[at : at + 4096], at)
        self.call(COMMIT)

    def get(self, region: int, handle: int, length: int) -> bytes:
        """The first `length` bytes of a region."""
        parts = []
        for at in range(0, length, 4096):
            parts.append(self.call(READ, struct.pack("<III", region, handle, min(4096, length - at)), at))
        return b"".join(parts)

    def wait(self, seconds: float) -> None:
        """Take in frames for a while."""
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0:
            self.link.settimeout(left)
            try:
                self.others.append(self.receive())
            except TimeoutError:
                break
        self.link.settimeout(20)
