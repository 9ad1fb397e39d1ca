"""deploy as steps with records: what still holds is skipped, and whatever cuts a run short, the next ends in the same state."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import warnings
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from flows import DIE, Case, call, small_case
from serving import emulated
from test_restarts import Dying
from test_runtime import SPEC, compiled, dataset, real_board

from pimchip.board import Board
from pimchip.board.emulated import emulated as described
from pimchip.board.inprocess import InProcessBoard
from pimchip.board.linked import LinkBoard
from pimchip.characterize import characterize
from pimchip.compiler import Program
from pimchip.emulator.die import Die
from pimchip.emulator.requests import BoardRequests
from pimchip.emulator.virtual import VirtualBoard
from pimchip.errors import InputError, PimchipWarning
from pimchip.link.link import Link
from pimchip.link.server import Server
from pimchip.runtime import Deployed, deploy
from pimchip.runtime.steps import Steps
from pimchip.workflows.images import load_matching

pytestmark = [pytest.mark.filterwarnings("ignore:no layer is on the chip:pimchip.errors.PimchipWarning")]
DATA = dataset(40, 20)
OPTIONS: dict[str, Any] = {"bn_batches": 2, "bn_batch_size": 10}
LONG = ["evaluate-before", "calibrate", "evaluate", "levels"]
DATA_IMAGES = torch.from_numpy(DATA.test.images)


@pytest.fixture(scope="module")
def program() -> Program:
    return compiled()


@pytest.fixture(scope="module")
def mlp(tmp_path_factory: pytest.TempPathFactory) -> Case:
    return small_case(tmp_path_factory.mktemp("mlp"))


def states(steps: Steps) -> dict[str, str]:
    return {done.name: done.state for done in steps.done}


def why(steps: Steps) -> dict[str, str]:
    return {done.name: done.why for done in steps.done if done.why}


def run(program: Program, board: Board, folder: Path | None, **options: Any) -> tuple[Deployed, Steps]:
    steps = Steps(folder)
    return deploy(program, board, DATA, steps=steps, **(OPTIONS | options)), steps


def saved(deployed: Deployed, path: Path) -> bytes:
    deployed.save(path)
    return path.read_bytes()


class TestWhatHolds:
    def test_on_the_same_board_nothing_is_done_again(self, program: Program, tmp_path: Path) -> None:
        with real_board() as board:
            first, steps = run(program, board, tmp_path / "steps")
            assert states(steps) == dict.fromkeys(["program", "verify", *LONG], "done")
            before = board.counters()
            second, steps = run(program, board, tmp_path / "steps")
            after = board.counters()
            assert states(steps) == {"program": "kept", "verify": "done", **dict.fromkeys(LONG, "kept")}
            assert after["cell_writes"] == before["cell_writes"] and after["conversions"] == before["conversions"]
            tiles = [tile for layer in program.manifest.layers.values() for tile in layer.tiles]
            last = sum(t.rows * t.columns for t in tiles if t.residency == program.manifest.passes - 1)
            assert after["bytes_out"] - before["bytes_out"] == last > 0  # what is on the board is read back
            logits = second(DATA_IMAGES)  # what was recognized can be run
        assert saved(first, tmp_path / "a") == saved(second, tmp_path / "b")
        with real_board() as board:
            first.attach(board)
            assert np.array_equal(first(DATA_IMAGES), logits)

    def test_what_programs_cells_or_trims_between_costs_the_programming_alone(
        self, program: Program, tmp_path: Path
    ) -> None:
        tile = next(t for layer in program.manifest.layers.values() for t in layer.tiles).placement().tile
        with real_board() as board:
            run(program, board, tmp_path)
            board.program(tile, np.zeros((tile.rows, tile.columns), np.int8))
            _, steps = run(program, board, tmp_path)
        assert states(steps)["program"] == "done" and why(steps) == {"program": "cells or trims were written since"}
        assert all(states(steps)[name] == "kept" for name in LONG)
        with real_board() as board:
            _, steps = run(program, board, tmp_path)
        assert why(steps) == {"program": "the board was restarted since"}

    def test_cells_that_changed_by_themselves_are_seen(
        self, program: Program, tmp_path: Path, monkeypatch: Any
    ) -> None:
        with real_board() as board:
            run(program, board, tmp_path)
            read = board._read_cells
            with monkeypatch.context() as patch:
                patch.setattr(board, "_read_cells", lambda tile: read(tile) ^ 1)
                found = Steps(tmp_path)
                patch.setattr(board, "program_tiles", lambda content, progress: pytest.fail("programmed"))
                with pytest.raises(pytest.fail.Exception):
                    deploy(program, board, DATA, steps=found, **OPTIONS)
            _, steps = run(program, board, tmp_path)
        assert states(steps)["program"] == "kept"

    @pytest.mark.parametrize(
        ("changed", "anew"),
        [
            ({"bn_batches": 3}, {"calibrate", "evaluate", "levels"}),
            ({"bn_mode": "sequential"}, {"calibrate", "evaluate", "levels"}),
            ({"origin": {"seed": 1}}, set(LONG)),
            ({"data": dataset(40, 19)}, {"evaluate-before", "evaluate"}),
            ({"board": 1}, {"program", *LONG}),
        ],
    )
    def test_what_changed_is_done_anew(
        self, program: Program, tmp_path: Path, changed: dict[str, Any], anew: set[str]
    ) -> None:
        with real_board() as board:
            run(program, board, tmp_path)
            given = {"data": DATA, **OPTIONS, **changed}
            other = real_board(given.pop("board")) if "board" in given else board
            steps = Steps(tmp_path)
            again = deploy(program, other, steps=steps, **given)
            assert {name for name, state in states(steps).items() if state == "done"} - {"verify"} == anew
            fresh = deploy(program, real_board(changed.get("board", 0)), **given)
        assert saved(again, tmp_path / "a") == saved(fresh, tmp_path / "b")

    def test_a_hotter_die_is_measured_again(self, program: Program, tmp_path: Path) -> None:
        """Held to the margin within which a profile counts."""

        def at(celsius: float) -> dict[str, str]:
            virtual = VirtualBoard(SPEC, Die(SPEC, 0), noise_seed=0, temperature=celsius)
            with InProcessBoard(virtual, "x") as board:
                return why(run(program, board, tmp_path)[1])

        assert not at(25.0)
        assert set(at(29.0)) == {"program"}
        text = "the die was at 25 °C, is at 45 °C"
        found = at(45.0)
        assert found.pop("evaluate") == found.pop("levels") == "changed: program"  # of other statistics
        assert found == {"program": "the board was restarted since", **dict.fromkeys(LONG[:2], text)}

    def test_damaged_records_are_done_again(self, program: Program, tmp_path: Path) -> None:
        with real_board() as board:
            first, _ = run(program, board, tmp_path)
            for file in tmp_path.iterdir():
                whole = file.read_bytes()
                for broken in (b"", whole[: len(whole) // 2], whole[:-1] + bytes([whole[-1] ^ 1])):
                    file.write_bytes(broken)
                    again, steps = run(program, board, tmp_path)
                    assert saved(again, tmp_path.parent / "a") == saved(first, tmp_path.parent / "b")


def test_a_stale_profile_is_refused(program: Program, tmp_path: Path) -> None:
    with real_board() as board:
        profile = characterize(board, points=list(program.adcs_used()), reads=16, out=tmp_path)
        deploy(program, board, profile=profile)
    with InProcessBoard(VirtualBoard(SPEC, Die(SPEC, 0), noise_seed=0, temperature=45), "hot") as board:
        with pytest.raises(InputError, match="the profile is stale: the die is at 45 °C, .* measures it again"):
            deploy(program, board, profile=profile)
        assert board.counters()["cell_writes"] == 0
        with pytest.warns(PimchipWarning, match="the prediction holds for the latter"):
            deploy(program, board, profile=profile, stale_profile=True)


class Cut(InProcessBoard):
    """A board whose host is cut short (Ctrl-C) at its n-th call from here on."""

    left = -1

    @property
    def _board(self) -> VirtualBoard:
        if self.left == 0:
            raise KeyboardInterrupt
        self.left -= 1
        return super()._board


def cut_board(left: int) -> Cut:
    board = Cut(VirtualBoard(SPEC, Die(SPEC, 0), noise_seed=0, temperature=25), "cut")
    board.left = left
    return board


@pytest.mark.parametrize("mode", ["parallel", "sequential"])
def test_interrupted_at_any_call_of_the_board_the_next_run_ends_the_same(
    program: Program, tmp_path: Path, mode: str, monkeypatch: Any
) -> None:
    """At 25 calls spread over the run, each on a fresh board; and one after the other in one folder."""
    monkeypatch.setattr("pimchip.runtime.executor.BATCH_MAX", 10)  # so that evaluation is in parts
    with cut_board(1 << 30) as whole:
        wanted, _ = run(program, whole, None, bn_mode=mode)
        calls = (1 << 30) - whole.left
    expected = saved(wanted, tmp_path / "whole")
    points = np.unique(np.linspace(0, calls - 1, 25).astype(int)).tolist()
    interrupted = 0
    for point in points:
        folder = tmp_path / f"at{point}"
        with cut_board(point) as board, suppress(KeyboardInterrupt):
            run(program, board, folder, bn_mode=mode)
            continue
        interrupted += 1
        with cut_board(-1) as board:
            found, _ = run(program, board, folder, bn_mode=mode)
        assert saved(found, tmp_path / "x") == expected
        assert not list(folder.glob(".unfinished/*"))
    assert interrupted >= len(points) - 1
    tries = 0
    while tries < calls:  # a host that never gets far gets there all the same
        tries += 1
        with cut_board(calls // 2) as board, suppress(KeyboardInterrupt):
            found, _ = run(program, board, tmp_path / "again", bn_mode=mode)
            break
    assert 1 < tries < 6 and saved(found, tmp_path / "x") == expected


def test_parts_of_a_step_that_changed_are_dropped_once_it_is_done(program: Program, tmp_path: Path) -> None:
    """Cut under one choice of images, done under another: nothing will ever go on with the first."""
    with cut_board(1 << 30) as whole:
        run(program, whole, None)
        calls = (1 << 30) - whole.left
    with cut_board(calls - 2) as board, suppress(KeyboardInterrupt):
        run(program, board, tmp_path, bn_mode="sequential")
    assert list(tmp_path.glob(".unfinished/*"))
    with cut_board(-1) as board:
        run(program, board, tmp_path, bn_mode="parallel")
    assert not list(tmp_path.glob(".unfinished/*"))


def test_interrupted_at_any_write_of_a_record(program: Program, tmp_path: Path, monkeypatch: Any) -> None:
    with real_board() as board:
        expected = saved(run(program, board, None)[0], tmp_path / "whole")
    renamed, at = os.replace, [1 << 30]

    def cut(a: Any, b: Any, *rest: Any) -> None:
        at[0] -= 1
        if at[0] < 0:
            raise KeyboardInterrupt
        renamed(a, b, *rest)

    monkeypatch.setattr("pimchip.files.os.replace", cut)
    for point in range(100):
        at[0] = point
        folder = tmp_path / f"at{point}"
        with real_board() as board:
            with suppress(KeyboardInterrupt):
                run(program, board, folder)
                break
            at[0] = 1 << 30
            found, _ = run(program, board, folder)
            assert saved(found, tmp_path / "x") == expected
    assert 5 < point < 99


def hosts(case: Case, server: Server, folder: Path, after: int | None) -> tuple[Deployed | None, Steps]:
    """A host on a board that stays, cut off after so many requests."""
    program = Program.load(case.program)
    data = load_matching(program.manifest, "digits", None, 40)
    line, steps = Dying(server), Steps(folder)
    board = LinkBoard(Link(line, "host"), "host")
    line.left = 1 << 30 if after is None else after
    found = None
    with suppress(KeyboardInterrupt), warnings.catch_warnings():
        warnings.simplefilter("error", PimchipWarning)
        found = deploy(program, board, data, bn_batches=2, bn_batch_size=20, steps=steps)
        found.save(folder.with_suffix(".deployed"))
    used = (1 << 30) - line.left
    line.left = 1 << 30
    board._link._stop()
    server.hung_up(line.line)
    steps.requests = used  # type: ignore[attr-defined]
    return found, steps


def test_another_host_goes_on_at_a_board_that_stayed(mlp: Case, tmp_path: Path, monkeypatch: Any) -> None:
    """And at one that was switched off and on meanwhile; the cells are only written again there."""
    monkeypatch.setattr("pimchip.runtime.executor.BATCH_MAX", 20)

    def board() -> Server:
        return Server(BoardRequests(described(f"emulator:{mlp.chip}?{DIE}").board))

    _, whole = hosts(mlp, board(), tmp_path / "whole", None)
    total = whole.requests  # type: ignore[attr-defined]
    expected = (tmp_path / "whole.deployed").read_bytes()
    kept = 0
    for number, point in enumerate(np.linspace(1, total - 1, 12).astype(int).tolist()):
        server, folder = board(), tmp_path / f"at{point}"
        found, first = hosts(mlp, server, folder, point)
        assert found is None
        if number % 3 == 2:
            server.restart()
        found, second = hosts(mlp, server, folder, None)
        assert folder.with_suffix(".deployed").read_bytes() == expected
        programmed = "program" in states(first)
        assert (states(second)["program"] == "kept") == (programmed and number % 3 != 2)
        kept += states(second)["program"] == "kept"
    assert kept > 2


def cut_command(arguments: list[str], ready: Callable[[], bool]) -> int:
    """The exit code of a command that gets Ctrl-C as soon as `ready`."""
    with subprocess.Popen([sys.executable, "-m", "pimchip", *arguments], stderr=subprocess.PIPE) as process:
        while process.poll() is None and not ready():
            time.sleep(0.002)
        process.send_signal(signal.SIGINT)
        said = process.communicate(timeout=60)[1].decode()
    assert "goes on where it stopped" in said and "Traceback" not in said
    return process.returncode


def test_the_command_goes_on_after_ctrl_c(mlp: Case, tmp_path: Path) -> None:
    given = ["--bn-batches", "40", "--bn-batch-size", "25", "--limit", "60"]
    with emulated("--listen", "tcp://127.0.0.1:0", "--device", f"emulator:{mlp.chip}?{DIE}") as url:
        deploying = ["deploy", str(mlp.model), "--device", url, *given, "--out"]
        out = tmp_path / "cut.deployed"
        steps = tmp_path / "cut.deployed.steps"
        code = cut_command([*deploying, str(out)], lambda: bool(list(steps.glob(".unfinished/*/batch3.npz"))))
        assert code == 130 and not out.exists()
        resumed = call(*deploying, str(out))
        by_name = {step["name"]: step["state"] for step in resumed["steps"]}
        assert by_name["compile"] == by_name["program"] == by_name["evaluate-before"] == "kept"
        assert by_name["calibrate"] == "resumed"
        whole = call(*deploying, str(tmp_path / "whole.deployed"))
        assert {step["state"] for step in whole["steps"] if step["name"] != "trim"} == {"done"}
        assert out.read_bytes() == (tmp_path / "whole.deployed").read_bytes()
        for key in ("accuracy_before_bn", "accuracy_after_bn", "tiles", "passes", "verify_errors", "images"):
            assert resumed[key] == whole[key]
        assert call(*deploying, str(out), "--fresh")["steps"][0]["state"] == "done"
    record = json.loads((steps / "calibrate.json").read_text())
    assert record["step"] == "calibrate" and record["result"]["batches"] == 40 and record["finished"]
