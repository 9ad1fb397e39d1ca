"""Staircases on converters whose truth is known: dies drawn by number, codes drawn with NumPy's own generator."""

from __future__ import annotations

import math

import numpy as np
from scipy.stats import binom

from pimchip.characterize.plan import Plan, plan
from pimchip.chip import AdcTables, ChipSpec, Mac, load_chip
from pimchip.chip.adc import to_table
from pimchip.emulator.die import Die
from pimchip.emulator.state import Conditions
from pimchip.profile import Counts, PointResult

COLUMNS = 8


def chip(**changes: dict[str, object]) -> ChipSpec:
    """sram65 with one macro of 32 converters, and changes by section."""
    data = load_chip("sram65").to_dict()
    data["array"]["macros"] = 1
    for section, values in changes.items():
        data[section] |= values
    return ChipSpec.from_dict(data)


def tables(spec: ChipSpec, number: int, mac: Mac) -> AdcTables:
    middle = np.full(spec.array.macros * spec.adc.per_macro, (1 << spec.adc.trim_bits) >> 1)
    return Die(spec, number).tables(mac, middle, Conditions(25.0))


def axis(mac: Mac) -> np.ndarray:
    """u of every column sum, written out from its definition."""
    return np.arange(mac.sum_min, mac.sum_max + 1) * mac.levels * mac.range_divisor / mac.sum_max


def true_thresholds(t: AdcTables) -> np.ndarray:
    """Where the true transfer passes k - 1/2; NaN where it never does."""
    wanted = np.arange(t.mac.code_min + 1, t.mac.code_max + 1) - 0.5
    return np.stack([np.interp(wanted, row / 65536, axis(t.mac), np.nan, np.nan) for row in t.transfer])


def laid_out(t: AdcTables, spec: ChipSpec, half_width: float = 0.1) -> Plan:
    sigma = t.sigma / 65536
    return plan(spec, t.mac, COLUMNS, sigma.mean(), sigma.min(), half_width, None)


def simulate(t: AdcTables, p: Plan, rng: np.random.Generator) -> Counts:
    """Codes of the true converters with normal noise, tallied."""
    mac, reads = t.mac, p.cycles * COLUMNS
    lsb = t.transfer[:, p.levels - mac.sum_min] / 65536
    noise = (t.sigma / 65536)[:, None, None] * rng.standard_normal((*lsb.shape, reads))
    codes = np.clip(np.floor(lsb[..., None] + noise + 0.5), mac.code_min, mac.code_max).astype(int)
    base = codes.min(axis=2)
    histogram = np.zeros((*base.shape, int((codes.max(axis=2) - base).max()) + 1), np.uint32)
    np.add.at(histogram, (*np.indices(codes.shape)[:2], codes - base[..., None]), 1)
    return Counts(mac, p.levels, reads, p.cycles, base.astype(np.int32), histogram)


def straight(mac: Mac, gain: float, offset: float, sigma: float, adcs: int = 8) -> AdcTables:
    """Converters without a curve."""
    return AdcTables(
        mac,
        np.repeat(to_table(gain * axis(mac) + offset)[None], adcs, 0),
        np.full(adcs, round(sigma * 65536), np.int32),
    )


def within(name: str, hits: int, trials: int, level: float = 0.95, risk: float = 1e-4) -> None:
    """The share of intervals that hold the truth is what a 95 % interval's should be, to within chance."""
    low, high = binom.ppf([risk, 1 - risk], trials, level)
    assert low <= hits <= high, f"{name}: {hits} of {trials}, expected {low:.0f}..{high:.0f}"


def standard(t: AdcTables, r: PointResult) -> dict[str, np.ndarray]:
    """Errors in standard errors against the true die, the line fitted to the true thresholds with polyfit."""
    true = true_thresholds(t)
    k = np.arange(t.mac.code_min + 1, t.mac.code_max + 1) - 0.5
    z: dict[str, list[np.ndarray]] = {name: [] for name in ("T", "gain", "offset", "inl", "sigma")}
    for j, known in enumerate(r.reachable):
        assert not np.isnan(true[j, known]).any(), "a threshold was given that the converter does not have"
        q, a = np.polyfit(k[known], true[j, known], 1)
        z["T"].append((r.thresholds[j, known] - true[j, known]) / r.threshold_se[j])
        z["inl"].append((r.inl[j, known] - (true[j, known] - a - q * k[known]) / q) / r.inl_se[j, known])
        z["gain"].append(np.atleast_1d((r.gain[j] - 1 / q) / r.gain_se[j]))
        z["offset"].append(np.atleast_1d((r.offset[j] + a / q) / r.offset_se[j]))
        width = math.log(r.noise_high[j] / r.noise_low[j]) / 2 / 1.96
        z["sigma"].append(np.atleast_1d(math.log(r.noise_lsb[j] / (t.sigma[j] / 65536)) / width))
    return {name: np.concatenate(parts) for name, parts in z.items()}
