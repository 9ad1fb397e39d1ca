"""What devices keep and forget, in Python and in C, under a clock of the test: numbers, sessions, restarts, silence."""

from __future__ import annotations

import ctypes
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Protocol

import firmware
import plain_frames as wire
import pytest

from pimchip.chip import ChipSpec, load_chip
from pimchip.emulator.die import Die
from pimchip.emulator.export import export_die
from pimchip.emulator.requests import BoardRequests
from pimchip.emulator.state import Conditions
from pimchip.emulator.virtual import VirtualBoard
from pimchip.link.server import Line, Server

WITHOUT = firmware.missing("gcc", "make")
HELLO = struct.pack("<BBHI32s", 1, 1, 0, 4096, bytes(32))
STALE, OWNED, NO_TRANSFER, EMPTY, TRANSFER_CRC = 0x0102, 0x8106, 0x8107, 0x0203, 0x8109
TILE = struct.pack("<5I", 0, 0, 0, 4, 8)
REPEATED = 2


class Device(Protocol):
    def feed(self, now: float, line: int, data: bytes) -> bytes: ...
    def idle(self, now: float, most: float) -> float: ...
    def rests(self) -> int: ...


class InPython:
    """The server over an emulated board."""

    def __init__(self, spec: ChipSpec) -> None:
        counted = self

        class Requests(BoardRequests):
            def safe(self) -> None:
                counted._rests += 1

        self._rests = 0
        die = Die(spec, 3)
        self._server = Server(Requests(lambda: VirtualBoard(spec, die, noise_seed=77)))
        self._lines: dict[int, Line] = {}

    def feed(self, now: float, line: int, data: bytes) -> bytes:
        at = self._lines.setdefault(line, Line())
        out = self._server.feed(at, now, data)
        self._server.answered(at, now)
        self._server.tick(now)
        for other in self._lines.values():
            out += bytes(other.out)
            other.out.clear()
        return out

    def idle(self, now: float, most: float) -> float:
        due = self._server.tick(now)
        return most if due is None else min(most, due - now)

    def rests(self) -> int:
        return self._rests


class InC:
    """The firmware's server on the test's port."""

    def __init__(self, shim: Any, spec: ChipSpec) -> None:
        image = export_die(spec, Die(spec, 3), Conditions(), noise_seed=77, description=b"about")
        self._shim = shim
        self._image, self._arena = (ctypes.c_uint64 * (len(image) // 8 + 1))(), (ctypes.c_uint64 * (1 << 19))()
        ctypes.memmove(self._image, image, len(image))
        self._out = ctypes.create_string_buffer(1 << 20)
        shim.shim_server_feed.restype = ctypes.c_size_t
        arena_size = ctypes.c_size_t(ctypes.sizeof(self._arena))
        assert shim.shim_server_begin(self._image, ctypes.c_size_t(len(image)), self._arena, arena_size)

    def feed(self, now: float, line: int, data: bytes) -> bytes:
        at = ctypes.c_uint64(round(now * 1e6))
        size = self._shim.shim_server_feed(at, line, data, ctypes.c_size_t(len(data)), self._out)
        return self._out.raw[:size]

    def idle(self, now: float, most: float) -> float:
        return float(self._shim.shim_server_idle(ctypes.c_uint64(round(now * 1e6)), round(most * 1e6))) / 1e6

    def rests(self) -> int:
        return int(self._shim.shim_server_rests())


@dataclass
class Host:
    """Who asks, one request at a time, at whatever time the test says."""

    device: Device
    now: float = 100.0
    line: int = 1
    session: int = 7
    key: int = 0
    seq: int = 1000
    unasked: list[wire.Frame] = field(default_factory=list)

    def ask(
        self, op: int, payload: bytes = b"", arg: int = 0, *, seq: int | None = None, key: int | None = None
    ) -> Any:
        """The reply to a request with the next number; None for no answer."""
        if seq is None:
            seq = self.seq = (self.seq + 1) & 0xFFFF
        return self._reply(wire.Frame(1, 0, op, 0, seq, 0, self.key if key is None else key, arg, payload))

    def hello(self, arg: int = 1, *, session: int | None = None) -> Any:
        session = self.session if session is None else session
        reply = self._reply(wire.Frame(1, 0, wire.HELLO, 0, self.seq, 0, session, arg, HELLO))
        if not reply.status:
            self.session, self.key = session, struct.unpack("<I", reply.payload[28:32])[0]
        return reply

    def send(self, frame: wire.Frame) -> list[wire.Frame]:
        out = self.device.feed(self.now, self.line, frame.encoded())
        found = []
        for part in out.split(b"\0")[:-1]:
            body = wire.unstuff(part)
            assert body is not None
            found.append(wire.Frame(*wire.HEADER.unpack(body[:16]), body[16:-4]))
        return found

    def credit(self, granted: int) -> None:
        self.unasked += self.send(wire.Frame(1, 4, 0, 0, 0, 0, self.key, 1, struct.pack("<I", granted)))

    def later(self, seconds: float) -> list[wire.Frame]:
        """What comes unasked when so much time has passed."""
        self.now += seconds
        return [f for f in self.send(wire.Frame(1, 1, 0, 0, 0, 0, 0, 0, b""))]  # no device takes a reply

    def _reply(self, frame: wire.Frame) -> Any:
        found = self.send(frame)
        self.unasked += [f for f in found if f.kind != 1]
        replies = [f for f in found if f.kind == 1]
        assert len(replies) <= 1
        return replies[0] if replies else None

    def put(self, region: int, data: bytes, shape: tuple[int, ...] = (0, 0, 0, 0), crc: int | None = None) -> int:
        import zlib

        crc = zlib.crc32(data) if crc is None else crc
        begun = self.ask(wire.BEGIN, struct.pack("<9I", region, 0, len(data), 4096, crc, *shape))
        assert not begun.status and not self.ask(wire.WRITE, data).status
        return int(self.ask(wire.COMMIT).status)

    def state(self) -> int:
        """The register that counts writes of cells."""
        reply = self.ask(wire.READ, struct.pack("<III", wire.R_REGISTERS, 0, 8))
        return int(struct.unpack("<q", reply.payload)[0])


def spec() -> ChipSpec:
    plain = load_chip("sram65").to_dict()
    plain["array"] |= {"macros": 1, "rows": 20, "columns": 24}
    plain["adc"]["per_macro"] = 6
    plain["board"]["feature_memory"] = 1 << 16
    plain["operating"]["rows"] = 18
    return ChipSpec.from_dict(plain)


@pytest.fixture(params=["Python", pytest.param("C", marks=pytest.mark.skipif(bool(WITHOUT), reason=WITHOUT))])
def device(request: pytest.FixtureRequest) -> Iterator[Device]:
    yield InPython(spec()) if request.param == "Python" else InC(request.getfixturevalue("shim"), spec())


@pytest.fixture
def host(device: Device) -> Host:
    found = Host(device)
    assert not found.hello().status
    return found


def test_a_number_that_was_passed_over_has_no_reply_of_long_ago(host: Host) -> None:
    """A WRITE that later ones overtook, 2^16 numbers after an op of its slot was answered, is executed."""
    assert host.ask(wire.ECHO, b"old", seq=2000).payload == b"old"
    for seq in (2000 + 0x7000, 2000 + 0xE000, 1999, 2003):  # 2000 to 2002 are late
        assert not host.ask(wire.LINK, seq=seq & 0xFFFF).status
    for seq in (2000, 2001, 2002):
        reply = host.ask(wire.ECHO, b"new", seq=seq)
        assert (reply.payload, reply.flags) == (b"new", 0)
        again = host.ask(wire.ECHO, b"new", seq=seq)
        assert (again.payload, again.flags) == (b"new", REPEATED)


def test_what_was_answered_within_the_window_is_answered_again_however_far_the_newest_jumps(host: Host) -> None:
    for seq in (3000, 3001, 3002):
        assert host.ask(wire.ECHO, str(seq).encode(), seq=seq).flags == 0
    assert host.ask(wire.ECHO, b"jump", seq=3006).flags == 0  # 3003 to 3005 are late
    for seq in (3000, 3001, 3002):
        reply = host.ask(wire.ECHO, str(seq).encode(), seq=seq)
        assert (reply.payload, reply.flags) == (str(seq).encode(), REPEATED)


class TestSilence:
    def test_array_and_dacs_rest_where_the_owner_is_silent_once_and_again(self, host: Host) -> None:
        device = host.device
        assert device.idle(host.now, 60.0) == pytest.approx(5.0, abs=0.01)
        host.later(4.9)
        assert device.rests() == 0 and device.idle(host.now, 60.0) == pytest.approx(0.1, abs=0.01)
        host.later(0.2)
        assert device.rests() == 1 and device.idle(host.now, 60.0) == 60.0
        host.later(100.0)
        assert device.rests() == 1
        assert not host.ask(wire.ECHO, b"x").status
        assert device.idle(host.now, 60.0) == pytest.approx(5.0, abs=0.01)
        host.later(5.1)
        assert device.rests() == 2

    def test_safe_and_close_rest_at_once_and_nobody_is_waited_for_then(self, host: Host) -> None:
        assert not host.ask(wire.SAFE).status and host.device.rests() == 1
        assert not host.ask(wire.CLOSE).status and host.device.rests() == 2
        host.later(100.0)
        assert host.device.rests() == 2 and host.device.idle(host.now, 60.0) == 60.0

    @pytest.mark.parametrize("how", ["credit", "request", "hello", "copy"])
    def test_every_frame_of_the_session_renews_the_owner(self, host: Host, how: str) -> None:
        assert not host.ask(wire.ECHO, b"x", seq=1001).status
        host.later(4.0)
        match how:
            case "credit":
                host.credit(3)
            case "request":
                host.ask(wire.LINK)
            case "hello":
                host.hello(2)
            case _:
                assert host.ask(wire.ECHO, b"x", seq=1001).flags == REPEATED
        host.later(4.0)
        other = Host(host.device, host.now, line=2, session=8)
        assert other.hello().status == OWNED and host.device.rests() == 0
        other.now += 1.1
        assert not other.hello().status and host.device.rests() <= 1

    @pytest.mark.parametrize("key", ["of nobody", "of another line"])
    def test_frames_of_others_renew_nobody(self, host: Host, key: str) -> None:
        stranger = Host(host.device, host.now, line=1, key=host.key + 1) if key == "of nobody" else Host(
            host.device, host.now, line=2, key=host.key
        )  # fmt: skip
        stranger.now += 4.0
        stranger.credit(3)
        assert stranger.ask(wire.LINK).status == STALE
        stranger.now += 1.1
        assert not Host(host.device, stranger.now, line=3, session=8).hello().status

    def test_bytes_that_are_no_frames_of_the_session_renew_nobody(self, host: Host) -> None:
        """As a line on which only noise is left: the array rests all the same, and another host gets the board."""
        assert not host.ask(wire.ECHO, b"x").status
        for _ in range(10):
            host.now += 0.51
            host.device.feed(host.now, host.line, b"\x55" * 20 + b"\0")
            host.send(wire.Frame(1, 4, 0, 0, 0, 0, host.key ^ 1, 1, bytes(4)))
        assert host.device.rests() == 1
        assert not Host(host.device, host.now, line=2, session=8).hello().status

    def test_credit_counts_on_the_line_that_was_greeted_alone(self, host: Host) -> None:
        assert not host.ask(wire.STREAM, struct.pack("<II", 10_000, 0), 1).status
        Host(host.device, host.now, line=2, key=host.key).credit(5)
        Host(host.device, host.now, line=1, key=host.key ^ 1).credit(5)
        assert host.later(0.011) == []
        host.credit(5)
        assert [f.kind for f in host.later(0.011)] == [2]


def filled(host: Host) -> None:
    """Something of everything that is forgotten now or then."""
    assert host.put(wire.R_CELLS, bytes([0, 1] * 16)) == 0
    assert not host.ask(wire.PROGRAM, TILE + struct.pack("<i", 1)).status
    assert host.put(wire.R_INPUTS, bytes(4)) == 0
    assert host.put(wire.R_MAP8, bytes(12), (1, 1, 3, 4)) == 0
    assert not host.ask(wire.MAP, struct.pack("<I", 0)).status
    assert not host.ask(wire.LOG, struct.pack("<I", 255)).status
    assert not host.ask(wire.STREAM, struct.pack("<II", 10_000, 1 << 20), 1).status
    begun = struct.pack("<9I", wire.R_CELLS, 0, 128, 64, 1, 0, 0, 0, 0)
    assert not host.ask(wire.BEGIN, begun).status and not host.ask(wire.WRITE, bytes(64)).status
    assert host.state() == 1


def bad_transfer(host: Host) -> list[wire.Frame]:
    """The log frames that a transfer with a wrong CRC sets off."""
    host.unasked.clear()
    assert host.put(wire.R_CELLS, bytes(32), crc=1) == TRANSFER_CRC
    return [f for f in host.unasked if f.kind == 3]


class TestAnotherHost:
    def test_cells_objects_and_the_transfer_stay_and_maps_streams_and_levels_go(self, host: Host) -> None:
        filled(host)
        boot = host.hello(2).payload[20:28]
        host.now += 5.1
        other = Host(host.device, host.now, line=2, session=8, seq=40_000)
        reply = other.hello()
        assert (reply.payload[1], reply.payload[20:28]) == (0, boot) and other.key != host.key
        # The transfer goes on with its chunks; its CRC is wrong, and the level is that of the start again.
        begun = other.ask(wire.BEGIN, struct.pack("<9I", wire.R_CELLS, 0, 128, 64, 1, 0, 0, 0, 0))
        assert struct.unpack("<II", begun.payload) == (2, 1)
        assert len(bad_transfer(other)) == 1
        assert other.state() == 1 and not other.ask(wire.PROGRAM, TILE + struct.pack("<i", 1)).status
        assert other.ask(wire.MAP, struct.pack("<I", 0)).status == EMPTY
        assert other.later(1.0) == []  # no records
        assert host.ask(wire.ECHO, b"late").status == STALE and host.hello(3).status == STALE

    def test_its_requests_are_executed_whatever_numbers_the_last_one_had(self, host: Host) -> None:
        assert host.ask(wire.ECHO, b"theirs", seq=1001).payload == b"theirs"
        host.now += 5.1
        other = Host(host.device, host.now, line=2, session=8, seq=1002)
        assert not other.hello().status
        reply = other.ask(wire.ECHO, b"mine", seq=1001)  # behind its newest, so it could be in the cache
        assert (reply.payload, reply.flags) == (b"mine", 0)

    def test_its_numbers_begin_with_its_hello(self, host: Host) -> None:
        assert host.ask(wire.ECHO, b"x", seq=30_000).status == 0
        host.now += 5.1
        other = Host(host.device, host.now, line=2, session=8, seq=10)
        assert not other.hello().status
        assert other.ask(wire.ECHO, b"y", seq=11).payload == b"y"  # far behind the first one's newest

    @pytest.mark.parametrize("used", [False, True])
    def test_a_newer_hello_sets_the_numbers_until_there_was_a_request(self, host: Host, used: bool) -> None:
        """Also of a session that follows one that had requests and greetings of higher numbers."""
        host.hello(9)
        assert host.ask(wire.ECHO, b"x").status == 0
        host.now += 5.1
        other = Host(host.device, host.now, line=2, session=8, seq=20_000)
        assert not other.hello(1).status
        if used:
            assert other.ask(wire.ECHO, b"x").status == 0
        other.seq = 10_000  # behind the first HELLO's
        assert other.hello(2).payload[1] == 1
        reply = other.ask(wire.ECHO, b"y", seq=10_001)
        assert (reply is None) if used else (reply.payload == b"y")


class TestReset:
    def test_all_is_gone_and_counts_begin_anew(self, host: Host) -> None:
        old, boot = host.key, host.hello(2).payload[20:28]
        other = Host(host.device, host.now + 5.1, line=2, session=8)
        assert not other.hello().status  # so session 7 has ended
        filled(other)
        assert not other.ask(wire.LOG, struct.pack("<I", 2)).status
        first = [f.seq for f in bad_transfer(other)]
        again = [f.seq for f in bad_transfer(other)]
        assert (first, again) == ([0], [1])
        assert not other.ask(wire.BEGIN, struct.pack("<9I", wire.R_INPUTS, 0, 64, 64, 1, 0, 0, 0, 0)).status
        assert not other.ask(wire.LOG, struct.pack("<I", 255)).status
        other.send(wire.Frame(1, 9, 0, 0, 0, 0, 0, 0, b""))  # of no kind: bad
        reset = other.seq + 1
        assert not other.ask(wire.RESET).status
        assert other.later(1.0) == []  # no records
        rests = host.device.rests()
        assert host.device.idle(other.now + 60, 60.0) == 60.0 and host.device.rests() == rests  # no session is open
        for key in (other.key, old, 0):
            assert other.ask(wire.ECHO, b"x", key=key).status == STALE
        assert other.ask(wire.RESET, seq=reset).status == STALE
        assert (
            other.ask(wire.ECHO, b"x", seq=reset - 100).status == STALE
        )  # not dropped as an old copy: its session is gone
        found = Host(host.device, other.now, line=2, session=7, seq=reset - 1)
        reply = found.hello()  # the ids that had ended are forgotten, and nobody owns the board
        assert (reply.payload[1], found.key in (old, other.key)) == (0, False) and reply.payload[20:28] != boot
        echo = found.ask(wire.ECHO, b"x", seq=reset)
        assert (echo.payload, echo.flags) == (b"x", 0)
        frames, bad, executed, repeated = struct.unpack("<4I", found.ask(wire.LINK).payload)
        assert (bad, executed, repeated) == (0, 1, 0) and frames <= 9
        assert found.state() == 0
        assert found.ask(wire.PROGRAM, TILE + struct.pack("<i", 1)).status == EMPTY
        assert found.ask(wire.WRITE, bytes(64)).status == NO_TRANSFER
        assert found.ask(wire.MAP, struct.pack("<I", 0)).status == EMPTY
        assert [f.seq for f in bad_transfer(found)] == [0]
        inputs = struct.pack("<6BHI", 2, 4, 4, 4, 7, 0, 1, 18) + struct.pack("<IQII", 0, 0, 1, 1)
        assert found.ask(wire.CONVERT, TILE + inputs).status == EMPTY

    def test_every_boot_has_its_own_number_and_a_reset_session_is_a_new_one(self, host: Host) -> None:
        boots = {host.hello(2).payload[20:28]}
        for n in range(3):
            assert not host.ask(wire.RESET).status
            boots.add(host.hello(3 + n).payload[20:28])
        assert len(boots) == 4
