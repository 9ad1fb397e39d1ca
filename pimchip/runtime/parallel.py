"""Several boards at once: blocks of images are dealt out in turns, and their logits come back in order.

Which board gets a block depends on its number alone, and an image's noise on the image's number, so each board gives what
it gives by itself, whatever the others' speed.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from pimchip.chip.mac import Int32
from pimchip.runtime.executor import Executor

WAITING = 2
"""Blocks that each board has been given and not finished."""


class Numbered(Protocol):
    """Consecutive images, the first of which is number `first`."""

    @property
    def first(self) -> int: ...
    @property
    def images(self) -> NDArray[np.uint8]: ...


Some = TypeVar("Some", bound=Numbered)


def block_size(executors: Sequence[Executor]) -> int:
    """Images a block: what fits every board at once."""
    return min(executor.batch_size() for executor in executors)


def logits_of(executors: Sequence[Executor], blocks: Iterable[Some]) -> Iterator[tuple[Some, int, Int32]]:
    """Each block with the place of its board in `executors`, and its logits int32 [n, classes].

    One board works in the caller's thread, several in a thread each.
    """
    if len(executors) == 1:
        for block in blocks:
            yield block, 0, executors[0].logits(block.images, first_image=block.first)
        return
    threads = [ThreadPoolExecutor(1, f"pimchip-board-{place}") for place in range(len(executors))]
    waiting: deque[tuple[Some, int, Future[Int32]]] = deque()
    try:
        for number, block in enumerate(blocks):
            place = number % len(executors)
            work = threads[place].submit(executors[place].logits, block.images, first_image=block.first)
            waiting.append((block, place, work))
            if len(waiting) >= WAITING * len(executors):
                yield _next(waiting)
        while waiting:
            yield _next(waiting)
    finally:
        for thread in threads:
            thread.shutdown(wait=False, cancel_futures=True)
        for thread in threads:  # whoever closes the boards next is to find none of them at work
            thread.shutdown()


def _next(waiting: deque[tuple[Some, int, Future[Int32]]]) -> tuple[Some, int, Int32]:
    block, place, work = waiting.popleft()
    return block, place, work.result()
