"""The compiler's graphs: what each pass gives, what the verifier and the golden check find, and what the command shows."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from torch import Tensor, nn

import pimchip
from pimchip.chip import load_chip
from pimchip.cli.main import cli
from pimchip.compiler.build import compile_network
from pimchip.compiler.golden import Golden, evaluate, example
from pimchip.compiler.ir import Graph, Integers, Ints, Network, NetworkOp, Rescale, Sum, level
from pimchip.compiler.passes import NAMES, PASSES, Job, Pass, run_passes
from pimchip.compiler.printer import text
from pimchip.compiler.verify import BrokenGraph, verify
from pimchip.errors import BadResult, InputError
from pimchip.qat import build_model, convert, save_model
from pimchip.qat.data import load_dataset
from pimchip.runtime import Executor

SHAPE = (3, 8, 8)


def network(chip: str = "sram65", **options: Any) -> nn.Module:
    """A residual network whose BNs have seen something."""
    torch.manual_seed(0)
    made = convert(build_model("tiny", SHAPE, 5), chip, **options)
    made.train()(torch.rand(8, *SHAPE))
    return made.eval()


@pytest.fixture(scope="module")
def graphs() -> dict[str, Graph]:
    """What each pass gives."""
    found: dict[str, Graph] = {}
    run_passes(network(), load_chip("sram65"), SHAPE, lambda done, graph, job: found.update({done.name: graph}))
    return found


def integers(graphs: dict[str, Graph], name: str) -> Integers:
    graph = graphs[name]
    assert isinstance(graph, Integers)
    return graph


def changed(graph: Integers, name: str, **fields: Any) -> Integers:
    """The graph with other fields of one step."""
    assert name in graph.types
    return replace(graph, ops=tuple(replace(op, **fields) if op.name == name else op for op in graph.ops))


class TestPasses:
    def test_they_run_in_order_and_go_from_reals_to_tiles(self, graphs: dict[str, Graph]) -> None:
        assert tuple(graphs) == NAMES
        assert [level(graph) for graph in graphs.values()] == ["network"] * 4 + ["integers"] * 2 + ["placed"] * 2

    def test_one_can_be_the_last(self) -> None:
        seen: list[str] = []
        graph = run_passes(network(), load_chip("sram65"), SHAPE, lambda done, *_: seen.append(done.name), "shapes")
        assert seen == ["trace", "shapes"] and isinstance(graph, Network)

    def test_an_unknown_one_is_told_with_near_names(self) -> None:
        with pytest.raises(InputError, match="'fold'"):
            run_passes(network(), load_chip("sram65"), SHAPE, stop_after="folds")

    @pytest.mark.filterwarnings("ignore:no layer is on the chip:pimchip.errors.PimchipWarning")
    def test_what_leads_nowhere_goes_and_so_do_identities(self) -> None:
        class Spare(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.a, self.b = nn.Conv2d(3, 5, 8), nn.Conv2d(3, 5, 8)
                self.flatten, self.dropout = nn.Flatten(), nn.Dropout()

            def forward(self, x: Tensor) -> Tensor:
                self.b(x)
                return self.flatten(self.dropout(self.a(x)))  # type: ignore[no-any-return]

        spare = convert(Spare(), "sram65", pim_skip=("first", "last"))
        graph = run_passes(spare, load_chip("sram65"), SHAPE, stop_after="simplify")
        assert [op.name for op in graph.ops] == ["x", "a", "flatten", "output"]
        program = compile_network(spare, load_chip("sram65"), SHAPE, None)
        assert list(program.manifest.layers) == ["a"] and program.tiles == 0

    def test_norms_are_in_their_layers_after_fold(self, graphs: dict[str, Graph]) -> None:
        before, after = graphs["simplify"], graphs["fold"]
        assert sum(op.kind == "norm" for op in before.ops) == 6
        assert not any(op.kind == "norm" for op in after.ops)
        assert sum(isinstance(op, NetworkOp) and op.norm is not None for op in after.ops) == 6

    def test_dumps_of_equal_networks_are_equal_and_name_every_step(self, graphs: dict[str, Graph]) -> None:
        again: dict[str, Graph] = {}
        run_passes(network(), load_chip("sram65"), SHAPE, lambda done, graph, job: again.update({done.name: graph}))
        for name, graph in graphs.items():
            assert text(graph) == text(again[name])
            assert all(f"%{op.name} = " in text(graph) for op in graph.ops)
        tiles = sum(len(layer.tiles) for layer in integers(graphs, "place").layers.values())
        assert text(graphs["place"]).count("\n  pass 0 macro ") == tiles == 10


class TestVerifier:
    @pytest.mark.parametrize(
        ("broken", "told"),
        [
            (lambda g: replace(g, ops=g.ops[:1] + g.ops[2:]), "which nothing made before"),
            (lambda g: replace(g, ops=g.ops + g.ops[-1:]), "is made twice"),
            (lambda g: replace(g, output="nothing"), "nothing makes it"),
            (lambda g: changed(g, "conv.act4", inputs=()), "has 0 inputs"),
            (lambda g: changed(g, "conv.act4", detail=Rescale("stages.1.0.conv1")), "another layer's normalization"),
            (lambda g: changed(g, "conv.act4", detail=Rescale("none")), "names no normalization"),
            (lambda g: changed(g, "conv.act4", type=Ints((32, 8, 8), 1 / 15, 0, 16)), "reads more than 4 bits"),
            (lambda g: changed(g, "conv.act4", type=Ints((32, 8, 8), 1 / 15, -1, 15)), "reads more than 4 bits"),
            (lambda g: changed(g, "conv", type=Ints((32, 8, 7), 1e-3, -9, 9)), r"gives \[32, 8, 8\], not \[32, 8, 7\]"),
            (lambda g: changed(g, "conv.act4", type=Ints((32, 8, 8), -1.0, 0, 15)), "has scale"),
            (lambda g: changed(g, "add.act4", detail=Sum((1, 65535), 16)), "another scale"),
            (lambda g: changed(g, "stages.0.0.conv1", type=Ints((32, 8, 8), 1e-3, -9, 9)), "can pass its bounds"),
            (lambda g: changed(g, "pool", type=replace(g.types["pool"], high=239)), "can pass its bounds"),
            (lambda g: changed(g, "pool", type=replace(g.types["pool"], high=1 << 31)), "more than 32 bits"),
            (lambda g: replace(g, tensors={k: v for k, v in g.tensors.items() if k != "weight.fc"}), "weight.fc is missing"),
            (lambda g: replace(g, layers={k: v for k, v in g.layers.items() if k != "fc"}), "names no digital layer"),
            (lambda g: replace(g, passes=0), "do not cover it once"),
        ],
    )  # fmt: skip
    def test_what_cannot_be_is_a_fault_with_pass_and_step(
        self, graphs: dict[str, Graph], broken: Callable[[Integers], Integers], told: str
    ) -> None:
        good = integers(graphs, "lower")
        verify(good, load_chip("sram65"), after="lower")
        with pytest.raises(BrokenGraph, match=f"after lower: .*{told}"):
            verify(broken(good), load_chip("sram65"), after="lower")

    def test_a_tile_over_another_is_found(self, graphs: dict[str, Graph]) -> None:
        good = integers(graphs, "place")
        verify(good, load_chip("sram65"), after="place")
        one, other = good.layers["stages.0.0.conv1"], good.layers["stages.0.0.conv2"]
        place = {key: getattr(one.tiles[0], key) for key in ("macro", "row", "column")}
        moved = other.model_copy(update={"tiles": (other.tiles[0].model_copy(update=place), *other.tiles[1:])})
        with pytest.raises(BrokenGraph, match="a tile lies over another"):
            verify(replace(good, layers=good.layers | {"stages.0.0.conv2": moved}), load_chip("sram65"), after="place")

    def test_a_network_that_was_not_folded_is_found(self, graphs: dict[str, Graph]) -> None:
        with pytest.raises(BrokenGraph, match="after fold: bn: was not folded"):
            verify(graphs["simplify"], load_chip("sram65"), after="fold")


def passes(golden: Golden, graphs: dict[str, Graph], **instead: Graph) -> None:
    """Show the golden check what the passes gave, or something else after one of them."""
    job = Job(network(), load_chip("sram65"), SHAPE)
    for each in PASSES:
        golden(each, instead.get(each.name, graphs[each.name]), job)


class TestGolden:
    @pytest.mark.parametrize("chip", ["sram65", "rram130-differential", "charge-native"])
    @pytest.mark.parametrize("options", [{}, {"pim_skip": (), "dac_bits": 2}], ids=["default", "all in the array"])
    def test_a_sound_compilation_passes_after_every_pass(self, chip: str, options: dict[str, Any]) -> None:
        golden = Golden(example(SHAPE, 2, 0))
        compile_network(network(chip, **options), load_chip(chip), SHAPE, None, observer=golden)
        assert [name for name, _ in golden.said] == list(NAMES)

    def test_its_integers_are_what_an_ideal_die_gives(self, graphs: dict[str, Graph]) -> None:
        images = example(SHAPE, 3, 1)
        graph = integers(graphs, "place")
        program = compile_network(network(), load_chip("sram65"), SHAPE, None)
        with pimchip.open_board("emulator:sram65?die=ideal&noise=off") as board:
            got = Executor(program, board).logits(images)
        assert np.array_equal(evaluate(graph, images)[graph.output][:, :, 0, 0], got)

    def test_another_weight_is_found(self, graphs: dict[str, Graph]) -> None:
        good = integers(graphs, "lower")
        weights = good.tensors["weight.stages.0.0.conv2"].copy()
        weights[weights.shape[0] // 2] = 0
        bad = replace(good, tensors=good.tensors | {"weight.stages.0.0.conv2": weights})
        with pytest.raises(BadResult, match=r"after lower: stages\.0\.0\.conv2\.wide is .* steps off"):
            passes(Golden(example(SHAPE, 2, 0)), graphs, lower=bad)

    def test_a_mean_that_is_off_by_a_step_is_found(self, graphs: dict[str, Graph]) -> None:
        good = integers(graphs, "lower")
        beta = good.tensors["norm.conv.beta"] + 1 / 15
        with pytest.raises(BadResult, match=r"after lower: conv\.act4 is (1|2)\.?\d* steps off|0\.\d+ steps off"):
            passes(
                Golden(example(SHAPE, 2, 0)),
                graphs,
                lower=replace(good, tensors=good.tensors | {"norm.conv.beta": beta}),
            )

    def test_tiles_in_each_others_place_are_found(self, graphs: dict[str, Graph]) -> None:
        good = integers(graphs, "place")
        layer = good.layers["stages.0.0.conv1"]
        first, second = layer.tiles
        swapped = (first.model_copy(update={"group": second.group}), second.model_copy(update={"group": first.group}))
        halved = tuple(t.model_copy(update={"group": 0}) for t in swapped)
        for tiles in (halved, (first, first)):
            bad = replace(good, layers=good.layers | {"stages.0.0.conv1": layer.model_copy(update={"tiles": tiles})})
            with pytest.raises(BadResult, match=r"after place: stages\.0\.0\.conv1 holds other integers"):
                passes(Golden(example(SHAPE, 2, 0)), graphs, place=bad)

    def test_operations_of_another_network_are_found(self, graphs: dict[str, Graph]) -> None:
        found: dict[str, Graph] = {}
        torch.manual_seed(5)
        other = convert(build_model("tiny", SHAPE, 5, seed=3), "sram65")
        run_passes(other, load_chip("sram65"), SHAPE, lambda done, graph, job: found.update({done.name: graph}))
        with pytest.raises(BadResult, match="after fold: .*something else than the network's forward"):
            passes(Golden(example(SHAPE, 2, 0)), graphs, fold=found["fold"])


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("model") / "model.pt"
    save_model(path, convert(build_model("tiny", (1, 8, 8), 10), "sram65"), data=load_dataset("digits"))
    return path


class TestCommand:
    def run(self, *arguments: str) -> tuple[int, str, str]:
        found = CliRunner().invoke(cli, ["compile", *arguments])
        return found.exit_code, found.stdout, found.stderr

    def test_a_dump_is_shown_and_is_in_the_json(self, model: Path) -> None:
        code, shown, _ = self.run(str(model), "--dump-after", "lower", "--dump-after", "place")
        assert code == 0 and "# after lower, for sram65, integers\n%image = input() : 1x8x8" in shown
        _, out, _ = self.run(str(model), "--dump-after", "all", "--json")
        found = json.loads(out)
        assert list(found["dumps"]) == list(NAMES) and found["checks"] == {}
        assert found["dumps"]["lower"] in shown and found["program"] == str(model.with_suffix(".pim"))

    def test_stopping_early_writes_nothing(self, model: Path, tmp_path: Path) -> None:
        code, out, _ = self.run(str(model), "--stop-after", "shapes", "--out", str(tmp_path / "x.pim"), "--json")
        found = json.loads(out)
        assert code == 0 and found["program"] is None and found["stopped_after"] == "shapes"
        assert list(tmp_path.iterdir()) == []

    def test_the_check_speaks_of_every_pass(self, model: Path) -> None:
        code, out, _ = self.run(str(model), "--check", "--json")
        assert code == 0 and list(json.loads(out)["checks"]) == list(NAMES)

    @pytest.mark.parametrize("option", ["--dump-after", "--stop-after"])
    def test_a_pass_that_is_none_is_wrong_usage(self, model: Path, option: str) -> None:
        code, _, told = self.run(str(model), option, "plase")
        assert code == 2 and "unknown pass 'plase': did you mean 'place'" in told

    def test_help_names_every_pass(self) -> None:
        _, shown, _ = self.run("--help")
        assert ", ".join(NAMES) in " ".join(shown.split())


def test_every_pass_says_what_it_does() -> None:
    assert all(isinstance(each, Pass) and each.does for each in PASSES)
