"""The pass `replicate`: copies of layers in cells that the placement leaves free, so that input positions are computed side by
side (NeuRRAM duplicates the weights of its busiest layers on several cores; Wan et al., Nature 2022).

Vector v of a layer of R copies is computed by copy v mod R (pimchip.chip.copies). Layers take turns, and within a layer the
macros work side by side and each converts its tiles in turns, so a vector takes what the busiest macro needs for all of
its tiles, over R (pimchip.compiler.estimate). A copy therefore gains by standing on macros where the layer is not yet, or
has less to do; two in one macro gain nothing.

Copies cost no pass and nothing is reprogrammed for them: they stand in cells that no pass uses. One after another, the layer
gets a copy whose time for an image falls most by it. A copy stands first where no macro becomes busier than the busiest is
without it, in as few tiles as that allows, else where it shortens the time at all. Broken lines and converters are avoided, and
on stuck cells a copy is off no further than the layer itself.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from pimchip.chip import ChipSpec
from pimchip.compiler.estimate import busy, cycle, overlap, tile_seconds
from pimchip.compiler.faults import Faults
from pimchip.compiler.ir import Integers
from pimchip.compiler.records import Block, LayerRecord, TileRecord
from pimchip.compiler.room import Filler, Segment, Wanted, runs, wanted
from pimchip.errors import InputError

TILES_MOST = 4096
"""Tiles of a layer in one pass that a board takes (SPEC.md)."""
LESS = 1 - 1e-9
"""Sums of times that are alike may differ in their last bits."""


def replicate(
    graph: Integers, spec: ChipSpec, most: int, faults: Faults | None = None, merit: Sequence[int] | None = None
) -> Integers:
    """The same placed graph with up to `most` copies of a layer. merit: macros, those to prefer before others; None: by
    number. Raises InputError for a chip without timing."""
    if most < 2:
        return graph
    if spec.timing is None:
        raise InputError(
            f"chip {spec.name} has no [timing], by which layers are chosen to be held several times: add it, or leave "
            "--replicas out"
        )
    room = _Room(spec, faults or Faults(), tuple(merit or range(spec.array.macros)))
    for record in graph.layers.values():
        room.take(record.tiles)
    every = [_Layer(spec, w, graph.layers[w.name], faults) for w in wanted(graph, faults)]
    # A layer that had to be cut into several passes has found all room too small for what a copy would need.
    layers = [layer for layer in every if len({t.residency for t in layer.record.tiles}) == 1]
    _grow(layers, room, most)
    return replace(graph, layers=graph.layers | {layer.wanted.name: layer.record for layer in layers})


def _grow(layers: Sequence[_Layer], room: _Room, most: int) -> None:
    """Give copies as long as a time falls by one."""
    offers = dict[str, list[TileRecord]]()
    live = list(layers)
    while True:
        live = [layer for layer in live if layer.record.copies < min(most, layer.record.positions)]
        best, gain = None, 0.0
        for layer in sorted(live, key=lambda each: -each.most_gain):
            if layer.most_gain <= gain:
                break
            if layer.wanted.name not in offers:
                offers[layer.wanted.name] = layer.copy(room)
            saved = layer.saved(offers[layer.wanted.name])
            if saved <= 0:  # and room only gets less
                live.remove(layer)
            elif saved > gain:
                best, gain = layer, saved
        if best is None:
            return
        tiles = offers.pop(best.wanted.name)
        best.record = best.with_tiles(tiles)
        room.take(tiles)
        offers = {name: held for name, held in offers.items() if not any(overlap(a, b) for a in held for b in tiles)}


@dataclass
class _Layer:
    """A layer and its copies so far."""

    spec: ChipSpec
    wanted: Wanted
    record: LayerRecord
    faults: Faults | None
    _filler: Filler = field(init=False)

    def __post_init__(self) -> None:
        self._filler = Filler(self.spec, self.faults)
        self._filler.most = max((self._off(tile) for tile in self.record.tiles), default=0.0)

    def _off(self, tile: TileRecord) -> float:
        """How far the worst output of a tile is off on stuck cells."""
        planes = self.wanted.mac.planes
        block = Block(tile.group, tile.rows, tile.first_column // planes, tile.columns // planes)
        return max(
            self._filler.off(self.wanted, block, block.first + n, tile.macro, tile.row, tile.column + n * planes)
            for n in range(block.outputs)
        )

    @property
    def _cycles(self) -> int:
        return self.record.positions * self.wanted.mac.slices

    @property
    def most_gain(self) -> float:
        """Seconds of an image that one copy more can save at most: the busiest macro stays as busy as it is."""
        return self._cycles * cycle(self.spec, self.record) / (self.record.copies + 1)

    def with_tiles(self, tiles: Sequence[TileRecord]) -> LayerRecord:
        return self.record.model_copy(update={"tiles": (*self.record.tiles, *tiles)})

    def saved(self, tiles: Sequence[TileRecord]) -> float:
        """Seconds of an image that a copy of these tiles saves; 0 for none."""
        if not tiles:
            return 0.0
        now, then = cycle(self.spec, self.record), cycle(self.spec, self.with_tiles(tiles))
        return self._cycles * (now - then) if then < now * LESS else 0.0

    def copy(self, room: _Room) -> list[TileRecord]:
        """One copy more: as even over macros as possible, else so that it gains at all; nothing where there is no room."""
        load = {macro: seconds for (_, macro), seconds in busy(self.spec, self.record.tiles).items()}
        copies, peak, (residency,) = self.record.copies, max(load.values()), {t.residency for t in self.record.tiles}
        blocks = sorted(self._blocks(), key=lambda b: (-b.rows, -b.outputs))
        for limit in (peak / LESS, peak * (copies + 1) / copies * LESS):
            tiles = self._packed(blocks, dict(load), limit, room)
            if tiles is not None and len(self.record.tiles) + len(tiles) <= TILES_MOST:
                return [t.model_copy(update={"residency": residency, "copy_number": copies}) for t in tiles]
        return []

    def _blocks(self) -> Iterator[Block]:
        """What its first copy holds, tiles that go on in one another joined."""
        planes = self.wanted.mac.planes
        own = sorted((t for t in self.record.tiles if t.copy_number == 0), key=lambda t: (t.group, t.first_column))
        block: Block | None = None
        for t in own:
            first, outputs = t.first_column // planes, t.columns // planes
            if block is not None and (block.group, block.first + block.outputs) == (t.group, first):
                block = block._replace(outputs=block.outputs + outputs)
                continue
            if block is not None:
                yield block
            block = Block(t.group, t.rows, first, outputs)
        if block is not None:
            yield block

    def _packed(
        self, blocks: Sequence[Block], load: dict[int, float], limit: float, room: _Room
    ) -> list[TileRecord] | None:
        """Tiles of all blocks where no macro gets more to do than `limit`, seconds a cycle. load: of each macro before."""
        made = list[TileRecord]()
        try:
            for block in blocks:
                while block.outputs:
                    tiles = self._best(block, load, limit, room)
                    if not tiles:
                        return None
                    room.take(tiles)
                    made += tiles
                    for t in tiles:
                        load[t.macro] = load.get(t.macro, 0.0) + tile_seconds(self.spec, t)
                    done = sum(t.columns for t in tiles) // self.wanted.mac.planes
                    block = block._replace(first=block.first + done, outputs=block.outputs - done)
            return made
        finally:
            room.give_back(made)

    def _best(self, block: Block, load: dict[int, float], limit: float, room: _Room) -> list[TileRecord]:
        """The tiles of one segment that take most of a block; of alike ones, where least is to do."""
        best, key = list[TileRecord](), (0, 0.0)
        for macro in room.order:
            for segment in room.segments(macro, block.rows):
                if segment.columns // self.wanted.mac.planes < -key[0]:
                    continue
                tiles, after = list[TileRecord](), load.get(macro, 0.0)
                for tile in self._filler.fill(segment, self.wanted, block)[0]:
                    more = tile_seconds(self.spec, tile)
                    if after + more > limit:
                        break
                    tiles, after = [*tiles, tile], after + more
                found = -(sum(t.columns for t in tiles) // self.wanted.mac.planes), after
                if tiles and (not best or found < key):
                    best, key = tiles, found
        return best


@dataclass
class _Room:
    """The cells that no tile of any pass uses. order: of the macros, as they are filled."""

    spec: ChipSpec
    faults: Faults
    order: Sequence[int]
    _tiles: dict[int, list[TileRecord]] = field(default_factory=dict)
    _found: dict[int, dict[int, list[Segment]]] = field(default_factory=dict)
    """Free segments by macro and height, until something there changes."""

    def take(self, tiles: Sequence[TileRecord]) -> None:
        for tile in tiles:
            self._tiles.setdefault(tile.macro, []).append(tile)
            self._found.pop(tile.macro, None)

    def give_back(self, tiles: Sequence[TileRecord]) -> None:
        for tile in tiles:
            self._tiles[tile.macro].remove(tile)
            self._found.pop(tile.macro, None)

    def segments(self, macro: int, rows: int) -> list[Segment]:
        """Free runs of bitlines, `rows` wordlines high and as high up as they can be, the widest first."""
        held = self._found.setdefault(macro, {})
        if rows not in held:
            held[rows] = sorted(self._segments(macro, rows), key=lambda s: (-s.columns, s.row, s.column))
        return held[rows]

    def _segments(self, macro: int, rows: int) -> Iterator[Segment]:
        broken, columns = self.faults.rows.get(macro, frozenset[int]()), self.faults.bad_columns(self.spec, macro)
        taken = self._tiles.get(macro, [])
        for row in sorted({0, *(t.row + t.rows for t in taken), *(line + 1 for line in broken)}):
            if row + rows > self.spec.array.rows or not broken.isdisjoint(range(row, row + rows)):
                continue
            free = np.ones(self.spec.array.columns, bool)
            free[list(columns)] = False
            for t in taken:
                if t.row < row + rows and row < t.row + t.rows:
                    free[t.column : t.column + t.columns] = False
            for first, end in runs(len(free), frozenset(np.flatnonzero(~free).tolist())):
                yield Segment(macro, first, end - first, row, row + rows)
