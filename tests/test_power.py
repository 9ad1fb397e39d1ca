"""pimchip power: commands over the twin, exit codes, JSON; docs/bench.md holds what the package has and runs."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from pimchip.chip import load_chip
from pimchip.cli.main import cli
from pimchip.emulator.instruments.server import InstrumentServer
from pimchip.instruments.bench import open_bench
from pimchip.instruments.benchfile import example_text, load_bench
from pimchip.instruments.drivers import DRIVERS
from pimchip.instruments.twin import BenchTwin, idle_twin

DOC = Path(__file__).resolve().parent.parent / "docs" / "bench.md"
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.M | re.S)


def blocks(language: str) -> list[str]:
    return [body for name, body in BLOCK.findall(DOC.read_text(encoding="utf-8")) if name == language]


def run(*arguments: str) -> tuple[int, dict[str, Any], str]:
    """Exit code, the one JSON object, and stderr."""
    done = CliRunner().invoke(cli, ["power", *arguments, "--json"])
    return done.exit_code, json.loads(done.stdout), done.stderr


@pytest.fixture
def bench_file(tmp_path: Path) -> Path:
    path = tmp_path / "bench.toml"
    path.write_text(example_text())
    return path


@pytest.fixture
def served(bench_file: Path) -> Any:
    """A twin that outlives commands, and the bench file that leads to it."""
    with idle_twin(load_bench(bench_file), load_chip("sram65")) as twin:
        text = bench_file.read_text()
        for name, resource in twin.server.resources.items():
            text = re.sub(rf'(\[instruments.{name}\]\ndriver = "[^"]*"\nresource = ")[^"]*', rf"\g<1>{resource}", text)
        bench_file.write_text(text.replace("after_seconds = 0.05", "after_seconds = 0.0"))
        yield twin, str(bench_file)


def test_the_documents_example_is_the_packages_and_powers_up() -> None:
    (example,) = blocks("toml")
    assert example == example_text()


def test_the_documents_table_has_every_driver() -> None:
    rows = re.findall(r"^\|[^|]*\| `([a-z0-9-]+)`", DOC.read_text(encoding="utf-8"), re.M)
    assert sorted(rows) == sorted(DRIVERS)


@pytest.mark.parametrize("snippet", blocks("python"), ids=["bench", "energy"])
def test_the_documents_snippets_run(snippet: str, bench_file: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", snippet], cwd=bench_file.parent, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip()


def test_up_read_down_over_a_bench_that_stays(served: tuple[BenchTwin, str]) -> None:
    twin, path = served
    code, found, _ = run("up", "--bench", path)
    assert code == 0 and found["state"] == "up" and found["twin"] is False
    assert all(twin.on(rail) for rail in ("avdd", "dvdd", "vddio"))
    code, found, _ = run("read", "--bench", path)
    assert (
        code == 0
        and found["on"] == ["vddio", "dvdd", "avdd"]
        and found["rails"]["avdd"]["volts"] == pytest.approx(1, abs=0.01)
    )
    assert len(found["provenance"]["hashes"]["bench"]) == 64
    code, found, _ = run("down", "--bench", path)
    assert code == 0 and found["state"] == "off"
    assert not any(twin.on(rail) for rail in ("avdd", "dvdd", "vddio"))


def test_off_is_off(served: tuple[BenchTwin, str]) -> None:
    twin, path = served
    assert run("up", "--bench", path)[0] == 0
    assert run("off", "--bench", path)[0] == 0
    assert not any(twin.on(rail) for rail in ("avdd", "dvdd", "vddio"))


def test_an_instrument_that_is_not_there_is_exit_code_3(served: tuple[BenchTwin, str]) -> None:
    twin, path = served
    twin.server.troubles["smu"] = "gone"
    code, found, stderr = run("up", "--bench", path)
    assert code == 3 and re.match(r"smu \(TCPIP::127.0.0.1::\d+::SOCKET\), '\*IDN\?': ", found["error"])
    assert "Traceback" not in stderr


def test_an_output_that_cannot_be_switched_off_is_exit_code_3_and_named(
    served: tuple[BenchTwin, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    twin, path = served
    assert run("up", "--bench", path)[0] == 0
    smu = twin.server.instruments["smu"]
    handle = smu.handle
    monkeypatch.setattr(smu, "handle", lambda line: None if line == ":OUTP OFF" else handle(line))  # it does not listen
    code, found, _ = run("down", "--bench", path)
    assert code == 3 and found["error"].startswith("MAY STILL BE ON, switch off by hand: rail avdd: smu ")
    assert twin.on("avdd") and not twin.on("dvdd") and not twin.on("vddio")


def test_a_bench_file_that_is_wrong_is_exit_code_2(tmp_path: Path) -> None:
    assert run("up", "--bench", str(tmp_path / "no.toml"))[0] == 2
    bad = tmp_path / "bad.toml"
    bad.write_text(example_text().replace("volts = 1.8", "volts = 2.8"))
    code, found, _ = run("up", "--bench", str(bad), "--twin")
    assert code == 2 and "rails.vddio: volts = 2.8 is outside" in found["error"]


def test_the_example_is_told_as_text_and_as_json() -> None:
    assert CliRunner().invoke(cli, ["power", "example"]).stdout == example_text()
    assert run("example")[1]["example"] == example_text()


def test_a_twins_server_ends_its_thread_and_closing_twice_is_no_error() -> None:
    server = InstrumentServer({})
    server.close()
    server.close()
    assert not server._thread.is_alive()


def test_the_bench_by_the_machines_clock(bench_file: Path) -> None:
    with BenchTwin(load_bench(bench_file), load_chip("sram65"), dict) as twin, open_bench(twin.spec) as bench:
        bench.power_up()
        assert twin.on("avdd")
    assert not twin.on("avdd")
