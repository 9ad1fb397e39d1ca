"""One die, one flow, many ways to reach it: characterize, deploy and infer give the same integers on all of them."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import firmware
import numpy as np
import pytest
from click.testing import CliRunner
from serving import cortex_m, emulated, twin

from pimchip.board import open_board
from pimchip.chip import load_chip
from pimchip.cli.main import cli
from pimchip.profile.manifest import to_toml
from pimchip.runtime import Deployed

DIE = "die=3&seed=5"
WITHOUT = firmware.missing("gcc", "make")
NO_QEMU = WITHOUT or firmware.missing("arm-none-eabi-gcc", "qemu-system-arm")
needs_gcc = pytest.mark.skipif(bool(WITHOUT), reason=WITHOUT)
needs_qemu = pytest.mark.skipif(bool(NO_QEMU), reason=NO_QEMU)
Reach = Callable[[str, Path], AbstractContextManager[str]]
"""From a chip's name or file, and its die as a file, to a device URL."""


def call(*arguments: str) -> dict[str, Any]:
    """The JSON of a command that must succeed."""
    result = CliRunner().invoke(cli, [*arguments, "--json"])
    assert result.exit_code == 0, result.stderr
    found: dict[str, Any] = json.loads(result.stdout)
    return found


class Case:
    """A trained network with its chip, and how much of the flow is run with it."""

    def __init__(self, folder: Path, chip: str, model: str, adcs: str, images: int) -> None:
        self.folder, self.chip, self.adcs, self.images = folder, chip, adcs, images
        self.model, self.program, self.die = (folder / f"{model}{end}" for end in (".pt", ".pim", ".die"))
        call("train", "--model", model, "--chip", chip, "--epochs", "1", "--out", str(self.model))
        call("compile", str(self.model), "--out", str(self.program))
        device = f"emulator:{chip}?{DIE}"
        small = ["--small"] if model == "mlp" else []
        call("emulate", "--device", device, "--export-die", str(self.die), "--for", str(self.program), *small)
        with open_board(device) as board:
            self.uid = board.info().uid
        self.wanted: dict[int, dict[str, Any]] = {}

    def flow(self, url: str, name: str, images: int) -> dict[str, Any]:
        """What the three commands give, as far as it must not depend on how the board is reached."""
        place = self.folder / name
        measured = call(
            "characterize", "--device", url, "--adcs", self.adcs, "--reads", "32", "--range-divisor", "1", "--out", str(place)
        )  # fmt: skip
        with np.load(Path(measured["profile"]) / "counts.npz") as held:
            counts = {key: held[key].tolist() for key in held.files}
        deployed = place / "x.deployed"
        given = ["--profile", measured["profile"], "--bn-batches", "2", "--bn-batch-size", str(images)]
        said = call(
            "deploy", str(self.program), "--device", url, *given, "--limit", str(images), "--out", str(deployed)
        )
        assert said["verify_errors"] == 0
        tensors = Deployed.load(deployed).program.tensors
        inferred = call("infer", str(deployed), "--device", url, "--data", "digits", "--limit", str(images))
        return {
            "uid": measured["chip_uid"],
            "counts": counts,
            "accuracies": [said["accuracy_before_bn"], said["accuracy_after_bn"]],
            "norms": {key: tensor.tolist() for key, tensor in tensors.items() if key.startswith("norm.")},
            "predictions": inferred["predictions"],
        }

    def reference(self, images: int) -> dict[str, Any]:
        """In this process, without a link."""
        if images not in self.wanted:
            self.wanted[images] = self.flow(f"emulator:{self.chip}?{DIE}", f"here-{images}", images)
        return self.wanted[images]


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Case:
    return Case(tmp_path_factory.mktemp("tiny"), "sram65", "tiny", "0,5,40", 40)


@pytest.fixture(scope="module")
def mlp(tmp_path_factory: pytest.TempPathFactory) -> Case:
    """On a chip that a Cortex-M with a megabyte can play."""
    folder = tmp_path_factory.mktemp("mlp")
    plain = load_chip("sram65").to_dict() | {"name": "bench"}
    plain["array"] |= {"macros": 2, "rows": 128}
    plain["adc"]["range_divisors"] = [1]
    plain["board"]["feature_memory"] = 1 << 17
    plain["operating"] |= {"rows": 128, "weight_bits": 2}
    (folder / "bench.toml").write_text(to_toml(plain), encoding="utf-8")
    return Case(folder, str(folder / "bench.toml"), "mlp", "0", 100)


def linked(chip: str, die: Path) -> AbstractContextManager[str]:
    return nullcontext(f"emulator+link:{chip}?{DIE}")


def served(listen: str) -> Reach:
    return lambda chip, die: emulated("--listen", listen, "--device", f"emulator:{chip}?{DIE}")


@pytest.fixture
def reach(request: pytest.FixtureRequest) -> Reach:
    """By name: a way to the board."""
    name: str = request.param
    if name == "frames":
        return linked
    where = "pty" if name.endswith("pty") else "tcp://127.0.0.1:0"
    if name.startswith("python"):
        return served(where)
    program = request.getfixturevalue("sanitized" if "sanitized" in name else "host_twin")
    return lambda chip, die: twin(program, die, where)


WAYS = [
    "frames", "python on tcp", "python on pty",
    pytest.param("firmware on tcp", marks=needs_gcc), pytest.param("firmware on pty", marks=needs_gcc),
]  # fmt: skip


@pytest.mark.parametrize("reach", WAYS, indirect=True)
def test_a_residual_network(tiny: Case, reach: Reach, request: pytest.FixtureRequest) -> None:
    with reach(tiny.chip, tiny.die) as url:
        assert tiny.flow(url, request.node.name, tiny.images) == tiny.reference(tiny.images)


@pytest.mark.parametrize(
    "reach", ["frames", "python on tcp", pytest.param("sanitized firmware on tcp", marks=needs_gcc)], indirect=True
)
def test_a_small_network_on_a_small_chip(mlp: Case, reach: Reach, request: pytest.FixtureRequest) -> None:
    with reach(mlp.chip, mlp.die) as url:
        assert mlp.flow(url, request.node.name, mlp.images) == mlp.reference(mlp.images)


@needs_qemu
def test_a_small_network_on_a_cortex_m(mlp: Case, tmp_path_factory: pytest.TempPathFactory) -> None:
    image = firmware.made(tmp_path_factory, "mps2", "pimp-mps2.elf", f"DIE={mlp.die}")
    with cortex_m(image) as url:
        assert mlp.flow(url, "cortex-m", 2) == mlp.reference(2)


def test_another_seed_is_another_noise(tiny: Case) -> None:
    """Or the tests above would compare silence."""
    again = tiny.flow("emulator:sram65?die=3&seed=6", "other", tiny.images)
    wanted = tiny.reference(tiny.images)
    assert again["uid"] == wanted["uid"] and again["counts"] != wanted["counts"]
    assert np.any([again["norms"][key] != wanted["norms"][key] for key in wanted["norms"]])
