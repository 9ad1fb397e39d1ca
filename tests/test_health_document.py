"""Every command of docs/health.md is run, in order, in one folder, and prints what the page shows."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from test_readme import BLOCK, shows

from pimchip.profile.health import MEANINGS, FaultKind

PAGE = (Path(__file__).resolve().parent.parent / "docs" / "health.md").read_text(encoding="utf-8")


def test_commands_print_what_the_page_shows(tmp_path: Path) -> None:
    for name, words in (("pimchip", "-m pimchip "), ("python", "")):
        wrapper = tmp_path / "bin" / name
        wrapper.parent.mkdir(exist_ok=True)
        wrapper.write_text(f'#!/bin/sh\nexec "{sys.executable}" {words}"$@"\n')
        wrapper.chmod(0o755)
    environment = {**os.environ, "PATH": f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}"}
    bodies = [body for language, body in BLOCK.findall(PAGE) if language == "console"]
    parts = [part for body in bodies for part in re.split(r"^\$ ", body, flags=re.M)[1:]]
    assert len(parts) == 6
    for command, _, shown in (part.partition("\n") for part in parts):
        run = subprocess.run(["bash", "-c", command], cwd=tmp_path, env=environment, capture_output=True, text=True)
        assert run.returncode == 0, f"{command}\n{run.stderr}"
        assert not shown.strip() or shows(shown, run.stdout), f"$ {command}\n{run.stdout}{run.stderr}"


def test_the_table_has_every_kind_of_fault() -> None:
    table = PAGE.partition("| fault | is found by")[2].partition("\n\n")[0]
    assert set(re.findall(r"`([a-z-]+)`", table)) - {"sram65"} == {str(kind) for kind in FaultKind}
    assert MEANINGS.keys() == set(FaultKind)


@pytest.mark.parametrize("study", ["twin", "correction"])
def test_tables_are_what_the_studies_kept(study: str) -> None:
    root = Path(__file__).resolve().parent.parent
    tool = [sys.executable, str(root / f"tools/study_{study}.py"), "report", str(root / f"docs/results/{study}.jsonl")]
    run = subprocess.run(tool, capture_output=True, text=True, cwd=root)
    assert run.returncode == 0, run.stderr
    assert run.stdout.rstrip() in PAGE
