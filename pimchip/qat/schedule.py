"""Learning-rate schedules as shares of the highest rate, by step."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

Schedule = Literal["cosine", "multistep", "one-cycle", "constant"]
FACTOR = 0.1
"""What multistep multiplies by at each milestone."""
START, END, RISE = 1 / 25, 1 / 25e4, 0.3
"""One-cycle: rate of the first and last step, and the share of steps over which it rises; torch's OneCycleLR has the same."""


def share(schedule: Schedule, step: int, total: int, warmup: float, milestones: Sequence[float]) -> float:
    """Of the highest rate at `step` of 0..total - 1. warmup: share of steps of a linear rise, which one-cycle has its own of.

    milestones: shares of all steps after which multistep falls.
    """
    if schedule == "one-cycle":
        return _one_cycle(step, total)
    warm = max(1, round(warmup * total))
    if step < warm:
        return (step + 1) / warm
    if schedule == "cosine":
        return 0.5 * (1 + math.cos(math.pi * (step - warm) / max(1, total - warm)))
    if schedule == "multistep":
        return float(FACTOR ** sum(step >= int(m * total) for m in milestones))
    return 1.0


def _one_cycle(step: int, total: int) -> float:
    """Smith and Topin, arXiv 1708.07120: cosine up, then cosine down."""
    top = max(RISE * total - 1, 1e-9)
    last = max(total - 1, 1)
    if step <= top:
        return _between(START, 1.0, step / top)
    return _between(1.0, END, (step - top) / max(last - top, 1e-9))


def _between(first: float, last: float, part: float) -> float:
    return last + (first - last) / 2 * (1 + math.cos(math.pi * part))
