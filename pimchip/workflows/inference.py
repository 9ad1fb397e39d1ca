"""Classifying a stream of images on one board or several, with what was deployed on each."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Generator, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from pimchip.board import Board
from pimchip.board.restarts import through_restarts
from pimchip.errors import InputError
from pimchip.runtime import Accuracy, Deployed, Executor
from pimchip.runtime.parallel import block_size, logits_of
from pimchip.runtime.watch import Watcher
from pimchip.workflows.results import Writer
from pimchip.workflows.streams import Block, Source, ahead

SHOWN = 20
"""Images whose class is shown one by one."""


@dataclass
class Tally:
    """What came of a stream. predictions: None where they went to a file alone; by_board: images each board did."""

    images: int = 0
    right: int | None = None
    seconds: float = 0.0
    counts: Counter[int] = field(default_factory=Counter)
    first: list[tuple[str, int]] = field(default_factory=list)
    predictions: list[int] | None = None
    by_board: list[int] = field(default_factory=list)

    @property
    def accuracy(self) -> Accuracy | None:
        """None without labels."""
        return None if self.right is None or not self.images else Accuracy(self.right, self.images)

    @property
    def rate(self) -> float:
        """Images a second."""
        return self.images / self.seconds if self.seconds else 0.0

    def add(self, block: Block, place: int, predictions: NDArray[np.int64]) -> None:
        """Take down a block's predictions."""
        self.images += len(predictions)
        self.by_board[place] += len(predictions)
        self.counts.update(predictions.tolist())
        if len(self.first) < SHOWN:
            names = block.names or [str(block.first + i) for i in range(len(predictions))]
            self.first += list(zip(names, predictions.tolist(), strict=True))[: SHOWN - len(self.first)]
        if self.predictions is not None:
            self.predictions += predictions.tolist()
        if block.labels is not None:
            self.right = (self.right or 0) + int((predictions == block.labels).sum())


def attached(held: Sequence[Deployed], boards: Sequence[Board]) -> list[Deployed]:
    """Of what was deployed, what is for each board's die, attached to it, its first pass programmed."""
    found = list[Deployed]()
    for board in boards:
        uid = board.info().uid
        own = next((one for one in held if one.uid == uid), None)
        if own is None and len(held) > 1:
            known = ", ".join(one.uid for one in held)
            raise InputError(f"no DEPLOYED is for die {uid}; they are for {known}: run `pimchip deploy` on this board")
        own = replace(own or held[0])  # one of its own for each board: it has one executor
        executor = own.attach(board)
        if own.program.manifest.passes:
            through_restarts(lambda executor=executor: executor.load_pass(0))  # type: ignore[misc]
        found.append(own)
    shapes = {(one.program.manifest.input_shape, one.program.manifest.classes) for one in found}
    if len(shapes) > 1:
        raise InputError("the networks that were deployed take other images, or tell other classes apart")
    return found


def classify(
    deployed: Sequence[Deployed],
    source: Source,
    writer: Writer,
    *,
    keep: bool = True,
    watcher: Watcher | None = None,
    every: int = 0,
    progress: Callable[[int, int | None], None] | None = None,
) -> Tally:
    """Run a stream through the boards that these are attached to; predictions go to the writer as they come.

    keep: predictions in the tally too. watcher: of the only board, is asked each time that `every` more images are done.
    """
    executors = [_executor(one) for one in deployed]
    tally = Tally(predictions=[] if keep else None, by_board=[0] * len(deployed))
    shape = deployed[0].program.manifest.input_shape
    for executor in executors:  # the first conversion loads compiled code; the rate is to be that of the rest
        executor.logits(np.zeros((1, *shape), np.uint8))
    start, checked = time.perf_counter(), 0

    def results() -> Generator[tuple[Block, int, NDArray[np.int32]]]:
        size = block_size(executors)
        blocks = ahead(source.blocks(size if watcher is None else min(size, every)))
        if watcher is None:
            yield from logits_of(executors, blocks)
            return
        for block in blocks:  # what is attached changes where BN is calibrated anew
            yield block, 0, _executor(deployed[0]).logits(block.images, first_image=block.first)

    with closing(results()) as found:  # at once where this is cut short, before the boards are closed
        for block, place, logits in found:
            real = (logits.astype(np.float64) * deployed[place].program.manifest.logit_scale).astype(np.float32)
            predictions = logits.argmax(axis=1)
            writer.add(block, predictions, real)
            tally.add(block, place, predictions)
            tally.seconds = time.perf_counter() - start
            if progress:
                progress(tally.images, source.count)
            if watcher is not None and tally.images >= checked + every:
                checked = tally.images
                watcher.check()
    return tally


def _executor(held: Deployed) -> Executor:
    if held.executor is None:
        raise InputError("this Deployed has no board; use attach(board) first")
    return held.executor
