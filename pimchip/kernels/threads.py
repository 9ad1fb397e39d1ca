"""Compiled kernels on several threads: Python's own, since the kernels let go of the interpreter's lock.

Torch and numba each keep a pool of OpenMP threads, and two pools that wait busily for work slow each other down; these
threads sleep.
"""

from __future__ import annotations

import ctypes
import itertools
import os
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import torch

PARTS = 4
"""Parts of work for each thread."""


class _Workers:
    """Sleeping threads, kept off the caller's processor.

    Linux may wake a thread on the processor of whoever woke it, where it then waits for its turn while others idle:
    on two cores that was seen to make every second call as slow as one thread.
    """

    def __init__(self, count: int) -> None:
        self.count = count
        self._ids: list[int] = []
        self._pool = ThreadPoolExecutor(
            count, "pimchip-kernel", initializer=lambda: self._ids.append(threading.get_native_id())
        )
        barrier = threading.Barrier(count + 1)
        for _ in range(count):
            self._pool.submit(barrier.wait)
        barrier.wait()
        self._avoided = -1

    def submit(self, work: Callable[[], None], count: int) -> list[Callable[[], None]]:
        """Start work on `count` threads; returns what waits for each and raises its error."""
        self._spread()
        return [self._pool.submit(work).result for _ in range(count)]

    def _spread(self) -> None:
        here = _processor()
        if here < 0 or here == self._avoided:
            return
        self._avoided = here
        others = os.sched_getaffinity(0) - {here}
        try:
            for thread in self._ids if others else []:
                os.sched_setaffinity(thread, others)
        except OSError:  # forbidden in some containers: slower, not wrong
            pass


def _processor() -> int:
    """The processor that this thread runs on, -1 where it cannot be known."""
    return _sched_getcpu() if _sched_getcpu is not None else -1


_sched_getcpu = getattr(ctypes.CDLL(None), "sched_getcpu", None) if hasattr(os, "sched_setaffinity") else None
_workers: _Workers | None = None


def _forget() -> None:
    """A forked process has none of its parent's threads."""
    global _workers
    _workers = None


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)


def share(begin: Callable[[], Callable[[int, int], None]], items: int, least: int) -> None:
    """Do work(first, last) for all of 0..items on torch.get_num_threads() threads, this one among them.

    Each thread calls begin() for a work of its own, which may hold scratch memory. Which thread takes which part is left
    to chance, so work must give the same whoever does it. Parts have at least `least` items, and there are several for
    each thread, since threads are not equally fast. The first error raised by a part is raised here.
    """
    global _workers
    threads = torch.get_num_threads()
    step = max(least, -(-items // (PARTS * threads)))
    step = -(-step // least) * least
    steps = -(-items // step)
    wanted = min(threads, steps) - 1
    tickets = itertools.count()  # next() of it is one operation of the interpreter, so no ticket is drawn twice

    def take() -> None:
        work = begin()
        while (ticket := next(tickets)) < steps:
            work(ticket * step, min((ticket + 1) * step, items))

    if wanted <= 0:
        take()
        return
    if _workers is None or _workers.count < wanted:
        _workers = _Workers(wanted)
    waits = _workers.submit(take, wanted)
    try:
        take()
    finally:
        for wait in waits:
            wait()
