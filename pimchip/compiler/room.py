"""What can be put where: a layer's outputs into free cells of a macro.

An output's planes are adjacent, and on one converter where the geometry allows it. Broken wordlines and bitlines, and those
of broken converters, take none; stuck cells take outputs that they agree with, or nearly so.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field, replace

from pimchip.chip import ChipSpec, Geometry, Mac
from pimchip.chip.mac import Int8
from pimchip.compiler.faults import Faults
from pimchip.compiler.ir import Integers
from pimchip.compiler.records import Block, TileRecord


@dataclass(frozen=True)
class Wanted:
    """A layer to place. cells: what it puts in the array, int8 [K, columns]; only looked at where cells are stuck.
    parts: of a layer of channels in groups, what has cells."""

    name: str
    mac: Mac
    geometry: Geometry
    cells: Int8 | None = None
    parts: tuple[Block, ...] = ()

    @property
    def blocks(self) -> tuple[Block, ...]:
        """Its row groups with the outputs that each adds to; all of them where `parts` does not say."""
        depth, rows, outputs = self.geometry.depth, self.mac.rows, self.geometry.out_channels
        whole = (Block(g, min(rows, depth - g * rows), 0, outputs) for g in range(self.mac.groups(depth)))
        return self.parts or tuple(whole)


def wanted(graph: Integers, faults: Faults | None) -> list[Wanted]:
    """The layers in the array, in the order they run."""
    found = []
    for op in graph.ops:
        if op.kind == "pim":
            record = graph.layers[op.layer]
            mac = record.operating_point()
            cells = mac.cells(graph.tensors[f"weight.{op.layer}"]) if faults and faults.cells else None
            found.append(Wanted(op.layer, mac, record.geometry(), cells, tuple(record.blocks())))
    return found


@dataclass(frozen=True)
class Segment:
    """Adjacent bitlines of a macro that are free from wordline `row` to before `end`."""

    macro: int
    column: int
    columns: int
    row: int
    end: int


def sound(spec: ChipSpec, faults: Faults | None) -> Iterator[Segment]:
    """What of an empty chip can be used."""
    array, broken = spec.array, faults or Faults()
    for macro in range(array.macros):
        columns = broken.bad_columns(spec, macro)
        for top, end in runs(array.rows, broken.rows.get(macro, frozenset())):
            for first, last in runs(array.columns, columns):
                yield Segment(macro, first, last - first, top, end)


def runs(count: int, broken: frozenset[int]) -> Iterator[tuple[int, int]]:
    """(first, end) of each run of sound lines."""
    begun = 0
    for line in (*sorted(broken), count):
        if line > begun:
            yield begun, line
        begun = line + 1


@dataclass
class Filler:
    """Puts outputs into segments. most: how far they may be off on stuck cells, sum of squares in weight units."""

    spec: ChipSpec
    faults: Faults | None
    most: float = math.inf
    _costs: dict[tuple[str, int, int, int, int, int], float] = field(default_factory=dict)

    def fill(self, segment: Segment, layer: Wanted, block: Block) -> tuple[list[TileRecord], list[Segment]]:
        """Tiles of as many of the block's outputs, from its first on, as a segment takes, and what of it is free then."""
        planes, end, (group, rows, first, left) = layer.mac.planes, segment.column + segment.columns, block
        tiles, free, at, begun = list[TileRecord](), list[Segment](), segment.column, segment.column
        while left:
            at, width = self._room(at, end, planes)
            if not width:
                break
            agreeing = 0
            while agreeing < min(left, width // planes) and self._agrees(
                segment, layer, block, first + agreeing, at + agreeing * planes
            ):
                agreeing += 1
            if not agreeing:
                at += planes
                continue
            columns = agreeing * planes
            if at > begun:
                free.append(replace(segment, column=begun, columns=at - begun))
            tiles.append(
                TileRecord(
                    residency=0, macro=segment.macro, row=segment.row, column=at, rows=rows, columns=columns, group=group,
                    first_column=first * planes,
                )
            )  # fmt: skip
            if segment.row + rows < segment.end:
                free.append(replace(segment, column=at, columns=columns, row=segment.row + rows))
            at, first, left = at + columns, first + agreeing, left - agreeing
            begun = at
        if begun < end:
            free.append(replace(segment, column=begun, columns=end - begun))
        return tiles, free

    def _room(self, column: int, end: int, planes: int) -> tuple[int, int]:
        """Where an output may begin from `column` on, and how many columns one tile can take there before `end`."""
        share = self.spec.columns_per_adc
        if self.spec.adc.interleave or planes > share or share % planes == 0:
            column = -(-column // planes) * planes
            return column, max(0, (end - column) // planes * planes)
        while column < end:
            if column % share > share - planes:  # the converter's last columns hold no whole output
                column = (column // share + 1) * share
            width = (min(end, column - column % share + share) - column) // planes * planes
            if width > 0:
                return column, width
            column = (column // share + 1) * share
        return column, 0

    def _agrees(self, segment: Segment, layer: Wanted, block: Block, output: int, column: int) -> bool:
        """Whether stuck cells where an output would go leave its weights as they are, or near enough."""
        return self.most == math.inf or self.off(layer, block, output, segment.macro, segment.row, column) <= self.most

    def off(self, layer: Wanted, block: Block, output: int, macro: int, row: int, column: int) -> float:
        """How far the weights of an output of a block are off on the stuck cells where it would go."""
        stuck = self.faults.cells.get(macro) if self.faults else None
        if not stuck:
            return 0.0
        key = (layer.name, block.group, output, macro, row, column)
        if key not in self._costs:
            planes, weights, cost = layer.mac.planes, layer.mac.plane_weights, 0.0
            assert layer.cells is not None
            for (at, bitline), value in stuck.items():
                if column <= bitline < column + planes and row <= at < row + block.rows:
                    held = layer.cells[block.group * layer.mac.rows + at - row, output * planes + bitline - column]
                    cost += float(weights[bitline - column] * (int(held) - value)) ** 2
            self._costs[key] = cost
        return self._costs[key]
