"""A twin's noise over the codes is the die's, where it was measured."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from planted import small

from pimchip.board import open_board, open_twin
from pimchip.board.inprocess import InProcessBoard
from pimchip.characterize import characterize
from pimchip.chip import Tile
from pimchip.chip.adc import LSB_BITS
from pimchip.emulator.die import Die
from pimchip.emulator.state import Conditions
from pimchip.profile import Profile
from pimchip.profile.manifest import to_toml


def measured(slope: float, tmp_path: Path) -> Profile:
    chip = tmp_path / "chip.toml"
    chip.write_text(to_toml(small(noise={"code_slope": slope}).to_dict()), encoding="utf-8")
    with open_board(f"emulator:{chip}?die=3") as board:
        points = [board.info().spec.mac()]
        return characterize(board, points=points, half_width=0.05, seed=0, out=tmp_path, array=["noise"])


def test_noise_that_doubles_over_the_codes_does_so_in_the_twin(tmp_path: Path) -> None:
    profile = measured(1.0, tmp_path)
    mac = profile.points[0].mac
    with open_twin(profile) as twin:
        assert isinstance(twin, InProcessBoard)
        held = twin._board._tables_at(mac).sigma / 2.0**LSB_BITS
        codes = twin.convert(Tile(0, 0, 0, 32, 32), np.zeros((1, 32), int), 4, mac=mac)
        assert codes.shape == (4, 1, 32)
    truth = Die(profile.spec, 3).tables(mac, np.full(8, 16), Conditions())
    true = truth.sigma / 2.0**LSB_BITS
    # Within the codes; the die's noise goes with the sum and the twin's with the code, which gain and offset tell apart.
    within = slice(held.shape[1] // 10, -held.shape[1] // 10)
    ratio = held[:, within] / true[:, within]
    assert ratio.mean() == pytest.approx(1, abs=0.03) and ratio.min() > 0.85 and ratio.max() < 1.15
    assert held[:, -1].mean() / held[:, 0].mean() == pytest.approx(2, abs=0.2)


def test_noise_that_does_not_depend_on_the_code_stays_one_figure(tmp_path: Path) -> None:
    profile = measured(0.0, tmp_path)
    assert profile.array is not None and "noise" in profile.array.values
    assert profile.noise_shape(profile.points[0].mac) is None
