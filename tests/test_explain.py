"""compile --explain: where what runs, what is refused, what each layer costs, and what converters cost it."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from torch import nn

import pimchip
from pimchip.chip import ChipSpec, load_chip
from pimchip.cli.main import cli
from pimchip.compiler.build import compile_network
from pimchip.compiler.cost import cost
from pimchip.compiler.golden import example
from pimchip.compiler.impact import Impact, explained, impacts, worst
from pimchip.compiler.simulate import Simulation
from pimchip.compiler.survey import survey
from pimchip.qat import build_model, convert, save_model
from pimchip.qat.data import load_dataset
from pimchip.runtime import Executor

SHAPE = (3, 8, 8)


def chip(**changes: dict[str, Any]) -> ChipSpec:
    data = load_chip("sram65").to_dict()
    for section, values in changes.items():
        data[section] |= values
    return ChipSpec.from_dict(data)


class TestSurvey:
    def test_every_operation_has_a_place(self) -> None:
        found = survey(convert(build_model("tiny", SHAPE, 5), "sram65"), load_chip("sram65"), SHAPE)
        assert found.refused == ()
        assert [e.name for e in found.at("chip")] == [f"stages.{s}.0.conv{c}" for s in (0, 1) for c in (1, 2)]
        processor = [e.name for e in found.at("processor")]
        assert {"conv", "fc", "stages.1.0.shortcut.0", "bn", "act", "add", "pool"} <= set(processor)
        assert [e.name for e in found.at("nowhere")] == ["stages.0.0.shortcut", "flatten"]
        assert len(found.at("host")) == 1

    def test_all_that_is_refused_is_told_at_once(self) -> None:
        float_network = nn.Sequential(
            nn.Conv2d(3, 4, 3),
            nn.InstanceNorm2d(4),
            nn.Conv2d(4, 4, 3, padding=1),
            nn.LogSoftmax(1),
            nn.Flatten(),
            nn.Linear(144, 5),
        )
        found = survey(convert(float_network, "sram65"), load_chip("sram65"), SHAPE)
        assert len(found.refused) == 2
        assert "1 (InstanceNorm2d)" in found.refused[0] and "3 (LogSoftmax)" in found.refused[1]

    def test_what_a_later_pass_refuses_is_told_too(self) -> None:
        network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(16, 5))
        found = survey(convert(network, "sram65", pim_skip=("last",)), load_chip("sram65"), SHAPE)
        assert len(found.refused) == 1 and "output_size 2" in found.refused[0]


class TestCost:
    @pytest.mark.parametrize("name", ["sram65", "rram130-differential", "charge-native"])
    def test_layers_add_up_to_the_program(self, name: str) -> None:
        program = compile_network(convert(build_model("resnet20", SHAPE, 5), name), load_chip(name), SHAPE, None)
        found = cost(program)
        assert sum(layer.tiles for layer in found.layers) == program.tiles
        assert sum(layer.cell_writes for layer in found.layers) == program.cells_used
        assert sum(layer.conversions for layer in found.layers) == program.conversions_per_image
        assert {p for layer in found.layers for p in layer.passes} == set(range(program.manifest.passes))

    def test_break_even_by_hand(self) -> None:
        """A pass a layer: 2 layers of 20 rows x 16 columns on 1 macro of 20 x 16, 2 converters."""
        timing = {
            "source": "test",
            "settle": 0.01,
            "conversion": 0.01,
            "row_write": 0.5,
            "digital_mac": 0,
            "io_byte": 0,
        }
        spec = chip(
            array={"macros": 1, "rows": 20, "columns": 16}, adc={"per_macro": 2}, operating={"rows": 20}, timing=timing
        )
        network = nn.Sequential(nn.Flatten(), nn.Linear(20, 4), nn.ReLU(), nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4))
        found = cost(compile_network(convert(network, spec, pim_skip=()), spec, (5, 2, 2), None))
        # an image is three cycles, each of 0.01 s to settle and 16 columns / 2 converters = 8 conversions
        assert found.compute_seconds == pytest.approx(0.27)
        # layers of 20, 4 and 4 rows of 16 columns: the first fills a pass, the others share one; rows are written at 0.5 s
        assert found.reload_seconds == pytest.approx(28 * 0.5)
        assert found.break_even_batch == 52  # 14 / 0.27 = 51.9

    def test_nothing_is_reprogrammed_where_all_stays(self) -> None:
        program = compile_network(convert(build_model("tiny", SHAPE, 5), "sram65"), load_chip("sram65"), SHAPE, None)
        assert program.manifest.passes == 1 and cost(program).break_even_batch == 0


class TestImpact:
    def test_explained_is_what_a_line_leaves(self) -> None:
        """Noise of a tenth of the signal's deviation on two channels with gains and offsets: 20 dB."""
        rng = np.random.default_rng(0)
        exact = rng.integers(-10_000, 10_000, (200_000, 2))
        noise = rng.normal(0, 0.1 * 20_000 / math.sqrt(12), exact.shape)
        real = np.round((exact + noise) * [3, -7] + [100, -900]).astype(np.int64)
        assert explained(exact, real) == pytest.approx(20, abs=0.05)

    def test_a_dead_layer_has_nothing_left_and_a_perfect_one_loses_nothing(self) -> None:
        exact = np.arange(10)[:, None]
        assert explained(exact, np.zeros_like(exact)) == -math.inf
        assert explained(exact, 3 * exact + 5) > 200

    def test_a_code_a_count_without_noise_is_lossless(self) -> None:
        spec = chip(
            array={"rows": 17}, adc={"bits": 8}, noise={"array_sigma": 0, "adc_sigma": 0}, operating={"rows": 17}
        )
        program = compile_network(convert(build_model("tiny", SHAPE, 5), spec), spec, SHAPE, None)
        found = impacts(program, example(SHAPE, 4, 0))
        assert [each.layer for each in found] == [f"stages.{s}.0.conv{c}" for s in (0, 1) for c in (1, 2)]
        assert all(each.logits == math.inf and each.snr > 100 for each in found)

    def test_fewer_bits_cost_more(self) -> None:
        torch.manual_seed(0)
        network = convert(build_model("tiny", SHAPE, 5), "sram65")
        network.train()(torch.rand(8, *SHAPE))
        spec, images = load_chip("sram65"), example(SHAPE, 16, 0)
        plain = {each.layer: each for each in impacts(compile_network(network, spec, SHAPE, None), images)}
        coarse = network.get_submodule("stages.1.0.conv1")
        coarse.mac = spec.mac(adc_bits=3)  # type: ignore[assignment]
        found = {each.layer: each for each in impacts(compile_network(network, spec, SHAPE, None), images)}
        assert found["stages.1.0.conv1"].snr < plain["stages.1.0.conv1"].snr - 6
        assert found["stages.0.0.conv1"].snr == plain["stages.0.0.conv1"].snr  # it runs before

    def test_the_worst_is_what_the_logits_lose_most_by(self) -> None:
        assert worst([Impact("a", 9.0, 20.0), Impact("b", 1.0, 30.0), Impact("c", 5.0, None)]) == "a"
        assert worst([Impact("c", 5.0, None)]) is None

    @pytest.mark.parametrize("name", ["sram65", "charge-native"])
    def test_the_simulation_is_an_ideal_die(self, name: str) -> None:
        network = convert(build_model("tiny", SHAPE, 5), name)
        network.train()(torch.rand(8, *SHAPE))
        program, images = compile_network(network, load_chip(name), SHAPE, None), example(SHAPE, 5, 0)
        simulation = Simulation(program)
        found = simulation.run(simulation.start(images))[program.manifest.output]
        with pimchip.open_board(f"emulator:{name}?die=ideal&noise=off") as board:
            assert np.array_equal(found.values[:, :, 0, 0], Executor(program, board).logits(images))


class TestCommand:
    def run(self, *arguments: str) -> tuple[int, str, str]:
        found = CliRunner().invoke(cli, list(arguments))
        return found.exit_code, found.stdout, found.stderr

    def test_explain_and_info_tell_the_same_costs(self, tmp_path: Path) -> None:
        model = tmp_path / "model.pt"
        save_model(model, convert(build_model("tiny", (1, 8, 8), 10), "sram65"), data=load_dataset("digits"))
        code, out, _ = self.run("compile", str(model), "--explain", "--json")
        explained = json.loads(out)
        assert code == 0 and explained["refused"] == []
        assert {entry["place"] for entry in explained["entries"]} == {"chip", "processor", "host", "nowhere"}
        code, out, _ = self.run("info", str(tmp_path / "model.pim"), "--json")
        costs = json.loads(out)["costs"]
        assert code == 0 and costs == {key: explained[key] for key in costs}
        assert costs["worst_layer"] in {layer["name"] for layer in costs["layers"]}
        assert "training images of digits" in costs["snr_rests_on"]

    def test_a_refusal_comes_after_the_whole_list_and_writes_nothing(self, tmp_path: Path) -> None:
        (tmp_path / "made.py").write_text(
            "from torch import nn\n"
            "def make(shape, classes):\n"
            "    return nn.Sequential(nn.Flatten(), nn.Linear(64, 8), nn.RMSNorm(8), nn.Linear(8, 8), nn.LogSoftmax(1), "
            "nn.Linear(8, classes))\n"
        )
        from pimchip.cli.common import load_factory

        model, factory = tmp_path / "model.pt", "made:make"
        with pytest.MonkeyPatch.context() as patch:
            patch.syspath_prepend(str(tmp_path))
            network = load_factory(factory)((1, 8, 8), 10)
            save_model(model, convert(network, "sram65"), data=load_dataset("digits"))
            code, shown, told = self.run("compile", str(model), "--factory", factory, "--explain")
        assert code == 2 and "RMSNorm" in shown and "LogSoftmax" in shown
        assert "2 refused, the first" in told and told.count("\n") == 1
        assert not (tmp_path / "model.pim").exists()
