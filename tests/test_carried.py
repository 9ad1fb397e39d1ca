"""A trained float network stays one when it is converted: statistics and biases fit the new scales of its sums."""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from floats import alike, gathered, trained
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
        (Branching(), ("bn", "conv, fc"), []),
        (Mixed(), ("bn2", "second"), ["maps are added that are on different scales now (add)"]),
    ],
)
def test_statistics_that_cannot_be_carried_over_are_told(
    network: nn.Module, names: tuple[str, str], mixed: list[str]
) -> None:
    network, _ = gathered(network)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", PimchipWarning)
        convert(network, "sram65", pim_skip=("first",))
    told = [str(each.message) for each in caught]
    norms, biases = names
    assert re.match(rf"statistics of {norms} are not on .*calibrate_bn", told[-2])
    assert re.match(rf"biases of {biases} are not on .*: train on", told[-1])
    assert [text.partition(":")[0] for text in told[:-2]] == mixed


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


class Forms(nn.Module):
    """A map goes to the last layer in one of many forms that keep its scale."""

    def __init__(self, form: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.form, self.conv, self.bn, self.second = form, nn.Conv2d(1, 8, 3), nn.BatchNorm2d(8), nn.Conv2d(8, 8, 3)
        self.bn2, self.relu, self.fc = nn.BatchNorm2d(8), nn.ReLU(), nn.Linear(128, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.relu(self.bn(self.conv(x)))
        return self.fc(self.form(self.relu(self.bn2(self.second(x)))))  # type: ignore[no-any-return]


FORMS: dict[str, Callable[[Tensor], Tensor]] = {
    "size": lambda x: x.reshape(x.size(0), -1),
    "shape": lambda x: torch.reshape(x, (x.shape[0], -1)),
    "view": lambda x: x.view(x.size(0), -1),
    "length": lambda x: x.reshape(-1, 128),
    "slice": lambda x: x[:, :].flatten(1),
    "pad": lambda x: F.pad(x, (1, 1, 1, 1))[:, :, 1:-1, 1:-1].flatten(1),
    "larger": lambda x: F.avg_pool2d(F.interpolate(x, scale_factor=2), 2).flatten(1),
    "chunk": lambda x: torch.cat(x.chunk(2, 1)[::-1], 1).flatten(1),
    "stack": lambda x: torch.stack([x, x], 1)[:, 0].flatten(1),
    "products": lambda x: (2.0 * (x * -0.5) / 3.0).flatten(1),
    "difference": lambda x: (x - x.mean((2, 3), keepdim=True).expand(-1, -1, 4, 4)).abs().flatten(1),
    "maximum": lambda x: F.leaky_relu(torch.maximum(x, -x)).flatten(1),
    "turned": lambda x: x.permute(0, 2, 3, 1).transpose(1, 2).contiguous().unsqueeze(1).squeeze(1).flatten(1),
}


@torch.no_grad()
@pytest.mark.parametrize("form", FORMS)
def test_the_scale_goes_through_whatever_keeps_it(form: str) -> None:
    network, x = gathered(Forms(FORMS[form]))
    network.fc.bias.data.uniform_(-1, 1)  # type: ignore[union-attr,operator]
    wanted = network(x)
    with warnings.catch_warnings():
        warnings.simplefilter("error", PimchipWarning)
        got = convert(network, "sram65", activation_scale=0.1, **FINE)(x)  # type: ignore[arg-type]
    slope = float((got * wanted).sum() / (wanted * wanted).sum())
    assert float((got / slope - wanted).std() / wanted.std()) < 0.1 and alike(got, wanted) > 0.995


class Ends(nn.Module):
    """What follows the BN is not in proportion to it."""

    def __init__(self, end: nn.Module | Callable[[Tensor, Tensor, Tensor], Tensor], outputs: int = 4) -> None:
        super().__init__()
        self.conv, self.bn, self.p = nn.Conv2d(1, 8, 3), nn.BatchNorm2d(8), nn.Parameter(torch.rand(8, 1, 1))
        self.end, self.fc = end, nn.Linear(8, outputs, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.bn(self.conv(x)))
        y = self.end(y) if isinstance(self.end, nn.Module) else self.end(y, x[:, :, 1:-1, 1:-1], self.p)
        return self.fc(y.mean((2, 3)))  # type: ignore[no-any-return]


@pytest.mark.parametrize(
    ("network", "words"),
    [
        (Ends(nn.Sigmoid()), "enter end, where that changes more"),
        (Ends(lambda y, x, p: torch.tanh(y)), "enter tanh, where"),
        (Ends(lambda y, x, p: y * torch.sigmoid(y)), "enter sigmoid, where"),
        (Ends(lambda y, x, p: y + 0.5), "enter add, where"),
        (Ends(lambda y, x, p: 1 / (y + y)), "enter truediv, where"),
        (Ends(lambda y, x, p: F.pad(y, (1, 1), value=1.0)), "enter pad, where"),
        (Ends(lambda y, x, p: y + p), r"different scales now \(add\)"),
        (Ends(lambda y, x, p: torch.sub(y, x)), r"different scales now \(sub\)"),
        (Ends(lambda y, x, p: torch.cat([y[:, :7], x], 1)), r"different scales now \(cat\)"),
        (Ends(nn.Identity(), outputs=1), r"the output is [\d.]+ times that in floating point"),
    ],
)
def test_what_another_scale_changes_is_told(network: nn.Module, words: str) -> None:
    network, _ = gathered(network)
    with pytest.warns(PimchipWarning, match=words):
        convert(network, "sram65")
    with warnings.catch_warnings():
        warnings.simplefilter("error", PimchipWarning)
        convert(network, "sram65", weight_scale="kept", activation_scale=1, pim_skip=("first",))


@torch.no_grad()
def test_what_stays_in_floating_point_follows_with_its_bias() -> None:
    layers = [
        nn.Conv2d(1, 8, 3),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.ConvTranspose2d(8, 4, 2, 2),
        nn.PReLU(),
        nn.Flatten(),
    ]
    network, x = gathered(nn.Sequential(*layers, nn.Linear(576, 4)))
    network[3].bias.data.uniform_(-1, 1)  # type: ignore[index]
    wanted = network(x)
    assert (
        alike(
            convert(network, "sram65", activation_scale=0.2, signed_inputs={}, **FINE)[:5](x),  # type: ignore[arg-type,index]
            network[:5](x),
        )
        > 0.999
    )  # type: ignore[index]
    assert alike(convert(network, "sram65", activation_scale=0.2, **FINE)(x), wanted) > 0.99  # type: ignore[arg-type]


@torch.no_grad()
def test_chances_at_the_end_keep_their_order_and_are_not_told() -> None:
    layers = [nn.Conv2d(1, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(288, 4)]
    network, x = gathered(nn.Sequential(*layers, nn.LogSoftmax(1)))
    with warnings.catch_warnings():
        warnings.simplefilter("error", PimchipWarning)
        converted = convert(network, "sram65", pim_skip=("first",), **FINE)  # type: ignore[arg-type]
    assert float((converted(x).argmax(1) == network(x).argmax(1)).float().mean()) > 0.9


@torch.no_grad()
@pytest.mark.parametrize("times", [0.1, 0.96, 1.04, 1.5])
def test_scales_a_few_percent_apart_are_not_one(times: float) -> None:
    network, _ = gathered(Heads())
    network.two.weight.copy_(network.one.weight * times)  # type: ignore[union-attr,operator,arg-type]
    with pytest.warns(PimchipWarning, match="different scales now"):
        convert(network, "sram65", weight_scale="adjusted")


def test_heads_of_one_scale_are_added_silently() -> None:
    network, _ = gathered(Heads())
    network.two.weight.data.copy_(-network.one.weight.data)  # type: ignore[union-attr,operator,arg-type]
    with warnings.catch_warnings():
        warnings.simplefilter("error", PimchipWarning)
        convert(network, "sram65", weight_scale="adjusted", pim_skip=())


class OwnNorm(nn.BatchNorm2d):
    """A BN under a name of its own."""


@torch.no_grad()
@pytest.mark.parametrize("weights", [1.0, 8.0, 100.0])
@pytest.mark.parametrize("choice", ["auto", "kept"])
def test_weights_whose_size_a_norm_takes_out_carry_over(weights: float, choice: str) -> None:
    layers = [nn.Conv2d(1, 8, 3), OwnNorm(8), nn.ReLU(), nn.Conv2d(8, 8, 3), OwnNorm(8), nn.ReLU(), nn.Flatten()]
    network = nn.Sequential(*layers, nn.Linear(128, 4))
    for name in (0, 3):
        network[name].weight.data *= weights  # type: ignore[operator]
    network, x = gathered(network)
    wanted = network(x)
    converted = convert(network, "sram65", activation_scale=0.1, weight_scale=choice, **FINE)  # type: ignore[arg-type]
    assert alike(converted(x), wanted) > 0.995


def test_a_network_trained_without_norms_keeps_its_accuracy() -> None:
    relu, pool = nn.ReLU(), nn.MaxPool2d(2)
    body = nn.Conv2d(1, 16, 3), relu, nn.Conv2d(16, 32, 3), relu, pool, nn.Flatten()
    network, data = trained(*body, nn.Linear(128, 10))
    accuracy = evaluate(network, data.test)
    assert accuracy > 0.9
    assert evaluate(convert(network, "sram65", **FINE), data.test) > accuracy - 0.02  # type: ignore[arg-type]


def test_a_hidden_layer_without_a_norm_is_clipped_little_or_told() -> None:
    body = nn.Conv2d(1, 16, 3), nn.BatchNorm2d(16), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten()
    network, data = trained(*body, nn.Linear(144, 64), nn.ReLU(), nn.Linear(64, 10))
    accuracy = evaluate(network, data.test)
    assert accuracy > 0.95
    with pytest.warns(
        PimchipWarning, match=r"ReLU 6: \d+ % of its positive inputs are above 1, .* activation_scale=0.1"
    ):
        evaluate(convert(network, "sram65", weight_scale="adjusted", **FINE), data.test)  # type: ignore[arg-type]
    with warnings.catch_warnings():
        warnings.simplefilter("error", PimchipWarning)
        small = convert(network, "sram65", weight_scale="kept", activation_scale=0.1, **FINE)  # type: ignore[arg-type]
        assert evaluate(small, data.test) > accuracy - 0.02
        # Once trained on, clipping is what the network knows.
        large = convert(network, "sram65", weight_scale="adjusted", **FINE).train()  # type: ignore[arg-type]
        large(torch.from_numpy(data.train.images[:64]).float() / 255)
        evaluate(large, data.test)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", PimchipWarning)
        by_choice = {
            choice: evaluate(convert(network, "sram65", weight_scale=choice, **FINE), data.test)  # type: ignore[arg-type]
            for choice in ("auto", "adjusted")
        }
    assert by_choice["auto"] > by_choice["adjusted"] + 0.01


class OwnConv(nn.Conv2d):
    """A convolution under a name of its own."""


class TwoNames(nn.Module):
    """One convolution under two names, used twice behind BNs."""

    def __init__(self) -> None:
        super().__init__()
        shared = OwnConv(8, 8, 3, padding=1)
        self.conv, self.bn, self.fc = OwnConv(1, 8, 3), nn.BatchNorm2d(8), nn.Linear(288, 4)
        self.z = nn.Sequential(shared, nn.BatchNorm2d(8), nn.ReLU())
        self.a = nn.Sequential(shared, nn.BatchNorm2d(8), nn.ReLU())

    def forward(self, x: Tensor) -> Tensor:
        self.seen = x
        return self.fc(self.z(self.a(F.relu(self.bn(self.conv(x))))).flatten(1))  # type: ignore[no-any-return]


def with_gammas(norm: nn.Module) -> nn.Module:
    norm.weight.data.uniform_(0.5, 1.0)  # type: ignore[union-attr,operator]
    return norm


def headed(*between: nn.Module, outputs: int = 288) -> nn.Module:
    """A convolution, these, and a last layer on the processor, which clips nothing."""
    return nn.Sequential(nn.Conv2d(1, 8, 3), *between, nn.Flatten(), nn.Linear(outputs, 4))


@torch.no_grad()
@pytest.mark.parametrize(
    "network",
    [
        headed(nn.BatchNorm2d(8, affine=False)),
        headed(with_gammas(nn.GroupNorm(2, 8))),
        headed(nn.BatchNorm2d(8), nn.BatchNorm2d(8, affine=False)),
        headed(nn.BatchNorm2d(8), nn.Unflatten(1, (2, 4)), nn.Flatten(1, 2), nn.Upsample(scale_factor=2), nn.MaxPool2d(2)),
        headed(nn.BatchNorm2d(8), nn.ZeroPad2d(1), nn.AdaptiveMaxPool2d(4), nn.PixelShuffle(2), nn.LeakyReLU(), outputs=128),
        TwoNames(),
    ],
)  # fmt: skip
def test_biases_behind_every_kind_of_norm_and_form_are_on_its_scale(network: nn.Module) -> None:
    network, x = gathered(network)
    last = network.fc if isinstance(network, TwoNames) else network[-1]  # type: ignore[index]
    last.bias.uniform_(-1, 1)
    wanted = network(x)
    network.seen = torch.zeros(1)
    with warnings.catch_warnings():
        warnings.simplefilter("error", PimchipWarning)
        got = quietly(network)(x)
    slope = float((got * wanted).sum() / (wanted * wanted).sum())
    assert float((got / slope - wanted).std() / wanted.std()) < 0.1
    assert torch.equal(network.seen, torch.zeros(1))  # what a forward stores is stored in a copy


def quietly(network: nn.Module) -> nn.Module:
    """Converted, with nothing on the chip or nearly."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "no layer is on the chip", PimchipWarning)
        return convert(network, "sram65", activation_scale=0.1, **FINE)  # type: ignore[arg-type]


@torch.no_grad()
@pytest.mark.parametrize("bits", [2, 8])
@pytest.mark.parametrize("zero", [False, True])
def test_a_bias_is_multiplied_by_what_fits_the_quantized_weights_best(bits: int, zero: bool) -> None:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(16, 8), nn.BatchNorm1d(8), nn.Linear(8, 8))
    network[1].running_var.fill_(4.0)  # type: ignore[union-attr,operator]
    if zero:
        network[0].weight.zero_()  # type: ignore[operator]
    options: dict[str, Any] = {"weight_bits": bits, "digital": True, "pim_skip": (), "weight_scale": "adjusted"}
    made = convert(network.eval(), "sram65", **options)
    layer, bias = made[0], made[0].bias  # type: ignore[index]
    wanted = 1.0
    if not zero:
        weights = (layer(torch.eye(16)) - bias).T.double().numpy().ravel()
        old = network[0].weight.double().numpy().ravel()  # type: ignore[union-attr,operator]
        wanted = float(np.linalg.lstsq(old[:, None], weights, rcond=None)[0][0])
        assert abs(wanted / np.sqrt((weights**2).sum() / (old**2).sum()) - 1) > (0.05 if bits == 2 else 0)
    torch.testing.assert_close(bias, network[0].bias * wanted, rtol=1e-4, atol=1e-6)  # type: ignore[operator]
    torch.testing.assert_close(made[1].running_var, torch.full((8,), 4 * wanted**2), rtol=1e-4, atol=1e-6)  # type: ignore[index]


@torch.no_grad()
def test_scales_of_columns_are_in_what_statistics_are_multiplied_by() -> None:
    network = headed(nn.BatchNorm2d(8))
    network[0].weight.mul_(torch.linspace(0.1, 1, 8)[:, None, None, None] ** 2)  # type: ignore[index,operator]
    network, x = gathered(network)
    options: dict[str, Any] = {**FINE, "scales": "column", "pim_skip": ("last",)}
    carried, again = (convert(network, "sram65", **options) for _ in range(2))
    calibrate_bn(again, x, batches=1, batch_size=64)
    norms = [made[1].running_var for made in (carried, again)]  # type: ignore[index]
    torch.testing.assert_close(*norms, rtol=0.05, atol=0)


class Twice(nn.Module):
    """A layer and a BN on maps of two scales, and a layer of which one input's scale is not known."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.bn = nn.Conv2d(1, 1, 3, padding=1), nn.BatchNorm2d(1)
        self.bn2, self.fc = nn.BatchNorm2d(1), nn.Linear(128, 3)

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.bn2(self.conv(self.bn(self.conv(x)))))
        return self.fc(torch.cat([torch.sigmoid(y), y], 1).flatten(1))  # type: ignore[no-any-return]


def test_what_is_on_two_scales_or_on_none_is_lost() -> None:
    network, _ = gathered(Twice())
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", PimchipWarning)
        convert(network, "sram65", pim_skip=("first",))
    told = " ".join(str(each.message) for each in caught)
    assert "biases of conv, fc are not" in told and "enter sigmoid, where" in told


@pytest.mark.parametrize(
    ("add", "words"),
    [
        (lambda y: torch.add(y, other=y), None),
        (lambda y: torch.add(y, y, alpha=2), None),
        (lambda y: torch.add(y, other=1.0), "enter add, where"),
        (lambda y: torch.cat(tensors=[y[:, :4], y[:, 4:]], dim=1), None),
    ],
)
def test_sums_by_keyword_are_sums(add: Callable[[Tensor], Tensor], words: str | None) -> None:
    network, _ = gathered(Ends(lambda y, x, p: add(y)))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", PimchipWarning)
        convert(network, "sram65", pim_skip=("first",))
    assert [words in str(each.message) for each in caught] == [True] if words else not caught


@torch.no_grad()
def test_clipping_behind_a_relu_that_is_a_function_is_told_by_the_layer_that_reads_it() -> None:
    network, x = gathered(Residual())
    network.bn.weight.fill_(4)  # type: ignore[union-attr,operator]
    converted = convert(network, "sram65", activation_scale=1, **FINE)  # type: ignore[arg-type]
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", PimchipWarning)
        converted(x)
        converted(x)
    told = [str(each.message) for each in caught]
    assert sum(text.startswith("layer a (PimConv2d): ") for text in told) == 1
    assert all("of its positive inputs are above 1" in text for text in told)


@torch.no_grad()
def test_statistics_of_instance_normalizations_are_carried_too() -> None:
    """Those that evaluate by what they gathered, as BNs do."""
    torch.manual_seed(0)
    norms = [nn.InstanceNorm2d(8, affine=affine, momentum=0.5, track_running_stats=True) for affine in (False, True)]
    body = [nn.Conv2d(1, 8, 3), norms[0], nn.ReLU(), nn.Conv2d(8, 8, 3), norms[1], nn.ReLU()]
    network, x = nn.Sequential(*body, nn.Flatten(), nn.Linear(128, 10)), torch.rand(64, 1, 8, 8)
    for _ in range(20):
        network.train()(x)
    converted = convert(network.eval(), "sram65", **FINE)  # type: ignore[arg-type]
    assert alike(converted(x), network(x)) > 0.995
