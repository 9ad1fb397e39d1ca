"""`bench emulator`: how fast and in how much memory dies are emulated, everything in one run."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from pimchip.workflows.bench_clock import OnProgress, machine
from pimchip.workflows.bench_network import images_of, measure_network
from pimchip.workflows.bench_process import compile_seconds, in_process
from pimchip.workflows.bench_tile import CHIP, VECTORS, measure_scaling, measure_tile


@dataclass(frozen=True)
class Sizes:
    """How much is measured. vectors: of the reference tile. images, memory_batches: of ResNet-20."""

    vectors: int
    repetitions: int
    images: int
    network_repetitions: int
    memory_batches: tuple[int, ...]
    dies: int


FULL = Sizes(VECTORS, 9, 256, 3, (16, 128), 100)
QUICK = Sizes(256, 2, 2, 1, (1, 2), 11)


def bench_emulator(
    sizes: Sizes, seed: int, tell: OnProgress, *, data: str | None = None, data_dir: Path | None = None
) -> dict[str, Any]:
    """Everything for JSON: medians, with the lowest and highest of the repetitions under NAME_range."""
    images = images_of(data, data_dir, sizes.images, seed)  # first: a wrong data set is not to be told after minutes
    tile = measure_tile(sizes.vectors, sizes.repetitions, seed, tell)
    scaling = measure_scaling(sizes.vectors, sizes.repetitions, seed, tell)
    network = measure_network(images, sizes.network_repetitions, sizes.memory_batches, seed, tell)
    tell("compiling", 0, 1)
    compiling = compile_seconds(CHIP, sizes.network_repetitions)
    tell("dies", 0, 1)
    dies = in_process("dies", str(sizes.dies), CHIP)
    return {
        **tile,
        **scaling,
        **network,
        "resnet20_data": data or "random",
        "compile_seconds": median(compiling),
        "compile_seconds_range": [min(compiling), max(compiling)],
        **dies,
        "repetitions": sizes.repetitions,
        "network_repetitions": sizes.network_repetitions,
        **machine(),
    }
