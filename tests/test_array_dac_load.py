"""Row drivers, superposition and load: against drivers bent on purpose, and dies whose cells and columns lose by place and load."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from arrays import BentDrivers, board_of, near, small, true_cells, within

from pimchip.characterize import default_points, fit, measure
from pimchip.characterize.array import measure_dac, measure_load, measure_rows, range_load
from pimchip.characterize.array.dac import random_codes
from pimchip.characterize.array.load import far_loss
from pimchip.characterize.array.rows import read_sets
from pimchip.characterize.measure import Clock
from pimchip.characterize.plan import plan
from pimchip.chip import ChipSpec
from pimchip.errors import InputError
from pimchip.profile import PointResult

BENT = 0.4 * np.sin(np.arange(16) / 15 * 2 * np.pi)
"""Error of each code of a driver, DAC steps; nothing at the ends."""


def bent(rows: int, own: float = 0.0, seed: int = 0) -> np.ndarray:
    """Drivers of a common error BENT and of one of their own."""
    rng = np.random.default_rng(seed)
    dac = np.arange(16) + BENT + own * rng.standard_normal((rows, 16))
    dac[:, 0] = 0
    return dac


class TestDrivers:
    def test_codes_errors_are_found(self) -> None:
        spec = small(rows=32, adcs=8)
        found = measure_dac(BentDrivers(spec, bent(32)), spec.mac(), seed=1)
        z = (found.error - BENT)[1:-1] / found.error_se[1:-1]
        assert np.abs(z).max() < 4 and found.error[0] == found.error[-1] == 0
        assert found.error_se.max() < 0.05
        np.testing.assert_allclose(found.step, np.diff(BENT), atol=4.5 * found.step_se.max())
        np.testing.assert_allclose(found.step, np.diff(found.error), atol=1e-9)
        assert near(found.max_error, np.abs(BENT).max()) and found.max_error.low > 0.2
        assert found.superposition_p > 1e-3 and found.worst_driver_p > 1e-3

    def test_a_driver_of_its_own_error_is_named(self) -> None:
        spec = small(rows=32, adcs=8)
        dac = bent(32)
        dac[11, 9] += 2.5
        found = measure_dac(BentDrivers(spec, dac), spec.mac(), seed=1)
        assert found.worst_driver == (0, 11, 9) and found.worst_driver_p < 1e-6
        assert found.drivers[0, 11, 9] == pytest.approx(2.5, abs=4 * found.driver_se[0, 11, 9])

    def test_rows_that_do_not_add_up_are_told(self) -> None:
        spec = small(rows=32, adcs=8)

        class Crossed(BentDrivers):
            """Neighbouring rows hinder each other."""

            def convert(self, tile, x, repeats=1, *, mac=None, run=None):  # type: ignore[no-untyped-def]
                lost = (x[:, ::2].astype(float) * x[:, 1::2]).sum(axis=1) / 300
                self._dac = np.concatenate([bent(32), np.zeros((0, 16))])
                codes = super().convert(tile, x, repeats, mac=mac, run=run)
                assert mac is not None
                moved = codes - np.rint(lost * mac.levels / mac.sum_max * 8)[None, :, None] / 1
                return np.clip(moved, mac.code_min, mac.code_max).astype(np.int32)

        found = measure_dac(Crossed(spec, bent(32)), spec.mac(), seed=1)
        assert found.superposition_p < 1e-6 and found.superposition.low > 0

    def test_emulated_drivers_are_straight_within_the_error(self) -> None:
        spec = small(rows=32, adcs=8, cells={"mismatch_sigma": 0.02, "ir_drop": 0.05}, noise={"flicker_sigma": 0.2})
        found = measure_dac(board_of(spec), spec.mac(), seed=1)
        assert np.abs(found.error[1:-1] / found.error_se[1:-1]).max() < 4
        assert found.superposition_p > 1e-3 and found.worst_driver_p > 1e-3

    @pytest.mark.parametrize("divisor", [1, 4])
    def test_random_codes_have_the_sums_wanted(self, divisor: int) -> None:
        mac = small(rows=32).mac(range_divisor=divisor)
        active = 32 // divisor
        totals = np.array([active * 7 + k for k in (0, 5, 13)] * 40)
        x = random_codes(totals, active, mac, 3, 99)
        np.testing.assert_array_equal(x.sum(axis=1, dtype=int), totals)
        assert x.max() == 15 and ((x > 0).sum(axis=1) <= active).all()
        share = np.bincount(x[x > 0].ravel(), minlength=16)[1:] / (len(x) * active)
        assert np.abs(share - 1 / 16).max() < 5 * math.sqrt(1 / 16 / (len(x) * active)) + 0.01

    def test_one_dac_bit_is_refused(self) -> None:
        spec = small(rows=32)
        for wanted in (measure_dac, measure_load):
            with pytest.raises(InputError, match="one DAC bit.*measure with more DAC bits"):
                wanted(board_of(spec), spec.mac(dac_bits=1))

    def cover(self, runs: int) -> np.ndarray:
        spec = small(rows=32, adcs=4)
        found = [measure_dac(BentDrivers(spec, bent(32), seed=k), spec.mac(), seed=k) for k in range(runs)]
        assert abs(
            np.mean([f.error - BENT for f in found], axis=0)[1:-1] / found[0].error_se[1:-1]
        ).max() < 4 / math.sqrt(runs)
        return np.array([(f.low <= BENT) & (f.high >= BENT) for f in found])[:, 1:-1]

    def test_intervals_hold_the_truth(self) -> None:
        held = self.cover(20)
        within("codes", int(held.sum()), held.size, risk=1e-5)

    @pytest.mark.study
    def test_intervals_hold_the_truth_over_three_hundred_runs(self) -> None:
        assert 0.93 <= self.cover(300).mean() <= 0.97


class TestLoad:
    def test_the_far_row_s_loss_is_found(self) -> None:
        spec = small(rows=64, cells={"ir_drop": 0.03, "mismatch_sigma": 0.01})
        rows = measure_rows(read_sets(board_of(spec, 2), spec.mac()))
        found = measure_load(board_of(spec, 2), spec.mac(), rows=rows, sets=64)
        assert near(found.far, 0.03) and found.far.low > 0.02
        assert abs(found.few_many.value) < 4 * found.few_many.se
        assert found.few < 40 and found.many == 64

    def test_few_large_and_many_small_contributions_that_differ_are_told(self) -> None:
        """Drivers that add a tenth of a step as soon as they are on: 64 rows have 32 of those more than 32 rows."""
        spec = small(rows=64, adcs=8)
        dac = np.broadcast_to(np.arange(16) + 0.1 * (np.arange(16) > 0), (64, 16))
        found = measure_load(BentDrivers(spec, dac), spec.mac(), sets=64)
        assert near(found.few_many, -31.5 * 0.1 * 127 / 960) and found.few_many.high < -0.3

    def test_no_effect_is_nothing_within_the_error(self) -> None:
        spec = small(rows=64)
        board = board_of(spec, 2)
        found = measure_load(board, spec.mac(), rows=measure_rows(read_sets(board, spec.mac())), sets=64)
        assert abs(found.few_many.value) < 4 * found.few_many.se and found.few_many.se < 0.02
        assert abs(found.far.value) < 4 * found.far.se and found.far.se < 0.002

    def cover(self, dies: int) -> tuple[int, float]:
        spec = small(rows=32, adcs=8, cells={"ir_drop": 0.05, "mismatch_sigma": 0.02})
        held, errors = 0, []
        for die in range(dies):
            rows = measure_rows(read_sets(board_of(spec, die, die), spec.mac(), sets=24, repeats=4, seed=die))
            far = far_loss(rows)
            held += far.holds(0.05)
            by_row = true_cells(spec, die).mean(axis=1)  # cells of this die, whose scatter bends its own line a little
            slope = np.polyfit(np.arange(32) / 31 - 0.5, by_row / by_row.mean(), 1)[0]
            errors.append((far.value + slope / (1 - slope / 2)) / far.se)
        return held, float(np.mean(errors))

    def test_intervals_of_the_far_loss_hold_the_truth(self) -> None:
        held, mean = self.cover(30)
        within("far", held, 30)
        assert abs(mean) < 4 / math.sqrt(30)

    @pytest.mark.study
    def test_intervals_of_the_far_loss_hold_the_truth_over_four_hundred_dies(self) -> None:
        held, mean = self.cover(400)
        assert 0.92 <= held / 400 <= 0.975 and abs(mean) < 3 / math.sqrt(400)

    def test_cells_are_what_the_weights_were_of(self, tmp_path: Path) -> None:
        spec = small(rows=64, cells={"ir_drop": 0.03})
        assert true_cells(spec, 1)[-1].mean() == pytest.approx(0.97, abs=1e-3)


def staircases(spec: ChipSpec, die: int, divisors: list[int], seed: int = 1) -> list[PointResult]:
    board = board_of(spec, die, seed)
    columns, clock = spec.columns_per_adc, Clock(seed)  # one clock: no two points draw the same noise
    return [
        fit(measure(board, plan(spec, mac, columns, 0.35 * max(0.95 * d, 1), 0.3, 0.1, None), seed=seed, clock=clock))
        for mac, d in zip(default_points(spec, range_divisors=divisors), divisors, strict=True)
    ]


class TestLossByCurrent:
    def test_two_ranges_tell_it_from_the_curve(self) -> None:
        spec = small(rows=144, adcs=32, columns=8, cells={"ir_drop_load": 0.02})
        found = range_load(staircases(spec, 1, [1, 2]))
        assert found.divisors == (1, 2)
        assert near(found.loss, 0.02) and found.loss.low > 0.01

    def test_a_curve_alone_is_none(self) -> None:
        found = range_load(staircases(small(rows=144, adcs=32, columns=8), 1, [1, 2]))
        assert abs(found.loss.value) < 4 * found.loss.se and found.loss.se < 0.002

    def test_one_range_is_refused(self) -> None:
        with pytest.raises(InputError, match="at one range.*1/2.*measure a second one"):
            range_load(staircases(small(rows=144, adcs=4), 1, [2]))
