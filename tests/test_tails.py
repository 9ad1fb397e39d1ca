"""Tails and quantiles are those of scipy.stats, which says of itself what they are; where it takes long to import, it is not."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
from scipy import stats

from pimchip import tails

P = np.array([1e-300, 1e-20, 1e-6, 0.001, 0.025, 0.3, 0.5, 0.9, 1.0])
Q = np.array([0.0, *P[2:]])
FREEDOM = np.array([[1.0], [2.5], [30.0], [1e6]])


def test_they_are_those_of_scipy_stats() -> None:
    x = np.array([-np.inf, *np.linspace(-40, 40, 81), np.inf])
    np.testing.assert_allclose(tails.normal_sf(x), stats.norm.sf(x), rtol=1e-12)
    np.testing.assert_allclose(tails.normal_isf(P), stats.norm.isf(P), rtol=1e-12)
    np.testing.assert_allclose(tails.student_sf(x, FREEDOM), stats.t.sf(x, FREEDOM), rtol=1e-10)
    np.testing.assert_allclose(tails.student_isf(Q, FREEDOM), stats.t.isf(Q, FREEDOM), rtol=1e-10)
    np.testing.assert_allclose(tails.chi2_sf(x**2, FREEDOM), stats.chi2.sf(x**2, FREEDOM), rtol=1e-10)
    np.testing.assert_allclose(tails.f_isf(P[3:], 2, FREEDOM), stats.f.isf(P[3:], 2, FREEDOM), rtol=1e-10)
    assert np.isnan(tails.student_sf(np.nan, 3)) and np.isnan(tails.student_isf(0.1, 0)) and tails.normal_sf(0.0) == 0.5


@pytest.mark.parametrize("command", [["info", "emulator:sram65"], ["characterize", "--plan"]])
def test_commands_do_without_what_takes_long_to_import(command: list[str]) -> None:
    code = f"import sys\nfrom pimchip.cli.main import cli\ntry: cli({command!r})\nexcept SystemExit as end: assert not end.code\n"
    code += "print({'scipy.stats', 'scipy.interpolate'} & set(sys.modules))"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert run.returncode == 0 and run.stdout.splitlines()[-1] == "set()", run.stdout + run.stderr
