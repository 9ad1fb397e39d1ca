"""Sign planes converted several times: the same integers without noise, less noise with it, on any board."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import firmware
import numpy as np
import pytest
from flows import DIE, call, small_case
from serving import twin
from test_runtime import SPEC, compiled, dataset, some_images

from pimchip.board import Board
from pimchip.board.inprocess import InProcessBoard
from pimchip.chip import PimLayer, Placement, Tile
from pimchip.emulator.die import Die
from pimchip.emulator.virtual import VirtualBoard
from pimchip.errors import InputError
from pimchip.runtime import Deployed, Executor, deploy
from pimchip.runtime.repeats import parts

pytestmark = [pytest.mark.filterwarnings("ignore:no layer is on the chip:pimchip.errors.PimchipWarning")]
WITHOUT = firmware.missing("gcc", "make")


def board_of(noise: int | None, lacks: Any = frozenset()) -> Board:
    return InProcessBoard(VirtualBoard(SPEC, Die(SPEC, 0), noise_seed=noise), "x", lacks)


def test_parts_hold_each_column_once(monkeypatch: Any) -> None:
    program = compiled()
    for name, record in program.manifest.layers.items():
        if record.kind != "pim":
            continue
        layer = program.layer(name)
        planes, held = layer.mac.planes, dict[tuple[int, int], tuple[int, int, bool]]()
        for part, sign in zip(parts(layer), (False, True), strict=True):
            for p in part.placements:
                for at in range(p.tile.columns):
                    key = p.group, p.first_column + at
                    assert key not in held and ((p.first_column + at) % planes == planes - 1) == sign
                    held[key] = p.tile.macro, p.tile.column + at, sign
        whole = {
            (p.group, p.first_column + at): (p.tile.macro, p.tile.column + at)
            for p in layer.placements
            for at in range(p.tile.columns)
        }
        assert {key: value[:2] for key, value in held.items()} == whole


def test_a_tile_may_begin_within_an_output() -> None:
    mac = SPEC.mac()
    layer = PimLayer("x", mac, compiled().layer("block.conv1").geometry, (Placement(Tile(0, 0, 5, 17, 6), 0, 2),))
    others, signs = (
        [(p.first_column, p.tile.column, p.tile.columns) for p in part.placements] for part in parts(layer)
    )
    assert mac.planes == 4
    assert signs == [(3, 6, 1), (7, 10, 1)] and others == [(2, 5, 1), (4, 7, 3)]


@pytest.mark.parametrize("repeats", [2, 8])
def test_a_silent_die_gives_the_same(repeats: int) -> None:
    program, images = compiled(), some_images(12)
    with board_of(None) as board:
        wanted = Executor(program, board).logits(images)
        counted = board.counters()["conversions"]
        assert np.array_equal(Executor(program, board, sign_repeats=repeats).logits(images), wanted)
        # Of four planes, one is converted `repeats` times.
        assert board.counters()["conversions"] - counted == counted * (3 + repeats) // 4


def test_noise_of_a_layers_sums_falls_as_it_should() -> None:
    """Planes of one sigma: (21 + 64 / repeats) / 85 of the variance, and a 12th for rounding; within 8 %, as converters
    differ in noise and slope."""
    program, x = compiled(), np.random.default_rng(0).integers(0, 16, (50, 4, 6, 6))
    name = "block.conv1"
    found = {}
    for repeats in (1, 2, 8):
        with board_of(3) as board:
            executor = Executor(program, board, sign_repeats=repeats)
            board.upload(50, x)
            draws = []
            for number in range(12):
                executor.run_layer(name, 50, 51, run=0, first_image=number * len(x))
                draws.append(board.download(51).astype(float))
            found[repeats] = np.var(draws, axis=0, ddof=1).mean()
    for repeats in (2, 8):
        expected = (21 + 64 / repeats) / 85 * found[1] + 1 / 12
        assert found[repeats] == pytest.approx(expected, rel=0.08)


def test_deployments_keep_it_and_batches_do_not_matter(tmp_path: Path) -> None:
    program, data = compiled(), dataset(40, 20)
    with board_of(0) as board:
        deployed = deploy(program, board, data, bn_batches=2, bn_batch_size=20, sign_repeats=4)
        assert deployed.executor is not None
        wanted = deployed.executor.logits(data.test.images)
        deployed.save(tmp_path / "d")
    held = Deployed.load(tmp_path / "d")
    with board_of(0) as board:
        executor = held.attach(board)
        assert executor.sign_repeats == 4
        found = [executor.logits(data.test.images[at : at + 7], first_image=at) for at in range(0, 20, 7)]
    assert np.array_equal(np.concatenate(found), wanted)


def test_what_cannot_be_averaged_is_refused() -> None:
    with board_of(0) as board, pytest.raises(InputError, match="sign_repeats = 3: want one of 1, 2, 4, 8, 16"):
        Executor(compiled(), board, sign_repeats=3)
    with board_of(0, frozenset({"add"})) as board, pytest.raises(InputError, match="lacks conv or add"):
        Executor(compiled(), board, sign_repeats=2)


@pytest.mark.skipif(bool(WITHOUT), reason=WITHOUT)
def test_the_firmware_gives_the_same(host_twin: Path, tmp_path: Path) -> None:
    case = small_case(tmp_path)
    device = f"emulator:{case.chip}?{DIE}"
    given = ["--bn-batches", "2", "--bn-batch-size", "40", "--limit", "40", "--sign-repeats", "4", "--out"]
    here = call("deploy", str(case.program), "--device", device, *given, str(tmp_path / "here"))
    plain = call("deploy", str(case.program), "--device", device, *given[:6], "--out", str(tmp_path / "plain"))
    with twin(host_twin, case.die) as url:
        there = call("deploy", str(case.program), "--device", url, *given, str(tmp_path / "there"))
        predictions = call("infer", str(tmp_path / "there"), "--device", url, "--limit", "40")["predictions"]
    assert predictions == call("infer", str(tmp_path / "here"), "--device", device, "--limit", "40")["predictions"]
    assert there["accuracy_after_bn"] == here["accuracy_after_bn"] and here["sign_repeats"] == 4
    norms = [Deployed.load(tmp_path / name).program.tensors for name in ("here", "there", "plain")]
    assert all(np.array_equal(norms[0][key], norms[1][key]) for key in norms[0])
    assert plain["sign_repeats"] == 1 and any(not np.array_equal(norms[0][key], norms[2][key]) for key in norms[0])
