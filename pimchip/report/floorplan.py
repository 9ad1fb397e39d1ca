"""Where the cells of a program are: a picture a residency pass, cells coloured by layer, copies hatched, faults marked."""

from __future__ import annotations

import colorsys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pimchip.files import replacing
from pimchip.report.plots import FAINT, INK

EMPTY, BROKEN, STUCK = (0.94, 0.95, 0.96), (0.45, 0.47, 0.50), (0.85, 0.05, 0.10)
ACROSS = 4
"""Macros beside each other."""
NAMED = 24
"""Layers of a pass up to which the legend names each."""
HATCH = "////"
"""Of further copies of a layer."""
GOLDEN = 0.61803398875
"""Steps of the hue: neighbours in the order of layers are far apart in colour."""


@dataclass(frozen=True)
class Rectangle:
    """Cells of a macro that hold a part of layer number `layer`; of its copy number `copy`."""

    macro: int
    row: int
    column: int
    rows: int
    columns: int
    layer: int
    copy: int = 0


@dataclass(frozen=True)
class Floor:
    """One pass. title: over the picture. rows, columns, macros: the array. layers: names by number. tiles: what is held.

    broken_rows, broken_columns: by macro, lines of no use, columns of broken converters among the latter. stuck: by macro,
    (row, column) of stuck cells.
    """

    title: str
    macros: int
    rows: int
    columns: int
    layers: Sequence[str]
    tiles: Sequence[Rectangle]
    broken_rows: Mapping[int, Sequence[int]] = field(default_factory=dict)
    broken_columns: Mapping[int, Sequence[int]] = field(default_factory=dict)
    stuck: Mapping[int, Sequence[tuple[int, int]]] = field(default_factory=dict)

    @property
    def faulty(self) -> bool:
        """Whether there is any fault to show."""
        return any(any(part.values()) for part in (self.broken_rows, self.broken_columns, self.stuck))


def colour(layer: int) -> tuple[float, float, float]:
    """Of a layer, by its number: no two neighbours are alike, and none is that of a fault."""
    return colorsys.hsv_to_rgb((0.58 + GOLDEN * layer) % 1.0, 0.42 + 0.2 * (layer % 2), 0.88 - 0.14 * (layer % 3 == 2))


def cells(floor: Floor, macro: int) -> NDArray[np.float64]:
    """RGB of every cell of a macro, float64 [rows, columns, 3]: the tile's, broken lines and stuck cells over it."""
    image = np.empty((floor.rows, floor.columns, 3))
    image[:] = EMPTY
    image[:, list(floor.broken_columns.get(macro, ()))] = BROKEN
    image[list(floor.broken_rows.get(macro, ()))] = BROKEN
    for t in floor.tiles:
        if t.macro == macro:
            image[t.row : t.row + t.rows, t.column : t.column + t.columns] = colour(t.layer)
    for row, column in floor.stuck.get(macro, ()):
        image[row, column] = STUCK
    return image


def draw(floor: Floor, path: Path) -> None:
    """Write the picture (.png or .svg), through a temporary file and a rename. InputError where it cannot be written."""
    import matplotlib
    from matplotlib.figure import Figure as Canvas
    from matplotlib.patches import Patch
    from matplotlib.patches import Rectangle as Frame

    matplotlib.rcParams |= {"svg.hashsalt": "pimchip", "hatch.linewidth": 0.5}
    down, across = -(-floor.macros // ACROSS), min(ACROSS, floor.macros)
    present = sorted({t.layer for t in floor.tiles})
    canvas = Canvas(
        figsize=(2.6 * across + 2.2, 2.6 * down * floor.rows / floor.columns * 1.25 + 0.9), layout="constrained"
    )
    canvas.suptitle(floor.title, fontsize=11, color=INK, x=0.01, ha="left")
    for macro in range(floor.macros):
        axes = canvas.add_subplot(down, across, macro + 1)
        axes.imshow(cells(floor, macro), interpolation="nearest", aspect="auto")
        for t in floor.tiles:
            if t.macro == macro:
                corner = (t.column - 0.5, t.row - 0.5)
                hatch = HATCH if t.copy else None
                axes.add_patch(Frame(corner, t.columns, t.rows, fill=False, ec="white", lw=0.4, hatch=hatch))
        stuck = np.array(floor.stuck.get(macro, ())).reshape(-1, 2)
        axes.scatter(stuck[:, 1], stuck[:, 0], s=1.5, color=STUCK, marker="s", lw=0)  # a cell alone is too small to see
        axes.set_title(f"macro {macro}", fontsize=8, color=INK)
        axes.set_xticks([0, floor.columns - 1])
        axes.set_yticks([0, floor.rows - 1])
        axes.tick_params(colors=FAINT, labelsize=6, length=2)
        axes.spines[:].set_color(FAINT)
    named = present[:NAMED]
    handles = [Patch(fc=colour(layer), label=floor.layers[layer]) for layer in named]
    if len(present) > NAMED:
        handles.append(Patch(fc="none", label=f"and {len(present) - NAMED} more"))
    handles.append(Patch(fc=EMPTY, ec=FAINT, lw=0.5, label="free"))
    if any(t.copy for t in floor.tiles):
        handles.append(Patch(fc=FAINT, ec="white", hatch=HATCH, lw=0.5, label="a further copy"))
    if floor.faulty:
        handles += [Patch(fc=BROKEN, label="broken, not used"), Patch(fc=STUCK, label="stuck cell")]
    canvas.legend(handles=handles, loc="outside right center", frameon=False, fontsize=7)
    with replacing(path) as temporary:
        kind = path.suffix.lstrip(".")
        metadata = {"Date": None} if kind == "svg" else None
        canvas.savefig(temporary, format=kind, dpi=130, metadata=metadata)
