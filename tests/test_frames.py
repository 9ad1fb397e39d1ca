"""Frames: golden vectors that no code of ours made, and a decoder that no bytes make grow."""

from __future__ import annotations

import json
import sys
import zlib
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pimchip.errors import ProtocolError
from pimchip.link import messages
from pimchip.link.constants import MAX_ENCODED, MAX_PAYLOAD, RULES, WRITABLE, Op, Region, Status
from pimchip.link.frames import KEPT, Decoder, Frame, parse
from pimchip.link.packing import Message

FOLDER = Path(__file__).resolve().parent.parent / "firmware_protocol" / "vectors" / "frames"
CASES = sorted(path.stem for path in FOLDER.glob("*.json"))
FIELDS = ("kind", "op", "seq", "session", "arg", "status", "flags", "version")
frames = st.builds(
    Frame, st.integers(0, 4), st.integers(0, 255), st.integers(0, 65535), st.integers(0, 2**32 - 1),
    st.integers(0, 2**32 - 1), st.binary(max_size=600), st.integers(0, 65535), st.integers(0, 3), st.just(1),
)  # fmt: skip


def load(name: str) -> dict[str, Any]:
    value: dict[str, Any] = json.loads((FOLDER / f"{name}.json").read_text(encoding="utf-8"))
    return value


def frame_of(chunk: dict[str, Any]) -> Frame:
    return Frame(**{name: chunk[name] for name in FIELDS}, payload=bytes.fromhex(chunk["payload"]))


def test_the_cases_that_are_asked_for_are_there() -> None:
    wanted = "empty nonzero-253 nonzero-254 nonzero-255 nonzero-508 zeros-4096 ones-4096 crc-off truncated back-to-back"
    assert set(wanted.split()) | {"garbage-between", "version-2", "flag-4", "oversize-1"} <= set(CASES)


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("step", [1 << 20, 1, 7])
def test_golden_frames_decode(name: str, step: int) -> None:
    case = load(name)
    data = bytes.fromhex(case["bytes"])
    decoder = Decoder()
    found = [frame for at in range(0, len(data), step) for frame in decoder.feed(data[at : at + step])]
    assert found == [frame_of(chunk) for chunk in case["chunks"] if chunk["result"] in ("ok", "version")]
    results = [chunk["result"] for chunk in case["chunks"]]
    assert decoder.bad == {why: results.count(why) for why in decoder.bad}


@pytest.mark.parametrize("name", [n for n in CASES if n not in ("full-block-one", "zeros-between")])
def test_golden_frames_encode(name: str) -> None:
    case = load(name)
    if [chunk["result"] for chunk in case["chunks"]] == ["ok"]:
        assert frame_of(case["chunks"][0]).encode().hex() == case["bytes"]


def test_the_checksum_is_crc_32_iso_hdlc() -> None:
    assert zlib.crc32(b"123456789") == 0xCBF43926


@given(st.lists(frames, max_size=5), st.data())
def test_frames_come_back_however_the_stream_is_cut(sent: list[Frame], data: st.DataObject) -> None:
    stream = b"".join(frame.encode() for frame in sent)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=10)))
    decoder, found = Decoder(), []
    for start, end in zip([0, *cuts], [*cuts, len(stream)], strict=True):
        found += decoder.feed(stream[start:end])
    assert found == sent and decoder.bad_frames == 0 and decoder.kept == b""


@given(st.binary(max_size=3000))
def test_no_bytes_break_a_decoder_and_a_sound_frame_after_them_is_found(noise: bytes) -> None:
    decoder = Decoder()
    frame = Frame(1, 2, 3, 4, 5, b"six")
    assert list(decoder.feed(noise + b"\0" + frame.encode()))[-1] == frame
    assert len(decoder.kept) <= KEPT


@given(frames, st.data())
def test_no_flipped_bit_goes_unseen(frame: Frame, data: st.DataObject) -> None:
    encoded = bytearray(frame.encode())
    bit = data.draw(st.integers(0, 8 * len(encoded) - 9))
    encoded[bit >> 3] ^= 1 << (bit & 7)
    assert frame not in list(Decoder().feed(bytes(encoded)))


def test_endless_data_takes_no_memory_and_its_end_is_kept() -> None:
    decoder = Decoder()
    for number in range(300):
        assert not list(decoder.feed(bytes([1 + number % 255]) * 100_000))
    assert sys.getsizeof(decoder._part) < 2 * MAX_ENCODED + 100_000 and len(decoder.kept) == KEPT
    assert not list(decoder.feed(b"panic: stack\0"))
    assert decoder.bad["oversize"] == 1 and decoder.kept.endswith(b"panic: stack")
    assert list(decoder.feed(Frame(1).encode())) == [Frame(1)] and decoder.resyncs == 1


def test_what_does_not_fit_a_frame_is_refused() -> None:
    with pytest.raises(ProtocolError, match="4097 bytes: a frame takes 4096"):
        Frame(0, payload=bytes(MAX_PAYLOAD + 1)).encode()
    with pytest.raises(ProtocolError, match="frame"):
        Frame(0, seq=1 << 16).encode()


def test_parse_tells_a_cut_block_from_one_that_is_too_long() -> None:
    assert parse(b"\x05abc") == "cobs"
    assert parse(b"\x01" * 4120 + b"\x05a") == "oversize"


class TestMessages:
    def kinds(self) -> list[type[Message]]:
        found = [k for k in vars(messages).values() if isinstance(k, type) and issubclass(k, Message)]
        return [kind for kind in found if kind is not Message]

    def test_every_struct_survives_bytes(self) -> None:
        for kind in self.kinds():
            data = bytes(1 + i % 250 for i in range(kind.size()))
            assert kind.unpack(data).pack() == data
            for wrong in (data[:-1], data + b"x"):
                with pytest.raises(ProtocolError, match=f"{kind.__name__} takes {kind.size()} bytes, got {len(wrong)}"):
                    kind.unpack(wrong)
        assert len(self.kinds()) == 39

    def test_nested_structs_are_in_place(self) -> None:
        asked = messages.ProgramRequest(messages.Tile(1, 2, 3, 4, 5), -6)
        words = [int.from_bytes(asked.pack()[i : i + 4], "little", signed=True) for i in range(0, 24, 4)]
        assert words == [1, 2, 3, 4, 5, -6]

    def test_values_beyond_their_field_are_refused(self) -> None:
        with pytest.raises(ProtocolError):
            messages.BufferRequest(1 << 32).pack()

    def test_every_op_has_rules_and_every_error_a_mend(self) -> None:
        from pimchip.link.constants import MENDS

        assert set(RULES) == set(Op) and set(MENDS) == set(Status) - {Status.OK}
        assert Region.MAP8 in WRITABLE and Region.BLOB not in WRITABLE
