"""The training loop: SGD with Nesterov momentum, a schedule, and every epoch reported and saved.

The order of images, their augmentation and noise come from (seed, epoch) alone, so a resumed run is the run it resumes.
"""

from __future__ import annotations

import math
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pimchip.errors import BadResult, InputError, PimchipWarning
from pimchip.qat import given
from pimchip.qat.checkpoint import load_state
from pimchip.qat.conversion import conversion
from pimchip.qat.convert import pim_layers
from pimchip.qat.data import Dataset, Split, augment, batches
from pimchip.qat.data.order import hashed, spread
from pimchip.qat.distributed import Group, synchronized
from pimchip.qat.ema import Average, snapshot
from pimchip.qat.feeding import floats, logits
from pimchip.qat.health import dead_layers, learned_nothing, saturation
from pimchip.qat.layers import QuantizedLayer, none_on_chip
from pimchip.qat.momentum import held_momentum, load_momentum
from pimchip.qat.schedule import factor
from pimchip.qat.settings import Settings
from pimchip.qat.state import EpochReport, Progress, TrainState

EVALUATION_BATCH = 256
HEALTH_IMAGES = 32
"""Training images on which sums beyond the ADCs' range are looked for after an epoch."""

OnStep = Callable[[Progress], None]
OnEpoch = Callable[[EpochReport, TrainState], None]


def train(
    network: nn.Module,
    data: Dataset,
    settings: Settings,
    *,
    state: TrainState | None = None,
    on_step: OnStep | None = None,
    on_epoch: OnEpoch | None = None,
) -> list[EpochReport]:
    """Train in place, from state.epoch to settings.epochs or an early stop. Returns the reports of the epochs run here.

    on_step(progress) is called after every step; on_epoch(report, state) after every epoch, to show and to save. When
    on_epoch is called, and at the end, the network holds the weights to deploy: the moving average with
    settings.ema, those of the best epoch with settings.patience, else simply the latest. To go on later, load them and
    hand over the state. Under torch.distributed each process takes its share of every batch; see
    pimchip.qat.distributed.

    Warns (PimchipWarning) of a network that convert() did not make, or that has nothing on the chip; and once, where an
    epoch after the first did no better than guessing, as at far too large a rate.
    Raises BadResult when the loss is no longer finite; what on_epoch saved before stands. InputError where the state
    is of other settings or another network.
    """
    _check_given(network, data, settings)
    state = state or TrainState()
    state.check(settings)
    training, validation = hold_out(data.train, settings.validation_share, settings.seed)
    with _threads(settings.deterministic), synchronized(network) as group:
        whole = min(settings.batch_size, len(training))
        if whole < group.size:
            raise InputError(f"a batch of {whole} images is too small for {group.size} processes; use fewer")
        group.agree("training", f"{settings} {state.epoch} {len(data.train)} {len(data.test)}")
        _warn_of_other_threads(state, group)
        state.settings, state.threads, state.processes = asdict(settings), torch.get_num_threads(), group.size
        if state.weights is not None:
            load_state(network, state.weights)
        loop = _Loop(network, data, training, settings, state, group)
        reports = []
        for epoch in range(state.epoch, settings.epochs):
            if state.stopped(settings.patience):
                break
            reports.append(loop.finish_epoch(loop.train_epoch(epoch, on_step), validation, on_epoch))
            loop.warn_of_guessing(reports[-1])
    chosen = state.deployable()
    if chosen is not None:
        load_state(network, chosen)
    made = conversion(network)
    if made is not None:
        made.image_shape, made.classes, made.data, made.training = data.image_shape, data.classes, data.name, {}
    network.eval()
    return reports


def _warn_of_other_threads(state: TrainState, group: Group) -> None:
    """Sums of floats depend on how many share them, so what goes on with others is not that run to the bit."""
    before, now = (state.threads, state.processes), (torch.get_num_threads(), group.size)
    if state.epoch and before != now and group.rank == 0:
        was, is_now = (f"{threads} threads in each of {processes} processes" for threads, processes in (before, now))
        warnings.warn(
            f"the run was begun with {was} and goes on with {is_now}: its result differs in the last bits from that of one "
            f"run; OMP_NUM_THREADS={state.threads} sets the threads",
            PimchipWarning,
            stacklevel=3,
        )


def _check_given(network: nn.Module, data: Dataset, settings: Settings) -> None:
    given.module(network)
    given.an(Dataset, data, "data", "a Dataset is wanted: pimchip.qat.data.load_dataset(name) reads one")
    given.an(Settings, settings, "settings", "pimchip.qat.Settings(...) is wanted")
    if not any(parameter.requires_grad for parameter in network.parameters()):
        raise InputError("nothing of the network can be trained: no parameter of it has requires_grad")
    layers = [name for name, module in network.named_modules() if isinstance(module, QuantizedLayer)]
    if not layers:
        text = "the network holds no quantized layer and is trained in floating point: run convert(network, chip) on it first"
        warnings.warn(text, PimchipWarning, stacklevel=3)
    elif not pim_layers(network):
        warnings.warn(none_on_chip(layers), PimchipWarning, stacklevel=3)


def hold_out(split: Split, share: float, seed: int) -> tuple[Split, Split | None]:
    """(images to train on, images held out), each class in proportion; the same ones for a seed. share 0: none held.

    Raises InputError where one of the two would be too small.
    """
    if not share:
        return split, None
    count = max(1, round(share * len(split)))
    if len(split) - count < 2:
        raise InputError(f"holding out {share} of {len(split)} training images leaves too few; hold out fewer")
    order, _ = spread(split.labels.tolist(), [hashed(f"pimchip validation {seed} {i}") for i in range(len(split))])
    held, kept = np.sort(order[:count]), np.sort(order[count:])
    return Split(split.images[kept], split.labels[kept]), Split(split.images[held], split.labels[held])


class _Loop:
    """A run under way: the network with the weights it goes on with, optimizer, average and state."""

    def __init__(
        self, network: nn.Module, data: Dataset, training: Split, settings: Settings, state: TrainState, group: Group
    ) -> None:
        self.network, self.data, self.settings, self.state, self.group = network, data, settings, state, group
        self.warned = False
        self.images, self.labels = torch.from_numpy(training.images), torch.from_numpy(training.labels)
        self.optimizer = torch.optim.SGD(
            _parameter_groups(network, settings.weight_decay),
            lr=settings.learning_rate,
            momentum=settings.momentum,
            nesterov=settings.momentum > 0,
        )
        if state.optimizer is not None:
            load_momentum(self.optimizer, state.optimizer)
        self.average = Average(network, settings.ema) if settings.ema else None
        if self.average is not None and state.average is not None:
            self.average.load(state.average)

    def train_epoch(self, epoch: int, on_step: OnStep | None) -> EpochReport:
        """One pass over the training images; accuracies are not known yet."""
        settings, group = self.settings, self.group
        start = time.perf_counter()
        generator = torch.Generator().manual_seed(stream(settings.seed, epoch))
        # Of noise and dropout, so that a resumed run draws the same; each process has its own.
        torch.manual_seed(stream(settings.seed, epoch, group.rank))
        # A last batch of one image would give BN no variance; drop_last keeps every batch whole.
        whole = len(self.labels) > settings.batch_size
        order = list(batches(len(self.labels), settings.batch_size, generator, drop_last=whole))
        total, loss_sum, rate, first = settings.epochs * len(order), 0.0, 0.0, start
        milestones = [milestone * len(order) for milestone in settings.milestones]
        self.network.train()
        for step, chosen in enumerate(order):
            rate = settings.learning_rate * factor(
                settings.schedule, epoch * len(order) + step, total, settings.warmup_share, milestones
            )
            loss_sum += self._step(chosen, rate, epoch, generator)
            if step == 0:  # in which kernels may have been compiled
                first = time.perf_counter()
            if on_step:
                on_step(Progress(epoch, step + 1, len(order), loss_sum / (step + 1)))
        end = time.perf_counter()
        rest = order[1:] or order
        return EpochReport(
            epoch + 1,
            loss_sum / max(len(order), 1),
            0.0,
            rate,
            end - start,
            images_per_second=sum(map(len, rest)) / max(end - (first if len(order) > 1 else start), 1e-9),
            xi={name: layer.xi for name, layer in pim_layers(self.network).items() if not layer.options.digital},
            dead=dead_layers(self.network),
        )

    def _step(self, chosen: Tensor, rate: float, epoch: int, generator: torch.Generator) -> float:
        """One step on a batch, of which this process takes its share. Returns the whole batch's loss."""
        settings, group = self.settings, self.group
        for parameters in self.optimizer.param_groups:
            parameters["lr"] = rate
        mine = group.share(len(chosen))
        x = augment(self.images[chosen], self.data.augment, generator)[mine]
        found = logits(self.network, x, len(self.data.classes))
        loss = F.cross_entropy(found, self.labels[chosen[mine]], label_smoothing=settings.label_smoothing)
        if group.size > 1:
            loss = loss * (len(x) / len(chosen))
        value = group.total(float(loss.detach()))
        if not math.isfinite(value):
            raise BadResult(
                f"the loss became {value} in epoch {epoch + 1}; try a smaller --learning-rate than "
                f"{settings.learning_rate}"
            )
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        group.sum_gradients(self.network)
        if settings.clip_gradient:
            torch.nn.utils.clip_grad_norm_(self.network.parameters(), settings.clip_gradient)
        self.optimizer.step()
        if self.average is not None:
            self.average.update(self.network)
        return value

    def finish_epoch(self, trained: EpochReport, validation: Split | None, on_epoch: OnEpoch | None) -> EpochReport:
        """Evaluate, bring the state up to date, and call on_epoch with the network as it is to be deployed."""
        network, settings, state, start = self.network, self.settings, self.state, time.perf_counter()
        weights = snapshot(network) if settings.ema or settings.patience else None
        if self.average is not None:
            network.load_state_dict(self.average.state)
        found = None if validation is None else self._accuracy(validation)
        accuracy = self._accuracy(self.data.test)
        saturated = saturation(network, floats(network, self.images[:HEALTH_IMAGES]))
        seconds = trained.seconds + time.perf_counter() - start
        report = replace(trained, accuracy=accuracy, validation=found, saturated=saturated, seconds=seconds)
        if settings.patience and found is not None and (state.best is None or found > state.best["accuracy"]):
            state.best = {"epoch": report.epoch, "accuracy": found, "state": snapshot(network)}
        state.epoch, state.optimizer, state.weights = report.epoch, held_momentum(self.optimizer), weights
        state.average = None if self.average is None else self.average.to_dict()
        state.history.append(asdict(report))
        chosen = state.deployable()
        if chosen is not None:
            network.load_state_dict(chosen)
        if on_epoch:
            on_epoch(report, state)
        if weights is not None:
            network.load_state_dict(weights)
        return report

    def warn_of_guessing(self, report: EpochReport) -> None:
        """Say once that nothing was learned so far; not in the first epoch, in which losses start high and BN settles."""
        labels, classes = self.data.test.labels, len(self.data.classes)
        if self.warned or report.epoch < 2 or not learned_nothing(report.loss, report.accuracy, labels, classes):
            return
        self.warned = True
        if self.group.rank == 0:
            warnings.warn(
                f"after epoch {report.epoch} the network does no better than guessing (loss {report.loss:.3g}, of equal "
                f"chances {math.log(classes):.3g}; accuracy {100 * report.accuracy:.1f} %): if it stays so, try a smaller "
                f"learning rate than {self.settings.learning_rate:g}",
                PimchipWarning,
                stacklevel=3,
            )

    def _accuracy(self, split: Split) -> float:
        """Share of a split that is classified right; each process takes its share of the images."""
        mine = self.group.share(len(split))
        right = 0
        if mine.stop > mine.start:
            part = Split(split.images[mine], split.labels[mine])
            right = int((predict(self.network, part).argmax(1) == torch.from_numpy(part.labels)).sum())
        return self.group.total(float(right)) / len(split)


def stream(seed: int, epoch: int, rank: int = 0) -> int:
    """A seed for torch's generator, which looks at 32 bits of it only: here everything counts.

    (seed << 20) + epoch where that fits, in the first process.
    """
    whole = (seed << 20) + epoch
    rest = whole >> 32, rank
    mixed = 0 if rest == (0, 0) else int.from_bytes(hashed(f"pimchip stream {rest}")[:4], "big")
    return (whole & 0xFFFFFFFF) ^ mixed


def _parameter_groups(network: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Weights decay; BN parameters, biases and eta do not."""
    decayed = [p for p in network.parameters() if p.ndim > 1]
    rest = [p for p in network.parameters() if p.ndim <= 1]
    return [{"params": decayed, "weight_decay": weight_decay}, {"params": rest, "weight_decay": 0.0}]


def predict(network: nn.Module, split: Split) -> Tensor:
    """Logits float32 [n, classes] of a split, in eval mode; leaves the network in eval mode."""
    given.module(network).eval()
    given.an(Split, split, "split", "a Split is wanted, such as data.test of a Dataset")
    out = []
    with torch.no_grad():
        for first in range(0, len(split.labels), EVALUATION_BATCH):
            images = torch.from_numpy(split.images[first : first + EVALUATION_BATCH])
            out.append(logits(network, images))
    return torch.cat(out)


def evaluate(network: nn.Module, split: Split) -> float:
    """Share of a split that is classified right. InputError where labels go beyond what the network tells apart."""
    found, labels = predict(network, split), torch.from_numpy(split.labels)
    if int(labels.max()) >= found.shape[1]:
        raise InputError(f"the network tells {found.shape[1]} classes apart, the labels reach {int(labels.max())}")
    return float((found.argmax(1) == labels).double().mean())


@contextmanager
def _threads(single: bool) -> Iterator[None]:
    before = torch.get_num_threads()
    if single:
        torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
