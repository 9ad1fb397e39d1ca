"""What a measurement of a die leaves: raw counts, and what was fitted to them at each operating point. Plain data.

Inputs are on the ideal code axis u = v * levels * range_divisor / sum_max, in LSB, for the column sum v: the ideal
converter has its transition to code k at u = k - 1/2, at every operating point. Transition n of an array is to code
mac.code_min + 1 + n.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pimchip.chip import ChipSpec, Mac
from pimchip.errors import InputError
from pimchip.profile.array import ArraySection
from pimchip.profile.health import Health
from pimchip.profile.validity import Validity

Float = NDArray[np.float64]

FLAGS = (
    "not-measured", "stuck", "few-transitions", "noise-not-identified", "coarse-steps", "stuck-bit", "missing-codes",
    "drift",
)  # fmt: skip
"""What can be wrong with a converter, in the order of the bits that files hold.

not-measured: left out. stuck: one code at every level. few-transitions: fewer than MIN_TRANSITIONS within reach, so no
line was fitted. noise-not-identified: too few reads that disagree. coarse-steps: the steps between levels are so wide
against the noise that they may bias the thresholds by more than 0.2 standard errors; threshold_se includes the bias.
stuck-bit: one bit of the codes never changes, although the input does; nothing was fitted. missing-codes: codes that
never came and whose DNL is -0.9 or less with its whole interval. drift: the converter moved while it was measured, by more
than the half-width of its thresholds. New flags go to the end: old files hold the old bits.
"""
HALF_WIDTH_SE = 1.96
"""Standard errors in the half-width of a pointwise 95 % interval, as stated in profiles."""
MIN_TRANSITIONS = 3
"""Fewest transitions a line is fitted to."""


def transitions(mac: Mac) -> int:
    """Transitions between the codes of an operating point: one fewer than there are codes."""
    return mac.code_max - mac.code_min


def code_positions(mac: Mac) -> Float:
    """k - 1/2 for every code k but the lowest, float64 [transitions], LSB: the ideal converter's thresholds."""
    return np.arange(mac.code_min + 1, mac.code_max + 1, dtype=np.float64) - 0.5


def ideal_inputs(sums: NDArray[np.integer], mac: Mac) -> Float:
    """u in LSB of integer column sums, float64 of the same shape; the product is exact, the division rounds once."""
    return np.asarray(sums, np.int64).astype(np.float64) * (mac.levels * mac.range_divisor) / mac.sum_max


def _absent() -> Float:
    return np.empty(0)


@dataclass(frozen=True, eq=False)
class Counts:
    """Raw counts of a staircase at one operating point: how often each converter gave each code at each level.

    levels: int64 [levels], column sums at equal distances, rising. base: int32 [adcs, levels], the lowest code seen.
    histogram: uint32 [adcs, levels, span], reads that gave code base + i. A converter that was not measured has zeros
    only. Levels may hold different numbers of reads; only levels past the last code of a converter, at either end, may
    hold none. reads, cycles: the most of any converter at any level. array_cycles: all that were spent, over levels and
    macros; 0 where a profile of an older schema does not tell, and all levels of its macros had `cycles`. drift: float64
    [adcs, 2], how far a converter's codes moved from the first to the last sweep, LSB, and its standard error; both 0
    where levels were not swept more than once. when: float64 [adcs, levels, 2], when the reads of a level were taken, about
    the mean time of all of a converter's reads and as a share of the time from the first sweep to the last, and the variance
    of that; 0 where it is not known.
    """

    mac: Mac
    levels: NDArray[np.int64]
    reads: int
    cycles: int
    base: NDArray[np.int32]
    histogram: NDArray[np.uint32]
    array_cycles: int = 0
    drift: Float = field(default_factory=_absent)
    when: Float = field(default_factory=_absent)

    def __post_init__(self) -> None:
        if not self.when.size:
            object.__setattr__(self, "when", np.zeros((*self.base.shape, 2)))
        if (
            self.when.dtype != np.float64
            or self.when.shape != (*self.base.shape, 2)
            or not (np.abs(self.when) <= 1).all()
        ):
            raise InputError(
                f"counts: when {self.when.dtype} {list(self.when.shape)} does not fit the levels, or is no share"
            )
        if not self.drift.size:
            object.__setattr__(self, "drift", np.zeros((len(self.base), 2)))
        if (
            self.drift.dtype != np.float64
            or self.drift.shape != (len(self.base), 2)
            or not np.isfinite(self.drift).all()
        ):
            raise InputError(f"counts: drift {self.drift.dtype} {list(self.drift.shape)} does not fit the converters")
        steps = np.diff(self.levels)
        shape = self.base.shape
        if self.levels.ndim != 1 or len(steps) < 2 or steps[0] < 1 or np.any(steps != steps[0]):
            raise InputError("counts: levels must be at least three column sums, rising at equal distances")
        if self.levels[0] < self.mac.sum_min or self.levels[-1] > self.mac.sum_max:
            raise InputError(
                f"counts: levels {self.levels[0]}..{self.levels[-1]} leave {self.mac.sum_min}..{self.mac.sum_max}"
            )
        if self.reads < 2 or self.cycles < 1 or len(shape) != 2 or shape[1] != len(self.levels):
            raise InputError(
                f"counts: {self.reads} reads in {self.cycles} cycles with codes {list(shape)} "
                f"do not fit {len(self.levels)} levels"
            )
        if self.histogram.ndim != 3 or self.histogram.shape[:2] != shape:
            raise InputError(f"counts: histogram {list(self.histogram.shape)} does not fit codes {list(shape)}")
        total = self.reads_at
        measured = total.any(axis=1)
        seen = total[measured] > 0
        if np.any(total == 1) or np.any(total > self.reads) or np.any(np.diff(seen, axis=1).sum(axis=1) > 2):
            raise InputError(
                f"counts: every level of a measured converter must hold 2..{self.reads} reads, but for those past its ends"
            )
        last = self.base + (self.histogram > 0).cumsum(axis=2, dtype=np.int32).argmax(axis=2)
        if np.any(self.base[measured] < self.mac.code_min) or np.any(last[measured] > self.mac.code_max):
            raise InputError(f"counts: codes outside {self.mac.code_min}..{self.mac.code_max}")
        _freeze(self.levels, self.base, self.histogram, self.drift, self.when)

    @property
    def measured(self) -> NDArray[np.bool_]:
        """bool [adcs]: which converters were read."""
        return np.asarray(self.histogram.any(axis=(1, 2)))

    @property
    def reads_at(self) -> NDArray[np.int64]:
        """int64 [adcs, levels]: reads of each converter at each level."""
        return np.asarray(self.histogram.sum(axis=2, dtype=np.int64))

    @property
    def inputs(self) -> Float:
        """u of every level, LSB, float64 [levels]."""
        return ideal_inputs(self.levels, self.mac)

    @property
    def step(self) -> float:
        """Distance of neighbouring levels, LSB."""
        count = int(self.levels[1] - self.levels[0])
        return count * (self.mac.levels * self.mac.range_divisor) / self.mac.sum_max


RESULT_ARRAYS = (
    "thresholds", "threshold_se", "noise_lsb", "noise_low", "noise_high", "gain", "gain_se", "offset", "offset_se",
    "inl", "inl_se", "max_inl",
)  # fmt: skip
"""Of every schema version."""
ADDED_ARRAYS: dict[str, int] = dict.fromkeys(
    ("se_by_code", "dnl", "dnl_se", "missing", "quantile", "simultaneous", "end_gain", "end_offset"), 3
) | dict.fromkeys(("outer_inputs", "outer_codes"), 5)
"""Arrays that came later, with the schema version that brought them; of older profiles they are NaN."""
PER_TRANSITION = frozenset(("thresholds", "inl", "inl_se", "se_by_code", "dnl", "dnl_se", "missing"))
OUTER = 4
"""Places beyond each outermost threshold at which a curve is told."""
PER_OUTER = frozenset(("outer_inputs", "outer_codes"))
NOT_NEGATIVE = frozenset(
    (
        "threshold_se", "noise_lsb", "noise_low", "noise_high", "gain_se", "offset_se", "inl_se", "max_inl", "se_by_code",
        "dnl_se", "missing", "quantile", "simultaneous", "end_gain",
    )
)  # fmt: skip


def result_shape(name: str, adcs: int, mac: Mac) -> tuple[int, ...]:
    """Shape of a result's array."""
    if name in PER_TRANSITION:
        return (adcs, transitions(mac))
    return (adcs, 2 * OUTER) if name in PER_OUTER else (adcs,)


def result_arrays(version: int) -> tuple[str, ...]:
    """Names of the arrays that a result of a schema version holds, in the order of the file."""
    return RESULT_ARRAYS + tuple(name for name, since in ADDED_ARRAYS.items() if since <= version)


@dataclass(frozen=True, eq=False)
class PointResult:
    """Converters as measured at one operating point. float64; NaN where there is nothing to say.

    thresholds: [adcs, transitions], T_k, the input u in LSB at which codes >= k come half the time.
    threshold_se: [adcs], the standard error of each of a converter's thresholds, pooled over them, LSB.
    noise_lsb, noise_low, noise_high: [adcs], standard deviation of one conversion in LSB of code, and 95 % interval.
    gain, offset: [adcs], code = gain * u + offset, from the least-squares line T_k = a + q (k - 1/2) over the
        transitions within reach: gain = 1 / q and offset = -a / q, LSB. The ideal converter has 1 and 0.
    gain_se, offset_se: [adcs], standard errors; thresholds share reads, and their covariance is propagated.
    inl, inl_se: [adcs, transitions], (T_k - a - q (k - 1/2)) / q, LSB. max_inl: [adcs], largest magnitude.
    flags: for each converter, names from FLAGS.
    reads, cycles: conversions of a converter, and array cycles, the most at a level. levels: how many. step: between
        them, LSB. array_cycles, all_reads: in all, over macros and converters; 0 where not known.
    Since schema version 3, and NaN in older profiles:
    se_by_code: [adcs, transitions], standard error of each T_k: the pooled one, or one that follows the code where the
        noise was found to, and what the unseen curve past the ends may add.
    dnl, dnl_se: [adcs, transitions], entry n of the code between transitions n and n + 1, (T_(k+1) - T_k) / q - 1; the
        last is NaN. missing: likewise, 1 for a missing code (DNL <= -0.9 with its 95 % interval, never seen), else 0.
    quantile, simultaneous: [adcs], standard errors to either side of an estimate in a pointwise 95 % interval (Student),
        and in a band that holds all values of a converter at once (Bonferroni).
    end_gain, end_offset: [adcs], gain and offset by the terminal line, through the first and last reachable T_k.
    Since schema version 5, and NaN in older profiles:
    outer_inputs, outer_codes: [adcs, 2 * OUTER], inputs u, LSB, below the first and above the last reachable T_k, and the
        curve there in LSB of code (the mean of codes without limits), from reads that show no whole transition; NaN where
        there is nothing beyond.
    """

    mac: Mac
    thresholds: Float
    threshold_se: Float
    noise_lsb: Float
    noise_low: Float
    noise_high: Float
    gain: Float
    gain_se: Float
    offset: Float
    offset_se: Float
    inl: Float
    inl_se: Float
    max_inl: Float
    flags: tuple[tuple[str, ...], ...]
    reads: int
    cycles: int
    levels: int
    step: float
    se_by_code: Float = field(default_factory=_absent)
    dnl: Float = field(default_factory=_absent)
    dnl_se: Float = field(default_factory=_absent)
    missing: Float = field(default_factory=_absent)
    quantile: Float = field(default_factory=_absent)
    simultaneous: Float = field(default_factory=_absent)
    end_gain: Float = field(default_factory=_absent)
    end_offset: Float = field(default_factory=_absent)
    outer_inputs: Float = field(default_factory=_absent)
    outer_codes: Float = field(default_factory=_absent)
    array_cycles: int = 0
    all_reads: int = 0

    def __post_init__(self) -> None:
        adcs = len(self.flags)
        for name in (*RESULT_ARRAYS, *ADDED_ARRAYS):
            array = getattr(self, name)
            shape = result_shape(name, adcs, self.mac)
            if name in ADDED_ARRAYS and not array.size and adcs:
                array = np.full(shape, np.nan)
                object.__setattr__(self, name, array)
            if array.dtype != np.float64 or array.shape != shape:
                raise InputError(f"{name} is {array.dtype} {list(array.shape)}: want float64 {list(shape)}")
            if np.isinf(array).any() or (name in NOT_NEGATIVE and np.any(array < 0)):
                raise InputError(f"{name} holds values out of range")
            _freeze(array)
        if np.any(self.gain <= 0):
            raise InputError("gain holds values out of range")
        unknown = {flag for flags in self.flags for flag in flags} - set(FLAGS)
        if unknown:
            raise InputError(f"flags {sorted(unknown)} are none of {', '.join(FLAGS)}")

    @property
    def reachable(self) -> NDArray[np.bool_]:
        """bool [adcs, transitions]: which thresholds were within the stimulus's reach."""
        return ~np.isnan(self.thresholds)

    @property
    def half_width(self) -> Float:
        """[adcs]: half-width of the pointwise 95 % interval of a converter's thresholds, LSB."""
        return HALF_WIDTH_SE * self.threshold_se

    @property
    def rms_half_width(self) -> float:
        """The half-widths' root mean square over the converters that have one, LSB; NaN where none has."""
        if not np.isfinite(self.threshold_se).any():
            return float("nan")
        return HALF_WIDTH_SE * float(np.sqrt(np.nanmean(self.threshold_se**2)))

    @property
    def version(self) -> int:
        """The schema version whose arrays this result fills."""
        known = [since for name, since in ADDED_ARRAYS.items() if not np.isnan(getattr(self, name)).all()]
        return max(known, default=1)

    def band(self, name: str, *, simultaneous: bool = False) -> tuple[Float, Float]:
        """Ends of the 95 % intervals of "thresholds", "inl" or "dnl": two float64 [adcs, transitions].

        simultaneous: of bands that hold all of a converter's values at once. Raises InputError for other names, and of a
        profile from before there were such bands.
        """
        errors = {"thresholds": self.se_by_code, "inl": self.inl_se, "dnl": self.dnl_se}
        if name not in errors:
            raise InputError(f"{name} has no band; these have: {', '.join(errors)}")
        if self.version < 3:
            raise InputError("this profile holds no bands; fit its counts again (pimchip characterize --from)")
        value = getattr(self, name)
        half = (self.simultaneous if simultaneous else self.quantile)[:, None] * errors[name]
        return value - half, value + half

    def flagged(self, flag: str) -> NDArray[np.bool_]:
        """bool [adcs]: which converters carry a flag."""
        return np.array([flag in flags for flags in self.flags], bool)


@dataclass(frozen=True, eq=False, kw_only=True)
class Record:
    """Everything a profile says apart from its raw counts.

    uid: the die. spec: its kind of chip. temperature: of the die when it was measured, degrees Celsius. seed: of the
    stimulus. created: ISO date. method: how it was measured, plain values. points: one result an operating point.
    supply: volts. age: hours since the cells were programmed. measured: when measuring ended, ISO 8601 in UTC with
    milliseconds. These three are None where they are not known, as in profiles of schema version 1. health: what is broken,
    array: what is known of array and noise beside the curves; each None where nobody looked. bench: what stood around the
    die when measuring ended (pimchip.instruments.bench.Bench.snapshot), plain values, which the hash leaves out. validity:
    the conditions in which it holds, None where it states none (see holds). models: of the curves, by point in the order of
    `points`, what was found of each (pimchip.characterize.ladder.told), None where nobody looked.
    """

    uid: str
    spec: ChipSpec
    temperature: float
    seed: int
    created: str
    method: Mapping[str, Any]
    points: tuple[PointResult, ...]
    supply: float | None = None
    age: float | None = None
    measured: str | None = None
    health: Health | None = None
    array: ArraySection | None = None
    bench: Mapping[str, Any] | None = None
    validity: Validity | None = None
    models: tuple[Mapping[str, Any], ...] | None = None

    @property
    def holds(self) -> Validity:
        """The conditions in which it holds: as stated, else about those of the measurement."""
        if self.validity is not None:
            return self.validity
        return Validity.around(self.spec.supply.volts, self.temperature, self.supply, self.age)

    @property
    def chip(self) -> str:
        """Name of the kind of chip."""
        return self.spec.name

    @property
    def spec_hash(self) -> str:
        """SHA-256 of the kind of chip, hex."""
        return self.spec.hash

    @property
    def trim(self) -> tuple[int, ...]:
        """Trim codes that were in the registers: of offsets by converter, then of gains; empty where the chip has none."""
        codes = self.method.get("trim", ())
        if not isinstance(codes, list | tuple) or not all(isinstance(c, int) for c in codes):
            raise InputError("the profile's trim is no list of codes; characterize the die again")
        return tuple(codes)


def _freeze(*arrays: NDArray[Any]) -> None:
    for array in arrays:
        array.flags.writeable = False
