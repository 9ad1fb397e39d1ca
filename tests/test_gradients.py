"""The PIM layers' forward against the executable specification, and their backward against autograd of the ideal product."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pimchip.chip import ChipSpec, Mac, load_chip
from pimchip.chip.reference import pim_matmul, pim_scale
from pimchip.qat import convert, pim_layers
from pimchip.qat.health import dead_layers
from pimchip.qat.options import PimOptions
from pimchip.qat.pim import PimConv2d, PimLayerModule, PimLinear

POINTS = {
    "native": Mac("native", 17, 4, 4, 2, 5, 2),
    "differential": Mac("differential", 36, 4, 4, 4, 4, 2),
    "bit_serial": Mac("bit_serial", 20, 4, 4, 4, 5, 1),
    "bit_serial-m1": Mac("bit_serial", 144, 3, 4, 1, 6, 2),
    "native-m3": Mac("native", 9, 4, 4, 3, 6, 1),
}
EXACT = {  # levels = FS: a code a count
    "native": Mac("native", 39, 4, 4, 4, 13),
    "differential": Mac("differential", 39, 4, 4, 4, 12),
    "bit_serial": Mac("bit_serial", 17, 4, 4, 4, 8),
}


@dataclass(frozen=True)
class Shape:
    """A layer and an input for it."""

    module: nn.Conv2d | nn.Linear
    x: tuple[int, ...]


def shapes() -> dict[str, Shape]:
    torch.manual_seed(7)
    return {
        "conv": Shape(nn.Conv2d(5, 6, 3, padding=1), (3, 5, 6, 5)),
        "conv-stride": Shape(nn.Conv2d(4, 5, 3, stride=2, padding=1, bias=False), (3, 4, 7, 6)),
        "conv-uneven": Shape(nn.Conv2d(3, 4, (1, 3), stride=(2, 1), padding=(0, 2)), (2, 3, 5, 4)),
        "conv-1x1": Shape(nn.Conv2d(40, 5, 1, bias=False), (2, 40, 3, 3)),
        "conv-1x1-stride": Shape(nn.Conv2d(20, 5, 1, stride=2), (2, 20, 5, 5)),
        "conv-1x1-padding": Shape(nn.Conv2d(20, 5, 1, padding=1), (2, 20, 3, 3)),
        "linear": Shape(nn.Linear(50, 8), (10, 50)),
    }


SHAPES = tuple(shapes())


def layer(case: Shape, mac: Mac, **options: Any) -> PimLayerModule:
    kind = PimLinear if isinstance(case.module, nn.Linear) else PimConv2d
    return kind(case.module, mac, PimOptions(**options)).eval()


def grid_input(case: Shape, seed: int = 0) -> tuple[Tensor, Tensor]:
    """(integers 0..15, the same over 15), dense as after a ReLU."""
    q = torch.randint(0, 16, case.x, generator=torch.Generator().manual_seed(seed)).float()
    return q, q / 15


def ideal(q: Tensor, w: Tensor, source: nn.Conv2d | nn.Linear) -> Tensor:
    """The integer product by torch, float64."""
    if isinstance(source, nn.Linear):
        return F.linear(q.double(), w.double().flatten(1))
    return F.conv2d(q.double(), w.double(), stride=source.stride, padding=source.padding)  # type: ignore[arg-type]


def specified(q: Tensor, w: Tensor, source: nn.Conv2d | nn.Linear, mac: Mac) -> Tensor:
    """The same by pimchip.chip.reference on patches cut out by loops, in units of the integer product, float64."""
    x, kernel = q.long().numpy(), w.detach().long().numpy()
    matrix = kernel.reshape(len(kernel), -1).T
    keys = ("rows", "weight_bits", "act_bits", "dac_bits", "adc_bits", "range_divisor")
    point: dict[str, Any] = {"scheme": str(mac.scheme)} | {key: getattr(mac, key) for key in keys}
    if isinstance(source, nn.Linear):
        return torch.from_numpy(pim_matmul(x, matrix, **point) * pim_scale(**point))
    (kh, kw), (sh, sw), (ph, pw) = source.kernel_size, source.stride, source.padding  # type: ignore[misc]
    x = np.pad(x, ((0, 0), (0, 0), (ph, ph), (pw, pw)))  # type: ignore[has-type]
    out_h, out_w = (x.shape[2] - kh) // sh + 1, (x.shape[3] - kw) // sw + 1  # type: ignore[has-type]
    y = np.empty((len(x), len(kernel), out_h, out_w))
    for i in range(out_h):
        for j in range(out_w):
            patch = x[:, :, i * sh : i * sh + kh, j * sw : j * sw + kw].reshape(len(x), -1)  # type: ignore[has-type]
            y[:, :, i, j] = pim_matmul(patch, matrix, **point) * pim_scale(**point)
    return torch.from_numpy(y)


def unit_of(w: Tensor, source: nn.Conv2d | nn.Linear, bits: int = 4) -> float:
    """s / (q_max * 15) from its definition."""
    top = 2 ** (bits - 1) - 1
    fan = len(w) * (w[0, 0].numel() if w.ndim == 4 else 1)
    return 1 / (fan**0.5 * float(torch.std(w.double() / top))) / top / 15


class TestForward:
    @pytest.mark.parametrize("point", POINTS)
    @pytest.mark.parametrize("name", SHAPES)
    def test_is_the_specification_times_the_scale(self, name: str, point: str) -> None:
        case, mac = shapes()[name], POINTS[point]
        pim = layer(case, mac)
        q, x = grid_input(case)
        w = pim.integers()
        wanted = specified(q, w, case.module, mac) * unit_of(w.detach(), case.module, mac.weight_bits)
        if case.module.bias is not None:
            bias = case.module.bias.double()
            wanted = wanted + (bias if wanted.ndim == 2 else bias[:, None, None])
        torch.testing.assert_close(pim(x).double(), wanted, rtol=1e-5, atol=1e-6)

    @pytest.mark.parametrize("scheme", EXACT)
    @pytest.mark.parametrize("name", SHAPES)
    def test_at_a_code_a_count_equals_the_digital_layer_and_xi_is_one(self, name: str, scheme: str) -> None:
        case = shapes()[name]
        _, x = grid_input(case)
        pim, digital = layer(case, EXACT[scheme]), layer(case, EXACT[scheme], digital=True)
        torch.testing.assert_close(pim(x), digital(x), rtol=1e-5, atol=1e-6)
        assert pim.xi == pytest.approx(1, abs=1e-6)

    def test_inputs_are_clipped_and_rounded_first(self) -> None:
        case = shapes()["conv"]
        pim = layer(case, POINTS["native"])
        x = torch.randn(case.x, generator=torch.Generator().manual_seed(1))
        on_grid = torch.round(15 * x.clamp(0, 1)) / 15
        assert torch.equal(pim(x), pim(on_grid))

    def test_noise_is_added_in_training_only(self) -> None:
        case = shapes()["conv"]
        quiet, noisy = layer(case, POINTS["bit_serial"]), layer(case, POINTS["bit_serial"], noise_lsb=1.0)
        _, x = grid_input(case)
        assert torch.equal(quiet(x), noisy(x))
        assert not torch.equal(quiet(x), noisy.train()(x))


class TestBackward:
    @pytest.mark.parametrize("backward", ["gste", "ste"])
    @pytest.mark.parametrize("point", POINTS)
    @pytest.mark.parametrize("name", SHAPES)
    def test_is_xi_times_the_gradient_of_the_ideal_product(self, name: str, point: str, backward: str) -> None:
        case, mac = shapes()[name], POINTS[point]
        pim = layer(case, mac, backward=backward)
        q, x = grid_input(case)
        x.requires_grad_()
        y = pim(x)
        upstream = torch.randn(y.shape, generator=torch.Generator().manual_seed(2))
        grad_x, grad_w = torch.autograd.grad(y, [x, pim.weight], upstream)

        raw, x2 = pim.weight.detach().double().requires_grad_(), (q / 15).double().requires_grad_()
        top = 2 ** (mac.weight_bits - 1) - 1
        real = top * torch.tanh(raw) / torch.tanh(raw).abs().max().detach()
        w = real + (pim.integers().detach().double() - real).detach()  # rounded value, unrounded gradient
        source = case.module
        out = ideal(x2 * 15, w, source) * unit_of(w.detach(), source, mac.weight_bits)
        wanted_x, wanted_w = torch.autograd.grad(out, [x2, raw], upstream.double())

        xi = 1.0
        if backward == "gste":
            y_pim, y_ideal = specified(q, w, source, mac), ideal(q, w.detach(), source)
            xi = float(torch.sqrt(y_pim.var() / y_ideal.var()))
            assert abs(xi - 1) > 1e-3, "this case shows nothing"
            assert pim.xi == pytest.approx(xi, rel=1e-5)
        torch.testing.assert_close(grad_x.double(), wanted_x * xi, rtol=1e-4, atol=1e-6)
        torch.testing.assert_close(grad_w.double(), wanted_w * xi, rtol=1e-4, atol=1e-5)

    def test_xi_is_reported_without_being_used_under_ste(self) -> None:
        case = shapes()["linear"]
        gste, ste = layer(case, POINTS["native"]), layer(case, POINTS["native"], backward="ste")
        _, x = grid_input(case)
        gste(x), ste(x)
        assert ste.xi == gste.xi != 1

    def test_bias_and_learnable_eta_have_their_plain_gradients(self) -> None:
        case = shapes()["linear"]
        pim = layer(case, POINTS["native"], eta="learnable")
        q, x = grid_input(case)
        assert pim.bias is not None
        grad_eta, grad_bias = torch.autograd.grad(pim(x).sum(), [pim.eta, pim.bias])
        y = specified(q, pim.integers(), case.module, POINTS["native"]).sum()
        assert float(grad_eta) == pytest.approx(float(y) * unit_of(pim.integers().detach(), case.module), rel=1e-4)
        assert grad_bias.tolist() == [len(x)] * 8

    def test_no_gradient_where_the_input_clips(self) -> None:
        pim = layer(shapes()["linear"], POINTS["native"])
        x = torch.linspace(-1, 2, 500).reshape(10, 50).requires_grad_()
        (grad,) = torch.autograd.grad(pim(x).square().sum(), x)
        outside = (x < 0) | (x > 1)
        assert (grad[outside] == 0).all()
        assert (grad[~outside] != 0).all()


def dense(mac: Mac) -> float:
    """xi of a layer of 288 inputs, weights and activations as a network under training has them."""
    generator = torch.Generator().manual_seed(0)
    source = nn.Linear(288, 48, bias=False)
    with torch.no_grad():
        source.weight.normal_(0, 0.1, generator=generator)
    pim = PimLinear(source, mac, PimOptions()).eval()
    x = torch.randn(1000, 288, generator=generator) * 0.5  # half of it at zero after the ReLU
    with torch.no_grad():
        pim(x)
    return pim.xi


class TestRescaling:
    @pytest.mark.parametrize(
        ("scheme", "dac_bits", "adc_bits", "xi"),
        [  # simulated for the method before there was this code
            ("native", 4, 7, 1.15),
            ("native", 4, 8, 1.05),
            ("differential", 4, 5, 2.87),
            ("differential", 4, 6, 1.26),
            ("differential", 4, 7, 1.10),
            ("bit_serial", 4, 3, 7.4),
            ("bit_serial", 4, 4, 2.3),
            ("bit_serial", 4, 5, 1.75),
            ("bit_serial", 4, 6, 1.28),
            ("bit_serial", 4, 7, 1.08),
            ("bit_serial", 1, 3, 4.1),
            ("bit_serial", 1, 5, 1.28),
            ("bit_serial", 1, 7, 1.02),
        ],
    )
    def test_xi_is_as_in_the_known_table(self, scheme: str, dac_bits: int, adc_bits: int, xi: float) -> None:
        assert dense(Mac(scheme, 144, 4, 4, dac_bits, adc_bits)) == pytest.approx(xi, rel=0.1)

    @pytest.mark.parametrize("scheme", ["native", "differential", "bit_serial"])
    def test_xi_tends_to_one_with_the_bits(self, scheme: str) -> None:
        away = [abs(dense(Mac(scheme, 144, 4, 4, 4, bits)) - 1) for bits in (7, 8, 9, 10)]
        assert away == sorted(away, reverse=True)
        assert away[-1] < 0.01

    @pytest.mark.parametrize(("scheme", "bits"), [("native", 3), ("native", 4), ("differential", 3)])
    def test_a_dead_zone_reports_zero(self, scheme: str, bits: int) -> None:
        assert dense(Mac(scheme, 144, 4, 4, 4, bits)) == 0

    def test_a_dead_layer_is_named_and_still_gets_a_gradient(self) -> None:
        torch.manual_seed(0)
        network = nn.Sequential(nn.Linear(144, 20), nn.ReLU(), nn.Linear(20, 4))
        options: dict[str, Any] = {
            "scheme": "native",
            "adc_bits": 3,
            "range_divisor": {"0": 16, "2": 1},
            "pim_skip": (),
        }
        converted = convert(network, fine_chip(), **options)
        converted(torch.rand(50, 144))
        assert dead_layers(converted) == ["2"]
        last = pim_layers(converted)["2"]
        assert last.xi == 0
        last(torch.rand(50, 20)).sum().backward()
        assert last.weight.grad is not None
        assert last.weight.grad.abs().max() > 0

    def test_a_layer_stuck_at_one_code_is_dead_too(self) -> None:
        """All codes clip: the output is one constant that is not zero."""
        source = nn.Linear(144, 12, bias=False)
        with torch.no_grad():
            source.weight.uniform_(0.5, 1, generator=torch.Generator().manual_seed(0))
        pim = PimLinear(source, Mac("native", 144, 4, 4, 4, 3, 16), PimOptions()).eval()
        out = pim(
            torch.rand(1029, 144, generator=torch.Generator().manual_seed(1))
        )  # 12348 float32: a mean that rounds
        assert out.unique().numel() == 1
        assert out[0, 0] != 0
        assert pim.xi == 0

    def test_noise_over_a_constant_product_leaves_the_gradient_as_it_is(self) -> None:
        pim = PimLinear(nn.Linear(6, 4), POINTS["native"], PimOptions(noise_lsb=2.0)).train()
        x = torch.zeros(50, 6, requires_grad=True)
        out = pim(x)
        assert out.unique().numel() > 4
        assert pim.xi == 1
        (grad,) = torch.autograd.grad(out.sum(), x)
        wanted = pim.integers().detach().sum(0).flatten() * unit_of(pim.integers().detach(), nn.Linear(6, 4)) * 15
        torch.testing.assert_close(grad, wanted.expand(50, 6))


def fine_chip() -> ChipSpec:
    """A chip that can work at every operating point of this file."""
    data = load_chip("charge-native").to_dict()
    data["adc"] |= {"bits": 13, "range_divisors": [1, 2, 4, 8, 16]}
    return ChipSpec.from_dict(data)
