"""Sine fits of IEEE Std 1057 (2017, clauses 4.6 and 8): three parameters at a known frequency, four where it is fitted too.

    c_n = A cos(2 pi f n) + B sin(2 pi f n) + C,      f in cycles a sample

SINAD is the sine's power over that of the residual; the effective number of bits compares the residual's rms with that of
an ideal converter's rounding, Q / sqrt(12) with Q = 1 LSB: ENOB = b - log2(rms sqrt(12)), whatever the sine's amplitude.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pimchip.characterize.estimators import Float
from pimchip.errors import InputError

_ITERATIONS, _CONVERGED = 50, 1e-12


@dataclass(frozen=True)
class SineFit:
    """float64 [converters] but for frequency, cycles a sample. amplitude, offset, rms (of the residual): LSB. phase: of the
    cosine at sample 0, radians."""

    frequency: float
    amplitude: Float
    offset: Float
    phase: Float
    rms: Float

    @property
    def sinad(self) -> Float:
        """Signal over noise and distortion, dB."""
        return np.asarray(20 * np.log10(self.amplitude / math.sqrt(2) / self.rms))

    def enob(self, bits: int) -> Float:
        """Effective number of bits of a converter of `bits`."""
        return np.asarray(bits - np.log2(self.rms * math.sqrt(12)))


def fit_sine(codes: NDArray[np.number], frequency: float, *, free: bool = False) -> SineFit:
    """Fit a sine to readings in a row, [samples] or [samples, converters]; the frequency is common to all.

    frequency: cycles a sample, 0 to 1/2. free: fit it too, starting there; it must be within about a quarter of a cycle
    over the record. Raises InputError for too few samples, and where the fit does not converge.
    """
    y = np.asarray(codes, np.float64).reshape(len(codes), -1)
    n = np.arange(len(y), dtype=np.float64)
    if len(y) < 8 or not 0 < frequency < 0.5:
        raise InputError(
            f"a sine of {frequency} cycles a sample over {len(y)} samples: want 0..1/2 and 8 samples or more"
        )
    for _ in range(_ITERATIONS if free else 0):
        angle = 2 * math.pi * frequency * n
        cos, sin = np.cos(angle), np.sin(angle)
        a, b, _c = _linear(cos, sin, y)
        # The gradient by frequency differs from converter to converter, so all are solved together: first the common
        # step, by what is left of it beside each converter's own three parameters.
        slope = 2 * math.pi * n[:, None] * (b * cos[:, None] - a * sin[:, None])
        rest, own = _beside(cos, sin, y), _beside(cos, sin, slope)
        change = float((own * rest).sum() / (own * own).sum())
        frequency += change
        if abs(change) * len(y) < _CONVERGED * len(y) + 1e-9:
            break
    else:
        if free:
            raise InputError(
                f"the sine's frequency does not converge near {frequency:g} cycles a sample: give a nearer one"
            )
    angle = 2 * math.pi * frequency * n
    cos, sin = np.cos(angle), np.sin(angle)
    a, b, c = _linear(cos, sin, y)
    rest = _beside(cos, sin, y)
    parameters = 4 if free else 3
    return SineFit(
        frequency,
        np.hypot(a, b),
        c,
        np.arctan2(-b, a),
        np.sqrt((rest * rest).sum(axis=0) / (len(y) - parameters)),
    )


def _linear(cos: Float, sin: Float, y: Float) -> Float:
    """Least squares of y [samples, k] on cosine, sine and a constant: float64 [3, k]."""
    design = np.stack([cos, sin, np.ones_like(cos)], axis=1)
    return np.asarray(np.linalg.solve(design.T @ design, design.T @ y))


def _beside(cos: Float, sin: Float, y: Float) -> Float:
    """What is left of y beside a sine and a constant."""
    design = np.stack([cos, sin, np.ones_like(cos)], axis=1)
    return np.asarray(y - design @ _linear(cos, sin, y))
