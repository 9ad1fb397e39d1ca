"""The board dies in the middle: the host notices, says so, programs it again, and the result is the same."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from pathlib import Path

import firmware
import numpy as np
import pytest
from flows import DIE, Case, call, small_case
from serving import emulated, twin

from pimchip.board import open_board
from pimchip.board.emulated import emulated as described
from pimchip.board.linked import LinkBoard
from pimchip.board.restarts import conditions
from pimchip.characterize import characterize, default_points
from pimchip.chip import Tile
from pimchip.compiler.program import Program
from pimchip.emulator.requests import BoardRequests
from pimchip.errors import PimchipWarning, RestartedError
from pimchip.link.constants import Op
from pimchip.link.frames import Frame
from pimchip.link.inprocess import InProcessTransport
from pimchip.link.link import Link
from pimchip.link.server import Server
from pimchip.runtime import deploy
from pimchip.workflows.images import load_matching

WITHOUT = firmware.missing("gcc", "make")


@pytest.fixture(scope="module")
def mlp(tmp_path_factory: pytest.TempPathFactory) -> Case:
    return small_case(tmp_path_factory.mktemp("mlp"))


class Mortal(InProcessTransport):
    """A line to a board that dies after the requests with these numbers, before its answer is out."""

    def __init__(self, server: Server, deaths: set[int]) -> None:
        super().__init__(server)
        self.server, self.deaths, self.ops = server, deaths, list[int]()
        server.watch = lambda boot, frame: self.ops.append(frame.op)

    def write(self, data: bytes) -> None:
        before = len(self.ops)
        super().write(data)
        if self.deaths & set(range(before, len(self.ops))):
            self.server.restart()


def mortal(case: Case, deaths: set[int]) -> tuple[LinkBoard, Mortal]:
    url = f"emulator:{case.chip}?{DIE}"
    line = Mortal(Server(BoardRequests(described(url).board)), deaths)
    return LinkBoard(Link(line, "mortal"), "mortal"), line


def outcome(case: Case, deaths: set[int]) -> tuple[list[int], list[str], list[float], np.ndarray, list[int]]:
    """Ops, warnings, accuracies, logits and registers of a deployment."""
    program = Program.load(case.program)
    data = load_matching(program.manifest, "digits", None, 60)
    board, line = mortal(case, deaths)
    with board, warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always", PimchipWarning)
        found = deploy(program, board, data, bn_batches=2, bn_batch_size=30)
        assert found.executor is not None and found.before is not None and found.after is not None
        logits = found.executor.logits(data.test.images)
    said = [str(w.message) for w in told if issubclass(w.category, PimchipWarning)]
    return line.ops, said, [found.before.value, found.after.value], logits, list(found.trim)


@pytest.fixture(scope="module")
def undisturbed(mlp: Case) -> tuple[list[int], list[str], list[float], np.ndarray, list[int]]:
    return outcome(mlp, set())


@pytest.mark.parametrize(
    "op", [Op.BEGIN, Op.WRITE, Op.COMMIT, Op.PROGRAM, Op.VERIFY, Op.CONV, Op.STATS, Op.MAP, Op.FREE]
)
def test_a_deployment_goes_on_whatever_the_board_was_doing(mlp: Case, undisturbed: tuple, op: Op) -> None:
    ops, said, accuracies, logits, trim = undisturbed
    assert not said
    at = [number for number, done in enumerate(ops) if done == op]
    for number in {at[0], at[len(at) // 2]}:
        _, warned, *result = outcome(mlp, {number})
        assert len(warned) == 1 and "mortal restarted" in warned[0] and "programming it again" in warned[0]
        assert result[0] == accuracies and np.array_equal(result[1], logits) and result[2] == trim


def test_a_board_that_dies_again_and_again_is_given_up(mlp: Case) -> None:
    with pytest.raises(RestartedError, match="mortal restarted"):
        outcome(mlp, set(range(3, 10_000)))


def test_a_characterization_goes_on_with_the_same_noise(mlp: Case, tmp_path: Path) -> None:
    def counts(name: str, deaths: set[int]) -> tuple[list[int], dict[str, np.ndarray]]:
        board, line = mortal(mlp, deaths)
        with board:
            points = default_points(board.info().spec, adc_bits=None, range_divisors=None)
            found = characterize(
                board, points=points, half_width=0.2, reads=16, adcs=[0, 40], seed=3, out=tmp_path / name
            )
        with np.load(found.path / "counts.npz") as held:
            return line.ops, {key: held[key] for key in held.files}

    ops, wanted = counts("alive", set())
    for number, op in enumerate(ops):
        if op in (Op.PROGRAM, Op.CONVERT):
            with pytest.warns(PimchipWarning, match="programming it again"):
                _, found = counts(f"died-{number}", {number})
            assert found.keys() == wanted.keys() and all(np.array_equal(found[key], wanted[key]) for key in wanted)


class Restless(InProcessTransport):
    """A line to a board that restarts just before these frames come to it, counted from 0; HELLO is one."""

    def __init__(self, server: Server, before: set[int]) -> None:
        super().__init__(server)
        self.server, self.before, self.frames = server, before, 0

    def write(self, data: bytes) -> None:
        for part in data.split(b"\0")[:-1]:
            if part:
                if self.frames in self.before:
                    self.server.restart()
                self.frames += 1
                super().write(part + b"\0")


def test_a_board_that_restarts_while_it_is_opened_or_first_asked_has_lost_nothing(
    mlp: Case, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pimchip.board.description._held", {})
    url = f"emulator:{mlp.chip}?{DIE}"

    def conditions_after(before: set[int]) -> tuple[object, int]:
        monkeypatch.setattr("pimchip.board.description._held", {})
        line = Restless(Server(BoardRequests(described(url).board)), before)
        with LinkBoard(Link(line, "restless"), "restless") as board, warnings.catch_warnings():
            warnings.simplefilter("ignore", PimchipWarning)
            return conditions(board), line.frames

    wanted, frames = conditions_after(set())
    for number in range(1, frames):
        found, more = conditions_after({number})
        assert found == wanted and more > frames


def test_a_restart_that_only_an_abandoned_call_saw_is_told_all_the_same(mlp: Case) -> None:
    board, line = mortal(mlp, set())
    tile = Tile(0, 0, 0, 2, 8)
    with board:
        board.program(tile, np.ones((2, 8), np.int8))
        line.server.restart()
        with pytest.raises(RestartedError):
            board._living.request(Op.LINK)  # as a call does that Ctrl-C took from whoever waited for it
        with pytest.raises(RestartedError, match="mortal restarted: .*program it again"):
            board.convert(tile, np.ones((1, 2), np.int64))
        board.program(tile, np.ones((2, 8), np.int8))
        assert board.convert(tile, np.ones((1, 2), np.int64)).shape == (1, 1, 8)


def test_trims_are_written_again(tmp_path: Path) -> None:
    line = Mortal(Server(BoardRequests(described("emulator:sram65?die=1").board)), set())
    with LinkBoard(Link(line, "mortal"), "mortal") as board:
        board.trim(3, 9)
        line.server.restart()
        with pytest.raises(RestartedError):
            board.temperature()
        assert board.registers()["trim3"] == 9


def test_commands_say_that_the_board_restarted_and_give_the_same(mlp: Case) -> None:
    device = f"emulator:{mlp.chip}?{DIE}"
    with emulated("--listen", "tcp://127.0.0.1:0", "--device", device, "--faults", "11:kill=0.01") as url:
        given = ["--bn-batches", "2", "--bn-batch-size", "30", "--limit", "60"]
        there = call("deploy", str(mlp.program), "--device", url, *given, "--out", str(mlp.folder / "there.deployed"))
    here = call("deploy", str(mlp.program), "--device", device, *given, "--out", str(mlp.folder / "here.deployed"))
    assert any("restarted" in text for text in there["warnings"])
    for key in ("accuracy_before_bn", "accuracy_after_bn", "tiles", "verify_errors"):
        assert there[key] == here[key]


@pytest.mark.skipif(bool(WITHOUT), reason=WITHOUT)
def test_a_firmware_that_is_killed_is_another_boot(mlp: Case, host_twin: Path) -> None:
    tile = Tile(0, 0, 0, 128, 256)
    cells, x = np.ones((128, 256), np.int8), np.full((4, 128), 3)
    with twin(host_twin, mlp.die) as url:
        board = open_board(url)
        board.program(tile, cells)
        before = board.convert(tile, x)
    with twin(host_twin, mlp.die, url), board:
        with pytest.raises(RestartedError, match=r"restarted: what was programmed .* program it again"):
            board.convert(tile, x)
        assert not board.holds(tile)
        board.program(tile, cells)
        assert board.verify(tile).ok and np.array_equal(board.convert(tile, x), before)


class TestHosts:
    """A host dies, or its line, at every request of a transfer; another one goes on."""

    def cells(self, case: Case) -> tuple[Tile, np.ndarray]:
        tile = Tile(0, 0, 0, 128, 256)
        return tile, np.random.default_rng(0).integers(0, 2, (128, 256)).astype(np.int8)

    def test_a_transfer_resumes_with_what_is_missing(self, mlp: Case) -> None:
        tile, cells = self.cells(mlp)
        chunks = -(-cells.size // 4096)
        for died_after in range(1, chunks + 3):
            server = Server(BoardRequests(described(f"emulator:{mlp.chip}?{DIE}").board))
            for host in cut_short(server, died_after):
                with pytest.raises(KeyboardInterrupt):
                    host.program(tile, cells)
            seen = list[Frame]()
            server.watch = lambda boot, frame, seen=seen: seen.append(frame)  # type: ignore[misc]
            with LinkBoard(Link(InProcessTransport(server), "second"), "second") as board:
                board.program(tile, cells)
                assert board.verify(tile).ok
            sent = sum(frame.op == Op.WRITE for frame in seen)
            had = min(max(died_after - 1, 0), chunks)
            assert sent == (chunks if died_after == chunks + 2 else chunks - had)


def cut_short(server: Server, after: int) -> Iterator[LinkBoard]:
    """A host whose line ends, and who ends too, once so many requests of its own were executed."""
    line = Dying(server)
    board = LinkBoard(Link(line, "first"), "first")
    line.left = after
    yield board
    board._link._stop()
    server.hung_up(line.line)


class Dying(InProcessTransport):
    """Executes request by request; when none is left, whoever sends is killed."""

    left = 1 << 30

    @property
    def line(self) -> object:
        return self._line

    def write(self, data: bytes) -> None:
        for part in data.split(b"\0")[:-1]:
            if not self.left and part:
                raise KeyboardInterrupt
            before = self._server.executed  # which copies that a slow machine makes the host send do not count into
            super().write(part + b"\0")
            self.left -= self._server.executed - before
