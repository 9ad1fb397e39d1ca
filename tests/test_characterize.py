"""The estimators against known truth: dies drawn by number, counts drawn with NumPy's own generator."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.integrate import quad
from scipy.special import ndtr
from staircases import axis, chip, laid_out, simulate, standard, straight, tables, true_thresholds, within

from pimchip.board import open_board
from pimchip.characterize import characterize, default_points, fit, measure
from pimchip.characterize import estimators as est
from pimchip.characterize.curve import local_slope, unsmooth, widening
from pimchip.characterize.noise import _SCORE_BIAS
from pimchip.characterize.plan import Plan, unit
from pimchip.characterize.stimulus import inputs
from pimchip.chip import AdcTables, ChipSpec, load_chip
from pimchip.chip.adc import to_table
from pimchip.errors import InputError
from pimchip.profile.model import ADDED_ARRAYS, RESULT_ARRAYS


class TestClosedForms:
    @pytest.mark.parametrize("ratio", [0.3, 1.0, 1.5, 2.5, 3.3])
    def test_spearman_karber_is_off_by_no_more_than_the_step_bias(self, ratio: float) -> None:
        sigma = 0.4
        step = ratio * sigma
        u = -8 + step * np.arange(int(16 / step) + 1)
        worst = 0.0
        for threshold in np.linspace(0, step, 41):
            found = est.spearman_karber(ndtr((u - threshold) / sigma).sum(), u[-1], step)
            worst = max(worst, abs(float(found) - threshold))
        bias = float(est.step_bias(step, np.array(sigma)))
        assert worst <= bias * 1.0001 + 1e-9
        assert worst >= bias * 0.95 - 1e-9

    def test_second_moment_gives_the_variance(self) -> None:
        u, sigma, threshold = np.arange(-10, 10, 0.2), 0.37, 0.123
        p = ndtr((u - threshold) / sigma)
        assert est.spread(p.sum(), (u * p).sum(), u[-1], 0.2) == pytest.approx(sigma**2, abs=1e-9)

    def test_reads_for_a_half_width(self) -> None:
        assert est.reads_per_lsb(0.35, 0.1) == pytest.approx(75.9, abs=0.1)

    def test_cut_bias_is_the_missing_tail(self) -> None:
        tail = quad(lambda u: float(ndtr((u - 1.0) / 0.5)), -9, 0)[0]
        assert est.cut_bias(np.array(1.0), np.array(0.5)) == pytest.approx(tail, rel=1e-9)

    def test_bias_of_the_noise_score_by_quadrature(self) -> None:
        def w(z: float) -> float:
            return math.exp(-z * z) / (2 * math.pi) / float(ndtr(z) * ndtr(-z))

        second = quad(lambda z: z * z * w(z), -12, 12)[0]
        skew = quad(lambda z: z * w(z) * float(ndtr(z) - ndtr(-z)), -12, 12)[0]
        assert skew - second / (2 * math.sqrt(math.pi)) == pytest.approx(_SCORE_BIAS, abs=1e-9)

    def test_smoothing_of_a_parabola_is_taken_out_exactly(self) -> None:
        k = np.arange(60.0)
        curve = np.stack([k + 0.003 * k * k, 2 * k])
        curve[:, :4] = curve[:, -5:] = np.nan
        seen, factor, of_codes = unsmooth(curve, np.array([2.0, np.nan]))
        np.testing.assert_allclose(seen[0], curve[0] - 2.0**2 / 2 * 0.006, atol=1e-12)
        np.testing.assert_array_equal(seen[1], curve[1])
        assert np.all(factor[1] == 1) and np.all(of_codes[1] == 1)
        assert factor[0, 30] == pytest.approx(float(widening(2.0))) and 1 < factor[0, 30] <= math.sqrt(1.03)
        assert factor[0, 8] > factor[0, 30] and factor[0, 2] == 1  # the window is short near the ends; unknown is 1
        alone, *ones = unsmooth(curve, np.array([2.0, np.nan]), errors=False)
        np.testing.assert_array_equal(alone, seen)
        assert all((each == 1).all() for each in ones)

    @pytest.mark.parametrize("sigma", [0.05, 0.318, 0.35, 0.6, 0.9, 1.4, 2.0, 2.6, 4.0])
    def test_taking_bends_out_adds_three_per_cent_of_variance_at_most(self, sigma: float) -> None:
        """With the 1.9 % that a sum is short of the Cramer-Rao bound: within 5 %."""
        bound = 1 / quad(lambda z: math.exp(-z * z) / (2 * math.pi) / float(ndtr(z) * ndtr(-z)), -9, 9)[0]
        assert 1 <= float(widening(sigma)) ** 2 <= 1.03
        assert float(widening(sigma)) ** 2 / math.sqrt(math.pi) <= 1.05 * bound

    def test_the_widening_is_what_normal_thresholds_with_their_covariance_show(self) -> None:
        """Covariance of two transitions so many LSB apart that share reads, by quadrature instead of its closed form."""
        sigma, n = 0.7, 61
        grid = np.linspace(-8, n + 8, 60001)
        p = ndtr((grid[:, None] - np.arange(n)) / sigma)
        shared = np.array([np.trapezoid(p[:, lag] * (1 - p[:, 0]), grid) for lag in range(n)])
        covariance = shared[np.abs(np.subtract.outer(np.arange(n), np.arange(n)))]
        seen, factor, of_codes = unsmooth(np.eye(n) + np.arange(n), np.full(n, sigma))
        linear = (
            seen - unsmooth(np.zeros((1, n)) + np.arange(n), np.array([sigma]))[0]
        )  # row i: what threshold i adds to each
        middle = linear[:, n // 2]
        assert factor[0, n // 2] ** 2 == pytest.approx(middle @ covariance @ middle / shared[0], rel=1e-4)
        step = linear[:, n // 2 + 1] - middle
        assert of_codes[0, n // 2] ** 2 == pytest.approx(
            step @ covariance @ step / 2 / (shared[0] - shared[1]), rel=1e-4
        )

    def test_smoothing_leaves_straight_lines(self) -> None:
        curve = np.stack([np.arange(60.0), 2 * np.arange(60.0)])
        curve[:, :4] = curve[:, -5:] = np.nan
        np.testing.assert_allclose(unsmooth(curve, np.array([2.0, 0.3]))[0], curve, atol=1e-12)
        np.testing.assert_allclose(local_slope(curve)[1, 4:-5], 2, rtol=1e-12)


class TestStimulus:
    @pytest.mark.parametrize("name", ["sram65", "charge-native", "rram130-differential"])
    def test_columns_get_the_wanted_sum(self, name: str) -> None:
        mac = load_chip(name).mac()
        sums = np.arange(mac.sum_min, mac.sum_max + 1, mac.cell_max)
        x = inputs(sums, mac, 5)
        assert x.shape == (len(sums), mac.rows) and x.max() < mac.digit
        np.testing.assert_array_equal(x.sum(axis=1, dtype=int) * mac.cell_max, np.abs(sums))

    def test_no_row_is_favoured_and_levels_do_not_depend_on_each_other(self) -> None:
        mac = load_chip("sram65").mac()
        x = inputs(np.arange(mac.sum_max + 1), mac, 0)
        use = x.sum(axis=0, dtype=int)
        expected = x.sum(dtype=int) / mac.rows
        assert np.all(np.abs(use - expected) < 6 * math.sqrt(len(x) * 7.5**2))
        np.testing.assert_array_equal(inputs(np.array([1234]), mac, 0)[0], x[1234])
        assert np.any(inputs(np.array([1234]), mac, 1)[0] != x[1234])


def collect(divisor: int, dies: int) -> dict[str, np.ndarray]:
    spec, rng = chip(), np.random.default_rng(20 + divisor)
    found = []
    for number in range(dies):
        t = tables(spec, number, spec.mac(range_divisor=divisor))
        found.append(standard(t, fit(simulate(t, laid_out(t, spec), rng))))
    return {name: np.concatenate([f[name] for f in found]) for name in found[0]}


class TestTruth:
    """Bounds: binomial at one in ten thousand for figures of a converter, [0.93, 0.97] for the many thresholds, which
    depend on each other; mean errors under 4.5 of their standard errors."""

    def check(self, z: dict[str, np.ndarray]) -> None:
        for name in ("T", "inl"):
            assert 0.93 <= np.mean(np.abs(z[name]) < 1.96) <= 0.97, name
        for name in ("gain", "offset", "sigma"):
            within(name, int((np.abs(z[name]) < 1.96).sum()), len(z[name]))
            assert abs(z[name].mean()) < 4.5 / math.sqrt(len(z[name])), name
        assert abs(z["T"].mean()) < 4.5 / math.sqrt(len(z["gain"])) / 10

    @pytest.mark.parametrize("divisor", [1, 2])
    def test_intervals_cover_and_estimates_are_unbiased(self, divisor: int) -> None:
        self.check(collect(divisor, 6))

    @pytest.mark.parametrize("divisor", [4, 8])
    def test_wide_noise_smooths_the_curve_only_at_its_ends(self, divisor: int) -> None:
        spec, rng = chip(), np.random.default_rng(divisor)
        t = tables(spec, 1, spec.mac(range_divisor=divisor))
        r = fit(simulate(t, laid_out(t, spec), rng))
        inside = slice(20, -20)
        z = (r.thresholds - true_thresholds(t))[:, inside] / r.threshold_se[:, None]
        assert np.isfinite(z).all()
        assert 0.92 <= np.mean(np.abs(z) < 1.96) <= 0.98
        assert np.abs(np.log(r.noise_lsb / (t.sigma / 65536))).max() < 0.02

    def test_added_gain_moves_only_gain_and_added_offset_only_offset(self) -> None:
        mac, spec = chip().mac(), chip()
        results = {}
        for gain, offset in ((0.97, 0.0), (0.99, 0.0), (0.97, 1.7)):
            t = straight(mac, gain, offset, 0.35)
            r = fit(simulate(t, laid_out(t, spec), np.random.default_rng(3)))
            assert np.all(np.abs(r.gain - gain) < 5 * r.gain_se)
            assert np.all(np.abs(r.offset - offset) < 5 * r.offset_se)
            results[gain, offset] = r
        base = results[0.97, 0.0]
        for other in results.values():
            assert np.all(np.abs(other.noise_lsb / base.noise_lsb - 1) < 0.08)
            assert np.nanmax(np.abs(other.inl)) < 5.5 * np.nanmax(other.inl_se)

    @pytest.mark.study
    def test_added_gain_moves_only_gain_over_six_hundred_dies(self) -> None:
        """Of eight converters each. What is not added is the same on average, to within chance."""
        mac, spec, rng = chip().mac(), chip(), np.random.default_rng(6)
        off: dict[tuple[float, float], list[np.ndarray]] = {}
        for _ in range(600):
            for gain, offset in ((0.97, 0.0), (0.99, 0.0), (0.97, 1.7)):
                t = straight(mac, gain, offset, 0.35)
                r = fit(simulate(t, laid_out(t, spec), rng))
                middle = slice(20, -20)
                bent = np.abs(r.inl[:, middle] / r.inl_se[:, middle]).mean(axis=1)
                errors = (
                    (r.gain - gain) / r.gain_se,
                    (r.offset - offset) / r.offset_se,
                    np.log(r.noise_lsb / 0.35),
                    bent,
                )
                off.setdefault((gain, offset), []).append(np.stack(errors))
        means = {key: np.concatenate(parts, axis=1) for key, parts in off.items()}
        for key, values in means.items():
            se = values.std(axis=1) / math.sqrt(values.shape[1])
            print(key, "gain, offset, noise, INL:", np.round(values.mean(axis=1), 4), "+-", np.round(1.96 * se, 4))
            assert np.all(np.abs(values[:3].mean(axis=1)) < 4 * se[:3])
            assert abs(values[3].mean() - means[0.97, 0.0][3].mean()) < 4 * math.sqrt(2) * se[3]

    def test_an_offset_of_whole_codes_shifts_the_thresholds_by_as_many(self) -> None:
        mac, spec = chip().mac(), chip()
        a, b = (
            fit(simulate(t, laid_out(t, spec), np.random.default_rng(4)))
            for t in (straight(mac, 1.0, 0.0, 0.35), straight(mac, 1.0, 3.0, 0.35))
        )
        both = a.reachable[:, 10:-10] & b.reachable[:, 13:-7]
        assert both.all()
        np.testing.assert_allclose(a.thresholds[:, 10:-10], b.thresholds[:, 13:-7], atol=0.01)

    def test_blocks_of_converters_are_fitted_the_same_on_any_number_of_threads(
        self, threads: Callable[[int], None]
    ) -> None:
        spec = chip(array={"macros": 3})
        t = tables(spec, 1, spec.mac())
        counts, found = simulate(t, laid_out(t, spec), np.random.default_rng(8)), []
        for count in (1, 2, 3):
            threads(count)
            found.append(fit(counts))
        for name in (*RESULT_ARRAYS, *ADDED_ARRAYS):
            assert all(np.array_equal(getattr(r, name), getattr(found[0], name), equal_nan=True) for r in found), name
        assert found[0].flags == found[1].flags == found[2].flags

    @pytest.mark.parametrize("divisor", [1, 8])
    def test_a_fit_without_lines_tells_all_else_as_one_with_them(self, divisor: int) -> None:
        """What adaptive runs plan by must not change with what is left out."""
        spec = chip()
        t = tables(spec, 3, replace(spec.mac(), range_divisor=divisor))
        counts = simulate(t, laid_out(t, spec), np.random.default_rng(0))
        whole, part = fit(counts, rough=True), fit(counts, rough=True, lines=False)
        for field in ("thresholds", "threshold_se", "noise_lsb", "noise_low", "noise_high", "half_width"):
            np.testing.assert_array_equal(getattr(part, field), getattr(whole, field))
        assert np.isfinite(part.threshold_se).any() and np.isnan(part.gain).all() and np.isnan(part.dnl).all()
        kept = [tuple(flag for flag in flags if flag != "missing-codes") for flags in whole.flags]
        assert list(part.flags) == kept

    def test_codes_out_of_reach_have_no_threshold(self) -> None:
        spec = chip()
        t = straight(spec.mac(), 0.95, 4.0, 0.35)
        r = fit(simulate(t, laid_out(t, spec), np.random.default_rng(5)))
        u = (np.arange(1, 128) - 0.5 - 4.0) / 0.95
        assert np.all(u[r.reachable[0]] > 2.5 * 0.35) and np.all(u[r.reachable[0]] < 127 - 2.5 * 0.35)
        assert not r.reachable[:, :4].any() and r.reachable[:, 6:-4].all()
        assert np.isnan(r.inl[~r.reachable]).all()

    def test_half_width_is_what_was_asked_for(self) -> None:
        spec = chip()
        for half_width in (0.05, 0.1, 0.2):
            t = tables(spec, 3, spec.mac())
            r = fit(simulate(t, laid_out(t, spec, half_width), np.random.default_rng(6)))
            assert 0.85 <= math.sqrt(np.mean(r.half_width**2)) / half_width <= 1.03


class TestFlags:
    def test_dead_silent_and_jumping_converters_are_named(self) -> None:
        spec = chip()
        mac = spec.mac()
        u = axis(mac)
        curves = [u, np.full_like(u, 64.0), np.where(u < 60.2, 0.0, 127.0), u, u]
        t = AdcTables(mac, to_table(np.stack(curves)), (np.array([0.35, 0.0, 0.0, 0.0, 0.35]) * 65536).astype(np.int32))
        r = fit(simulate(t, Plan(mac, np.arange(0, 2161, 5), 5, 3, 0.35), np.random.default_rng(7)))
        assert r.flags[0] == r.flags[4] == ()
        assert "stuck" in r.flags[1] and "few-transitions" in r.flags[1]
        assert "few-transitions" in r.flags[2] and np.isnan(r.gain[2])
        assert set(r.flags[3]) == {"noise-not-identified", "coarse-steps"}
        assert r.gain[3] == pytest.approx(1, abs=0.01)
        assert np.all(np.abs(r.thresholds[3] - (np.arange(1, 128) - 0.5))[r.reachable[3]] <= r.threshold_se[3] * 1.96)

    def test_one_dac_bit_of_half_the_rows_is_refused(self, tmp_path: Path) -> None:
        mac = load_chip("sram65").mac(dac_bits=1, rows=72)
        assert unit(mac) > 2.5 * 0.35
        with (
            open_board("emulator:sram65?die=1") as board,
            pytest.raises(InputError, match="apart and the noise is .* fewer ADC bits"),
        ):
            characterize(board, points=[mac], adcs=range(8), out=tmp_path)
        assert not list(tmp_path.iterdir())

    def test_a_silent_chip_is_refused(self, tmp_path: Path) -> None:
        spec = load_chip("sram65")
        with open_board("emulator:sram65?noise=off") as board, pytest.raises(InputError, match="finer steps"):
            characterize(board, points=default_points(spec, range_divisors=[1]), adcs=[0, 1], out=tmp_path)


class TestOnABoard:
    @pytest.mark.parametrize("name", ["sram65", "charge-native", "rram130-differential"])
    def test_tables_of_the_profile_are_those_of_the_die(self, name: str, tmp_path: Path) -> None:
        spec = load_chip(name)
        data = spec.to_dict()
        data["array"] |= {"macros": 1, "columns": 16}
        data["adc"] |= {"per_macro": 16 // spec.columns_per_adc}
        data["cells"] = {}  # a curve is measured through the cells, and the die's tables are of the converters alone
        spec = ChipSpec.from_dict(data)
        board = board_of(spec, tmp_path)
        point = spec.mac(range_divisor=1)
        profile = characterize(board, points=[point], out=tmp_path)
        assert profile.points[0].flags == ((),) * spec.adc.per_macro
        true, found = tables(spec, 2, point), profile.tables(point)
        error = (found.transfer - true.transfer) / 65536
        in_range = (
            np.abs(true.transfer / 65536 - (point.code_min + point.code_max) / 2)
            < (point.code_max - point.code_min) / 2 - 1
        )
        assert math.sqrt(np.mean(error[in_range] ** 2)) < 0.1
        assert np.all(np.abs(found.sigma / true.sigma - 1) < 0.08)

    def test_the_same_seed_gives_the_same_profile_on_any_number_of_threads(self, tmp_path: Path) -> None:
        spec = small()
        threads, hashes = torch.get_num_threads(), []
        try:
            for count, seed in ((1, 0), (2, 0), (2, 1)):
                torch.set_num_threads(count)
                profile = characterize(board_of(spec, tmp_path), seed=seed, reads=8, out=tmp_path / f"{count}{seed}")
                hashes.append(profile.hash)
        finally:
            torch.set_num_threads(threads)
        assert hashes[0] == hashes[1] != hashes[2]

    def test_some_converters_only(self, tmp_path: Path) -> None:
        spec = small()
        seen: list[tuple[int, int]] = []
        with board_of(spec, tmp_path) as board:
            profile = characterize(board, adcs=[3, 1], reads=8, out=tmp_path, progress=lambda a, b: seen.append((a, b)))
        flags = profile.points[0].flags
        assert [f == ("not-measured",) for f in flags] == [True, False, True, False]
        assert seen == [(1, 2), (2, 2)]
        with pytest.raises(InputError, match="covers only 2 of 4 ADCs .*without --adcs"):
            profile.tables(spec.mac())

    def test_reads_can_be_set(self, tmp_path: Path) -> None:
        with board_of(small(), tmp_path) as board:
            assert characterize(board, reads=20, out=tmp_path).points[0].reads == 24  # whole array cycles of 8 columns

    @pytest.mark.parametrize(
        ("wrong", "message"),
        [
            ({"adcs": [99]}, "has ADC 0..3"),
            ({"adcs": []}, "at least one"),
            ({"half_width": 0.0}, "half_width = 0.0"),
            ({"half_width": math.nan}, "half_width = nan"),
            ({"reads": 1}, "reads = 1"),
            ({"points": []}, "at least one operating point"),
            ({"seed": -1}, "seed = -1"),
        ],
    )
    def test_wrong_arguments_are_named(self, wrong: dict[str, object], message: str, tmp_path: Path) -> None:
        with board_of(small(), tmp_path) as board, pytest.raises(InputError, match=message):
            characterize(board, out=tmp_path / "out", **wrong)  # type: ignore[arg-type]
        assert not (tmp_path / "out").exists()

    def test_repeated_measurements_draw_fresh_noise(self, tmp_path: Path) -> None:
        spec = small()
        p = Plan(spec.mac(), np.arange(0, 2161, 6), 6, 2, 0.35)
        with board_of(spec, tmp_path) as board:
            a, b = (measure(board, p, seed=seed) for seed in (0, 1))
        assert np.any(a.histogram.shape != b.histogram.shape) or np.any(a.histogram != b.histogram)


def small() -> ChipSpec:
    """Four converters of eight columns and two ranges."""
    return chip(array={"columns": 32}, adc={"per_macro": 4, "range_divisors": [1, 2]})


def board_of(spec: ChipSpec, folder: Path):  # type: ignore[no-untyped-def]
    """Die 2 of a chip of one's own, opened as a user would."""
    from pimchip.profile.manifest import to_toml

    path = folder / "chip.toml"
    path.write_text(to_toml(spec.to_dict()), encoding="utf-8")
    return open_board(f"emulator:{path}?die=2")
