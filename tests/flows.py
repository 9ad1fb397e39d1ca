"""A trained network, its chip and die, and the flow of commands that takes it to a board."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from click.testing import CliRunner

from pimchip.board import open_board
from pimchip.chip import load_chip
from pimchip.cli.main import cli
from pimchip.profile.manifest import to_toml
from pimchip.runtime import Deployed

DIE = "die=3&seed=5"


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


def small_case(folder: Path) -> Case:
    """A network on a chip that a Cortex-M with two megabytes can play."""
    plain = load_chip("sram65").to_dict() | {"name": "bench"}
    plain["array"] |= {"macros": 2, "rows": 128}
    plain["adc"]["range_divisors"] = [1]
    plain["board"]["feature_memory"] = 1 << 17
    plain["operating"] |= {"rows": 128, "weight_bits": 2}
    (folder / "bench.toml").write_text(to_toml(plain), encoding="utf-8")
    return Case(folder, str(folder / "bench.toml"), "mlp", "0", 100)
