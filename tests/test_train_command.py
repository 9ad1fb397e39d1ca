"""`pimchip train`: ranges found on data, measured dies, the log and the picture of a run."""

from __future__ import annotations

import inspect
import json
import re
import shlex
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner
from PIL import Image
from scipy.stats import binomtest as proportion

from pimchip.chip.spec import SPECS
from pimchip.cli.main import cli
from pimchip.qat import build_model, convert, evaluate, load_model, pim_layers
from pimchip.qat.checkpoint import _OPTIONS
from pimchip.qat.data import load_dataset
from pimchip.qat.options import PimOptions

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


@pytest.fixture(scope="module")
def profile(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Die 3 at 4 bits and ranges 1/1 and 1/2."""
    device = ["--device", "emulator:sram65?die=3", "--adc-bits", "4", "--reads", "300"]
    ranges = ["--range-divisor", "1", "--range-divisor", "2"]
    found, _ = call("characterize", *device, *ranges, "--out", str(tmp_path_factory.mktemp("cal")))
    return str(found["profile"])


def last_line(text: str, mark: str) -> list[str]:
    """The words of the command behind a mark."""
    (line,) = (line for line in text.splitlines() if mark in line)
    return shlex.split(line.split(mark)[1])


def test_a_measured_die_is_trained_on_and_figures_say_so(tmp_path: Path, profile: str) -> None:
    result, said = call(*QUICK, "--epochs", "1", "--on-die", profile, "--out", str(tmp_path / "a.pt"))
    on_die = result["history"][0]["accuracy"]
    assert result["accuracy_on_die"] == on_die != result["accuracy"]
    held = proportion(round(on_die * 599), 599).proportion_ci(method="wilson")
    assert result["accuracy_on_die_interval"] == pytest.approx([held.low, held.high], abs=1e-12)
    assert result["history_accuracy"] == "on die" and result["range_divisors"] is None
    assert f"on die {100 * on_die:5.1f} %" in said and re.search(r"accuracy on the die at 4 bits +\d+\.\d % \(", said)
    assert "accuracy, ideal ADCs of 4 bits" in said
    result, said = call(*QUICK, "--epochs", "1", "--out", str(tmp_path / "b.pt"))
    assert result["accuracy_on_die"] is None and "on die" not in said and "the die" not in said
    assert result["history_accuracy"] == "ideal ADCs of 4 bits"
    _, said = call(
        "train", "--model", "mlp", "--on-die", profile, "--epochs", "0", "--out", str(tmp_path / "c.pt"), code=2
    )
    assert "at 7 bits: train with --adc-bits 4, or run pimchip characterize --device" in said
    a, b = (load_model(tmp_path / name).state for name in ("a.pt", "b.pt"))
    assert not torch.equal(a["layers.4.weight"], b["layers.4.weight"])


def test_conventional_quantization_on_a_die_is_refused(tmp_path: Path, profile: str) -> None:
    out = tmp_path / "m.pt"
    _, said = call(*QUICK, "--digital", "--on-die", profile, "--epochs", "1", "--out", str(out), code=2)
    assert "--digital trains without the chip's ADC" in said and "pimchip deploy" in said and not out.exists()


@pytest.mark.parametrize(
    "option", [["--noise", "0.3"], ["--bit-aug", "1"], ["--train-adc-bits", "5"], ["--xi", "channel"]]
)
def test_options_of_the_adc_are_refused_where_there_is_none(tmp_path: Path, option: list[str]) -> None:
    out = tmp_path / "m.pt"
    _, said = call(*QUICK, "--digital", *option, "--epochs", "1", "--out", str(out), code=2)
    assert f"--digital trains without the chip's ADC, so {option[0]} does nothing" in said and not out.exists()


def test_a_rate_that_never_drops_and_weights_of_another_network_are_told(tmp_path: Path) -> None:
    out, other = tmp_path / "m.pt", tmp_path / "other.pt"
    schedule = ["--schedule", "multistep", "--milestones", "1,2,7"]
    _, said = call(*QUICK, *schedule, "--digital", "--epochs", "2", "--out", str(out))
    assert "--milestones 2, 7: the run ends after epoch 2, before the rate drops there" in said
    _, said = call("train", "--model", "tiny", "--init", str(out), "--epochs", "1", "--out", str(other), code=2)
    assert "--init holds weights of mlp, this run trains tiny: checkpoint and network differ" in said


def test_of_two_dies_the_accuracy_is_called_theirs(tmp_path: Path, profile: str) -> None:
    _, said = call(*QUICK, "--epochs", "1", "--on-die", profile, "--on-die", profile, "--out", str(tmp_path / "m.pt"))
    assert "accuracy on 2 dies at 4 bits, drawn by pass" in said and "the die" not in said


def test_a_run_without_a_search_does_not_go_on_with_one_nor_the_other_way(tmp_path: Path) -> None:
    fixed, found = tmp_path / "fixed.pt", tmp_path / "found.pt"
    call(*QUICK, "--epochs", "0", "--out", str(fixed))
    call(*QUICK, "--epochs", "0", "--range-divisor", "auto", "--out", str(found))
    _, said = call(*QUICK, "--range-divisor", "auto", "--resume", str(fixed), "--out", str(fixed), code=2)
    assert "trained at one range for all layers (the chip's), not --range-divisor auto" in said
    _, said = call(*QUICK, "--range-divisor", "2", "--resume", str(found), "--out", str(found), code=2)
    assert "was trained with range_divisor = one for each layer, this run has 2; leave the option out" in said


def test_a_run_on_dies_goes_on_only_on_the_same(tmp_path: Path, profile: str) -> None:
    out, other, to = tmp_path / "a.pt", tmp_path / "other.pt", str(tmp_path / "b.pt")
    call(*QUICK, "--epochs", "1", "--on-die", profile, "--out", str(out))
    call(*QUICK, "--epochs", "0", "--out", str(other))
    _, said = call("train", "--on-die", profile, "--resume", str(other), "--out", to, code=2)
    assert "was trained with on_die = [], this run has ['" in said
    found, _ = call("train", "--epochs", "2", "--resume", str(out), "--out", to)
    assert found["history_accuracy"] == "on die" and found["epochs"] == 2


def test_a_search_without_a_choice_is_told(tmp_path: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    device = ["--device", "emulator:sram65?die=1", "--adc-bits", "4", "--range-divisor", "2", "--reads", "64"]
    profile = call("characterize", *device, "--out", str(tmp_path))[0]["profile"]
    command = [*QUICK, "--on-die", profile, "--range-divisor", "auto", "--epochs", "0", "--out", str(tmp_path / "m.pt")]
    result, said = call(*command)
    assert "--range-divisor auto has no choice: the profiles measured range 1/2 alone" in said
    assert len(result["warnings"]) == 1


def test_a_run_goes_on_with_the_options_that_it_was_given(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("mine.toml").write_text((SPECS / "sram65.toml").read_text(encoding="utf-8"), encoding="utf-8")
    command = [*QUICK, "--chip", "mine.toml", "--noise", "0.3", "--ema", "0.5", "--schedule", "constant", "--seed", "7"]
    command += ["--label-smoothing", "0.1", "--range-divisor", "auto", "--train-adc-bits", "3"]
    call(*command, "--epochs", "2", "--out", "whole.pt")
    call(*command, "--epochs", "1", "--out", "part.pt")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    found, _ = call(
        "train", "--resume", "../part.pt", "--epochs", "2", "--activation-scale", "0.4", "--weight-bits", "4"
    )
    assert found["checkpoint"] == "../part.pt" and not list(Path().iterdir())
    assert found["provenance"]["seed"] == 7
    whole, again = load_model("../whole.pt"), load_model("../part.pt")
    assert all(torch.equal(a, b) for a, b in zip(whole.state.values(), again.state.values(), strict=True))


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"epochs": "many"}, "its option epochs is 'many'"),
        ({"schedule": "sometimes"}, "its option schedule is 'sometimes'"),
        ({"dies": 3}, "its option dies is 3"),
        ({"label_smoothing": 7.0}, "its option label_smoothing is 7.0"),
        ({"digital": float("nan")}, "its option digital is nan"),
        ({"deterministic": [1]}, "its option deterministic is [1]"),
        *(({name: None}, f"its option {name} is None; give --") for name in ("ema", "model", "seed", "data", "dies")),
        ([1], "its options are no table"),
    ],
)
def test_options_in_a_checkpoint_are_checked_as_if_typed(tmp_path: Path, changed: Any, words: str) -> None:
    out = tmp_path / "a.pt"
    call(*QUICK, "--epochs", "0", "--out", str(out))
    held = torch.load(out, weights_only=True)
    kept = held["training"]["options"]
    held["training"]["options"] = kept | changed if isinstance(changed, dict) else changed
    torch.save(held, out)
    before = out.read_bytes()
    assert words in call("train", "--resume", str(out), code=2)[1]
    assert out.read_bytes() == before


def images(folder: Path, other: int = 0) -> None:
    """Two classes of three images in either split; `other` changes one pixel."""
    for split in ("train", "test"):
        for name, shade in (("dark", 40), ("light", 200)):
            (folder / split / name).mkdir(parents=True, exist_ok=True)
            for k in range(3):
                Image.new("L", (8, 8), shade + k + other * (k == 0)).save(folder / split / name / f"{k}.png")


def test_a_run_on_a_folder_goes_on_from_anywhere_and_on_no_other_images(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    images(tmp_path / "mine")
    for name in ("digits", "sram65"):  # names of what is built in win over these
        Path(name).mkdir()
    call("train", "--data", "mine", "--model", "mlp", "--batch-size", "2", "--epochs", "1", "--out", "a.pt")
    call(*QUICK, "--chip", "sram65", "--epochs", "0", "--out", "b.pt")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert call("train", "--resume", "../a.pt", "--epochs", "2")[0]["epochs"] == 2
    call("train", "--resume", "../a.pt", "--data", "../mine", "--epochs", "3")
    Path("../mine").rename("moved")
    call("train", "--resume", "../a.pt", "--data", "moved", "--epochs", "4")
    images(Path("moved"), other=1)
    assert "data = moved, which was changed since" in call("train", "--resume", "../a.pt", "--data", "moved", code=2)[1]
    Path("moved").rename("../mine")
    _, said = call("train", "--resume", "../a.pt", "--data", "../mine", "--epochs", "5", code=2)
    assert "which is now ../mine" in said
    assert call("train", "--resume", "../b.pt", "--epochs", "1")[0]["epochs"] == 1


def test_dies_go_on_from_anywhere_and_another_chip_or_data_does_not(
    tmp_path: Path, profile: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(Path(profile).parent)
    out = str(tmp_path / "a.pt")
    call(*QUICK, "--epochs", "0", "--on-die", Path(profile).name, "--out", out)
    monkeypatch.chdir(tmp_path)
    assert call("train", "--resume", out, "--epochs", "1")[0]["epochs"] == 1
    text = (SPECS / "sram65.toml").read_text(encoding="utf-8").replace('"sram65"', '"mine"')
    Path("mine.toml").write_text(text, encoding="utf-8")
    call(*QUICK, "--epochs", "0", "--out", "b.pt")
    for option, value, named in (
        ("--chip", "mine.toml", "chip = sram65 ("),
        ("--model", "tiny", "model = mlp, this run has tiny"),
        ("--train-adc-bits", "3", "train_adc_bits = 4, this run has 3"),
    ):
        assert named in call("train", "--resume", "b.pt", option, value, code=2)[1]


def test_log_and_picture_are_not_taken_from_the_checkpoint(tmp_path: Path) -> None:
    out, log, plot = (str(tmp_path / name) for name in ("a.pt", "a.jsonl", "a.png"))
    call(*QUICK, "--epochs", "1", "--log", log, "--plot", plot, "--out", out)
    held = torch.load(out, weights_only=True)
    assert not held["training"]["options"].keys() & {"log", "plot", "out", "resume"}
    held["training"]["options"].update(log=log, plot=plot)
    torch.save(held, out)
    before = [Path(name).read_bytes() for name in (log, plot)]
    call("train", "--resume", out, "--epochs", "2")
    assert [Path(name).read_bytes() for name in (log, plot)] == before


def test_what_a_run_that_goes_on_writes_goes_on_alike(tmp_path: Path) -> None:
    """Its options are those of the first run, not the defaults of a command line that names none."""
    out = tmp_path / "a.pt"
    call(*QUICK, "--epochs", "1", "--ema", "0.5", "--seed", "9", "--out", str(out))
    first = load_model(out).training["options"]
    call("train", "--resume", str(out), "--epochs", "2")
    assert load_model(out).training["options"] == first | {"epochs": 2}


def test_no_code_is_run_because_a_checkpoint_names_it(tmp_path: Path) -> None:
    out = tmp_path / "a.pt"
    call(*QUICK, "--epochs", "0", "--out", str(out))
    held = torch.load(out, weights_only=True)
    held["model"], held["training"]["options"]["factory"] = "factory:os:abort", "os:abort"
    torch.save(held, out)
    assert "name it with --factory os:abort" in call("train", "--resume", str(out), code=2)[1]


def test_of_a_die_s_folder_the_profile_that_serves_is_taken(tmp_path: Path, profile: str) -> None:
    folder = Path(profile).parent
    device = ["--device", "emulator:sram65?die=3", "--adc-bits", "5", "--range-divisor", "1", "--reads", "64"]
    call("characterize", *device, "--out", str(folder.parent))
    for bits in ("4", "5"):
        call(
            "train",
            "--model",
            "mlp",
            "--epochs",
            "0",
            "--adc-bits",
            bits,
            "--on-die",
            str(folder),
            "--out",
            str(tmp_path / bits),
        )
    command = ["train", "--model", "mlp", "--epochs", "0", "--adc-bits", "6", "--on-die", str(folder)]
    _, said = call(*command, "--out", str(tmp_path / "m.pt"), code=2)
    assert "--device 'emulator:sram65?die=3' --adc-bits 6 --range-divisor 1" in said


def test_the_search_stays_within_what_the_die_was_measured_at(tmp_path: Path, profile: str) -> None:
    free, bound = ([*QUICK, "--epochs", "0", "--range-divisor", "auto", *die] for die in ([], ["--on-die", profile]))
    result, said = call(*free, "--out", str(tmp_path / "a.pt"))
    assert "ranges found: " in said
    _, said = call(*bound, "--out", str(tmp_path / "b.pt"))
    assert "ranges found (among 1/1, 1/2, which the profiles measured): " in said
    free_ranges, ranges = (load_model(tmp_path / name).options["range_divisor"] for name in ("a.pt", "b.pt"))
    assert free_ranges == result["range_divisors"]
    assert max(free_ranges.values()) > 2 and set(ranges.values()) <= {1, 2}


@pytest.mark.parametrize(
    ("arguments", "ranges"),
    [(["--range-divisor", "8"], [8]), (["--adc-bits", "5", "--range-divisor", "auto"], [1, 2, 4, 8])],
)
def test_what_a_profile_lacks_is_told_with_the_command_that_measures_it(
    tmp_path: Path, profile: str, arguments: list[str], ranges: list[int]
) -> None:
    command = ["train", "--model", "mlp", "--epochs", "0", "--on-die", profile, "--out", str(tmp_path / "m.pt")]
    bits = [] if "--adc-bits" in arguments else ["--adc-bits", "4"]
    _, said = call(*command, *bits, *arguments, code=2)
    measure = last_line(said, "run pimchip ")
    found, _ = call(*measure, "--reads", "64", "--out", str(tmp_path / "cal"), code=0)
    assert sorted(point["range_divisor"] for point in found["points"]) == ranges
    command[command.index(profile)] = found["profile"]
    call(*command, *bits, *arguments)


def test_the_next_command_runs_as_it_is_told_and_replaces_nothing(
    tmp_path: Path, profile: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    text = (SPECS / "sram65.toml").read_text(encoding="utf-8")
    Path("my chip.toml").write_text(text.replace('"sram65"', '"mine"'))
    before: dict[str, bytes] = {}
    for extra in ([], ["--chip", "my chip.toml"], ["--on-die", profile]):
        _, said = call(*QUICK, "--epochs", "1", *extra, "--out", "m.pt")
        words = last_line(said, "next: pimchip ")
        assert ("--device" in words, "--profile" in words) == (bool(extra), "--on-die" in extra)
        call(*words)
        after = {p.name: p.read_bytes() for p in tmp_path.glob("*.deployed")}
        assert len(after) == len(before) + 1 and before.items() <= after.items()
        before = after


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


def test_every_keyword_of_convert_can_be_kept_in_a_file() -> None:
    keywords = set(inspect.signature(convert).parameters) - {"module", "chip", "options"}
    assert set(_OPTIONS) == keywords | {field.name for field in fields(PimOptions)}


def test_the_scale_of_activations_is_kept_and_used(tmp_path: Path) -> None:
    out = tmp_path / "m.pt"
    call("train", "--model", "tiny", "--epochs", "0", "--activation-scale", "0.5", "--out", str(out))
    held = load_model(out)
    assert held.options["activation_scale"] == 0.5
    _, said = call("train", "--init", str(out), "--activation-scale", "1", "--out", str(tmp_path / "n.pt"), code=2)
    assert "leave --activation-scale out" in said
    norms = [v for k, v in held.state.items() if k.endswith("bn1.weight")]
    assert norms and all(torch.equal(v, torch.full_like(v, 0.5)) for v in norms)


def test_a_network_of_two_layers_is_told_to_use_no_chip_and_how_it_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "two_layers.py").write_text(
        "from torch import nn\n"
        "def make(shape, classes):\n"
        "    return nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, classes))\n"
    )
    monkeypatch.chdir(tmp_path)
    plain = ["train", "--factory", "two_layers:make", "--epochs", "0"]
    result = CliRunner().invoke(cli, [*plain, "--out", "a.pt"])
    assert result.exit_code == 0 and result.stderr.count("no layer is on the chip: 1, 4 stay") == 1
    assert "PIM-QAT" not in result.stdout
    found, said = call(*plain, "--pim-skip", "first", "--out", "b.pt")
    assert not found["warnings"] and "PIM-QAT at 7 bits" in said
    held = load_model("b.pt")
    assert held.options["pim_skip"] == ["first"]
    call("train", "--resume", "b.pt", "--factory", "two_layers:make", "--epochs", "1")
    assert load_model("b.pt").options["pim_skip"] == ["first"]
    _, refused = call(*plain, "--pim-skip", "frist", "--out", "c.pt", code=2)
    assert "unknown pim_skip 'frist': did you mean 'first'" in refused


def test_training_starts_from_the_weights_of_the_float_network(tmp_path: Path) -> None:
    data = load_dataset("digits")
    network = build_model("mlp", data.image_shape, 10, seed=4)
    images, labels = torch.from_numpy(data.train.images) / 255, torch.from_numpy(data.train.labels)
    optimizer = torch.optim.Adam(network.parameters(), 3e-3)
    for _ in range(3):
        for part in torch.arange(len(images)).split(64):
            optimizer.zero_grad()
            torch.nn.functional.cross_entropy(network(images[part]), labels[part]).backward()
            optimizer.step()
    torch.save(network.state_dict(), tmp_path / "float.pt")
    out = str(tmp_path / "m.pt")
    options = ["--model", "mlp", "--adc-bits", "6", "--range-divisor", "auto", "--epochs", "0", "--out", out]
    found, _ = call("train", "--init", str(tmp_path / "float.pt"), *options)
    wanted = convert(network, "sram65", adc_bits=6, range_divisor=found["range_divisors"])
    held = load_model(out)
    assert all(torch.equal(held.state[name], tensor) for name, tensor in wanted.state_dict().items())
    assert found["accuracy"] == evaluate(wanted, data.test) > 0.85  # BN's statistics came along
    _, said = call("train", "--init", str(tmp_path / "float.pt"), "--model", "tiny", "--out", out, code=2)
    assert "checkpoint and network differ" in said
    _, said = call("compile", str(tmp_path / "float.pt"), code=2)
    assert "a state dict: `pimchip train --init`" in said


def test_a_model_at_the_default_place_is_replaced_only_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    quick = ["train", "--model", "mlp", "--epochs", "0"]
    call(*quick)
    held = Path("model.pt").read_bytes()
    _, said = call(*quick, "--seed", "1", code=2)
    assert "model.pt is there already" in said and "--out model.pt" in said
    assert Path("model.pt").read_bytes() == held
    call("train", "--resume", "model.pt", "--epochs", "1")
    call(*quick, "--seed", "1", "--out", "model.pt")
    assert Path("model.pt").read_bytes() != held
