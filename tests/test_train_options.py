"""Moving average, label smoothing, clipping, early stop, saturation: against plain loops; and all of it resumes exactly."""

from __future__ import annotations

import copy
import math
import warnings
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from test_train import identical, network, plain, untimed
from torch import Tensor, nn

from pimchip.chip import load_chip
from pimchip.chip.mac import Scheme
from pimchip.errors import InputError, PimchipWarning
from pimchip.kernels.converters import ideal
from pimchip.qat import (
    EpochReport,
    ModelFile,
    Settings,
    TrainState,
    convert,
    evaluate,
    load_model,
    pim_layers,
    save_model,
    train,
)
from pimchip.qat.checkpoint import load_state
from pimchip.qat.data import Dataset, Split, load_dataset
from pimchip.qat.ema import Average
from pimchip.qat.health import advice, saturation
from pimchip.qat.train import hold_out

# What is tested is the loop, on networks as small as can be.
pytestmark = [pytest.mark.filterwarnings("ignore:the network holds no quantized layer:pimchip.errors.PimchipWarning")]

SHORT = Settings(epochs=4, batch_size=32, learning_rate=0.05, seed=3)


@pytest.fixture(scope="module")
def digits() -> Dataset:
    return load_dataset("digits", limit_train=160, limit_test=100)


def one_batch(images: np.ndarray[Any, Any], labels: np.ndarray[Any, Any]) -> Dataset:
    split = Split(images, labels)
    return Dataset("few", tuple("0123456789"), split, split, "none")


# -- resume -----------------------------------------------------------------------------------------------------------

RUNS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "average": ({"eta": "auto"}, {"ema": 0.95}),
    "average and early stop": ({"noise_lsb": 0.5}, {"ema": 0.9, "patience": 3, "validation": 0.2}),
    "one-cycle, smoothed, clipped": (
        {"eta": "learnable", "noise_lsb": 0.3},
        {"schedule": "one-cycle", "label_smoothing": 0.1, "clip_gradient": 0.5},
    ),
    "milestones": ({}, {"schedule": "multistep", "milestones": (1, 3), "warmup": 0.2, "validation": 0.1}),
    "learned range, clip and average": (
        {"range": "learned", "clip": "learned", "bit_aug": 1},
        {"ema": 0.9, "epochs": 2},
    ),
    "columns and signed inputs": (
        {"scales": "column", "xi": "channel", "signed_inputs": {"3": "shift"}},
        {"ema": 0.9, "epochs": 3},
    ),
    "dies": ({}, {"ema": 0.9, "epochs": 3}),
    "early stop that stops": ({"activation_scale": 1.0}, {"patience": 1, "learning_rate": 1e-9, "epochs": 5}),
}


class Stopped(Exception):
    pass


@pytest.mark.parametrize("run", RUNS)
def test_a_run_stopped_after_every_epoch_is_the_same_run(digits: Dataset, run: str, tmp_path: Path) -> None:
    options, changes = RUNS[run]
    settings = replace(SHORT, **changes)

    def made() -> nn.Module:
        fresh = network(**options)
        for layer in pim_layers(fresh).values() if run == "dies" else ():
            place = layer.mac.groups(layer.geometry.depth), layer.geometry.out_channels * layer.mac.planes
            layer.dies = [ideal(layer.mac, *place, noise, 1) for noise in (0.5, 2.0, 4.0)]
        return fresh

    whole, whole_state = made(), TrainState()
    deployed: list[dict[str, Tensor]] = []
    train(
        whole,
        digits,
        settings,
        state=whole_state,
        on_epoch=lambda r, s: deployed.append(copy.deepcopy(whole.state_dict())),
    )
    epochs = len(whole_state.history)
    assert epochs == (2 if "stops" in run else settings.epochs)
    path, state = tmp_path / "model.pt", TrainState()
    for epoch in range(1, epochs + 2):
        torch.manual_seed(epoch)  # whatever else was drawn in between
        part = made()
        if epoch > 1:
            held = load_model(path)
            assert held.resume is not None
            assert identical(held.state, deployed[epoch - 2])
            load_state(part, held.state)
            state = TrainState.from_dict(held.resume)

        def save_and_stop(report: EpochReport, state: TrainState, part: nn.Module = part) -> None:
            file = ModelFile("mine", (1, 8, 8), digits.classes, load_chip("sram65"), options, part.state_dict())
            save_model(path, replace(file, resume=state.to_dict()))
            raise Stopped

        try:
            assert train(part, digits, settings, state=state, on_epoch=save_and_stop) == []
            assert epoch == epochs + 1
        except Stopped:
            assert state.epoch == epoch
    assert identical(part.state_dict(), whole.state_dict())
    after, wanted = state.to_dict(), whole_state.to_dict()
    assert untimed(after.pop("history")) == untimed(wanted.pop("history"))
    assert plain(after) == plain(wanted)


@pytest.mark.parametrize(
    "changes",
    [
        {"ema": 0.5}, {"label_smoothing": 0.1}, {"clip_gradient": 1.0}, {"patience": 2}, {"validation": 0.3},
        {"warmup": 0.2}, {"schedule": "one-cycle"}, {"schedule": "multistep"},
    ],
)  # fmt: skip
def test_resuming_with_another_setting_is_refused_by_name(digits: Dataset, changes: dict[str, Any]) -> None:
    model, state = network(), TrainState()
    train(model, digits, replace(SHORT, epochs=1), state=state)
    with pytest.raises(InputError, match=f"cannot resume with other settings: {next(iter(changes))} changed"):
        train(model, digits, replace(SHORT, **changes), state=state)


def momentum(state: TrainState) -> dict[int, Any]:
    assert state.optimizer is not None
    return state.optimizer["state"]  # type: ignore[no-any-return]


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda s: setattr(s, "optimizer", None), "lacks optimizer"),
        (lambda s: s.optimizer.update(state=None), "it holds none"),
        (lambda s: s.optimizer.update(state={}), "it is of 0 parameters, the network has"),
        (lambda s: momentum(s).pop(0), "it is of .* parameters, the network has"),
        (lambda s: momentum(s).update({1: "x"}), "parameter 1 is missing"),
        (lambda s: momentum(s)[0].update(momentum_buffer=torch.zeros(1)), r"parameter 0 is \[1\], \[.*\] is wanted"),
        (lambda s: momentum(s)[0]["momentum_buffer"].fill_(math.nan), "parameter 0 holds NaN"),
        (lambda s: setattr(s, "epoch", -1), "it says epoch -1 and has the reports of 2"),
        (lambda s: setattr(s, "epoch", 1), "it says epoch 1 and has the reports of 2"),
        (lambda s: setattr(s, "epoch", 10**9), "it says epoch 1000000000 and"),
        (lambda s: s.history.clear(), "has the reports of 0"),
    ],
)
def test_a_state_that_no_run_leaves_is_refused(
    digits: Dataset, damage: Callable[[TrainState], Any], words: str
) -> None:
    model, state = network(), TrainState()
    train(model, digits, replace(SHORT, epochs=2), state=state)
    state = TrainState.from_dict(copy.deepcopy(state.to_dict()))
    damage(state)
    with pytest.raises(InputError, match=words):
        train(model, digits, replace(SHORT, epochs=3), state=state)


def test_what_else_a_state_says_of_the_optimizer_changes_nothing(digits: Dataset) -> None:
    states = []
    for change in ({}, {"momentum": 0.0, "weight_decay": 5.0, "maximize": True, "nesterov": "x"}):
        model, state = network(), TrainState()
        train(model, digits, replace(SHORT, epochs=1), state=state)
        assert state.optimizer is not None
        for group in state.optimizer["param_groups"]:
            group.update(change)
        train(model, digits, replace(SHORT, epochs=2), state=state)
        states.append(model.state_dict())
    assert all(torch.equal(a, b) for a, b in zip(*(state.values() for state in states), strict=True))


def test_fewer_epochs_than_were_run_are_refused(digits: Dataset) -> None:
    model, state = network(), TrainState()
    train(model, digits, replace(SHORT, epochs=2), state=state)
    with pytest.raises(InputError, match="went on to epoch 2 already, beyond --epochs 1"):
        train(model, digits, replace(SHORT, epochs=1), state=state)


def test_other_threads_than_a_run_was_begun_with_are_told(digits: Dataset) -> None:
    model, state = network(), TrainState()
    train(model, digits, replace(SHORT, epochs=1), state=state)
    state.threads += 1
    with pytest.warns(PimchipWarning, match=rf"begun with {state.threads} threads.*OMP_NUM_THREADS={state.threads}"):
        train(model, digits, replace(SHORT, epochs=2), state=state)
    with warnings.catch_warnings():
        warnings.simplefilter("error", PimchipWarning)
        train(model, digits, replace(SHORT, epochs=3), state=state)


def test_a_parameter_that_never_had_a_gradient_is_no_damage(digits: Dataset) -> None:
    model, state = network(), TrainState()
    model.register_parameter("unused", nn.Parameter(torch.zeros(3, 2)))
    train(model, digits, replace(SHORT, epochs=1), state=state)
    assert len(momentum(state)) == len(list(model.parameters()))
    train(model, digits, replace(SHORT, epochs=2), state=state)


def test_a_state_without_what_the_settings_need_is_refused(digits: Dataset) -> None:
    settings = replace(SHORT, epochs=1, ema=0.9, patience=2)
    model, state = network(), TrainState()
    train(model, digits, settings, state=state)
    for part in ("weights", "average", "best"):
        with pytest.raises(InputError, match=f"lacks {part}; start without --resume"):
            train(model, digits, settings, state=replace(state, **{part: None}))
    assert state.average is not None
    for spoilt in ({}, {**state.average["state"], "0.weight": torch.zeros(2)}):
        with pytest.raises(InputError, match="averaged weights do not fit"):
            train(model, digits, settings, state=replace(state, average={"steps": 1, "state": spoilt}))


@pytest.mark.parametrize(
    "change",
    [
        {"weights": {"a": 1}}, {"average": {"steps": 1}}, {"average": {"steps": "1", "state": {}}},
        {"best": {"epoch": 1, "accuracy": 0.5, "state": {"a": None}}}, {"best": []}, {"history": [1]}, {"processes": None},
    ],
)  # fmt: skip
def test_a_damaged_state_is_refused(change: dict[str, Any]) -> None:
    with pytest.raises(InputError, match="training state is not one of this version"):
        TrainState.from_dict(TrainState().to_dict() | change)


# -- moving average ---------------------------------------------------------------------------------------------------


def test_the_average_is_a_plain_loop(digits: Dataset) -> None:
    """All parameters and BN statistics in float64, over the weights after every step; the rest as it stands."""
    model = network(eta="learnable")
    wanted = {name: tensor.double().clone() for name, tensor in model.state_dict().items()}
    steps = 0

    def after_step(progress: Any) -> None:
        nonlocal steps
        steps += 1
        decay = min(0.6, (1 + steps) / (10 + steps))  # the ramp ends with step 13
        for name, tensor in model.state_dict().items():
            counter = "tracked" in name or "eta_batches" in name
            wanted[name] = tensor.double() if counter else decay * wanted[name] + (1 - decay) * tensor.double()

    state = TrainState()
    train(model, digits, replace(SHORT, epochs=4, ema=0.6), state=state, on_step=after_step)
    assert steps == 20
    for name, tensor in model.state_dict().items():
        torch.testing.assert_close(tensor.double(), wanted[name], rtol=1e-5, atol=1e-6, msg=name)
    assert state.weights is not None
    assert not torch.equal(state.weights["3.weight"], model.state_dict()["3.weight"])
    assert state.history[-1]["accuracy"] == evaluate(model, digits.test)  # the average is what was judged


def test_training_itself_does_not_see_the_average(digits: Dataset) -> None:
    with_average, without, state = network(), network(), TrainState()
    train(with_average, digits, replace(SHORT, ema=0.9), state=state)
    train(without, digits, SHORT)
    assert state.weights is not None
    assert identical(state.weights, without.state_dict())


@pytest.mark.parametrize("norm", [nn.BatchNorm1d(2), nn.InstanceNorm1d(2, track_running_stats=True)])
def test_statistics_of_a_norm_under_two_names_are_averaged_under_both(norm: nn.Module) -> None:
    model = nn.Sequential(norm, norm)
    average = Average(model, 0.9)
    with torch.no_grad():
        norm.running_mean += 1  # type: ignore[operator]
    average.update(model)
    assert (
        average.state["0.running_mean"].tolist()
        == average.state["1.running_mean"].tolist()
        == pytest.approx([9 / 11] * 2)
    )


# -- loss and gradient ------------------------------------------------------------------------------------------------


def test_smoothed_labels_are_the_mixture_with_all_classes(digits: Dataset) -> None:
    data = one_batch(digits.train.images[:8], digits.train.labels[:8])
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    logits = F.log_softmax(model(torch.from_numpy(data.train.images).float() / 255).detach().double(), 1).numpy()
    target = 0.9 * np.eye(10)[data.train.labels] + 0.1 / 10
    (report,) = train(model, data, Settings(epochs=1, batch_size=8, label_smoothing=0.1))
    assert report.loss == pytest.approx(float(-(target * logits).sum(1).mean()), rel=1e-5)


@pytest.mark.parametrize("limit", [0.01, 1e6])
def test_the_gradients_norm_is_clipped(digits: Dataset, limit: float) -> None:
    data = one_batch(digits.train.images[:8], digits.train.labels[:8])
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    before = [p.detach().clone() for p in model.parameters()]
    loss = F.cross_entropy(
        model(torch.from_numpy(data.train.images).float() / 255), torch.from_numpy(data.train.labels)
    )
    gradients = torch.autograd.grad(loss, list(model.parameters()))
    norm = math.sqrt(sum(float((g.double() ** 2).sum()) for g in gradients))
    settings = Settings(epochs=1, batch_size=8, learning_rate=0.1, momentum=0, weight_decay=0, clip_gradient=limit)
    train(model, data, replace(settings, schedule="constant", warmup=0))
    for now, old, gradient in zip(model.parameters(), before, gradients, strict=True):
        torch.testing.assert_close(now.detach(), old - 0.1 * gradient * min(1, limit / norm), rtol=1e-4, atol=1e-7)


# -- early stop -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("share", [0.1, 0.25, 0.5])
def test_held_out_images_are_a_share_of_each_class_and_never_trained_on(digits: Dataset, share: float) -> None:
    kept, held = hold_out(digits.train, share, 7)
    assert held is not None
    assert len(held) == round(share * len(digits.train)) and len(kept) + len(held) == len(digits.train)

    def rows(*splits: Split) -> list[bytes]:
        return sorted(
            bytes([int(label)]) + image.tobytes()
            for s in splits
            for image, label in zip(s.images, s.labels, strict=True)
        )

    assert rows(kept, held) == rows(digits.train)
    counts = np.bincount(digits.train.labels)
    assert (abs(np.bincount(held.labels, minlength=10) - share * counts) <= 1.5).all()
    again, other = hold_out(digits.train, share, 7)[1], hold_out(digits.train, share, 8)[1]
    assert again is not None and other is not None
    assert rows(again) == rows(held) != rows(other)


def test_no_share_is_all_images_and_too_large_a_share_is_refused(digits: Dataset) -> None:
    assert hold_out(digits.train, 0, 0) == (digits.train, None)
    with pytest.raises(InputError, match="leaves too few"):
        hold_out(digits.train, 0.995, 0)


@pytest.mark.parametrize("ema", [0.0, 0.5])
def test_training_stops_after_patience_and_keeps_the_best(digits: Dataset, ema: float) -> None:
    settings = replace(SHORT, epochs=30, patience=2, validation=0.2, learning_rate=0.2, schedule="constant", ema=ema)
    model, state, seen = network(), TrainState(), []
    reports = train(
        model, digits, settings, state=state, on_epoch=lambda r, s: seen.append(copy.deepcopy(model.state_dict()))
    )
    found = [r.validation for r in reports]
    assert all(v is not None for v in found)
    best = int(np.argmax(np.array(found, float)))  # the first of equals
    assert len(reports) == min(best + 3, 30) < 30
    assert (state.best_epoch, state.stopped(2)) == (best + 1, True)
    assert identical(model.state_dict(), seen[best])
    assert identical(seen[-1], seen[best])  # what is saved after the last epoch too
    _, held = hold_out(digits.train, 0.2, 3)
    assert held is not None
    assert evaluate(model, held) == found[best]
    assert reports[best].accuracy == evaluate(model, digits.test)


def test_validation_without_early_stop_only_tells(digits: Dataset) -> None:
    model, state = network(), TrainState()
    reports = train(model, digits, replace(SHORT, epochs=1, validation=0.2), state=state)
    _, held = hold_out(digits.train, 0.2, 3)
    assert held is not None
    assert reports[0].validation == evaluate(model, held)
    assert (state.best, state.weights) == (None, None)


# -- saturation and dead layers ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("scheme", list(Scheme))
@pytest.mark.parametrize("kind", ["conv", "groups", "linear"])
@pytest.mark.filterwarnings("ignore:layer 0 .* outside 0..1:pimchip.errors.PimchipWarning")  # clipped below, too
def test_the_saturated_share_is_that_of_sums_beyond_the_range_counted_one_by_one(scheme: Scheme, kind: str) -> None:
    torch.manual_seed(4)
    groups = 2 if kind == "groups" else 1
    source = nn.Linear(45, 3) if kind == "linear" else nn.Conv2d(4 if groups > 1 else 5, 4, 3, padding=1, groups=groups)
    chip = {"native": "charge-native", "differential": "rram130-differential", "bit_serial": "sram65"}[scheme]
    options = {"dac_bits": 2, "range_divisor": 8, "rows": 18, "pim_skip": ()}
    (layer,) = pim_layers(convert(nn.Sequential(source), chip, **options)).values()
    x = torch.rand(6, 45) if kind == "linear" else torch.rand(2, 5 if groups == 1 else 4, 4, 4) * 1.4 - 0.1
    mac = layer.mac
    q = np.round(x.clamp(0, 1).double().numpy() * (2**mac.act_bits - 1)).astype(int)
    w = layer.integers().detach().numpy().astype(int)
    padded = q[:, :, None, None] if kind == "linear" else np.pad(q, ((0, 0), (0, 0), (1, 1), (1, 1)))
    size, out = (1, 1) if kind == "linear" else (3, 4)
    over = count = 0
    for image, row, column, group in np.ndindex(len(padded), out, out, groups):
        depth, outputs = padded.shape[1] // groups, len(w) // groups
        channels = padded[image, group * depth : (group + 1) * depth]
        vector = channels[:, row : row + size, column : column + size].reshape(-1)
        cells = mac.cells(w[group * outputs : (group + 1) * outputs].reshape(outputs, -1).T).astype(int)
        for first in range(0, len(vector), 18):
            for index in range(mac.slices):
                digit = vector[first : first + 18] // mac.digit**index % mac.digit
                for cell in cells[first : first + 18].T:
                    over += abs(int(digit @ cell)) > mac.scale * (mac.levels + 0.5)
                    count += 1
    assert 0 < over < count
    found = saturation(nn.Sequential(layer), x)
    assert found == {"0": pytest.approx(over / count)}
    assert "use a smaller --range-divisor than 8" in advice("0", found["0"], layer)
    again = advice("0", found["0"], layer, searched=True)
    assert "--init" in again and "smaller" not in again


def test_at_the_full_range_nothing_saturates() -> None:
    source = nn.Conv2d(16, 8, 3, bias=False)
    with torch.no_grad():
        source.weight.fill_(1.0)
    (layer,) = pim_layers(convert(nn.Sequential(source), "sram65", range_divisor=1, pim_skip=())).values()
    assert saturation(nn.Sequential(layer), torch.ones(1, 16, 4, 4)) == {"0": 0.0}


def test_a_dead_and_a_saturated_layer_are_told_in_the_report(digits: Dataset) -> None:
    def told(**options: Any) -> EpochReport:
        model = network(**options)
        (report,) = train(model, digits, replace(SHORT, epochs=1))
        return report

    assert told(adc_bits=3, range_divisor=1).saturated == {"3": 0.0}
    assert told(range_divisor=8, rows=8, activation_scale=1.0).saturated["3"] > 0
    assert told(digital=True).saturated == told(digital=True).xi == {}
    assert told(adc_bits=1).dead == ["3"]
    assert set(asdict(told())) == set(EpochReport.__dataclass_fields__)
