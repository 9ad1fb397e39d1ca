"""What the studies share: training and boards, results as JSON lines that a later run goes on from, intervals over seeds."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import torch
from scipy.stats import t as student
from torch import nn

from pimchip.board import Board
from pimchip.compiler import Program
from pimchip.qat import Settings, calibrate_bn, evaluate, train
from pimchip.qat.data import Dataset, calibration_images
from pimchip.runtime import deploy

BATCH, BN_BATCHES = 128, 20
Work = Callable[[], dict[str, Any]]


def run_cases(out: Path, seed: int, cases: Iterable[tuple[str, Work]], only: str = "") -> None:
    """Run every case whose result for this seed is not in the file yet; each returns what to note, "accuracy" with it.

    only: a word of the cases' names; "float" and "digital", which others start from, run whatever it is.
    """
    done = {(row["case"], row["seed"]) for row in rows(out)} if out.exists() else set()
    for case, work in cases:
        if (case, seed) in done or (only not in case and case not in ("float", "digital")):
            continue
        start = time.perf_counter()
        found = work()
        noted = {"case": case, "seed": seed, "seconds": round(time.perf_counter() - start, 1), **found}
        with out.open("a") as file:
            file.write(json.dumps(noted) + "\n")
        print(seed, case, f"{100 * found['accuracy']:.2f}", file=sys.stderr, flush=True)


def rows(path: Path) -> list[dict[str, Any]]:
    """Every result noted in a file."""
    return [json.loads(line) for line in path.read_text().splitlines()]


def interval(values: list[float]) -> str:
    """Mean and 95 % interval over seeds, in per cent."""
    if len(values) < 2:
        return f"{100 * values[0]:.2f}"
    half = student.ppf(0.975, len(values) - 1) * stdev(values) / len(values) ** 0.5
    return f"{100 * mean(values):.2f} +- {100 * half:.2f}"


def fit(network: nn.Module, data: Dataset, epochs: int, rate: float, seed: int) -> float:
    """Train on one thread; returns the accuracy on the test images."""
    settings = Settings(epochs=epochs, batch_size=BATCH, learning_rate=rate, seed=seed, deterministic=True)
    return train(network, data, settings)[-1].accuracy


def calibrated(network: nn.Module, data: Dataset, *, augmented: bool) -> float:
    """Calibrate BN in software, on images as training shows them or plain; returns the accuracy on the test images."""
    shown = calibration_images(data, BN_BATCHES * BATCH) if augmented else data.train.images
    images = torch.from_numpy(shown)
    calibrate_bn(network, images, batches=BN_BATCHES, batch_size=BATCH)
    return evaluate(network, data.test)


def on_board(board: Board, program: Program, data: Dataset) -> list[float]:
    """Accuracy of a program on a board, before and after BN calibration there; closes the board."""
    with board:
        result = deploy(program, board, data, bn_batches=BN_BATCHES)
    assert result.before is not None and result.after is not None
    return [result.before.value, result.after.value]
