"""Every command of docs/compiler.md is run, in order, in one folder, and prints what the page shows."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest
from test_readme import BLOCK, ROOT, RUN_ELSEWHERE, shows
from test_studies import reported

from pimchip.compiler.passes import PASSES

PAGE = (ROOT / "docs" / "compiler.md").read_text(encoding="utf-8")


def run_page(page: str, folder: Path, elsewhere: Mapping[str, str] = RUN_ELSEWHERE) -> None:
    """Run the commands of a page's console blocks, in order, in a folder; each must print what the page shows. elsewhere: what
    is left out, and what runs it."""
    wrappers = folder / "bin"
    wrappers.mkdir()
    for name, what in (("pimchip", "-m pimchip"), ("python", "")):
        (wrappers / name).write_text(f'#!/bin/sh\nexec "{sys.executable}" {what} "$@"\n')
        (wrappers / name).chmod(0o755)
    environment = {**os.environ, "PATH": f"{wrappers}{os.pathsep}{os.environ['PATH']}"}
    bodies = [body for language, body in BLOCK.findall(page) if language == "console"]
    parts = [part for body in bodies for part in re.split(r"^\$ ", body, flags=re.M)[1:]]
    assert parts
    differing = []
    for command, _, shown in (part.partition("\n") for part in parts):
        if command in elsewhere:
            assert (ROOT / elsewhere[command]).is_file()
            continue
        run = subprocess.run(["bash", "-c", command], cwd=folder, env=environment, capture_output=True, text=True)
        assert run.returncode == 0, f"{command}\n{run.stderr}"
        if shown.strip() and not shows(shown, run.stdout + run.stderr, run.stderr + run.stdout):
            differing.append(f"$ {command}\n{run.stdout}{run.stderr}")
    assert not differing, "\n".join(differing)


def test_commands_print_what_the_page_shows(tmp_path: Path) -> None:
    run_page(PAGE, tmp_path)


@pytest.mark.study
def test_the_zoo_s_table_is_what_the_command_prints(tmp_path: Path) -> None:
    """Its words; figures are masked, and passes of the zoo are those of test_placement."""
    (block,) = [match[0] for match in re.finditer(BLOCK, PAGE) if match[2].startswith("$ pimchip bench compile\n")]
    run_page(block, tmp_path, {})


def test_the_figures_of_replicas_are_those_of_the_study() -> None:
    assert reported("study_replicas.py", ROOT / "docs" / "results" / "replicas.jsonl").rstrip() in PAGE


def test_the_table_of_passes_is_all_there_are() -> None:
    assert re.findall(r"^\| `(\w+)` \|", PAGE, re.M)[: len(PASSES)] == [each.name for each in PASSES]
