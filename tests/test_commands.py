"""The commands as their users call them: promised keys, provenance, one flow from training to inference, bad input."""

from __future__ import annotations

import json
import os
import pickle
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from PIL import Image
from scipy.stats import binomtest

from pimchip.cli.main import COMMANDS, cli
from pimchip.runtime import Deployed

DEVICE = "emulator:sram65?die=3"
KEYS = {
    "train": ("accuracy", "epochs", "seconds_per_epoch", "checkpoint"),
    "characterize": ("profile", "chip_uid", "adcs", "reads", "seconds", "max_inl_lsb", "noise_lsb", "flags", "passed"),
    "compile": ("program", "tiles", "passes", "utilization_of_bound", "conversions_per_image", "seconds"),
    "deploy": (
        "accuracy_before_bn",
        "accuracy_after_bn",
        "predicted_accuracy",
        "images",
        "tiles",
        "passes",
        "verify_errors",
        "deployed",
    ),
    "infer": (
        "images",
        "images_per_second",
        "predictions",
        "accuracy",
        "modelled_joules_per_image",
        "modelled_seconds_per_image",
    ),
}


def call(*arguments: str) -> tuple[int, dict[str, Any], str]:
    """(exit code, the one JSON object on stdout, stderr) of a command with --json, in this process."""
    result = CliRunner().invoke(cli, [*arguments, "--json"])
    return result.exit_code, json.loads(result.stdout), result.stderr


@pytest.fixture(scope="module")
def flow(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Results of every command, in order, in one folder."""
    folder = tmp_path_factory.mktemp("flow")
    at = {name: str(folder / name) for name in ("model.pt", "cal", "model.pim", "model.deployed")}
    runs = {
        "train": ["train", "--model", "mlp", "--epochs", "2", "--out", at["model.pt"]],
        "characterize": [
            "characterize",
            "--device",
            DEVICE,
            "--range-divisor",
            "1",
            "--half-width",
            "0.2",
            "--out",
            at["cal"],
        ],
        "compile": ["compile", at["model.pt"], "--chip", "sram65"],
        "deploy": ["deploy", at["model.pt"], "--device", DEVICE, "--profile", "{profile}", "--data", "digits"],
        "infer": ["infer", "{deployed}", "--data", "digits", "--device", DEVICE],
    }
    found: dict[str, Any] = {"folder": folder}
    for name, arguments in runs.items():
        known = {key: value for result in found.values() if isinstance(result, dict) for key, value in result.items()}
        code, found[name], stderr = call(*(a.format(**known) for a in arguments))
        assert code == 0, stderr
    return found


@pytest.mark.parametrize("name", KEYS)
def test_promised_keys_and_provenance(flow: dict[str, Any], name: str) -> None:
    assert flow[name].keys() >= {*KEYS[name], "provenance"}
    assert flow[name]["provenance"].keys() >= {"version", "seed", "device_uid", "hashes", "command"}


def test_infer_gives_the_accuracy_that_deploy_saw(flow: dict[str, Any]) -> None:
    assert flow["infer"]["accuracy"] == flow["deploy"]["accuracy_after_bn"]
    assert len(flow["infer"]["predictions"]) == flow["infer"]["images"] == flow["deploy"]["images"] == 599


def test_intervals_are_wilsons(flow: dict[str, Any]) -> None:
    images = flow["deploy"]["images"]
    for key in ("accuracy_before_bn", "accuracy_after_bn", "predicted_accuracy"):
        interval = binomtest(round(flow["deploy"][key] * images), images).proportion_ci(method="wilson")
        np.testing.assert_allclose(flow["deploy"][f"{key}_interval"], [interval.low, interval.high], atol=1e-12)


def test_energy_and_time_are_those_of_the_program(flow: dict[str, dict[str, Any]]) -> None:
    """All tiles in one pass, so that batches do not matter: deploy, infer and info tell the same."""
    told = call("info", flow["deploy"]["deployed"])[1]
    for key in ("modelled_joules_per_image", "modelled_seconds_per_image"):
        assert flow["deploy"][key] == flow["infer"][key] == told[key] > 0
    parts = [item for item in told["estimate"] if item["kind"] != "programming"]
    assert sum(item["joules"] for item in parts) == pytest.approx(told["modelled_joules_per_image"])
    assert sum(item["conversions"] for item in parts) == told["conversions_per_image"]


def test_the_same_seed_gives_the_same_predictions_and_another_other_noise(flow: dict[str, Any]) -> None:
    deployed = flow["deploy"]["deployed"]
    again = call("infer", deployed, "--device", DEVICE, "--limit", "100")[1]["predictions"]
    assert again == flow["infer"]["predictions"][:100]
    fit = flow["characterize"]
    code, other, _ = call(
        "characterize",
        "--device",
        DEVICE,
        "--range-divisor",
        "1",
        "--half-width",
        "0.2",
        "--out",
        str(flow["folder"] / "b"),
    )
    assert code == 0
    assert other["provenance"]["hashes"]["profile"] == fit["provenance"]["hashes"]["profile"]


def test_infer_of_files_predicts_as_of_the_data_set(flow: dict[str, Any], tmp_path: Path) -> None:
    from pimchip.qat.data import load_dataset

    images = load_dataset("digits").test.images[:5]
    np.save(tmp_path / "five.npy", images)
    for index, image in enumerate(images):
        Image.fromarray(image[0]).save(tmp_path / f"{index}.png")
    wanted = flow["infer"]["predictions"][:5]
    files = [str(tmp_path / f"{index}.png") for index in range(5)]
    for sources in ([str(tmp_path / "five.npy")], files):
        code, result, _ = call("infer", flow["deploy"]["deployed"], *sources, "--device", DEVICE)
        assert (code, result["predictions"], result["accuracy"]) == (0, wanted, None)


def test_refitting_raw_counts_gives_the_same_profile(flow: dict[str, Any]) -> None:
    code, again, _ = call(
        "characterize", "--from", flow["characterize"]["profile"], "--out", str(flow["folder"] / "refit")
    )
    assert code == 0
    assert again["provenance"]["hashes"]["profile"] == flow["characterize"]["provenance"]["hashes"]["profile"]


def test_a_missed_limit_is_exit_code_1_and_named(flow: dict[str, Any], tmp_path: Path) -> None:
    limits = tmp_path / "limits.toml"
    limits.write_text("max_inl_lsb = 0.01\nnoise_lsb = 9\n")
    code, result, stderr = call(
        "characterize", "--from", flow["characterize"]["profile"], "--out", str(tmp_path), "--limits", str(limits)
    )
    assert code == 1
    assert not result["passed"]
    assert [line.split()[0] for line in result["limits_missed"]] == ["max_inl_lsb"]


def test_limits_that_hold_are_named(flow: dict[str, Any], tmp_path: Path) -> None:
    limits = tmp_path / "limits.toml"
    limits.write_text("max_inl_lsb = 900\nnoise_lsb = 9\n")
    given = ["characterize", "--from", flow["characterize"]["profile"], "--out", str(tmp_path), "--limits", str(limits)]
    result = CliRunner().invoke(cli, given)
    assert result.exit_code == 0
    assert f"within the limits of {limits}: max_inl_lsb, noise_lsb" in result.stdout


def test_trim_reduces_the_spread_of_offsets_and_deploy_loads_it(flow: dict[str, Any], tmp_path: Path) -> None:
    from pimchip import Profile, open_board
    from pimchip.runtime.deploy import load_trim

    code, result, _ = call(
        "characterize",
        "--device",
        DEVICE,
        "--range-divisor",
        "1",
        "--half-width",
        "0.2",
        "--trim",
        "--out",
        str(tmp_path),
    )
    assert code == 0
    before, after = Profile.load(flow["characterize"]["profile"]), Profile.load(result["profile"])
    assert np.std(before.points[0].offset) > 0.7
    assert np.std(after.points[0].offset) < 0.25  # a quarter-LSB step leaves 0.07, the register's reach a little more
    with open_board(DEVICE) as board:
        load_trim(board, after)
        assert tuple(board.registers()[f"trim{j}"] for j in range(256)) == after.trim


def test_auto_training_bits_come_from_the_profile(flow: dict[str, Any], tmp_path: Path) -> None:
    common = ["train", "--model", "mlp", "--epochs", "0", "--train-adc-bits", "auto", "--out", str(tmp_path / "m.pt")]
    code, result, _ = call(*common, "--profile", flow["characterize"]["profile"])
    assert code == 0
    assert result["train_adc_bits"] in (5, 6)  # 7 - log2(1 + 12 (0.35^2 + INL^2)) / 2 with an rms INL under 1 LSB
    code, result, stderr = call(*common)
    assert code == 2 and "--profile" in stderr


@pytest.mark.parametrize("what", ["sram65", "model.pt", "model.pim", "model.deployed", "profile", DEVICE, ""])
def test_info_knows_everything(flow: dict[str, Any], what: str) -> None:
    path = flow["characterize"]["profile"] if what == "profile" else str(flow["folder"] / what)
    subject = [] if not what else [what if what in ("sram65", DEVICE) else path]
    code, result, stderr = call("info", *subject)
    assert code == 0, stderr
    assert result["kind"]


def test_images_whose_classes_mean_something_else_are_refused(flow: dict[str, Any], tmp_path: Path) -> None:
    from pimchip.qat.data import load_dataset

    test = load_dataset("digits").test
    for name, prefix in (("words", "class-"), ("digits-again", "")):
        for split in ("train", "test"):
            for index in range(100):
                folder = tmp_path / name / split / f"{prefix}{test.labels[index]}"
                folder.mkdir(parents=True, exist_ok=True)
                Image.fromarray(test.images[index, 0]).save(folder / f"{index:03}.png")
    deployed = flow["deploy"]["deployed"]
    code, _, stderr = call("infer", deployed, "--data", str(tmp_path / "words"), "--device", DEVICE)
    assert code == 2 and "class-0" in stderr
    code, result, said = call("infer", deployed, "--data", str(tmp_path / "digits-again"), "--device", DEVICE)
    assert code == 0 and result["accuracy"] > 0.3
    assert "digits-again is another data set than digits, which the network was calibrated on" in said
    assert len(result["warnings"]) == 1


def test_what_was_deployed_remembers_the_data_set(flow: dict[str, Any], tmp_path: Path) -> None:
    """Calibrated on a folder's images, which it names and takes from then on; a .deployed of before names none."""
    from pimchip.qat.data import load_dataset

    data = load_dataset("digits")
    for split, part in (("train", data.train), ("test", data.test)):
        for index in range(60):
            folder = tmp_path / "mine" / split / str(part.labels[index])
            folder.mkdir(parents=True, exist_ok=True)
            Image.fromarray(part.images[index, 0]).save(folder / f"{index:03}.png")
    mine, out = str(tmp_path / "mine"), str(tmp_path / "m.deployed")
    model = str(flow["folder"] / "model.pim")
    code, result, said = call("deploy", model, "--data", mine, "--bn-batches", "1", "--device", DEVICE, "--out", out)
    assert code == 0 and "mine is another data set than digits, which the network was trained on" in said
    assert result["data"] == mine and Deployed.load(out).data == mine
    code, result, said = call("infer", out, "--device", DEVICE)
    assert code == 0 and result["images"] == 60 and not result["warnings"]
    _, result, said = call("infer", out, "--data", "digits", "--device", DEVICE)
    assert "digits is another data set" in said and result["images"] == 599


def test_many_images_are_tallied_in_a_table(flow: dict[str, Any], tmp_path: Path) -> None:
    from pimchip.qat.data import load_dataset

    np.save(tmp_path / "many.npy", load_dataset("digits").test.images[:25])
    arguments = ["infer", flow["deploy"]["deployed"], str(tmp_path / "many.npy"), "--device", DEVICE]
    _, result, _ = call(*arguments)
    shown = CliRunner().invoke(cli, arguments).stdout
    lines = [line.split() for line in shown.split("How often each class was found")[1].splitlines()]
    tally = {line[0]: int(line[1]) for line in lines if len(line) == 4 and line[3] == "%"}
    assert tally == Counter(result["classes"][p] for p in result["predictions"])
    assert "and 5 more images" in shown and "25 images on emu-" in shown


def test_a_name_with_brackets_is_shown_as_it_is(tmp_path: Path) -> None:
    out = tmp_path / "a[red]b[.pt"
    result = CliRunner().invoke(cli, ["train", "--model", "mlp", "--epochs", "0", "--out", str(out)])
    assert result.exit_code == 0 and out.is_file()
    assert "a[red]b[.pt" in result.stdout.replace("\n", "").replace(" ", "")


class _Hostile:
    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return os.system, ("touch /tmp/pimchip-hostile-ran",)


def bad_files(flow: dict[str, Any], folder: Path) -> dict[str, list[str]]:
    """A command line for each kind of bad input, by what its message must name."""
    good = Path(flow["train"]["checkpoint"])
    (folder / "short.pt").write_bytes(good.read_bytes()[:5000])
    (folder / "code.pt").write_bytes(pickle.dumps(_Hostile()))
    torch.save(torch.nn.Linear(2, 2), folder / "module.pt")
    held = torch.load(good, weights_only=True)
    name = "layers.4.weight"
    held["state"][name][0, 0] = float("nan")
    torch.save(held, folder / "nan.pt")
    (folder / "net.py").write_text(
        "from torch import nn\n"
        "def build(shape, classes):\n"
        "    return nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.LogSoftmax(1), nn.Linear(16, classes))\n"
    )
    Image.new("L", (9, 8)).save(folder / "wide.png")
    (folder / "text.png").write_text("no image")
    damaged = shutil.copytree(flow["characterize"]["profile"], folder / "damaged")
    (damaged / "counts.npz").write_bytes(b"PK" + bytes(100))
    cut = folder / "cut.deployed"
    cut.write_bytes(Path(flow["deploy"]["deployed"]).read_bytes()[:-10])
    (folder / "file").write_text("")
    deployed, profile = flow["deploy"]["deployed"], flow["characterize"]["profile"]
    return {
        "gone.pt": ["deploy", str(folder / "gone.pt")],
        "short.pt": ["deploy", str(folder / "short.pt")],
        "code.pt": ["compile", str(folder / "code.pt")],
        "torch.nn.modules.linear.Linear": ["compile", str(folder / "module.pt")],
        name: ["deploy", str(folder / "nan.pt")],
        "did you mean 'sram65'": ["compile", str(good), "--chip", "sram6"],
        "emu-sram65-97d42ebe-0003": ["deploy", str(good), "--device", "emulator:sram65?die=4", "--profile", profile],
        "counts.npz": ["deploy", str(good), "--device", DEVICE, "--profile", str(damaged)],
        "wide.png": ["infer", deployed, str(folder / "wide.png"), "--device", DEVICE],
        "text.png": ["infer", deployed, str(folder / "text.png"), "--device", DEVICE],
        "cut.deployed": ["infer", str(cut), "--device", DEVICE],
        "`pimchip deploy ": ["infer", str(good), "--device", DEVICE],
        "model.pim": ["infer", flow["compile"]["program"], "--device", DEVICE],
        "option 'dye'": ["deploy", str(good), "--device", "emulator:sram65?dye=3"],
        "range_divisor = 3": ["train", "--range-divisor", "3", "--out", str(folder / "never.pt")],
        "adc_bits = 9": ["train", "--adc-bits", "9", "--out", str(folder / "never.pt")],
        "rows = 1000": ["train", "--rows", "1000", "--out", str(folder / "never.pt")],
        "unknown model 'resnet9'": ["train", "--model", "resnet9", "--out", str(folder / "never.pt")],
        "fashion-mnist": ["train", "--data", "fashion", "--out", str(folder / "never.pt")],
        "file/x.pim": ["compile", str(good), "--out", str(folder / "file" / "x.pim")],
    }


def test_bad_input_is_one_line_exit_code_2_and_leaves_nothing(flow: dict[str, Any], tmp_path: Path) -> None:
    cases = bad_files(flow, tmp_path)
    Path("/tmp/pimchip-hostile-ran").unlink(missing_ok=True)
    before = sorted(p.name for p in tmp_path.iterdir())
    for named, arguments in cases.items():
        code, result, stderr = call(*arguments)
        assert code == 2, (arguments, stderr)
        assert named in stderr, (arguments, stderr)
        assert len(stderr.splitlines()) == 1, stderr
        assert result["exit_code"] == 2
    assert sorted(p.name for p in tmp_path.iterdir()) == before
    assert not Path("/tmp/pimchip-hostile-ran").exists()


def test_an_unsupported_module_is_named_with_its_place_before_training(tmp_path: Path) -> None:
    (tmp_path / "net.py").write_text(
        "from torch import nn\n"
        "def build(shape, classes):\n"
        "    return nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.LogSoftmax(1), nn.Linear(16, classes))\n"
    )
    arguments = ["train", "--factory", "net:build", "--epochs", "1", "--pim-skip", "first"]
    run = subprocess.run([sys.executable, "-m", "pimchip", *arguments], cwd=tmp_path, capture_output=True, text=True)
    assert run.returncode == 2
    (line,) = run.stderr.splitlines()
    assert "2 (LogSoftmax)" in line and "between 1 (" in line and "and 3 (" in line
    assert not (tmp_path / "model.pt").exists()


def test_debug_shows_the_traceback() -> None:
    result = CliRunner().invoke(cli, ["info", "nothing.pt", "--debug"])
    assert result.exit_code == 2
    assert "Traceback" in result.stderr and "load_model" in result.stderr
    assert result.stderr.splitlines()[-1].startswith("pimchip: model file nothing.pt")


def test_a_device_without_conv_is_exit_code_3(flow: dict[str, Any]) -> None:
    code, _, stderr = call("deploy", flow["train"]["checkpoint"], "--device", f"{DEVICE}&lacks=conv")
    assert code == 3
    assert "conv" in stderr


@pytest.mark.parametrize("name", COMMANDS)
def test_every_option_is_explained(name: str) -> None:
    command = cli.get_command(cli.make_context("pimchip", [], resilient_parsing=True), name)
    assert command is not None and command.help
    for option in command.params:
        if option.param_type_name == "option":
            assert getattr(option, "help", None), option.name


def test_completion_offers_commands() -> None:
    environment = {**os.environ, "_PIMCHIP_COMPLETE": "bash_complete", "COMP_WORDS": "pimchip ch", "COMP_CWORD": "1"}
    code = "from pimchip.cli.main import main; main()"
    run = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    assert run.stdout.split() == ["plain,characterize", "plain,check-board"]


def test_interrupted_training_resumes_to_the_same_weights(tmp_path: Path) -> None:
    arguments = [sys.executable, "-m", "pimchip", "train", "--model", "mlp", "--deterministic"]
    whole = [*arguments, "--epochs", "6", "--out", "whole.pt"]
    subprocess.run(whole, cwd=tmp_path, check=True, capture_output=True)
    cut = [*arguments, "--epochs", "6", "--out", "cut.pt"]
    process = subprocess.Popen(cut, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 120
    while not (tmp_path / "cut.pt").exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    _, stderr = process.communicate(timeout=60)
    if process.returncode:  # it may have been faster than the signal
        assert process.returncode == 130
        assert len(stderr.strip().splitlines()) == 1 and "`pimchip train --resume cut.pt` goes on from there" in stderr
    assert sorted(p.name for p in tmp_path.iterdir()) == ["cut.pt", "whole.pt"]
    subprocess.run([*arguments[:4], "--resume", "cut.pt"], cwd=tmp_path, check=True, capture_output=True)
    states = [torch.load(tmp_path / name, weights_only=True)["state"] for name in ("cut.pt", "whole.pt")]
    assert all(torch.equal(states[0][key], states[1][key]) for key in states[1])
