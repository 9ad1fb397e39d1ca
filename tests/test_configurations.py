"""Random sets of rows at each level: what errors of cells do to a converter's curve, and how it averages out."""

from __future__ import annotations

import numpy as np
import pytest
from physics import QUIET_ADC, Sections, chip, merged

from pimchip.board.inprocess import InProcessBoard
from pimchip.characterize import fit, measure
from pimchip.characterize.plan import Plan, levels
from pimchip.characterize.stimulus import inputs, thermometer
from pimchip.chip import ChipSpec, Tile
from pimchip.emulator.cells import CellArray
from pimchip.emulator.die import Die
from pimchip.emulator.draws import Draws
from pimchip.emulator.state import Conditions
from pimchip.emulator.virtual import VirtualBoard
from pimchip.profile import PointResult

ROWS, SIGMA = 64, 0.02
MISMATCHED: Sections = {
    "array": {"macros": 1, "rows": ROWS, "columns": 32},
    "adc": QUIET_ADC | {"bits": 7, "per_macro": 32},
    "operating": {"rows": ROWS},
    "cells": {"mismatch_sigma": SIGMA},
    "noise": {"array_sigma": 0.35},
}


def mismatched(**sections: dict[str, object]) -> ChipSpec:
    return chip(merged(MISMATCHED, sections))


def staircase(spec: ChipSpec, die: int, configurations: int, cycles: int = 64) -> PointResult:
    board = InProcessBoard(VirtualBoard(spec, Die(spec, die), noise_seed=1), "")
    mac = spec.mac()
    laid = Plan(mac, levels(spec, mac, 2, 0.35), 2, cycles, 0.35)
    return fit(measure(board, laid, configurations=configurations))


def true_cells(spec: ChipSpec, die: int) -> np.ndarray:
    """What a full cell adds more than it should, relative, float64 [rows, columns]: the die's hidden truth."""
    array = CellArray(spec, Draws(die), Conditions())
    tile = Tile(0, 0, 0, spec.array.rows, spec.array.columns)
    return array.errors(tile, 1) / (1 << array.fraction_bits)


class TestStimulus:
    def test_configurations_have_the_same_sums_in_other_rows(self) -> None:
        mac = mismatched().mac()
        sums = np.arange(0, mac.sum_max + 1, 7)
        sets = np.stack([inputs(sums, mac, 3, number) for number in range(5)])
        np.testing.assert_array_equal(sets.sum(axis=2, dtype=int), np.broadcast_to(sums, (5, len(sums))))
        inner = sets[:, 20:-20]
        assert all(np.any(inner[a] != inner[b], axis=1).all() for a in range(5) for b in range(a))
        np.testing.assert_array_equal(sets[0], inputs(sums, mac, 3))

    def test_the_thermometer_fills_rows_in_their_own_order(self) -> None:
        mac = mismatched().mac()
        x = thermometer(np.array([0, 15, 40]), mac)
        np.testing.assert_array_equal(x[:, :4], [[0, 0, 0, 0], [15, 0, 0, 0], [15, 15, 10, 0]])
        assert not x[:, 4:].any()


def test_in_their_own_order_cells_errors_are_the_curve_and_random_sets_take_them_out() -> None:
    """A transition lies where the cells that are in use add up to it: their running sum, from the die's own errors."""
    spec = mismatched()
    found = {number: staircase(spec, 5, number) for number in (0, 64)}
    piled = np.vstack([np.zeros(32), (1 + true_cells(spec, 5)).cumsum(axis=0)])
    wanted = np.arange(1, 128) - 0.5
    at = np.stack([np.interp(wanted / 127 * ROWS, piled[:, j], np.arange(ROWS + 1)) / ROWS * 127 for j in range(32)])
    line = np.stack([np.polyval(np.polyfit(wanted[2:-2], row[2:-2], 1), wanted) for row in at])
    curve = (at - line)[:, 4:-4]
    own, mixed = (found[number].inl[:, 4:-4] for number in (0, 64))
    assert np.corrcoef(own.ravel(), curve.ravel())[0, 1] > 0.9
    assert abs(np.corrcoef(mixed.ravel(), curve.ravel())[0, 1]) < 0.15
    assert np.sqrt(np.mean((own - curve) ** 2)) < 0.05
    assert found[64].max_inl.mean() < 0.6 * found[0].max_inl.mean()


@pytest.mark.study
def test_the_largest_error_of_the_curve_over_dies_falls_threefold() -> None:
    """Without noise of its own to speak of: 2 % of mismatch over 64 rows, 7 bits, means over 20 dies of 32 converters."""
    spec = mismatched(noise={"array_sigma": 0.14})
    largest = {
        number: np.mean([staircase(spec, die, number, cycles=256).max_inl.mean() for die in range(20)])
        for number in (0, 64)
    }
    assert largest[0] == pytest.approx(0.185, abs=0.02)
    assert largest[64] < largest[0] / 3
