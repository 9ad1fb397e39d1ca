"""Training with a board in the loop: what the array gives is what is trained on, and nothing else is different."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from flows import Case, small_case
from test_restarts import mortal
from torch import nn

from pimchip.board import Board, open_board
from pimchip.board.inprocess import InProcessBoard
from pimchip.characterize import characterize
from pimchip.chip import load_chip
from pimchip.chip.reference import pim_matmul
from pimchip.cli.main import cli
from pimchip.compiler import compile_network
from pimchip.emulator.die import Die
from pimchip.emulator.virtual import VirtualBoard
from pimchip.errors import InputError, PimchipWarning, VerifyError
from pimchip.link.constants import Op
from pimchip.qat import Settings, TrainState, build_model, convert, load_model, pim_layers, predict, save_model, train
from pimchip.qat.data import Dataset, load_dataset
from pimchip.runtime import Executor
from pimchip.runtime.finetune import finetune
from pimchip.runtime.inloop import InLoop

SPEC = load_chip("sram65")
ONE = Settings(epochs=1, learning_rate=0.02, deterministic=True)
DIE = "emulator:sram65?die=5&noise=off"


@pytest.fixture(scope="module")
def data() -> Dataset:
    return load_dataset("digits", limit_train=512, limit_test=200)


@pytest.fixture(scope="module")
def start(data: Dataset) -> nn.Module:
    network = convert(build_model("mlp", data.image_shape, len(data.classes)), SPEC, adc_bits=6)
    train(network, data, replace(ONE, epochs=8, learning_rate=0.1))
    return network


@pytest.fixture
def network(start: nn.Module) -> nn.Module:
    return copy.deepcopy(start)


@pytest.fixture
def board() -> Iterator[Board]:
    with open_board(DIE) as opened:
        yield opened


def weights(network: nn.Module) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in network.state_dict().items()}


def loop(network: nn.Module, board: Board, data: Dataset, **options: Any) -> InLoop:
    return InLoop(network, compile_network(network.eval(), SPEC, data.image_shape, data.classes), board, **options)


def test_an_ideal_die_trains_as_software_does(network: nn.Module, data: Dataset) -> None:
    beside = copy.deepcopy(network)
    reports = train(beside, data, ONE)
    with open_board("emulator:sram65?die=ideal") as ideal:
        found = finetune(network, ideal, data, ONE)
    assert found.reports[0].loss == pytest.approx(reports[0].loss, rel=1e-5)
    assert found.reports[0].accuracy == pytest.approx(reports[0].accuracy, abs=0.011)
    for name, value in weights(beside).items():
        torch.testing.assert_close(network.state_dict()[name], value, rtol=1e-4, atol=1e-5)
    for layer in pim_layers(network).values():
        assert layer.array is None


def test_a_layers_codes_are_the_references_on_an_ideal_die(data: Dataset) -> None:
    network = convert(build_model("tiny", data.image_shape, len(data.classes)), SPEC, adc_bits=5)
    generator = np.random.default_rng(1)
    with open_board("emulator:sram65?die=ideal") as ideal:
        made = loop(network, ideal, data)
        made.use(list(made.layers))
        for name in ("stages.0.0.conv2", "stages.1.0.conv1"):  # a 3x3 kernel, and one with a stride
            layer = made.layers[name]
            assert layer.array is not None
            x = generator.integers(0, 16, (2, layer.geometry.in_channels, 8, 8)).astype(np.int32)
            q = layer.integers().detach().numpy().astype(np.int8)
            codes = layer.array.codes(x, q)
            windows = torch.nn.functional.unfold(
                torch.from_numpy(x).double(), layer.geometry.kernel, padding=layer.geometry.padding,
                stride=layer.geometry.stride,
            )  # fmt: skip
            rows = windows.transpose(1, 2).reshape(-1, windows.shape[1]).long().numpy()
            mac = layer.mac
            wanted = pim_matmul(
                rows, q.reshape(len(q), -1).T.astype(np.int64), scheme=mac.scheme, rows=mac.rows,
                weight_bits=mac.weight_bits, act_bits=mac.act_bits, dac_bits=mac.dac_bits, adc_bits=mac.adc_bits,
                range_divisor=mac.range_divisor,
            )  # fmt: skip
            assert np.array_equal(codes.transpose(0, 2, 3, 1).reshape(-1, len(q)), wanted)


def test_what_is_trained_on_is_what_the_deployed_network_meets(network: nn.Module, board: Board, data: Dataset) -> None:
    """The same die, its noise off: the network in the loop and the program on the board tell digits alike."""
    made = loop(network, board, data)
    made.use(list(made.layers))
    in_loop = predict(network, data.test).argmax(1).numpy()
    made.use([])
    ideal = predict(network, data.test).argmax(1).numpy()
    program = compile_network(network.eval(), SPEC, data.image_shape, data.classes)
    deployed = Executor(program, board).logits(data.test.images).argmax(1)
    assert (in_loop == deployed).mean() >= 0.97 > (in_loop == ideal).mean() + 0.05


def test_layer_after_layer_is_frozen_and_programmed_once(network: nn.Module, board: Board, data: Dataset) -> None:
    stages: list[tuple[int, list[str]]] = []
    seen: list[dict[str, torch.Tensor]] = [weights(network)]
    names = list(pim_layers(network))
    found = finetune(
        network, board, data, ONE, mode="layers",
        on_stage=lambda epoch, on_chip: stages.append((epoch, on_chip)),
        on_epoch=lambda report, state: seen.append(weights(network)),
    )  # fmt: skip
    assert stages == [(0, names[:1]), (1, names)] and len(found.reports) == 2
    first, last = (f"{name}.weight" for name in names)
    assert torch.equal(seen[1][first], seen[0][first]) and not torch.equal(seen[1][last], seen[0][last])
    assert torch.equal(seen[2][last], seen[1][last]) and not torch.equal(
        seen[2]["layers.10.weight"], seen[1]["layers.10.weight"]
    )
    tiles = compile_network(network, SPEC, data.image_shape, data.classes).tiles
    assert found.tiles == tiles
    assert all(p.requires_grad for p in network.parameters())


def test_a_run_cut_after_an_epoch_ends_as_one_that_was_not(start: nn.Module, data: Dataset) -> None:
    """With noise, of which every step draws its own."""
    device, two = "emulator:sram65?die=5", replace(ONE, epochs=2)
    whole, cut = copy.deepcopy(start), copy.deepcopy(start)
    with open_board(device) as opened:
        finetune(whole, opened, data, two)
    kept: list[tuple[dict[str, Any], dict[str, torch.Tensor]]] = []

    def stop(report: object, state: TrainState) -> None:
        kept.append((copy.deepcopy(state.to_dict()), weights(cut)))
        raise KeyboardInterrupt

    with open_board(device) as opened, pytest.raises(KeyboardInterrupt):
        finetune(cut, opened, data, two, on_epoch=stop)
    assert all(layer.array is None for layer in pim_layers(cut).values())
    again = copy.deepcopy(start)
    again.load_state_dict(kept[0][1])
    with open_board(device) as opened:
        finetune(again, opened, data, two, state=TrainState.from_dict(kept[0][0]))
    for name, value in weights(whole).items():
        assert torch.equal(again.state_dict()[name], value), name


def test_a_board_that_restarts_is_programmed_again_and_the_result_is_the_same(tmp_path: Path) -> None:
    case: Case = small_case(tmp_path)
    data = load_dataset("digits", limit_train=96, limit_test=30)

    def outcome(deaths: set[int]) -> tuple[list[int], int, dict[str, torch.Tensor]]:
        network = load_model(case.model).build()
        board, line = mortal(case, deaths)
        with board, warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always", PimchipWarning)
            finetune(network, board, data, ONE)
        return line.ops, sum("restarted" in str(w.message) for w in told), weights(network)

    ops, none, wanted = outcome(set())
    runs = [number for number, op in enumerate(ops) if op == Op.CONV]
    _, once, found = outcome({runs[len(runs) // 2]})
    assert (none, once) == (0, 1)
    assert all(torch.equal(found[name], value) for name, value in wanted.items())


def test_cells_that_do_not_hold_end_it_unless_they_are_tolerated(data: Dataset) -> None:
    spec = SPEC.model_copy(update={"cells": SPEC.cells.model_copy(update={"stuck_full": 1e-3})})
    network = convert(build_model("mlp", data.image_shape, len(data.classes)), spec, adc_bits=6)

    def worn() -> Board:
        return InProcessBoard(VirtualBoard(spec, Die(spec, 1), noise_seed=0), "")

    with worn() as board, pytest.raises(VerifyError, match=r"--tolerate-cells \d+"):
        finetune(network, board, data, ONE)
    with worn() as board:
        assert len(finetune(network, board, data, ONE, tolerate_cells=10_000).reports) == 1


def test_networks_that_cannot_be_trained_there_are_refused_by_layer(
    board: Board, data: Dataset, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match="no layer on the chip"):
        finetune(nn.Sequential(nn.Flatten(), nn.Linear(64, 10)), board, data, ONE)
    digital = convert(build_model("mlp", data.image_shape, 10), SPEC, digital=True)
    with pytest.raises(InputError, match=r"layers\.4 is digital"):
        finetune(digital, board, data, ONE)
    bare = nn.Sequential(nn.Flatten(), nn.Linear(64, 32, bias=False), nn.ReLU(), nn.Linear(32, 10, bias=False))
    bare = convert(bare, SPEC, adc_bits=6, pim_skip=())
    with pytest.raises(InputError, match="nothing of the network is left to train"):
        finetune(bare, board, data, ONE, mode="layers")
    other = convert(build_model("mlp", data.image_shape, 10), "charge-native")
    with pytest.raises(InputError, match="chip"):
        finetune(other, board, data, ONE)
    with open_board("emulator:sram65?die=6") as elsewhere:
        profile = characterize(elsewhere, adcs=[0, 1], reads=16, out=tmp_path, points=[SPEC.mac(adc_bits=6)])
    mlp = convert(build_model("mlp", data.image_shape, 10), SPEC, adc_bits=6)
    with pytest.raises(InputError, match="emu-sram65"):
        finetune(mlp, board, data, ONE, profile=profile)


class TestCommand:
    @pytest.fixture(scope="class")
    @classmethod
    def model(cls, tmp_path_factory: pytest.TempPathFactory) -> Path:
        path = tmp_path_factory.mktemp("finetune") / "m.pt"
        cls.run("train", "--model", "mlp", "--epochs", "1", "--adc-bits", "6", "--out", str(path))
        return path

    @staticmethod
    def run(*arguments: str, code: int = 0) -> str:
        result = CliRunner().invoke(cli, arguments)
        assert result.exit_code == code, result.stderr
        return result.stdout if code == 0 else result.stderr

    def test_it_writes_a_checkpoint_that_deploys_and_goes_on(self, model: Path) -> None:
        given = ["finetune", str(model), "--device", DIE, "--limit", "100"]
        said = self.run(*given, "--epochs", "1")
        tuned = model.with_name("m-tuned.pt")
        assert "on the chip" in said and f"next: pimchip deploy {tuned}" in said
        assert "is past" not in self.run(*given, "--epochs", "2", "--resume")
        held = load_model(tuned)
        assert held.training["finetune"]["mode"] == "whole" and held.resume is not None and held.resume["epoch"] == 2
        self.run("deploy", str(tuned), "--device", DIE, "--limit", "50", "--bn-batches", "2")

    def test_it_goes_on_only_with_its_own(self, model: Path) -> None:
        given = ["finetune", str(model), "--device", DIE, "--limit", "100", "--epochs", "1"]
        assert "nothing to go on with" in self.run(*given, "--out", str(model.with_name("none.pt")), "--resume", code=2)
        assert "no checkpoint of finetune" in self.run(*given, "--out", self.copy(model), "--resume", code=2)
        tuned = str(model.with_name("own.pt"))
        self.run(*given, "--out", tuned)
        assert "mode" in self.run(*given, "--out", tuned, "--resume", "--mode", "layers", code=2)
        other = ["finetune", str(model), "--device", "emulator:sram65?die=6", "--limit", "100", "--epochs", "1"]
        assert "uid" in self.run(*other, "--out", tuned, "--resume", code=2)
        again = ["finetune", self.retrained(model), *given[2:], "--out", tuned, "--resume"]
        assert "model" in self.run(*again, code=2)

    def test_layers_keep_their_turns(self, model: Path) -> None:
        """Other epochs a layer would have layers that are frozen train again."""
        given = ["finetune", str(model), "--device", DIE, "--limit", "100", "--mode", "layers"]
        given += ["--out", str(model.with_name("turns.pt")), "--epochs"]
        self.run(*given, "1")
        assert "epochs a layer = 1" in self.run(*given, "3", "--resume", code=2)
        layers = load_model(model.with_name("turns.pt"))
        assert layers.resume is not None
        assert f"already done: {model.with_name('turns.pt')} holds epoch {layers.resume['epoch']}" in self.run(
            *given, "1", "--resume"
        )
        self.run(*given, "1", "--resume")

    @staticmethod
    def retrained(model: Path) -> str:
        held, other = load_model(model), model.with_name("other.pt")
        save_model(other, replace(held, training=held.training | {"data": "digits", "note": 1}))
        return str(other)

    @staticmethod
    def copy(model: Path) -> str:
        other = model.with_name("copy.pt")
        other.write_bytes(model.read_bytes())
        return str(other)
