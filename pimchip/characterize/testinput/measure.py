"""Converters by their test input: a sine, its histogram and its fit, with errors from the scatter of records."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats import t

from pimchip.board import Board
from pimchip.characterize.array.reading import by_macro
from pimchip.characterize.estimators import Float
from pimchip.characterize.measure import Clock
from pimchip.characterize.testinput.histogram import counts_of, line_errors, sine_transitions
from pimchip.characterize.testinput.sine import fit_sine
from pimchip.chip import Mac
from pimchip.errors import InputError

RECORDS, SAMPLES = 16, 1 << 12
FIRST_VECTOR = 1 << 38
"""Noise index from which these measurements draw: neither a staircase nor sets of rows come here."""
_CYCLES = 0.0317
"""Of the sine a sample, about: far from simple fractions of the rate."""
Drive = Callable[[float, float, float], None]
"""Of what drives the test input, such as partial(bench.drive_sine, "test"): hertz, volts peak to peak, offset in volts."""


@dataclass(frozen=True)
class InputResult:
    """Converters as a sine at their test input shows them; float64, NaN where nothing is known.

    adcs: which, counted over all macros; rows of the arrays. inl, inl_se: [adcs, transitions], LSB, about the least-squares
    line. dnl, dnl_se: [adcs, transitions - 1], LSB. sinad: dB, enob: bits, [adcs], with the standard errors of their means
    over records. reach: standard errors in a 95 % interval (Student's t). hertz: of the sine, as set; samples: of a record.
    """

    mac: Mac
    adcs: tuple[int, ...]
    inl: Float
    inl_se: Float
    dnl: Float
    dnl_se: Float
    sinad: Float
    sinad_se: Float
    enob: Float
    enob_se: Float
    reach: float
    hertz: float
    records: int
    samples: int

    @property
    def max_inl(self) -> Float:
        """[adcs]: largest magnitude, LSB."""
        return np.asarray(np.nanmax(np.abs(self.inl), axis=1))


def measure_input(
    board: Board,
    drive: Drive,
    mac: Mac | None = None,
    *,
    adcs: Sequence[int] | None = None,
    records: int = RECORDS,
    samples: int = SAMPLES,
    swing: float = 1.0,
    full_volts: float | None = None,
    samples_per_second: float | None = None,
    seed: int = 0,
    tick: Callable[[], None] = lambda: None,
) -> InputResult:
    """Drive a sine into the test input and sample it on the converters `adcs` (None: all).

    swing: of the sine, peak to peak, over the range's full scale, about its middle. full_volts: at the input, of full scale
    at range divisor 1, None for the nominal supply. samples_per_second: of a converter, None for one each timing.conversion.
    records: of `samples` each, at phases of their own. Raises DeviceError where the board has no test input, InputError for
    wrong arguments.
    """
    spec = board.info().spec
    at = mac or spec.mac()
    spec.check(at)
    if samples_per_second is None and spec.timing is None:
        raise InputError(
            f"chip {spec.name} has no [timing]: give samples_per_second, at which its test input is converted"
        )
    rate = samples_per_second or 1 / spec.timing.conversion  # type: ignore[union-attr]
    if records < 2 or samples < 64 or not 0.05 <= swing <= 4:
        raise InputError(f"{records} records of {samples} samples at a swing of {swing:g}: want 2, 64 and 0.05..4")
    full = (full_volts or spec.supply.volts) / at.range_divisor
    middle = 0.0 if at.signed else full / 2
    span = swing * full * (2 if at.signed else 1)
    frequency = (round(_CYCLES * samples) | 1) / samples  # odd: as many phases as samples, where these are a power of 2
    hertz = frequency * rate
    drive(hertz, span, middle)
    clock, rng = Clock(seed), np.random.default_rng(seed)
    clock.vector = FIRST_VECTOR
    inl, dnl, sinad, enob, chosen = [], [], [], [], []
    for _, here in by_macro(spec, adcs):
        counts = np.zeros((records, len(here), at.code_max - at.code_min + 1), np.int64)
        fits = []
        for k in range(records):
            clock.take(int(rng.integers(1, samples)))  # so that records begin at phases of their own
            codes = board.convert_input(here, samples, mac=at, run=clock.take(samples))
            counts[k] = counts_of(codes, at)
            fits.append(fit_sine(codes, frequency, free=True))  # no generator is tied to the board's clock
        together = line_errors(sine_transitions(counts.sum(axis=0)), at)
        # Jackknife: leaving one record out at a time, as curves of single records miss codes.
        apart = [line_errors(sine_transitions(counts.sum(axis=0) - counts[k]), at) for k in range(records)]
        inl.append((together[0], _jackknife(np.stack([a[0] for a in apart]))))
        dnl.append((together[1], _jackknife(np.stack([a[1] for a in apart]))))
        sinad.append(_mean(np.stack([fit.sinad for fit in fits])))
        enob.append(_mean(np.stack([fit.enob(at.adc_bits) for fit in fits])))
        chosen += here
        tick()
    parts = {"inl": inl, "dnl": dnl, "sinad": sinad, "enob": enob}
    values = {name: np.concatenate([part[0] for part in found]) for name, found in parts.items()}
    errors = {f"{name}_se": np.concatenate([part[1] for part in found]) for name, found in parts.items()}
    return InputResult(
        mac=at,
        adcs=tuple(chosen),
        **values,
        **errors,
        reach=float(t.ppf(0.975, records - 1)),
        hertz=hertz,
        records=records,
        samples=samples,
    )


def _jackknife(values: Float) -> Float:
    """Standard errors from estimates without one record each, along the first axis."""
    n = len(values)
    return np.asarray(np.sqrt((n - 1) / n * ((values - values.mean(axis=0)) ** 2).sum(axis=0)))


def _mean(values: Float) -> tuple[Float, Float]:
    return values.mean(axis=0), values.std(axis=0, ddof=1) / math.sqrt(len(values))
