"""The integer Gaussian as a source of noise: distribution, moments and tails of draws, against the normal law.

The map itself is tested over all its 2^24 values in test_chip.py; here it is fed by Philox, as on a chip.
"""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.special import erfc
from scipy.stats import binomtest, kstest

from pimchip.chip.adc import slow_deviates
from pimchip.chip.gauss import gauss
from pimchip.chip.philox import words

# The chance that one sound sample fails one test: 6.3e-5 at 4 standard errors, 1e-4 for p-values.
ERRORS, P_VALUE = 4.0, 1e-4
DOUBLE_FACTORIAL = {2: 1, 4: 3, 6: 15, 8: 105, 10: 945, 12: 10395}


def draws(count: int, seed: int, tag: int = 0) -> np.ndarray:
    """Deviates in sigma, float64."""
    return gauss(words(np.arange(count), seed=seed, tag=tag)) / 4096


def moment(power: int) -> int:
    """E Z^power of the normal law."""
    return DOUBLE_FACTORIAL.get(power, 0)


@pytest.fixture(
    scope="module", params=[1_000_000, pytest.param(10_000_000, marks=pytest.mark.study)], ids=["1e6", "1e7"]
)
def sample(request: pytest.FixtureRequest) -> np.ndarray:
    return draws(request.param, seed=20_260)


class TestDraws:
    def test_kolmogorov_smirnov(self, sample: np.ndarray) -> None:
        assert kstest(sample, "norm").pvalue > P_VALUE

    def test_kolmogorov_smirnov_of_either_sign(self, sample: np.ndarray) -> None:
        for side in (sample[sample > 0], -sample[sample < 0]):
            assert kstest(side, "halfnorm").pvalue > P_VALUE

    @pytest.mark.parametrize("power", range(1, 7))
    def test_moments_within_their_standard_errors(self, sample: np.ndarray, power: int) -> None:
        error = math.sqrt((moment(2 * power) - moment(power) ** 2) / len(sample))
        # Chords between table entries lie above the quantile: a known excess, below 1e-4 of even moments.
        slack = 1e-4 * moment(power)
        assert abs(np.mean(sample**power) - moment(power)) < ERRORS * error + slack

    @pytest.mark.parametrize("sigma", [1.0, 2.0, 3.0, 4.0, 4.5])
    def test_counts_in_the_tails_are_binomial(self, sample: np.ndarray, sigma: float) -> None:
        chance = float(erfc(sigma / math.sqrt(2)))
        beyond = int(np.count_nonzero(np.abs(sample) > sigma))
        assert binomtest(beyond, len(sample), chance).pvalue > P_VALUE
        for side in (sample > sigma, sample < -sigma):
            assert binomtest(int(np.count_nonzero(side)), len(sample), chance / 2).pvalue > P_VALUE

    @pytest.mark.parametrize("lag", [1, 2, 3, 4, 5, 64, 4096])
    def test_draws_are_uncorrelated_with_later_ones(self, sample: np.ndarray, lag: int) -> None:
        n = len(sample) - lag
        assert abs(np.mean(sample[lag:] * sample[:-lag])) < ERRORS / math.sqrt(n)
        # Nor does one's size tell the other's: squares have variance 2.
        squares = sample**2 - 1
        assert abs(np.mean(squares[lag:] * squares[:-lag])) < ERRORS * 2 / math.sqrt(n)

    def test_macros_are_uncorrelated(self) -> None:
        n = 500_000
        each = np.stack([draws(n, seed=7, tag=macro) for macro in range(4)])
        products = each @ each.T / n - np.eye(4)
        assert np.abs(products[~np.eye(4, dtype=bool)]).max() < ERRORS / math.sqrt(n)


class TestSlowNoise:
    @pytest.mark.parametrize("octaves", [1, 4, 9])
    def test_covariance_falls_as_held_words_change(self, octaves: int) -> None:
        # From a cycle drawn anywhere, the word of octave o is still held `lag` cycles later with chance 1 - lag/2^(o+1).
        converters, span = 3000, 1 << 20
        rng = np.random.default_rng(octaves)
        starts = rng.integers(0, span, converters)
        lags = (0, 1, 2, 5, 16, 100, 600)
        z = np.stack(
            [
                slow_deviates(start + np.array(lags), adc, octaves, seed=3, epoch=1) / 4096
                for adc, start in enumerate(starts.tolist())
            ]
        )
        for column, lag in enumerate(lags):
            wanted = sum(max(0.0, 1 - lag / 2 ** (o + 1)) for o in range(octaves))
            products = z[:, 0] * z[:, column]
            assert abs(products.mean() - wanted) < ERRORS * products.std() / math.sqrt(converters), lag
