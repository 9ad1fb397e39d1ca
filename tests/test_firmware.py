"""The C firmware: its chip model against the golden vectors, its wire against Python's, its twin over real links."""

from __future__ import annotations

import contextlib
import ctypes
import json
import zlib
from dataclasses import dataclass
from typing import Any

import firmware
import numpy as np
import pytest

from pimchip.chip import ChipSpec, Geometry, Mac, PimLayer, Placement, Requant, Run, Tile, load_chip
from pimchip.emulator.die import Die
from pimchip.emulator.export import default_points, export_die
from pimchip.emulator.state import Conditions
from pimchip.emulator.virtual import VirtualBoard
from pimchip.errors import DeviceError, InputError

VECTORS = firmware.FOLDER.parent / "vectors" / "chip"
CASES = sorted(path.stem for path in VECTORS.glob("*.json") if path.stem not in ("random", "processor"))
WITHOUT = firmware.missing("gcc", "make")
pytestmark = pytest.mark.skipif(bool(WITHOUT), reason=WITHOUT)


def wide(pair: list[int]) -> int:
    """A 64-bit number from its words, unsigned."""
    return pair[0] + (pair[1] << 32)


def load(name: str) -> Any:
    return json.loads((VECTORS / f"{name}.json").read_text())


@pytest.fixture(scope="session")
def shim(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return firmware.load_shim(tmp_path_factory.mktemp("shim"))


class TestChip:
    @pytest.mark.parametrize("name", CASES)
    def test_every_golden_case(self, shim: Any, name: str) -> None:
        c = load(name)
        point = firmware.point_words(c)
        derived = np.zeros(15, np.int32)
        assert shim.shim_point(point.ctypes.data_as(ctypes.c_void_p), derived.ctypes.data_as(ctypes.c_void_p))
        wanted = [c[key] for key in ("slices", "planes", "sum_min", "sum_max", "code_min", "code_max")]
        assert [*derived[:2], *derived[3:7]] == wanted
        held = {
            "transfer": np.array(c["transfer"], np.int32),
            "sigma": np.array(c["sigma"], np.uint32),
            "slow": None if c["slow"] is None else np.array(c["slow"], np.uint32),
            "code_map": None if c["code_map"] is None else np.array(c["code_map"], np.int16),
        }
        seed = 0 if c["seed"] is None else wide(c["seed"])
        die = firmware.ShimDie(
            *map(firmware.at, held.values()),
            len(c["transfer"]),
            held["sigma"].ndim == 2,
            c["octaves"],
            c["seed"] is None,
            seed,
            c["epoch"],
        )
        cells, x = np.array(c["cells"], np.int8), np.array(c["x"], np.uint8)
        errors = None if c["errors"] is None else np.array(c["errors"], np.int32)
        adc, macro = (np.array(c[key], np.uint32) for key in ("adc", "macro"))
        parts = map(firmware.at, (point, cells, errors, adc, macro))
        first = wide(c["first_vector"])
        layer = firmware.ShimLayer(*parts, first, c["depth"], c["columns"], c["fraction_bits"])
        shape = (len(x), c["groups"], c["slices"], c["columns"])
        sums, codes = np.zeros(shape, np.int64), np.zeros(shape, np.int32)
        y = np.zeros((len(x), c["columns"] // c["planes"]), np.int64)
        out = map(firmware.at, (sums, codes, y))
        assert shim.shim_layer_run(ctypes.byref(die), ctypes.byref(layer), firmware.at(x), len(x), *out)
        assert np.array_equal(sums, c["sums"]) and np.array_equal(codes, c["codes"]) and np.array_equal(y, c["y"])

    def test_the_random_words_and_the_gaussian(self, shim: Any) -> None:
        c = load("random")
        for block in c["blocks"]:
            counter, key = np.array(block["counter"], np.uint32), np.array(block["key"], np.uint32)
            shim.shim_philox(counter.ctypes.data_as(ctypes.c_void_p), key.ctypes.data_as(ctypes.c_void_p))
            assert counter.tolist() == block["words"]
        for d in c["drawn"]:
            assert shim.shim_word(wide(d["seed"]), d["epoch"], d["domain"], d["tag"], wide(d["index"])) == d["word"]
        for d in c["slow"]:
            assert shim.shim_slow_sum(wide(d["seed"]), d["epoch"], 16, d["adc"], wide(d["cycle"])) == d["sum"]
        assert [shim.shim_gauss(word) for word in c["gauss_words"]] == c["gauss_deviates"]

    @pytest.mark.parametrize(
        "change",
        [
            {"rows": 0},
            {"rows": 65537},
            {"weight_bits": 1},
            {"act_bits": 9},
            {"dac_bits": 5},
            {"adc_bits": 15},
            {"range_divisor": 257},
            {"scheme": "native", "rows": 65536, "weight_bits": 8, "act_bits": 8, "dac_bits": 8},
        ],
    )
    def test_an_impossible_operating_point_is_refused(self, shim: Any, change: dict[str, Any]) -> None:
        point = firmware.point_words(load("noise-bit_serial") | {"act_bits": 4, "dac_bits": 4} | change)
        derived = np.zeros(15, np.int32)
        assert not shim.shim_point(point.ctypes.data_as(ctypes.c_void_p), derived.ctypes.data_as(ctypes.c_void_p))


def test_the_checksum_is_the_one_that_it_says(shim: Any) -> None:
    assert shim.shim_crc32(0, b"123456789", 9) == 0xCBF43926
    data = bytes(range(256)) * 3
    for count in range(20):
        whole = shim.shim_crc32(shim.shim_crc32(0, data, count), data[count:], len(data) - count)
        assert whole == zlib.crc32(data)


@dataclass
class Pair:
    """A die on the Python board and on the C board, and random numbers."""

    spec: ChipSpec
    python: VirtualBoard
    c: firmware.CBoard
    rng: np.random.Generator

    @classmethod
    def of(cls, shim: Any, spec: ChipSpec, at: Conditions | None = None, *, number: int = 3, **options: Any) -> Pair:
        die, at = Die(spec, number), at or Conditions()
        image = export_die(spec, die, at, noise_seed=77, **options)
        python = VirtualBoard(spec, die, noise_seed=77, temperature=at.temperature, supply=at.supply, age=at.age)
        return cls(spec, python, firmware.CBoard(shim, image), np.random.default_rng(number))

    def program(self, tile: Tile, mac: Mac) -> None:
        low = -mac.cell_max if mac.signed else 0
        cells = self.rng.integers(low, mac.cell_max + 1, (tile.rows, tile.columns)).astype(np.int8)
        for board in (self.python, self.c):
            board.write_cells(tile, cells, mac.cell_max)

    def upload(self, buffer: int, low: int, high: int, *shape: int) -> None:
        data = self.rng.integers(low, high + 1, shape)
        for board in (self.python, self.c):
            board.upload(buffer, data)

    def same(self, name: str, *args: Any) -> str:
        """Call both; they refuse together. Returns what was the matter, by C."""
        refused = ""
        try:
            getattr(self.c, name)(*args)
        except firmware.Refused as error:
            refused = str(error)
        if refused:
            with pytest.raises((InputError, DeviceError)):
                getattr(self.python, name)(*args)
        else:
            getattr(self.python, name)(*args)
        return refused

    def check(self, buffer: int) -> None:
        assert np.array_equal(self.python.download(buffer), self.c.download(buffer))


def small(name: str, **changes: dict[str, Any]) -> ChipSpec:
    """A built-in chip with two macros of 20 rows and 24 columns, and changes by section."""
    plain = load_chip(name).to_dict()
    plain["array"] |= {"macros": 2, "rows": 20, "columns": 24}
    plain["adc"]["per_macro"] = 6
    plain["board"]["feature_memory"] = 1 << 20
    plain["operating"]["rows"] = 18
    for section, values in changes.items():
        plain[section] |= values
    return ChipSpec.from_dict(plain)


DIES: dict[str, tuple[ChipSpec, Conditions]] = {
    "bit_serial": (small("sram65"), Conditions()),
    "native": (small("charge-native"), Conditions(temperature=61.3)),
    "differential": (
        small("rram130-differential", cells={"program_sigma": 0, "write_failure": 0, "read_disturb": 0}),
        Conditions(age=100.0),
    ),
    "interleaved": (small("sram65", adc={"interleave": True}), Conditions(temperature=-10)),
    "cells": (
        small(
            "charge-native",
            cells={"mismatch_sigma": 0.05, "ir_drop": 0.03, "weak_rows": 0.2, "weak_row_loss": 0.3, "stuck_full": 0.05},
        ),
        Conditions(),
    ),
    "aged": (
        small(
            "sram65",
            cells={"retention_loss": 0.05, "retention_spread": 0.5, "stuck_zero": 0.02, "stuck_full": 0.02},
            supply={"gain_sigma": 0.05},
        ),
        Conditions(supply=0.95, age=1000.0),
    ),
    "slow and mapped": (
        small(
            "sram65",
            adc={"sar_sigma": 0.05, "dead": 0.1, "stuck_bit": 0.2},
            noise={"flicker_sigma": 0.4, "flicker_octaves": 7, "code_slope": 0.5, "thermal": True},
        ),
        Conditions(temperature=80),
    ),
}


@pytest.fixture(params=DIES)
def pair(request: pytest.FixtureRequest, shim: Any) -> Pair:
    spec, at = DIES[request.param]
    return Pair.of(shim, spec, at)


def layer_on(spec: ChipSpec, mac: Mac, geometry: Geometry) -> PimLayer:
    """A layer's row groups, column parts and tiles laid over the macros from the corner, as far as they reach."""
    layer = PimLayer("layer", mac, geometry, ())
    width, placements = spec.array.columns // mac.planes * mac.planes, []
    places = [(macro, row) for macro in range(spec.array.macros) for row in (0,)]
    for group in range(layer.groups):
        for first in range(0, layer.columns, width):
            if places:
                macro, row = places.pop(0)
                tile = Tile(macro, row, 0, layer.group_rows(group), min(width, layer.columns - first))
                placements.append(Placement(tile, group, first))
    return PimLayer("layer", mac, geometry, tuple(placements))


def rescaling(rng: np.random.Generator, channels: int, acc_max: int, low: int, high: int) -> Requant:
    shift = rng.integers(0, 20, channels)
    return Requant(
        rng.integers(-9999, 10000, channels), rng.integers(-(1 << 20), 1 << 20, channels), shift, low, high, acc_max
    )


class TestBoard:
    """The same integers as the Python board, on dies with every effect that a table can hold."""

    def test_codes_of_tiles_at_every_operating_point(self, pair: Pair) -> None:
        for mac in default_points(pair.spec):
            for tile in (Tile(1, 1, 3, 18, 21), Tile(0, 0, 0, 7, 24)):
                pair.program(tile, mac)
                assert np.array_equal(pair.python.read_cells(tile), pair.c.read_cells(tile))
                x = pair.rng.integers(0, mac.digit, (9, tile.rows))
                for run in (Run(), Run(5, (1 << 40) - 50)):
                    want = pair.python.convert(tile, x, 2, mac, run)
                    assert np.array_equal(pair.c.convert(tile, x, 2, mac, run), want)

    @pytest.mark.parametrize(
        "geometry",
        [
            Geometry(30, 5),
            Geometry(2, 3, (3, 3), (1, 1), (1, 1)),
            Geometry(3, 4, (3, 2), (2, 1), (1, 0), (1, 2)),
            Geometry(48, 3),
        ],
        ids=["linear", "conv", "strided and dilated", "flattening"],
    )
    def test_layers(self, pair: Pair, geometry: Geometry) -> None:
        mac = pair.spec.mac(act_bits=4, dac_bits=3)
        points = (mac,)
        pair = Pair.of(pair.c._shim, pair.spec, pair.python.conditions, points=points)
        layer = layer_on(pair.spec, mac, geometry)
        for placement in layer.placements:
            pair.program(placement.tile, mac)
        size = (30, 1, 1) if geometry.in_channels == 30 else (geometry.in_channels, 6, 7)
        size = (3, 4, 4) if geometry.in_channels == 48 else size
        pair.upload(1, 0, 15, 3, *size)
        assert not pair.same("conv", layer, 1, 2, None, False, Run(3, 11))
        pair.check(2)
        assert not pair.same("conv", layer, 1, 2, None, True, Run(4, 0))
        pair.check(2)
        for bounds in ((0, 15), (-300, 300)):
            requant = rescaling(pair.rng, geometry.out_channels, 1 << 24, *bounds)
            assert not pair.same("conv", layer, 1, 1 if bounds[0] else 3, requant, False, Run(9, 2))
            pair.check(1 if bounds[0] else 3)
        counted = list(pair.python.counters.values())
        assert pair.c.counters[:6] == counted[:6]

    def test_wrong_layers_are_refused_together(self, shim: Any) -> None:
        spec = DIES["native"][0]
        mac = spec.mac()
        pair = Pair.of(shim, spec, points=[mac, spec.mac(weight_bits=3)])
        good = layer_on(pair.spec, mac, Geometry(20, 4))
        for placement in good.placements:
            pair.program(placement.tile, mac)
        pair.upload(1, 0, 15, 2, 20, 1, 1)
        first = good.placements[0]

        def changed(**fields: Any) -> PimLayer:
            tile = Tile(**{k: fields.pop(k, getattr(first.tile, k)) for k in Tile.__dataclass_fields__})
            placed = Placement(tile, fields.pop("group", 0), fields.pop("first_column", 0))
            return PimLayer("layer", mac, good.geometry, (placed, *good.placements[1:]))

        assert pair.same("conv", changed(first_column=1), 1, 2, None, False, Run()) == "bad tile"
        assert pair.same("conv", changed(rows=17), 1, 2, None, False, Run()) == "bad tile"
        assert pair.same("conv", changed(group=2), 1, 2, None, False, Run()) == "bad tile"
        twice = PimLayer("layer", mac, good.geometry, (first, first))
        assert pair.same("conv", twice, 1, 2, None, False, Run()) == "bad tile"
        assert pair.same("conv", good, 7, 2, None, False, Run()) == "no buffer"
        assert pair.same("conv", good, 1, 7, None, True, Run()) == "no buffer"
        pair.upload(3, 0, 16, 2, 20, 1, 1)
        assert pair.same("conv", good, 3, 2, None, False, Run()) == "bad input"
        pair.upload(3, 0, 15, 2, 19, 1, 1)
        assert pair.same("conv", good, 3, 2, None, False, Run()) == "bad shape"
        requant = rescaling(pair.rng, 4, 0, 0, 15)
        assert pair.same("conv", good, 1, 2, requant, False, Run()) == "bad input"
        assert pair.same("conv", good, 1, 2, requant, True, Run()) == "bad argument"
        narrow = pair.spec.mac(weight_bits=3)
        assert (
            pair.same("conv", PimLayer("layer", narrow, good.geometry, good.placements), 1, 2, None, False, Run())
            == "bad cells"
        )

    @pytest.mark.parametrize("seed", range(6))
    def test_the_processor(self, shim: Any, seed: int) -> None:
        pair = Pair.of(shim, DIES["bit_serial"][0], number=seed)
        rng = pair.rng
        n, c, h, w = 2, 3, 7, 6
        big = (1 << 31) - 1
        pair.upload(1, -50 << seed, 50 << seed, n, c, h, w)
        pair.upload(2, 0, 255, n, c, h, w)
        pair.upload(3, -big - 1, big, n, c, h, w)
        weights = rng.integers(-128, 128, (4, c, 3, 2)).astype(np.int8)
        geometry = Geometry(c, 4, (3, 2), (2, 1), (1, 1), (1 + seed % 2, 1))
        requant = rescaling(rng, 4, 1 << 30, -(1 << seed), 255)
        assert not pair.same("digital", weights, geometry, 1, 4, None)
        assert not pair.same("digital", weights, geometry, 2, 5, requant)
        assert pair.same("digital", weights, geometry, 3, 6, None) == "overflow"
        three = rescaling(rng, 3, 1 << 31, 0, 255)
        assert not pair.same("requantize", 3, 6, three)
        assert pair.same("requantize", 4, 7, three) == "bad shape"
        assert pair.same("requantize", 3, 7, rescaling(rng, 3, 5, 0, 255)) == "bad input"
        assert not pair.same("add", 1, 2, 7, (-3, 1 << 20), seed * 3, -1000, 1000)
        assert not pair.same("add", 3, 3, 8, (1, -1), 0, -big - 1, big)
        assert pair.same("add", 3, 2, 9, (1 << 33, 0), 0, 0, 1) == "overflow"
        assert pair.same("add", 3, 4, 9, (1, 1), 0, 0, 1) == "bad shape"
        for k, kind in enumerate(("max", "sum")):
            for source in (1, 2):
                window = (3, 2), (1 + seed % 3, 2), (seed % 2, 1)
                assert not pair.same("pool", source, 10 + 2 * k + source, kind, *window)
        assert pair.same("pool", 3, 20, "sum", (7, 6), (1, 1), (0, 0)) in ("", "overflow")
        for buffer in (*range(1, 9), *range(11, 15)):
            pair.check(buffer)
            if buffer == 3:
                assert pair.same("stats", 3) == "overflow"
                continue
            (count, *sums), (c_count, *c_sums) = pair.python.stats(buffer), pair.c.stats(buffer)
            assert count == c_count and all(map(np.array_equal, sums, c_sums))
        assert pair.c.counters[5] == pair.python.counters["digital_macs"]

    def test_the_processors_golden_vectors(self, shim: Any) -> None:
        board, cases = Pair.of(shim, DIES["bit_serial"][0]).c, load("processor")
        assert all(cases.values())
        for case in cases["requantize"]:
            m, o = (np.array([wide(case[k])], np.uint64).view(np.int64) for k in ("multiplier", "offset"))
            acc = np.array(case["acc"]).reshape(1, 1, 1, -1)
            largest = int(np.abs(acc).max())
            board.upload(1, acc)
            board.requantize(1, 2, Requant(m, o, np.array([case["shift"]]), case["low"], case["high"], largest))
            assert board.download(2).ravel().tolist() == case["out"]
        for case in cases["add"]:
            for number, key in enumerate("ab"):
                board.upload(number, np.array(case[key]).reshape(1, 1, 1, -1))
            board.add(0, 1, 2, tuple(case["factors"]), case["shift"], case["low"], case["high"])
            assert board.download(2).ravel().tolist() == case["out"]
        for case in cases["pool"]:
            board.upload(1, np.array(case["x"])[None])
            board.pool(1, 2, case["kind"], case["kernel"], case["stride"], case["padding"])
            assert board.download(2)[0].tolist() == case["out"]
        for case in cases["convolve"]:
            weights, x = np.array(case["weights"], np.int8), np.array(case["x"])
            shape = (tuple(case[key]) for key in ("kernel", "stride", "padding"))
            board.upload(1, x[None])
            board.digital(weights, Geometry(len(x), len(weights), *shape), 1, 2, None)
            assert board.download(2)[0].tolist() == case["out"]

    def test_trimming_where_the_die_has_tables_for_it(self, shim: Any) -> None:
        spec = small("sram65", adc={"trim_bits": 3})
        pair = Pair.of(shim, spec, all_trims=True)
        tile, mac = Tile(0, 0, 0, 18, 24), spec.mac()
        pair.program(tile, mac)
        x = pair.rng.integers(0, mac.digit, (5, 18))
        for adc, code in ((0, 0), (3, 7), (5, 2)):
            assert not pair.same("trim", adc, code)
            assert np.array_equal(pair.c.convert(tile, x, 1, mac, Run()), pair.python.convert(tile, x, 1, mac, Run()))
        assert pair.same("trim", 12, 0) == "bad argument" == pair.same("trim", 0, 8)
        with pytest.raises(firmware.Refused, match="not able"):
            Pair.of(shim, spec).c.trim(0, 0)

    def test_feature_memory_holds_what_it_says_and_moves_maps_together(self, shim: Any) -> None:
        pair = Pair.of(shim, small("sram65", board={"feature_memory": 4096}))
        words = 4096 // 4
        pair.upload(1, -5, 5, 1, 1, 1, words // 2)
        pair.upload(2, -5, 5, 1, 1, 1, words // 4)
        pair.upload(3, -5, 5, 1, 1, 1, words // 4)
        for board in (pair.python, pair.c):
            board.free(2)
        for turn in range(20):
            pair.upload(1 if turn % 2 else 2, -5, 5, 1, 1, 1, words // 4)
            pair.check(3)
        too_large = np.full((1, 1, 1, words // 2 + 1), -1)
        assert pair.same("upload", 9, too_large) == "no memory"
        for buffer in (1, 2, 3):
            pair.check(buffer)


class TestDieFiles:
    def test_every_damaged_byte_and_every_length_is_refused(self, shim: Any) -> None:
        spec, rng = DIES["aged"][0], np.random.default_rng(0)
        image = export_die(spec, Die(spec, 0), Conditions(), noise_seed=None, points=[spec.mac()])
        firmware.CBoard(shim, image)
        for size in (0, 7, 31, 40, len(image) // 2, len(image) - 1):
            with pytest.raises(firmware.Refused, match="die"):
                firmware.CBoard(shim, image[:size])
        for place in rng.integers(0, len(image), 200):
            bad = bytearray(image)
            bad[place] ^= 1 << int(rng.integers(8))
            with pytest.raises(firmware.Refused, match="die"):
                firmware.CBoard(shim, bytes(bad))

    def test_a_wrong_field_is_refused_whatever_the_checksum(self, shim: Any) -> None:
        """Words of the header, the sections' table and the first section, each set to what does not belong there."""
        spec = DIES["slow and mapped"][0]
        image = export_die(spec, Die(spec, 0), Conditions(), noise_seed=None, points=[spec.mac()])
        rng = np.random.default_rng(1)
        accepted = 0
        for place in range(32, 600, 4):
            for value in (0xFFFFFFFF, 0x80000000, int(rng.integers(1 << 16))):
                bad = bytearray(image)
                bad[place : place + 4] = value.to_bytes(4, "little")
                bad[24:28] = zlib.crc32(bad[32:]).to_bytes(4, "little")
                try:
                    board = firmware.CBoard(shim, bytes(bad))
                except firmware.Refused:
                    continue
                accepted += 1  # seed, temperature and the like take any value
                tile = Tile(0, 0, 0, 18, 24)
                with contextlib.suppress(firmware.Refused):
                    board.convert(tile, np.zeros((2, 18), np.uint8), 1, spec.mac(), Run())
        assert 0 < accepted < 200

    def test_what_depends_on_history_is_not_exported(self) -> None:
        spec = small("sram65", cells={"program_sigma": 0.03})
        with pytest.raises(InputError, match="program_sigma"):
            export_die(spec, Die(spec, 0), Conditions(), noise_seed=0)

    def test_an_operating_point_without_tables_is_refused(self, shim: Any) -> None:
        pair = Pair.of(shim, DIES["bit_serial"][0])
        tile = Tile(0, 0, 0, 10, 8)
        with pytest.raises(firmware.Refused, match="bad point"):
            pair.c.convert(tile, np.zeros((1, 10), np.uint8), 1, pair.spec.mac(adc_bits=5), Run())
