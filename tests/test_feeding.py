"""Images on their way into a network, and what it gives for them."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from pimchip.errors import BadResult, InputError, PimchipWarning
from pimchip.qat import Settings, calibrate_bn, convert, evaluate, find_ranges, pim_layers, train
from pimchip.qat.data import Dataset, load_dataset
from pimchip.qat.ranges import ideal_with, search_ranges


def network(outputs: int = 10) -> nn.Sequential:
    torch.manual_seed(0)
    body = [nn.Conv2d(1, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.BatchNorm2d(8), nn.ReLU()]
    return nn.Sequential(*body, nn.Flatten(), nn.Linear(128, outputs))


@pytest.fixture(scope="module")
def digits() -> Dataset:
    return load_dataset("digits", limit_train=64, limit_test=50)


@pytest.mark.parametrize(("layer", "kind"), [("0", "DigitalConv2d"), ("3", "PimConv2d"), ("7", "DigitalLinear")])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("training", [True, False])
def test_weights_that_are_not_finite_are_told_with_their_layer(
    layer: str, kind: str, value: float, training: bool
) -> None:
    made = convert(network(), "sram65").train(training)
    with torch.no_grad():
        made.get_parameter(f"{layer}.weight").view(-1)[3] = value
    with pytest.raises(
        BadResult, match=rf"layer {layer} \({kind}\): its weights are not finite; in training, use a smaller"
    ):
        made(torch.rand(2, 1, 8, 8))


@pytest.mark.parametrize(("layer", "channels"), [(0, 1), (3, 8)])
@pytest.mark.parametrize("shape", [(2, 3, 8, 8), (1, 8, 8), (8, 8), (2, 1, 8, 8, 1)])
def test_maps_of_another_shape_are_refused_by_the_layer(layer: int, channels: int, shape: tuple[int, ...]) -> None:
    made = convert(network(), "sram65")
    with pytest.raises(InputError, match=rf"layer {layer} \(.*\) takes maps \[n, {channels}, h, w\], got \["):
        made[layer](torch.rand(shape))


def test_networks_of_doubles_are_evaluated_trained_and_calibrated(digits: Dataset) -> None:
    double, single = convert(network().double(), "sram65"), convert(network(), "sram65")
    images = torch.from_numpy(digits.train.images)
    for each in (double, single):
        calibrate_bn(each, images, batches=1, batch_size=64)
    assert double.get_buffer("1.running_mean").dtype == torch.float64
    torch.testing.assert_close(double.get_buffer("1.running_mean").float(), single.get_buffer("1.running_mean"))
    assert evaluate(double, digits.test) == evaluate(single, digits.test)
    assert find_ranges(double, images) == find_ranges(single, images)
    losses = [train(each, digits, Settings(epochs=1))[0].loss for each in (double, single)]
    assert losses[0] == pytest.approx(losses[1], rel=0.02)


CALIBRATED: list[Callable[[nn.Module, Tensor], Any]] = [
    find_ranges,
    lambda network, images: search_ranges(network, images, (1, 8), ideal_with(lambda mac: 0.1)),
    lambda network, images: calibrate_bn(network, images, batches=1, batch_size=16),
]


@pytest.mark.parametrize("use", CALIBRATED)
def test_floats_that_the_first_layer_would_clip_are_refused_and_nothing_is_set(
    use: Callable[[nn.Module, Tensor], Any],
) -> None:
    converted, images = convert(network(), "sram65"), torch.rand(16, 1, 8, 8)
    before = {name: tensor.clone() for name, tensor in converted.state_dict().items()}
    for wrong, mend in ((255 * images, "divide them by 255"), (images - 0.5, "without a mean taken off")):
        with pytest.raises(InputError, match=rf"images reach from .*; floats in 0\.\.1 are wanted: .*{mend}"):
            use(converted, wrong)
    assert all(torch.equal(before[name], tensor) for name, tensor in converted.state_dict().items())
    assert {layer.mac.range_divisor for layer in pim_layers(converted).values()} == {1}


def test_images_of_any_range_are_for_layers_that_take_them(digits: Dataset) -> None:
    """A network that normalizes its images, one whose first layer reads signed inputs, and one in floating point."""
    images = 4 * torch.rand(32, 1, 8, 8) - 2
    normalizing = convert(nn.Sequential(nn.BatchNorm2d(1), *network()), "sram65")
    signed = convert(network(), "sram65", pim_skip=(), signed_inputs={"0": "shift"}).train()
    signed(images)
    for each in (normalizing, signed, network()):
        with warnings.catch_warnings():
            warnings.simplefilter("error", PimchipWarning)
            calibrate_bn(each, images, batches=1, batch_size=32)


@pytest.mark.parametrize("outputs", [5, 15])
def test_a_network_has_an_output_for_each_class_of_its_data(outputs: int, digits: Dataset) -> None:
    with pytest.raises(
        InputError, match=rf"gives \[64, {outputs}\] for 64 images; \[64, 10\], a logit a class of the data"
    ):
        train(convert(network(outputs), "sram65"), digits, Settings(epochs=1, batch_size=64))


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ([nn.Conv2d(3, 8, 3), nn.Flatten(), nn.Linear(288, 10)], r"does not take images of shape \[1, 8, 8\]: .*channels"),
        ([nn.Conv2d(1, 8, 3), nn.ReLU(), nn.Conv2d(8, 10, 1)], r"gives \[50, 10, 6, 6\] for 50 images; \[50, classes\], logits"),
        ([nn.Flatten(), nn.Linear(64, 5)], "tells 5 classes apart, the labels reach 9"),
    ],
)  # fmt: skip
def test_networks_that_do_not_fit_are_not_evaluated(body: list[nn.Module], words: str, digits: Dataset) -> None:
    with pytest.raises(InputError, match=words):
        evaluate(nn.Sequential(*body), digits.test)


def test_errors_of_a_networks_own_are_left_alone(digits: Dataset) -> None:
    class Broken(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            raise RuntimeError("of its own")

    with pytest.raises(RuntimeError, match="^of its own$"):
        evaluate(Broken(), digits.test)
