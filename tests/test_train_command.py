"""`pimchip train`: ranges found on data, measured dies, the log and the picture of a run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner
from PIL import Image

from pimchip.cli.main import cli
from pimchip.qat import load_model, pim_layers

QUICK = ["train", "--data", "digits", "--model", "mlp", "--adc-bits", "4", "--batch-size", "128"]


def call(*arguments: str, code: int = 0) -> tuple[dict[str, Any], str]:
    result = CliRunner().invoke(cli, [*arguments, "--json"])
    assert result.exit_code == code, result.stderr
    return json.loads(result.stdout), result.stderr


def test_ranges_are_found_kept_and_resumed(tmp_path: Path) -> None:
    whole, part = tmp_path / "whole.pt", tmp_path / "part.pt"
    command = [*QUICK, "--range-divisor", "auto", "--ema", "0.9"]
    _, said = call(*command, "--epochs", "2", "--schedule", "constant", "--out", str(whole))
    assert "ranges found: layers.4 1/" in said and "range by layer" in said
    held = load_model(whole)
    ranges = held.options["range_divisor"]
    assert set(ranges) == {"layers.4", "layers.7"} and max(ranges.values()) > 1
    assert {name: layer.mac.range_divisor for name, layer in pim_layers(held.build()).items()} == ranges
    call(*command, "--epochs", "1", "--schedule", "constant", "--out", str(part))
    call(*command, "--epochs", "2", "--schedule", "constant", "--resume", str(part), "--out", str(part))
    again = load_model(part)
    assert again.options == held.options
    assert all(torch.equal(a, b) for a, b in zip(held.state.values(), again.state.values(), strict=True))
    code = CliRunner().invoke(cli, ["compile", str(whole), "--out", str(tmp_path / "m.pim")]).exit_code
    assert code == 0


def test_ranges_found_beat_the_full_one_at_few_bits(tmp_path: Path) -> None:
    found = {}
    for text in ("1", "auto"):
        command = [*QUICK, "--noise", "0.1", "--epochs", "6", "--range-divisor", text, "--out", str(tmp_path / "m.pt")]
        found[text] = call(*command)[0]["accuracy"]
    assert found["auto"] > found["1"] + 0.05


def test_the_log_has_each_epoch_once_and_the_picture_is_one(tmp_path: Path) -> None:
    log, plot, out = (tmp_path / name for name in ("run.jsonl", "run.png", "m.pt"))
    command = [*QUICK, "--log", str(log), "--plot", str(plot), "--out", str(out), "--schedule", "constant"]
    call(*command, "--epochs", "2", "--validation", "0.2")
    first = log.read_text().splitlines()
    call(*command, "--epochs", "3", "--validation", "0.2", "--resume", str(out))
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    assert log.read_text().splitlines()[:2] == first and [line["epoch"] for line in lines] == [1, 2, 3]
    assert lines[2].keys() >= {"loss", "accuracy", "learning_rate", "xi", "dead", "saturated", "validation"}
    with Image.open(plot) as picture:
        picture.load()
        assert picture.format == "PNG" and len(set(picture.convert("L").tobytes())) > 10
    assert not list(tmp_path.glob(".*"))


def test_a_measured_die_is_trained_on(tmp_path: Path) -> None:
    device = ["--device", "emulator:sram65?die=3", "--adc-bits", "4", "--range-divisor", "1", "--reads", "300"]
    profile, _ = call("characterize", *device, "--out", str(tmp_path / "cal"), code=0)
    on_die = [*QUICK, "--epochs", "1", "--on-die", profile["profile"], "--out", str(tmp_path / "a.pt")]
    call(*on_die)
    call(*QUICK, "--epochs", "1", "--out", str(tmp_path / "b.pt"))
    a, b = (load_model(tmp_path / name).state for name in ("a.pt", "b.pt"))
    assert not torch.equal(a["layers.4.weight"], b["layers.4.weight"])


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["--range-divisor", "some"], "--range-divisor 'some'"),
        (["--range-divisor", "3"], "range_divisor = 3"),
        (["--backward", "gst"], "did you mean 'gste'"),
        (["--xi", "row"], "xi 'row'"),
        (["--on-die", "nowhere"], "nowhere"),
    ],
)
def test_wrong_usage_is_one_line(arguments: list[str], named: str, tmp_path: Path) -> None:
    result = CliRunner().invoke(cli, [*QUICK, *arguments, "--epochs", "1", "--out", str(tmp_path / "m.pt")])
    assert result.exit_code == 2 and named in result.stderr
    assert len(result.stderr.strip().splitlines()) == 1
