"""Reads that go where the uncertainty is: what they cost, whether their intervals hold, and going on after a cut."""

from __future__ import annotations

from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cycle_bounds import Information, cycles_at_least, reads_at_least
from scipy.optimize import minimize
from scipy.special import ndtr
from staircases import axis, chip, tables
from test_bands import NAMES, check, truth

from pimchip.board import Board
from pimchip.board.inprocess import InProcessBoard
from pimchip.characterize import characterize, default_points, fit
from pimchip.characterize.allocation import allocate, pattern
from pimchip.characterize.drift import Sweep, drift_of
from pimchip.characterize.journal import FOLDER, Journal
from pimchip.characterize.measure import Clock
from pimchip.characterize.measuring import Wanted, measured
from pimchip.characterize.tallies import add, spread, tally
from pimchip.chip import AdcTables, ChipSpec, Mac
from pimchip.emulator.die import Die
from pimchip.emulator.state import Conditions
from pimchip.emulator.virtual import VirtualBoard
from pimchip.errors import InputError
from pimchip.profile import Counts


class Graded(Die):
    """A die whose converters' noise is multiplied by `factors` [adcs]."""

    def __init__(self, spec: ChipSpec, number: int, factors: np.ndarray) -> None:
        super().__init__(spec, number)
        self.factors = factors

    def tables(self, mac: Mac, trim: np.ndarray, at: Conditions) -> AdcTables:
        t = super().tables(mac, trim, at)
        return AdcTables(mac, t.transfer, np.rint(t.sigma * self.factors).astype(np.int32))


def board_of(spec: ChipSpec, die: Die, seed: int = 0) -> InProcessBoard:
    return InProcessBoard(VirtualBoard(spec, die, noise_seed=seed), f"emulator:test?seed={seed}")


def counts_of(
    board: Board, mac: Mac, half_width: float, seed: int, out: Path, even: bool = False
) -> tuple[Counts, int]:
    """Counts and all array cycles, those of first looks too."""
    spec, clock = board.info().spec, Clock(seed)
    wanted = Wanted(half_width, None, tuple(range(spec.array.macros * spec.adc.per_macro)), seed, even=even)
    journal = Journal(out, {"seed": seed, "even": even, "half_width": half_width})
    return measured(board, mac, wanted, clock, journal, "0", lambda: None), clock.vector


def covered(
    out: Path, divisor: int, dies: int, first: int = 0, half_width: float = 0.1, factor: float = 1.0
) -> dict[str, np.ndarray]:
    """As of test_bands, with the stop rule on. factor: of the noise."""
    spec, hits = chip(), {}  # type: ignore[var-annotated]
    mac = spec.mac(range_divisor=divisor)
    for number in range(first, first + dies):
        board = board_of(spec, Graded(spec, number, np.full(32, factor)), number)
        r = fit(counts_of(board, mac, half_width, number, out / f"{number}")[0])
        assert r.half_width.max() <= 1.02 * half_width
        values, gain, offset = truth(tables(spec, number, mac), r)
        for name, true in values.items():
            low, high = r.band(name)
            known = np.isfinite(low)
            hits.setdefault(NAMES[name], []).append(((low <= true) & (true <= high))[known])
            low, high = r.band(name, simultaneous=True)
            hits.setdefault(f"{NAMES[name]} band", []).append((((low <= true) & (true <= high)) | ~known).all(axis=1))
        sigma = np.rint(tables(spec, number, mac).sigma * factor) / 65536
        hits.setdefault("gain", []).append(np.abs(r.gain - gain) < 1.96 * r.gain_se)
        hits.setdefault("offset", []).append(np.abs(r.offset - offset) < 1.96 * r.offset_se)
        hits.setdefault("sigma", []).append((r.noise_low < sigma) & (sigma < r.noise_high))
        assert not r.flagged("drift").any()
    return {name: np.concatenate(parts) for name, parts in hits.items()}


class TestStopRule:
    def test_intervals_hold_the_truth_with_the_stop_rule_on(self, tmp_path: Path) -> None:
        check(covered(tmp_path, 1, 5), slack=0.05)

    @pytest.mark.study
    @pytest.mark.parametrize(("divisor", "factor"), [(1, 1.0), (4, 1.0), (1, 0.5)])
    def test_over_six_hundred_dies(self, divisor: int, factor: float, tmp_path: Path) -> None:
        """Where noise is half of the usual, a level more or less is much of what a transition is told from."""
        found = covered(tmp_path, divisor, 600, first=5000, factor=factor)
        print(divisor, factor, {name: round(float(np.mean(hit)), 4) for name, hit in found.items()})
        check(found)


def spent(spec: ChipSpec, die: Die, half_width: float, out: Path) -> tuple[float, float, float, float]:
    """Array cycles of an adaptive run over those of an even staircase that reaches the same worst half-width; with what
    the even one's first look costs; the adaptive run's cycles, and that half-width. An even staircase's variance goes as one
    over its cycles."""
    adaptive = even = 0.0
    looks = 0
    worst = []
    for evenly in (False, True):
        counts, total = counts_of(board_of(spec, die), spec.mac(), half_width, 1, out, evenly)
        worst.append(float(np.nanmax(fit(counts).half_width)))
        if evenly:
            even, looks = counts.array_cycles * (worst[1] / worst[0]) ** 2, total - counts.array_cycles
        else:
            adaptive = total
    assert worst[0] <= 1.02 * half_width
    return adaptive / even, adaptive / (even + looks), adaptive, worst[0]


def fewest(spec: ChipSpec, die: Die, half_width: float) -> float:
    """Array cycles of any plan for a half-width, at least."""
    middle = np.full(spec.array.macros * spec.adc.per_macro, (1 << spec.adc.trim_bits) >> 1)
    truth_of = die.tables(spec.mac(), middle, Conditions(25.0))
    return cycles_at_least(truth_of, axis(spec.mac()), spec.adc.per_macro, spec.columns_per_adc, half_width)


def eight() -> ChipSpec:
    """sram65 with a single range: eight macros of 32 converters."""
    return chip(array={"macros": 8}, adc={"range_divisors": [1]})


class TestCost:
    """Ratios of counted array cycles: the same on any machine."""

    def test_no_dearer_than_an_even_staircase_on_an_ordinary_die(self, tmp_path: Path) -> None:
        spec = eight()
        assert spent(spec, Die(spec, 3), 0.1, tmp_path)[0] <= 1.05

    def test_a_third_cheaper_where_macros_differ_three_to_one(self, tmp_path: Path) -> None:
        spec = eight()
        factors = np.repeat(np.linspace(1 / 3, 1, 8) * 1.5, 32)
        assert spent(spec, Graded(spec, 3, factors), 0.1, tmp_path)[0] <= 0.7

    def test_a_third_cheaper_where_one_converter_is_three_times_as_noisy(self, tmp_path: Path) -> None:
        spec = eight()
        factors = np.ones(256)
        factors[77] = 3
        assert spent(spec, Graded(spec, 4, factors), 0.1, tmp_path)[0] <= 0.7

    @pytest.mark.study
    def test_over_dies_and_ways_of_spreading(self, tmp_path: Path) -> None:
        spec, found = eight(), {}  # type: ignore[var-annotated]
        for number in range(4):
            rng = np.random.default_rng(number)
            ways = {
                "as drawn": np.ones(256),
                "by macro": np.repeat(rng.permutation(np.linspace(1, 3, 8)) / 2, 32),
                "one": np.where(np.arange(256) == rng.integers(256), 3.0, 1.0),
                "one in forty": np.where(rng.permutation(256) < 6, 3.0, 1.0),
                "any, log-uniform": 3.0 ** rng.uniform(-0.5, 0.5, 256),
                "any, normal": np.clip(1 + 0.18 * rng.standard_normal(256), 0.5, 1.5),
            }
            for way, factors in ways.items():
                die = Graded(spec, 100 + number, factors)
                for half_width in (0.1, 0.2):
                    *ratios, cycles, reached = spent(spec, die, half_width, tmp_path / f"{number}{way}{half_width}")
                    found.setdefault((way, half_width), []).append((*ratios, cycles / fewest(spec, die, reached)))
                    print(number, way, half_width, np.round(found[way, half_width][-1], 3), flush=True)
        for key, all_of in found.items():
            print(key, np.round(np.mean(all_of, axis=0), 3), "worst", round(max(r[0] for r in all_of), 3))
        assert min(r[2] for all_of in found.values() for r in all_of) >= 1
        assert max(r[2] for (_, half_width), all_of in found.items() if half_width == 0.1 for r in all_of) <= 1.25
        assert max(r[0] for all_of in found.values() for r in all_of) <= 1.05
        # Whole runs, with what each looked at first. Without the even one's look, the fewest cycles of any plan come too
        # near to 0.7 of it on some dies for more than being near to them. At 0.2 LSB a single sweep, with steps that the
        # quietest macro's noise allows, is all that the noisiest one needs: nothing is left to be saved.
        told = [r for way in ("by macro", "one") for r in found[way, 0.1]]
        assert max(r[1] for r in told) <= 0.7
        assert all(r[0] <= 0.7 or r[2] <= 1.17 for r in told)


class TestFewestCycles:
    def converters(self) -> tuple[list[Information], np.ndarray]:
        u = np.linspace(0, 7, 60)
        curves = (u, 1.05 * u - 0.4, u + 0.02 * u * (7 - u))
        return [Information(curve, u, sigma, 8) for curve, sigma in zip(curves, (0.3, 0.33, 0.28), strict=True)], u

    def test_the_bound_is_just_below_what_a_general_optimizer_finds(self) -> None:
        converters, u = self.converters()
        bound = reads_at_least(converters, len(u))

        def worst(x: np.ndarray) -> float:
            share = np.exp(x - x.max())
            return float(np.logaddexp.reduce([400 * c.variance(share / share.sum())[0] for c in converters])) / 400

        best = minimize(worst, np.zeros(len(u)), method="L-BFGS-B", options={"maxiter": 300, "maxfun": 60000})
        share = np.exp(best.x - best.x.max())
        reached = max(c.variance(share / share.sum())[0] for c in converters)
        assert 0.96 * reached <= bound <= reached

    def test_no_plan_drawn_at_random_beats_it(self) -> None:
        converters, u = self.converters()
        bound, rng = reads_at_least(converters, len(u)), np.random.default_rng(0)
        for share in rng.dirichlet(np.full(len(u), 2.0), 300):
            assert max(c.variance(share)[0] for c in converters) >= bound

    def test_information_is_that_of_simulated_reads(self) -> None:
        """The score's variance, by finite differences of the log-likelihood of codes drawn at a level."""
        (one, *_), u = self.converters()
        sigma, level = 0.3, 30
        rng = np.random.default_rng(1)
        codes = np.clip(np.floor(u[level] + sigma * rng.standard_normal(400_000) + 0.5), 0, 7).astype(int)

        def likelihood(moved: np.ndarray) -> np.ndarray:
            passed = np.concatenate([[1.0], ndtr((u[level] - moved) / sigma), [0.0]])
            return np.log(np.maximum(-np.diff(passed), 1e-300))[codes]

        places = np.arange(1, 8) - 0.5
        shown = (places > 0.9) & (places < 6.1)
        scores = np.stack([(likelihood(places + e) - likelihood(places - e)) / 2e-4 for e in 1e-4 * np.eye(7)[shown]])
        found = scores @ scores.T / codes.size
        np.testing.assert_allclose(np.diag(found), one.diagonal[level], rtol=0.05, atol=0.02)
        np.testing.assert_allclose(np.diag(found, 1), one.beside[level], rtol=0.05, atol=0.02)


class TestAllocation:
    def test_one_converter_gets_the_closed_form(self) -> None:
        a = np.array([[0.0, 1.0, 4.0, 9.0, 0.0]])
        got = allocate(a, 0.05, np.zeros(5, np.int64))
        assert np.abs(got - np.array([0, 1, 2, 3, 0]) * 6 / 0.05).max() <= 1 and got[0] == got[4] == 0

    def test_several_converters_cost_what_a_general_optimizer_finds(self) -> None:
        rng = np.random.default_rng(0)
        a, variance = rng.uniform(0, 1, (4, 12)) * np.array([[1], [0.3], [1.2], [0.9]]), 0.02
        got = allocate(a, variance, np.zeros(12, np.int64))
        assert np.all((a / got).sum(axis=1) <= variance)
        best = minimize(
            lambda x: np.exp(x).sum(), np.log(got * 1.1), method="SLSQP", options={"maxiter": 500},
            constraints=[{"type": "ineq", "fun": lambda x, i=i: 1 - (a[i] / np.exp(x)).sum() / variance} for i in range(4)],
        )  # fmt: skip
        assert got.sum() <= best.fun * 1.003

    def test_few_whole_cycles_are_as_few_as_a_search_of_all_finds(self) -> None:
        rng = np.random.default_rng(2)
        every = np.array(list(product(range(1, 5), repeat=6)))
        over = []
        for _ in range(20):
            a = rng.uniform(0.05, 1, (3, 6))
            variance = float(a.sum(axis=1).max()) * rng.uniform(0.4, 0.9)
            got = allocate(a, variance, np.ones(6, np.int64))
            assert np.all((a / got).sum(axis=1) <= variance)
            met = ((a / every[:, None, :]).sum(axis=2) <= variance).all(axis=1)
            over.append(got.sum() - every[met].sum(axis=1).min())
        assert max(over) <= 1 and np.mean(over) <= 0.2

    def test_what_was_read_already_counts(self) -> None:
        got = allocate(np.ones((1, 3)), 0.05, np.array([0, 100, 0]))
        assert got.tolist() == [50, 100, 50]

    @pytest.mark.parametrize("sigma", [0.15, 0.25, 0.4])
    def test_what_a_level_tells_between_transitions_is_as_worked_out_from_the_truth(self, sigma: float) -> None:
        """Against the sum over all transitions, of a bent curve whose codes are known in closed form."""
        u, k = np.arange(0, 58, 0.1), np.arange(1, 64)
        code = 1.05 * u - 3e-4 * u * u
        places = (1.05 - np.sqrt(1.05**2 - 4 * 3e-4 * k)) / (2 * 3e-4)
        z = (code[:, None] - k) / sigma
        true = (ndtr(z) * ndtr(-z)).sum(axis=1) * np.sqrt(np.pi) / sigma
        inner = u > 5
        got = pattern(places[None], np.array([sigma]), u)[0, inner]
        np.testing.assert_allclose(got, np.maximum(true[inner], 0.05), rtol=0.02, atol=0.01)
        assert pattern(np.full((1, 64), np.nan), np.array([sigma]), u).tolist() == [[1.0] * len(u)]


def test_tallies_add_up_whatever_their_spans() -> None:
    rng = np.random.default_rng(0)
    codes = rng.integers(0, 12, (6, 5, 3, 2)).astype(np.int32) + np.arange(5, dtype=np.int32)[:, None, None]
    whole_tally = tally(codes, 12)
    parts = add(tally(codes[:2], 4), tally(codes[2:], 8))
    levels = add(
        spread(tally(codes[:, :2], 12), np.array([0, 1]), 5), spread(tally(codes[:, 2:], 12), np.array([2, 3, 4]), 5)
    )
    for found in (parts, levels):
        np.testing.assert_array_equal(found.base, whole_tally.base)
        np.testing.assert_array_equal(found.histogram, whole_tally.histogram)


class TestDrift:
    def test_a_slope_over_the_sweeps_is_found_with_its_error(self) -> None:
        rng, z = np.random.default_rng(0), []
        levels, adcs, reads, moved = 80, 50, 8, 0.07
        for _ in range(10):
            sweeps = []
            for time in np.linspace(0, 1, 4).tolist():
                mean = np.arange(levels) * 0.3 + moved * time
                sums = reads * mean + np.sqrt(reads) * 0.35 * rng.standard_normal((adcs, levels))
                sweeps.append(Sweep(sums, np.full(levels, reads), 1000 * time))
            found = drift_of(sweeps)
            z.append((found[:, 0] - moved) / found[:, 1])
        assert np.abs(np.mean(z)) < 4 / np.sqrt(500) and 0.9 < np.std(z) < 1.1

    def test_a_converter_that_moves_is_flagged_and_steady_ones_are_not(self, tmp_path: Path) -> None:
        spec = chip()
        board = Warming(spec, Die(spec, 1), moved=0.8)
        r = fit(counts_of(board, spec.mac(), 0.1, 1, tmp_path)[0])
        assert r.flagged("drift").all()
        steady = fit(counts_of(board_of(spec, Die(spec, 1)), spec.mac(), 0.1, 1, tmp_path / "steady")[0])
        assert not steady.flagged("drift").any()

    def test_one_sweep_says_nothing(self) -> None:
        np.testing.assert_array_equal(drift_of([Sweep(np.ones((2, 3)), np.ones(3, np.int64), 1.0)]), np.zeros((2, 2)))


class Warming(InProcessBoard):
    """A board whose codes rise by `moved` LSB in 1500 array cycles, in whole codes at random."""

    def __init__(self, spec: ChipSpec, die: Die, moved: float) -> None:
        super().__init__(VirtualBoard(spec, die, noise_seed=1), "emulator:warming")
        self.moved, self.done, self.rng = moved, 0, np.random.default_rng(0)

    def convert(self, tile: Any, x: Any, repeats: int = 1, *, mac: Any = None, run: Any = None) -> Any:
        codes = super().convert(tile, x, repeats, mac=mac, run=run)
        self.done += codes.shape[0] * codes.shape[1]
        up = self.rng.random(codes.shape) < self.moved * self.done / 1500
        return np.minimum(codes + up, mac.code_max).astype(np.int32)


class Cut(InProcessBoard):
    """A board whose user presses Ctrl-C after so many conversions."""

    left = 10**9

    def convert(self, tile: Any, x: Any, repeats: int = 1, *, mac: Any = None, run: Any = None) -> Any:
        self.left -= 1
        if self.left < 0:
            raise KeyboardInterrupt
        return super().convert(tile, x, repeats, mac=mac, run=run)


class TestGoingOn:
    def cut(self, spec: ChipSpec, left: int) -> Cut:
        board = Cut(VirtualBoard(spec, Die(spec, 2), noise_seed=0), "emulator:cut")
        board.left = left
        return board

    @pytest.mark.parametrize("even", [False, True])
    def test_after_ctrl_c_the_profile_is_the_same_bit_for_bit(self, even: bool, tmp_path: Path) -> None:
        spec = chip(array={"macros": 2, "columns": 64}, adc={"per_macro": 8, "range_divisors": [1, 2]})
        whole_run = characterize(self.cut(spec, 10**9), out=tmp_path / "whole", half_width=0.15, even=even)
        assert not (tmp_path / "whole" / FOLDER).exists()
        left, calls = 1, 0
        while True:
            board = self.cut(spec, left)
            calls += 1
            try:
                found = characterize(board, out=tmp_path / "cut", half_width=0.15, even=even)
                break
            except KeyboardInterrupt:
                assert (tmp_path / "cut" / FOLDER).exists()
                left += 2  # an even staircase is one step, so a step must fit at last
        assert calls > 2
        assert found.hash == whole_run.hash
        assert not (tmp_path / "cut" / FOLDER).exists()
        for name in ("counts.npz", "result.npz"):
            assert (found.path / name).read_bytes() == (whole_run.path / name).read_bytes()

    def test_steps_of_other_arguments_and_damaged_ones_are_measured_anew(self, tmp_path: Path) -> None:
        a, b = Journal(tmp_path, {"x": 1}), Journal(tmp_path, {"x": 2})
        assert a.step("0", lambda: {"v": np.array([1])})["v"] == 1
        assert b.step("0", lambda: {"v": np.array([2])})["v"] == 2
        assert a.step("0", lambda: {"v": np.array([3])})["v"] == 1 and a.resumed == 1
        path = a.folder / "0.npz"
        path.write_bytes(path.read_bytes()[:-3])
        assert a.step("0", lambda: {"v": np.array([4])})["v"] == 4
        a.done()
        assert not a.folder.exists() and b.folder.exists()

    def test_what_was_begun_of_another_kind_is_kept(self, tmp_path: Path) -> None:
        journals = [Journal(tmp_path, {"x": x}, kind) for x, kind in ((1, "a"), (2, "a"), (1, "a-b"))]
        for journal in journals:
            journal.step("0", lambda: {"v": np.array([1])})
        journals[1].drop_others()
        assert [journal.folder.exists() for journal in journals] == [False, True, True]

    def test_a_refused_measurement_leaves_nothing(self, tmp_path: Path) -> None:
        spec = chip(noise={"array_sigma": 0.0, "adc_sigma": 0.0})
        with pytest.raises(InputError, match="finer steps"):
            characterize(board_of(spec, Die(spec, 0)), points=default_points(spec, range_divisors=[1]), out=tmp_path)
        assert not list(tmp_path.iterdir())


def test_quiet_converters_get_finer_steps(tmp_path: Path) -> None:
    """A converter with a fifth of the usual noise wants steps of at most twice its own."""
    spec = chip()
    factors = np.ones(32)
    factors[5] = 0.2
    counts, _ = counts_of(board_of(spec, Graded(spec, 1, factors)), spec.mac(), 0.1, 0, tmp_path)
    r = fit(counts)
    assert r.flags == ((),) * 32
    assert counts.step <= 2 * r.noise_lsb[5]
