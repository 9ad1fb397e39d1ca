"""The self-test: every cell takes two values, every bit of every converter is seen at 0 and at 1, sums come out right.

It overwrites all cells. It judges whether parts work, not how exact they are: that is what characterization is for.

Cells are programmed to a random pattern of the lowest and the highest value and then to its complement, whole macros at a
time, and read back: a stuck cell, whatever it is stuck at, is wrong in at least one of the two, and so, as good as
surely, is one that answers to another's address.

Converters get random sums over their whole range, from full cells. A healthy converter, however far off its gain and
offset, then shows every bit of its codes at both values; a dead one shows one code, one with a stuck bit never shows
the other value. A bit that ideal codes of these sums hardly move is not judged.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from pimchip.board.defects import WrongCells, by_macro
from pimchip.chip import ChipSpec, Mac, Run, Tile
from pimchip.chip.mac import Int8, Int32, Int64
from pimchip.chip.philox import Domain, words
from pimchip.errors import InputError

if TYPE_CHECKING:
    from pimchip.board.api import Board

SUMS = 256
FEWEST = 8
"""Ideal codes that must have a bit at each value for it to be judged."""
SHOWN = 8
_PATTERN, _SUMS = 2, 3
"""Streams of random numbers; 0 and 1 are those of characterization."""


@dataclass
class SelfTest:
    """Results by name; a text is what went wrong, None is a pass.

    cells: those that do not take what is written, by macro. adcs: what is wrong with a converter, by its number over all
    macros.
    """

    results: dict[str, str | None] = field(default_factory=dict)
    cells: tuple[WrongCells, ...] = ()
    adcs: dict[int, str] = field(default_factory=dict)

    @property
    def ok(self) -> bool:
        """True when nothing went wrong."""
        return not any(self.results.values())


def run(board: Board) -> SelfTest:
    """Test every macro of a board. Raises DeviceError when the board fails."""
    spec, test = board.info().spec, SelfTest()
    for macro in range(spec.array.macros):
        _test_cells(board, spec, macro, test)
        wrong = _faults(board, spec, macro)
        test.adcs |= wrong
        test.results[f"macro {macro} converters"] = _say_faults(wrong)
        test.results[f"macro {macro} known product"] = _known_product(board, spec, macro, wrong)
    return test


def _test_cells(board: Board, spec: ChipSpec, macro: int, test: SelfTest) -> None:
    tile = Tile(macro, 0, 0, spec.array.rows, spec.array.columns)
    wrong: set[tuple[int, int]] = set()
    text = None
    for pattern in _patterns(spec, tile):
        done = board.program_verified(tile, pattern)
        wrong |= set(done.wrong)
        if not done.steady:
            text = "two reads of the same cells differ: the reading fails, not the cells"
    found = by_macro([(tile, sorted(wrong))])
    test.cells += found
    if found and text is None:
        text = f"{found[0].place}: another value than was written"
    test.results[f"macro {macro} read back"] = text


def _patterns(spec: ChipSpec, tile: Tile) -> Iterator[Int8]:
    """Cells int8 [rows, columns] of low and high at random, and the same with both exchanged."""
    mac = spec.mac()
    bit = words(np.arange(tile.rows * tile.columns), seed=0, tag=_PATTERN, domain=Domain.PLAN) >> 31
    high = bit.reshape(tile.rows, tile.columns).astype(bool)
    low = -mac.cell_max if mac.signed else 0
    for pattern in (high, ~high):
        yield np.where(pattern, np.int8(mac.cell_max), np.int8(low))


def _widest(spec: ChipSpec) -> Mac:
    """The chip's operating point over the full range, with its widest DAC where the sums allow it."""
    try:
        return spec.mac(act_bits=max(spec.operating.act_bits, spec.dac.bits), dac_bits=spec.dac.bits, range_divisor=1)
    except InputError:
        return spec.mac(range_divisor=1)


def _faults(board: Board, spec: ChipSpec, macro: int) -> dict[int, str]:
    """What is wrong with the macro's converters, by number over all macros."""
    mac = _widest(spec)
    tile = Tile(macro, 0, 0, mac.rows, spec.array.columns)
    most = mac.rows * (mac.digit - 1)
    drawn = words(np.arange(SUMS), seed=0, tag=_SUMS, domain=Domain.PLAN).astype(np.int64) * (most + 1) >> 32
    drawn[:2] = 0, most
    codes: list[Int32] = []
    ideal: list[Int64] = []
    for sign in (-1, 1) if mac.signed else (1,):
        board.program(tile, np.full((tile.rows, tile.columns), sign * mac.cell_max, np.int8))
        codes.append(board.convert(tile, _drives(drawn, mac), mac=mac, run=Run(first_image=len(codes) * SUMS))[0])
        ideal.append(np.rint(drawn * (sign * mac.cell_max * mac.levels / mac.sum_max)).astype(np.int64))
    word = np.concatenate(codes).astype(np.int64) - mac.code_min
    wanted = np.concatenate(ideal) - mac.code_min
    judged = [b for b in range(mac.adc_bits) if FEWEST <= int((wanted >> b & 1).sum()) <= len(wanted) - FEWEST]
    owner = np.array(spec.adcs_of(tile))
    found = {int(adc): _fault(word[:, owner == adc], judged, mac) for adc in np.unique(owner)}
    return {adc: fault for adc, fault in found.items() if fault}


def _drives(totals: Int64, mac: Mac) -> Int64:
    """DAC inputs int64 [len(totals), rows] that add to each total: full rows from the first on, and one with the rest."""
    top = mac.digit - 1
    drives: Int64 = np.clip(totals[:, None] - np.arange(mac.rows) * top, 0, top)
    return drives


def _fault(word: NDArray[np.int64], judged: Sequence[int], mac: Mac) -> str | None:
    """word: codes of one converter, counted from the lowest, of all sums and columns."""
    first = int(word.flat[0])
    if np.all(word == first):
        return f"{'stuck' if first else 'dead'}, it gives code {first + mac.code_min} whatever comes"
    if mac.signed:  # the word above the highest has no code of its own, and is clipped to it
        word = word[word < mac.code_max - mac.code_min]
    always = np.bitwise_and.reduce(word, axis=None)
    ever = np.bitwise_or.reduce(word, axis=None)
    stuck = [f"bit {b} is stuck at {int(always >> b & 1)}" for b in judged if always >> b & 1 or not ever >> b & 1]
    return " and ".join(stuck) or None


def _say_faults(wrong: dict[int, str]) -> str | None:
    shown = [f"ADC {adc}: {fault}" for adc, fault in list(wrong.items())[:SHOWN]]
    more = [f"and {len(wrong) - SHOWN} more"] if len(wrong) > SHOWN else []
    return "; ".join(shown + more) or None


def _known_product(board: Board, spec: ChipSpec, macro: int, faulty: dict[int, str]) -> str | None:
    """The mean code of the converters that work, for half of the rows driven fully, within the spec's errors."""
    mac = spec.mac()
    tile = Tile(macro, 0, 0, mac.rows, spec.array.columns)
    works = [adc not in faulty for adc in spec.adcs_of(tile)]
    if not any(works):
        return "no converter works"
    board.program(tile, np.full((tile.rows, tile.columns), mac.cell_max, np.int8))
    half = np.zeros((1, tile.rows), np.int64)
    half[0, : tile.rows // (2 * mac.range_divisor)] = mac.digit - 1
    got = board.convert(tile, half, mac=mac)[..., works].mean()
    wanted = half.sum() * mac.cell_max / mac.scale
    adc = spec.adc
    margin = 2 + 4 * (adc.inl_master + adc.offset_array_sigma * mac.range_divisor + adc.offset_sigma)
    return f"mean code {got:.2f}, expected {wanted:.2f}" if abs(got - wanted) > margin else None
