"""The device's side of the protocol, without a line or a clock: bytes in, bytes out. What a board does is behind Backend."""

from __future__ import annotations

import hashlib
import hmac
import secrets
import zlib
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Protocol

from pimchip.errors import ProtocolError
from pimchip.link.constants import (
    ENDED_SESSIONS,
    MAX_ENCODED,
    MAX_PAYLOAD,
    MAX_REPLY,
    OWNER_IDLE_MS,
    RULES,
    VERSION,
    Flag,
    Kind,
    Op,
    Region,
    Status,
)
from pimchip.link.frames import Decoder, Frame
from pimchip.link.incoming import Incoming, shape_of
from pimchip.link.messages import (
    BeginRequest,
    Credit,
    HelloReply,
    HelloRequest,
    LinkReply,
    LogRequest,
    ReadRequest,
    StreamRequest,
    VersionRange,
)
from pimchip.link.refusals import Refusal
from pimchip.link.replies import SEEN, Replies
from pimchip.link.transfers import Shape
from pimchip.link.unasked import WARNING, Unasked

WINDOW = 32


@dataclass(frozen=True)
class Identity:
    """What HELLO says of a board. firmware: name and version of what runs there."""

    uid: str
    chip: str
    spec_hash: bytes
    firmware: str


class Backend(Protocol):
    """A board. Its methods raise Refusal, or errors that Refusal.of knows."""

    identity: Identity
    blob: bytes

    def read(self, region: Region, handle: int, offset: int, length: int) -> bytes:
        """A part of a region, exactly `length` bytes; Refusal where it has no such part."""

    def check(self, region: Region, handle: int, length: int, shape: Shape) -> None:
        """Refuse a transfer that could not be committed, before any of it is sent."""

    def commit(self, region: Region, handle: int, data: bytes, shape: Shape) -> None:
        """A transfer is whole: make it live."""

    def execute(self, op: Op, payload: bytes, arg: int) -> bytes:
        """An op that the server does not know itself, and its header's arg; returns the reply's payload."""

    def telemetry(self) -> bytes:
        """A Telemetry message."""

    def new_owner(self) -> None:
        """Another host's session begins: feature maps of the last one are freed."""

    def safe(self) -> None:
        """Array and DACs at rest."""

    def reset(self) -> None:
        """Restart: all that power loss loses is gone."""


@dataclass(eq=False)
class Line:
    """One connection to the server: its decoder, and bytes to send that nobody asked for."""

    decoder: Decoder = field(default_factory=Decoder)
    out: bytearray = field(default_factory=bytearray)


@dataclass
class Server:
    """One device. token: SHA-256 of the shared token, or zeros for none. watch: told of every request that is executed."""

    backend: Backend
    token: bytes = bytes(32)
    window: int = WINDOW
    boot_id: int = field(default_factory=lambda: secrets.randbits(64))
    watch: Callable[[int, Frame], None] | None = None
    executed: int = 0
    repeated: int = 0
    _frames: int = 0
    _bad: int = 0
    _session: int = 0
    _key: int = 0
    """What the frames of the session that is open, or ended last, carry; 0: there was none."""
    _open: bool = False
    _owner: Line | None = None
    """Where the session's last HELLO came: its requests count there only."""
    _heard: float = 0.0
    _resting: bool = False
    """Array and DACs were put at rest since the owner was heard last."""
    _asked: bool = False
    _fresh: bool = True
    """No request of the session was taken yet."""
    _greeting: int = 0
    """HELLO's arg, of the newest that was granted."""
    _replies: Replies = field(init=False)
    _ended: deque[int] = field(default_factory=lambda: deque(maxlen=ENDED_SESSIONS))
    _max_payload: int = MAX_PAYLOAD
    _incoming: Incoming = field(default_factory=Incoming)
    _unasked: Unasked = field(init=False)

    def __post_init__(self) -> None:
        self._unasked = Unasked(self.backend.telemetry)
        self._replies = Replies(self.window)

    def feed(self, line: Line, now: float, data: bytes) -> bytes:
        """Bytes came over a line at a time in seconds. Returns what to send over it."""
        self._unasked.start(now)
        out = bytearray()
        before = line.decoder.bad_frames
        for frame in line.decoder.feed(data):
            self._frames += 1
            if frame.kind == Kind.CREDIT and frame.version == VERSION:
                self._credit(line, now, frame)
            elif frame.kind == Kind.REQUEST:
                out += self._answer(line, now, frame)
        self._bad += line.decoder.bad_frames - before
        return bytes(out)

    def tick(self, now: float) -> float | None:
        """Makes what streams are due, in their line's `out`, and rests where the owner is silent. Returns when to come again,
        None for never."""
        due = self._unasked.tick(now, self._key, None if self._owner is None else self._owner.out)
        if not self._open or self._resting:
            return due
        silent = self._heard + OWNER_IDLE_MS / 1000
        if now < silent:
            return silent if due is None else min(due, silent)
        self._rest()
        return due

    def answered(self, line: Line, now: float) -> None:
        """What was fed is done: a request that took long was no silence of who asked it."""
        if self._asked and self.is_owner(line):  # other bytes renew nobody
            self._heard = max(self._heard, now)
        self._asked = False

    def log(self, now: float, level: int, text: str) -> None:
        """A line for people, to who owns the board."""
        if self._open and self._owner is not None:
            self._unasked.log(now, self._key, self._owner.out, level, text)

    def is_owner(self, line: Line) -> bool:
        """Whether the host that has the board is at this line."""
        return self._open and self._owner is line

    def hung_up(self, line: Line) -> None:
        """A line is gone: array and DACs come to rest, and its session may be taken by another host at once."""
        if self._owner is line:
            self._owner = None
            self._heard = float("-inf")
            if self._open and not self._resting:
                self._rest()

    def _rest(self) -> None:
        """Nobody speaks for the session: as SAFE, which every request may end."""
        self._resting = True
        with suppress(Exception):  # a board that cannot is asked nothing, so nobody is there to be told
            self.backend.safe()

    # ---------------------------------------------------------------------------------------------------- requests

    def _answer(self, line: Line, now: float, frame: Frame) -> bytes:
        if frame.version != VERSION:
            return _reply(frame, Status.VERSION, VersionRange(VERSION, VERSION).pack())
        if frame.op == Op.HELLO:
            try:
                return _reply(frame, Status.OK, self._hello(line, now, frame))
            except Refusal as refusal:
                return _reply(frame, refusal.status, refusal.payload)
        if frame.session == 0 or frame.session != self._key or line is not self._owner:
            return _reply(frame, Status.STALE)
        self._fresh = False
        if self._open:
            self._heard, self._resting, self._asked = now, False, True
        behind = self._replies.behind(frame.seq)
        if behind < SEEN:  # its number was seen, or one after it
            if behind >= self.window:
                return b""  # no host waits for it any more: a copy that the line held back
            kept = self._replies.find(frame.seq, frame.op)
            if kept is not None:
                self.repeated += 1
                return _reply(frame, kept.status, kept.payload, Flag.REPEAT)
        if not self._open:  # closed: only what was answered before is answered
            return _reply(frame, Status.STALE)
        if behind >= SEEN:
            self._replies.advance(frame.seq)
        if frame.op in (Op.READ, Op.LINK):  # change nothing, so they are done again
            return _reply(frame, *self._done(now, frame))
        self.executed += 1
        if self.watch is not None:
            self.watch(self.boot_id, frame)
        status, payload = self._done(now, frame)
        self._replies.keep(frame.seq, frame.op, status, payload)
        if frame.op == Op.RESET and status is Status.OK:
            self.restart()
        return _reply(frame, status, payload)

    def _done(self, now: float, frame: Frame) -> tuple[Status, bytes]:
        try:
            op = Op(frame.op)
        except ValueError:
            return Status.UNKNOWN_OP, b""
        if RULES[op].request not in (-1, len(frame.payload)):
            return Status.BAD_LENGTH, b""
        try:
            payload = self._execute(now, op, frame)
        except Exception as error:  # whatever a request does, the next one is answered
            refusal = Refusal.of(error)
            return refusal.status, refusal.payload
        return Status.OK, payload

    def _execute(self, now: float, op: Op, frame: Frame) -> bytes:
        match op:
            case Op.CLOSE:
                self.backend.safe()
                self._end_session()
            case Op.SAFE:
                self.backend.safe()
            case Op.RESET:
                pass
            case Op.ECHO:
                if len(frame.payload) > MAX_REPLY:
                    raise Refusal(Status.BAD_LENGTH)
                return frame.payload
            case Op.LINK:
                counts = (self._frames, self._bad, self.executed, self.repeated)
                return LinkReply(*(count & 0xFFFFFFFF for count in counts)).pack()
            case Op.TELEMETRY:
                return self.backend.telemetry()
            case Op.READ:
                return self._read(ReadRequest.unpack(frame.payload), frame.arg)
            case Op.BEGIN:
                return self._incoming.begin(BeginRequest.unpack(frame.payload), self._max_payload, self.backend.check)
            case Op.WRITE:
                self._incoming.write(frame.payload, frame.arg)
            case Op.COMMIT:
                self._commit(now)
            case Op.STREAM:
                self._unasked.set_stream(now, StreamRequest.unpack(frame.payload), frame.arg)
            case Op.LOG:
                self._unasked.level = LogRequest.unpack(frame.payload).level
            case _:
                return self.backend.execute(op, frame.payload, frame.arg)
        return b""

    # ---------------------------------------------------------------------------------------------------- sessions

    def _hello(self, line: Line, now: float, frame: Frame) -> bytes:
        try:
            asked = HelloRequest.unpack(frame.payload)
        except ProtocolError:
            raise Refusal(Status.BAD_LENGTH) from None
        same = self._open and frame.session == self._session
        if not asked.lowest <= VERSION <= asked.highest:
            raise _Versions()
        if self.token != bytes(32) and not hmac.compare_digest(self.token, asked.token):
            raise Refusal(Status.TOKEN)
        if frame.session == 0 or asked.max_payload < MAX_REPLY:
            raise Refusal(Status.ARGUMENT)
        if not same and frame.session in self._ended:
            raise Refusal(Status.STALE)
        if not same and self._open and now - self._heard < OWNER_IDLE_MS / 1000:
            raise Refusal(Status.OWNED)
        if not same:
            self._end_session()
            self._session, self._open = frame.session, True
            self._key = session_key(self.boot_id, frame.session)
            self._replies.begin(frame.seq)
            self._unasked.level = WARNING
            self.backend.new_owner()
            self._fresh, self._greeting = True, frame.arg
        elif 0 < (frame.arg - self._greeting) & 0xFFFFFFFF < 1 << 31:
            self._greeting = frame.arg
            if self._fresh:  # what opened the session may have been a late copy, with a number of long ago
                self._replies.begin(frame.seq)
        self._heard, self._owner, self._resting = now, line, False
        self._max_payload = min(asked.max_payload, MAX_PAYLOAD)
        who = self.backend.identity
        return HelloReply(
            VERSION,
            same,
            self.window,
            self.window * (MAX_ENCODED + 1),
            self._max_payload,
            len(self.backend.blob),
            zlib.crc32(self.backend.blob),
            self.boot_id,
            self._key,
            hashlib.sha256(who.firmware.encode()).digest()[:8],
            who.spec_hash,
            who.chip.encode()[:32],
            who.uid.encode()[:64],
        ).pack()

    def _end_session(self) -> None:
        if self._open:
            self._ended.append(self._session)
        self._open = False
        self._unasked.stop()

    def restart(self) -> None:
        """As a loss of power does it: memory is gone, and the boot is another one."""
        self.backend.reset()
        self._end_session()
        self._session, self._key, self._owner, self.boot_id = 0, 0, None, secrets.randbits(64)
        self._incoming.forget()
        self._replies.begin(0)
        self._ended.clear()
        self._frames = self._bad = self.executed = self.repeated = 0
        self._unasked.restarted()

    # --------------------------------------------------------------------------------------------------- transfers

    def _read(self, asked: ReadRequest, offset: int) -> bytes:
        if not 1 <= asked.length <= self._max_payload:
            raise Refusal(Status.ARGUMENT)
        try:
            region = Region(asked.region)
        except ValueError:
            raise Refusal(Status.REGION) from None
        if asked.handle and region not in (Region.MAP8, Region.MAP32):  # all others that can be read have one part
            raise Refusal(Status.REGION)
        if region is Region.BITMAP:
            return part_of(self._incoming.bitmap, offset, asked.length)
        if region is Region.BLOB:
            return part_of(self.backend.blob, offset, asked.length)
        return self.backend.read(region, asked.handle, offset, asked.length)

    def _commit(self, now: float) -> None:
        try:
            asked, data = self._incoming.finish()
        except Refusal as refusal:
            if refusal.status is Status.TRANSFER_CRC:
                self.log(now, WARNING, "a transfer was dropped at its COMMIT: its CRC differs")
            raise
        self.backend.commit(Region(asked.region), asked.handle, data, shape_of(asked))

    def _credit(self, line: Line, now: float, frame: Frame) -> None:
        if self._open and frame.session == self._key and line is self._owner:
            self._heard, self._resting = now, False
            if len(frame.payload) == Credit.size():
                self._unasked.credit(frame.arg, Credit.unpack(frame.payload).granted)


class _Versions(Refusal):
    """Of HELLO; its payload is no text."""

    def __init__(self) -> None:
        super().__init__(Status.VERSION)

    @property
    def payload(self) -> bytes:
        return VersionRange(VERSION, VERSION).pack()


def session_key(boot_id: int, session: int) -> int:
    """What frames of a session carry: another for every boot, so that none of another boot's is taken for one of it."""
    return zlib.crc32(boot_id.to_bytes(8, "little") + session.to_bytes(4, "little")) or 1


def part_of(data: bytes, offset: int, length: int) -> bytes:
    """A part of a region; Refusal where it does not lie within."""
    if offset + length > len(data):
        raise Refusal(Status.ARGUMENT, f"bytes {offset}..{offset + length - 1} of {len(data)}")
    return data[offset : offset + length]


def _reply(asked: Frame, status: int, payload: bytes = b"", flags: int = 0) -> bytes:
    return Frame(Kind.REPLY, asked.op, asked.seq, asked.session, asked.arg, payload, status, flags).encode()
