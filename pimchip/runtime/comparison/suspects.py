"""Why a tile's codes are not what they should be: rules from what a fault does to the codes, not from any hidden truth.

Each column is compared with what sound parts would give for the same inputs (TileCodes.expected, with its bounds). What
most columns of a converter share is of the converter, what one column has is of that bitline, and what follows one
row's inputs over all columns is of that wordline.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum

import numpy as np
from numpy.typing import NDArray

from pimchip.runtime.comparison.columns import Float, TileCodes

OUT_SHARE = 0.1
"""Share of vectors outside their bounds from which a column counts as off."""
FLAT = 0.5
"""LSB: codes that vary by less beside their noise, while what they should be varies by more than SPAN, are constant."""
SPAN = 3.0
"""LSB."""
ALIKE = 0.9
"""Correlation with what another column should give, from which a column counts as that one's."""
UNLIKE = 0.75
"""Correlation with what it should give, below which a column does not follow its own sums. Of what is not common to all
columns: all rise with the total drive of the rows."""
BOTH = 0.1
"""Share of reads in which either value of a bit is expected, from which a bit that never changes is stuck."""
SATURATED = 0.3
"""Slope over the upper half of the range against the lower half, below which a converter saturates."""
ROW_SHARE = 0.4
"""Share of its contribution that a row must lack, or have too much of, to be named."""
ROW_SIGMAS = 8.0
"""Standard errors that it must be: there are thousands of rows."""
FEWEST = 4
"""Sound columns in which rows are looked for."""
CLIPPED = 0.01
"""Share of sums beyond the range from which the range is named."""


class Cause(StrEnum):
    """What can be wrong."""

    DEAD_ADC = "dead converter"
    DEAD_COLUMN = "dead column"
    STUCK_BIT = "stuck bit"
    NOISE = "noise"
    SATURATION = "saturation"
    GAIN = "gain"
    OFFSET = "offset"
    PLACEMENT = "wrong placement"
    ROW = "wordline"
    CLIPPING = "clipping"
    ARITHMETIC = "arithmetic"


@dataclass(frozen=True)
class Suspect:
    """A suspected cause, and where: macro; converter, columns and row of the macro where these are concerned."""

    cause: Cause
    text: str
    macro: int | None = None
    adc: int | None = None
    columns: tuple[int, ...] = ()
    row: int | None = None


def suspects(found: TileCodes) -> list[Suspect]:
    """What is wrong in a tile, the surest first; nothing where all columns lie within their bounds."""
    return [*_converters(found), *_rows(found)]


def _converters(found: TileCodes) -> Iterator[Suspect]:
    mean, scatter = found.mean, found.scatter
    off = ((mean < found.low) | (mean > found.high)).mean(axis=0) > OUT_SHARE
    span = found.expected.max(axis=0) - found.expected.min(axis=0)
    # A column of small sums behind a converter with an offset below them is constant too, within its bounds.
    flat = off & (mean.std(axis=0) < FLAT + scatter / np.sqrt(len(found.codes))) & (span > SPAN)
    flat &= np.abs(_slopes(found.expected, mean)) * span < SPAN
    noisy = scatter > found.noise_limit
    strange = off | noisy
    own = np.where(span > FLAT, _own(found, mean), 1.0)
    related = _related(found, np.flatnonzero(strange & ~flat & (span > FLAT)), mean, own)
    for adc in np.unique(found.adc).tolist():
        columns = np.flatnonzero(found.adc == adc)
        bit = _stuck(found, columns[~flat[columns]])
        if bit is not None:
            yield _of_adc(found, adc, Cause.STUCK_BIT, f"bit {bit} of its codes never changes")
            continue
        bad = columns[strange[columns]]
        # Columns of which hardly anything is asked tell nothing.
        asked = columns[(span[columns] > SPAN) | strange[columns]]
        whole = len(bad) > 1 and len(bad) >= 0.75 * len(asked)
        if whole and not any(c in related for c in bad.tolist()):
            yield _whole(found, adc, bad, mean, own, flat, noisy)
            continue
        for column in bad.tolist():
            yield _single(found, adc, column, mean, own, flat, noisy, related)


def _whole(
    found: TileCodes,
    adc: int,
    bad: NDArray[np.intp],
    mean: Float,
    own: Float,
    flat: NDArray[np.bool_],
    noisy: NDArray[np.bool_],
) -> Suspect:
    """Of a converter: the cause that most of its columns show."""
    if flat[bad].mean() > 0.5:
        return _of_adc(found, adc, Cause.DEAD_ADC, f"it gives code {np.median(mean[:, bad]):.3g} whatever comes")
    x, y = found.expected[:, bad].ravel(), mean[:, bad].ravel()
    gain, offset = _line(x, y)
    if noisy[bad].mean() > 0.5:
        seen = float(np.sqrt((found.scatter[bad] ** 2).mean()))
        return _of_adc(
            found,
            adc,
            Cause.NOISE,
            f"repeated reads scatter by {seen:.2g} LSB; up to {found.noise_limit:.2g} is expected",
        )
    limit = _saturates(x, y)
    if limit is not None:
        return _of_adc(found, adc, Cause.SATURATION, f"its codes stop at {limit:.3g}")
    if (alike := float(np.median(own[bad]))) < UNLIKE:
        text = (
            f"its columns do not follow their sums (correlation {alike:.2f}): their cells or inputs are not the layer's"
        )
        return _of_adc(found, adc, Cause.PLACEMENT, text)
    return _gain_or_offset(found, adc, x, gain, offset, ())


def _single(
    found: TileCodes,
    adc: int,
    column: int,
    mean: Float,
    own: Float,
    flat: NDArray[np.bool_],
    noisy: NDArray[np.bool_],
    related: dict[int, int],
) -> Suspect:
    """Of one bitline."""
    at = (found.tile.column + column,)
    x, y = found.expected[:, column], mean[:, column]
    if flat[column]:
        text = f"column {at[0]} gives code {np.median(y):.3g} whatever comes: nothing of its cells arrives"
        return Suspect(Cause.DEAD_COLUMN, f"macro {found.tile.macro}: {text}", found.tile.macro, adc, at)
    if column in related:
        other = found.tile.column + related[column]
        text = f"column {at[0]} gives what column {other} should"
        return Suspect(Cause.PLACEMENT, f"macro {found.tile.macro}: {text}", found.tile.macro, adc, at)
    gain, offset = _line(x, y)
    if noisy[column]:
        return Suspect(
            Cause.NOISE, f"macro {found.tile.macro}: reads of column {at[0]} scatter", found.tile.macro, adc, at
        )
    if own[column] < UNLIKE:
        text = (
            f"column {at[0]} does not follow its sums (correlation {own[column]:.2f}): "
            "its cells or inputs are not the layer's"
        )
        return Suspect(Cause.PLACEMENT, f"macro {found.tile.macro}: {text}", found.tile.macro, adc, at)
    return _gain_or_offset(found, adc, x, gain, offset, at)


def _gain_or_offset(
    found: TileCodes, adc: int, x: Float, gain: float, offset: float, columns: tuple[int, ...]
) -> Suspect:
    """Whichever moves the codes more over the range that is used."""
    reach = float(np.abs(x).max(initial=0.0))
    cause = Cause.GAIN if abs(gain - 1) * reach > abs(offset) else Cause.OFFSET
    text = f"gain {gain:.2f}, offset {offset:+.1f} LSB"
    if not columns:
        return _of_adc(found, adc, cause, text)
    return Suspect(cause, f"macro {found.tile.macro}: column {columns[0]}: {text}", found.tile.macro, adc, columns)


def _of_adc(found: TileCodes, adc: int, cause: Cause, text: str) -> Suspect:
    columns = tuple((found.tile.column + np.flatnonzero(found.adc == adc)).tolist())
    return Suspect(cause, f"macro {found.tile.macro}: ADC {adc}: {text}", found.tile.macro, adc, columns)


def _line(x: Float, y: Float) -> tuple[float, float]:
    """Least squares y = gain * x + offset; a gain of 1 where x does not vary."""
    dx = x - x.mean()
    power = float(dx @ dx)
    gain = float(dx @ (y - y.mean())) / power if power > 1e-12 else 1.0
    return gain, float(y.mean() - gain * x.mean())


def _saturates(x: Float, y: Float) -> float | None:
    """The code at which the answer stops although the sums go on; None where it does not stop."""
    level = float(np.median(y[x >= np.quantile(x, 0.7)]))
    below, above = x < level - SPAN / 2, x > level + SPAN / 2
    if min(below.sum(), above.sum()) < FEWEST:
        return None
    lower, upper = _line(x[below], y[below])[0], _line(x[above], y[above])[0]
    return level if lower > 2 * SATURATED and upper < SATURATED * lower else None


def _specific(found: TileCodes, values: Float) -> Float:
    """Columns [V, n] without what all share, a line of the vector's total drive, each scaled to length 1 (or 0)."""
    drive = found.digits.sum(axis=1).astype(np.float64)
    drive = drive - drive.mean()
    centred = values - values.mean(axis=0)
    power = float(drive @ drive)
    if power > 0:
        centred = centred - np.outer(drive, drive @ centred / power)
    size = np.sqrt((centred**2).sum(axis=0))
    return np.asarray(centred / np.where(size > 1e-9, size, np.inf))


def _own(found: TileCodes, mean: Float) -> Float:
    """Correlation of each column's codes with what it should give, in what is not common to all columns."""
    return np.asarray((_specific(found, mean) * _specific(found, found.expected)).sum(axis=0))


def _related(found: TileCodes, strange: NDArray[np.intp], mean: Float, own: Float) -> dict[int, int]:
    """Strange columns that follow another column's sums far better than their own."""
    if not len(strange):
        return {}
    alike = _specific(found, mean[:, strange]).T @ _specific(found, found.expected)
    best = alike.argmax(axis=1)
    return {
        column: int(best[i])
        for i, column in enumerate(strange.tolist())
        if own[column] < UNLIKE and alike[i, best[i]] > max(ALIKE, own[column] + 0.2)
    }


def _stuck(found: TileCodes, columns: NDArray[np.intp]) -> int | None:
    """A bit of a converter's words that has one value in all reads, although both are to be expected; None without one."""
    if not len(columns):
        return None
    words = (found.codes[:, :, columns] - found.mac.code_min).ravel()
    reach = int(words.max() - words.min())
    wanted = np.rint(found.expected[:, columns] - found.mac.code_min).astype(np.int64).ravel()
    for bit in range(found.mac.adc_bits):
        up = float((wanted >> bit & 1).mean())
        constant = len(np.unique(words >> bit & 1)) == 1
        if constant and min(up, 1 - up) > BOTH and reach > 1 << bit:
            return bit
    return None


def _rows(found: TileCodes) -> Iterator[Suspect]:
    """Rows whose inputs explain what all columns lack: least squares of the error on each row's own contribution."""
    error = found.mean - found.expected
    inside = (found.ideal > found.mac.code_min) & (found.ideal < found.mac.code_max)
    sound = ((found.mean < found.low) | (found.mean > found.high)).mean(axis=0) <= OUT_SHARE
    keep = sound if sound.sum() >= FEWEST else np.ones_like(sound)  # what is wrong with all may be a row's
    cells = found.cells[:, keep].astype(np.float64)
    residual = np.where(inside, error, 0.0)[:, keep]
    residual = residual - _explained(found.expected[:, keep], residual)
    x = found.digits.astype(np.float64) / found.mac.scale
    x = x - x.mean(axis=0)
    residual = residual - residual.mean(axis=0)
    power = (x**2).sum(axis=0) * (cells**2).sum(axis=1)
    with np.errstate(divide="ignore", invalid="ignore"):
        missing = -((x.T @ residual) * cells).sum(axis=1) / power
        error_bar = np.sqrt((residual**2).mean() / power)
        clear = (np.abs(missing) > ROW_SHARE) & (np.abs(missing) > ROW_SIGMAS * error_bar)
    for row in np.flatnonzero(clear & (power > 0)).tolist():
        at = found.tile.row + row
        share = 100 * missing[row]
        text = f"row {at} adds {abs(share):.0f} % {'less' if share > 0 else 'more'} than it should in all columns"
        yield Suspect(Cause.ROW, f"macro {found.tile.macro}: {text}", found.tile.macro, row=at)


def _slopes(x: Float, y: Float) -> Float:
    """Of least-squares lines of y by column, 0 where x does not vary."""
    dx = x - x.mean(axis=0)
    power = (dx**2).sum(axis=0)
    return np.asarray((dx * y).sum(axis=0) / np.where(power > 0, power, np.inf))


def _explained(x: Float, y: Float) -> Float:
    """Of y, what a line of x by column explains: gains and offsets are no row's."""
    return np.asarray((x - x.mean(axis=0)) * _slopes(x, y) + y.mean(axis=0))
