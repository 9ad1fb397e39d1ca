"""Records and log lines that a device sends unasked: bounded by credit, and no gap goes unsaid."""

from __future__ import annotations

import pytest
from simulated import HELLO, KEY, Memory, Simulated, one_frame

from pimchip.errors import LinkError, ProtocolError, RestartedError
from pimchip.link.constants import Kind, Op, Source
from pimchip.link.frames import Decoder, Frame
from pimchip.link.messages import Credit, LogRequest, StreamHead, StreamRequest
from pimchip.link.server import Line, Server
from pimchip.link.streams import WINDOW, Stream


class TestStreams:
    def open(self) -> tuple[Simulated, Stream]:
        link = Simulated()
        stream = Stream(Source.PATTERN, 0.01, granted=WINDOW)
        link.session.open_stream(link.now, stream)
        link.request(Op.STREAM, StreamRequest(10_000, WINDOW).pack(), Source.PATTERN)
        return link, stream

    def run(self, link: Simulated, seconds: float) -> None:
        end = link.now + seconds
        while link.now < end:
            due = link.server.tick(link.now)
            if link.line.out:
                link.back.push(link.now + link.latency, bytes(link.line.out))
                link.line.out.clear()
            link.step(min(end, due or end))

    def test_records_come_in_order_while_they_are_taken(self) -> None:
        link, stream = self.open()
        found = []
        for _ in range(30):
            self.run(link, 0.1)
            found += stream.take()
        assert [r.number for r in found] == list(range(len(found))) and 290 <= len(found) <= 300
        assert all(r.gap == 0 and r.data == bytes((r.number + i) & 0xFF for i in range(64)) for r in found)

    def test_a_reader_that_is_late_is_told_how_many_were_dropped(self) -> None:
        link, stream = self.open()
        self.run(link, 3.0)
        first = stream.take()
        assert len(first) == WINDOW
        link.session.give_credit(link.now)
        self.run(link, 1.0)
        after = stream.take()
        assert after[0].number == WINDOW and after[0].dropped == pytest.approx(300 - WINDOW, abs=3)
        assert len(first) + sum(1 + r.gap for r in after) == pytest.approx(300 + WINDOW, abs=3)

    def test_lost_frames_are_gaps(self) -> None:
        link, stream = self.open()
        link.back.rates = {"drop": 0.1}
        found = []
        for _ in range(50):
            self.run(link, 0.1)
            found += stream.take()
        assert sum(1 + r.gap for r in found) == found[-1].number + 1 + found[-1].dropped
        assert sum(r.lost for r in found) == stream.lost > 10

    def test_a_stream_whose_frames_were_all_lost_goes_on(self) -> None:
        link, stream = self.open()
        link.back.rates = {"drop": 1.0}
        self.run(link, 2.0)
        assert not stream.take()
        link.back.rates = {}
        self.run(link, 2.0)
        found = stream.take()
        assert found and found[0].lost >= WINDOW

    @pytest.mark.parametrize("cut", [False, True])
    def test_a_restart_ends_them_and_the_next_call_hears_of_it_too(self, cut: bool) -> None:
        """A device that restarted sends nothing, and says nothing: silence is looked into."""
        link, stream = self.open()
        self.run(link, 0.3)
        stream.take()
        link.server.restart()
        if cut:
            link.cut()
        self.run(link, 2.0)
        assert isinstance(stream.ended, RestartedError) and link.session.boots == 1 and not link.session.streams
        with pytest.raises(RestartedError):
            link.request(Op.FREE, b"\1\0\0\0")
        link.request(Op.FREE, b"\1\0\0\0")

    def test_they_go_on_after_a_cut_that_nobody_told_of(self) -> None:
        """As of a cable that is pulled and plugged in again: the host sees no end, and the device sends elsewhere."""
        link, stream = self.open()
        self.run(link, 0.3)
        before = stream.take()
        link.server.hung_up(link.line)
        link.line = Line()
        self.run(link, 3.0)
        found = stream.take()
        assert found and stream.ended is None and link.session.boots == 0
        assert found[-1].number > before[-1].number and sum(r.gap for r in found) > 10

    def test_silence_is_looked_into_though_credit_is_given_all_the_time(self) -> None:
        """As by who waits for records, and so looks for credit before the clock does."""
        link, stream = self.open()
        self.run(link, 0.3)
        link.server.restart()
        for _ in range(5):
            self.run(link, max(stream.quiet_at - link.now - 0.01, 0.0))
            link.now = max(link.now, stream.quiet_at)
            link.session.give_credit(link.now)
        assert isinstance(stream.ended, RestartedError)

    def test_they_end_on_a_board_that_greets_and_answers_nothing_else(self) -> None:
        link, stream = self.open()
        self.run(link, 0.3)
        feed = link.server.feed

        def only_hello(line: Line, now: float, data: bytes) -> bytes:
            out = feed(line, now, data)
            link.server._unasked.stop()
            return out if any(f.op == Op.HELLO for f in Decoder().feed(data)) else b""

        link.server.feed = only_hello  # type: ignore[method-assign]
        begun = link.now
        while stream.ended is None and link.now < begun + 200:
            self.run(link, 0.1)
        assert isinstance(stream.ended, LinkError) and "no reply to LINK" in str(stream.ended)
        assert link.now - begun < 60 and link.statistics.reconnects > 1 and not link.session.busy

    def test_they_keep_the_line_up_and_end_where_it_stays_down(self) -> None:
        link, stream = self.open()
        self.run(link, 0.3)
        link.there.rates = link.back.rates = {"drop": 1.0}
        begun = link.now
        while stream.ended is None and link.now < begun + 60:
            self.run(link, 0.1)
        assert isinstance(stream.ended, LinkError) and "the link is down" in str(stream.ended)
        assert link.now - begun < 30 and not link.session.busy

    def test_silence_with_credit_costs_a_request_each_half_second(self) -> None:
        link, stream = self.open()
        link.server._unasked.stop()
        before = link.statistics.requests
        self.run(link, 10.0)
        assert 5 < link.statistics.requests - before <= 21 and stream.ended is None

    def test_a_device_that_sends_without_credit_does_not_fill_the_host(self) -> None:
        stream = Stream(0, 0.01, granted=WINDOW)
        for n in range(100_000):
            stream.add(0.0, StreamHead(n, 0, 0).pack() + b"x")
        assert len(stream.take()) <= 2 * WINDOW and stream.over > 90_000
        with pytest.raises(ProtocolError):
            stream.add(0.0, b"short")


class TestLog:
    def test_lines_come_whole_and_missing_ones_are_counted(self) -> None:
        link = Simulated()
        link.request(Op.LINK)
        for text in ("hot", "x" * 600, "hotter"):
            link.server.log(link.now, 3, text)
        link.back.push(link.now, bytes(link.line.out))
        link.request(Op.ECHO)
        assert [line.text for line in link.session.log.lines] == ["hot", "x" * 600, "hotter"]
        link.server._unasked._log_seq += 3
        link.line.out.clear()
        link.server.log(link.now, 2, "late")
        link.back.push(link.now, bytes(link.line.out))
        link.request(Op.ECHO)
        assert link.session.log.lines[-1].lost == 3 and link.statistics.log_lost == 3

    @pytest.mark.parametrize(("level", "sent"), [(0, [0, 1, 2, 3]), (2, [2, 3]), (4, []), (255, [])])
    def test_only_lines_of_the_level_that_was_asked_for_are_sent(self, level: int, sent: list[int]) -> None:
        link = Simulated()
        link.request(Op.LOG, LogRequest(level, bytes(3)).pack())
        for each in range(4):
            link.server.log(link.now, each, f"{each}")
        frames = Decoder().feed(bytes(link.line.out))
        assert [frame.payload[-1:] for frame in frames] == [b"%d" % each for each in sent]


def test_a_late_grant_of_credit_takes_none_away() -> None:
    server, line = Server(Memory(), boot_id=1), Line()
    one_frame(server.feed(line, 0.0, Frame(Kind.REQUEST, Op.HELLO, 0, 9, 0, HELLO).encode()))
    asked = StreamRequest(10_000, 2).pack()
    one_frame(server.feed(line, 0.0, Frame(Kind.REQUEST, Op.STREAM, 1, KEY, Source.PATTERN, asked).encode()))
    for granted in (5, 3):
        server.feed(line, 0.0, Frame(Kind.CREDIT, 0, 0, KEY, Source.PATTERN, Credit(granted).pack()).encode())
    server.tick(0.2)
    assert len(list(Decoder().feed(bytes(line.out)))) == 5
