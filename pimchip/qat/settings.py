"""How to train: one frozen set of choices, checked when it is made."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from numbers import Integral, Real
from typing import Any, get_args

from pimchip.errors import InputError, unknown
from pimchip.qat.schedule import ONE_CYCLE_WARMUP, WARMUP, Schedule

VALIDATION = 0.1
"""Share of the training images held out for an early stop, where no other is asked for."""


_RANGES: tuple[tuple[str, str, Callable[[Any], bool]], ...] = (
    ("epochs", "a whole number from 0", lambda v: v >= 0),
    ("batch_size", "a whole number from 2", lambda v: v >= 2),
    ("learning_rate", "a number above 0", lambda v: 0 < v < math.inf),
    ("momentum", "a number from 0, below 1", lambda v: 0 <= v < 1),
    ("weight_decay", "a number from 0", lambda v: 0 <= v < math.inf),
    ("warmup", "a share in 0..1, or None", lambda v: 0 <= v <= 1),
    ("seed", "a whole number from 0, below 2^43", lambda v: 0 <= v < 1 << 43),
    ("ema", "a number from 0, below 1", lambda v: 0 <= v < 1),
    ("label_smoothing", "a share from 0, below 1", lambda v: 0 <= v < 1),
    ("clip_gradient", "a number from 0", lambda v: 0 <= v < math.inf),
    ("patience", "a whole number from 0", lambda v: v >= 0),
    ("validation", "a share from 0, below 1, or None", lambda v: 0 <= v < 1),
)
"""Of each number: its name, what it may be, and whether a value of that kind is; NaN is nowhere inside."""


@dataclass(frozen=True)
class Settings:
    """How to train. Values are those of the method's reference recipe, shortened to the epochs asked for.

    Raises InputError where a value is out of range or two do not go together.
    """

    epochs: int = 20
    batch_size: int = 64
    """Images a step, of all processes together."""
    learning_rate: float = 0.1
    momentum: float = 0.9
    weight_decay: float = 1e-4
    schedule: Schedule = "cosine"
    warmup: float | None = None
    """Share of all steps over which the learning rate rises; None: 0.05, or 0.3 for one-cycle."""
    seed: int = 0
    deterministic: bool = False
    """One thread, so that the result is the same on any machine of the kind, whatever its number of cores."""
    milestones: tuple[int, ...] = ()
    """Epochs after which the rate of the multistep schedule drops tenfold; none: half and three quarters of the run."""
    ema: float = 0.0
    """Decay a step of the moving average of the weights; 0: none. See pimchip.qat.ema."""
    label_smoothing: float = 0.0
    """Share of each label spread evenly over all classes (Szegedy et al., arXiv 1512.00567)."""
    clip_gradient: float = 0.0
    """Largest L2 norm of all gradients together; 0: none."""
    patience: int = 0
    """Epochs without a better validation accuracy after which training stops; the best epoch's weights are kept. 0: never."""
    validation: float | None = None
    """Share of the training images held out and never trained on; None: 0.1 for an early stop, else nothing."""

    def __post_init__(self) -> None:
        if self.schedule not in get_args(Schedule):
            raise InputError(unknown("schedule", self.schedule, get_args(Schedule)))
        for name, wanted, inside in _RANGES:
            value = getattr(self, name)
            whole = wanted.startswith("a whole number")
            if value is None and wanted.endswith("or None"):
                continue
            kind = Integral if whole else Real
            if isinstance(value, bool) or not isinstance(value, kind) or not inside(value):
                raise InputError(f"{name} = {value!r}: want {wanted}")
            if not isinstance(value, int | float):  # numpy's, which no checkpoint holds
                plain: Callable[[Any], int | float] = int if whole else float
                object.__setattr__(self, name, plain(value))
        milestones = tuple(self.milestones) if isinstance(self.milestones, Iterable) else (None,)
        if not all(isinstance(milestone, int) for milestone in milestones):
            raise InputError(f"milestones = {self.milestones!r}: want whole numbers of epochs, as (10, 15)")
        object.__setattr__(self, "milestones", milestones)
        if self.milestones and self.schedule != "multistep":
            raise InputError(f"milestones are for the multistep schedule, not for {self.schedule}")
        if self.milestones and (list(self.milestones) != sorted({*self.milestones}) or self.milestones[0] < 1):
            raise InputError(f"milestones {list(self.milestones)}: want rising numbers of epochs from 1")
        if self.patience and self.validation == 0:
            raise InputError(
                "an early stop needs images to judge by that are neither trained on nor tested: hold some out"
            )

    @property
    def warmup_share(self) -> float:
        """Share of all steps over which the learning rate rises."""
        if self.warmup is None:
            return ONE_CYCLE_WARMUP if self.schedule == "one-cycle" else WARMUP
        return self.warmup

    @property
    def validation_share(self) -> float:
        """Share of the training images that are held out."""
        return (VALIDATION if self.patience else 0.0) if self.validation is None else self.validation
