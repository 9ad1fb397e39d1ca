"""SPEC.md: what it says is what the code does now, and its trace holds under a decoder that knows none of our code."""

from __future__ import annotations

import json
import re
import struct
import subprocess
import sys
import zlib
from pathlib import Path

import plain_frames as plain
import pytest
from click.testing import CliRunner
from simulated import Memory

from pimchip.board.bench import served
from pimchip.board.linked import LinkBoard
from pimchip.cli.main import cli
from pimchip.errors import ProtocolError
from pimchip.link import messages
from pimchip.link.blob import pack_blob, unpack_blob
from pimchip.link.constants import MAX_ENCODED, RULES, Flag, Kind, Op, Region, Status
from pimchip.link.frames import Frame
from pimchip.link.inprocess import InProcessTransport
from pimchip.link.link import Link
from pimchip.link.server import Line, Server
from pimchip.link.trace import Tracer, describe, hexadecimal

ROOT = Path(__file__).resolve().parent.parent
SPEC = (ROOT / "firmware_protocol" / "SPEC.md").read_text(encoding="utf-8")
KEY = zlib.crc32(struct.pack("<QI", 1, 7))
"""Of session 7 at boot 1."""
HELLO = messages.HelloRequest(1, 1, 0, 4096, bytes(32)).pack()


def traced() -> list[tuple[str, str, bytes | None]]:
    """(direction, words, the frame's bytes; None where the document leaves out its middle) of the trace."""
    body = SPEC.partition("<!-- trace -->\n```text\n")[2].partition("```")[0]
    found: list[tuple[str, str, bytes | None]] = []
    for part in re.split(r"\n(?=[<>])", body.strip("\n")):
        head, *rest = part.splitlines()
        whole = None if any("..." in line for line in rest) else bytes.fromhex("".join(rest))
        found.append((head[0], head[2:], whole))
    return found


@pytest.mark.parametrize("tool", ["generate_protocol.py", "trace_protocol.py"])
def test_tables_and_trace_are_what_the_tools_write_now(tool: str) -> None:
    done = subprocess.run(
        [sys.executable, ROOT / "tools" / tool, "--check"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def test_the_trace_decodes_without_our_code_to_what_its_words_say() -> None:
    seen = []
    for direction, words, whole in traced():
        name, number = re.match(r"(\w+) #(\d+)", words).groups()  # type: ignore[union-attr]
        seen.append((direction, name))
        if whole is None:
            continue
        event, data = plain.judge(whole.removesuffix(b"\0"))
        frame = plain.Frame(*plain.HEADER.unpack(data[:16]), data[16:])
        assert event == plain.GOOD and whole.endswith(b"\0")
        assert (frame.op, frame.seq) == (getattr(plain, name), int(number))
        assert frame.session == (
            0x12345678 if name == "HELLO" else zlib.crc32(struct.pack("<QI", 0x123456789ABCDEF, 0x12345678))
        )
        assert (frame.kind, frame.status, frame.flags) == (direction == "<", 0, 0)
        if (direction, name) in (("<", "READ"), (">", "WRITE")):
            assert f": {len(frame.payload)} bytes" in words
    for name in ("HELLO", "READ", "BEGIN", "WRITE", "COMMIT", "PROGRAM", "CONVERT", "CLOSE"):
        assert (">", name) in seen and ("<", name) in seen


def test_the_codes_of_the_trace_are_those_of_the_exact_rule() -> None:
    frames = {words: whole for _, words, whole in traced()}
    (cells,) = (w for words, w in frames.items() if words.startswith("WRITE") and ": 32 bytes" in words and w)
    (codes,) = (w for words, w in frames.items() if words.startswith("READ") and "done: 8 bytes" in words and w)
    held, got = (plain.judge(w[:-1])[1][16:] for w in (cells, codes))
    inputs = (15, 7, 3, 12)
    sums = [sum(x * held[8 * row + column] for row, x in enumerate(inputs)) for column in range(8)]
    assert list(got) == [((v * 127 * 8 << 16) // (144 * 15) + (1 << 15)) >> 16 for v in sums] and sums[0] == 18


def test_the_crc_and_the_first_frame_are_as_written() -> None:
    assert zlib.crc32(b"123456789") == 0xCBF43926 and "0xCBF43926" in SPEC
    first = traced()[0][2]
    assert first is not None
    data = plain.judge(first[:-1])[1]
    assert zlib.crc32(data) == 0x471B9118 and "0x471B9118" in SPEC
    key = zlib.crc32(bytes.fromhex("ef cd ab 89 67 45 23 01 78 56 34 12"))
    assert f"0x{key:08X}" in SPEC and f"key {key:#x}" in traced()[1][1]


def test_the_examples_of_cobs_are_right() -> None:
    for data, encoded in ((b"", "01"), (b"\0", "01 01"), (b"\x11\0\x22", "02 11 02 22")):
        assert plain.stuff(data) == bytes.fromhex(encoded) and f"`{encoded}` |" in SPEC


def test_links_lead_somewhere_and_every_op_is_described() -> None:
    headings = {re.sub(r"[^\w\- ]", "", h.lower()).replace(" ", "-") for h in re.findall(r"^#+ (.+)$", SPEC, re.M)}
    assert {link for link in re.findall(r"\]\(#([^)]+)\)", SPEC)} <= headings
    for path in re.findall(r"\]\(([^#)]+)\)", SPEC):
        assert (ROOT / "firmware_protocol" / path).exists(), path
    section = SPEC.partition("## 9. Ops")[2].partition("## 10.")[0].partition("<!-- end of table -->")[2]
    described = re.findall(r"^\| ([A-Z_, ]+) \|", section, re.M)
    assert {name for cell in described for name in cell.split(", ")} == {op.name for op in Op}


class TestDevice:
    """What SPEC.md promises of a device and no other test asks."""

    def server(self) -> tuple[Server, Line]:
        server, line = Server(Memory(), boot_id=1), Line()
        self.ask(server, line, Op.HELLO, HELLO, 0, session=7)
        return server, line

    def ask(
        self,
        server: Server,
        line: Line,
        op: Op,
        payload: bytes = b"",
        seq: int = 1,
        *,
        session: int = KEY,
        now: float = 0.0,
    ) -> Frame | None:
        sent = Frame(Kind.REQUEST, op, seq, session, 0, payload).encode()
        data = server.feed(line, now, sent)
        return next(Line().decoder.feed(data), None)

    def test_a_host_that_only_grants_credit_keeps_the_board(self) -> None:
        server, line = self.server()
        credit = Frame(Kind.CREDIT, 0, 0, KEY, 0, messages.Credit(1).pack()).encode()
        server.feed(line, 4.9, credit)
        other = self.ask(server, Line(), Op.HELLO, HELLO, session=8, now=9.8)
        assert other is not None and other.status == Status.OWNED
        other = self.ask(server, Line(), Op.HELLO, HELLO, session=8, now=10.0)
        assert other is not None and other.status == Status.OK

    def test_counts_begin_anew_at_a_restart(self) -> None:
        server, line = self.server()
        self.ask(server, line, Op.ECHO, b"1")
        server.restart()
        opened = self.ask(server, line, Op.HELLO, HELLO, 0, session=7)
        assert opened is not None
        key = messages.HelloReply.unpack(opened.payload).key
        reply = self.ask(server, line, Op.LINK, seq=1, session=key)
        assert reply is not None and messages.LinkReply.unpack(reply.payload) == messages.LinkReply(2, 0, 0, 0)

    @pytest.mark.parametrize("region", [Region.BITMAP, Region.BLOB])
    def test_regions_without_handles_refuse_them(self, region: Region) -> None:
        server, line = self.server()
        reply = self.ask(server, line, Op.READ, messages.ReadRequest(region, 1, 1).pack())
        assert reply is not None and reply.status == Status.REGION

    def test_a_window_past_the_wrap_of_seq_executes_nothing_twice(self) -> None:
        server, line = self.server()
        assert 65536 % server.window == 0
        numbers = [n & 0xFFFF for n in range(65536 - server.window + 8, 65536 + 8)]
        for seq in [*range(8, 65536, 16000), *numbers]:
            self.ask(server, line, Op.FREE, b"", seq)
        before = server.executed
        for seq in numbers:
            again = self.ask(server, line, Op.FREE, b"", seq)
            assert again is not None and again.flags == Flag.REPEAT
        assert server.executed == before


class TestBudgets:
    def board(self, **budgets: int) -> tuple[Link, LinkBoard]:
        server = served("emulator:sram65?die=ideal")
        said = unpack_blob(server.backend.blob)
        server.backend.blob = pack_blob(said | {"budgets": {**said["budgets"], **budgets}})
        link = Link(InProcessTransport(server), "slow")
        return link, LinkBoard(link, "slow")

    def test_a_board_says_how_long_its_ops_may_take(self) -> None:
        link, board = self.board(conv=600_000, echo=1, unheard_of=5)
        with board:
            given = {op: link._session.budget(op) for op in Op}
        assert given[Op.CONV] == 600 and given[Op.ECHO] == 0.001
        assert given[Op.CONVERT] == RULES[Op.CONVERT].budget / 1000

    def test_no_board_may_make_a_host_wait_for_days(self) -> None:
        with pytest.raises(ProtocolError, match="budgets.conv"):
            self.board(conv=86_400_000)


class TestTrace:
    def test_frames_in_words(self) -> None:
        read = Frame(Kind.REQUEST, Op.READ, 3, 7, 4096, messages.ReadRequest(1, 0, 256).pack(), flags=Flag.REPEAT)
        assert describe(read) == "READ #3 again at 4096: region 1, handle 0, length 256"
        refused = Frame(Kind.REPLY, Op.FREE, 3, 7, 0, b"no such", Status.ARGUMENT)
        assert describe(refused) == "FREE #3 refused: ARGUMENT, 'no such'"
        log = messages.LogHead(5, 2, 2, bytes(3)).pack() + b"hot"
        assert describe(Frame(Kind.LOG, 0, 9, 7, 0, log)) == "log #9, warning, 2 dropped: 'hot'"
        record = messages.StreamHead(4, 1, 9).pack() + messages.Telemetry(25000, 1000000, 0, 3).pack()
        said = describe(Frame(Kind.STREAM, 0, 0, 7, 0, record))
        assert said.startswith("stream TELEMETRY record: index 4, dropped 1") and "temperature 25000" in said
        assert (
            describe(Frame(Kind.CREDIT, 0, 0, 7, 1, messages.Credit(64).pack())) == "stream PATTERN credit: granted 64"
        )

    def test_tokens_are_in_no_trace(self) -> None:
        told: list[str] = []
        secret = bytes(range(200, 232))
        hello = Frame(Kind.REQUEST, Op.HELLO, 0, 7, 0, messages.HelloRequest(1, 1, 0, 4096, secret).pack())
        Tracer(told.append).bytes_went(">", hello.encode())
        assert "token not shown" in told[0] and "not shown" in told[1] and len(told) == 2
        assert secret[:4].hex() not in "".join(told).replace(" ", "")

    def test_a_command_tells_both_layers_on_stderr(self) -> None:
        run = CliRunner().invoke(cli, ["info", "emulator+link:sram65?die=ideal", "--trace", "--json"])
        assert run.exit_code == 0 and json.loads(run.stdout)["uid"] == "emu-sram65-97d42ebe-ideal"
        lines = run.stderr.splitlines()
        said = [line.split(" ", 1)[1] for line in lines if re.match(r"\d+\.\d{6} [<>=]", line)]
        assert said[0] == "= connected" and said[1].startswith("> HELLO #0: lowest 1")
        assert said[-1].startswith("< CLOSE") and sum(line.startswith("> READ") for line in said) >= 1
        frame = bytes.fromhex(
            "".join(line for line in lines[lines.index(next(x for x in lines if "> CLOSE" in x)) + 1 :][:1])
        )
        assert plain.judge(frame[:-1])[0] == plain.GOOD

    def test_a_device_without_a_line_has_no_trace(self) -> None:
        run = CliRunner().invoke(cli, ["info", "emulator:sram65?die=ideal", "--trace"])
        assert run.exit_code == 0 and "--trace: there was no line" in run.stderr
        assert "HELLO" not in run.stderr

    @pytest.mark.parametrize("kind", range(6))
    @pytest.mark.parametrize("payload", [b"", b"x", bytes(4096)])
    def test_whatever_comes_has_words(self, kind: int, payload: bytes) -> None:
        for op in (0, *RULES, 255):
            for status in (0, Status.VERSION, 0xFFFF):
                assert "\n" not in describe(Frame(kind, op, 0, 1, 99, payload, status))
        assert describe(Frame(kind, version=2)).startswith("frame of version 2")

    def test_both_layers_are_told_and_bytes_that_are_no_frame(self) -> None:
        told: list[str] = []
        tracer = Tracer(told.append)
        sound = Frame(Kind.REQUEST, Op.LINK, 1, 7).encode()
        tracer.bytes_went(">", b"\0" + sound[:5])
        assert told == []
        tracer.bytes_went(">", sound[5:] + b"boot\0")
        assert told == ["> LINK #1", f"    {sound.hex(' ')}", "> no frame: cobs", "    62 6f 6f 74 00"]

    def test_an_endless_frame_is_told_in_pieces_and_long_ones_in_part(self) -> None:
        told: list[str] = []
        tracer = Tracer(told.append)
        for _ in range(100):
            tracer.bytes_went("<", b"x" * 1000)
        assert 8 < told.count("< no frame: oversize") <= 100_000 // (2 * MAX_ENCODED) and len(told) < 100
        assert list(hexadecimal(bytes(100)))[2] == "... 20 bytes ..."
