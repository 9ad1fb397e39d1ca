"""A link's traffic in words, for people: every frame as a request or reply, and as the bytes on the line."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from dataclasses import dataclass, field

from pimchip.errors import ProtocolError
from pimchip.link import messages
from pimchip.link.constants import MAX_ENCODED, VERSION, Flag, Kind, Op, Source, Status
from pimchip.link.frames import Frame, parse
from pimchip.link.packing import Message
from pimchip.link.transports import Transport

LINE = 32
"""Bytes shown on a line."""
SHOWN, LAST = 64, 16
"""Bytes shown of a frame that is longer than both: the first, and the last."""
_SHORTENED = SHOWN + LAST
HIDDEN = "(not shown: whoever has these bytes has the token)"
_telling: ContextVar[Callable[[str], None] | None] = ContextVar("telling", default=None)
_AS_HEX = ("crc", "blob_crc", "boot_id", "key")
_LEVELS = ("debug", "information", "warning", "error")


def describe(frame: Frame) -> str:
    """A frame in one line."""
    if frame.version != VERSION:
        return f"frame of version {frame.version}, {len(frame.payload)} bytes"
    again = " again" if frame.flags & Flag.REPEAT else ""
    size = len(frame.payload)
    match frame.kind:
        case Kind.REQUEST:
            said = _fields(messages.REQUESTS.get(frame.op), frame.payload)
            if _secret(frame):
                said = f"{said.partition(', token')[0]}, token not shown"
            return f"{_name(frame)} #{frame.seq}{again}{_at(frame)}{said}"
        case Kind.REPLY if frame.status:
            return f"{_name(frame)} #{frame.seq} refused{again}: {_status(frame)}{_reason(frame)}"
        case Kind.REPLY:
            return f"{_name(frame)} #{frame.seq} done{again}{_fields(messages.REPLIES.get(frame.op), frame.payload)}"
        case Kind.LOG if size >= messages.LogHead.size():
            head = messages.LogHead.unpack(frame.payload[: messages.LogHead.size()])
            level = _LEVELS[head.level] if head.level < len(_LEVELS) else f"level {head.level}"
            text = frame.payload[messages.LogHead.size() :].decode(errors="replace")
            return f"log #{frame.seq}, {level}, {head.dropped} dropped: {text!r}"
        case Kind.STREAM if size >= messages.StreamHead.size():
            kind = messages.Telemetry if frame.arg == Source.TELEMETRY else None
            head_size = messages.StreamHead.size()
            said = _fields(messages.StreamHead, frame.payload[:head_size])
            return f"{_source(frame)} record{said}{_fields(kind, frame.payload[head_size:])}"
        case Kind.CREDIT:
            return f"{_source(frame)} credit{_fields(messages.Credit, frame.payload)}"
    return f"frame of kind {frame.kind}, {size} bytes"


def hexadecimal(data: bytes) -> Iterator[str]:
    """Bytes in lines; of many, the first and the last."""
    if len(data) <= _SHORTENED:
        yield from (data[at : at + LINE].hex(" ") for at in range(0, len(data), LINE))
    else:
        yield from hexadecimal(data[:SHOWN])
        yield f"... {len(data) - _SHORTENED} bytes ..."
        yield from hexadecimal(data[-LAST:])


@dataclass
class Tracer:
    """Tells, line by line, what goes over a line: `>` to the device, `<` from it, then the frame's bytes, indented."""

    tell: Callable[[str], None]
    clock: Callable[[], float] | None = None
    """Seconds to begin each line with; None for none."""
    _one: threading.Lock = field(default_factory=threading.Lock)
    _parts: dict[str, bytearray] = field(default_factory=lambda: {">": bytearray(), "<": bytearray()})

    def bytes_went(self, direction: str, data: bytes) -> None:
        """Bytes passed: ">" to the device, "<" from it."""
        part = self._parts[direction]
        start = 0
        while (end := data.find(b"\0", start)) >= 0:
            part += data[start:end]
            self._chunk(direction, bytes(part))
            part.clear()
            start = end + 1
        part += data[start:]
        if len(part) > 2 * MAX_ENCODED:  # never ends: told in pieces
            self._chunk(direction, bytes(part))
            part.clear()

    def line(self, direction: str, text: str) -> None:
        """Something that is no frame."""
        stamp = "" if self.clock is None else f"{self.clock():.6f} "
        self.tell(f"{stamp}{direction} {text}")

    def _chunk(self, direction: str, chunk: bytes) -> None:
        if not chunk:
            return
        found = parse(chunk)
        with self._one:
            self.line(direction, f"no frame: {found}" if isinstance(found, str) else describe(found))
            shown = hexadecimal(chunk + b"\0")
            for line in [HIDDEN] if isinstance(found, Frame) and _secret(found) else shown:
                self.tell(f"    {line}")


class TracedTransport:
    """A line that tells what goes over it."""

    def __init__(self, transport: Transport, tell: Callable[[str], None]) -> None:
        self._up = False
        begun = time.monotonic()
        self._transport, self._tracer = transport, Tracer(tell, lambda: time.monotonic() - begun)

    def open(self) -> None:
        self._transport.open()
        self._up = True
        self._tracer.line("=", "connected")

    def read(self, seconds: float) -> bytes:
        try:
            data = self._transport.read(seconds)
        except OSError as error:
            if self._up:
                self._tracer.line("=", f"the line is gone: {error}")
            self._up = False
            raise
        if data:
            self._tracer.bytes_went("<", data)
        return data

    def write(self, data: bytes) -> None:
        self._tracer.bytes_went(">", data)
        self._transport.write(data)

    def close(self) -> None:
        self._up = False  # a reader that waits finds the line gone, which is no news
        self._transport.close()


@contextmanager
def tracing(tell: Callable[[str], None]) -> Iterator[None]:
    """Lines that are opened within, in this thread, tell what goes over them, for as long as they are open."""
    before = _telling.set(tell)
    try:
        yield
    finally:
        _telling.reset(before)


def traced(transport: Transport) -> Transport:
    """The transport, told of where tracing() is under way."""
    tell = _telling.get()
    return transport if tell is None else TracedTransport(transport, tell)


def _secret(frame: Frame) -> bool:
    return frame.kind == Kind.REQUEST and frame.op == Op.HELLO and any(frame.payload[8:])


def _op(frame: Frame) -> Op | None:
    with suppress(ValueError):
        return Op(frame.op)
    return None


def _name(frame: Frame) -> str:
    op = _op(frame)
    return f"op {frame.op:#04x}" if op is None else op.name


def _source(frame: Frame) -> str:
    with suppress(ValueError):
        return f"stream {Source(frame.arg).name}"
    return f"stream {frame.arg}"


def _at(frame: Frame) -> str:
    if frame.op in (Op.READ, Op.WRITE):
        return f" at {frame.arg}"
    return f" of {_source(frame)}" if frame.op == Op.STREAM else ""


def _status(frame: Frame) -> str:
    with suppress(ValueError):
        return Status(frame.status).name
    return f"{frame.status:#06x}"


def _reason(frame: Frame) -> str:
    if frame.status == Status.VERSION:
        return _fields(messages.VersionRange, frame.payload)
    return f", {frame.payload.decode(errors='replace')!r}" if frame.payload else ""


def _fields(kind: type[Message] | None, payload: bytes) -> str:
    if kind is None:
        return f": {len(payload)} bytes" if payload else ""
    try:
        return f": {_values(kind.unpack(payload))}"
    except ProtocolError:
        return f": {len(payload)} bytes, which are no {kind.__name__}"


def _values(message: Message) -> str:
    parts = [(name, getattr(message, name)) for name in message.__match_args__]  # type: ignore[attr-defined]
    return ", ".join(f"{name} {_hex(value) if name in _AS_HEX else _value(value)}" for name, value in parts)


def _hex(value: int) -> str:
    return f"{value:#x}"


def _value(value: object) -> str:
    if isinstance(value, Message):
        return f"({_values(value)})"
    if isinstance(value, bytes):
        text = value.rstrip(b"\0")
        if not text:
            return "zeros"
        if text.isascii() and text.decode().isprintable():
            return repr(text.decode())
        return value.hex() if len(value) <= 8 else f"{value[:8].hex()}..."
    return str(list(value)) if isinstance(value, tuple) else str(value)
