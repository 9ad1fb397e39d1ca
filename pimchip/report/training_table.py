"""A training run on a terminal: a row an epoch, and below it the running one with a bar; elsewhere plain lines."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console

HEADER = "  epoch     loss  accuracy  validation      rate          xi  images/s     time"


def plain_line(report: Mapping[str, Any], epochs: int, where: str = "accuracy") -> str:
    """An epoch in one line that explains itself. report: the fields of an EpochReport; where: what its accuracy is called."""
    held = report["validation"]
    validation = "" if held is None else f"  validation {100 * held:5.1f} %"
    xi = f"  xi {_span(report['xi'])}" if report["xi"] else ""
    return (
        f"epoch {report['epoch']:>3}/{epochs}  loss {report['loss']:.3f}  {where} {100 * report['accuracy']:5.1f} %"
        f"{validation}{xi}  {report['seconds']:.1f} s"
    )


def row(report: Mapping[str, Any], epochs: int) -> str:
    """The same below HEADER."""
    held = report["validation"]
    validation = "-" if held is None else f"{100 * held:.1f} %"
    return (
        f"{report['epoch']:>3}/{epochs:<3}{report['loss']:>9.3f}{100 * report['accuracy']:>8.1f} %{validation:>12}"
        f"{report['learning_rate']:>10.3g}{_span(report['xi']) if report['xi'] else '-':>12}"
        f"{report['images_per_second']:>10,.0f}{report['seconds']:>7.1f} s"
    )


def _span(xi: Mapping[str, float]) -> str:
    return f"{min(xi.values()):.2f}..{max(xi.values()):.2f}"


class EpochTable:
    """A context in which epochs become rows of a table, above a line that follows the running one."""

    def __init__(self, console: Console, epochs: int, where: str = "accuracy") -> None:
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        self.console, self.epochs = console, epochs
        self._header = HEADER.replace("accuracy", f"{where:>8}")
        self._bar = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=20),
            MofNCompleteColumn(),
            TextColumn("{task.fields[rate]}"),
            TimeRemainingColumn(),
            console=console,
            transient=True,
        )
        self._task = self._bar.add_task("", total=None, rate="")
        self._begun: tuple[float, int] | None = None

    def __enter__(self) -> EpochTable:
        self.say(self._header, style="bold")
        return self

    def __exit__(self, *raised: object) -> None:
        if self._bar.live.is_started:
            self._bar.stop()

    def step(self, epoch: int, step: int, steps: int, loss: float) -> None:
        """The running epoch (from 0) has done `step` of `steps`, with this mean loss so far."""
        done, now = epoch * steps + step, time.monotonic()
        since, first = self._begun = self._begun or (now, done)  # the first step loads kernels
        rate = f"{(done - first) / (now - since):,.3g}/s" if done > first and now > since else ""
        at = f"{epoch + 1:>3}/{self.epochs:<3}{loss:>9.3f}"
        if not self._bar.live.is_started:
            self._bar.start()
        self._bar.update(self._task, description=at, completed=done, total=self.epochs * steps, rate=rate)

    def done(self, report: Mapping[str, Any]) -> None:
        """An epoch is over: its row. report: the fields of an EpochReport."""
        self.say(row(report, self.epochs))

    def say(self, text: str, style: str | None = None) -> None:
        """A line above the bar."""
        self.console.print(text, markup=False, highlight=False, style=style, soft_wrap=True)
