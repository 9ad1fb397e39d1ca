"""The self-test: what is sent comes back, trim registers keep what is written, every cell takes two values, every bit of
every converter is seen at 0 and at 1, sums come out right.

It overwrites all cells. It judges whether parts work, not how exact they are: that is what characterization is for.

Cells are programmed to a random pattern of the lowest and the highest value and then to its complement, whole macros at a
time, and read back: a stuck cell, whatever it is stuck at, is wrong in at least one of the two, and so, as good as
surely, is one that answers to another's address.

Converters get sums from the bottom of their range to its top, from full cells. A dead one shows one code; a stuck bit is
one that never changes although the codes pass it, or fall as the sums rise (pimchip.chip.stuck, as in characterization).
So a sound converter that is far off, and never shows some codes, is not taken for a broken one. One whose mean code in a
part of the range is off by more than sound parts may be (pimchip.board.margins), or whose reads of one sum by one column
scatter by far more than the spec's noise, is broken in a way that has no name.

Rows are driven one at a time beside the same few others: one that changes the codes less than half as much as most do is
dead, or always driven. The known product is compared with what sound parts give.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from pimchip.board.defects import WrongCells, by_macro
from pimchip.board.margins import Margins
from pimchip.board.walk import walk_bytes, walk_trims
from pimchip.chip import ChipSpec, Mac, Run, Tile
from pimchip.chip.mac import Int8, Int32, Int64
from pimchip.chip.philox import Domain, words
from pimchip.chip.stuck import stuck_bits
from pimchip.errors import InputError, few

if TYPE_CHECKING:
    from pimchip.board.api import Board

SUMS = 256
PARTS = 8
"""Parts of the range in which a converter's mean code is judged."""
FEWEST_READS = 8
"""Of a converter at a sum, and of a row: their mean tells a fall from noise."""
FEWEST_REPEATS = 2
"""Of a column at a sum: they differ by noise alone."""
FEWEST_WORDS = 2
"""Sums within the weight of a bit, so that one that works shows both values whatever the rest of the word does."""
FEW_ROWS = 4
"""Rows that must fit into a range for one to be judged in it."""
SURE = 5
"""Standard errors by which a row must fall short."""
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
    test.results["loopback"] = walk_bytes(board)
    if "trim" in board.info().capabilities:
        test.results["registers"] = walk_trims(board)
    margins = Margins.of(board, spec)
    for macro in range(spec.array.macros):
        _test_cells(board, spec, macro, test)
        wrong = _faults(board, spec, macro, margins)
        test.adcs |= wrong
        test.results[f"macro {macro} converters"] = _say_faults(wrong)
        test.results[f"macro {macro} rows"] = _say_rows(_dead_rows(board, spec, macro, wrong))
        test.results[f"macro {macro} known product"] = _known_product(board, spec, macro, wrong, margins)
    return test


def _test_cells(board: Board, spec: ChipSpec, macro: int, test: SelfTest) -> None:
    tile = Tile(macro, 0, 0, spec.array.rows, spec.array.columns)
    wrong: set[tuple[int, int]] = set()
    text = None
    for pattern in patterns(spec, tile):
        done = board.program_verified(tile, pattern)
        wrong |= set(done.wrong)
        if not done.steady:
            text = "two reads of the same cells differ: the reading fails, not the cells"
    found = by_macro([(tile, sorted(wrong))])
    test.cells += found
    if found and text is None:
        text = f"{found[0].place}: another value than was written"
    test.results[f"macro {macro} read back"] = text


def patterns(spec: ChipSpec, tile: Tile) -> Iterator[Int8]:
    """Cells int8 [rows, columns] of low and high at random, and the same with both exchanged."""
    mac = spec.mac()
    bit = words(np.arange(tile.rows * tile.columns), seed=0, tag=_PATTERN, domain=Domain.PLAN) >> 31
    high = bit.reshape(tile.rows, tile.columns).astype(bool)
    low = -mac.cell_max if mac.signed else 0
    for pattern in (high, ~high):
        yield np.where(pattern, np.int8(mac.cell_max), np.int8(low))


def widest(spec: ChipSpec) -> Mac:
    """The chip's operating point over the full range, with its widest DAC where the sums allow it."""
    try:
        return spec.mac(act_bits=max(spec.operating.act_bits, spec.dac.bits), dac_bits=spec.dac.bits, range_divisor=1)
    except InputError:
        return spec.mac(range_divisor=1)


def _faults(board: Board, spec: ChipSpec, macro: int, margins: Margins) -> dict[int, str]:
    """What is wrong with the macro's converters, by number over all macros."""
    mac = widest(spec)
    tile = Tile(macro, 0, 0, mac.rows, spec.array.columns)
    # One in each of SUMS equal parts of the range, at a random place in it, rising: were they at equal distances, a bit
    # could follow them.
    most = mac.rows * (mac.digit - 1)
    places = words(np.arange(SUMS), seed=0, tag=_SUMS, domain=Domain.PLAN).astype(np.float64) * 2.0**-32
    totals = np.rint((np.arange(SUMS) + places) * (most / SUMS)).astype(np.int64)
    totals[[0, -1]] = 0, most
    repeats = max(FEWEST_REPEATS, -(-FEWEST_READS // spec.columns_per_adc))
    parts: list[Int32] = []
    ideal: list[NDArray[np.float64]] = []
    for sign in (-1, 1) if mac.signed else (1,):
        _fill(board, tile, sign, mac)
        run = Run(first_image=len(parts) * SUMS * repeats)
        codes = board.convert(tile, _drives(totals, mac), repeats, mac=mac, run=run)
        parts.append(codes[:, ::sign] if sign < 0 else codes)
        ideal.append((sign * totals * mac.cell_max / mac.scale)[::sign])
    word = np.concatenate(parts, axis=1).astype(np.int64) - mac.code_min
    owner = np.array(spec.adcs_of(tile))
    adcs = np.unique(owner)
    # [converter, sum, read]: a converter's columns and repeats are reads of it.
    reads = np.stack([word[:, :, owner == adc].transpose(1, 0, 2).reshape(word.shape[1], -1) for adc in adcs])
    stuck = stuck_bits(np.ones(reads.shape), reads, mac)
    if most < SUMS:  # all sums there are, at equal distances: codes may keep to a grid that low bits follow
        stuck[:, (1 << np.arange(mac.adc_bits)) < FEWEST_WORDS * mac.levels / most] = False
    apart = word.var(0, ddof=1).mean(0)  # of each column, over all sums
    scatter = np.sqrt([apart[owner == adc].mean() for adc in adcs])
    most_apart = margins.scatter(mac)
    by_part = [each.reshape(len(ideal) * PARTS, -1).mean(1) for each in (np.concatenate(ideal), *reads.mean(2))]
    found = {}
    for adc, word, bits, means, sigma in zip(adcs.tolist(), reads, stuck, by_part[1:], scatter.tolist(), strict=True):
        fault = _fault(word, bits, mac) or _off(by_part[0], means + mac.code_min, mac, adc, margins)
        if not fault and sigma > most_apart:
            fault = f"repeated reads scatter by {sigma:.1f} codes rms where sound ones do by up to {most_apart:.1f}"
        if fault:
            found[adc] = fault
    return found


def _off(ideal: NDArray[np.float64], means: NDArray[np.float64], mac: Mac, adc: int, margins: Margins) -> str | None:
    """ideal, means: codes of a converter, the mean of each part of the range."""
    for code, got in zip(ideal.tolist(), means.tolist(), strict=True):
        # So many rows are driven on average, over which what single cells lack averages out.
        driven = int(abs(code) * mac.scale / (mac.cell_max * (mac.digit - 1)))
        low, high = margins.around(mac, code, driven, [adc])
        if not low <= got <= high:
            return f"mean code {got:.1f} where sound ones give {low:.1f} to {high:.1f}"
    return None


def _fill(board: Board, tile: Tile, sign: int, mac: Mac) -> None:
    """Make all cells of a tile full, as far as they take it: which do not, the test of the cells has told."""
    board.program_verified(tile, np.full((tile.rows, tile.columns), sign * mac.cell_max, np.int8), mac=mac)


def _drives(totals: Int64, mac: Mac) -> Int64:
    """DAC inputs int64 [len(totals), rows] that add to each total: full rows from the first on, and one with the rest."""
    top = mac.digit - 1
    drives: Int64 = np.clip(totals[:, None] - np.arange(mac.rows) * top, 0, top)
    return drives


def _fault(word: Int64, stuck: NDArray[np.bool_], mac: Mac) -> str | None:
    """word: codes of one converter, counted from the lowest. stuck: which of its bits are."""
    first = int(word.flat[0])
    if np.all(word == first):
        return f"{'stuck' if first else 'dead'}, it gives code {first + mac.code_min} whatever comes"
    if mac.signed:  # the word above the highest has no code of its own, and is clipped to it
        word = word[word < mac.code_max - mac.code_min]
    always = int(np.bitwise_and.reduce(word, axis=None))
    return " and ".join(f"bit {b} is stuck at {always >> b & 1}" for b in np.flatnonzero(stuck).tolist()) or None


def _say_faults(wrong: dict[int, str]) -> str | None:
    shown = [f"ADC {adc}: {fault}" for adc, fault in list(wrong.items())[:SHOWN]]
    more = [f"and {len(wrong) - SHOWN} more"] if len(wrong) > SHOWN else []
    return "; ".join(shown + more) or None


def _dead_rows(board: Board, spec: ChipSpec, macro: int, faulty: dict[int, str]) -> list[int]:
    """Rows of a macro by which the codes change less than half as much as by most rows."""
    # The finest range that holds a few rows.
    divisor = max((d for d in spec.adc.range_divisors if spec.operating.rows // d >= FEW_ROWS), default=0)
    tile = Tile(macro, 0, 0, spec.operating.rows, spec.array.columns)
    works = [adc not in faulty for adc in spec.adcs_of(tile)]
    if not divisor or not any(works):
        return []
    mac = spec.mac(range_divisor=divisor)
    _fill(board, tile, 1, mac)
    # Beside a quarter of the range, where neither an offset nor the row's own part takes a sound converter to an end.
    beside = mac.rows // (FEW_ROWS * mac.range_divisor)
    repeats = -(-FEWEST_READS * len(works) // sum(works))
    change, error = np.zeros(mac.rows), np.zeros(mac.rows)
    for rows in (range(beside, mac.rows), range(beside)):
        # The others are the first ones, or for those the last ones: the same in every run, so that only the row differs.
        base = np.zeros((len(rows) + 1, mac.rows), np.int64)
        base[:, slice(0, beside) if rows.start else slice(mac.rows - beside, mac.rows)] = mac.digit - 1
        base[np.arange(len(rows)), list(rows)] = mac.digit - 1
        run = Run(first_image=rows.start * repeats)
        codes = board.convert(tile, base, repeats, mac=mac, run=run)[..., works].mean(0)
        by_column = codes[:-1] - codes[-1]
        change[list(rows)] = by_column.mean(1)
        error[list(rows)] = by_column.std(1) / np.sqrt(by_column.shape[1])
    # A weak row is no dead one.
    least = np.median(change) / 2 * (1 - spec.cells.weak_row_loss * (spec.cells.weak_rows > 0))
    dead: list[int] = np.flatnonzero(change + SURE * error < least).tolist()
    return dead


def _say_rows(rows: list[int]) -> str | None:
    if not rows:
        return None
    shown = few([str(row) for row in rows], SHOWN)
    return f"row{'s' * (len(rows) > 1)} {shown}: driving {'them' if len(rows) > 1 else 'it'} hardly changes the codes"


def _known_product(board: Board, spec: ChipSpec, macro: int, faulty: dict[int, str], margins: Margins) -> str | None:
    """The mean code of the converters that work, for half of the rows driven fully, within the spec's errors."""
    mac = spec.mac()
    tile = Tile(macro, 0, 0, mac.rows, spec.array.columns)
    adcs = spec.adcs_of(tile)
    works = [adc not in faulty for adc in adcs]
    if not any(works):
        return "no converter works"
    _fill(board, tile, 1, mac)
    driven = tile.rows // (2 * mac.range_divisor)
    half = np.zeros((1, tile.rows), np.int64)
    half[0, :driven] = mac.digit - 1
    got = board.convert(tile, half, mac=mac)[..., works].mean()
    low, high = margins.around(
        mac, float(half.sum() * mac.cell_max / mac.scale), driven, sorted(set(adcs) - faulty.keys())
    )
    return None if low <= got <= high else f"mean code {got:.2f} where sound parts give {low:.2f} to {high:.2f}"
