"""BN calibration on the chip: running statistics measured through the real converters, from exact integer sums.

As PIM-QAT does it: statistics are reset, batches of training data run with every BN normalizing by the batch's own
mean and variance, and the cumulative averages replace what training left. Weights, gamma and beta stay.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np
from numpy.typing import NDArray

from pimchip.board.api import Stats
from pimchip.board.restarts import through_restarts
from pimchip.compiler.program import Program
from pimchip.compiler.records import RequantizeStep
from pimchip.errors import InputError
from pimchip.kernels import integer
from pimchip.runtime.executor import CALIBRATION_RUN, Executor

Float = NDArray[np.float64]


def calibrate(
    executor: Executor,
    images: NDArray[np.uint8],
    *,
    batches: int,
    batch_size: int,
    progress: Callable[[int, int], None] | None = None,
) -> Program:
    """The program with BN statistics of this chip. images: uint8 [n, c, h, w], taken in order, batch_size a batch.

    Raises InputError without images, or where a batch cannot give a variance.
    """
    program = executor.program
    executor.check_images(images)
    if batches < 1 or batch_size < 1 or not len(images):
        raise InputError(
            f"BN calibration wants at least one batch of one image, got {batches} of {batch_size} from {len(images)}"
        )
    if batch_size > executor.batch_size():
        raise InputError(
            f"a calibration batch of {batch_size} images does not fit the board's memory; {executor.batch_size()} do"
        )
    sums: dict[str, list[tuple[Float, Float]]] = {}
    firsts = range(0, min(batches * batch_size, len(images)), batch_size)
    for done, first in enumerate(firsts, start=1):
        found = through_restarts(partial(_one_batch, executor, images[first : first + batch_size], first))
        for name, values in found.items():
            sums.setdefault(name, []).extend(values)
        if progress:
            progress(done, len(firsts))
    norms = {}
    for name, values in sums.items():
        mean = np.mean([m for m, _ in values], axis=0)
        var = np.mean([v for _, v in values], axis=0)
        norms[name] = program.norm(name) | {"mean": mean, "var": var}
    return program.with_norms(norms)


def _one_batch(executor: Executor, batch: NDArray[np.uint8], first_image: int) -> dict[str, list[tuple[Float, Float]]]:
    """Run a batch, normalizing by its own statistics; returns mean and variance by normalization."""
    program, sums = executor.program, dict[str, list[tuple[Float, Float]]]()
    seen: dict[str, dict[str, Float]] = {}
    for step in executor.steps(batch, CALIBRATION_RUN, first_image):
        if (
            not isinstance(step, RequantizeStep)
            or step.norm is None
            or not program.manifest.norms[step.norm].calibrated
        ):
            continue
        if step.norm not in seen:
            seen[step.norm] = _measured(executor, step, sums)
        executor.override(step, executor.requant_of(step, seen[step.norm]))
    executor.board.free(program.manifest.output)
    return sums


def _measured(executor: Executor, step: RequantizeStep, sums: dict[str, list[tuple[Float, Float]]]) -> dict[str, Float]:
    """The batch's normalization tensors; notes its mean and unbiased variance, in real units."""
    assert step.norm is not None
    record = executor.program.manifest.norms[step.norm]
    norm = executor.program.norm(step.norm)
    found = _stats(executor, step.src)
    if found.count < 2:
        raise InputError(f"layer {record.layer}: one value a channel gives no variance; calibrate with a larger batch")
    mean, var = moments(found)
    real_mean = mean * record.unit + norm["bias"]
    real_var = var * record.unit**2
    sums.setdefault(step.norm, []).append((real_mean, real_var * found.count / (found.count - 1)))
    return norm | {"mean": real_mean, "var": real_var}


def moments(stats: Stats) -> tuple[Float, Float]:
    """Mean and biased variance per channel from exact sums; the variance's numerator is formed in integers."""
    count = stats.count
    numerators = [count * int(q) - int(t) * int(t) for t, q in zip(stats.total, stats.squares, strict=True)]
    return stats.total / count, np.array([n / count**2 for n in numerators], np.float64)


def _stats(executor: Executor, buffer: int) -> Stats:
    if "stats" in executor.board.info().capabilities:
        return executor.board.stats(buffer)
    return Stats(*integer.stats(executor.board.download(buffer)))
