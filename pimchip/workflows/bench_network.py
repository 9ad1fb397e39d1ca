"""ResNet-20 on an emulated die against the same network in float32 torch: time and memory."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

import pimchip
from pimchip.board import open_board
from pimchip.compiler import Program
from pimchip.errors import InputError
from pimchip.qat import build_model, convert
from pimchip.qat.data import load_dataset
from pimchip.runtime import Executor
from pimchip.workflows.bench_clock import OnProgress, Spread, in_turns
from pimchip.workflows.bench_process import in_process

CHIP, MODEL = "sram65", "resnet20"
SHAPE, CLASSES = (3, 32, 32), 10
FLOAT_BATCHES = (8, 32, 128)
"""Batch sizes of which torch's quickest is taken."""


def random_images(shape: tuple[int, int, int], count: int, seed: int) -> NDArray[np.uint8]:
    """uint8 [count, *shape], uniform."""
    return np.random.default_rng(seed).integers(0, 256, (count, *shape)).astype(np.uint8)


@contextmanager
def emulated(program: Program, seed: int) -> Iterator[Executor]:
    """A program on die 0 of its chip, curves and noise on."""
    with open_board(f"emulator:{program.spec.name}?die=0&noise=on", seed=seed) as board:
        yield Executor(program, board)


def images_of(data: str | None, data_dir: Path | None, count: int, seed: int) -> NDArray[np.uint8]:
    """The first test images of a data set, or random ones. Raises InputError where they are of another shape."""
    if data is None:
        return random_images(SHAPE, count, seed)
    images = load_dataset(data, data_dir, limit_test=count).test.images
    if images.shape[1:] != SHAPE:
        raise InputError(f"data {data} has images {list(images.shape[1:])}; {MODEL} here takes {list(SHAPE)}")
    return images


def measure_network(
    images: NDArray[np.uint8], repetitions: int, memory_batches: tuple[int, ...], seed: int, tell: OnProgress
) -> dict[str, Any]:
    """Images a second on the emulated die and in torch, and the emulator's peak memory at batch sizes, for JSON.

    Weights are drawn, not trained, and BN is not calibrated: that changes what comes out and not how long it takes.
    Shortcuts, the first and the last layer run on the processor. Reprogramming between passes is in the time.
    """
    network = build_model(MODEL, SHAPE, CLASSES, seed).eval()
    chip_network = convert(network, CHIP, pim_skip=("first", "last", "shortcut")).eval()
    program = pimchip.compile(chip_network, torch.zeros(1, *SHAPE), CHIP, name=MODEL)
    pixels = torch.from_numpy(images).float() / 255
    batch = _best_batch(network, pixels)

    def in_float() -> None:
        with torch.inference_mode():
            for first in range(0, len(pixels), batch):
                network(pixels[first : first + batch])

    with emulated(program, seed) as executor:
        executor.logits(images[:1])  # loads compiled code
        jobs = {"emulated": lambda: executor.logits(images), "float": in_float}
        took = in_turns(jobs, repetitions, lambda done, total: tell(MODEL, done, total))
    peaks = {}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "bench.pim"
        program.save(path)
        for done, size in enumerate(memory_batches):
            tell("memory", done, len(memory_batches))
            peaks[str(size)] = in_process("network", str(path), str(size), str(seed))["peak_bytes"]
    ratio = Spread.of([mine / theirs for mine, theirs in zip(took["emulated"], took["float"], strict=True)])
    rate = Spread.of([len(images) / seconds for seconds in took["emulated"]])
    return {
        **ratio.keys("resnet20_float_ratio"),
        **rate.keys("resnet20_images_per_second"),
        **Spread.of([len(images) / seconds for seconds in took["float"]]).keys("resnet20_float_images_per_second"),
        "resnet20_conversions_per_second": rate.middle * program.conversions_per_image,
        "resnet20_images": len(images),
        "resnet20_weights": "random, BN not calibrated; first, last and shortcut layers on the processor",
        "resnet20_float_batch": batch,
        "peak_memory_bytes": max(peaks.values()),
        "peak_memory_bytes_by_batch": peaks,
    }


def _best_batch(network: torch.nn.Module, pixels: torch.Tensor) -> int:
    """The batch size at which torch takes the least time an image."""
    took = {}
    for size in FLOAT_BATCHES:
        part = pixels[:size]
        with torch.inference_mode():
            network(part)
            begin = time.perf_counter()
            network(part)
            took[size] = (time.perf_counter() - begin) / len(part)
    return min(took, key=lambda size: took[size])
