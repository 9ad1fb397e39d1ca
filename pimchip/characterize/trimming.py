"""Trim of offsets, and of gains where the chip has registers for them: find each converter's codes, program them, and prove
them by measuring again, at every operating point that they are to serve.

A converter has one register of a kind, whatever the range and the resolution, but the part of its offset that arises in
the array grows with the range divisor, and a curve read at other places has another line. So no code suits all points. With
e_p what is left at point p and s_p what a code moves there, both in LSB of p, the code moves by the integer nearest to

    d = -(sum over p of s_p e_p) / (sum over p of s_p^2)

which leaves the least mean square of e_p + s_p d. In LSB of each, of gains at full scale, because noise and rounding are
what an error of a code adds to, and both are counted in that point's LSB: in volts at the array the widest range would decide
alone and leave several LSB at the narrowest. Squares, because what layers at different points err by adds up so, and because
all points' measurements share in the code, where of a largest error two would. All points count alike: which one a network
uses most is not known here; who knows names that one alone.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
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
SEED_STEP, POINT_SEED_STEP = 0x1000003, 0x20000B
PROBE_CODES = 4
"""Codes moved to learn what one of them does."""
_STAGES = 4
_TAKEN = 0.75
"""Steps from the aim beyond which a code is moved once more: half of one is rounding."""

Float = NDArray[np.float64]
Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class TrimPoint:
    """What a register came to at an operating point. before, after: float64 [adcs], what is trimmed, NaN where none was found:
    offsets, LSB, or gains. step: of it a code."""

    mac: Mac
    before: Float
    after: Float
    step: float


@dataclass(frozen=True)
class TrimResult:
    """codes: int64 [adcs] now in the registers. points: what they came to, in the order asked for. untrimmed: converters asked
    for of which nothing was found at any point, as dead ones; their registers stay in the middle. short: those whose register
    ends before they are where they should be."""

    codes: NDArray[np.int64]
    points: tuple[TrimPoint, ...]
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

    def apart(self, macs: Sequence[Mac], found: Float, steps: Float) -> Float:
        """Codes that each converter is off by, over all points together (the module's -d): float64 [adcs], 0 where nothing
        is known. found: [points, adcs]; steps: [points]."""
        lsb = np.array([mac.levels if self.name == "gain" else 1 for mac in macs], np.float64)
        known = np.isfinite(found)
        left = np.where(known, found - self.aim, 0.0) * lsb[:, None]
        step = np.where(known, (steps * lsb)[:, None], 0.0)
        squares = (step**2).sum(0)
        codes: Float = (step * left).sum(0) / np.where(squares > 0, squares, 1.0)
        return codes

    def moved(self, codes: NDArray[np.int64], apart: Float, least: float) -> NDArray[np.int64]:
        """Codes moved by as many as they are off, as far as the registers reach; those less than `least` off stay."""
        wanted = codes - np.rint(np.where(np.abs(apart) > least, apart, 0.0)).astype(np.int64)
        return np.clip(wanted, 0, (1 << self.bits) - 1)

    def short(self, codes: NDArray[np.int64], apart: Float) -> tuple[int, ...]:
        """Converters that are more than a code off at their register's end."""
        at_end = (codes == 0) | (codes == (1 << self.bits) - 1)
        return tuple(np.flatnonzero(at_end & (np.abs(apart) > 1)).tolist())


def trim_converters(
    board: Board,
    points: Sequence[Mac],
    *,
    adcs: Sequence[int] | None = None,
    seed: int = 0,
    progress: Progress | None = None,
) -> dict[str, TrimResult]:
    """Bring every converter's offset near zero and its gain near 1, where there are registers for it and as far as they reach:
    by "offset" and "gain", of those that the board has. At one operating point that is to within a trim step; one code serves
    several as the module says, and what is left at each is measured.

    What a code does is measured, not believed. points: one or more. adcs: which converters, None for all. Raises InputError
    without a point and if the board has no trim; DeviceError for one that does nothing.
    """
    if not points:
        raise InputError("no operating point to trim at: name at least one")
    kinds = _kinds(board)
    info = board.info()
    count = info.spec.array.macros * info.spec.adc.per_macro
    chosen = check_adcs(info.spec, adcs)
    told = _Told(progress, _STAGES * len(points))

    def measured(codes: Mapping[str, NDArray[np.int64]], stage: int) -> dict[str, Float]:
        for kind in kinds:
            for adc in chosen:
                board.trim(kind.first + adc, int(codes[kind.name][adc]))
        # Each stage has seeds of its own: the noise that chose the codes must not be the noise that judges them.
        found = []
        for number, mac in enumerate(points):
            own = (seed + stage * SEED_STEP + number * POINT_SEED_STEP) % (1 << 64)
            found.append(measure_point(board, mac, half_width=HALF_WIDTH, adcs=chosen, seed=own))
            told.to((stage - 1) * len(points) + number + 1)
        return {kind.name: np.stack([getattr(point, kind.name) for point in found]) for kind in kinds}

    def apart(found: Mapping[str, Float]) -> dict[str, Float]:
        return {kind.name: kind.apart(points, found[kind.name], steps[kind.name]) for kind in kinds}

    start = {kind.name: np.full(count, kind.middle, np.int64) for kind in kinds}
    before = measured(start, 1)
    # Offset and gain of a line are told apart, so both are moved at once.
    probed = measured({kind.name: start[kind.name] + kind.probe for kind in kinds}, 2)
    steps = {k.name: _steps(k, points, before[k.name], probed[k.name], info.uid) for k in kinds}
    off = apart(before)
    codes = {k.name: k.moved(start[k.name], off[k.name], 0.0) for k in kinds}
    after = measured(codes, 3)
    # A curve seen at other places has another line: what is left is taken out once more.
    off = apart(after)
    again = {k.name: k.moved(codes[k.name], off[k.name], _TAKEN) for k in kinds}
    if any((again[kind.name] != codes[kind.name]).any() for kind in kinds):
        codes, after = again, measured(again, 4)
        off = apart(after)
    told.to(_STAGES * len(points))
    results = {}
    for kind in kinds:
        name = kind.name
        each = zip(points, before[name], after[name], steps[name].tolist(), strict=True)
        untrimmed = tuple(adc for adc in chosen if np.isnan(before[name][:, adc]).all())
        results[name] = TrimResult(
            codes[name], tuple(TrimPoint(*point) for point in each), untrimmed, kind.short(codes[name], off[name])
        )
    return results


class _Told:
    """Progress, each figure once."""

    def __init__(self, progress: Progress | None, total: int) -> None:
        self._progress, self._total, self._done = progress, total, 0

    def to(self, done: int) -> None:
        if self._progress and done > self._done:
            self._done = done
            self._progress(done, self._total)


def _kinds(board: Board) -> list[_Kind]:
    """What the board can trim. InputError for nothing."""
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
        raise InputError(f"board {info.uid} cannot trim; leave --trim out")
    if adc.trim_bits or adc.gain_trim_bits:
        raise InputError(f"board {info.uid} shows no trim registers, which its chip has; leave --trim out")
    raise InputError(f"chip {info.spec.name} has no trim registers of offset or gain; leave --trim out")


def _steps(kind: _Kind, macs: Sequence[Mac], before: Float, probed: Float, uid: str) -> Float:
    """By how much a code moves what is trimmed at each operating point: float64 [points]."""
    steps = np.zeros(len(macs))
    for number, mac in enumerate(macs):
        where = f"board {uid} at range 1/{mac.range_divisor}, ADC {mac.adc_bits} b"
        if not np.isfinite(before[number]).any():
            article = "an" if kind.name == "offset" else "a"
            raise DeviceError(
                f"{where}: no converter has {article} {kind.name} to trim; see what is wrong without --trim"
            )
        apart = probed[number] - before[number]
        step = float(np.median(apart[np.isfinite(apart)])) / kind.probe if np.isfinite(apart).any() else 0.0
        if not abs(step) > kind.smallest:
            raise DeviceError(
                f"{where}: {kind.probe} trim codes move the {kind.name}s by {step * kind.probe:.4g}; the trim does nothing"
            )
        steps[number] = step
    return steps
