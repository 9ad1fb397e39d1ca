"""One specimen of an instrument: its errors, drawn once within the published accuracy, and the noise of its readings.

An accuracy of +-(r of reading + f) becomes a gain error uniform in +-r and an offset error uniform in +-f, which stay for
the life of the specimen; NOISE times f, normal, comes anew with each reading.
"""

from __future__ import annotations

import math
import zlib
from typing import Final

import numpy as np

NOISE: Final = 0.02
"""Standard deviation of a reading over 1 PLC, in parts of the accuracy's floor; it falls with the root of the PLCs."""


class Specimen:
    """Errors by the name of what is measured or set, the same for a seed and a name whatever was asked before."""

    def __init__(self, seed: int, name: str) -> None:
        self._key = (seed, zlib.crc32(name.encode()))
        self._noise = np.random.default_rng([*self._key, 1])
        self._drawn: dict[str, tuple[float, float]] = {}

    def reading(self, what: str, true: float, accuracy: tuple[float, float], cycles: float = 1.0) -> float:
        """What is read where `true` is there; accuracy: (fraction of reading, floor)."""
        noise = float(self._noise.standard_normal()) * NOISE * accuracy[1] / math.sqrt(cycles)
        return self.fixed(what, true, accuracy) + noise

    def fixed(self, what: str, true: float, accuracy: tuple[float, float]) -> float:
        """The same without noise: of an output that is set."""
        gain, offset = self._errors(what)
        return true * (1 + gain * accuracy[0]) + offset * accuracy[1]

    def _errors(self, what: str) -> tuple[float, float]:
        if what not in self._drawn:
            gain, offset = np.random.default_rng([*self._key, zlib.crc32(what.encode())]).uniform(-1, 1, 2)
            self._drawn[what] = float(gain), float(offset)
        return self._drawn[what]
