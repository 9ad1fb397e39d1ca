"""What is wrong with a converter, by what it gave in a sweep of the whole range.

A missing code: with N reads an LSB, N w of them fall on a code of w LSB on average, whatever the noise, so none does
with a chance of exp(-N w) at most (that of independent reads is below Poisson's). A code that none fell on is missing
where a width of NARROW LSB is thereby excluded, over all codes of the die together. Where steps are wider than two
standard deviations of the noise a code may lie between them, and nothing is said of codes.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pimchip.board.margins import Margins
from pimchip.characterize.health.sweep import NARROW, Sweep
from pimchip.chip import Mac
from pimchip.chip.stuck import stuck_bits
from pimchip.profile.health import Fault, FaultKind
from pimchip.tails import normal_sf

PARTS = 8
"""Parts of the range in which a mean code is judged."""
COARSE = 2.0
"""Steps of more standard deviations of the noise hide codes."""
_SMALL = 0.1
"""LSB^2: below that a variance of codes says less of the noise than of where between two codes the sum lies."""

Float = NDArray[np.float64]


@dataclass(frozen=True)
class Judged:
    """One converter. sure: faults in which no chance of reads is. unseen: codes between others that no read gave.

    codes: how many were looked at, 0 where steps were too coarse. unseen_p: the chance of one of NARROW LSB unseen.
    fall: of its mean code, LSB, the code where, and its p-value among all pairs of places of this converter; NaN where
    it was not looked at.
    """

    sure: tuple[Fault, ...]
    unseen: tuple[int, ...] = ()
    codes: int = 0
    unseen_p: float = 1.0
    reads: float = 0.0
    """An LSB."""
    fall: tuple[float, int, float] = (0.0, 0, math.nan)


def judge(found: Sweep, macro: int, adc: int, margins: Margins) -> Judged:
    """What a sweep shows of a converter."""
    words, mac = found.words[adc], found.mac
    first = int(words.flat[0])
    if np.all(words == first):
        return Judged((Fault(FaultKind.DEAD_ADC, macro, adc=adc, detail=first + mac.code_min),))
    bits = stuck_bits(np.ones((1, *words.shape)), words[None], mac)[0]
    # Levels so far apart that a bit may follow them say nothing about it.
    bits &= (1 << np.arange(mac.adc_bits)) >= 2 * found.step
    if bits.any():
        at = int(np.bitwise_and.reduce(words, axis=None))
        return Judged(
            tuple(
                Fault(FaultKind.STUCK_BIT, macro, adc=adc, detail=bit, size=float(at >> bit & 1))
                for bit in np.flatnonzero(bits).tolist()
            )
        )
    sure = [*_off(found, macro, adc, margins), *_saturated(found, macro, adc, margins)]
    if math.sqrt(found.scatter[adc]) > margins.scatter(mac):
        sure.append(Fault(FaultKind.NOISY_ADC, macro, adc=adc, size=round(math.sqrt(found.scatter[adc]), 3)))
    reads = words.shape[1] / found.step
    codes: tuple[int, ...] = ()
    looked = 0
    if found.step <= COARSE * sigma_of(found.scatter[adc]):
        seen = np.bincount(words.ravel(), minlength=1 << mac.adc_bits) > 0
        low, high = np.flatnonzero(seen)[[0, -1]].tolist()
        codes = tuple((np.flatnonzero(~seen[low:high]) + low + mac.code_min).tolist())
        looked = max(high - low - 1, 0)
    return Judged(tuple(sure), codes, looked, math.exp(-NARROW * reads), reads, _fall(words, found.step, mac))


def sigma_of(variance: float) -> float:
    """Noise, LSB, from the variance of codes of repeated reads, averaged over places between two codes.

    From 0.3 LSB on that is sigma^2 + 1/12 (Sheppard); far below it goes to sigma / sqrt(pi), the integral of p (1 - p).
    """
    return math.sqrt(math.pi) * variance if variance < _SMALL else math.sqrt(max(variance - 1 / 12, 0.0))


def _off(found: Sweep, macro: int, adc: int, margins: Margins) -> Iterator[Fault]:
    mac = found.mac
    ideal = np.clip(found.u, mac.code_min, mac.code_max)
    mean = found.words[adc].mean(axis=1) + mac.code_min
    worst = 0.0
    for part in np.array_split(np.arange(len(ideal)), PARTS):
        code, got = float(ideal[part].mean()), float(mean[part].mean())
        driven = int(abs(code) * mac.scale / (mac.cell_max * (mac.digit - 1)))
        low, high = margins.around(mac, code, driven, [adc])
        worst = max(worst, low - got, got - high)
    if worst > 0:
        yield Fault(FaultKind.OFF_ADC, macro, adc=adc, size=round(worst, 3))


def lost_by_sound(mac: Mac, adc: int, margins: Margins) -> float:
    """LSB of input that a sound converter may lose at the end of its range by its gain and offset."""
    low, high = margins.around(mac, float(mac.levels), mac.rows, [adc])
    return max(high - mac.levels, mac.levels - low, mac.levels / PARTS)


def _saturated(found: Sweep, macro: int, adc: int, margins: Margins) -> Iterator[Fault]:
    """Ends of the range where every read gives one code."""
    words, mac = found.words[adc], found.mac
    limit = lost_by_sound(mac, adc, margins)
    for ends in (words[::-1], words) if mac.signed else (words[::-1],):
        same = np.all(ends == ends[0, 0], axis=1)
        lost = float(np.argmin(same)) * found.step
        if lost > limit:
            yield Fault(FaultKind.SATURATED, macro, adc=adc, detail=int(ends[0, 0]) + mac.code_min, size=round(lost, 3))


def _fall(words: NDArray[np.int64], step: float, mac: Mac) -> tuple[float, int, float]:
    """The surest fall of the mean code: its size, the code it falls to, its p-value among all pairs of places an LSB wide."""
    size = max(math.ceil(1 / step), 1)
    count = len(words) // size
    blocks = words[: count * size].reshape(count, -1).astype(np.float64)
    within = words[: count * size].var(axis=1).reshape(count, size).mean(axis=1)
    mean, error = blocks.mean(axis=1), np.sqrt(within / blocks.shape[1])
    before, after = np.triu_indices(count, 1)
    fall = mean[before] - mean[after]
    both = np.hypot(error[before], error[after])
    with np.errstate(divide="ignore", invalid="ignore"):
        z = np.where(both > 0, fall / both, np.where(fall > 0, np.inf, -np.inf))
    at = int(z.argmax())
    return float(fall[at]), round(float(mean[after[at]])) + mac.code_min, min(float(normal_sf(z[at])) * len(z), 1.0)
