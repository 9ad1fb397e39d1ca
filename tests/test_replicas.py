"""Copies of layers: where the compiler puts them, what they save, and what refuses to run them."""

from __future__ import annotations

import json
from collections import defaultdict
from pathlib import Path
from typing import Any

import broken
import numpy as np
import pytest
import torch
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st

import pimchip
from pimchip.chip import ChipSpec, load_chip
from pimchip.chip.energy import span
from pimchip.cli.main import cli
from pimchip.compiler import Program, compile_network
from pimchip.compiler.cost import cost
from pimchip.compiler.estimate import estimate
from pimchip.compiler.faults import Faults
from pimchip.compiler.golden import Golden, example
from pimchip.compiler.ir import Integers
from pimchip.compiler.passes import run_passes
from pimchip.compiler.printer import text
from pimchip.compiler.records import LayerRecord, TileRecord
from pimchip.errors import BadResult, InputError
from pimchip.qat import build_model, convert

IMAGE = (3, 8, 8)
ROOMY = load_chip("rram130-differential")


def chip(**array: Any) -> ChipSpec:
    """sram65 of another shape."""
    data = load_chip("sram65").to_dict()
    data["array"] |= array
    data["adc"]["per_macro"] = array.get("columns", 256) // 8
    return ChipSpec.from_dict(data | {"name": "small"})


def tiny(spec: ChipSpec, replicas: int, faults: Faults | None = None) -> Program:
    torch.manual_seed(0)
    return compile_network(
        convert(build_model("tiny", IMAGE, 5), spec), spec, IMAGE, None, replicas=replicas, faults=faults
    )


class Mlp(torch.nn.Module):
    """Two layers in the array, of which the first reads a map and so has `side` * `side` positions."""

    def __init__(self, side: int, channels: int) -> None:
        super().__init__()
        self.stem, self.act = torch.nn.Conv2d(3, 16, 1), torch.nn.ReLU()
        self.conv, self.act2 = torch.nn.Conv2d(16, channels, 3, padding=1), torch.nn.ReLU()
        self.pool = torch.nn.AvgPool2d(side)
        self.flat, self.fc = torch.nn.Flatten(), torch.nn.Linear(channels, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.act2(self.conv(self.act(self.stem(x))))
        return self.fc(self.flat(self.pool(x)))  # type: ignore[no-any-return]


def first(program: Program, name: str) -> list[TileRecord]:
    return [t for t in program.manifest.layers[name].tiles if t.copy_number == 0]


# -- where they stand -------------------------------------------------------------------------------------------------


def scheduled(spec: ChipSpec, layer: LayerRecord, images: int) -> float:
    """Seconds for a layer's vectors, one after another given to their copy, each macro doing its tiles in turns."""
    assert spec.timing is not None
    mac, total = layer.operating_point(), 0.0
    for residency in {t.residency for t in layer.tiles}:
        free = defaultdict[int, float](float)
        for vector in range(images * layer.positions):
            for t in layer.tiles:
                if t.residency == residency and t.copy_number == vector % layer.copies:
                    turns = np.bincount(spec.adcs_of(t.placement().tile)).max()
                    free[t.macro] += mac.slices * (spec.timing.settle + int(turns) * spec.timing.conversion)
        total += max(free.values())
    return total


@pytest.mark.parametrize("replicas", [2, 3, 8])
@pytest.mark.parametrize("name", ["rram130-differential", "charge-native"])
def test_the_predicted_time_is_that_of_a_schedule_vector_by_vector(name: str, replicas: int) -> None:
    spec = load_chip(name)
    program = tiny(spec, replicas)
    assert program.replicated
    for layer in cost(program).layers:
        record = program.manifest.layers[layer.name]
        if record.kind == "pim":
            images = record.copies  # so many that each copy gets the same share
            assert layer.seconds == pytest.approx(scheduled(spec, record, images) / images)
            once = record.model_copy(update={"tiles": tuple(first(program, layer.name))})
            assert layer.seconds_alone == pytest.approx(scheduled(spec, once, 1))
            assert layer.copies == record.copies
    # Every counter alone says how fast or slow that can have been, whatever works at once.
    found = estimate(program)
    bounds, seconds = span(spec, found.counters(replicas)), replicas * (found.seconds_per_image() or 0.0)
    assert bounds is not None and bounds.shortest * (1 - 1e-12) <= seconds <= bounds.longest * (1 + 1e-12)


def marked(program: Program) -> None:
    """Against cells marked one by one: copies lie on no cell that any pass or other copy uses, and hold each cell once."""
    array = program.spec.array
    used = np.zeros((program.manifest.passes, array.macros, array.rows, array.columns), np.int32)
    copies = np.zeros((array.macros, array.rows, array.columns), np.int32)
    for layer in program.manifest.layers.values():
        for t in layer.tiles:
            at = (t.macro, slice(t.row, t.row + t.rows), slice(t.column, t.column + t.columns))
            if t.copy_number:
                copies[at] += 1
            else:
                used[t.residency][at] += 1
    assert used.max() <= 1 and copies.max(initial=0) <= 1
    assert not np.any((used.max(axis=0) > 0) & (copies > 0))


def held(layer: LayerRecord, copy: int) -> np.ndarray:
    """The residency pass of each cell of a layer in one copy, -1 where it has none."""
    mac, depth = layer.operating_point(), layer.geometry().depth
    found = np.full((mac.groups(depth), layer.out_channels * mac.planes), -1)
    for t in layer.tiles:
        if t.copy_number == copy:
            part = found[t.group, t.first_column : t.first_column + t.columns]
            assert (part == -1).all()
            part[:] = t.residency
    return found


DRAWN = st.tuples(
    st.sampled_from([4, 8, 16]),
    st.sampled_from([16, 40]),
    st.integers(1, 9),
    st.sampled_from([64, 136]),
    st.integers(2, 6),
    st.booleans(),
    st.integers(0, 2**16),
)


@given(DRAWN)
@settings(max_examples=30, deadline=None)
def test_copies_take_only_room_that_is_left_and_each_shortens_a_time(drawn: tuple[Any, ...]) -> None:
    side, channels, macros, columns, most, faulty, seed = drawn
    spec = chip(macros=macros, rows=180, columns=columns)
    faults = broken.draw(spec, seed, columns=0.02, rows=1, cells=1e-4) if faulty else None
    torch.manual_seed(seed)
    network, image = convert(Mlp(side, channels), spec, pim_skip=("first",)), (3, side, side)
    try:
        plain = compile_network(network, spec, image, None, faults=faults)
    except pimchip.errors.CompileError:
        return  # nothing left of so small a die
    program = compile_network(network, spec, image, None, faults=faults, replicas=most)
    assert program.manifest.passes == plain.manifest.passes
    marked(program)
    before, after = cost(plain), cost(program)
    assert after.reload_seconds == before.reload_seconds
    for name, layer in program.manifest.layers.items():
        assert first(program, name) == list(plain.manifest.layers[name].tiles)
        assert 1 <= layer.copies <= min(most, layer.positions)
        for copy in range(1, layer.copies):
            assert np.array_equal(held(layer, copy), held(layer, 0))
        for t in layer.tiles if faults else ():
            assert faults is not None
            assert not set(range(t.row, t.row + t.rows)) & faults.rows[t.macro]
            assert not set(range(t.column, t.column + t.columns)) & faults.bad_columns(spec, t.macro)
        if faults and layer.tiles:
            off = [wrong_outputs(program, name, faults, copy) for copy in range(layer.copies)]
            assert max(off[1:], default=0) <= off[0]
    for one, other in zip(before.layers, after.layers, strict=True):
        assert (other.seconds or 0) <= (one.seconds or 0)
        assert ((other.seconds or 0) < (one.seconds or 0)) == (other.copies > 1)
        assert (one.conversions, other.seconds_alone) == (other.conversions, pytest.approx(one.seconds))


def wrong_outputs(program: Program, name: str, faults: Faults, copy: int) -> float:
    """How far the worst output of a copy is off on stuck cells, sum of squares in weight units, tile by tile."""
    layer = program.manifest.layers[name]
    mac, worst = layer.operating_point(), 0.0
    cells = mac.cells(program.tensors[f"weight.{name}"])
    for t in layer.tiles:
        off = np.zeros(t.columns // mac.planes)
        for (row, column), value in faults.cells.get(t.macro, {}).items():
            if t.copy_number == copy and 0 <= row - t.row < t.rows and 0 <= (at := column - t.column) < t.columns:
                wanted = int(cells[t.group * mac.rows + row - t.row, t.first_column + at])
                off[at // mac.planes] += float(mac.plane_weights[at % mac.planes] * (wanted - value)) ** 2
        worst = max(worst, float(off.max(initial=0.0)))
    return worst


def test_the_layer_that_gains_most_is_served_first() -> None:
    """Of two layers, 64 positions and 1, with room for one copy of either, the first gets it."""
    spec = chip(macros=3, rows=144, columns=64)
    program = compile_network(convert(Mlp(8, 16), spec, pim_skip=("first",)), spec, IMAGE, None, replicas=8)
    assert [len(layer.tiles) for layer in program.manifest.layers.values()] == [0, 2, 1]
    assert program.replicated == {"conv": 2}


def test_a_second_copy_in_the_same_macro_gains_nothing() -> None:
    spec = chip(macros=1, rows=288, columns=256)
    program = compile_network(convert(Mlp(8, 16), spec), spec, IMAGE, None, replicas=8)
    assert program.cells_used < spec.array.rows * spec.array.columns / 2 and not program.replicated


def test_a_layer_over_two_tiles_of_a_macro_gains_by_macros_beside_it() -> None:
    """288 products are two row groups, which share a macro of 288 rows and take turns. A copy in two macros with room for one
    each computes a vector in half that time, but every other vector waits for the first macro."""
    spec = chip(macros=2, rows=288, columns=64)

    class Net(Mlp):
        def __init__(self) -> None:
            super().__init__(8, 16)
            self.stem, self.conv = torch.nn.Conv2d(3, 32, 1), torch.nn.Conv2d(32, 16, 3, padding=1)

    program = compile_network(convert(Net(), spec), spec, IMAGE, None, replicas=8)
    layer = program.manifest.layers["conv"]
    assert {t.macro for t in layer.tiles if t.copy_number == 0} == {0}
    assert layer.copies == 2 and {t.macro for t in layer.tiles if t.copy_number == 1} == {1}
    (item,) = [each for each in cost(program).layers if each.name == "conv"]
    assert item.seconds is not None and item.seconds_alone is not None
    assert item.seconds == pytest.approx(item.seconds_alone / 2)


@pytest.mark.parametrize("macros", [2, 3])
def test_with_several_passes_copies_stand_where_none_is_programmed(macros: int) -> None:
    """Macros of the first pass alone keep room; what other passes write over is no place."""
    spec = ChipSpec.from_dict(ROOMY.to_dict() | {"array": ROOMY.array.model_dump() | {"macros": macros}})
    network = convert(build_model("mobile", IMAGE, 5), spec)
    plain, program = (compile_network(network, spec, IMAGE, None, replicas=n) for n in (1, 4))
    assert program.manifest.passes == plain.manifest.passes == 2 and len(program.replicated) == 3
    marked(program)
    assert cost(program).reload_seconds == cost(plain).reload_seconds


def test_without_timing_nothing_can_be_chosen() -> None:
    spec = ChipSpec.from_dict(ROOMY.to_dict() | {"timing": None})
    with pytest.raises(InputError, match=r"has no \[timing\].*leave --replicas out"):
        tiny(spec, 2)
    assert not tiny(spec, 1).replicated


@pytest.mark.parametrize("wrong", [0, -1, True, 1.5])
def test_numbers_that_are_none_are_refused(wrong: Any) -> None:
    network = convert(build_model("tiny", IMAGE, 5), ROOMY)
    with pytest.raises(InputError, match="replicas = .*want a number from 1"):
        pimchip.compile(network, torch.zeros(1, *IMAGE), ROOMY, replicas=wrong)


# -- files ------------------------------------------------------------------------------------------------------------


def test_files_without_copies_are_as_before_and_those_with_are_version_6(tmp_path: Path) -> None:
    plain, program = tiny(ROOMY, 1), tiny(ROOMY, 3)
    assert plain.manifest.version == 1 and "copy_number" not in plain.manifest.model_dump_json()
    assert program.manifest.version == 6
    program.save(tmp_path / "x.pim")
    again = Program.load(tmp_path / "x.pim")
    assert again.manifest == program.manifest and again.replicated == dict.fromkeys(program.replicated, 3)


def damaged(program: Program, name: str, change: Any) -> Program:
    """The program with other tiles of a layer, through a file's own reader."""
    manifest = program.manifest.model_dump(mode="json")
    manifest["layers"][name]["tiles"] = change(manifest["layers"][name]["tiles"])
    return Program.from_parts(manifest, program.tensors, "x.pim")


def test_damaged_copies_are_refused_by_name() -> None:
    program = tiny(ROOMY, 3)
    name = next(iter(program.replicated))

    def renumbered(tiles: list[dict[str, Any]]) -> Any:
        return [t | ({"copy_number": 7} if t.get("copy_number") == 2 else {}) for t in tiles]

    def lacking(tiles: list[dict[str, Any]]) -> Any:
        return tiles[:-1]

    def elsewhere(tiles: list[dict[str, Any]]) -> Any:
        return [*tiles[:-1], tiles[-1] | {"residency": 1}]

    def on_another(tiles: list[dict[str, Any]]) -> Any:
        return [*tiles[:-1], tiles[-1] | {key: tiles[0][key] for key in ("macro", "row", "column")}]

    assert damaged(program, name, lambda tiles: tiles).manifest == program.manifest
    for change, said in (
        (renumbered, f"layer {name}: its copies have other numbers than 0 to 2"),
        (lacking, f"layer {name}: its tiles of copy 2 do not cover it once"),
        (elsewhere, f"layer {name}: copy 2 is in other passes than the layer"),
        (on_another, "a tile lies over another"),
    ):
        with pytest.raises(InputError, match=f"^x.pim: .*{said}.*compile it again"):
            damaged(program, name, change)


def test_copies_where_another_pass_is_programmed_are_refused() -> None:
    spec = chip(macros=3, rows=144, columns=64)
    program = compile_network(convert(Mlp(8, 16), spec, pim_skip=("first",)), spec, IMAGE, None, replicas=8)
    assert (program.manifest.passes, program.replicated) == (1, {"conv": 2})
    manifest = program.manifest.model_dump(mode="json") | {"passes": 2}
    copy = manifest["layers"]["conv"]["tiles"][1]
    manifest["layers"]["fc"]["tiles"][0] |= {
        "residency": 1, "macro": copy["macro"], "row": copy["row"], "column": copy["column"],
    }  # fmt: skip
    with pytest.raises(InputError, match="macro .: a tile of a copy lies where another pass has one"):
        Program.from_parts(manifest, program.tensors, "x.pim")


# -- what tells of them -----------------------------------------------------------------------------------------------


def test_the_golden_check_reads_copies_and_sees_a_wrong_one() -> None:
    network = convert(build_model("tiny", IMAGE, 5), ROOMY).eval()
    golden = Golden(example(IMAGE, 2, 0))
    graphs: dict[str, Any] = {}

    def keep(done: Any, graph: Any, job: Any) -> None:
        golden(done, graph, job)
        graphs[done.name] = done, graph, job

    run_passes(network, ROOMY, IMAGE, keep, replicas=3)
    done, graph, job = graphs["replicate"]
    assert isinstance(graph, Integers)
    name, layer = next((n, each) for n, each in graph.layers.items() if each.copies > 1)
    assert f"layer {name}: pim" in text(graph) and ", 3 copies" in text(graph) and ": copy 2, group 0" in text(graph)
    # Two tiles of a copy exchange the columns that they hold: all is covered, each vector of that copy reads others' weights.
    last = [t for t in layer.tiles if t.copy_number == 2]
    half = last[0].columns // 2
    moved = [
        last[0].model_copy(update={"columns": half, "first_column": last[0].first_column + half}),
        last[0].model_copy(update={"columns": half, "column": last[0].column + half}),
    ]
    rest = [t for t in layer.tiles if t is not last[0]]
    swapped = layer.model_copy(update={"tiles": (*rest, *moved)})
    golden(
        done, Integers(**{**vars(graph), "layers": graph.layers | {name: swapped}}), job
    )  # whole, though cut otherwise
    doubled = layer.model_copy(
        update={"tiles": tuple(t for t in layer.tiles if t.copy_number != 2 or t is not last[0])}
    )
    with pytest.raises(BadResult, match=r"after replicate: \S+ holds other integers than before"):
        golden(done, Integers(**{**vars(graph), "layers": graph.layers | {name: doubled}}), job)


def test_costs_tell_copies_and_what_they_save() -> None:
    plain, program = cost(tiny(ROOMY, 1)), cost(tiny(ROOMY, 4))
    assert program.compute_seconds is not None and plain.compute_seconds is not None
    assert program.compute_seconds_alone == pytest.approx(plain.compute_seconds)
    assert program.compute_seconds < 0.5 * plain.compute_seconds
    for one, four in zip(plain.layers, program.layers, strict=True):
        assert (four.rows, four.columns, four.conversions) == (one.rows, one.columns, one.conversions)
        assert four.cell_writes == four.copies * one.cell_writes
    at_work = [each.estimate.joules_per_image() for each in (plain, program)]
    idle = ROOMY.energy.idle_watts * (plain.compute_seconds - program.compute_seconds) if ROOMY.energy else 0.0
    assert at_work[0] == pytest.approx((at_work[1] or 0) + idle)  # but for programming, energy is what it was


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Hardly trained."""
    path = tmp_path_factory.mktemp("model") / "tiny.pt"
    arguments = ["train", "--data", "digits", "--model", "tiny", "--chip", "rram130-differential", "--epochs", "1"]
    run = CliRunner().invoke(cli, [*arguments, "--out", str(path)])
    assert run.exit_code == 0, run.output
    return path


def told(*arguments: str) -> dict[str, Any]:
    run = CliRunner().invoke(cli, [*arguments, "--json"])
    assert run.exit_code == 0, run.output
    found: dict[str, Any] = json.loads(run.stdout)
    return found


def refused(*arguments: str) -> str:
    run = CliRunner().invoke(cli, arguments)
    assert run.exit_code == 2, run.output
    return " ".join(run.stderr.split())


def test_compile_and_info_tell_of_copies(model: Path, tmp_path: Path) -> None:
    out = str(tmp_path / "x.pim")
    found = told("compile", str(model), "--replicas", "4", "--explain", "--check", "--out", out)
    assert found["copies"] == {
        name: 4
        for name in ("stages.0.0.conv1", "stages.0.0.conv2", "stages.1.0.conv1", "stages.1.0.conv2")
    }  # fmt: skip
    assert found["compute_seconds_per_image"] < 0.5 * found["compute_seconds_per_image_alone"]
    assert found["checks"]["replicate"].startswith("18 maps hold the same integers as before, read tile by tile")
    assert "copies" not in told("compile", str(model), "--out", str(tmp_path / "y.pim"))
    about = told("info", out)
    assert about["copies"] == found["copies"] and about["file_version"] == 6
    assert [layer["copies"] for layer in about["costs"]["layers"] if layer["kind"] == "pim"] == [4] * 4
    dumped = CliRunner().invoke(
        cli, ["compile", str(model), "--replicas", "2", "--stop-after", "replicate", "--dump-after", "replicate"]
    )
    assert "2 copies" in dumped.output and "copy 1, group 0" in dumped.output


def test_deploy_refuses_copies_without_correction(model: Path, tmp_path: Path) -> None:
    said = refused("deploy", str(model), "--replicas", "2", "--device", "emulator:rram130-differential?die=1")
    assert "BN calibration cannot take out" in said and "--linearize" in said
    program = str(tmp_path / "x.pim")
    told("compile", str(model), "--replicas", "2", "--out", program)
    said = refused("deploy", program, "--device", "emulator:rram130-differential?die=1")
    assert "stages.0.0.conv1 2 times" in said and "BN calibration cannot take out" in said and "--linearize" in said
    said = refused("deploy", program, "--replicas", "2", "--linearize")
    assert "--replicas is of compiling, and" in said and "is compiled already" in said
    assert "held there once" in refused("finetune", str(model), "--replicas", "2")
