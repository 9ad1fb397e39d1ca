"""The link's threads and lines: a device that hangs up, one that is at something long, streams that end."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from simulated import Memory, number

from pimchip.emulator.serve import BoardServer
from pimchip.errors import LinkError, PimchipError, RestartedError
from pimchip.link import link as link_module
from pimchip.link import session as session_module
from pimchip.link.constants import Op, Source
from pimchip.link.link import Link
from pimchip.link.server import Line, Server
from pimchip.link.transports import TcpTransport


class Slow(Memory):
    """FREE takes until it is let go on."""

    def __init__(self) -> None:
        super().__init__()
        self.at_work, self.go_on = threading.Event(), threading.Event()

    def execute(self, op: Op, payload: bytes, arg: int) -> bytes:
        self.at_work.set()
        self.go_on.wait(60)
        return super().execute(op, payload, arg)


@contextmanager
def served(backend: Memory) -> Iterator[tuple[Server, Link]]:
    """A device on TCP, in a thread, and a link to it."""
    server = Server(backend)
    board = BoardServer(server, "tcp://127.0.0.1:0")
    over = threading.Event()

    def run() -> None:
        while not over.is_set():
            board.step(0.05)

    thread = threading.Thread(target=run)
    thread.start()
    link = Link(TcpTransport("127.0.0.1", int(board.url.rpartition(":")[2])), "slow")
    try:
        yield server, link
    finally:
        link.close()
        over.set()
        thread.join()
        board.close()


def until(said: object, seconds: float = 20.0) -> bool:
    """Whether it comes to be so."""
    end = time.monotonic() + seconds
    while not said() and time.monotonic() < end:  # type: ignore[operator]
        time.sleep(0.01)
    return bool(said())  # type: ignore[operator]


def test_a_board_at_something_long_rests_right_after_it_though_its_host_is_gone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As after Ctrl-C: CLOSE is there already when the board is done, and is no matter of OWNER_IDLE_MS."""
    monkeypatch.setattr(link_module, "CLOSE_SECONDS", 0.3)
    backend = Slow()
    with served(backend) as (server, link):
        failed: list[PimchipError] = []

        def ask() -> None:
            try:
                link.request(Op.FREE, number(1))
            except PimchipError as error:
                failed.append(error)

        asking = threading.Thread(target=ask)
        asking.start()
        assert backend.at_work.wait(20)
        link.close()
        asking.join(20)
        assert isinstance(failed[0], LinkError) and backend.rests == 0
        backend.go_on.set()
        assert until(lambda: not server._open)  # by CLOSE itself
        assert backend.rests >= 1 and backend.runs == [number(1)]


def test_a_board_that_greets_and_hangs_up_is_not_called_without_a_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its HELLO is fine, so each line looks well at first; the call ends at its deadline."""
    monkeypatch.setattr(session_module, "CALL_SECONDS", 2.0)
    server, lines = Server(Memory()), []
    with socket.create_server(("127.0.0.1", 0)) as listening:
        listening.settimeout(0.1)
        over = threading.Event()

        def run() -> None:
            while not over.is_set():
                try:
                    line, _ = listening.accept()
                except TimeoutError:
                    continue
                lines.append(line)
                at = Line()
                while len(lines) > 1 and not (said := server.feed(at, time.monotonic(), line.recv(1 << 16))):
                    pass
                if len(lines) == 1:  # the first one is honest for as long as the link is being opened
                    said = b""
                    while not said or server.executed < 1:
                        said = server.feed(at, time.monotonic(), line.recv(1 << 16))
                        line.sendall(said)
                else:
                    line.sendall(said)
                server.hung_up(at)
                line.close()

        thread = threading.Thread(target=run)
        thread.start()
        try:
            link = Link(TcpTransport(*listening.getsockname()[:2]), "hangs up")
            link.request(Op.ECHO, b"x")
            with pytest.raises(LinkError, match="hangs up: "):
                link.request(Op.ECHO, b"y")
            assert 2 <= len(lines) <= 12
            link.close()
        finally:
            over.set()
            thread.join()


def test_lines_are_opened_each_two_seconds_at_least_however_many_were_of_no_use() -> None:
    assert [link_module.pause(n) for n in (0, 1, 2, 3, 4)] == pytest.approx([0.2, 0.4, 0.8, 1.6, 2.0])
    assert link_module.pause(1 << 20) == 2.0  # a stream waits for ever on a board that greets and hangs up


def test_a_stream_tells_of_a_restart() -> None:
    backend = Memory()
    with served(backend) as (server, link):
        records = link.stream(Source.PATTERN, 0.01)
        assert next(records).number == 0
        server.restart()
        with pytest.raises(RestartedError, match="slow restarted"):
            for _ in records:
                pass
        with pytest.raises(RestartedError):  # who asks next may be somebody else
            link.request(Op.FREE, number(1))
        assert next(link.stream(Source.PATTERN, 0.01)).number == 0


def test_a_stream_outlives_a_cut() -> None:
    with served(Memory()) as (_, link):
        records = link.stream(Source.PATTERN, 0.01)
        first = next(records)
        link._transport._socket.shutdown(socket.SHUT_RDWR)  # type: ignore[attr-defined]
        later = [next(records) for _ in range(100)]
        assert later[-1].number >= first.number + 100 and link.statistics.reconnects == 1
