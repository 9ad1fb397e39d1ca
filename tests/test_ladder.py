"""The ladder of models chooses what a die is made of, by reads that it was not fitted to."""

from __future__ import annotations

import numpy as np
import pytest
from staircases import chip, laid_out, simulate, tables, true_thresholds

from pimchip.characterize import fit
from pimchip.characterize.ladder import MODELS, Ladder, climb, split
from pimchip.chip import ChipSpec
from pimchip.profile import Counts


def counts_of(spec: ChipSpec, number: int = 3, half_width: float = 0.1) -> Counts:
    t = tables(spec, number, spec.mac())
    return simulate(t, laid_out(t, spec, half_width), np.random.default_rng(number))


def rms(spec: ChipSpec, counts: Counts, found: Ladder, number: int = 3) -> dict[str, float]:
    """Of each model's thresholds against the truth, where the table has one."""
    true, known = true_thresholds(tables(spec, number, spec.mac())), fit(counts).reachable
    return {r.model: float(np.sqrt(np.nanmean((r.thresholds - true)[known] ** 2))) for r in found.rungs}


class TestChoice:
    def test_straight_converters_are_lines_and_nothing_more_is_seen_in_them(self) -> None:
        spec = chip(adc={"inl_residual": 0.0, "inl_master": 0.0})
        counts = counts_of(spec)
        found = climb(counts)
        assert found.chosen == "line"
        assert np.isnan(found.of("master").explained)
        error = rms(spec, counts, found)
        assert error["line"] < error["table"] / 4

    def test_a_common_curve_with_deviations_is_master_and_residual(self) -> None:
        spec = chip()
        counts = counts_of(spec)
        found = climb(counts)
        assert found.chosen in ("residual", "table")
        error = rms(spec, counts, found)
        assert error["residual"] <= error["table"]
        assert error["master"] < error["line"] / 2
        # Curves of 1.5 LSB at most and deviations of 0.3 LSB rms: the master explains most, the residual the rest.
        assert 0.5 < found.of("master").explained < 0.97
        assert found.of("line").explained == pytest.approx(0, abs=1e-6)
        assert found.of("residual").explained > 0.98

    def test_with_coarse_measuring_the_common_curve_is_better_than_the_table(self) -> None:
        spec = chip(adc={"inl_residual": 0.02})
        counts = counts_of(spec, half_width=0.3)
        found = climb(counts)
        assert found.chosen in ("master", "residual")
        error = rms(spec, counts, found)
        assert error[found.chosen] < 0.7 * error["table"]

    def test_bits_that_weigh_too_much_are_found_with_their_weights(self) -> None:
        """Thresholds of a SAR: word w comes at the sum of the weights of its bits; the line takes what is linear in w."""
        spec = chip(adc={"inl_residual": 0.0, "inl_master": 0.0})
        mac = spec.mac()
        rng = np.random.default_rng(0)
        errors = rng.normal(0, 0.25, (32, 7))
        errors[:, :3] = 0
        word = np.arange(1, 128)
        pattern = word[:, None] >> np.arange(7) & 1
        u = np.arange(mac.sum_max + 1) * 127 / mac.sum_max
        counts = counts_of(spec)
        shift = (errors @ pattern.T).astype(np.float64)
        base = counts.base.copy()
        reads = counts.reads
        wide = np.zeros((32, len(counts.levels), 8), np.uint32)
        for j in range(32):
            edges = word - 0.5 + shift[j]
            for level, v in enumerate(counts.levels):
                seen = np.maximum.accumulate(np.sort(edges)).searchsorted(
                    u[v] + 0.35 * rng.standard_normal(reads), "right"
                )
                base[j, level] = seen.min()
                wide[j, level, : np.ptp(seen) + 1] = np.bincount(seen - seen.min())
        found = climb(Counts(mac, counts.levels, reads, counts.cycles, base, wide))
        assert found.of("sar").explained > 0.8
        assert found.of("sar").loss < found.of("master").loss
        differ = found.bit_weights[:, 6] - found.bit_weights[:, 5]
        assert np.corrcoef(differ, errors[:, 6] - errors[:, 5])[0, 1] > 0.7

    def test_two_seeds_hold_out_other_reads_and_the_same_seed_the_same(self) -> None:
        counts = counts_of(chip(), half_width=0.2)
        a, b, c = (climb(counts, seed=seed) for seed in (0, 0, 1))
        assert [r.loss for r in a.rungs] == [r.loss for r in b.rungs] != [r.loss for r in c.rungs]
        assert tuple(r.model for r in a.rungs) == MODELS


def test_held_out_reads_and_kept_ones_are_all_reads() -> None:
    counts = counts_of(chip(), half_width=0.3)
    kept, held = split(counts, 5)

    def by_code(c: Counts) -> np.ndarray:
        out = np.zeros((*c.base.shape, 128 + c.histogram.shape[2]), np.int64)
        j, level, i = np.nonzero(c.histogram)
        np.add.at(out, (j, level, c.base[j, level] + i), c.histogram[j, level, i])
        return out

    np.testing.assert_array_equal(by_code(kept) + by_code(held), by_code(counts))
    share = held.histogram.sum() / counts.histogram.sum()
    assert 0.1 < share < 0.3
    # Drawn at random: the mean code of both is the same, to within its error.
    codes = np.arange(by_code(held).shape[2])
    means = [(by_code(c) * codes).sum(axis=(1, 2)) / by_code(c).sum(axis=(1, 2)) for c in (kept, held)]
    assert abs(float((means[0] - means[1]).mean())) < 0.2
