"""What all converters share, told from what single ones did and from what was trimmed: how often it errs, by simulation."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from scipy.stats import binom, norm

from pimchip.profile.shared import WORTH_OFF, shared

SE = 0.02
Codes = Callable[[np.random.Generator, int], np.ndarray]


def spread_out(rng: np.random.Generator, n: int) -> np.ndarray:
    return rng.integers(-3, 12, n)


def alike(rng: np.random.Generator, n: int) -> np.ndarray:
    return np.full(n, 3)


def untouched(rng: np.random.Generator, n: int) -> np.ndarray:
    return np.zeros(n)


def a_few(rng: np.random.Generator, n: int) -> np.ndarray:
    return np.where(np.arange(n) < n - n // 4, 0, rng.integers(1, 9, n))


def one_far(rng: np.random.Generator, n: int) -> np.ndarray:
    return np.where(np.arange(n) == 3, 15, rng.integers(-2, 3, n))


def moved_alone(beside: np.ndarray, se: np.ndarray) -> np.ndarray:
    """Which converters stand out, Bonferroni, 1 % over all."""
    p = 2 * norm.sf(np.abs(beside) / np.hypot(SE, se)) * len(beside)
    return np.flatnonzero(p <= 0.01)


@pytest.mark.parametrize("n", [5, 8, 24])
@pytest.mark.parametrize(
    ("codes", "step", "worth"),
    [
        (untouched, 0.25, 1.0),
        (alike, 0.1, 1.0),  # a mean of tenths is not exactly a tenth
        (spread_out, 0.25, 1.0),
        (spread_out, 0.1, 1.15),
        (a_few, 0.25, 0.9),
        (one_far, 0.25, 1.1),
    ],
)
@pytest.mark.parametrize("at", [0.0, 63.5], ids=["offsets", "gains too"])
def test_intervals_hold_and_alarms_are_as_rare_as_they_say(
    n: int, codes: Codes, step: float, worth: float, at: float
) -> None:
    rng, trials = np.random.default_rng(n), 250
    held = alarms = others = 0
    for _ in range(trials):
        columns = [codes(rng, n) * step] + ([codes(rng, n) * 0.004 * at] if at else [])
        values = worth * np.sum(columns, axis=0) + rng.normal(0, SE, n)
        found = shared(values, np.full(n, SE), columns)
        held += abs(found.change.value) <= found.change.half_width
        alarms += found.p <= 0.01
        others += len(moved_alone(found.beside, found.se)) > 0
    assert binom.ppf(0.0001, trials, 0.95) <= held <= binom.ppf(0.9999, trials, 0.95)
    assert alarms <= binom.ppf(0.9999, trials, 0.01) and others <= binom.ppf(0.9999, trials, 0.01)


@pytest.mark.parametrize("n", [8, 16])
@pytest.mark.parametrize("codes", [untouched, spread_out, a_few])
def test_one_that_moved_is_told_and_does_not_move_the_others(n: int, codes: Codes) -> None:
    rng, trials = np.random.default_rng(n), 200
    held = named = others = 0
    for _ in range(trials):
        trimmed = codes(rng, n) * 0.25
        values = 1.1 * trimmed + rng.normal(0, SE, n)
        values[0] += 0.3
        found = shared(values, np.full(n, SE), [trimmed])
        far = set(moved_alone(found.beside, found.se).tolist())
        held += abs(found.change.value) <= found.change.half_width
        named += 0 in far
        others += len(far - {0}) > 0
    assert held >= binom.ppf(0.0001, trials, 0.95) and named >= 0.95 * trials
    assert others <= binom.ppf(0.9999, trials, 0.01)


def test_what_a_code_is_worth_is_told_where_codes_differ() -> None:
    rng = np.random.default_rng(0)
    offsets, gains = (rng.integers(-9, 9, 64) * step for step in (0.25, 0.25))
    noise = rng.normal(0, SE, 64)
    both = shared(1.1 * offsets + 0.9 * gains + noise, np.full(64, SE), [offsets, gains])
    assert both.worth == pytest.approx((1.1, 0.9), abs=0.01)
    assert shared(offsets + noise, np.full(64, SE), [offsets, np.full(64, 0.3)]).worth[1] is None
    # A register that is far from what its file says is not taken for one: what is left moved.
    broken = shared(2 * offsets + noise, np.full(64, SE), [offsets])
    assert broken.worth == (1 + WORTH_OFF,)
    assert np.abs(broken.beside - (2 - 1 - WORTH_OFF) * offsets).max() < 1


def test_too_few_tell_nothing_and_unknown_ones_count_for_none() -> None:
    none = shared(np.array([1.0, 1.0, np.nan]), np.full(3, SE), [np.zeros(3)])
    assert np.isnan([none.change.value, none.change.half_width, none.p]).all() and np.isnan(none.beside).all()
    rng = np.random.default_rng(1)
    trimmed, noise = rng.integers(-3, 12, 20) * 0.1, rng.normal(0, SE, 20)
    values, known = trimmed + noise, np.arange(20) < 12
    part = shared(np.where(known, values, np.nan), np.full(20, SE), [trimmed])
    alone = shared(values[:12], np.full(12, SE), [trimmed[:12]])
    assert part.change == alone.change and part.worth == alone.worth
    assert np.array_equal(part.beside[:12], alone.beside) and np.isnan(part.beside[12:]).all()
