"""Every command and snippet of the README, and of the pages that go on from its tour, is run, in order, in one folder."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from itertools import chain
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner

from pimchip.chip import load_chip
from pimchip.chip.parts import Adc, Cells, Noise, Supply
from pimchip.cli.main import COMMANDS, cli

ROOT = Path(__file__).resolve().parent.parent
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.M | re.S)
# The tour, and the pages that need what it made, in the order in which they are run.
TOUR = (
    "README.md",
    *(f"docs/{name}.md" for name in ("networks", "training", "profiles", "devices", "chips", "bench", "speed")),
)
PAGES = (
    *TOUR,
    *(f"docs/{name}.md" for name in ("characterization", "health", "compiler", "comparing", "inference", "studies")),
)
# With fewer images, epochs and networks.
RUN_ELSEWHERE = {
    "pimchip demo": "tests/test_demo.py",
    "pimchip bench emulator --images 600": "tests/test_bench.py",
    "pimchip bench compile": "tests/test_placement.py",
}


def text_of(*pages: str) -> str:
    return "\n".join((ROOT / page).read_text(encoding="utf-8") for page in pages)


def blocks(language: str) -> list[str]:
    return [body for name, body in BLOCK.findall(text_of(*TOUR)) if name == language]


def console() -> list[tuple[str, str]]:
    """(command, what the README shows of its output), in order."""
    parts = [part for body in blocks("console") for part in re.split(r"^\$ ", body, flags=re.M)[1:]]
    return [(command, shown) for command, _, shown in (part.partition("\n") for part in parts)]


def console_commands() -> list[str]:
    return [command for command, _ in console()]


def words(text: str) -> list[str]:
    """Of an output, for comparing it: whatever has digits in it or is a full path is #, as figures differ between machines
    in their last digits, and hours, folders and speeds do anyway; rules of tables are as wide as their columns."""
    found = re.sub(r"─[─ ]*─|-{3,}", "---", text).split()
    return ["#" if re.search(r"\d", word) or word.startswith("/") else word for word in found]


def shows(shown: str, *outputs: str) -> bool:
    """Whether one of the outputs is what is shown, of which "..." at the end of a line leaves out any part."""
    parts = [" ".join(words(part)) for part in re.split(r"\.\.\.$", shown, flags=re.M)]
    wanted = " ?.* ?".join(re.escape(part) for part in parts)
    return any(re.fullmatch(wanted, " ".join(words(output))) for output in outputs)


def table(header: str) -> list[list[str]]:
    """The cells of the table that begins with this line, row by row, without the code marks."""
    lines = text_of(*TOUR).splitlines()
    rows = lines[lines.index(header) + 2 :]
    body = rows[: next(i for i, line in enumerate(rows) if not line.startswith("|"))]
    return [[cell.strip().replace("`", "") for cell in line.strip("|").split("|")] for line in body]


def options(command: click.Command) -> set[str]:
    """Long options of a command and of those below it."""
    own = {
        name for option in command.params for name in (*option.opts, *option.secondary_opts) if name.startswith("--")
    } | {"--help"}
    below = command.commands.values() if isinstance(command, click.Group) else ()
    return own.union(*(options(inner) for inner in below))


def loaded(name: str) -> click.Command:
    found = cli.get_command(click.Context(cli), name)
    assert found is not None
    return found


def test_commands_and_snippets_run(tmp_path: Path) -> None:
    wrappers = tmp_path / "bin"
    wrappers.mkdir()
    for name, what in (("pimchip", "-m pimchip"), ("python", ""), ("torchrun", "-m torch.distributed.run")):
        (wrappers / name).write_text(f'#!/bin/sh\nexec "{sys.executable}" {what} "$@"\n')
        (wrappers / name).chmod(0o755)
    environment = {**os.environ, "PATH": f"{wrappers}{os.pathsep}{os.environ['PATH']}"}
    differing = []
    for command, shown in console():
        if command in RUN_ELSEWHERE:
            assert (ROOT / RUN_ELSEWHERE[command]).is_file()
            continue
        run = subprocess.run(["bash", "-c", command], cwd=tmp_path, env=environment, capture_output=True, text=True)
        assert run.returncode == 0, f"{command}\n{run.stderr}"
        if shown.strip() and not shows(shown, run.stdout + run.stderr, run.stderr + run.stdout):
            differing.append(f"$ {command}\n{run.stdout}{run.stderr}")
    assert not differing, "\n".join(differing)
    for snippet in blocks("python"):
        run = subprocess.run([sys.executable, "-c", snippet], cwd=tmp_path, capture_output=True, text=True)
        assert run.returncode == 0, run.stderr


def test_scripts_it_names_are_there_and_parse() -> None:
    lines = [line.split("#")[0].split() for body in blocks("sh") for line in body.splitlines()]
    assert [words[:2] for words in lines] == [["bash", "tools/demo.sh"], ["bash", "tools/test.sh"]]
    for _, script in lines:
        assert subprocess.run(["bash", "-n", str(ROOT / script)]).returncode == 0


def test_files_and_pictures_it_links_are_there() -> None:
    for page in PAGES:
        for target in re.findall(r"\]\((?!http)([^)#]+)\)", BLOCK.sub("", text_of(page))):
            assert ((ROOT / page).parent / target).exists(), (page, target)


def test_every_page_is_in_the_readme() -> None:
    linked = set(re.findall(r"^\| \[\w+\]\((docs/\w+\.md)\) \|", text_of("README.md"), re.M))
    assert linked == set(PAGES[1:]) == {f"docs/{page.name}" for page in (ROOT / "docs").glob("*.md")}


def test_every_command_of_the_program_is_in_it() -> None:
    used = {command.split()[1] for command in console_commands() if command.startswith("pimchip ")}
    assert used == set(COMMANDS)


def test_every_option_in_it_exists() -> None:
    known = {name: options(loaded(name)) for name in COMMANDS}
    for command in console_commands():
        if command.startswith("pimchip "):
            assert set(re.findall(r"(?<=\s)--[a-z-]+", command)) <= known[command.split()[1]], command
    text = text_of(*TOUR)
    others = {"--strict", "--seeds", "--nproc-per-node"}  # of mypy, tools/demo_spread.py and torchrun
    named = set(re.findall(r"(?<![\w-])--[a-z][a-z-]*", text))
    assert named <= others.union(*chain(known.values())) and "--resume" in named


def test_the_table_of_effects_is_all_there_are_with_their_sizes() -> None:
    rows = table("| section | key | unit | does | `sram65` | `rram130-differential` |")
    shape = {"bits", "per_macro", "interleave", "range_divisors"}
    parts = {"adc": Adc, "noise": Noise, "supply": Supply, "cells": Cells}
    wanted = [(name, key) for name, part in parts.items() for key in part.model_fields if key not in shape]
    assert sorted((row[0], row[1]) for row in rows) == sorted(wanted)
    for section, key, _, _, *sizes in rows:
        for name, said in zip(("sram65", "rram130-differential"), sizes, strict=True):
            value = getattr(getattr(load_chip(name), section), key)
            assert said == (f"{value:g}" if value else "-"), (section, key, name)


def test_limits_and_flags_of_characterize_are_all_there_are() -> None:
    from pimchip.characterize.limits import LIMITS
    from pimchip.characterize.summary import FATAL
    from pimchip.profile.model import FLAGS

    limits = table("| limit | is compared with, for each measured converter at each operating point |")
    assert [row[0] for row in limits] == list(LIMITS)
    flags = table("| flag | means |")
    assert [row[0] for row in flags] == list(FLAGS)
    assert {row[0] for row in flags if "exit code 1" in row[1]} == set(FATAL)


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What a short characterize tells."""
    out = str(tmp_path_factory.mktemp("profiles"))
    run = CliRunner().invoke(
        cli, ["characterize", "--adcs", "0,1", "--reads", "64", "--range-divisor", "1", "--json", "--out", out]
    )
    found: dict[str, Any] = json.loads(run.stdout)
    return found


def test_keys_of_characterize_are_what_it_prints(measured: dict[str, Any]) -> None:
    rows = table("| key of `--json` | holds |")
    named = {key for row in rows for key in row[0].split(", ")}
    assert named <= measured.keys()
    [points] = [row[1] for row in rows if row[0] == "points"]
    for key in ("adc_bits", "range_divisor", "adcs", "max_inl", "noise", "half_width", "cycles", "reads"):
        assert key in points and key in measured["points"][0]


def test_peak_figures_of_cap_ram_are_what_info_prints() -> None:
    run = CliRunner().invoke(cli, ["info", "cap-ram"])
    text = text_of(*TOUR)
    for key, said, published in (
        ("peak_cell_ops_per_second", "5.73441e+11", 573.4e9),
        ("peak_cell_ops_per_joule", "4.94001e+13", 49.4e12),
    ):
        assert re.search(rf"{key} +{re.escape(said)}\b", run.stdout) and said in text
        assert float(said) == pytest.approx(published, rel=1e-3)


class TestFirmware:
    """firmware_protocol/README.md and CHIP.md's table of symbols."""

    FOLDER = ROOT / "firmware_protocol"

    def case(self, name: str) -> dict[str, Any]:
        found: dict[str, Any] = json.loads((self.FOLDER / "vectors" / "chip" / f"{name}.json").read_text())
        return found

    def test_symbols_are_keys_of_every_case(self) -> None:
        text = (self.FOLDER / "CHIP.md").read_text(encoding="utf-8")
        body = text[text.index("| symbol | section | key |") : text.index("The operating point and what is derived")]
        rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in body.splitlines()[2:] if line]
        found = {
            symbol: re.findall(r"`(\w+)`", keys) for row in rows for symbol, keys in (row[0::2][:2], row[4::2][:2])
        }
        tables = {"`T`": "transfer", "`S`": "sigma", "`U`": "slow", "`C`": "code_map", "`E`": "errors"}
        assert {symbol: found[symbol] for symbol in tables} == {symbol: [key] for symbol, key in tables.items()}
        case = self.case("everything-native")
        assert len(found) == 20 and {key for keys in found.values() for key in keys} <= case.keys()

    def test_wide_numbers_are_pairs_of_words(self) -> None:
        text = (self.FOLDER / "CHIP.md").read_text(encoding="utf-8")
        low, high = self.case("everything-bit_serial")["seed"]
        assert f"[{low}, {high}]" in text and f"{low + (high << 32):#x}" in text
        assert all(
            isinstance(v[key], list) for v in self.case("processor")["requantize"] for key in ("multiplier", "offset")
        )

    def test_links_lead_to_files(self) -> None:
        for name in ("README.md", "CHIP.md"):
            for target in re.findall(r"\]\((?!http)([^)#]+)\)", (self.FOLDER / name).read_text(encoding="utf-8")):
                assert (self.FOLDER / target).is_file(), target
