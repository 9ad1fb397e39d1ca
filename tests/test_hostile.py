"""Boards that lie, flood or say nothing: an error each, within a bound of time and memory."""

from __future__ import annotations

import json
import os
import socket
import threading
import time
import tracemalloc
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest

from pimchip.board import open_board
from pimchip.board.emulated import emulated
from pimchip.board.linked import LinkBoard
from pimchip.chip import Tile
from pimchip.emulator.requests import BoardRequests, capabilities
from pimchip.errors import LinkError, PimchipError, ProtocolError
from pimchip.link import messages as m
from pimchip.link.constants import Kind, Op
from pimchip.link.frames import Frame
from pimchip.link.incoming import Incoming
from pimchip.link.inprocess import InProcessTransport
from pimchip.link.link import Link
from pimchip.link.server import Server
from pimchip.link.transports import TcpTransport

TRUE = emulated("emulator:sram65")
MEMORY = 64 << 20
"""Bytes that the host may take for whatever a board says."""


class Liar(BoardRequests):
    """An honest board, but for a blob and for replies that are put in its mouth."""

    def __init__(self, blob: bytes | None = None, **replies: bytes) -> None:
        super().__init__(TRUE.board)
        self.blob = self.blob if blob is None else blob
        self.replies = replies

    def execute(self, op: Op, payload: bytes, arg: int) -> bytes:
        return self.replies[op.name] if op.name in self.replies else super().execute(op, payload, arg)


@contextmanager
def little_memory() -> Iterator[None]:
    """Fails where the peak of what Python and NumPy allocate within is more than MEMORY."""
    tracemalloc.start()
    try:
        yield
        assert tracemalloc.get_traced_memory()[1] < MEMORY
    finally:
        tracemalloc.stop()


def board_of(liar: BoardRequests) -> LinkBoard:
    return LinkBoard(Link(InProcessTransport(Server(liar)), "liar"), "liar")


def packed(**changes: Any) -> bytes:
    """A blob with some of its content changed."""
    return zlib.compress(json.dumps(capabilities(TRUE.board()) | changes).encode())


def deep(depth: int) -> bytes:
    return zlib.compress(b"[" * depth + b"]" * depth)


BLOBS: dict[str, tuple[Callable[[], bytes], str]] = {
    "a bomb": (lambda: zlib.compress(bytes(60_000_000), 9)[:65536], "unpack to more than|cut"),
    "a bomb of JSON": (lambda: zlib.compress(b'{"a": "' + b"x" * 50_000_000 + b'"}', 9), "unpack to more than"),
    "too long": (lambda: os.urandom(65537), "capabilities of 65537 bytes, want 1 to 65536"),
    "none": (lambda: b"", "capabilities of 0 bytes"),
    "noise": (lambda: os.urandom(2000), "cannot be read"),
    "cut": (lambda: packed()[:-20], "cut"),
    "followed by more": (lambda: packed() + b"more", "followed by something else"),
    "deep": (lambda: deep(1_000_000), "cannot be read"),
    "a list": (lambda: zlib.compress(b"[1, 2]"), "are a list, not an object"),
    "no text": (lambda: zlib.compress(b"\xff\xfe{}"), "cannot be read"),
    "another chip": (lambda: packed(chip=emulated("emulator:charge-native").spec.to_dict()), "HELLO said"),
    "no chip": (lambda: packed(chip={"name": "x"}), "liar: "),
    "endless feature memory": (lambda: packed(feature_memory=1 << 60), "wrong at feature_memory"),
    "negative limits": (lambda: packed(limits={"codes": -1}), "wrong at limits.codes"),
    "huge limits": (lambda: packed(limits={"inputs": 1 << 50}), "wrong at limits.inputs"),
    "numbers as text": (lambda: packed(feature_memory="64"), "wrong at feature_memory"),
    "endless registers": (lambda: packed(registers=["x"] * (1 << 17)), "wrong at registers"),
    "a register twice": (lambda: packed(registers=["a", "a"]), "named twice"),
    "budgets of years": (lambda: packed(budgets={"conv": 1 << 50}), "wrong at budgets.conv"),
    "no number": (lambda: zlib.compress(b'{"feature_memory": NaN}'), "liar: "),
}


@pytest.mark.parametrize("name", BLOBS)
def test_capabilities_that_cannot_be_are_one_error(name: str) -> None:
    make, said = BLOBS[name]
    liar = Liar(make())
    with little_memory(), pytest.raises(ProtocolError, match=said) as error:
        board_of(liar)
    assert "liar" in str(error.value) and "\n" not in str(error.value)


def test_a_blob_that_changes_while_it_is_read_is_noticed() -> None:
    liar = Liar(packed(profile=os.urandom(800).hex()))
    server = Server(liar)
    link = Link(InProcessTransport(server), "liar")
    liar.blob = liar.blob[:-1] + bytes([liar.blob[-1] ^ 1])
    with pytest.raises(ProtocolError, match="not those that HELLO has the CRC of"):
        LinkBoard(link, "liar")


HUGE = (1 << 32) - 1
LIES: dict[str, tuple[dict[str, bytes], Callable[[LinkBoard], object]]] = {
    "a huge map": ({"MAP": m.MapReply((HUGE, HUGE, HUGE, HUGE), 0, 1).pack()}, lambda b: b.download(1)),
    "a map of nothing": ({"MAP": m.MapReply((4, 4, 100, 100), 0, 1).pack()}, lambda b: b.download(1)),
    "bounds that do not hold": ({"MAP": m.MapReply((1, 1, 1, 3), 5, -5).pack()}, lambda b: b.download(1)),
    "sums of many channels": ({"STATS": m.StatsReply(1, HUGE).pack()}, lambda b: b.stats(1)),
    "sums that are not there": ({"STATS": m.StatsReply(1, 1000).pack()}, lambda b: b.stats(1)),
    "many codes": ({"CONVERT": m.ConvertReply(HUGE, 1).pack()}, lambda b: convert(b)),
    "codes of no width": ({"CONVERT": m.ConvertReply(0, 0).pack()}, lambda b: convert(b)),
    "codes that are not there": ({"CONVERT": m.ConvertReply(8, 1).pack()}, lambda b: convert(b)),
    "a short reply": ({"CONVERT": b"\0" * 7}, lambda b: convert(b)),
    "a reply to nothing asked": ({"PROGRAM": b"done"}, lambda b: b.program(Tile(0, 0, 0, 2, 8), np.ones((2, 8), np.int8))),
    "checks that are not there": ({"VERIFY": m.VerifyReply(1).pack()}, lambda b: b.verify(Tile(0, 0, 0, 2, 8))),
}  # fmt: skip


def convert(board: LinkBoard) -> object:
    return board.convert(Tile(0, 0, 0, 4, 8), np.ones((1, 4), np.int64))


@pytest.mark.parametrize("name", LIES)
def test_replies_that_cannot_be_are_errors(name: str) -> None:
    replies, ask = LIES[name]
    with board_of(Liar(**replies)) as board:
        board.program(Tile(0, 0, 0, 2, 8), np.ones((2, 8), np.int8)) if name == "checks that are not there" else None
        with little_memory(), pytest.raises(PimchipError) as error:
            ask(board)
        assert "\n" not in str(error.value)
        assert board.temperature() == 25  # and the link goes on


def test_a_part_of_another_length_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    with board_of(Liar()) as board:
        monkeypatch.setattr(Liar, "read", lambda self, region, handle, offset, length: bytes(length + 1))
        with pytest.raises(PimchipError):
            board.counters()


def test_a_transfer_that_is_never_whole_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    with board_of(Liar()) as board:
        lie = m.BeginReply(1, 7).pack()
        monkeypatch.setattr(Incoming, "begin", lambda self, asked, most, check: lie)
        with pytest.raises(ProtocolError, match="BEGIN of 1 chunks is answered with 7 of 1"):
            board.program(Tile(0, 0, 0, 2, 8), np.ones((2, 8), np.int8))


def test_a_boot_id_that_is_another_each_time_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    """A board that says at every HELLO that it restarted."""
    server = Server(Liar())
    line = InProcessTransport(server)
    with LinkBoard(Link(line, "liar"), "liar") as board:
        server.watch = lambda boot, frame: server.restart()
        began = time.monotonic()
        with pytest.raises(LinkError, match="restarted"):
            for _ in range(20):
                board.temperature()
        assert time.monotonic() - began < 30


@contextmanager
def talking(say: Callable[[socket.socket], object]) -> Iterator[int]:
    """A port of this machine at which `say` is done with whoever comes, until the test is over."""
    over = threading.Event()
    with socket.create_server(("127.0.0.1", 0)) as listening:
        listening.settimeout(0.1)

        def serve() -> None:
            while not over.is_set():
                try:
                    line, _ = listening.accept()
                except TimeoutError:
                    continue
                with line:
                    line.settimeout(0.1)
                    try:
                        while not over.is_set():
                            say(line)
                    except OSError:
                        pass

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield listening.getsockname()[1]
        finally:
            over.set()
            thread.join(10)


FLOODS = {
    "nothing": b"",
    "no zero ever": b"\x55" * 65536,
    "zeros": bytes(65536),
    "frames of no session": Frame(Kind.REPLY, Op.HELLO, 0, 1, 0, bytes(164)).encode() * 300,
    "long frames": Frame(Kind.REPLY, Op.READ, 0, 1, 0, bytes(4096)).encode() * 16,
}


@pytest.mark.parametrize("name", FLOODS)
def test_a_board_that_only_talks_is_given_up(name: str) -> None:
    """Bounded in time by the caller's patience, however much comes."""

    def say(line: socket.socket) -> None:
        if FLOODS[name]:
            line.sendall(FLOODS[name])
        else:
            time.sleep(0.01)  # the other end's patience is what is waited for

    with talking(say) as port, little_memory():
        began = time.monotonic()
        with pytest.raises(LinkError, match="liar.*HELLO"):
            Link(TcpTransport("127.0.0.1", port), "liar", patience=1.0)
        assert time.monotonic() - began < 30


def test_a_flood_behind_an_honest_board_does_not_stop_it(monkeypatch: pytest.MonkeyPatch) -> None:
    feed = Server.feed
    flood = b"".join(FLOODS.values())
    monkeypatch.setattr(
        Server, "feed", lambda self, line, now, data: flood + b"\0" + feed(self, line, now, data) + flood
    )
    with board_of(Liar()) as board, open_board("emulator:sram65") as honest:
        for each in (board, honest):
            each.program(Tile(0, 0, 0, 144, 64), np.ones((144, 64), np.int8))
        x = np.full((3, 144), 5)
        tile = Tile(0, 0, 0, 144, 64)
        assert np.array_equal(board.convert(tile, x), honest.convert(tile, x))
        assert 0 < len(board.statistics.decoder.kept) <= 256
