"""Intervals of variance components, and what rounding adds to variances, against simulation and direct integration."""

from __future__ import annotations

import math

import numpy as np
import pytest
from arrays import within
from scipy.special import ndtr
from scipy.stats import chi2

from pimchip.characterize.array.estimate import Estimate, MeanSquare, component, total, variance
from pimchip.characterize.array.rounding import noise_variance, signal_variance


class TestVarianceComponents:
    def test_a_mean_square_s_interval_is_the_chi_square_one(self) -> None:
        found = variance(MeanSquare(2.0, 10.0))
        assert found.low == pytest.approx(20 / 20.4832, rel=1e-4) and found.high == pytest.approx(
            20 / 3.24697, rel=1e-4
        )

    def test_a_component_s_interval_tends_to_the_chi_square_one_where_the_lower_mean_square_is_nothing(self) -> None:
        upper = MeanSquare(3.0, 7.0)
        alone, found = variance(upper), component(upper, MeanSquare(1e-9, 50.0), 1.0)
        assert found.low == pytest.approx(alone.low, rel=1e-3) and found.high == pytest.approx(alone.high, rel=1e-3)

    @pytest.mark.parametrize("ratio", [0.0, 0.3, 1.0, 5.0])
    @pytest.mark.parametrize(("groups", "each"), [(6, 4), (30, 8)])
    def test_intervals_of_a_component_hold_the_truth(self, ratio: float, groups: int, each: int) -> None:
        """One-way layouts of normal data; the modified large-sample interval is close to 95 % or above (Burdick and Graybill)."""
        rng, trials = np.random.default_rng(round(10 * ratio) + groups), 4000
        effects = math.sqrt(ratio) * rng.standard_normal((trials, groups, 1))
        y = effects + rng.standard_normal((trials, groups, each))
        means = y.mean(axis=2)
        upper = each * means.var(axis=1, ddof=1)
        lower = y.var(axis=2, ddof=1).mean(axis=1)
        found = [
            component(MeanSquare(a, groups - 1), MeanSquare(b, groups * (each - 1)), each)
            for a, b in zip(upper, lower, strict=True)
        ]
        covered = np.mean([e.holds(ratio) for e in found])
        assert 0.94 <= covered <= 0.975
        se = np.std([e.value for e in found]) / math.sqrt(trials)
        assert abs(np.mean([e.value for e in found]) - ratio) < 4 * se

    def test_satterthwaite_s_interval_of_a_sum_holds_the_truth(self) -> None:
        rng, trials = np.random.default_rng(4), 4000
        a, b = chi2.rvs(8, size=trials, random_state=rng) / 8, 3 * chi2.rvs(20, size=trials, random_state=rng) / 20
        hits = sum(
            total([(0.5, MeanSquare(x, 8)), (2.0, MeanSquare(y, 20))]).holds(6.5) for x, y in zip(a, b, strict=True)
        )
        assert 0.935 <= hits / trials <= 0.965

    def test_a_mean_s_interval_is_student_s(self) -> None:
        rng = np.random.default_rng(2)
        within("mean", sum(Estimate.of_mean(rng.standard_normal(5)).holds(0.0) for _ in range(4000)), 4000)


def rounded(t: np.ndarray, sigma: float) -> tuple[np.ndarray, np.ndarray]:
    """Mean and variance of round(t + noise), summed over codes."""
    codes = np.arange(-12, 14)
    above = ndtr((t[:, None] - codes + 0.5) / sigma)  # P(code >= k)
    p = above[:, :-1] - above[:, 1:]
    mean = (p * codes[:-1]).sum(axis=1)
    return mean, (p * codes[:-1] ** 2).sum(axis=1) - mean**2


class TestRounding:
    @pytest.mark.parametrize("sigma", [0.15, 0.3, 0.35, 0.6, 1.2])
    def test_repeats_at_even_positions_scatter_as_stated(self, sigma: float) -> None:
        _, spread = rounded(np.arange(1000) / 1000, sigma)
        assert noise_variance(float(spread.mean())) == pytest.approx(sigma**2, rel=1e-6)

    @pytest.mark.parametrize("sigma", [0.3, 0.35, 0.6])
    @pytest.mark.parametrize("s", [0.02, 0.1, 0.5])
    def test_means_at_scattered_positions_do_too(self, sigma: float, s: float) -> None:
        """Half the mean square difference of two sums' mean codes, the sums apart by a normal of sqrt(2) s, over all places."""
        place, apart = np.arange(400) / 400, np.linspace(-5, 5, 401) * math.sqrt(2) * s
        weight = np.exp(-((apart / s) ** 2) / 4)
        pair = [rounded((place[:, None] + side * apart / 2).ravel(), sigma)[0].reshape(400, -1) for side in (-1, 1)]
        seen = float((((pair[1] - pair[0]) ** 2).mean(axis=0) * weight).sum() / weight.sum()) / 2
        assert signal_variance(seen, sigma) == pytest.approx(s * s, rel=2e-3)

    def test_less_than_rounding_gives_is_no_noise(self) -> None:
        assert noise_variance(0.01) == 0.0 and math.isnan(noise_variance(math.nan))
