"""The executor, BN calibration on the chip, and deploy with what it must refuse."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.stats import binomtest
from torch import nn

import pimchip
from pimchip.board import Board, Stats
from pimchip.board.api import Capability
from pimchip.board.inprocess import InProcessBoard
from pimchip.characterize import characterize
from pimchip.chip import ChipSpec, Tile, load_chip
from pimchip.chip.mac import Int8
from pimchip.compiler import Program, compile_network
from pimchip.compiler.container import read_container, write_container
from pimchip.emulator.die import Die, IdealDie
from pimchip.emulator.virtual import VirtualBoard
from pimchip.errors import DeviceError, InputError, PimchipWarning, VerifyError
from pimchip.kernels import integer
from pimchip.profile import Profile
from pimchip.qat import convert
from pimchip.qat.data import Dataset, Split
from pimchip.qat.models import Block
from pimchip.runtime import Accuracy, Deployed, Executor, accuracy, calibrate, predict_accuracy
from pimchip.runtime.calibrate import moments

# Networks here are smaller than those that a chip is of use for.
pytestmark = [pytest.mark.filterwarnings("ignore:no layer is on the chip:pimchip.errors.PimchipWarning")]

IMAGE = (2, 6, 6)
CLASSES = tuple("abcd")


def chip(macros: int = 2, rows: int = 17, **changes: dict[str, Any]) -> ChipSpec:
    """Small arrays; rows of 17 at 8 bits give each sum of bit_serial its own code."""
    data = load_chip("sram65").to_dict()
    data["array"] |= {"macros": macros, "rows": rows, "columns": 32}
    data["adc"] |= {"bits": 8, "per_macro": 4, "range_divisors": [1, 2]}
    data["operating"] |= {"rows": rows}
    for section, values in changes.items():
        data[section] |= values
    return ChipSpec.from_dict(data)


SPEC = chip()


def ideal_board(spec: ChipSpec = SPEC, lacks: frozenset[Capability] = frozenset()) -> Board:
    return InProcessBoard(VirtualBoard(spec, IdealDie(spec), noise_seed=None, temperature=25), "ideal", lacks)


def real_board(die: int = 0, spec: ChipSpec = SPEC, lacks: frozenset[Capability] = frozenset()) -> Board:
    return InProcessBoard(VirtualBoard(spec, Die(spec, die), noise_seed=0, temperature=25), f"die {die}", lacks)


class Net(nn.Module):
    """Two 2-d BNs that a sum joins, one of a layer with a bias, and a 1-d one."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(2, 4, 3, padding=1)
        self.bn = nn.BatchNorm2d(4)
        self.act = nn.ReLU()
        self.block = Block(4, 6, 2)
        self.flatten = nn.Flatten()
        self.hidden = nn.Linear(54, 8, bias=True)
        self.bn1 = nn.BatchNorm1d(8)
        self.act1 = nn.ReLU()
        self.fc = nn.Linear(8, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.flatten(self.block(self.act(self.bn(self.conv(x)))))
        return self.fc(self.act1(self.bn1(self.hidden(x))))  # type: ignore[no-any-return]


def network(seed: int = 0, **options: Any) -> nn.Module:
    torch.manual_seed(seed)
    return convert(Net(), SPEC, activation_scale=1.0, **options).eval()  # so that every converter matters


def compiled(net: nn.Module | None = None, spec: ChipSpec = SPEC) -> Program:
    return compile_network(net or network(), spec, IMAGE, CLASSES)


def some_images(count: int, seed: int = 0) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, (count, *IMAGE)).astype(np.uint8)


def dataset(train: int = 60, test: int = 40) -> Dataset:
    """Images whose class is where they are bright."""
    splits = []
    for count, seed in ((train, 0), (test, 1)):
        images, labels = some_images(count, seed) // 3, np.arange(count) % 4
        for image, label in zip(images, labels, strict=True):
            image[:, (label // 2) * 3 : (label // 2) * 3 + 3, (label % 2) * 3 : (label % 2) * 3 + 3] += 150
        splits.append(Split(images, labels.astype(np.int64)))
    return Dataset("corners", CLASSES, *splits, "none")


class TestCalibration:
    @pytest.mark.parametrize(("count", "batch_size"), [(40, 40), (40, 10), (37, 10)])
    @pytest.mark.parametrize("lacks", [frozenset(), frozenset({"stats"})])
    def test_is_torchs_cumulative_average_where_the_chip_is_the_digital_network(
        self, count: int, batch_size: int, lacks: frozenset[Capability]
    ) -> None:
        """A code a count, ideal die: batches through BatchNorm2d in training with momentum None, float64.

        Later layers see activations that may round the other way within 2^-15 of a half, so a tie moves a mean by up
        to a step over the batch; the seeds here have none, and what is left is float64 over sums of up to 4000 values
        and the integers that normalize: 1e-7 of the deviation.
        """
        images = some_images(count)
        program = compiled()
        with ideal_board(lacks=lacks) as board:
            batches = -(-count // batch_size)
            found = calibrate(Executor(program, board), images, batches=batches, batch_size=batch_size)

        twin = network(digital=True).double()
        norms = {name: m for name, m in twin.named_modules() if isinstance(m, nn.BatchNorm2d | nn.BatchNorm1d)}
        for m in norms.values():
            m.reset_running_stats()
            m.momentum = None
            m.train()
        with torch.no_grad():
            for first in range(0, count, batch_size):
                twin(torch.from_numpy(images[first : first + batch_size]).double() / 255)
        layers = {
            "bn": "conv", "block.bn1": "block.conv1", "block.bn2": "block.conv2", "block.shortcut.1": "block.shortcut.0",
            "bn1": "hidden",
        }  # fmt: skip
        assert norms.keys() == layers.keys()
        for name, m in norms.items():
            mean, var = found.tensors[f"norm.{layers[name]}.mean"], found.tensors[f"norm.{layers[name]}.var"]
            assert m.running_var is not None
            assert m.running_mean is not None
            deviation = m.running_var.sqrt().numpy()
            assert np.abs((mean - m.running_mean.numpy()) / deviation).max() < 1e-7
            assert np.abs(var / m.running_var.numpy() - 1).max() < 1e-7

    def test_changes_nothing_but_means_and_variances_of_batch_norms(self) -> None:
        program = compiled()
        before = {name: tensor.copy() for name, tensor in program.tensors.items()}
        with real_board() as board:
            found = calibrate(Executor(program, board), some_images(30), batches=3, batch_size=10)
        assert found.manifest == program.manifest
        for name, tensor in before.items():
            assert np.array_equal(program.tensors[name], tensor)
            moved = name.startswith("norm.") and name.endswith((".mean", ".var")) and not name.startswith("norm.fc.")
            assert np.array_equal(found.tensors[name], tensor) == (not moved), name

    def test_does_not_depend_on_the_statistics_before(self) -> None:
        net = network()
        found = []
        for scale in (1.0, 3.0):
            with torch.no_grad():
                for name, value in net.named_buffers():
                    if name.endswith(("running_mean", "running_var")):
                        value.add_(scale - 1)
            with real_board() as board:
                calibrated = calibrate(Executor(compiled(net), board), some_images(20), batches=2, batch_size=10)
            found.append({k: v for k, v in calibrated.tensors.items() if k.endswith((".mean", ".var"))})
        assert all(np.array_equal(value, found[1][name]) for name, value in found[0].items() if "fc" not in name)

    def test_takes_the_batches_asked_for_and_says_how_far_it_is(self) -> None:
        told: list[tuple[int, int]] = []
        images = some_images(50)
        with ideal_board() as board:
            executor = Executor(compiled(), board)

            def tell(done: int, total: int) -> None:
                told.append((done, total))

            three = calibrate(executor, images, batches=3, batch_size=10, progress=tell)
            alone = calibrate(executor, images[:30], batches=100, batch_size=10)
        assert told == [(1, 3), (2, 3), (3, 3)]
        assert all(np.array_equal(v, alone.tensors[k]) for k, v in three.tensors.items())

    def test_removes_the_offsets_of_the_converters(self) -> None:
        """Where no code clips, an offset leaves nothing in the logits but the phase of the rounding."""
        spec = chip(
            adc={"bits": 12, "gain_sigma": 0, "inl_master": 0, "inl_residual": 0, "offset_array_sigma": 0}
            | {"offset_sigma": 40},
            noise={"array_sigma": 0, "adc_sigma": 0},
        )
        torch.manual_seed(0)
        net, images = convert(Net(), spec, scheme="native"), some_images(64, 5)
        for m in net.modules():
            if isinstance(m, nn.BatchNorm2d | nn.BatchNorm1d):
                m.momentum = None
        net.train()(torch.from_numpy(images).float() / 255)
        program = compile_network(net, spec, IMAGE, CLASSES)
        with ideal_board(spec) as board:
            wanted = Executor(program, board).logits(images).astype(float)
        lost = np.zeros(2)
        for die in range(4):  # which phases of the rounding are left differs from die to die
            with real_board(die, spec) as board:
                executor = Executor(program, board)
                before = executor.logits(images)
                after = executor.with_program(calibrate(executor, images, batches=1, batch_size=64)).logits(images)
                lost += [np.square(logits - wanted).sum() for logits in (before, after)]
        assert lost[1] < 0.02 * lost[0]

    def test_a_batch_without_a_variance_is_refused(self) -> None:
        with ideal_board() as board, pytest.raises(InputError, match="layer hidden: one value a channel"):
            calibrate(Executor(compiled(), board), some_images(1), batches=1, batch_size=1)

    @pytest.mark.parametrize(("images", "batches", "batch_size"), [(0, 1, 10), (10, 0, 10), (10, 1, 0), (10, -1, 10)])
    def test_nothing_to_calibrate_with_is_refused(self, images: int, batches: int, batch_size: int) -> None:
        with ideal_board() as board, pytest.raises(InputError, match="at least one batch of one image"):
            calibrate(Executor(compiled(), board), some_images(images), batches=batches, batch_size=batch_size)

    def test_a_batch_beyond_the_boards_memory_is_refused(self) -> None:
        spec = chip(board={"feature_memory": 16384})
        with ideal_board(spec) as board:
            executor = Executor(compiled(spec=spec), board)
            fit = executor.batch_size()
            assert 1 <= fit < 50
            with pytest.raises(InputError, match=f"a calibration batch of {fit + 1} images .* {fit} do"):
                calibrate(executor, some_images(60), batches=1, batch_size=fit + 1)
            calibrate(executor, some_images(60), batches=1, batch_size=fit)

    @given(st.lists(st.lists(st.integers(-(2**31), 2**31 - 1), min_size=3, max_size=3), min_size=1, max_size=40))
    def test_moments_are_exact(self, rows: list[list[int]]) -> None:
        columns = list(zip(*rows, strict=True))
        total = np.array([sum(c) for c in columns], np.int64)
        squares = [sum(v * v for v in c) for c in columns]
        if max(squares) >= 1 << 63:
            return
        mean, var = moments(Stats(len(rows), total, np.array(squares, np.int64)))
        for j, column in enumerate(columns):
            exact = Fraction(sum(column), len(rows))
            spread = sum((v - exact) ** 2 for v in map(Fraction, column)) / len(rows)
            assert mean[j] == pytest.approx(float(exact), rel=1e-15)
            assert var[j] == pytest.approx(float(spread), rel=1e-14)

    def test_a_small_spread_on_a_large_mean_is_not_lost(self) -> None:
        values = np.array([2**30, 2**30 + 1, 2**30 + 1, 2**30 + 3], np.int32).reshape(4, 1, 1, 1)
        _, var = moments(Stats(*integer.stats(values)))
        assert var[0] == float(Fraction(19, 16))


class TestExecutor:
    def test_another_chips_board_is_refused(self) -> None:
        with ideal_board(chip(macros=3)) as board, pytest.raises(InputError, match="name a device of that chip"):
            Executor(compiled(), board)

    @pytest.mark.parametrize(
        "images",
        [
            some_images(2).astype(np.float32),
            some_images(2)[0],
            some_images(2)[:, :1],
            some_images(2)[:, :, :5],
            some_images(2).astype(np.int64),
        ],
        ids=["float", "one image", "channels", "height", "int64"],
    )
    def test_images_of_another_shape_or_type_are_refused(self, images: NDArray[Any]) -> None:
        with ideal_board() as board, pytest.raises(InputError, match=r"the network takes uint8 \[n, 2, 6, 6\]"):
            Executor(compiled(), board).logits(images)

    def test_no_images_give_no_logits(self) -> None:
        with ideal_board() as board:
            assert Executor(compiled(), board).logits(some_images(0)).shape == (0, 4)

    def test_all_buffers_are_given_back(self) -> None:
        virtual = VirtualBoard(SPEC, IdealDie(SPEC), noise_seed=None, temperature=25)
        with InProcessBoard(virtual, "x") as board:
            executor = Executor(compiled(), board)
            executor.logits(some_images(3))
            calibrate(executor, some_images(4), batches=2, batch_size=2)
            for buffer in range(100):
                with pytest.raises(InputError, match="is empty"):
                    board.download(buffer)

    def test_batches_fit_the_memory_of_the_board(self) -> None:
        """The board itself refuses what does not fit, so a run of many images shows that batches are cut."""
        spec = chip(board={"feature_memory": 16384})
        program = compiled(spec=spec)
        with ideal_board(spec) as board:
            executor = Executor(program, board)
            assert executor.batch_size() < 20
            small = executor.logits(some_images(64))
        with ideal_board() as board:
            assert np.array_equal(small, Executor(compiled(), board).logits(some_images(64)))

    def test_an_image_that_does_not_fit_is_refused(self) -> None:
        spec = chip(board={"feature_memory": 1024})
        with ideal_board(spec) as board, pytest.raises(InputError, match="one image's maps take"):
            Executor(compiled(spec=spec), board).logits(some_images(1))

    def test_a_pass_that_is_there_is_not_programmed_again(self) -> None:
        spec = chip(macros=40)
        program = compiled(spec=spec)
        assert program.manifest.passes == 1
        with ideal_board(spec) as board:
            executor = Executor(program, board)
            executor.logits(some_images(2))
            writes = board.counters()["cell_writes"]
            assert writes == program.cells_used
            assert (executor.report.tiles, executor.report.cells) == (program.tiles, program.cells_used)
            executor.logits(some_images(2))
            executor.with_program(program).logits(some_images(2))
            assert board.counters()["cell_writes"] == writes

    @pytest.mark.parametrize("macros", [1, 40])
    def test_two_programs_may_take_turns_on_a_board(self, macros: int) -> None:
        spec = chip(macros=macros)
        programs = [compiled(network(seed), spec) for seed in (0, 1)]
        alone = []
        for p in programs:
            with ideal_board(spec) as board:
                alone.append(Executor(p, board).logits(some_images(4)))
        with ideal_board(spec) as board:
            executors = [Executor(p, board) for p in programs]
            executors.append(executors[0].with_program(programs[0]))
            for turn in (0, 1, 0, 2, 1, 2, 0):
                assert np.array_equal(executors[turn].logits(some_images(4)), alone[turn % 2])

    def test_weights_that_something_else_overwrote_are_programmed_again(self) -> None:
        spec = chip(macros=40)
        with ideal_board(spec) as board:
            executor = Executor(compiled(spec=spec), board)
            before = executor.logits(some_images(4))
            assert board.selftest().ok
            assert np.array_equal(executor.logits(some_images(4)), before)

    def test_a_pass_that_failed_half_way_is_not_taken_for_loaded(self) -> None:
        program = compiled()
        assert program.manifest.passes > 1

        class Breaks(InProcessBoard):
            left = 10**9

            def _read_cells(self, tile: Tile) -> Int8:
                self.left -= 1
                if self.left < 0:
                    raise DeviceError("the link is gone")
                return super()._read_cells(tile)

        first = [
            next(t for layer in program.manifest.layers.values() for t in layer.tiles if t.residency == residency)
            for residency in range(program.manifest.passes)
        ]
        places = [t.placement().tile for t in first]
        pairs = [(a, b) for b in range(len(places)) for a in range(b) if places[a] == places[b]]
        before, after = pairs[0]  # the first tile of both is at one place, so the board alone cannot tell
        board = Breaks(VirtualBoard(SPEC, IdealDie(SPEC), noise_seed=None, temperature=25), "breaks")
        executor = Executor(program, board)
        wanted = executor.logits(some_images(3))
        executor.load_pass(before)
        board.left = 0
        with pytest.raises(DeviceError, match="link is gone"):
            executor.load_pass(after)
        board.left = 10**9
        executor.load_pass(before)
        for name, layer in program.manifest.layers.items():
            for t in layer.tiles:
                if t.residency == before:
                    held = board._read_cells(t.placement().tile)
                    group = slice(t.group * 17, t.group * 17 + t.rows)
                    cells = layer.operating_point().cells(program.tensors[f"weight.{name}"])[group]
                    assert np.array_equal(held, cells[:, t.first_column : t.first_column + t.columns])
        assert np.array_equal(executor.logits(some_images(3)), wanted)

    def test_conversions_are_those_the_program_states(self) -> None:
        program = compiled()
        with ideal_board() as board:
            Executor(program, board).logits(some_images(3))
            assert board.counters()["conversions"] == 3 * program.conversions_per_image

    def test_a_board_without_conv_is_a_device_error(self) -> None:
        with (
            ideal_board(lacks=frozenset({"conv"})) as board,
            pytest.raises(DeviceError, match="cannot run layers"),
        ):
            Executor(compiled(), board).logits(some_images(1))


class Lying(InProcessBoard):
    """Reads one cell back wrong."""

    reads = 0
    always = True

    def _read_cells(self, tile: Tile) -> Int8:
        cells = super()._read_cells(tile)
        self.reads += 1
        if tile.macro == 1 and (self.always or self.reads % 2):
            cells[tile.rows - 1, 0] ^= 1
        return cells


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> Profile:
    """Die 0, trimmed away from the middle, measured quickly."""
    with real_board() as board:
        for adc in range(8):
            board.trim(adc, 10 + adc)
        found = characterize(board, points=[SPEC.mac()], half_width=0.3, out=tmp_path_factory.mktemp("profiles"))
    assert found.trim == tuple(range(10, 18))
    return found


@pytest.fixture
def deployed() -> Iterator[Deployed]:
    with real_board() as board:
        yield pimchip.deploy(compiled(), board, dataset(), bn_batches=2, bn_batch_size=20)


class TestDeploy:
    def test_reports_accuracy_before_and_after_on_the_test_images(self, deployed: Deployed) -> None:
        data = dataset()
        assert deployed.before is not None
        assert deployed.after is not None
        assert deployed.predicted is None
        assert deployed.profile_hash is None
        assert deployed.verify_errors == 0
        assert deployed.before.images == deployed.after.images == 40
        logits = deployed(torch.from_numpy(data.test.images))
        assert deployed.after.right == int((logits.argmax(1) == torch.from_numpy(data.test.labels)).sum())

    def test_without_data_it_programs_and_calibrates_nothing(self) -> None:
        program = compiled()
        with real_board() as board:
            held = pimchip.deploy(program, board)
            assert board.counters()["cell_writes"] > 0
            assert held.before is held.after is held.predicted is None
            assert held.program is program

    def test_is_callable_like_a_module(self, deployed: Deployed) -> None:
        images = some_images(6)
        assert deployed.executor is not None
        wanted = deployed.executor.logits(images) * deployed.program.manifest.logit_scale
        for given_images in (torch.from_numpy(images), torch.from_numpy(images).float() / 255):
            logits = deployed(given_images)
            assert logits.dtype == torch.float32
            np.testing.assert_allclose(logits.numpy(), wanted, rtol=1e-6)

    def test_floats_go_to_the_nearest_pixel(self, deployed: Deployed) -> None:
        images = torch.from_numpy(some_images(4))
        shifted = images.double() / 255 + 0.4 / 255  # above 1 too, by less than rounding takes out
        assert torch.equal(deployed(shifted), deployed(images))

    @pytest.mark.parametrize(
        ("images", "told"),
        [
            (torch.zeros(2, 1, 6, 6), r"uint8 \[2, 1, 6, 6\]; the network takes uint8 \[n, 2, 6, 6\]"),
            (torch.zeros(2, 6, 6), r"\[2, 6, 6\]"),
            (torch.zeros(2, 2, 6, 7), r"\[2, 2, 6, 7\]"),
            (torch.zeros(2, 2, 6, 6).long(), "images are int64; uint8, or floats"),
            (np.zeros((2, 2, 6, 6), np.uint8), r"a numpy array; .* torch\.from_numpy\(images\)"),
            ([[0.0]], "images is a list"),
            (torch.full((2, 2, 6, 6), math.nan), "2 of the 2 images given hold NaN"),
            (torch.stack([torch.zeros(2, 6, 6), torch.full((2, 6, 6), -math.inf)]), "1 of the 2 images"),
            (torch.full((2, 2, 6, 6), 254.0), "reach from 254 to 254; .* divide them by 255"),
            (
                torch.linspace(-2.1, 2.6, 144).reshape(2, 2, 6, 6),
                r"reach from -2\.1 to 2\.6; .* without a mean taken off",
            ),
        ],
    )
    def test_other_images_are_refused(self, deployed: Deployed, images: Any, told: str) -> None:
        with pytest.raises(InputError, match=told):
            deployed(images)

    @pytest.mark.parametrize(
        ("wrong", "told"),
        [
            (lambda p, b: pimchip.deploy("model.pim", b), r"program is a str; .*Program\.load"),
            (lambda p, b: pimchip.deploy(p, "emulator:sram65"), r"board is a str; .*open_board"),
            (lambda p, b: pimchip.deploy(p, b, np.zeros(3)), "data is a numpy array; a Dataset is wanted"),
            (lambda p, b: pimchip.deploy(p, b, profile="folder"), r"profile is a str; .*Profile\.load"),
        ],
    )
    def test_what_is_of_another_kind_is_refused(self, deployed: Deployed, wrong: Any, told: str) -> None:
        with pytest.raises(InputError, match=told):
            wrong(deployed.program, ideal_board())

    def test_round_trip_gives_identical_logits(self, deployed: Deployed, tmp_path: Path) -> None:
        images = torch.from_numpy(some_images(10))
        wanted = deployed(images)
        deployed.save(tmp_path / "net.deployed")
        held = Deployed.load(tmp_path / "net.deployed")
        assert (held.uid, held.before, held.after, held.trim) == (
            deployed.uid, deployed.before, deployed.after, deployed.trim,
        )  # fmt: skip
        with pytest.raises(InputError, match=r"no board; use attach\(board\)"):
            held(images)
        with real_board() as board:
            held.attach(board)
            assert torch.equal(held(images), wanted)

    def test_a_die_it_was_not_calibrated_for_is_refused(self, deployed: Deployed) -> None:
        with real_board(die=1) as board, pytest.raises(InputError, match=r"calibrated for die emu-.*-0000.*-0001"):
            deployed.attach(board)

    def test_the_trim_of_the_calibration_comes_back_with_attach(self, tmp_path: Path) -> None:
        images = torch.from_numpy(some_images(10))
        with real_board() as board:
            for adc in range(8):
                board.trim(adc, 3 * adc)
            held = pimchip.deploy(compiled(), board, dataset(), bn_batches=1, bn_batch_size=20)
            wanted = held(images)
            held.save(tmp_path / "net.deployed")
        assert held.trim == tuple(range(0, 24, 3))
        with real_board() as board:
            again = Deployed.load(tmp_path / "net.deployed")
            again.attach(board)
            assert [board.registers()[f"trim{adc}"] for adc in range(8)] == list(range(0, 24, 3))
            assert torch.equal(again(images), wanted)
        with real_board(lacks=frozenset({"trim"})) as board, pytest.raises(DeviceError, match="lacks trim"):
            Deployed.load(tmp_path / "net.deployed").attach(board)

    @pytest.mark.parametrize(
        ("key", "value"),
        [
            ("uid", None), ("uid", 3), ("results", None), ("results", {"before": [5, 4]}), ("results", {"after": [0, 0]}),
            ("results", {"predicted": ["1", 2]}), ("results", {"before": 0.5}), ("program", None), ("program", {}),
            ("trim", None), ("trim", [1.5]), ("trim", [-1]), ("profile_hash", 5),
            ("data", 5),
        ],
    )  # fmt: skip
    def test_a_deployed_file_with_a_wrong_part(self, deployed: Deployed, tmp_path: Path, key: str, value: Any) -> None:
        path = tmp_path / "net.deployed"
        deployed.save(path)
        manifest, tensors = read_container(path, "deployed")
        write_container(path, "deployed", manifest | {key: value}, tensors)
        with pytest.raises(InputError, match=r"net\.deployed"):
            Deployed.load(path)

    def test_a_deployed_file_of_before_names_no_data_set(self, deployed: Deployed, tmp_path: Path) -> None:
        path = tmp_path / "net.deployed"
        deployed.save(path)
        manifest, tensors = read_container(path, "deployed")
        assert manifest.pop("data") == Deployed.load(path).data == "corners"
        write_container(path, "deployed", manifest, tensors)
        assert Deployed.load(path).data == ""

    def test_a_program_is_no_deployed_file_and_the_reverse(self, deployed: Deployed, tmp_path: Path) -> None:
        deployed.save(tmp_path / "net.deployed")
        deployed.program.save(tmp_path / "net.pim")
        with pytest.raises(InputError, match="is a deployed file; a program file is wanted"):
            Program.load(tmp_path / "net.deployed")
        with pytest.raises(InputError, match="is a program file; a deployed file is wanted"):
            Deployed.load(tmp_path / "net.pim")

    @pytest.mark.parametrize("always", [True, False])
    def test_a_read_back_that_differs_is_a_verify_error(self, always: bool) -> None:
        board = Lying(VirtualBoard(SPEC, IdealDie(SPEC), noise_seed=None, temperature=25), "lies")
        board.always = always
        executor = Executor(compiled(), board)
        with pytest.raises(VerifyError) as caught:
            executor.logits(some_images(1))
        message = str(caught.value)
        assert re.search(r"macro 1 rows \d+\.\.(\d+) .*: rows \[\d+\] read back wrong", message)
        assert ("a second read agrees" if always else "a second read differs") in message
        assert caught.value.exit_code == 1
        assert executor.report.errors
        with pytest.raises(VerifyError):  # it is not taken for loaded
            executor.logits(some_images(1))

    def test_cells_that_ignored_a_pulse_get_another(self) -> None:
        spec = chip(cells={"write_failure": 0.003})
        with real_board(spec=spec) as board:
            deployed = pimchip.deploy(compiled(spec=spec), board)
            took = deployed.programmed
            assert deployed.verify_errors == 0 and 0 < took.repulsed <= took.extra_pulses < 2 * took.repulsed
            written = board.counters()["cell_writes"]
        assert took.cells < written < took.cells * (1 + took.extra_pulses)

    def test_what_no_pulse_mends_is_an_error(self) -> None:
        spec = chip(cells={"stuck_full": 0.01})
        with real_board(spec=spec) as board:
            executor = Executor(compiled(spec=spec), board)
            with pytest.raises(VerifyError, match=r"read back wrong after 5 pulses \(a second read agrees\)"):
                executor.load_pass(0)
            assert len(executor.report.errors) == executor.report.repulsed
            assert executor.report.extra_pulses == 4 * executor.report.repulsed

    def test_deploy_stops_at_a_verify_error(self) -> None:
        board = Lying(VirtualBoard(SPEC, IdealDie(SPEC), noise_seed=None, temperature=25), "lies")
        with pytest.raises(VerifyError):
            pimchip.deploy(compiled(), board, dataset())

    def test_tells_how_far_it_is(self) -> None:
        told: list[tuple[str, int, int]] = []
        with ideal_board() as board:
            pimchip.deploy(
                compiled(), board, dataset(), bn_batches=2, bn_batch_size=20, on_progress=lambda *a: told.append(a)
            )
        assert list(dict.fromkeys(what for what, _, _ in told)) == [
            "programming", "accuracy before", "BN calibration", "accuracy after",
        ]  # fmt: skip
        assert all(0 < done <= total for _, done, total in told)

    def test_a_network_all_digital_deploys_as_well(self) -> None:
        net = convert(nn.Sequential(nn.Flatten(), nn.Linear(72, 4)), SPEC)
        with ideal_board() as board:
            held = pimchip.deploy(compiled(net), board, dataset())
            assert held.after == held.before
            assert board.counters()["cell_writes"] == 0

    def test_a_network_without_bn_is_told_to_have_nothing_to_calibrate(self) -> None:
        net = convert(nn.Sequential(nn.Flatten(), nn.Linear(72, 8), nn.ReLU(), nn.Linear(8, 4)), SPEC, pim_skip="first")
        with real_board() as board, pytest.warns(PimchipWarning, match="no BN to calibrate.*--on-die"):
            held = pimchip.deploy(compiled(net), board, dataset())
        assert held.program is not None and held.after is not None
        with real_board() as board:  # nothing is asked for that would want a calibration
            assert pimchip.deploy(compiled(net), board).after is None

    def test_a_program_is_told_in_a_line(self) -> None:
        net = convert(nn.Sequential(nn.Flatten(), nn.Linear(72, 8), nn.ReLU(), nn.Linear(8, 4)), SPEC, pim_skip="first")
        # The first layer stays on the processor; 4 outputs of 4 planes and 8 rows fit one tile.
        assert repr(compiled(net)) == "Program('network' for sram65: 1 of 2 layers on the chip, 1 tile in 1 pass)"
        assert len(repr(compiled())) < 100


class TestWithAProfile:
    def test_another_profile_than_that_of_compiling_is_told(self, measured: Profile) -> None:
        with real_board() as board, pytest.warns(PimchipWarning, match="compiled under another profile .*the latter"):
            pimchip.deploy(compiled().with_profile("0" * 64), board, profile=measured)
        with real_board() as board:
            assert pimchip.deploy(compiled().with_profile(measured.hash), board, profile=measured).before is None

    def test_loads_the_trim_and_predicts_from_the_profile_alone(self, measured: Profile) -> None:
        data = dataset()
        with real_board() as board:
            held = pimchip.deploy(compiled(), board, data, profile=measured, bn_batches=2, bn_batch_size=20)
            assert [board.registers()[f"trim{adc}"] for adc in range(8)] == list(range(10, 18))
        assert held.profile_hash == measured.hash
        assert held.trim == measured.trim
        assert held.predicted == predict_accuracy(compiled(), measured, data, 2, 20)

    def test_a_profile_of_another_die_is_refused_and_nothing_is_written(self, measured: Profile) -> None:
        with real_board(die=1) as board:
            before = dict(board.registers())
            with pytest.raises(InputError, match=r"is of die emu-.*-0000; this board is die .*-0001"):
                pimchip.deploy(compiled(), board, dataset(), profile=measured)
            assert board.registers() == before

    def test_a_board_of_another_chip_is_refused(self, measured: Profile) -> None:
        with (
            real_board(spec=chip(macros=3)) as board,
            pytest.raises(InputError, match="name a device of that chip"),
        ):
            pimchip.deploy(compiled(), board, dataset(), profile=measured)

    def test_an_operating_point_that_was_not_measured_is_refused(self, measured: Profile) -> None:
        net = network(range_divisor=2)
        with real_board() as board, pytest.raises(InputError, match="range"):
            pimchip.deploy(compiled(net), board, dataset(), profile=measured)
        with pytest.raises(InputError, match="range"):
            pimchip.compile(net, torch.zeros(1, *IMAGE), SPEC, measured)

    def test_compiling_for_a_profile_of_another_chip_is_refused(self, measured: Profile) -> None:
        other = chip(macros=3)
        with pytest.raises(InputError, match="characterize that chip"):
            pimchip.compile(network(), torch.zeros(1, *IMAGE), other, measured)
        assert pimchip.compile(network(), torch.zeros(1, *IMAGE), SPEC, measured).manifest.profile_hash == measured.hash

    def test_a_profile_that_lost_its_trim_is_refused(self, measured: Profile) -> None:
        broken = replace(measured, method=measured.method | {"trim": "none"})
        with real_board() as board, pytest.raises(InputError, match="trim is no list of codes"):
            pimchip.deploy(compiled(), board, dataset(), profile=broken)


class TestAccuracy:
    @given(st.integers(1, 2000).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
    def test_the_interval_is_wilsons(self, counts: tuple[int, int]) -> None:
        right, images = counts
        wanted = binomtest(right, images).proportion_ci(0.95, "wilson")
        low, high = Accuracy(right, images).interval
        assert low == pytest.approx(wanted.low, abs=1e-12)
        assert high == pytest.approx(wanted.high, abs=1e-12)

    def test_counts_the_largest_logit_and_the_first_of_equals(self) -> None:
        logits = np.array([[1, 5, 2], [7, 7, 0], [0, 7, 7], [3, 2, 1]])
        found = accuracy(logits, np.array([1, 0, 2, 0]))
        assert (found.right, found.images, found.value) == (3, 4, 0.75)
        assert found.keys("x") == {"x": 0.75, "x_interval": list(found.interval)}
        assert str(found).startswith("75.0 % (")
