"""The pass `place`: layers' cells on the chip's macros, pass by pass.

Layers take passes in the order they run, so that each is programmed once a batch. A pass takes the longest run of what is
left that fits, found by bisection. Where the last pass leaves room, later passes keep out of as many macros as that allows:
what the first pass has there is never reprogrammed. Within a pass every bitline is a bin of wordlines: row groups go in by falling height,
each where it leaves the least above it (best fit decreasing), in as few rectangles as that allows. An output's planes are
adjacent, and on one converter where the geometry allows it, so that its gain and offset are one affine error that BN can
take out.

Faults: broken wordlines and bitlines, and those of broken converters, are no bins. Outputs go on stuck cells that agree
with their weights; how far they may disagree is as little as the number of passes allows.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

from pimchip.chip import ChipSpec
from pimchip.compiler.faults import Faults
from pimchip.compiler.ir import Integers
from pimchip.compiler.records import Block, TileRecord
from pimchip.compiler.room import Filler, Segment, Wanted, sound, wanted
from pimchip.errors import CompileError

DISAGREEMENTS = (0.0, 1.0, 4.0, 16.0, 64.0, math.inf)
"""How far the weights of an output may be off on stuck cells, sum of squares in weight units: the smallest that costs no
pass is taken."""
KEPT_TRIES = 3
"""Placements looked at for what stays over passes, each as long as the first."""


def place(
    graph: Integers, spec: ChipSpec, faults: Faults | None = None, merit: Sequence[int] | None = None
) -> Integers:
    """The same steps, with tiles for every layer in the array. merit: macros, those to fill first before others; None:
    by number. Raises CompileError."""
    tiles, passes = place_layers(spec, wanted(graph, faults), faults, merit)
    layers = {name: layer.model_copy(update={"tiles": tiles.get(name, ())}) for name, layer in graph.layers.items()}
    return replace(graph, layers=layers, passes=passes)


def place_layers(
    spec: ChipSpec, layers: Sequence[Wanted], faults: Faults | None = None, merit: Sequence[int] | None = None
) -> tuple[dict[str, tuple[TileRecord, ...]], int]:
    """Tiles by layer, and the number of passes. layers: in the order they run. merit: as for `place`. Raises CompileError."""
    order = tuple(merit or range(spec.array.macros))
    for layer in layers:
        mac = layer.mac
        if mac.planes > spec.array.columns or mac.rows > spec.array.rows:
            raise CompileError(f"layer {layer.name}: {mac.describe()} does not fit a macro of chip {spec.name}")
    found, most = _Placement(spec, layers, faults, math.inf, order).run(), math.inf
    if faults and any(faults.cells.values()):
        for few in DISAGREEMENTS[:-1]:
            try:
                strict = _Placement(spec, layers, faults, few, order).run()
            except CompileError:  # no place agrees so well
                continue
            if strict[1] <= found[1]:
                found, most = strict, few
                break
    for kept in _worth_keeping(spec, *found):
        try:
            keeping = _Placement(spec, layers, faults, most, order, kept).run()
        except CompileError:  # what is left is too little for a layer
            continue
        if keeping[1] == found[1]:
            return keeping
    return found


def _worth_keeping(spec: ChipSpec, tiles: dict[str, tuple[TileRecord, ...]], passes: int) -> Iterator[int]:
    """Numbers of macros that passes after the first might do without, by the cells that the last one leaves free."""
    if passes > 1:
        a_macro = spec.array.rows * spec.array.columns
        last = sum(t.rows * t.columns for each in tiles.values() for t in each if t.residency == passes - 1)
        most = (spec.array.macros * a_macro - last) // ((passes - 1) * a_macro)
        yield from range(most, max(0, most - KEPT_TRIES), -1)


@dataclass(frozen=True)
class _Block:
    """Outputs first .. first + outputs - 1 of one row group of a layer."""

    layer: int
    group: int
    rows: int
    first: int
    outputs: int


@dataclass
class _Placement:
    """One placement. most: how far outputs may be off on stuck cells. order: of the macros, as they are filled. kept: so many of
    the first are of the first pass alone."""

    spec: ChipSpec
    layers: Sequence[Wanted]
    faults: Faults | None
    most: float
    order: Sequence[int]
    kept: int = 0
    _filler: Filler = field(init=False)

    def __post_init__(self) -> None:
        self._filler = Filler(self.spec, self.faults, self.most)

    def run(self) -> tuple[dict[str, tuple[TileRecord, ...]], int]:
        left = [_Block(index, *block) for index, w in enumerate(self.layers) for block in w.blocks]
        free = list(sound(self.spec, self.faults))
        kept = set(self.order[: self.kept])
        later = [s for s in free if s.macro not in kept]
        tiles: dict[str, list[TileRecord]] = {w.name: [] for w in self.layers}
        passes, at = 0, 0
        while at < len(left):
            found, taken, rest = self._longest(left, at, later if passes else free)
            if found is None:
                raise CompileError(
                    f"layer {self.layers[left[at].layer].name}: no place on chip {self.spec.name} takes its outputs: too much "
                    "of the die is broken"
                )
            for block, tile in found:
                tiles[self.layers[block.layer].name].append(tile.model_copy(update={"residency": passes}))
            at += taken
            if rest is not None:
                left[at] = rest
            passes += 1
        order = {
            name: tuple(sorted(t, key=lambda t: (t.residency, t.group, t.first_column))) for name, t in tiles.items()
        }
        return order, passes

    def _longest(
        self, blocks: list[_Block], at: int, free: list[Segment]
    ) -> tuple[list[tuple[_Block, TileRecord]] | None, int, _Block | None]:
        """(tiles, whole blocks taken, what is left of the one that was cut) of the longest run that fits a pass."""
        room = sum(s.columns * (s.end - s.row) for s in free)
        limit, cells = 0, 0  # outputs that a pass could take by its cells
        for block in blocks[at:]:
            each = block.rows * self.layers[block.layer].mac.planes
            limit += min(block.outputs, (room - cells) // each)
            cells += block.outputs * each
            if cells >= room:
                break
        best: tuple[list[tuple[_Block, TileRecord]] | None, int, _Block | None] = None, 0, None
        low, high, count = 0, limit, limit
        while low < high:
            run, taken, rest = _run(blocks, at, count)
            found = self._pack(run, free)
            if found is None:
                high = count - 1
            else:
                low, best = count, (found, taken, rest)
            count = (low + high + 1) // 2
        return best

    def _pack(self, blocks: list[_Block], free: list[Segment]) -> list[tuple[_Block, TileRecord]] | None:
        """Tiles for all of the blocks in one pass, or None."""
        segments, made = list(free), list[tuple[_Block, TileRecord]]()
        turn = {macro: at for at, macro in enumerate(self.order)}
        for block in sorted(blocks, key=lambda b: -b.rows):
            first, left = block.first, block.outputs
            fitting = [s for s in segments if s.end - s.row >= block.rows]
            fitting.sort(key=lambda s: (s.end - s.row, turn[s.macro], s.row, s.column))
            changed: dict[Segment, list[Segment]] = {}
            for segment in fitting:
                if not left:
                    break
                placed, changed[segment] = self._filler.fill(
                    segment, self.layers[block.layer], Block(block.group, block.rows, first, left)
                )
                for tile in placed:
                    _append(made, block, tile)
                outputs = sum(t.columns for t in placed) // self.layers[block.layer].mac.planes
                first, left = first + outputs, left - outputs
            if left:
                return None
            segments = [piece for s in segments for piece in changed.get(s, [s])]
        return made


def _run(blocks: list[_Block], at: int, outputs: int) -> tuple[list[_Block], int, _Block | None]:
    """The next `outputs` outputs: their blocks, how many are whole, and what is left of the last."""
    run: list[_Block] = []
    for block in blocks[at:]:
        if outputs < block.outputs:
            if outputs:
                run.append(replace(block, outputs=outputs))
                return run, len(run) - 1, replace(block, first=block.first + outputs, outputs=block.outputs - outputs)
            break
        run.append(block)
        outputs -= block.outputs
        if not outputs:
            break
    return run, len(run), None


def _append(made: list[tuple[_Block, TileRecord]], block: _Block, tile: TileRecord) -> None:
    """Add a tile, as more columns of the last one where it goes on there."""
    if made and made[-1][0] is block:
        last = made[-1][1]
        adjacent = (last.macro, last.row, last.column + last.columns) == (tile.macro, tile.row, tile.column)
        if adjacent and last.first_column + last.columns == tile.first_column:
            made[-1] = block, last.model_copy(update={"columns": last.columns + tile.columns})
            return
    made.append((block, tile))
