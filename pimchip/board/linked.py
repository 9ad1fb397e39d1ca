"""A board at the other end of a link: Board's calls as requests of the protocol."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from pimchip.board.api import BoardInfo, Stats
from pimchip.board.groups import Filled, Group, groups
from pimchip.board.holder import Holder
from pimchip.board.tiles import TileCells, VerifyReport, row_checksums
from pimchip.chip import Geometry, Mac, PimLayer, Requant, Run, Tile
from pimchip.chip.layers import check_inputs
from pimchip.chip.mac import Int8, Int32
from pimchip.emulator import wire
from pimchip.errors import DeviceError, InputError, ProtocolError
from pimchip.link import messages as m
from pimchip.link.constants import (
    UNKNOWN_AGE,
    UNKNOWN_SUPPLY,
    UNKNOWN_TEMPERATURE,
    Op,
    Region,
)

LARGEST_MAP = 1 << 31
"""Bytes of a map that is believed to be on a board."""
LARGEST_GROUP = 1 << 23
"""Cells that are sent in one transfer: a host has them twice meanwhile, and sends them again where the board restarts."""


class LinkBoard(Holder):
    """Board over a link, which it owns."""

    def link_statistics(self) -> Mapping[str, int | float | None]:
        return self.statistics.to_dict()

    def loopback(self, data: bytes) -> bytes:
        return self._ask(Op.ECHO, data)

    def info(self) -> BoardInfo:
        return self._info

    def boot(self) -> str:
        return f"{self._living.hello.boot_id:x}"

    def registers(self) -> Mapping[str, int]:
        names = self._described.registers
        values: Iterable[int] = np.frombuffer(self._read(Region.REGISTERS, 0, 8 * len(names)), "<i8") if names else []
        return dict(zip(names, map(int, values), strict=True))

    def counters(self) -> Mapping[str, int]:
        names = self._described.counters
        values: Iterable[int] = np.frombuffer(self._read(Region.COUNTERS, 0, 8 * len(names)), "<u8") if names else []
        return dict(zip(names, map(int, values), strict=True))

    def _telemetry(self) -> m.Telemetry:
        return m.Telemetry.unpack(self._ask(Op.TELEMETRY))

    def temperature(self) -> float:
        found = self._telemetry().temperature
        if found == UNKNOWN_TEMPERATURE:
            raise DeviceError(f"board {self._info.url} cannot tell its temperature")
        return found / 1000

    def supply(self) -> float | None:
        found = self._telemetry().supply
        return None if found == UNKNOWN_SUPPLY else found / 1e6

    def age(self) -> float | None:
        found = self._telemetry().age
        return None if found == UNKNOWN_AGE else found / 3_600_000

    # -------------------------------------------------------------------------------------------------------- cells

    def _write_cells(self, tile: Tile, cells: Int8, full: int) -> None:
        self._write_tiles([Filled(tile, cells, full)], lambda tiles: None)

    def _write_tiles(self, content: Sequence[Filled], progress: Callable[[int], None]) -> None:
        """As many tiles a transfer as the board holds, and then one pulse each, all of which may be under way together."""
        done = 0
        held = min(self._described.limits.cells, LARGEST_GROUP)
        for group in groups(content, lambda: min(held, self._living.largest_transfer)):
            self._send_cells(group, lambda tiles, before=done: progress(before + tiles))  # type: ignore[misc]
            asked = (
                (m.ProgramRequest(wire.tile_message(part.tile), part.full).pack(), at) for at, part in group.placed()
            )
            for _ in self._ask_together(Op.PROGRAM, asked):
                pass
            done += len(group.content)
            progress(done)

    def _send_cells(self, group: Group, progress: Callable[[int], None]) -> None:
        data = group.data
        if data != self._cells:  # another pulse of the same cells need not send them
            self._cells = None
            self._write(Region.CELLS, 0, data, told=lambda size: progress(group.within(size)))
            self._cells = data

    def _look(self, content: Sequence[TileCells]) -> Iterator[VerifyReport | None]:
        asked = ((m.TileRequest(wire.tile_message(part.tile)).pack(), 0) for part in content)
        for part, reply in zip(content, self._ask_together(Op.VERIFY, asked), strict=True):
            right = m.VerifyReply.unpack(reply).crc == zlib.crc32(np.ascontiguousarray(part.cells).tobytes())
            yield VerifyReport(part.tile) if right else None

    def _read_cells(self, tile: Tile) -> Int8:
        self._ask(Op.READ_CELLS, m.TileRequest(wire.tile_message(tile)).pack())
        data = self._read(Region.READBACK, 0, tile.rows * tile.columns)
        return np.frombuffer(data, np.int8).reshape(tile.rows, tile.columns).copy()

    def _row_checksums(self, tile: Tile) -> tuple[int, ...]:
        self._ask(Op.VERIFY, m.TileRequest(wire.tile_message(tile)).pack())
        return tuple(np.frombuffer(self._read(Region.CHECKS, 0, 4 * tile.rows), "<u4").tolist())

    def _wrong_rows(self, tile: Tile, wanted: Int8) -> tuple[int, ...]:
        found = self._row_checksums(tile)
        return tuple(row for row, (a, b) in enumerate(zip(row_checksums(wanted), found, strict=True)) if a != b)

    def convert(
        self, tile: Tile, x: NDArray[np.integer], repeats: int = 1, *, mac: Mac | None = None, run: Run | None = None
    ) -> Int32:
        self._check_tile(tile)
        mac, run, x = mac or self._info.spec.mac(), run or Run(), np.asarray(x)
        check_inputs(tile, x, repeats, mac)  # before bytes are made of them
        self._info.spec.check(mac)
        out = np.empty((repeats, len(x), tile.columns), np.int32)
        if not len(x):
            return out
        limits = self._described.limits
        width = tile.columns * wire.code_width(mac)
        rows = min(min(limits.inputs, self._living.largest_transfer) // tile.rows, limits.codes // width)
        if rows < 1:
            raise DeviceError(f"board {self._info.url} has no room for one vector of {tile.rows} inputs")
        # Repeats of all vectors at once as far as there is room; noise is numbered as in one call.
        together = max(limits.codes // (width * len(x)), 1) if len(x) <= rows else 1
        for first in range(0, repeats, together):
            for start in range(0, len(x), rows):
                part, times = x[start : start + rows], min(together, repeats - first)
                at = Run(run.epoch, run.first_image + first * len(x) + start)
                out[first : first + times, start : start + rows] = self._convert(tile, part, times, mac, at)
        return out

    def _convert(self, tile: Tile, x: NDArray[np.integer], repeats: int, mac: Mac, run: Run) -> Int32:
        data = x.astype(np.uint8).tobytes()
        if data != self._inputs:
            self._inputs = None
            self._write(Region.INPUTS, 0, data)
            self._inputs = data
        noise = wire.noise_message(run)
        asked = m.ConvertRequest(wire.tile_message(tile), wire.mac_message(mac), noise, len(x), repeats)
        reply = m.ConvertReply.unpack(self._ask(Op.CONVERT, asked.pack()))
        width = wire.code_width(mac)
        if (reply.width, reply.length) != (width, repeats * len(x) * tile.columns * width):
            raise ProtocolError(f"board {self._info.url}: CONVERT is answered with {reply}")
        codes = np.frombuffer(self._read(Region.CODES, 0, reply.length), wire.code_dtype(mac))
        return codes.astype(np.int32).reshape(repeats, len(x), tile.columns)

    def trim(self, adc: int, code: int) -> None:
        self._able("trim")
        if not 0 <= adc < 1 << 32 or not 0 <= code < 1 << 32:
            raise InputError(f"trim: ADC {adc} and code {code}")
        self._ask(Op.TRIM, m.TrimRequest(adc, code).pack())
        self._trims[adc] = code

    def keep_trim(self, adc: int, code: int) -> None:
        if "trim" in self._info.capabilities:  # others hold what they hold after a restart too
            self._trims[adc] = code

    # --------------------------------------------------------------------------------------------------------- maps

    def upload(self, buffer: int, data: NDArray[np.integer]) -> None:
        data = np.asarray(data)
        if data.ndim != 4 or not np.issubdtype(data.dtype, np.integer):
            raise InputError(f"a feature map is integers [n, c, h, w], got {data.dtype} {list(data.shape)}")
        low, high = (int(data.min()), int(data.max())) if data.size else (0, 0)
        if low < -(1 << 31) or high >= 1 << 31:
            raise InputError("feature map values pass 32 bits")
        n, c, h, w = data.shape
        if low >= 0 and high <= 255:
            self._write(Region.MAP8, buffer, data.astype(np.uint8).tobytes(), (n, c, h, w))
        else:
            self._write(Region.MAP32, buffer, data.astype("<i4").tobytes(), (n, c, h, w))

    def download(self, buffer: int) -> Int32:
        reply = m.MapReply.unpack(self._ask(Op.MAP, m.BufferRequest(buffer).pack()))
        n, c, h, w = reply.shape
        size = n * c * h * w
        if size > min(LARGEST_MAP, 4 * self._info.feature_memory):
            raise ProtocolError(f"board {self._info.url}: buffer {buffer} is said to be {list(reply.shape)}")
        if reply.low >= 0 and reply.high <= 255:
            values = np.frombuffer(self._read(Region.MAP8, buffer, size), np.uint8)
        else:
            values = np.frombuffer(self._read(Region.MAP32, buffer, 4 * size), "<i4")
        return values.astype(np.int32).reshape(n, c, h, w)

    def free(self, buffer: int) -> None:
        self._ask(Op.FREE, m.BufferRequest(buffer).pack())

    def conv(
        self,
        layer: PimLayer,
        src: int,
        dst: int,
        *,
        requant: Requant | None = None,
        accumulate: bool = False,
        run: Run | None = None,
    ) -> None:
        for placement in layer.placements:
            self._check_tile(placement.tile)
        self._able("conv")
        if layer.correction is not None:
            self._able("correct")
        if layer.copies > 1:
            self._able("copies")
        self._info.spec.check(layer.mac)
        if accumulate and requant is not None:
            raise InputError("accumulate with requantization: accumulate raw codes first, then requantize")
        handle, rescale = self._object(Region.LAYER, wire.layer_bytes(layer)), self._requant(requant)
        asked = m.ConvRequest(handle, src, dst, rescale, accumulate, wire.noise_message(run))
        self._ask(Op.CONV, asked.pack())

    def digital(self, weights: Int8, geometry: Geometry, src: int, dst: int, *, requant: Requant | None = None) -> None:
        self._able("digital")
        if weights.shape != (geometry.out_channels, geometry.in_channels, *geometry.kernel):
            raise InputError(f"weights {list(weights.shape)} do not fit {geometry}")
        handle, rescale = self._object(Region.WEIGHTS, wire.weights_bytes(weights, geometry)), self._requant(requant)
        self._ask(Op.DIGITAL, m.DigitalRequest(handle, src, dst, rescale).pack())

    def requantize(self, src: int, dst: int, requant: Requant) -> None:
        self._able("requantize")
        self._ask(Op.REQUANTIZE, m.RequantizeRequest(src, dst, self._requant(requant)).pack())

    def add(self, a: int, b: int, dst: int, factors: tuple[int, int], shift: int, low: int, high: int) -> None:
        self._able("add")
        if not 0 <= shift <= 62 or not -(1 << 31) <= low <= high < 1 << 31:
            raise InputError(f"cannot add with shift {shift} and range {low}..{high}: want shifts in 0..62, 32 bits")
        if max(abs(f) for f in factors) >= 1 << 63:
            raise InputError(f"cannot add with factors {factors}: the sum passes 63 bits")
        self._ask(Op.ADD, m.AddRequest(a, b, dst, shift, low, high, factors).pack())

    def pool(
        self,
        src: int,
        dst: int,
        kind: Literal["max", "sum"],
        kernel: tuple[int, int],
        stride: tuple[int, int],
        padding: tuple[int, int],
    ) -> None:
        self._able("pool")
        self._ask(Op.POOL, m.PoolRequest(src, dst, int(kind == "sum"), kernel, stride, padding).pack())

    def stats(self, buffer: int) -> Stats:
        self._able("stats")
        reply = m.StatsReply.unpack(self._ask(Op.STATS, m.BufferRequest(buffer).pack()))
        if 16 * reply.channels > LARGEST_MAP:
            raise ProtocolError(f"board {self._info.url}: STATS of {reply.channels} channels")
        sums = np.zeros((0, 2), np.int64)
        if reply.channels:
            sums = np.frombuffer(self._read(Region.STATS, 0, 16 * reply.channels), "<i8").reshape(-1, 2)
        return Stats(reply.count, sums[:, 0].astype(np.int64), sums[:, 1].astype(np.int64))
