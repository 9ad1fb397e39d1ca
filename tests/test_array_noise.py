"""Noise against code, slow noise, and where noise comes from, against the die's hidden truth."""

from __future__ import annotations

import math

import numpy as np
import pytest
from arrays import board_of, near, small, within
from physics import middle
from test_array_dac_load import staircases

from pimchip.characterize import fit, measure
from pimchip.characterize.array import FlickerResult, NoiseByCode, measure_flicker, noise_by_code, origins
from pimchip.characterize.array.flicker import allan_variance, block_bootstrap, white_freedom
from pimchip.characterize.plan import plan
from pimchip.chip import ChipSpec
from pimchip.emulator.converters import DieParameters
from pimchip.emulator.die import Die
from pimchip.emulator.state import Conditions
from pimchip.errors import InputError
from pimchip.profile import PointResult


def by_code(spec: ChipSpec, die: int, half_width: float = 0.1) -> NoiseByCode:
    mac = spec.mac()
    laid = plan(spec, mac, spec.columns_per_adc, 0.4, 0.33, half_width, None)
    counts = measure(board_of(spec, die, die), laid, seed=die)
    return noise_by_code(counts, fit(counts))


class TestNoiseByCode:
    def test_a_slope_is_found(self) -> None:
        found = by_code(small(rows=144, adcs=32, columns=8, noise={"code_slope": 0.5}), 2)
        assert found.depends and found.p < 1e-6
        assert near(found.grows, 0.5) and found.grows.low > 0.4
        # (1 + m/2)^2 = 1 + m + m^2/4
        assert near(found.b, found.a.value) and near(found.c, found.a.value / 4)

    def test_even_noise_is_even_within_the_error(self) -> None:
        found = by_code(small(rows=144, adcs=32, columns=8), 2)
        assert not found.depends and near(found.grows, 0.0) and found.grows.se < 0.03
        sigma = Die(small(rows=144, adcs=32, columns=8), 2).tables(
            small(rows=144).mac(), middle(small(rows=144, adcs=32)), Conditions()
        )
        z = np.log(found.sigma / (sigma.sigma / 65536)[:, None]) / (
            np.log(found.sigma_high / found.sigma_low) / 2 / 1.96
        )
        assert 0.9 <= np.nanmean(np.abs(z) < 1.96) <= 0.98

    def rate(self, dies: int, slope: float) -> tuple[int, int]:
        """How many dies are said to depend on the code, and how many intervals hold the slope."""
        spec = small(rows=144, adcs=16, columns=4, noise={"code_slope": slope})
        found = [by_code(spec, die, 0.15) for die in range(dies)]
        return sum(f.depends for f in found), sum(f.grows.holds(slope) for f in found)

    def test_the_test_is_silent_on_even_noise(self) -> None:
        depends, held = self.rate(10, 0.0)
        within("even", 10 - depends, 10, level=0.99)
        within("slope", held, 10)

    @pytest.mark.study
    @pytest.mark.parametrize("slope", [0.0, 0.3])
    def test_level_and_coverage_over_three_hundred_dies(self, slope: float) -> None:
        depends, held = self.rate(300, slope)
        within("slope", held, 300)
        if slope:
            assert depends == 300
        else:
            within("even", 300 - depends, 300, level=0.99)


def seen_offsets(true: DieParameters, points: list[PointResult]) -> np.ndarray:
    """The array's offsets as they are seen at the codes: through the curve, whose mean slope is in the fitted gain."""
    return np.asarray(true.offset_array * np.mean([p.gain for p in points], axis=0) / true.gain)


class TestOrigins:
    def test_array_and_converters_are_told_apart(self) -> None:
        spec = small(rows=144, adcs=32, columns=8)
        points = staircases(spec, 4, [1, 2, 4])
        true, found = Die(spec, 4).parameters, origins(spec, points)
        assert found.volts == (1.0, 2.0, 4.0) and found.adcs == 32
        assert found.noise_array.value == pytest.approx(math.sqrt(np.mean(true.noise_array**2)), rel=0.03)
        assert found.noise_adc.low < math.sqrt(np.mean(true.noise_adc**2)) < found.noise_adc.high
        z = (found.noise.array - true.noise_array**2) / found.noise.array_se
        assert np.mean(np.abs(z) < 1.96) > 0.85
        z = (found.offset.array - seen_offsets(true, points)) / found.offset.array_se
        assert 0.7 < z.std() < 1.4 and abs(z.mean()) < 0.8
        assert near(found.offset_array, float(true.offset_array.std(ddof=1)))
        assert np.corrcoef(found.offset.adc, true.offset)[0, 1] > 0.97
        assert found.p > 1e-3

    def test_noise_of_the_converters_alone_has_no_array_part(self) -> None:
        spec = small(rows=144, adcs=32, columns=4, noise={"array_sigma": 0.0, "adc_sigma": 0.4})
        found = origins(spec, staircases(spec, 4, [1, 2]))
        assert found.noise_array.low == 0 and found.noise_array.high < 0.08
        assert found.noise_adc.value == pytest.approx(0.4, abs=0.03)

    def test_one_range_is_refused_and_the_mend_named(self) -> None:
        spec = small(rows=144, adcs=4)
        with pytest.raises(InputError, match="at one range: measure a second range too .--range-divisor 1"):
            origins(spec, staircases(spec, 1, [2]))

    def test_intervals_of_the_parts_hold_the_truth_over_dies(self) -> None:
        self.check(10)

    @pytest.mark.study
    def test_intervals_of_the_parts_hold_the_truth_over_two_hundred_dies(self) -> None:
        self.check(200)

    def check(self, dies: int) -> None:
        spec = small(rows=144, adcs=8, columns=4)
        z: dict[str, list[np.ndarray]] = {"noise array": [], "noise adc": [], "offset array": []}
        for die in range(dies):
            points = staircases(spec, die, [1, 2], seed=die)
            true, found = Die(spec, die).parameters, origins(spec, points)
            z["noise array"].append((found.noise.array - true.noise_array**2) / found.noise.array_se)
            z["noise adc"].append((found.noise.adc - true.noise_adc**2) / found.noise.adc_se)
            z["offset array"].append((found.offset.array - seen_offsets(true, points)) / found.offset.array_se)
        for name, parts in z.items():
            values = np.concatenate(parts)
            assert np.mean(np.abs(values) < 1.96) > (0.93 if dies >= 100 else 0.88), name
            assert abs(values.mean()) < 4 / math.sqrt(len(values)) + 0.1, name


class TestAllan:
    def test_closed_forms(self) -> None:
        rng = np.random.default_rng(1)
        white = rng.standard_normal((200, 4096))
        for tau in (1, 4, 64):
            found = allan_variance(white, tau)
            assert found.mean() * tau == pytest.approx(1.0, abs=4 * found.std() * tau / math.sqrt(200))
            # degrees of freedom: twice the squared mean over the variance
            assert 2 * found.mean() ** 2 / found.var() == pytest.approx(white_freedom(tau, 4096), rel=0.35)
        ramp = np.arange(1000.0)
        assert allan_variance(ramp, 10) == pytest.approx(10**2 / 2)

    def test_the_block_bootstrap_gives_the_error_of_means_of_autocorrelated_readings(self) -> None:
        """AR(1): the variance of a mean is about (1 + r) / (1 - r) times that of independent readings."""
        rng, r, n = np.random.default_rng(2), 0.8, 4096
        steps = rng.standard_normal((40, n + 200)) * math.sqrt(1 - r * r)
        series = np.zeros_like(steps)
        for i in range(1, steps.shape[1]):
            series[:, i] = r * series[:, i - 1] + steps[:, i]
        found = block_bootstrap(series[:, 200:], 128, seed=3)
        assert found.mean() == pytest.approx(math.sqrt((1 + r) / (1 - r) / n), rel=0.12)
        with pytest.raises(InputError, match="half of the readings"):
            block_bootstrap(series, n, seed=3)


def flicker(spec: ChipSpec, die: int = 1, cycles: int = 2048) -> FlickerResult:
    return measure_flicker(board_of(spec, die, die), spec.mac(), cycles=cycles, seed=die)


class TestFlicker:
    def test_white_noise_is_called_white(self) -> None:
        found = flicker(small())
        assert found.white and near(found.slope, -0.5) and found.verdict.startswith("white")
        assert found.slow.low == 0 and found.slow.high < 0.05
        assert found.allan[0].value == pytest.approx(math.sqrt((found.noise**2 + 1 / 12) / 4), rel=0.1)

    def test_slow_noise_is_found_with_its_size(self) -> None:
        """rms about the mean of the series: an octave held for h of n cycles leaves h/n of its variance in that mean."""
        spec, n = small(adcs=32, noise={"flicker_sigma": 0.3, "spread": 0.0}), 2048
        found = flicker(spec, cycles=n)
        held = 2.0 ** np.arange(1, 13)
        expected = 0.3 * math.sqrt(np.mean(np.maximum(1 - held / n, 0)))
        assert near(found.slow, expected) or found.slow.value == pytest.approx(expected, rel=0.05)
        assert not found.white and found.slope.low > -0.3
        assert "random order" in found.verdict and found.inflation > 2

    def test_one_column_a_converter_leaves_slow_noise_unknown(self) -> None:
        assert math.isnan(flicker(small(columns=1, adcs=4), cycles=512).slow.value)

    @pytest.mark.study
    def test_white_noise_is_called_so_in_ninety_nine_dies_of_a_hundred(self) -> None:
        spec = small(adcs=8)
        found = [flicker(spec, die, 1024) for die in range(300)]
        within("white", sum(f.white for f in found), 300, level=0.99)
        within("slope", sum(f.slope.holds(-0.5) for f in found), 300)
