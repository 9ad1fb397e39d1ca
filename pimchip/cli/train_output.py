"""What `pimchip train` shows and writes while it runs: epochs, warnings, the log and the picture."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from pimchip.cli.common import Reply

if TYPE_CHECKING:
    from torch import nn

    from pimchip.qat import EpochReport, Settings, TrainState
    from pimchip.qat.state import Progress
    from pimchip.report.training_log import TrainingLog

WORSE = 2.0
"""How much more of a layer's sums must be saturated for it to be told of again."""


class Output:
    """Takes every step and epoch of a run.

    On a terminal epochs are rows of a table, elsewhere lines. where: what their accuracy is called. searched: the ranges
    came of a search. log, plot: files, or None. InputError where one of them cannot be written.
    """

    def __init__(
        self,
        reply: Reply,
        network: nn.Module,
        settings: Settings,
        *,
        where: str,
        searched: bool,
        log: Path | None,
        plot: Path | None,
    ) -> None:
        self._reply, self._network, self._epochs, self._where = reply, network, settings.epochs, where
        self._searched, self._plot, self._log_path = searched, plot, log
        self._log: TrainingLog | None = None
        self._dead: set[str] = set()
        self._saturated: dict[str, float] = {}
        self._say: Callable[[str], None] = reply.show
        self._row: Callable[[EpochReport], None] = self._line
        self.step: Callable[[Progress], None] = lambda progress: None

    @contextmanager
    def running(self, state: TrainState) -> Iterator[None]:
        """Around the training, which goes on from `state`."""
        from pimchip.report.training_log import TrainingLog
        from pimchip.report.training_table import EpochTable

        reply = self._reply
        if reply.silent:
            yield
            return
        self._log = None if self._log_path is None else TrainingLog(self._log_path, state.history)
        console = reply.console()
        if console.is_terminal:
            with EpochTable(console, self._epochs, self._where) as made:
                self._say, self._row = made.say, lambda report: made.done(asdict(report))
                self.step = lambda p: made.step(p.epoch, p.step, p.steps, p.loss)
                yield
            self._say = reply.show
            return
        with reply.progress("training") as tell:
            self.step = lambda p: tell(p.epoch * p.steps + p.step, self._epochs * p.steps)
            yield

    def epoch(self, report: EpochReport, state: TrainState) -> None:
        """Show an epoch and what is wrong in it; add it to the log and the picture."""
        self._row(report)
        for line in self._warnings(report):
            self._say(f"  warning: {line}")
        if self._log is not None:
            self._log.append(asdict(report))
        if self._plot is not None:
            from pimchip.report.training_plot import save_training

            save_training(self._plot, state.history, self._where)

    def _line(self, report: EpochReport) -> None:
        from pimchip.report.training_table import plain_line

        self._say(plain_line(asdict(report), self._epochs, self._where))

    def _warnings(self, report: EpochReport) -> list[str]:
        """Of each layer that became bad, or much worse; after the last epoch of each that is."""
        from pimchip.qat import pim_layers
        from pimchip.qat.health import SATURATED, advice

        last = report.epoch == self._epochs
        lines = [
            f"layer {layer} is dead, every code is the same: train with more --adc-bits, "
            f"{'' if self._searched else 'a larger --range-divisor '}or fewer --rows"
            for layer in report.dead
            if last or layer not in self._dead
        ]
        self._dead = set(report.dead)
        layers = pim_layers(self._network)
        for layer, share in report.saturated.items():
            told = self._saturated.get(layer, 0.0)
            if share >= SATURATED and (last or share >= WORSE * max(told, SATURATED / WORSE)):
                self._saturated[layer] = share
                lines.append(advice(layer, share, layers[layer], searched=self._searched))
        return lines
