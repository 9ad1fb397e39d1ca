"""Pictures of which cells hold which layer, and what `info` says of a program."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import broken
import matplotlib.image
import numpy as np
import pytest
from click.testing import CliRunner

from pimchip.chip import load_chip
from pimchip.cli.main import cli
from pimchip.compiler import Program, compile_network
from pimchip.compiler.faults import Faults
from pimchip.qat import build_model, convert
from pimchip.report.floorplan import BROKEN, EMPTY, STUCK, cells, colour, draw
from pimchip.workflows.floors import draw_floors, floors

SPEC = load_chip("sram65")


@pytest.fixture(scope="module")
def faults() -> Faults:
    return broken.draw(SPEC, 3, columns=0.01, adcs=1, cells=1e-3, rows=0)


@pytest.fixture(scope="module")
def program(faults: Faults) -> Program:
    network = convert(build_model("tiny", (3, 8, 8), 5), SPEC)
    return compile_network(network, SPEC, (3, 8, 8), None, name="tiny", faults=faults)


def test_every_cell_has_the_colour_of_what_it_holds(program: Program, faults: Faults) -> None:
    """Against a map made cell by cell from the program's own records."""
    layers = [name for name, layer in program.manifest.layers.items() if layer.tiles]
    for number, floor in enumerate(floors(program, faults)):
        wanted = np.full((8, 144, 256, 3), EMPTY)
        for macro in range(8):
            wanted[macro][:, sorted(faults.bad_columns(SPEC, macro))] = BROKEN
        for index, name in enumerate(layers):
            for t in program.manifest.layers[name].tiles:
                if t.residency == number:
                    assert (wanted[t.macro, t.row : t.row + t.rows, t.column : t.column + t.columns] == EMPTY).all()
                    wanted[t.macro, t.row : t.row + t.rows, t.column : t.column + t.columns] = colour(index)
        for macro, stuck in faults.cells.items():
            for at in stuck:
                wanted[macro][at] = STUCK
        for macro in range(8):
            assert np.array_equal(cells(floor, macro), wanted[macro])


def test_copies_have_their_layers_colour_and_a_hatch(tmp_path: Path) -> None:
    spec = load_chip("rram130-differential")
    network = convert(build_model("tiny", (3, 8, 8), 5), spec)
    plans = [floors(compile_network(network, spec, (3, 8, 8), None, replicas=n))[0] for n in (1, 3)]
    assert [sum(t.copy > 0 for t in plan.tiles) for plan in plans] == [0, 2 * len(plans[0].tiles)]
    for t in plans[1].tiles:
        held = cells(plans[1], t.macro)[t.row : t.row + t.rows, t.column : t.column + t.columns]
        assert (held == colour(t.layer)).all()
    one = next(t for t in plans[1].tiles if t.copy)
    bare = replace(plans[1], tiles=[replace(one, copy=0)])
    pictures = []
    for name, plan in (("bare", bare), ("copy", replace(bare, tiles=[one]))):
        draw(plan, tmp_path / f"{name}.png")
        pictures.append((tmp_path / f"{name}.png").read_bytes())
    assert pictures[0] != pictures[1]


def test_colours_of_a_hundred_layers_are_told_from_their_neighbours_and_from_faults() -> None:
    made = np.array([colour(layer) for layer in range(100)])
    assert np.linalg.norm(np.diff(made, axis=0), axis=1).min() > 0.2
    for other in (EMPTY, BROKEN, STUCK):
        assert np.linalg.norm(made - np.array(other), axis=1).min() > 0.15


def test_pictures_are_the_same_each_time(program: Program, faults: Faults, tmp_path: Path) -> None:
    told: list[tuple[int, int]] = []
    made = [draw_floors(program, tmp_path / folder, faults, lambda *at: told.append(at))[:1] for folder in ("a", "b")]
    assert made[0][0].read_bytes() == made[1][0].read_bytes()
    assert told[: program.manifest.passes] == [
        (n, program.manifest.passes) for n in range(1, program.manifest.passes + 1)
    ]
    image = matplotlib.image.imread(made[0][0])
    for index in range(4):  # each layer's colour is in the picture
        assert (np.abs(image[..., :3] - np.array(colour(index))).max(axis=-1) < 0.01).sum() > 500


def test_the_command_draws_and_tells_all_of_a_program(program: Program, tmp_path: Path) -> None:
    path, runner = tmp_path / "tiny.pim", CliRunner()
    program.save(path)
    run = runner.invoke(cli, ["info", str(path), "--floorplan", str(tmp_path / "floors"), "--json"])
    assert run.exit_code == 0, run.stderr
    found = json.loads(run.stdout)
    assert [Path(p).name for p in found["floorplan"]] == [f"pass-{n + 1}.png" for n in range(program.manifest.passes)]
    assert all(Path(p).read_bytes()[:4] == b"\x89PNG" for p in found["floorplan"])
    assert found["weights"] == sum(t.size for n, t in program.tensors.items() if n.startswith("weight."))
    assert (found["layers_in_array"], found["layers_on_processor"], found["tiles"]) == (4, 3, program.tiles)
    shown = runner.invoke(cli, ["info", str(path)]).stdout
    assert f"{program.cells_used:,}" in shown and "utilization_of_bound" in shown and "µs" in shown
    for wrong in (["info", "sram65", "--floorplan", "x"], ["info", "emulator:sram65", "--profile", "x"]):
        refused = runner.invoke(cli, wrong)
        assert refused.exit_code == 2 and "is of a program: pimchip info model.pim --" in refused.stderr
    (tmp_path / "taken").write_text("")
    refused = runner.invoke(cli, ["info", str(path), "--floorplan", str(tmp_path / "taken" / "x")])
    assert refused.exit_code == 2 and "name a folder that can be made" in refused.stderr
