"""How the learning rate goes over a run: a factor of its highest value for every step."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

Schedule = Literal["cosine", "multistep", "one-cycle", "constant"]

WARMUP = 0.05
"""Share of the steps over which the rate rises, where nothing else is asked for."""
ONE_CYCLE_WARMUP = 0.3
DECAY = 0.1
"""What each milestone multiplies the rate with."""
DIV, FINAL_DIV = 25.0, 1e4
"""One-cycle starts at 1 / DIV of the highest rate and ends at 1 / (DIV * FINAL_DIV), as in torch."""


def factor(schedule: Schedule, step: int, total: int, warmup: float, milestones: Sequence[int] = ()) -> float:
    """What the highest learning rate is multiplied with in step 0..total - 1.

    warmup: share of `total` over which the rate rises: linearly from zero, for one-cycle along a cosine from 1/25.
    milestones: steps from which a multistep's rate is a tenth of before; none given: half and three quarters of
    `total`. One-cycle is that of Smith and Topin (arXiv 1708.07120) as torch.optim.lr_scheduler.OneCycleLR computes it
    with pct_start = warmup; the momentum stays as it is.
    """
    if schedule == "one-cycle":
        return _one_cycle(step, total, warmup)
    warm = max(1, round(warmup * total))
    if step < warm:
        return (step + 1) / warm
    if schedule == "cosine":
        return 0.5 * (1 + math.cos(math.pi * (step - warm) / max(1, total - warm)))
    if schedule == "multistep":
        passed = sum(step >= milestone for milestone in milestones or (total // 2, 3 * total // 4))
        return float(DECAY**passed)
    return 1.0


def _one_cycle(step: int, total: int, warmup: float) -> float:
    low, lowest = 1 / DIV, 1 / (DIV * FINAL_DIV)
    top, last = warmup * total - 1, total - 1
    if step <= top:
        return _cosine(low, 1.0, step / top if top > 0 else 1.0)
    return _cosine(1.0, lowest, (step - top) / (last - top) if last > top else 1.0)


def _cosine(start: float, end: float, share: float) -> float:
    return end + (start - end) / 2 * (1 + math.cos(math.pi * share))
