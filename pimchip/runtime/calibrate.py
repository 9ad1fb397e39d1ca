"""BN calibration on the chip: running statistics measured through the real converters, from exact integer sums.

Parallel, as PIM-QAT does it: statistics are reset, batches of training data run with every BN normalizing by the batch's
own mean and variance, and the cumulative averages replace what training left. Sequential: layer after layer in the order
they run, each with the layers before it already at their final statistics, from the sums of all batches pooled; it runs
the first layers once more for each BN. Weights, gamma and beta stay in both.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from pimchip.board.api import Stats
from pimchip.board.restarts import through_restarts
from pimchip.characterize.journal import Arrays
from pimchip.compiler.program import Program
from pimchip.compiler.records import RequantizeStep
from pimchip.errors import InputError
from pimchip.kernels import integer
from pimchip.runtime.executor import CALIBRATION_RUN, Executor
from pimchip.runtime.steps import Parts

Float = NDArray[np.float64]
Norm = dict[str, Float]
Progress = Callable[[int, int], None]
LEAST_BATCHES = 4
"""Before a standard error is believed: it is itself estimated from their scatter."""


@dataclass(frozen=True)
class Plan:
    """How much is measured, and how.

    batches: None for as many as it takes until standard_error is at most `tolerance`, within the images given. batch_size:
    images. mode: see the module.
    """

    batches: int | None = 10
    batch_size: int = 100
    mode: Literal["parallel", "sequential"] = "parallel"
    tolerance: float = 0.02

    def __post_init__(self) -> None:
        if self.batches is not None and self.batches < 1 or self.batch_size < 1:
            raise InputError(
                f"BN calibration wants at least one batch of one image, got {self.batches} of {self.batch_size}"
            )
        if not 0 < self.tolerance < 1:
            raise InputError(f"tolerance = {self.tolerance}: want a share of the deviation between 0 and 1")

    def images(self, available: int) -> int:
        """Images to have ready, of a training set of so many: all of it where the number of batches is left open."""
        wanted = -(-available // self.batch_size) if self.batches is None else self.batches
        return wanted * self.batch_size


@dataclass(frozen=True)
class Calibrated:
    """A program with BN statistics of its chip.

    batches: of the BN that took the most. standard_error: of the statistics, the worst BN's: root mean square over its
    channels of the mean's standard error over the deviation, or of half the variance's over the variance, whichever is
    larger; None for one batch, whose scatter is not seen. enough: whether that is within the plan's tolerance.
    """

    program: Program
    batches: int
    standard_error: float | None
    enough: bool


def calibrate(
    executor: Executor,
    images: NDArray[np.uint8],
    *,
    batches: int,
    batch_size: int,
    progress: Progress | None = None,
) -> Program:
    """The program with BN statistics of this chip. images: uint8 [n, c, h, w], taken in order, batch_size a batch.

    Raises InputError without images, or where a batch cannot give a variance.
    """
    return calibrated(executor, images, Plan(batches, batch_size), progress=progress).program


def calibrated(
    executor: Executor,
    images: NDArray[np.uint8],
    plan: Plan,
    *,
    parts: Parts | None = None,
    progress: Progress | None = None,
) -> Calibrated:
    """The same as a plan says, with what it came to. parts: keeps each batch's sums, for a run that is cut short."""
    executor.check_images(images)
    size, kept = plan.batch_size, parts or Parts(None)
    if not len(images):
        raise InputError(f"BN calibration wants at least one batch of one image, got {plan.batches} of {size} from 0")
    if size > executor.batch_size():
        raise InputError(
            f"a calibration batch of {size} images does not fit the board's memory; {executor.batch_size()} do"
        )
    most = -(-len(images) // size)
    batches = most if plan.batches is None else min(plan.batches, most)
    if plan.mode == "sequential":
        return _sequential(executor, images, plan, batches, kept, progress)
    return _parallel(executor, images, plan, batches, kept, progress)


def _parallel(
    executor: Executor, images: NDArray[np.uint8], plan: Plan, batches: int, parts: Parts, progress: Progress | None
) -> Calibrated:
    program, size = executor.program, plan.batch_size
    sums: dict[str, tuple[list[Float], list[Float]]] = {}
    error: float | None = None
    for number in range(batches):
        batch = images[number * size : (number + 1) * size]
        work = partial(_one_batch, executor, batch, number * size)
        found = parts.part(f"batch{number}", lambda work=work: through_restarts(work))  # type: ignore[misc]
        for key, values in found.items():
            name, _, which = key.rpartition(".")
            sums.setdefault(name, ([], []))[which == "var"].append(values)
        if progress:
            progress(number + 1, batches)
        error = max((standard_error(*map(np.stack, pair)) for pair in sums.values()), default=0.0) if number else None
        if plan.batches is None and _enough(error, number + 1, plan):
            break
    norms = {
        name: program.norm(name) | {"mean": np.mean(means, axis=0), "var": np.mean(variances, axis=0)}
        for name, (means, variances) in sums.items()
    }
    return Calibrated(program.with_norms(norms), number + 1, error, error is not None and error <= plan.tolerance)


def _sequential(
    executor: Executor, images: NDArray[np.uint8], plan: Plan, batches: int, parts: Parts, progress: Progress | None
) -> Calibrated:
    """Each BN from pooled sums, with those before it as they will be."""
    program, size = executor.program, plan.batch_size
    names = list(dict.fromkeys(step.norm for step in _calibrated_steps(program) if step.norm is not None))
    worst: float | None = None
    most = 0
    for place, name in enumerate(names):
        stats = list[Stats]()
        error: float | None = None
        for number in range(batches):
            batch = images[number * size : (number + 1) * size]
            work = partial(_up_to, executor, name, batch, number * size)
            found = parts.part(f"bn{place}-batch{number}", lambda work=work: through_restarts(work))  # type: ignore[misc]
            stats.append(Stats(int(found["count"]), found["total"], found["squares"]))
            if progress:
                progress(place * batches + number + 1, len(names) * batches)
            if number:
                each = [moments(s) for s in stats]
                error = standard_error(np.stack([m for m, _ in each]), np.stack([v for _, v in each]))
            if plan.batches is None and _enough(error, number + 1, plan):
                break
        mean, var, count = _pooled(stats)
        record, norm = program.manifest.norms[name], program.norm(name)
        if count < 2:
            raise InputError(f"layer {record.layer}: one value gives no variance; calibrate with more images")
        real = {"mean": mean * record.unit + norm["bias"], "var": var * record.unit**2 * count / (count - 1)}
        program = program.with_norms({name: norm | real})
        executor = executor.with_program(program)
        most = max(most, len(stats))
        worst = error if worst is None else max(worst, error or 0.0)
    return Calibrated(program, most, worst, worst is not None and worst <= plan.tolerance)


def _enough(error: float | None, batches: int, plan: Plan) -> bool:
    return error is not None and batches >= LEAST_BATCHES and error <= plan.tolerance


def standard_error(means: Float, variances: Float) -> float:
    """Of the average of batches' means and variances, [batches, channels], see Calibrated; the channels that vary count."""
    count, var = len(means), variances.mean(axis=0)
    varies = var > 0
    if not varies.any():
        return 0.0
    of_mean = means.std(axis=0, ddof=1)[varies] / np.sqrt(count * var[varies])
    of_deviation = variances.std(axis=0, ddof=1)[varies] / (2 * np.sqrt(count) * var[varies])
    return float(max(np.sqrt(np.mean(of_mean**2)), np.sqrt(np.mean(of_deviation**2))))


def _calibrated_steps(program: Program) -> Iterator[RequantizeStep]:
    """The steps that apply a BN, in the order they run."""
    for step in program.manifest.steps:
        if isinstance(step, RequantizeStep) and step.norm is not None and program.manifest.norms[step.norm].calibrated:
            yield step


def _one_batch(executor: Executor, batch: NDArray[np.uint8], first_image: int) -> Arrays:
    """Run a batch, normalizing by its own statistics; returns NORM.mean and NORM.var, unbiased, in real units."""
    program, sums = executor.program, Arrays()
    seen: dict[str, Norm] = {}
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
    executor.free(program.manifest.output)
    return sums


def _measured(executor: Executor, step: RequantizeStep, sums: Arrays) -> Norm:
    """The batch's normalization tensors; notes its mean and unbiased variance, in real units."""
    assert step.norm is not None
    record = executor.program.manifest.norms[step.norm]
    norm = executor.program.norm(step.norm)
    found = stats_of(executor, step.src)
    if found.count < 2:
        raise InputError(f"layer {record.layer}: one value a channel gives no variance; calibrate with a larger batch")
    mean, var = moments(found)
    real_mean = mean * record.unit + norm["bias"]
    real_var = var * record.unit**2
    sums[f"{step.norm}.mean"], sums[f"{step.norm}.var"] = real_mean, real_var * found.count / (found.count - 1)
    return norm | {"mean": real_mean, "var": real_var}


def _up_to(executor: Executor, name: str, batch: NDArray[np.uint8], first_image: int) -> Arrays:
    """Run a batch as far as a BN; returns the exact sums that come to it."""
    for step in executor.steps(batch, CALIBRATION_RUN, first_image):
        if isinstance(step, RequantizeStep) and step.norm == name:
            found = stats_of(executor, step.src)
            break
    executor.release()
    return {"count": np.array(found.count), "total": found.total, "squares": found.squares}


def moments(stats: Stats) -> tuple[Float, Float]:
    """Mean and biased variance per channel from exact sums; the variance's numerator is formed in integers."""
    return _pooled([stats])[:2]


def _pooled(stats: list[Stats]) -> tuple[Float, Float, int]:
    """The same over several sums, and how many values there are."""
    count = sum(s.count for s in stats)
    totals = [sum(map(int, one)) for one in zip(*(s.total for s in stats), strict=True)]
    squares = [sum(map(int, one)) for one in zip(*(s.squares for s in stats), strict=True)]
    numerators = [count * q - t * t for t, q in zip(totals, squares, strict=True)]
    mean = np.array([t / count for t in totals], np.float64)
    return mean, np.array([n / count**2 for n in numerators], np.float64), count


def stats_of(executor: Executor, buffer: int) -> Stats:
    """Exact sums of a buffer, of the board or on the host."""
    if "stats" in executor.board.info().capabilities:
        return executor.board.stats(buffer)
    return Stats(*integer.stats(executor.read(buffer)))
