"""The emulated board as a device of the protocol: regions, and requests by op, for pimchip.link.server.

A host may ask for anything: whatever would take much memory is measured before it is made.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Collection
from dataclasses import asdict
from typing import Any, Literal, TypeVar

import numpy as np
from numpy.typing import NDArray

from pimchip._version import __version__
from pimchip.chip import Geometry, PimLayer, Requant, Tile
from pimchip.chip.energy import COUNTERS
from pimchip.chip.layers import REQUANT_SHIFT_MAX
from pimchip.chip.mac import Int8
from pimchip.emulator import judge, wire
from pimchip.emulator.judge import refusing
from pimchip.emulator.virtual import FIRMWARE, VirtualBoard, check_activations
from pimchip.errors import FullError, WidthError
from pimchip.link import messages as m
from pimchip.link.blob import pack_blob
from pimchip.link.constants import NO_HANDLE, RULES, Op, Region, Status
from pimchip.link.refusals import Refusal
from pimchip.link.server import Identity, part_of
from pimchip.link.transfers import Shape

CORRECT = "correct"
"""The capability of layers that correct their codes; no op of its own needs it."""
COPIES = "copies"
"""The capability of layers that are in the array several times; no op of its own needs it either."""
CAPABILITIES = frozenset(rules.needs for rules in RULES.values()) - {""} | {CORRECT, COPIES}
HANDLES = 256
"""Of each of layers, requantizations and weights."""
CELL_BYTES = 1 << 24
INPUT_BYTES = CODE_BYTES = 1 << 26
OBJECT_MEMORY = 1 << 28
"""Bytes of all objects and results, as they are sent."""
_POOLS: tuple[Literal["max", "sum"], ...] = ("max", "sum")
_Held = TypeVar("_Held")


def capabilities(
    board: VirtualBoard, lacks: Collection[str] = (), profile: str = "", firmware: str = FIRMWARE
) -> dict[str, Any]:
    """The capability blob's content for a board; also for a firmware that computes as it does."""
    return {
        "uid": board.uid,
        "chip": board.spec.to_dict(),
        "firmware": firmware,
        "capabilities": sorted(CAPABILITIES.difference(lacks)),
        "feature_memory": board.spec.board.feature_memory,
        "effects": [asdict(effect) for effect in board.effects],
        "profile": profile,
        "registers": list(board.registers()),
        "counters": list(COUNTERS),
        "limits": {
            "layers": HANDLES, "requants": HANDLES, "weights": HANDLES,
            "cells": CELL_BYTES, "inputs": INPUT_BYTES, "codes": CODE_BYTES,
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
        self._sizes: dict[tuple[Region, int], int] = {}
        self._map: tuple[int, NDArray[np.integer]] | None = None

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
            return self._map_bytes(region, handle, offset, length)
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

    def _map_bytes(self, region: Region, handle: int, offset: int, length: int) -> bytes:
        """A part of a map. The whole is kept in order until something is done: hosts read it in parts."""
        held = judge.held(self.board, handle)
        width = 1 if region is Region.MAP8 else 4
        if offset + length > held.size * width:
            raise Refusal(Status.ARGUMENT, f"bytes {offset}..{offset + length - 1} of {held.size * width}")
        if self._map is None or self._map[0] != handle:
            values = self.board.download(handle).ravel()
            self._map = handle, values.astype(np.uint8) if held.small else values
        first, last = offset // width, -(-(offset + length) // width)
        part = self._map[1][first:last]
        if width == 1 and (part.min() < 0 or part.max() > 255):
            raise Refusal(Status.SHAPE, f"buffer {handle} has values beyond 0..255: read it as MAP32")
        start = offset - first * width
        return part.astype("<u1" if width == 1 else "<i4").tobytes()[start : start + length]

    def check(self, region: Region, handle: int, length: int, shape: Shape) -> None:
        if region in (Region.MAP8, Region.MAP32):
            if shape[0] * shape[1] * shape[2] * shape[3] * (1 if region is Region.MAP8 else 4) != length:
                raise Refusal(Status.SHAPE, f"{length} bytes of {region.name} are no map of {list(shape)}")
            judge.room(self.board, handle, shape, small=region is Region.MAP8)
        elif handle >= (HANDLES if region in (Region.LAYER, Region.REQUANT, Region.WEIGHTS) else 1):
            raise Refusal(Status.REGION, f"handle {handle} of {region.name}")
        else:
            self._object_room(region, handle, length)

    def _object_room(self, region: Region, handle: int, length: int) -> None:
        """FULL where objects and results do not hold so many bytes in place of what is there."""
        used = sum(size for key, size in self._sizes.items() if key != (region, handle))
        if used + length > OBJECT_MEMORY:
            raise Refusal(Status.FULL, f"{length} bytes of {region.name} beside {used}: at most {OBJECT_MEMORY}")

    def commit(self, region: Region, handle: int, data: bytes, shape: Shape) -> None:
        self._map = None
        match region:
            case Region.CELLS:
                self._object_room(region, handle, len(data))
                self._cells = data
            case Region.INPUTS:
                self._object_room(region, handle, len(data))
                self._inputs = data
            case Region.LAYER:
                layer = wire.layer_of(data)
                self._object_room(region, handle, len(data))
                self._layers[handle] = layer
            case Region.REQUANT:
                requant = wire.requant_of(data)
                self._object_room(region, handle, len(data))
                self._requants[handle] = requant
            case Region.WEIGHTS:
                weights = wire.weights_of(data)
                self._object_room(region, handle, len(data))
                self._weights[handle] = weights
            case _:
                words = region is Region.MAP32
                judge.room(self.board, handle, shape, small=not words)
                values = np.frombuffer(data, "<i4" if words else "<u1").astype(np.int32).reshape(shape)
                self.board.upload(handle, values, words=words)
                return
        self._sizes[region, handle] = len(data)

    # ---------------------------------------------------------------------------------------------------------- ops

    def execute(self, op: Op, payload: bytes, arg: int) -> bytes:
        needs = RULES[op].needs
        if needs in self._lacks and needs:
            raise Refusal(Status.LACKS, f"board {self.board.uid} lacks {needs}")
        self._map = None
        try:
            return self._program(payload, arg) if op is Op.PROGRAM else self._ops[op](self, payload)
        except WidthError as error:
            raise Refusal(Status.OVERFLOW, str(error)) from None
        except FullError as error:
            raise Refusal(Status.FULL, str(error)) from None

    def _result(self, region: Region, length: int) -> None:
        """Forget what a region of results holds, for something else of this length."""
        self._results.pop(region, None)
        self._sizes.pop((region, 0), None)
        self._object_room(region, 0, length)

    def _keep(self, region: Region, data: bytes) -> None:
        self._results[region], self._sizes[region, 0] = data, len(data)

    def _inside(self, tile: Tile) -> None:
        array = self.board.spec.array
        if (
            tile.macro >= array.macros
            or min(tile.rows, tile.columns) < 1
            or tile.row + tile.rows > array.rows
            or tile.column + tile.columns > array.columns
        ):
            raise Refusal(Status.ARGUMENT, f"tile {tile} is outside the chip")

    def _requant(self, handle: int) -> Requant | None:
        return None if handle == NO_HANDLE else _at(self._requants, handle, "requantization")

    def _program(self, payload: bytes, offset: int) -> bytes:
        asked = m.ProgramRequest.unpack(payload)
        tile = wire.tile_of(asked.tile)
        self._inside(tile)
        if not 1 <= asked.full <= 127:
            raise Refusal(Status.ARGUMENT, f"full = {asked.full}")
        if not self._cells:
            raise Refusal(Status.EMPTY, "no cells were transferred")
        count = tile.rows * tile.columns
        if offset + count > len(self._cells):
            raise Refusal(Status.SHAPE, f"{len(self._cells)} cells do not fill tile {tile} from {offset} on")
        cells = np.frombuffer(self._cells, np.int8, count, offset).reshape(tile.rows, tile.columns)
        self.board.write_cells(tile, cells, asked.full)
        return b""

    def _tile(self, payload: bytes) -> Tile:
        tile = wire.tile_of(m.TileRequest.unpack(payload).tile)
        self._inside(tile)
        return tile

    def _verify(self, payload: bytes) -> bytes:
        tile = self._tile(payload)
        self._result(Region.CHECKS, 4 * tile.rows)
        cells = np.ascontiguousarray(self.board.read_cells(tile), np.int8)
        checks = np.array([zlib.crc32(row.tobytes()) for row in cells], "<u4")
        self._keep(Region.CHECKS, checks.tobytes())
        return m.VerifyReply(zlib.crc32(cells.tobytes())).pack()

    def _read_cells(self, payload: bytes) -> bytes:
        tile = self._tile(payload)
        self._result(Region.READBACK, tile.rows * tile.columns)
        self._keep(Region.READBACK, np.ascontiguousarray(self.board.read_cells(tile), np.int8).tobytes())
        return b""

    def _convert(self, payload: bytes) -> bytes:
        asked = m.ConvertRequest.unpack(payload)
        tile, mac, run = wire.tile_of(asked.tile), wire.mac_of(asked.mac), wire.run_of(asked.noise)
        self._inside(tile)
        if not asked.vectors or not asked.repeats:
            raise Refusal(Status.ARGUMENT, f"{asked.vectors} vectors and {asked.repeats} repeats: want at least 1 each")
        if not self._inputs:
            raise Refusal(Status.EMPTY, "no inputs were transferred")
        if asked.vectors * tile.rows != len(self._inputs):
            raise Refusal(Status.SHAPE, f"{len(self._inputs)} inputs are not {asked.vectors} vectors of {tile.rows}")
        if tile.rows > mac.rows:
            raise Refusal(Status.SHAPE, f"tile {tile} has more rows than the {mac.rows} of the operating point")
        x = np.frombuffer(self._inputs, np.uint8).reshape(asked.vectors, tile.rows)
        self.board.check_convert(tile, x, mac)
        length = asked.repeats * asked.vectors * tile.columns * wire.code_width(mac)
        if length > CODE_BYTES:
            raise Refusal(Status.FULL, f"{length} bytes of codes: at most {CODE_BYTES}")
        self._result(Region.CODES, length)
        codes = self.board.convert(tile, x, asked.repeats, mac, run)
        self._keep(Region.CODES, codes.astype(wire.code_dtype(mac)).tobytes())
        return m.ConvertReply(length, wire.code_width(mac)).pack()

    def _trim(self, payload: bytes) -> bytes:
        asked = m.TrimRequest.unpack(payload)
        self.board.trim(asked.adc, asked.code)
        return b""

    def _conv(self, payload: bytes) -> bytes:
        asked = m.ConvRequest.unpack(payload)
        run = wire.run_of(asked.noise)
        if asked.accumulate > 1 or (asked.accumulate and asked.requant != NO_HANDLE):
            raise Refusal(Status.ARGUMENT, f"accumulate = {asked.accumulate}: want 0, or 1 without requantization")
        layer, requant = _at(self._layers, asked.layer, "layer"), self._requant(asked.requant)
        for name, wanted in ((CORRECT, layer.correction is not None), (COPIES, layer.copies > 1)):
            if wanted and name in self._lacks:
                raise Refusal(Status.LACKS, f"board {self.board.uid} lacks {name}")
        x = judge.held(self.board, asked.src)
        before = judge.held(self.board, asked.dst) if asked.accumulate else None
        out = judge.output_shape(x, layer.geometry, requant)
        if before is not None and judge.shape_of(before) != out:
            text = f"layer {layer.name}: cannot add {list(out)} to a buffer of {list(judge.shape_of(before))}"
            raise Refusal(Status.SHAPE, text)
        judge.conv_work(x, out, layer)
        judge.noise(out, layer, run.first_image)
        for placement in layer.placements:
            self._inside(placement.tile)
        self.board.ready(layer)
        check_activations(x, layer)
        judge.room(self.board, asked.dst, out, small=_small(requant))
        self.board.conv(layer, asked.src, asked.dst, requant, bool(asked.accumulate), run)
        return b""

    def _digital(self, payload: bytes) -> bytes:
        asked = m.DigitalRequest.unpack(payload)
        weights, geometry = _at(self._weights, asked.weights, "weights")
        requant, x = self._requant(asked.requant), judge.held(self.board, asked.src)
        out = judge.output_shape(x, geometry, requant)
        source = geometry.input_shape(judge.shape_of(x)[1:])
        judge.work(x, out, geometry.depth, geometry.out_channels, judge.DIGITAL_WORK, geometry.padding, source)
        judge.room(self.board, asked.dst, out, small=_small(requant))
        self.board.digital(weights, geometry, asked.src, asked.dst, requant)
        return b""

    def _requantize(self, payload: bytes) -> bytes:
        asked = m.RequantizeRequest.unpack(payload)
        requant = _at(self._requants, asked.requant, "requantization")
        x = judge.held(self.board, asked.src)
        with refusing(Status.SHAPE):
            requant.check_channels(x.shape[3])
        judge.room(self.board, asked.dst, judge.shape_of(x), small=_small(requant))
        self.board.requantize(asked.src, asked.dst, requant)
        return b""

    def _add(self, payload: bytes) -> bytes:
        asked = m.AddRequest.unpack(payload)
        if asked.shift > REQUANT_SHIFT_MAX or asked.low > asked.high:
            raise Refusal(Status.ARGUMENT, f"add with shift {asked.shift} and range {asked.low}..{asked.high}")
        a, b = judge.held(self.board, asked.a), judge.held(self.board, asked.b)
        shapes = judge.shape_of(a), judge.shape_of(b)
        if shapes[0] != shapes[1]:
            raise Refusal(Status.SHAPE, f"cannot add maps of shapes {list(shapes[0])} and {list(shapes[1])}")
        judge.room(self.board, asked.dst, shapes[0], small=judge.small(asked.low, asked.high))
        factors = asked.factors[0], asked.factors[1]
        self.board.add(asked.a, asked.b, asked.dst, factors, asked.shift, asked.low, asked.high)
        return b""

    def _pool(self, payload: bytes) -> bytes:
        asked = m.PoolRequest.unpack(payload)
        windows = asked.kernel, asked.stride, asked.padding
        if asked.kind >= len(_POOLS):
            raise Refusal(Status.ARGUMENT, f"pool of kind {asked.kind}: want 0 or 1")
        judge.pooling(*windows)
        x = judge.held(self.board, asked.src)
        out = judge.pooled_shape(x, *windows)
        _, *source = judge.shape_of(x)
        window = source[0] * asked.kernel[0] * asked.kernel[1]
        judge.work(x, out, window, 1, judge.POOL_WORK, asked.padding, (source[0], source[1], source[2]))
        kind = _POOLS[asked.kind]
        judge.room(self.board, asked.dst, out, small=x.small and kind == "max")
        self.board.pool(asked.src, asked.dst, kind, *windows)
        return b""

    def _stats(self, payload: bytes) -> bytes:
        buffer = m.BufferRequest.unpack(payload).buffer
        self._result(Region.STATS, judge.held(self.board, buffer).shape[3] * m.StatsChannel.size())
        count, total, squares = self.board.stats(buffer)
        self._keep(Region.STATS, np.stack([total, squares], axis=1).astype("<i8").tobytes())
        return m.StatsReply(count, len(total)).pack()

    def _map_reply(self, payload: bytes) -> bytes:
        held = judge.held(self.board, m.BufferRequest.unpack(payload).buffer)
        return m.MapReply(judge.shape_of(held), int(held.rows.min()), int(held.rows.max())).pack()

    def _free(self, payload: bytes) -> bytes:
        self.board.free(m.BufferRequest.unpack(payload).buffer)
        return b""

    _ops = {
        Op.VERIFY: _verify, Op.READ_CELLS: _read_cells, Op.CONVERT: _convert, Op.TRIM: _trim,
        Op.CONV: _conv, Op.DIGITAL: _digital, Op.REQUANTIZE: _requantize, Op.ADD: _add, Op.POOL: _pool,
        Op.STATS: _stats, Op.MAP: _map_reply, Op.FREE: _free,
    }  # fmt: skip


def _at(held: dict[int, _Held], handle: int, what: str) -> _Held:
    try:
        return held[handle]
    except KeyError:
        raise Refusal(Status.EMPTY, f"{what} {handle} was not transferred") from None


def _small(requant: Requant | None) -> bool:
    """True where results are kept as bytes."""
    return requant is not None and judge.small(requant.low, requant.high)
