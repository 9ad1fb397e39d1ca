"""Sessions over bad lines, under a clock of their own: nothing is lost, nothing runs twice, nothing takes for ever."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from contextlib import suppress

import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule
from simulated import HELLO, KEY, Memory, Simulated, number, one_frame

from pimchip.errors import (
    DeviceError,
    InputError,
    LinkError,
    LongFrameError,
    PimchipError,
    ProtocolError,
    RestartedError,
    TransferError,
)
from pimchip.link.calls import State
from pimchip.link.constants import MAX_CHUNKS, Kind, Op, Region, Status
from pimchip.link.faults import KINDS, BadLine, parse_faults
from pimchip.link.frames import Decoder, Frame
from pimchip.link.incoming import Incoming
from pimchip.link.messages import HelloReply, LogHead, StreamHead
from pimchip.link.server import Line, Server
from pimchip.link.session import Session
from pimchip.link.transfers import read_region, write_region

RATES = {"flip": 1e-6, "lose": 1e-6, "split": 0.01, "stall": 1e-3, "disconnect": 1e-3}
"""Of faults that a rate of 0.001 would make the whole story: those of bytes hit every fourth frame."""


def content(size: int, seed: int = 0) -> bytes:
    return np.random.default_rng(seed).integers(0, 256, size, dtype=np.uint8).tobytes()


def keep_on(link: Simulated, region: Region, data: bytes, tries: int = 200) -> None:
    """Write a region whatever restarts."""
    for _ in range(tries):
        try:
            write_region(link, region, 0, data)
            return
        except RestartedError:
            pass
    raise AssertionError("it never got through")


def keep_on_in_parts(link: Simulated, data: bytes, *, read_back: bool = True) -> None:
    """Write as many regions as it takes for each to be moved in frames of the size that the line carries, and read them back,
    whatever restarts."""
    for _ in range(200):
        with suppress(RestartedError):
            at = 0
            while at < len(data):
                part = data[at : at + link.largest_transfer]
                write_region(link, Region.MAP8, at, part, (1, 1, 1, len(part)))
                assert not read_back or read_region(link, Region.MAP8, at, len(part)) == part
                at += len(part)
            assert maps_of(link) == data
            return
    raise AssertionError("it never got through")


def maps_of(link: Simulated) -> bytes:
    """What the memory holds of them, in order."""
    assert isinstance(link.backend, Memory)
    return b"".join(link.backend.held[key] for key in sorted(link.backend.held))


class TestFaults:
    @pytest.mark.parametrize("kind", [k for k in KINDS if k != "kill"])
    @pytest.mark.parametrize("seed", [1, 2])
    def test_memory_is_the_file_and_nothing_ran_twice(self, kind: str, seed: int) -> None:
        rate = {"flip": 1e-4, "lose": 1e-4, "split": 0.05}.get(kind, 0.03)
        link = Simulated({kind: rate}, seed)
        data = content(400_000, seed)
        begun = link.now
        write_region(link, Region.CELLS, 0, data)
        for n in range(300):
            assert link.request(Op.FREE, number(n)) == b""
        assert read_region(link, Region.CELLS, 0, len(data)) == data
        assert isinstance(link.backend, Memory)
        assert link.backend.held[Region.CELLS, 0] == data
        assert link.backend.runs == [number(n) for n in range(300)]
        assert set(link.executed.values()) == {1}
        assert link.there.counts[kind] > 3 and link.now - begun < 120

    @pytest.mark.study
    @pytest.mark.parametrize("kind", [*KINDS, "all"])
    def test_ten_megabytes_and_ten_thousand_runs(self, kind: str) -> None:
        """Each at a thousandth of a byte or frame, and all together but for restarts, which lose all that is there: what takes
        N frames is whole before the next with a chance of exp(-N / 1000), and bytes' faults leave 10 MB no less than 40,000.
        So they are a thousand times as rare until the memory was compared."""
        rates = dict.fromkeys(KINDS, 1e-3) | {"kill": 1e-6} if kind == "all" else {kind: 1e-3}
        link, data = Simulated(rates, 4), content(10_000_000, 4)
        begun, told = link.now, 0
        keep_on_in_parts(link, data, read_back=kind != "kill")  # twice as many frames are hardly ever through
        programmed = link.now - begun
        link.there.rates = {**rates, "kill": 1e-3} if "kill" in rates else rates
        runs_begin = link.now
        for n in range(10_000):
            try:
                assert link.request(Op.FREE, number(n)) == b""
            except RestartedError:
                told += 1
        assert set(link.executed.values()) == {1} and all(call.done for call in link.calls)
        assert sum(call.error is None for call in link.calls) == link.session.answered
        assert isinstance(link.backend, Memory)
        assert told <= link.backend.resets and (told > 0) == (kind in ("kill", "all"))
        if not told:
            assert link.backend.runs == [number(n) for n in range(10_000)]
        print(
            f"{kind}: 10 MB in {programmed:.0f} s, 10^4 RUNs in {link.now - runs_begin:.0f} s, frames of"
            f" {link.largest_part}, {link.backend.resets} restarts, {told} told in RUNs; {link.statistics}"
        )
        assert link.now - begun < 3600

    @pytest.mark.parametrize("seed", range(1, 4))
    def test_a_small_program_gets_through_every_kind_at_a_thousandth_at_once(self, seed: int) -> None:
        link, data = Simulated(dict.fromkeys(KINDS, 1e-3), seed), content(20_000, seed)
        begun, wanted, resets = link.now, list[bytes](), 0
        keep_on_in_parts(link, data)
        assert isinstance(link.backend, Memory)
        for n in range(1000):
            try:
                assert link.request(Op.FREE, number(n)) == b""
                wanted.append(number(n))
            except RestartedError:
                wanted.clear()
                resets += 1
                keep_on_in_parts(link, data)
        if link.backend.resets == link.session.boots:  # the last one was noticed
            assert link.backend.runs == wanted and maps_of(link) == data
        assert set(link.executed.values()) == {1} and all(call.done for call in link.calls)
        assert sum(call.error is None for call in link.calls) == link.session.answered
        assert link.largest_part in (64, 256) and link.now - begun < 240
        assert all(count > 0 for kind, count in link.there.counts.items() if kind in ("flip", "lose", "drop", "split"))

    @pytest.mark.parametrize("kind", ["flip", "lose"])
    def test_lines_that_damage_nearly_every_long_frame_get_short_ones(self, kind: str) -> None:
        link, data = Simulated({kind: 1e-3}, 2), content(60_000)
        begun = link.now
        write_region(link, Region.CELLS, 0, data)
        assert link.largest_part in (64, 256) and read_region(link, Region.CELLS, 0, len(data)) == data
        assert set(link.executed.values()) == {1} and link.now - begun < 120

    def test_all_together(self) -> None:
        rates = dict.fromkeys(KINDS, 1e-3) | RATES
        for seed in range(3):
            link = Simulated(rates, seed)
            data = content(1_000_000, seed)
            begun, told = link.now, 0
            keep_on(link, Region.CELLS, data)
            for n in range(1000):
                try:
                    link.request(Op.FREE, number(n))
                except RestartedError:
                    told += 1
                    keep_on(link, Region.CELLS, data)
            assert isinstance(link.backend, Memory)
            assert link.backend.held[Region.CELLS, 0] == data and set(link.executed.values()) == {1}
            assert link.backend.resets == link.session.boots >= told
            assert link.now - begun < 600
            assert all(call.done for call in link.calls)

    def test_the_same_seed_gives_the_same_faults(self) -> None:
        outcomes = []
        for _ in range(2):
            link = Simulated({"drop": 0.05, "flip": 1e-5}, 3)
            write_region(link, Region.CELLS, 0, content(200_000))
            outcomes.append((link.there.counts, link.now, link.statistics.retransmits))
        assert outcomes[0] == outcomes[1] and outcomes[0][2] > 0

    @pytest.mark.parametrize(
        "text", ["", "7", "x:drop=0.1", "7:drop", "7:drop=2", "7:drop=-1", "7:drop=nan", "7:dorp=0.1"]
    )
    def test_wrong_faults_are_named(self, text: str) -> None:
        with pytest.raises(InputError, match="fault"):
            parse_faults(text)

    def test_faults_are_read(self) -> None:
        assert parse_faults("7:drop=0.001,flip=1e-5") == (7, {"drop": 0.001, "flip": 1e-5})
        with pytest.raises(InputError, match="did you mean 'drop'"):
            BadLine(0, {"dorp": 0.1})


def carrying(link: Simulated, longest: int) -> Simulated:
    """The link, over a line that loses every frame of more bytes, and no other."""
    for line in (link.there, link.back):
        push = line.push

        def short(now: float, data: bytes, push: Callable[[float, bytes], None] = push) -> None:
            for frame in data.split(b"\0")[:-1]:
                if len(frame) < longest:
                    push(now, frame + b"\0")

        line.push = short  # type: ignore[method-assign]
    return link


class TestLongFrames:
    """Lines that carry short frames, of up to HELLO's reply, and no others."""

    @pytest.mark.parametrize(("longest", "part"), [(5000, 4096), (2000, 1024), (400, 256), (250, 64)])
    def test_parts_become_as_short_as_the_line_asks_for(self, longest: int, part: int) -> None:
        link, data = carrying(Simulated(), longest), content(9000)
        begun = link.now
        write_region(link, Region.CELLS, 0, data)
        assert (link.largest_part, link.backend.held[Region.CELLS, 0]) == (part, data)  # type: ignore[attr-defined]
        written = link.now
        assert read_region(link, Region.CELLS, 0, len(data)) == data and link.now - written < 1.0
        link.largest_part = 4096
        assert read_region(link, Region.CELLS, 0, len(data)) == data and link.largest_part == part
        assert link.statistics.reconnects == 0 and link.now - begun < 90
        assert set(link.executed.values()) == {1}

    def test_a_transfer_that_can_have_no_shorter_ones_ends_and_says_what_it_is(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("pimchip.link.transfers.MAX_CHUNKS", 10)
        link = carrying(Simulated(), 400)
        begun = link.now
        with pytest.raises(LongFrameError, match="short frames get through, those with 896 bytes .* were lost 3 times"):
            write_region(link, Region.CELLS, 0, content(8500))
        assert link.now - begun < 90 and not link.session.busy
        write_region(link, Region.CELLS, 0, content(2000))

    def test_and_where_some_get_through_only_the_others_are_sent_again(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("pimchip.link.transfers.MAX_CHUNKS", 40)
        link, data = Simulated({"flip": 1e-3}, 6), content(40_000)
        link.largest_part = 64
        assert write_region(link, Region.CELLS, 0, data) > 40  # it was given up meanwhile, more than once
        assert sum(op == Op.WRITE for _, _, _, op in link.executed) == 40
        assert link.backend.held[Region.CELLS, 0] == data  # type: ignore[attr-defined]

    def test_a_line_that_carries_nothing_is_down_and_no_long_frames_are_blamed(self) -> None:
        link = Simulated()
        link.request(Op.LINK)
        link.there.rates = {"drop": 1.0}
        begun = link.now
        with pytest.raises(LinkError, match="check its power and cable") as caught:
            write_region(link, Region.CELLS, 0, content(9000))
        assert not isinstance(caught.value, LongFrameError) and link.largest_part == 4096
        assert 5 < link.now - begun < 45

    def test_a_slow_device_answers_before_hello_and_keeps_its_long_frames(self) -> None:
        link, data = Simulated(), content(60_000)
        link.request(Op.LINK)
        link.latency = 0.5  # a second's silence, after replies in 2 ms
        link.statistics.trip.per_byte = 1e-9
        write_region(link, Region.CELLS, 0, data)
        assert link.statistics.retransmits > 3 and link.largest_part == 4096
        assert set(link.executed.values()) == {1}


class TestTransfers:
    def test_a_cut_transfer_goes_on_where_it_was_for_another_host(self) -> None:
        data = content(300_000)
        chunks = -(-len(data) // 4096)
        first = Simulated()
        with pytest.raises(_Stop):
            write_region(_Stopping(first, 40), Region.CELLS, 0, data)
        had = sum(byte.bit_count() for byte in first.server._incoming.bitmap)
        assert 30 <= had < chunks
        first.server.hung_up(first.line)
        second = Simulated(server=first.server, identity=78, now=first.now)
        assert write_region(second, Region.CELLS, 0, data) == chunks - had
        assert first.backend.held[Region.CELLS, 0] == data  # type: ignore[attr-defined]

    @pytest.mark.parametrize("at", range(0, 90, 3))
    def test_the_line_may_be_cut_at_any_moment(self, at: int) -> None:
        link, data = Simulated(latency=0.004), content(250_000)
        cut_at = link.now + at / 1000
        step = link.step

        def cutting(until: float = float("inf")) -> None:
            step(min(until, cut_at) if link.now < cut_at else until)
            if link.now >= cut_at and link.up_at < cut_at:
                link.cut()

        link.step = cutting  # type: ignore[method-assign]
        sent = write_region(link, Region.CELLS, 0, data)
        assert link.backend.held[Region.CELLS, 0] == data  # type: ignore[attr-defined]
        assert sent == -(-len(data) // 4096) and set(link.executed.values()) == {1}

    def test_another_transfer_starts_anew(self) -> None:
        link = Simulated()
        with pytest.raises(_Stop):
            write_region(_Stopping(link, 20), Region.CELLS, 0, content(200_000, 1))
        write_region(link, Region.CELLS, 0, content(200_000, 2))
        assert link.backend.held[Region.CELLS, 0] == content(200_000, 2)  # type: ignore[attr-defined]

    def test_only_commit_makes_data_live(self) -> None:
        link = Simulated()
        write_region(link, Region.CELLS, 0, b"old" * 100)
        with pytest.raises(_Stop):
            write_region(_Stopping(link, 30), Region.CELLS, 0, content(200_000))
        assert read_region(link, Region.CELLS, 0, 300) == b"old" * 100

    def test_too_much_and_nothing_are_refused(self) -> None:
        link = Simulated()
        for data in (b"", bytes(MAX_CHUNKS * 4096 + 1)):
            with pytest.raises(InputError, match="a transfer of"):
                write_region(link, Region.CELLS, 0, data)

    def test_a_device_that_damages_what_it_gets_fails_by_name(self, monkeypatch: pytest.MonkeyPatch) -> None:
        link = Simulated()
        write = Incoming.write
        monkeypatch.setattr(Incoming, "write", lambda self, data, offset: write(self, bytes(len(data)), offset))
        with pytest.raises(TransferError, match=r"transfer to CELLS failed 3 times: TRANSFER_CRC \(link: "):
            write_region(link, Region.CELLS, 0, content(10_000))


class _Stop(BaseException):
    """As Ctrl-C."""


class _Stopping:
    """A link that is interrupted after some requests."""

    def __init__(self, link: Simulated, after: int) -> None:
        self._link, self._after = link, after

    def __getattr__(self, name: str) -> object:
        return getattr(self._link, name)

    def ask_many(self, op: Op, items: object) -> Iterator[object]:
        for count, reply in enumerate(self._link.ask_many(op, items)):  # type: ignore[arg-type]
            if op is Op.WRITE and count >= self._after:
                raise _Stop
            yield reply


class TestTime:
    def test_a_lost_request_is_sent_again_after_the_round_trip_time(self) -> None:
        link = Simulated(latency=0.002)
        for _ in range(50):
            link.request(Op.ECHO, b"x")
        trip = link.statistics.trip
        assert trip.srtt == pytest.approx(0.004, rel=0.01) and trip.rto == 0.025
        link.there.rates = {"drop": 1.0}
        call = link.session.submit(link.now, Op.ECHO, b"y")
        begun = link.now
        sent = []
        while not call.done and link.now < begun + 0.5:
            before = link.statistics.retransmits
            link.step()
            if link.statistics.retransmits > before:
                sent.append(round(link.now - begun, 3))
        assert sent == [0.025, 0.075, 0.175, 0.375]

    @pytest.mark.parametrize("rate", [11_520, 20_000, 1_200_000])
    def test_a_slow_line_is_not_filled_with_copies(self, rate: int) -> None:
        """Short requests are answered in milliseconds, yet a window takes seconds to go over."""
        link, data = Simulated(rate=rate), content(10 * rate)
        for _ in range(20):
            link.request(Op.ECHO, b"x")
        begun = link.now
        write_region(link, Region.CELLS, 0, data)
        assert link.statistics.retransmits == 0 and link.session.state is State.OPEN
        assert link.now - begun < 10 * 1.02
        link.request(Op.ECHO, b"x")
        assert link.statistics.trip.rto < 0.03

    def test_a_silent_device_is_an_error_within_bounds_that_names_what_was_tried(self) -> None:
        link = Simulated()
        link.request(Op.LINK)
        link.there.rates = {"drop": 1.0}
        begun = link.now
        with pytest.raises(
            LinkError, match=r"simulated: .*; check its power and cable \(link: \d+ requests, \d+ sent again"
        ):
            link.request(Op.ECHO)
        assert 5 < link.now - begun < 45

    def test_a_slow_op_is_waited_for_and_not_run_again(self) -> None:
        link = Simulated()
        link.request(Op.LINK)
        link.request(Op.FREE, number(1))
        link.latency = 3.0  # answered after six seconds, many times asked
        link.request(Op.FREE, number(2))
        assert link.statistics.retransmits > 2 and set(link.executed.values()) == {1}

    def test_the_window_keeps_memory_bounded(self) -> None:
        link, taken = Simulated(), 0

        def items() -> Iterator[tuple[bytes, int]]:
            nonlocal taken
            for n in range(2000):
                taken = n
                yield b"", 0

        replies = link.ask_many(Op.READ, items())
        next(replies)
        assert taken <= link.hello.window_frames + 8
        assert len(list(replies)) == 1999

    def test_a_full_pipe_is_not_idle(self) -> None:
        """At 16 ms each way, a window of 32 frames of 4 KiB makes one round trip in 32 ms."""
        link, data = Simulated(latency=0.016), content(4_000_000)
        link.request(Op.LINK)
        begun = link.now
        write_region(link, Region.CELLS, 0, data)
        rounds = -(-len(data) // 4096) / 32 + 3
        assert link.now - begun < rounds * 0.032 * 1.1


class TestSessions:
    def test_a_new_boot_is_told_and_nothing_of_the_call_counts(self) -> None:
        link = Simulated()
        link.request(Op.FREE, number(1))
        link.server.restart()
        with pytest.raises(RestartedError, match="simulated restarted: what was programmed .* program it again"):
            link.request(Op.FREE, number(2))
        assert link.backend.runs == []  # type: ignore[attr-defined]
        link.request(Op.FREE, number(3))
        assert link.backend.runs == [number(3)] and link.session.boots == 1  # type: ignore[attr-defined]

    def test_a_restart_while_nothing_was_asked_is_told_by_the_next_call(self) -> None:
        link = Simulated()
        link.request(Op.FREE, number(1))
        link.server.restart()
        link.cut()
        for _ in range(10):
            link.step(link.now + 0.1)
        assert link.session.state is State.OPEN
        with pytest.raises(RestartedError):
            link.request(Op.FREE, number(2))
        link.request(Op.FREE, number(3))

    def test_the_same_boot_goes_on_with_the_session(self) -> None:
        link = Simulated()
        link.request(Op.FREE, number(1))
        for n in range(2, 6):
            link.cut()
            link.request(Op.FREE, number(n))
        assert link.backend.runs == [number(n) for n in range(1, 6)]  # type: ignore[attr-defined]
        assert link.session.boots == 0 and link.backend.owners == 1  # type: ignore[attr-defined]

    def test_one_host_at_a_time(self) -> None:
        one = Simulated()
        one.request(Op.LINK)
        two = Simulated(server=one.server, identity=78, now=one.now)
        two.session.patience = 1.0
        with pytest.raises(LinkError, match="simulated refuses: OWNED; close it there"):
            two.request(Op.LINK)
        three = Simulated(server=one.server, identity=79, now=one.now + 6)
        three.request(Op.LINK)
        one.now = three.now
        with pytest.raises(LinkError, match="another host took the board meanwhile"):
            one.request(Op.FREE, number(1))
        three.request(Op.FREE, number(2))
        assert one.backend.runs == [number(2)]  # type: ignore[attr-defined]

    def test_a_token_is_asked_for(self) -> None:
        server = Server(Memory(), token=b"t" * 32)
        link = Simulated(server=server)
        with pytest.raises(LinkError, match="refuses: TOKEN; give the token"):
            link.request(Op.LINK)
        known = Simulated(server=server)
        known.session.token = b"t" * 32
        known.request(Op.LINK)

    def test_a_closed_session_does_not_come_back(self) -> None:
        link = Simulated()
        link.request(Op.LINK)
        old = Frame(Kind.REQUEST, Op.HELLO, 0, 77, 0, HELLO).encode()
        link.request(Op.CLOSE)
        reply = one_frame(link.server.feed(Line(), link.now, old))
        assert reply.status == Status.STALE

    def test_an_owner_that_stays_ends_the_wait_of_one_that_lost_the_board(self) -> None:
        one = Simulated()
        one.request(Op.LINK)
        one.session.patience = 2.0
        Simulated(server=one.server, identity=78, now=one.now + 6).request(Op.LINK)
        one.now += 6
        began = one.now
        one.server.hung_up = lambda line: None  # type: ignore[method-assign]
        known = one.server._ended
        known.clear()  # as a device that remembers no more: HELLO is answered with OWNED, not STALE
        with pytest.raises(LinkError, match="simulated refuses: OWNED"):
            one.request(Op.FREE, number(1))
        assert one.now - began < 3.0

    def test_a_late_hello_does_not_hide_a_restart(self) -> None:
        """The line gives a copy of HELLO to a device that restarted: the session is open there, but its frames are others."""
        link = Simulated()
        link.request(Op.FREE, number(1))
        link.server.restart()
        late = Frame(Kind.REQUEST, Op.HELLO, 0, 77, 1, HELLO).encode()
        link.back.push(link.now, link.server.feed(link.line, link.now, late))
        with pytest.raises(RestartedError, match="may have been done or not"):
            link.request(Op.FREE, number(2))
        assert link.backend.runs == []  # type: ignore[attr-defined]
        link.request(Op.FREE, number(3))
        assert link.backend.runs == [number(3)]  # type: ignore[attr-defined]

    def test_a_late_hello_of_long_ago_does_not_close_the_board_to_its_host(self) -> None:
        """It opens the session in the new boot under a number that the host has long passed."""
        link = Simulated()
        link.request(Op.FREE, number(1))
        link.session._next_seq = 40_000
        link.server._replies.newest = 39_999
        link.request(Op.FREE, number(2))
        link.server.restart()
        late = Frame(Kind.REQUEST, Op.HELLO, 0, 77, 1, HELLO).encode()
        link.back.push(link.now, link.server.feed(link.line, link.now, late))
        with pytest.raises(RestartedError):
            link.request(Op.FREE, number(3))
        began = link.now
        link.request(Op.FREE, number(4))
        assert link.backend.runs == [number(4)] and link.now - began < 1  # type: ignore[attr-defined]

    def test_a_late_request_of_another_boot_is_not_executed(self) -> None:
        link = Simulated()
        sent = []
        push = link.there.push
        link.there.push = lambda now, data: (sent.append(data), push(now, data))  # type: ignore[func-returns-value, method-assign]
        for n in range(3):
            link.request(Op.FREE, number(n))
        link.server.restart()
        with pytest.raises(RestartedError):
            link.request(Op.FREE, number(3))
        runs = list(link.backend.runs)  # type: ignore[attr-defined]
        for late in sent:
            link.server.feed(link.line, link.now, late)
        assert link.backend.runs == runs == []  # type: ignore[attr-defined]
        link.request(Op.FREE, number(4))
        assert link.backend.runs == [number(4)]  # type: ignore[attr-defined]

    def test_a_late_answer_to_another_hello_is_none(self) -> None:
        link = Simulated()
        answers = []
        push = link.back.push
        link.back.push = lambda now, data: (answers.append(data), push(now, data))  # type: ignore[func-returns-value, method-assign]
        link.request(Op.LINK)
        link.server.restart()
        with pytest.raises(RestartedError):
            link.request(Op.LINK)
        link.cut()
        while link.session.state is State.DOWN:
            link.step(link.now + 0.01)
        assert link.session.state is State.GREETING
        for late in answers:
            link.session.received(link.now, late)
        link.request(Op.LINK)
        assert link.session.boots == 1

    def test_requests_count_only_on_the_line_that_was_greeted(self) -> None:
        link = Simulated()
        link.request(Op.LINK)
        stranger = Frame(Kind.REQUEST, Op.FREE, link.session._next_seq, link.hello.key, 0, number(1)).encode()
        assert one_frame(link.server.feed(Line(), link.now, stranger)).status == Status.STALE
        assert link.backend.runs == []  # type: ignore[attr-defined]

    def test_numbers_wrap_around(self) -> None:
        link = Simulated({"drop": 0.02, "duplicate": 0.02}, 5)
        link.session._next_seq = 65_500
        for n in range(200):
            link.request(Op.FREE, number(n))
        assert link.backend.runs == [number(n) for n in range(200)]  # type: ignore[attr-defined]


class TestClosing:
    """CLOSE while the device is at something long, which nobody waits for any more."""

    def at_work(self) -> Simulated:
        link = Simulated()
        link.request(Op.LINK)
        link.there.rates = {"drop": 1.0}
        link.session.submit(link.now, Op.FREE, number(1))
        link.session.submit(link.now, Op.FREE, number(2))
        link.step(link.now)
        return link

    def test_it_does_not_wait_for_what_is_under_way_and_nothing_else_is_sent_any_more(self) -> None:
        link = self.at_work()
        call = link.session.close(link.now, 2.0)
        sent = [one_frame(part + b"\0") for part in link.session.output().split(b"\0")[:-1]]
        assert [frame.op for frame in sent] == [Op.CLOSE]
        link.there.rates = {}
        retransmits = link.statistics.retransmits
        begun = link.now
        while not call.done:
            link.step(begun + 3.0)
        assert call.error is None and call.status is Status.OK and link.now - begun < 1.0
        assert link.statistics.retransmits - retransmits <= 2  # of CLOSE
        assert link.backend.runs == []  # type: ignore[attr-defined]

    def test_what_comes_late_after_it_is_not_executed(self) -> None:
        link = self.at_work()
        held = Frame(Kind.REQUEST, Op.FREE, link.session._next_seq - 1, link.session._key, 0, number(1)).encode()
        call = link.session.close(link.now, 2.0)
        link.there.rates = {}
        link._wait(call)
        answer = one_frame(link.server.feed(link.line, link.now, held))
        assert (answer.status, link.backend.runs) == (Status.STALE, [])  # type: ignore[attr-defined]
        link.session.received(link.now, answer.encode())
        assert link.session.state is State.OPEN  # no new greeting of a session that was closed

    def test_it_is_given_up_where_nobody_answers(self) -> None:
        link = self.at_work()
        call = link.session.close(link.now, 2.0)
        begun = link.now
        link._wait(call)
        assert isinstance(call.error, LinkError) and link.now - begun == pytest.approx(2.0)

    def test_it_is_sent_where_a_restart_was_told_to_nobody(self) -> None:
        """The board must come to rest, whatever it lost."""
        link = Simulated()
        link.request(Op.LINK)
        link.server.restart()
        link.cut()
        for _ in range(10):
            link.step(link.now + 0.1)
        assert link.session.boots == 1
        call = link.session.close(link.now, 2.0)
        link._wait(call)
        assert call.error is None and link.backend.rests == 1  # type: ignore[attr-defined]


class TestBatches:
    """PROGRAMs and VERIFYs are under way together where they were asked together, and never with what came before."""

    HELLO = HelloReply(1, 0, 8, 40_000, 4096, 4, 0, 1, KEY, bytes(8), bytes(32), b"c", b"u")

    def session(self) -> Session:
        session = Session(9, "board")
        session.connected(0.0)
        session.received(0.0, Frame(Kind.REPLY, Op.HELLO, 0, 9, 1, self.HELLO.pack()).encode())
        session.output()
        return session

    def sent(self, session: Session) -> list[tuple[int, int]]:
        return [(f.op, f.seq) for f in Decoder().feed(session.output())]

    def reply(self, session: Session, now: float, op: Op, seq: int, status: Status = Status.OK) -> None:
        payload = bytes(4) if op is Op.VERIFY and not status else b""
        session.received(now, Frame(Kind.REPLY, op, seq, KEY, 0, payload, status).encode())

    @pytest.mark.parametrize("op", [Op.PROGRAM, Op.VERIFY])
    def test_what_was_given_up_is_waited_for(self, op: Op) -> None:
        session = self.session()
        for batch in ("first", "first", "second", None, None):
            session.submit(0.0, op, bytes(24), batch=batch)
        for wanted in ([1, 2], [3], [4], [5]):
            found = self.sent(session)
            assert found == [(op, seq) for seq in wanted]
            for seq in wanted:
                assert self.sent(session) == []
                self.reply(session, 0.1, op, seq)

    @pytest.mark.parametrize("op", [Op.PROGRAM, Op.VERIFY])
    def test_a_full_window_leaves_room_for_close(self, op: Op) -> None:
        session = self.session()
        for _ in range(20):
            session.submit(0.0, op, bytes(24), batch="all")
        assert self.sent(session) == [(op, seq) for seq in range(1, 8)]
        close = session.close(0.1, 2.0)
        assert self.sent(session) == [(Op.CLOSE, 8)]
        self.reply(session, 0.2, Op.CLOSE, 8)
        assert close.done and close.error is None

    def test_what_a_busy_board_refused_is_not_asked_again_while_it_is_closed(self) -> None:
        session = self.session()
        calls = [session.submit(0.0, Op.WRITE, bytes(64), 64 * n) for n in range(8)]
        self.sent(session)
        close = session.close(0.1, 2.0)
        assert self.sent(session) == []  # the window is full
        frame = Frame(Kind.REPLY, Op.WRITE, 1, KEY, 0, b"", Status.BUSY)
        session.received(0.1, frame.encode())
        assert self.sent(session) == [(Op.CLOSE, 9)]
        assert "the link is closed" in str(calls[0].error) and not close.done

    def test_a_busy_board_that_is_at_something_long_costs_no_time_of_the_host(self) -> None:
        """It does the first, and refuses the others: they wait for room in the window, not for a clock."""
        session = self.session()
        calls = [session.submit(0.0, Op.PROGRAM, bytes(24), batch="all") for _ in range(7)]
        now, ticks = 0.0, 0
        while now < 20.0:
            for op, seq in self.sent(session):
                if seq != 1:
                    self.reply(session, now, Op(op), seq, Status.BUSY)
            now = max(now, session.timer)
            ticks += 1
            session.tick(now)
            assert ticks < 500
        assert not any(call.done for call in calls)
        self.reply(session, now, Op.PROGRAM, 1)
        assert calls[0].done and self.sent(session)

    def test_nothing_is_sent_that_nobody_waits_for(self) -> None:
        link = Simulated()
        link.request(Op.LINK)
        asked = link.ask_many(Op.FREE, [(number(n), 0) for n in range(9)])
        next(asked)
        asked.close()  # type: ignore[attr-defined]
        link.request(Op.FREE, number(99))
        assert link.backend.runs in ([number(0), number(99)], [number(0), number(1), number(99)])  # type: ignore[attr-defined]


class TestHostileDevices:
    """A device that answers with anything: every call ends, with an error that says so, and nothing grows."""

    def session(self) -> Session:
        session = Session(9, "liar")
        session.connected(0.0)
        hello = HelloReply(1, 0, 8, 40_000, 4096, 4, 0, 1, KEY, bytes(8), bytes(32), b"c", b"u")
        session.received(0.0, Frame(Kind.REPLY, Op.HELLO, 0, 9, 1, hello.pack()).encode())
        assert session.state is State.OPEN
        session.output()
        return session

    def end(self, session: Session, call: object, data: Iterator[bytes], until: float = 60.0) -> float:
        now = 0.0
        while not call.done and now < until:  # type: ignore[attr-defined]
            now += 0.05
            session.received(now, next(data))
            if now >= session.timer:
                session.tick(now)
            if session.state is State.DOWN:
                session.connected(now)
            session.output()
        return now

    @pytest.mark.parametrize(
        "flood",
        [
            b"\x55" * 50_000,
            b"\0" * 50_000,
            Frame(Kind.REPLY, Op.ECHO, 999, KEY).encode() * 500,
            Frame(Kind.LOG, 0, 3, KEY, 0, LogHead(0, 0, 3, bytes(3)).pack() + b"spam").encode() * 500,
            Frame(Kind.STREAM, 0, 3, KEY, 1, StreamHead(0, 0, 0).pack()).encode() * 500,
            Frame(Kind.REQUEST, Op.HELLO, 1, KEY).encode() * 100,
            Frame(Kind.REPLY, Op.LINK, 1, KEY, 0, version=2).encode() * 100,
            Frame(Kind.REPLY, Op.ECHO, 1, KEY, 0, status=Status.STALE).encode() * 10,
        ],
    )
    def test_floods_do_not_keep_a_call_from_ending(self, flood: bytes) -> None:
        session = self.session()
        call = session.submit(0.0, Op.ECHO, b"x")
        ended = self.end(session, call, itertools.repeat(flood))
        assert isinstance(call.error, PimchipError) and ended < 45 and "liar" in str(call.error)
        assert len(session.log.lines) <= 1000 and len(session.statistics.decoder.kept) <= 256

    def test_busy_for_ever_ends_at_the_deadline(self) -> None:
        session = self.session()
        call = session.submit(0.0, Op.ECHO, b"x")
        busy = (
            Frame(Kind.REPLY, Op.ECHO, n, KEY, 0, status=Status.BUSY).encode()
            for n in itertools.count(1)
            for _ in range(8)
        )
        assert self.end(session, call, busy) < 45 and isinstance(call.error, DeviceError)
        said = str(call.error)  # of what is so, and not of cables
        assert (
            "liar was too busy for ECHO each of the 75 times that it was asked; wait until" in said
            and "cable" not in said
        )

    def test_what_waits_behind_others_for_too_long_is_not_blamed_on_the_cable(self) -> None:
        session = self.session()
        first = session.submit(0.0, Op.CONVERT, b"\1" * 52)
        second = session.submit(0.0, Op.ECHO, b"x", seconds=1.0)
        self.end(session, second, itertools.repeat(b""))
        assert not first.done and "ECHO was not sent: requests before it took too long" in str(second.error)
        assert "cable" not in str(second.error)

    @pytest.mark.parametrize("status", [0x7777, 0x0001])
    def test_unknown_statuses_are_errors(self, status: int) -> None:
        session = self.session()
        call = session.submit(0.0, Op.ECHO)
        session.received(0.1, Frame(Kind.REPLY, Op.ECHO, 1, KEY, status=status).encode())
        assert isinstance(call.error, ProtocolError) and f"{status:#06x}" in str(call.error)

    @pytest.mark.parametrize(("frames", "size"), [(8, 40_000), (64, 9_000), (64, 4_134)])
    def test_no_more_is_unanswered_than_the_window_takes(self, frames: int, size: int) -> None:
        session = Session(9, "slow")
        session.connected(0.0)
        session.statistics.trip.per_byte = 1e-9
        hello = HelloReply(1, 0, frames, size, 4096, 4, 0, 1, KEY, bytes(8), bytes(32), b"c", b"u")
        session.received(0.0, Frame(Kind.REPLY, Op.HELLO, 0, 9, 1, hello.pack()).encode())
        session.output()
        for n in range(100):
            session.submit(0.0, Op.WRITE, b"\1" * 4096, 4096 * n)
        sent = session.output()
        assert sent.count(b"\0") == min(frames, max(size // len(sent.split(b"\0")[0]), 1)) and len(sent) <= size

    @pytest.mark.parametrize(
        "other", [(Op.FREE, 1, KEY, 4), (Op.ECHO, 1, KEY, 5), (Op.ECHO, 2, KEY, 4), (Op.ECHO, 1, KEY + 1, 4)]
    )
    def test_replies_to_something_else_are_none(self, other: tuple[int, int, int, int]) -> None:
        session = self.session()
        call = session.submit(0.0, Op.ECHO, b"x", 4)
        session.received(0.1, Frame(Kind.REPLY, *other, b"y").encode())
        assert not call.done and session.statistics.unexpected == 1
        session.received(0.1, Frame(Kind.REPLY, Op.ECHO, 1, KEY, 4, b"x").encode())
        assert call.done and call.reply == b"x"

    def test_a_device_that_goes_on_under_another_key_is_an_error(self) -> None:
        session = self.session()
        session.disconnected(1.0, "cut")
        call = session.submit(1.0, Op.ECHO, b"x")
        session.connected(1.0)
        hello = HelloReply(1, 1, 8, 40_000, 4096, 4, 0, 1, KEY + 1, bytes(8), bytes(32), b"c", b"u")
        session.received(1.1, Frame(Kind.REPLY, Op.HELLO, 0, 9, 2, hello.pack()).encode())
        assert isinstance(call.error, ProtocolError) and "under another key" in str(call.error)

    def test_what_a_device_says_moves_no_cursor(self) -> None:
        session = self.session()
        session.received(
            0.1, Frame(Kind.LOG, 0, 0, KEY, 0, LogHead(0, 0, 3, bytes(3)).pack() + b"\x1b[2Jhot\n").encode()
        )
        assert session.log.lines[-1].text == r"\x1b[2Jhot\n"
        two = Session(9, "liar")
        two.connected(0.0)
        call = two.submit(0.0, Op.LINK)
        two.received(0.1, Frame(Kind.REPLY, Op.HELLO, 0, 9, 1, b"no\r\x07", Status.TOKEN).encode())
        assert r"refuses: no\r\x07; give the token" in str(call.error)

    def test_replies_of_a_wrong_size_are_errors(self) -> None:
        for op, size in ((Op.LINK, 15), (Op.ECHO, 257), (Op.FREE, 1)):
            session = self.session()
            call = session.submit(0.0, op)
            session.received(0.1, Frame(Kind.REPLY, op, 1, KEY, 0, bytes(size)).encode())
            assert isinstance(call.error, ProtocolError) and f"a reply of {size} bytes" in str(call.error)

    @pytest.mark.parametrize(
        "change",
        [
            {"version": 2},
            {"window_frames": 0},
            {"window_frames": 65},
            {"window_bytes": 9},
            {"max_payload": 5000},
            {"key": 0},
        ],
    )
    def test_a_hello_that_cannot_be_is_refused(self, change: dict[str, int]) -> None:
        import dataclasses

        session = Session(9, "liar")
        session.connected(0.0)
        call = session.submit(0.0, Op.LINK)
        hello = HelloReply(1, 0, 8, 40_000, 4096, 4, 0, 1, KEY, bytes(8), bytes(32), b"c", b"u")
        wrong = dataclasses.replace(hello, **change)
        session.received(0.0, Frame(Kind.REPLY, Op.HELLO, 0, 9, 1, wrong.pack()).encode())
        assert isinstance(call.error, ProtocolError) and "out of range" in str(call.error)


class Links(RuleBasedStateMachine):
    """Requests, cuts, restarts and faults in any order, against a list of what must have run."""

    def __init__(self) -> None:
        super().__init__()
        self.link = Simulated({}, 1)
        self.wanted: list[bytes] = []
        self.held: bytes | None = None
        self.count = 0
        self.restarts = 0
        self.there, self.back = list[bytes](), list[bytes]()
        for line, seen in ((self.link.there, self.there), (self.link.back, self.back)):
            line.push = self.noting(line.push, seen)  # type: ignore[method-assign]

    @staticmethod
    def noting(push: Callable[[float, bytes], None], seen: list[bytes]) -> Callable[[float, bytes], None]:
        def noted(now: float, data: bytes) -> None:
            seen.append(data)
            push(now, data)

        return noted

    def restarted(self) -> None:
        self.wanted.clear()
        self.held = None
        self.restarts = self.link.backend.resets  # type: ignore[attr-defined]

    @rule(times=st.integers(1, 5))
    def runs(self, times: int) -> None:
        for _ in range(times):
            self.count += 1
            try:
                self.link.request(Op.FREE, number(self.count))
            except RestartedError:
                self.restarted()
            else:
                self.wanted.append(number(self.count))

    @rule(size=st.integers(1, 60_000), seed=st.integers(0, 3))
    def transfers(self, size: int, seed: int) -> None:
        data = content(size, seed)
        try:
            write_region(self.link, Region.CELLS, 0, data)
        except RestartedError:
            self.restarted()
        else:
            self.held = data

    @rule()
    def reads(self) -> None:
        if self.held is not None:
            try:
                assert read_region(self.link, Region.CELLS, 0, len(self.held)) == self.held
            except RestartedError:
                self.restarted()

    @rule()
    def cuts(self) -> None:
        self.link.cut()

    @rule()
    def restarts_device(self) -> None:
        if self.link.session.hello is not None:  # before that there is nothing to lose
            self.link.server.restart()

    @rule(
        kind=st.sampled_from([k for k in KINDS if k not in ("kill", "disconnect")]), rate=st.sampled_from([0.0, 0.05])
    )
    def faults(self, kind: str, rate: float) -> None:
        if kind in ("flip", "lose"):
            rate /= 1000
        self.link.there.rates = self.link.back.rates = {kind: rate}

    @invariant()
    def nothing_ran_twice(self) -> None:
        assert all(count == 1 for count in self.link.executed.values())
        assert not self.link.session.busy

    @rule(which=st.integers(0, 1 << 16))
    def a_frame_comes_again_much_later(self, which: int) -> None:
        for frames, take in ((self.there, self.feed), (self.back, self.link.session.received)):
            if frames:
                take(self.link.now, frames[which % len(frames)])

    def feed(self, now: float, frame: bytes) -> None:
        self.link.session.received(now, self.link.server.feed(self.link.line, now, frame))

    @invariant()
    def what_was_answered_ran_once_in_order(self) -> None:
        backend = self.link.backend
        assert isinstance(backend, Memory)
        if backend.resets == self.restarts:
            assert backend.runs == self.wanted
        else:  # it restarted, and no call has noticed yet
            assert backend.runs == []


TestLinks = Links.TestCase
TestLinks.settings = settings(max_examples=40, stateful_step_count=25, deadline=None)
