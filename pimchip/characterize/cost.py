"""What measuring costs: array cycles, conversions, bytes on the wire and the time they take."""

from __future__ import annotations

from dataclasses import dataclass

from pimchip.characterize.adaptive import SWEEPS
from pimchip.chip import ChipSpec, Mac
from pimchip.profile import PointResult

BAUD = 3_000_000
_BITS_A_BYTE = 10
"""On a serial line: start, eight data bits, stop."""
_FRAME = 4096
_OVERHEAD = 40
"""Bytes around a full frame and of what asks for it: header, checksum, COBS."""
_CALL = 250
"""Bytes of a CONVERT and of opening a transfer."""
_CALL_CODES = 65536
"""Bytes of codes a board gives at once, unless it says otherwise."""
_TIMES_PROGRAMMED = 1.2
"""Cells go down once, and checksums of rows come back."""


@dataclass(frozen=True)
class Cost:
    """array_cycles: of all macros. reads: conversions of converters that are measured. bytes: both ways. seconds: on a
    serial line of `baud`, without the chip's own time."""

    array_cycles: int
    reads: int
    bytes: int
    seconds: float
    baud: int = BAUD

    def __add__(self, other: Cost) -> Cost:
        return Cost(
            self.array_cycles + other.array_cycles,
            self.reads + other.reads,
            self.bytes + other.bytes,
            self.seconds + other.seconds,
            self.baud,
        )


def cost(
    spec: ChipSpec, mac: Mac, *, array_cycles: int, levels: int, macros: int, adcs: int, sweeps: int = SWEEPS + 1
) -> Cost:
    """Of reading so many cycles over so many levels, each sent once a sweep. adcs: measured. Whole macros are converted."""
    width = 1 if mac.adc_bits <= 8 else 2
    columns = min(spec.array.columns, -(-adcs // macros) * spec.columns_per_adc)
    codes = array_cycles * columns * width
    # A sweep sends the levels that it reads, and reads each at least once.
    inputs = min(macros * levels * sweeps, array_cycles) * mac.rows
    cells = int(macros * mac.rows * columns * _TIMES_PROGRAMMED) * (2 if mac.signed else 1)
    payload = codes + inputs + cells
    total = int(payload * (1 + _OVERHEAD / _FRAME)) + _CALL * (macros * sweeps + codes // _CALL_CODES)
    return Cost(
        array_cycles, array_cycles * spec.columns_per_adc * -(-adcs // macros), total, total * _BITS_A_BYTE / BAUD
    )


def spent(spec: ChipSpec, point: PointResult) -> Cost:
    """Of a point that was measured; first looks that were thrown away not counted."""
    measured = [adc for adc, left_out in enumerate(point.flagged("not-measured")) if not left_out]
    macros = len({adc // spec.adc.per_macro for adc in measured})
    even = point.array_cycles == point.cycles * point.levels * macros
    cycles = point.array_cycles or point.cycles * point.levels * macros
    return cost(
        spec, point.mac, array_cycles=cycles, levels=point.levels, macros=max(macros, 1), adcs=max(len(measured), 1),
        sweeps=1 if even else SWEEPS + 1,
    )  # fmt: skip
