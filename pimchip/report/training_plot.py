"""A picture of a training run: loss, accuracy and xi by layer over epochs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pimchip.errors import InputError
from pimchip.files import replacing
from pimchip.report.plots import ACCENT, INK, WARM, new_axes

PICTURES = (".png", ".svg", ".pdf")
NAMED = 10
"""Layers up to which the legend names each."""
DATED = {".svg": "Date", ".pdf": "CreationDate"}
"""Where a kind of file has its date, which is left out: the same run gives the same bytes."""


def check_picture(path: Path) -> None:
    """Raise InputError if the name does not say which kind of picture it is to be."""
    if path.suffix not in PICTURES:
        raise InputError(f"--plot {path}: name a file that ends in .png, .svg or .pdf")


def save_training(path: Path, history: Sequence[Mapping[str, Any]], where: str = "accuracy") -> None:
    """Draw the epochs so far to a .png, .svg or .pdf, through a temporary file and a rename.

    history: dicts with epoch, loss, accuracy (fraction), xi (by layer), and validation or None. where: what accuracy is
    called. Raises InputError where the file cannot be written.
    """
    from matplotlib.ticker import MaxNLocator

    check_picture(path)
    epochs = [entry["epoch"] for entry in history]
    canvas, (loss, accuracy, xi) = new_axes(11.0, 3.2, 3)
    style: dict[str, Any] = {"lw": 1.6, "marker": "o" if len(epochs) < 30 else "", "ms": 3}
    loss.plot(epochs, [entry["loss"] for entry in history], color=ACCENT, **style)
    loss.set_ylabel("training loss")
    accuracy.plot(epochs, [100 * entry["accuracy"] for entry in history], color=ACCENT, label="test", **style)
    held = [(e["epoch"], 100 * e["validation"]) for e in history if e.get("validation") is not None]
    if held:
        accuracy.plot(*zip(*held, strict=True), color=WARM, label="validation", **style)
        accuracy.legend(frameon=False, fontsize=9)
    accuracy.set_ylabel("accuracy, %" if where == "accuracy" else f"accuracy {where}, %")
    layers = list(dict.fromkeys(name for entry in history for name in entry["xi"]))
    for index, name in enumerate(layers):
        points = [(entry["epoch"], entry["xi"][name]) for entry in history if name in entry["xi"]]
        xi.plot(*zip(*points, strict=True), color=_shade(index, len(layers)), label=name, **style)
    if 0 < len(layers) <= NAMED:
        xi.legend(frameon=False, fontsize=8)
    elif layers:
        xi.set_title(f"{len(layers)} layers, first to last: dark to light", fontsize=9, color=INK)
    else:
        xi.text(0.5, 0.5, "no ADC in the loop", transform=xi.transAxes, ha="center", color=INK)
    xi.set_ylabel("xi")
    for axes in (loss, accuracy, xi):
        axes.set_xlabel("epoch")
        axes.set_xlim(min(epochs, default=1) - 0.5, max(epochs, default=1) + 0.5)  # a single epoch too has whole ticks
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    with replacing(path, "--plot") as temporary:
        undated = {DATED[path.suffix]: None} if path.suffix in DATED else None
        canvas.savefig(temporary, format=path.suffix[1:], metadata=undated, dpi=120)


def _shade(index: int, count: int) -> Any:
    from matplotlib import colormaps

    return colormaps["viridis"](0.9 * index / max(count - 1, 1))
