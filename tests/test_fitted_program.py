"""What of a program is fitted to a measured die: the order of channels, and operating points."""

from __future__ import annotations

import itertools
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from test_twins import POINT, SHAPE, small_spec, to_toml
from torch import nn

from pimchip.board import TileCells, open_board, open_twin
from pimchip.characterize import characterize
from pimchip.chip import ChipSpec, Tile, load_chip
from pimchip.cli.main import cli
from pimchip.compiler import compile_network
from pimchip.compiler.golden import Golden, example
from pimchip.compiler.hurt import look
from pimchip.compiler.order import Curves, Knowledge, _cheapest
from pimchip.compiler.passes import run_passes
from pimchip.compiler.points import measured_points
from pimchip.compiler.simulate import Simulation
from pimchip.compiler.verify import BrokenGraph, verify
from pimchip.profile import Profile
from pimchip.qat import build_model, convert, pim_layers

IMAGES = np.random.default_rng(3).integers(0, 256, (24, *SHAPE)).astype(np.uint8)


@pytest.fixture(scope="module")
def spec() -> ChipSpec:
    return small_spec()


@pytest.fixture(scope="module")
def chip(spec: ChipSpec, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("chip") / "small.toml"
    path.write_text(to_toml(spec))
    return path


@pytest.fixture(scope="module")
def profile(spec: ChipSpec, chip: Path) -> Profile:
    """A die as measured, at two resolutions and two ranges."""
    points = [spec.mac(rows=27, adc_bits=b, range_divisor=d) for b, d in ((4, 4), (4, 1), (6, 4))]
    with open_board(f"emulator:{chip}?die=1", seed=0) as board:
        return characterize(board, points=points, seed=0, out=chip.parent / "out")


def unit(inputs: int, outputs: int, groups: int = 1) -> list[nn.Module]:
    return [nn.Conv2d(inputs, outputs, 3, 1, 1, groups=groups, bias=False), nn.BatchNorm2d(outputs), nn.ReLU()]


class Branches(nn.Module):
    """Concatenation, a sum, and a flattened map."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.a, self.b = (nn.Sequential(*unit(*at)) for at in ((2, 6), (6, 6), (6, 6)))
        self.c = nn.Sequential(*unit(12, 6))
        self.pool, self.flatten = nn.MaxPool2d(3), nn.Flatten()
        self.hidden, self.act, self.fc = nn.Linear(24, 9), nn.ReLU(), nn.Linear(9, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.first(x)
        y = self.c(torch.cat([self.a(x), self.b(x)], 1)) + x
        return self.fc(self.act(self.hidden(self.flatten(self.pool(y)))))  # type: ignore[no-any-return]


def network(kind: str, spec: ChipSpec) -> nn.Module:
    torch.manual_seed(1)
    made = {
        "resnet8": lambda: build_model("resnet8", SHAPE, 4),
        "branches": Branches,
        "groups": lambda: nn.Sequential(
            *unit(2, 12), *unit(12, 12, 12), *unit(12, 8), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 4)
        ),
    }[kind]()
    converted = convert(made, spec, **(POINT | {"adc_bits": 6} if kind == "groups" else POINT))
    for module in converted.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = None  # statistics are then those of what is shown next
    for _ in range(3):
        converted(torch.rand(32, *SHAPE))
    return converted.eval()


class TestOrder:
    @pytest.mark.parametrize("kind", ["resnet8", "branches", "groups"])
    def test_it_computes_the_same_integers(self, kind: str, spec: ChipSpec, profile: Profile) -> None:
        made, known = network(kind, spec), Knowledge(profile, IMAGES)
        golden = Golden(example(SHAPE, 2, 0))
        ordered = compile_network(made, spec, SHAPE, None, known=known, observer=golden)
        assert "channels in another order" in dict(golden.said)["place"]
        plain = compile_network(made, spec, SHAPE, None)
        logits = [
            Simulation(p).run(Simulation(p).start(IMAGES))[p.manifest.output].values.ravel() for p in (plain, ordered)
        ]
        assert np.array_equal(*logits) and len(np.unique(logits[0])) > 10
        assert ordered.tiles == plain.tiles and ordered.manifest.passes == plain.manifest.passes
        assert any(not np.array_equal(plain.tensors[name], ordered.tensors[name]) for name in plain.tensors)

    def test_channels_in_groups_and_logits_stay(self, spec: ChipSpec, profile: Profile) -> None:
        graph = run_passes(network("groups", spec), spec, SHAPE, known=Knowledge(profile, IMAGES))
        grouped = {op.name for op in graph.ops if getattr(op, "layer", "") == "3"}
        assert grouped and not grouped & set(graph.orders) and graph.output not in graph.orders
        assert set(graph.orders)  # the layer after it is free

    def test_rows_of_a_reader_stay_in_their_row_group(self, spec: ChipSpec, profile: Profile) -> None:
        """27 rows are three channels of a 3 x 3 convolution."""
        graph = run_passes(network("resnet8", spec), spec, SHAPE, known=Knowledge(profile, IMAGES))
        orders = [o for name, o in graph.orders.items() if len(o) == 16]
        assert orders and all((o // 3 == np.arange(16) // 3).all() for o in orders)

    def test_the_cheapest_assignment_is_that_of_all_permutations(self) -> None:
        rng = np.random.default_rng(0)
        for _ in range(20):
            cost, labels = rng.random((6, 6)), [(int(v),) for v in rng.integers(0, 2, 6)]
            allowed = [
                p for p in itertools.permutations(range(6)) if all(labels[o] == labels[j] for j, o in enumerate(p))
            ]
            best = min(sum(cost[o, j] for j, o in enumerate(p)) for p in allowed)
            found = _cheapest(cost, labels)
            assert tuple(found.tolist()) in allowed
            assert cost[found, np.arange(6)].sum() == pytest.approx(best)

    def test_the_loudest_converter_gets_the_outputs_that_hurt_least(self, spec: ChipSpec, profile: Profile) -> None:
        """One of them is made a hundred times as noisy; two outputs of four planes end in each."""
        torch.manual_seed(0)
        made = convert(
            nn.Sequential(nn.Flatten(), nn.Linear(12, 9), nn.ReLU(), nn.Linear(9, 8), nn.ReLU(), nn.Linear(8, 3)),
            spec, **POINT, pim_skip=("first", "last"),
        ).eval()  # fmt: skip
        with torch.no_grad():
            made[5].weight[:, [2, 5]] *= 1e-3
            made[3].bias.fill_(0.4)  # no output is dead
        plain = compile_network(made, spec, (3, 2, 2), None)
        (tile,) = plain.manifest.layers["3"].tiles
        loud = spec.adc_of(tile.macro, tile.column)
        points = []
        for point in profile.points:
            noise = np.full_like(point.noise_lsb, 0.05)
            noise[loud] = 5.0
            points.append(replace(point, noise_lsb=noise))
        images = np.random.default_rng(0).integers(0, 256, (32, 3, 2, 2)).astype(np.uint8)
        graph = run_passes(made, spec, (3, 2, 2), known=Knowledge(replace(profile, points=tuple(points)), images))
        (macro,) = {t.macro for t in graph.layers["3"].tiles}
        assert macro == 1 - tile.macro  # that macro is now the worse one
        graph = run_passes(
            made,
            spec,
            (3, 2, 2),
            known=Knowledge(replace(profile, points=(turned(points[0], loud, spec, macro),)), images),
        )
        (tile,) = graph.layers["3"].tiles
        at = [c // 4 for c in range(0, 32, 4) if spec.adc_of(tile.macro, tile.column + c) == macro * 4]
        assert set(graph.orders["3"][at].tolist()) == {2, 5}


def turned(point: object, loud: int, spec: ChipSpec, macro: int) -> object:
    """The loud converter in the first place of a macro, and all of the other macro louder."""
    noise = np.full(8, 10.0)
    noise[macro * 4 : macro * 4 + 4] = 0.05
    noise[macro * 4] = 5.0
    return replace(point, noise_lsb=noise)  # type: ignore[type-var]


class TestWhatHurts:
    def test_behind_a_bn_and_a_last_layer_it_is_what_the_chain_rule_says(self, spec: ChipSpec) -> None:
        """A layer, BN, the mean over positions and a linear layer: every derivative is known by hand."""
        torch.manual_seed(0)
        plain = nn.Sequential(
            *unit(2, 6), nn.Conv2d(6, 5, 3, 1, 1, bias=False), nn.BatchNorm2d(5), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
            nn.Linear(5, 4),
        )  # fmt: skip
        made = convert(plain, spec, **POINT)
        for _ in range(3):
            made(torch.rand(32, *SHAPE))
        made.eval()
        bn, last = made[4], made[7]
        with torch.no_grad():
            bn.weight.uniform_(0.5, 2)
        found = look(made, IMAGES, {"3": 0.25})["3"].hurt
        w = (last.integers().reshape(4, 5) * last.scale(last.integers())).detach().double()
        w = w - w.mean(0)  # a change of all logits alike is none
        slope = (bn.weight / (bn.running_var + bn.eps).sqrt()).detach().double()
        by_hand = 0.25**2 * slope**2 * w.square().sum(0) / 36  # 36 positions, each 1 / 36 of the mean
        assert np.allclose(found, by_hand.numpy(), rtol=0.8) and np.corrcoef(found, by_hand.numpy())[0, 1] > 0.9

    def test_the_predicted_error_is_that_of_the_die_s_twin(self, spec: ChipSpec, profile: Profile) -> None:
        """Sums of one column at a converter after the other: codes of the twin less the fitted line."""
        mac = spec.mac(rows=27, adc_bits=6, range_divisor=4)
        rng = np.random.default_rng(0)
        x = rng.integers(0, 3, (4000, 27))
        cells = rng.integers(0, 2, (27, 32)).astype(np.int8)
        tile = Tile(0, 0, 0, 27, 32)
        with open_twin(profile) as board:
            list(board.program_tiles([TileCells(tile, cells, mac)]))
            codes = board.convert(tile, x, mac=mac)[0]
        adcs = np.array(spec.adcs_of(tile))
        used = np.unique(adcs)
        predicted = Curves.of(profile, mac, used, alone=True).errors((x @ cells).astype(np.float32))
        sums = x @ cells * (mac.levels * mac.range_divisor) / mac.sum_max
        gain = profile.serving(mac).gain
        for column in range(32):
            adc = adcs[column]
            seen = np.var(codes[:, column] - gain[adc] * sums[:, column]) - 1 / 12  # less what rounding adds
            assert seen == pytest.approx(predicted[column, list(used).index(adc)], rel=0.25, abs=0.03)


class TestPoints:
    def test_a_layer_gets_the_point_that_loses_least(self, spec: ChipSpec, profile: Profile) -> None:
        made = network("resnet8", spec)
        before = {name: layer.mac for name, layer in pim_layers(made).items()}
        chosen, found = measured_points(made, spec, Knowledge(profile, IMAGES))
        assert {name: layer.mac for name, layer in pim_layers(made).items()} == before  # the given one stays
        offered = {(4, 4), (4, 1), (6, 4)}
        for each in found:
            assert {(m.adc_bits, m.range_divisor) for m in each.errors} == offered
            assert each.chosen == pim_layers(chosen)[each.layer].mac
            assert each.errors[each.chosen] <= 1.02 * min(each.errors.values())
            by_bits = {m.adc_bits: error for m, error in each.errors.items() if m.range_divisor == 4}
            assert by_bits[6] < by_bits[4]  # finer steps over the same range

    def test_groups_of_channels_meet_their_own_converters(self, spec: ChipSpec, profile: Profile) -> None:
        _, found = measured_points(network("groups", spec), spec, Knowledge(profile, IMAGES))
        assert [each.layer for each in found] == ["3", "6"] and all(len(each.errors) == 3 for each in found)


def test_the_command_fits_a_program_to_a_profile(spec: ChipSpec, chip: Path, profile: Profile, tmp_path: Path) -> None:
    model, runner = str(tmp_path / "model.pt"), CliRunner()
    options = ["--data", "digits", "--model", "mlp", "--adc-bits", "4", "--range-divisor", "4", "--epochs", "1"]
    assert runner.invoke(cli, ["train", *options, "--chip", str(chip), "--out", model]).exit_code == 0
    wanting = runner.invoke(cli, ["compile", model, "--noise-aware"])
    assert wanting.exit_code == 2 and "--noise-aware rests on a measured die" in wanting.stderr
    fitted = ["--profile", str(profile.path), "--noise-aware", "--ranges", "profile", "--check", "--json"]
    run = runner.invoke(cli, ["compile", model, *fitted])
    assert run.exit_code == 0, run.stderr
    found = json.loads(run.stdout)
    assert found["noise_aware"] and "in another order" in found["checks"]["place"]
    assert {p["adc_bits_chosen"] for p in found["points"]} == {6}
    few = ["--limit", "20", "--bn-batches", "1", "--bn-batch-size", "20"]
    there = ["--profile", str(profile.path), "--device", f"emulator:{chip}?die=1"]
    deployed = runner.invoke(cli, ["deploy", found["program"], *there, *few, "--json"])
    assert deployed.exit_code == 0, deployed.stderr
    again = runner.invoke(cli, ["deploy", found["program"], *there, *few, "--ranges", "profile"])
    assert again.exit_code == 2 and "--ranges profile is of compiling" in again.stderr
    straight = ["deploy", model, *there, *few, "--json"]
    steps = []
    for asked in (fitted[2:5], fitted[2:5], []):
        own = runner.invoke(cli, [*straight, *asked])
        assert own.exit_code == 0, own.stderr
        said = json.loads(own.stdout)
        steps.append(next(step for step in said["steps"] if step["name"] == "compile"))
        if asked:
            assert said["points"] == found["points"] and said["noise_aware"]
            assert said["accuracy_after_bn"] == json.loads(deployed.stdout)["accuracy_after_bn"]
        else:
            assert "points" not in said
    assert [(step["state"], step["why"]) for step in steps] == [
        ("done", ""),
        ("kept", ""),
        ("done", "changed: fitted"),
    ]


def test_planes_of_an_output_on_two_converters_are_found() -> None:
    spec = load_chip("sram65")
    graph = run_passes(convert(build_model("tiny", (3, 8, 8), 5), spec), spec, (3, 8, 8))
    name, layer = next((n, each) for n, each in graph.layers.items() if each.tiles)
    moved = tuple(
        t.model_copy(update={"column": 254 - t.columns, "residency": 1 + n}) for n, t in enumerate(layer.tiles)
    )
    layers = graph.layers | {name: layer.model_copy(update={"tiles": moved})}
    with pytest.raises(BrokenGraph, match=rf"after place: {name}: has planes of an output on two converters"):
        verify(replace(graph, layers=layers, passes=1 + len(moved)), spec, after="place")
