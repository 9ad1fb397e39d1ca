"""Drawings of measured converters: one of all, and one of each with its intervals and bands."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from pimchip.files import replacing
from pimchip.profile import PointResult, Profile
from pimchip.profile.model import code_positions
from pimchip.report.plots import ACCENT, FAINT, INK, WARM, curve_family, histograms, new_axes, svg_of


def write_profile_plots(profile: Profile, folder: Path) -> Iterator[tuple[int, int]]:
    """Write overview-RANGE.svg and spread-RANGE.svg of every range and adc-NUMBER.svg of every measured converter.

    Yields files done and files in all, as they come. Raises InputError where one cannot be written.
    """
    points = profile.points
    measured = np.flatnonzero(~np.all([p.flagged("not-measured") for p in points], axis=0)).tolist()
    total, done = 2 * len(points) + len(measured), 0
    for point in points:
        name = f"{point.mac.range_divisor}" + ("" if _alone(points) else f"-{point.mac.adc_bits}bit")
        curves = curve_family(code_positions(point.mac), point.inl, ("code", "INL, LSB"), "")
        spreads = {"gain": point.gain, "offset, LSB": point.offset, "noise, LSB": point.noise_lsb}
        for kind, text in (("overview", curves.svg), ("spread", histograms(spreads, "").svg)):
            _write(folder / f"{kind}-{name}.svg", str(text))
            done += 1
            yield done, total
    for adc in measured:
        _write(folder / f"adc-{adc:03d}.svg", _converter(points, adc))
        done += 1
        yield done, total


def _alone(points: tuple[PointResult, ...]) -> bool:
    return len({p.mac.range_divisor for p in points}) == len(points)


def _write(path: Path, text: str) -> None:
    with replacing(path, "--plot") as temporary:
        temporary.write_text(text, encoding="utf-8")


def _converter(points: tuple[PointResult, ...], adc: int) -> str:
    """INL with pointwise and simultaneous bands, a panel a range; missing codes are marked."""
    canvas, made = new_axes(3.6 * len(points) + 1, 3.0, len(points))
    for axes, point in zip(made, points, strict=True):
        x, inl = code_positions(point.mac), point.inl[adc]
        if point.version >= 3:
            for simultaneous, colour in ((True, "#e3edf7"), (False, "#b5d0ea")):
                low, high = point.band("inl", simultaneous=simultaneous)
                axes.fill_between(x, low[adc], high[adc], color=colour, lw=0)
            gone = point.missing[adc] == 1
            axes.plot(x[gone] + 0.5, np.zeros(int(gone.sum())), "x", color=WARM)
        axes.plot(x, inl, color=ACCENT, lw=1)
        axes.axhline(0, color=FAINT, lw=0.6)
        axes.set_xlabel("code")
        flags = ", ".join(point.flags[adc])
        axes.set_title(f"range 1/{point.mac.range_divisor}" + (f": {flags}" if flags else ""), fontsize=9, color=INK)
    made[0].set_ylabel(f"INL of ADC {adc}, LSB")
    return svg_of(canvas)
