"""What inference costs beside the chip: ResNet-20 in this process against its kernels alone, and over TCP to the C twin.

The kernels alone are the calls that one run makes of them, taken down and made again with the same arguments: programming,
checking, packing of weights, the board's and the executor's bookkeeping are what the whole run has beside them.
"""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

import pimchip
from pimchip.board import open_board
from pimchip.board.restarts import through_restarts
from pimchip.compiler import Program
from pimchip.kernels import integer, layers
from pimchip.qat import build_model, convert
from pimchip.runtime import Executor
from pimchip.workflows.bench_clock import OnProgress, Spread, in_turns, machine
from pimchip.workflows.bench_network import CHIP, CLASSES, MODEL, SHAPE, emulated, random_images
from pimchip.workflows.link_peer import PYTHON, TWIN, lacking, peer

KERNELS = ((layers, "run"), *((integer, n) for n in ("convolve_map", "requantize_map", "add_maps", "pool")))


@dataclass(frozen=True)
class Sizes:
    """Of the benchmark. images: in this process; distant: over TCP."""

    model: str
    images: int
    distant: int
    repetitions: int


FULL = Sizes(MODEL, 600, 128, 7)
QUICK = Sizes("resnet8", 8, 2, 1)


def bench_infer(sizes: Sizes, seed: int, tell: OnProgress, *, firmware: bool = True) -> dict[str, Any]:
    """Figures for JSON. firmware: the C twin where it can be built, else the Python server."""
    program = _program(sizes.model, seed)
    images = random_images(SHAPE, sizes.images, seed)
    with emulated(program, seed) as executor:
        found = _in_process(executor, images, sizes.repetitions, tell)
        wanted = executor.logits(images[: sizes.distant])
    missing = lacking() if firmware else "not asked for"
    kind = PYTHON if missing else TWIN
    found |= _over_tcp(program, images[: sizes.distant], wanted, kind, seed, tell)
    return {
        **found,
        "model": sizes.model,
        "images": sizes.images,
        "passes": program.manifest.passes,
        "conversions_per_image": program.conversions_per_image,
        "device": kind,
        "twin_missing": missing or None,
        **machine(),
    }


def _program(model: str, seed: int) -> Program:
    network = build_model(model, SHAPE, CLASSES, seed).eval()
    chip_network = convert(network, CHIP, pim_skip=("first", "last", "shortcut")).eval()
    return pimchip.compile(chip_network, torch.zeros(1, *SHAPE), CHIP, name=model)


Call = Callable[[], object]


@contextmanager
def _noted() -> Iterator[list[Call]]:
    """Calls of the kernels, as they are made within."""
    calls, own = list[Call](), [(module, name, getattr(module, name)) for module, name in KERNELS]

    def noting(kernel: Callable[..., object]) -> Callable[..., object]:
        def note(*given: object, **named: object) -> object:
            calls.append(lambda: kernel(*given, **named))
            return kernel(*given, **named)

        return note

    try:
        for module, name, kernel in own:
            setattr(module, name, noting(kernel))
        yield calls
    finally:
        for module, name, kernel in own:
            setattr(module, name, kernel)


def _in_process(executor: Executor, images: NDArray[np.uint8], repetitions: int, tell: OnProgress) -> dict[str, Any]:
    executor.logits(images[:1])  # loads compiled code
    with _noted() as calls:
        executor.logits(images)

    def kernels() -> None:
        for call in calls:
            call()  # whose result goes, as the maps of a run do

    jobs: dict[str, Call] = {"whole": lambda: executor.logits(images), "kernels": kernels}
    took = in_turns(jobs, repetitions, lambda done, total: tell("in this process", done, total))
    pairs = zip(took["whole"], took["kernels"], strict=True)
    return {
        **Spread.of([whole / kernels for whole, kernels in pairs]).keys("kernel_ratio"),
        **Spread.of([len(images) / s for s in took["whole"]]).keys("images_per_second"),
        "kernel_calls": len(calls),
        "batch": executor.batch_size(),
    }


def _over_tcp(
    program: Program, images: NDArray[np.uint8], wanted: NDArray[np.int32], kind: str, seed: int, tell: OnProgress
) -> dict[str, Any]:
    """Where the time goes over loopback: processor time of the board's process and of ours, over the time of it all."""
    tell(kind, 0, 1)
    url = f"emulator:{program.spec.name}?die=0&noise=on&seed={seed}"
    with tempfile.TemporaryDirectory() as folder, peer(kind, url, Path(folder)) as (host, port, process):
        board = open_board(f"tcp://{host}:{port}")
        with board:
            executor = Executor(program, board)
            if program.manifest.passes:
                through_restarts(lambda: executor.load_pass(0))
            before = dict(board.link_statistics() or {})
            start, theirs, ours = time.perf_counter(), _processor_seconds(process), time.process_time()
            logits = executor.logits(images)
            wall, theirs, ours = (
                time.perf_counter() - start,
                _processor_seconds(process) - theirs,
                time.process_time() - ours,
            )
            after = dict(board.link_statistics() or {})
    tell(kind, 1, 1)
    requests = int(after.get("requests") or 0) - int(before.get("requests") or 0)
    return {
        "tcp_images": len(images),
        "tcp_images_per_second": len(images) / wall,
        "tcp_board_share": theirs / wall,
        "tcp_host_share": ours / wall,
        "tcp_requests": requests,
        "tcp_same_logits": bool(np.array_equal(logits, wanted)),
    }


def _processor_seconds(process: int) -> float:
    """User and system time of a process of Linux, in steps of 10 ms."""
    fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
