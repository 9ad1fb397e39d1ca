"""Decoders agree, frame by frame and reason by reason: Python's, the firmware's in C, and one in plain words of the protocol."""

from __future__ import annotations

import ctypes
import json
import zlib
from typing import Any

import firmware
import numpy as np
import plain_frames as wire
import pytest
from mutations import mutated, sample_frames

from pimchip.link.frames import Decoder, Frame

FOLDER = firmware.FOLDER.parent / "vectors" / "frames"
CASES = sorted(path.stem for path in FOLDER.glob("*.json"))
WITHOUT = firmware.missing("gcc", "make")
REASONS = {"oversize": wire.LONG, "cobs": wire.COBS, "short": wire.SHORT, "crc": wire.CRC, "header": wire.BAD_HEADER}
Events = list[tuple[int, bytes]]
"""For what stands before each zero: what it was, and of a sound frame its header and payload."""
pytestmark = pytest.mark.skipif(bool(WITHOUT), reason=WITHOUT)


def c_events(shim: Any, stream: bytes) -> Events:
    most = stream.count(b"\0") + 1
    found, sizes = np.zeros(most, np.uint32), np.zeros(most, np.uint32)
    out = ctypes.create_string_buffer(len(stream) + 1)
    shim.shim_frames_begin()
    places = (firmware.pointer(found), firmware.pointer(sizes), most, out, ctypes.c_size_t(len(stream)))
    count = shim.shim_frames_feed(stream, ctypes.c_size_t(len(stream)), *places)
    starts = [0, *np.cumsum(sizes).tolist()]
    return [(int(found[i]), out.raw[starts[i] : starts[i + 1]]) for i in range(count)]


def python_events(stream: bytes) -> Events:
    decoder, events = Decoder(), Events()
    for part in stream.split(b"\0")[:-1]:
        before = dict(decoder.bad)
        frames = list(decoder.feed(part + b"\0"))
        bad = [REASONS[why] for why, count in decoder.bad.items() for _ in range(count - before[why])]
        assert len(frames) + len(bad) == bool(part)
        events += [(event, b"") for event in bad] + [(wire.GOOD, plain(frame)) for frame in frames]
    return events


def plain(frame: Frame) -> bytes:
    f = frame
    return wire.HEADER.pack(f.version, f.kind, f.op, f.flags, f.seq, f.status, f.session, f.arg) + f.payload


def agreed(shim: Any, stream: bytes) -> Events:
    """What a stream is, if all agree on it."""
    wanted = [wire.judge(part) for part in stream.split(b"\0")[:-1] if part]
    assert c_events(shim, stream) == wanted, stream.hex()
    assert python_events(stream) == wanted, stream.hex()
    return wanted


def test_what_is_encoded_is_the_same_in_both(shim: Any) -> None:
    rng = np.random.default_rng(0)
    shim.shim_frame_encode.restype = ctypes.c_size_t
    out = ctypes.create_string_buffer(5000)
    for size in (0, 1, 233, 234, 235, 253, 254, 255, 508, 1000, 4096):
        for payload in (bytes(size), b"\xff" * size, rng.integers(1, 256, size, np.uint8).tobytes()):
            frame = wire.Frame(1, 1, 2, 1, 0xABCD, 0x8106, 0xDEADBEEF, 0x01020304, payload)
            head = wire.HEADER.pack(*frame[:8])
            sizes = ctypes.c_size_t(size), out, ctypes.c_size_t(5000)
            count = shim.shim_frame_encode(head, payload, *sizes)
            assert out.raw[:count] == frame.encoded()
            assert not shim.shim_frame_encode(head, payload, sizes[0], out, ctypes.c_size_t(count - 1))
    assert not shim.shim_frame_encode(head, bytes(4097), ctypes.c_size_t(4097), out, ctypes.c_size_t(5000))


def test_every_kind_of_bad_frame_is_told_apart(shim: Any) -> None:
    good = wire.Frame(1, 0, 5, 0, 3, 0, 7, 0, b"hello").encoded()
    body = wire.HEADER.pack(1, 0, 5, 4, 3, 0, 7, 0)
    flagged = wire.stuff(body + zlib.crc32(body).to_bytes(4, "little")) + b"\0"
    cases = {
        b"\0\0" + good + b"\0": [wire.GOOD],
        good[:9] + b"\0" + good: [wire.COBS, wire.GOOD],
        wire.stuff(bytes(19)) + b"\0": [wire.SHORT],
        wire.stuff(bytes(20)) + b"\0": [wire.CRC],
        b"\1" * 4200 + b"\0" + good: [wire.LONG, wire.GOOD],
        flagged: [wire.BAD_HEADER],
    }
    for stream, wanted in cases.items():
        assert [event for event, _ in agreed(shim, stream)] == wanted


@pytest.mark.parametrize("name", CASES)
def test_golden_frames(shim: Any, name: str) -> None:
    case = json.loads((FOLDER / f"{name}.json").read_text(encoding="utf-8"))
    wanted = Events()
    for chunk in case["chunks"]:
        if chunk["result"] in REASONS:
            wanted.append((REASONS[chunk["result"]], b""))
        else:
            fields = {key: chunk[key] for key in wire.Frame._fields[:-1]}
            wanted.append((wire.GOOD, wire.HEADER.pack(*fields.values()) + bytes.fromhex(chunk["payload"])))
    assert agreed(shim, bytes.fromhex(case["bytes"])) == wanted


def test_mutated_frames(shim: Any) -> None:
    agree_on(shim, 10_000)


@pytest.mark.study
def test_a_million_mutated_frames(shim: Any) -> None:
    agree_on(shim, 1_000_000)


def agree_on(shim: Any, count: int) -> None:
    """Frames of every sample and golden vector, mutated, as many as said and of every kind; Python's come in pieces too."""
    rng = np.random.default_rng(5)
    golden = [bytes.fromhex(json.loads((FOLDER / f"{name}.json").read_text())["bytes"]) for name in CASES]
    frames, seen = [*sample_frames(rng), *(g for g in golden if len(g) < 6000)], 0
    kinds: set[int] = set()
    while seen < count:
        stream = mutated(rng, frames, int(rng.integers(0, 6)))
        events = agreed(shim, stream)
        cut, decoder = int(rng.integers(0, len(stream))), Decoder()
        pieces = [plain(frame) for part in (stream[:cut], stream[cut:]) for frame in decoder.feed(part)]
        assert pieces == [data for event, data in events if event == wire.GOOD]
        seen += len(events)
        kinds |= {event for event, _ in events}
    assert kinds == {wire.GOOD, *REASONS.values()}
