"""Deploying, watching and training on a chip where a mistake would give another result without a word."""

from __future__ import annotations

import io
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from benches import EXAMPLE
from click.testing import CliRunner
from flows import DIE, Case, call, small_case
from serving import emulated
from test_deploy_steps import saved
from test_reprogramming import network as wide
from test_runtime import compiled, dataset, real_board
from test_watch import WARM, Oven, drifting

from pimchip.board import open_board
from pimchip.chip import load_chip
from pimchip.chip.reference import pim_matmul
from pimchip.cli.main import cli
from pimchip.compiler import compile_network
from pimchip.errors import DeviceError
from pimchip.qat.data import load_dataset
from pimchip.runtime import Deployed, Executor, deploy
from pimchip.runtime.calibrate import Plan
from pimchip.runtime.inloop import InLoop
from pimchip.runtime.results import ON_CHIP, predicted
from pimchip.runtime.steps import Steps
from pimchip.workflows.inference import classify
from pimchip.workflows.results import Nowhere, Writer
from pimchip.workflows.streams import of_arrays

pytestmark = [pytest.mark.filterwarnings("ignore:no layer is on the chip:pimchip.errors.PimchipWarning")]
DATA = dataset(60, 40)


def test_layers_that_take_each_others_place_are_programmed_again() -> None:
    """Two passes whose tiles have the same corners and sizes: each layer gives its own products, time after time."""
    spec = load_chip("sram65")
    network = wide([144] * 6, spec)
    program = compile_network(network, spec, (3, 2, 2), None)
    places = [(name, tile.placement().tile) for name, layer in program.manifest.layers.items() for tile in layer.tiles]
    shared = {tile for name, tile in places if any(tile == other and name != its for its, other in places)}
    assert program.manifest.passes == 2 and shared
    rng = np.random.default_rng(0)
    with open_board("emulator:sram65?die=ideal") as board:
        loop = InLoop(network, program, board)
        loop.use(list(loop.layers))
        for _ in range(2):
            for name, layer in loop.layers.items():
                q = layer.integers().detach().numpy().astype(np.int8)
                x = rng.integers(0, 1 << layer.mac.act_bits, (2, q.shape[1], 1, 1)).astype(np.int32)
                mac = layer.mac
                wanted = pim_matmul(
                    x[:, :, 0, 0].astype(np.int64), q.reshape(len(q), -1).T.astype(np.int64), scheme=mac.scheme,
                    rows=mac.rows, weight_bits=mac.weight_bits, act_bits=mac.act_bits, dac_bits=mac.dac_bits,
                    adc_bits=mac.adc_bits, range_divisor=mac.range_divisor,
                )  # fmt: skip
                assert layer.array is not None
                found = layer.array.codes(x, q.reshape(*q.shape[:2], 1, 1))
                assert np.array_equal(found[:, :, 0, 0], wanted), name


@pytest.mark.parametrize("cut", ["accuracy before", "BN calibration", "accuracy after"])
def test_what_was_measured_before_a_die_warmed_up_is_not_gone_on_with(
    cut: str, tmp_path: Path, monkeypatch: Any
) -> None:
    monkeypatch.setattr("pimchip.runtime.executor.BATCH_MAX", 10)  # so that evaluation is in parts
    program, oven = compiled(spec=WARM), Oven()

    def stop(what: str, done: int, total: int) -> None:
        if what == cut and done < total:
            raise KeyboardInterrupt

    options: dict[str, Any] = {"bn_batches": 3, "bn_batch_size": 10}
    with drifting(oven, WARM) as board:
        with pytest.raises(KeyboardInterrupt):
            deploy(program, board, DATA, steps=Steps(tmp_path), on_progress=stop, **options)
        assert list(tmp_path.glob(".unfinished/*/*.npz"))
        oven.temperature = 60.0
        found = saved(deploy(program, board, DATA, steps=Steps(tmp_path), **options), tmp_path / "found")
        wanted = saved(deploy(program, board, DATA, **options), tmp_path / "wanted")
    assert found == wanted


@pytest.mark.parametrize("repeats", [1, 4])
def test_the_prediction_averages_as_the_die_does(repeats: int, monkeypatch: Any) -> None:
    program = compiled()
    made: list[int] = []

    class Spied(Executor):
        def __init__(self, *given: Any, **options: Any) -> None:
            super().__init__(*given, **options)
            made.append(self.sign_repeats)

    monkeypatch.setattr("pimchip.runtime.results.Executor", Spied)
    monkeypatch.setattr("pimchip.runtime.results.open_twin", lambda *_, **__: real_board())
    profile: Any = SimpleNamespace(hash="")
    predicted(Steps(), program, profile, DATA, Plan(1, 10), lambda done, total: None, sign_repeats=repeats)
    assert set(made) == {repeats}


class Working:
    """An executor that takes its time, or fails."""

    def __init__(self, fails: bool = False) -> None:
        self.fails, self.at_work = fails, 0

    def batch_size(self) -> int:
        return 4

    def logits(self, images: Any, *, first_image: int = 0) -> Any:
        self.at_work += 1
        if len(images) > 1:  # no warming up
            time.sleep(0.3)
        self.at_work -= 1
        if self.fails and len(images) > 1:
            raise DeviceError("gone")
        return np.zeros((len(images), 2), np.int32)


class Full(Nowhere):
    def add(self, *given: Any) -> None:
        raise OSError("full")


@pytest.mark.parametrize(("fails", "writer"), [(True, Nowhere()), (False, Full())])
def test_no_board_is_at_work_where_several_are_cut_short(fails: bool, writer: Writer) -> None:
    """Whoever closes them next would else close a board that another thread is talking to."""
    boards = [Working(fails), Working(), Working()]
    manifest = SimpleNamespace(input_shape=(1, 1, 1), logit_scale=1.0)
    held: Any = [SimpleNamespace(executor=board, program=SimpleNamespace(manifest=manifest)) for board in boards]
    source = of_arrays(np.zeros((60, 1, 1, 1), np.uint8), None)
    with pytest.raises((DeviceError, OSError)) as caught:
        classify(held, source, writer)
    assert [board.at_work for board in boards] == [0, 0, 0]
    del caught


class TestCommands:
    @pytest.fixture(scope="class")
    @classmethod
    def case(cls, tmp_path_factory: pytest.TempPathFactory) -> Case:
        return small_case(tmp_path_factory.mktemp("mlp"))

    @staticmethod
    def refused(*given: str, sent: bytes | None = None) -> str:
        result = CliRunner().invoke(cli, given, input=sent)
        assert result.exit_code == 2, result.output
        return result.stderr

    def test_bn_of_a_chip_that_drifted_stays(self, case: Case, tmp_path: Path, monkeypatch: Any) -> None:
        """A second deploy does not put back the BN of before the drift, nor does a cut stream lose what it found."""
        out = tmp_path / "d.deployed"
        given = ["--bn-batches", "2", "--bn-batch-size", "50", "--limit", "50", "--out", str(out)]
        with emulated("--listen", "tcp://127.0.0.1:0", "--device", f"emulator:{case.chip}?{DIE}") as url:
            deploying = ["deploy", str(case.program), "--device", url, *given]
            call(*deploying, "--watch", "0", "--checks", "1", "--watch-tolerance", "1e-9")
            assert self.done(call(*deploying)) >= set(ON_CHIP)
            assert not self.done(call(*deploying)) & set(ON_CHIP)
            before = out.read_bytes()
            monkeypatch.setattr("pimchip.runtime.watch.TOLERANCE", 1e-9)
            monkeypatch.setattr("pimchip.runtime.watch.FLOORS", 0.0)
            stream = io.BytesIO()
            shape = load_dataset("digits", limit_test=20).test.images
            np.save(stream, shape)
            cut = stream.getvalue()[:-1]
            watching = ["infer", str(out), "-", "--device", url, "--watch", "10", "--update"]
            assert "ends after" in self.refused(*watching, sent=cut)
            assert out.read_bytes() != before
            assert self.done(call(*deploying)) >= set(ON_CHIP)

    def test_replacing_what_was_deployed_for_another_die_is_said(self, case: Case, tmp_path: Path) -> None:
        out = tmp_path / "d.deployed"
        given = ["deploy", str(case.program), "--bn-batches", "2", "--limit", "20", "--out", str(out), "--device"]
        here, there = (f"emulator:{case.chip}?die={number}" for number in (1, 2))
        result = CliRunner().invoke(cli, [*given, here])
        assert result.exit_code == 0 and "replaced" not in result.stderr, result.stderr
        uid = Deployed.load(out).uid
        assert "replaced" not in CliRunner().invoke(cli, [*given, here]).stderr
        said = CliRunner().invoke(cli, [*given, there]).stderr
        assert f"warning: {out} was deployed for die {uid} and is replaced; --out keeps one file a die" in said
        assert "name that die's board (--device, PIMCHIP_DEVICE)" in self.refused("infer", str(out), "--device", here)
        assert f"`pimchip deploy {case.program}` makes one" in self.refused(
            "infer", str(case.program), "--device", here
        )

    def test_what_was_found_without_a_bench_is_found_anew_with_one(self, case: Case, tmp_path: Path) -> None:
        """Or the file would say what stood around the board when nothing did."""
        device = f"emulator:{case.chip}?{DIE}"
        given = ["deploy", str(case.program), "--device", device, "--bn-batches", "2", "--limit", "20"]
        given += ["--out", str(tmp_path / "d")]
        call(*given)
        assert self.done(call(*given, "--bench", str(EXAMPLE), "--twin")) >= set(ON_CHIP)

    @staticmethod
    def done(result: dict[str, Any]) -> set[str]:
        return {step["name"] for step in result["steps"] if step["state"] == "done"}

    def test_results_replace_no_input(self, tmp_path: Path) -> None:
        for name in ("d.csv", "images.npz"):
            (tmp_path / name).write_bytes(b"held")
        given = ["infer", str(tmp_path / "d.csv"), str(tmp_path / "images.npz"), "--out"]
        for name in ("d.csv", "images.npz"):
            assert "would replace" in self.refused(*given, str(tmp_path / name))
            assert (tmp_path / name).read_bytes() == b"held"

    @pytest.mark.parametrize(
        "given",
        [["--soak", "nan"], ["--soak", "inf"], ["--watch", "nan"], ["--watch", "0", "--watch-tolerance", "nan"]],
    )
    def test_numbers_that_are_none(self, given: list[str], tmp_path: Path) -> None:
        said = self.refused("deploy", str(tmp_path / "model.pt"), *given)
        assert f"{given[-2]} {given[-1]}: want a finite number" in said
