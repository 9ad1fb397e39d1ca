"""The C firmware corrects codes as the emulated board does, as the reference says, and in the flow of commands."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import firmware
import numpy as np
import pytest
from click.testing import CliRunner
from flows import call
from serving import twin
from test_firmware import DIES, Pair, layer_on, rescaling, small, with_correction

from pimchip.board import open_board
from pimchip.board.conformance import Outcome, check_board
from pimchip.board.serving import write_die_file
from pimchip.chip import Geometry, PimLayer, Run
from pimchip.chip.correction import Correction, limit
from pimchip.chip.reference import chip_codes, recombine
from pimchip.cli.main import cli
from pimchip.profile.manifest import to_toml

WITHOUT = firmware.missing("gcc", "make")
pytestmark = pytest.mark.skipif(bool(WITHOUT), reason=WITHOUT)
GEOMETRIES = {
    "linear": Geometry(30, 5),
    "conv": Geometry(2, 3, (3, 3), (1, 1), (1, 1)),
    "strided": Geometry(3, 4, (3, 2), (2, 1), (1, 0), (1, 2)),
}


def by_reference(pair: Pair, layer: PimLayer, x: np.ndarray, run: Run) -> np.ndarray:
    """A linear layer's outputs int64 [n, outputs]: codes of the slow, obvious reference, looked up, added up and rounded."""
    spec, mac, c = pair.spec, layer.mac, layer.correction
    assert c is not None
    shape = layer.groups, layer.columns
    adc, macro, there = np.zeros(shape, np.int64), np.zeros(shape, np.int64), np.zeros(shape, bool)
    cells, errors = np.zeros((2, x.shape[1], layer.columns), np.int64)
    bits = pair.python._cells.fraction_bits
    for p in layer.placements:
        columns = slice(p.first_column, p.first_column + p.tile.columns)
        at = p.group, columns
        adc[at], macro[at], there[at] = spec.adcs_of(p.tile), p.tile.macro, True
        rows = slice(p.group * mac.rows, p.group * mac.rows + p.tile.rows)
        cells[rows, columns] = pair.python.read_cells(p.tile)
        errors[rows, columns] = pair.python._cells.given(p.tile, mac) - (cells[rows, columns] << bits)
    tables, noise = pair.python._tables_at(mac), {"seed": 77, "epoch": run.epoch, "first_vector": run.first_image}
    codes = chip_codes(x, cells, tables, adc, macro, errors=errors, fraction_bits=bits, **noise)
    looked = c.values[adc[None, :, None], codes - mac.code_min].astype(np.int64) * there[None, :, None]
    total = recombine(looked, mac)
    digits = sum(mac.digit**s for s in range(mac.slices))
    largest = len({p.group for p in layer.placements}) * digits * int(np.abs(mac.plane_weights).sum()) * mac.levels
    return np.clip((total + (1 << c.fraction_bits) // 2) // (1 << c.fraction_bits), -largest, largest)


@pytest.mark.parametrize("name", ["bit_serial", "native", "differential", "slow and mapped"])
@pytest.mark.parametrize("bits", [0, 3, 6])
def test_the_reference_says_the_same(shim: Any, name: str, bits: int) -> None:
    spec, at = DIES[name]
    mac = spec.mac(act_bits=4, dac_bits=3)
    pair = Pair.of(shim, spec, at, points=[mac])
    layer = with_correction(layer_on(spec, mac, Geometry(30, 5)), pair.rng, 12, bits)
    for p in layer.placements:
        pair.program(p.tile, mac)
    x = pair.rng.integers(0, 16, (7, 30))
    for board in (pair.python, pair.c):
        board.upload(1, x[:, :, None, None])
    run = Run(3, 11)
    pair.c.conv(layer, 1, 2, None, False, run)
    pair.python.conv(layer, 1, 2, None, False, run)
    wanted = by_reference(pair, layer, x, run)
    assert np.array_equal(pair.c.download(2)[:, :, 0, 0], wanted)
    assert np.array_equal(pair.python.download(2)[:, :, 0, 0], wanted)
    pair.c.conv(replace(layer, correction=None), 1, 2, None, False, run)
    assert not np.array_equal(pair.c.download(2)[:, :, 0, 0], wanted)


@pytest.mark.parametrize("name", DIES)
@pytest.mark.parametrize("geometry", GEOMETRIES.values(), ids=GEOMETRIES)
def test_every_die_accumulated_and_requantized(shim: Any, name: str, geometry: Geometry) -> None:
    spec, at = DIES[name]
    mac = spec.mac(act_bits=4, dac_bits=3)
    pair = Pair.of(shim, spec, at, points=(mac,))
    layer = with_correction(layer_on(spec, mac, geometry), pair.rng, 12)
    for placement in layer.placements:
        pair.program(placement.tile, mac)
    pair.upload(1, 0, 15, 3, *((30, 1, 1) if geometry.in_channels == 30 else (geometry.in_channels, 6, 7)))
    assert not pair.same("conv", layer, 1, 2, None, False, Run(3, 11))
    pair.check(2)
    assert not pair.same("conv", layer, 1, 2, None, True, Run(4, 0))
    pair.check(2)
    requant = rescaling(pair.rng, geometry.out_channels, 1 << 24, 0, 15)
    assert not pair.same("conv", layer, 1, 3, requant, False, Run(9, 2))
    pair.check(3)


def test_sums_are_held_to_what_codes_can_add_up_to(shim: Any) -> None:
    """Twice the largest code for every code: each output is the largest of the groups that are there, at either sign."""
    spec, at = DIES["native"]
    mac = spec.mac()
    pair = Pair.of(shim, spec, at, points=[mac])
    whole = layer_on(spec, mac, Geometry(30, 5))
    for p in whole.placements:
        pair.program(p.tile, mac)
    pair.upload(1, 0, 15, 2, 30, 1, 1)
    for sign in (1, -1):
        far = np.full((12, mac.code_max - mac.code_min + 1), sign * limit(mac, 4), np.int16)
        for groups in (1, 2):
            layer = replace(whole, placements=whole.placements[:groups], correction=Correction(mac, 4, far))
            assert not pair.same("conv", layer, 1, 2, None, False, Run())
            pair.check(2)
            digits = sum(mac.digit**s for s in range(mac.slices))
            assert set(pair.c.download(2).ravel()) == {sign * groups * digits * mac.code_max}


def test_a_correction_of_other_converters_is_refused(shim: Any) -> None:
    spec, at = DIES["bit_serial"]
    pair = Pair.of(shim, spec, at)
    plain = layer_on(spec, spec.mac(), Geometry(18, 3))
    pair.program(plain.placements[0].tile, plain.mac)
    pair.upload(1, 0, 15, 1, 18, 1, 1)
    for adcs in (11, 13, 1):
        layer = with_correction(plain, pair.rng, adcs)
        assert pair.same("conv", layer, 1, 2, None, False, Run()) == "bad correction"
    assert not pair.same("conv", with_correction(plain, pair.rng, 12), 1, 2, None, False, Run())


@pytest.fixture(scope="module")
def chip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("chip") / "little.toml"
    path.write_text(to_toml(small("sram65").to_dict()), encoding="utf-8")
    return path


def test_over_tcp_the_integers_are_those_of_this_process(sanitized: Path, chip: Path, tmp_path: Path) -> None:
    url = f"emulator:{chip}?die=3&seed=5"
    write_die_file(url, tmp_path / "die")
    found: list[np.ndarray] = []
    with twin(sanitized, tmp_path / "die") as other:
        for each in (url, other):
            with open_board(each) as board:
                spec, rng = board.info().spec, np.random.default_rng(1)
                assert "correct" in board.info().capabilities
                layer = with_correction(layer_on(spec, spec.mac(), GEOMETRIES["conv"]), rng, 12)
                for p in layer.placements:
                    board.program(p.tile, rng.integers(0, 2, (p.tile.rows, p.tile.columns)).astype(np.int8))
                board.upload(0, rng.integers(0, 16, (4, 2, 6, 7)))
                board.conv(layer, 0, 1, run=Run(2, 9))
                found.append(board.download(1))
        checked = check_board(lambda: open_board(other))
    assert np.array_equal(*found)
    outcome = {result.name: result.outcome for result in checked.results}
    assert outcome["corrects codes before they are added up"] is Outcome.PASSED and checked.passed


def test_a_small_board_says_that_it_corrects_where_the_tables_fit(sanitized: Path, chip: Path, tmp_path: Path) -> None:
    able = {}
    for name in (str(chip), "sram65"):
        write_die_file(f"emulator:{name}?die=ideal", tmp_path / "die", small=True)
        with twin(sanitized, tmp_path / "die") as url, open_board(url) as board:
            able[name] = "correct" in board.info().capabilities
    assert able == {str(chip): True, "sram65": False}  # 12 converters; 256 of them, 64 KiB a layer


def test_the_flow_of_commands_corrects_on_the_twin(host_twin: Path, tmp_path: Path) -> None:
    """characterize, deploy --linearize and infer: what they say is what they say in this process."""
    spec = small("sram65", adc={"inl_master": 2.0, "range_divisors": [1]}, operating={"weight_bits": 2})
    chip, model, die = tmp_path / "chip.toml", tmp_path / "net.pt", tmp_path / "die"
    chip.write_text(to_toml(spec.to_dict()), encoding="utf-8")
    here = f"emulator:{chip}?die=3&seed=5"
    call("train", "--model", "mlp", "--chip", str(chip), "--epochs", "1", "--out", str(model))
    call("compile", str(model), "--out", str(tmp_path / "net.pim"))
    call("emulate", "--device", here, "--export-die", str(die), "--for", str(tmp_path / "net.pim"))
    told = []
    with twin(host_twin, die) as there:
        for url in (here, there):
            place = tmp_path / str(len(told))
            profile = call("characterize", "--device", url, "--half-width", "0.2", "--out", str(place))["profile"]
            arguments = ["deploy", str(tmp_path / "net.pim"), "--device", url, "--profile", profile, "--linearize"]
            arguments += [
                "--bn-batches",
                "2",
                "--bn-batch-size",
                "20",
                "--limit",
                "40",
                "--out",
                str(place / "x.deployed"),
            ]
            result = CliRunner().invoke(cli, [*arguments, "--json"])
            assert result.exit_code == 0, result.stderr
            assert "corrected by the profile, on the board" in result.stderr
            said = json.loads(result.stdout)
            inferred = call("infer", str(place / "x.deployed"), "--device", url, "--data", "digits", "--limit", "40")
            told.append((said["accuracy_before_bn"], said["accuracy_after_bn"], inferred["predictions"]))
    assert told[0] == told[1]
