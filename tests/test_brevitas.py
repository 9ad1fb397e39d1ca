"""Networks that Brevitas trained: what it computes itself is what the compiled program computes on converters that lose nothing."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from test_networks import check, ideal, settled
from torch import Tensor, nn

from pimchip.chip import ChipSpec, load_chip
from pimchip.compiler import compile_network
from pimchip.compiler.golden import example
from pimchip.errors import CompileError, InputError
from pimchip.qat.imported import from_brevitas
from pimchip.runtime import Executor

qnn: Any = pytest.importorskip("brevitas.nn", reason="Brevitas is not installed: pip install pimchip[brevitas]")
IMAGE = (3, 6, 6)
pytestmark = pytest.mark.filterwarnings("ignore:Defining your:DeprecationWarning", "ignore::UserWarning")


def lossless() -> ChipSpec:
    """17 rows of 4-bit activations sum to 255 at most: an ADC of 8 bits has a code for each sum."""
    data = load_chip("sram65").to_dict()
    data["array"] |= {"rows": 17}
    data["adc"] |= {"bits": 8}
    data["operating"] |= {"rows": 17, "adc_bits": 8} if "adc_bits" in data["operating"] else {"rows": 17}
    return ChipSpec.from_dict(data)


class Network(nn.Module):
    """Convolutions with BN between quantizers, signed and unsigned, pooling, a residual sum, a linear layer in the array."""

    def __init__(self, weight_quant: Any = None) -> None:
        super().__init__()
        kind = {} if weight_quant is None else {"weight_quant": weight_quant}
        self.image = qnn.QuantIdentity(bit_width=8)
        self.conv1, self.bn1 = (
            qnn.QuantConv2d(3, 6, 3, padding=1, bias=False, weight_bit_width=8, **kind),
            nn.BatchNorm2d(6),
        )
        self.signed = qnn.QuantIdentity(bit_width=4)
        self.conv2, self.bn2 = (
            qnn.QuantConv2d(6, 8, 3, padding=1, bias=True, weight_bit_width=4, **kind),
            nn.BatchNorm2d(8),
        )
        self.relu, self.pool = qnn.QuantReLU(bit_width=4), nn.MaxPool2d(2)
        self.conv3, self.bn3 = (
            qnn.QuantConv2d(8, 8, 3, padding=1, bias=False, weight_bit_width=4, **kind),
            nn.BatchNorm2d(8),
        )
        self.relu2, self.flatten = qnn.QuantReLU(bit_width=4), nn.Flatten()
        self.fc1, self.relu3 = (
            qnn.QuantLinear(72, 12, bias=True, weight_bit_width=4, **kind),
            qnn.QuantReLU(bit_width=4),
        )
        self.fc2 = qnn.QuantLinear(12, 5, bias=True, weight_bit_width=8, **kind)

    def forward(self, x: Tensor) -> Tensor:
        x = self.signed(self.bn1(self.conv1(self.image(x))))
        x = self.pool(self.relu(self.bn2(self.conv2(x))))
        x = self.relu2(self.bn3(self.conv3(x)) + x)
        return self.fc2(self.relu3(self.fc1(self.flatten(x))))  # type: ignore[no-any-return]


def trained(weight_quant: Any = None) -> nn.Module:
    torch.manual_seed(0)
    network = Network(weight_quant).train()
    rate = torch.optim.SGD(network.parameters(), 0.05)
    for _ in range(4):
        loss = network(torch.rand(16, *IMAGE)).square().mean()
        rate.zero_grad()
        loss.backward()
        rate.step()
    return network.eval()


@pytest.mark.parametrize("per_output", [False, True])
def test_it_computes_what_brevitas_computes(per_output: bool) -> None:
    quant = pytest.importorskip("brevitas.quant").Int8WeightPerChannelFloat if per_output else None
    network, spec = trained(quant), lossless()
    made = from_brevitas(network, spec)
    images = example(IMAGE, 16, 1)
    with torch.no_grad():
        wanted = network(torch.from_numpy(images).float() / 255).numpy()
    program = check(made, spec, IMAGE, 0)
    assert [n for n, layer in program.manifest.layers.items() if layer.kind == "pim"] == ["conv2", "conv3", "fc1"]
    with ideal(spec) as board:
        got = Executor(program, board).logits(images) * program.manifest.logit_scale
    assert np.abs(wanted).max() > 0.05
    assert np.abs(got - wanted).max(axis=1).max() < 1e-4


def test_integers_are_those_of_brevitas() -> None:
    network = trained()
    program = compile_network(from_brevitas(network, "sram65"), load_chip("sram65"), IMAGE, None)
    theirs = network.conv2.quant_weight().int().reshape(8, -1).T.numpy()  # type: ignore[operator, union-attr]
    assert np.array_equal(program.tensors["weight.conv2"], theirs)


def behind_relu(layer: Callable[..., nn.Module], **options: Any) -> nn.Module:
    return nn.Sequential(qnn.QuantReLU(bit_width=4), layer(4, 4, 1, **options))


REFUSED: list[tuple[Callable[[], nn.Module], str]] = [
    (lambda: qnn.QuantTanh(bit_width=4), r"module 2 \(QuantTanh\): is not supported"),
    (lambda: qnn.QuantReLU(bit_width=10), r"module 2 \(QuantReLU\): has 10 bits"),
    (lambda: behind_relu(qnn.QuantConv2d, bias=True, bias_quant=_bias()), r"2\.1 \(QuantConv2d\): has a bias_quant"),
    (lambda: behind_relu(qnn.QuantConvTranspose2d), r"2\.1 \(QuantConvTranspose2d\): is not supported"),
    (lambda: nn.Sequential(nn.BatchNorm2d(4), qnn.QuantConv2d(4, 4, 1)), "reads what no quantizer gave"),
    (lambda: behind_relu(qnn.QuantConv2d, weight_bit_width=9), "weights of 9 bits"),
]


def _bias() -> Any:
    return pytest.importorskip("brevitas.quant").Int8BiasPerTensorFloatInternalScaling


@pytest.mark.parametrize(("module", "words"), REFUSED, ids=["tanh", "bits", "bias", "transposed", "no grid", "weights"])
def test_what_is_not_exact_is_refused_by_name(module: Callable[[], nn.Module], words: str) -> None:
    network = nn.Sequential(
        qnn.QuantIdentity(bit_width=8),
        qnn.QuantConv2d(3, 4, 3, weight_bit_width=8),
        module(),
        nn.Flatten(),
        qnn.QuantLinear(4, 5, bias=True),
    )
    with pytest.raises(CompileError, match=words):
        from_brevitas(network, "sram65")


def test_all_that_is_refused_is_named_at_once_and_nothing_for_what_another_is() -> None:
    network = nn.Sequential(
        qnn.QuantIdentity(bit_width=8),
        qnn.QuantConv2d(3, 4, 3, weight_bit_width=8),
        qnn.QuantReLU(bit_width=10),
        qnn.QuantConv2d(4, 4, 1, weight_bit_width=4),  # reads what is refused, and is sound
        qnn.QuantReLU(bit_width=10),
        qnn.QuantConv2d(4, 4, 1, weight_bit_width=8),  # reads what is refused, and is too wide for the array
        qnn.QuantReLU(bit_width=4),
        qnn.QuantConv2d(4, 4, 1, weight_bit_width=1),  # whose scale is NaN
        qnn.QuantReLU(bit_width=4),
        qnn.QuantConv2d(4, 4, 1, weight_bit_width=9),
        qnn.QuantTanh(bit_width=4),
        nn.Flatten(),
        qnn.QuantLinear(4, 5, bias=True),
    )
    with pytest.raises(CompileError) as said:
        from_brevitas(network, "charge-native")
    assert [each.partition(" (")[0] for each in str(said.value).split("; module ")] == ["module 2", *"4579", "10"]
    assert "module 5 (QuantConv2d): has weights of 8 bits" in str(said.value) and "not finite" in str(said.value)


def test_a_network_without_quantized_layers_is_told_to_convert() -> None:
    with pytest.raises(InputError, match=r"no quantized layer of Brevitas: convert\(\)"):
        from_brevitas(settled(nn.Sequential(nn.Conv2d(3, 4, 3))), "sram65")
