"""Requests that cannot be, judged by the emulated board and by the firmware's twin: one status, and one state after it."""

from __future__ import annotations

import struct
import zlib
from collections import Counter
from collections.abc import Iterator
from dataclasses import astuple, dataclass, field
from pathlib import Path
from typing import Any

import firmware
import numpy as np
import plain_frames as wire
import pytest
from serving import twin
from test_firmware import held_twice, layer_bytes, layer_on, mac_bytes, requant_bytes, rescaling, small, with_correction

from pimchip.chip import ChipSpec, Geometry, PimLayer, Tile
from pimchip.emulator.die import Die
from pimchip.emulator.export import export_die, write_die
from pimchip.emulator.requests import BoardRequests
from pimchip.emulator.state import Conditions
from pimchip.emulator.virtual import VirtualBoard
from pimchip.link.server import Line, Server

WITHOUT = firmware.missing("gcc", "make")
pytestmark = pytest.mark.skipif(bool(WITHOUT), reason=WITHOUT)

MEMORY = 1 << 13
ARGUMENT, REGION, EMPTY, SHAPE, OVERFLOW, LACKS, FULL = 0x0201, 0x0202, 0x0203, 0x0204, 0x0205, 0x0206, 0x0301
WORDS = (0, 1, 2, 3, 4, 7, 18, 20, 127, 128, 255, 1 << 16, 1 << 24, (1 << 24) + 1, (1 << 31) - 1, 1 << 31, wire.NONE)
BUFFERS = range(6)
Answer = tuple[int, bytes]


@dataclass
class Emulated:
    """The Python board behind whole frames."""

    server: Server
    line: Line = field(default_factory=Line)
    seq: int = 0
    key: int = 7

    def ask(self, op: int, payload: bytes = b"", arg: int = 0) -> Answer:
        self.seq = (self.seq + 1) & 0xFFFF
        frame = wire.Frame(1, 0, op, 0, self.seq, 0, self.key, arg, payload)
        event, data = wire.judge(self.server.feed(self.line, 0.0, frame.encoded())[:-1])
        assert event == wire.GOOD
        return wire.HEADER.unpack(data[:16])[5], data[16:]


@dataclass
class Two:
    """The same board twice. asked: how often which op was answered with which status."""

    spec: ChipSpec
    python: Emulated
    c: wire.Client
    asked: Counter[tuple[int, int]] = field(default_factory=Counter)

    def ask(self, op: int, payload: bytes = b"", arg: int = 0) -> int:
        """A request to both; their one status."""
        found = self.python.ask(op, payload, arg)
        try:
            wanted: Answer = 0, self.c.call(op, payload, arg)
        except wire.RefusedError as error:
            wanted = error.status, b""
        assert hex(found[0]) == hex(wanted[0]), (hex(op), payload.hex(), arg, found[1])
        if not wanted[0] and op != wire.READ:
            assert found == wanted, (hex(op), payload.hex(), arg)
        self.asked[op, wanted[0]] += 1
        return wanted[0]

    def put(self, region: int, handle: int, data: bytes, shape: tuple[int, ...] = (0, 0, 0, 0)) -> int:
        """A whole transfer; what ended it."""
        crc = zlib.crc32(data)
        status = self.ask(wire.BEGIN, struct.pack("<9I", region, handle, len(data), 4096, crc, *shape))
        for at in range(0, len(data) if not status else 0, 4096):
            status = status or self.ask(wire.WRITE, data[at : at + 4096], at)
        return status or self.ask(wire.COMMIT)

    def map(self, buffer: int, data: Any, *, words: bool = False) -> int:
        data = np.asarray(data)
        kind = "<i4" if words else "<u1"
        return self.put(wire.R_MAP32 if words else wire.R_MAP8, buffer, data.astype(kind).tobytes(), data.shape)

    def read(self, region: int, handle: int, length: int) -> None:
        """The same bytes, or the same refusal."""
        asked = struct.pack("<III", region, handle, length)
        found = self.python.ask(wire.READ, asked)
        try:
            wanted: Answer = 0, self.c.call(wire.READ, asked)
        except wire.RefusedError as error:
            wanted = error.status, b""
        assert found[0] == wanted[0] and (wanted[0] or found == wanted), (region, handle, found, wanted)

    def same_state(self) -> None:
        """Maps, results, and the count of writes."""
        for buffer in BUFFERS:
            if not self.ask(wire.MAP, struct.pack("<I", buffer)):
                shape = struct.unpack("<4I", self.python.ask(wire.MAP, struct.pack("<I", buffer))[1][:16])
                self.read(wire.R_MAP32, buffer, min(4 * int(np.prod(shape)), 4096))
        for region, length in ((wire.R_READBACK, 1), (wire.R_CHECKS, 4), (wire.R_CODES, 8), (wire.R_STATS, 16)):
            self.read(region, 0, length)
        self.read(wire.R_REGISTERS, 0, 8)


@pytest.fixture(params=["plain", "trims"])
def two(request: pytest.FixtureRequest, sanitized: Path, tmp_path: Path) -> Iterator[Two]:
    trims = {"adc": {"trim_bits": 3}} if request.param == "trims" else {}
    spec = small("sram65", board={"feature_memory": MEMORY}, **trims)
    with both(spec, sanitized, tmp_path, all_trims=bool(trims)) as made:
        yield made


class both:
    """Two boards of a die, the second one the twin."""

    def __init__(self, spec: ChipSpec, program: Path, folder: Path, *, all_trims: bool = False) -> None:
        write_die(folder / "die", export_die(spec, Die(spec, 3), Conditions(), noise_seed=77, all_trims=all_trims))
        lacks = () if all_trims else ("trim",)
        backend = BoardRequests(lambda: VirtualBoard(spec, Die(spec, 3), noise_seed=77), lacks)
        self.python, self.spec = Emulated(Server(backend)), spec
        self.running = twin(program, folder / "die")

    def __enter__(self) -> Two:
        self.client = wire.Client.to(int(self.running.__enter__().rpartition(":")[2]), timeout=60)
        self.client.hello()
        status, reply = self.python.ask(wire.HELLO, struct.pack("<BBHI32s", 1, 1, 0, 4096, bytes(32)))
        assert status == 0
        (self.python.key,) = struct.unpack("<I", reply[28:32])
        return Two(self.spec, self.python, self.client)

    def __exit__(self, *why: object) -> None:
        self.client.link.close()
        self.running.__exit__(None, None, None)


class Requests:
    """Well-formed requests that a board grants, and objects that it takes, by name; and the same with words changed."""

    def __init__(self, spec: ChipSpec, rng: np.random.Generator) -> None:
        self.rng = rng
        mac = spec.mac()
        self.mac = mac_bytes(mac)
        self.layers = [
            layer_on(spec, mac, geometry)
            for geometry in (Geometry(2, 3, (3, 3), (1, 1), (1, 1)), Geometry(20, 4), Geometry(3, 2, (2, 2), (2, 1)))
        ]
        adcs = spec.array.macros * spec.adc.per_macro
        self.layers[1] = held_twice(mac, Geometry(20, 4))
        self.layers[2] = with_correction(self.layers[2], rng, adcs)
        self.channels = [3, 4, 2, 3]
        kernels = [rng.integers(-128, 128, (2, 3, 2, 2)), rng.integers(-128, 128, (4, 20, 1, 1))]
        geometries = [Geometry(3, 2, (2, 2)), Geometry(20, 4)]
        self.weights = [
            struct.pack("<10I", *firmware.geometry_words(g)) + w.astype(np.int8).tobytes()
            for g, w in zip(geometries, kernels, strict=True)
        ]

    def requant(self, channels: int) -> bytes:
        low, high = [(0, 15), (0, 255), (-300, 300)][int(self.rng.integers(3))]
        return requant_bytes(rescaling(self.rng, channels, int(self.rng.choice([5, 1 << 20, 1 << 31])), low, high))

    def tile(self, likely: int = 0) -> bytes:
        layer = likely if self.rng.random() < 0.7 else int(self.rng.integers(3))
        return struct.pack("<5I", *astuple(self.layers[layer].placements[0].tile))

    def buffer(self, *likely: int) -> int:
        return int(self.rng.choice(likely if likely and self.rng.random() < 0.8 else BUFFERS))

    def noise(self) -> bytes:
        first = int(self.rng.choice([0, 5, (1 << 40) - 1, 1 << 40, 1 << 63], p=[0.6, 0.2, 0.1, 0.05, 0.05]))
        return struct.pack("<IQ", int(self.rng.integers(3)), first)

    def one_of(self, *values: int) -> int:
        return int(self.rng.choice(values))

    def of(self, op: int) -> bytes:
        """A payload that is right, or nearly."""
        r = self.rng
        factors = (int(r.choice([1, -2, 1 << 32, 1 << 52, -(1 << 55), -(1 << 63)])) for _ in range(2))
        dst = self.one_of(4, 5)
        match op:
            case wire.PROGRAM:
                return self.tile(2) + struct.pack("<i", self.one_of(1, 1, 127))
            case wire.VERIFY | wire.READ_CELLS:
                return self.tile()
            case wire.CONVERT:
                return (
                    self.tile()
                    + self.mac
                    + self.noise()
                    + struct.pack("<II", self.one_of(4, 4, 4, 1), self.one_of(1, 2))
                )
            case wire.TRIM:
                return struct.pack("<II", int(r.integers(0, 14)), int(r.integers(0, 9)))
            case wire.CONV:
                layer, accumulate = self.one_of(0, 1, 2), self.one_of(0, 0, 0, 1)
                requant = wire.NONE if accumulate else self.one_of(wire.NONE, layer, 2)
                words = layer, self.buffer((0, 2, 3)[layer]), dst, requant, accumulate
                return struct.pack("<5I", *words) + self.noise()
            case wire.DIGITAL:
                weights = self.one_of(0, 1)
                requant = self.one_of(wire.NONE, (2, 1)[weights], 3)
                return struct.pack("<4I", weights, self.buffer(*((1, 3), (2,))[weights]), dst, requant)
            case wire.REQUANTIZE:
                return struct.pack("<3I", self.buffer(1, 3), dst, self.one_of(0, 1, 2, 3, 3))
            case wire.ADD:
                bounds = [(0, 255), (-5, 5), (3, 2), (-(1 << 31), (1 << 31) - 1)][int(r.integers(4))]
                first = self.buffer()
                places = first, self.buffer(first), dst, int(r.choice([0, 3, 62, 63]))
                return struct.pack("<4Iii2q", *places, *bounds, *factors)
            case wire.POOL:
                windows = [(2, 2, 2, 2, 0, 0), (3, 2, 1, 1, 1, 1), (6, 7, 1, 1, 0, 0)][int(r.integers(3))]
                return struct.pack("<9I", self.buffer(), dst, self.one_of(0, 1), *windows)
            case _:
                return struct.pack("<I", self.buffer(*((5,) if op == wire.FREE else ())))

    def changed_layer(self, data: bytes) -> bytes:
        """A layer with a field changed: of its head, a placement, what says of its copies, the head of its correction,
        or its first values."""
        heads = 88 + 28 * struct.unpack("<I", data[52:56])[0] + 16
        return self.changed(data[:heads]) + data[heads:]

    def changed(self, payload: bytes) -> bytes:
        """A word or a byte of it set to something else, or its length."""
        out = bytearray(payload)
        kind = self.rng.integers(12)
        if kind == 0:
            return bytes(out[: int(self.rng.integers(len(out)))])
        if kind < 3:
            out[int(self.rng.integers(len(out)))] = int(self.rng.integers(256))
        else:
            at = 4 * int(self.rng.integers(len(out) // 4))
            out[at : at + 4] = struct.pack("<I", int(self.rng.choice(WORDS)))
        return bytes(out)


def fill(two: Two, make: Requests) -> None:
    """Everything that well-formed requests look for."""
    r = make.rng
    two.map(0, r.integers(0, 16, (2, 2, 6, 7)))
    two.map(1, r.integers(-900, 900, (2, 3, 4, 5)), words=True)
    two.map(2, r.integers(0, 16, (3, 20, 1, 1)), words=bool(r.integers(2)))
    two.map(3, r.integers(0, 256, (1, 3, 6, 7)))
    for handle, layer in enumerate(make.layers):
        assert two.put(wire.R_LAYER, handle, layer_bytes(layer)) == 0
        tile = layer.placements[0].tile
        assert two.put(wire.R_CELLS, 0, r.integers(0, 2, tile.rows * tile.columns).astype(np.int8).tobytes()) == 0
        assert two.ask(wire.PROGRAM, struct.pack("<5Ii", *astuple(tile), 1)) == 0
    for handle, channels in enumerate(make.channels):
        two.put(wire.R_REQUANT, handle, make.requant(channels))
    for handle, weights in enumerate(make.weights):
        two.put(wire.R_WEIGHTS, handle, weights)
    two.put(wire.R_INPUTS, 0, r.integers(0, 16, 4 * 18).astype(np.uint8).tobytes())


OPS = (*range(0x20, 0x25), *range(0x30, 0x38))


@pytest.mark.parametrize("seed", range(3))
def test_every_op(two: Two, seed: int) -> None:
    make = Requests(two.spec, np.random.default_rng(seed))
    two.ask(wire.READ_CELLS, make.tile())
    for op in OPS:  # nothing was transferred
        two.ask(op, make.of(op))
    for turn in range(1500):
        if turn % 60 == 0:
            for buffer in BUFFERS:
                two.ask(wire.FREE, struct.pack("<I", buffer))
            fill(two, make)
        op = int(make.rng.choice(OPS))
        payload = make.of(op)
        for _ in range(int(make.rng.choice([0, 1, 2], p=[0.5, 0.35, 0.15]))):
            payload = make.changed(payload) if len(payload) >= 4 else payload
        two.ask(op, payload)
        if turn % 20 == 19:
            two.same_state()
    answered = {op: {status for other, status in two.asked if other == op} for op in OPS}
    assert all(0 in answered[op] for op in OPS if op != wire.TRIM)
    assert answered[wire.TRIM] in ({LACKS, 0x0104}, {0, ARGUMENT, 0x0104}, {LACKS}, {0, ARGUMENT})
    assert answered[wire.CONV] >= {0, ARGUMENT, EMPTY, SHAPE} and answered[wire.ADD] >= {ARGUMENT, SHAPE, OVERFLOW}
    assert answered[wire.REQUANTIZE] >= {0, SHAPE, OVERFLOW} and answered[wire.POOL] >= {0, ARGUMENT, SHAPE}


@pytest.mark.parametrize("seed", range(2))
def test_every_object(two: Two, seed: int) -> None:
    """Layers, requantizations and weights with words changed, at COMMIT and when they are used."""
    make = Requests(two.spec, np.random.default_rng(seed))
    fill(two, make)
    for _ in range(400):
        kind = int(make.rng.integers(3))
        if kind == 0:
            region, data = wire.R_LAYER, layer_bytes(make.layers[int(make.rng.integers(3))])
        elif kind == 1:
            region, data = wire.R_REQUANT, make.requant(3)
        else:
            region, data = wire.R_WEIGHTS, make.weights[0]
        for _ in range(int(make.rng.integers(3))):
            if kind == 0 and len(data) > 200:
                data = make.changed_layer(data)
            elif len(data) >= 4:
                data = make.changed(data)
        two.put(region, 0, data or b"\0")
        requant = make.one_of(0, wire.NONE)
        two.ask(wire.CONV, struct.pack("<5IIQ", 0, make.one_of(0, 2), 4, requant, 0, 0, 0))
        two.ask(wire.DIGITAL, struct.pack("<4I", 0, make.one_of(1, 3), 5, requant))
        two.ask(wire.REQUANTIZE, struct.pack("<3I", 1, 4, 0))
        two.same_state()
    answered = {status for op, status in two.asked if op == wire.COMMIT}
    assert answered == {0, ARGUMENT, SHAPE}


def test_every_transfer(two: Two) -> None:
    rng = np.random.default_rng(0)
    for turn in range(600):
        region, handle = (
            int(rng.integers(16)),
            int(rng.choice([0, 1, 255, 256, wire.NONE], p=[0.6, 0.1, 0.1, 0.1, 0.1])),
        )
        length = int(rng.choice([0, 1, 24, 100, 4096, MEMORY, MEMORY + 4, 1 << 26, (1 << 26) + 1, wire.NONE]))
        shape = [(0, 0, 0, 0), (1, 1, 1, length), (1, 1, 1, length // 4), (1, 0, 3, 3), (1 << 16,) * 4][turn % 5]
        chunk = int(rng.choice([0, 63, 64, 4096, 4097], p=[0.05, 0.05, 0.4, 0.45, 0.05]))
        data = bytes(length if length <= 4096 else 0)
        crc = zlib.crc32(data) + int(rng.integers(6) == 0)
        begun = two.ask(wire.BEGIN, struct.pack("<9I", region, handle, length, chunk, crc & wire.NONE, *shape))
        if begun in (0, FULL) and (begun or length > 4096):  # one refused with FULL may have dropped what was under way
            two.put(wire.R_INPUTS, 0, b"\1")
        for at in range(0, len(data) if not begun else 0, max(chunk, 1)):
            two.ask(wire.WRITE, data[at : at + chunk], at)
        for payload, at in ((b"", 0), (b"\0" * 64, 64), (b"\0" * 64, 1 << 20), (b"\0" * 64, 3)):
            two.ask(wire.WRITE, payload, at)
        two.ask(wire.COMMIT)
        asked = [int(rng.integers(16)), int(rng.integers(2)), int(rng.choice([0, 1, 8, 4096, 4097, wire.NONE]))]
        offset = int(rng.choice([0, 1, 24, 4096, wire.NONE]))
        if asked[0] not in (wire.R_BLOB, wire.R_COUNTERS):  # what devices say of themselves, and count as they will
            two.ask(wire.READ, struct.pack("<III", *asked), offset)
    answered = {op: {status for other, status in two.asked if other == op} for op in (wire.BEGIN, wire.READ)}
    assert answered[wire.BEGIN] == {0, ARGUMENT, REGION, SHAPE, FULL}
    assert answered[wire.READ] >= {0, ARGUMENT, REGION, EMPTY}


class TestWork:
    """One request asks for a bounded amount of work, and what is beyond is FULL at once."""

    @pytest.fixture
    def large(self, sanitized: Path, tmp_path: Path) -> Iterator[Two]:
        with both(small("sram65", board={"feature_memory": 1 << 26}), sanitized, tmp_path) as made:
            yield made

    def pool(self, two: Two, kind: int, *windows: int) -> int:
        return two.ask(wire.POOL, struct.pack("<9I", 0, 1, kind, *windows))

    def test_pooling(self, large: Two) -> None:
        two = large
        two.map(0, np.full((1, 1, 1024, 1024), 3))
        for kind in (0, 1):
            assert self.pool(two, kind, 512, 512, 1, 1, 0, 0) == FULL  # 2^36 visits
            assert self.pool(two, kind, 1024, 1024, 1, 1, 512, 512) == FULL
            assert self.pool(two, kind, 1 << 24, 1 << 24, 1 << 24, 1 << 24, 1 << 23, 1 << 23) == FULL
            assert self.pool(two, kind, 1024, 1024, 1, 1, 0, 0) == 0  # all of it once
            assert self.pool(two, kind, 1 << 24, 1, 1, 1, 0, 0) == SHAPE
            assert self.pool(two, kind, (1 << 24) + 1, 1, 1, 1, 0, 0) == ARGUMENT
        two.map(0, np.zeros((1, 1, 1, 1)))
        # Of one image 2^28 values, a window of 2^14 x 2^14 on its padding: the last that may be asked for.
        assert self.pool(two, 1, 1 << 14, 1 << 14, 1, 1, 1 << 13, 1 << 13) == FULL  # 2 x 2 of them
        assert self.pool(two, 1, 1 << 12, 1 << 12, 1, 1, 1 << 11, 1 << 11) == 0

    def layer(self, two: Two, geometry: Geometry) -> None:
        layer = PimLayer("layer", two.spec.mac(), geometry, ())
        assert two.put(wire.R_LAYER, 0, layer_bytes(layer)) == 0

    def conv(self, two: Two) -> int:
        return two.ask(wire.CONV, struct.pack("<5IIQ", 0, 0, 1, wire.NONE, 0, 0, 0))

    def test_layers_on_the_array(self, large: Two) -> None:
        two = large
        two.map(0, np.zeros((1, 1, 1, 1)))
        huge = 1 << 24
        for padding, dilation, stride in (
            ((huge, huge), (1, 1), (1, 1)),
            ((huge, huge), (huge, huge), (huge, huge)),
            ((huge, 0), (huge, 1), (1, 1)),
        ):
            self.layer(two, Geometry(1, 1, (2, 1), stride, padding, dilation))
            assert self.conv(two) == FULL
        self.layer(two, Geometry(1, 1, (1, 1), (huge, huge), (1, 1)))
        assert self.conv(two) == 0  # strides cost nothing
        self.layer(two, Geometry(1, 1, (4096, 4096), (1, 1), (4095, 4095)))
        assert self.conv(two) == FULL
        self.layer(two, Geometry(1, 1, (2, 2)))
        assert self.conv(two) == SHAPE

    def test_convolutions_on_the_processor(self, large: Two) -> None:
        two = large
        two.map(0, np.ones((64, 1, 256, 256)))

        def digital(*fields: Any) -> int:
            geometry = Geometry(1, 1, *fields)
            held = struct.pack("<10I", *firmware.geometry_words(geometry)) + b"\1" * geometry.depth
            assert two.put(wire.R_WEIGHTS, 0, held) == 0
            return two.ask(wire.DIGITAL, struct.pack("<4I", 0, 0, 1, wire.NONE))

        assert digital((128, 128), (1, 1)) == FULL  # 64 x 129^2 x 2^14 products
        assert digital((128, 128), (128, 128)) == 0  # each once
        assert digital((1, 1), (1 << 24, 1 << 24), (1 << 13, 1 << 13)) == FULL  # of one padded image 2^28 and more
        assert digital((1, 1), (1 << 24, 1 << 24), (1 << 10, 1 << 10)) == 0


class TestAddition:
    """Of the values that are there, whatever the bounds that a map was made with."""

    def test_the_last_factor_that_fits(self, two: Two) -> None:
        def add(factor: int, other: int = 0, shift: int = 0) -> int:
            return two.ask(wire.ADD, struct.pack("<4Iii2q", 0, 1, 2, shift, -(1 << 31), (1 << 31) - 1, factor, other))

        # A map of values to 3 that was made within wide bounds, by an addition and by a requantization.
        two.map(0, np.array([[[[-3, 0, 2, 1]]]]), words=True)
        two.map(1, np.zeros((1, 1, 1, 4)))
        wide = struct.pack("<IiiIQ", 1, -(1 << 30), 1 << 30, 0, 1 << 31) + struct.pack("<qqII", 1, 0, 0, 0)
        assert two.put(wire.R_REQUANT, 0, wide) == 0
        for make in ("upload", "add", "requantize"):
            if make == "add":
                assert two.ask(wire.ADD, struct.pack("<4Iii2q", 0, 1, 0, 0, -(1 << 30), 1 << 30, 1, 1)) == 0
            elif make == "requantize":
                assert two.ask(wire.REQUANTIZE, struct.pack("<3I", 0, 0, 0)) == 0
            most = ((1 << 63) - 1) // 3
            for sign in (1, -1):
                assert add(sign * most) == 0
                assert add(sign * (most + 1)) == OVERFLOW
                assert add(sign * most, shift=1) == (0 if 3 * most + 1 < 1 << 63 else OVERFLOW)
            assert add(0, -(1 << 63)) == 0  # beside zeros any factor does
            assert add(1, 1, shift=62) == 0
            assert add(most, 0, shift=62) == OVERFLOW
            two.same_state()

    def test_requantization_by_the_values(self, two: Two) -> None:
        two.map(0, np.array([[[[-6, 0, 5, 1]]]]), words=True)
        for acc_max, status in ((5, OVERFLOW), (6, 0)):
            data = struct.pack("<IiiIQ", 1, -9, 9, 0, acc_max) + struct.pack("<qqII", 1 << 59, 0, 59, 0)
            assert two.put(wire.R_REQUANT, 0, data) == 0
            assert two.ask(wire.REQUANTIZE, struct.pack("<3I", 0, 1, 0)) == status
        two.same_state()

    def test_memory_is_counted_by_where_maps_come_from(self, two: Two) -> None:
        """Bytes: MAP8, maxima of bytes, results within 0..255. All else words, whatever the values."""
        pool = struct.Struct("<9I")
        half = MEMORY // 2
        two.map(0, np.zeros((1, 1, 2, half // 2)))
        assert two.ask(wire.POOL, pool.pack(0, 1, 0, 1, 1, 1, 1, 0, 0)) == 0
        two.ask(wire.FREE, struct.pack("<I", 1))
        assert two.ask(wire.POOL, pool.pack(0, 1, 1, 1, 1, 1, 1, 0, 0)) == FULL
        assert two.map(1, np.zeros((1, 1, 1, half // 4)), words=True) == 0
        assert two.map(2, np.zeros((1, 1, 1, 1)), words=True) == FULL
        assert two.ask(wire.ADD, struct.pack("<4Iii2q", 0, 0, 0, 0, 0, 256, 1, 0)) == FULL
        assert two.ask(wire.ADD, struct.pack("<4Iii2q", 0, 0, 0, 0, 0, 255, 1, 0)) == 0
        two.same_state()

    def test_a_map_for_which_room_is_gone_at_its_commit(self, two: Two) -> None:
        begin = struct.pack("<9I", wire.R_MAP8, 3, 64, 64, zlib.crc32(bytes(64)), 1, 1, 1, 64)
        assert two.ask(wire.BEGIN, begin) == 0
        assert two.ask(wire.WRITE, bytes(64)) == 0
        tile = Tile(0, 0, 0, 1, 8)
        two.ask(wire.READ_CELLS, struct.pack("<5I", *astuple(tile)))
        assert two.ask(wire.COMMIT) == 0
        assert two.ask(wire.COMMIT) == 0x8107
        # An addition fills what a transfer counted on.
        two.map(0, np.zeros((1, 1, 1, 1000)))
        begin = struct.pack("<9I", wire.R_MAP8, 4, 4096, 4096, zlib.crc32(bytes(4096)), 1, 1, 1, 4096)
        assert two.ask(wire.BEGIN, begin) == 0
        assert two.ask(wire.WRITE, bytes(4096)) == 0
        assert two.ask(wire.ADD, struct.pack("<4Iii2q", 0, 0, 1, 0, -1, 1, 0, 0)) == 0
        assert two.ask(wire.COMMIT) == FULL
        assert two.ask(wire.COMMIT) == 0x8107
        two.same_state()
