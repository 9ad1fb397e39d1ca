"""Networks that Brevitas trained, from the command line: a plain state dict and what makes its network."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner, Result
from torch.nn.functional import cross_entropy

from pimchip.cli.main import cli
from pimchip.compiler import Program
from pimchip.qat.data import load_dataset

MODULE = """
import torch
from torch import nn
import brevitas.nn as qnn

def make(shape, classes, weight_bits=4, last=qnn.QuantReLU):
    network = nn.Sequential(
        qnn.QuantConv2d(shape[0], 8, 3, bias=False, weight_bit_width=8), nn.BatchNorm2d(8), qnn.QuantReLU(bit_width=4),
        qnn.QuantConv2d(8, 16, 3, bias=False, weight_bit_width=weight_bits), nn.BatchNorm2d(16), last(bit_width=4),
        nn.MaxPool2d(2), nn.Flatten(), qnn.QuantLinear(64, classes, bias=True, weight_bit_width=8),
    )
    network.import_options = {"range_divisor": 4}
    return network

def wide(shape, classes):
    return make(shape, classes, weight_bits=6)

def tanh(shape, classes):
    return make(shape, classes, last=qnn.QuantTanh)

def plain(shape, classes):
    return nn.Sequential(nn.Flatten(), nn.Linear(64, classes))
"""
pytestmark = pytest.mark.filterwarnings("ignore:Defining your:DeprecationWarning", "ignore::UserWarning")
LACKING = "import brevitas.nn as qnn\n\ndef make(shape, classes):\n    return qnn\n"


def run(*arguments: str) -> Result:
    return CliRunner().invoke(cli, list(arguments))


def refused(*arguments: str) -> str:
    """The one line of a command that must fail."""
    found = run(*arguments)
    assert found.exit_code == 2 and found.stderr.count("\n") == 1, found.stderr
    return found.stderr


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A folder on the path with a factory in it, and weights trained for an epoch on digits; the network."""
    pytest.importorskip("brevitas.nn", reason="Brevitas is not installed: pip install pimchip[brevitas]")
    folder = tmp_path_factory.mktemp("brevitas")
    (folder / "brevitas_nets.py").write_text(MODULE)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(folder))
        import brevitas_nets  # type: ignore[import-not-found]

        torch.manual_seed(0)
        network, data = brevitas_nets.make((1, 8, 8), 10), load_dataset("digits")
        images, labels = torch.from_numpy(data.train.images) / 255, torch.from_numpy(data.train.labels).long()
        optimizer = torch.optim.Adam(network.parameters(), 0.01)
        for _ in range(2):
            for part in torch.randperm(len(images)).split(64):
                optimizer.zero_grad()
                cross_entropy(network(images[part]), labels[part]).backward()
                optimizer.step()
        for module in ("make", "wide", "tanh"):  # weights of each
            made = network if module == "make" else getattr(brevitas_nets, module)((1, 8, 8), 10)
            made(images[:64])
            torch.save(made.state_dict(), folder / f"{module}.pt")
        yield folder, network.eval()
        sys.modules.pop("brevitas_nets")


class TestWithBrevitas:
    def options(self, factory: str = "make") -> list[str]:
        return ["--factory", f"brevitas_nets:{factory}", "--data", "digits"]

    def test_compile_gives_a_program_that_deploys_and_infers(self, place: Any) -> None:
        folder, network = place
        weights, program, deployed = (str(folder / name) for name in ("make.pt", "make.pim", "make.deployed"))
        made = run("compile", weights, *self.options(), "--check", "--explain", "--json")
        assert made.exit_code == 0, made.stderr
        said = json.loads(made.stdout)
        assert said["program"] == program and "half" not in said["checks"]["lower"] and said["worst_layer"] == "3"
        held = Program.load(Path(program)).manifest
        assert (held.name, held.data, held.input_shape) == ("make", "digits", (1, 8, 8))
        layer = held.layers["3"]
        assert (layer.kind, layer.operating_point().range_divisor) == ("pim", 4)
        integers = network[3].quant_weight().int().reshape(16, -1).T.numpy()
        assert np.array_equal(Program.load(Path(program)).tensors["weight.3"], integers)
        few = ["--device", "emulator:sram65?die=3", "--limit", "100", "--bn-batches", "4", "--bn-batch-size", "50"]
        done = run("deploy", weights, *self.options(), *few, "--json")
        assert done.exit_code == 0, done.stderr
        after = json.loads(done.stdout)
        images = torch.from_numpy(load_dataset("digits", limit_test=100).test.images) / 255
        with torch.no_grad():
            theirs = network(images).argmax(1).numpy()
        right = (theirs == load_dataset("digits", limit_test=100).test.labels).mean()
        assert after["accuracy_after_bn"] > right - 0.1 and right > 0.8
        inferred = run("infer", deployed, "--device", "emulator:sram65?die=3", "--limit", "100", "--json")
        assert inferred.exit_code == 0, inferred.stderr
        assert (np.array(json.loads(inferred.stdout)["predictions"]) == theirs).mean() > 0.85
        assert run("info", deployed).exit_code == run("info", program).exit_code == 0

    def test_what_does_not_fit_is_one_line(self, place: Any) -> None:
        folder, _ = place
        weights, wide, tanh = (str(folder / f"{name}.pt") for name in ("make", "wide", "tanh"))
        assert "take one of a Brevitas network with --factory and --data" in refused("compile", weights)
        assert "name a data set with --data" in refused("compile", weights, "--factory", "brevitas_nets:make")
        assert "module 5 (QuantTanh): is not supported" in refused("compile", tanh, *self.options("tanh"))
        assert "module 3 (QuantConv2d): has weights of 6 bits" in refused(
            "compile", wide, *self.options("wide"), "--chip", "charge-native"
        )
        assert "pimchip train --init" in refused("compile", weights, *self.options("plain"))
        state = torch.load(weights, weights_only=True)
        torch.save({name: held for name, held in state.items() if name != "8.bias"}, folder / "less.pt")
        assert "8.bias is only in the network" in refused("compile", str(folder / "less.pt"), *self.options())
        torch.save({**state, "9.bias": state["8.bias"]}, folder / "more.pt")
        assert "9.bias is only in the file" in refused("compile", str(folder / "more.pt"), *self.options())
        torch.save({**state, "3.weight": torch.zeros(3, 3)}, folder / "other.pt")
        assert "3.weight is [3, 3] in the file" in refused("compile", str(folder / "other.pt"), *self.options())
        torch.save({**state, "3.weight": state["3.weight"] * float("nan")}, folder / "nan.pt")
        assert "3.weight holds NaN" in refused("deploy", str(folder / "nan.pt"), *self.options())


def test_the_example_of_the_page_runs(tmp_path: Path) -> None:
    pytest.importorskip("brevitas.nn", reason="Brevitas is not installed: pip install pimchip[brevitas]")
    page = (Path(__file__).resolve().parent.parent / "docs" / "networks.md").read_text(encoding="utf-8")
    section = page.partition("## Trained with Brevitas")[2].partition("\n## ")[0]
    blocks = [
        "\n".join(line[4:] for line in block.splitlines())
        for block in re.findall(r"((?:^(?: {4}.*)?\n)+)", section, re.M)
    ]
    code, commands = (block.strip("\n") for block in blocks if block.strip())
    (tmp_path / "nets.py").write_text(code + "\n")
    for command in commands.splitlines():
        words = command.removeprefix("$ ").replace("pimchip", "python -m pimchip", 1).split()
        done = subprocess.run([sys.executable, *words[1:]], cwd=tmp_path, capture_output=True, text=True)
        assert done.returncode == 0, f"{command}\n{done.stderr}"
    assert (tmp_path / "weights.deployed").is_file()


def test_without_brevitas_its_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "lacking_nets.py").write_text(LACKING)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setitem(sys.modules, "brevitas", None)
    monkeypatch.setitem(sys.modules, "brevitas.nn", None)
    told = refused("compile", "weights.pt", "--factory", "lacking_nets:make")
    assert "Brevitas is not installed: pip install 'pimchip[brevitas]'" in told
