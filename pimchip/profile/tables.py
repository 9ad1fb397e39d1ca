"""From measured thresholds to the converter tables that emulator, compiler and training compute with.

Between thresholds the transfer runs straight from (T_k, k - 1/2) to the next, beyond the outermost ones through what was
seen of the curve there (small sums are most of what a network makes), and then on with the fitted gain. Only +, -, *, /
and comparisons of float64 in a fixed order: the same bits on any processor.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence

import numpy as np

from pimchip.chip import AdcTables, Mac
from pimchip.chip.adc import LSB_BITS, to_table
from pimchip.errors import InputError
from pimchip.profile.model import OUTER, Counts, Float, PointResult, code_positions, ideal_inputs


def serves(own: Mac, mac: Mac) -> bool:
    """True where the curve measured at `own`, a function of u, holds at `mac` too.

    It does for any weight and activation width, which only scale u, and for as many DAC bits or fewer. The rows must
    be the same: they set the array's load and the full scale.
    """
    return (own.scheme, own.rows, own.adc_bits, own.range_divisor) == (
        mac.scheme,
        mac.rows,
        mac.adc_bits,
        mac.range_divisor,
    ) and own.dac_bits >= mac.dac_bits


def find(points: Sequence[PointResult], mac: Mac) -> PointResult | None:
    """The measured point nearest in DAC bits that serves `mac`, or None."""
    fitting = [p for p in points if serves(p.mac, mac)]
    return min(fitting, key=lambda p: p.mac.dac_bits, default=None)


def covering(points: Sequence[PointResult], mac: Mac, name: str) -> PointResult:
    """The point that serves `mac`; `name` names the profile in errors.

    Raises InputError where no point serves, saying what to measure.
    """
    point = find(points, mac)
    if point is None:
        measured = "; ".join(p.mac.describe() for p in points) or "nothing"
        raise InputError(
            f"{name} measured {measured}; wanted {mac.describe()}: "
            f"run pimchip characterize --adc-bits {mac.adc_bits} --range-divisor {mac.range_divisor}"
        )
    return point


def unmodelled(point: PointResult) -> dict[int, tuple[str, ...]]:
    """Converters that have neither a fitted curve and noise nor one constant code, with their flags."""
    fitted = np.isfinite(point.gain) & np.isfinite(point.noise_lsb)
    odd = np.flatnonzero(~fitted & ~point.flagged("stuck"))
    return {int(j): point.flags[j] for j in odd}


def constant_codes(point: PointResult, counts: Counts) -> dict[int, int]:
    """Of converters that gave one code at every level, that code."""
    return {int(j): int(counts.base[j, 0]) for j in np.flatnonzero(point.flagged("stuck"))}


def tables_of(
    points: Sequence[PointResult],
    mac: Mac,
    name: str,
    constants: Callable[[PointResult], Mapping[int, int]],
    used: Collection[int] | None = None,
) -> AdcTables:
    """Converters at `mac` from the point that serves it; `name` names the profile in errors.

    constants: the codes of converters that give only one, asked for where there are any: as measured, such a converter
    gives its code for every sum, without noise. used: the converters that will be asked, None for all; another one
    without a curve gives code 0. Raises InputError where no point serves, or where one that is used was not measured or
    has no curve.
    """
    point = covering(points, mac, name)
    asked = range(len(point.flags)) if used is None else used
    unknown = unmodelled(point)
    odd = {adc: flags for adc, flags in unknown.items() if adc in asked}
    left_out = [int(adc) for adc in np.flatnonzero(point.flagged("not-measured")) if adc in asked]
    if len(left_out):
        covered = len(point.flags) - int(point.flagged("not-measured").sum())
        raise InputError(
            f"{name} covers only {covered} of {len(point.flags)} ADCs (ADC {left_out[0]} was not measured): "
            "run pimchip characterize without --adcs"
        )
    if odd:
        adc, flags = next(iter(odd.items()))
        why = ", ".join(flags) or "no noise figure"
        raise InputError(
            f"{name}: {len(odd)} of {len(point.flags)} ADCs have no usable curve, the first is ADC {adc} ({why}), so that "
            "the die cannot be emulated from it; it can be deployed on all the same"
        )
    stuck = dict(constants(point)) if point.flagged("stuck").any() else {}
    stuck |= dict.fromkeys(unknown, 0)
    u = ideal_inputs(np.arange(mac.sum_min, mac.sum_max + 1), mac)
    positions = code_positions(mac)
    transfer = np.empty((len(point.flags), len(u)), np.int32)
    for j in range(len(point.flags)):
        if j in stuck:
            transfer[j] = stuck[j] << LSB_BITS
            continue
        x, y = _knots(point, j, positions)
        transfer[j] = to_table(_interpolate(u, x, y, float(point.gain[j])))
    noise = point.noise_lsb.copy()
    noise[list(stuck)] = 0.0
    sigma = np.rint(noise * 2.0**LSB_BITS).astype(np.int32)
    return AdcTables(mac, transfer, sigma)


def noise_by_sum(tables: AdcTables, shape: tuple[float, float, float]) -> AdcTables:
    """Converters whose noise depends on the code: sigma^2 in proportion to a + b m + c m^2, m from 0 at the lowest code to 1 at
    the highest, with the mean square over the codes that it had. shape: a, b, c."""
    a, b, c = shape
    mean = a + b / 2 + c / 3
    codes = tables.transfer / 2.0**LSB_BITS
    m = np.clip((codes - tables.mac.code_min) / (tables.mac.code_max - tables.mac.code_min), 0.0, 1.0)
    factor = np.sqrt(np.maximum(a + m * (b + c * m), 0.0) / mean)
    sigma = np.rint(tables.sigma[:, None] * factor).astype(np.int32)
    return AdcTables(tables.mac, tables.transfer, sigma)


def _knots(point: PointResult, adc: int, positions: Float) -> tuple[Float, Float]:
    """Inputs and codes that a converter's curve passes, inputs rising."""
    known = ~np.isnan(point.thresholds[adc])
    outer = np.isfinite(point.outer_inputs[adc])
    below, above = outer & (np.arange(2 * OUTER) < OUTER), outer & (np.arange(2 * OUTER) >= OUTER)
    x, y = point.outer_inputs[adc], point.outer_codes[adc]
    return (
        np.concatenate([x[below], point.thresholds[adc][known], x[above]]),
        np.concatenate([y[below], positions[known], y[above]]),
    )


def _interpolate(u: Float, x: Float, y: Float, slope: float) -> Float:
    """y at u through the points (x, y), x not falling; beyond its ends with `slope`. Equal x are a jump."""
    segment = np.clip(np.searchsorted(x, u, side="right") - 1, 0, len(x) - 2)
    run = x[segment + 1] - x[segment]
    rise = y[segment + 1] - y[segment]
    inside = y[segment] + (u - x[segment]) / np.where(run > 0, run, 1.0) * rise
    inside = np.where(u < x[0], y[0] + (u - x[0]) * slope, inside)
    return np.where(u >= x[-1], y[-1] + (u - x[-1]) * slope, inside)
