"""The pass `place`: layers' cells on the chip's macros, pass by pass: shelves filled first-fit.

A shelf is a band of wordlines in one macro; a layer's row groups go into shelves of enough rows, its columns wherever
bitlines are free, split as needed. The planes of an output stay on one converter where the geometry allows it, so that
gain and offset of an output are one affine error that BN can take out.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from pimchip.chip import ChipSpec, Geometry, Mac
from pimchip.compiler.ir import Integers
from pimchip.compiler.records import TileRecord
from pimchip.errors import CompileError


def place(graph: Integers, spec: ChipSpec) -> Integers:
    """The same steps, with tiles for every layer in the array. Raises CompileError."""
    mapper, layers = Mapper(spec), dict(graph.layers)
    for op in graph.ops:
        if op.kind == "pim":
            layer = layers[op.layer]
            tiles = mapper.place(op.layer, layer.operating_point(), layer.geometry())
            layers[op.layer] = layer.model_copy(update={"tiles": tiles})
    return replace(graph, layers=layers, passes=mapper.passes)


@dataclass
class _Shelf:
    macro: int
    row: int
    rows: int
    column: int = 0


@dataclass
class Mapper:
    """Places layers in the order they run; what does not fit the pass under way opens a new one."""

    spec: ChipSpec
    passes: int = 0
    _shelves: list[_Shelf] = field(default_factory=list)
    _free_row: list[int] = field(default_factory=list)

    def place(self, name: str, mac: Mac, geometry: Geometry) -> tuple[TileRecord, ...]:
        """Tiles of one layer, over as many passes as it takes."""
        if mac.planes > self.spec.array.columns or mac.rows > self.spec.array.rows:
            raise CompileError(f"layer {name}: {mac.describe()} does not fit a macro of chip {self.spec.name}")
        if not self.passes:
            self._open_pass()
        tiles = []
        columns = geometry.out_channels * mac.planes
        for group in range(mac.groups(geometry.depth)):
            rows = min(mac.rows, geometry.depth - group * mac.rows)
            first = 0
            while first < columns:
                shelf, width = self._find(rows, mac.planes)
                width = min(width, columns - first)
                record = TileRecord(
                    residency=self.passes - 1,
                    macro=shelf.macro,
                    row=shelf.row,
                    column=shelf.column,
                    rows=rows,
                    columns=width,
                    group=group,
                    first_column=first,
                )
                tiles.append(record)
                shelf.column += width
                first += width
        return tuple(tiles)

    def _open_pass(self) -> None:
        self.passes += 1
        self._shelves = []
        self._free_row = [0] * self.spec.array.macros

    def _find(self, rows: int, planes: int) -> tuple[_Shelf, int]:
        """A shelf with room, its cursor aligned, and how many columns fit there."""
        for shelf in self._shelves:
            if shelf.rows >= rows and (width := self._room(shelf, planes)):
                return shelf, width
        for macro, row in enumerate(self._free_row):
            if row + rows <= self.spec.array.rows:
                self._free_row[macro] += rows
                self._shelves.append(_Shelf(macro, row, rows))
                return self._find(rows, planes)
        self._open_pass()
        return self._find(rows, planes)

    def _room(self, shelf: _Shelf, planes: int) -> int:
        """Columns that one tile can take here, after moving the cursor to where an output may begin."""
        share, total = self.spec.columns_per_adc, self.spec.array.columns
        if self.spec.adc.interleave or planes > share or share % planes == 0:
            shelf.column = -(-shelf.column // planes) * planes
            return max(0, (total - shelf.column) // planes * planes)
        if shelf.column % share > share - planes:  # the converter's last columns hold no whole output
            shelf.column = (shelf.column // share + 1) * share
        left = share - shelf.column % share
        return 0 if shelf.column >= total else left // planes * planes
