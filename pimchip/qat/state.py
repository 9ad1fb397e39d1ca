"""What a training run tells of each epoch, and what must be saved beside the weights to go on later, to the bit."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

from torch import Tensor

from pimchip.errors import InputError
from pimchip.qat.settings import Settings


@dataclass(frozen=True)
class EpochReport:
    """One epoch's figures. loss: mean over its batches; xi by PIM layer.

    accuracy: share of the test images, of this epoch's weights (averaged ones where these are on);
    validation: of the held out images, None where there are none; saturated: share of sums beyond
    the ADC's range, by layer, on a few training images.
    """

    epoch: int
    loss: float
    accuracy: float
    learning_rate: float
    seconds: float
    """Of the whole epoch; in a machine's first run its first epoch has the compiling of kernels in it."""
    validation: float | None = None
    images_per_second: float = 0.0
    """Of the training steps after the first, all processes together."""
    xi: dict[str, float] = field(default_factory=dict)
    dead: list[str] = field(default_factory=list)
    saturated: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Progress:
    """Where a running epoch stands."""

    epoch: int
    step: int
    steps: int
    loss: float


@dataclass
class TrainState:
    """What must be saved beside the network's weights to go on later.

    The network holds what is to be deployed when a state is handed out. weights: those to go on with, where they are
    others; average: {"steps", "state"} of the moving average; best: {"epoch", "accuracy", "state"} of the epoch with
    the best validation accuracy.
    """

    epoch: int = 0
    optimizer: dict[str, Any] | None = None
    settings: dict[str, Any] = field(default_factory=dict)
    threads: int = 0
    processes: int = 1
    history: list[dict[str, Any]] = field(default_factory=list)
    weights: dict[str, Tensor] | None = None
    average: dict[str, Any] | None = None
    best: dict[str, Any] | None = None

    def to_dict(self) -> dict[str, Any]:
        """Plain values for model.pt, copied."""
        return asdict(self)

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> TrainState:
        """Read back; InputError if it is no training state."""
        kinds = {
            "epoch": int,
            "optimizer": dict | None,
            "settings": dict,
            "threads": int,
            "processes": int,
            "history": list,
            "weights": dict | None,
            "average": dict | None,
            "best": dict | None,
        }
        fits = (
            data.keys() == kinds.keys()
            and all(isinstance(data[name], kind) for name, kind in kinds.items())
            and all(isinstance(entry, dict) for entry in data["history"])
            and (data["weights"] is None or _tensors(data["weights"]))
            and _holds(data["average"], steps=int)
            and _holds(data["best"], epoch=int, accuracy=float)
        )
        if not fits:
            raise InputError("the checkpoint's training state is not one of this version; start without --resume")
        return cls(**data)

    def check(self, settings: Settings) -> None:
        """Raise InputError, naming what differs, if a begun run is to go on with other settings; epochs may differ."""
        now = asdict(settings)
        changed = sorted(k for k in now.keys() | self.settings.keys() if self.settings.get(k) != now.get(k))
        changed = [name for name in changed if name != "epochs"]
        if self.epoch and changed:
            raise InputError(
                f"cannot resume with other settings: {', '.join(changed)} changed; repeat them or train anew"
            )
        if not 0 <= self.epoch == len(self.history):
            raise InputError(
                f"the checkpoint's training state is damaged: it says epoch {self.epoch} and has the reports of "
                f"{len(self.history)}; start without --resume"
            )
        if self.epoch > settings.epochs:
            raise InputError(
                f"the run went on to epoch {self.epoch} already, beyond --epochs {settings.epochs}; ask for more, or train anew"
            )
        missing = [
            name
            for name, wanted in (
                ("optimizer", True),
                ("weights", settings.ema or settings.patience),
                ("average", settings.ema),
                ("best", settings.patience),
            )
            if wanted and self.epoch and getattr(self, name) is None
        ]
        if missing:
            raise InputError(f"the checkpoint's training state lacks {', '.join(missing)}; start without --resume")

    @property
    def best_epoch(self) -> int | None:
        """The epoch with the best validation accuracy, where an early stop asks for it."""
        return None if self.best is None else int(self.best["epoch"])

    @property
    def deployed(self) -> dict[str, Any] | None:
        """The report of the epoch whose weights are to be deployed; None before the first."""
        return self.history[(self.best_epoch or self.epoch) - 1] if self.history else None

    def stopped(self, patience: int) -> bool:
        """Whether `patience` epochs went by without a better validation accuracy."""
        return bool(patience) and self.best_epoch is not None and self.epoch - self.best_epoch >= patience

    def deployable(self) -> dict[str, Tensor] | None:
        """The weights to deploy, where they are not those to go on with: the best epoch's, or the averaged ones."""
        chosen = self.best or self.average
        return None if chosen is None else chosen["state"]


def _tensors(value: Any) -> bool:
    return isinstance(value, dict) and all(isinstance(k, str) and isinstance(v, Tensor) for k, v in value.items())


def _holds(value: dict[str, Any] | None, **kinds: type) -> bool:
    """Whether this is None, or a dict of these and of tensors under "state"."""
    if value is None:
        return True
    return (
        value.keys() == {*kinds, "state"}
        and all(isinstance(value[name], kind) for name, kind in kinds.items())
        and _tensors(value["state"])
    )
