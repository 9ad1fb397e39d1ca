"""A device on loopback TCP for `bench link`, in a process of its own: the C firmware's twin, or the Python server."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pimchip.board.serving import write_die_file
from pimchip.chip import load_chip
from pimchip.errors import DeviceError
from pimchip.profile.manifest import to_toml

FIRMWARE = Path(__file__).resolve().parents[2] / "firmware_protocol" / "firmware"
TWIN, PYTHON = "C host twin", "Python server"


def write_wide_chip(path: Path, size: int) -> tuple[int, int]:
    """A description of a chip with about `size` cells in one macro, behind one converter. Returns its rows and columns."""
    columns = min(size, 4000)
    rows = size // columns
    chip = load_chip("sram65").to_dict()
    chip |= {"name": "wide", "description": "one macro of many cells, for transfers"}
    chip["array"] |= {"macros": 1, "rows": rows, "columns": columns}
    chip["adc"] |= {"per_macro": 1, "range_divisors": [1]}
    chip["operating"] |= {"rows": rows}
    path.write_text(to_toml(chip), encoding="utf-8")
    return rows, columns


def write_large_chip(path: Path, size: int) -> Path:
    """A description of a chip of sram65's macros, as many as hold about `size` cells. Returns where it is."""
    chip = load_chip("sram65").to_dict()
    macros = max(size // (chip["array"]["rows"] * chip["array"]["columns"]), 1)
    chip |= {"name": "large", "description": "many macros, for programming"}
    chip["array"] |= {"macros": macros}
    path.write_text(to_toml(chip), encoding="utf-8")
    return path


def lacking() -> str:
    """Why there can be no C twin here; "" where it can be built."""
    if not FIRMWARE.is_dir():
        return f"{FIRMWARE} is not there"
    absent = [tool for tool in ("gcc", "make") if shutil.which(tool) is None]
    return f"not installed: {', '.join(absent)}" if absent else ""


@contextmanager
def peer(kind: str, url: str, folder: Path) -> Iterator[tuple[str, int, int]]:
    """Host and port where the board of an emulator: URL answers, and its process. kind: TWIN or PYTHON. folder: for what is
    built.

    Raises DeviceError where it does not start.
    """
    if kind == TWIN:
        built = subprocess.run(["make", "-s", "-C", str(FIRMWARE), f"BUILD={folder}"], capture_output=True, text=True)
        if built.returncode:
            raise DeviceError(f"the C twin was not built: {built.stderr.strip().splitlines()[-1:]}")
        write_die_file(url, folder / "wide.die")
        command = [str(folder / "pimp-twin"), str(folder / "wide.die"), "tcp://127.0.0.1:0"]
    else:
        command = [sys.executable, "-m", "pimchip", "emulate", "--device", url, "--listen", "tcp://127.0.0.1:0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=dict(os.environ)) as process:
        try:
            assert process.stdout is not None
            said = process.stdout.readline()
            place = said.partition("tcp://")[2].strip()
            if not place:
                raise DeviceError(f"the {kind} does not listen: {said.strip() or 'it ended'}")
            host, _, port = place.rpartition(":")
            yield host, int(port), process.pid
        finally:
            process.kill()
