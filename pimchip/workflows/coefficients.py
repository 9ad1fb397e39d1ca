"""Gain and offset of converters as linear functions of temperature and supply, from profiles under several conditions.

For each converter, by weighted least squares over the profiles i with standard errors s_i (the profiles' own):

    y_i = y + a (T_i - T0) + b (V_i - V0)

T0 and V0: the reference temperature and the chip's nominal supply. A term is fitted where its condition was varied.

Gain and offset are taken anew from the line through the thresholds that all profiles reach: a curve's ends weigh on its
line, and a die that drifts shows more or fewer of them. The profiles' standard errors are those of their own lines; they
are scaled by what fewer thresholds make of the errors of a line whose points do not depend on each other. What
the profiles' errors do not explain widens all intervals of a quantity alike, by the Birge ratio, the root of the sum of
all converters' chi-square over their degrees of freedom, where it is above one (Birge, Phys. Rev. 40, 207, 1932). It is
also told, for a ratio far above one says that the dependence is no straight line.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pimchip.chip import Mac
from pimchip.chip.parts import REFERENCE_TEMPERATURE
from pimchip.errors import InputError
from pimchip.profile import PointResult, Profile
from pimchip.profile.model import MIN_TRANSITIONS, code_positions

Float = NDArray[np.float64]
TERMS = ("value", "per_kelvin", "per_volt")
LEAST_SPAN = {"per_kelvin": 1.0, "per_volt": 0.005}
"""Kelvin, and volts: conditions that differ by less over all points count as not varied."""
COLLINEAR = 0.95
"""Correlation of temperature and supply over the points, above which their effects are not told apart."""


@dataclass(frozen=True)
class Lines:
    """Of one quantity at one operating point. estimates, half_widths: by TERMS, those fitted, float64 [adcs]; half-widths are
    of 95 % intervals, NaN where a converter has too few results. ratio: Birge's, None where nothing is left over to check
    the line with. dof: degrees of freedom in it."""

    estimates: Mapping[str, Float]
    half_widths: Mapping[str, Float]
    ratio: float | None
    dof: int

    def to_dict(self) -> dict[str, Any]:
        """Plain values."""
        return {
            **{name: values.tolist() for name, values in self.estimates.items()},
            **{f"{name}_half_width": values.tolist() for name, values in self.half_widths.items()},
            "birge_ratio": self.ratio,
            "degrees_of_freedom": self.dof,
        }


@dataclass(frozen=True)
class PointLines:
    """Of one operating point: gain (1, 1/K, 1/V) and offset (LSB, LSB/K, LSB/V)."""

    mac: Mac
    gain: Lines
    offset: Lines


def fit_lines(
    profiles: Sequence[Profile], temperatures: Sequence[float], supplies: Sequence[float | None]
) -> tuple[PointLines, ...]:
    """Lines at each operating point that all profiles have; the conditions are degrees Celsius and volts, profile by profile.

    Raises InputError where profiles are of several dies or share no point, where nothing was varied, where there are fewer
    profiles than terms, and where temperature and supply were varied together so that nobody can tell them apart.
    """
    if len({profile.uid for profile in profiles}) != 1:
        raise InputError("coefficients: profiles of one die are wanted, and of one at least")
    spec = profiles[0].spec
    design = _design(temperatures, supplies, spec.supply.volts)
    found = []
    for mac in [point.mac for point in profiles[0].points]:
        points = [next((p for p in profile.points if p.mac == mac), None) for profile in profiles]
        if any(point is None for point in points):
            continue
        gain, offset = _common([point for point in points if point is not None])
        found.append(PointLines(mac, _lines(design, *gain), _lines(design, *offset)))
    if not found:
        raise InputError("coefficients: the profiles share no operating point")
    return tuple(found)


def _common(points: Sequence[PointResult]) -> tuple[tuple[Float, Float], tuple[Float, Float]]:
    """(gain, its se), (offset, its se), each [points, adcs], from the thresholds that all points reach."""
    thresholds = np.stack([point.thresholds for point in points])
    x = code_positions(points[0].mac)
    reached = np.stack([point.reachable for point in points])
    used = np.asarray(reached.all(axis=0))
    enough = used.sum(axis=1) >= MIN_TRANSITIONS
    count, centre, size = _moments(x, used)
    _, own_centre, own_size = own = _moments(x, reached)
    weight = np.where(used, x - centre[:, None], 0.0)
    clean = np.where(used, thresholds, 0.0)
    q = (weight * clean).sum(axis=2) / size
    a = clean.sum(axis=2) / count - q * centre
    wider_q = np.sqrt(own_size / size)
    wider_a = np.sqrt((1 / count + centre**2 / size) / (1 / own[0] + own_centre**2 / own_size))
    with np.errstate(divide="ignore", invalid="ignore"):
        gain, offset = np.where(enough, 1 / q, np.nan), np.where(enough, -a / q, np.nan)
    gain_se, offset_se = (np.stack([getattr(p, f"{name}_se") for p in points]) for name in ("gain", "offset"))
    return (gain, gain_se * wider_q), (offset, offset_se * wider_a)


def _moments(x: Float, used: NDArray[np.bool_]) -> tuple[Float, Float, Float]:
    """How many codes are used, their mean, and the sum of squares about it; along the last axis, at least tiny."""
    count = np.maximum(used.sum(axis=-1), 1).astype(np.float64)
    centre = (used * x).sum(axis=-1) / count
    size = (used * (x - centre[..., None]) ** 2).sum(axis=-1)
    return count, centre, np.maximum(size, 1e-12)


def _design(temperatures: Sequence[float], supplies: Sequence[float | None], nominal: float) -> dict[str, Float]:
    """The terms and their columns."""
    columns = {"value": np.ones(len(temperatures))}
    warm = np.asarray(temperatures, np.float64) - REFERENCE_TEMPERATURE
    if np.ptp(warm) >= LEAST_SPAN["per_kelvin"]:
        columns["per_kelvin"] = warm
    if None not in supplies:
        surplus = np.array([v for v in supplies if v is not None], np.float64) - nominal
        if np.ptp(surplus) >= LEAST_SPAN["per_volt"]:
            columns["per_volt"] = surplus
    if len(columns) == 1:
        raise InputError(
            f"coefficients: the points span {np.ptp(warm):.2g} K and no supply was varied that is known; vary one of them"
        )
    if len(columns) == 3:
        together = abs(float(np.corrcoef(columns["per_kelvin"], columns["per_volt"])[0, 1]))
        if together > COLLINEAR:
            raise InputError(
                f"coefficients: temperature and supply went together (correlation {together:.2f}), so that their effects "
                "cannot be told apart; measure each supply at each temperature"
            )
    if len(temperatures) < len(columns):
        raise InputError(f"coefficients: {len(temperatures)} points for {len(columns)} terms; measure more points")
    return columns


def _lines(columns: Mapping[str, Float], y: Float, se: Float) -> Lines:
    """y, se: [points, adcs]."""
    from scipy.stats import t as student

    design = np.stack(list(columns.values()), axis=1)
    terms, adcs = design.shape[1], y.shape[1]
    estimates, errors = np.full((terms, adcs), np.nan), np.full((terms, adcs), np.nan)
    left, dof = 0.0, 0
    for j in range(adcs):
        known = np.isfinite(y[:, j]) & (se[:, j] > 0)
        weighted = design[known] / se[known, j, None]
        if known.sum() < terms or np.linalg.matrix_rank(weighted) < terms:
            continue
        inverse = np.linalg.inv(weighted.T @ weighted)
        estimates[:, j] = inverse @ (weighted.T @ (y[known, j] / se[known, j]))
        errors[:, j] = np.sqrt(np.diag(inverse))
        left += float((((y[known, j] - design[known] @ estimates[:, j]) / se[known, j]) ** 2).sum())
        dof += int(known.sum()) - terms
    ratio = math.sqrt(left / dof) if dof else None
    wide = max(1.0, ratio or 0.0)
    quantile = float(student.ppf(0.975, dof if wide > 1 else math.inf))
    names = list(columns)
    return Lines(
        {name: estimates[i] for i, name in enumerate(names)},
        {name: quantile * wide * errors[i] for i, name in enumerate(names)},
        ratio,
        dof,
    )
