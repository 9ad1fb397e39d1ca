"""Board: the one door to a chip, real or emulated. Everything above speaks only to this.

Buffers are numbered places for feature maps in the board's memory, int32 [n, channels, height, width]. Codes and maps
are exact integers, so two boards that agree on a die's tables agree on every bit.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING, Literal, Self, get_args

import numpy as np
from numpy.typing import NDArray

from pimchip.board.groups import Filled
from pimchip.board.tiles import PULSES, Programmed, TileCells, VerifyReport, row_checksums
from pimchip.chip import ChipSpec, Geometry, Mac, PimLayer, Requant, Run, Tile
from pimchip.chip.effects import Effect
from pimchip.chip.mac import Int8, Int32, Int64
from pimchip.errors import DeviceError, InputError

if TYPE_CHECKING:
    from pimchip.board.selftest import SelfTest

Capability = Literal["conv", "digital", "requantize", "add", "pool", "stats", "trim", "correct", "copies"]
CAPABILITIES: frozenset[Capability] = frozenset(get_args(Capability))
"""What a board may lack. correct: conv with layers that have a correction of their codes. copies: conv with layers that
are in the array several times."""


@dataclass(frozen=True)
class BoardInfo:
    """What a board says of itself."""

    uid: str
    """Unique name of the die."""
    spec: ChipSpec
    firmware: str
    capabilities: frozenset[Capability]
    feature_memory: int
    """Bytes for feature maps."""
    url: str = ""
    effects: tuple[Effect, ...] = ()
    """Of an emulated die: the physical effects it can have, on or off. Empty for silicon, which has them all."""
    profile: str = ""
    """Of an emulated die that behaves as a measured one: the folder of its profile."""


@dataclass(frozen=True)
class Stats:
    """Exact per-channel sums over a map's images and positions. total, squares: int64 [channels]."""

    count: int
    total: Int64
    squares: Int64


class Board(ABC):
    """A typed driver. A context manager; methods raise DeviceError when the board fails, InputError for wrong calls."""

    def __init__(self) -> None:
        self._programmed: dict[Tile, Int8] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @abstractmethod
    def close(self) -> None:
        """Leave the board in a safe state and let go of it. Calling it twice is no error."""

    @abstractmethod
    def info(self) -> BoardInfo:
        """Who and what the board is."""

    @abstractmethod
    def registers(self) -> Mapping[str, int]:
        """Named registers and their values."""

    @abstractmethod
    def temperature(self) -> float:
        """Of the die, degrees Celsius."""

    def supply(self) -> float | None:
        """The analog supply, volts; None where the board cannot tell."""
        return None

    def link_statistics(self) -> Mapping[str, int | float | None] | None:
        """What the line to the board went through since it was opened, times in ms; None for a board in this process."""
        return None

    def age(self) -> float | None:
        """Hours since the cells were programmed; None where the board cannot tell."""
        return None

    def loopback(self, data: bytes) -> bytes:
        """What comes back of up to 256 bytes that are sent to the board; the same, for a board in this process."""
        return data

    @abstractmethod
    def counters(self) -> Mapping[str, int]:
        """Counts since the board was opened: conversions, dac_steps, array_cycles, cell_writes, row_writes, digital_macs,
        bytes_in, bytes_out; a board that does not count one leaves it out."""

    def program(self, tile: Tile, cells: Int8, *, mac: Mac | None = None) -> None:
        """Write cells, int8 [tile.rows, tile.columns]. What overlaps the tile is no longer there.

        mac: the operating point that they are for, else the chip's default: its cell_max is a full cell, on which scale
        they are also read back.
        """
        self._program([TileCells(tile, cells, mac)], lambda tiles: None)

    def verify(self, tile: Tile) -> VerifyReport:
        """Read the cells themselves back and compare each row with what was programmed."""
        wanted = self._programmed.get(tile)
        if wanted is None:
            raise InputError(f"tile {tile} is not programmed; program it before verifying")
        return VerifyReport(tile, self._wrong_rows(tile, wanted))

    def program_verified(self, tile: Tile, cells: Int8, *, mac: Mac | None = None) -> Programmed:
        """Program a tile (see program), read it back, and program it again while cells read back wrong, up to PULSES times.

        What reads back wrong is read twice: another pulse can mend cells, not reads that disagree.
        """
        self.program(tile, cells, mac=mac)
        return self._verified(TileCells(tile, cells, mac))

    def program_tiles(
        self, content: Sequence[TileCells], progress: Callable[[int], None] = lambda tiles: None
    ) -> list[Programmed]:
        """Program tiles that do not overlap, and read them back (see program_verified). What came of each, in order.

        All of them are programmed before the first is read, so that a line to the board carries cells all the time. What
        reads back wrong is looked at and programmed again by itself. progress: of how many tiles are done.
        """
        self._program(content, lambda tiles: progress(tiles // 2))
        looked = list[VerifyReport | None]()
        for report in self._look(content):
            looked.append(report)
            progress((len(content) + len(looked)) // 2)
        return [self._judged(part, report) for part, report in zip(content, looked, strict=True)]

    def _judged(self, content: TileCells, report: VerifyReport | None) -> Programmed:
        """Of a tile that was programmed and read back once; see _look."""
        if report is not None and report.ok:
            return Programmed(report)
        again = self.verify(content.tile)
        if again.ok or report not in (None, again):
            return Programmed(report or again, steady=False)
        return self._verified(content, again)

    def _program(self, content: Sequence[TileCells], progress: Callable[[int], None]) -> None:
        """One pulse a cell for all of it; see program."""
        tiles = [part.tile for part in content]
        for part in content:
            self._check_tile(part.tile)
            part.check()
        for number, tile in enumerate(tiles):
            if any(_overlap(tile, other) for other in tiles[:number] if other.macro == tile.macro):
                raise InputError(
                    f"tile {tile} overlaps another one that is programmed with it; program them one by one"
                )
        self._programmed = {t: c for t, c in self._programmed.items() if not any(_overlap(t, tile) for tile in tiles)}
        default = self.info().spec.mac()
        filled = [Filled(part.tile, np.asarray(part.cells), (part.mac or default).cell_max) for part in content]
        self._write_tiles(filled, progress)
        self._programmed |= {part.tile: np.array(part.cells) for part in content}

    def _verified(self, content: TileCells, report: VerifyReport | None = None) -> Programmed:
        """Of a tile that was programmed once: read back, and programmed again where need be. report: of its cells, where they
        were read twice already and were wrong."""
        tile, cells, mac = content.tile, content.cells, content.mac
        for pulse in range(1, PULSES + 1):
            if pulse > 1:
                self.program(tile, cells, mac=mac)
                report = None
            if report is None:
                report = self.verify(tile)
                if report.ok:
                    break
                if self.verify(tile) != report:
                    return Programmed(report, pulse, steady=False)
        assert report is not None
        if report.ok:
            return Programmed(report, pulse)
        rows, columns = np.nonzero(self._read_cells(tile) != cells)
        if tuple(np.unique(rows).tolist()) != report.rows:  # a third read sees something else than the two before
            return Programmed(report, pulse, steady=False)
        return Programmed(report, pulse, wrong=tuple(zip(rows.tolist(), columns.tolist(), strict=True)))

    def holds(self, tile: Tile) -> bool:
        """True while what was last programmed at exactly this tile is still there."""
        return tile in self._programmed

    def mark(self, tile: Tile) -> object | None:
        """Stands for what was last programmed at exactly this tile while it is still there, another one each time."""
        return self._programmed.get(tile)

    def boot(self) -> str | None:
        """Names the time since the board last started, over which cells and trims stay; None where it cannot tell."""
        return None

    def recognize(self, content: Sequence[TileCells], progress: Callable[[int], None] = lambda tiles: None) -> bool:
        """Read back tiles that an earlier host programmed, without programming; True where all hold what they are to hold.

        They then count as programmed here. That nobody programmed them otherwise since, at another full scale for one, is
        for the caller to know (see boot, and the register `state`). progress: of how many tiles are done.
        """
        known, right = self._programmed, False
        for part in content:
            self._check_tile(part.tile)
            part.check()
        self._programmed = known | {part.tile: np.array(part.cells) for part in content}
        try:
            for done, report in enumerate(self._look(content), start=1):
                if report is None or not report.ok:
                    return False
                progress(done)
            right = True
        finally:
            if not right:
                self._programmed = known
        return True

    def _write_tiles(self, content: Sequence[Filled], progress: Callable[[int], None]) -> None:
        """Tiles that do not overlap. progress: of how many are done."""
        for number, (tile, cells, full) in enumerate(content):
            self._write_cells(tile, cells, full)
            progress(number + 1)

    def _look(self, content: Sequence[TileCells]) -> Iterator[VerifyReport | None]:
        """Read programmed tiles back; None for one that is wrong, where it is not known which rows are."""
        return (self.verify(part.tile) for part in content)

    @abstractmethod
    def _write_cells(self, tile: Tile, cells: Int8, full: int) -> None: ...

    @abstractmethod
    def _read_cells(self, tile: Tile) -> Int8: ...

    def _row_checksums(self, tile: Tile) -> tuple[int, ...]:
        """Of the cells themselves, read back now."""
        return row_checksums(self._read_cells(tile))

    def _wrong_rows(self, tile: Tile, wanted: Int8) -> tuple[int, ...]:
        """Rows of the cells themselves, read back now, that are not as wanted."""
        return tuple(np.flatnonzero((self._read_cells(tile) != wanted).any(axis=1)).tolist())

    @abstractmethod
    def convert(
        self, tile: Tile, x: NDArray[np.integer], repeats: int = 1, *, mac: Mac | None = None, run: Run | None = None
    ) -> Int32:
        """Codes of one conversion of every column of a tile.

        x: int [M, tile.rows] in 0..2^dac_bits - 1, one DAC slice; mac: the operating point, else the chip's default.
        run.first_image is the noise index of the first vector; vector r * M + m is repeat r of x[m].
        Returns int32 [repeats, M, tile.columns].
        """

    def convert_input(
        self, adcs: Sequence[int], repeats: int = 1, *, mac: Mac | None = None, run: Run | None = None
    ) -> Int32:
        """Codes of converters at their test input, whatever drives that now: int32 [repeats, len(adcs)].

        adcs: counted over all macros. DeviceError where the board has no test input, as most have not.
        """
        raise DeviceError(f"board {self.info().url or self.info().uid} has no test input of its converters")

    def keep_trim(self, adc: int, code: int) -> None:  # noqa: B027 - most boards do not restart
        """The converter's register holds this code already, and is to hold it after a restart too. Nothing is written."""

    @abstractmethod
    def trim(self, adc: int, code: int) -> None:
        """Set a converter's offset trim register (adc counted over all macros); of a chip with gain trim, numbers from that of
        the converters on are the registers of their gains (see ChipSpec.trim_widths)."""

    @abstractmethod
    def upload(self, buffer: int, data: NDArray[np.integer]) -> None:
        """Fill a buffer; data: integers [n, c, h, w] within int32."""

    @abstractmethod
    def download(self, buffer: int) -> Int32:
        """A buffer's content."""

    @abstractmethod
    def free(self, buffer: int) -> None:
        """Give a buffer's memory back."""

    @abstractmethod
    def conv(
        self,
        layer: PimLayer,
        src: int,
        dst: int,
        *,
        requant: Requant | None = None,
        accumulate: bool = False,
        run: Run | None = None,
    ) -> None:
        """Run a layer's resident placements on a buffer: slices, conversions, shift-and-add, requantization.

        Outputs of the layer that `placements` do not cover stay zero, and groups that they do not cover add nothing. A layer
        with a correction wants the capability "correct", see pimchip.chip.correction for what is computed; one with copies
        "copies", see pimchip.chip.copies for which vector each takes.

        Without requant the raw recombined codes go to dst; with accumulate they are added to what is there.
        """

    @abstractmethod
    def digital(self, weights: Int8, geometry: Geometry, src: int, dst: int, *, requant: Requant | None = None) -> None:
        """Integer convolution on the board's processor; weights: int8 [out, in, kh, kw]."""

    @abstractmethod
    def requantize(self, src: int, dst: int, requant: Requant) -> None:
        """Rescale a buffer of accumulators per channel."""

    @abstractmethod
    def add(self, a: int, b: int, dst: int, factors: tuple[int, int], shift: int, low: int, high: int) -> None:
        """dst = clip((a * factors[0] + b * factors[1] + half) >> shift, low, high)."""

    @abstractmethod
    def pool(
        self,
        src: int,
        dst: int,
        kind: Literal["max", "sum"],
        kernel: tuple[int, int],
        stride: tuple[int, int],
        padding: tuple[int, int],
    ) -> None:
        """Maximum or sum over windows."""

    @abstractmethod
    def stats(self, buffer: int) -> Stats:
        """Exact per-channel sums of a buffer, for BN calibration."""

    def selftest(self) -> SelfTest:
        """Write and read back every cell, look for broken converters and dead rows, and check one known product a macro
        within the spec's errors under the board's conditions; see pimchip.board.selftest. Overwrites all cells."""
        from pimchip.board.selftest import run

        return run(self)

    def _check_tile(self, tile: Tile) -> None:
        array = self.info().spec.array
        fits = (
            0 <= tile.macro < array.macros
            and tile.row >= 0
            and tile.column >= 0
            and tile.rows >= 1
            and tile.columns >= 1
            and tile.row + tile.rows <= array.rows
            and tile.column + tile.columns <= array.columns
        )
        if not fits:
            raise InputError(
                f"tile {tile} is outside the chip's {array.macros} macros of {array.rows} x {array.columns}"
            )


def _overlap(a: Tile, b: Tile) -> bool:
    return (
        a.macro == b.macro
        and a.row < b.row + b.rows
        and b.row < a.row + a.rows
        and a.column < b.column + b.columns
        and b.column < a.column + a.columns
    )


class ClosedError(DeviceError):
    """The board was closed, or its link is gone."""
