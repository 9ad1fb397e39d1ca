"""What keeping away from faults is worth: accuracies on sound and broken dies, of docs/compiler.md."""

from __future__ import annotations

from pathlib import Path

import broken
import numpy as np
import pytest
from click.testing import CliRunner

import pimchip
from pimchip.chip import load_chip
from pimchip.cli.main import cli
from pimchip.compiler import compile_network
from pimchip.compiler.faults import Faults
from pimchip.qat import load_model
from pimchip.qat.data import load_dataset

DIES = 5


@pytest.mark.study
def test_a_placement_that_keeps_away_from_faults_is_as_good_as_a_sound_die(tmp_path: Path) -> None:
    """1 % of the columns dead, one dead converter a macro, a thousandth of the cells stuck."""
    model = tmp_path / "model.pt"
    options = ["--data", "digits", "--model", "resnet8", "--adc-bits", "6", "--noise", "0.2", "--epochs", "12"]
    assert CliRunner().invoke(cli, ["train", *options, "--out", str(model)]).exit_code == 0
    data, network = load_dataset("digits"), load_model(model).build()
    spec = broken.breakable(load_chip("sram65"))
    plain = compile_network(network, spec, data.image_shape, data.classes)
    found = np.zeros((DIES, 3, 2))  # sound, kept away from, not; before and after BN calibration
    for die in range(DIES):
        faults = broken.draw(spec, die, columns=0.01, adcs=1, cells=1e-3)
        aware = compile_network(network, spec, data.image_shape, data.classes, faults=faults)
        for case, (program, real) in enumerate(((plain, Faults()), (aware, faults), (plain, faults))):
            with broken.board(spec, die, real) as board:
                deployed = pimchip.deploy(program, board, data, tolerate_cells=program.cells_used)
            assert deployed.before is not None and deployed.after is not None
            found[die, case] = deployed.before.value, deployed.after.value
    sound, kept, ignored = found.mean(axis=0)
    assert kept[1] >= sound[1] - 0.005
    assert kept[0] >= ignored[0] + 0.1 and kept[1] > ignored[1]
