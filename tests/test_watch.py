"""BN calibration that goes on until its statistics are known, layer by layer, drift that calls for it anew, and soaking."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from flows import DIE, Case, call, small_case
from serving import emulated
from test_runtime import SPEC, chip, compiled, dataset, ideal_board, network, some_images
from torch import nn

from pimchip.board import Board
from pimchip.board.inprocess import InProcessBoard
from pimchip.chip import ChipSpec
from pimchip.cli.main import cli
from pimchip.compiler import Program
from pimchip.emulator.die import Die
from pimchip.emulator.state import Around
from pimchip.emulator.virtual import VirtualBoard
from pimchip.errors import InputError
from pimchip.runtime import Deployed, Executor, deploy
from pimchip.runtime.calibrate import Plan, calibrated, standard_error
from pimchip.runtime.soak import soak
from pimchip.runtime.watch import TOLERANCE, Levels, Watcher, measure

pytestmark = [pytest.mark.filterwarnings("ignore:no layer is on the chip:pimchip.errors.PimchipWarning")]
DATA = dataset(60, 40)


class Oven:
    """What is around a die, to be heated."""

    def __init__(self) -> None:
        self.temperature = 25.0

    def __call__(self) -> Around:
        return Around(self.temperature, SPEC.supply.volts)


def drifting(oven: Oven, spec: ChipSpec, noise: int | None = 0) -> Board:
    return InProcessBoard(VirtualBoard(spec, Die(spec, 1), noise_seed=noise, follows=oven), "oven")


WARM = chip(adc={"offset_drift_sigma": 0.2})


@pytest.fixture(scope="module")
def warm() -> Program:
    return compiled(spec=WARM)


class TestStopping:
    @pytest.mark.parametrize("batches", [5, 40])
    def test_standard_errors_are_those_of_normal_values(self, batches: int) -> None:
        """Of n values each: the mean's is 1 / sqrt(batches n) deviations, the deviation's 1 / sqrt(2 batches n); over 2000
        channels the root mean square is that within 2 %."""
        n, rng = 25, np.random.default_rng(0)
        scales = rng.uniform(0.1, 10, 2000)
        values = rng.normal(3, 1, (batches, n, 2000)) * scales
        means, variances = values.mean(axis=1), values.var(axis=1, ddof=1)
        assert standard_error(means, variances) == pytest.approx(1 / np.sqrt(batches * n), rel=0.03)
        wide = standard_error(np.zeros((batches, 2000)), variances)
        assert wide == pytest.approx(np.sqrt((n / (n - 1)) / (2 * batches * n)), rel=0.03)

    def test_channels_that_never_vary_do_not_count(self) -> None:
        means, variances = np.array([[1.0, 5.0], [1.2, 5.0]]), np.array([[1.0, 0.0], [1.0, 0.0]])
        assert standard_error(means, variances) == standard_error(means[:, :1], variances[:, :1]) > 0
        assert standard_error(means[:, 1:], variances[:, 1:]) == 0

    @pytest.mark.parametrize("mode", ["parallel", "sequential"])
    def test_takes_the_first_number_of_batches_that_is_enough(self, mode: Any) -> None:
        images = some_images(200)
        with ideal_board() as board:
            executor = Executor(compiled(), board)
            fixed = [calibrated(executor, images, Plan(b, 10, mode)).standard_error for b in range(4, 15)]
            assert all(error is not None for error in fixed)
            wanted = next(b for b in range(5, 15) if fixed[b - 4] < fixed[1])  # type: ignore[operator]
            tolerance = fixed[wanted - 4]
            found = calibrated(executor, images, Plan(None, 10, mode, tolerance))
            assert found.enough and found.standard_error is not None and found.standard_error <= tolerance
            if mode == "parallel":
                assert found.batches == min(b for b in range(4, 15) if fixed[b - 4] <= tolerance)
                once = calibrated(executor, images, Plan(found.batches, 10)).program.tensors
                assert all(np.array_equal(once[name], found.program.tensors[name]) for name in once)
            all_of_them = calibrated(executor, images[:60], Plan(None, 10, mode, 1e-6))
        assert all_of_them.batches == 6 and not all_of_them.enough

    def test_refuses_what_is_no_plan(self) -> None:
        for wrong in ({"batches": 0}, {"batch_size": 0}, {"tolerance": 0.0}, {"tolerance": 1.0}):
            with pytest.raises(InputError):
                Plan(**wrong)  # type: ignore[arg-type]


def test_sequential_gives_each_layer_the_statistics_of_what_comes_to_it() -> None:
    """A code a count, ideal die: torch's BN in evaluation, set one after the other to the mean and unbiased variance of all
    its inputs. Later layers see activations that may round the other way; see the parallel test."""
    images = some_images(40)
    with ideal_board() as board:
        found = calibrated(Executor(compiled(), board), images, Plan(4, 10, "sequential")).program
    twin = network(digital=True).double().eval()
    norms = {name: m for name, m in twin.named_modules() if isinstance(m, nn.BatchNorm2d | nn.BatchNorm1d)}
    layers = {
        "bn": "conv", "block.bn1": "block.conv1", "block.bn2": "block.conv2", "block.shortcut.1": "block.shortcut.0",
        "bn1": "hidden",
    }  # fmt: skip
    for name, layer in layers.items():
        seen = list[torch.Tensor]()
        handle = norms[name].register_forward_pre_hook(lambda m, given, seen=seen: seen.append(given[0].detach()))
        with torch.no_grad():
            twin(torch.from_numpy(images).double() / 255)
        handle.remove()
        values = seen[0].transpose(0, 1).reshape(seen[0].shape[1], -1)
        norms[name].running_mean, norms[name].running_var = values.mean(dim=1), values.var(dim=1, unbiased=True)
        mean, var = found.tensors[f"norm.{layer}.mean"], found.tensors[f"norm.{layer}.var"]
        deviation = values.std(dim=1).numpy()
        assert np.abs((mean - values.mean(dim=1).numpy()) / deviation).max() < 1e-7
        assert np.abs(var / values.var(dim=1).numpy() - 1).max() < 1e-7


class TestDrift:
    def test_nothing_is_done_on_a_die_that_stays(self, warm: Program) -> None:
        with drifting(Oven(), WARM) as board:
            deployed = deploy(warm, board, DATA, bn_batches=2, bn_batch_size=30)
            program = deployed.program
            watcher = Watcher(deployed, DATA, Plan(2, 30))
            checks = [watcher.check() for _ in range(5)]
        assert deployed.program is program and deployed.levels is not None
        assert not any(check.recalibrated for check in checks)
        assert max(check.shift for check in checks) < deployed.levels.tolerance
        assert len({check.shift for check in checks}) == 5  # of noise that differs

    def test_a_die_that_warms_up_is_calibrated_anew(self, warm: Program) -> None:
        """And to what a deployment at that temperature finds."""
        oven = Oven()
        with drifting(oven, WARM) as board:
            deployed = deploy(warm, board, DATA, bn_batches=2, bn_batch_size=30)
            cold = deployed.program.tensors
            watcher = Watcher(deployed, DATA, Plan(2, 30))
            assert not watcher.check().recalibrated
            oven.temperature = 60.0
            check = watcher.check()
            assert check.recalibrated and check.shift > TOLERANCE and check.layer and check.temperature == 60.0
            assert check.left is not None and check.left < check.shift / 3
            assert not watcher.check().recalibrated
            there = deploy(warm, board, DATA, bn_batches=2, bn_batch_size=30).program.tensors
        means = [name for name in cold if name.endswith(".mean")]
        assert all(np.array_equal(there[name], deployed.program.tensors[name]) for name in means)
        assert any(not np.array_equal(there[name], cold[name]) for name in means)

    def test_shifts_are_root_mean_squares_in_deviations(self) -> None:
        before = Levels(10, {"a": np.array([1.0, 2.0])}, {"a": np.array([2.0, 4.0])})
        moved = Levels(10, {"a": np.array([2.0, 4.0])}, {"a": np.array([2.0, 4.0])})
        assert before.shift_to(before) == (0.0, "a")
        assert before.shift_to(moved) == (0.5, "a")
        wider = Levels(10, {"a": np.array([1.0, 2.0])}, {"a": np.array([3.0, 4.0])})
        assert before.shift_to(wider)[0] == pytest.approx(np.sqrt(0.5**2 / 2))
        constant = Levels(10, {"a": np.array([1.0, 2.0])}, {"a": np.array([0.0, 4.0])})  # a tenth of sqrt(8) stands in
        jumped = Levels(10, {"a": np.array([1.1, 2.0])}, {"a": np.array([0.0, 4.0])})
        assert constant.shift_to(jumped)[0] == pytest.approx(0.1 / 0.1 / np.sqrt(8) / np.sqrt(2))
        dead = Levels(10, {"a": np.zeros(2)}, {"a": np.zeros(2)})
        assert dead.shift_to(dead) == (0.0, "")

    def test_levels_are_kept_with_what_was_deployed(self, warm: Program, tmp_path: Path) -> None:
        with drifting(Oven(), WARM) as board:
            deployed = deploy(warm, board, DATA, bn_batches=2, bn_batch_size=30)
            deployed.save(tmp_path / "a")
            held = Deployed.load(tmp_path / "a")
            with pytest.raises(InputError, match="no board"):
                Watcher(held, DATA, Plan(2, 30))
            held.attach(board)
            assert held.levels is not None and deployed.levels is not None
            assert held.levels.floor == deployed.levels.floor
            assert held.levels.shift_to(deployed.levels)[0] == 0
            assert Watcher(held, DATA, Plan(2, 30)).check().shift < held.levels.tolerance
            held.levels = None
            with pytest.raises(InputError, match="without levels"):
                Watcher(held, DATA, Plan(2, 30))

    def test_means_of_an_ideal_chip_are_those_of_the_sums(self) -> None:
        """Of the first layer, which a digital convolution gives too."""
        images = some_images(20)
        program = compiled()
        with ideal_board() as board:
            found = measure(Executor(program, board), images)
        weights = torch.from_numpy(program.tensors["weight.conv"]).double()
        record = program.manifest.layers["conv"]
        assert record.kind == "digital"
        sums = nn.functional.conv2d(torch.from_numpy(images).double(), weights, padding=1)
        np.testing.assert_allclose(found.means["conv"], sums.mean(dim=(0, 2, 3)).numpy(), rtol=1e-12)
        deviation = sums.transpose(0, 1).reshape(4, -1).std(dim=1, unbiased=False).numpy()
        np.testing.assert_allclose(found.deviations["conv"], deviation, rtol=1e-12)


class TestSoak:
    def run(self, board: Board, program: Program, seed: int = 0) -> Any:
        ticks = iter(range(1000))
        executor = Executor(program, board)
        given = {"seconds": 6, "seed": seed, "clock": lambda: next(ticks)}
        return soak(executor, DATA.test.images, DATA.train.images, **given)

    def test_a_sound_die_repeats_within_its_noise(self, warm: Program) -> None:
        with drifting(Oven(), WARM) as board:
            before = Executor(warm, board).logits(DATA.test.images)
            found = self.run(board, warm)
            assert np.array_equal(Executor(warm, board).logits(DATA.test.images), before)
        assert found.passed and len(found.rounds) > 2 and found.noise > 0
        assert all(0.7 < r.ratio < 1.4 for r in found.rounds)

    def test_a_silent_die_repeats_exactly(self, warm: Program) -> None:
        with drifting(Oven(), WARM, noise=None) as board:
            found = self.run(board, warm)
        assert found.passed and found.noise == 0 and {(r.ratio, r.agree, r.p) for r in found.rounds} == {(1, 1, 1)}

    def test_sound_dies_are_rarely_said_not_to(self) -> None:
        """Each with a chance of 1 % at most: of 20, two or more with 2 %."""
        program, failed = compiled(), 0
        for seed in range(20):
            with InProcessBoard(VirtualBoard(SPEC, Die(SPEC, 1), noise_seed=seed), "x") as board:
                failed += not self.run(board, program, seed).passed
        assert failed <= 1

    @pytest.mark.parametrize("noise", [0, None])
    def test_a_die_that_drifts_does_not(self, warm: Program, noise: int | None) -> None:
        oven = Oven()

        def clock() -> float:
            oven.temperature += 8.0
            return oven.temperature

        with drifting(oven, WARM, noise) as board:
            found = soak(Executor(warm, board), DATA.test.images, DATA.train.images, seconds=40.0, clock=clock)
        assert not found.passed and found.worst.ratio > 1.2


@pytest.fixture(scope="module")
def mlp(tmp_path_factory: pytest.TempPathFactory) -> Case:
    return small_case(tmp_path_factory.mktemp("mlp"))


def test_the_command_watches_a_board(mlp: Case, tmp_path: Path) -> None:
    given = ["--bn-batches", "2", "--bn-batch-size", "50", "--limit", "50", "--out", str(tmp_path / "d")]
    watching = ["--watch", "0.01", "--checks", "2"]
    with emulated("--listen", "tcp://127.0.0.1:0", "--device", f"emulator:{mlp.chip}?{DIE}") as url:
        deploying = ["deploy", str(mlp.program), "--device", url, *given]
        found = call(*deploying, "--soak", "0.001", *watching)
        assert found["soak"]["passed"] and found["soak"]["rounds"]
        assert [check["recalibrated"] for check in found["checks"]] == [False, False]
        found = call(*deploying, *watching, "--watch-tolerance", "1e-9")
        assert [check["recalibrated"] for check in found["checks"]] == [True, True]
        assert all(check["left"] > 0 for check in found["checks"])  # this network, of few codes, is noisy
        for text in ("--checks", "--watch-tolerance"):
            said = CliRunner().invoke(cli, [*deploying, text, "1"])
            assert said.exit_code == 2 and f"{text} is of --watch" in said.stderr
