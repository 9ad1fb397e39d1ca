"""Where the compiler puts cells: the proven bound of passes, and faults that it keeps away from."""

from __future__ import annotations

import json
from collections.abc import Iterator

import broken
import numpy as np
import pytest
import torch
from click.testing import CliRunner
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy.optimize import Bounds, LinearConstraint, milp

from pimchip.chip import Geometry, Mac, load_chip
from pimchip.cli.main import cli
from pimchip.compiler.bound import bins, passes_bound, usable_columns
from pimchip.compiler.build import compile_network
from pimchip.compiler.faults import Faults
from pimchip.compiler.mapping import place_layers
from pimchip.compiler.room import Wanted
from pimchip.errors import CompileError
from pimchip.qat import build_model, convert
from pimchip.runtime import Executor

CHIPS = ("sram65", "rram130-differential", "charge-native")


def patterns(heights: list[int], height: int) -> Iterator[tuple[int, ...]]:
    """Every way to put items of these heights into a bin."""
    if not heights:
        yield ()
        return
    for count in range(height // heights[0] + 1):
        for rest in patterns(heights[1:], height - count * heights[0]):
            yield (count, *rest)


def fewest_bins(columns: dict[int, int], height: int) -> int:
    """By HiGHS, over all patterns."""
    heights = list(columns)
    matrix = np.array(list(patterns(heights, height)), float).T
    count = matrix.shape[1]
    wanted = np.array([columns[h] for h in heights], float)
    found = milp(
        np.ones(count),
        constraints=LinearConstraint(matrix, wanted, np.inf),
        integrality=np.ones(count),
        bounds=Bounds(0),
    )
    assert found.success
    return round(found.fun)


class TestBound:
    @given(st.dictionaries(st.integers(2, 12), st.integers(1, 30), min_size=1, max_size=4))
    @settings(max_examples=60, deadline=None)
    def test_it_never_exceeds_the_optimum_that_a_solver_finds(self, columns: dict[int, int]) -> None:
        best = fewest_bins(columns, 12)
        assert -(-sum(h * n for h, n in columns.items()) // 12) <= bins(columns, 12) <= best

    @pytest.mark.parametrize(
        ("columns", "wanted"),
        [
            ({7: 10}, 10),  # over half of 12: a bin each, though the cells would fit six
            ({6: 10}, 5),
            ({8: 4, 5: 3}, 6),  # none of the 5s fits beside an 8
            ({8: 4, 4: 3}, 4),
            ({12: 3, 1: 13}, 5),
        ],
    )
    def test_by_hand(self, columns: dict[int, int], wanted: int) -> None:
        assert bins(columns, 12) == wanted

    def test_columns_that_no_whole_output_can_use_are_no_bins(self) -> None:
        spec = load_chip("sram65")  # 8 columns a converter
        assert [usable_columns(spec, {planes}) for planes in (1, 2, 3, 4, 5, 8)] == [256, 256, 192, 256, 160, 256]

    @pytest.mark.parametrize("chip", CHIPS)
    @pytest.mark.parametrize("model", ["resnet20", "resnet56"])
    def test_residual_networks_are_at_the_bound(self, chip: str, model: str) -> None:
        program = compile_network(convert(build_model(model, (3, 8, 8), 10), chip), load_chip(chip), (3, 8, 8), None)
        assert program.manifest.passes == passes_bound(program.manifest.layers.values(), program.spec)
        assert program.utilization_of_bound == 1.0

    @given(st.lists(st.tuples(st.integers(1, 500), st.integers(1, 80)), min_size=1, max_size=12))
    @settings(max_examples=60, deadline=None)
    def test_a_placement_never_beats_it(self, sizes: list[tuple[int, int]]) -> None:
        spec = broken.breakable(load_chip("rram130-differential"))
        network = torch.nn.Sequential(torch.nn.Flatten())
        inputs = 12
        for outputs, _ in sizes:
            network.extend([torch.nn.Linear(inputs, outputs), torch.nn.ReLU()])
            inputs = outputs
        assume(len(sizes) > 0)
        program = compile_network(convert(network, spec, pim_skip=()), spec, (3, 2, 2), None)
        assert program.manifest.passes >= passes_bound(program.manifest.layers.values(), spec)


PLACED = st.tuples(st.integers(0, 2**20), st.sampled_from(CHIPS), st.sampled_from([1, 2]), st.integers(0, 2))


class TestFaults:
    @given(PLACED)
    @settings(max_examples=25, deadline=None)
    def test_no_tile_touches_what_is_broken(self, drawn: tuple[int, str, int, int]) -> None:
        seed, chip, adcs, rows = drawn
        spec = load_chip(chip)
        faults = broken.draw(spec, seed, columns=0.02, adcs=adcs, rows=rows)
        mac = Mac(spec.mac().scheme, 40)
        layers = [
            Wanted(f"l{n}", mac, Geometry(depth, outputs)) for n, (depth, outputs) in enumerate([(90, 50), (40, 300)])
        ]
        tiles, passes = place_layers(spec, layers, faults)
        for layer in layers:
            covered = np.zeros((mac.groups(layer.geometry.depth), layer.geometry.out_channels * mac.planes), int)
            for t in tiles[layer.name]:
                assert not set(range(t.row, t.row + t.rows)) & faults.rows[t.macro]
                assert not set(range(t.column, t.column + t.columns)) & faults.columns[t.macro]
                adc = {spec.adc_of(t.macro, c) % spec.adc.per_macro for c in range(t.column, t.column + t.columns)}
                assert not adc & faults.adcs[t.macro]
                assert t.residency < passes
                covered[t.group, t.first_column : t.first_column + t.columns] += 1
            assert (covered == 1).all()

    def test_stuck_cells_hold_what_the_weights_want_where_there_is_room(self) -> None:
        spec = load_chip("sram65")
        faults = broken.draw(spec, 0, cells=1e-3)
        rng = np.random.default_rng(0)
        mac = spec.mac()
        cells = mac.cells(rng.integers(-7, 8, (288, 40)))
        tiles, passes = place_layers(spec, [Wanted("x", mac, Geometry(288, 40), cells)], faults)
        assert passes == 1
        used = 0
        for t in tiles["x"]:
            for (row, column), value in faults.cells[t.macro].items():
                if t.row <= row < t.row + t.rows and t.column <= column < t.column + t.columns:
                    used += 1
                    assert cells[t.group * 144 + row - t.row, t.first_column + column - t.column] == value
        assert used > 5  # of 46,080 cells, of which one in a thousand is stuck and half of these agree

    def test_where_there_is_no_room_they_may_disagree_and_no_pass_is_added(self) -> None:
        spec = load_chip("sram65")
        mac = spec.mac()
        layer = Wanted("x", mac, Geometry(144, 512), mac.cells(np.random.default_rng(0).integers(-7, 8, (144, 512))))
        _, passes = place_layers(spec, [layer], broken.draw(spec, 0, cells=1e-3))
        assert passes == 1  # all 512 places of the chip

    def test_a_die_that_is_broken_all_over_is_refused_by_name(self) -> None:
        spec = load_chip("sram65")
        dead = Faults(adcs={m: frozenset(range(32)) for m in range(8)})
        with pytest.raises(CompileError, match=r"layer x: no place on chip sram65 .* broken"):
            place_layers(spec, [Wanted("x", spec.mac(), Geometry(144, 4))], dead)

    def test_without_faults_nothing_changes(self) -> None:
        spec, network = load_chip("sram65"), convert(build_model("tiny", (3, 8, 8), 5), "sram65")
        one = compile_network(network, spec, (3, 8, 8), None)
        other = compile_network(network, spec, (3, 8, 8), None, faults=Faults())
        assert one.manifest == other.manifest

    def test_codes_on_a_broken_die_are_those_of_a_sound_one(self) -> None:
        """Of exact converters but dead ones, on cells of which one in a thousand is stuck."""
        torch.manual_seed(0)
        data = load_chip("sram65").to_dict()
        data["adc"] |= {key: 0 for key in data["adc"] if key.endswith(("sigma", "master", "residual"))}
        data["noise"] |= {"array_sigma": 0, "adc_sigma": 0}
        spec = broken.breakable(type(load_chip("sram65")).from_dict(data))
        network = convert(build_model("resnet8", (3, 8, 8), 5), spec)
        for module in network.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                module.momentum = None  # statistics are then those of what is shown next
        network.train()(torch.rand(32, 3, 8, 8))
        images = np.random.default_rng(0).integers(0, 256, (4, 3, 8, 8)).astype(np.uint8)
        faults = broken.draw(spec, 1, columns=0.01, adcs=1, cells=1e-3, rows=0)
        plain = compile_network(network, spec, (3, 8, 8), None)
        aware = compile_network(network, spec, (3, 8, 8), None, faults=faults)
        found = []
        for program, real in ((plain, Faults()), (aware, faults), (plain, faults)):
            with broken.board(spec, 1, real, seed=None) as board:
                executor = Executor(program, board, tolerate_cells=10**7)
                found.append((executor.logits(images), executor.report.wrong_cells))
        assert found[0][1] == found[1][1] == 0 < found[2][1]
        assert len(np.unique(found[0][0], axis=0)) == 4, "this network shows nothing"
        assert np.array_equal(found[0][0], found[1][0])
        assert not np.array_equal(found[0][0], found[2][0])


def test_bench_compile_tells_time_and_passes_by_model() -> None:
    run = CliRunner().invoke(
        cli, ["bench", "compile", "--quick", "--chip", "sram65", "--chip", "charge-native", "--json"]
    )
    found = json.loads(run.stdout)
    assert run.exit_code == 0
    for key in ("seconds", "utilization_of_bound", "passes"):
        assert set(found[key]) == {"mlp", "tiny", "resnet20"}
        assert found[key] == found["chips"]["sram65"][key]
    assert found["passes"]["resnet20"] == 4 and found["chips"]["charge-native"]["passes"]["resnet20"] == 2
    assert [each["weights"] for each in found["growth"]] == [80_000, 320_000]
