"""What convert() is handed: wrong kinds are one line that says what is wanted, numpy's numbers are numbers."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.utils import prune
from torch.nn.utils.parametrizations import weight_norm
from torch.nn.utils.parametrize import register_parametrization

from pimchip.chip import Mac
from pimchip.errors import CompileError, InputError, PimchipWarning
from pimchip.qat import PimConv2d, PimLinear, Settings, convert, find_ranges, load_model, save_model, train
from pimchip.qat.data import load_dataset


def network() -> nn.Module:
    torch.manual_seed(0)
    body = [nn.Conv2d(1, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.BatchNorm2d(8), nn.ReLU()]
    return nn.Sequential(*body, nn.Flatten(), nn.Linear(128, 10))


@pytest.mark.parametrize(
    ("option", "words"),
    [
        ({"noise_lsb": "a"}, "noise_lsb = 'a': want a number in 0..64"),
        ({"noise_lsb": None}, "noise_lsb = None: want a number in 0..64"),
        ({"bit_aug": 1.5}, "bit_aug = 1.5: want a whole number of bits in 0..8"),
        ({"digital": "no"}, "digital = 'no': want True or False"),
        ({"pim_skip": 3}, r"pim_skip is an int; want some of first, last, shortcut, or \(\) for none"),
        ({"pim_skip": None}, "pim_skip is None; want some of"),
        ({"weight_scale": {"3": "auto"}}, "unknown weight_scale 'auto': .*known: adjusted, kept$"),
        ({"range_divisor": {"0": 2}}, r"layer 0 stays on the processor \(pim_skip\) and has no ADC"),
    ],
)
def test_wrong_kinds_of_options_are_refused_with_what_is_wanted(option: dict[str, Any], words: str) -> None:
    with pytest.raises(InputError, match=words):
        convert(network(), "sram65", **option)


def test_what_a_converted_layer_would_lose_is_refused_kept_or_told() -> None:
    hooked, pruned, frozen, shared = network(), network(), network(), network()
    hooked[3].register_forward_hook(lambda module, inputs, output: output * 0)  # type: ignore[index,union-attr]
    prune.l1_unstructured(pruned[3], "weight", amount=0.5)  # type: ignore[index,no-untyped-call]
    for each in (hooked, pruned):
        with pytest.raises(CompileError, match=r"layer 3 \(Conv2d\): it has forward hooks.*prune.remove"):
            convert(each, "sram65")
    prune.remove(pruned[3], "weight")  # type: ignore[index,no-untyped-call]
    assert float((convert(pruned, "sram65")[3].weight == 0).double().mean()) == 0.5  # type: ignore[index,union-attr]
    frozen[3].weight.requires_grad_(False)  # type: ignore[index,union-attr]
    converted = convert(frozen, "sram65")
    assert not converted[3].weight.requires_grad and converted[3].bias.requires_grad  # type: ignore[index,union-attr]
    shared[2] = nn.Sequential(nn.ReLU(), nn.Conv2d(8, 8, 3, padding=1))  # type: ignore[index]
    shared[2][1].weight = shared[3].weight  # type: ignore[index,union-attr]
    with pytest.warns(PimchipWarning, match=r"layers 2\.1, 3 share a weight; converted each has its own"):
        convert(shared, "sram65")


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ([nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.Flatten(), nn.Linear(128, 10)], r"images of shape \[1, 8, 8\]"),
        ([nn.Conv2d(1, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.Flatten(), nn.Linear(128, 5)], r"\[4, 5\] for 4 images; \[4, 10\]"),
        ([nn.Conv2d(1, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.ReLU(), nn.Conv2d(8, 10, 1)], r"\[4, 10, 4, 4\] for 4 images"),
    ],
)  # fmt: skip
def test_networks_that_do_not_fit_the_data_are_refused(body: list[nn.Module], words: str) -> None:
    data = load_dataset("digits", limit_train=4, limit_test=2)
    with pytest.raises(InputError, match=words):
        train(convert(nn.Sequential(*body), "sram65"), data, Settings(epochs=1))


def test_a_network_of_which_nothing_is_trained_is_refused() -> None:
    converted = convert(network(), "sram65").requires_grad_(False)
    with pytest.raises(InputError, match="nothing of the network can be trained"):
        train(converted, load_dataset("digits", limit_train=4, limit_test=2), Settings(epochs=1))


@pytest.mark.parametrize(
    "option", [{"noise_lsb": 0.3}, {"range": "learned"}, {"bit_aug": 1}, {"xi": "channel"}, {"eta": "auto"}]
)
def test_options_of_the_adc_are_told_to_do_nothing_where_there_is_none(option: dict[str, Any]) -> None:
    (name,) = option
    with pytest.warns(PimchipWarning, match=rf"digital = True .* ADC, where {name} does nothing: leave it out"):
        convert(network(), "sram65", digital=True, **option)
    convert(network(), "sram65", digital=True, clip="learned")
    convert(network(), "sram65", **option)


def test_divisors_to_search_are_a_list() -> None:
    with pytest.raises(InputError, match="divisors is an int; a list of the chip's"):
        find_ranges(convert(network(), "sram65"), torch.rand(4, 1, 8, 8), divisors=2)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("option", "held"),
    [
        ({"adc_bits": np.int64(6)}, 6),
        ({"noise_lsb": np.float32(0.25)}, 0.25),
        ({"activation_scale": np.float64(0.25)}, 0.25),
        ({"bit_aug": np.int8(1)}, 1),
        ({"activation_scale": Fraction(1, 4)}, 0.25),
        ({"noise_lsb": Fraction(1, 4)}, 0.25),
    ],
)
def test_numbers_of_other_kinds_are_saved_as_numbers(option: dict[str, Any], held: float, tmp_path: Path) -> None:
    data = load_dataset("digits", limit_train=2, limit_test=2)
    save_model(tmp_path / "model.pt", convert(network(), "sram65", **option), data=data)
    file = load_model(tmp_path / "model.pt")
    (name,) = option
    assert file.options[name] == held and type(file.options[name]) is type(held)
    file.build(network())


class Doubled(nn.Module):
    def forward(self, weight: torch.Tensor) -> torch.Tensor:
        return 2 * weight


@torch.no_grad()
def test_computed_parameters_are_taken_as_they_come_out() -> None:
    """A normalization's too, and trained from there on; of layers with one each, none is shared."""
    computed, plain = network(), network()
    for at in (0, 1, 3):
        register_parametrization(computed[at], "weight", Doubled())  # type: ignore[index,arg-type]
    weight_norm(computed[7])  # type: ignore[index,arg-type]
    converted = convert(computed, "sram65", activation_scale=0.3)
    for at, times in ((0, 2.0), (1, 0.6), (3, 2.0), (7, 1.0)):
        held, wanted = (each.get_submodule(str(at)).get_parameter("weight") for each in (converted, plain))
        torch.testing.assert_close(held, times * wanted.view_as(held))
        assert held.requires_grad
    assert not any("parametrizations" in name for name in converted.state_dict())
    torch.testing.assert_close(computed.get_submodule("0").weight, 2 * plain.get_submodule("0").weight)  # type: ignore[operator]


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_networks_that_torch_has_compiled_are_told_as_such() -> None:
    scripted = torch.jit.script(network())
    within = nn.Sequential(torch.jit.script(nn.Sequential(nn.Conv2d(1, 1, 3))), nn.Flatten(), nn.Linear(36, 10))
    for each, words in (
        (scripted, r"compiled by torch.jit \(it is a ScriptModule\): convert the nn.Module it was made of"),
        (torch.jit.trace(network().eval(), torch.rand(2, 1, 8, 8), check_trace=False), "compiled by torch.jit"),
        (within, r"compiled by torch.jit \(its 0.0 is a ScriptModule\)"),
        (torch.compile(network()), r"compiled by torch.compile \(it is an OptimizedModule\)"),
    ):
        with pytest.raises(CompileError, match=words):
            convert(each, "sram65")
    without_layers = nn.Sequential(torch.jit.script(nn.Flatten()), nn.Linear(64, 10))
    assert isinstance(convert(without_layers, "sram65", pim_skip=())[1], PimLinear)  # type: ignore[index]


class Own(nn.Sequential):
    """A network of its own with its layers from the start, which takes no shape and no classes."""

    def __init__(self) -> None:
        super().__init__(*network())  # type: ignore[misc]


@pytest.mark.parametrize(
    ("factory", "words"),
    [
        (
            Own,
            r"build\(the class Own\), called with \(image shape, number of classes\), failed: TypeError.*give build\(\) the",
        ),
        (3, r"build\(an int\): not a callable .*; give build\(\) the float network itself"),
        (lambda shape, classes: None, r"build\(a function\) returned NoneType; a torch.nn.Module is wanted"),
    ],
)
def test_what_makes_no_network_is_told(factory: Any, words: str, tmp_path: Path) -> None:
    data = load_dataset("digits", limit_train=2, limit_test=2)
    save_model(tmp_path / "model.pt", convert(Own(), "sram65"), data=data)
    file = load_model(tmp_path / "model.pt")
    with pytest.raises(InputError, match=words):
        file.build(factory)
    assert isinstance(file.build(lambda shape, classes: Own())[3], PimConv2d)  # type: ignore[index]


def test_codes_of_native_count_the_sign() -> None:
    """b bits on each side of zero are b + 1 bits here: codes -(2^b - 1)..2^b - 1."""
    for bits in range(1, 16):
        mac = Mac("native", rows=9, adc_bits=bits + 1)  # type: ignore[arg-type]
        assert (mac.code_min, mac.code_max) == (-(2**bits - 1), 2**bits - 1)
