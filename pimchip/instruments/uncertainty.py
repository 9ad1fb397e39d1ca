"""Intervals of measured quantities after the GUM (JCGM 100:2008): scatter by Student t, published bounds as rectangles.

Type A (4.2): the standard uncertainty of a mean of n repeats is s / sqrt(n) with n - 1 degrees of freedom. Type B
(4.3.7): a published bound a, with nothing known but that the error lies within, is a rectangle of standard uncertainty
a / sqrt(3), taken as exactly known. They combine in quadrature (5.1.2); the coverage factor is Student's t at the
effective degrees of freedom of Welch and Satterthwaite (G.4.1, equation G.2b).

Bounds that share a cause (the same meter's gain error in two rails) add up before they are squared (5.2.2, correlation
one); bounds of different causes are independent.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

COVERAGE = 0.95


@dataclass(frozen=True)
class Interval:
    """A value with its expanded uncertainty. All but the two u in the unit of the value.

    type_a, type_b: standard uncertainties; dof: effective degrees of freedom, inf where scatter plays no part;
    half_width: of the 95 % interval. bounds: half-widths of the rectangles by cause.
    """

    value: float
    type_a: float
    type_b: float
    dof: float
    half_width: float
    repeats: int
    bounds: Mapping[str, float]

    @property
    def low(self) -> float:
        """Lower end."""
        return self.value - self.half_width

    @property
    def high(self) -> float:
        """Upper end."""
        return self.value + self.half_width


def combine(values: Sequence[float], bounds: Mapping[str, float]) -> Interval:
    """The mean of repeats with its interval. values: at least two; bounds: half-widths of rectangles by cause."""
    from scipy.stats import t as student

    n = len(values)
    mean = math.fsum(values) / n
    type_a = math.sqrt(math.fsum((v - mean) ** 2 for v in values) / (n - 1) / n)
    type_b = math.sqrt(math.fsum(a * a for a in bounds.values()) / 3)
    both = math.hypot(type_a, type_b)
    dof = (n - 1) * (both / type_a) ** 4 if type_a > 0 else math.inf
    factor = float(student.ppf((1 + COVERAGE) / 2, dof))
    return Interval(mean, type_a, type_b, dof, factor * both, n, dict(bounds))


def shared(parts: Iterable[Mapping[str, float]]) -> dict[str, float]:
    """Bounds of a sum: those of one cause add up."""
    total: dict[str, float] = {}
    for part in parts:
        for cause, bound in part.items():
            total[cause] = total.get(cause, 0.0) + bound
    return total
