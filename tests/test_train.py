"""The training loop repeats and resumes bit for bit; model.pt holds data and never code."""

from __future__ import annotations

import copy
import errno
import itertools
import math
import os
import pickle
import warnings
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import pimchip
from pimchip.chip import load_chip
from pimchip.errors import BadResult, InputError, PimchipWarning
from pimchip.qat import (
    ModelFile,
    Settings,
    TrainState,
    build_model,
    convert,
    evaluate,
    find_ranges,
    load_model,
    pim_layers,
    predict,
    save_model,
    train,
)
from pimchip.qat.checkpoint import load_state
from pimchip.qat.data import Dataset, Split, load_dataset
from pimchip.qat.health import learned_nothing
from pimchip.qat.train import stream

# What is tested is the loop, on networks as small as can be.
pytestmark = [
    pytest.mark.filterwarnings("ignore:no layer is on the chip:pimchip.errors.PimchipWarning"),
    pytest.mark.filterwarnings("ignore:the network holds no quantized layer:pimchip.errors.PimchipWarning"),
]

SHORT = Settings(epochs=2, batch_size=32, learning_rate=0.1, seed=3)


@pytest.fixture(scope="module")
def digits() -> Dataset:
    return load_dataset("digits", limit_train=320, limit_test=200)


def network(**options: Any) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        plain = nn.Sequential(
            nn.Conv2d(1, 8, 3, 2, 1, bias=False), nn.BatchNorm2d(8), nn.ReLU(),
            nn.Conv2d(8, 16, 3, 2, 1, bias=False), nn.BatchNorm2d(16), nn.ReLU(),
            nn.Flatten(), nn.Linear(64, 10),
        )  # fmt: skip
    return convert(plain, "sram65", **options)


def identical(a: dict[str, Any], b: dict[str, Any]) -> bool:
    """Bit for bit, tensors anywhere inside."""
    return pickle.dumps(plain(a)) == pickle.dumps(plain(b))


def untimed(history: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Reports without what differs from run to run."""
    return [{k: v for k, v in entry.items() if k not in ("seconds", "images_per_second")} for entry in history]


def plain(value: Any) -> Any:
    if isinstance(value, Tensor):
        return str(value.dtype), tuple(value.shape), value.detach().cpu().numpy().tobytes()
    if isinstance(value, dict):
        return [(key, plain(value[key])) for key in sorted(value, key=str)]
    return [plain(v) for v in value] if isinstance(value, list | tuple) else value


class TestLoop:
    def test_the_loss_falls_and_the_network_learns(self) -> None:
        model, digits = network(), load_dataset("digits")
        before = evaluate(model, digits.test)
        reports = train(model, digits, replace(SHORT, epochs=2, learning_rate=0.05))
        assert [r.epoch for r in reports] == [1, 2]
        assert reports[1].loss < reports[0].loss < math.log(10) * 1.1
        assert reports[1].accuracy > max(0.5, before + 0.2)
        assert reports[1].accuracy == evaluate(model, digits.test)
        assert set(reports[1].xi) == set(pim_layers(model)) == {"3"}
        assert reports[1].dead == []
        assert not model.training

    def test_a_rate_at_which_nothing_is_learned_is_told_once(self, digits: Dataset) -> None:
        settings = replace(SHORT, epochs=4, learning_rate=1000)
        with pytest.warns(PimchipWarning, match="no better than guessing .* smaller learning rate than 1000") as caught:
            reports = train(network(), digits, settings)
        assert len(caught) == 1
        assert reports[-1].loss > math.log(10) and reports[-1].accuracy < 0.2

    def test_guessing_is_told_by_loss_and_accuracy_together(self) -> None:
        labels = np.repeat(np.arange(10), 40)  # 40 of 400 right is chance, its standard error 0.015
        assert learned_nothing(4.61, 0.12, labels, 10)
        assert not learned_nothing(4.60, 0.12, labels, 10)  # 2 ln 10 = 4.605
        assert not learned_nothing(4.61, 0.14, labels, 10)
        assert learned_nothing(4.61, 0.5, np.repeat([0, 1], [200, 200]), 10)

    @pytest.mark.parametrize("options", [{}, {"noise_lsb": 0.5}, {"eta": "learnable", "digital": False}])
    def test_a_seed_gives_the_same_weights_twice(self, digits: Dataset, options: dict[str, Any]) -> None:
        states = []
        for disturbance in range(2):
            torch.manual_seed(disturbance)  # what else drew before must not matter
            model = network(**options)
            train(model, digits, replace(SHORT, epochs=1))
            states.append(model.state_dict())
        assert identical(*states)

    def test_another_seed_gives_other_weights(self, digits: Dataset) -> None:
        a, b = network(), network()
        train(a, digits, replace(SHORT, epochs=1))
        train(b, digits, replace(SHORT, epochs=1, seed=4))
        assert not identical(a.state_dict(), b.state_dict())

    def test_all_bits_of_a_seed_and_the_process_count(self) -> None:
        """torch's generator looks at the lower 32 bits of a seed alone."""
        drawn = {}
        for case in itertools.product((0, 1, 4096, 8192, 1 << 20, 1 << 40), (0, 1, 5), (0, 1, 2)):
            torch.manual_seed(stream(*case))
            drawn[case] = int(torch.randint(1 << 62, ()))
        assert len(set(drawn.values())) == len(drawn)
        torch.manual_seed((3 << 20) + 7)
        wanted = torch.rand(3)
        torch.manual_seed(stream(3, 7))
        assert torch.equal(torch.rand(3), wanted)

    def test_deterministic_is_the_same_on_any_number_of_threads(self, digits: Dataset) -> None:
        states, before = [], torch.get_num_threads()
        try:
            for threads in (1, 2):
                torch.set_num_threads(threads)
                model, state = network(), TrainState()
                train(model, digits, replace(SHORT, epochs=1, deterministic=True), state=state)
                assert torch.get_num_threads() == threads
                assert state.threads == 1
                states.append(model.state_dict())
        finally:
            torch.set_num_threads(before)
        assert identical(*states)

    @pytest.mark.parametrize("options", [{}, {"noise_lsb": 0.5, "eta": "auto"}])
    def test_a_resumed_run_is_the_run_it_resumes(
        self, digits: Dataset, options: dict[str, Any], tmp_path: Path
    ) -> None:
        whole, whole_state = network(**options), TrainState()
        train(whole, digits, replace(SHORT, epochs=3), state=whole_state)

        class Stopped(Exception):
            pass

        path = tmp_path / "model.pt"
        broken = network(**options)

        def save_and_stop(report: Any, state: TrainState) -> None:
            save_model(path, file(broken, options=options, resume=state.to_dict()))
            if report.epoch == 2:
                raise Stopped

        with pytest.raises(Stopped):
            train(broken, digits, replace(SHORT, epochs=3), on_epoch=save_and_stop)

        held = load_model(path)
        assert held.resume is not None
        resumed, state = network(**options), TrainState.from_dict(held.resume)
        load_state(resumed, held.state)
        reports = train(resumed, digits, replace(SHORT, epochs=3), state=state)
        assert [r.epoch for r in reports] == [3]
        assert identical(resumed.state_dict(), whole.state_dict())
        assert identical(state.optimizer or {}, whole_state.optimizer or {})
        assert untimed(state.history) == untimed(whole_state.history)

    def test_resuming_with_other_settings_is_refused(self, digits: Dataset) -> None:
        model, state = network(), TrainState()
        train(model, digits, replace(SHORT, epochs=1), state=state)
        with pytest.raises(InputError, match="batch_size, learning_rate changed"):
            train(model, digits, replace(SHORT, learning_rate=0.2, batch_size=16), state=state)

    def test_an_optimizer_state_of_another_network_is_refused(self, digits: Dataset) -> None:
        model, state = network(), TrainState()
        train(model, digits, replace(SHORT, epochs=1), state=state)
        for broken in ({}, {"state": 1}, {**(state.optimizer or {}), "state": {0: {}}}):
            with pytest.raises(InputError, match="optimizer state does not fit"):
                train(model, digits, SHORT, state=replace(state, optimizer=broken))

    def test_a_loss_that_is_not_finite_is_a_bad_result(self, digits: Dataset) -> None:
        class Broken(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.inner = network()

            def forward(self, x: Tensor) -> Tensor:
                out: Tensor = self.inner(x) * float("nan")
                return out

        with pytest.raises(BadResult, match="loss became nan in epoch 1; try a smaller"):
            train(Broken(), digits, SHORT)

    def test_one_step_is_sgd_with_nesterov_momentum_written_by_hand(self, digits: Dataset) -> None:
        """Two images, one batch, no shuffle to speak of: w - lr * (g + 0.9 g), g with the weights' decay."""
        images = np.repeat(digits.train.images[:1], 2, axis=0)
        labels = np.repeat(digits.train.labels[:1], 2)
        data = Dataset("two", digits.classes, Split(images, labels), Split(images, labels), "none")
        model = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
        weight, bias = (p.detach().clone().requires_grad_() for p in model[1].parameters())
        F.cross_entropy(
            F.linear(torch.from_numpy(images).flatten(1) / 255, weight, bias), torch.from_numpy(labels)
        ).backward()
        train(model, data, Settings(epochs=1, batch_size=2, learning_rate=0.1, weight_decay=0.01, schedule="constant"))
        assert weight.grad is not None
        assert bias.grad is not None
        with torch.no_grad():
            torch.testing.assert_close(model[1].weight, weight - 0.1 * 1.9 * (weight.grad + 0.01 * weight))
            torch.testing.assert_close(model[1].bias, bias - 0.1 * 1.9 * bias.grad)

    def test_batch_norm_parameters_and_biases_do_not_decay(self, digits: Dataset) -> None:
        model, state = network(), TrainState()
        train(model, digits, replace(SHORT, epochs=1), state=state)
        assert state.optimizer is not None
        decays = [group["weight_decay"] for group in state.optimizer["param_groups"]]
        counts = [len(group["params"]) for group in state.optimizer["param_groups"]]
        assert (decays, counts) == ([1e-4, 0.0], [3, 5])  # three kernels; two BNs of two and the last bias

    @pytest.mark.parametrize(("schedule", "wanted"), [("constant", [0.1] * 4), ("multistep", [0.1, 0.1, 0.01, 0.001])])
    def test_the_rate_follows_the_schedule(self, digits: Dataset, schedule: Any, wanted: list[float]) -> None:
        options = Settings(epochs=4, batch_size=320, learning_rate=0.1, schedule=schedule, warmup=0)
        reports = train(nn.Sequential(nn.Flatten(), nn.Linear(64, 10)), digits, options)
        assert [r.learning_rate for r in reports] == pytest.approx(wanted)

    def test_cosine_warms_up_and_falls_towards_zero(self, digits: Dataset) -> None:
        options = Settings(epochs=20, batch_size=320, learning_rate=0.1, warmup=0.1)
        rates = [r.learning_rate for r in train(nn.Sequential(nn.Flatten(), nn.Linear(64, 10)), digits, options)]
        assert rates[:3] == pytest.approx([0.05, 0.1, 0.1])
        assert rates[2 + 9] == pytest.approx(0.05)  # half way down
        assert rates[2:] == sorted(rates[2:], reverse=True)
        assert rates[-1] < 0.001

    @pytest.mark.parametrize(
        "wrong",
        [
            {"epochs": -1}, {"batch_size": 0}, {"learning_rate": 0.0}, {"learning_rate": math.nan},
            {"learning_rate": math.inf}, {"momentum": 1.0}, {"momentum": -0.1}, {"weight_decay": -1.0},
            {"warmup": 1.5}, {"seed": -1}, {"seed": 1 << 43}, {"schedule": "cosin"}, {"epochs": 1.5},
            {"epochs": math.nan}, {"clip_gradient": math.nan}, {"validation": math.nan}, {"epochs": "3"}, {"seed": True},
            {"learning_rate": None}, {"milestones": 3}, {"milestones": ("a",)},
        ],
    )  # fmt: skip
    def test_settings_out_of_range_are_refused_by_name(self, wrong: dict[str, Any]) -> None:
        with pytest.raises(InputError, match=f"^(unknown )?{next(iter(wrong))} "):
            Settings(**wrong)

    def test_numbers_of_numpy_are_kept_as_plain_ones(self) -> None:
        made = Settings(epochs=np.int64(3), learning_rate=np.float32(0.5))
        assert made == Settings(epochs=3, learning_rate=0.5)
        assert (type(made.epochs), type(made.learning_rate)) == (int, float)

    @pytest.mark.parametrize(
        ("made", "told"),
        [
            (lambda net: net, r"no quantized layer .* run convert\(network, chip\)"),
            (lambda net: convert(net, "sram65"), "no layer is on the chip: 1 stays"),
        ],
    )
    def test_a_network_that_the_chip_has_no_part_of_is_told(self, digits: Dataset, made: Any, told: str) -> None:
        net = made(nn.Sequential(nn.Flatten(), nn.Linear(64, 10)))
        with pytest.warns(PimchipWarning, match=told):
            train(net, digits, replace(SHORT, epochs=0))

    @pytest.mark.parametrize(
        ("call", "told"),
        [
            (lambda net, data: train("net", data, SHORT), "the network is a str"),
            (lambda net, data: train(net, data.train, SHORT), "data is a Split; a Dataset"),
            (lambda net, data: train(net, data, {"epochs": 1}), "settings is a dict"),
            (lambda net, data: evaluate(net, data), r"split is a Dataset; .* data\.test"),
        ],
    )
    def test_what_is_of_another_kind_is_told(self, digits: Dataset, call: Any, told: str) -> None:
        with pytest.raises(InputError, match=told):
            call(network(), digits)

    def test_predict_does_not_depend_on_how_the_images_are_split(self, digits: Dataset) -> None:
        model = network()
        whole = predict(model, digits.train)
        alone = predict(model, Split(digits.train.images[256:], digits.train.labels[256:]))
        torch.testing.assert_close(whole[256:], alone, rtol=1e-6, atol=1e-6)


def file(net: nn.Module | None = None, **changes: Any) -> ModelFile:
    """A small model file of the zoo's mlp, or of `net`."""
    options: dict[str, Any] = changes.pop("options", {"range_divisor": 2, "pim_skip": ("first", "last")})
    if net is None:
        net = convert(build_model("mlp", (1, 4, 4), 3, seed=2), "sram65", **options)
    held = ModelFile("mlp", (1, 4, 4), ("a", "b", "c"), load_chip("sram65"), options, net.state_dict(), {"data": "x"})
    return replace(held, **changes)


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("good") / "model.pt"
    save_model(path, file(resume=TrainState(epoch=1, optimizer={"a": torch.ones(2)}).to_dict()))
    return path.read_bytes()


def rewritten(path: Path, change: Callable[[dict[str, Any]], None]) -> Path:
    """A model file with its content changed, as only torch.save would write it."""
    save_model(path, file())
    content = torch.load(path, weights_only=True)
    change(content)
    torch.save(content, path)
    return path


class TestRoundTrip:
    def test_keeps_everything(self, tmp_path: Path) -> None:
        written = file(resume=TrainState(epoch=2, optimizer={"m": torch.arange(3.0)}).to_dict())
        save_model(tmp_path / "deep" / "model.pt", written)
        read = load_model(tmp_path / "deep" / "model.pt")
        for name in ("model", "image_shape", "classes", "training"):
            assert getattr(read, name) == getattr(written, name)
        assert read.chip.hash == written.chip.hash
        assert read.options["range_divisor"] == 2
        assert tuple(read.options["pim_skip"]) == ("first", "last")
        assert identical(read.state, written.state)
        assert read.resume is not None
        assert TrainState.from_dict(read.resume).epoch == 2
        assert [p.name for p in (tmp_path / "deep").iterdir()] == ["model.pt"]

    def test_the_built_network_computes_the_same(self, tmp_path: Path) -> None:
        model = convert(build_model("mlp", (1, 4, 4), 3, seed=5), "sram65", range_divisor=2)
        model.train()(torch.rand(20, 1, 4, 4))  # running statistics that are not those of a new network
        save_model(tmp_path / "model.pt", file(model, options={"range_divisor": 2}))
        built = load_model(tmp_path / "model.pt").build()
        x = torch.rand(5, 1, 4, 4)
        assert not built.training
        assert torch.equal(built(x), model.eval()(x))

    def test_equal_content_gives_equal_bytes(self, tmp_path: Path) -> None:
        for name in ("a.pt", "b.pt"):
            save_model(tmp_path / name, file())
        assert (tmp_path / "a.pt").read_bytes() == (tmp_path / "b.pt").read_bytes()

    def test_a_converted_network_says_everything_of_itself(self, digits: Dataset, tmp_path: Path) -> None:
        asked: dict[str, Any] = {"scheme": "bit_serial", "adc_bits": 6, "noise_lsb": 0.25, "pim_skip": ("first",)}
        model = convert(build_model("mlp", digits.image_shape, 10, seed=5), "sram65", **asked)
        with pytest.raises(InputError, match=r"save_model\(path, network, data=dataset\)"):
            save_model(tmp_path / "m.pt", model)
        ranges = find_ranges(model, torch.from_numpy(digits.train.images[:64]))
        train(model, digits, replace(SHORT, epochs=1))
        save_model(tmp_path / "m.pt", model)
        held = load_model(tmp_path / "m.pt")
        assert (held.model, held.image_shape, held.classes) == ("mlp", (1, 8, 8), digits.classes)
        assert held.training["data"] == "digits" and held.chip.hash == load_chip("sram65").hash
        assert held.options["range_divisor"] == ranges and set(ranges.values()) != {1}
        assert {name: held.options[name] for name in asked} == {**asked, "pim_skip": ["first"]}
        built = held.build()
        x = torch.rand(5, 1, 8, 8)
        assert torch.equal(built(x), model(x))
        save_model(tmp_path / "again.pt", built)  # what was loaded knows as much
        again = load_model(tmp_path / "again.pt")
        assert (again.options, again.training) == (held.options, held.training) and identical(again.state, held.state)
        program = pimchip.compile(built, x, "sram65")
        assert (program.manifest.data, program.manifest.classes) == ("digits", digits.classes)

    def test_a_network_of_ones_own_is_built_from_itself(self, digits: Dataset, tmp_path: Path) -> None:
        own = nn.Sequential(nn.Flatten(), nn.Linear(64, 8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 10))
        model = convert(own, "sram65", signed_inputs={"3": "shift"}, weight_scale={"3": "kept"})
        model.train()(torch.rand(9, 1, 8, 8))
        save_model(tmp_path / "m.pt", model, data=digits)
        held = load_model(tmp_path / "m.pt")
        with pytest.raises(InputError, match=r"network of your own \(Sequential\): give build\(\)"):
            held.build()
        for source in (own, lambda shape, classes: copy.deepcopy(own)):
            x = torch.rand(5, 1, 8, 8)
            assert torch.equal(held.build(source)(x), model.eval()(x))
        for wrong in (own, "model.pt"):
            with pytest.raises(InputError, match="not made by pimchip.qat.convert|is a str"):
                save_model(tmp_path / "n.pt", wrong, data=digits)

    def test_a_network_of_ones_own_needs_its_factory(self, tmp_path: Path) -> None:
        plain_network = nn.Sequential(nn.Flatten(), nn.Linear(16, 8), nn.ReLU(), nn.Linear(8, 3))
        save_model(tmp_path / "model.pt", file(convert(plain_network, "sram65"), model="factory:mine:make", options={}))
        held = load_model(tmp_path / "model.pt")
        with pytest.raises(InputError, match="--factory mine:make"):
            held.build()
        built = held.build(lambda shape, classes: copy.deepcopy(plain_network))
        assert identical(built.state_dict(), held.state)


class Marker:
    """Its pickle runs code on load."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return os.system, (f"touch {self.path}",)


class TestBadFiles:
    def refused(self, path: Path, *words: str) -> str:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            with pytest.raises(InputError) as caught:
                load_model(path).build()
        message = str(caught.value)
        assert "\n" not in message
        for word in words:
            assert word in message
        return message

    def test_missing(self, tmp_path: Path) -> None:
        self.refused(tmp_path / "none.pt", "none.pt is not there")

    def test_a_folder(self, tmp_path: Path) -> None:
        self.refused(tmp_path, "is not there")

    @pytest.mark.parametrize("share", [0.0, 0.001, 0.01, 0.1, 0.3, 0.5, 0.7, 0.9, 0.99, 0.999])
    def test_truncated(self, good: bytes, tmp_path: Path, share: float) -> None:
        (tmp_path / "cut.pt").write_bytes(good[: int(len(good) * share)])
        self.refused(tmp_path / "cut.pt", "cut.pt is damaged")

    def test_a_byte_short(self, good: bytes, tmp_path: Path) -> None:
        (tmp_path / "cut.pt").write_bytes(good[:-1])
        self.refused(tmp_path / "cut.pt", "cut.pt is damaged")

    @given(st.data())
    @settings(max_examples=150)
    def test_damaged_bytes_are_refused_or_change_nothing(
        self, good: bytes, tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
    ) -> None:
        path = tmp_path_factory.getbasetemp() / "flipped.pt"
        broken = bytearray(good)
        for place in data.draw(st.lists(st.integers(0, len(good) - 1), min_size=1, max_size=4)):
            broken[place] ^= data.draw(st.integers(1, 255))
        path.write_bytes(broken)
        try:
            found = load_model(path)
        except InputError as error:
            assert "flipped.pt" in str(error)
        else:
            assert identical(found.state, file().state)

    def test_a_flipped_weight_is_noticed(self, good: bytes, tmp_path: Path) -> None:
        path = tmp_path / "flipped.pt"
        path.write_bytes(good)
        with zipfile.ZipFile(path) as archive:
            largest = max(archive.infolist(), key=lambda info: info.file_size)
            content = archive.read(largest)
        place = good.index(content) + len(content) // 2
        path.write_bytes(good[:place] + bytes([good[place] ^ 1]) + good[place + 1 :])
        self.refused(path, "flipped.pt is damaged")

    @pytest.mark.parametrize("how", ["pickle", "torch", "torch-legacy"])
    def test_a_pickle_with_code_is_refused_and_does_not_run(self, tmp_path: Path, how: str) -> None:
        path, marker = tmp_path / "evil.pt", tmp_path / "ran"
        content = {"format": "pimchip.model", "version": 1, "state": Marker(marker)}
        if how == "pickle":
            path.write_bytes(pickle.dumps(content, protocol=2))
        else:
            torch.save(content, path, _use_new_zipfile_serialization=how == "torch")
        self.refused(path, "evil.pt wants to run code", "system")
        assert not marker.exists()

    def test_a_pickled_module_is_refused_by_name(self, tmp_path: Path) -> None:
        torch.save(nn.Linear(3, 3), tmp_path / "module.pt")
        self.refused(tmp_path / "module.pt", "module.pt wants to run code", "torch.nn.modules.linear.Linear")

    @pytest.mark.parametrize("content", [b"PK\x03\x04 not a zip", b"\x80\x05.", b"hello\n" * 100, b"\x00" * 4096])
    def test_other_files(self, tmp_path: Path, content: bytes) -> None:
        (tmp_path / "other.pt").write_bytes(content)
        self.refused(tmp_path / "other.pt", "other.pt")

    @pytest.mark.parametrize("content", [{}, {"state_dict": {}}, [1, 2], torch.ones(3), 7, {"format": torch.ones(2)}])
    def test_foreign_content(self, tmp_path: Path, content: Any) -> None:
        torch.save(content, tmp_path / "foreign.pt")
        self.refused(tmp_path / "foreign.pt", "foreign.pt was not written by pimchip")

    @pytest.mark.parametrize("version", [0, 3, "1", None, [1], True])
    def test_another_version(self, tmp_path: Path, version: Any) -> None:
        path = rewritten(tmp_path / "model.pt", lambda c: c.update(version=version))
        self.refused(path, f"version {version!r}", "reads 1 to 2")

    def test_an_older_version_of_an_own_network_is_told(self, tmp_path: Path) -> None:
        zoo = load_model(rewritten(tmp_path / "zoo.pt", lambda c: c.update(version=1)))
        zoo.build()  # whose networks compute what they did
        own = rewritten(tmp_path / "own.pt", lambda c: c.update(version=1, model="network:Mine"))
        network = build_model(zoo.model, zoo.image_shape, len(zoo.classes))
        with pytest.warns(PimchipWarning, match="of an older pimchip"):
            load_model(own).build(network)

    @pytest.mark.parametrize("key", ["model", "image_shape", "classes", "chip", "options", "state", "training"])
    @pytest.mark.parametrize("value", [None, 7, [], "text", {"x": 1}, [-1, 0, 9]])
    def test_a_missing_or_wrong_field(self, tmp_path: Path, key: str, value: Any) -> None:
        fits = {"model": str, "training": dict}
        if isinstance(value, fits.get(key, ())):
            value = 7
        path = rewritten(tmp_path / "model.pt", lambda c: c.update({key: value}) if value else c.pop(key))
        self.refused(path, "model.pt", key.removesuffix("s"))

    @pytest.mark.parametrize(
        ("options", "words"),
        [
            ({"schem": "native"}, "'scheme'"),
            ({1: 2}, "unknown option '1'"),
            ({"rows": "144"}, "rows"),
            ({"pim_skip": 5}, "pim_skip"),
            ({"pim_skip": [3]}, "pim_skip"),
            ({"noise_lsb": "a lot"}, "noise_lsb"),
            ({"scheme": 4}, "scheme"),
            ({"range_divisor": {"layers.1": "two"}}, "range_divisor"),
            ({"range_divisor": {"layers.4": "two"}}, "range_divisor"),
            ({"digital": "yes"}, "digital"),
            ({"adc_bits": 12}, "adc_bits = 12"),
        ],
    )
    def test_wrong_options(self, tmp_path: Path, options: dict[Any, Any], words: str) -> None:
        path = rewritten(tmp_path / "model.pt", lambda c: c.update(options=options))
        self.refused(path, words)

    def test_weights_that_are_not_finite_are_named(self, tmp_path: Path) -> None:
        for value, name in ((math.nan, "layers.4.weight"), (math.inf, "layers.2.running_var")):

            def spoil(content: dict[str, Any], value: float = value, name: str = name) -> None:
                content["state"][name].flatten()[1] = value

            self.refused(rewritten(tmp_path / "model.pt", spoil), f"{name} has 1 NaN or infinite")

    @pytest.mark.parametrize(
        "tensor",
        [
            torch.zeros(128, 127, 1, 1),
            torch.zeros(128, 128, 1, 1, dtype=torch.float64),
            torch.zeros(128, 128, 1, 1, dtype=torch.complex64),
            torch.zeros(128, 128, 1, 1).to_sparse(),
        ],
        ids=["shape", "float64", "complex", "sparse"],
    )
    def test_a_tensor_of_another_kind_is_named(self, tmp_path: Path, tensor: Tensor) -> None:
        path = rewritten(tmp_path / "model.pt", lambda c: c["state"].update({"layers.4.weight": tensor}))
        self.refused(path, "layers.4.weight is ", "[128, 128, 1, 1]")

    def test_missing_and_unknown_tensors_are_named(self, tmp_path: Path) -> None:
        path = rewritten(tmp_path / "model.pt", lambda c: c["state"].pop("layers.4.weight"))
        self.refused(path, "layers.4.weight is only in the network")
        path = rewritten(tmp_path / "model.pt", lambda c: c["state"].update(extra=torch.ones(1)))
        self.refused(path, "extra is only in the checkpoint")

    @pytest.mark.parametrize("resume", [{"epoch": 1}, {"epochs": 1}, TrainState().to_dict() | {"epoch": "1"}])
    def test_a_foreign_training_state(self, resume: dict[str, Any]) -> None:
        with pytest.raises(InputError, match="training state is not one of this version"):
            TrainState.from_dict(resume)


class TestWriting:
    @pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "No space left on device"), RuntimeError("write failed")])
    def test_a_full_disk_keeps_the_old_file(
        self, good: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
    ) -> None:
        path = tmp_path / "model.pt"
        path.write_bytes(good)

        def full(content: Any, out: Any) -> None:
            (out.write if hasattr(out, "write") else Path(out).write_bytes)(b"half of it")
            raise error

        monkeypatch.setattr(torch, "save", full)
        with pytest.raises(InputError, match=r"cannot write .*model\.pt.*(No space left|write failed)"):
            save_model(path, file())
        assert path.read_bytes() == good
        assert [p.name for p in tmp_path.iterdir()] == ["model.pt"]

    def test_an_interrupt_keeps_the_old_file(
        self, good: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        path = tmp_path / "model.pt"
        path.write_bytes(good)

        def interrupted(content: Any, out: Any) -> None:
            raise KeyboardInterrupt

        monkeypatch.setattr(torch, "save", interrupted)
        with pytest.raises(KeyboardInterrupt):
            save_model(path, file())
        assert path.read_bytes() == good
        assert [p.name for p in tmp_path.iterdir()] == ["model.pt"]

    def test_a_place_that_cannot_be_written_is_named(self, tmp_path: Path) -> None:
        (tmp_path / "not a folder").write_text("")
        with pytest.raises(InputError, match="cannot write"):
            save_model(tmp_path / "not a folder" / "model.pt", file())
