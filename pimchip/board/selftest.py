"""The self-test: every cell takes two values, every bit of every converter is seen at 0 and at 1, sums come out right.

It overwrites all cells. It judges whether parts work, not how exact they are: that is what characterization is for.

Cells are programmed to a random pattern of the lowest and the highest value and then to its complement, whole macros at a
time, and read back: a stuck cell, whatever it is stuck at, is wrong in at least one of the two, and so, as good as
surely, is one that answers to another's address.

Converters get sums from the bottom of their range to its top, from full cells. A dead one shows one code; a stuck bit is
one that never changes although the codes pass it, or fall as the sums rise (pimchip.chip.stuck, as in characterization).
So a sound converter that is far off, and never shows some codes, is not taken for a broken one.

The known product is compared with what sound parts give at the board's temperature, supply and age, as the spec has them.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from pimchip.board.defects import WrongCells, by_macro
from pimchip.chip import ChipSpec, Mac, Run, Tile
from pimchip.chip.mac import Int8, Int32, Int64
from pimchip.chip.parts import REFERENCE_KELVIN, REFERENCE_TEMPERATURE
from pimchip.chip.philox import Domain, words
from pimchip.chip.stuck import stuck_bits
from pimchip.errors import InputError

if TYPE_CHECKING:
    from pimchip.board.api import Board

SUMS = 256
FEWEST_READS = 8
"""Of a converter at a sum: their mean tells a fall from noise."""
SHOWN = 8
SIGMAS = 5
"""Standard deviations of what is drawn that a sound part may be off."""
SHARED = 4
"""Peaks of the shared curve that it may be off: also beyond the ends of its range, for dies unlike the spec."""
ROUNDING = 2
"""LSB: of codes, and for what no spec holds."""
CLIPPED = 0.1
"""Share of a normal deviate's sigma, of up to 1, by which holding 1 + it to 0 from below raises its mean, and some more."""
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
    # One in each of SUMS equal parts of the range, at a random place in it, rising: were they at equal distances, a bit
    # could follow them.
    most = mac.rows * (mac.digit - 1)
    places = words(np.arange(SUMS), seed=0, tag=_SUMS, domain=Domain.PLAN).astype(np.float64) * 2.0**-32
    totals = np.rint((np.arange(SUMS) + places) * (most / SUMS)).astype(np.int64)
    totals[[0, -1]] = 0, most
    repeats = -(-FEWEST_READS // spec.columns_per_adc)
    parts: list[Int32] = []
    for sign in (-1, 1) if mac.signed else (1,):
        _fill(board, tile, sign, mac)
        run = Run(first_image=len(parts) * SUMS * repeats)
        codes = board.convert(tile, _drives(totals, mac), repeats, mac=mac, run=run)
        parts.append(codes[:, ::sign] if sign < 0 else codes)
    word = np.concatenate(parts, axis=1).astype(np.int64) - mac.code_min
    owner = np.array(spec.adcs_of(tile))
    # [converter, sum, read]: a converter's columns and repeats are reads of it.
    reads = np.stack(
        [word[:, :, owner == adc].transpose(1, 0, 2).reshape(word.shape[1], -1) for adc in np.unique(owner)]
    )
    stuck = stuck_bits(np.ones(reads.shape), reads, mac)
    found = {int(adc): _fault(word, bits, mac) for adc, word, bits in zip(np.unique(owner), reads, stuck, strict=True)}
    return {adc: fault for adc, fault in found.items() if fault}


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


def _known_product(board: Board, spec: ChipSpec, macro: int, faulty: dict[int, str]) -> str | None:
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
    wanted = float(half.sum() * mac.cell_max / mac.scale)
    margin, lost = _expected(board, spec, mac, wanted, driven, sorted(set(adcs) - faulty.keys()))
    if wanted * (1 - lost) - margin <= got <= wanted + margin:
        return None
    least = f"{wanted * (1 - lost):.2f} to " if lost else ""
    return f"mean code {got:.2f}, expected {least}{wanted:.2f}, give or take {margin:.2f}"


def _expected(
    board: Board, spec: ChipSpec, mac: Mac, code: float, driven: int, adcs: Sequence[int]
) -> tuple[float, float]:
    """By what a mean over sound converters `adcs` may miss `code`, LSB, and the share of it that cells may have lost.

    At the board's temperature, supply and age, taken for nominal and fresh where it cannot tell them.
    """
    adc, noise, cells = spec.adc, spec.noise, spec.cells
    supply, hours = board.supply(), board.age() or 0.0
    warming = abs(board.temperature() - REFERENCE_TEMPERATURE)
    surplus = 0.0 if supply is None else abs(supply - spec.supply.volts)
    heat = max(1.0, 1 + (board.temperature() - REFERENCE_TEMPERATURE) / REFERENCE_KELVIN)
    gain = math.hypot(adc.gain_sigma, adc.gain_drift_sigma * warming, spec.supply.gain_sigma * surplus)
    scatter = math.hypot(cells.mismatch_sigma, cells.program_sigma) / math.sqrt(max(driven, 1))
    one = math.hypot(
        code * gain,
        code * scatter,
        adc.offset_array_sigma * mac.range_divisor,
        adc.offset_sigma,
        adc.offset_drift_sigma * warming,
        spec.supply.offset_sigma * surplus,
        adc.inl_residual,
        adc.sar_sigma * math.sqrt(mac.levels),
        noise.array_sigma * mac.range_divisor * math.sqrt(heat) * (1 + max(noise.code_slope, 0.0)),
        noise.adc_sigma * (1 + max(noise.code_slope, 0.0)),
        noise.flicker_sigma,
    )
    registers, middle = board.registers(), (1 << adc.trim_bits) >> 1
    trimmed = [abs(registers.get(f"trim{j}", middle) - middle) * adc.trim_step for j in adcs]
    # What is drawn for each converter averages out over them; what they share does not.
    margin = ROUNDING + SIGMAS * one / math.sqrt(len(adcs)) + SHARED * adc.inl_master + float(np.mean(trimmed))
    # A cell's factor is held to 0 from below, by which wide scatter adds up to this to the mean.
    margin += code * CLIPPED * math.hypot(cells.mismatch_sigma, cells.program_sigma)
    weak = min(cells.weak_rows + SIGMAS * math.sqrt(cells.weak_rows / max(driven, 1)), 1.0)
    kept = 1 - min(cells.retention_loss * math.log10(1 + hours) * (1 + CLIPPED * cells.retention_spread), 1.0)
    kept *= (1 - cells.ir_drop) * (1 - cells.ir_drop_load * code / mac.levels) * (1 - weak * cells.weak_row_loss)
    kept *= 1 - min(cells.stuck_zero + cells.stuck_full * mac.signed, 1.0)
    return margin, 1 - kept
