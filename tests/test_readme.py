"""Every command and snippet of the README is run, in order, in one folder."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.M | re.S)
RUN_ELSEWHERE = {"pimchip demo": "tests/test_demo.py", "pimchip bench emulator --images 600": "tests/test_bench.py"}


def blocks(language: str) -> list[str]:
    return [body for name, body in BLOCK.findall((ROOT / "README.md").read_text(encoding="utf-8")) if name == language]


def console_commands() -> list[str]:
    return [line[2:] for body in blocks("console") for line in body.splitlines() if line.startswith("$ ")]


def test_commands_and_snippets_run(tmp_path: Path) -> None:
    wrapper = tmp_path / "bin" / "pimchip"
    wrapper.parent.mkdir()
    wrapper.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m pimchip "$@"\n')
    wrapper.chmod(0o755)
    environment = {**os.environ, "PATH": f"{wrapper.parent}{os.pathsep}{os.environ['PATH']}"}
    for command in console_commands():
        if command in RUN_ELSEWHERE:
            assert (ROOT / RUN_ELSEWHERE[command]).is_file()
            continue
        run = subprocess.run(["bash", "-c", command], cwd=tmp_path, env=environment, capture_output=True, text=True)
        assert run.returncode == 0, f"{command}\n{run.stderr}"
    for snippet in blocks("python"):
        run = subprocess.run([sys.executable, "-c", snippet], cwd=tmp_path, capture_output=True, text=True)
        assert run.returncode == 0, run.stderr


def test_scripts_it_names_are_there_and_parse() -> None:
    lines = [line.split("#")[0].split() for body in blocks("sh") for line in body.splitlines()]
    assert [words[:2] for words in lines] == [["bash", "tools/demo.sh"], ["bash", "tools/test.sh"]]
    for _, script in lines:
        assert subprocess.run(["bash", "-n", str(ROOT / script)]).returncode == 0


def test_files_and_pictures_it_links_are_there() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    for target in re.findall(r"\]\((?!http)([^)#]+)\)", text):
        assert (ROOT / target).is_file(), target


def test_every_command_of_the_program_is_in_it() -> None:
    from pimchip.cli.main import COMMANDS

    used = {command.split()[1] for command in console_commands() if command.startswith("pimchip ")}
    assert used == set(COMMANDS)
