"""Residency passes that no placement can do with fewer of.

Every bitline of a pass is a bin of the macro's rows, and a layer's row group puts an item of its height into as many bins
as it has columns. Passes are then at least the bins that a one-dimensional bin packing needs over the bins of a pass. Its
lower bound is that of Martello and Toth ("Lower bounds and reduction procedures for the bin packing problem", Discrete
Applied Mathematics 28, 1990, L2): for every threshold t up to half the height H, items over H - t take a bin each, those over
H / 2 too, and what smaller ones from t on do not find beside the latter takes more. t = 0 is cells over cells.

Where an output's planes must share a converter, bitlines that no whole output of that many planes can use are no bins.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping

from pimchip.chip import ChipSpec
from pimchip.compiler.records import LayerRecord


def items(layers: Iterable[LayerRecord]) -> dict[int, int]:
    """Columns by the height of their row group, over all layers in the array."""
    found: Counter[int] = Counter()
    for layer in layers:
        if layer.kind == "pim":
            planes = layer.operating_point().planes
            for block in layer.blocks():
                found[block.rows] += block.outputs * planes
    return {height: columns for height, columns in found.items() if columns}


def bins(columns: Mapping[int, int], height: int) -> int:
    """L2 of so many items of each height in bins of `height`."""
    thresholds = {0, *(h for h in columns if 2 * h <= height)}
    best = 0
    for t in thresholds:
        alone = sum(n for h, n in columns.items() if h > height - t)
        large = {h: n for h, n in columns.items() if height - t >= h and 2 * h > height}
        small = sum(h * n for h, n in columns.items() if 2 * h <= height and h >= t)
        beside = sum((height - h) * n for h, n in large.items())
        best = max(best, alone + sum(large.values()) + max(0, -(-(small - beside) // height)))
    return best


def usable_columns(spec: ChipSpec, planes: Iterable[int]) -> int:
    """Bitlines of a macro that outputs of so many planes can use, the most over those given."""
    share, per_macro, columns = spec.columns_per_adc, spec.adc.per_macro, spec.array.columns
    most = 0
    for count in planes:
        free = spec.adc.interleave or count > share
        most = max(most, columns // count * count if free else per_macro * (share // count * count))
    return most or columns


def passes_bound(layers: Iterable[LayerRecord], spec: ChipSpec) -> int:
    """The lower bound of residency passes; 0 where nothing is in the array."""
    held = list(layers)
    planes = {layer.operating_point().planes for layer in held if layer.kind == "pim"}
    a_pass = spec.array.macros * usable_columns(spec, planes)
    return -(-bins(items(held), spec.array.rows) // a_pass)
