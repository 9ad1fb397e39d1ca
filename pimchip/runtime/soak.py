"""Repeatability: the same images give the same answer, within the noise, whatever the chip did between.

First the images are run several times with nothing between; that is the noise, image by image. Then, round after round,
the chip does other work: it classifies other images, and holds and converts other cells, after which its weights are
programmed again. The images then run once more. An image's squared distance from the mean of its first runs, times
k / (k + 1), has the same mean as the variance of those k runs if nothing but noise differs; whether it is larger is a
paired t test over the images, one a round, with Holm's adjustment over the rounds.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray
from scipy.stats import ttest_1samp

from pimchip.board.restarts import through_restarts
from pimchip.errors import InputError
from pimchip.profile.multiple import holm
from pimchip.runtime.executor import SOAK_RUN, Executor

Float = NDArray[np.float64]
FIRST_RUNS = 8
ALPHA = 0.01
"""The chance that a chip that repeats within its noise is said not to."""
VECTORS = 16
"""Of other cells' inputs, a tile."""


@dataclass(frozen=True)
class Round:
    """Once more after other work. ratio: root mean square distance from the first runs over what noise makes of it, 1 where
    nothing but noise differs; agree: share of images with the same prediction as the first runs' mean; p: adjusted."""

    seconds: float
    ratio: float
    agree: float
    p: float


@dataclass(frozen=True)
class Soak:
    """noise: of a logit, in integer units; agree: share of the first runs' predictions that their mean has."""

    images: int
    noise: float
    agree: float
    rounds: tuple[Round, ...]

    @property
    def passed(self) -> bool:
        """Whether every round was within the noise."""
        return all(r.p > ALPHA for r in self.rounds)

    @property
    def worst(self) -> Round:
        """The round with the smallest p, of those the one furthest off."""
        return min(self.rounds, key=lambda r: (r.p, -r.ratio))


def soak(
    executor: Executor,
    images: NDArray[np.uint8],
    other: NDArray[np.uint8],
    *,
    seconds: float,
    seed: int = 0,
    clock: Callable[[], float] = time.monotonic,
    progress: Callable[[int, int], None] | None = None,
) -> Soak:
    """Rounds for so long, at least one. images: uint8 [n, c, h, w], the same each round; other: what else is classified.

    seed: of the other cells. Raises InputError for fewer than two images. The chip's weights are as programmed afterwards.
    """
    executor.check_images(images)
    if len(images) < 2:
        raise InputError(f"{len(images)} images: two or more are wanted, to test over")
    rng, start = np.random.default_rng(seed), clock()
    runs = [_logits(executor, images, number) for number in range(FIRST_RUNS)]
    first = np.stack(runs)
    middle, variance = first.mean(axis=0), first.var(axis=0, ddof=1).sum(axis=1)
    predicted = middle.argmax(axis=1)
    found: list[tuple[float, Float, float]] = []
    while not found or clock() - start < seconds:
        executor.logits(other, run=SOAK_RUN, first_image=(FIRST_RUNS + len(found)) * len(images))
        _other_cells(executor, rng)
        now = _logits(executor, images, FIRST_RUNS + 1 + len(found))
        distance = ((now - middle) ** 2).sum(axis=1) * (FIRST_RUNS / (FIRST_RUNS + 1))
        found.append((clock() - start, distance, float((now.argmax(axis=1) == predicted).mean())))
        if progress:
            progress(min(int(clock() - start), int(seconds)), max(int(seconds), 1))
    adjusted = holm(np.array([_chance(distance - variance) for _, distance, _ in found]))
    level = float(variance.mean())
    rounds = tuple(
        Round(at, _ratio(float(distance.mean()), level), agree, float(p))
        for (at, distance, agree), p in zip(found, adjusted, strict=True)
    )
    own = float((first.argmax(axis=2) == predicted).mean())
    return Soak(len(images), float(np.sqrt(level / middle.shape[1])), own, rounds)


def _logits(executor: Executor, images: NDArray[np.uint8], number: int) -> Float:
    return executor.logits(images, run=SOAK_RUN, first_image=(1 << 30) + number * len(images)).astype(np.float64)


def _chance(excess: Float) -> float:
    """That differences whose mean is not above zero are as large."""
    if not excess.std() > 0:
        return 1.0 if excess.mean() <= 0 else 0.0
    return float(ttest_1samp(excess, 0.0, alternative="greater").pvalue)


def _ratio(distance: float, variance: float) -> float:
    if variance > 0:
        return float(np.sqrt(distance / variance))
    return 1.0 if distance == 0 else float("inf")


def _other_cells(executor: Executor, rng: np.random.Generator) -> None:
    """Other content in the place of the first pass's weights, and conversions of it."""
    board, program = executor.board, executor.program
    for layer in program.manifest.layers.values():
        for record in layer.tiles:
            if record.residency:
                continue
            tile, mac = record.placement().tile, layer.operating_point()
            cells = rng.integers(0, mac.cell_max + 1, (tile.rows, tile.columns)).astype(np.int8)
            x = rng.integers(0, 1 << mac.dac_bits, (VECTORS, tile.rows))

            def once(tile=tile, cells=cells, x=x, mac=mac) -> None:  # type: ignore[no-untyped-def]
                board.program(tile, cells, mac=mac)
                board.convert(tile, x, mac=mac)

            through_restarts(once)
    if program.manifest.passes:
        through_restarts(partial(executor.load_pass, 0))
