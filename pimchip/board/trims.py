"""Trim registers of a board, of offsets and then of gains: read all of them, and write what is not there yet."""

from __future__ import annotations

from collections.abc import Sequence

from pimchip.board.api import Board
from pimchip.board.restarts import through_restarts


def trim_codes(board: Board) -> tuple[int, ...]:
    """Trim codes in a board's registers, of offsets by converter and then of gains, as far as it has them."""
    registers, codes = board.registers(), list[int]()
    while (name := f"trim{len(codes)}") in registers:
        codes.append(registers[name])
    return tuple(codes)


def set_trim(board: Board, codes: Sequence[int]) -> int:
    """Program trim codes, as of trim_codes, where they are not in the registers; how many. DeviceError where the board cannot."""

    def write() -> int:
        registers, written = board.registers(), 0
        for adc, code in enumerate(codes):
            if registers.get(f"trim{adc}") != code:
                board.trim(adc, code)
                written += 1
            else:  # who wrote it is gone, and a board that restarts meanwhile has lost it
                board.keep_trim(adc, code)
        return written

    return through_restarts(write)
