"""Dies with stuck cells and broken converters: found, measured, deployed on, and told of, never taken for healthy ones."""

from __future__ import annotations

import json
import re
import shlex
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from test_runtime import IMAGE, Net, chip, compiled, dataset, network, some_images

import pimchip
from pimchip.board.defects import WrongCells, by_macro, describe
from pimchip.board.inprocess import InProcessBoard
from pimchip.characterize import characterize, fit, summarize
from pimchip.characterize.limits import LIMITS
from pimchip.chip import ChipSpec, Mac, Scheme, Tile, load_chip
from pimchip.chip.stuck import stuck_bits
from pimchip.cli.characterize_command import FLAG_MEANINGS, LIMIT_MEANINGS
from pimchip.cli.main import cli
from pimchip.compiler.container import read_container, write_container
from pimchip.emulator.die import Die
from pimchip.emulator.virtual import VirtualBoard
from pimchip.errors import InputError, PimchipWarning, VerifyError
from pimchip.profile import FLAGS, Profile
from pimchip.profile.manifest import to_toml
from pimchip.qat import convert
from pimchip.runtime import Deployed, Executor

STUCK = {"stuck_zero": 0.004, "stuck_full": 0.004}


def board_of(spec: ChipSpec, die: int = 0, **conditions: float) -> InProcessBoard:
    return InProcessBoard(
        VirtualBoard(spec, Die(spec, die), noise_seed=0, **conditions), f"emulator:mine.toml?die={die}"
    )


def call(*arguments: str) -> tuple[int, dict[str, Any], str]:
    result = CliRunner().invoke(cli, [*arguments, "--json"])
    return result.exit_code, json.loads(result.stdout), result.stderr


def truly_wrong(board: InProcessBoard, program: pimchip.Program) -> dict[tuple[int, int, int, int], int]:
    """By the die's own draws: pass, macro, row and column of each weight that its cell cannot hold, and what it holds."""
    virtual = board._board
    wrong = {}
    for name, layer in program.manifest.layers.items():
        if layer.kind != "pim":
            continue
        mac = layer.operating_point()
        cells = mac.cells(program.tensors[f"weight.{name}"])
        for t in layer.tiles:
            stuck, share = virtual._cells._stuck_cells(t.macro)
            for row in range(t.rows):
                for column in range(t.columns):
                    at = t.row + row, t.column + column
                    held = int(share[at]) * mac.cell_max
                    if stuck[at] and held != cells[t.group * mac.rows + row, t.first_column + column]:
                        wrong[t.residency, t.macro, *at] = held
    return wrong


def virtual_cells(
    board: InProcessBoard, macro: int, row: int, column: int, shape: tuple[int, ...]
) -> tuple[np.ndarray, np.ndarray]:
    """The die's own draws: which cells of a part are stuck, and at what share of the largest value."""
    stuck, share = board._board._cells._stuck_cells(macro)
    part = slice(row, row + shape[0]), slice(column, column + shape[1])
    return stuck[part], share[part].astype(np.int64)


class TestStuckCells:
    spec = chip(macros=40, cells=STUCK)

    def test_they_are_counted_and_placed_as_the_die_has_them(self) -> None:
        program = compiled(spec=self.spec)
        with board_of(self.spec) as board:
            wrong = truly_wrong(board, program)
            executor = Executor(program, board, tolerate_cells=len(wrong))
            executor.load_pass(0)
            report = executor.report
            assert report.wrong_cells == len(wrong) > 5
            macros = {m for _, m, _, _ in wrong}
            for macro in report.where:
                here = [(r, c) for _, m, r, c in wrong if m == macro.macro]
                assert macro.cells == len(here)
                assert macro.rows == tuple(sorted({r for r, _ in here}))
                assert macro.columns == tuple(sorted({c for _, c in here}))
            assert {macro.macro for macro in report.where} == macros
            assert executor.report.errors and len(report.errors) == len(report.wrong)

    @pytest.mark.parametrize("weight_bits", [3, 4, 5])
    @pytest.mark.parametrize("scheme", ["native", "differential"])
    def test_of_multi_bit_cells_a_full_one_is_full_on_the_program_s_scale(self, scheme: str, weight_bits: int) -> None:
        """The chip's own weights have 4 bits, so 7 is full to it; to a program of 3 bits 3 is, and of 5 bits 15."""
        spec = chip(
            macros=40,
            operating={"scheme": scheme},
            array={"weight_bits": 5},
            cells={"stuck_full": 0.5, "stuck_zero": 0.01},
        )
        torch.manual_seed(0)
        program = compiled(convert(Net(), spec, weight_bits=weight_bits).eval(), spec)
        with board_of(spec) as board:
            wrong = truly_wrong(board, program)
            executor = Executor(program, board, tolerate_cells=10**6)
            executor.load_pass(0)
            found = executor.report.wrong.items()
            seen = {(r, t.macro, t.row + row, t.column + column) for (r, t), cells in found for row, column in cells}
            assert seen == wrong.keys() and len(wrong) > 100
            held = {at: board._board.read_cells(Tile(*at[1:], 1, 1)).item() for at in wrong}
            assert held == wrong, "it reads as what the converters get"
            meant_full = 0
            for name, layer in program.manifest.layers.items():
                if layer.kind == "pim":
                    mac = layer.operating_point()
                    cells = mac.cells(program.tensors[f"weight.{name}"])
                    for t in layer.tiles:
                        part = cells[t.group * mac.rows :, t.first_column :][: t.rows, : t.columns]
                        stuck, share = virtual_cells(board, t.macro, t.row, t.column, part.shape)
                        full = stuck & (part == share * mac.cell_max) & (part != 0)
                        meant_full += int(full.sum())
            assert meant_full > 0, "some stuck cells hold what was meant"

    def test_converters_of_sound_columns_can_be_measured(self, tmp_path: Path) -> None:
        data = load_chip("sram65").to_dict()
        data["array"]["macros"], data["cells"]["stuck_zero"] = 1, 2e-4
        spec = ChipSpec.from_dict(data)
        board = board_of(spec, 3)
        with pytest.raises(VerifyError, match="leave the converters of those columns out") as told:
            characterize(board, points=[spec.mac()], seed=0, out=tmp_path)
        virtual = board._board
        assert isinstance(virtual, VirtualBoard)
        stuck, _ = virtual._cells._stuck_cells(0)  # the die's own draws
        bad = {spec.adc_of(0, int(c)) for c in np.flatnonzero(stuck[: spec.mac().rows].any(axis=0))}
        sound = sorted(set(range(spec.adc.per_macro)) - bad)
        assert bad and len(sound) > 1 and min(sound) < max(bad) and "column" in str(told.value)
        profile = characterize(board_of(spec, 3), points=[spec.mac()], adcs=sound, seed=0, out=tmp_path)
        point = profile.points[0]
        assert np.isfinite(point.gain[sound]).all() and point.flagged("not-measured").sum() == len(bad)

    def test_one_less_is_refused_with_the_commands_that_help(self) -> None:
        program = compiled(spec=self.spec)
        with board_of(self.spec) as board:
            count = len(truly_wrong(board, program))
            with pytest.raises(VerifyError) as caught:
                Executor(program, board, tolerate_cells=count - 1).load_pass(0)
            text = str(caught.value)
            assert f"{count} cells of the program's {program.cells_used:,} hold something else: macro" in text
            assert '`pimchip info "emulator:mine.toml?die=0" --self-test`' in text
            assert f"`pimchip deploy --tolerate-cells {count}`" in text and "\n" not in text

    def test_none_is_tolerated_unless_asked(self) -> None:
        with board_of(self.spec) as board, pytest.raises(VerifyError):
            pimchip.deploy(compiled(spec=self.spec), board)
        with board_of(self.spec) as board, pytest.raises(InputError, match="tolerate_cells = -1"):
            pimchip.deploy(compiled(spec=self.spec), board, tolerate_cells=-1)

    def test_inference_is_that_of_a_sound_die_that_holds_the_same(self) -> None:
        program, images = compiled(spec=self.spec), some_images(8)
        sound = chip(macros=40)
        twin = compiled(spec=sound)
        with board_of(self.spec) as worn, board_of(sound) as other:
            wrong = truly_wrong(worn, program)
            found = Executor(program, worn, tolerate_cells=len(wrong)).logits(images)
            executor = Executor(twin, other)
            healthy = executor.logits(images)
            for (_, macro, row, column), held in wrong.items():
                other._board.write_cells(Tile(macro, row, column, 1, 1), np.full((1, 1), held, np.int8))
            assert np.array_equal(found, executor.logits(images))
            assert not np.array_equal(found, healthy)

    def test_over_residency_passes_each_weight_counts_once_however_often_it_is_loaded(self) -> None:
        spec = chip(macros=2, cells=STUCK)
        program = compiled(spec=spec)
        assert program.manifest.passes > 1
        with board_of(spec) as board:
            wrong = truly_wrong(board, program)
            executor = Executor(program, board, tolerate_cells=len(wrong))
            executor.logits(some_images(3))
            executor.logits(some_images(3))
            assert executor.report.wrong_cells == len(wrong)
            assert executor.report.tiles > program.tiles

    def test_reads_that_disagree_are_not_tolerated(self, monkeypatch: pytest.MonkeyPatch) -> None:
        spec = chip(macros=40)
        read, count = VirtualBoard.read_cells, iter(range(10**6))

        def unsteady(self: VirtualBoard, tile: Tile) -> np.ndarray:
            cells = read(self, tile)
            cells[0, 0] ^= next(count) & 1
            return cells

        monkeypatch.setattr(VirtualBoard, "read_cells", unsteady)
        with board_of(spec) as board, pytest.raises(VerifyError, match="a second read differs") as caught:
            Executor(compiled(spec=spec), board, tolerate_cells=10**6).load_pass(0)
        assert "--tolerate-cells" not in str(caught.value)

    def test_a_third_read_that_finds_all_well_is_no_pass(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Two reads agree that a cell is wrong, and the read that would say which one is right."""
        spec = chip(macros=40)
        read, reads = VirtualBoard.read_cells, Counter[Tile]()

        def twice_wrong(self: VirtualBoard, tile: Tile) -> np.ndarray:
            cells = read(self, tile)
            cells[0, 0] ^= reads[tile] % 11 < 10  # five pulses with two reads each, and one more
            reads[tile] += 1
            return cells

        monkeypatch.setattr(VirtualBoard, "read_cells", twice_wrong)
        with board_of(spec) as board, pytest.raises(VerifyError, match="a second read differs"):
            Executor(compiled(spec=spec), board).load_pass(0)

    def test_a_deployed_file_remembers_and_files_of_before_tolerate_none(self, tmp_path: Path) -> None:
        program, images = compiled(spec=self.spec), torch.from_numpy(some_images(4))
        path = tmp_path / "net.deployed"
        with board_of(self.spec) as board:
            deployed = pimchip.deploy(program, board, dataset(), bn_batches=1, bn_batch_size=20, tolerate_cells=500)
            wanted = deployed(images)
            deployed.save(path)
        with board_of(self.spec) as board:
            held = Deployed.load(path)
            held.attach(board)
            assert torch.equal(held(images), wanted)
            assert held.programmed.wrong_cells == deployed.programmed.wrong_cells > 0
        manifest, tensors = read_container(path, "deployed")
        del manifest["tolerate_cells"]
        write_container(path, "deployed", manifest, tensors)
        assert Deployed.load(path).tolerate_cells == 0
        write_container(path, "deployed", manifest | {"tolerate_cells": "all"}, tensors)
        with pytest.raises(InputError, match="tolerate_cells is no number"):
            Deployed.load(path)

    def test_places_are_summarized(self) -> None:
        tile = Tile(3, 10, 20, 9, 9)
        (found,) = by_macro([(tile, [(0, 1), (2, 1)]), (Tile(4, 0, 0, 9, 9), []), (Tile(3, 0, 0, 9, 9), [(5, 5)])])
        assert found == WrongCells(3, 3, (5, 10, 12), (5, 21))
        assert str(found) == "macro 3: 3 cells, rows 5, 10, 12, columns 5, 21"
        many = [WrongCells(m, 20 if m == 9 else 1, tuple(range(20)), (7,)) for m in range(10)]
        assert describe(many).endswith("macro 9: 20 cells, 20 rows from 0 to 19, column 7; and 2 more macros")


def broken(stuck_bit: float, dead: float, scheme: str = "bit_serial", **changes: Any) -> ChipSpec:
    data = load_chip("sram65").to_dict()
    data["array"] |= {"macros": 4}
    data["adc"] |= {"stuck_bit": stuck_bit, "dead": dead}
    data["operating"] |= {"scheme": scheme} | changes
    return ChipSpec.from_dict(data)


class TestConverters:
    @pytest.mark.parametrize("scheme", ["bit_serial", "differential", "native"])
    @pytest.mark.parametrize("bits", [7, 5])
    def test_flags_are_on_exactly_the_dead_and_the_stuck(self, scheme: str, bits: int, tmp_path: Path) -> None:
        spec = broken(0.15, 0.05, scheme)
        die = Die(spec, 3)
        with InProcessBoard(VirtualBoard(spec, die, noise_seed=0), "x") as board:
            profile = characterize(board, points=[spec.mac(adc_bits=bits, range_divisor=1)], reads=16, out=tmp_path)
        (point,) = profile.points
        p = die.parameters
        in_use = (p.stuck_bit >= 7 - bits) & ~p.dead  # a bit below those in use does nothing
        assert np.array_equal(point.flagged("stuck"), p.dead) and p.dead.any()
        assert np.array_equal(point.flagged("stuck-bit"), in_use)
        assert set((p.stuck_bit[in_use] - 7 + bits).tolist()) == set(range(bits)), "each bit is tried"
        sound = ~p.dead & ~in_use
        assert np.isfinite(point.gain[sound]).all() and np.isnan(point.gain[~sound]).all()
        summary = summarize(profile)
        assert summary.flagged["stuck-bit"] == tuple(np.flatnonzero(in_use).tolist())
        (first,) = summary.points
        assert (first.adcs, first.left_out) == (128, int((~sound).sum()))
        assert first.gain == pytest.approx(point.gain[sound].mean())
        assert abs(first.gain - p.gain[sound].mean()) < 0.01 and first.gain_spread < 0.04
        again = fit(profile.raw()[0])
        assert again.flags == point.flags

    def test_a_healthy_converter_with_a_large_offset_has_no_stuck_bit(self) -> None:
        """Codes 0..40 of 0..127: bit 6 never shows, but nothing falls, and bits 0..5 change."""
        mac = Mac(Scheme.BIT_SERIAL, 144)
        code = np.clip(np.arange(128) - 87, 0, 127)[None, :, None]
        assert not stuck_bits(np.ones(code.shape), code, mac).any()
        folded = (np.arange(128) & ~64)[None, :, None]
        assert np.flatnonzero(stuck_bits(np.ones(folded.shape), folded, mac)).tolist() == [6]

    @pytest.mark.parametrize("scheme", ["bit_serial", "native"])
    def test_a_dead_converter_s_table_is_its_code_without_noise(self, scheme: str, tmp_path: Path) -> None:
        spec = broken(0.0, 0.05, scheme)
        die = Die(spec, 3)
        mac = spec.mac(range_divisor=1)
        with InProcessBoard(VirtualBoard(spec, die, noise_seed=0), "x") as board:
            profile = characterize(board, points=[mac], reads=16, out=tmp_path)
        tables, dead = profile.tables(mac), die.parameters.dead
        assert dead.any() and np.all(tables.transfer[dead] == mac.code_min * 65536) and not tables.sigma[dead].any()
        assert np.all(tables.sigma[~dead] > 0)
        assert profile.unmodelled(mac) == {}

    def test_deploying_predicts_with_dead_converters_as_measured(self, tmp_path: Path) -> None:
        spec = chip(adc={"dead": 0.4})
        die = next(n for n in range(20) if Die(spec, n).parameters.dead.sum() == 2)
        program = compiled(spec=spec)
        with board_of(spec, die) as board:
            profile = characterize(board, points=[spec.mac()], reads=16, out=tmp_path)
            deployed = pimchip.deploy(program, board, dataset(), profile=profile, bn_batches=2, bn_batch_size=20)
        assert deployed.predicted is not None and deployed.unmodelled_adcs == {}

    def test_deploying_goes_on_without_a_prediction_where_a_bit_is_stuck(self, tmp_path: Path) -> None:
        spec = chip(adc={"stuck_bit": 0.2})
        die = next(n for n in range(20) if (Die(spec, n).parameters.stuck_bit >= 0).sum() == 1)
        adc = int(np.argmax(Die(spec, die).parameters.stuck_bit))
        program = compiled(spec=spec)
        with board_of(spec, die) as board:
            profile = characterize(board, points=[spec.mac()], reads=16, out=tmp_path)
            with pytest.warns(PimchipWarning, match=rf"no prediction: .* no usable curve of ADC {adc} \(stuck-bit\)"):
                held = pimchip.deploy(program, board, dataset(), profile=profile, bn_batches=1, bn_batch_size=20)
        assert held.after is not None and held.predicted is None
        assert held.unmodelled_adcs == {adc: ("stuck-bit",)}
        with pytest.raises(
            InputError, match=rf"1 of 8 ADCs have no usable curve, the first is ADC {adc} \(stuck-bit\)"
        ):
            profile.tables(spec.mac())
        assert pimchip.compile(network(), torch.zeros(1, *IMAGE), chip(adc={"stuck_bit": 0.2}), profile).tiles


AGEING = chip(supply={"gain_sigma": 0.1}, cells={"retention_loss": 0.01})


@pytest.fixture(scope="module")
def profile(tmp_path_factory: pytest.TempPathFactory) -> Profile:
    with board_of(AGEING) as board:
        return characterize(board, points=[AGEING.mac()], reads=16, out=tmp_path_factory.mktemp("cal"))


class TestConditions:
    """A profile at 25 degrees, nominal supply and age 0, and dies under other conditions."""

    spec = AGEING

    @pytest.mark.parametrize(
        ("conditions", "text"),
        [
            ({"temperature": 40.0}, "the die is at 40 °C, its profile holds for 20 to 30 °C"),
            ({"supply": 1.05}, "the die's supply is 1.05 V, its profile holds for 0.99 to 1.01 V"),
            ({"age": 1000.0}, "the die's cells have the age of 1000 hours, its profile holds for 0 to 0.259 hours"),
        ],
    )
    def test_each_that_differs_is_refused_or_warned_of(
        self, profile: Profile, conditions: dict[str, float], text: str
    ) -> None:
        with board_of(self.spec, **conditions) as board:
            with pytest.raises(InputError, match=re.escape(f"the profile is stale: {text}; ")):
                pimchip.deploy(compiled(spec=self.spec), board, profile=profile)
            with pytest.warns(PimchipWarning) as caught:
                pimchip.deploy(compiled(spec=self.spec), board, profile=profile, stale_profile=True)
        assert [str(w.message) for w in caught] == [f"{text}; the prediction holds for the latter"]

    def test_small_differences_are_none(self, profile: Profile) -> None:
        with board_of(self.spec, temperature=29.0, supply=1.005, age=0.2) as board:
            pimchip.deploy(compiled(spec=self.spec), board, profile=profile)  # warnings are errors here

    def test_a_profile_that_does_not_say_is_taken_for_nominal(self, profile: Profile, tmp_path: Path) -> None:
        old = Profile.save(
            tmp_path, replace(profile, supply=None, age=None, measured=None, validity=None), profile.raw()
        )
        with board_of(self.spec) as board:
            pimchip.deploy(compiled(spec=self.spec), board, profile=old)
        with board_of(self.spec, supply=0.9, age=50.0) as board, pytest.warns(PimchipWarning) as caught:
            pimchip.deploy(compiled(spec=self.spec), board, profile=old, stale_profile=True)
        texts = [str(w.message) for w in caught]
        assert "holds for 0.99 to 1.01 V" in texts[0] and "holds for 0 to 0.259 hours" in texts[1]


# -- the command line -------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with chips worn.toml, dead.toml and sound.toml, and a model compiled for each."""
    folder = tmp_path_factory.mktemp("bench")
    base = load_chip("sram65").to_dict()
    base["array"] |= {"macros": 4}
    for name, section, values in (
        ("worn", "cells", {"stuck_zero": 2e-4}),
        ("dead", "adc", {"dead": 0.01, "stuck_bit": 0.04}),
        ("sound", "adc", {}),
    ):
        data = base | {"name": name, section: base[section] | values}
        (folder / f"{name}.toml").write_text(to_toml(data), encoding="utf-8")
    model = str(folder / "model.pt")
    assert call("train", "--model", "mlp", "--epochs", "0", "--out", model)[0] == 0
    for name in ("worn", "dead", "sound"):
        found = call("compile", model, "--chip", str(folder / f"{name}.toml"), "--out", str(folder / f"{name}.pim"))
        assert found[0] == 0, found
    return folder


QUICK = ["--bn-batches", "1", "--limit", "20"]


class TestCommands:
    def test_deploy_tells_what_stuck_cells_there_are(self, bench: Path, tmp_path: Path) -> None:
        device = f"emulator:{bench}/worn.toml?die=1"
        deploy = ["deploy", str(bench / "worn.pim"), "--device", device, *QUICK, "--out", str(tmp_path / "d")]
        code, refused, _ = call(*deploy)
        assert code == 1 and "--tolerate-cells" in refused["error"] and "--self-test" in refused["error"]
        assert not (tmp_path / "d").exists()
        code, found, stderr = call(*deploy, "--tolerate-cells", "0.1%")
        assert code == 0, stderr
        assert found["tolerate_cells"] == found["cells"] // 1000
        count = found["wrong_cells"]
        assert 0 < count == sum(macro["cells"] for macro in found["wrong_cells_at"])
        assert f"{count} of {found['cells']:,} cells" in stderr and "macro 0: " in stderr
        assert found["verify_errors"] > 0
        assert call(*deploy, "--tolerate-cells", str(count))[0] == 0
        assert call(*deploy, "--tolerate-cells", str(count - 1))[0] == 1
        code, inferred, stderr = call("infer", str(tmp_path / "d"), "--device", device, "--limit", "20")
        assert (code, inferred["wrong_cells"]) == (0, count), stderr

    @pytest.mark.parametrize("text", ["many", "-1", "1.5", "101%", "%", "1%%", "nan%", "999999999"])
    def test_what_is_no_number_of_cells_is_refused(self, bench: Path, text: str) -> None:
        code, found, _ = call("deploy", str(bench / "sound.pim"), "--tolerate-cells", text)
        assert code == 2 and f"--tolerate-cells {text!r}" in found["error"] and "0.1%" in found["error"]

    def test_self_test_is_a_command_that_fails_on_a_worn_die(self, bench: Path) -> None:
        code, found, stderr = call("info", f"emulator:{bench}/worn.toml?die=1", "--self-test")
        test = found["self_test"]
        assert code == 1 and not test["passed"] and test["bad_adcs"] == {}
        assert test["stuck_cells"] == sum(m["cells"] for m in test["stuck_cells_at"]) > 0
        assert f"self-test failed: {test['stuck_cells']} stuck cells, 0 bad converters" in stderr
        code, found, stderr = call("info", f"emulator:{bench}/dead.toml?die=1", "--self-test")
        assert code == 1 and found["self_test"]["bad_adcs"] and not found["self_test"]["stuck_cells"]
        code, found, stderr = call("info", f"emulator:{bench}/sound.toml?die=1", "--self-test")
        assert (code, found["self_test"]["passed"]) == (0, True) and "self-test passed" in stderr
        assert "wants a device" in call("info", "sram65", "--self-test")[1]["error"]

    def test_characterize_tells_why_it_failed_where_it_wrote_and_what_flags_mean(
        self, bench: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.chdir(tmp_path)
        device = f"emulator:{bench}/dead.toml?die=1"
        die = Die(load_chip(bench / "dead.toml"), 1).parameters
        dead, stuck = np.flatnonzero(die.dead).tolist(), np.flatnonzero((die.stuck_bit >= 0) & ~die.dead).tolist()
        assert dead and stuck
        arguments = ["characterize", "--device", device, "--range-divisor", "1", "--reads", "16", "--trim"]
        code, found, stderr = call(*arguments)
        assert (code, found["passed"]) == (1, False)
        assert found["flagged_adcs"]["stuck"] == dead and found["flagged_adcs"]["stuck-bit"] == stuck
        assert found["untrimmed_adcs"] == sorted(dead + stuck)
        assert [f.partition(":")[0] for f in found["failures"]] == ["stuck", "stuck-bit"]
        lines = stderr.splitlines()
        assert lines[-1].startswith("failed: stuck: ")
        assert f"profile {found['profile']}, in {tmp_path / 'calibration_data'}" in lines
        count = "1 converter" if len(dead) == 1 else f"{len(dead)} converters"
        assert any(line.startswith(f"flag stuck: {count} (ADC {dead[0]}") for line in lines)
        assert "1 converters" not in stderr
        assert any("in no mean" in line for line in lines)
        deploy = ["deploy", str(bench / "dead.pim"), "--device", device, *QUICK, "--out", str(tmp_path / "d")]
        code, found_deployed, stderr = call(*deploy, "--profile", str(Path(found["profile"]).parent))
        assert (code, found_deployed["predicted_accuracy"]) == (0, None), stderr
        assert found_deployed["unmodelled_adcs"] == stuck
        assert found_deployed["profile"] == found["profile"] and f"profile {found['profile']}, measured 20" in stderr
        assert f"ADC {stuck[0]} (stuck-bit)" in found_deployed["warnings"][0]

    def test_a_die_without_one_working_converter_has_no_figures(self, tmp_path: Path) -> None:
        data = load_chip("sram65").to_dict()
        data["name"], data["adc"]["dead"], data["array"]["macros"] = "gone", 1.0, 1
        (tmp_path / "gone.toml").write_text(to_toml(data), encoding="utf-8")
        device = ["--device", f"emulator:{tmp_path}/gone.toml?die=0", "--range-divisor", "1", "--reads", "16"]
        code, found, stderr = call("characterize", *device, "--out", str(tmp_path / "out"))
        assert code == 1 and "nan" not in stderr.lower()
        assert (found["max_inl_lsb"], found["noise_lsb"], found["points"][0]["gain"]) == (None, None, None)
        assert found["flagged_adcs"]["stuck"] == list(range(32))

    def test_a_stuck_bit_that_no_weight_meets_leaves_the_prediction(self, bench: Path, tmp_path: Path) -> None:
        program = pimchip.Program.load(bench / "sound.pim")
        used = set().union(*program.adcs_used().values())
        data = program.spec.to_dict()
        data["name"], data["adc"]["stuck_bit"], data["array"]["macros"] = "late", 0.01, 5  # one more than it needs
        spec = ChipSpec.from_dict(data)
        (tmp_path / "late.toml").write_text(to_toml(spec.to_dict()), encoding="utf-8")

        def odd(number: int) -> set[int]:
            return set(np.flatnonzero(Die(spec, number).parameters.stuck_bit >= 0).tolist())

        assert len(used) < spec.array.macros * spec.adc.per_macro
        die = next(n for n in range(200) if odd(n) and not odd(n) & used)
        device = ["--device", f"emulator:{tmp_path}/late.toml?die={die}"]
        model, profiles = str(tmp_path / "late.pim"), str(tmp_path / "profiles")
        assert call("compile", str(bench / "model.pt"), "--chip", str(tmp_path / "late.toml"), "--out", model)[0] == 0
        code, found, _ = call("characterize", *device, "--range-divisor", "1", "--reads", "16", "--out", profiles)
        assert (code, set(found["flagged_adcs"]["stuck-bit"])) == (1, odd(die))
        deploy = ["deploy", model, *device, *QUICK, "--out", str(tmp_path / "d"), "--profile", found["profile"]]
        code, deployed, stderr = call(*deploy)
        assert (code, deployed["unmodelled_adcs"], deployed["warnings"]) == (0, [], []), stderr
        assert deployed["predicted_accuracy"] is not None
        with pytest.raises(InputError, match="no usable curve"):  # nobody knows what all of the die would do
            Profile.load(found["profile"]).tables(spec.mac())

    def test_the_twin_of_a_die_keeps_the_trim_it_was_measured_with(self, bench: Path, tmp_path: Path) -> None:
        device, out = f"emulator:{bench}/sound.toml?die=2", str(tmp_path / "profiles")
        measure = ["characterize", "--range-divisor", "1", "--reads", "16", "--out", out]
        code, found, stderr = call(*measure, "--device", device, "--trim")
        assert code == 0, stderr
        profile = Profile.load(found["profile"])
        assert len(set(profile.trim)) > 1
        twin = f"emulator:{bench}/sound.toml?profile={profile.path}"
        with pimchip.open_board(twin) as board:
            registers = board.registers()
            assert tuple(registers[f"trim{j}"] for j in range(len(profile.trim))) == profile.trim
        code, found, _ = call(*measure, "--device", twin, "--trim")
        assert code == 2 and "cannot trim; leave --trim out" in found["error"]
        deploy = [
            "deploy",
            str(bench / "sound.pim"),
            *QUICK,
            "--out",
            str(tmp_path / "d"),
            "--profile",
            str(profile.path),
        ]
        assert call(*deploy, "--device", twin)[0] == 0

    def test_help_explains_every_flag_and_limit(self) -> None:
        shown = CliRunner().invoke(cli, ["characterize", "--help"]).stdout
        assert FLAG_MEANINGS.keys() == set(FLAGS) and LIMIT_MEANINGS.keys() == LIMITS.keys()
        for name, meaning in (FLAG_MEANINGS | LIMIT_MEANINGS).items():
            assert f"{name:<21} {meaning}" in shown, name

    def test_a_model_of_another_chip_shows_the_command_that_mends(self, bench: Path) -> None:
        device = f"emulator:{bench}/sound.toml?die=1"
        for model in ("model.pt", "worn.pim"):
            code, found, _ = call("deploy", str(bench / model), "--device", device, *QUICK)
            assert code == 2
            source = bench / ("model.pt" if model == "model.pt" else "worn.pt")
            assert f"`pimchip compile {source} --chip {bench}/sound.toml --out " in found["error"]
            assert str(bench / model) in found["error"] and "program" not in found["error"]
        code, found, _ = call("deploy", str(bench / "worn.pim"), "--device", "emulator:sram65?die=3", *QUICK)
        assert "--chip sram65 --out " in found["error"]

    def test_the_commands_that_it_shows_work_as_printed_and_replace_nothing(self, bench: Path) -> None:
        before = {path.name: path.read_bytes() for path in bench.iterdir() if path.is_file()}
        url = f"emulator:{bench}/sound.toml?die=1"
        _, found, _ = call("deploy", str(bench / "model.pt"), "--device", url, *QUICK)
        compiling, deploying = (shlex.split(part) for part in re.findall(r"`pimchip ([^`]+)`", found["error"]))
        assert call(*compiling)[0] == 0
        out = bench / "hint.deployed"
        assert call(*deploying, *QUICK, "--out", str(out))[0] == 0
        after = {path.name: path.read_bytes() for path in bench.iterdir() if path.is_file()}
        assert after.keys() - before.keys() == {"model-sound.pim", "hint.deployed"}
        assert all(after[name] == content for name, content in before.items())

    @pytest.mark.parametrize("command", ["deploy", "infer", "characterize"])
    def test_chip_is_named_where_it_belongs(self, command: str) -> None:
        code, found, _ = call(command, "x", "--chip", "a.toml")
        assert code == 2 and "--device names chip and die" in found["error"]
        assert (
            "pimchip compile model.pt --chip X.toml" in found["error"] and "did you mean" not in found["error"].lower()
        )

    def test_only_like_options_are_suggested(self) -> None:
        assert "Did you mean '--device'?" in call("deploy", "x", "--devise", "y")[1]["error"]
        assert "Did you mean" not in call("train", "--blip", "y")[1]["error"]
