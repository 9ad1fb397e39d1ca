"""What a program will cost on its chip, before anything runs: the counters of a board, joules and seconds.

The counters are those of a board that does every step itself and holds maps in its own memory; what a board lacks goes
over its link besides. Definitions and prices: pimchip.chip.energy.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from math import prod
from typing import Literal

from pimchip.chip import ChipSpec, Mac
from pimchip.chip.copies import share
from pimchip.chip.energy import COUNTERS, Account, account
from pimchip.compiler.host import narrow, travels
from pimchip.compiler.program import Program
from pimchip.compiler.records import AddStep, LayerRecord, Manifest, PimStep, RequantizeStep, TileRecord

Counts = dict[str, int]


@dataclass(frozen=True)
class Item:
    """A layer of one image, an image's transfers, or programming. counters: by COUNTERS, all of them; of a layer with copies,
    of the first image.

    seconds, cost: None where the spec has no figures. each: what one vector counts in each copy, of a layer with copies.
    vectors: of an image, there.
    """

    name: str
    kind: Literal["pim", "digital", "transfers", "programming"]
    counters: Counts
    seconds: float | None
    cost: Account | None
    each: tuple[Counts, ...] = ()
    vectors: int = 0

    def over(self, images: int) -> Counts:
        """The counters of so many images, the first of a run."""
        if not self.each:
            return {name: images * value for name, value in self.counters.items()}
        return shared(self.each, images * self.vectors)

    @property
    def joules(self) -> float | None:
        """All parts, or None."""
        return None if self.cost is None else self.cost.total


@dataclass(frozen=True)
class Estimate:
    """Layers in the order they run, the transfers of one image, and programming.

    loading: writing and verifying all tiles once. reloading: what every batch programs again because the weights take
    more than one residency pass; nothing where they stay.
    """

    layers: tuple[Item, ...]
    transfers: Item
    loading: Item
    reloading: Item

    def counters(self, images: int, batches: int = 1) -> Counts:
        """What a board counts for images in batches once everything of the first pass is in place."""
        total = Counter[str]()
        for item in (*self.layers, self.transfers):
            total.update(item.over(images))
        total.update({name: batches * value for name, value in self.reloading.counters.items()})
        return {name: total[name] for name in COUNTERS}

    def joules_per_image(self, batch: int = 1) -> float | None:
        """Of one image, with its share of reprogramming in batches of `batch`; loading is not in it."""
        return _per_image([i.joules for i in (*self.layers, self.transfers)], self.reloading.joules, batch)

    def seconds_per_image(self, batch: int = 1) -> float | None:
        """The same of time: layers, processor and transfers take turns, images follow each other."""
        return _per_image([i.seconds for i in (*self.layers, self.transfers)], self.reloading.seconds, batch)


def _per_image(items: Sequence[float | None], reloading: float | None, batch: int) -> float | None:
    known = [value for value in items if value is not None]
    return None if reloading is None or len(known) < len(items) else sum(known) + reloading / batch


def estimate(program: Program) -> Estimate:
    """The cost of a program on the chip it was compiled for."""
    m, spec = program.manifest, program.spec
    order = [step.layer for step in m.steps if step.op in ("pim", "digital")]
    layers = tuple(_layer(spec, name, m.layers[name]) for name in order)
    moved = {"bytes_in": prod(m.input_shape), "bytes_out": _output_width(m) * len(m.classes)}
    shapes, small = program.shapes, narrow(program)
    for buffer, way in travels(program):
        moved[f"bytes_{way}"] += prod(shapes[buffer]) * (1 if buffer in small else 4)
    tiles = [t for layer in m.layers.values() for t in layer.tiles]
    return Estimate(
        layers,
        _item(spec, "image in, logits out", "transfers", moved, 0.0),
        _item(spec, "all tiles, once", "programming", _written(tiles), 0.0),
        _item(spec, "tiles a batch", "programming", _written(_reloaded(m)), 0.0),
    )


def _layer(spec: ChipSpec, name: str, layer: LayerRecord) -> Item:
    if layer.kind == "digital":
        macs = layer.positions * layer.out_channels * layer.geometry().depth
        return _item(spec, name, "digital", {"digital_macs": macs}, 0.0)
    mac, copies = layer.operating_point(), layer.copies
    each = tuple(_vector([t for t in layer.tiles if t.copy_number == copy], mac.slices) for copy in range(copies))
    seconds = layer.positions * mac.slices * cycle(spec, layer)
    item = _item(spec, name, "pim", shared(each, layer.positions), seconds, mac)
    return item if copies == 1 else replace(item, each=each, vectors=layer.positions)


def _vector(tiles: Sequence[TileRecord], slices: int) -> Counts:
    """What one vector counts on these tiles."""
    return {
        "conversions": slices * sum(t.columns for t in tiles),
        "dac_steps": slices * sum(t.rows for t in tiles),
        "array_cycles": slices * len(tiles),
    }


def shared(each: Sequence[Counts], vectors: int) -> Counts:
    """What so many vectors, the first of a run, count: every copy its share."""
    total = Counter[str]()
    for copy, counts in enumerate(each):
        mine = share(0, vectors, copy, len(each))
        total.update({name: mine * value for name, value in counts.items()})
    return dict(total)


def tile_seconds(spec: ChipSpec, tile: TileRecord) -> float:
    """Seconds for one vector and slice on one tile; 0 on a chip without timing."""
    if spec.timing is None:
        return 0.0
    turns = max(Counter(spec.adcs_of(tile.placement().tile)).values())
    return spec.timing.settle + turns * spec.timing.conversion


def busy(spec: ChipSpec, tiles: Iterable[TileRecord]) -> dict[tuple[int, int], float]:
    """Seconds for one vector and slice on all of the tiles of a pass in a macro, which take turns, by (pass, macro)."""
    found = defaultdict[tuple[int, int], float](float)
    for t in tiles:
        found[t.residency, t.macro] += tile_seconds(spec, t)
    return found


def cycle(spec: ChipSpec, layer: LayerRecord) -> float:
    """Seconds for one vector and slice, of many: macros of a pass side by side, passes in turns; in the time in which each of
    its copies computes one vector, there are as many vectors."""
    found = busy(spec, layer.tiles)
    passes = {residency for residency, _ in found}
    return sum(max(v for (r, _), v in found.items() if r == residency) for residency in passes) / layer.copies


def _item(
    spec: ChipSpec,
    name: str,
    kind: Literal["pim", "digital", "transfers", "programming"],
    counts: Counts,
    array_seconds: float,
    mac: Mac | None = None,
) -> Item:
    """Price counters; array_seconds is what the array takes of the time."""
    counters = {key: counts.get(key, 0) for key in COUNTERS}
    seconds = None
    if (times := spec.timing) is not None:
        seconds = array_seconds + (
            counters["row_writes"] * times.row_write
            + counters["digital_macs"] * times.digital_mac
            + (counters["bytes_in"] + counters["bytes_out"]) * times.io_byte
        )
    return Item(name, kind, counters, seconds, account(spec, counters, mac, seconds))


def _written(tiles: Sequence[TileRecord]) -> Counts:
    """Programming and reading back, a byte a cell each way."""
    cells = sum(t.rows * t.columns for t in tiles)
    return {"cell_writes": cells, "row_writes": sum(t.rows for t in tiles), "bytes_in": cells, "bytes_out": cells}


def _reloaded(m: Manifest) -> list[TileRecord]:
    """The tiles that each batch after the first programs again: in the order in which layers want their passes, those that
    another pass was written over since."""
    wanted = [
        residency
        for step in m.steps
        if isinstance(step, PimStep)
        for residency in sorted({t.residency for t in m.layers[step.layer].tiles})
    ]
    if len(set(wanted)) < 2:
        return []
    of = defaultdict[int, list[TileRecord]](list)
    for layer in m.layers.values():
        for t in layer.tiles:
            of[t.residency].append(t)
    held, written = defaultdict[int, list[TileRecord]](list), list[TileRecord]()
    for batch in range(2):  # the first fills an empty array
        for before, now in zip([None, *wanted], wanted, strict=False):
            if before == now:
                continue
            there = {id(t) for tiles in held.values() for t in tiles}
            new = [t for t in of[now] if id(t) not in there]
            for macro in {t.macro for t in new}:
                over = [t for t in new if t.macro == macro]
                held[macro] = [t for t in held[macro] if not any(overlap(t, other) for other in over)] + over
            if batch:
                written += new
    return written


def overlap(a: TileRecord, b: TileRecord) -> bool:
    """Whether two tiles share cells, were they in one pass."""
    if a.macro != b.macro:
        return False
    rows = a.row < b.row + b.rows and b.row < a.row + a.rows
    return rows and a.column < b.column + b.columns and b.column < a.column + a.columns


def _output_width(m: Manifest) -> int:
    """Bytes a logit: maps within 0..255 are held and sent as bytes, others as 32-bit words."""
    last = [step for step in m.steps if step.dst == m.output][-1]
    narrow = isinstance(last, RequantizeStep | AddStep) and last.low >= 0 and last.high <= 255
    return 1 if narrow else 4
