"""The C firmware: its chip model against the golden vectors, its wire against Python's, its twin over real links."""

from __future__ import annotations

import ctypes
import json
import zlib
from typing import Any

import firmware
import numpy as np
import pytest

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
