"""What is imported when: the package and `pimchip --help` are cheap, and layers do not reach upwards."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

import pimchip

ROOT = Path(__file__).resolve().parent.parent
HEAVY = (
    "torch",
    "numba",
    "scipy",
    "numpy",
    "matplotlib",
    "pydantic",
    "rich",
    "importlib.metadata",
    "sklearn",
    "PIL",
    "pyvisa",
)


def loaded_after(script: str) -> set[str]:
    """Names of modules that a fresh interpreter holds after a script."""
    end = "\nimport sys; print('\\n'.join(['MODULES', *sys.modules]))"
    # Without site-packages' .pth files, which may import things of their own; the paths are handed over instead.
    paths = os.pathsep.join([str(ROOT), *(p for p in sys.path if p)])
    done = subprocess.run(
        [sys.executable, "-S", "-c", script + end],
        capture_output=True, text=True, timeout=60, env={**os.environ, "PYTHONPATH": paths},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return set(done.stdout.split("MODULES\n")[1].split())


def test_importing_the_package_is_cheap() -> None:
    loaded = loaded_after("import pimchip; pimchip.__version__; dir(pimchip)")
    assert "pimchip" in loaded
    assert not loaded & {*HEAVY, "click"}


@pytest.mark.parametrize("arguments", [["--help"], ["--version"], ["-h"]])
def test_help_and_version_import_nothing_heavy(arguments: list[str]) -> None:
    script = f"""
from pimchip.cli.main import cli
try:
    cli({arguments!r}, prog_name="pimchip")
except SystemExit as end:
    assert not end.code, end.code
"""
    loaded = loaded_after(script)
    assert "click" in loaded
    assert not loaded & set(HEAVY)


@pytest.mark.parametrize(
    "command",
    [
        "info sram65",
        "devices",
        f"characterize --device emulator:sram65 --check {ROOT}/calibration_data/emu-sram65-97d42ebe-0000",
        "characterize --device emulator:sram65 --half-width 0.5 --range-divisor 1 --linearize",
    ],
)
def test_what_a_bench_runs_does_without_torch(command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    script = f"""
from pimchip.cli.main import cli
try:
    cli({command.split()!r}, prog_name="pimchip")
except SystemExit as end:
    assert not end.code, end.code
"""
    assert "torch" not in loaded_after(script)  # it takes longer to load than many a measurement


def test_help_names_every_command() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "pimchip", "--help"], capture_output=True, text=True, timeout=60, cwd=ROOT
    )
    assert done.returncode == 0 and not done.stderr
    from pimchip.cli.main import COMMANDS

    assert all(f"\n  {name} " in done.stdout for name in COMMANDS)


@pytest.mark.parametrize("name", pimchip.__all__)
def test_every_public_name_resolves(name: str) -> None:
    value = getattr(pimchip, name)
    assert value is getattr(pimchip, name)
    if name != "__version__":
        assert value.__module__.startswith("pimchip.")


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="module 'pimchip' has no attribute 'nothing'"):
        pimchip.nothing  # noqa: B018


def test_the_package_says_that_it_is_typed() -> None:
    assert (Path(pimchip.__file__).parent / "py.typed").exists()


@pytest.mark.skipif(find_spec("importlinter") is None, reason="import-linter is not installed: pip install -e .[dev]")
def test_imports_point_one_way() -> None:
    tool = Path(sys.executable).with_name("lint-imports")
    command = str(tool) if tool.exists() else shutil.which("lint-imports")
    assert command, "import-linter is installed without its command"
    done = subprocess.run([command, "--no-cache"], capture_output=True, text=True, timeout=120, cwd=ROOT)
    assert done.returncode == 0, done.stdout + done.stderr
    assert " 0 broken" in done.stdout
