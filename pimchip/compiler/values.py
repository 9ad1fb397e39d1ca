"""What flows between nodes while a network is lowered: stored maps, and results whose form is still open."""

from __future__ import annotations

from dataclasses import dataclass

Shape = tuple[int, int, int]
"""(channels, height, width)"""


@dataclass(frozen=True)
class Value:
    """A stored map: integers in low..high, each worth `scale`."""

    buffer: int
    shape: Shape
    scale: float
    low: int
    high: int


@dataclass(frozen=True)
class Pending:
    """Accumulators worth `unit` each, in -acc_max..acc_max, before a normalization."""

    buffer: int
    shape: Shape
    unit: float
    acc_max: int
    layer: str
    norm: str
    relu: bool = False


@dataclass(frozen=True)
class PendingSum:
    """Two wide-compatible maps still to be added; factors to wide units."""

    a: Value
    b: Value
    factors: tuple[int, int]
    scale: float
    relu: bool = False

    @property
    def shape(self) -> Shape:
        return self.a.shape


Result = Value | Pending | PendingSum
