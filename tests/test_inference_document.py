"""Every command of docs/inference.md is run, in order, in one folder, and prints what the page shows."""

from __future__ import annotations

import re
from pathlib import Path

from test_compiler_document import run_page

from pimchip.cli.deploy_command import command

PAGE = (Path(__file__).resolve().parent.parent / "docs" / "inference.md").read_text(encoding="utf-8")


def test_commands_print_what_the_page_shows(tmp_path: Path) -> None:
    run_page(PAGE, tmp_path)


def test_the_table_of_steps_is_what_the_command_says() -> None:
    assert command.help is not None
    said = re.search(r"Steps: ([\w, -]+)\.", " ".join(command.help.split()))
    assert said is not None
    assert re.findall(r"^\| ([a-z-]+) \|", PAGE, re.M)[1:] == said[1].split(", ")
