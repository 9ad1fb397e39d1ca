"""Timing for benchmarks: repetitions of several jobs taken in turn, so that a slow spell of the machine meets all."""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

OnProgress = Callable[[str, int, int], None]
"""(what, done, total)"""
SHORTEST = 0.02
"""Seconds that a sample takes at least: quicker jobs are called several times."""


@dataclass(frozen=True)
class Spread:
    """Median, lowest and highest of repetitions."""

    middle: float
    low: float
    high: float

    @classmethod
    def of(cls, values: list[float]) -> Spread:
        """Of at least one value."""
        return cls(median(values), min(values), max(values))

    def keys(self, name: str) -> dict[str, Any]:
        """{name: median, name_range: [lowest, highest]} for JSON."""
        return {name: self.middle, f"{name}_range": [self.low, self.high]}

    def text(self, scale: float = 1.0, digits: int = 3) -> str:
        """median (lowest to highest), each over `scale`."""
        middle, low, high = (f"{value / scale:,.{digits}g}" for value in (self.middle, self.low, self.high))
        return f"{middle} ({low} to {high})"


def in_turns(
    jobs: Mapping[str, Callable[[], object]],
    repetitions: int,
    tell: Callable[[int, int], None] = lambda done, total: None,
) -> dict[str, list[float]]:
    """Seconds of one call of each job, by repetition; before that each runs once unmeasured, and once to be sized.

    Jobs change places from repetition to repetition, so that none always follows the same one.
    """
    calls = {}
    for name, job in jobs.items():
        job()
        calls[name] = max(1, round(SHORTEST / max(_seconds(job, 1), 1e-9)))
    found: dict[str, list[float]] = {name: [] for name in jobs}
    for repetition in range(repetitions):
        for name in list(jobs)[:: 1 if repetition % 2 else -1]:
            found[name].append(_seconds(jobs[name], calls[name]))
        tell(repetition + 1, repetitions)
    return found


def _seconds(job: Callable[[], object], calls: int) -> float:
    begin = time.perf_counter()
    for _ in range(calls):
        job()
    return (time.perf_counter() - begin) / calls


def machine() -> dict[str, Any]:
    """Processor, cores and threads, for JSON."""
    import torch

    return {
        "cpu": _cpu(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "threads": torch.get_num_threads(),
        "torch": str(torch.__version__),
    }


def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        return next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()
