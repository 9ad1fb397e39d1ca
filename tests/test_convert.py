"""convert(): which layer becomes what, what is refused, and that the network given stays as it was."""

from __future__ import annotations

import copy
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import pimchip
from pimchip.chip.spec import chip_text
from pimchip.errors import CompileError, InputError, PimchipWarning
from pimchip.qat import (
    MODELS,
    ActQuant,
    DigitalConv2d,
    DigitalLinear,
    PimConv2d,
    PimLinear,
    build_model,
    calibrate_bn,
    convert,
    pim_layers,
)
from pimchip.qat.convert import as_if_seen
from pimchip.qat.pim import CALIBRATION_BATCHES
from pimchip.qat.quantizers import quantize_activation, quantize_weight

# Networks here are smaller than those that a chip is of use for.
pytestmark = [pytest.mark.filterwarnings("ignore:no layer is on the chip:pimchip.errors.PimchipWarning")]

SHAPE = (3, 8, 8)


def resnet() -> nn.Module:
    return build_model("resnet8", SHAPE, 5)


def kinds(network: nn.Module) -> dict[str, type[nn.Module]]:
    wanted = (PimConv2d, PimLinear, DigitalConv2d, DigitalLinear)
    return {name: type(m) for name, m in network.named_modules() if isinstance(m, wanted)}


class TestWhatBecomesWhat:
    def test_first_last_and_shortcuts_stay_on_the_processor_by_default(self) -> None:
        found = kinds(convert(resnet(), "sram65"))
        digital = {name: kind for name, kind in found.items() if kind in (DigitalConv2d, DigitalLinear)}
        assert digital == {
            "conv": DigitalConv2d,
            "fc": DigitalLinear,
            "stages.1.0.shortcut.0": DigitalConv2d,
            "stages.2.0.shortcut.0": DigitalConv2d,
        }
        assert {name for name in found if name not in digital} == {
            f"stages.{s}.0.conv{c}" for s in range(3) for c in (1, 2)
        }

    @pytest.mark.parametrize(
        ("skip", "digital"),
        [
            ((), set()),
            (("first",), {"conv"}),
            (("last",), {"fc"}),
            (("shortcut",), {"stages.1.0.shortcut.0", "stages.2.0.shortcut.0"}),
        ],
    )
    def test_pim_skip_chooses(self, skip: tuple[str, ...], digital: set[str]) -> None:
        found = kinds(convert(resnet(), "sram65", pim_skip=skip))
        assert {name for name, kind in found.items() if kind in (DigitalConv2d, DigitalLinear)} == digital

    def test_a_one_layer_network_is_its_first_layer_not_its_last(self) -> None:
        network = nn.Sequential(nn.Linear(4, 3))
        assert kinds(convert(network, "sram65", pim_skip=("last",))) == {"0": PimLinear}
        assert kinds(convert(network, "sram65", pim_skip=("first",))) == {"0": DigitalLinear}

    def test_only_1x1_convolutions_are_shortcuts(self) -> None:
        network = nn.Module()
        network.conv = nn.Conv2d(1, 1, 1)
        network.shortcut = nn.Conv2d(1, 1, 3)
        network.downsample = nn.Conv2d(1, 1, 1)
        network.fc = nn.Linear(1, 1)
        found = kinds(convert(network, "sram65"))
        assert found["shortcut"] is PimConv2d
        assert found["downsample"] is DigitalConv2d

    def test_relus_become_quantizers_of_the_activation_bits(self) -> None:
        network = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4), nn.ReLU6(), nn.Linear(4, 4))
        converted = convert(network, "sram65", act_bits=3, dac_bits=3)
        found = [m for m in converted.modules() if isinstance(m, ActQuant)]
        assert [m.bits for m in found] == [3, 3]
        assert not any(isinstance(m, nn.ReLU | nn.ReLU6) for m in converted.modules())

    @pytest.mark.parametrize("bits", [{}, {"weight_bits": 1}])
    def test_plus_minus_has_weights_of_one_bit_asked_for_or_not(self, bits: dict[str, int]) -> None:
        for layer in pim_layers(convert(resnet(), "sram65", coding="plus_minus", **bits)).values():
            assert layer.mac.weight_bits == layer.weight_bits == 1
            assert set(layer.integers().unique().tolist()) == {-1, 1}

    def test_weight_bits_of_both_kinds(self) -> None:
        converted = convert(resnet(), "sram65", weight_bits=3)
        for name, module in converted.named_modules():
            if name in kinds(converted):
                top = module.integers().abs().max()  # type: ignore[operator]
                assert top == (3 if isinstance(module, PimConv2d | PimLinear) else 127)

    def test_the_operating_point_is_the_chips_where_nothing_is_asked_for(self) -> None:
        mac = pim_layers(convert(resnet(), "charge-native"))["stages.0.0.conv1"].mac
        assert (mac.scheme, mac.rows, mac.adc_bits, mac.range_divisor) == ("native", 144, 8, 4)
        asked = convert(
            resnet(), "charge-native", scheme="bit_serial", rows=72, adc_bits=6, dac_bits=2, range_divisor=2
        )
        mac = pim_layers(asked)["stages.0.0.conv1"].mac
        assert (mac.scheme, mac.rows, mac.adc_bits, mac.dac_bits, mac.range_divisor) == ("bit_serial", 72, 6, 2, 2)

    def test_range_divisor_by_layer(self) -> None:
        converted = convert(resnet(), "sram65", range_divisor={"stages.0.0.conv2": 4, "stages.2.0.conv1": 8})
        divisors = {name: layer.mac.range_divisor for name, layer in pim_layers(converted).items()}
        assert divisors.pop("stages.0.0.conv2") == 4
        assert divisors.pop("stages.2.0.conv1") == 8
        assert set(divisors.values()) == {1}


class TestTheNetworkGiven:
    def test_is_not_touched(self) -> None:
        network = resnet()
        before, text = copy.deepcopy(network.state_dict()), repr(network)
        converted = convert(network, "sram65")
        with torch.no_grad():
            for parameter in converted.parameters():
                parameter.add_(1)
        assert repr(network) == text
        assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())

    def test_keeps_its_weights_in_the_copy(self) -> None:
        network = resnet()
        for scale in (1.0, 0.25):
            state = convert(network, "sram65", activation_scale=scale).state_dict()
            for name, value in network.state_dict().items():
                norm = ".bn" in f".{name}" or "shortcut.1" in name
                factor = scale if norm and name.endswith(("weight", "bias")) else 1.0
                assert torch.equal(state[name].flatten(), factor * value.flatten()), name

    @pytest.mark.filterwarnings("ignore:ReLU .* are clipped there:pimchip.errors.PimchipWarning")
    def test_a_trained_network_computes_the_same_on_smaller_activations(self) -> None:
        """BN, ReLU, sums and pooling: features before the last layer are those of the float network, times the factor."""
        network = resnet().eval()
        generator = torch.Generator().manual_seed(3)
        for module in network.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.weight.data.uniform_(0.5, 1.5, generator=generator)
                module.bias.data.uniform_(-0.5, 0.5, generator=generator)
            elif isinstance(module, nn.Conv2d):
                module.weight.data *= 0.1  # where tanh is the identity; BN takes the factor out
        images = torch.rand(64, *SHAPE, generator=generator)
        calibrate_bn(network, images, batches=1, batch_size=64)
        missed = {}
        for scale in (1.0, 0.1):
            made = convert(network, "sram65", digital=True, weight_bits=8, act_bits=8, activation_scale=scale)
            calibrate_bn(made, images, batches=1, batch_size=64)
            features = copy.deepcopy(network)
            features.fc, made.fc = nn.Identity(), nn.Identity()
            with torch.no_grad():
                wanted, got = features(images) * scale, made(images)
            missed[scale] = float((got - wanted).std() / wanted.std())
        assert missed[0.1] < 0.1 < 0.5 < missed[1.0]  # rounding to 8 bits; clipping

    def test_parameters_that_norms_share_are_scaled_once(self) -> None:
        first, second = nn.BatchNorm2d(4), nn.BatchNorm2d(4)
        second.weight, second.bias = first.weight, first.bias
        network = nn.Sequential(nn.Conv2d(3, 4, 1), first, nn.ReLU(), nn.Conv2d(4, 4, 1), second, nn.ReLU())
        made = convert(network, "sram65", activation_scale=0.5)
        assert made[1].weight is made[4].weight and torch.equal(made[1].weight, torch.full((4,), 0.5))

    @pytest.mark.parametrize("scale", [0.0, -1.0, float("nan"), 17.0, None, "0.4"])
    def test_refuses_other_factors(self, scale: Any) -> None:
        with pytest.raises(InputError, match="activation_scale"):
            convert(resnet(), "sram65", activation_scale=scale)

    def test_digital_gives_the_quantized_network_written_by_hand(self) -> None:
        network = nn.Sequential(
            nn.Conv2d(3, 6, 3, stride=2, padding=1), nn.BatchNorm2d(6), nn.ReLU(), nn.Flatten(), nn.Linear(96, 7),
            nn.ReLU(), nn.Linear(7, 4),
        )  # fmt: skip
        x = torch.rand(5, *SHAPE, generator=torch.Generator().manual_seed(0))
        conv, bn, fc, last = network[0], network[1].eval(), network[4], network[6]

        def scaled(w: Tensor, bits: int) -> Tensor:
            q, top = quantize_weight(w, bits), 2 ** (bits - 1) - 1
            return q / (top * (len(w) * w[0, 0].numel()) ** 0.5 * (q / top).std())

        y = F.conv2d(quantize_activation(x, 8) / 255, scaled(conv.weight, 8), conv.bias, 2, 1)
        y = (quantize_activation(bn(y), 4) / 15).flatten(1)
        y = quantize_activation(F.linear(y, scaled(fc.weight, 4), fc.bias), 4) / 15  # a ReLU follows: adjusted
        wanted = F.linear(y, scaled(last.weight, 8), last.bias)
        got = convert(network, "sram65", digital=True, activation_scale=1.0).eval()(x)
        torch.testing.assert_close(got, wanted, rtol=1e-4, atol=1e-5)

    def test_layers_are_in_the_mode_of_those_they_replace(self) -> None:
        x = torch.rand(4, *SHAPE)
        network = resnet().eval()
        network.stages[0].train()  # type: ignore[union-attr,index,operator]
        made = convert(network, "sram65", noise_lsb=2.0)
        for name, module in network.named_modules():
            assert made.get_submodule(name).training == module.training
        made = convert(network.eval(), "sram65", noise_lsb=2.0)
        assert not any(module.training for module in made.modules())
        with torch.no_grad():
            assert torch.equal(made(x), made(x))

    def test_a_view_of_maps_works_as_in_floating_point(self) -> None:
        class Viewed(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.a, self.b, self.c = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 1), nn.Linear(36, 3)

            def forward(self, x: Tensor) -> Tensor:
                x = F.relu(self.a(x))
                x = F.max_pool2d(F.relu(self.b(x) + x), 2)
                return self.c(x.view(x.size(0), -1))  # type: ignore[no-any-return]

        network, x = Viewed(), torch.rand(2, *SHAPE)
        maps: dict[str, Tensor] = {}
        for skip in ((), ("first", "last")):
            made = convert(network, "sram65", pim_skip=skip)
            made.c.register_forward_pre_hook(lambda module, given: maps.update(c=given[0]))  # type: ignore[union-attr]
            made(x)
            with torch.no_grad():
                y = F.relu(made.a(x))  # type: ignore[operator]
                y = F.max_pool2d(F.relu(made.b(y) + y), 2)  # type: ignore[operator]
            assert torch.equal(maps["c"], y.flatten(1))


class TestSharedModules:
    def test_a_layer_under_several_names_becomes_one_layer_under_all_of_them(self) -> None:
        shared, relu = nn.Conv2d(4, 4, 3, padding=1), nn.ReLU()
        network = nn.Sequential(nn.Sequential(nn.Conv2d(3, 4, 1), shared), relu, shared, relu)
        network.alias = shared
        converted = convert(network, "sram65", pim_skip=("first",), range_divisor={"0.1": 2})
        layer = converted[0][1]  # type: ignore[index]
        assert isinstance(layer, PimConv2d)
        assert layer.mac.range_divisor == 2
        assert converted[2] is layer  # type: ignore[index]
        assert converted.alias is layer
        assert isinstance(converted[1], ActQuant)  # type: ignore[index]
        assert isinstance(converted[3], ActQuant)  # type: ignore[index]
        assert len(pim_layers(converted)) == 1


class TestEta:
    def network(self, **options: Any) -> tuple[nn.Module, PimLinear, Tensor]:
        torch.manual_seed(3)
        converted = convert(
            nn.Sequential(nn.Linear(144, 40)), "charge-native", range_divisor=1, adc_bits=6, pim_skip=(), **options
        )
        layer = converted[0]  # type: ignore[index]
        assert isinstance(layer, PimLinear)
        return converted, layer, torch.rand(300, 144, generator=torch.Generator().manual_seed(0))

    def test_const_is_one_and_stays(self) -> None:
        network, layer, x = self.network()
        network.train()(x)
        assert float(layer.eta) == 1
        assert "0.eta" not in dict(network.named_parameters())

    def test_auto_is_the_ratio_of_the_deviations(self) -> None:
        network, layer, x = self.network(eta="auto")
        _, plain, _ = self.network()
        _, digital, _ = self.network(digital=True)
        wanted = float((digital(x) - layer.bias).detach().std() / (plain(x) - layer.bias).detach().std())
        assert abs(wanted - 1) > 0.02
        network.train()(x)
        assert float(layer.eta) == pytest.approx(wanted, rel=1e-5)

    def test_auto_averages_its_batches_and_then_freezes(self) -> None:
        network, layer, _ = self.network(eta="auto")
        batches = torch.rand(CALIBRATION_BATCHES + 3, 50, 144, generator=torch.Generator().manual_seed(1)) ** 2
        ratios = []
        for batch in batches:
            single, alone, _ = self.network(eta="auto")
            single.train()(batch)
            ratios.append(float(alone.eta))
        seen = []
        for batch in batches:
            network.train()(batch)
            seen.append(float(layer.eta))
        assert seen[CALIBRATION_BATCHES - 1] == pytest.approx(
            sum(ratios[:CALIBRATION_BATCHES]) / CALIBRATION_BATCHES, rel=1e-5
        )
        assert len(set(seen[: CALIBRATION_BATCHES - 1])) > 1
        assert len(set(seen[CALIBRATION_BATCHES - 1 :])) == 1

    def test_auto_does_not_move_in_evaluation(self) -> None:
        network, layer, x = self.network(eta="auto")
        network.eval()(x)
        assert float(layer.eta) == 1

    def test_auto_waits_while_the_layer_is_dead(self) -> None:
        network, layer, x = self.network(eta="auto")
        network.train()(torch.zeros_like(x))
        assert float(layer.eta) == 1
        network(x)
        assert float(layer.eta) != 1

    def test_learnable_is_a_parameter_and_scales_the_output(self) -> None:
        network, layer, x = self.network(eta="learnable")
        assert "0.eta" in dict(network.named_parameters())
        before = network(x) - layer.bias
        with torch.no_grad():
            layer.eta.fill_(2)
        torch.testing.assert_close(network(x) - layer.bias, 2 * before, rtol=1e-4, atol=1e-5)


class TestRefusals:
    @pytest.mark.parametrize(
        ("options", "words"),
        [
            ({"scheme": "bitserial"}, ["scheme 'bitserial'", "'bit_serial'"]),
            ({"eta": "atuo"}, ["eta 'atuo'", "'auto'"]),
            ({"backward": "gst"}, ["backward 'gst'", "'gste'"]),
            ({"pim_skip": ("frist",)}, ["pim_skip 'frist'", "'first'"]),
            ({"range_divisor": {"stages.0.0.conv3": 2}}, ["layer 'stages.0.0.conv3'", "'stages.0.0.conv1'"]),
            ({"range_divisor": 3}, ["range_divisor = 3", "1, 2, 4, 8"]),
            ({"rows": 145}, ["rows = 145", "144"]),
            ({"adc_bits": 9}, ["adc_bits = 9", "7"]),
            ({"dac_bits": 5, "act_bits": 5}, ["dac_bits = 5", "4"]),
            ({"weight_bits": 1}, ["weight_bits = 1"]),
            ({"weight_bits": 4, "coding": "plus_minus"}, ["weight_bits = 4", "plus_minus have 1 bit"]),
            ({"weight_scale": "keep"}, ["weight_scale 'keep'", "'kept'"]),
            ({"weight_scale": {"stages.0.0.conv3": "kept"}}, ["layer 'stages.0.0.conv3'", "'stages.0.0.conv1'"]),
            ({"act_bits": 9}, ["act_bits = 9"]),
            ({"noise_lsb": float("nan")}, ["noise_lsb = nan"]),
            ({"noise_lsb": -1}, ["noise_lsb = -1"]),
        ],
    )
    def test_a_wrong_option_is_named_with_what_was_meant(self, options: dict[str, Any], words: list[str]) -> None:
        with pytest.raises(InputError) as caught:
            convert(resnet(), "sram65", **options)
        for word in words:
            assert word in str(caught.value)

    @pytest.mark.parametrize(
        ("conv", "words"),
        [
            (nn.Conv2d(4, 4, 3, padding=1, padding_mode="reflect"), r"padding = \(1, 1\), padding_mode = 'reflect'"),
            (nn.Conv2d(4, 4, 3, padding="same"), "padding = 'same'"),
        ],
    )
    def test_a_convolution_the_chip_cannot_do_is_named(self, conv: nn.Conv2d, words: str) -> None:
        network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Sequential(nn.ReLU(), conv))
        with pytest.raises(CompileError, match=rf"layer 1\.1 \(Conv2d\): {words}"):
            convert(network, "sram65")

    def test_an_unknown_chip_is_named(self) -> None:
        with pytest.raises(InputError, match="unknown chip 'sram66': did you mean 'sram65'"):
            convert(resnet(), "sram66")

    def test_a_network_without_layers_is_refused(self) -> None:
        with pytest.raises(InputError, match="no Conv2d or Linear"):
            convert(nn.Sequential(nn.ReLU()), "sram65")

    @pytest.mark.parametrize(
        ("options", "words"),
        [
            ({"signed_inputs": {"conv": 3}}, "unknown signed_inputs '3'"),
            ({"signed_inputs": 5}, "signed_inputs is an int"),
            ({"signed_inputs": {0: "shift"}}, "a key of signed_inputs is an int; the name of a layer"),
            ({"weight_scale": {0: "kept"}}, "a key of weight_scale is an int; the name of a layer"),
            ({"weight_scale": None}, "weight_scale is None; 'auto'"),
            ({"activation_scale": True}, "activation_scale = True"),
        ],
    )
    def test_a_choice_of_another_kind_is_named(self, options: dict[str, Any], words: str) -> None:
        with pytest.raises(InputError, match=words):
            convert(resnet(), "sram65", **options)

    def test_a_layer_with_a_forward_of_its_own_is_named(self) -> None:
        class Standardized(nn.Conv2d):
            def forward(self, x: Tensor) -> Tensor:
                return F.conv2d(x, self.weight - self.weight.mean((1, 2, 3), keepdim=True))

        class Doubled(nn.Linear):
            def forward(self, x: Tensor) -> Tensor:
                return 2 * super().forward(x)

        class Circular(nn.Conv2d):
            def _conv_forward(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
                return super()._conv_forward(x.roll(1), weight, bias)

        class Renamed(nn.Conv2d):
            pass

        for layer in (Standardized(3, 4, 3), Doubled(3, 4), Circular(3, 4, 3)):
            with pytest.raises(CompileError, match=rf"layer 0 \({type(layer).__name__}\): .* way of its own"):
                convert(nn.Sequential(layer), "sram65")
        convert(nn.Sequential(Renamed(3, 4, 3)), "sram65")
        convert(nn.Sequential(nn.utils.parametrizations.weight_norm(nn.Conv2d(3, 4, 3))), "sram65")

    @pytest.mark.parametrize("bad", [float("nan"), float("inf")])
    def test_values_that_are_none_are_named(self, bad: float) -> None:
        for name in ("conv.weight", "bn.running_var", "fc.bias"):
            network = resnet()
            network.state_dict()[name].view(-1)[0] = bad
            layer, _, what = name.partition(".")
            with pytest.raises(InputError, match=rf"layer {layer} \(\w+\): its {what} has 1 NaN or infinite values"):
                convert(network, "sram65")

    def test_networks_without_values_of_full_precision_are_named(self) -> None:
        for network, words in (
            (resnet().half(), r"layer conv \(Conv2d\): its weight is float16; .*network\.float"),
            (resnet().bfloat16(), "is bfloat16"),
            (resnet().to("meta"), r"layer conv \(Conv2d\): its weight is on the meta device"),
            (nn.Sequential(nn.LazyConv2d(4, 3)), r"layer 0 \(LazyConv2d\): it has no shape yet; run the network once"),
            (nn.Conv2d(3, 4, 3), r"a single layer, .*: convert nn\.Sequential\(layer\)"),
        ):
            with pytest.raises(InputError, match=words):
                convert(network, "sram65")
        convert(resnet().double(), "sram65")


class TestAttention:
    def test_torchs_own_is_refused_by_name_with_the_mend(self) -> None:
        network = nn.Sequential(nn.Linear(8, 8), nn.TransformerEncoderLayer(8, 2, 16, batch_first=True))
        with pytest.raises(CompileError, match=r"layer 1\.self_attn \(MultiheadAttention\): .* q, k, v .* nn\.Linear"):
            convert(network, "sram65")


class TestText:
    def test_a_layers_text_has_all_that_it_computes_with(self) -> None:
        conv = nn.Conv2d(4, 8, 3, stride=(2, 1), padding=(1, 2), dilation=(1, 3), groups=2, bias=False)
        network = nn.Sequential(nn.Conv2d(1, 4, 1), conv, nn.Flatten(), nn.Linear(8, 6), nn.Linear(6, 2))
        converted = convert(network, "sram65", signed_inputs={"1": "shift"})
        text = str(converted).splitlines()
        assert "PimConv2d(4, 8, kernel=(3, 3), stride=(2, 1), padding=(1, 2), dilation=(1, 3), groups=2" in text[2]
        assert "bias=False" in text[2] and "inputs=shift" in text[2]
        assert "PimLinear(8, 6, bias=True, weight_bits=4, weight_scale=kept, bit_serial" in text[4]


class TestZoo:
    @pytest.mark.parametrize("name", sorted(MODELS))
    def test_every_model_builds_converts_and_runs(self, name: str) -> None:
        network = as_if_seen(convert(build_model(name, SHAPE, 7), "sram65")).eval()
        with torch.no_grad():
            out = network(torch.rand(2, *SHAPE))
        assert out.shape == (2, 7)
        assert torch.isfinite(out).all()
        assert len(pim_layers(network)) >= 2

    @pytest.mark.parametrize("depth", [8, 20, 32, 44, 56])
    def test_a_resnet_has_the_layers_of_its_name(self, depth: int) -> None:
        network = build_model(f"resnet{depth}", SHAPE, 7)
        counted = [
            m for name, m in network.named_modules() if isinstance(m, nn.Conv2d | nn.Linear) and "shortcut" not in name
        ]
        assert len(counted) == depth

    def test_the_seed_makes_the_weights_and_leaves_torchs_generator(self) -> None:
        torch.manual_seed(5)
        before = torch.random.get_rng_state()
        a, b, c = (build_model("mlp", (1, 4, 4), 3, seed).state_dict() for seed in (0, 0, 1))
        assert torch.equal(torch.random.get_rng_state(), before)
        assert all(torch.equal(a[k], b[k]) for k in a)
        assert not all(torch.equal(a[k], c[k]) for k in a)

    def test_an_unknown_model_is_named_with_near_ones(self) -> None:
        with pytest.raises(InputError, match="unknown model 'resnet18': did you mean 'resnet8'"):
            build_model("resnet18", SHAPE, 7)


class TestWhatIsNoNetwork:
    @pytest.mark.parametrize(
        ("what", "chip", "told"),
        [
            ("x", "sram65", "what is to be converted is a str; a torch.nn.Module is wanted"),
            (nn.Linear, "sram65", "is the class Linear"),
            (resnet(), 3, "chip is an int; want a built-in chip's name"),
            (resnet(), None, "chip is None"),
            (resnet(), "sram56", "unknown chip 'sram56': did you mean 'sram65'"),
        ],
    )
    def test_is_told_with_what_is_wanted(self, what: Any, chip: Any, told: str) -> None:
        with pytest.raises(InputError, match=told):
            convert(what, chip)

    def test_a_converted_one_is_refused(self) -> None:
        with pytest.raises(InputError, match=r"converted already \(its conv is a DigitalConv2d\)"):
            convert(convert(resnet(), "sram65"), "sram65")

    def test_an_unknown_option_is_told_with_those_of_the_operating_point(self) -> None:
        with pytest.raises(InputError, match=r"unknown option 'adc_bit': did you mean 'adc_bits'.* rows, .*xi"):
            convert(resnet(), "sram65", adc_bit=5)

    def test_a_chip_may_be_a_path(self, tmp_path: Path) -> None:
        (tmp_path / "mine.toml").write_text(chip_text("sram65"), encoding="utf-8")
        assert pim_layers(convert(resnet(), tmp_path / "mine.toml"))


class TestWhatIsTold:
    def test_inputs_that_are_clipped_are_told_once_by_layer(self) -> None:
        network = nn.Sequential(nn.Linear(6, 8), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 4), nn.Linear(4, 4))
        made = convert(network, "sram65").train()
        x = torch.rand(64, 6, generator=torch.Generator().manual_seed(1))
        with pytest.warns(PimchipWarning) as caught:
            made(x), made(x)
        (text,) = (str(w.message) for w in caught)
        lost = float((made[0](x) < -1 / 30).float().mean())  # what is nearer to 0 is rounded to it
        assert (
            text.startswith(f"layer 1 (PimLinear): {100 * lost:.0f} % of its inputs are negative")
            and "{'1': 'shift'}" in text
        )

    def test_inputs_that_are_kept_or_not_negative_are_not(self) -> None:
        network = nn.Sequential(nn.Linear(6, 8), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 4), nn.Linear(4, 4))
        convert(network, "sram65", signed_inputs={"1": "shift"}).train()(torch.rand(8, 6))

    def test_a_network_of_which_nothing_is_on_the_chip_is_told(self) -> None:
        two = nn.Sequential(nn.Flatten(), nn.Linear(192, 8), nn.ReLU(), nn.Linear(8, 5))
        with pytest.warns(
            PimchipWarning, match=r"no layer is on the chip: 1, 3 stay .* pim_skip=\('first',\), or \(\)"
        ):
            converted = convert(two, "sram65")
        with pytest.warns(PimchipWarning, match="no layer is on the chip: 1, 3 stay"):
            program = pimchip.compile(converted, torch.zeros(1, *SHAPE), "sram65")
        assert program.tiles == 0
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            mended = convert(two, "sram65", pim_skip="first")
            assert pimchip.compile(mended, torch.zeros(1, *SHAPE), "sram65").tiles
