"""Adjusted-precision training (PIM-QAT, arXiv 2209.08617): train at the resolution that a noisy converter really has.

How that is computed from a measured profile is ours; the paper's own rule is not known to us.
"""

from __future__ import annotations

from math import log2
from typing import TYPE_CHECKING

import numpy as np

from pimchip.chip import Mac
from pimchip.errors import InputError

if TYPE_CHECKING:
    from pimchip.profile import Profile


def enob(bits: int, sigma_lsb: float) -> float:
    """Effective number of bits of a converter of `bits` with errors of rms sigma_lsb before rounding.

    Rounding alone has variance 1/12 LSB^2, so ENOB = bits - log2(1 + 12 sigma^2) / 2.
    """
    return bits - 0.5 * log2(1 + 12 * sigma_lsb**2)


def training_bits(wanted: str | None, mac: Mac, profile: Profile | None) -> int:
    """ADC bits to train at: `wanted` as a number, or "auto" from a measured profile; None is the operating point's own.

    auto rounds ENOB with sigma^2 = noise^2 + INL^2 of the profile's operating point, root mean squares over its ADCs that have them.
    """
    if wanted is None:
        return mac.adc_bits
    if wanted != "auto":
        if not (wanted.isascii() and wanted.isdigit()) or not 1 <= int(wanted) <= 16:
            raise InputError(f"--train-adc-bits {wanted!r}: want a number of bits from 1 to 16, or auto")
        return int(wanted)
    if profile is None:
        raise InputError("--train-adc-bits auto reads noise and INL from a measured profile: name it with --profile")
    point = profile.serving(mac)
    if not (np.isfinite(point.noise_lsb) & np.isfinite(point.gain)).any():
        raise InputError(f"profile {profile.path} has no converter with a curve and noise; name a number of bits")
    noise = float(np.nanmean(point.noise_lsb**2))
    inl = float(np.nanmean(point.inl**2))
    return max(2 if mac.signed else 1, round(enob(mac.adc_bits, (noise + inl) ** 0.5)))
