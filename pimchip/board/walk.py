"""Walks that show a line and a register file sound: bytes that come back, and trim registers that hold what is written."""

from __future__ import annotations

from pimchip.board.api import Board
from pimchip.errors import few

SHOWN = 4


def walk_bytes(board: Board) -> str | None:
    """Send zeros, ones and every byte, in lengths around those at which frames are cut differently.

    Returns what is wrong, None for nothing. Raises DeviceError where the board fails.
    """
    for size in (0, 1, 253, 254, 255, 256):
        for data in (bytes(size), b"\xff" * size, bytes(place & 0xFF for place in range(size))):
            got = board.loopback(data)
            if got != data:
                return f"{size} bytes come back as {len(got)} others"
    return None


def walk_trims(board: Board) -> str | None:
    """Write each register's own number into it, bit by bit, and the complement; then put back what was there.

    Every register then holds another code than most, so one that answers to another's address is found, as is a bit that
    does not take. Returns what is wrong, None for nothing. Raises DeviceError where the board lacks trim or fails.
    """
    spec, before = board.info().spec, board.registers()
    adcs, widths = spec.array.macros * spec.adc.per_macro, spec.trim_widths
    if f"trim{adcs}" not in before:  # one that cannot trim gains, though its chip can
        widths = widths[:adcs]
    masks = [(1 << width) - 1 for width in widths]
    names = [f"trim{adc}" for adc in range(len(widths))]
    missing = [name for name in names if name not in before]
    if missing:
        return f"no register {missing[0]}" + (f" and {len(missing) - 1} others" if len(missing) > 1 else "")
    digits = max(len(names) - 1, 1).bit_length()
    wrong: dict[str, str] = {}
    try:
        # The numbers of the registers, so many bits at a time as a register has, tell any two apart.
        for shift in range(0, digits, max(min(widths), 1)):
            for flip in (0, -1):
                codes = [(number >> shift ^ flip) & mask for number, mask in enumerate(masks)]
                for adc, code in enumerate(codes):
                    board.trim(adc, code)
                held = board.registers()
                for name, code in zip(names, codes, strict=True):
                    if held[name] != code:
                        wrong.setdefault(name, f"{name} holds {held[name]} where {code} was written")
    finally:
        for adc, name in enumerate(names):
            board.trim(adc, before[name])
    after = board.registers()
    if not wrong and any(after[name] != before[name] for name in names):
        return "registers do not take back what they held"
    return few(list(wrong.values()), SHOWN, "; ") or None
