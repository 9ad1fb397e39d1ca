"""A health section on disk, what a compiler is told to leave alone, and tests by the many."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import false_discovery_control

from pimchip.errors import InputError
from pimchip.profile import Fault, FaultKind, Health, MacroFaults, Profile
from pimchip.profile.multiple import holm

REFERENCE = Path(__file__).resolve().parent.parent / "calibration_data/emu-sram65-97d42ebe-0000/2026-11-23-0ed811b1"
FOUND = Health(
    faults=(
        Fault(FaultKind.DEAD_ADC, 1, adc=33, detail=0),
        Fault(FaultKind.STUCK_CELL, 1, row=4, column=2, detail=0),
        Fault(FaultKind.STUCK_CELL, 1, row=0, column=9, detail=-7),
        Fault(FaultKind.WEAK_ROW, 2, row=7, size=0.21, p=1e-9),
        Fault(FaultKind.MISSING_CODE, 2, adc=70, detail=63, size=0.04, p=1e-5),
    ),
    alpha=0.005,
    finds={"weak-row": 0.1},
    untested=("missing codes: steps of 0.5 LSB",),
    columns={33: (8, 9), 70: (3,)},
    cycles=1234,
)


def test_what_to_leave_alone_is_told_by_macro() -> None:
    assert FOUND.avoid(1) == MacroFaults(1, adcs=(33,), columns=(8, 9), cells=((0, 9), (4, 2)))
    assert FOUND.avoid(2) == MacroFaults(2, rows=(7,))  # a converter that lacks a code is still used
    assert FOUND.avoid(0).sound and [m.macro for m in FOUND.avoided()] == [1, 2] and not FOUND.ok


def test_it_comes_back_from_a_profile_and_older_profiles_have_none(tmp_path: Path) -> None:
    held = Profile.load(REFERENCE)
    assert held.health is None
    record = replace(held, health=FOUND)
    saved = Profile.save(tmp_path, record, held.raw())
    again = Profile.load(saved.path)
    assert again.health == FOUND and again.hash == saved.hash != held.hash
    assert "schema_version = 3" in (saved.path / "manifest.toml").read_text(encoding="utf-8")
    plain = Profile.save(tmp_path, replace(held, health=None), held.raw())
    assert plain.hash == held.hash, "without the section nothing changes"


@pytest.mark.parametrize(
    "change",
    [
        {"alpha": "much"},
        {"faults": {}},
        {"finds": 3},
        {"columns": {"x": [1]}},
        {"faults": FOUND.to_dict()["faults"] | {"kind": ["dead-adc"]}},
        {"faults": FOUND.to_dict()["faults"] | {"row": [-1, -5, 0, 7, -1]}},
        {"faults": FOUND.to_dict()["faults"] | {"kind": ["rusty"] * 5}},
    ],
)
def test_a_damaged_section_is_refused(change: dict[str, object]) -> None:
    with pytest.raises(InputError, match="health"):
        Health.from_dict(FOUND.to_dict() | change)


def test_holm_by_its_definition() -> None:
    """Holm's rule written out: in rising order, the first of n that is above alpha / (n - i) ends the rejections."""
    rng = np.random.default_rng(5)
    for _ in range(50):
        p = rng.random(9) ** 3
        adjusted = holm(np.append(p, np.nan))
        assert np.isnan(adjusted[-1])
        for alpha in (0.01, 0.05, 0.3):
            rejected = set()
            for i, which in enumerate(np.argsort(p)):
                if p[which] > alpha / (len(p) - i):
                    break
                rejected.add(int(which))
            assert set(np.flatnonzero(adjusted[:-1] <= alpha).tolist()) == rejected
        assert np.all(adjusted[:-1] >= false_discovery_control(p) - 1e-12), "stricter than Benjamini and Hochberg"
