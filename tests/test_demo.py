"""The demo, run once as a user runs it: its promises, its JSON and its page."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from pimchip.qat import load_model

KEYS = (
    "digital_accuracy",
    "direct_accuracy",
    "direct_bn_accuracy",
    "pim_qat_accuracy",
    "before_bn_calibration",
    "after_bn_calibration",
    "predicted_accuracy",
)


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("demo")
    run = subprocess.run(
        [sys.executable, "-m", "pimchip", "demo", "--json"], cwd=folder, capture_output=True, text=True, check=True
    )
    found = json.loads(run.stdout)
    assert isinstance(found, dict)
    return {**found, "folder": folder, "stderr": run.stderr}


def test_pim_qat_after_calibration_is_within_two_points_of_digital(demo: dict[str, Any]) -> None:
    assert demo["after_bn_calibration"] >= demo["digital_accuracy"] - 0.02


def test_direct_deployment_is_at_least_twenty_points_below_pim_qat(demo: dict[str, Any]) -> None:
    assert demo["direct_accuracy"] <= demo["after_bn_calibration"] - 0.20


def test_prediction_from_the_profile_is_within_two_points_of_the_die(demo: dict[str, Any]) -> None:
    assert abs(demo["predicted_accuracy"] - demo["after_bn_calibration"]) <= 0.02


def test_every_accuracy_has_its_interval_and_provenance_is_there(demo: dict[str, Any]) -> None:
    for key in KEYS:
        low, high = demo[f"{key}_interval"]
        assert 0 <= low <= demo[key] <= high <= 1
    assert demo["provenance"].keys() >= {"version", "seed", "device_uid", "hashes", "command"}
    assert demo["seconds"] > 0


def test_the_page_is_self_contained_and_says_the_same(demo: dict[str, Any]) -> None:
    page = (demo["folder"] / demo["report"]).read_text(encoding="utf-8")
    assert "<script" not in page
    assert not re.search(r'(?:src|href)="(?!#)', page.replace("xlink:", ""))
    for key in KEYS:
        assert f"{100 * demo[key]:.1f} %" in page
        assert f"{100 * demo[key]:.1f} %" in demo["stderr"]


def test_its_model_and_profile_can_be_used(demo: dict[str, Any]) -> None:
    assert load_model(demo["folder"] / demo["model"]).model == "tiny"
    assert (demo["folder"] / demo["profile"] / "manifest.toml").is_file()
    assert (Path(demo["folder"]) / "demo" / "model.deployed").is_file()
