"""Write firmware_protocol/vectors/frames/*.json: golden frames, made from the packages cobs and zlib alone.

python tools/generate_frame_vectors.py [--check]      --check: fail if a file differs from what would be written

Nothing of pimchip is used, so the vectors check it. The numbers of the protocol are written out here once more.
"""

from __future__ import annotations

import json
import struct
import sys
import zlib
from pathlib import Path
from typing import Any

from cobs import cobs

FOLDER = Path(__file__).resolve().parent.parent / "firmware_protocol" / "vectors" / "frames"
REQUEST, REPLY, STREAM, LOG = 0, 1, 2, 3
ECHO, WRITE, HELLO = 0x05, 0x12, 0x01
SESSION = 0x1234ABCD
LARGEST = 16 + 4096 + 4
Chunk = dict[str, Any]


def raw(
    payload: bytes = b"", *, version: int = 1, kind: int = REQUEST, op: int = ECHO, flags: int = 0, seq: int = 7,
    status: int = 0, session: int = SESSION, arg: int = 0,
) -> bytes:  # fmt: skip
    """Header, payload and CRC."""
    body = struct.pack("<BBBBHHII", version, kind, op, flags, seq, status, session, arg) + payload
    return body + struct.pack("<I", zlib.crc32(body))


def copies() -> bytes:
    """Region LAYER of a linear layer of 20 inputs and 5 outputs, differential, 16 rows a group, its first group held twice."""
    mac = struct.pack("<6BHI", 1, 4, 4, 4, 6, 0, 1, 16)
    geometry = struct.pack("<10I", 20, 5, 1, 1, 1, 1, 0, 0, 1, 1)
    head = mac + geometry + struct.pack("<I32s", 3, b"fc")
    # macro, row, column, rows, columns; group, first column of the layer
    placements = struct.pack("<21I", 0, 8, 4, 16, 10, 0, 0, 3, 0, 0, 16, 6, 0, 0, 3, 0, 6, 16, 4, 0, 6)
    return head + placements + struct.pack("<4I", 0, 2, 1, 2)


def wire(data: bytes) -> bytes:
    return cobs.encode(data) + b"\0"


def good(data: bytes) -> Chunk:
    """What a decoder finds in sound bytes."""
    version, kind, op, flags, seq, status, session, arg = struct.unpack("<BBBBHHII", data[:16])
    payload = data[16:-4].hex()
    return {
        "result": "ok", "version": version, "kind": kind, "op": op, "flags": flags, "seq": seq, "status": status,
        "session": session, "arg": arg, "payload": payload,
    }  # fmt: skip


def bad(result: str) -> Chunk:
    return {"result": result}


def cases() -> dict[str, tuple[str, bytes, list[Chunk]]]:
    """By name: what it is, the bytes on the line, and what stands between the zeros."""
    found: dict[str, tuple[str, bytes, list[Chunk]]] = {}

    def sound(name: str, meaning: str, **of: Any) -> None:
        data = raw(**of)
        found[name] = (meaning, wire(data), [good(data)])

    sound("empty", "no payload")
    sound(
        "hello",
        "a HELLO of its full length, without a token",
        op=HELLO,
        seq=0,
        payload=struct.pack("<BBHI32x", 1, 1, 0, 4096),
    )
    for count in (1, 249, 250, 251, 253, 254, 255, 508):
        sound(f"nonzero-{count}", f"{count} bytes, none of them zero", payload=bytes(1 + i % 255 for i in range(count)))
    sound("zeros-64", "64 zeros", payload=bytes(64))
    sound("zeros-4096", "the largest payload, all zeros", op=WRITE, payload=bytes(4096))
    sound("ones-64", "64 bytes 0xFF", payload=b"\xff" * 64)
    sound("ones-4096", "the largest payload, all 0xFF", op=WRITE, payload=b"\xff" * 4096)
    counting = bytes(i & 0xFF for i in range(4096))
    sound("counting-4096", "the largest payload, counting", op=WRITE, arg=0x00ABC000, payload=counting)
    sound("layer-copies", "region LAYER: two copies of a layer, the second in two tiles", op=WRITE, payload=copies())
    sound("repeat", "a request that was sent before", flags=2)
    sound("reply", "a reply with a status", kind=REPLY, status=0x8106, payload=b"taken")
    sound(
        "log",
        "a log frame whose text goes on in the next",
        kind=LOG,
        op=0,
        flags=1,
        session=0,
        payload=b"\x01" * 16 + b"warm",
    )
    sound(
        "extremes",
        "every field at its largest",
        kind=4,
        op=0xFF,
        flags=3,
        seq=0xFFFF,
        status=0xFFFF,
        session=0xFFFFFFFF,
        arg=0xFFFFFFFF,
    )

    data = raw(b"a payload whose bits flip")
    encoded = wire(data)
    for place, bit in ((20, 0), (30, 7)):
        flipped = bytearray(encoded)
        flipped[place] ^= 1 << bit
        assert 0 not in flipped[:-1]
        found[f"flip-{place}-{bit}"] = (f"bit {bit} of byte {place} flipped", bytes(flipped), [bad("crc")])
    found["crc-off"] = ("the last bit of the CRC is off", wire(data[:-1] + bytes([data[-1] ^ 0x80])), [bad("crc")])
    wrong = data[:-4] + struct.pack("<I", zlib.crc32(data[:-4]) ^ 0xFFFFFFFF)
    found["crc-not-inverted"] = ("a CRC without its final inversion", wire(wrong), [bad("crc")])
    big = data[:-4] + struct.pack(">I", zlib.crc32(data[:-4]))
    found["crc-big-endian"] = ("a CRC in the wrong byte order", wire(big), [bad("crc")])

    cut = wire(raw(bytes(range(1, 200))))
    found["truncated"] = ("the end is missing, the zero is there", cut[:100] + b"\0", [bad("cobs")])
    found["truncated-at-block"] = (
        "cut where a block of COBS ends",
        cobs.encode(raw(bytes(40)))[:30] + b"\0",
        [bad("crc")],
    )
    found["unfinished"] = ("no zero came yet: nothing to say", encoded[:-1], [])
    found["short-19"] = ("one byte less than header and CRC", wire(raw()[:19]), [bad("short")])
    found["short-1"] = ("a single byte", wire(b"x"), [bad("short")])
    found["text"] = (
        "a boot message before a frame, with a zero between",
        b"\r\nboot v1.2\r\n\0" + encoded,
        [bad("short"), good(data)],
    )
    found["text-before"] = ("the same without the zero: the frame is lost, too", b"\x05boot" + encoded, [bad("crc")])

    two, three = raw(b"second", seq=8), raw(b"", seq=9)
    found["back-to-back"] = ("three frames", encoded + wire(two) + wire(three), [good(data), good(two), good(three)])
    found["zeros-between"] = (
        "zeros between frames mean nothing",
        b"\0\0" + encoded + b"\0\0\0" + wire(two),
        [good(data), good(two)],
    )
    garbage = bytes([0x11, 0xFF, 0x80, 0x22, 0x7F])
    found["garbage-between"] = (
        "garbage between two frames",
        encoded + garbage + b"\0" + wire(two),
        [good(data), bad("cobs"), good(two)],
    )
    lost = encoded[:-1] + wire(two)
    found["lost-zero"] = ("the zero between two frames is lost: both are", lost, [bad("crc")])
    final = raw(bytes([1 + i % 255 for i in range(250)]))  # with its CRC, 254 bytes after the last zero
    assert 0 not in final[-254:] and cobs.encode(final)[-255] == 0xFF
    longer = cobs.encode(final) + b"\x01\0"
    found["full-block-one"] = ("a full last block and 0x01 after it, as some encoders end", longer, [good(final)])

    found["version-0"] = ("version 0", wire(raw(version=0)), [version(raw(version=0))])
    found["version-2"] = ("version 2", wire(raw(version=2)), [version(raw(version=2))])
    newer = raw(version=2, flags=0x80, kind=9)
    found["version-2-other"] = ("version 2 with flags and kind of its own", wire(newer), [version(newer)])
    found["kind-5"] = ("a kind that is none", wire(raw(kind=5)), [bad("header")])
    found["flag-4"] = ("a reserved flag", wire(raw(flags=4)), [bad("header")])
    found["flag-128"] = ("a reserved flag beside one that is not", wire(raw(flags=0x82)), [bad("header")])
    found["kind-and-flag"] = ("kind and flag wrong", wire(raw(kind=7, flags=8)), [bad("header")])

    over = raw(bytes(range(1, 256)) * 16 + bytes(17))
    assert len(over) == 4117
    found["oversize-1"] = ("one byte past the largest payload", wire(over) + encoded, [bad("oversize"), good(data)])
    dense = raw(bytes(4110))
    assert len(cobs.encode(dense)) <= 4133
    found["oversize-decoded"] = (
        "past the largest payload, but not past the largest encoding",
        wire(dense),
        [bad("oversize")],
    )
    found["oversize-endless"] = (
        "20000 bytes without a zero, then a frame",
        b"\x55" * 20000 + b"\0" + encoded,
        [bad("oversize"), good(data)],
    )
    found["oversize-4134"] = ("one byte more than the largest encoding", b"\x01" * 4134 + b"\0", [bad("oversize")])
    found["largest-encoding"] = (
        "as long as an encoding may be, but decoded too long",
        b"\x01" * 4133 + b"\0",
        [bad("oversize")],
    )
    return found


def version(data: bytes) -> Chunk:
    """A frame of another version: sound, but only its version and what a reply repeats may be looked at."""
    return good(data) | {"result": "version"}


def verdict(chunk: bytes) -> str:
    """What bytes before a zero are, by the package cobs: the cases above were written by hand."""
    whole = chunk
    try:
        data = cobs.decode(chunk)
    except cobs.DecodeError:
        missing = next(n for n in range(1, 256) if decodes(chunk + b"\1" * n))
        whole = cobs.decode(chunk + b"\1" * missing)
        return "oversize" if len(whole) - missing > LARGEST else "cobs"
    if len(data) > LARGEST:
        return "oversize"
    if len(data) < 20:
        return "short"
    if zlib.crc32(data[:-4]) != struct.unpack("<I", data[-4:])[0]:
        return "crc"
    if data[0] != 1:
        return "version"
    return "header" if data[1] > 4 or data[3] > 3 else "ok"


def decodes(chunk: bytes) -> bool:
    try:
        cobs.decode(chunk)
    except cobs.DecodeError:
        return False
    return True


def main() -> None:
    made = {}
    for name, (meaning, line, chunks) in cases().items():
        found = [verdict(chunk) for chunk in line.split(b"\0")[:-1] if chunk]
        wanted = [chunk["result"] for chunk in chunks]
        assert found == wanted, f"{name}: {found}, not {wanted}"
        value = {"name": name, "meaning": meaning, "bytes": line.hex(), "chunks": chunks}
        made[FOLDER / f"{name}.json"] = json.dumps(value, indent=1) + "\n"
    there = set(FOLDER.glob("*.json"))
    if "--check" not in sys.argv:
        FOLDER.mkdir(parents=True, exist_ok=True)
        for path in there - made.keys():
            path.unlink()
        for path, text in made.items():
            path.write_text(text, encoding="utf-8")
    elif there != made.keys() or any(path.read_text(encoding="utf-8") != text for path, text in made.items()):
        raise SystemExit(f"{FOLDER.name} differs from what {Path(__file__).name} writes: run it and commit the files")


if __name__ == "__main__":
    main()
