"""Pass and fail: a profile against limits from a TOML file."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from pimchip.characterize.summary import converters
from pimchip.errors import InputError, unknown
from pimchip.profile import FaultKind, Health, PointResult, Profile

LIMITS = {
    "max_inl_lsb": "largest magnitude of a converter's INL, LSB",
    "noise_lsb": "noise of one conversion, LSB",
    "gain_error": "gain's distance from 1",
    "offset_lsb": "magnitude of the offset, LSB",
    "max_dnl_lsb": "largest magnitude of a converter's DNL, LSB",
    "missing_codes": "missing codes of a converter",
    "faults": "faults of the die that are not mild, as --health finds them",
    "stuck_cells": "stuck cells of the die, likewise",
    "drift_lsb": "largest drift during the health test, LSB",
}
OF_DIE = ("faults", "stuck_cells", "drift_lsb")
"""Limits on the die, not on each converter at each range; a profile without a health section misses them."""


def load_limits(path: Path) -> dict[str, float]:
    """Limits by name from a TOML file such as `max_inl_lsb = 2.0`. Raises InputError naming a wrong line's key."""
    try:
        found = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(f"limits file {path} is not there") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, OSError) as error:
        raise InputError(f"limits file {path}: {error}") from None
    for name, value in found.items():
        if name not in LIMITS:
            raise InputError(f"limits file {path}: {unknown('limit', name, LIMITS)}")
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < 1e9:
            raise InputError(f"limits file {path}: {name} = {value!r} is no number from 0")
    if not found:
        raise InputError(f"limits file {path} sets no limit; known: {', '.join(LIMITS)}")
    return {name: float(value) for name, value in found.items()}


def check_limits(profile: Profile, limits: Mapping[str, float]) -> list[str]:
    """What misses a limit, one line a limit and point, worst converter named; a converter without a value misses too."""
    misses = [
        f"{name}: {seen}"
        for name, limit in limits.items()
        if name in OF_DIE
        for seen in _of_die(profile.health, name, limit)
    ]
    for point in profile.points:
        where = f"range 1/{point.mac.range_divisor}, {point.mac.adc_bits} bits"
        measured = ~point.flagged("not-measured")
        for name, limit in limits.items():
            if name in OF_DIE:
                continue
            values = np.where(np.isnan(_values(point, name)), np.inf, _values(point, name))
            over = measured & (values > limit)
            if over.any():
                worst = int(np.argmax(np.where(measured, values, -np.inf)))
                seen = "unknown" if np.isinf(values[worst]) else f"{values[worst]:.3f}"
                misses.append(
                    f"{name} at {where}: {converters(int(over.sum()))} over {limit:g}, worst ADC {worst} at {seen}"
                )
    return misses


def _of_die(health: Health | None, name: str, limit: float) -> list[str]:
    if health is None:
        return ["unknown: the profile says nothing of the die's health (characterize it with --health)"]
    if name == "drift_lsb":
        drifts = health.of(FaultKind.DRIFT)
        worst = max(drifts, key=lambda f: f.size or 0.0, default=None)
        over = worst is not None and (worst.size or 0.0) > limit
        return [f"{worst.size:.3f} over {limit:g}, {worst.place}"] if over and worst is not None else []
    found = health.of(FaultKind.STUCK_CELL) if name == "stuck_cells" else health.severe
    return [f"{len(found)} over {limit:g}, the first {found[0]}"] if len(found) > limit else []


def _values(point: PointResult, name: str) -> np.ndarray:
    return {
        "max_inl_lsb": point.max_inl,
        "noise_lsb": point.noise_lsb,
        "gain_error": np.abs(point.gain - 1),
        "offset_lsb": np.abs(point.offset),
        "max_dnl_lsb": _largest(np.abs(point.dnl), len(point.flags)),
        "missing_codes": _count(point.missing, len(point.flags)),
    }[name]


def _largest(values: np.ndarray, adcs: int) -> np.ndarray:
    """Of each converter, NaN where nothing is known, as in profiles that state none."""
    if values.shape[:1] != (adcs,):
        return np.full(adcs, np.nan)
    known = ~np.isnan(values).all(axis=1)
    return np.where(known, np.where(np.isnan(values), 0.0, values).max(axis=1, initial=0.0), np.nan)


def _count(missing: np.ndarray, adcs: int) -> np.ndarray:
    """Missing codes of each converter, NaN where nothing is known."""
    if missing.shape[:1] != (adcs,):
        return np.full(adcs, np.nan)
    return np.where(np.isnan(missing).all(axis=1), np.nan, np.nansum(missing, axis=1))


def parse_adcs(text: str, count: int) -> list[int]:
    """ "0,3,8-15" as numbers, each once, rising. Raises InputError naming the part that is wrong."""
    found: set[int] = set()
    for part in text.split(","):
        first, dash, last = part.strip().partition("-")
        if not (part.isascii() and first.isdigit()) or (dash and not last.isdigit()):
            raise InputError(f"--adcs {text!r}: {part!r} is no number or range; write 0,3,8-15")
        low, high = int(first), int(last) if dash else int(first)
        if low > high or high >= count:
            raise InputError(f"--adcs {text!r}: {part!r} is outside 0-{count - 1}")
        found |= set(range(low, high + 1))
    return sorted(found)
