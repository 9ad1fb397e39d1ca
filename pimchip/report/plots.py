"""Plots as SVG text. One look for all: no frame above and right, labels with units, colours that print."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from markupsafe import Markup
from numpy.typing import NDArray

from pimchip.report.page import Figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure as Canvas

INK, ACCENT, FAINT = "#1b1f24", "#0a6ebd", "#9aa4af"
WARM = "#c2571a"


def new_axes(width: float, height: float, count: int = 1) -> tuple[Canvas, list[Axes]]:
    """A drawing of this size in inches with `count` axes side by side."""
    import matplotlib
    from matplotlib.figure import Figure as Canvas

    matplotlib.rcParams["svg.hashsalt"] = "pimchip"  # the same drawing gives the same bytes
    canvas = Canvas(figsize=(width, height), layout="constrained")
    made = [canvas.add_subplot(1, count, i + 1) for i in range(count)]
    for axes in made:
        axes.spines[["top", "right"]].set_visible(False)
        axes.tick_params(colors=INK, labelsize=9)
    return canvas, made


def svg_of(canvas: Canvas) -> str:
    """The drawing as text, the same each time."""
    out = io.StringIO()
    canvas.savefig(out, format="svg", metadata={"Date": None})
    _, mark, rest = out.getvalue().partition("<svg")
    return mark + rest


def _figure(canvas: Canvas, caption: str) -> Figure:
    return Figure(Markup(svg_of(canvas)), caption)


def accuracy_bars(
    rows: Sequence[tuple[str, float, tuple[float, float]]], caption: str, colours: Sequence[str] = ()
) -> Figure:
    """Horizontal bars of fractions with their intervals; rows: (label, value, (low, high)) from top to bottom."""
    canvas, (axes,) = new_axes(8.5, 0.45 * len(rows) + 0.9)
    place = np.arange(len(rows))[::-1]
    values = np.array([100 * v for _, v, _ in rows])
    errors = np.array([[100 * (v - low), 100 * (high - v)] for _, v, (low, high) in rows]).T
    axes.barh(place, values, xerr=errors, color=list(colours) or ACCENT, ecolor=INK, capsize=3, height=0.62)
    axes.set_yticks(place, [label for label, _, _ in rows])
    for y, value in zip(place, values, strict=True):
        axes.text(2, y, f"{value:.1f}", va="center", color="white", fontsize=9)
    axes.set_xlim(0, 100)
    axes.set_xlabel("accuracy, % (95 % interval)")
    return _figure(canvas, caption)


def curve_family(x: NDArray[np.float64], curves: NDArray[np.float64], labels: tuple[str, str], caption: str) -> Figure:
    """Many curves [n, len(x)] faintly, their mean boldly where half of them are known; NaN is a gap."""
    canvas, (axes,) = new_axes(8.5, 3.2)
    for curve in curves:
        axes.plot(x, curve, color=FAINT, lw=0.5, alpha=0.5)
    there = np.isfinite(curves).sum(axis=0)  # the mean of the last few is that of others
    known = (there > 0) & (there >= np.isfinite(curves).any(axis=1).sum() / 2)
    axes.plot(x[known], np.nanmean(curves[:, known], axis=0), color=ACCENT, lw=2)
    axes.axhline(0, color=INK, lw=0.6)
    axes.set_xlabel(labels[0])
    axes.set_ylabel(labels[1])
    return _figure(canvas, caption)


def histograms(values: Mapping[str, NDArray[np.float64]], caption: str) -> Figure:
    """One histogram an entry, side by side; keys are axis labels with units."""
    from matplotlib.ticker import MaxNLocator

    canvas, made = new_axes(8.5, 2.6, len(values))
    for axes, (label, data) in zip(made, values.items(), strict=True):
        known = data[np.isfinite(data)]
        axes.hist(known, bins=int(np.clip(np.ceil(2 * np.sqrt(len(known))), 6, 24)), color=ACCENT)
        axes.yaxis.set_major_locator(MaxNLocator(integer=True))
        axes.set_xlabel(label)
    made[0].set_ylabel("converters")
    return _figure(canvas, caption)


def lines(x: Sequence[float], series: Mapping[str, Sequence[float]], labels: tuple[str, str], caption: str) -> Figure:
    """Lines over a common axis, at most two."""
    canvas, (axes,) = new_axes(8.5, 3.0)
    for (name, values), colour in zip(series.items(), (ACCENT, WARM), strict=False):
        axes.plot(x, values, color=colour, lw=1.8, marker="o", ms=3, label=name)
    axes.set_xlabel(labels[0])
    axes.set_ylabel(labels[1])
    axes.legend(frameon=False, fontsize=9)
    return _figure(canvas, caption)


def save_scaling(path: Path, points: Sequence[tuple[int, float, Sequence[float]]], slope: float, least: int) -> None:
    """Time against conversions on logarithmic axes, to a file of the kind its suffix names.

    points: (conversions, median seconds, [lowest, highest]). slope: of those from `least` conversions on. The line is of
    slope 1.
    """
    canvas, (axes,) = new_axes(6.0, 3.6)
    size, seconds = (np.array([p[i] for p in points], np.float64) for i in (0, 1))
    spread = np.abs(np.array([p[2] for p in points]).T - seconds)
    axes.errorbar(
        size,
        seconds,
        yerr=spread,
        color=ACCENT,
        marker="o",
        ms=3,
        lw=1.4,
        label=f"measured; {least:,} to {int(size[-1]):,} conversions: to the power {slope:.3f}",
    )
    axes.plot(size, seconds[-1] * size / size[-1], color=FAINT, lw=1, ls="--", label="proportional")
    axes.set(xscale="log", yscale="log", xlabel="conversions", ylabel="seconds")
    axes.legend(frameon=False, fontsize=9)
    canvas.savefig(path, metadata={"Date": None} if path.suffix == ".svg" else None, dpi=160)
