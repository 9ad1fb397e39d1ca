"""`pimchip bench train`: what it compares and reports, not how fast this machine is."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from click.testing import CliRunner
from torch import nn

from pimchip.cli.main import cli
from pimchip.qat import ActQuant, DigitalConv2d, build_model, convert
from pimchip.qat.pim import PimLayerModule
from pimchip.workflows.bench_training import KINDS, SCHEMES, PlainAct, PlainConv, plain


@pytest.fixture(scope="module")
def result() -> dict[str, Any]:
    command = ["bench", "train", "--model", "resnet8", "--batch-size", "4", "--rounds", "2", "--json"]
    run = CliRunner().invoke(cli, command)
    assert run.exit_code == 0, run.stderr
    assert "/ plain QAT" in run.stderr and all(kind in run.stderr for kind in KINDS)
    found: dict[str, Any] = json.loads(run.stdout)
    return found


def test_ratios_are_of_the_times_it_tells(result: dict[str, Any]) -> None:
    for base in ("qat", "qat_channels_last", "float"):
        ratios = result[f"step_ratio_to_{base}"]
        assert {*SCHEMES} <= ratios.keys()
        for kind, ratio in ratios.items():
            low, high = result[f"step_ratio_to_{base}_range"][kind]
            assert 0 < low <= ratio <= high < math.inf
    assert result["step_ratio_to_float"]["float32"] == 1
    for kind, ratio in result["memory_ratio"].items():
        assert ratio == result["memory_bytes"][kind] / result["memory_bytes"]["plain"] > 0


def test_the_plain_network_quantizes_as_ours_does_without_an_adc() -> None:
    """Same integers in weights and activations; so it is the same amount of work, done the plain way."""
    x = torch.rand(2, 3, 32, 32)
    ours = convert(build_model("resnet8", (3, 32, 32), 10, 1), "sram65", digital=True)
    theirs = plain(build_model("resnet8", (3, 32, 32), 10, 1))
    assert sum(isinstance(m, PlainAct) for m in theirs.modules()) == sum(
        isinstance(m, ActQuant) for m in ours.modules()
    )
    pairs = [
        (a, b)
        for a, b in zip(
            [m for m in ours.modules() if isinstance(m, PimLayerModule | DigitalConv2d)],
            [m for m in theirs.modules() if isinstance(m, PlainConv)],
            strict=True,
        )
    ]
    for a, b in pairs[1:]:
        source = torch.randint(0, 16, (2, b.in_channels, 8, 8)) / 15
        torch.testing.assert_close(a(source), b(source), rtol=1e-4, atol=1e-4)
    assert isinstance(theirs.fc, nn.Linear) and F.cross_entropy(theirs(x), torch.zeros(2).long()).isfinite()
