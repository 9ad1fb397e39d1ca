"""Tiles whose cells go to a board in one transfer."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from pimchip.chip import Tile
from pimchip.chip.mac import Int8


class Filled(NamedTuple):
    """A tile, its cells int8 [tile.rows, tile.columns], and what a full one is worth there."""

    tile: Tile
    cells: Int8
    full: int


@dataclass
class Group:
    """Tiles in order, one after the other in the transfer."""

    content: list[Filled] = field(default_factory=list)
    ends: list[int] = field(default_factory=list)
    """Where the cells of each end, bytes from the start."""

    def add(self, part: Filled) -> None:
        """One more."""
        self.content.append(part)
        self.ends.append(self.size + part.cells.size)

    @property
    def size(self) -> int:
        """Bytes in all."""
        return self.ends[-1] if self.ends else 0

    @property
    def data(self) -> bytes:
        """All cells."""
        return b"".join(np.ascontiguousarray(part.cells, np.int8).tobytes() for part in self.content)

    def placed(self) -> Iterator[tuple[int, Filled]]:
        """Each with where its cells begin."""
        return zip([0, *self.ends], self.content, strict=False)

    def within(self, size: int) -> int:
        """How many of them lie within the first `size` bytes."""
        return bisect_right(self.ends, size)


def groups(content: Iterable[Filled], most: Callable[[], int]) -> Iterator[Group]:
    """Tiles in their order, in groups of at most `most` bytes, or of one tile where that is larger. most: asked for each
    group anew, as a line may turn out to carry less."""
    group = Group()
    for part in content:
        if group.content and group.size + part.cells.size > most():
            yield group
            group = Group()
        group.add(part)
    if group.content:
        yield group
