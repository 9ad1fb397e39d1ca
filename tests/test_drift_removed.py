"""Drift while a die is measured, planted by a temperature that rises with the array cycles, is measured and taken out."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from planted import small
from staircases import true_thresholds

from pimchip.board.inprocess import InProcessBoard
from pimchip.characterize import characterize, fit
from pimchip.characterize.drift import Sweep, drift_of, when_of
from pimchip.chip import ChipSpec
from pimchip.emulator.die import Die
from pimchip.emulator.state import Around, Conditions
from pimchip.emulator.virtual import VirtualBoard
from pimchip.profile import Profile

SPEC = small("sram65", adc={"offset_drift_sigma": 0.1, "gain_drift_sigma": 0.0, "inl_residual": 0.1})
PER_CYCLE = 8.0 / 4500
"""Kelvin; a measurement of SPEC to 0.1 LSB takes some 4500 array cycles."""


class Warming:
    """A board that warms while its array works, and the mean temperature of its conversions."""

    def __init__(self, spec: ChipSpec, number: int, per_cycle: float) -> None:
        self.per_cycle, self.weighted, self.cycles = per_cycle, 0.0, 0
        self.virtual = VirtualBoard(spec, Die(spec, number), noise_seed=number, follows=self.around)
        outer = self

        class Watched(InProcessBoard):
            def convert(self, *args: Any, **named: Any) -> Any:
                before, at = outer.virtual.counters["array_cycles"], outer.around().temperature
                found = super().convert(*args, **named)
                worked = outer.virtual.counters["array_cycles"] - before
                outer.weighted, outer.cycles = outer.weighted + worked * at, outer.cycles + worked
                return found

        self.board = Watched(self.virtual, "")

    def around(self) -> Around:
        # Tables are made anew every quarter of a kelvin.
        kelvin = self.per_cycle * self.virtual.counters["array_cycles"]
        return Around(25.0 + round(4 * kelvin) / 4, 1.0)

    @property
    def mean(self) -> float:
        return self.weighted / self.cycles


def measured(number: int, out: Path, per_cycle: float = PER_CYCLE) -> tuple[Profile, float]:
    warming = Warming(SPEC, number, per_cycle)
    with warming.board as board:
        return characterize(board, points=[SPEC.mac()], half_width=0.1, seed=number, out=out), warming.mean


def errors(number: int, out: Path) -> dict[str, np.ndarray]:
    """Of thresholds, over their standard errors, as they are and without the correction; of the noise's logarithm."""
    profile, mean = measured(number, out)
    raw = profile.raw()[0]
    codes = (1 << np.array(SPEC.trim_widths)) >> 1
    tables = Die(SPEC, number).tables(SPEC.mac(), codes, Conditions(temperature=mean))
    truth = true_thresholds(tables)
    found = {}
    for name, r in (("with", profile.points[0]), ("without", fit(replace(raw, when=np.zeros_like(raw.when))))):
        inner = slice(10, -10)  # ends have wider intervals, for what is beyond them
        found[name] = ((r.thresholds - truth) / r.se_by_code)[:, inner]
        found[f"{name} noise"] = r.noise_lsb / (tables.sigma / 2.0**16)
    found["drift"] = raw.drift[:, 0]
    return found


def test_the_line_over_time_is_that_of_the_sweeps() -> None:
    """By hand: two levels, three sweeps at times 0, 1 and 4 of 4, codes that rise by 2 in all."""
    times, reads = np.array([0.0, 1.0, 4.0]), np.array([[4, 4], [4, 0], [8, 8]])
    sweeps = [Sweep(np.array([[10.0, 20.0]]) * n + 0.5 * t * n, n, 100 + t) for t, n in zip(times, reads, strict=True)]
    assert drift_of(sweeps)[0] == pytest.approx([2.0, 0.0], abs=1e-6)
    when = when_of(sweeps)
    mean = (8 * 0 + 4 * 0.25 + 16 * 1) / 28
    assert when[:, 0] + mean == pytest.approx([9 / 16, 8 / 12])
    assert when[0, 1] == pytest.approx((4 * 0 + 4 * 0.0625 + 8) / 16 - (9 / 16) ** 2)
    assert (when_of(sweeps[:1]) == 0).all()


def test_steady_dies_are_not_changed_by_more_than_their_errors(tmp_path: Path) -> None:
    profile, _ = measured(3, tmp_path, per_cycle=0.0)
    raw = profile.raw()[0]
    plain = fit(replace(raw, when=np.zeros_like(raw.when)))
    apart = np.abs(profile.points[0].thresholds - plain.thresholds) / plain.se_by_code
    assert np.nanmax(apart) < 0.5


def test_thresholds_are_those_of_the_mean_time(tmp_path: Path) -> None:
    found = [errors(number, tmp_path) for number in (1, 2, 3)]
    covered = np.concatenate([np.abs(each["with"]).ravel() for each in found])
    assert np.mean(covered[np.isfinite(covered)] < 1.96) > 0.9
    size = np.abs(np.concatenate([each["drift"] for each in found]))
    assert size.max() > 0.5  # there was something to take out


@pytest.mark.study
def test_coverage_over_dies(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = [errors(number, tmp_path) for number in range(300, 360)]
    lines = []
    for name in ("with", "without"):
        all_of = np.concatenate([each[name].ravel() for each in found])
        all_of = all_of[np.isfinite(all_of)]
        noise = np.concatenate([each[f"{name} noise"] for each in found])
        lines.append(
            f"{name}: covered {np.mean(np.abs(all_of) < 1.96):.4f}, mean {all_of.mean():+.3f} se, rms {np.sqrt(np.mean(all_of**2)):.3f}; "
            f"noise {np.nanmean(noise):.4f} of the truth"
        )
    size = np.abs(np.concatenate([each["drift"] for each in found]))
    with capsys.disabled():
        print("", *lines, f"drift: rms {np.sqrt(np.mean(size**2)):.3f}, largest {size.max():.3f} LSB", sep="\n")
    covered = np.concatenate([each["with"].ravel() for each in found])
    assert 0.93 <= np.mean(np.abs(covered[np.isfinite(covered)]) < 1.96) <= 0.97
