"""A trained float network stays one when it is converted: statistics and biases fit the new scales of its sums."""

from __future__ import annotations

import re
import warnings

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pimchip.errors import PimchipWarning
from pimchip.qat import build_model, calibrate_bn, convert, evaluate
from pimchip.qat.data import load_dataset

# Networks here are smaller than those that a chip is of use for.
pytestmark = [pytest.mark.filterwarnings("ignore:no layer is on the chip:pimchip.errors.PimchipWarning")]

FINE = {"weight_bits": 8, "act_bits": 8, "digital": True}


class Residual(nn.Module):
    """Biases, a shortcut with a BN and one without, functions for modules, a BN before a pool, maps joined."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.bn = nn.Conv2d(1, 8, 3, padding=1), nn.BatchNorm2d(8)
        self.a, self.bn_a = nn.Conv2d(8, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8)
        self.b, self.bn_b = nn.Conv2d(8, 8, 3, padding=1), nn.BatchNorm2d(8)
        self.short, self.bn_short = nn.Conv2d(8, 8, 1), nn.BatchNorm2d(8)
        self.joined, self.bn_joined, self.fc = nn.Conv2d(16, 8, 3), nn.BatchNorm2d(8), nn.Linear(8 * 10, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.bn(self.stem(x)))
        y = F.relu(self.bn_a(self.a(x))) + x
        y = torch.relu(self.bn_b(self.b(y)) + self.bn_short(self.short(x)))
        x = F.relu(self.bn_joined(self.joined(torch.cat([x, y], 1))))
        return self.fc(torch.cat([F.max_pool2d(x, 2).flatten(1), x.mean((2, 3))], 1))  # type: ignore[no-any-return]


def gathered(network: nn.Module) -> tuple[nn.Module, Tensor]:
    """With statistics of random images, weights of unequal sizes and BNs that do more than normalize."""
    torch.manual_seed(1)
    x = torch.rand(64, 1, 8, 8)
    with torch.no_grad():
        for k, module in enumerate(network.modules()):
            if isinstance(module, nn.Conv2d | nn.Linear):
                module.weight.mul_(0.3 + 0.5 * (k % 4))
            if isinstance(module, nn.BatchNorm2d):
                module.momentum = None
                module.weight.uniform_(0.5, 1.0)
                module.bias.uniform_(-0.3, 0.3)
        network.train()(x)
    return network.eval(), x


def alike(got: Tensor, wanted: Tensor) -> float:
    return float(torch.corrcoef(torch.stack([got.flatten(), wanted.flatten()]))[0, 1])


@torch.no_grad()
@pytest.mark.parametrize("scale", [0.2, 0.1])  # sums of maps are clipped at larger ones
@pytest.mark.parametrize("weights", ["auto", "kept", "adjusted"])
def test_a_converted_network_computes_what_the_float_one_did_at_another_scale(scale: float, weights: str) -> None:
    network, x = gathered(Residual())
    wanted = network(x)
    converted = convert(network, "sram65", activation_scale=scale, weight_scale=weights, **FINE)  # type: ignore[arg-type]
    assert alike(converted(x), wanted) > 0.995
    # Biases too: logits of all images are off by one common factor, and by nothing.
    slope = float((converted(x) * wanted).sum() / (wanted * wanted).sum())
    assert float((converted(x) / slope - wanted).std() / wanted.std()) < 0.1
    assert torch.equal(network(x), wanted)  # the network given is as it was


@torch.no_grad()
def test_calibration_finds_the_statistics_that_were_carried_over() -> None:
    network, x = gathered(Residual())
    carried = convert(network, "sram65", activation_scale=0.2, **FINE)  # type: ignore[arg-type]
    again = convert(network, "sram65", activation_scale=0.2, **FINE)  # type: ignore[arg-type]
    calibrate_bn(again, x, batches=1, batch_size=64)
    for name, norm in carried.named_modules():
        if isinstance(norm, nn.BatchNorm2d):
            other = again.get_submodule(name)
            torch.testing.assert_close(norm.running_var, other.running_var, rtol=0.1, atol=0)
            apart = (norm.running_mean - other.running_mean) / norm.running_var.sqrt()  # type: ignore[operator,union-attr]
            assert float(apart.abs().max()) < 0.2


class Branching(nn.Module):
    """A forward that torch.fx cannot follow."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.bn, self.fc = nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Linear(144, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.bn(self.conv(x))
        return self.fc((x if float(x.sum()) > 0 else F.relu(x)).flatten(1))  # type: ignore[no-any-return]


class Mixed(nn.Module):
    """Maps of two scales are added before the second BN; the third is past it, and known again."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.bn = nn.Conv2d(1, 1, 3, padding=1), nn.BatchNorm2d(1)
        self.second, self.bn2 = nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4)
        self.third, self.bn3, self.fc = nn.Conv2d(4, 4, 3), nn.BatchNorm2d(4), nn.Linear(64, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.bn(self.conv(x)) + x)
        x = F.relu(self.bn3(self.third(F.relu(self.bn2(self.second(x))))))
        return self.fc(x.flatten(1))  # type: ignore[no-any-return]


@pytest.mark.parametrize(
    ("network", "names", "mixed"),
    [
        (Branching(), "conv, bn, fc", []),
        (Mixed(), "second, bn2", ["maps are added that are on different scales now (add)"]),
    ],
)
def test_statistics_that_cannot_be_carried_over_are_told(network: nn.Module, names: str, mixed: list[str]) -> None:
    network, _ = gathered(network)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", PimchipWarning)
        convert(network, "sram65", pim_skip=("first",))
    told = [str(each.message) for each in caught]
    assert re.match(rf"statistics or biases of {names} are not on .*calibrate_bn", told[-1])
    assert [text.partition(":")[0] for text in told[:-1]] == mixed


class Heads(nn.Module):
    """Two layers' outputs are added, which adjusted weights would bring to scales of their own."""

    def __init__(self) -> None:
        super().__init__()
        self.bn, self.one, self.two = nn.BatchNorm2d(1), nn.Linear(64, 3), nn.Linear(64, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.bn(x)).flatten(1)
        return self.one(x) + self.two(x)  # type: ignore[no-any-return]


def test_sums_of_what_is_no_longer_on_one_scale_are_told() -> None:
    network, x = gathered(Heads())
    network.one.weight.data *= 3  # type: ignore[union-attr,operator]
    convert(network, "sram65")  # which keeps their scales: nothing to tell
    with pytest.warns(PimchipWarning, match=r"on different scales now \(add\): .*weight_scale"):
        convert(network, "sram65", weight_scale="adjusted")


def test_an_untrained_network_is_left_alone() -> None:
    network = Residual()
    converted = convert(network, "sram65")
    for name, module in network.named_modules():
        if isinstance(module, nn.Conv2d | nn.Linear) and module.bias is not None:
            assert torch.equal(converted.get_submodule(name).bias, module.bias)  # type: ignore[arg-type]
        if isinstance(module, nn.BatchNorm2d):
            assert torch.equal(converted.get_submodule(name).running_var, torch.ones(8))  # type: ignore[arg-type]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        convert(Branching(), "sram65", pim_skip=("first",))


def test_a_network_trained_in_floating_point_keeps_its_accuracy() -> None:
    """Of the user's way: train with torch, convert, and only then calibrate and train on."""
    data = load_dataset("digits")
    torch.manual_seed(0)
    network = build_model("resnet8", data.image_shape, 10)
    images, labels = torch.from_numpy(data.train.images).float() / 255, torch.from_numpy(data.train.labels)
    optimizer = torch.optim.SGD(network.parameters(), 0.1, momentum=0.9)
    for _ in range(3):
        for part in torch.randperm(len(images)).split(64):
            optimizer.zero_grad()
            F.cross_entropy(network(images[part]), labels[part]).backward()
            optimizer.step()
    accuracy = evaluate(network, data.test)
    assert accuracy > 0.9
    assert evaluate(convert(network, "sram65", **FINE), data.test) > accuracy - 0.02  # type: ignore[arg-type]
    assert evaluate(convert(network, "sram65", digital=True), data.test) > accuracy - 0.2  # of 4 bits
