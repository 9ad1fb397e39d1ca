"""Trim of offsets, and of gains where the chip has registers for them: find each converter's codes, program them, and prove
them by measuring again."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pimchip.board import Board
from pimchip.characterize.api import measure_point
from pimchip.characterize.measure import check_adcs
from pimchip.chip import Mac
from pimchip.errors import DeviceError, InputError

HALF_WIDTH = 0.2
"""LSB; a trim step is coarser than this, so finer measurement would not change the codes."""
SEED_STEP = 0x1000003
PROBE_CODES = 4
"""Codes moved to learn what one of them does."""
_STAGES = 4
_TAKEN = 0.75
"""Steps from the aim beyond which a code is moved once more: half of one is rounding."""

Float = NDArray[np.float64]
Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class TrimResult:
    """codes: int64 [adcs] now in the registers. before, after: float64 [adcs], what is trimmed, NaN where none was found:
    offsets, LSB, or gains. step: of it a code. untrimmed: converters asked for that have none, as dead ones; their registers
    stay in the middle. short: those whose register ends before they are where they should be."""

    codes: NDArray[np.int64]
    before: Float
    after: Float
    step: float
    untrimmed: tuple[int, ...] = ()
    short: tuple[int, ...] = ()


@dataclass(frozen=True)
class _Kind:
    """Registers of one kind. first: the number of the first one. aim: what every converter is to have. smallest: a measured
    step below it is none, a tenth of what the chip's description says."""

    name: str
    bits: int
    first: int
    aim: float
    smallest: float

    @property
    def middle(self) -> int:
        return 1 << (self.bits - 1)

    @property
    def probe(self) -> int:
        return min(PROBE_CODES, self.middle - 1) or -1

    def moved(self, codes: NDArray[np.int64], found: Float, step: float, least: float) -> NDArray[np.int64]:
        """Codes that bring what was found to the aim, as far as the registers reach; those less than `least` steps off stay."""
        apart = np.where(np.isnan(found), 0.0, (found - self.aim) / step)
        wanted = codes - np.rint(np.where(np.abs(apart) > least, apart, 0.0)).astype(np.int64)
        return np.clip(wanted, 0, (1 << self.bits) - 1)

    def short(self, codes: NDArray[np.int64], found: Float, step: float) -> tuple[int, ...]:
        """Converters that are off their aim at their register's end."""
        at_end = (codes == 0) | (codes == (1 << self.bits) - 1)
        with np.errstate(invalid="ignore"):
            return tuple(np.flatnonzero(at_end & (np.abs(found - self.aim) > abs(step))).tolist())


def trim_converters(
    board: Board,
    mac: Mac,
    *,
    adcs: Sequence[int] | None = None,
    seed: int = 0,
    progress: Progress | None = None,
) -> dict[str, TrimResult]:
    """Bring every converter's offset at an operating point to within a trim step of zero and its gain to within one of 1,
    where there are registers for it and as far as they reach: by "offset" and "gain", of those that the board has.

    What a code does is measured, not believed. adcs: which converters, None for all. Raises DeviceError
    if the board has no trim at all, or one that does nothing.
    """
    kinds = _kinds(board)
    info = board.info()
    count = info.spec.array.macros * info.spec.adc.per_macro
    chosen = check_adcs(info.spec, adcs)

    def measured(codes: dict[str, NDArray[np.int64]], stage: int) -> dict[str, Float]:
        for kind in kinds:
            for adc in chosen:
                board.trim(kind.first + adc, int(codes[kind.name][adc]))
        # Each stage has a seed of its own: the noise that chose the codes must not be the noise that judges them.
        found = measure_point(
            board, mac, half_width=HALF_WIDTH, adcs=chosen, seed=(seed + stage * SEED_STEP) % (1 << 64)
        )
        if progress:
            progress(stage, _STAGES)
        return {kind.name: getattr(found, kind.name) for kind in kinds}

    start = {kind.name: np.full(count, kind.middle, np.int64) for kind in kinds}
    before = measured(start, 1)
    # Offset and gain of a line are told apart, so both are moved at once.
    moved = measured({kind.name: start[kind.name] + kind.probe for kind in kinds}, 2)
    steps = {kind.name: _step(kind, before[kind.name], moved[kind.name], info.uid) for kind in kinds}
    codes = {k.name: k.moved(start[k.name], before[k.name], steps[k.name], 0.0) for k in kinds}
    after = measured(codes, 3)
    # A curve seen at other places has another line: what is left is taken out once more.
    again = {k.name: k.moved(codes[k.name], after[k.name], steps[k.name], _TAKEN) for k in kinds}
    if any((again[kind.name] != codes[kind.name]).any() for kind in kinds):
        codes, after = again, measured(again, 4)
    elif progress:
        progress(_STAGES, _STAGES)
    return {
        kind.name: TrimResult(
            codes[kind.name],
            before[kind.name],
            after[kind.name],
            steps[kind.name],
            tuple(adc for adc in chosen if np.isnan(before[kind.name][adc])),
            kind.short(codes[kind.name], after[kind.name], steps[kind.name]),
        )
        for kind in kinds
    }


def _kinds(board: Board) -> list[_Kind]:
    """What the board can trim. DeviceError for nothing, InputError where its chip says otherwise."""
    info = board.info()
    adc, count = info.spec.adc, info.spec.array.macros * info.spec.adc.per_macro
    registers = board.registers() if "trim" in info.capabilities else {}
    kinds = []
    if adc.trim_bits and "trim0" in registers:
        kinds.append(_Kind("offset", adc.trim_bits, 0, 0.0, adc.trim_step / 10))
    if adc.gain_trim_bits and f"trim{count}" in registers:
        kinds.append(_Kind("gain", adc.gain_trim_bits, count, 1.0, adc.gain_trim_step / 10))
    if kinds:
        return kinds
    if "trim" not in info.capabilities:
        raise DeviceError(f"board {info.uid} cannot trim; leave --trim out")
    if adc.trim_bits or adc.gain_trim_bits:
        raise InputError(f"board {info.uid} shows no trim registers, which its chip has; leave --trim out")
    raise DeviceError(f"chip {info.spec.name} has no trim registers of offset or gain; leave --trim out")


def _step(kind: _Kind, before: Float, moved: Float, uid: str) -> float:
    """By how much a code moves what is trimmed."""
    if not np.isfinite(before).any():
        article = "an" if kind.name == "offset" else "a"
        raise DeviceError(
            f"board {uid}: no converter has {article} {kind.name} to trim; see what is wrong without --trim"
        )
    apart = moved - before
    step = float(np.median(apart[np.isfinite(apart)])) / kind.probe if np.isfinite(apart).any() else 0.0
    if not abs(step) > kind.smallest:
        raise DeviceError(
            f"board {uid}: {kind.probe} trim codes move the {kind.name}s by {step * kind.probe:.4g}; the trim does nothing"
        )
    return step
