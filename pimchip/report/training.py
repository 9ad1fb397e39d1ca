"""A training run on paper: loss, accuracy and xi over its epochs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pimchip.files import replacing
from pimchip.report.plots import ACCENT, FAINT, _axes

NAMED = 8
"""Layers whose xi is named in the legend."""


def save_training(path: Path, history: Sequence[dict[str, Any]]) -> None:
    """Draw the epochs in `history` (see pimchip.qat.train.EpochReport) to a file of the kind its suffix names.

    Written through a temporary file and a rename, so that whoever looks sees a whole picture. InputError where it cannot
    be written.
    """
    canvas, (loss, accuracy, factor) = _axes(9.0, 3.0, 3)
    epochs = [h["epoch"] for h in history]
    loss.plot(epochs, [h["loss"] for h in history], color=ACCENT, marker="o", ms=3)
    loss.set(xlabel="epoch", ylabel="training loss")
    accuracy.plot(epochs, [100 * h["accuracy"] for h in history], color=ACCENT, marker="o", ms=3, label="test")
    if any(h.get("validation") is not None for h in history):
        held = [float("nan") if h["validation"] is None else 100 * h["validation"] for h in history]
        accuracy.plot(epochs, held, color=FAINT, marker="o", ms=3, label="held out")
        accuracy.legend(frameon=False, fontsize=8)
    accuracy.set(xlabel="epoch", ylabel="accuracy, %")
    layers = list(dict.fromkeys(name for h in history for name in h["xi"]))
    for index, name in enumerate(layers):
        values = [h["xi"].get(name, float("nan")) for h in history]
        factor.plot(epochs, values, lw=1, label=name if index < NAMED else None)
    factor.set(xlabel="epoch", ylabel="xi, by layer")
    if layers:
        factor.legend(frameon=False, fontsize=6)
    with replacing(path) as temporary:
        dated = {"Date": None} if path.suffix == ".svg" else None
        canvas.savefig(temporary, format=path.suffix[1:], metadata=dated, dpi=130)
