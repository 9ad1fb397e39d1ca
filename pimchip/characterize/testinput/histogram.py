"""Code-density tests (IEEE Std 1241 (2010), clause 6.4; Blair, IEEE Trans. Instrum. Meas. 43, 1994): transitions from how
often each code comes under a sine or a ramp.

A sine spends the share arccos(-s) / pi of its time below s, in units of its amplitude about its middle. So with H_k of M
readings below code k, transition k is at s_k = -cos(pi H_k / M). Amplitude and middle are gain and offset, which a line
takes out: INL and DNL need neither. The ends of a sine are steep in H and noise smears them, so transitions beyond
`reach` of the amplitude are left out. A ramp's transitions are at H_k / M of its span.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from pimchip.characterize.estimators import Float
from pimchip.chip import Mac
from pimchip.profile.model import code_positions

REACH = 0.99


def counts_of(codes: NDArray[np.integer], mac: Mac) -> NDArray[np.int64]:
    """How often each code came: int64 [converters, codes] from readings [samples, converters]."""
    size = mac.code_max - mac.code_min + 1
    adcs = codes.shape[1]
    key = (codes.astype(np.int64) - mac.code_min) + np.arange(adcs) * size
    return np.bincount(key.ravel(), minlength=adcs * size).reshape(adcs, size)


def sine_transitions(counts: NDArray[np.integer], reach: float = REACH) -> Float:
    """Transitions in units of the sine's amplitude about its middle: float64 [..., codes - 1] of counts [..., codes]; NaN
    beyond `reach`."""
    place = -np.cos(math.pi * _below(counts))
    return np.asarray(np.where(np.abs(place) <= reach, place, np.nan))


def ramp_transitions(counts: NDArray[np.integer]) -> Float:
    """Transitions in units of the ramp's span, 0 to 1; NaN where the ramp begins above or ends below."""
    share = _below(counts)
    return np.asarray(np.where((share > 0) & (share < 1), share, np.nan))


def line_errors(transitions: Float, mac: Mac) -> tuple[Float, Float]:
    """INL [..., transitions] and DNL [..., transitions - 1], LSB, against the least-squares line through what is not NaN.

    DNL_k is of the code above transition k: (T_(k+1) - T_k) / Q - 1.
    """
    known = np.isfinite(transitions)
    x = np.broadcast_to(code_positions(mac), transitions.shape)
    used = known.astype(np.float64)
    count = np.maximum(used.sum(axis=-1, keepdims=True), 1)
    clean = np.where(known, transitions, 0.0)
    mean_x, mean_t = (used * x).sum(axis=-1, keepdims=True) / count, clean.sum(axis=-1, keepdims=True) / count
    with np.errstate(divide="ignore", invalid="ignore"):
        q = (used * (x - mean_x) * clean).sum(axis=-1, keepdims=True) / (used * (x - mean_x) ** 2).sum(
            axis=-1, keepdims=True
        )
        return (transitions - mean_t) / q - (x - mean_x), np.diff(transitions, axis=-1) / q - 1


def _below(counts: NDArray[np.integer]) -> Float:
    total = counts.sum(axis=-1, keepdims=True)
    return np.asarray(counts.cumsum(axis=-1)[..., :-1] / np.maximum(total, 1), np.float64)
