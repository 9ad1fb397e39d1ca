"""The profile in calibration_data/ is what measuring that emulated die gives, today and on this machine."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from pimchip import open_board
from pimchip.characterize import characterize, default_points, fit
from pimchip.chip import ChipSpec
from pimchip.profile import FaultKind, PointResult, Profile
from pimchip.profile.manifest import to_toml

FOLDER = Path(__file__).resolve().parent.parent / "calibration_data"
OTHERS = (
    "emu-cap-ram-970217e3-0000",
    "emu-charge-native-718dfbc5-0000",
    "emu-rram130-differential-9b0af581-0000",
    "emu-worn-0ef85c31-0001",
)


def reference() -> Profile:
    return Profile.load(FOLDER / "emu-sram65-97d42ebe-0000" / "2026-11-23-0ed811b1")


def test_measuring_the_die_again_gives_the_same_counts(tmp_path: Path) -> None:
    """Counts are integers, equal on any processor; fitted values may differ in their last bits between processors."""
    held = reference()
    with open_board("emulator:sram65?die=0") as board:
        points = default_points(board.info().spec, range_divisors=[1])
        again = characterize(board, points=points, even=True, out=tmp_path)
    for old, new in zip(held.raw(), again.raw(), strict=True):
        np.testing.assert_array_equal(old.levels, new.levels)
        np.testing.assert_array_equal(old.base, new.base)
        np.testing.assert_array_equal(old.histogram, new.histogram)
    for was, now in zip(held.points, again.points, strict=True):
        agrees(was, now)


def agrees(was: PointResult, now: PointResult) -> None:
    """The profile of schema version 1 was fitted when bends were taken out with a narrower window, and the ends as all
    else: away from the ends its thresholds are today's to a small part of their error."""
    np.testing.assert_allclose(was.noise_lsb, now.noise_lsb, rtol=1e-9)
    np.testing.assert_array_equal(was.reachable, now.reachable)
    apart = np.abs(was.thresholds - now.thresholds) / was.threshold_se[:, None]
    assert np.nanmax(apart[:, 20:-20]) < 0.5 and np.sqrt(np.nanmean(apart[:, 20:-20] ** 2)) < 0.05


def test_its_raw_counts_give_its_results() -> None:
    held = reference()
    for counts, point in zip(held.raw(), held.points, strict=True):
        agrees(point, fit(counts))


@pytest.mark.parametrize("die", OTHERS)
def test_profiles_of_the_other_chips_load_and_fit_again(die: str) -> None:
    held = Profile.load(FOLDER / die)
    assert held.uid == die
    for counts, point in zip(held.raw(), held.points, strict=True):
        again = fit(counts)
        assert again.flags == point.flags and np.isfinite(point.gain).sum() >= 4
        np.testing.assert_allclose(again.thresholds, point.thresholds, rtol=0, atol=1e-9)


def test_the_worn_die_has_the_faults_that_looking_again_finds(tmp_path: Path) -> None:
    from pimchip.characterize.health import examine

    held = Profile.load(FOLDER / "emu-worn-0ef85c31-0001")
    chip = tmp_path / "worn.toml"
    chip.write_text(to_toml(ChipSpec.to_dict(held.spec)), encoding="utf-8")
    with open_board(f"emulator:{chip}?die=1") as board:
        found = examine(board)
    assert held.health is not None and len(held.health.of(FaultKind.STUCK_CELL)) == 7
    assert [(f.kind, f.place, f.detail) for f in found.faults] == [
        (f.kind, f.place, f.detail) for f in held.health.faults
    ]


def test_they_are_small() -> None:
    added = [path.stat().st_size for path in FOLDER.rglob("*.*") if "emu-sram65" not in str(path) and path.is_file()]
    assert sum(added) < 1 << 20
