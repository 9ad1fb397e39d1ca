"""The pages show what the results beside them say, and the claims' columns are differences by seed."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
STUDIES = {
    "study_claims.py": "claims.jsonl",
    "study_cifar.py": "cifar.jsonl",
    "study_calibration.py": "calibration.jsonl",
    "study_placement.py": "placement.jsonl",
    "study_onchip.py": "onchip.jsonl",
    "study_twin.py": "twin.jsonl",
}
PAGES = {"study_twin.py": "health.md"}
"""Where a block is not on the page of studies."""


def reported(tool: str, results: Path) -> str:
    run = subprocess.run(
        [sys.executable, str(ROOT / "tools" / tool), "report", str(results)], capture_output=True, text=True, cwd=ROOT
    )
    assert run.returncode == 0, run.stderr
    return run.stdout


@pytest.mark.parametrize("tool", STUDIES)
def test_the_page_shows_what_the_results_say(tool: str) -> None:
    page = (ROOT / "docs" / PAGES.get(tool, "studies.md")).read_text(encoding="utf-8")
    lines = [line.rstrip() for line in reported(tool, ROOT / "docs" / "results" / STUDIES[tool]).splitlines()]
    assert len(lines) > 5
    assert "\n".join(lines) in page, "make the page's block anew: python tools/" + tool + " report docs/results/..."


def test_differences_are_taken_seed_by_seed(tmp_path: Path) -> None:
    values = {
        "digital": (0.9, 0.8),
        "direct native 3": (0.1, 0.3),
        "pim native 3": (0.5, 0.4),
        "ste native 3": (0.5, 0.6),
    }
    rows = [{"case": c, "seed": s, "accuracy": v} for c, pair in values.items() for s, v in enumerate(pair)]
    (tmp_path / "r.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    line = next(x for x in reported("study_claims.py", tmp_path / "r.jsonl").splitlines() if x.startswith("native 3"))
    # pim - direct: 40 and 10; pim - digital: -40 twice; pim - ste: 0 and -20. t of 0.975, one degree: 12.706
    assert line.split()[2:] == ["25.00", "+-", "190.59", "-40.00", "+-", "0.00", "-10.00", "+-", "127.06"]
