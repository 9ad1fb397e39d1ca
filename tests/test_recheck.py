"""A short check of a profile: true dies pass, moved converters are named with their size, power is as stated."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from planted import Altered, board_of, small
from scipy.stats import binom

from pimchip.characterize import characterize
from pimchip.characterize.recheck import ALPHA, TOLERATED, recheck
from pimchip.chip import ChipSpec
from pimchip.emulator.die import Die
from pimchip.errors import InputError
from pimchip.profile import Profile

SPEC = small()


def profile_of(spec: ChipSpec, number: int, out: Path) -> Profile:
    with board_of(spec, number) as board:
        return characterize(board, points=[spec.mac()], seed=1, out=out)


def false_alarms(spec: ChipSpec, numbers: range, checks: int, out: Path) -> int:
    stale = 0
    for number in numbers:
        profile = profile_of(spec, number, out)
        for seed in range(checks):
            stale += recheck(board_of(spec, number), profile, seed=100 + seed).stale
    return stale


def test_unchanged_dies_are_stale_only_by_their_chance(tmp_path: Path) -> None:
    assert false_alarms(SPEC, range(10), 5, tmp_path) <= binom.ppf(0.999, 50, ALPHA)


@pytest.mark.study
@pytest.mark.parametrize("chip", ["sram65", "charge-native"])
def test_false_alarms_over_many_dies(chip: str, tmp_path: Path) -> None:
    assert false_alarms(small(chip), range(60), 10, tmp_path) <= binom.ppf(0.999, 600, ALPHA)


def test_a_moved_converter_is_named_with_its_size_at_the_stated_power(tmp_path: Path) -> None:
    """The size stated to be found with 99 % is below 0.75 LSB, so that is always found."""
    found = 0
    for number in range(10):
        profile = profile_of(SPEC, number, tmp_path)
        # Its own trim is written before checking, so the die itself is what is moved.
        die = Altered(Die(SPEC, number))
        die.shift = {number % 8: 0.75}
        moved = recheck(board_of(SPEC, number, die), profile, seed=5)
        assert TOLERATED < moved.finds < 0.75
        assert {s.adc for s in moved.shifted} <= {number % 8}
        found += len(moved.shifted)
        for each in moved.shifted:
            assert each.shift == pytest.approx(0.75, abs=0.3)
    assert found == 10


def test_what_cells_lost_in_common_is_told_with_an_interval(tmp_path: Path) -> None:
    spec = small(cells={"retention_loss": 0.005})
    profile = profile_of(spec, 3, tmp_path)
    found = recheck(board_of(spec, 3, age=999.0), profile, seed=5)
    assert found.stale and found.drifted
    mean_gain = float(np.nanmean(profile.points[0].gain))
    assert found.gain.value / mean_gain == pytest.approx(-0.015, abs=3 * found.gain.half_width + 0.001)


def test_a_converter_that_died_is_named(tmp_path: Path) -> None:
    profile = profile_of(SPEC, 4, tmp_path)
    found = recheck(board_of(SPEC, 4, Altered(Die(SPEC, 4), clip={6: 0})), profile)
    assert [s.adc for s in found.shifted] == [6] and np.isnan(found.shifted[0].shift)


def test_another_die_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="this board is die"):
        recheck(board_of(SPEC, 5), profile_of(SPEC, 4, tmp_path))
