"""Effects of the cells: each at its size against a closed form, through the board where a board shows it."""

from __future__ import annotations

import math

import numpy as np
import pytest
from physics import Sections, assert_rate, assert_spread, board, chip, counting

from pimchip.board import PULSES
from pimchip.board.inprocess import InProcessBoard
from pimchip.chip import ChipSpec, Mac, Run, Scheme, Tile
from pimchip.emulator.cells import FRACTION_BITS, CellArray
from pimchip.emulator.draws import Draws
from pimchip.emulator.state import Conditions
from pimchip.emulator.virtual import VirtualBoard

TILE = Tile(0, 0, 0, 273, 64)
ONES = np.ones((273, 64), np.int8)
SCALE = 1 << FRACTION_BITS


def converted(virtual: VirtualBoard, x: np.ndarray, macros: int = 16) -> np.ndarray:
    """Codes, which are counts, of all columns of macros of ones, float [M, macros * 64]."""
    mac = virtual.spec.mac()
    tiles = [Tile(m, 0, 0, 273, 64) for m in range(macros)]
    return np.concatenate([virtual.convert(t, x, 1, mac, Run())[0] for t in tiles], axis=1).astype(float)


def filled(cells: Sections, die: int = 1, at: Conditions | None = None) -> VirtualBoard:
    """A silent board with ones in every cell."""
    virtual = board(counting(cells), die, at=at)
    for macro in range(16):
        virtual.write_cells(Tile(macro, 0, 0, 273, 64), ONES)
    return virtual


def array(cells: dict[str, float], at: Conditions | None = None, die: int = 1, scheme: str = "bit_serial") -> CellArray:
    return CellArray(chip({"cells": cells}, scheme), Draws(die), at or Conditions())


WHOLE = Tile(2, 0, 0, 64, 32)


def errors(cells: CellArray, tile: Tile = WHOLE, value: int = 1) -> np.ndarray:
    """What each cell of a freshly programmed tile adds, relative to what it holds, less 1."""
    cells.write(tile, np.full((tile.rows, tile.columns), value, np.int8))
    mac = Mac(Scheme.DIFFERENTIAL, 64, weight_bits=8)
    return cells.given(tile, mac) / (value * SCALE) - 1


class TestVariation:
    @pytest.mark.parametrize("term", ["mismatch_sigma", "program_sigma"])
    def test_a_sum_varies_by_the_root_of_its_drives_squares(self, term: str) -> None:
        virtual, rng = filled({"cells": {term: 0.05}}), np.random.default_rng(0)
        x = np.stack([np.full(273, 7), rng.integers(0, 16, 273), np.where(np.arange(273) < 40, 15, 0)])
        codes = converted(virtual, x)
        for k, drive in enumerate(x):
            sigma = math.sqrt(0.05**2 * (drive**2).sum() + 1 / 12)
            assert_spread(codes[k], sigma, mean=drive.sum())

    def test_mismatch_is_of_the_die_and_stays(self) -> None:
        x = np.full((1, 273), 7)
        virtual = filled({"cells": {"mismatch_sigma": 0.05}})
        before = converted(virtual, x)
        for macro in range(16):
            virtual.write_cells(Tile(macro, 0, 0, 273, 64), ONES)
        assert np.array_equal(converted(virtual, x), before)
        other = converted(filled({"cells": {"mismatch_sigma": 0.05}}, die=2), x)
        assert abs(np.corrcoef(before[0], other[0])[0, 1]) < 5 / 32

    def test_programming_draws_anew_each_time_and_again_the_same_on_a_second_board(self) -> None:
        x = np.full((1, 273), 7)
        boards = [filled({"cells": {"program_sigma": 0.05}}) for _ in range(2)]
        first = [converted(virtual, x) for virtual in boards]
        for virtual in boards:
            for macro in range(16):
                virtual.write_cells(Tile(macro, 0, 0, 273, 64), ONES)
        second = [converted(virtual, x) for virtual in boards]
        assert np.array_equal(first[0], first[1]) and np.array_equal(second[0], second[1])
        assert abs(np.corrcoef(first[0][0], second[0][0])[0, 1]) < 5 / 32
        assert np.array_equal(converted(boards[0], x), second[0]), "it stays until the next pulse"

    def test_only_what_is_programmed_is_drawn_anew(self) -> None:
        cells = array({"program_sigma": 0.05})
        before, mac = errors(cells), cells_mac()
        cells.write(Tile(2, 10, 4, 3, 5), np.ones((3, 5), np.int8))
        changed = cells.given(WHOLE, mac) / SCALE - 1 != before
        assert changed[10:13, 4:9].mean() > 0.8 and changed.sum() == changed[10:13, 4:9].sum()

    def test_errors_are_rounded_to_2_to_the_minus_8_of_a_count_either_way(self) -> None:
        fine, coarse = errors(array({"mismatch_sigma": 0.05}), value=127), errors(array({"mismatch_sigma": 0.05}))
        assert 0.9 / SCALE < np.abs(fine - coarse).max() <= (1 + 1 / 127) / SCALE
        assert_spread(fine, 0.05)

    @pytest.mark.parametrize("loss", [1e-4, 0.0013, 0.2])
    def test_a_loss_that_all_cells_share_keeps_its_mean_however_small(self, loss: float) -> None:
        whole = array({"weak_rows": 1.0, "weak_row_loss": loss})
        part = loss * SCALE % 1
        lost = -errors(whole) * SCALE
        assert set(np.unique(lost)) <= {math.floor(loss * SCALE), math.ceil(loss * SCALE)}
        assert_rate(int((lost > loss * SCALE).sum()), lost.size, part)

    def test_a_cell_that_holds_0_adds_0_and_none_adds_less(self) -> None:
        cells = array({"mismatch_sigma": 1.0, "program_sigma": 0.5, "ir_drop": 0.5})
        cells.write(WHOLE, np.zeros((64, 32), np.int8))
        assert not cells.given(WHOLE, cells_mac()).any()
        assert errors(cells).min() == -1


def cells_mac() -> Mac:
    return Mac(Scheme.BIT_SERIAL, 64)


class TestRows:
    def test_weak_wordlines_are_weak_in_all_columns(self) -> None:
        virtual = filled({"cells": {"weak_rows": 0.1, "weak_row_loss": 0.2}})
        codes = converted(virtual, 15 * np.eye(273, dtype=int)).reshape(273, 16, 64)
        assert np.all(codes == codes[:, :, :1]) and set(np.unique(codes)) == {12.0, 15.0}
        assert_rate(int((codes[:, :, 0] == 12).sum()), 273 * 16, 0.1)

    def test_a_row_loses_by_its_distance_from_the_converter(self) -> None:
        virtual = filled({"cells": {"ir_drop": 0.4}})
        codes = converted(virtual, 15 * np.eye(273, dtype=int))
        wanted = 15 * (1 - 0.4 * np.arange(273) / 272)
        assert np.abs(codes - wanted[:, None]).max() <= 0.5 + 15 / SCALE
        assert codes[0, 0] == 15 and codes[-1, 0] == 9

    def test_the_distance_is_that_of_the_array_and_not_of_the_tile(self) -> None:
        lost = errors(array({"ir_drop": 0.1}), Tile(1, 20, 3, 5, 2), value=127)
        assert np.allclose(lost, -0.1 * np.arange(20, 25)[:, None] / 63, atol=1 / (127 * SCALE))
        assert not np.any(errors(CellArray(one_row(), Draws(0), Conditions()), Tile(0, 0, 0, 1, 32)))


def one_row() -> ChipSpec:
    return chip({"array": {"rows": 1}, "operating": {"rows": 1}, "cells": {"ir_drop": 0.1}})


class TestTime:
    @pytest.mark.parametrize("hours", [0.0, 1e-9, 0.5, 1.0, 9.0, 1000.0, 876543.21])
    def test_decades_are_logarithms(self, hours: float) -> None:
        assert Conditions(age=hours).decades == pytest.approx(math.log10(1 + hours), abs=1e-11)
        assert Conditions().decades == 0

    @pytest.mark.parametrize("hours", [9.0, 99_999.0])
    def test_cells_lose_by_the_decade(self, hours: float) -> None:
        lost = -errors(array({"retention_loss": 0.03, "retention_spread": 0.2}, Conditions(age=hours)), value=127)
        mean = 0.03 * math.log10(1 + hours)
        assert_spread(lost, 0.2 * mean, mean)

    def test_no_cell_gains_with_age(self) -> None:
        lost = -errors(array({"retention_loss": 0.1, "retention_spread": 1.0}, Conditions(age=99.0)), value=127)
        assert lost.min() == 0 and 0.1 < (lost == 0).mean() < 0.25  # a sixth of normal deviates is below -1

    def test_the_board_s_sums_fall_with_age(self) -> None:
        cells: Sections = {"cells": {"retention_loss": 0.02, "retention_spread": 0.3}}
        x = np.full((1, 273), 15)
        codes = converted(filled(cells, at=Conditions(age=999.0)), x)
        sigma = math.sqrt(273) * 15 * 0.06 * 0.3
        assert_spread(codes, math.hypot(sigma, math.sqrt(1 / 12)), mean=4095 * 0.94)
        assert np.all(converted(filled(cells), x) == 4095)

    def test_reading_disturbs_from_call_to_call_until_the_next_programming(self) -> None:
        virtual = filled({"cells": {"read_disturb": 1.0}})
        mac, one = virtual.spec.mac(), Tile(0, 0, 0, 1, 1)

        def seen(macro: int = 0) -> int:
            return int(virtual.convert(Tile(macro, 0, 0, 273, 64), np.full((1, 273), 15), 1, mac, Run())[0, 0, 63])

        assert seen() == 4095
        codes = virtual.convert(one, np.full((1, 1), 15), 200_000, mac, Run())
        assert np.all(codes == codes[0]), "a call's cells are those at its start"
        assert seen() == pytest.approx(4095 * (1 - 0.200001), abs=3)
        assert seen(1) == 4095, "another macro has seen nothing"
        virtual.write_cells(Tile(0, 0, 63, 273, 1), ONES[:, :1])
        assert seen() == 4095
        column = virtual.convert(TILE, np.full((1, 273), 15), 1, mac, Run())[0, 0]
        assert column[63] == 4095
        assert column[:63].mean() == pytest.approx(4095 * (1 - 0.200003), abs=0.4)  # the tile's own reads count as well


class TestStuck:
    @pytest.mark.parametrize("written", [0, 1])
    def test_reading_back_shows_exactly_the_stuck_cells(self, written: int) -> None:
        spec = counting({"cells": {"stuck_zero": 2e-4, "stuck_full": 4e-4}})
        board_ = InProcessBoard(board(spec), "stuck")
        wrong, chance = 0, 2e-4 if written else 4e-4
        for macro in range(16):
            tile = Tile(macro, 0, 0, 273, 64)
            board_.program(tile, ONES * np.int8(written))
            differ = board_._read_cells(tile) != written
            assert board_.verify(tile).rows == tuple(np.flatnonzero(differ.any(1)).tolist())
            done = board_.program_verified(tile, ONES * np.int8(written))
            assert (done.pulses, done.steady) == ((PULSES, True) if differ.any() else (1, True)), "no pulse mends them"
            wrong += int(differ.sum())
        assert_rate(wrong, 16 * 273 * 64, chance)
        assert wrong > 0

    def test_they_count_in_the_sums(self) -> None:
        virtual = filled({"cells": {"stuck_zero": 0.05, "stuck_full": 0.05}})
        stuck = virtual.read_cells(TILE).sum(0)
        assert np.array_equal(
            virtual.convert(TILE, np.full((1, 273), 15), 1, virtual.spec.mac(), Run())[0, 0], 15 * stuck
        )
        assert_rate(int(stuck.sum()), 273 * 64, 0.95)

    def test_a_full_cell_is_at_the_largest_value_of_the_point_in_use_with_either_sign(self) -> None:
        cells = array({"stuck_full": 0.5}, scheme="native")
        cells.write(WHOLE, np.zeros((64, 32), np.int8))
        held = cells.read(WHOLE)
        assert set(np.unique(held)) == {-7, 0, 7}
        assert_rate(int((held != 0).sum()), held.size, 0.5)
        assert_rate(int((held > 0).sum()), int((held != 0).sum()), 0.5)
        wide = cells.given(WHOLE, Mac(Scheme.NATIVE, 64, weight_bits=6))
        assert np.array_equal(wide, np.sign(held) * 31.0)

    def test_where_the_chances_make_one_together_every_cell_is_stuck(self) -> None:
        cells = array({"stuck_zero": 0.3, "stuck_full": 0.7})
        cells.write(WHOLE, np.ones((64, 32), np.int8))
        held = cells.read(WHOLE)
        cells.write(WHOLE, np.zeros((64, 32), np.int8))
        assert np.array_equal(cells.read(WHOLE), held)
        assert_rate(int(held.sum()), held.size, 0.7)


class TestWriteFailure:
    def test_a_pulse_fails_at_its_rate_and_a_second_one_mends(self) -> None:
        virtual = board(counting({"cells": {"write_failure": 0.02}}))
        virtual.write_cells(TILE, ONES)
        missed = virtual.read_cells(TILE) == 0
        assert_rate(int(missed.sum()), ONES.size, 0.02)
        virtual.write_cells(TILE, ONES)
        still = virtual.read_cells(TILE) == 0
        assert np.all(missed[still]) and still.sum() < 20
        assert_rate(int(still.sum()), int(missed.sum()), 0.02)
        again = board(counting({"cells": {"write_failure": 0.02}}))
        again.write_cells(TILE, ONES)
        assert np.array_equal(again.read_cells(TILE) == 0, missed)

    def test_what_a_cell_was_stays_with_its_draw_and_its_cycles(self) -> None:
        cells = array({"write_failure": 0.5, "program_sigma": 0.05, "read_disturb": 1.0})
        before = errors(cells)
        held = cells.read(WHOLE) == 1
        cells.work(WHOLE.macro, 100_000)
        cells.write(WHOLE, np.zeros((64, 32), np.int8))
        kept = cells.read(WHOLE) == 1
        assert np.all(held[kept]) and 0.1 < kept.mean() < 0.4
        after = cells.given(WHOLE, cells_mac()) / SCALE - 1
        assert np.abs(after[kept] - ((1 + before[kept]) * 0.9 - 1)).max() <= 2.0 / SCALE

    def test_further_pulses_until_all_is_well(self) -> None:
        with InProcessBoard(board(counting({"cells": {"write_failure": 0.01}})), "pulses") as board_:
            done = board_.program_verified(TILE, ONES)
            assert done.report.ok and done.steady and 1 < done.pulses <= 4
            assert board_.counters()["cell_writes"] == done.pulses * ONES.size
        with InProcessBoard(board(counting({"cells": {"write_failure": 0.9}})), "pulses") as board_:
            done = board_.program_verified(TILE, ONES)
            assert not done.report.ok and done.pulses == PULSES
            assert_rate(int((board_._read_cells(TILE) == 0).sum()), ONES.size, 0.9**PULSES)
