"""The virtual board: macros of cells, converters of a die, feature memory and a processor. It answers requests."""

from __future__ import annotations

from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray

from pimchip.chip import AdcTables, ChipSpec, Geometry, Mac, PimLayer, Requant, Run, Tile
from pimchip.chip.mac import Int8, Int32, Int64
from pimchip.emulator.die import TransferSource
from pimchip.errors import DeviceError, InputError
from pimchip.kernels import crossbar, integer
from pimchip.kernels.converters import Converters

FIRMWARE = "pimchip-virtual-1"


class VirtualBoard:
    """State and behaviour of one emulated board.

    source: the die. noise_seed: key of the noise, None for a silent chip. temperature: degrees Celsius.
    """

    def __init__(self, spec: ChipSpec, source: TransferSource, *, noise_seed: int | None, temperature: float) -> None:
        self.spec = spec
        self.uid = source.uid
        self.temperature = temperature
        self.counters = {"conversions": 0, "cell_writes": 0, "dac_steps": 0, "bytes_in": 0, "bytes_out": 0}
        self._source = source
        self._noise_seed = noise_seed
        self._cells = np.zeros((spec.array.macros, spec.array.rows, spec.array.columns), np.int8)
        self._version = 0
        self._trim = np.full(spec.array.macros * spec.adc.per_macro, (1 << spec.adc.trim_bits) >> 1, np.int64)
        self._buffers: dict[int, NDArray[np.uint8] | Int32] = {}
        self._tables: dict[Mac, AdcTables] = {}
        self._loaded: dict[PimLayer, tuple[int, torch.Tensor, Converters]] = {}

    def registers(self) -> dict[str, int]:
        """Trim codes by name, and the state of the array."""
        return {"array_writes": self._version} | {f"trim{j}": int(code) for j, code in enumerate(self._trim)}

    def write_cells(self, tile: Tile, cells: Int8) -> None:
        """Program a tile."""
        self._region(tile)[...] = cells
        self._version += 1
        self.counters["cell_writes"] += cells.size
        self.counters["bytes_in"] += cells.size

    def read_cells(self, tile: Tile) -> Int8:
        """The cells as they are."""
        self.counters["bytes_out"] += tile.rows * tile.columns
        return self._region(tile).copy()

    def trim(self, adc: int, code: int) -> None:
        """Set a trim register; the converter's tables change with it."""
        if not 0 <= adc < len(self._trim) or not 0 <= code < 1 << self.spec.adc.trim_bits:
            raise InputError(f"trim: ADC {adc} of {len(self._trim)} and code {code} of {1 << self.spec.adc.trim_bits}")
        self._trim[adc] = code
        self._tables.clear()
        self._loaded.clear()

    def convert(self, tile: Tile, x: NDArray[np.integer], repeats: int, mac: Mac, run: Run) -> Int32:
        """Codes int32 [repeats, M, columns] of x int [M, rows], one DAC slice."""
        x = np.asarray(x)
        if x.ndim != 2 or x.shape[1] != tile.rows or tile.rows > mac.rows:
            raise InputError(f"inputs {list(x.shape)} do not fit tile {tile} at {mac.rows} rows")
        if not np.issubdtype(x.dtype, np.integer):
            raise InputError(f"inputs are {x.dtype}: want integers")
        if x.size and (x.min() < 0 or x.max() >= mac.digit):
            raise InputError(f"inputs in {x.min()}..{x.max()}: a DAC of {mac.dac_bits} bits takes 0..{mac.digit - 1}")
        if repeats < 1:
            raise InputError(f"repeats = {repeats}: want at least 1")
        adc = [self.spec.adc_of(tile.macro, c) for c in range(tile.column, tile.column + tile.columns)]
        converters = Converters(
            self._tables_at(mac),
            torch.tensor([adc]),
            torch.full((1, tile.columns), tile.macro),
            self._noise_seed,
            run.epoch,
            run.first_image,
        )
        vectors = torch.from_numpy(np.tile(x.astype(np.float32), (repeats, 1)))
        codes = crossbar.codes(vectors, torch.from_numpy(self._cells_at(tile, mac)), mac, converters)
        self._count(codes.numel(), len(vectors) * tile.rows)
        self.counters["bytes_in"] += x.size
        self.counters["bytes_out"] += codes.numel()
        return codes.numpy().reshape(repeats, len(x), tile.columns)

    def upload(self, buffer: int, data: NDArray[np.integer]) -> None:
        """Fill a buffer."""
        data = np.asarray(data)
        if data.ndim != 4 or not np.issubdtype(data.dtype, np.integer):
            raise InputError(f"a feature map is integers [n, c, h, w], got {data.dtype} {list(data.shape)}")
        low, high = (int(data.min()), int(data.max())) if data.size else (0, 0)
        self._store(buffer, integer.to_int32(data.astype(np.int64), "feature map values"), low, high)
        self.counters["bytes_in"] += self._buffers[buffer].nbytes

    def download(self, buffer: int) -> Int32:
        """A copy of a buffer."""
        self.counters["bytes_out"] += self._map(buffer).nbytes
        return self._map(buffer).astype(np.int32)

    def free(self, buffer: int) -> None:
        """Forget a buffer; freeing one that is not there is no error."""
        self._buffers.pop(buffer, None)

    def conv(self, layer: PimLayer, src: int, dst: int, requant: Requant | None, accumulate: bool, run: Run) -> None:
        """A layer on the array; see Board.conv."""
        if accumulate and requant is not None:
            raise InputError("accumulate with requantization: accumulate raw codes first, then requantize")
        x = self._map(src)
        cells, converters = self._load(layer)
        vectors = integer.unfold(torch.from_numpy(x.astype(np.float32)), layer.geometry)
        if x.size and (x.min() < 0 or x.max() >= 1 << layer.mac.act_bits):
            raise InputError(f"layer {layer.name}: activations in {x.min()}..{x.max()}, want {layer.mac.act_bits} bits")
        shape = layer.geometry.output_shape(x.shape[1:])
        first = run.first_image * shape[1] * shape[2]
        at = Converters(
            converters.tables, converters.adc, converters.macro, self._noise_seed, run.epoch, first, converters.present
        )
        y, _ = crossbar.pim_matmul(vectors, cells, layer.mac, at)
        per_vector = sum(p.tile.columns for p in layer.placements) * layer.mac.slices
        self._count(
            len(vectors) * per_vector, len(vectors) * sum(p.tile.rows for p in layer.placements) * layer.mac.slices
        )
        maps = y.view(len(x), shape[1], shape[2], shape[0]).permute(0, 3, 1, 2)
        narrow = maps.dtype == torch.float32  # below 2^24; wider accumulators could pass 32 bits
        acc = maps.to(torch.int32).numpy() if narrow else integer.to_int32(maps.numpy(), "accumulators")
        if accumulate:
            held = self._map(dst)
            if held.shape != acc.shape:
                raise InputError(f"layer {layer.name}: cannot add {list(acc.shape)} to a buffer of {list(held.shape)}")
            acc = integer.to_int32(acc.astype(np.int64) + held, "accumulators")
        self._finish(dst, acc, requant)

    def digital(self, weights: Int8, geometry: Geometry, src: int, dst: int, requant: Requant | None) -> None:
        """An integer convolution on the processor."""
        self._finish(dst, integer.digital_conv(self._map(src).astype(np.int32), weights, geometry), requant)

    def requantize(self, src: int, dst: int, requant: Requant) -> None:
        """Rescale a buffer."""
        self._finish(dst, self._map(src).astype(np.int32), requant)

    def add(self, a: int, b: int, dst: int, factors: tuple[int, int], shift: int, low: int, high: int) -> None:
        """Add two buffers with factors."""
        total = integer.add(self._map(a).astype(np.int32), self._map(b).astype(np.int32), factors, shift, low, high)
        self._store(dst, total, low, high)

    def pool(
        self,
        src: int,
        dst: int,
        kind: Literal["max", "sum"],
        kernel: tuple[int, int],
        stride: tuple[int, int],
        padding: tuple[int, int],
    ) -> None:
        """Pool a buffer."""
        out = integer.pool(self._map(src).astype(np.int32), kind, kernel, stride, padding)
        self._store(dst, out, int(out.min(initial=0)), int(out.max(initial=0)))

    def stats(self, buffer: int) -> tuple[int, Int64, Int64]:
        """Exact sums of a buffer."""
        return integer.stats(self._map(buffer).astype(np.int32))

    def _finish(self, dst: int, acc: Int32, requant: Requant | None) -> None:
        if requant is None:
            self._store(dst, acc, -(1 << 31), (1 << 31) - 1)
        else:
            self._store(dst, integer.requantize(acc, requant), requant.low, requant.high)

    def _store(self, buffer: int, data: Int32, low: int, high: int) -> None:
        held: NDArray[np.uint8] | Int32 = data.astype(np.uint8) if low >= 0 and high <= 255 else data
        others = sum(b.nbytes for number, b in self._buffers.items() if number != buffer)
        if others + held.nbytes > self.spec.board.feature_memory:
            raise DeviceError(
                f"feature memory is full: {others + held.nbytes} of {self.spec.board.feature_memory} bytes; use a smaller batch"
            )
        self._buffers[buffer] = held

    def _map(self, buffer: int) -> NDArray[np.uint8] | Int32:
        try:
            return self._buffers[buffer]
        except KeyError:
            raise InputError(f"buffer {buffer} is empty") from None

    def _region(self, tile: Tile) -> Int8:
        rows = slice(tile.row, tile.row + tile.rows)
        return self._cells[tile.macro, rows, tile.column : tile.column + tile.columns]

    def _cells_at(self, tile: Tile, mac: Mac) -> NDArray[np.float32]:
        """A tile's cells, float32; InputError where they hold what the operating point's converters cannot be fed."""
        cells = self._region(tile)
        low, high = -mac.cell_max if mac.signed else 0, mac.cell_max
        if cells.min() < low or cells.max() > high:
            raise InputError(
                f"tile {tile} holds cells in {cells.min()}..{cells.max()}; scheme {mac.scheme} with {mac.weight_bits} b "
                f"weights takes {low}..{high}: program it for this operating point"
            )
        return cells.astype(np.float32)

    def _count(self, conversions: int, dac_steps: int) -> None:
        self.counters["conversions"] += conversions
        self.counters["dac_steps"] += dac_steps

    def _tables_at(self, mac: Mac) -> AdcTables:
        if mac not in self._tables:
            self._tables[mac] = self._source.tables(mac, self._trim, self.temperature)
        return self._tables[mac]

    def _load(self, layer: PimLayer) -> tuple[torch.Tensor, Converters]:
        """Cells [K, columns] of a layer as they are in the array, and the converters behind them."""
        held = self._loaded.get(layer)
        if held is not None and held[0] == self._version:
            return held[1], held[2]
        self.spec.check(layer.mac)
        cells = np.zeros((layer.geometry.depth, layer.columns), np.float32)
        adc = np.zeros((layer.groups, layer.columns), np.int64)
        macro = np.zeros_like(adc)
        present = np.zeros(adc.shape, bool)
        for p in layer.placements:
            first_row = p.group * layer.mac.rows
            columns = slice(p.first_column, p.first_column + p.tile.columns)
            if (
                not 0 <= p.group < layer.groups
                or p.first_column < 0
                or p.tile.rows != layer.group_rows(p.group)
                or present[p.group, columns].any()
                or columns.stop > layer.columns
            ):
                raise InputError(f"layer {layer.name}: placement at {p.tile} does not fit the layer")
            cells[first_row : first_row + p.tile.rows, columns] = self._cells_at(p.tile, layer.mac)
            adc[p.group, columns] = [
                self.spec.adc_of(p.tile.macro, c) for c in range(p.tile.column, p.tile.column + p.tile.columns)
            ]
            macro[p.group, columns] = p.tile.macro
            present[p.group, columns] = True
        converters = Converters(
            self._tables_at(layer.mac),
            torch.from_numpy(adc),
            torch.from_numpy(macro),
            present=None if present.all() else torch.from_numpy(present),
        )
        if len(self._loaded) > 256:
            self._loaded.clear()
        self._loaded[layer] = (self._version, torch.from_numpy(cells), converters)
        return self._loaded[layer][1], converters
