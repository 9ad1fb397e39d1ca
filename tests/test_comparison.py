"""Two profiles of a die, of one that changed in a known way, and of another: what comparing says, and how often it errs."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from planted import board_of, small
from scipy.stats import binom
from test_characterize import laid_out, simulate

from pimchip.characterize import fit, measure_point
from pimchip.chip import AdcTables, ChipSpec, load_chip
from pimchip.emulator.die import Die
from pimchip.emulator.state import Conditions
from pimchip.errors import InputError
from pimchip.profile import PointResult, Profile
from pimchip.profile.comparison import ALPHA, UNRELATED, compare_points

SPEC = small()
MAC = SPEC.mac()
MIDDLE = np.full(8, 16)


def tables(number: int, trim: np.ndarray = MIDDLE, celsius: float = 25.0, spec: ChipSpec = SPEC) -> AdcTables:
    return Die(spec, number).tables(spec.mac(), trim, Conditions(celsius))


def measured(t: AdcTables, seed: int) -> PointResult:
    return fit(simulate(t, laid_out(t, SPEC), np.random.default_rng(seed)))


class TestOneDie:
    def test_unchanged_it_is_the_same_and_raises_no_alarm_but_by_its_chance(self) -> None:
        trials, alarms = 25, 0
        for number in range(trials):
            t = tables(number)
            found = compare_points(SPEC, [measured(t, 2 * number)], [measured(t, 2 * number + 1)])
            assert found.same and found.correlation > 0.99
            alarms += bool(found.moved) + found.drifted
        assert alarms <= binom.ppf(0.9999, 2 * trials, ALPHA)

    def test_a_converter_that_was_moved_is_named_with_its_size_and_no_other(self) -> None:
        named = 0
        for number in range(8):
            trim = MIDDLE.copy()
            trim[number % 8] += 2  # half an LSB
            found = compare_points(SPEC, [measured(tables(number), 1)], [measured(tables(number, trim), 2)])
            assert found.same and set(found.moved) <= {number % 8}
            named += len(found.moved)
            for moved in found.points[0].moved:
                assert moved.middle == pytest.approx(0.5, abs=0.2) and moved.p <= ALPHA
        assert named == 8

    def test_trim_that_both_state_is_no_change(self) -> None:
        trim = np.array([10, 22, 16, 13, 19, 16, 20, 12])
        a, b = measured(tables(4), 1), measured(tables(4, trim), 2)
        assert compare_points(SPEC, [a], [b]).moved
        told = compare_points(SPEC, [a], [b], (MIDDLE.tolist(), trim.tolist()))
        assert told.same and not told.drifted

    @pytest.mark.parametrize("worth", [1.0, 0.9, 1.15])
    def test_what_a_trim_code_is_really_worth_is_no_drift(self, worth: float) -> None:
        """Codes that all lie to one side, of a step that is not the file's: nothing drifted, nothing moved."""
        spec = small(adc={"per_macro": 16, "trim_step": 0.25 * worth})
        trials, alarms, middle = 20, 0, np.full(16, 16)
        for number in range(trials):
            trim = np.random.default_rng(number).integers(13, 28, 16)
            a, b = (
                fit(simulate(t, laid_out(t, spec), np.random.default_rng(2 * number + i)))
                for i, t in enumerate((tables(number, middle, spec=spec), tables(number, trim, spec=spec)))
            )
            found = compare_points(small(adc={"per_macro": 16}), [a], [b], (middle.tolist(), trim.tolist()))
            assert found.same
            alarms += bool(found.moved) + found.drifted
        assert alarms <= binom.ppf(0.9999, 2 * trials, ALPHA)

    def test_beside_trim_a_drift_and_one_that_moved_are_found(self) -> None:
        spec = small(adc={"per_macro": 16})
        middle, trim = np.full(16, 16), np.random.default_rng(0).integers(13, 28, 16)
        drifted = moved = 0
        for number in range(8):
            before, after = (tables(number, t, spec=spec) for t in (middle, trim))
            pushed = after.transfer + (1 << 16) // 10  # a tenth of an LSB for all
            pushed[5] += 1 << 15
            a, b = (
                fit(simulate(t, laid_out(t, spec), np.random.default_rng(2 * number + i)))
                for i, t in enumerate((before, replace(after, transfer=pushed)))
            )
            found = compare_points(spec, [a], [b], (middle.tolist(), trim.tolist()))
            assert found.same
            shared = found.points[0].middle
            drifted += found.drifted and abs(shared.value - 0.1) < 2 * shared.half_width
            moved += found.moved == (5,)
        assert drifted == moved == 8

    def test_all_trimmed_alike_by_a_step_that_is_no_binary_fraction(self) -> None:
        spec = small(adc={"per_macro": 16, "trim_step": 0.1})
        middle = np.full(16, 16)
        before, after = tables(0, middle, spec=spec), tables(0, middle + 3, spec=spec)
        for planted, drifted in ((0.0, False), (0.2, True)):
            pushed = replace(after, transfer=after.transfer + round(planted * (1 << 16)))
            a, b = (
                fit(simulate(t, laid_out(t, spec), np.random.default_rng(i))) for i, t in enumerate((before, pushed))
            )
            found = compare_points(spec, [a], [b], (middle.tolist(), (middle + 3).tolist()))
            shared = found.points[0].middle
            assert found.same and found.drifted == drifted and found.points[0].offset_worth is None
            assert abs(shared.value - planted) < 0.05 and shared.half_width < 0.05

    def test_gain_registers_too_and_only_some_of_both(self) -> None:
        spec = small(adc={"per_macro": 16, "gain_trim_bits": 6, "gain_trim_step": 0.003})
        alarms, trials = 0, 12
        middle = np.repeat([16, 32], 16)
        for number in range(trials):
            rng = np.random.default_rng(number)
            trim = middle + np.where(np.arange(32) % 3 > 0, 0, rng.integers(-9, 10, 32))
            a, b = (
                fit(simulate(t, laid_out(t, spec), np.random.default_rng(2 * number + i)))
                for i, t in enumerate((tables(number, middle, spec=spec), tables(number, trim, spec=spec)))
            )
            found = compare_points(spec, [a], [b], (middle.tolist(), trim.tolist()))
            assert found.same and found.points[0].gain_worth == pytest.approx(1, abs=0.05)
            assert found.retrimmed == sum((trim != middle).reshape(2, 16).any(axis=0))
            alarms += bool(found.moved) + found.drifted
        assert alarms <= binom.ppf(0.9999, 2 * trials, ALPHA)

    def test_registers_that_one_profile_does_not_state_are_taken_to_be_as_they_were(self) -> None:
        t = tables(3)
        found = compare_points(SPEC, [measured(t, 1)], [measured(t, 2)], ([], MIDDLE.tolist()))
        assert found.retrimmed is None and found.same and found.converters == 8

    def test_what_all_lose_is_drift_with_an_interval_that_holds_it(self) -> None:
        """Cells that lose 1 % a decade, after 999 hours: 3 % of every gain."""
        spec = small(cells={"retention_loss": 0.01})
        held = 0
        for number in range(6):
            a, b = (
                measure_point(board_of(spec, number, age=age), spec.mac(), half_width=0.1, seed=int(age))
                for age in (0.0, 999.0)
            )
            found = compare_points(spec, [a], [b])
            assert found.same and found.drifted
            gain = found.points[0].gain
            held += abs(gain.value / np.nanmean(a.gain) + 0.03) < gain.half_width + 0.001
        assert held >= 5

    def test_a_converter_that_died_is_told(self) -> None:
        t = tables(7)
        dead = t.transfer.copy()
        dead[5] = -(1 << 30)
        found = compare_points(SPEC, [measured(t, 1)], [measured(AdcTables(MAC, dead, t.sigma), 2)])
        assert found.moved == (5,) and found.points[0].lost == (5,) and not found.unchanged


class TestAnotherDie:
    def test_it_is_told_from_the_first(self) -> None:
        chances = []
        for number in range(16):
            found = compare_points(SPEC, [measured(tables(number), 1)], [measured(tables(number + 100), 2)])
            assert found.same is False and not found.unchanged
            chances.append(found.p_unrelated)
        # Of unrelated dies the p-value is uniform: none is near UNRELATED, about a tenth are below a tenth.
        assert min(chances) > UNRELATED and sum(p < 0.1 for p in chances) <= binom.ppf(0.999, 16, 0.1)

    def test_at_another_temperature_it_is_still_itself(self) -> None:
        found = compare_points(SPEC, [measured(tables(3), 1)], [measured(tables(3, celsius=85.0), 2)])
        assert found.same


def test_profiles_without_a_point_in_common_are_refused(tmp_path: object) -> None:
    from pathlib import Path

    from pimchip.board import open_board
    from pimchip.characterize import characterize, default_points

    assert isinstance(tmp_path, Path)
    held = Profile.load(
        Path(__file__).resolve().parent.parent / "calibration_data/emu-sram65-97d42ebe-0000/2026-11-23-0ed811b1"
    )
    spec = load_chip("sram65")
    with open_board("emulator:sram65?die=0") as board:
        other = characterize(
            board, points=default_points(spec, range_divisors=[2]), adcs=range(4), reads=16, out=tmp_path
        )
    with pytest.raises(InputError, match="no operating point in common"):
        held.compare(other)
    assert held.compare(held).unchanged
