"""A link: a session over a line, with one thread that reads. Calls block; several threads may call.

Who waits for a reply also writes what is to be sent, so the reader never stops reading while the other end is slow to take
bytes, and neither end waits for the other.
"""

from __future__ import annotations

import secrets
import threading
import time
from collections.abc import Iterator
from contextlib import suppress

from pimchip.errors import LinkError, PimchipError
from pimchip.link.calls import Call, State
from pimchip.link.constants import Op, Source
from pimchip.link.exchange import Exchange
from pimchip.link.messages import StreamRequest
from pimchip.link.requests import again_after_restarts
from pimchip.link.session import PATIENCE, Session
from pimchip.link.streams import WINDOW, Log, Record, Stream
from pimchip.link.token import token_bytes
from pimchip.link.trace import traced
from pimchip.link.transports import CHECK, Transport

READ_SECONDS = 0.1
REOPEN_SECONDS = 0.2
"""Between tries to open a line that is down, and between lines; twice as long after each on which nothing was answered."""
REOPEN_MOST = 2.0
CLOSE_SECONDS = 2.0


def pause(fruitless: int) -> float:
    """Seconds until the next line, after so many lines in a row on which nothing was answered."""
    return min(REOPEN_SECONDS * 2.0 ** min(fruitless, 10), REOPEN_MOST)


class Link(Exchange):
    """An open link. Raises LinkError where there is no line or the device does not answer within `patience` seconds."""

    def __init__(self, transport: Transport, name: str, *, token: str = "", patience: float = PATIENCE) -> None:
        self.name = name
        self._transport = traced(transport)
        identity = secrets.randbelow((1 << 32) - 1) + 1
        self._session = Session(identity, name, token_bytes(token), patience)
        self.statistics = self._session.statistics
        self._changed: threading.Condition = threading.Condition()
        self._writing = threading.Lock()
        self._waiting = 0
        self._closing = False
        self._open_at = 0.0
        """When a line may be opened again at the earliest."""
        self._fruitless = self._answered = 0
        """Lines in a row on which nothing but HELLO was answered; the session's count of answers when the last was opened."""
        try:
            self._transport.open()
        except OSError as error:
            raise LinkError(f"{name}: {error.strerror or error}; {getattr(error, 'mend', CHECK)}") from None
        self._session.connected(time.monotonic())
        self._reader = threading.Thread(target=self._read, name=f"pimchip link {name}", daemon=True)
        self._reader.start()
        try:
            again_after_restarts(lambda: self.request(Op.LINK))  # while it is opened, nothing is lost yet
        except BaseException:
            self._stop()
            raise

    @property
    def log(self) -> Log:
        """The device's log lines."""
        return self._session.log

    def stream(self, source: Source, period: float) -> Iterator[Record]:
        """Records of a source every `period` seconds, until the iterator is closed; each says what is missing before it.

        Raises LinkError where the line stays down for longer than the link's patience, RestartedError where the device
        restarted: then no more records come. What a cut of the line costs is a gap. Records wait within a window, beyond
        which the device drops them.
        """
        stream = Stream(source, period, granted=WINDOW)
        with self._changed:
            self._session.open_stream(time.monotonic(), stream)
        try:
            self.request(Op.STREAM, StreamRequest(round(period * 1e6), WINDOW).pack(), source)
            while True:
                with self._changed:
                    records = stream.take()
                    self._session.give_credit(time.monotonic())
                    if not records:
                        if stream.ended is not None:
                            raise stream.ended
                        self._changed.wait(READ_SECONDS)
                self._flush()
                yield from records
        finally:
            with self._changed:
                self._session.streams.close(stream)
            if stream.ended is None:
                with suppress(PimchipError):
                    self.request(Op.STREAM, StreamRequest(0, 0).pack(), source)

    def close(self) -> None:
        """Leave the device in its safe state and let go. Twice is no error.

        What it was asked for and has not answered is given up. Where it is at something long, it comes to rest right after
        that, and is not waited for longer than CLOSE_SECONDS.
        """
        if self._closing:
            return
        with suppress(PimchipError):
            with self._changed:
                up = self._session.state is State.OPEN
                call = self._session.close(time.monotonic(), CLOSE_SECONDS if up else 0.0)
            self._wait(call)
        self._stop()

    # ------------------------------------------------------------------------------------------------------ within

    def _stop(self) -> None:
        self._closing = True
        with self._changed:
            self._session.end("the link is closed")
            self._changed.notify_all()
        self._transport.close()
        if threading.current_thread() is not self._reader:
            self._reader.join(5.0)

    def _now(self) -> float:
        return time.monotonic()

    def _wait(self, call: Call) -> None:
        """Until it is done: write what is to be sent, and keep the session's time."""
        self._waiting += 1
        try:
            while not call.done:
                self._flush()
                with self._changed:
                    now = time.monotonic()
                    if not call.done and not self._session.has_output:
                        self._changed.wait(min(max(self._session.timer - now, 0.0), READ_SECONDS))
                        now = time.monotonic()
                    if now >= self._session.timer:
                        self._session.tick(now)
        finally:
            self._waiting -= 1
            with self._changed:
                self._changed.notify_all()

    def _flush(self) -> None:
        with self._writing:
            with self._changed:
                data = self._session.output()
            if not data:
                return
            try:
                self._transport.write(data)
            except OSError as error:
                with self._changed:
                    self._session.disconnected(time.monotonic(), str(error))

    def _read(self) -> None:
        while not self._closing:
            if self._session.state is State.DOWN and not self._reopened():
                continue
            try:
                data = self._transport.read(READ_SECONDS)
            except OSError as error:
                with self._changed:
                    if self._session.state is not State.DOWN:
                        self._session.disconnected(time.monotonic(), str(error))
                    self._changed.notify_all()
                continue
            with self._changed:
                now = time.monotonic()
                if data:
                    self._session.received(now, data)
                if now >= self._session.timer:
                    self._session.tick(now)
                self._changed.notify_all()
                mine = not self._waiting and self._session.has_output
            if mine:
                self._flush()

    def _reopened(self) -> bool:
        """Open the line again where somebody waits for it, and not at once where nothing was answered on the last ones."""
        with self._changed:
            if not self._session.busy or time.monotonic() < self._open_at:
                self._changed.wait(READ_SECONDS)
                self._tick()
                return False
        self._transport.close()
        try:
            self._transport.open()
        except OSError as error:
            with self._changed:
                self._session.disconnected(time.monotonic(), str(error))
                self._open_at = time.monotonic() + REOPEN_SECONDS
                self._tick()
            return False
        with self._changed:
            if self._closing:
                self._transport.close()
                return False
            self._fruitless = 0 if self._session.answered != self._answered else self._fruitless + 1
            self._answered = self._session.answered
            self._open_at = time.monotonic() + pause(self._fruitless)
            self._session.connected(time.monotonic())
            self._changed.notify_all()
        return True

    def _tick(self) -> None:
        now = time.monotonic()
        if now >= self._session.timer:
            self._session.tick(now)
            self._changed.notify_all()
