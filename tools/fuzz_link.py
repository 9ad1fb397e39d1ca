"""Coverage-guided fuzzing of what reads bytes from a line: the decoder, a session's replies, a board's requests.

python tools/fuzz_link.py decoder|session|board [options of libFuzzer, such as -max_total_time=600 -seed=1 FOLDER]

Wants the package atheris. A finding is a crash with the bytes in a file; mended, it becomes a vector or a test.

decoder: raw bytes, or damaged frames, cut anywhere; frames and reasons must be those of tests/plain_frames.py, which
imports nothing of pimchip, and what is held must stay bounded. session: sound frames of any content come to a host with
calls under way, a stream, and one that closes. board: sound frames of any content come to the Python board. Neither may
raise, answer with what is no frame, or grow.
"""

from __future__ import annotations

import sys
from pathlib import Path

import atheris

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))

with atheris.instrument_imports(include=["pimchip.link", "pimchip.emulator.requests", "pimchip.emulator.wire"]):
    from pimchip.chip import ChipSpec, load_chip
    from pimchip.emulator.die import Die
    from pimchip.emulator.requests import BoardRequests
    from pimchip.emulator.virtual import VirtualBoard
    from pimchip.errors import PimchipError
    from pimchip.link.constants import MAX_ENCODED, VERSION, Op
    from pimchip.link.frames import KEPT, Decoder, Frame
    from pimchip.link.messages import HelloRequest
    from pimchip.link.server import Line, Server, session_key
    from pimchip.link.session import Session
    from pimchip.link.streams import Stream

import plain_frames as plain
from simulated import Memory

REASONS = {
    "oversize": plain.LONG, "cobs": plain.COBS, "short": plain.SHORT, "crc": plain.CRC, "header": plain.BAD_HEADER,
}  # fmt: skip
KEY = session_key(1, 77)
HELD = 1 << 22
"""Bytes of output that a call's few frames may come to."""


def decoder(data: bytes) -> None:
    """Raw bytes, or sound frames with a few bytes changed, in two parts cut anywhere, against plain words."""
    given = atheris.FuzzedDataProvider(data)
    cut, edits = given.ConsumeIntInRange(0, 5000), given.ConsumeIntInRange(0, 4)
    if given.ConsumeBool():
        made_up = bytearray(b"".join(frames(given, 77)))
        for _ in range(edits):
            made_up[given.ConsumeIntInRange(0, len(made_up) - 1)] = given.ConsumeIntInRange(0, 255)
        stream = bytes(made_up)
    else:
        stream = given.ConsumeBytes(given.remaining_bytes())
    wanted = [plain.judge(part) for part in stream.split(b"\0")[:-1] if part]
    made = Decoder()
    found = [frame for part in (stream[:cut], stream[cut:]) for frame in made.feed(part)]
    good = [body for event, body in wanted if event == plain.GOOD]
    fields = [
        plain.HEADER.pack(f.version, f.kind, f.op, f.flags, f.seq, f.status, f.session, f.arg) + f.payload
        for f in found
    ]
    assert fields == good, (fields, good)
    bad = {why: sum(event == code for event, _ in wanted) for why, code in REASONS.items()}
    assert made.bad == bad, (made.bad, bad)
    assert len(made.kept) <= KEPT and len(made._part) <= MAX_ENCODED


def frames(given: atheris.FuzzedDataProvider, key: int) -> list[bytes]:
    """Sound frames whose fields and payloads are the fuzzer's, some raw bytes between."""
    out = []
    for _ in range(given.ConsumeIntInRange(1, 12)):
        if given.ConsumeProbability() < 0.1:
            out.append(given.ConsumeBytes(given.ConsumeIntInRange(0, 40)) + b"\0")
            continue
        kind, op, flags = given.ConsumeIntInRange(0, 4), given.ConsumeIntInRange(0, 0x48), given.ConsumeIntInRange(0, 3)
        seq, status, arg = given.ConsumeIntInRange(0, 40), given.ConsumeUInt(2), given.ConsumeUInt(4)
        whose = given.PickValueInList([key, 77, given.ConsumeUInt(4)])
        if given.ConsumeBool():
            status = 0
        if given.ConsumeBool():
            arg &= 0xFF
        payload = given.ConsumeBytes(given.ConsumeIntInRange(0, 300))
        out.append(Frame(kind, op, seq, whose, arg, payload, status, flags).encode())
    return out


def session(data: bytes) -> None:
    """A host that greeted a board and waits for a few replies."""
    given, now = atheris.FuzzedDataProvider(data), 100.0
    host = Session(77, "fuzzed")
    host.connected(now)
    calls = [host.submit(now, op, b"x" * 12) for op in (Op.READ, Op.WRITE, Op.CONVERT, Op.STREAM)]
    (asked,) = Decoder().feed(host.output())
    if given.ConsumeBool():
        server, line = Server(Memory(), boot_id=1), Line()
        host.received(now, server.feed(line, now, asked.encode()))
    if given.ConsumeBool():
        host.open_stream(now, Stream(1, 0.1, granted=8))
    closed_after = given.ConsumeIntInRange(0, 16)
    for count, frame in enumerate(frames(given, KEY)):
        now += given.ConsumeIntInRange(0, 300) / 100
        if count == closed_after:
            calls.append(host.close(now, 2.0))
        host.received(now, frame)
        if now >= host.timer:
            host.tick(now)
        assert len(host.output()) < HELD
    host.disconnected(now, "end")
    host.end("end")
    for call in calls:
        assert call.done and (call.error is None or isinstance(call.error, PimchipError))


def small_chip() -> ChipSpec:
    """sram65 with one macro of 16 rows and 32 columns."""
    content = load_chip("sram65").to_dict()
    content["array"] |= {"macros": 1, "rows": 16, "columns": 32}
    content["adc"]["per_macro"], content["operating"]["rows"] = 4, 16
    return ChipSpec.from_dict(content)


SPEC = small_chip()


def board(data: bytes) -> None:
    """A Python board that one session owns."""
    given, now = atheris.FuzzedDataProvider(data), 100.0
    backend = BoardRequests(lambda: VirtualBoard(SPEC, Die(SPEC, 0), noise_seed=0)) if given.ConsumeBool() else Memory()
    server, line, answers = Server(backend, boot_id=1), Line(), Decoder()
    hello = Frame(0, int(Op.HELLO), 0, 77, 0, HelloRequest(VERSION, VERSION, 0, 4096, bytes(32)).pack())
    for frame in [hello.encode(), *frames(given, KEY)]:
        now += given.ConsumeIntInRange(0, 300) / 100
        sent = server.feed(line, now, frame)
        list(answers.feed(sent))
        assert len(sent) < HELD and not answers.bad_frames and not answers._part
        server.tick(now)


TARGETS = {"decoder": decoder, "session": session, "board": board}

if __name__ == "__main__":
    if len(sys.argv) < 2 or sys.argv[1] not in TARGETS:
        sys.exit(__doc__)
    target = TARGETS[sys.argv.pop(1)]
    atheris.Setup(sys.argv, target)
    atheris.Fuzz()
