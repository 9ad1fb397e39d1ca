"""Slow noise: the Allan deviation of a converter's codes at one sum held, and what the noise of all its columns has in common.

The columns of a converter are converted in every array cycle. What they have in common from cycle to cycle is noise of the
converter that lasts as long as a cycle; what each has by itself is fast. Analysis of variance over cycles and columns tells
their squares apart. The Allan variance of the common part over tau cycles,

    avar(tau) = mean of (ybar_(i + tau) - ybar_i)^2 / 2,    ybar_i the mean of tau cycles from i on (overlapping)

falls as 1/tau for white noise, stays for flicker (1/f) and rises with drift (Allan, Proc. IEEE 54, 1966; Riley, "Handbook
of Frequency Stability Analysis", NIST SP 1065, 2008). Intervals are of the mean over converters, from their scatter, as
they are independent; with fewer than two, by chi-square with the degrees of freedom of white noise (Riley, section 5.4).

Where it does not fall as white noise does, averages over time have larger standard errors than independent reads would,
and levels read one after another share errors: take them in random order, and take standard errors from a moving-block
bootstrap (Kuensch, Ann. Statist. 17, 1989) with blocks as long as the longest tau.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import digamma, polygamma
from scipy.stats import norm

from pimchip.board import Board
from pimchip.characterize.array.estimate import NOTHING, Estimate, MeanSquare, variance
from pimchip.characterize.array.reading import Reads, by_macro, check_dithered, middle_totals, random_rows, read
from pimchip.characterize.array.rounding import signal_variance
from pimchip.characterize.estimators import Float
from pimchip.characterize.measure import Clock
from pimchip.chip import Mac
from pimchip.errors import InputError

CYCLES = 1 << 13
LONGEST = 16
"""Of the series, the longest tau is this part of it."""
_LEVEL = 0.01
_TAG = 19
_BOOTSTRAPS = 200


@dataclass(frozen=True)
class FlickerResult:
    """taus: cycles. allan: Allan deviation at each, LSB, with intervals. slow: rms of what a converter's columns have in
    common in a cycle, LSB, NaN with one column a converter. noise: of one conversion, LSB, all of it. slope: of
    log allan over log tau at the longest taus: -1/2 white, 0 flicker, above it drift. p: the chance that white noise shows
    as much at the longest tau. inflation: standard error of a mean over the whole series by block bootstrap, over that of
    independent reads. block: cycles a block. adcs: converters."""

    mac: Mac
    cycles: int
    taus: tuple[int, ...]
    allan: tuple[Estimate, ...]
    slow: Estimate
    noise: float
    slope: Estimate
    p: float
    inflation: float
    block: int
    adcs: int
    left_out: tuple[int, ...]

    @property
    def white(self) -> bool:
        """True where averages fall as those of independent reads."""
        return self.p >= _LEVEL

    @property
    def verdict(self) -> str:
        """In words, with what to do."""
        if self.white:
            return "white: averages over time fall as those of independent reads"
        kind = (
            "rises: the converters drift"
            if self.slope.low > 0
            else "does not fall as white noise does: slow (1/f) noise"
        )
        return (
            f"Allan deviation {kind}; read levels in random order, and take standard errors from a block bootstrap "
            f"({self.inflation:.2f} times those of independent reads over {self.cycles} cycles)"
        )


def measure_flicker(
    board: Board,
    mac: Mac,
    *,
    adcs: Sequence[int] | None = None,
    cycles: int = CYCLES,
    seed: int = 0,
    clock: Clock | None = None,
    tick: Callable[[], None] = lambda: None,
) -> FlickerResult:
    """Hold the middle of the range for `cycles` array cycles and look at how the codes wander. Overwrites the cells.

    Raises InputError where nothing can be told, DeviceError when the board fails.
    """
    spec = board.info().spec
    spec.check(mac)
    if not 256 <= cycles <= 1 << 24:
        raise InputError(f"cycles = {cycles}: want 256..{1 << 24}")
    clock, found = clock or Clock(seed), []
    totals = middle_totals(mac)
    for macro, here in by_macro(spec, adcs):
        x = random_rows(totals[:1], mac, seed, _TAG + 16 * macro)
        found.append(read(board, mac, x, cycles, here, macro, clock))
        tick()
    noise = check_dithered(found, mac, fewest=1)
    series = np.concatenate([one.by_adc(one.codes[:, 0].astype(np.float64)).T for one in found if len(one.adc)])
    taus = [1 << k for k in range(int(math.log2(cycles / LONGEST)) + 1)]
    each = np.stack([allan_variance(series, tau) for tau in taus], axis=1)
    allan = tuple(_over_converters(each[:, i], tau, cycles).root for i, tau in enumerate(taus))
    # Logarithms of few degrees of freedom come out low by as much as a chi-square's does.
    half = np.array([white_freedom(tau, cycles) / 2 for tau in taus])
    logs = np.log(each) + np.log(half) - digamma(half)
    # White noise keeps tau * avar: the longest tau against the shortest, converter by converter.
    excess = logs[:, -1] + math.log(taus[-1]) - logs[:, 0]
    p = float(norm.sf(float(excess.mean()) * math.sqrt(len(excess) / float(polygamma(1, half[-1])))))
    last = min(4, len(taus))
    x = np.log(np.array(taus[-last:], np.float64))
    x = x - x.mean()
    slopes = (logs[:, -last:] / 2 * x).sum(axis=1) / float((x * x).sum())
    block = taus[-1]
    return FlickerResult(
        mac=mac,
        cycles=cycles,
        taus=tuple(taus),
        allan=allan,
        slow=_common([one for one in found if len(one.adc)], noise),
        noise=noise,
        slope=Estimate.of_mean(slopes),
        p=p,
        inflation=_inflation(series, block, seed),
        block=block,
        adcs=len(series),
        left_out=tuple(adc for one in found for adc in one.left_out),
    )


def allan_variance(series: Float, tau: int) -> Float:
    """Overlapping Allan variance over tau readings of each row of `series`, float64 [..., n]; its unit squared."""
    total = np.concatenate([np.zeros((*series.shape[:-1], 1)), series.cumsum(axis=-1)], axis=-1)
    means = (total[..., tau:] - total[..., :-tau]) / tau
    steps = means[..., tau:] - means[..., :-tau]
    return np.asarray((steps * steps).mean(axis=-1) / 2)


def white_freedom(tau: int, n: int) -> float:
    """Degrees of freedom of an overlapping Allan variance of n white readings (white frequency noise in Riley's words)."""
    m, count = float(tau), float(n + 1)
    return (3 * (count - 1) / (2 * m) - 2 * (count - 2) / count) * 4 * m * m / (4 * m * m + 5)


def block_bootstrap(series: Float, block: int, *, seed: int = 0, times: int = _BOOTSTRAPS) -> Float:
    """Standard error of the mean of each row of `series`, float64 [rows, n], by moving blocks of so many readings."""
    n = series.shape[-1]
    if not 1 <= block <= n // 2:
        raise InputError(f"block = {block}: want 1..{n // 2}, half of the readings")
    total = np.concatenate([np.zeros((len(series), 1)), series.cumsum(axis=1)], axis=1)
    blocks = (total[:, block:] - total[:, :-block]) / block
    starts = np.random.default_rng(seed).integers(0, blocks.shape[1], (times, max(n // block, 1)))
    means = np.stack([blocks[:, start].mean(axis=1) for start in starts], axis=1)
    return np.asarray(means.std(axis=1, ddof=1))


def _inflation(series: Float, block: int, seed: int) -> float:
    """Standard errors of means by blocks over those of independent reads, root mean square over converters."""
    by_block = block_bootstrap(series, block, seed=seed)
    plain = series.std(axis=1, ddof=1) / math.sqrt(series.shape[1])
    known = plain > 0
    return math.sqrt(float((by_block[known] ** 2).mean() / (plain[known] ** 2).mean()))


def _over_converters(values: Float, tau: int, cycles: int) -> Estimate:
    if len(values) > 1:
        return Estimate.of_mean(values)
    return variance(MeanSquare(float(values[0]), white_freedom(tau, cycles)))


def _common(found: Sequence[Reads], noise: float) -> Estimate:
    """rms of what the columns of a converter have in common from cycle to cycle; the interval is of the scatter of its square
    over converters, as cycles are not independent. NaN with one column a converter."""
    squares = []
    for reads in found:
        codes = reads.codes[:, 0].astype(np.float64)
        codes = codes - codes.mean(axis=0)
        means = reads.by_adc(codes)
        width = len(reads.adc) // means.shape[1]
        if width < 2:
            return NOTHING
        rest = reads.by_adc((codes - means[:, reads.columns_of_adc]) ** 2).sum(axis=0) * width
        cycles = len(codes)
        squares.append((means**2).sum(axis=0) / (cycles - 1) - rest / ((cycles - 1) * (width - 1)) / width)
    return Estimate.of_mean(np.concatenate(squares)).mapped(lambda v: signal_variance(v, noise)).root
