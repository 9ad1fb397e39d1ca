"""Digital correction: what a converter's code says of its input, by converter and code.

Of inputs that are equally likely around a code's place, those that give code k have the mean (T_k + T_(k+1)) / 2, whatever
the noise: its part in the first moment of Phi((u - T_k) / sigma) - Phi((u - T_(k+1)) / sigma) cancels. So a table of these
midpoints is the correction of the least mean square error that needs no more than the code. Beyond the outermost
thresholds it goes on in steps of the fitted gain, but not below sums of 0. An offset below 0 gives one code to all small
sums, which networks have most of, and no table tells them apart: trim comes first, where a chip has it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pimchip.chip import Mac
from pimchip.errors import InputError
from pimchip.profile.model import Float, PointResult, code_positions

FRACTION_BITS_MAX = 16


@dataclass(frozen=True, eq=False)
class Linearizer:
    """value: float64 [adcs, codes], LSB of input on the ideal code axis, by converter and code from mac.code_min on; NaN for
    a converter without a curve."""

    mac: Mac
    value: Float

    def __call__(self, codes: NDArray[np.integer], adcs: NDArray[np.integer]) -> Float:
        """Corrected codes, float64 of codes' shape, LSB. codes: int [..., columns]; adcs: int [columns], of each column.

        InputError for converters that have no curve.
        """
        which = np.asarray(adcs, np.int64)
        if which.min() < 0 or which.max() >= len(self.value):
            raise InputError(f"ADC {int(which.max())}: the correction is of ADC 0..{len(self.value) - 1}")
        missing = which[np.isnan(self.value[which, 0])]
        if len(missing):
            raise InputError(f"ADC {int(missing[0])} has no curve in the profile: its codes cannot be corrected")
        return np.asarray(self.value[which, np.asarray(codes, np.int64) - self.mac.code_min])

    def fixed(self, fraction_bits: int) -> NDArray[np.int32]:
        """The table in steps of 2^-fraction_bits LSB, int32 [adcs, codes], for a board or gateware; 0 without a curve."""
        if not 0 <= fraction_bits <= FRACTION_BITS_MAX:
            raise InputError(f"fraction_bits = {fraction_bits}: want 0..{FRACTION_BITS_MAX}")
        return np.rint(np.nan_to_num(self.value) * 2.0**fraction_bits).astype(np.int32)


def linearizer(point: PointResult) -> Linearizer:
    """The correction that a measured operating point gives."""
    return from_thresholds(point.mac, point.thresholds, point.gain)


def affine(point: PointResult) -> Linearizer:
    """The correction by gain and offset alone, (code - offset) / gain: what the table is to beat."""
    codes = np.arange(point.mac.code_min, point.mac.code_max + 1, dtype=np.float64)
    return Linearizer(point.mac, (codes - point.offset[:, None]) / point.gain[:, None])


def from_thresholds(mac: Mac, thresholds: Float, gain: Float) -> Linearizer:
    """thresholds: float64 [adcs, transitions], NaN outside one run; gain: [adcs], for what lies beyond the run."""
    positions = code_positions(mac)
    value = np.full((len(thresholds), len(positions) + 1), np.nan)
    for j, own in enumerate(thresholds):
        known = ~np.isnan(own)
        if known.sum() < 2 or not np.isfinite(gain[j]):
            continue
        x = np.interp(positions, positions[known], own[known])
        first, last = np.flatnonzero(known)[[0, -1]]
        x = np.where(positions < positions[first], own[first] + (positions - positions[first]) / gain[j], x)
        x = np.where(positions > positions[last], own[last] + (positions - positions[last]) / gain[j], x)
        ends = np.concatenate([[x[0] - 1 / gain[j]], x, [x[-1] + 1 / gain[j]]])
        value[j] = (ends[:-1] + ends[1:]) / 2
        if not mac.signed:  # no sum is below 0: one code for all from there on, as of an offset below 0, has its middle
            value[j, 0] = min(value[j, 0], max(x[0], 0.0) / 2)
    return Linearizer(mac, value)
