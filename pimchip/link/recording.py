"""Sessions recorded, and recorded sessions as devices: what was asked once is answered the same again."""

from __future__ import annotations

import time
import warnings
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

from pimchip.errors import (
    DeviceError,
    LinkError,
    LongFrameError,
    PimchipError,
    PimchipWarning,
    ProtocolError,
    ReplayError,
    RestartedError,
)
from pimchip.link.constants import Op, Region, Status
from pimchip.link.messages import HelloReply, ReadRequest
from pimchip.link.pimlog import Header, Reader, Record, Writer
from pimchip.link.requests import Reply, Requests, again_after_restarts
from pimchip.link.statistics import LinkStatistics
from pimchip.link.token import without_token
from pimchip.link.transfers import read_region

_ERRORS = {kind.__name__: kind for kind in (LinkError, LongFrameError, RestartedError, ProtocolError, DeviceError)}


@dataclass
class _Wanted:
    path: Path
    boards: int = 0


_wanted: ContextVar[_Wanted | None] = ContextVar("wanted", default=None)


@contextmanager
def recording(path: Path) -> Iterator[Callable[[], int]]:
    """Boards that are opened within, in this thread, are recorded: the first to `path`, the next to NAME-2.pimlog beside it.
    Yields how many there were."""
    wanted = _Wanted(path)
    before = _wanted.set(wanted)
    try:
        yield lambda: wanted.boards
    finally:
        _wanted.reset(before)


def is_recording() -> bool:
    """True within recording()."""
    return _wanted.get() is not None


def recorded(link: Requests, url: str) -> Requests:
    """The link, recorded where recording() is under way. Lets the link go where the log cannot be made."""
    wanted = _wanted.get()
    if wanted is None:
        return link
    wanted.boards += 1
    path = wanted.path if wanted.boards == 1 else wanted.path.with_stem(f"{wanted.path.stem}-{wanted.boards}")
    try:
        return Recorder(link, path, url)
    except BaseException:
        link.close()
        raise


def _of_blob(op: Op, payload: bytes) -> bool:
    """The blob is read once a process, so its reading is no part of a session: it is answered from what was read first."""
    return (
        op is Op.READ and len(payload) == ReadRequest.size() and ReadRequest.unpack(payload).region == int(Region.BLOB)
    )


def _blob_part(blob: bytes, payload: bytes, offset: int) -> Reply:
    return Status.OK, blob[offset : offset + ReadRequest.unpack(payload).length]


class Recorder(Requests):
    """A link whose requests and replies are written down. Warns (PimchipWarning) where the log cannot be written on; the work
    goes on.

    Restarts are told with the request that they come to light with, as a replay tells them, however the link noticed.
    """

    def __init__(self, link: Requests, path: Path, url: str) -> None:
        self.name, self.statistics, self._link = link.name, link.statistics, link
        self._blob = again_after_restarts(lambda: read_region(link, Region.BLOB, 0, link.hello.blob_size))
        self._boots, self.largest_part = link.boots, link.largest_part
        header = Header(without_token(url), link.hello, self._blob, self._boots, self.largest_part)
        self._log: Writer | None = Writer(path, header)

    @property
    def hello(self) -> HelloReply:
        return self._link.hello

    @property
    def boots(self) -> int:
        return self._boots

    def allow(self, budgets: Mapping[Op, float]) -> None:
        self._link.allow(budgets)

    def ask_many(self, op: Op, items: Iterable[tuple[bytes, int]]) -> Iterator[Reply]:
        rest = iter(items)
        first = next(rest, None)
        if first is None:
            return
        if _of_blob(op, first[0]):
            yield from (_blob_part(self._blob, *item) for item in chain([first], rest))
            return
        if self._link.boots != self._boots:  # who noticed was given up, or told nobody
            error = RestartedError(f"{self.name} restarted: what was programmed and uploaded is gone; program it again")
            self._put(op, time.monotonic(), *first, error=type(error).__name__, text=str(error))
            raise error
        yield from self._ask_noted(op, chain([first], rest))

    def _ask_noted(self, op: Op, items: Iterable[tuple[bytes, int]]) -> Iterator[Reply]:
        asked: deque[tuple[float, bytes, int]] = deque()

        def noted() -> Iterator[tuple[bytes, int]]:
            for payload, arg in items:
                asked.append((time.monotonic(), payload, arg))
                yield payload, arg

        try:
            for status, got in self._link.ask_many(op, noted()):
                self._put(op, *asked.popleft(), status=status.name, got=got.hex())
                yield status, got
        except PimchipError as error:
            if asked:
                self._put(op, *asked.popleft(), error=type(error).__name__, text=str(error))
            raise

    def close(self) -> None:
        self._link.close()
        log, self._log = self._log, None
        if log is not None:
            self._told(log, log.close)

    def _put(self, op: Op, at: float, payload: bytes, arg: int, **outcome: str) -> None:
        log, self._boots = self._log, self._link.boots
        if log is not None:
            self._told(log, lambda: log.put(at, op, arg, payload, self._boots, **outcome))

    def _told(self, log: Writer, write: Callable[[], None]) -> None:
        try:
            write()
        except OSError as error:
            self._log = None
            log.abandon()
            text = f"--record {log.path}: {error.strerror or error}: the log ends here, the work goes on; free space"
            warnings.warn(text, PimchipWarning, stacklevel=2)


class Replay(Requests):
    """A recorded session as a link. Raises InputError where the log is none, ReplayError where something else is asked than
    was then; what failed then fails again."""

    def __init__(self, path: Path) -> None:
        self.name = f"replay of {path}"
        self.statistics = LinkStatistics()
        self._log = Reader(path)
        self._header = self._log.header
        self._records = self._log.records()
        self._boots, self.largest_part = self._header.boots, self._header.part
        self._asked = 0
        self._over = self._broken = False

    @property
    def recorded_url(self) -> str:
        """Of the device that was recorded."""
        return self._header.url

    @property
    def hello(self) -> HelloReply:
        return self._header.hello

    @property
    def boots(self) -> int:
        return self._boots

    def allow(self, budgets: Mapping[Op, float]) -> None:
        pass

    def ask_many(self, op: Op, items: Iterable[tuple[bytes, int]]) -> Iterator[Reply]:
        for payload, arg in items:
            of_blob = _of_blob(op, payload)
            yield _blob_part(self._header.blob, payload, arg) if of_blob else self._answer(op, payload, arg)

    def close(self) -> None:
        """Warns (PimchipWarning) where more was asked then than now."""
        if self._over:
            return
        self._over = True
        left = 0
        try:
            if not self._broken:
                left = sum(1 for _ in self._records)
        finally:
            self._log.close()
        if left:
            text = f"{self.name}: {left} of {self._asked + left} recorded requests were not asked this time"
            warnings.warn(text, PimchipWarning, stacklevel=2)

    def _answer(self, op: Op, payload: bytes, arg: int) -> Reply:
        self._broken = True  # unless this is answered
        was = next(self._records, None)
        if was is None:
            why = "the log ends here" if self._log.whole else "the recording was cut short here"
            raise ReplayError(
                f"{self.name}: request {self._asked}, {op.name}: {why}; do what was recorded, or record more"
            )
        difference = _difference(was, op, payload, arg)
        if difference:
            raise ReplayError(
                f"{self.name}: request {was.number} {difference}; run the command that was recorded, or record this one"
            )
        self._broken = False
        self._asked += 1
        self._boots = was.boots
        if was.error:
            raise _ERRORS.get(was.error, LinkError)(was.text)
        return was.status, was.got


def _difference(was: Record, op: Op, payload: bytes, arg: int) -> str:
    """What is asked otherwise than it was; "" for nothing."""
    if op is not was.op:
        return f"is {op.name}, recorded was {was.op.name}"
    if arg != was.arg:
        return f"{op.name} has arg {arg}, recorded was {was.arg}"
    if payload == was.sent:
        return ""
    if len(payload) != len(was.sent):
        return f"{op.name} has {len(payload)} bytes, recorded were {len(was.sent)}"
    at = next(place for place, (new, old) in enumerate(zip(payload, was.sent, strict=True)) if new != old)
    return f"{op.name} has {payload[at]:#04x} at byte {at}, recorded was {was.sent[at]:#04x}"
