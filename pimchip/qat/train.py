"""The training loop: SGD with Nesterov momentum, a schedule, and every epoch reported and saved.

The order of images and their augmentation come from (seed, epoch) alone, so a resumed run is the run it resumes.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pimchip.errors import BadResult, InputError, unknown
from pimchip.qat.bn import calibrate_bn
from pimchip.qat.convert import pim_layers
from pimchip.qat.data import Dataset, Split, augment, batches
from pimchip.qat.health import dead_layers, saturation
from pimchip.qat.schedule import Schedule, share

EVALUATION_BATCH = 256
HEALTH_IMAGES = 32
"""Training images on which saturated ADCs are looked for after an epoch."""


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
    milestones: tuple[float, ...] = (0.5, 0.75)
    """Shares of all steps after which multistep divides the rate by ten."""
    label_smoothing: float = 0.0
    clip_gradient: float = 0.0
    """Largest norm of all gradients together; 0 leaves them."""
    ema: float = 0.0
    """Decay of the average of weights that is evaluated and kept, a step; 0 keeps the weights themselves. Its BN statistics
    are measured anew after each epoch, on a few batches of training images."""
    validation: float = 0.0
    """Share of the training images held out, of which `patience` takes the accuracy; the test images are never asked."""
    patience: int = 0
    """Epochs without a better validation accuracy after which training stops, at the best epoch's weights; 0 never."""
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
            or any(not 0 < m <= 1 for m in self.milestones)
            or not 0 <= self.label_smoothing < 1
            or not 0 <= self.clip_gradient < math.inf
            or not 0 <= self.ema < 1
            or not 0 <= self.validation < 1
            or self.patience < 0
            or not 0 <= self.seed < 1 << 43
        )
        if wrong:
            raise InputError(f"training settings out of range: {self}")
        if self.patience and not self.validation:
            raise InputError("early stopping judges by held-out training images: say what share with --validation")


@dataclass(frozen=True)
class EpochReport:
    """One epoch's figures. accuracy: on the test split, of the network as it would be kept; xi by PIM layer.

    validation: accuracy on what was held out, None without. saturated: share of codes at the end of the range, by layer.
    """

    epoch: int
    loss: float
    accuracy: float
    learning_rate: float
    seconds: float
    xi: dict[str, float] = field(default_factory=dict)
    dead: list[str] = field(default_factory=list)
    validation: float | None = None
    saturated: dict[str, float] = field(default_factory=dict)
    images_per_second: float = 0.0


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
    raw: dict[str, Tensor] | None = None
    """With an average of weights, or early stopping: the network's own state, which training goes on from."""
    average: dict[str, Tensor] | None = None
    best: dict[str, Tensor] | None = None
    """With early stopping: the best epoch's state."""
    best_epoch: int = 0

    def to_dict(self) -> dict[str, Any]:
        """Plain values for model.pt."""
        return {f.name: getattr(self, f.name) for f in fields(self)}  # asdict would copy every tensor

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> TrainState:
        """Read back; InputError if it is no training state."""
        states = dict.fromkeys(("optimizer", "raw", "average", "best"), dict | None)
        kinds = {"epoch": int, "settings": dict, "threads": int, "history": list, "best_epoch": int, **states}
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
    data, held_out = _hold_out(data, settings)
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
                if state.raw is not None:
                    network.load_state_dict(state.raw)
            except (ValueError, KeyError, TypeError, AttributeError, RuntimeError) as error:
                raise InputError(f"the checkpoint's optimizer state does not fit the network: {error}") from None
        if settings.ema and state.average is None:
            state.average = {name: p.detach().clone() for name, p in network.named_parameters()}
        reports = []
        for epoch in range(state.epoch, settings.epochs):
            if _stopped(state, settings):
                break
            report = _epoch(network, optimizer, data, held_out, settings, epoch, state, on_step)
            state.epoch, state.optimizer = epoch + 1, optimizer.state_dict()
            state.history.append(asdict(report))
            reports.append(report)
            if on_epoch:
                on_epoch(report, state)
            if state.raw is not None and epoch + 1 < settings.epochs and not _stopped(state, settings):
                network.load_state_dict(state.raw)
    network.eval()
    return reports


def _stopped(state: TrainState, settings: Settings) -> bool:
    return settings.patience > 0 and state.epoch - state.best_epoch >= settings.patience and state.best is not None


def _hold_out(data: Dataset, settings: Settings) -> tuple[Dataset, Split | None]:
    """The data without what is held out of its training images, and that; the same for the same seed."""
    if not settings.validation:
        return data, None
    n = len(data.train.labels)
    order = torch.randperm(n, generator=torch.Generator().manual_seed(settings.seed)).numpy()
    count = min(max(round(settings.validation * n), 1), n - 2)
    parts = [Split(data.train.images[chosen], data.train.labels[chosen]) for chosen in (order[count:], order[:count])]
    return replace(data, train=parts[0]), parts[1]


def _epoch(
    network: nn.Module,
    optimizer: torch.optim.Optimizer,
    data: Dataset,
    held_out: Split | None,
    settings: Settings,
    epoch: int,
    state: TrainState,
    on_step: Callable[[Progress], None] | None,
) -> EpochReport:
    """One pass over the training images. Leaves what is to be kept in the network, and what to go on from in state.raw."""
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
        rate = settings.learning_rate * share(
            settings.schedule, epoch * len(order) + step, total, settings.warmup, settings.milestones
        )
        for group in optimizer.param_groups:
            group["lr"] = rate
        x = augment(images[chosen], data.augment, generator).float().div_(255.0)
        loss = F.cross_entropy(network(x), labels[chosen], label_smoothing=settings.label_smoothing)
        value = float(loss.detach())
        if not math.isfinite(value):
            raise BadResult(
                f"the loss became {value} in epoch {epoch + 1}; try a smaller --learning-rate than {settings.learning_rate}"
            )
        optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        if settings.clip_gradient:
            nn.utils.clip_grad_norm_(network.parameters(), settings.clip_gradient)
        optimizer.step()
        _average(network, state, settings.ema)
        loss_sum += value
        if on_step:
            on_step(Progress(epoch, step + 1, len(order), loss_sum / (step + 1)))
    seconds = time.perf_counter() - start
    layers = pim_layers(network)
    xi = {name: layer.xi for name, layer in layers.items() if not layer.options.digital}
    dead = dead_layers(network)
    _keep(network, data, settings, state)
    accuracy = evaluate(network, data.test)
    validation = None if held_out is None else evaluate(network, held_out)
    _best(network, settings, epoch, state, validation)
    few = torch.from_numpy(data.train.images[:HEALTH_IMAGES]).float().div_(255.0)
    return EpochReport(
        epoch + 1,
        loss_sum / max(len(order), 1),
        accuracy,
        rate,
        time.perf_counter() - start,
        xi,
        dead,
        validation,
        saturation(network, few),
        sum(map(len, order)) / seconds,
    )


@torch.no_grad()
def _average(network: nn.Module, state: TrainState, decay: float) -> None:
    """Move the average of weights a step."""
    if decay:
        assert state.average is not None
        for name, parameter in network.named_parameters():
            state.average[name].lerp_(parameter, 1 - decay)


@torch.no_grad()
def _keep(network: nn.Module, data: Dataset, settings: Settings, state: TrainState) -> None:
    """Put the average of weights into the network, with BN statistics of its own."""
    if not settings.ema and not settings.patience:
        return
    state.raw = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    if settings.ema:
        assert state.average is not None
        for name, parameter in network.named_parameters():
            parameter.copy_(state.average[name])
        calibrate_bn(network, torch.from_numpy(data.train.images), batches=10, batch_size=max(settings.batch_size, 2))


def _best(network: nn.Module, settings: Settings, epoch: int, state: TrainState, validation: float | None) -> None:
    """With early stopping: note a better epoch; where training ends, put the best one's weights back."""
    if not settings.patience:
        return
    assert validation is not None
    before = [h["validation"] for h in state.history]
    if state.best is None or validation > max(before):
        state.best, state.best_epoch = {n: t.clone() for n, t in network.state_dict().items()}, epoch + 1
    elif epoch + 1 - state.best_epoch >= settings.patience or epoch + 1 == settings.epochs:
        network.load_state_dict(state.best)


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
