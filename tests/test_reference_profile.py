"""The profile in calibration_data/ is what measuring that emulated die gives, today and on this machine."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from pimchip import open_board
from pimchip.characterize import characterize, default_points, fit
from pimchip.profile import Profile

FOLDER = Path(__file__).resolve().parent.parent / "calibration_data"


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
        np.testing.assert_allclose(was.thresholds, now.thresholds, rtol=0, atol=1e-9)


def test_its_raw_counts_give_its_results() -> None:
    held = reference()
    for counts, point in zip(held.raw(), held.points, strict=True):
        np.testing.assert_allclose(fit(counts).thresholds, point.thresholds, rtol=0, atol=1e-9)
        np.testing.assert_allclose(fit(counts).noise_lsb, point.noise_lsb, rtol=1e-9)
