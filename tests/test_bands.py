"""Intervals of thresholds, INL and DNL against known truth, pointwise and all of a converter at once; missing codes."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import pytest
from scipy.stats import binom
from scipy.stats import t as student
from staircases import chip, laid_out, simulate, straight, tables, true_thresholds

from pimchip.characterize import fit
from pimchip.characterize.bands import pooled_by_code, quantiles
from pimchip.characterize.plan import Plan
from pimchip.characterize.staircase import block_of, sparsity
from pimchip.chip import AdcTables
from pimchip.errors import InputError
from pimchip.profile import Counts, PointResult

Hits = dict[str, list[np.ndarray]]
NAMES = {"thresholds": "T", "inl": "INL", "dnl": "DNL"}


def truth(t: AdcTables, r: PointResult) -> tuple[dict[str, np.ndarray], np.ndarray, np.ndarray]:
    """True values of what has a band, and the true line: gain and offset by polyfit over what was reachable."""
    true = true_thresholds(t)
    k = np.arange(t.mac.code_min + 1, t.mac.code_max + 1) - 0.5
    fits = np.array([np.polyfit(k[known], true[j, known], 1) for j, known in enumerate(r.reachable)])
    q, a = fits[:, :1], fits[:, 1:]
    dnl = np.full(true.shape, np.nan)
    dnl[:, :-1] = np.diff(true, axis=1) / q - 1
    return {"thresholds": true, "inl": (true - a - q * k) / q, "dnl": dnl}, 1 / q[:, 0], (-a / q)[:, 0]


def covered(
    divisor: int, dies: int, seed: int = 0, errors: dict[str, list[float]] | None = None
) -> dict[str, np.ndarray]:
    """Which intervals held the truth, pooled over dies: "T", "T band", ..., "gain", "offset", "sigma"; and "planned", whether
    a die's half-width was within a tenth of what its plan aimed for. errors: gets the mean error of each die in standard
    errors."""
    spec, rng = chip(), np.random.default_rng([divisor, seed])
    hits: Hits = {}
    for number in range(dies):
        t = tables(spec, seed + number, spec.mac(range_divisor=divisor))
        r = fit(simulate(t, laid_out(t, spec), rng))
        values, gain, offset = truth(t, r)
        for name, true in values.items():
            for simultaneous in (False, True):
                low, high = r.band(name, simultaneous=simultaneous)
                known = np.isfinite(low)
                inside = (low <= true) & (true <= high)
                which = inside[known] if not simultaneous else (inside | ~known).all(axis=1)
                hits.setdefault(NAMES[name] + " band" * simultaneous, []).append(which)
        hits.setdefault("gain", []).append(np.abs(r.gain - gain) < 1.96 * r.gain_se)
        hits.setdefault("offset", []).append(np.abs(r.offset - offset) < 1.96 * r.offset_se)
        sigma = t.sigma / 65536
        hits.setdefault("sigma", []).append((r.noise_low < sigma) & (sigma < r.noise_high))
        hits.setdefault("planned", []).append(np.array([abs(r.rms_half_width / 0.1 - 1) < 0.1]))
        if errors is not None:
            log_se = np.log(r.noise_high / r.noise_low) / 2 / 1.96
            for name, off in {
                "T": np.nanmean((r.thresholds - values["thresholds"]) / r.se_by_code),
                "gain": np.mean((r.gain - gain) / r.gain_se),
                "offset": np.mean((r.offset - offset) / r.offset_se),
                "sigma": np.mean(np.log(r.noise_lsb / sigma) / log_se),
            }.items():
                errors.setdefault(name, []).append(float(off))
    return {name: np.concatenate(parts) for name, parts in hits.items()}


def check(found: Mapping[str, np.ndarray], slack: float = 0.0) -> None:
    """slack: for few dies."""
    share = {name: float(np.mean(hit)) for name, hit in found.items()}
    for name in ("T", "INL", "DNL"):
        assert 0.93 - slack / 2 <= share[name] <= 0.97 + slack / 2, share
        assert share[f"{name} band"] >= 0.93 - slack, share
    assert 0.91 - slack <= share["sigma"] <= 0.97 + slack, share
    assert share["gain"] >= 0.93 - slack and share["offset"] >= 0.93 - slack, share
    assert share.get("planned", 1.0) == 1.0, share


class TestCoverage:
    @pytest.mark.parametrize("divisor", [1, 8])
    def test_intervals_and_bands_hold_the_truth(self, divisor: int) -> None:
        check(covered(divisor, 5), slack=0.05)

    @pytest.mark.study
    @pytest.mark.parametrize("divisor", [1, 2, 4, 8])
    def test_over_six_hundred_dies_a_range(self, divisor: int) -> None:
        errors: dict[str, list[float]] = {}
        found = covered(divisor, 600, seed=1000, errors=errors)
        print(divisor, {name: round(float(np.mean(hit)), 4) for name, hit in found.items()})
        bias = {name: (float(np.mean(e)), float(np.std(e) / math.sqrt(len(e)))) for name, e in errors.items()}
        print("bias, standard errors of an estimate", {name: f"{b:+.4f} +- {se:.4f}" for name, (b, se) in bias.items()})
        check(found)
        assert all(abs(b) < 0.1 for b, _ in bias.values())


def without(counts: Counts, adc: int, code: int, seen: float = 0.0) -> Counts:
    """The counts of a converter that gives the next code in place of `code`, but for a share of the reads."""
    histogram = counts.histogram.copy()
    wide = np.concatenate([histogram, np.zeros_like(histogram[:, :, :1])], axis=2)
    for level, base in enumerate(counts.base[adc]):
        i = code - base
        if 0 <= i < histogram.shape[2]:
            moved = wide[adc, level, i] - int(seen * wide[adc, level, i])
            wide[adc, level, i] -= moved
            wide[adc, level, i + 1] += moved
    return Counts(counts.mac, counts.levels, counts.reads, counts.cycles, counts.base, wide)


class TestMissingCodes:
    def counts(self, cycles: int, step: int = 3) -> Counts:
        mac = chip().mac()
        t = straight(mac, 1.0, 0.0, 0.2, adcs=2)
        plan = Plan(mac, np.arange(0, mac.sum_max + 1, step), step, cycles, 0.2)
        return simulate(t, plan, np.random.default_rng(1))

    def test_a_code_that_is_not_there_is_named(self) -> None:
        r = fit(without(self.counts(4), adc=0, code=60))
        assert r.flags == (("missing-codes",), ())
        assert np.flatnonzero(r.missing[0] == 1).tolist() == [59]  # entry n is of code n + 1
        assert r.dnl[0, 59] == pytest.approx(-1, abs=0.01)
        assert (r.missing[1] == 0)[r.reachable[1]][:-1].all()

    def test_a_narrow_code_is_there(self) -> None:
        r = fit(without(self.counts(4), adc=0, code=60, seen=0.2))
        assert r.flags == ((), ()) and r.dnl[0, 59] < -0.7

    def test_too_few_reads_name_no_code_missing(self) -> None:
        """At 8 reads a level and 3.2 levels an LSB a code never seen may be 0.14 LSB wide, with 97.5 %."""
        r = fit(without(self.counts(1, 5), adc=0, code=60))
        assert r.dnl[0, 59] == pytest.approx(-1, abs=0.01) and r.flags == ((), ())

    def test_working_converters_miss_no_code(self) -> None:
        spec, rng = chip(), np.random.default_rng(5)
        for number in range(4):
            t = tables(spec, number, spec.mac())
            assert not fit(simulate(t, laid_out(t, spec), rng)).flagged("missing-codes").any()


class TestPooling:
    def test_even_noise_is_pooled_and_noise_that_follows_the_code_is_not(self) -> None:
        rng, n = np.random.default_rng(0), 120
        everywhere = np.ones((400, n), bool)
        even = rng.chisquare(60, (400, n)) / 60
        variance, varies = pooled_by_code(even, everywhere, np.ones((400, n)))
        assert varies.sum() <= binom.isf(1e-4, 400, 1e-3)
        steady = ~varies
        np.testing.assert_allclose(variance[steady], np.repeat(even.mean(axis=1)[steady, None], n, 1), rtol=1e-12)
        shape = 1 + np.linspace(-0.4, 0.4, n)
        variance, varies = pooled_by_code(even * shape, everywhere, np.ones((400, n)))
        assert varies.mean() > 0.99
        assert np.abs(variance[varies].mean(axis=0) / shape - 1).max() < 0.02

    def test_steep_places_have_wider_thresholds(self) -> None:
        slope = np.concatenate([np.full((1, 60), 1.2), np.full((1, 60), 0.8)], axis=1)
        variance, _ = pooled_by_code(0.01 * slope, np.ones((1, 120), bool), slope)
        np.testing.assert_allclose(variance, 0.01 * slope, rtol=1e-9)

    def test_thresholds_told_from_fewer_reads_have_wider_intervals(self) -> None:
        """Four times the reads in the lower half: variances are as 1 / (R - 1), and even reads change nothing."""
        spec = chip()
        t = straight(spec.mac(), 1.0, 0.0, 0.3)
        even = simulate(t, laid_out(t, spec), np.random.default_rng(0))
        upper = len(even.levels) // 2
        more = even.histogram.copy()
        more[:, :upper] *= 4
        uneven = replace(even, reads=4 * even.reads, histogram=more)
        who = np.arange(8)
        known = np.where(fit(even).reachable, fit(even).thresholds, np.nan)
        np.testing.assert_array_equal(sparsity(block_of(even, who), known, np.full(8, 0.3)), 1)
        found = sparsity(block_of(uneven, who), known, np.full(8, 0.3))
        middle = even.inputs[upper]
        for inside, reads in ((known < middle - 2, 4 * even.reads), (known > middle + 2, even.reads)):
            np.testing.assert_allclose(found[inside], 1 / (reads - 1), rtol=1e-9)
        r = fit(uneven)
        ratio = r.se_by_code[:, 30:50].mean(axis=1) / r.se_by_code[:, -50:-30].mean(axis=1)
        np.testing.assert_allclose(ratio, math.sqrt((even.reads - 1) / (4 * even.reads - 1)), rtol=0.02)

    def test_quantiles_are_students(self) -> None:
        one, all_of_them = quantiles(np.array([5.0, 1e9]), np.array([127, 127]))
        np.testing.assert_allclose(one, [student.ppf(0.975, 5), 1.959964], rtol=1e-6)
        assert all_of_them[1] == pytest.approx(
            3.54, abs=0.005
        )  # 127 transitions, characterization of many codes at once

    def test_few_reads_widen_the_intervals(self) -> None:
        t = straight(chip(adc={"bits": 3}).mac(), 1.0, 0.0, 0.35)
        many, few = (
            fit(simulate(t, Plan(t.mac, np.arange(0, t.mac.sum_max + 1, 61), 61, c, 0.35), np.random.default_rng(1)))
            for c in (20, 1)
        )
        assert np.all(few.quantile > many.quantile)
        # Seven thresholds of about three levels and eight reads: some hundred degrees of freedom.
        assert np.all(few.quantile > student.ppf(0.975, 2000)) and np.all(few.quantile < student.ppf(0.975, 30))


class TestLines:
    def test_both_lines_of_a_straight_converter_are_its_line(self) -> None:
        spec = chip()
        t = straight(spec.mac(), 0.97, 1.7, 0.35)
        r = fit(simulate(t, laid_out(t, spec), np.random.default_rng(3)))
        assert np.abs(r.gain - 0.97).max() < 5 * r.gain_se.max()
        assert np.abs(r.end_gain - 0.97).max() < 5 * math.sqrt(2) * r.threshold_se.max() / 120
        assert np.abs(r.end_offset - 1.7).max() < 5 * r.threshold_se.max()

    def test_the_terminal_line_passes_the_end_points(self) -> None:
        spec = chip()
        t = tables(spec, 2, spec.mac())
        r = fit(simulate(t, laid_out(t, spec), np.random.default_rng(4)))
        k = np.arange(1, 128) - 0.5
        for j in range(4):
            places = np.flatnonzero(r.reachable[j])[[0, -1]]
            np.testing.assert_allclose(r.end_gain[j] * r.thresholds[j, places] + r.end_offset[j], k[places], atol=1e-9)

    def test_bands_are_named_and_of_new_profiles_only(self) -> None:
        spec = chip()
        t = tables(spec, 2, spec.mac())
        r = fit(simulate(t, laid_out(t, spec), np.random.default_rng(4)))
        with pytest.raises(InputError, match="gain has no band; these have: thresholds, inl, dnl"):
            r.band("gain")
        low, high = r.band("dnl", simultaneous=True)
        assert np.all((high - low)[np.isfinite(low)] > 0)
