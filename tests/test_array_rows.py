"""Cells and rows from random sets of rows, and variance components, against the die's hidden truth."""

from __future__ import annotations

import math

import numpy as np
import pytest
from arrays import board_of, near, small, true_cells, within
from physics import middle

from pimchip.characterize.array import Components, RowsResult, components, measure_rows
from pimchip.characterize.array.rows import Sets, expected_inl, read_sets
from pimchip.chip import ChipSpec
from pimchip.emulator.die import Die
from pimchip.emulator.state import Conditions
from pimchip.errors import InputError

SIGMA = 0.02
DRAWN = math.hypot(SIGMA, 1 / 256 / math.sqrt(6))
"""What cells scatter by when they are drawn: they are rounded to 1/256 with an even dither, whose variance is a sixth of it."""


def read(spec: ChipSpec, die: int, sets: int | None = None, repeats: int = 4) -> Sets:
    return read_sets(board_of(spec, die, seed=die), spec.mac(), sets=sets, repeats=repeats, seed=die)


def weights(spec: ChipSpec, die: int) -> np.ndarray:
    """True weights of the rows about their mean, relative."""
    by_row = true_cells(spec, die).mean(axis=1)
    return np.asarray(by_row / by_row.mean() - 1)


def cells_sigma(spec: ChipSpec, die: int) -> float:
    """Scatter of one die's cells about their row and column within converters' columns, as analysis of variance has it,
    in shares of the mean cell."""
    cells = true_cells(spec, die)
    rows, columns = cells.shape
    own = cells - cells.mean(axis=1, keepdims=True) - cells.mean(axis=0) + cells.mean()
    return math.sqrt(float((own**2).sum()) / ((rows - 1) * (columns - 1))) / float(cells.mean())


class TestRows:
    def test_cells_and_rows_are_found(self) -> None:
        spec = small(cells={"mismatch_sigma": SIGMA, "ir_drop": 0.03})
        found = measure_rows(read(spec, 3))
        assert near(found.cell_sigma, cells_sigma(spec, 3)) and found.cell_sigma.low > 0.8 * SIGMA
        z = (found.weights[0] - weights(spec, 3)) / found.weight_se[0]
        assert 0.6 < z.std() < 1.4
        assert np.corrcoef(found.weights[0], weights(spec, 3))[0, 1] > 0.9
        assert found.row_sigma.holds(float(weights(spec, 3).std(ddof=1)))
        transfer = Die(spec, 3).tables(spec.mac(), middle(spec), Conditions()).transfer / 65536
        slopes = (transfer[:, 545] - transfer[:, 415]) / (130 / 15) * true_cells(spec, 3).mean()
        assert found.lsb_per_row == pytest.approx(math.sqrt(np.mean(slopes**2)), rel=0.005)

    def test_perfect_cells_scatter_by_nothing_within_the_error(self) -> None:
        found = measure_rows(read(small(), 2))
        assert found.cell_sigma.low == 0 and found.cell_sigma.high < 0.006
        assert found.row_sigma.low == 0 and found.row_sigma.high < 0.003
        assert np.abs(found.weights / found.weight_se).max() < 4.5

    def test_slow_noise_is_taken_for_neither(self) -> None:
        found = measure_rows(read(small(noise={"flicker_sigma": 0.3}), 2))
        assert found.cell_sigma.low == 0 and found.cell_sigma.high < 0.006
        assert found.row_sigma.low == 0 and found.row_sigma.high < 0.005

    def test_expected_errors_of_the_curve_are_those_of_simulated_cells(self) -> None:
        rng, sigma, rows = np.random.default_rng(3), 0.02, 64
        cells = sigma * rng.standard_normal((4000, rows))
        sums = cells.cumsum(axis=1)
        own = np.abs(sums - sums[:, -1:] * np.arange(1, rows + 1) / rows).max(axis=1).mean()
        order = rng.permuted(np.broadcast_to(np.arange(rows), (4000, rows - 1, rows)).astype(np.int8), axis=2)
        taken = order < np.arange(1, rows)[None, :, None]
        mixed = (taken * cells[:, None]).sum(axis=2) - cells.mean(axis=1, keepdims=True) * np.arange(1, rows)
        found = expected_inl(sigma, rows, 1.0, 1)
        assert found[0] == pytest.approx(own, rel=0.12)  # the bridge goes on between rows, sums do not
        assert found[1] == pytest.approx(np.abs(mixed).max(axis=1).mean(), rel=0.03)
        assert expected_inl(sigma, rows, 1.0, 16)[1] == pytest.approx(found[1] / 4)

    def test_a_seed_fixes_the_result(self) -> None:
        spec = small(cells={"mismatch_sigma": SIGMA})
        one, other = (measure_rows(read(spec, 1, sets=16)) for _ in range(2))
        assert one.cell_sigma == other.cell_sigma

    def test_what_cannot_be_told_is_refused(self) -> None:
        with pytest.raises(InputError, match="noise of 0.1. LSB does not spread.*range-divisor"):
            read(small(noise={"array_sigma": 0.0}), 1)
        with pytest.raises(InputError, match="read 2 or more"):
            read(small(), 1, repeats=1)
        with pytest.raises(InputError, match="one column a macro.*--adcs"):
            measure_rows(read_sets(board_of(small(columns=1)), small(columns=1).mac(), adcs=[3]))
        with pytest.raises(InputError, match="positions between codes.*--adcs"):
            read_sets(board_of(small()), small().mac(adc_bits=5, range_divisor=4), adcs=[3])
        dead = small(adc={"dead": 1.0})
        with pytest.raises(InputError, match="every converter is at the end"):
            read(dead, 1)

    def test_dead_converters_are_left_out_by_name(self) -> None:
        spec = small(adc={"dead": 0.3}, cells={"mismatch_sigma": SIGMA})
        found = measure_rows(read(spec, 1))
        dead = np.flatnonzero(Die(spec, 1).parameters.dead)
        assert found.left_out == tuple(dead) and near(found.cell_sigma, cells_sigma(spec, 1)) and 0 < len(dead) < 16


def rows_over_dies(dies: int) -> list[tuple[RowsResult, Components, int]]:
    spec = small(rows=32, adcs=8, cells={"mismatch_sigma": SIGMA, "ir_drop": 0.03})
    out = []
    for die in range(dies):
        sets = read(spec, die, sets=24)
        out.append((measure_rows(sets), components(sets), die))
    return out


def check_rows(found: list[tuple[RowsResult, Components, int]]) -> None:
    spec = small(rows=32, adcs=8, cells={"mismatch_sigma": SIGMA, "ir_drop": 0.03})
    true = np.array([cells_sigma(spec, die) for *_, die in found])
    values = np.array([rows.cell_sigma.value for rows, *_ in found])
    error = values**2 - true**2
    assert abs(error.mean()) < 3 * error.std(ddof=1) / math.sqrt(len(found)), "bias of the cells' variance"
    # Intervals are of the chip's cells, of which a die's are a draw.
    within("cell sigma", sum(r.cell_sigma.holds(DRAWN) for r, *_ in found), len(found))
    # Columns of 32 cells at half of full drive.
    alone = DRAWN * 16 / math.sqrt(32)
    within("columns", sum(c.column.holds(alone * r.lsb_per_row) for r, c, _ in found), len(found))
    z = np.concatenate([(r.weights[0] - weights(spec, die)) / r.weight_se[0] for r, _, die in found])
    assert 0.93 <= np.mean(np.abs(z) < 1.96) <= 0.97
    assert abs(z.mean()) < 0.1


def test_intervals_of_cells_and_rows_hold_the_truth_over_dies() -> None:
    check_rows(rows_over_dies(40))


@pytest.mark.study
def test_intervals_of_cells_and_rows_hold_the_truth_over_six_hundred_dies() -> None:
    found = rows_over_dies(600)
    check_rows(found)
    covered = np.mean([r.cell_sigma.holds(DRAWN) for r, *_ in found])
    assert 0.93 <= covered <= 0.97


class TestComponents:
    def test_columns_differ_by_as_much_as_their_cells_make(self) -> None:
        spec = small(cells={"mismatch_sigma": 0.04}, adcs=32, columns=8)
        found = components(read(spec, 3, sets=32))
        assert near(found.column, found.column_by_cells) and found.column.low > 0.1
        assert found.refused == {}

    def test_each_is_what_the_die_was_made_with(self) -> None:
        spec = small(
            rows=128, adcs=32, columns=8, cells={"mismatch_sigma": SIGMA, "ir_drop": 0.05}, noise={"spread": 0.0}
        )
        sets, mac = read(spec, 5, sets=40), spec.mac()
        found = components(sets)
        transfer = Die(spec, 5).tables(mac, middle(spec), Conditions()).transfer / 65536
        slopes = (transfer[:, 1025] - transfer[:, 895]) / (130 / 15) * true_cells(spec, 5).mean()
        per_row = math.sqrt(np.mean(slopes**2))
        spread = math.sqrt(float((sets.macros[0].x / 15).var(axis=1).mean() * 128))
        cells = true_cells(spec, 5)
        assert near(found.noise, math.hypot(0.33, 0.12))
        assert found.cells.value == pytest.approx(cells_sigma(spec, 5) * spread * per_row, rel=0.06)
        assert found.rows.holds(float(cells.mean(axis=1).std(ddof=1)) * spread * per_row)
        parts = [found.column, found.rows, found.cells, found.noise]
        assert found.conversion.value == pytest.approx(math.sqrt(sum(p.value**2 for p in parts)), rel=1e-3)

    def test_what_one_column_a_converter_cannot_tell_is_said(self) -> None:
        found = components(read(small(adcs=16, columns=1), 1, sets=16))
        assert set(found.refused) == {"column"} and math.isnan(found.column.value)
        assert "whose columns share converters" in found.refused["column"]
        one = components(read(small(adcs=1, columns=4), 1, sets=16))
        assert set(one.refused) == {"adc"} and "more of them" in one.refused["adc"]
