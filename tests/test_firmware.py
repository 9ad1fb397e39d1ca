"""The C firmware: its chip model against the golden vectors, its wire against Python's, its twin over real links."""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import socket
import struct
import subprocess
import threading
import time
import zlib
from collections.abc import Callable, Iterator
from dataclasses import astuple, dataclass, replace
from pathlib import Path
from typing import Any

import firmware
import numpy as np
import plain_frames as wire
import pytest
from mutations import mutated, sample_frames

from pimchip.chip import ChipSpec, Geometry, Mac, PimLayer, Placement, Requant, Run, Tile, load_chip
from pimchip.chip.correction import Correction, limit, widest
from pimchip.emulator.die import Die
from pimchip.emulator.export import default_points, export_die, write_die
from pimchip.emulator.state import Conditions
from pimchip.emulator.virtual import VirtualBoard
from pimchip.errors import DeviceError, InputError

VECTORS = firmware.FOLDER.parent / "vectors" / "chip"
CASES = sorted(
    path.stem
    for path in VECTORS.glob("*.json")
    if path.stem not in ("random", "processor") and not path.stem.startswith("copies")
)
WITHOUT = firmware.missing("gcc", "make")
pytestmark = pytest.mark.skipif(bool(WITHOUT), reason=WITHOUT)


def wide(pair: list[int]) -> int:
    """A 64-bit number from its words, unsigned."""
    return pair[0] + (pair[1] << 32)


def load(name: str) -> Any:
    return json.loads((VECTORS / f"{name}.json").read_text())


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


def held_twice(mac: Mac, geometry: Geometry) -> PimLayer:
    """A layer of at most 20 rows in all, a copy in each of two macros: in one tile a group, or in two from the third column on."""
    layer, placements = PimLayer("twice", mac, geometry, ()), []
    for group in range(layer.groups):
        row, rows, columns = group * mac.rows, layer.group_rows(group), layer.columns
        placements.append(Placement(Tile(0, row, 0, rows, columns), group, 0, 0))
        placements.append(Placement(Tile(1, row, 2, rows, columns - 1), group, 1, 1))
        placements.append(Placement(Tile(1, row, columns + 1, rows, 1), group, 0, 1))
    return replace(layer, placements=tuple(placements))


def with_correction(layer: PimLayer, rng: np.random.Generator, adcs: int, bits: int | None = None) -> PimLayer:
    """The layer with a correction of its codes by a random gain, offset and scatter of each converter; as the widest values
    or in 2^-bits LSB."""
    mac, codes = layer.mac, np.arange(layer.mac.code_min, layer.mac.code_max + 1)
    bits = widest(mac) if bits is None else bits
    apart = codes * rng.normal(1, 0.2, (adcs, 1)) + rng.normal(0, 3, (adcs, 1)) + rng.normal(0, 1, (adcs, len(codes)))
    most = limit(mac, bits)
    values = np.clip(np.rint(apart * 2.0**bits), -most, most).astype(np.int16)
    return replace(layer, correction=Correction(mac, bits, values))


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

    @pytest.mark.parametrize(
        "geometry", [Geometry(20, 4), Geometry(2, 3, (3, 3), (1, 2), (1, 1))], ids=["linear", "conv"]
    )
    def test_layers_with_copies(self, pair: Pair, geometry: Geometry) -> None:
        mac = pair.spec.mac(act_bits=4, dac_bits=3)
        pair = Pair.of(pair.c._shim, pair.spec, pair.python.conditions, points=(mac,))
        layer = held_twice(mac, geometry)
        for placement in layer.placements:
            pair.program(placement.tile, mac)
        pair.upload(1, 0, 15, 5, geometry.in_channels, *((1, 1) if geometry.kernel == (1, 1) else (6, 7)))
        adcs = pair.spec.array.macros * pair.spec.adc.per_macro
        part = replace(layer, placements=tuple(p for p in layer.placements if p.group == 0))
        for each in (layer, part, with_correction(layer, pair.rng, adcs)):
            assert not pair.same("conv", each, 1, 2, None, False, Run(3, 11))
            pair.check(2)
            assert not pair.same("conv", each, 1, 2, None, True, Run(4, (1 << 40) - 5))
            pair.check(2)
        assert not pair.same(
            "conv", layer, 1, 2, rescaling(pair.rng, geometry.out_channels, 1 << 24, 0, 15), False, Run()
        )
        pair.check(2)
        assert pair.c.counters[:6] == list(pair.python.counters.values())[:6]

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
        assert pair.same("conv", good, 1, 2, requant, False, Run()) == "beyond"
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
        assert pair.same("requantize", 3, 7, rescaling(rng, 3, 5, 0, 255)) == "beyond"
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


@dataclass
class Twin:
    """A running host twin."""

    process: subprocess.Popen[str]
    url: str

    @property
    def port(self) -> int:
        return int(self.url.rpartition(":")[2])

    @classmethod
    def start(cls, program: Path, die: Path, *where: str, token: str = "") -> Twin:
        command = [str(program), str(die), *(where or ("tcp://127.0.0.1:0",))]
        known = os.environ | {"PIMP_TOKEN": token}
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=known)
        assert process.stdout is not None
        line = process.stdout.readline()
        assert line.startswith("listening "), process.communicate()
        return cls(process, line.split()[1])

    def stop(self) -> str:
        """End it; what it said on standard error, which is where sanitizers speak."""
        self.process.terminate()
        return self.process.communicate(timeout=10)[1]


@dataclass
class Wired:
    """A die on the Python board, and the sanitized twin with a client that has said HELLO."""

    pair: Pair
    client: wire.Client
    twin: Twin
    hello: dict[str, object]


@pytest.fixture
def wired(shim: Any, sanitized: Path, tmp_path: Path) -> Iterator[Wired]:
    spec, at = DIES["aged"]
    pair = Pair.of(shim, spec, at)
    path = tmp_path / "die"
    write_die(path, export_die(spec, Die(spec, 3), at, noise_seed=77, description=b"about" * 3000))
    twin = Twin.start(sanitized, path)
    client = wire.Client.to(twin.port)
    try:
        yield Wired(pair, client, twin, client.hello())
    finally:
        client.link.close()
        assert twin.stop() == ""


def mac_bytes(mac: Mac) -> bytes:
    scheme = firmware.SCHEMES.index(mac.scheme)
    widths = (mac.weight_bits, mac.act_bits, mac.dac_bits, mac.adc_bits)
    return struct.pack("<6BHI", scheme, *widths, 0, mac.range_divisor, mac.rows)


def layer_bytes(layer: PimLayer) -> bytes:
    head = mac_bytes(layer.mac) + struct.pack("<10I", *firmware.geometry_words(layer.geometry))
    head += struct.pack("<I32s", len(layer.placements), layer.name.encode())
    placements = sorted(layer.placements, key=lambda p: p.copy)
    head += b"".join(struct.pack("<7I", *astuple(p.tile), p.group, p.first_column) for p in placements)
    if layer.copies > 1:
        counts = [sum(p.copy == copy for p in placements) for copy in range(layer.copies)]
        head += struct.pack(f"<{2 + len(counts)}I", 0, len(counts), *counts)
    if (c := layer.correction) is None:
        return head
    return head + struct.pack("<II", len(c.values), c.fraction_bits) + c.values.astype("<i2").tobytes()


def requant_bytes(requant: Requant) -> bytes:
    head = struct.pack("<IiiIQ", len(requant.shift), requant.low, requant.high, 0, requant.acc_max)
    channels = zip(requant.multiplier, requant.offset, requant.shift, strict=True)
    return head + b"".join(struct.pack("<qqII", *map(int, c), 0) for c in channels)


def refused(client: wire.Client, *request: Any) -> int:
    """The status of a request that must be refused."""
    with pytest.raises(wire.RefusedError) as error:
        client.call(*request)
    return error.value.status


class TestTwin:
    """The twin under the sanitizers, over real TCP."""

    def test_hello_says_who_it_is(self, wired: Wired) -> None:
        h, spec = wired.hello, wired.pair.spec
        assert (h["version"], h["resumed"], h["max_payload"]) == (1, 0, 4096)
        assert h["spec_hash"] == bytes.fromhex(spec.hash) and h["chip"] == spec.name.encode().ljust(32, b"\0")
        assert h["uid"] == wired.pair.python.uid.encode().ljust(64, b"\0")
        blob = wired.client.get(wire.R_BLOB, 0, int(str(h["blob_size"])))
        assert blob == b"about" * 3000 and zlib.crc32(blob) == h["blob_crc"]

    def test_program_verify_and_convert_as_the_emulator_in_this_process(self, wired: Wired) -> None:
        pair, client = wired.pair, wired.client
        tile, mac = Tile(1, 2, 3, 17, 20), pair.spec.mac(range_divisor=2)
        cells = pair.rng.integers(0, 2, (17, 20)).astype(np.int8)
        pair.python.write_cells(tile, cells, 1)
        where = struct.pack("<5I", *astuple(tile))
        assert refused(client, wire.PROGRAM, where + struct.pack("<i", 1)) == 0x0203
        client.put(wire.R_CELLS, 0, cells.tobytes())
        client.call(wire.PROGRAM, where + struct.pack("<i", 1))
        held = pair.python.read_cells(tile)
        assert client.call(wire.VERIFY, where) == zlib.crc32(held.tobytes()).to_bytes(4, "little")
        rows = [zlib.crc32(row.tobytes()) for row in held]
        assert client.get(wire.R_CHECKS, 0, 4 * 17) == struct.pack("<17I", *rows)
        client.call(wire.READ_CELLS, where)
        assert client.get(wire.R_READBACK, 0, 17 * 20) == held.tobytes()
        x = pair.rng.integers(0, mac.digit, (300, 17)).astype(np.uint8)
        client.put(wire.R_INPUTS, 0, x.tobytes())
        run = Run(9, 123456)
        request = where + mac_bytes(mac) + struct.pack("<IQII", run.epoch, run.first_image, len(x), 3)
        length, width = struct.unpack("<II", client.call(wire.CONVERT, request))
        want = pair.python.convert(tile, x, 3, mac, run)
        assert (length, width) == (want.size, 1)
        assert np.array_equal(np.frombuffer(client.get(wire.R_CODES, 0, length), np.uint8).reshape(want.shape), want)
        counted = struct.unpack("<8Q", client.get(wire.R_COUNTERS, 0, 64))
        assert counted[:5] == tuple(pair.python.counters.values())[:5]
        degrees, supply, age, conversions = struct.unpack("<iIQQ", client.call(wire.TELEMETRY))
        at = pair.python.conditions
        assert (degrees, supply, age) == (at.temperature * 1000, (at.supply or 0) * 1e6, at.age * 3.6e6)
        assert conversions == counted[0]
        registers = struct.unpack("<13q", client.get(wire.R_REGISTERS, 0, 8 * 13))
        assert registers == tuple(pair.python.registers().values())

    def test_a_network_on_the_board(self, wired: Wired) -> None:
        """Conv with requantization, digital, add, pool, requantize, stats: maps stay on the board."""
        pair, client, python = wired.pair, wired.client, wired.pair.python
        mac, geometry = pair.spec.mac(), Geometry(2, 3, (3, 3), (1, 1), (1, 1))
        layer = layer_on(pair.spec, mac, geometry)
        for placement in layer.placements:
            tile = placement.tile
            cells = pair.rng.integers(0, 2, (tile.rows, tile.columns)).astype(np.int8)
            python.write_cells(tile, cells, 1)
            client.put(wire.R_CELLS, 0, cells.tobytes())
            client.call(wire.PROGRAM, struct.pack("<5Ii", *astuple(tile), 1))
        x = pair.rng.integers(0, 16, (4, 2, 6, 7))
        python.upload(0, x)
        client.put(wire.R_MAP8, 0, x.astype(np.uint8).tobytes(), x.shape)
        requant, plain = rescaling(pair.rng, 3, 1 << 20, 0, 15), rescaling(pair.rng, 3, 1 << 20, -99, 99)
        weights = pair.rng.integers(-128, 128, (3, 3, 1, 1)).astype(np.int8)
        client.put(wire.R_LAYER, 5, layer_bytes(layer))
        client.put(wire.R_REQUANT, 1, requant_bytes(requant))
        client.put(wire.R_REQUANT, 2, requant_bytes(plain))
        small = Geometry(3, 3)
        held = struct.pack("<10I", *firmware.geometry_words(small)) + weights.tobytes()
        client.put(wire.R_WEIGHTS, 0, held)
        run = Run(4, 17)
        noise = struct.pack("<IQ", run.epoch, run.first_image)
        client.call(wire.CONV, struct.pack("<5I", 5, 0, 1, 1, 0) + noise)
        python.conv(layer, 0, 1, requant, False, run)
        client.call(wire.CONV, struct.pack("<5I", 5, 0, 2, wire.NONE, 0) + noise)
        python.conv(layer, 0, 2, None, False, run)
        client.call(wire.CONV, struct.pack("<5I", 5, 0, 2, wire.NONE, 1) + noise)
        python.conv(layer, 0, 2, None, True, run)
        client.call(wire.REQUANTIZE, struct.pack("<3I", 2, 3, 2))
        python.requantize(2, 3, plain)
        client.call(wire.DIGITAL, struct.pack("<4I", 0, 1, 4, wire.NONE))
        python.digital(weights, small, 1, 4, None)
        client.call(wire.ADD, struct.pack("<4Iii2q", 3, 4, 5, 3, -500, 500, 7, -2))
        python.add(3, 4, 5, (7, -2), 3, -500, 500)
        client.call(wire.POOL, struct.pack("<9I", 5, 6, 1, 2, 2, 2, 2, 0, 0))
        python.pool(5, 6, "sum", (2, 2), (2, 2), (0, 0))
        for buffer in range(7):
            want = python.download(buffer)
            *shape, low, high = struct.unpack("<4Iii", client.call(wire.MAP, struct.pack("<I", buffer)))
            assert (tuple(shape), low, high) == (want.shape, want.min(), want.max())
            got = np.frombuffer(client.get(wire.R_MAP32, buffer, 4 * want.size), "<i4").reshape(want.shape)
            assert np.array_equal(got, want)
            count, channels = struct.unpack("<QI", client.call(wire.STATS, struct.pack("<I", buffer)))
            sums = np.frombuffer(client.get(wire.R_STATS, 0, 16 * channels), "<i8").reshape(-1, 2).T
            wanted = python.stats(buffer)
            assert count == wanted[0] and np.array_equal(sums, wanted[1:])
        assert client.get(wire.R_MAP8, 1, 4 * 3 * 6 * 7) == python.download(1).astype(np.uint8).tobytes()
        assert refused(client, wire.READ, struct.pack("<III", wire.R_MAP8, 3, 100)) == 0x0204
        with pytest.raises(wire.RefusedError, match="the buffer is empty"):
            client.call(wire.POOL, struct.pack("<9I", 99, 6, 1, 2, 2, 2, 2, 0, 0))
        client.call(wire.FREE, struct.pack("<I", 6))
        assert refused(client, wire.MAP, struct.pack("<I", 6)) == 0x0203

    def test_a_repeated_request_is_answered_again_and_not_executed_again(self, wired: Wired) -> None:
        client = wired.client
        client.put(wire.R_CELLS, 0, bytes(24))
        request = struct.pack("<5Ii", 0, 0, 0, 1, 24, 1)
        for flags in (0, 2, 2):
            client.send(wire.PROGRAM, request, seq=500, flags=flags)
            frame = client.reply(500)
            assert (frame.status, frame.flags) == (0, flags)
        client.seq = 500
        assert struct.unpack("<q", client.get(wire.R_REGISTERS, 0, 8)) == (1,)
        executed, repeated = struct.unpack("<4I", client.call(wire.LINK))[2:]
        assert repeated == 2
        # An old one that the line held back gets no answer; the next request does.
        for number in range(40):
            client.seq = 500 + number
            client.call(wire.ECHO, b"x")
        client.send(wire.PROGRAM, request, seq=500)
        client.call(wire.ECHO, b"y")
        assert struct.unpack("<q", client.get(wire.R_REGISTERS, 0, 8)) == (1,)

    def test_a_reply_of_one_wrap_ago_is_not_an_answer(self, wired: Wired) -> None:
        client = wired.client
        client.put(wire.R_CELLS, 0, bytes(24))
        request, read = struct.pack("<5Ii", 0, 0, 0, 1, 24, 1), struct.pack("<III", wire.R_REGISTERS, 0, 8)

        def pulses(seq: int) -> int:
            client.send(wire.READ, read, seq=seq)
            (count,) = struct.unpack("<q", client.reply(seq).payload)
            return count

        client.send(wire.PROGRAM, request, seq=500)
        assert client.reply(500).status == 0
        assert [pulses(seq) for seq in (500 + 0x7000, 500 + 0xE000, 499)] == [1, 1, 1]
        client.send(wire.PROGRAM, request, seq=500)
        assert (client.reply(500).flags, pulses(501)) == (0, 2)

    def test_late_frames_of_another_boot_execute_nothing(self, wired: Wired) -> None:
        client = wired.client
        client.put(wire.R_CELLS, 0, bytes(24))
        request = struct.pack("<5Ii", 0, 0, 0, 1, 24, 1)
        client.call(wire.PROGRAM, request)
        seq, key = client.seq, client.key
        client.call(wire.RESET)
        assert client.hello()["resumed"] == 0 and client.key != key  # a late HELLO opens the session again
        client.put(wire.R_CELLS, 0, bytes(24))
        new, client.key = client.key, key
        client.send(wire.PROGRAM, request, seq=seq)
        assert client.reply(seq).status == 0x0102
        client.key = new
        assert struct.unpack("<q", client.get(wire.R_REGISTERS, 0, 8)) == (0,)

    def test_a_cut_transfer_goes_on_where_it_was_even_for_a_new_host(self, wired: Wired) -> None:
        first, data = wired.client, bytes(range(256)) * 100
        assert first.begin(wire.R_INPUTS, 0, data) == (7, 0)
        for chunk in (5, 0, 2):
            first.call(wire.WRITE, data[4096 * chunk : 4096 * (chunk + 1)], 4096 * chunk)
        assert refused(first, wire.COMMIT) == 0x8108
        assert first.get(wire.R_BITMAP, 0, 1) == bytes([0b100101])
        first.call(wire.CLOSE)
        assert refused(first, wire.ECHO) == 0x0102
        first.link.close()
        second = wire.Client.to(wired.twin.port, session=8)
        assert second.hello()["resumed"] == 0
        assert second.begin(wire.R_INPUTS, 0, data) == (7, 3)
        for chunk in (1, 3, 4, 6):
            second.call(wire.WRITE, data[4096 * chunk : 4096 * (chunk + 1)], 4096 * chunk)
        second.call(wire.COMMIT)
        assert refused(second, wire.COMMIT) == 0x8107
        assert second.begin(wire.R_INPUTS, 0, data) == (7, 0)
        second.call(wire.WRITE, bytes(4096), 0)
        for chunk in range(1, 7):
            second.call(wire.WRITE, data[4096 * chunk : 4096 * (chunk + 1)], 4096 * chunk)
        assert refused(second, wire.COMMIT) == 0x8109
        wired.client.link = second.link

    def test_sessions_have_one_owner(self, wired: Wired) -> None:
        client = wired.client
        boot = wired.hello["boot_id"]
        assert client.hello()["resumed"] == 1
        client.session = 9
        assert refused(client, wire.HELLO, struct.pack("<BBHI32s", 1, 1, 0, 4096, bytes(32))) == 0x8106
        client.session, client.key = 7, client.key + 1
        assert refused(client, wire.ECHO) == 0x0102
        client.key -= 1
        client.call(wire.ECHO)
        client.call(wire.CLOSE)
        assert refused(client, wire.HELLO, struct.pack("<BBHI32s", 1, 1, 0, 4096, bytes(32))) == 0x0102
        client.session = 9
        assert client.hello()["boot_id"] == boot
        client.call(wire.RESET)
        assert refused(client, wire.ECHO) == 0x0102
        again = client.hello()
        assert again["boot_id"] != boot and again["resumed"] == 0

    def test_another_version_is_told_which_there_are(self, wired: Wired) -> None:
        wired.client.send(wire.ECHO, b"x", seq=3, version=2)
        frame = wired.client.reply(3)
        assert (frame.version, frame.status, frame.payload) == (1, 0x0101, b"\1\1")
        hello = struct.pack("<BBHI32s", 2, 3, 0, 4096, bytes(32))
        wired.client.send(wire.HELLO, hello, seq=4)
        assert wired.client.reply(4).status == 0x0101

    def test_streams_keep_to_their_credit_and_say_what_was_dropped(self, wired: Wired) -> None:
        client = wired.client
        client.call(wire.STREAM, struct.pack("<II", 2000, 3), 1)
        client.wait(0.1)
        records = [frame for frame in client.others if frame.kind == 2]
        assert [struct.unpack("<II", frame.payload[:8]) for frame in records] == [(0, 0), (1, 0), (2, 0)]
        assert records[2].payload[16:] == bytes(range(2, 66))
        credit = wire.Frame(1, 4, 0, 0, 0, 0, client.key, 1, struct.pack("<I", 5))
        client.others.clear()
        client.link.sendall(credit.encoded())
        client.wait(0.1)
        heads = [struct.unpack("<II", frame.payload[:8]) for frame in client.others]
        assert [index for index, _ in heads] == [3, 4] and heads[0][1] >= 20
        client.call(wire.STREAM, struct.pack("<II", 0, 0), 1)

    @pytest.mark.parametrize("where", ["file", "environment"])
    def test_a_token_is_asked_for(self, sanitized: Path, tmp_path: Path, where: str) -> None:
        spec, path, token = DIES["bit_serial"][0], tmp_path / "die", bytes(range(32))
        write_die(path, export_die(spec, Die(spec, 0), Conditions(), noise_seed=None))
        (tmp_path / "token").write_text(token.hex() + "\n")
        options = ["tcp://127.0.0.1:0", "--token-file", str(tmp_path / "token")] if where == "file" else []
        twin = Twin.start(sanitized, path, *options, token="" if options else token.hex())
        client = wire.Client.to(twin.port)
        assert refused(client, wire.HELLO, struct.pack("<BBHI32s", 1, 1, 0, 4096, bytes(32))) == 0x0105
        assert client.hello(token)["version"] == 1
        client.link.close()
        assert twin.stop() == ""

    @pytest.mark.parametrize(
        ("content", "said"),
        [
            ("", "64 hex"),
            ("00" * 31, "64 hex"),
            ("00" * 32 + " 0", "64 hex"),
            ("xy" * 32, "64 hex"),
            (None, "No such file"),
        ],
    )
    def test_a_token_that_is_none_is_named(
        self, sanitized: Path, tmp_path: Path, content: str | None, said: str
    ) -> None:
        path = tmp_path / "token"
        if content is not None:
            path.write_text(content)
        command = [sanitized, "die", "tcp://127.0.0.1:0", "--token-file", path]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 2 and said in done.stderr and str(path) in done.stderr

    def test_no_request_of_a_wrong_length_or_with_random_words_harms_it(self, wired: Wired) -> None:
        client, rng = wired.client, np.random.default_rng(0)
        x = rng.integers(0, 16, (1, 2, 6, 7))
        client.put(wire.R_MAP8, 0, x.astype(np.uint8).tobytes(), x.shape)
        client.put(wire.R_CELLS, 0, bytes(24))
        client.put(wire.R_INPUTS, 0, bytes(24))
        layer = layer_on(wired.pair.spec, wired.pair.spec.mac(), Geometry(2, 3, (3, 3), (1, 1), (1, 1)))
        client.put(wire.R_LAYER, 0, layer_bytes(layer))
        client.put(wire.R_REQUANT, 0, requant_bytes(rescaling(rng, 3, 1 << 20, 0, 15)))
        words = [0, 0, 0, 1, 1, 2, 3, 8, 24, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF]
        ops = [*range(0x10, 0x14), *range(0x20, 0x25), *range(0x30, 0x38), 0x40, 0x41, 0x77]
        for turn in range(3000):
            op = ops[turn % len(ops)]
            sizes = {0x10: 12, 0x11: 36, 0x20: 24, 0x21: 20, 0x22: 20, 0x23: 52, 0x24: 8, 0x30: 32, 0x31: 16, 0x32: 12}
            sizes |= {0x33: 40, 0x34: 36, 0x40: 8}
            size = sizes.get(op, 4) if turn % 7 else int(rng.integers(0, 60))
            payload = rng.choice(words, size // 4).astype("<u4").tobytes() + bytes(size % 4)
            with contextlib.suppress(wire.RefusedError):
                client.call(op, payload, int(rng.choice(words)))
        client.call(wire.ECHO, b"still there")

    def test_noise_on_the_line_is_no_request(self, wired: Wired) -> None:
        client, rng = wired.client, np.random.default_rng(1)
        frames = sample_frames(rng)
        before = struct.unpack("<4I", client.call(wire.LINK))
        for _ in range(300):
            stream = mutated(rng, frames, 40)
            client.link.sendall(stream)
            client.wait(0.0)
        client.wait(0.3)
        client.buffer = b""
        client.link.settimeout(20)
        client.seq = 0x4000
        after = struct.unpack("<4I", client.call(wire.LINK))
        assert after[1] > before[1] + 300

    def test_a_die_file_that_is_not_one_is_named(self, sanitized: Path, tmp_path: Path) -> None:
        path = tmp_path / "die"
        path.write_bytes(b"something else" * 10)
        done = subprocess.run([sanitized, path, "tcp://127.0.0.1:0"], capture_output=True, text=True, check=False)
        assert done.returncode == 2 and "is no die file" in done.stderr

    def test_on_a_pseudo_terminal(self, sanitized: Path, tmp_path: Path) -> None:
        spec, path = DIES["native"][0], tmp_path / "die"
        write_die(path, export_die(spec, Die(spec, 0), Conditions(), noise_seed=None))
        twin = Twin.start(sanitized, path, "pty")
        terminal = os.open(twin.url.removeprefix("serial://"), os.O_RDWR | os.O_NOCTTY)
        ours, other = socket.socketpair()
        pump = [
            threading.Thread(target=_copy, args=(lambda: os.read(terminal, 4096), other.sendall), daemon=True),
            threading.Thread(
                target=_copy, args=(lambda: other.recv(4096), lambda b: os.write(terminal, b)), daemon=True
            ),
        ]
        for thread in pump:
            thread.start()
        ours.settimeout(20)
        client = wire.Client(ours)
        assert client.hello()["chip"] == spec.name.encode().ljust(32, b"\0")
        data = bytes(range(256)) * 32
        client.put(wire.R_MAP8, 3, data, (1, 2, 64, 64))
        assert client.get(wire.R_MAP8, 3, len(data)) == data
        assert twin.stop() == ""
        ours.close()
        for thread in pump:
            thread.join(5)
        os.close(terminal)


def _copy(take: Callable[[], bytes], give: Callable[[bytes], Any]) -> None:
    """Bytes from one end to the other until either is gone."""
    with contextlib.suppress(OSError):
        while data := take():
            give(data)


NO_QEMU = firmware.missing("arm-none-eabi-gcc", "qemu-system-arm")


@pytest.mark.skipif(bool(NO_QEMU), reason=NO_QEMU)
def test_the_cortex_m_image_gives_the_same_codes(tmp_path: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    """HELLO, program, verify, convert and a layer, on QEMU over its UART."""
    plain = small("sram65").to_dict()
    plain["array"]["macros"] = 1
    plain["board"]["feature_memory"] = 1 << 17
    spec = ChipSpec.from_dict(plain)
    die, mac, rng = Die(spec, 1), spec.mac(), np.random.default_rng(0)
    path = tmp_path / "die"
    write_die(path, export_die(spec, die, Conditions(), noise_seed=6, points=[mac]))
    image = firmware.made(tmp_path_factory, "mps2", "pimp-mps2.elf", f"DIE={path}")
    python = VirtualBoard(spec, die, noise_seed=6)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    machine = ["qemu-system-arm", "-M", "mps2-an385", "-kernel", str(image), "-display", "none", "-monitor", "none"]
    qemu = subprocess.Popen([*machine, "-serial", f"tcp:127.0.0.1:{port},server=on,wait=off,nodelay=on"])
    try:
        client = patient(port)
        uid = client.hello()["uid"]
        assert uid == python.uid.encode().ljust(64, b"\0")
        layer = layer_on(spec, mac, Geometry(2, 3, (3, 3), (1, 1), (1, 1)))
        tile = layer.placements[0].tile
        cells = rng.integers(0, 2, (tile.rows, tile.columns)).astype(np.int8)
        python.write_cells(tile, cells, 1)
        where = struct.pack("<5I", *astuple(tile))
        client.put(wire.R_CELLS, 0, cells.tobytes())
        client.call(wire.PROGRAM, where + struct.pack("<i", 1))
        assert client.call(wire.VERIFY, where) == zlib.crc32(cells.tobytes()).to_bytes(4, "little")
        x = rng.integers(0, mac.digit, (10, tile.rows)).astype(np.uint8)
        client.put(wire.R_INPUTS, 0, x.tobytes())
        client.call(wire.CONVERT, where + mac_bytes(mac) + struct.pack("<IQII", 1, 5, 10, 1))
        codes = np.frombuffer(client.get(wire.R_CODES, 0, 10 * tile.columns), np.uint8).reshape(1, 10, -1)
        assert np.array_equal(codes, python.convert(tile, x, 1, mac, Run(1, 5)))
        maps = rng.integers(0, 16, (2, 2, 5, 4))
        python.upload(0, maps)
        client.put(wire.R_MAP8, 0, maps.astype(np.uint8).tobytes(), maps.shape)
        client.put(wire.R_LAYER, 0, layer_bytes(layer))
        client.call(wire.CONV, struct.pack("<5IIQ", 0, 0, 1, wire.NONE, 0, 2, 3))
        python.conv(layer, 0, 1, None, False, Run(2, 3))
        want = python.download(1)
        got = np.frombuffer(client.get(wire.R_MAP32, 1, 4 * want.size), "<i4").reshape(want.shape)
        assert np.array_equal(got, want)
        corrected = with_correction(layer, rng, spec.adc.per_macro)
        client.put(wire.R_LAYER, 1, layer_bytes(corrected))
        client.call(wire.CONV, struct.pack("<5IIQ", 1, 0, 1, wire.NONE, 0, 2, 3))
        python.conv(corrected, 0, 1, None, False, Run(2, 3))
        got = np.frombuffer(client.get(wire.R_MAP32, 1, 4 * want.size), "<i4").reshape(want.shape)
        assert np.array_equal(got, python.download(1)) and not np.array_equal(got, want)
    finally:
        qemu.kill()
        qemu.wait(10)


def patient(port: int) -> wire.Client:
    """A client as soon as something listens."""
    for _ in range(200):
        with contextlib.suppress(OSError):
            return wire.Client.to(port)
        time.sleep(0.05)
    raise AssertionError(f"nothing listens on port {port}")
