"""Which layers keep the scale of their float weights, what that scale is, and that checkpoints and programs hold it."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from test_options import Block
from torch import Tensor, nn

from pimchip.board import open_board
from pimchip.chip import load_chip
from pimchip.compiler import compile_network
from pimchip.errors import InputError
from pimchip.qat import MODELS, ModelFile, build_model, convert, load_model, save_model
from pimchip.qat.checkpoint import load_state
from pimchip.qat.layers import QuantizedLayer
from pimchip.runtime import Executor

# Networks here are smaller than those that a chip is of use for.
pytestmark = [pytest.mark.filterwarnings("ignore:no layer is on the chip:pimchip.errors.PimchipWarning")]

SIGNED = dict.fromkeys(("q", "k", "v", "out", "up"), "shift")


def kept(network: nn.Module) -> set[str]:
    return {n for n, m in network.named_modules() if isinstance(m, QuantizedLayer) and m.scale_kept is not None}


class Branches(nn.Module):
    """Convolutions whose outputs go to a BN, a ReLU as a function, a pooled BN and nowhere but into a pool and a layer."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c, self.d = (nn.Conv2d(4, 4, 3, padding=1) for _ in range(4))
        self.bn1, self.bn2, self.pool, self.fc = nn.BatchNorm2d(4), nn.BatchNorm2d(4), nn.MaxPool2d(2), nn.Linear(16, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.b(F.relu(self.bn1(self.a(x)))))
        x = self.d(self.bn2(self.pool(self.c(x))))
        return self.fc(torch.flatten(self.pool(x), 1))  # type: ignore[no-any-return]


class Untraceable(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 2))

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x) if float(x.sum()) > 0 else x  # type: ignore[no-any-return]


@pytest.mark.parametrize("name", sorted(MODELS.keys() - {"encoder"}))  # it has attention
def test_the_zoo_is_adjusted_throughout(name: str) -> None:
    assert kept(convert(build_model(name, (1, 8, 8), 10), "sram65")) == set()


def test_what_follows_a_layer_decides() -> None:
    assert kept(convert(Branches(), "sram65")) == {"d", "fc"}
    relus = nn.Sequential(nn.Linear(4, 4), nn.Dropout(), nn.ReLU(), nn.Linear(4, 4), nn.ReLU6(), nn.Linear(4, 2))
    assert kept(convert(relus, "sram65")) == set()
    # x + out and x + down are read by a norm and again by the sum after it.
    assert kept(convert(Block(), "sram65")) == {"embed", "q", "k", "v", "out", "down", "head"}
    assert kept(convert(Untraceable(), "sram65")) == set()


def test_a_last_layer_behind_no_relu_keeps_its_scale() -> None:
    """Adjusted, logits behind LayerNorm and GELU grow with 1 / sqrt(classes) over the float weights' deviation."""

    def net(act: nn.Module) -> nn.Sequential:
        hidden = [layer for n in (16, 32) for layer in (nn.Linear(n, 32), nn.LayerNorm(32), copy.deepcopy(act))]
        return nn.Sequential(nn.Flatten(), *hidden, nn.Dropout(), nn.Linear(32, 4))

    torch.manual_seed(0)
    for act, wanted in ((nn.GELU(), {"8"}), (nn.Identity(), {"8"}), (nn.ReLU(), set())):
        assert kept(convert(net(act), "sram65")) == wanted
    source, x = net(nn.GELU()).eval(), torch.rand(64, 1, 4, 4)
    options: dict[str, Any] = {"signed_inputs": {"4": "shift"}, "digital": True}
    times = {}
    for choice in ("auto", "adjusted"):
        network = convert(source, "sram65", weight_scale=choice, **options)
        with torch.no_grad():
            network.train()(x)
            times[choice] = float(network.eval()(x).std() / source(x).std())
    assert times["auto"] == pytest.approx(1, abs=0.1)
    deviation = float(source[8].weight.detach().std())  # type: ignore[operator,union-attr]
    assert times["adjusted"] == pytest.approx(0.5 / deviation, rel=0.1) and times["adjusted"] > 3


def test_a_choice_is_taken_as_it_is() -> None:
    assert kept(convert(Block(), "sram65", weight_scale="adjusted")) == set()
    assert kept(convert(Untraceable(), "sram65", weight_scale="kept")) == {"layers.0", "layers.1"}
    assert kept(convert(Block(), "sram65", weight_scale={"q": "kept", "k": "adjusted"})) == {"q"}


@pytest.mark.parametrize("options", [{}, {"scales": "column"}, {"coding": "plus_minus"}, {"weight_bits": 2}])
def test_kept_weights_have_the_root_mean_square_of_the_float_ones(options: dict[str, Any]) -> None:
    torch.manual_seed(0)
    source = Block()
    network = convert(source, "sram65", **options)
    for name in kept(network):
        layer = network.get_submodule(name)
        assert isinstance(layer, QuantizedLayer)
        q, ratios = layer.integers().detach(), layer.ratios()
        real = q[:, :, 0, 0].double() * layer.scale(q) * (1.0 if ratios is None else ratios[:, None].double())
        wanted = source.get_submodule(name).weight.detach().double().numpy()  # type: ignore[union-attr,operator]
        assert np.sqrt(np.mean(real.numpy() ** 2)) == pytest.approx(np.sqrt(np.mean(wanted**2)), rel=1e-6)


def test_a_converted_transformer_starts_as_the_float_one() -> None:
    torch.manual_seed(0)
    source, x = Block(), torch.rand(64, 5, 6)
    wanted = source(x).detach()
    apart = {}
    for choice in ("auto", "adjusted"):
        network = convert(source, "sram65", signed_inputs=SIGNED, digital=True, weight_scale=choice).train()
        apart[choice] = float((network(x).detach() - wanted).std() / wanted.std())
    assert apart["auto"] < 0.25 < 2 < apart["adjusted"]


def test_the_gradient_is_about_the_float_layers_from_zero_on() -> None:
    torch.manual_seed(0)
    for start in (1.0, 0.0):
        source = nn.Linear(16, 4, bias=False)
        source.weight.data *= start
        layer = convert(nn.Sequential(source), "sram65", pim_skip=(), digital=True, weight_scale="kept")[0]  # type: ignore[index]
        x, g = torch.randint(0, 16, (9, 16)) / 15, torch.randn(9, 4) * 1e-4
        layer(x).backward(g)
        wanted = g.t().double() @ x.double()
        got = layer.weight.grad[:, :, 0, 0].double()
        assert float((got - wanted).norm() / wanted.norm()) < (0.2 if start else 1e-5)


def plain() -> nn.Module:
    torch.manual_seed(5)
    return nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Conv2d(4, 6, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(24, 12),
        nn.Identity(), nn.Linear(12, 3),
    )  # fmt: skip


@pytest.mark.filterwarnings("ignore:layer 8 .* clipped at 0:pimchip.errors.PimchipWarning")
def test_programs_and_checkpoints_hold_it(tmp_path: Path) -> None:
    network, spec = convert(plain(), "sram65", pim_skip=("first",)).eval(), load_chip("sram65")
    assert kept(network) == {"6", "8"}
    images = np.random.default_rng(0).integers(0, 256, (30, 1, 8, 8)).astype(np.uint8)
    x = torch.from_numpy(images).float() / 255
    for layer in ("2", "6"):
        network.get_submodule(layer).bias.data.add_(0.2)  # type: ignore[union-attr,operator]
    with torch.no_grad():
        wanted = network(x)
    program = compile_network(network, spec, (1, 8, 8), ("a", "b", "c"))
    with open_board("emulator:sram65?die=ideal&noise=off") as board:
        logits = Executor(program, board).logits(images) * program.manifest.logit_scale
    apart = np.abs(logits - wanted.numpy())  # ties of float32 may move single codes
    assert np.median(apart) < 1e-4 and np.quantile(apart, 0.9) < 0.05 * float(wanted.std())
    for choice, marked in (({}, {"6", "8"}), ({"weight_scale": "adjusted"}, set())):
        network = convert(plain(), "sram65", pim_skip=("first",), **choice).eval()
        file = ModelFile(
            "factory:mine", (1, 8, 8), ("a", "b", "c"), spec, {"pim_skip": ["first"]}, network.state_dict()
        )
        save_model(tmp_path / "model.pt", file)
        again = load_model(tmp_path / "model.pt").build(lambda shape, classes: plain())
        assert kept(again) == marked
        with torch.no_grad():
            assert torch.equal(again(x), network(x))
    with pytest.raises(InputError, match=r"6\.scale_kept is only in the network; they .*weight_scale"):
        load_state(convert(plain(), "sram65", pim_skip=("first",)), network.state_dict())
