"""What convert() is handed: wrong kinds are one line that says what is wanted, numpy's numbers are numbers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from pimchip.chip import Mac
from pimchip.errors import InputError
from pimchip.qat import convert, load_model, save_model
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


@pytest.mark.parametrize(
    ("option", "held"),
    [
        ({"adc_bits": np.int64(6)}, 6),
        ({"noise_lsb": np.float32(0.25)}, 0.25),
        ({"activation_scale": np.float64(0.25)}, 0.25),
        ({"bit_aug": np.int8(1)}, 1),
    ],
)
def test_numbers_of_numpy_are_saved_as_numbers(option: dict[str, Any], held: float, tmp_path: Path) -> None:
    data = load_dataset("digits", limit_train=2, limit_test=2)
    save_model(tmp_path / "model.pt", convert(network(), "sram65", **option), data=data)
    file = load_model(tmp_path / "model.pt")
    (name,) = option
    assert file.options[name] == held and type(file.options[name]) is type(held)
    file.build(network())


def test_codes_of_native_count_the_sign() -> None:
    """b bits on each side of zero are b + 1 bits here: codes -(2^b - 1)..2^b - 1."""
    for bits in range(1, 16):
        mac = Mac("native", rows=9, adc_bits=bits + 1)  # type: ignore[arg-type]
        assert (mac.code_min, mac.code_max) == (-(2**bits - 1), 2**bits - 1)
