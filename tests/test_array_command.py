"""`pimchip characterize --measure`: what is shown, what the profile keeps, what is refused; and the documentation's output."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from arrays import small
from click.testing import CliRunner, Result
from test_readme import shows

from pimchip.cli.main import cli
from pimchip.errors import InputError
from pimchip.profile import Profile
from pimchip.profile.array import ArraySection
from pimchip.profile.manifest import to_toml

DOCUMENT = Path(__file__).resolve().parent.parent / "docs" / "characterization.md"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("array")
    spec = small(rows=48, adcs=16, columns=4, cells={"mismatch_sigma": 0.02})
    (made / "small.toml").write_text(to_toml(spec.to_dict()), encoding="utf-8")
    return made


def run(folder: Path, *arguments: str) -> Result:
    device = f"emulator:{folder / 'small.toml'}?die=2"
    return CliRunner().invoke(cli, ["characterize", "--device", device, "--out", str(folder / "out"), *arguments])


def test_results_are_shown_kept_and_read_again(folder: Path) -> None:
    result = run(folder, "--measure", "all", "--range-divisor", "1", "--range-divisor", "2", "--json")
    assert result.exit_code == 0, result.stderr
    found = json.loads(result.stdout)
    values = found["array"]
    assert set(values) == {
        "mac", "rows", "components", "dac", "load", "range_load", "noise", "flicker", "origins", "memory", "refused"
    }  # fmt: skip
    assert values["refused"] == {}
    cells = values["rows"]["cell_sigma"]
    assert cells["low"] < 0.02 < cells["high"] and cells["se"] > 0
    assert "scatter of cells" in result.stderr and "noise of the array" in result.stderr
    held = Profile.load(found["profile"]).array
    assert held is not None and json.loads(json.dumps(held.values)) == values
    assert held.arrays["rows.weights"].shape == (1, 48) and held.arrays["dac.drivers"].shape == (1, 48, 16)
    assert held.arrays["origins.noise.array"].shape == (16,) and np.isfinite(held.arrays["noise.sigma"]).any()
    again = run(folder, "--measure", "rows", "--range-divisor", "1", "--json")
    assert json.loads(again.stdout)["array"]["rows"] == values["rows"], (
        "a seed fixes a measurement, whatever else is made"
    )


def test_fitting_again_keeps_it(folder: Path) -> None:
    first = json.loads(run(folder, "--measure", "rows", "--range-divisor", "1", "--json").stdout)
    out = CliRunner().invoke(
        cli, ["characterize", "--from", first["profile"], "--out", str(folder / "again"), "--json"]
    )
    assert json.loads(out.stdout)["array"] == first["array"]


def test_what_cannot_be_told_is_refused_with_what_would(folder: Path) -> None:
    asked = run(folder, "--measure", "origins", "--range-divisor", "1")
    assert asked.exit_code == 2 and "measure a second range too (--range-divisor 2)" in asked.stderr
    told = run(folder, "--measure", "all", "--range-divisor", "1", "--json")
    assert told.exit_code == 0
    assert set(json.loads(told.stdout)["array"]["refused"]) == {"origins", "load"}
    assert "not told, origins" in told.stderr
    wrong = run(folder, "--measure", "rows,flickr")
    assert wrong.exit_code == 2 and "did you mean 'flicker'" in wrong.stderr


@pytest.mark.parametrize(
    "shapes", [{"a": [1 << 27]}, {"a": [-1]}, {"a": "3"}, {"../a": [1]}, {"a": [1, 1, 1, 1, 1]}, {"a": [True]}]
)
def test_a_section_of_wrong_shapes_is_refused(shapes: dict[str, object]) -> None:
    with pytest.raises(InputError, match="array: .* is none that a profile holds"):
        ArraySection.layout({"shapes": shapes})


def test_the_document_s_commands_give_what_it_shows(tmp_path: Path) -> None:
    text = DOCUMENT.read_text(encoding="utf-8")
    block = text[text.index("## The array and noise") :].split("```console\n")[1].split("```")[0]
    parts = [part.partition("\n") for part in re.split(r"^\$ ", block, flags=re.M)[1:]]
    environment = os.environ | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    for command, _, shown in parts:
        done = subprocess.run(["bash", "-c", command], cwd=tmp_path, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        assert shows(shown, done.stdout), f"{command} shows\n{done.stdout}\nand not\n{shown}"
