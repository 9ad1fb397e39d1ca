"""What keeping away from faults is worth: accuracies on sound and broken dies, of docs/compiler.md."""

from __future__ import annotations

from pathlib import Path

import broken
import numpy as np
import pytest
from click.testing import CliRunner

import pimchip
from pimchip.characterize import characterize
from pimchip.characterize.health import examine, measurable
from pimchip.chip import ChipSpec, load_chip
from pimchip.cli.main import cli
from pimchip.compiler import compile_network
from pimchip.compiler.faults import Faults, faults_of
from pimchip.profile import Profile
from pimchip.qat import load_model
from pimchip.qat.data import load_dataset

DIES = 5


def measured(spec: ChipSpec, die: int, real: Faults, out: Path) -> Profile:
    """The profile of a broken die, as `characterize --health` makes it: converters with stuck cells have no curve."""
    with broken.board(spec, die, real) as board:
        health = examine(board)
        return characterize(board, points=[spec.mac(adc_bits=6)], adcs=measurable(spec, health), health=health, out=out)


def test_a_dead_bitline_is_found_as_one(tmp_path: Path) -> None:
    spec = broken.breakable(load_chip("sram65"))
    real = broken.draw(spec, 7, columns=0.01, adcs=1, cells=1e-4)
    found = faults_of(measured(spec, 7, real, tmp_path))
    assert {macro: found.bad_columns(spec, macro) for macro in range(8)} == {
        macro: real.bad_columns(spec, macro) for macro in range(8)
    }
    assert found.adcs == real.adcs and not any(found.rows.values())
    for macro, cells in real.cells.items():
        dead = real.columns[macro]
        assert {at: v for at, v in found.cells[macro].items() if at[1] not in dead} == {
            at: v for at, v in cells.items() if at[1] not in dead
        }


@pytest.mark.study
@pytest.mark.parametrize("model", ["tiny", "resnet8"])
def test_a_placement_that_keeps_away_from_faults_is_as_good_as_a_sound_die(
    model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """1 % of the columns dead, one dead converter a macro, a thousandth of the cells stuck: as the die's own profile says."""
    path = tmp_path / "model.pt"
    options = ["--data", "digits", "--model", model, "--adc-bits", "6", "--noise", "0.2", "--epochs", "12"]
    assert CliRunner().invoke(cli, ["train", *options, "--out", str(path)]).exit_code == 0
    data, network = load_dataset("digits"), load_model(path).build()
    spec = broken.breakable(load_chip("sram65"))
    plain = compile_network(network, spec, data.image_shape, data.classes)
    found, wrong = np.zeros((DIES, 3, 2)), np.zeros((DIES, 3), int)  # sound, kept away from, not; before and after BN
    for die in range(DIES):
        real = broken.draw(spec, die, columns=0.01, adcs=1, cells=1e-3)
        known = faults_of(measured(spec, die, real, tmp_path / str(die)))
        aware = compile_network(network, spec, data.image_shape, data.classes, faults=known)
        for case, (program, faults) in enumerate(((plain, Faults()), (aware, real), (plain, real))):
            with broken.board(spec, die, faults) as board:
                deployed = pimchip.deploy(program, board, data, tolerate_cells=program.cells_used)
            assert deployed.before is not None and deployed.after is not None
            found[die, case] = deployed.before.value, deployed.after.value
            wrong[die, case] = deployed.programmed.wrong_cells
    sound, kept, ignored = found.mean(axis=0)
    with capsys.disabled():
        print(
            f"\n{model}: {aware.tiles} tiles in {aware.manifest.passes} passes for {plain.tiles} in {plain.manifest.passes}"
        )
        for name, row, cells in zip(
            ("sound", "kept away from", "ignored"), (sound, kept, ignored), wrong.T, strict=True
        ):
            print(f"{name:16} before BN {100 * row[0]:.1f} %, after {100 * row[1]:.1f} %, wrong cells {cells.tolist()}")
    assert kept[1] >= sound[1] - 0.005
    assert kept[0] >= ignored[0] + 0.1 and kept[1] > ignored[1]
