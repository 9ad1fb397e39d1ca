"""The virtual board: macros of cells, converters of a die, feature memory and a processor. It answers requests."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from pimchip.chip import AdcTables, ChipSpec, Geometry, Mac, PimLayer, Requant, Run, Tile
from pimchip.chip.adc import column_stride, convert, slow_deviates
from pimchip.chip.copies import share
from pimchip.chip.effects import Effect, effects
from pimchip.chip.energy import COUNTERS
from pimchip.chip.gauss import gauss
from pimchip.chip.layers import check_inputs
from pimchip.chip.mac import Int8, Int32, Int64
from pimchip.chip.parts import REFERENCE_TEMPERATURE
from pimchip.chip.philox import words
from pimchip.emulator.cells import CellArray
from pimchip.emulator.die import TransferSource
from pimchip.emulator.memory import FeatureMemory
from pimchip.emulator.state import Conditions, Sine, Surrounding
from pimchip.errors import ChipError, InputError
from pimchip.kernels import integer, layers
from pimchip.kernels.converters import Converters
from pimchip.kernels.maps import WORD, FeatureMap

FIRMWARE = "pimchip-virtual-1"
LAYERS_HELD, TILES_HELD, TABLES_HELD = 256, 64, 16
"""Layers, tiles of single conversions and operating points that are kept ready between calls."""
TILE_BYTES = 1 << 26
"""Memory of the cells of tiles that are kept ready, roughly."""
INPUT_BITS = 12
"""Of a volt at the test input, below a count of the column's sum."""
INPUT_SECONDS = 1e-6
"""Between conversions of the test input on a chip whose file has no timing."""
SUPPLY_SPAN = (0.5, 1.5)
"""Supplies at which a chip works, as shares of the nominal one."""


class VirtualBoard:
    """State and behaviour of one emulated board.

    source: the die. noise_seed: key of the noise, None for a silent chip. temperature: degrees Celsius. supply: volts,
    None for the nominal. age: hours since programming. trim: codes in the registers, () for the middle. follows: temperature
    and supply are what this says, each time that something is converted.
    """

    def __init__(
        self,
        spec: ChipSpec,
        source: TransferSource,
        *,
        noise_seed: int | None,
        temperature: float = REFERENCE_TEMPERATURE,
        supply: float | None = None,
        age: float = 0.0,
        trim: Sequence[int] = (),
        follows: Surrounding | None = None,
    ) -> None:
        self.spec = spec
        self.uid = source.uid
        # Tables and what is kept ready between calls were made for these.
        self._conditions = Conditions(temperature, supply, age)
        self._follows = follows
        self.counters = dict.fromkeys(COUNTERS, 0)
        self._source = source
        self._noise_seed = noise_seed
        self._cells = CellArray(spec, source.cell_draws, self._conditions)
        self._state = 0
        self._trim = (1 << np.array(spec.trim_widths, np.int64)) >> 1
        self._trim[: len(trim)] = trim
        self._memory = FeatureMemory(spec.board.feature_memory)
        self._tables: dict[Mac, AdcTables] = {}
        self._loaded: dict[PimLayer, tuple[int, layers.Layer, NDArray[np.float32]]] = {}
        self._tiles: dict[tuple[Tile, Mac], tuple[int, layers.Layer]] = {}

    @property
    def conditions(self) -> Conditions:
        """Temperature, supply and age: as the board was opened with, or as what it follows says now."""
        if self._follows is None:
            return self._conditions
        now = self._follows()
        return Conditions(now.temperature, now.supply, self._conditions.age)

    def _surround(self) -> None:
        """Go on under the conditions of now. ChipError where the supply is off or far from nominal."""
        if self._follows is None:
            return
        now, nominal = self.conditions, self.spec.supply.volts
        low, high = (share * nominal for share in SUPPLY_SPAN)
        if now.supply is None or not low <= now.supply <= high:
            raise ChipError(
                f"the chip does not work: {now.supply:.3g} V at its analog supply, {low:g} to {high:g} V are wanted; "
                "power it up"
            )
        if (now.warming, now.supply) != (self._conditions.warming, self._conditions.supply):
            self._state += 1
            self._forget()
        self._conditions = now

    def _forget(self) -> None:
        """What was made of the converters as they were."""
        self._tables.clear()
        self._loaded.clear()
        self._tiles.clear()

    @property
    def effects(self) -> tuple[Effect, ...]:
        """The effects a spec can have, on where this die has them: an ideal or a measured one draws none."""
        drawn = self._source.cell_draws is not None
        return effects(self.spec, drawn=drawn, noisy=self._noise_seed is not None)

    def registers(self) -> dict[str, int]:
        """Trim codes by name, and `state`, which counts writes of cells and trims, and changes of what the board
        follows: while it stays, the die does."""
        return {"state": self._state} | {f"trim{j}": int(code) for j, code in enumerate(self._trim)}

    def write_cells(self, tile: Tile, cells: Int8, full: int | None = None) -> None:
        """Program a tile: one pulse a cell. full: the value of a full cell there, None for the chip's own."""
        self._cells.write(tile, cells, full)
        self._state += 1
        self._count(cell_writes=cells.size, row_writes=tile.rows, bytes_in=cells.size)

    def read_cells(self, tile: Tile) -> Int8:
        """The cells as they are."""
        self._count(bytes_out=tile.rows * tile.columns)
        return self._cells.read(tile)

    def trim(self, adc: int, code: int) -> None:
        """Set a trim register; the converter's tables change with it. adc: as of Board.trim."""
        widths = self.spec.trim_widths
        if not 0 <= adc < len(widths) or not 0 <= code < 1 << widths[adc]:
            most = 1 << widths[adc if 0 <= adc < len(widths) else 0]
            raise InputError(f"trim: ADC {adc} of {len(widths)} and code {code} of {most}")
        self._trim[adc] = code
        self._state += 1
        self._forget()

    def check_convert(self, tile: Tile, x: NDArray[np.integer], mac: Mac) -> None:
        """InputError for inputs, an operating point or cells that do not fit; see convert."""
        check_inputs(tile, x, 1, mac)
        self.spec.check(mac)
        self._load_tile(tile, mac)

    def convert(self, tile: Tile, x: NDArray[np.integer], repeats: int, mac: Mac, run: Run) -> Int32:
        """Codes int32 [repeats, M, columns] of x int [M, rows], one DAC slice."""
        x = np.asarray(x)
        check_inputs(tile, x, repeats, mac)
        ready = self._load_tile(tile, mac)
        vectors = np.tile(x.astype(np.uint8), (repeats, 1))
        codes = layers.convert(ready, vectors, epoch=run.epoch, first_vector=run.first_image)
        self._work(tile, len(vectors))
        self._count(bytes_in=x.size, bytes_out=codes.size)
        return codes.reshape(repeats, len(x), tile.columns)

    def convert_input(self, adcs: NDArray[np.int64], repeats: int, mac: Mac, run: Run) -> Int32:
        """Codes int32 [repeats, len(adcs)] of converters at their test input, which is full scale at the nominal supply.

        All convert together, once every timing.conversion (INPUT_SECONDS on a chip without timing); conversion n of a run is
        (run.first_image + n) of these after a sine's beginning, so what is read does not depend on what was read before.
        Conversion (repeat, place in adcs) has the noise of a column at that place. Raises ChipError where nothing drives it.
        """
        self._surround()
        volts = None if self._follows is None else self._follows().test_input
        if volts is None:
            raise ChipError("nothing drives the test input: switch the generator on, on a bench that the board follows")
        self.spec.check(mac)
        tables = self._tables_at(mac)
        every = self.spec.timing.conversion if self.spec.timing else INPUT_SECONDS
        times = (run.first_image + np.arange(repeats, dtype=np.float64)) * every
        driven = volts.at(times) if isinstance(volts, Sine) else np.full(repeats, volts)
        places = np.floor(driven / self.spec.supply.volts * (mac.sum_max << INPUT_BITS)).astype(np.int64)
        sums = np.repeat(places[:, None], len(adcs), axis=1)
        fast = slow = None
        if self._noise_seed is not None:
            cycle = run.first_image + np.arange(repeats)
            index = cycle[:, None] * column_stride(len(adcs)) + np.arange(len(adcs))
            seed, epoch = self._noise_seed, run.epoch
            macros = (adcs // self.spec.adc.per_macro).tolist()
            fast = np.stack(
                [gauss(words(index[:, c], seed=seed, tag=m, epoch=epoch)) for c, m in enumerate(macros)], axis=1
            )
            if tables.slow is not None:
                slow = np.stack(
                    [slow_deviates(cycle, a, tables.octaves, seed=seed, epoch=epoch) for a in adcs.tolist()], axis=1
                )
        self._count(conversions=sums.size, bytes_out=sums.size)
        return convert(sums, tables, adcs, fast, slow, INPUT_BITS)

    def upload(self, buffer: int, data: NDArray[np.integer], *, words: bool = False) -> None:
        """Fill a buffer. words: keep words whatever the values."""
        data = np.asarray(data)
        if data.ndim != 4 or not np.issubdtype(data.dtype, np.integer):
            raise InputError(f"a feature map is integers [n, c, h, w], got {data.dtype} {list(data.shape)}")
        low, high = (int(data.min()), int(data.max())) if data.size else (0, 0)
        if low < -(1 << 31) or high >= 1 << 31:
            raise InputError("feature map values pass 32 bits")
        self._memory.store(buffer, FeatureMap.of(data, WORD if words else (low, high)))
        self._count(bytes_in=self._memory[buffer].nbytes)

    def download(self, buffer: int) -> Int32:
        """A copy of a buffer."""
        self._count(bytes_out=self._memory[buffer].nbytes)
        return np.ascontiguousarray(self._memory[buffer].values, np.int32)

    def free(self, buffer: int) -> None:
        """Forget a buffer; freeing one that is not there is no error."""
        self._memory.free(buffer)

    def free_all(self) -> None:
        """Forget all buffers."""
        self._memory.clear()

    def map_of(self, buffer: int) -> FeatureMap:
        """What a buffer holds; not to be changed."""
        return self._memory[buffer]

    def check_room(self, buffer: int, nbytes: int) -> None:
        """FullError where feature memory does not hold so many bytes in place of what a buffer holds."""
        self._memory.check(buffer, nbytes)

    def conv(self, layer: PimLayer, src: int, dst: int, requant: Requant | None, accumulate: bool, run: Run) -> None:
        """A layer on the array; see Board.conv."""
        if accumulate and requant is not None:
            raise InputError("accumulate with requantization: accumulate raw codes first, then requantize")
        x = self._memory[src]
        ready = self.ready(layer)
        shape = layer.geometry.output_shape(x.values.shape[1:])
        check_activations(x, layer)
        positions = shape[1] * shape[2]
        vectors, first_vector = x.shape[0] * positions, run.first_image * positions
        x = x if x.small else FeatureMap.of(x.values, (0, (1 << layer.mac.act_bits) - 1))
        y = layers.run(ready, x, epoch=run.epoch, first_vector=first_vector, requant=requant)
        for placement in layer.placements:
            own = share(first_vector, vectors, placement.copy, layer.copies)
            self._work(placement.tile, own * layer.mac.slices)
        if accumulate:
            held = self._memory[dst]
            if held.shape != y.shape:
                raise InputError(
                    f"layer {layer.name}: cannot add {list(y.values.shape)} to a buffer of {list(held.values.shape)}"
                )
            total = integer.to_int32(y.flat.astype(np.int64) + held.flat[: held.size], "accumulators")
            y = FeatureMap(total, y.shape)
        self._memory.store(dst, y)

    def digital(self, weights: Int8, geometry: Geometry, src: int, dst: int, requant: Requant | None) -> None:
        """An integer convolution on the processor."""
        acc = integer.convolve_map(self._memory[src], weights, geometry)
        self._memory.store(dst, acc if requant is None else integer.requantize_map(acc, requant))
        self._count(digital_macs=acc.size * geometry.depth)

    def requantize(self, src: int, dst: int, requant: Requant) -> None:
        """Rescale a buffer."""
        self._memory.store(dst, integer.requantize_map(self._memory[src], requant))

    def add(self, a: int, b: int, dst: int, factors: tuple[int, int], shift: int, low: int, high: int) -> None:
        """Add two buffers with factors."""
        self._memory.store(dst, integer.add_maps(self._memory[a], self._memory[b], factors, shift, low, high))

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
        x = self._memory[src]
        out = integer.pool(x.values, kind, kernel, stride, padding)
        self._memory.store(dst, FeatureMap.of(out, x.bounds if kind == "max" and x.small else WORD))

    def stats(self, buffer: int) -> tuple[int, Int64, Int64]:
        """Exact sums of a buffer."""
        return integer.stats(self._memory[buffer].values)

    def _work(self, tile: Tile, cycles: int) -> None:
        """Count array cycles of a tile, with a conversion of each of its columns in each."""
        self._cells.work(tile.macro, cycles)
        self._count(conversions=cycles * tile.columns, dac_steps=cycles * tile.rows, array_cycles=cycles)

    def _count(self, **counts: int) -> None:
        for name, count in counts.items():
            self.counters[name] += count

    def _tables_at(self, mac: Mac) -> AdcTables:
        if mac not in self._tables:
            if len(self._tables) >= TABLES_HELD:
                self._tables.clear()
            self._tables[mac] = self._source.tables(mac, self._trim, self._conditions)
        return self._tables[mac]

    def _load_tile(self, tile: Tile, mac: Mac) -> layers.Layer:
        """A tile for single conversions: what its cells add as they are now, and the converters behind them."""
        self._surround()
        held = self._tiles.get((tile, mac))
        if held is not None and held[0] == self._cells.version:
            return held[1]
        converters = Converters(
            self._tables_at(mac),
            np.array([self.spec.adcs_of(tile)]),
            np.full((1, tile.columns), tile.macro),
            self._noise_seed,
            fraction_bits=self._cells.fraction_bits,
        )
        cells = self._cells.given(tile, mac)
        version = self._cells.version
        self._tiles = {key: held for key, held in self._tiles.items() if held[0] == version}  # others never serve again
        if (len(self._tiles) + 1) * cells.nbytes > TILE_BYTES or len(self._tiles) >= TILES_HELD:
            self._tiles.clear()
        ready = layers.prepare(cells, mac, Geometry(tile.rows, tile.columns), converters, raw=True)
        self._tiles[tile, mac] = self._cells.version, ready
        return ready

    def ready(self, layer: PimLayer) -> layers.Layer:
        """What a layer's cells [K, columns] of each copy add as they are in the array, and the converters behind them.

        InputError for an operating point, a placement or cells that do not fit."""
        self._surround()
        held = self._loaded.get(layer)
        if held is not None and held[0] == self._cells.version:
            return held[1]
        self.spec.check(layer.mac)
        copies = layer.copies
        cells = np.zeros((copies, layer.geometry.depth, layer.columns), np.float32)
        adc = np.zeros((copies, layer.groups, layer.columns), np.int64)
        macro = np.zeros_like(adc)
        present = np.zeros(adc.shape, bool)
        for p in layer.placements:
            first_row = p.group * layer.mac.rows
            columns = slice(p.first_column, p.first_column + p.tile.columns)
            if (
                not 0 <= p.group < layer.groups
                or p.first_column < 0
                or p.tile.rows != layer.group_rows(p.group)
                or present[p.copy, p.group, columns].any()
                or columns.stop > layer.columns
            ):
                raise InputError(f"layer {layer.name}: placement at {p.tile} does not fit the layer")
            cells[p.copy, first_row : first_row + p.tile.rows, columns] = self._cells.given(p.tile, layer.mac)
            adc[p.copy, p.group, columns] = self.spec.adcs_of(p.tile)
            macro[p.copy, p.group, columns] = p.tile.macro
            present[p.copy, p.group, columns] = True
        if copies > 1 and (cells == cells[0]).all():  # copies that hold the same take the place of one
            cells = cells[:1]
        if held is not None and np.array_equal(held[2], cells):  # programmed again with what it held
            self._loaded[layer] = (self._cells.version, held[1], held[2])
            return held[1]
        tables = self._tables_at(layer.mac)
        converters = Converters(
            tables if layer.correction is None else tables.with_correction(layer.correction),
            adc.reshape(-1, layer.columns),
            macro.reshape(-1, layer.columns),
            self._noise_seed,
            present=None if present.all() else present.reshape(-1, layer.columns),
            fraction_bits=self._cells.fraction_bits,
            copies=copies,
        )
        if len(self._loaded) >= LAYERS_HELD:
            self._loaded.clear()
        ready = layers.prepare(cells.reshape(-1, layer.columns), layer.mac, layer.geometry, converters)
        self._loaded[layer] = (self._cells.version, ready, cells)
        return ready


def check_activations(x: FeatureMap, layer: PimLayer) -> None:
    """InputError for values that the operating point's bits do not hold."""
    if not x.within(0, (1 << layer.mac.act_bits) - 1):
        low, high = x.extremes()
        raise InputError(f"layer {layer.name}: activations in {low}..{high}, want {layer.mac.act_bits} bits")
