"""Offset trim: find each converter's register code, program it, and prove it by measuring again."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pimchip.board import Board
from pimchip.characterize.api import measure_point
from pimchip.characterize.measure import check_adcs
from pimchip.chip import Mac
from pimchip.errors import DeviceError

HALF_WIDTH = 0.2
"""LSB; a trim step is coarser than this, so finer measurement would not change the codes."""
SEED_STEP = 0x1000003
PROBE_CODES = 4
"""Codes moved to learn what one of them does."""


@dataclass(frozen=True)
class TrimResult:
    """codes: int64 [adcs] now in the registers. before, after: float64 [adcs], offsets, LSB, NaN where none was found.
    step: LSB a code. untrimmed: converters asked for that have no offset, as dead ones; their registers stay in the
    middle."""

    codes: NDArray[np.int64]
    before: NDArray[np.float64]
    after: NDArray[np.float64]
    step: float
    untrimmed: tuple[int, ...] = ()


def trim_offsets(
    board: Board,
    mac: Mac,
    *,
    adcs: Sequence[int] | None = None,
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> TrimResult:
    """Bring every converter's offset at an operating point to within a trim step of zero, where the register reaches.

    What a code does is measured, not believed. adcs: which converters, None for all. Raises DeviceError
    if the chip has no trim or it does nothing.
    """
    info = board.info()
    bits = info.spec.adc.trim_bits
    if "trim" not in info.capabilities or not bits:
        raise DeviceError(f"board {info.uid} has no offset trim; leave --trim out")
    count, middle = info.spec.array.macros * info.spec.adc.per_macro, 1 << (bits - 1)

    def offsets(codes: NDArray[np.int64], stage: int) -> NDArray[np.float64]:
        for adc in chosen:
            board.trim(adc, int(codes[adc]))
        # Each stage has a seed of its own: the noise that chose the codes must not be the noise that judges them.
        found = measure_point(
            board, mac, half_width=HALF_WIDTH, adcs=chosen, seed=(seed + stage * SEED_STEP) % (1 << 64)
        ).offset
        if progress:
            progress(stage, 3)
        return found

    chosen = check_adcs(info.spec, adcs)
    start = np.full(count, middle, np.int64)
    before = offsets(start, 1)
    if not np.isfinite(before).any():
        raise DeviceError(f"board {info.uid}: no converter has an offset to trim; see what is wrong without --trim")
    probe = min(PROBE_CODES, middle - 1) or -1
    moved = offsets(start + probe, 2) - before
    step = float(np.median(moved[np.isfinite(moved)])) / probe if np.isfinite(moved).any() else 0.0
    if not abs(step) > 1e-3:
        raise DeviceError(
            f"board {info.uid}: {probe} trim codes move the offsets by {step * probe:.4f} LSB; the trim does nothing"
        )
    wanted = np.where(np.isnan(before), 0.0, before) / step
    codes = np.clip(np.rint(middle - wanted), 0, (1 << bits) - 1).astype(np.int64)
    untrimmed = tuple(adc for adc in chosen if np.isnan(before[adc]))
    return TrimResult(codes, before, offsets(codes, 3), step, untrimmed)
