"""Accuracy with its interval."""

from __future__ import annotations

from dataclasses import dataclass
from math import sqrt
from typing import Any

import numpy as np
from numpy.typing import NDArray

Z95 = 1.959963984540054


@dataclass(frozen=True)
class Accuracy:
    """right of images, with the Wilson 95 % interval (Wilson, JASA 1927)."""

    right: int
    images: int

    @property
    def value(self) -> float:
        """The fraction."""
        return self.right / self.images

    @property
    def interval(self) -> tuple[float, float]:
        """Lower and upper bound, fractions."""
        n, p, z2 = self.images, self.value, Z95 * Z95
        middle = (p + z2 / (2 * n)) / (1 + z2 / n)
        half = Z95 / (1 + z2 / n) * sqrt(p * (1 - p) / n + z2 / (4 * n * n))
        return max(0.0, middle - half), min(1.0, middle + half)

    def __str__(self) -> str:
        low, high = self.interval
        return f"{100 * self.value:.1f} % ({100 * low:.1f} to {100 * high:.1f})"

    def keys(self, name: str) -> dict[str, Any]:
        """{name: fraction, name_interval: [low, high]} for JSON."""
        return {name: self.value, f"{name}_interval": list(self.interval)}


def accuracy(logits: NDArray[Any], labels: NDArray[np.int64]) -> Accuracy:
    """Of logits [n, classes] (first maximum wins) against labels [n]."""
    return Accuracy(int((logits.argmax(axis=1) == labels).sum()), len(labels))
