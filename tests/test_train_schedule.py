"""Learning rates against torch's own schedulers and closed forms."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.optim import SGD, Optimizer
from torch.optim import lr_scheduler as torchs

from pimchip.errors import InputError
from pimchip.qat import Settings, train
from pimchip.qat.data import Dataset, Split
from pimchip.qat.schedule import factor

# What is tested is the loop, on networks as small as can be.
pytestmark = [pytest.mark.filterwarnings("ignore:the network holds no quantized layer:pimchip.errors.PimchipWarning")]


def by_torch(make: Callable[[Optimizer], Any], steps: int) -> list[float]:
    """The rate of every step, highest 1."""
    optimizer = SGD([nn.Parameter(torch.zeros(1))], lr=1.0)
    scheduler, rates = make(optimizer), []
    for _ in range(steps):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            scheduler.step() if len(rates) < steps else None
    return rates


def ours(schedule: Any, steps: int, warmup: float, milestones: tuple[int, ...] = ()) -> list[float]:
    return [factor(schedule, step, steps, warmup, milestones) for step in range(steps)]


@pytest.mark.parametrize("steps", [5, 40, 997])
@pytest.mark.parametrize("warmup", [0.0, 0.1, 0.3, 0.55, 1.0])
def test_one_cycle_is_torchs(steps: int, warmup: float) -> None:
    wanted = by_torch(
        lambda o: torchs.OneCycleLR(o, 1.0, total_steps=steps, pct_start=warmup, cycle_momentum=False), steps
    )
    assert ours("one-cycle", steps, warmup) == pytest.approx(wanted, abs=1e-12)


def test_one_cycle_of_one_or_two_steps_is_finite() -> None:
    for steps in (1, 2, 3, 4):
        for warmup in (0.0, 0.25, 0.5, 1 / 3, 1.0):
            assert all(0 < rate <= 1 for rate in ours("one-cycle", steps, warmup))


@pytest.mark.parametrize("milestones", [(10,), (10, 20, 25)])
def test_multistep_is_torchs(milestones: tuple[int, ...]) -> None:
    wanted = by_torch(lambda o: torchs.MultiStepLR(o, list(milestones), 0.1), 40)
    assert ours("multistep", 40, 0.0, milestones) == pytest.approx(wanted)
    assert ours("multistep", 40, 0.0) == pytest.approx(by_torch(lambda o: torchs.MultiStepLR(o, [20, 30], 0.1), 40))


def test_cosine_is_torchs_after_the_warmup() -> None:
    wanted = by_torch(lambda o: torchs.CosineAnnealingLR(o, 36), 36)
    assert ours("cosine", 40, 0.1)[4:] == pytest.approx(wanted)
    assert ours("cosine", 40, 0.1)[19] == pytest.approx(0.5 * (1 + math.cos(math.pi * 15 / 36)))


@pytest.mark.parametrize("schedule", ["cosine", "multistep", "constant"])
def test_all_rise_linearly_over_the_warmup(schedule: Any) -> None:
    assert ours(schedule, 40, 0.25)[:10] == pytest.approx(list(np.arange(1, 11) / 10))


def test_a_run_takes_its_rates_from_it() -> None:
    """Milestones in epochs, warm-up as a share of the run; 3 steps an epoch."""
    images = np.zeros((6, 1, 2, 2), np.uint8)
    data = Dataset("six", ("a", "b"), *[Split(images, np.array([0, 1] * 3))] * 2, "none")

    def rates(**changes: Any) -> list[float]:
        settings = Settings(epochs=8, batch_size=2, learning_rate=0.01, **changes)
        return [r.learning_rate for r in train(nn.Sequential(nn.Flatten(), nn.Linear(4, 2)), data, settings)]

    assert rates(schedule="multistep", milestones=(2, 7)) == pytest.approx([0.01] * 2 + [1e-3] * 5 + [1e-4])
    assert rates(schedule="constant", warmup=0.5) == pytest.approx([0.0025, 0.005, 0.0075, 0.01] + [0.01] * 4)
    wanted = by_torch(lambda o: torchs.OneCycleLR(o, 0.01, total_steps=24, cycle_momentum=False), 24)
    assert rates(schedule="one-cycle") == pytest.approx(wanted[2::3])


def test_milestones_are_refused_where_they_mean_nothing() -> None:
    with pytest.raises(InputError, match="milestones are for the multistep schedule, not for cosine"):
        Settings(milestones=(3,))
    with pytest.raises(InputError, match=r"milestones \[3, 2\]: want rising"):
        Settings(schedule="multistep", milestones=(3, 2))
