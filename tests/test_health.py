"""Every fault that the emulator can plant is found and named, and sound dies raise no alarm; bounds by Clopper and Pearson.

Dies draw their faults themselves; what they drew is the truth. The study is the same over 2,000 dies and some of full size:
`pytest -m study tests/test_health.py -s` prints its table.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from planted import Score, Warming, board_of, run, small
from scipy.stats import beta

from pimchip.characterize.health import ALPHA, examine
from pimchip.characterize.health.rows import weigh
from pimchip.characterize.measure import Clock
from pimchip.chip import ChipSpec, Tile, load_chip
from pimchip.emulator.die import Die
from pimchip.profile import FaultKind, Health

BROKEN: dict[str, dict[str, Any]] = {
    "adc": {"dead": 0.03, "stuck_bit": 0.03},
    "cells": {"stuck_zero": 5e-4, "stuck_full": 5e-4, "weak_rows": 0.03, "weak_row_loss": 0.1, "write_failure": 0.01},
}


@dataclass(frozen=True)
class Case:
    """A kind of die. share: of a study's dies that are such."""

    name: str
    spec: ChipSpec
    share: float
    altered: dict[str, dict[int, float]]


def cases() -> Iterator[Case]:
    """Sound dies and broken ones, of the three schemes."""
    for chip in ("sram65", "charge-native", "rram130-differential"):
        adc = {} if chip == "sram65" else {"bits": 7}
        exact = {"write_failure": 0.0, "read_disturb": 0.0}
        broken = small(chip, adc=adc | BROKEN["adc"], cells=exact | BROKEN["cells"])
        yield Case(f"{chip}, sound", small(chip, adc=adc, cells=exact), 0.15, {})
        yield Case(f"{chip}, broken", broken, 0.1, {})
    yield Case("capacitors 5 % apart", small(adc={"sar_sigma": 0.05}), 0.05, {})
    yield Case("1/f noise, mismatch", small(noise={"flicker_sigma": 0.1}, cells={"mismatch_sigma": 0.02}), 0.05, {})
    yield Case("read disturb", small(cells={"read_disturb": 1.0}), 0.05, {})
    yield Case("clipped 30 LSB early", small(), 0.03, {"clip": {2: 97}})
    yield Case("folded by 2 LSB", small(), 0.04, {"fold": {3: 2.0}})
    yield Case("noise of 4 LSB", small(), 0.03, {"extra": {5: 4.0}})


def bounds(hits: int, of: int) -> tuple[float, float]:
    """Clopper and Pearson's 95 % interval."""
    return (
        float(beta.ppf(0.025, hits, of - hits + 1)) if hits else 0.0,
        float(beta.ppf(0.975, hits + 1, of - hits)) if hits < of else 1.0,
    )


def scored(dies: int) -> Score:
    total = Score()
    for case in cases():
        run(case.spec, range(100, 100 + max(round(case.share * dies), 2)), total, **case.altered)
    return total


class TestOverDies:
    def test_faults_are_found_by_name_and_nothing_else_is(self) -> None:
        score = scored(60)
        assert score.alarmed == 0, score.false
        assert score.found == score.planted
        assert score.planted.keys() == set(FaultKind) - {
            FaultKind.DEAD_ROW,
            FaultKind.OFF_ADC,
            FaultKind.UNSTEADY_READS,
            FaultKind.DRIFT,
        }

    @pytest.mark.study
    def test_two_thousand_dies(self, capsys: pytest.CaptureFixture[str]) -> None:
        score = scored(2000)
        lines = [f"{score.dies} dies, {score.alarmed} with a false fault: {bounds(score.alarmed, score.dies)}"]
        for kind, planted in sorted(score.planted.items()):
            low, high = bounds(score.found[kind], planted)
            lines.append(f"| {kind} | {planted} | {score.found[kind]} | {100 * low:.2f} to {100 * high:.2f} % |")
        with capsys.disabled():
            print("\n" + "\n".join(lines + score.false[:20]))
        assert score.dies >= 2000
        assert bounds(score.alarmed, score.dies)[1] < 0.01, score.false
        for kind, planted in score.planted.items():
            assert score.found[kind] >= 0.99 * planted, kind
        everything = sum(score.planted.values())
        assert bounds(sum(score.found.values()), everything)[0] >= 0.99

    @pytest.mark.study
    @pytest.mark.parametrize("chip", ["sram65", "charge-native"])
    def test_dies_of_full_size(self, chip: str) -> None:
        data = load_chip(chip).to_dict()
        data["adc"] |= {"dead": 0.004, "stuck_bit": 0.004}
        data["cells"] |= {"stuck_zero": 2e-5, "stuck_full": 2e-5, "weak_rows": 0.004, "weak_row_loss": 0.1}
        score = Score()
        run(ChipSpec.from_dict(data), range(40), score)
        run(load_chip(chip), range(40), score)
        assert score.alarmed == 0, score.false
        assert score.found == score.planted and sum(score.planted.values()) > 500


class TestSizes:
    def test_a_row_of_the_size_that_is_stated_is_found(self) -> None:
        """The stated size is where 99 of 100 are found: at it nearly all, at the tolerated loss none."""
        stated = examine(board_of(small(), 0)).finds["weak-row"]
        assert stated < 0.1
        for loss, wanted in ((stated, 1.0), (0.02, 0.0)):
            spec = small(cells={"weak_rows": 0.1, "weak_row_loss": loss})
            score = Score()
            run(spec, range(20), score)
            assert score.planted[FaultKind.WEAK_ROW] > 40
            assert score.found[FaultKind.WEAK_ROW] == pytest.approx(wanted * score.planted[FaultKind.WEAK_ROW], abs=3)

    def test_loss_and_its_error_are_right(self) -> None:
        """Over dies, weighed rows scatter about the truth by the stated standard error."""
        spec = small(cells={"weak_rows": 0.1, "weak_row_loss": 0.1, "mismatch_sigma": 0.01})
        apart, mac = [], spec.mac()
        for number in range(12):
            tile = Tile(0, 0, 0, 32, 32)
            used = np.ones((32, 32), bool)
            board = board_of(spec, number)
            weighed = weigh(board, spec, mac, tile, used, ALPHA, Clock(number))
            assert weighed is not None
            factor, _ = board._board._cells._factor(tile)
            truth = 1 - factor.mean(axis=1) / np.median(factor.mean(axis=1))
            apart.append((weighed.loss - truth) / weighed.se)
        assert np.std(apart) == pytest.approx(1, abs=0.2)

    def test_what_falls_along_the_bitline_is_no_weak_row(self) -> None:
        spec = small(cells={"ir_drop": 0.2})
        assert not examine(board_of(spec, 1)).of(FaultKind.WEAK_ROW)

    def test_a_row_that_is_never_driven_is_dead(self) -> None:
        class Open(type(board_of(small(), 0))):  # type: ignore[misc]
            def convert(self, tile: Any, x: Any, *rest: Any, **named: Any) -> Any:
                x = np.array(x)
                x[:, 11] = 0
                return super().convert(tile, x, *rest, **named)

        held = board_of(small(), 3)
        board = Open(held._board, "emulator:mine")
        health = examine(board)
        assert [(f.kind, f.row) for f in health.faults] == [(FaultKind.DEAD_ROW, 11)]
        assert health.avoid(0).rows == (11,) and not health.ok


class TestDrift:
    def test_converters_that_warm_up_are_named(self) -> None:
        spec = small(adc={"offset_drift_sigma": 0.05, "gain_drift_sigma": 0.0})
        named = planted = 0
        for number in range(8):
            health = examine(Warming(spec, number, (25.0, 65.0), 20), seed=number)
            truth = np.abs(Die(spec, number).parameters.offset_drift * 40)
            drifted = {f.adc for f in health.of(FaultKind.DRIFT)}
            if None in drifted:  # all of them together, which names no converter
                continue
            sure = set(np.flatnonzero(truth > 1.3 * health.finds["drift"]).tolist())
            planted += len(sure)
            named += len(sure & drifted)
            assert not drifted & set(np.flatnonzero(truth < 0.25).tolist())
        assert planted > 20 and named == planted

    def test_a_steady_die_has_moved_nowhere_by_more_than_is_stated(self) -> None:
        health = examine(board_of(small(), 5))
        assert health.ok and not health.faults
        assert 0 < health.finds["common drift"] < 0.5


class TestCoarseSteps:
    def test_codes_are_not_judged_where_steps_hide_them(self) -> None:
        spec = small(noise={"array_sigma": 0.02, "adc_sigma": 0.02}, dac={"bits": 2}, operating={"dac_bits": 2})
        health = examine(board_of(spec, 0))
        assert isinstance(health, Health) and any("missing codes of 8 converters" in text for text in health.untested)
        assert not health.of(FaultKind.MISSING_CODE)
