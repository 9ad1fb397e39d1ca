"""Options of training: codings, ranges, scales, clips, gradients and inputs, each against a formula of its own."""

from __future__ import annotations

import doctest
import math
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pimchip.chip import Mac, load_chip
from pimchip.chip.mac import Coding
from pimchip.chip.reference import pim_matmul
from pimchip.compiler import twins
from pimchip.errors import BadResult, CompileError, InputError, PimchipWarning
from pimchip.kernels import crossbar
from pimchip.kernels.converters import ideal
from pimchip.qat import ActQuant, build_model, convert, pim_layers, ranges
from pimchip.qat.layers import WATCHED
from pimchip.qat.options import PimOptions
from pimchip.qat.pim import CALIBRATION_BATCHES, PimConv2d, PimLayerModule, PimLinear
from pimchip.qat.quantizers import quantize_weight
from pimchip.qat.ranges import ideal_with, learned_ranges, search_ranges, set_ranges, spec_noise

COARSE = Mac("bit_serial", 20, 4, 4, 4, 4, 2)
EXACT = Mac("bit_serial", 17, 4, 4, 4, 8)
"""Levels are the full scale: a code a count, so what the array computes is the product itself."""
CODINGS = {
    "sign_twice": Mac("bit_serial", 17, 4, 4, 4, 8, coding=Coding.SIGN_TWICE),
    "offset_binary": Mac("bit_serial", 17, 4, 4, 4, 8, coding=Coding.OFFSET_BINARY),
    "plus_minus": Mac("bit_serial", 17, 1, 4, 4, 8, coding=Coding.PLUS_MINUS),
}


def conv(seed: int = 0, **kind: Any) -> nn.Conv2d:
    torch.manual_seed(seed)
    return nn.Conv2d(**({"in_channels": 4, "out_channels": 6, "kernel_size": 3, "padding": 1, "bias": False} | kind))


def grid(*shape: int, seed: int = 1) -> Tensor:
    """Values k / 15."""
    return torch.randint(0, 16, shape, generator=torch.Generator().manual_seed(seed)) / 15


def close(a: Tensor, b: Tensor) -> None:
    torch.testing.assert_close(a.double(), b.double(), rtol=3e-5, atol=1e-5)


class TestCodings:
    @pytest.mark.parametrize("name", CODINGS)
    def test_planes_and_offset_make_up_every_weight(self, name: str) -> None:
        mac = CODINGS[name]
        w = np.array([[-1, 1]]) if name == "plus_minus" else np.arange(-8, 8)[None]
        cells = mac.cells(w).astype(int)
        assert set(np.unique(cells)) <= {0, 1}
        held = cells.reshape(w.size, mac.planes) @ mac.plane_weights
        assert (held - mac.offset).tolist() == w[0].tolist()
        assert np.array_equal(crossbar.cells(torch.from_numpy(w), mac).numpy(), cells)

    @pytest.mark.parametrize("name", CODINGS)
    def test_at_a_code_a_count_the_layer_is_the_product(self, name: str) -> None:
        mac = CODINGS[name]
        pim = PimConv2d(conv(), mac, PimOptions(coding=name)).eval()
        q, x = pim.integers(), grid(3, 4, 6, 5)
        if name == "plus_minus":
            assert set(q.unique().tolist()) == {-1, 1}
        close(pim(x), F.conv2d(x, q, padding=1) * pim.scale(q))
        assert pim.xi == pytest.approx(1, abs=1e-6)

    def test_two_sign_columns_average_the_noise_of_the_sign_plane(self) -> None:
        """Planes of 1, 2, 4, 8 have 85 units of noise power, of 1, 2, 4, 4, 4 have 53."""
        x, w = torch.zeros(40_000, 17), torch.zeros(17, 1)
        power = {}
        for coding in (Coding.TWOS_COMPLEMENT, Coding.SIGN_TWICE):
            # Divided so far that a step is small beside the noise, and sums of 0 are lifted off the end of the range.
            mac = Mac("bit_serial", 17, 4, 4, 4, 8, coding=coding)
            cells = crossbar.cells(w, mac)
            cells[:] = 1
            own = ideal(mac, 1, mac.planes, 3.0, seed=5)
            y, _ = crossbar.pim_matmul(x + 8, cells, mac, own)
            power[coding] = float(y.var())
        assert power[Coding.TWOS_COMPLEMENT] == pytest.approx(85 * (9 + 1 / 12), rel=0.04)
        assert power[Coding.SIGN_TWICE] == pytest.approx(53 * (9 + 1 / 12), rel=0.04)

    def test_only_bit_planes_have_codings(self) -> None:
        with pytest.raises(InputError, match="use scheme bit_serial, not native"):
            Mac("native", 9, coding=Coding.SIGN_TWICE)
        with pytest.raises(InputError, match="did you mean"):
            Mac("bit_serial", 9, coding="sign_twise")  # type: ignore[arg-type]

    def test_a_chip_has_none(self) -> None:
        with pytest.raises(InputError, match="coding = offset_binary is for training studies"):
            load_chip("sram65").check(CODINGS["offset_binary"])


def forward_backward(pim: PimLayerModule, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Output, and gradients of x and of the weight for an output gradient that differs everywhere."""
    x = x.clone().requires_grad_()
    y = pim(x)
    y.backward(torch.linspace(-1, 1, y.numel()).view_as(y))
    assert x.grad is not None and pim.weight.grad is not None
    return y.detach(), x.grad, pim.weight.grad.clone()


class TestGradientFactor:
    """Against codes of the specification and regressions by NumPy."""

    def sums(self, pim: PimLayerModule, x: Tensor) -> tuple[np.ndarray, np.ndarray]:
        """(y_PIM, y) as [positions, outputs], from pimchip.chip.reference."""
        mac, q = pim.mac, pim.integers().detach()
        columns = F.unfold(torch.round(15 * x), 3, padding=1).transpose(1, 2).reshape(-1, q[0].numel())
        xs, w = columns.long().numpy(), q.reshape(len(q), -1).t().long().numpy()
        keys = ("rows", "weight_bits", "act_bits", "dac_bits", "adc_bits", "range_divisor")
        codes = pim_matmul(xs, w, scheme=str(mac.scheme), **{k: getattr(mac, k) for k in keys})
        return codes * mac.scale, xs @ w

    @pytest.mark.parametrize("xi", ["layer", "channel"])
    @pytest.mark.parametrize("backward", ["ste", "gste", "lmmse"])
    def test_is_what_its_definition_says(self, backward: str, xi: str) -> None:
        x = grid(5, 4, 6, 6)
        pim = PimConv2d(conv(), COARSE, PimOptions(backward=backward, xi=xi))  # type: ignore[arg-type]
        plain = PimConv2d(conv(), COARSE, PimOptions(digital=True))
        _, grad_x, grad_w = forward_backward(pim, x)
        pim_sums, sums = self.sums(pim, x)
        if xi == "layer":
            pim_sums, sums = pim_sums.reshape(-1, 1), sums.reshape(-1, 1)
        if backward == "gste":
            factor = pim_sums.std(0) / sums.std(0)
        elif backward == "lmmse":
            factor = np.array([np.polyfit(a, b, 1)[0] for a, b in zip(sums.T, pim_sums.T, strict=True)])
        else:
            factor = np.ones(1)
        # Times the ideal layer's gradient, output by output.
        by_output = torch.from_numpy(np.broadcast_to(factor, 6).copy()).float()[None, :, None, None]
        shape = (5, 6, 6, 6)
        x2 = x.clone().requires_grad_()
        plain(x2).backward(torch.linspace(-1, 1, math.prod(shape)).view(shape) * by_output)
        assert x2.grad is not None and plain.weight.grad is not None
        close(grad_x, x2.grad)
        close(grad_w, plain.weight.grad)

    def test_the_gain_s_gradient_is_the_output_over_it(self) -> None:
        pim = PimConv2d(conv(), COARSE, PimOptions(eta="learnable"))
        x, weights = grid(2, 4, 5, 5), torch.linspace(-1, 1, 2 * 6 * 25).view(2, 6, 5, 5)

        def loss() -> Tensor:
            return (pim(x) * weights).sum()

        loss().backward()
        got = float(pim.eta.grad)  # type: ignore[arg-type]
        with torch.no_grad():
            pim.eta += 0.25
            above = loss()
            pim.eta -= 0.5
            below = loss()
        assert got == pytest.approx(float(above - below) / 0.5, rel=1e-4)  # y is linear in eta


class TestRange:
    def lsq(self, pim: PimLayerModule, x: Tensor, grad: Tensor) -> float:
        """d loss / d log_range by LSQ's formula, plane by plane in float64, from its own unfolding."""
        mac = pim.mac
        d = math.exp(float(pim.log_range.detach()))
        step = mac.sum_max / (mac.levels * d)
        q = pim.integers().detach()
        xs = F.unfold(torch.round(15 * x), 3, padding=1).transpose(1, 2).reshape(-1, q[0].numel()).double()
        w = q.reshape(len(q), -1).t().long()
        unit = pim.scale(q) / 15
        g = grad.permute(0, 2, 3, 1).reshape(-1, len(q)).double()
        total = 0.0
        for first in range(0, len(w), mac.rows):
            rows = slice(first, first + mac.rows)
            for plane in range(4):
                bits = ((w[rows] >> plane) & 1).double()
                ratio = xs[:, rows] @ bits / step
                code = torch.floor(ratio + 0.5).clamp(0, mac.levels)
                inside = (ratio > 0) & (ratio < mac.levels)
                slope = torch.where(inside, code - ratio, code)  # LSQ: d(step * code) / d step
                total += float((g * slope).sum()) * (-8 if plane == 3 else 1 << plane) * unit
        scaled = total / (g.numel() * mac.levels) ** 0.5
        return -step * scaled  # step = constant * exp(-log_range)

    def test_the_gradient_is_lsq_s(self) -> None:
        pim = PimConv2d(conv(), Mac("bit_serial", 20, 4, 4, 4, 4, 1), PimOptions(range="learned"))
        with torch.no_grad():
            pim.log_range += 0.7  # some sums clip
        x = grid(3, 4, 6, 6)
        grad = torch.linspace(-1, 2, 3 * 6 * 36).view(3, 6, 6, 6)
        pim(x).backward(grad)
        assert float(pim.log_range.grad) == pytest.approx(self.lsq(pim, x, grad), rel=1e-4)  # type: ignore[arg-type]

    def test_a_learned_range_computes_as_a_divisor_of_that_size(self) -> None:
        x = grid(3, 4, 6, 6)
        learned = PimConv2d(conv(), Mac("bit_serial", 20, 4, 4, 4, 5, 1), PimOptions(range="learned")).eval()
        with torch.no_grad():
            learned.log_range.fill_(math.log(4))
        divided = PimConv2d(conv(), Mac("bit_serial", 20, 4, 4, 4, 5, 4), PimOptions()).eval()
        close(learned(x), divided(x))

    def test_the_nearest_offered_divisor_in_octaves(self) -> None:
        net = convert(build_model("resnet8", (3, 8, 8), 4), "sram65", range="learned")
        wanted = {}
        for (name, layer), value in zip(pim_layers(net).items(), (0.3, 1.3, 1.5, 2.7, 3.0, 40.0), strict=True):
            layer.log_range.data.fill_(math.log(value))
            wanted[name] = {0.3: 1, 1.3: 1, 1.5: 2, 2.7: 2, 3.0: 4, 40.0: 8}[value]
        assert learned_ranges(net, (1, 2, 4, 8)) == wanted


class TestSearch:
    def test_errors_are_what_an_affine_fit_leaves(self) -> None:
        torch.manual_seed(0)
        net = nn.Sequential(
            nn.Conv2d(1, 2, 1), nn.ReLU(), conv(in_channels=2, out_channels=3), nn.Flatten(), nn.Linear(108, 2)
        )
        quantized = convert(net, "sram65", rows=20, adc_bits=5)
        images = torch.rand(6, 1, 6, 6)
        noise = {1: 0.2, 2: 0.3, 4: 0.5, 8: 0.9}
        (found,) = search_ranges(
            quantized, images, (1, 2, 4, 8), ideal_with(lambda mac: noise[mac.range_divisor], seed=3)
        )
        layer = pim_layers(quantized)["2"]
        assert found.layer == "2" and layer.mac.range_divisor == found.chosen
        assert found.chosen == min(found.errors, key=found.errors.__getitem__)
        with torch.no_grad():
            x = torch.round(15 * quantized[1](quantized[0](images)))
        columns = F.unfold(x, 3, padding=1).transpose(1, 2).reshape(-1, 18)
        w = layer.integers().detach().reshape(3, 18).t()
        for divisor, got in found.errors.items():
            mac = Mac("bit_serial", 20, 4, 4, 4, 5, divisor)
            own = ideal(mac, 1, 12, noise[divisor], seed=3)
            codes, _ = crossbar.pim_matmul(columns, crossbar.cells(w, mac), mac, own)
            left = []
            for a, b in zip((columns @ w).t().double().numpy(), codes.t().double().numpy(), strict=True):
                rho = np.corrcoef(a, b)[0, 1]
                left.append(1 - rho**2)
            assert got == pytest.approx(np.mean(left), rel=1e-6)

    def test_small_sums_want_a_divided_range_and_large_ones_do_not(self) -> None:
        spec = load_chip("sram65")
        chosen = {}
        for low, high in ((0, 3), (9, 16)):  # of 144 products in a plane of ones, 144 * 1 and 144 * 12, of 144 * 15
            source = conv(in_channels=16, padding=0)
            with torch.no_grad():
                source.weight.abs_()
            network = nn.Sequential(PimConv2d(source, spec.mac(adc_bits=5), PimOptions()))
            x = torch.randint(low, high, (8, 16, 8, 8), generator=torch.Generator().manual_seed(2)) / 15
            (found,) = search_ranges(network, x, (1, 2, 4, 8), ideal_with(lambda mac: spec_noise(spec, mac)))
            chosen[low] = found.chosen
        assert chosen[0] == 8 and chosen[9] < 4

    def test_unknown_layers_and_no_images_are_refused(self) -> None:
        net = convert(build_model("mlp", (1, 4, 4), 3), "sram65")
        with pytest.raises(InputError, match="no PIM layer is called nothing"):
            set_ranges(net, {"nothing": 2})
        with pytest.raises(InputError, match="wants images"):
            search_ranges(net, torch.zeros(0, 1, 4, 4), (1, 2), ideal_with(lambda mac: 0.0))

    def test_ranges_that_the_chip_lacks_are_refused_and_nothing_is_set(self) -> None:
        net = convert(build_model("mlp", (1, 4, 4), 3), "sram65", range="learned")
        words = r"layer layers\.\d: the chip offers the range divisors 1, 2, 4, 8, not 3"
        for call in (
            lambda: search_ranges(net, torch.rand(4, 1, 4, 4), (1, 3), ideal_with(lambda mac: 0.0)),
            lambda: learned_ranges(net, (1, 3)),
            lambda: set_ranges(net, {"layers.4": 2, "layers.7": 3}),
        ):
            with pytest.raises(InputError, match=words):
                call()
        assert {layer.mac.range_divisor for layer in pim_layers(net).values()} == {1}
        with pytest.raises(InputError, match="name at least one"):
            learned_ranges(net, ())


def test_examples_in_the_documentation_run() -> None:
    folder = Path(__file__).resolve().parent.parent / "calibration_data" / "emu-sram65-97d42ebe-0000"
    for module, count in ((ranges, 3), (twins, 1)):
        found = [test for test in doctest.DocTestFinder().find(module, extraglobs={"folder": folder}) if test.examples]
        assert len(found) == count
        for test in found:
            assert doctest.DocTestRunner().run(test).failed == 0, test.name


class TestScalesAndClips:
    def test_a_scale_a_column_quantizes_each_output_on_its_own(self) -> None:
        source = conv()
        with torch.no_grad():
            source.weight *= torch.tensor([1, 0.5, 0.2, 1, 0.1, 0.7])[:, None, None, None]
        pim = PimConv2d(source, EXACT, PimOptions(scales="column")).eval()
        squashed = torch.tanh(source.weight.detach()).double()
        peaks = squashed.abs().amax(dim=(1, 2, 3), keepdim=True)
        real = torch.round(squashed / peaks * 7) / 7 * peaks / peaks.max()
        x = grid(2, 4, 5, 5)
        s = 1 / (math.sqrt(6 * 9) * float(real.std()))
        close(pim(x), F.conv2d(x.double(), real * s, padding=1))

    def test_a_learned_clip_has_pact_s_gradient(self) -> None:
        act = ActQuant(4, learned=True)
        with torch.no_grad():
            act.ceiling.fill_(0.8)
        x = torch.randn(2, 3, 4, 4, requires_grad=True)
        y = act(x)
        close(y, torch.round(x.clamp(0, 0.8) / 0.8 * 15) / 15 * 0.8)
        weights = torch.linspace(-1, 1, x.numel()).view_as(x)
        y.backward(weights)
        y2 = torch.minimum(torch.relu(x.detach().clone()), clip := torch.tensor(0.8, requires_grad=True))
        y2.backward(weights)
        assert float(act.ceiling.grad) == pytest.approx(float(clip.grad), rel=1e-5)  # type: ignore[arg-type]
        assert torch.equal(x.grad, weights * ((x >= 0) & (x <= 0.8)))  # type: ignore[arg-type]

    def test_layers_take_the_clip_from_their_inputs(self) -> None:
        act = ActQuant(4, learned=True)
        with torch.no_grad():
            act.ceiling.fill_(0.6)
        pim = PimConv2d(conv(), EXACT, PimOptions()).eval()
        x = act(torch.rand(2, 4, 5, 5))
        q = pim.integers()
        close(pim(x), F.conv2d(x, q, padding=1) * pim.scale(q))

    def test_binary_weights_are_signs_with_tanh_s_gradient(self) -> None:
        w = torch.tensor([-0.5, 0.0, 2.0], requires_grad=True)
        q = quantize_weight(w, 1)
        q.sum().backward()
        assert q.tolist() == [-1, 1, 1]
        close(w.grad, 1 - torch.tanh(w.detach()) ** 2)  # type: ignore[arg-type]

    def test_a_clip_that_fell_to_nothing_is_told(self) -> None:
        act = ActQuant(4, learned=True)
        act.ceiling.data.fill_(-0.1)
        with pytest.raises(BadResult, match="learned clip fell"):
            act(torch.rand(1, 1, 2, 2))


class TestBitAugmentation:
    def test_training_draws_neighbouring_bits_and_evaluation_none(self) -> None:
        pim = PimConv2d(conv(), COARSE, PimOptions(bit_aug=1)).train()
        x = grid(2, 4, 5, 5)
        torch.manual_seed(0)
        seen = {pim(x).detach().numpy().tobytes() for _ in range(30)}
        plain = {
            PimConv2d(conv(), Mac("bit_serial", 20, 4, 4, 4, bits, 2), PimOptions())
            .train()(x)
            .detach()
            .numpy()
            .tobytes()
            for bits in (3, 4, 5)
        }
        assert seen == plain
        pim.eval()
        assert len({pim(x).detach().numpy().tobytes() for _ in range(9)}) == 1


class TestInputs:
    @pytest.mark.parametrize("kind", ["offset", "shift"])
    @pytest.mark.parametrize("case", ["conv", "linear"])
    def test_signed_inputs_are_quantized_on_a_grid_through_zero(self, kind: Any, case: str) -> None:
        torch.manual_seed(3)
        pim: PimLayerModule
        if case == "conv":
            pim, shape = PimConv2d(conv(bias=True), EXACT, PimOptions(), inputs=kind), (3, 4, 6, 5)
        else:
            pim, shape = PimLinear(nn.Linear(12, 5), EXACT, PimOptions(), inputs=kind), (4, 7, 12)
        # From lowest to highest, both reached: offset has 8 steps below zero and 7 above, shift 15 in all.
        lowest, highest = (-8, 7) if kind == "offset" else (-3, 12)
        steps = torch.randint(lowest, highest + 1, shape)
        steps.view(-1)[:2] = torch.tensor([lowest, highest])
        pim.train()
        for _ in range(CALIBRATION_BATCHES):
            pim(steps * 0.1)
        pim.eval()
        q = pim.integers()
        w = q * pim.scale(q)

        def ideal(x: Tensor) -> Tensor:
            return F.conv2d(x, w, pim.bias, padding=1) if case == "conv" else F.linear(x, w[:, :, 0, 0], pim.bias)

        close(pim(steps * 0.1), ideal(steps * 0.1))
        close(pim(steps * 0.1 + 0.04), ideal(steps * 0.1))
        close(pim(steps * 0.2), ideal((2 * steps).clamp(lowest, highest) * 0.1))

    def test_negative_inputs_of_an_unsigned_layer_are_told_once_by_name(self) -> None:
        network = convert(Block(), "sram65", range_divisor=4).train()
        x = torch.rand(4, 5, 6)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            for _ in range(3):
                network(x)
            network.eval()(x)
        told = [str(w.message) for w in caught if issubclass(w.category, PimchipWarning)]
        # What q, k, v and up read comes from a LayerNorm, out from a mixture of v; down reads a ReLU's output.
        assert sorted(text.split()[1] for text in told) == ["k", "out", "q", "up", "v"]
        assert all("clipped at 0" in text and "'shift'}" in text for text in told)
        signed = dict.fromkeys(("q", "k", "v", "out", "up"), "shift")
        convert(Block(), "sram65", range_divisor=4, signed_inputs=signed).train()(x)  # warnings are errors here

    def test_inputs_that_lose_nothing_below_zero_are_not_told(self) -> None:
        network = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 4))
        network[0].weight.data.fill_(0), network[0].bias.data.fill_(-0.03)  # within half a step of 1/15
        convert(network, "sram65")(torch.rand(2, 4))
        network[0].bias.data.fill_(-0.04)
        with pytest.warns(
            PimchipWarning, match=r"layer 1 \(PimLinear\): 100 % of its inputs are negative, down to -0.04,"
        ):
            convert(network, "sram65")(torch.rand(2, 4))

    def test_a_late_pass_is_not_looked_at(self) -> None:
        """The look costs nothing in the long run: only the first passes have it."""
        network = convert(nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4)), "sram65", pim_skip=())
        layer = pim_layers(network)["1"]
        for _ in range(WATCHED):
            layer(torch.rand(2, 4))
        layer(-torch.rand(2, 4))

    @pytest.mark.parametrize("skip", [(), ("first",)])
    @pytest.mark.parametrize(("low", "high"), [(-1, 1), (0, 255)])
    def test_images_beyond_their_grid_are_told(self, skip: tuple[str, ...], low: int, high: int) -> None:
        network = convert(build_model("tiny", (1, 8, 8), 3), "sram65", pim_skip=skip)
        images = torch.linspace(low, high, 128).view(2, 1, 8, 8)
        with pytest.warns(
            PimchipWarning, match=rf"layer conv \(\w+\): .* which reach from {low} to {high}, are outside"
        ):
            network(images)

    @pytest.mark.parametrize("skip", [(), ("first",)])
    @pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
    def test_images_that_are_no_numbers_are_blamed_themselves(self, skip: tuple[str, ...], value: float) -> None:
        network = convert(build_model("tiny", (1, 8, 8), 3), "sram65", pim_skip=skip)
        images = torch.rand(5, 1, 8, 8)
        for _ in range(WATCHED + 1):
            network(images)
        images[1, 0, 2, 3] = images[4, 0, 0, 0] = value
        with pytest.raises(InputError, match=r"layer conv \(\w+\): 2 of the 5 images given hold NaN or infinite"):
            network(images)

    def test_a_layer_that_saw_no_data_says_so(self) -> None:
        pim = PimConv2d(conv(), EXACT, PimOptions(), inputs="shift").eval()
        with pytest.raises(InputError, match="has seen no data"):
            pim(torch.zeros(1, 4, 3, 3))

    @pytest.mark.parametrize(
        "kind",
        [{"groups": 2}, {"groups": 4, "out_channels": 8}, {"dilation": 2, "padding": 2}, {"groups": 2, "dilation": 2}],
    )
    def test_groups_and_dilation_are_torch_s(self, kind: dict[str, Any]) -> None:
        source = conv(**kind)
        pim, digital = (PimConv2d(source, EXACT, PimOptions(digital=d)) for d in (False, True))
        x = grid(2, 4, 7, 7)
        y, grad_x, grad_w = forward_backward(pim, x)
        q = pim.integers().detach()
        close(y, F.conv2d(x, q * pim.scale(q), None, 1, source.padding, source.dilation, source.groups))  # type: ignore[arg-type]
        y2, grad_x2, grad_w2 = forward_backward(digital, x)
        close(y, y2)
        close(grad_x, grad_x2)
        close(grad_w, grad_w2)

    def test_a_group_is_converted_on_its_own(self) -> None:
        source = conv(groups=2)
        whole = PimConv2d(source, COARSE, PimOptions()).eval()
        x = grid(2, 4, 6, 6)
        q = whole.integers().detach()
        for half in (0, 1):
            columns = (
                F.unfold(torch.round(15 * x[:, 2 * half : 2 * half + 2]), 3, padding=1).transpose(1, 2).reshape(-1, 18)
            )
            w = q[3 * half : 3 * half + 3].reshape(3, 18).t()
            codes = pim_matmul(
                columns.long().numpy(),
                w.long().numpy(),
                scheme="bit_serial",
                rows=20,
                weight_bits=4,
                act_bits=4,
                dac_bits=4,
                adc_bits=4,
                range_divisor=2,
            )
            got = whole(x)[:, 3 * half : 3 * half + 3].permute(0, 2, 3, 1).reshape(-1, 3)
            close(got, torch.from_numpy(codes * COARSE.scale * whole.scale(q) / 15))

    def test_tokens_are_vectors(self) -> None:
        torch.manual_seed(0)
        pim = PimLinear(nn.Linear(20, 6), COARSE, PimOptions()).eval()
        x = grid(3, 5, 20)
        assert pim(x).shape == (3, 5, 6)
        close(pim(x).reshape(15, 6), pim(x.reshape(15, 20)))


class Block(nn.Module):
    """A transformer's block: attention and a feed-forward part, each behind a normalization."""

    def __init__(self, width: int = 24) -> None:
        super().__init__()
        self.embed = nn.Linear(6, width)
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.q, self.k, self.v, self.out = (nn.Linear(width, width) for _ in range(4))
        self.up, self.act, self.down = nn.Linear(width, 2 * width), nn.ReLU(), nn.Linear(2 * width, width)
        self.head = nn.Linear(width, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x)
        z = self.norm1(x)
        weights = torch.softmax(self.q(z) @ self.k(z).transpose(1, 2) / z.shape[-1] ** 0.5, -1)
        x = x + self.out(weights @ self.v(z))
        x = x + self.down(self.act(self.up(self.norm2(x))))
        return self.head(x.mean(1))  # type: ignore[no-any-return]


class TestTransformer:
    SIGNED = ("q", "k", "v", "out", "up")

    @pytest.mark.parametrize("kind", ["offset", "shift"])
    def test_its_projections_run_in_the_array_and_learn(self, kind: str) -> None:
        torch.manual_seed(0)
        signed = dict.fromkeys(self.SIGNED, kind)
        network = convert(Block(), "sram65", range_divisor=4, signed_inputs=signed).train()
        assert set(pim_layers(network)) == {*self.SIGNED, "down"}
        x = torch.rand(64, 5, 6)
        labels = (x.mean((1, 2)) * 1000).long() % 3
        optimizer = torch.optim.Adam(network.parameters(), 5e-3)
        losses = []
        for _ in range(60):
            loss = F.cross_entropy(network(x), labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(float(loss.detach()))
        assert losses[-1] < 0.9 * losses[0]
        for layer in pim_layers(network).values():
            assert layer.weight.grad is not None and bool(layer.weight.grad.any())

    def test_at_a_code_a_count_it_is_the_digital_one(self) -> None:
        torch.manual_seed(0)
        signed = dict.fromkeys(self.SIGNED, "shift")
        source, spec = Block(), load_chip("sram65")
        spec = spec.model_copy(update={"adc": spec.adc.model_copy(update={"bits": 8})})
        point = {"rows": 17, "adc_bits": 8, "signed_inputs": signed}
        fine, digital = (convert(source, spec, digital=d, **point).train() for d in (False, True))
        x = torch.rand(8, 5, 6)
        torch.testing.assert_close(fine(x), digital(x), rtol=1e-3, atol=1e-3)

    def test_the_compiler_names_what_it_cannot_hold(self) -> None:
        from pimchip.compiler import compile_network

        for options, words in (
            ({"coding": "sign_twice"}, "coding = sign_twice"),
            ({"range": "learned"}, "range = learned"),
            ({"clip": "learned"}, "clip = learned"),
        ):
            network = convert(build_model("mlp", (1, 4, 4), 3), "sram65", **options).eval()
            with pytest.raises(CompileError, match=f"{words}: this trains"):
                compile_network(network, load_chip("sram65"), (1, 4, 4), ("a", "b", "c"))


def test_options_are_checked_by_name() -> None:
    for wrong, words in (
        ({"backward": "gste2"}, "backward 'gste2'"),
        ({"xi": "row"}, "xi 'row'"),
        ({"coding": "grey"}, "coding 'grey'"),
        ({"bit_aug": 9}, "bit_aug = 9"),
        ({"nois_lsb": 1}, "option 'nois_lsb'"),
    ):
        with pytest.raises(InputError, match=words):
            convert(build_model("mlp", (1, 4, 4), 3), "sram65", **wrong)


def test_activations_that_are_nan_stop_training() -> None:
    with pytest.raises(BadResult, match="not finite"):
        ActQuant(4)(torch.full((1, 8, 2, 2), torch.nan))
