"""DNL and INL against other people's libraries, where they are installed (pip install pimchip[oracles]): genalyzer, whose
runtime is GPL and which is therefore no dependency, and adctoolbox."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from staircases import chip, simulate, tables

from pimchip.characterize import fit
from pimchip.characterize.plan import Plan
from pimchip.chip import AdcTables
from pimchip.profile import Counts, PointResult

FIRST, LAST = 6, 118
"""Codes that are compared: away from the ends, where a library has no notion of codes that are out of reach."""


@pytest.fixture(scope="module")
def measured() -> tuple[Counts, PointResult]:
    """Four converters with curves and a twentieth of the noise, so that no correction for noise matters."""
    spec = chip(adc={"offset_sigma": 0.0, "offset_array_sigma": 0.0, "gain_sigma": 0.005})
    t = tables(spec, 4, spec.mac())
    own = AdcTables(t.mac, t.transfer[:4], np.full(4, round(0.12 * 65536), np.int32))
    counts = simulate(own, Plan(t.mac, np.arange(0, t.mac.sum_max + 1, 2), 2, 4, 0.12), np.random.default_rng(1))
    return counts, fit(counts)


def ramp(counts: Counts, adc: int) -> np.ndarray:
    """All codes that a converter gave, as of a ramp: every level was read as often."""
    code = counts.base[adc][:, None] + np.arange(counts.histogram.shape[2])
    return np.repeat(code.ravel(), counts.histogram[adc].ravel())


def expected(r: PointResult, adc: int) -> tuple[np.ndarray, np.ndarray]:
    """Widths of codes FIRST..LAST over their mean, minus 1; and their running sum about its terminal line."""
    t = r.thresholds[adc, FIRST - 1 : LAST + 1]  # transition n is to code n + 1
    width = np.diff(t)
    dnl = width / width.mean() - 1
    return dnl, (t - np.linspace(t[0], t[-1], len(t))) / width.mean()


def only(codes: np.ndarray) -> np.ndarray:
    return codes[(codes >= FIRST) & (codes <= LAST)]


class TestGenalyzer:
    def test_dnl_and_terminal_inl(self, measured: tuple[Counts, PointResult]) -> None:
        oracle: Any = pytest.importorskip(
            "genalyzer", reason="genalyzer is not installed (pip install pimchip[oracles])"
        )
        counts, r = measured
        for adc in range(4):
            # histx, which takes bounds, is broken in 0.1.7 (it passes the built-in min and max).
            density = oracle.hist(only(ramp(counts, adc)).astype(np.int32), 7, oracle.CodeFormat.OFFSET_BINARY)[
                FIRST : LAST + 1
            ]
            found = oracle.dnl(density, oracle.DnlSignal.RAMP)
            dnl, _ = expected(r, adc)
            np.testing.assert_allclose(found[1:-1], dnl[1:-1], atol=0.01)
            # Its END_FIT anchors on the first and last counted codes, inside ours: INL agrees but for a straight line.
            line = np.asarray(oracle.inl(found, int(oracle.InlLineFit.END_FIT)))
            apart = (np.diff(line) - dnl[1:])[1:-1]
            assert np.ptp(apart) < 0.02


class TestAdctoolbox:
    def test_dnl_and_terminal_inl(self, measured: tuple[Counts, PointResult]) -> None:
        oracle: Any = pytest.importorskip(
            "adctoolbox", reason="adctoolbox is not installed (pip install pimchip[oracles])"
        )
        counts, r = measured
        for adc in range(4):
            found = oracle.analyze_inl_from_ramp(
                only(ramp(counts, adc)), code_min=FIRST, code_max=LAST, exclude_endpoints=False, create_plot=False
            )
            dnl, inl = expected(r, adc)
            np.testing.assert_allclose(found["dnl"], dnl, atol=0.01)
            np.testing.assert_allclose(found["inl"], inl, atol=0.03)


def test_a_code_density_is_what_thresholds_say(measured: tuple[Counts, PointResult]) -> None:
    """Without any library: counts of a ramp's codes over their mean."""
    counts, r = measured
    for adc in range(4):
        density = np.bincount(only(ramp(counts, adc)), minlength=LAST + 1)[FIRST:]
        np.testing.assert_allclose(density / density.mean() - 1, expected(r, adc)[0], atol=0.01)
