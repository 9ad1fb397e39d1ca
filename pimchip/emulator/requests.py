"""The emulated board as a device of the protocol: regions, and requests by op, for pimchip.link.server.

A host may ask for anything: whatever would take much memory is measured before it is made.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Collection
from dataclasses import asdict
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from pimchip._version import __version__
from pimchip.chip import Geometry, PimLayer, Requant, Tile
from pimchip.chip.energy import COUNTERS
from pimchip.chip.mac import Int8
from pimchip.emulator import wire
from pimchip.emulator.virtual import FIRMWARE, VirtualBoard
from pimchip.link import messages as m
from pimchip.link.blob import pack_blob
from pimchip.link.constants import MAX_CHUNKS, MAX_PAYLOAD, NO_HANDLE, RULES, Op, Region, Status
from pimchip.link.refusals import Refusal
from pimchip.link.server import Identity, part_of
from pimchip.link.transfers import Shape

CAPABILITIES = frozenset(rules.needs for rules in RULES.values()) - {""}
HANDLES = 256
"""Of each of layers, requantizations and weights."""
INPUT_BYTES = CODE_BYTES = 1 << 26
OBJECT_BYTES = 1 << 24
"""Largest layer, requantization or weights."""
LAYER_CELLS = 1 << 28
"""Largest layer: products of an output times columns."""
_POOLS = ("max", "sum")
_Held = TypeVar("_Held")


def capabilities(
    board: VirtualBoard, lacks: Collection[str] = (), profile: str = "", firmware: str = FIRMWARE
) -> dict[str, Any]:
    """The capability blob's content for a board; also for a firmware that computes as it does."""
    return {
        "uid": board.uid,
        "chip": board.spec.to_dict(),
        "firmware": firmware,
        "capabilities": sorted(CAPABILITIES - set(lacks)),
        "feature_memory": board.spec.board.feature_memory,
        "effects": [asdict(effect) for effect in board.effects],
        "profile": profile,
        "registers": list(board.registers()),
        "counters": list(COUNTERS),
        "limits": {
            "layers": HANDLES, "requants": HANDLES, "weights": HANDLES,
            "inputs": INPUT_BYTES, "codes": CODE_BYTES,
        },
        "budgets": {op.name.lower(): rules.budget for op, rules in RULES.items() if rules.budget},
    }  # fmt: skip


class BoardRequests:
    """A Backend over virtual boards: `make` gives one at the start and after each reset."""

    def __init__(self, make: Callable[[], VirtualBoard], lacks: Collection[str] = (), profile: str = "") -> None:
        self._make, self._lacks = make, frozenset(lacks)
        self.board = make()
        spec = self.board.spec
        self.identity = Identity(self.board.uid, spec.name, bytes.fromhex(spec.hash), f"{FIRMWARE} {__version__}")
        self.blob = pack_blob(capabilities(self.board, lacks, profile))
        self._forget()

    def _forget(self) -> None:
        self._cells = b""
        self._inputs = b""
        self._results: dict[Region, bytes] = {}
        self._layers: dict[int, PimLayer] = {}
        self._requants: dict[int, Requant] = {}
        self._weights: dict[int, tuple[Int8, Geometry]] = {}
        self._map: tuple[Region, int, bytes] | None = None

    def new_owner(self) -> None:
        self.board.free_all()
        self._map = None

    def safe(self) -> None:
        """Tables have no supplies and no array to put at rest."""

    def reset(self) -> None:
        self.board = self._make()
        self._forget()

    def telemetry(self) -> bytes:
        at, spec = self.board.conditions, self.board.spec
        supply = spec.supply.volts if at.supply is None else at.supply
        conversions = self.board.counters["conversions"]
        return m.Telemetry(
            round(at.temperature * 1000), round(supply * 1e6), round(at.age * 3_600_000), conversions
        ).pack()

    # ------------------------------------------------------------------------------------------------------ regions

    def read(self, region: Region, handle: int, offset: int, length: int) -> bytes:
        if region in (Region.MAP8, Region.MAP32):
            return part_of(self._map_bytes(region, handle), offset, length)
        if region is Region.REGISTERS:
            values: NDArray[Any] = np.array(list(self.board.registers().values()), "<i8")
            return part_of(values.tobytes(), offset, length)
        if region is Region.COUNTERS:
            return part_of(np.array(list(self.board.counters.values()), "<u8").tobytes(), offset, length)
        if region not in (Region.READBACK, Region.CHECKS, Region.CODES, Region.STATS):
            raise Refusal(Status.REGION)
        if region not in self._results:
            raise Refusal(Status.EMPTY)
        return part_of(self._results[region], offset, length)

    def _map_bytes(self, region: Region, handle: int) -> bytes:
        """A whole map, kept until something is done: hosts read it in parts."""
        if self._map is None or self._map[:2] != (region, handle):
            held = self.board.map_of(handle)
            if region is Region.MAP8 and not held.within(0, 255):
                raise Refusal(Status.SHAPE, f"buffer {handle} has values beyond 0..255: read it as MAP32")
            kind = "<u1" if region is Region.MAP8 else "<i4"
            self._map = region, handle, self.board.download(handle).astype(kind).tobytes()
        return self._map[2]

    def check(self, region: Region, handle: int, length: int, shape: Shape) -> None:
        spec = self.board.spec
        limit = {
            Region.CELLS: spec.array.rows * spec.array.columns,
            Region.INPUTS: INPUT_BYTES,
            Region.MAP8: spec.board.feature_memory,
            Region.MAP32: 4 * spec.board.feature_memory,  # what fits bytes is kept as bytes
        }.get(region, OBJECT_BYTES)
        if length > min(limit, MAX_CHUNKS * MAX_PAYLOAD):
            raise Refusal(Status.FULL, f"{length} bytes of {region.name}: at most {limit}")
        if region in (Region.MAP8, Region.MAP32):
            if shape[0] * shape[1] * shape[2] * shape[3] * (1 if region is Region.MAP8 else 4) != length:
                raise Refusal(Status.SHAPE, f"{length} bytes of {region.name} are no map of {list(shape)}")
        elif handle >= (HANDLES if region in (Region.LAYER, Region.REQUANT, Region.WEIGHTS) else 1):
            raise Refusal(Status.REGION, f"handle {handle} of {region.name}")

    def commit(self, region: Region, handle: int, data: bytes, shape: Shape) -> None:
        self._map = None
        match region:
            case Region.CELLS:
                self._cells = data
            case Region.INPUTS:
                self._inputs = data
            case Region.LAYER:
                layer = wire.layer_of(data)
                for placement in layer.placements:
                    self._inside(placement.tile)
                if layer.geometry.depth * layer.columns > LAYER_CELLS:
                    raise Refusal(Status.FULL, f"layer {layer.name}: {layer.geometry.depth} x {layer.columns} cells")
                self._layers[handle] = layer
            case Region.REQUANT:
                self._requants[handle] = wire.requant_of(data)
            case Region.WEIGHTS:
                self._weights[handle] = wire.weights_of(data)
            case _:
                kind = "<u1" if region is Region.MAP8 else "<i4"
                self.board.upload(handle, np.frombuffer(data, kind).astype(np.int32).reshape(shape))

    # ---------------------------------------------------------------------------------------------------------- ops

    def execute(self, op: Op, payload: bytes) -> bytes:
        needs = RULES[op].needs
        if needs in self._lacks and needs:
            raise Refusal(Status.LACKS, f"board {self.board.uid} lacks {needs}")
        self._map = None
        return self._ops[op](self, payload)

    def _inside(self, tile: Tile) -> None:
        array = self.board.spec.array
        if (
            tile.macro >= array.macros
            or min(tile.rows, tile.columns) < 1
            or tile.row + tile.rows > array.rows
            or tile.column + tile.columns > array.columns
        ):
            raise Refusal(Status.ARGUMENT, f"tile {tile} is outside the chip")

    def _room(self, buffer: int, geometry: Geometry) -> None:
        """Refuse results that no memory holds before they are made."""
        held = self.board.map_of(buffer)
        n, h, w, c = held.shape
        out = geometry.output_shape((c, h, w))
        size = n * out[0] * out[1] * out[2]
        if size > self.board.spec.board.feature_memory:
            raise Refusal(Status.FULL, f"feature memory does not hold {size} values; use a smaller batch")

    def _requant(self, handle: int) -> Requant | None:
        return None if handle == NO_HANDLE else _at(self._requants, handle, "requantization")

    def _program(self, payload: bytes) -> bytes:
        asked = m.ProgramRequest.unpack(payload)
        tile = wire.tile_of(asked.tile)
        self._inside(tile)
        if len(self._cells) != tile.rows * tile.columns:
            raise Refusal(Status.SHAPE, f"{len(self._cells)} cells do not fill tile {tile}")
        if not 1 <= asked.full <= 127:
            raise Refusal(Status.ARGUMENT, f"full = {asked.full}")
        cells = np.frombuffer(self._cells, np.int8).reshape(tile.rows, tile.columns)
        self.board.write_cells(tile, cells, asked.full)
        return b""

    def _read_back(self, payload: bytes) -> Int8:
        tile = wire.tile_of(m.TileRequest.unpack(payload).tile)
        self._inside(tile)
        return np.ascontiguousarray(self.board.read_cells(tile), np.int8)

    def _verify(self, payload: bytes) -> bytes:
        cells = self._read_back(payload)
        checks = np.array([zlib.crc32(row.tobytes()) for row in cells], "<u4")
        self._results[Region.CHECKS] = checks.tobytes()
        return m.VerifyReply(zlib.crc32(cells.tobytes())).pack()

    def _read_cells(self, payload: bytes) -> bytes:
        self._results[Region.READBACK] = self._read_back(payload).tobytes()
        return b""

    def _convert(self, payload: bytes) -> bytes:
        asked = m.ConvertRequest.unpack(payload)
        tile, mac, run = wire.tile_of(asked.tile), wire.mac_of(asked.mac), wire.run_of(asked.noise)
        self._inside(tile)
        if not asked.vectors or asked.vectors * tile.rows != len(self._inputs):
            raise Refusal(Status.SHAPE, f"{len(self._inputs)} inputs are not {asked.vectors} vectors of {tile.rows}")
        length = asked.repeats * asked.vectors * tile.columns * wire.code_width(mac)
        if length > CODE_BYTES:
            raise Refusal(Status.FULL, f"{length} bytes of codes: at most {CODE_BYTES}")
        x = np.frombuffer(self._inputs, np.uint8).reshape(asked.vectors, tile.rows)
        codes = self.board.convert(tile, x, asked.repeats, mac, run)
        self._results[Region.CODES] = codes.astype(wire.code_dtype(mac)).tobytes()
        return m.ConvertReply(length, wire.code_width(mac)).pack()

    def _trim(self, payload: bytes) -> bytes:
        asked = m.TrimRequest.unpack(payload)
        self.board.trim(asked.adc, asked.code)
        return b""

    def _conv(self, payload: bytes) -> bytes:
        asked = m.ConvRequest.unpack(payload)
        layer, requant = _at(self._layers, asked.layer, "layer"), self._requant(asked.requant)
        if asked.accumulate > 1:
            raise Refusal(Status.ARGUMENT, f"accumulate = {asked.accumulate}: want 0 or 1")
        self._room(asked.src, layer.geometry)
        self.board.conv(layer, asked.src, asked.dst, requant, bool(asked.accumulate), wire.run_of(asked.noise))
        return b""

    def _digital(self, payload: bytes) -> bytes:
        asked = m.DigitalRequest.unpack(payload)
        weights, geometry = _at(self._weights, asked.weights, "weights")
        self._room(asked.src, geometry)
        self.board.digital(weights, geometry, asked.src, asked.dst, self._requant(asked.requant))
        return b""

    def _requantize(self, payload: bytes) -> bytes:
        asked = m.RequantizeRequest.unpack(payload)
        self.board.requantize(asked.src, asked.dst, _at(self._requants, asked.requant, "requantization"))
        return b""

    def _add(self, payload: bytes) -> bytes:
        asked = m.AddRequest.unpack(payload)
        factors = asked.factors[0], asked.factors[1]
        self.board.add(asked.a, asked.b, asked.dst, factors, asked.shift, asked.low, asked.high)
        return b""

    def _pool(self, payload: bytes) -> bytes:
        asked = m.PoolRequest.unpack(payload)
        windows = (asked.kernel, asked.stride, asked.padding)
        if (
            asked.kind >= len(_POOLS)
            or min(*asked.kernel, *asked.stride) < 1
            or any(2 * p > k for p, k in zip(asked.padding, asked.kernel, strict=True))
        ):
            raise Refusal(Status.ARGUMENT, f"pool of kind {asked.kind} with kernel, stride, padding {windows}")
        n, h, w, c = self.board.map_of(asked.src).shape
        self._room(asked.src, Geometry(c, c, asked.kernel, asked.stride, asked.padding))
        self.board.pool(asked.src, asked.dst, "sum" if asked.kind else "max", *windows)
        return b""

    def _stats(self, payload: bytes) -> bytes:
        count, total, squares = self.board.stats(m.BufferRequest.unpack(payload).buffer)
        self._results[Region.STATS] = np.stack([total, squares], axis=1).astype("<i8").tobytes()
        return m.StatsReply(count, len(total)).pack()

    def _map_reply(self, payload: bytes) -> bytes:
        held = self.board.map_of(m.BufferRequest.unpack(payload).buffer)
        n, h, w, c = held.shape
        low, high = held.bounds if held.small else held.extremes()
        return m.MapReply((n, c, h, w), low, high).pack()

    def _free(self, payload: bytes) -> bytes:
        self.board.free(m.BufferRequest.unpack(payload).buffer)
        return b""

    _ops = {
        Op.PROGRAM: _program, Op.VERIFY: _verify, Op.READ_CELLS: _read_cells, Op.CONVERT: _convert, Op.TRIM: _trim,
        Op.CONV: _conv, Op.DIGITAL: _digital, Op.REQUANTIZE: _requantize, Op.ADD: _add, Op.POOL: _pool,
        Op.STATS: _stats, Op.MAP: _map_reply, Op.FREE: _free,
    }  # fmt: skip


def _at(held: dict[int, _Held], handle: int, what: str) -> _Held:
    try:
        return held[handle]
    except KeyError:
        raise Refusal(Status.EMPTY, f"{what} {handle} was not transferred") from None
