"""A device's side of a session, asked what no host of ours asks."""

from __future__ import annotations

import pytest
from simulated import HELLO, KEY, Memory, number, one_frame

from pimchip.errors import InputError
from pimchip.link.constants import Flag, Kind, Op, Status
from pimchip.link.frames import Frame
from pimchip.link.messages import HelloReply, HelloRequest
from pimchip.link.server import Line, Server


class TestServer:
    """What no host of ours sends."""

    line = Line()

    def ask(
        self, server: Server, op: int, payload: bytes = b"", *, seq: int = 5, session: int = KEY, **of: int
    ) -> Frame:
        return one_frame(server.feed(self.line, 1.0, Frame(Kind.REQUEST, op, seq, session, 0, payload, **of).encode()))

    def opened(self) -> Server:
        server = Server(Memory(), boot_id=1)
        reply = self.ask(server, Op.HELLO, HELLO, seq=4, session=9)
        assert reply.status == 0 and HelloReply.unpack(reply.payload).key == KEY
        return server

    @pytest.mark.parametrize(
        ("op", "payload", "status"),
        [
            (0x99, b"", Status.UNKNOWN_OP), (Op.FREE, b"xyz", Status.BAD_LENGTH), (Op.COMMIT, b"", Status.NO_TRANSFER),
            (Op.WRITE, b"x", Status.NO_TRANSFER), (Op.READ, bytes(12), Status.ARGUMENT),
            (Op.READ, b"\x63\0\0\0" + bytes(4) + b"\x01\0\0\0", Status.REGION), (Op.ADD, bytes(40), Status.LACKS),
            (Op.STREAM, b"\x01" + bytes(7), Status.ARGUMENT), (Op.ECHO, bytes(300), Status.BAD_LENGTH),
            (Op.BEGIN, bytes(36), Status.REGION),
        ],
    )  # fmt: skip
    def test_wrong_requests_are_refused_by_name(self, op: int, payload: bytes, status: Status) -> None:
        assert self.ask(self.opened(), op, payload).status == status

    def test_other_versions_are_told_which_there_are(self) -> None:
        reply = self.ask(self.opened(), 0x77, b"what", version=2, flags=0x80)
        assert (reply.status, reply.payload, reply.version) == (Status.VERSION, b"\x01\x01", 1)
        asked = HelloRequest(2, 3, 0, 4096, bytes(32)).pack()
        assert self.ask(Server(Memory()), Op.HELLO, asked, session=9).payload == b"\x01\x01"

    def test_strangers_get_stale(self) -> None:
        assert self.ask(self.opened(), Op.ECHO, session=KEY + 1).status == Status.STALE
        assert self.ask(self.opened(), Op.ECHO, session=9).status == Status.STALE
        assert self.ask(Server(Memory()), Op.ECHO, session=0).status == Status.STALE

    def test_a_copy_of_long_ago_is_not_answered(self) -> None:
        server = self.opened()
        for seq in range(5, 100):
            assert self.ask(server, Op.FREE, number(seq), seq=seq).status == 0
        frame = Frame(Kind.REQUEST, Op.FREE, 20, KEY, 0, number(20)).encode()
        assert server.feed(self.line, 1.0, frame) == b""
        again = self.ask(server, Op.FREE, number(90), seq=90)
        assert again.flags == Flag.REPEAT and len(server.backend.runs) == 95  # type: ignore[attr-defined]

    def test_a_reply_of_one_wrap_ago_is_not_an_answer(self) -> None:
        """READs leave no reply behind, so what was kept under their slot before must not come up when numbers come again."""
        server = self.opened()
        read = b"\x01\0\0\0" + bytes(4) + b"\x04\0\0\0"
        assert self.ask(server, Op.FREE, number(1), seq=5).status == 0
        for seq in (5 + 0x7000, 5 + 0xE000, 4):
            assert self.ask(server, Op.READ, read, seq=seq).payload == b"blob"
        reply = self.ask(server, Op.FREE, number(2), seq=5)
        assert (reply.status, reply.flags) == (0, 0)
        assert server.backend.runs == [number(1), number(2)]  # type: ignore[attr-defined]

    def test_a_session_that_ended_only_answers_again(self) -> None:
        server = self.opened()
        assert self.ask(server, Op.FREE, number(1), seq=5).status == 0
        assert self.ask(server, Op.CLOSE, seq=6).status == 0
        assert [self.ask(server, Op.CLOSE, seq=6).status, self.ask(server, Op.FREE, number(1), seq=5).status] == [0, 0]
        assert self.ask(server, Op.FREE, number(2), seq=7).status == Status.STALE
        assert server.backend.runs == [number(1)]  # type: ignore[attr-defined]

    def test_a_new_session_has_no_replies_of_the_last(self) -> None:
        server = self.opened()
        assert self.ask(server, Op.FREE, number(1), seq=5).status == 0
        assert self.ask(server, Op.CLOSE, seq=6).status == 0
        key = HelloReply.unpack(self.ask(server, Op.HELLO, HELLO, seq=6, session=8).payload).key
        again = self.ask(server, Op.FREE, number(2), seq=5, session=key)
        assert (again.status, again.flags) == (0, 0)
        assert server.backend.runs == [number(1), number(2)]  # type: ignore[attr-defined]

    def test_after_a_restart_nothing_is_open(self) -> None:
        server = self.opened()
        server.restart()
        assert self.ask(server, Op.FREE, number(1), seq=5).status == Status.STALE
        assert self.ask(server, Op.FREE, number(1), seq=5, session=0).status == Status.STALE

    def test_reads_count_for_which_copies_are_old(self) -> None:
        server = self.opened()
        read = b"\x01\0\0\0" + bytes(4) + b"\x04\0\0\0"
        for seq in range(6, 6 + server.window + 1):
            self.ask(server, Op.READ, read, seq=seq)
        late = Frame(Kind.REQUEST, Op.FREE, 5, KEY, 0, number(1)).encode()
        assert server.feed(self.line, 1.0, late) == b"" and server.backend.runs == []  # type: ignore[attr-defined]

    def test_a_board_that_raises_is_answered_for(self, monkeypatch: pytest.MonkeyPatch) -> None:
        server = self.opened()
        for error, status in (
            (KeyError("x"), Status.FAILED),
            (MemoryError(), Status.FULL),
            (InputError("no"), Status.ARGUMENT),
        ):

            def broken(self: Memory, op: Op, payload: bytes, arg: int, error: Exception = error) -> bytes:
                raise error

            monkeypatch.setattr(Memory, "execute", broken)
            assert self.ask(server, Op.FREE, number(1), seq=server._replies.newest + 1).status == status
