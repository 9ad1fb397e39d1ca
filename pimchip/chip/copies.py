"""Copies of a layer: held several times in the array, it shares its vectors between them and takes less time.

Of R copies, vector v is computed by the cells of copy v mod R. Vectors are numbered as the noise is, from the run's first
image on: (image * output_height + oy) * output_width + ox. So what a vector gives depends on no batch.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

import numpy as np

from pimchip.errors import InputError

if TYPE_CHECKING:
    from pimchip.chip.layers import Placement


def share(first_vector: int, vectors: int, copy: int, copies: int) -> int:
    """How many of `vectors` vectors from `first_vector` on a copy computes."""
    return len(range((copy - first_vector) % copies, vectors, copies))


def check_copies(name: str, placements: Sequence[Placement]) -> None:
    """InputError unless copies are numbered 0, 1, ..., hold the same columns of the same row groups, once, and share no cells.

    name: of the layer, for the error's text.
    """
    parts: dict[int, list[Placement]] = {}
    for placement in placements:
        parts.setdefault(placement.copy, []).append(placement)
    if sorted(parts) != list(range(len(parts))):
        raise InputError(f"layer {name}: copies {sorted(parts)}: want them numbered from 0, none left out")
    if len(parts) < 2:
        return
    first = _covered(name, parts[0])
    for copy in range(1, len(parts)):
        if _covered(name, parts[copy]) != first:
            raise InputError(
                f"layer {name}: copy {copy} does not hold what copy 0 does: want the same columns of the same row groups"
            )
    _check_apart(name, placements)


def _covered(name: str, parts: Iterable[Placement]) -> list[tuple[int, int, int]]:
    """Columns of row groups as runs (group, first, end), those that touch joined. InputError where two overlap."""
    runs = list[tuple[int, int, int]]()
    for p in sorted((p for p in parts if p.tile.columns), key=lambda p: (p.group, p.first_column)):
        end = p.first_column + p.tile.columns
        if runs and runs[-1][0] == p.group and runs[-1][2] > p.first_column:
            raise InputError(f"layer {name}: copy {p.copy} holds column {p.first_column} of row group {p.group} twice")
        if runs and runs[-1][0] == p.group and runs[-1][2] == p.first_column:
            runs[-1] = p.group, runs[-1][1], end
        else:
            runs.append((p.group, p.first_column, end))
    return runs


def _check_apart(name: str, placements: Sequence[Placement]) -> None:
    """InputError where a cell is of two copies."""
    by_macro: dict[int, list[Placement]] = {}
    for placement in placements:
        by_macro.setdefault(placement.tile.macro, []).append(placement)
    for parts in by_macro.values():
        tiles = [p.tile for p in parts]
        copy, row, column, rows, columns = np.array(
            [(p.copy, t.row, t.column, t.rows, t.columns) for p, t in zip(parts, tiles, strict=True)], np.int64
        ).T
        both = copy[:, None] < copy
        for start, size in ((row, rows), (column, columns)):
            end = start + size
            both &= np.minimum(end[:, None], end) > np.maximum(start[:, None], start)
        if both.any():
            a, b = np.argwhere(both)[0]
            raise InputError(f"layer {name}: copies {copy[a]} and {copy[b]} share cells of {tiles[a]}")
