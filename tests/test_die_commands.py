"""characterize --health, --check and --limits, and info --compare: what they print, keep and exit with."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from planted import small

from pimchip.characterize.limits import check_limits
from pimchip.cli.main import cli
from pimchip.profile import FaultKind, Profile
from pimchip.profile.manifest import to_toml


def call(*arguments: str) -> tuple[int, dict[str, Any]]:
    result = CliRunner().invoke(cli, [*arguments, "--json"])
    return result.exit_code, json.loads(result.stdout) if result.stdout else {"error": result.stderr}


@pytest.fixture(scope="module")
def chip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A chip of a broken kind: on die 2 cells are stuck."""
    path = tmp_path_factory.mktemp("chip") / "chip.toml"
    path.write_text(to_toml(small(cells={"stuck_zero": 0.001}).to_dict()), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def measured(chip: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[int, dict[str, Any]]:
    limits = chip.with_name("limits.toml")
    limits.write_text("stuck_cells = 0\nfaults = 0\nmax_dnl_lsb = 5.0\nmissing_codes = 0\n", encoding="utf-8")
    out = tmp_path_factory.mktemp("out")
    common = ("--range-divisor", "1", "--limits", str(limits), "--out", str(out))
    return call("characterize", "--device", f"emulator:{chip}?die=2", "--health", *common)


def test_health_is_told_kept_and_fails_the_die(measured: tuple[int, dict[str, Any]]) -> None:
    code, said = measured
    stuck = [fault for fault in said["health"]["faults"] if fault["kind"] == "stuck-cell"]
    assert code == 1 and stuck and not said["passed"] and not said["health"]["ok"]
    held = Profile.load(said["profile"])
    assert held.health is not None and len(held.health.of(FaultKind.STUCK_CELL)) == len(stuck)
    assert said["health"]["avoid"][0]["cells"] == [[f["row"], f["column"]] for f in stuck]
    bad = {fault["column"] // 4 for fault in stuck}
    assert {j for j in range(8) if "not-measured" in held.points[0].flags[j]} == bad, "stuck columns are left out"
    assert set(said["left_out_adcs"]) == bad
    told = call("info", str(held.path))[1]["converters"]
    assert (told["of"], told["with_result"], told["flags"]["not-measured"]) == (8, 8 - len(bad), len(bad))
    assert {miss.partition(":")[0] for miss in said["limits_missed"]} == {"stuck_cells", "faults"}
    assert check_limits(held, {"stuck_cells": len(stuck)}) == []


def test_limits_on_the_die_are_missed_where_nobody_looked() -> None:
    here = Path(__file__).resolve().parent.parent / "calibration_data/emu-sram65-97d42ebe-0000/2026-11-23-0ed811b1"
    misses = check_limits(Profile.load(here), {"faults": 0})
    assert len(misses) == 1 and "--health" in misses[0]


def test_check_passes_the_die_and_fails_it_when_it_is_hot(
    chip: Path, measured: tuple[int, dict[str, Any]], tmp_path: Path
) -> None:
    profile = measured[1]["profile"]
    code, said = call("characterize", "--check", profile, "--device", f"emulator:{chip}?die=2")
    assert code == 0 and said["passed"] and not said["moved_adcs"] and said["finds_lsb"] < 1
    code, said = call("characterize", "--check", profile, "--device", f"emulator:{chip}?die=2&temperature=105")
    assert code == 1 and said["stale"] and said["moved_adcs"] and any("105" in text for text in said["warnings"])
    assert call("characterize", "--check", profile, "--device", f"emulator:{chip}?die=3")[0] == 2
    assert call("characterize", "--check", profile, "--trim")[0] == 2


def test_two_profiles_are_compared(chip: Path, measured: tuple[int, dict[str, Any]], tmp_path: Path) -> None:
    profile = measured[1]["profile"]
    code, said = call("info", profile, "--compare", profile)
    assert code == 0 and said["same_die"] and said["unchanged"] and said["kind"] == "comparison"
    device = f"emulator:{chip}?die=7"
    other = call("characterize", "--device", device, "--range-divisor", "1", "--health", "--out", str(tmp_path))[1]
    code, said = call("info", profile, "--compare", other["profile"])
    assert code == 1 and said["same_die"] is not True
    assert call("info", "sram65", "--compare", profile)[0] == 2
