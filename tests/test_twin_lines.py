"""Several hosts on the firmware's twin, over real sockets: who is silent is in nobody's way, and sessions decide the rest."""

from __future__ import annotations

import contextlib
import socket
import struct
import time
from collections.abc import Iterator
from pathlib import Path

import firmware
import plain_frames as wire
import pytest
from serving import twin
from test_firmware import DIES, refused

from pimchip.board import open_board
from pimchip.emulator.die import Die
from pimchip.emulator.export import export_die, write_die
from pimchip.emulator.requests import capabilities
from pimchip.emulator.state import Conditions
from pimchip.emulator.virtual import VirtualBoard
from pimchip.link.blob import pack_blob

WITHOUT = firmware.missing("gcc", "make")
pytestmark = pytest.mark.skipif(bool(WITHOUT), reason=WITHOUT)
HELLO = struct.pack("<BBHI32s", 1, 1, 0, 4096, bytes(32))
LINES = 8


@pytest.fixture
def url(sanitized: Path, tmp_path: Path) -> Iterator[str]:
    spec = DIES["bit_serial"][0]
    die = Die(spec, 0)
    board = VirtualBoard(spec, die, noise_seed=None)
    about = pack_blob(capabilities(board, lacks=("trim",)))
    write_die(tmp_path / "die", export_die(spec, die, Conditions(), noise_seed=None, description=about))
    with twin(sanitized, tmp_path / "die") as url:
        yield url


@pytest.fixture
def port(url: str) -> int:
    return int(url.rpartition(":")[2])


def silent(port: int) -> socket.socket:
    return socket.create_connection(("127.0.0.1", port), 10)


def test_a_client_that_says_nothing_keeps_nobody_out(url: str, port: int) -> None:
    with silent(port), silent(port) as half:
        half.sendall(wire.Frame(1, 0, wire.HELLO, 0, 1, 0, 9, 0, HELLO).encoded()[:20])
        with open_board(url) as board:
            assert board.info().spec == DIES["bit_serial"][0]


def test_half_a_frame_spoils_no_other_line(port: int) -> None:
    client = wire.Client.to(port)
    client.hello()
    frame = wire.Frame(1, 0, wire.ECHO, 0, 100, 0, client.key, 0, b"pieces").encoded()
    with silent(port) as other:
        for byte in frame[:-1]:
            other.sendall(bytes([byte]))
            assert client.call(wire.ECHO, b"between") == b"between"
        bad = struct.unpack("<4I", client.call(wire.LINK))[1]
        other.sendall(frame[-1:])
        # The key is the session's, but its HELLO came by another line.
        assert wire.Client(other).reply(100).status == 0x0102
        assert struct.unpack("<4I", client.call(wire.LINK))[1] == bad == 0
    client.link.close()


def test_what_never_ends_is_one_bad_frame(port: int) -> None:
    client = wire.Client.to(port)
    client.hello()
    with silent(port) as other:
        for _ in range(50):
            other.sendall(b"\1" * 4096)
            client.call(wire.ECHO, b"x")
        other.sendall(b"\0")
        for _ in range(200):
            if struct.unpack("<4I", client.call(wire.LINK))[1]:
                break
            time.sleep(0.01)
        assert struct.unpack("<4I", client.call(wire.LINK))[1] == 1
    client.link.close()


def test_another_host_is_told_who_has_it_and_gets_it_from_one_that_fell_silent(port: int) -> None:
    first, second = wire.Client.to(port), wire.Client.to(port, session=8)
    first.hello()
    assert refused(second, wire.ECHO, b"x") == 0x0102
    assert refused(second, wire.HELLO, HELLO) == 0x8106
    assert first.call(wire.ECHO, b"still mine") == b"still mine"
    time.sleep(5.2)  # OWNER_IDLE_MS and a little
    assert second.hello()["resumed"] == 0
    assert refused(first, wire.ECHO, b"x") == 0x0102
    assert refused(first, wire.HELLO, HELLO) == 0x0102
    for client in (first, second):
        client.link.close()


def test_streams_go_to_the_owner_whoever_else_asks(port: int) -> None:
    owner, other = wire.Client.to(port), wire.Client.to(port, session=8)
    owner.hello()
    owner.call(wire.STREAM, struct.pack("<II", 2000, 40), 1)
    for _ in range(30):
        assert refused(other, wire.HELLO, HELLO) == 0x8106
        other.wait(0.005)
    deadline = time.monotonic() + 20  # of a machine that has other work: the stream itself takes 80 ms
    while sum(frame.kind == 2 for frame in owner.others) < 40 and time.monotonic() < deadline:
        owner.wait(0.05)
    owner.wait(0.1)  # for what should not come
    indices = [struct.unpack("<I", frame.payload[:4])[0] for frame in owner.others if frame.kind == 2]
    assert indices == list(range(40)) and not other.others
    for client in (owner, other):
        client.link.close()


def test_too_many_lines_cost_the_one_that_was_silent_for_longest(port: int) -> None:
    owner = wire.Client.to(port)
    owner.hello()
    lines = []
    for _ in range(3 * LINES):
        lines.append(silent(port))
        assert owner.call(wire.ECHO, b"here") == b"here"
    gone = 0
    for line in lines:
        line.settimeout(0.05)
        with contextlib.suppress(TimeoutError):
            gone += line.recv(1) == b""
        line.close()
    assert gone == 2 * LINES + 1
    owner.link.close()
