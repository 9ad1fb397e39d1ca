"""Quantizers against closed forms and against autograd of the graph without rounding."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from pimchip.errors import InputError
from pimchip.kernels import training
from pimchip.qat import ActQuant, DigitalConv2d, DigitalLinear
from pimchip.qat.quantizers import quantize_activation, quantize_weight, round_through, weight_scale


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


class TestWeights:
    def test_known_integers(self) -> None:
        # tanh(atanh(r)) / 0.9 * 7 for r = 0.9 * (1, -1, 0.5, 0, 1/7 * 1.4, -1/7 * 2.6)
        ratios = torch.tensor([1.0, -1.0, 0.52, 0.0, 1.4 / 7, -2.6 / 7], dtype=torch.float64)
        assert quantize_weight(torch.atanh(0.9 * ratios), 4).tolist() == [7, -7, 4, 0, 1, -3]

    @pytest.mark.parametrize("bits", range(2, 9))
    def test_integers_stay_in_the_symmetric_range_and_reach_its_end(self, bits: int) -> None:
        q = quantize_weight(normal(64, 9, seed=bits), bits)
        assert torch.equal(q, q.round())
        assert q.abs().max() == 2 ** (bits - 1) - 1

    def test_every_integer_lies_within_half_of_the_real_value(self) -> None:
        w = normal(500)
        real = 7 * torch.tanh(w) / torch.tanh(w).abs().max()
        assert (quantize_weight(w, 4) - real).abs().max() <= 0.5 + 1e-5

    def test_all_zero_weights_give_zeros(self) -> None:
        w = torch.zeros(3, 3, requires_grad=True)
        q = quantize_weight(w, 4)
        assert torch.equal(q, torch.zeros(3, 3))

    def test_gradient_is_that_of_the_graph_without_rounding(self) -> None:
        w = normal(8, 5).double().requires_grad_()
        upstream = normal(8, 5, seed=1).double()
        (got,) = torch.autograd.grad(quantize_weight(w, 4), w, upstream)
        peak = torch.tanh(w).abs().max().detach()
        (wanted,) = torch.autograd.grad(7 * torch.tanh(w) / peak, w, upstream)
        torch.testing.assert_close(got, wanted, rtol=1e-12, atol=0)


class TestWeightScale:
    @pytest.mark.parametrize(("bits", "fan"), [(4, 144), (2, 10), (8, 999)])
    def test_is_the_formula_with_torch_std(self, bits: int, fan: int) -> None:
        q = quantize_weight(normal(30, 20, seed=bits), bits)
        top = 2 ** (bits - 1) - 1
        wanted = 1 / (math.sqrt(fan) * float(torch.std(q.double() / top)))
        assert weight_scale(q, bits, fan) == pytest.approx(wanted, rel=1e-12)

    def test_has_no_gradient_to_the_weights(self) -> None:
        w = normal(4, 4).requires_grad_()
        assert isinstance(weight_scale(quantize_weight(w, 4), 4, 4), float)

    def test_of_equal_weights_is_finite(self) -> None:
        assert math.isfinite(weight_scale(torch.full((5, 5), 7.0), 4, 5))

    def test_does_not_depend_on_the_order_of_the_weights(self) -> None:
        q = quantize_weight(normal(4097, seed=3), 8)
        assert weight_scale(q, 8, 7) == weight_scale(q.flip(0), 8, 7)

    @pytest.mark.parametrize(
        ("source", "fan"), [(nn.Conv2d(6, 40, 3), 40 * 9), (nn.Conv2d(6, 40, (1, 5)), 40 * 5), (nn.Linear(6, 40), 40)]
    )
    def test_fan_is_outputs_times_kernel(self, source: nn.Conv2d | nn.Linear, fan: int) -> None:
        layer = (DigitalLinear if isinstance(source, nn.Linear) else DigitalConv2d)(source, 4, 0)
        q = layer.integers()
        wanted = 1 / (math.sqrt(fan) * float(torch.std(q.detach().double() / 7))) / 7
        assert layer.scale(q) == pytest.approx(wanted, rel=1e-12)

    def test_outputs_have_variance_near_inputs_over_outputs(self) -> None:
        """By definition Var[y] = inputs * E[x^2] / outputs: unit inputs to a square layer give one."""
        layer = DigitalLinear(nn.Linear(400, 400, bias=False), 4, 0)
        with torch.no_grad():
            nn.init.normal_(layer.weight, generator=torch.Generator().manual_seed(4))
            y = layer(normal(500, 400, seed=5))
        assert float(y.var()) == pytest.approx(1, abs=0.03)


class TestActivations:
    def test_known_answers(self) -> None:
        x = torch.tensor([-3.0, 0.0, 0.49 / 15, 0.51 / 15, 7.4 / 15, 14.6 / 15, 1.0, 9.0])
        assert quantize_activation(x, 4).tolist() == [0, 0, 0, 1, 7, 15, 15, 15]

    @pytest.mark.parametrize("bits", range(1, 9))
    def test_integers_cover_the_range(self, bits: int) -> None:
        q = quantize_activation(torch.linspace(-0.5, 1.5, 4001), bits)
        assert sorted(set(q.tolist())) == list(range(2**bits))

    def test_gradient_passes_inside_and_stops_outside(self) -> None:
        x = torch.tensor([-0.1, 0.03, 0.5, 0.97, 1.1], requires_grad=True)
        (got,) = torch.autograd.grad(quantize_activation(x, 4).sum(), x)
        (wanted,) = torch.autograd.grad((15 * x.clamp(0, 1)).sum(), x)
        assert torch.equal(got, wanted)
        assert got.tolist() == [0, 15, 15, 15, 0]

    @given(st.integers(1, 8), st.integers(0, 255))
    def test_a_value_on_the_grid_stays(self, bits: int, k: int) -> None:
        top = 2**bits - 1
        grid = torch.tensor([min(k, top) / top])
        assert quantize_activation(grid, bits).tolist() == [min(k, top)]
        torch.testing.assert_close(ActQuant(bits)(grid), grid)

    def test_the_module_divides_by_the_top(self) -> None:
        torch.testing.assert_close(ActQuant(2)(torch.tensor([0.4, 2.0, -1.0])), torch.tensor([1 / 3, 1.0, 0.0]))

    @pytest.mark.parametrize("bits", [0, 9, -1])
    def test_bits_out_of_range_are_refused(self, bits: int) -> None:
        with pytest.raises(InputError, match=f"activation bits = {bits}"):
            ActQuant(bits)


def test_round_through_rounds_and_passes_the_gradient() -> None:
    x = torch.tensor([0.4, -1.6, 2.5], requires_grad=True)
    y = round_through(x)
    assert y.tolist() == [0, -2, 2]
    (grad,) = torch.autograd.grad(y, x, torch.tensor([1.0, 2.0, 3.0]))
    assert grad.tolist() == [1, 2, 3]


@pytest.mark.parametrize(
    "shape", [(1, 1, 1, 1), (1, 3, 5, 1), (2, 1, 3, 3), (1, 17, 1, 1), (3, 5, 47, 47), (0, 4, 2, 2)]
)
@pytest.mark.parametrize(("bits", "ceiling"), [(1, 1.0), (4, 1.0), (8, 1.0), (4, 2.7)])
def test_grids_and_their_gradients_are_torchs_whatever_the_size(
    shape: tuple[int, int, int, int], bits: int, ceiling: float
) -> None:
    generator, steps = torch.Generator().manual_seed(0), (1 << bits) - 1
    x = (torch.rand(shape, generator=generator) * 2 - 0.5) * ceiling
    x = torch.where(
        x < 0.1 * ceiling, (x * steps / ceiling).round() / steps * ceiling + 0.5 / steps * ceiling, x
    )  # ties
    made = training.quantize(x, bits, ceiling)
    assert made is not None
    y, q, inside = made
    wanted = torch.round(x.clamp(0, ceiling) * (steps / ceiling))
    assert torch.equal(torch.from_numpy(q.values.astype(np.float32)), wanted)
    assert torch.equal(y, wanted / steps * ceiling)
    held = (x >= 0) & (x <= ceiling)
    assert torch.equal(inside, held.permute(0, 2, 3, 1).flatten())
    gradient = torch.randn(shape, generator=generator)
    assert torch.equal(training.keep_only(gradient, inside), torch.where(held, gradient, 0.0))
    assert torch.equal(
        training.keep_only(gradient, inside), training.keep_only(training.channels_last(gradient), inside)
    )
    for index in {0, x.numel() // 2, x.numel() - 1} if x.numel() else ():
        broken = x.clone()
        broken.view(-1)[index] = float("nan")
        assert training.quantize(broken, bits, ceiling) is None
