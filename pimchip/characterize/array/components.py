"""Variance components of a code: converters, columns of a converter, sets of rows, cells, and repeats.

From the same readings as rows: at one sum a code differs between converters (their gain, offset and curve), between the
columns of a converter (their cells' mean), from set to set alike in all columns (rows), from set to set in each column by
itself (cells), and from repeat to repeat (noise). Analysis of variance with the expectations of rows and

    E MS_column = sigma^2 + R s_cell^2 + R K s_column^2,    E MS_adc = E MS_column + R K m s_adc^2

K sets over all sums, R repeats, m columns a converter. Intervals: see estimate. Mismatch alone makes columns differ too:
`column_by_cells` is what it would.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from pimchip.characterize.array.estimate import NOTHING, Estimate, MeanSquare, component, total, variance
from pimchip.characterize.array.rounding import noise_variance, signal_variance
from pimchip.characterize.array.rows import Sets


@dataclass(frozen=True)
class Components:
    """Standard deviations, LSB. A component of which nothing can be told is NaN, with the reason in `refused`.

    adc: between converters. column: between the columns of a converter. column_by_cells: as much of that as the cells'
    mismatch makes. rows: from set to set, common to a macro. cells: from set to set in a column. noise: of one conversion.
    conversion: of all that is not the converter's: one conversion of one column, whichever set of rows makes up its sum.
    """

    adc: Estimate
    column: Estimate
    column_by_cells: float
    rows: Estimate
    cells: Estimate
    noise: Estimate
    conversion: Estimate
    adcs: int
    columns: int
    sets: int
    repeats: int
    refused: dict[str, str]


def components(sets: Sets) -> Components:
    """Variance components of random sets' readings."""
    ms = sets.squares()
    repeats, per_level, levels = sets.repeats, sets.sets, len(sets.totals)
    k = per_level * levels
    column_parts, adc_parts, macro_columns, per_adc = [], [], [], []
    for reads in sets.macros:
        by_column = sets.means(reads).mean(axis=(0, 1))
        by_adc = reads.by_adc(by_column)
        size = np.bincount(reads.columns_of_adc)
        own = by_column - by_adc[reads.columns_of_adc]
        column_parts.append((repeats * k * float((own**2).sum()), float((size - 1).sum())))
        adc_parts.append((by_adc, float(size[0])))
        macro_columns.append(len(by_column))
        per_adc.append(float(size[0]))
    m, columns = float(np.mean(per_adc)), float(np.mean(macro_columns))
    means = np.concatenate([values for values, _ in adc_parts])
    column = MeanSquare.pooled(column_parts)
    adc = MeanSquare(repeats * k * m * float(means.var(ddof=1)) if len(means) > 1 else math.nan, len(means) - 1.0)
    refused: dict[str, str] = {}

    def signal(of: Estimate) -> Estimate:
        return of.mapped(lambda v: signal_variance(v, sets.noise)).root

    if not column.df:
        refused["column"] = (
            "one column a converter: columns cannot be told from converters; a chip whose columns share converters would"
        )
    if not ms.cells.df:
        refused["cells"] = "one column a macro: cells cannot be told from rows; more converters (--adcs) would"
    if not adc.df >= 1:
        refused["adc"] = "one converter: converters have no scatter; more of them (--adcs) would"
    base = column if column.df else ms.cells
    conversion = total(
        [
            (1 / (repeats * k), base),
            (1 / (repeats * columns), ms.rows),
            (1 / (repeats * m) - 1 / (repeats * columns), ms.slow),
            ((1 - 1 / m) / repeats - 1 / (repeats * k), ms.cells),
            (1 - 1 / repeats, ms.noise),
        ]
    )
    per_row = math.sqrt(float((sets.cells_by_adc()[1] ** 2).mean()))
    cells = sets.cells_share().times(sets.spread * per_row**2)
    share = float(sets.drive.mean() ** 2 / sets.mac.rows / sets.spread)
    return Components(
        adc=component(adc, base, repeats * k * m).root if adc.df >= 1 else NOTHING,
        column=signal(component(column, ms.cells, repeats * k)) if column.df else NOTHING,
        column_by_cells=math.sqrt(max(cells.value * share, 0.0)),
        rows=signal(component(ms.rows, ms.slow, repeats * columns)),
        cells=cells.root,
        noise=variance(ms.noise).mapped(noise_variance).root,
        conversion=conversion.mapped(lambda v: max(v - 1 / 12, 0.0)).root,
        adcs=len(means),
        columns=sum(macro_columns),
        sets=k,
        repeats=repeats,
        refused=refused,
    )
