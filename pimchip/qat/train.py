"""The training loop: SGD with Nesterov momentum, a schedule, and every epoch reported and saved.

The order of images and their augmentation come from (seed, epoch) alone, so a resumed run is the run it resumes.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pimchip.errors import BadResult, InputError, unknown
from pimchip.qat.checkpoint import dead_layers
from pimchip.qat.convert import pim_layers
from pimchip.qat.data import Dataset, Split, augment, batches

Schedule = Literal["cosine", "multistep", "constant"]
EVALUATION_BATCH = 256


@dataclass(frozen=True)
class Settings:
    """How to train. Values are those of the method's reference recipe, shortened to the epochs asked for."""

    epochs: int = 20
    batch_size: int = 64
    learning_rate: float = 0.1
    momentum: float = 0.9
    weight_decay: float = 1e-4
    schedule: Schedule = "cosine"
    warmup: float = 0.05
    """Share of all steps over which the learning rate rises linearly from zero."""
    seed: int = 0
    deterministic: bool = False
    """One thread, so that the result is the same on any machine of the kind, whatever its number of cores."""

    def __post_init__(self) -> None:
        if self.schedule not in get_args(Schedule):
            raise InputError(unknown("schedule", self.schedule, get_args(Schedule)))
        wrong = (
            self.epochs < 0
            or self.batch_size < 2
            or not 0 < self.learning_rate < math.inf
            or not 0 <= self.momentum < 1
            or not 0 <= self.weight_decay < math.inf
            or not 0 <= self.warmup <= 1
            or not 0 <= self.seed < 1 << 43
        )
        if wrong:
            raise InputError(f"training settings out of range: {self}")


@dataclass(frozen=True)
class EpochReport:
    """One epoch's figures. accuracy: on the test split, of the network as trained; xi by PIM layer."""

    epoch: int
    loss: float
    accuracy: float
    learning_rate: float
    seconds: float
    xi: dict[str, float] = field(default_factory=dict)
    dead: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Progress:
    """Where a running epoch stands."""

    epoch: int
    step: int
    steps: int
    loss: float


@dataclass
class TrainState:
    """What must be saved beside the weights to go on later."""

    epoch: int = 0
    optimizer: dict[str, Any] | None = None
    settings: dict[str, Any] = field(default_factory=dict)
    threads: int = 0
    history: list[dict[str, Any]] = field(default_factory=list)

    def to_dict(self) -> dict[str, Any]:
        """Plain values for model.pt."""
        return asdict(self)

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> TrainState:
        """Read back; InputError if it is no training state."""
        kinds = {"epoch": int, "optimizer": dict | None, "settings": dict, "threads": int, "history": list}
        if data.keys() != kinds.keys() or not all(isinstance(data[name], kind) for name, kind in kinds.items()):
            raise InputError("the checkpoint's training state is not one of this version; start without --resume")
        return cls(**data)


def train(
    network: nn.Module,
    data: Dataset,
    settings: Settings,
    *,
    state: TrainState | None = None,
    on_step: Callable[[Progress], None] | None = None,
    on_epoch: Callable[[EpochReport, TrainState], None] | None = None,
) -> list[EpochReport]:
    """Train in place, from state.epoch to settings.epochs. Returns the reports of the epochs run here.

    Raises BadResult when the loss is no longer finite; what on_epoch saved before stands.
    """
    state = state or TrainState()
    if state.epoch and {**state.settings, "epochs": 0} != {**asdict(settings), "epochs": 0}:
        changed = sorted(k for k, v in asdict(settings).items() if k != "epochs" and state.settings.get(k) != v)
        raise InputError(f"cannot resume with other settings: {', '.join(changed)} changed; repeat them or train anew")
    with _threads(settings.deterministic):
        state.settings, state.threads = asdict(settings), torch.get_num_threads()
        optimizer = torch.optim.SGD(
            _parameter_groups(network, settings.weight_decay),
            lr=settings.learning_rate,
            momentum=settings.momentum,
            nesterov=settings.momentum > 0,
        )
        if state.optimizer is not None:
            try:
                optimizer.load_state_dict(state.optimizer)
            except (ValueError, KeyError, TypeError, AttributeError) as error:
                raise InputError(f"the checkpoint's optimizer state does not fit the network: {error}") from None
        reports = []
        for epoch in range(state.epoch, settings.epochs):
            report = _epoch(network, optimizer, data, settings, epoch, on_step)
            state.epoch, state.optimizer = epoch + 1, optimizer.state_dict()
            state.history.append(asdict(report))
            reports.append(report)
            if on_epoch:
                on_epoch(report, state)
    network.eval()
    return reports


def _epoch(
    network: nn.Module,
    optimizer: torch.optim.Optimizer,
    data: Dataset,
    settings: Settings,
    epoch: int,
    on_step: Callable[[Progress], None] | None,
) -> EpochReport:
    start = time.perf_counter()
    generator = torch.Generator().manual_seed((settings.seed << 20) + epoch)
    torch.manual_seed((settings.seed << 20) + epoch)  # noise and dropout, so that a resumed run draws the same
    images, labels = torch.from_numpy(data.train.images), torch.from_numpy(data.train.labels)
    # A last batch of one image would give BN no variance; drop_last keeps every batch whole.
    whole = len(labels) > settings.batch_size
    order = list(batches(len(labels), settings.batch_size, generator, drop_last=whole))
    total, loss_sum, rate = settings.epochs * len(order), 0.0, 0.0
    network.train()
    for step, chosen in enumerate(order):
        rate = settings.learning_rate * _schedule(settings, epoch * len(order) + step, total)
        for group in optimizer.param_groups:
            group["lr"] = rate
        x = augment(images[chosen], data.augment, generator).float().div_(255.0)
        loss = F.cross_entropy(network(x), labels[chosen])
        value = float(loss.detach())
        if not math.isfinite(value):
            raise BadResult(
                f"the loss became {value} in epoch {epoch + 1}; try a smaller --learning-rate than {settings.learning_rate}"
            )
        optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        loss_sum += value
        if on_step:
            on_step(Progress(epoch, step + 1, len(order), loss_sum / (step + 1)))
    layers = pim_layers(network)
    xi = {name: layer.xi for name, layer in layers.items() if not layer.options.digital}
    dead = dead_layers(network)
    accuracy = evaluate(network, data.test)
    return EpochReport(epoch + 1, loss_sum / max(len(order), 1), accuracy, rate, time.perf_counter() - start, xi, dead)


def _schedule(settings: Settings, step: int, total: int) -> float:
    warm = max(1, round(settings.warmup * total))
    if step < warm:
        return (step + 1) / warm
    if settings.schedule == "cosine":
        return 0.5 * (1 + math.cos(math.pi * (step - warm) / max(1, total - warm)))
    if settings.schedule == "multistep":
        return 0.1 ** ((step >= total // 2) + (step >= 3 * total // 4))
    return 1.0


def _parameter_groups(network: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Weights decay; BN parameters, biases and eta do not."""
    decayed = [p for p in network.parameters() if p.ndim > 1]
    rest = [p for p in network.parameters() if p.ndim <= 1]
    return [{"params": decayed, "weight_decay": weight_decay}, {"params": rest, "weight_decay": 0.0}]


def predict(network: nn.Module, split: Split) -> Tensor:
    """Logits float32 [n, classes] of a split, in eval mode; leaves the network in eval mode."""
    network.eval()
    out = []
    with torch.no_grad():
        for first in range(0, len(split.labels), EVALUATION_BATCH):
            images = torch.from_numpy(split.images[first : first + EVALUATION_BATCH])
            out.append(network(images.float().div_(255.0)))
    return torch.cat(out)


def evaluate(network: nn.Module, split: Split) -> float:
    """Share of a split that is classified right."""
    return float((predict(network, split).argmax(1) == torch.from_numpy(split.labels)).double().mean())


@contextmanager
def _threads(single: bool) -> Iterator[None]:
    before = torch.get_num_threads()
    if single:
        torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
