"""The golden vectors: every one through the crossbar, the torch path and the plain implementation of CHIP.md."""

from __future__ import annotations

import json
import math
import re
import subprocess
import sys
from dataclasses import replace
from fractions import Fraction
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import plain_chip
import pytest
import torch

from pimchip.chip import AdcTables, Geometry, Mac, Requant
from pimchip.chip.gauss import TABLE, gauss
from pimchip.chip.philox import Domain, words
from pimchip.chip.reference import chip_codes, copies_codes, recombine
from pimchip.kernels import crossbar, general, integer, portable, random
from pimchip.kernels.converters import Converters, Place

PROTOCOL = Path(__file__).resolve().parent.parent / "firmware_protocol"
FOLDER = PROTOCOL / "vectors" / "chip"
NAMES = sorted(path.stem for path in FOLDER.glob("*.json") if path.stem not in ("random", "processor"))
COPIES = [name for name in NAMES if name.startswith("copies")]
CASES = [name for name in NAMES if name not in COPIES]


@cache
def load(name: str) -> Any:
    return json.loads((FOLDER / f"{name}.json").read_text())


def wide(pair: list[int]) -> int:
    """A 64-bit number from its words, unsigned."""
    return pair[0] + (pair[1] << 32)


def signed(pair: list[int]) -> int:
    return wide(pair) - (wide(pair) >> 63 << 64)


class Vector:
    """A case for pimchip's own implementations."""

    def __init__(self, c: dict[str, Any]) -> None:
        fields = ("scheme", "rows", "weight_bits", "act_bits", "dac_bits", "adc_bits", "range_divisor")
        self.mac = Mac(**{field: c[field] for field in fields})
        self.tables = AdcTables(
            self.mac,
            np.array(c["transfer"], np.int32),
            np.array(c["sigma"], np.int32),
            None if c["slow"] is None else np.array(c["slow"], np.int32),
            c["octaves"],
            None if c["code_map"] is None else np.array(c["code_map"], np.int16),
        )
        self.x, self.weights, self.cells = (np.array(c[key], np.int64) for key in ("x", "weights", "cells"))
        self.errors = np.zeros_like(self.cells) if c["errors"] is None else np.array(c["errors"], np.int64)
        self.q = int(c["fraction_bits"])
        self.held = torch.from_numpy(((self.cells << self.q) + self.errors).astype(np.float64))
        self.sums, self.codes, self.y = np.array(c["sums"]), np.array(c["codes"]), np.array(c["y"])
        self.converters = Converters(
            self.tables,
            np.array(c["adc"]),
            np.array(c["macro"]),
            None if c["seed"] is None else wide(c["seed"]),
            c["epoch"],
            wide(c["first_vector"]),
            fraction_bits=self.q,
        )


def layer_of(c: dict[str, Any]) -> plain_chip.Layer:
    """A case for the plain implementation."""
    fields = ("scheme", "rows", "weight_bits", "act_bits", "dac_bits", "adc_bits", "range_divisor")
    return plain_chip.Layer(
        plain_chip.Point(**{field: c[field] for field in fields}),
        plain_chip.Tables(c["transfer"], c["sigma"], c["slow"], c["octaves"], c["code_map"]),
        c["cells"],
        c["errors"],
        c["fraction_bits"],
        c["adc"],
        c["macro"],
        None if c["seed"] is None else wide(c["seed"]),
        c["epoch"],
        wide(c["first_vector"]),
    )


@pytest.mark.parametrize("name", CASES)
class TestEveryCase:
    def test_through_the_reference(self, name: str) -> None:
        v = Vector(load(name))
        own = v.converters
        run = {"seed": own.seed, "epoch": own.epoch, "first_vector": own.first_vector}
        adc, macro = own.adc, own.macro
        codes = chip_codes(v.x, v.cells, v.tables, adc, macro, errors=v.errors, fraction_bits=v.q, **run)
        assert np.array_equal(codes, v.codes) and np.array_equal(recombine(codes, v.mac), v.y)
        assert np.array_equal(v.mac.cells(v.weights), v.cells)

    def test_through_the_crossbar(self, name: str) -> None:
        v = Vector(load(name))
        y, _ = crossbar.pim_matmul(torch.from_numpy(v.x), v.held, v.mac, v.converters)
        assert np.array_equal(y.numpy(), v.y)

    @pytest.mark.parametrize("kernel", [general.codes, portable.codes], ids=["compiled", "torch"])
    def test_through_each_kernel(self, name: str, kernel: Any) -> None:
        v = Vector(load(name))
        _, groups, slices, _ = v.sums.shape
        for g in range(groups):
            for s in range(slices):
                sums = torch.from_numpy(v.sums[:, g, s].astype(np.float64))
                got = kernel(sums, v.mac, v.converters, Place(0, g, s, groups * slices))
                assert np.array_equal(got.numpy(), v.codes[:, g, s])

    def test_through_the_text(self, name: str) -> None:
        c = load(name)
        layer, point = layer_of(c), layer_of(c).point
        for field in ("slices", "sum_min", "sum_max", "code_min", "code_max"):
            assert getattr(point, field) == c[field]
        assert (layer.groups, layer.stride, len(c["cells"][0])) == (c["groups"], c["column_stride"], c["columns"])
        assert (len(point.plane_weights), point.code_max, len(c["x"][0])) == (c["planes"], c["levels"], c["depth"])
        for row, held in zip(c["weights"], c["cells"], strict=True):
            assert [cell for weight in row for cell in point.cells(weight)] == held
        for m, x in enumerate(c["x"]):
            for g in range(c["groups"]):
                for s in range(c["slices"]):
                    cycle = layer.cycle(m, g, s)
                    for column in range(c["columns"]):
                        at = (m, g, s, column)
                        assert layer.sum(x, g, s, column) == c["sums"][m][g][s][column], at
                        if c["deviates"] is not None:
                            assert layer.deviate(cycle, g, column) == c["deviates"][m][g][s][column], at
                        if c["slow_deviates"] is not None:
                            assert layer.slow_sum(cycle, g, column) == c["slow_deviates"][m][g][s][column], at
                        assert layer.conversion(x, m, g, s, column).code == c["codes"][m][g][s][column], at
        assert plain_chip.recombine(c["codes"], point) == c["y"]


@pytest.mark.parametrize("name", COPIES)
class TestCopies:
    """The layer of each copy is a case of its own; of what they give, each vector has its copy's."""

    def test_through_the_reference_and_the_crossbar(self, name: str) -> None:
        c = load(name)
        each = [Vector(c | copy) for copy in c["copies"]]
        v, own = each[0], each[0].converters
        adc, macro, cells, errors = (
            np.array([copy[key] for copy in c["copies"]], np.int64) for key in ("adc", "macro", "cells", "errors")
        )
        run = {"seed": own.seed, "epoch": own.epoch, "first_vector": own.first_vector}
        codes = copies_codes(v.x, cells, v.tables, adc, macro, errors=errors, fraction_bits=v.q, **run)
        assert np.array_equal(codes, v.codes) and np.array_equal(recombine(codes, v.mac), v.y)
        columns = adc.shape[2]
        together = replace(
            own,
            adc=adc.reshape(-1, columns),
            macro=macro.reshape(-1, columns),
            copies=len(each),
        )
        y, _ = crossbar.pim_matmul(torch.from_numpy(v.x), torch.cat([copy.held for copy in each]), v.mac, together)
        assert np.array_equal(y.numpy(), v.y)

    def test_through_the_text(self, name: str) -> None:
        c = load(name)
        layers = [layer_of(c | copy) for copy in c["copies"]]
        assert plain_chip.codes_of_copies(layers, c["x"]) == c["codes"]
        assert plain_chip.recombine(c["codes"], layers[0].point) == c["y"]
        assert wide(c["first_vector"]) % len(layers) and len(c["x"]) > 2 * len(layers)


class TestCoverage:
    """That the cases reach what their names say."""

    def test_the_folder_is_what_the_tool_writes_and_small(self) -> None:
        tool = PROTOCOL.parent / "tools" / "generate_chip_vectors.py"
        subprocess.run([sys.executable, str(tool), "--check"], check=True)
        assert sum(path.stat().st_size for path in FOLDER.iterdir()) < 2_000_000

    @pytest.mark.parametrize("name", [name for name in CASES if name.startswith(("saturated", "ideal"))])
    def test_codes_reach_both_ends(self, name: str) -> None:
        v = Vector(load(name))
        assert (v.codes.min(), v.codes.max()) == (v.mac.code_min, v.mac.code_max)
        if name.startswith("saturated"):
            assert (v.tables.transfer.min(), v.tables.transfer.max()) == (-(1 << 30), 1 << 30)
            assert v.tables.sigma.max() == (1 << 31) - 1

    @pytest.mark.parametrize("name", [name for name in CASES if name.startswith("cells")])
    def test_sums_pass_the_ends_of_the_table_and_stand_between_its_entries(self, name: str) -> None:
        v = Vector(load(name))
        assert v.sums.min() < v.mac.sum_min << v.q and v.sums.max() > v.mac.sum_max << v.q
        assert np.any(v.sums & ((1 << v.q) - 1))

    @pytest.mark.parametrize("bits", [32, 34])
    def test_indices_pass_the_ends_of_words(self, bits: int) -> None:
        c = load(f"index-{bits}")
        per_vector = c["groups"] * c["slices"] * c["column_stride"]
        first = wide(c["first_vector"])
        assert first * per_vector < 1 << bits < (first + len(c["x"])) * per_vector

    @pytest.mark.parametrize("name", [name for name in CASES if name.startswith("ties")])
    def test_ties_stand_on_the_edges_of_codes(self, name: str) -> None:
        layer, x = layer_of(load(name)), load(name)["x"]
        places = np.ndindex(*np.array(load(name)["codes"]).shape)
        conversions = [(layer.conversion(x[m], m, g, s, c), m, g, s, c) for m, g, s, c in places]
        deviates = load(name)["deviates" if "fast" in name else "slow_deviates"]
        ties = [
            (done.t + done.n_fast + done.n_slow + 32768) % 65536 == 0 and deviates[m][g][s][c] % 2
            for done, m, g, s, c in conversions
        ]
        assert sum(ties) > 20

    def test_borders_of_macros_fall_inside_blocks_of_four(self) -> None:
        macro = np.array(load("macros")["macro"])
        assert set((np.flatnonzero(np.diff(macro[0])) + 1) % 4) == {1, 2, 3}

    def test_schemes_divisors_groups_and_terms_are_all_there(self) -> None:
        vectors = [load(name) for name in CASES]
        assert {(c["scheme"], c["range_divisor"]) for c in vectors} >= {
            (scheme, divisor) for scheme in ("native", "differential", "bit_serial") for divisor in (1, 2, 3, 4, 8, 16)
        }
        assert any(c["depth"] % c["rows"] and c["groups"] > 2 and c["slices"] > 2 for c in vectors)
        assert {c["octaves"] for c in vectors} >= {0, 5, 16}
        assert all(load(name)["slow"] and load(name)["code_map"] for name in CASES if name.startswith("everything"))
        assert all(load(name)["deviates"] is None for name in CASES if name.startswith("silent"))
        assert any(min(min(row) for row in c["transfer"]) < 0 for c in vectors if c["scheme"] == "bit_serial")


class TestWords:
    def test_blocks_are_the_published_known_answers(self) -> None:
        published = [
            "6627e8d5e169c58dbc57ac4c9b00dbd8",
            "408f276d41c83b0ea20bc7c66d5451fd",
            "d16cfe0994fdcceb5001e42024126ea1",
        ]
        blocks = load("random")["blocks"]
        assert ["".join(f"{word:08x}" for word in block["words"]) for block in blocks] == published
        for block in blocks:
            assert plain_chip.philox(block["counter"], block["key"]) == block["words"]

    def test_words_and_slow_sums(self) -> None:
        for v in load("random")["drawn"]:
            seed, index = wide(v["seed"]), wide(v["index"])
            assert plain_chip.word(index, v["domain"], v["tag"], v["epoch"], seed) == v["word"]
            mine = words(index, seed=seed, tag=v["tag"], epoch=v["epoch"], domain=Domain(v["domain"]))
            assert int(mine) == v["word"]
            block, tag, epoch = index >> 2, v["domain"] << 24 | v["tag"], v["epoch"]
            key = (np.uint32(seed & 0xFFFFFFFF), np.uint32(seed >> 32))
            lanes = general._philox(np.uint64(block), np.uint32(tag), np.uint32(epoch), *key)
            assert int(lanes[index & 3]) == v["word"]
            counter = (torch.tensor(word) for word in (block & 0xFFFFFFFF, block >> 32, tag, epoch))
            assert int(random.philox4x32(*counter, seed)[index & 3]) == v["word"]
        for v in load("random")["slow"]:
            drawn = [
                plain_chip.word(wide(v["cycle"]) // 2 ** (o + 1) * 16 + o, 3, v["adc"], v["epoch"], wide(v["seed"]))
                for o in range(16)
            ]
            assert drawn == v["words"] and sum(plain_chip.Gauss.of(word).z for word in drawn) == v["sum"]

    def test_deviates(self) -> None:
        v = load("random")
        assert gauss(np.array(v["gauss_words"], np.uint32)).tolist() == v["gauss_deviates"]
        assert [plain_chip.Gauss.of(word).z for word in v["gauss_words"]] == v["gauss_deviates"]
        assert random.gauss(torch.tensor(v["gauss_words"])).tolist() == v["gauss_deviates"]
        compiled = [general._gauss(np.uint32(word), TABLE.astype(np.int64)) for word in v["gauss_words"]]
        assert compiled == v["gauss_deviates"]
        assert {plain_chip.Gauss.of(word).e for word in v["gauss_words"]} == set(range(24))

    def test_the_table_in_hex_is_the_table(self) -> None:
        assert plain_chip.gauss_table() == TABLE.tolist()


def floor_clip(value: Fraction, rules: dict[str, Any]) -> int:
    return min(max(math.floor(value), rules["low"]), rules["high"])


class TestProcessor:
    def test_requantizations(self) -> None:
        for v in load("processor")["requantize"]:
            m, o = signed(v["multiplier"]), signed(v["offset"])
            assert v["out"] == [floor_clip(Fraction(a * m + o, 2 ** v["shift"]), v) for a in v["acc"]]
            rule = (np.array([k], np.int64) for k in (m, o, v["shift"]))
            acc = np.array(v["acc"], np.int32).reshape(-1, 1, 1, 1)
            out = integer.requantize(acc, Requant(*rule, v["low"], v["high"], max(map(abs, v["acc"]))))
            assert out.ravel().tolist() == v["out"]

    def test_additions(self) -> None:
        for v in load("processor")["add"]:
            half = Fraction(1, 2) if v["shift"] else 0
            f, g = v["factors"]
            sums = [Fraction(a * f + b * g, 2 ** v["shift"]) + half for a, b in zip(v["a"], v["b"], strict=True)]
            assert v["out"] == [floor_clip(value, v) for value in sums]
            a, b = (np.array(v[key], np.int32).reshape(1, 1, 1, -1) for key in "ab")
            assert integer.add(a, b, (f, g), v["shift"], v["low"], v["high"]).ravel().tolist() == v["out"]

    def test_pools_and_convolutions(self) -> None:
        for v in load("processor")["pool"]:
            for x, out in zip(v["x"], v["out"], strict=True):
                for i, j, seen in windows(x, v):
                    values = [value for _, _, value in seen]
                    assert out[i][j] == (max(values) if v["kind"] == "max" else sum(values))
            x4 = np.array([v["x"]], np.int32)
            geometry = (tuple(v[key]) for key in ("kernel", "stride", "padding"))
            assert integer.pool(x4, v["kind"], *geometry)[0].tolist() == v["out"]
        for v in load("processor")["convolve"]:
            for o, kernel in enumerate(v["weights"]):
                total: dict[tuple[int, int], int] = {}
                for x, taps in zip(v["x"], kernel, strict=True):
                    for i, j, seen in windows(x, v):
                        part = sum(taps[ky][kx] * value for ky, kx, value in seen)
                        total[i, j] = total.get((i, j), 0) + part
                assert all(v["out"][o][i][j] == value for (i, j), value in total.items())
            w = np.array(v["weights"], np.int8)
            geometry = Geometry(w.shape[1], w.shape[0], *(tuple(v[key]) for key in ("kernel", "stride", "padding")))
            assert integer.digital_conv(np.array([v["x"]], np.int32), w, geometry)[0].tolist() == v["out"]


def windows(x: list[list[int]], v: dict[str, Any]) -> list[tuple[int, int, list[tuple[int, int, int]]]]:
    """(i, j, [(ky, kx, value)] of what of the window lies on the map) of every output of a map [height][width]."""
    (kh, kw), (sh, sw), (ph, pw) = v["kernel"], v["stride"], v["padding"]
    height, width = len(x), len(x[0])
    return [
        (
            i,
            j,
            [
                (ky, kx, x[i * sh + ky - ph][j * sw + kx - pw])
                for ky in range(kh)
                for kx in range(kw)
                if 0 <= i * sh + ky - ph < height and 0 <= j * sw + kx - pw < width
            ],
        )
        for i in range((height + 2 * ph - kh) // sh + 1)
        for j in range((width + 2 * pw - kw) // sw + 1)
    ]


# --- The text ---------------------------------------------------------------------------------------------------------


def examples() -> dict[str, dict[str, list[int]]]:
    """The worked examples of CHIP.md: {title: {name: numbers}} of its blocks marked `example`."""
    found: dict[str, dict[str, list[int]]] = {}
    for title, body in re.findall(r"```text example: (\S+)\n(.*?)```", (PROTOCOL / "CHIP.md").read_text(), re.S):
        lines = (line.split("#")[0].split("=") for line in body.splitlines() if line.split("#")[0].strip())
        found[title] = {name.strip(): [int(n, 0) for n in numbers.split()] for name, numbers in lines}
    return found


class TestText:
    def test_the_worked_deviates(self) -> None:
        blocks = [body for title, body in examples().items() if title.startswith("gauss")]
        assert len(blocks) >= 2
        for body in blocks:
            [r] = body.pop("r")
            worked = plain_chip.Gauss.of(r)
            assert body == {name: [getattr(worked, name)] for name in body}
            assert body["z"] == [int(gauss(np.array(r, np.uint32)))]

    def test_the_worked_conversion(self) -> None:
        e = examples()["conversion"]
        one = {name: numbers[0] for name, numbers in e.items() if len(numbers) == 1}
        point = plain_chip.Point("native", *(one[n] for n in ("rows", "weight_bits", "act_bits", "dac_bits")),
                                 one["adc_bits"], one["range_divisor"])  # fmt: skip
        tables = plain_chip.Tables(
            [e["T"]], [e["S"]], e["U"], one["octaves"], [[codes_map(k, e["C"]) for k in range(64 * len(e["C"]))]]
        )
        layer = plain_chip.Layer(
            point, tables, [[b] for b in e["B"]], [[b] for b in e["E"]], one["q"], [[0]], [[one["macro"]]],
            one["seed"], one["epoch"], one["vector"],
        )  # fmt: skip
        assert (point.sum_min, point.sum_max, point.code_min, point.code_max) == (
            one["sum_min"], one["sum_max"], one["code_min"], one["code_max"],
        )  # fmt: skip
        slice_ = one["slice"]
        assert e["X"] == [x // point.digit**slice_ % point.digit for x in e["x"]]
        v, cycle = layer.sum(e["x"], 0, slice_, 0), layer.cycle(0, 0, slice_)
        assert (v, cycle, cycle * layer.stride) == (one["V"], one["cycle"], one["index"])
        r = plain_chip.word(one["index"], 0, one["macro"], one["epoch"], one["seed"])
        held = [cycle // 2 ** (o + 1) * 16 + o for o in range(one["octaves"])]
        slow = [plain_chip.word(i, 3, 0, one["epoch"], one["seed"]) for i in held]
        assert ([r], held, slow) == (e["r"], e["slow_index"], e["slow_r"])
        assert [plain_chip.Gauss.of(word).z for word in slow] == e["slow_z"]
        assert (layer.deviate(cycle, 0, 0), layer.slow_sum(cycle, 0, 0)) == (one["z"], one["slow_sum"])
        worked = layer.conversion(e["x"], 0, 0, slice_, 0)
        for name in ("clamped", "place", "fraction", "t", "n_fast", "n_slow", "i", "code"):
            assert getattr(worked, name) == one[name], name
        assert worked.place == one["clamped"] // 2 ** one["q"] - one["sum_min"]
        assert (e["T"][worked.place], e["T"][worked.place + 1]) == (one["T_k"], one["T_k1"])
        assert e["S"][worked.place] == one["S_k"]
        codes = layer.codes([e["x"]])
        assert [row[0] for row in codes[0][0]] == e["codes"]
        assert plain_chip.recombine(codes, point) == [e["y"]]

    def test_the_worked_conversion_in_the_reference(self) -> None:
        e = examples()["conversion"]
        one = {name: numbers[0] for name, numbers in e.items() if len(numbers) == 1}
        fields = ("rows", "weight_bits", "act_bits", "dac_bits", "adc_bits", "range_divisor")
        mac = Mac("native", *(one[name] for name in fields))  # type: ignore[arg-type]
        code_map = np.array([[codes_map(k, e["C"]) for k in range(64 * len(e["C"]))]], np.int16)
        tables = AdcTables(
            mac,
            np.array([e["T"]], np.int32),
            np.array([e["S"]], np.int32),
            np.array(e["U"], np.int32),
            one["octaves"],
            code_map,
        )
        codes = chip_codes(
            np.array([e["x"]]), np.array(e["B"])[:, None], tables, np.array([[0]]), np.array([[one["macro"]]]),
            errors=np.array(e["E"])[:, None], fraction_bits=one["q"], seed=one["seed"], epoch=one["epoch"],
            first_vector=one["vector"],
        )  # fmt: skip
        assert codes.ravel().tolist() == e["codes"] and recombine(codes, mac).ravel().tolist() == e["y"]

    def test_paths_that_the_documents_name_are_there(self) -> None:
        for document in PROTOCOL.rglob("*.md"):
            for target in re.findall(r"\]\(([^)#:]+)\)", document.read_text()):
                assert (document.parent / target).exists(), (document.name, target)


def codes_map(entry: int, codes: list[int]) -> int:
    """The example's code map: each code's 64 entries give one code."""
    return codes[entry // 64]
