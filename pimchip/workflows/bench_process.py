"""Measurements that want a process of their own, because memory once taken stays with it, as compiled kernels do.

python -m pimchip.workflows.bench_process dies NUMBER CHIP
python -m pimchip.workflows.bench_process compiling CHIP
python -m pimchip.workflows.bench_process network FILE.pim IMAGES SEED
python -m pimchip.workflows.bench_process growth WIDTH CHIP
python -m pimchip.workflows.bench_process training KIND MODEL BATCH SEED

Each prints one JSON object.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

FIRST = 10
"""Dies after which memory counts as settled."""


def in_process(*arguments: str, **environment: str) -> dict[str, Any]:
    """Run this module, with more in its environment; its JSON. Raises PimchipError with what it said where it fails."""
    command = [sys.executable, "-m", __spec__.name if __spec__ else __name__, *arguments]
    run = subprocess.run(command, capture_output=True, text=True, env={**os.environ, **environment})
    if run.returncode:
        from pimchip.errors import PimchipError

        raise PimchipError(f"a measurement in a process of its own failed: {run.stderr.strip().splitlines()[-1:]}")
    found: dict[str, Any] = json.loads(run.stdout)
    return found


def resident_bytes() -> int | None:
    """Memory of this process now; None where /proc does not tell."""
    return _status("VmRSS:")


def peak_bytes() -> int:
    """High-water mark of this process's memory. Not getrusage's where /proc tells: on Linux that one survives exec, and
    a small child of a large parent would inherit the parent's."""
    peak = _status("VmHWM:")
    if peak is not None:
        return peak
    import resource

    used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return used if sys.platform == "darwin" else 1024 * used


def forget_peak() -> None:
    """Set the high-water mark to what is held now, where the system lets a process do so."""
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")


def _status(name: str) -> int | None:
    try:
        lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    except OSError:
        return None
    return next((1024 * int(line.split()[1]) for line in lines if line.startswith(name)), None)


def _dies(number: int, chip: str) -> dict[str, Any]:
    """Open, program and read one die after another."""
    import numpy as np

    from pimchip.board import open_board
    from pimchip.chip import Tile, load_chip

    spec = load_chip(chip)
    mac = spec.mac()
    tile = Tile(0, 0, 0, min(mac.rows, spec.array.rows), spec.array.columns)
    ones = np.full((tile.rows, tile.columns), mac.cell_max, np.int8)
    x = np.full((64, tile.rows), 1)
    after_first = None
    for die in range(number):
        with open_board(f"emulator:{chip}?die={die}") as board:
            board.program(tile, ones)
            board.convert(tile, x)
        if die == min(FIRST, number) - 1:
            after_first = resident_bytes()
    return {
        "dies": number,
        "rss_after_10_dies_bytes": after_first,
        "rss_after_dies_bytes": resident_bytes(),
        "dies_peak_memory_bytes": peak_bytes(),
    }


def compile_seconds(chip: str, repetitions: int) -> list[float]:
    """CPU seconds of compiling the kernel of plain layers, each time with numba's cache empty."""
    found = []
    for _ in range(repetitions):
        with tempfile.TemporaryDirectory() as empty:
            found.append(float(in_process("compiling", chip, NUMBA_CACHE_DIR=empty)["seconds"]))
    return found


def _compiling(chip: str) -> dict[str, Any]:
    """The first conversion less the second, after numba's own start (loading its compiler) with another function."""
    import numba
    import numpy as np

    from pimchip.board import open_board
    from pimchip.chip import Tile

    numba.njit(lambda x: x + 1)(1)
    seconds = []
    with open_board(f"emulator:{chip}") as board:
        array = board.info().spec.array
        tile = Tile(0, 0, 0, board.info().spec.mac().rows, array.columns)
        board.program(tile, np.ones((tile.rows, tile.columns), np.int8))
        for _ in range(2):
            begun = time.process_time()
            board.convert(tile, np.ones((1, tile.rows), np.int64))
            seconds.append(time.process_time() - begun)
    return {"seconds": seconds[0] - seconds[1]}


def _network(path: str, images: int, seed: int) -> dict[str, Any]:
    """One batch of a program on an emulated die of its chip."""
    from pimchip.compiler import Program
    from pimchip.workflows.bench_network import emulated, random_images

    program = Program.load(path)
    with emulated(program, seed) as executor:
        before = peak_bytes()
        executor.logits(random_images(program.manifest.input_shape, images, seed))
    return {"images": images, "peak_bytes": peak_bytes(), "peak_before_bytes": before}


def _training(kind: str, model: str, batch: int, seed: int) -> dict[str, Any]:
    """One kind of training step."""
    from pimchip.workflows.bench_training import step_memory

    return step_memory(kind, model, batch, seed)


if __name__ == "__main__":
    kind, *rest = sys.argv[1:]
    if kind == "dies":
        result = _dies(int(rest[0]), rest[1])
    elif kind == "compiling":
        result = _compiling(rest[0])
    elif kind == "network":
        result = _network(rest[0], int(rest[1]), int(rest[2]))
    elif kind == "growth":
        from pimchip.workflows.bench_compile import grown

        result = grown(int(rest[0]), rest[1])
    else:
        result = _training(rest[0], rest[1], int(rest[2]), int(rest[3]))
    sys.stdout.write(json.dumps(result))
