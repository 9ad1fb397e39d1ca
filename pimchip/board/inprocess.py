"""The emulated board in this process: Board's calls handed straight to the virtual board, no frames between."""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from pimchip.board.api import CAPABILITIES, Board, BoardInfo, Capability, ClosedError, Stats
from pimchip.chip import Geometry, Mac, PimLayer, Requant, Run, Tile
from pimchip.chip.mac import Int8, Int32
from pimchip.emulator.virtual import FIRMWARE, VirtualBoard
from pimchip.errors import DeviceError, InputError


class InProcessBoard(Board):
    """Board over a VirtualBoard. The die's parameters stay behind it."""

    def __init__(
        self, virtual: VirtualBoard, url: str, lacks: frozenset[Capability] = frozenset(), *, profile: str = ""
    ) -> None:
        super().__init__()
        self.__virtual: VirtualBoard | None = virtual
        self._boot = secrets.token_hex(8)
        self._info = BoardInfo(
            virtual.uid,
            virtual.spec,
            FIRMWARE,
            CAPABILITIES - lacks,
            virtual.spec.board.feature_memory,
            url,
            virtual.effects,
            profile,
        )

    @property
    def _board(self) -> VirtualBoard:
        if self.__virtual is None:
            raise ClosedError(f"board {self._info.url or self._info.uid} is closed; open it again")
        return self.__virtual

    def _able(self, capability: Capability) -> VirtualBoard:
        if capability not in self._info.capabilities:
            raise DeviceError(f"board {self._info.url or self._info.uid} lacks {capability}")
        return self._board

    def close(self) -> None:
        self.__virtual = None

    def info(self) -> BoardInfo:
        return self._info

    def boot(self) -> str:
        return self._boot

    def registers(self) -> Mapping[str, int]:
        return self._board.registers()

    def temperature(self) -> float:
        return self._board.conditions.temperature

    def supply(self) -> float:
        volts = self._board.conditions.supply
        return self._info.spec.supply.volts if volts is None else volts

    def age(self) -> float:
        return self._board.conditions.age

    def counters(self) -> Mapping[str, int]:
        return dict(self._board.counters)

    def _write_cells(self, tile: Tile, cells: Int8, full: int) -> None:
        self._board.write_cells(tile, cells, full)

    def _read_cells(self, tile: Tile) -> Int8:
        return self._board.read_cells(tile)

    def convert(
        self, tile: Tile, x: NDArray[np.integer], repeats: int = 1, *, mac: Mac | None = None, run: Run | None = None
    ) -> Int32:
        self._check_tile(tile)
        return self._board.convert(tile, x, repeats, mac or self._info.spec.mac(), run or Run())

    def convert_input(
        self, adcs: Sequence[int], repeats: int = 1, *, mac: Mac | None = None, run: Run | None = None
    ) -> Int32:
        count = self._info.spec.array.macros * self._info.spec.adc.per_macro
        chosen = np.asarray(adcs, np.int64)
        if chosen.ndim != 1 or not len(chosen) or chosen.min() < 0 or chosen.max() >= count or repeats < 1:
            raise InputError(f"test input: {repeats} conversions of ADCs {list(adcs)}; the chip has 0 to {count - 1}")
        return self._board.convert_input(chosen, repeats, mac or self._info.spec.mac(), run or Run())

    def trim(self, adc: int, code: int) -> None:
        self._able("trim").trim(adc, code)

    def upload(self, buffer: int, data: NDArray[np.integer]) -> None:
        self._board.upload(buffer, data)

    def download(self, buffer: int) -> Int32:
        return self._board.download(buffer)

    def free(self, buffer: int) -> None:
        self._board.free(buffer)

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
        if layer.correction is not None:
            self._able("correct")
        if layer.copies > 1:
            self._able("copies")
        self._able("conv").conv(layer, src, dst, requant, accumulate, run or Run())

    def digital(self, weights: Int8, geometry: Geometry, src: int, dst: int, *, requant: Requant | None = None) -> None:
        self._able("digital").digital(weights, geometry, src, dst, requant)

    def requantize(self, src: int, dst: int, requant: Requant) -> None:
        self._able("requantize").requantize(src, dst, requant)

    def add(self, a: int, b: int, dst: int, factors: tuple[int, int], shift: int, low: int, high: int) -> None:
        self._able("add").add(a, b, dst, factors, shift, low, high)

    def pool(
        self,
        src: int,
        dst: int,
        kind: Literal["max", "sum"],
        kernel: tuple[int, int],
        stride: tuple[int, int],
        padding: tuple[int, int],
    ) -> None:
        self._able("pool").pool(src, dst, kind, kernel, stride, padding)

    def stats(self, buffer: int) -> Stats:
        return Stats(*self._able("stats").stats(buffer))
