"""Compiled kernels on several threads: Python's own, since the kernels let go of the interpreter's lock.

Torch and numba each keep a pool of OpenMP threads, and two pools that wait busily for work slow each other down; these
threads sleep.
"""

from __future__ import annotations

import ctypes
import itertools
import os
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

PARTS = 12
"""Parts of work for each thread."""


class _Workers:
    """Sleeping threads, kept off the caller's processor while it works beside them.

    Linux may wake a thread on the processor of whoever woke it, and leaves both there for milliseconds while another
    processor idles: on two cores that was seen to make every second call as slow as one thread.
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

    def run(self, work: Callable[[], None], count: int) -> None:
        """Call work on `count` threads and on this one; raises the first error of any."""
        with self._apart():
            waits = [self._pool.submit(work).result for _ in range(count)]
            try:
                work()
            finally:
                for wait in waits:
                    wait()

    @contextmanager
    def _apart(self) -> Iterator[None]:
        """This thread stays where it is, the others go elsewhere."""
        here = _processor()
        allowed = os.sched_getaffinity(0) if here >= 0 else set()
        if len(allowed) < 2:
            yield
            return
        try:
            if here != self._avoided:
                for thread in self._ids:
                    os.sched_setaffinity(thread, allowed - {here})
                self._avoided = here
            os.sched_setaffinity(0, {here})
        except OSError:  # forbidden in some containers: slower, not wrong
            yield
            return
        try:
            yield
        finally:
            os.sched_setaffinity(0, allowed)


def _processor() -> int:
    """The processor that this thread runs on, -1 where it cannot be known."""
    return _sched_getcpu() if _sched_getcpu is not None else -1


_sched_getcpu = getattr(ctypes.CDLL(None), "sched_getcpu", None) if hasattr(os, "sched_setaffinity") else None
_workers: _Workers | None = None


def count() -> int:
    """Threads that compiled code may use: torch's number, which users set, where torch is loaded; else the processors that
    this process may use, or fewer where OMP_NUM_THREADS or MKL_NUM_THREADS, which torch reads too, says so."""
    torch = sys.modules.get("torch")
    if torch is not None and hasattr(torch, "get_num_threads"):  # it lacks it while it is being imported
        return int(torch.get_num_threads())
    processors = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    asked = [os.environ.get(name, "") for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS")]
    return min([processors, *(int(text) for text in asked if text.isdecimal() and int(text) > 0)])


def _forget() -> None:
    """A forked process has none of its parent's threads."""
    global _workers
    _workers = None


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)


def share(begin: Callable[[], Callable[[int, int], None]], items: int, least: int) -> None:
    """Do work(first, last) for all of 0..items on count() threads, this one among them.

    Each thread calls begin() for a work of its own, which may hold scratch memory. Which thread takes which part is left
    to chance, so work must give the same whoever does it. Parts have at least `least` items, and there are several for
    each thread, since threads are not equally fast. The first error raised by a part is raised here.
    """
    global _workers
    threads = count()
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
    _workers.run(take, wanted)
