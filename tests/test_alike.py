"""The board in Python and the firmware answer alike: the same requests, sound and absurd, get the same statuses and data."""

from __future__ import annotations

import struct
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import firmware
import numpy as np
import plain_frames as wire
import pytest
from serving import twin

from pimchip.board.emulated import emulated
from pimchip.board.serving import write_die_file
from pimchip.emulator.requests import BoardRequests, capabilities
from pimchip.link.blob import pack_blob
from pimchip.link.constants import RULES, Op
from pimchip.link.frames import Decoder, Frame
from pimchip.link.server import Line, Server
from pimchip.profile.manifest import to_toml

WITHOUT = firmware.missing("gcc", "make")
pytestmark = pytest.mark.skipif(bool(WITHOUT), reason=WITHOUT)


@dataclass
class Both:
    """A die on either, with one client each."""

    server: Server
    line: Line
    client: wire.Client

    def ask(self, op: int, payload: bytes = b"", arg: int = 0, *, flags: int = 0) -> tuple[wire.Frame, wire.Frame]:
        """What Python and C reply to the same request."""
        self.client.seq = (self.client.seq + 1) & 0xFFFF
        seq = self.client.seq
        sent = Frame(0, op, seq, self.client.key, arg, payload, flags=flags)
        [found] = Decoder().feed(self.server.feed(self.line, time.monotonic(), sent.encode()))
        f = found
        ours = wire.Frame(f.version, f.kind, f.op, f.flags, f.seq, f.status, f.session, f.arg, f.payload)
        self.client.send(op, payload, arg, seq=seq, flags=flags)
        return ours, self.client.reply(seq)

    def same(self, op: int, payload: bytes = b"", arg: int = 0) -> int:
        """The status, after a look that class of error and data are the same. Where several things are wrong with a request,
        either may name another one first."""
        ours, theirs = self.ask(op, payload, arg)
        if b"no tables for that operating point" in theirs.payload:
            return theirs.status  # what a file cannot hold
        said = f"op {op:#x} {payload.hex()} arg {arg}: {ours.status:#x} {ours.payload!r}, {theirs.status:#x} {theirs.payload!r}"
        assert ours._replace(status=ours.status >> 8, payload=b"") == theirs._replace(
            status=theirs.status >> 8, payload=b""
        ), said
        if op == wire.MAP and not ours.status:  # bounds need not be reached, so they may differ
            (*shape, low, high), exact = struct.unpack("<4Iii", ours.payload), struct.unpack("<4Iii", theirs.payload)
            assert tuple(shape) == exact[:4] and low <= exact[4] <= exact[5] <= high, said
        elif not ours.status:
            assert ours.payload == theirs.payload, said
        return ours.status

    def put(self, region: int, handle: int, data: bytes, shape: tuple[int, ...] = (0, 0, 0, 0)) -> None:
        import zlib

        assert not self.same(wire.BEGIN, struct.pack("<9I", region, handle, len(data), 4096, zlib.crc32(data), *shape))
        for at in range(0, len(data), 4096):
            assert not self.same(wire.WRITE, data[at : at + 4096], at)
        assert not self.same(wire.COMMIT)


@pytest.fixture
def both(sanitized: Path, tmp_path: Path) -> Iterator[Both]:
    plain = emulated("emulator:sram65").spec.to_dict()
    plain["array"] |= {"macros": 2, "rows": 20, "columns": 24}
    plain["adc"]["per_macro"] = 6
    plain["board"]["feature_memory"] = 1 << 16
    plain["operating"]["rows"] = 18
    chip = tmp_path / "chip.toml"
    chip.write_text(to_toml(plain), encoding="utf-8")
    url = f"emulator:{chip}?die=2&lacks=trim"
    write_die_file(url, tmp_path / "die")
    given = emulated(url)
    requests = BoardRequests(given.board, given.lacks)
    requests.blob = pack_blob(
        capabilities(given.board(), given.lacks, firmware="pimp-1")
    )  # of the firmware's own limits
    with twin(sanitized, tmp_path / "die") as place:
        client = wire.Client.to(int(place.rpartition(":")[2]))
        boot = client.hello()["boot_id"]
        found = Both(Server(requests, boot_id=boot), Line(), client)
        hello = struct.pack("<BBHI32s", 1, 1, 0, 4096, bytes(32))
        [opened] = Decoder().feed(found.server.feed(found.line, 0.0, Frame(0, 1, 1, 7, 0, hello).encode()))
        assert not opened.status and opened.payload[28:32] == struct.pack(
            "<I", client.key
        )  # the same boot, the same key
        yield found
        client.link.close()


def filled(both: Both) -> None:
    """Something in every region."""
    rng = np.random.default_rng(0)
    x = rng.integers(0, 16, (1, 2, 6, 7))
    both.put(wire.R_MAP8, 0, x.astype(np.uint8).tobytes(), x.shape)
    both.put(wire.R_MAP32, 1, rng.integers(-99, 999, (1, 3, 6, 7)).astype("<i4").tobytes(), (1, 3, 6, 7))
    both.put(wire.R_CELLS, 0, rng.integers(0, 2, 18 * 12, np.int8).tobytes())
    both.put(wire.R_INPUTS, 0, rng.integers(0, 16, 3 * 18, np.uint8).tobytes())
    mac = struct.pack("<6BHI", 2, 4, 4, 4, 7, 0, 1, 18)
    geometry = struct.pack("<10I", 2, 3, 3, 3, 1, 1, 1, 1, 1, 1)
    layer = mac + geometry + struct.pack("<I32s", 1, b"layer") + struct.pack("<7I", 0, 0, 0, 18, 12, 0, 0)
    both.put(wire.R_LAYER, 0, layer)
    both.put(wire.R_REQUANT, 0, struct.pack("<IiiIQ", 3, 0, 15, 0, 1 << 20) + struct.pack("<qqII", 7, 100, 9, 0) * 3)
    both.put(wire.R_WEIGHTS, 0, struct.pack("<10I", 3, 3, 1, 1, 1, 1, 0, 0, 1, 1) + bytes(range(9)))
    assert not both.same(wire.PROGRAM, struct.pack("<5Ii", 0, 0, 0, 18, 12, 1))


SIZES = {op: RULES[op].request for op in Op}


@pytest.mark.parametrize("seed", range(4))
def test_random_requests(both: Both, seed: int) -> None:
    filled(both)
    rng = np.random.default_rng(seed)
    words = [0, 0, 0, 1, 1, 2, 3, 7, 12, 18, 24, 64, 100, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF]
    ops = [op for op in range(0x10, 0x43) if op not in (wire.WRITE, 0x11)] + [wire.SAFE, wire.TELEMETRY, 0x77]
    seen: dict[int, set[int]] = {}
    for turn in range(1500):
        op = ops[turn % len(ops)]
        size = SIZES.get(Op(op), 4) if op in tuple(Op) else 4
        size = size if size >= 0 and turn % 9 else int(rng.integers(0, 60))
        payload = rng.choice(words, size // 4).astype("<u4").tobytes() + bytes(size % 4)
        seen.setdefault(op, set()).add(both.same(op, payload, int(rng.choice(words))))
    assert {0, 0x0203, 0x0201, 0x0104, 0x0103} <= set().union(*seen.values())


def test_sound_requests_with_one_field_wrong(both: Both) -> None:
    """Every field of every request in turn is 0, one more, a large or the largest number."""
    tile = (0, 0, 0, 18, 12)
    mac = struct.unpack("<3I", struct.pack("<6BHI", 2, 4, 4, 4, 7, 0, 1, 18))
    sound = {
        wire.READ: (wire.R_MAP8, 0, 10), wire.PROGRAM: (*tile, 1), wire.VERIFY: tile, wire.READ_CELLS: tile,
        wire.CONVERT: (*tile, *mac, 5, 0, 1, 3, 2), wire.CONV: (0, 0, 2, 0, 0, 5, 7, 0), wire.DIGITAL: (0, 1, 3, 0),
        wire.REQUANTIZE: (1, 4, 0), wire.ADD: (1, 1, 5, 2, 0, 99, 3, 0, 1, 0), wire.POOL: (1, 6, 0, 2, 2, 2, 2, 1, 1),
        wire.STATS: (1,), wire.MAP: (1,), wire.BEGIN: (wire.R_INPUTS, 0, 100, 64, 7, 0, 0, 0, 0),
        wire.STREAM: (0, 0), wire.LOG: (2,),
    }  # fmt: skip
    for op, fields in sound.items():
        for place in range(len(fields)):
            for value in (0, fields[place] + 1, 1 << 16, 1 << 24, 0x7FFFFFFF, 0xFFFFFFFF):
                filled(both)
                assert not both.same(op, struct.pack(f"<{len(fields)}I", *fields)), (op, fields)
                changed = [*fields[:place], value, *fields[place + 1 :]]
                both.same(op, struct.pack(f"<{len(fields)}I", *changed))
