"""Layer-by-layer comparison of a deployed network: how good each layer is on the chip, and why it is not better."""

from pimchip.runtime.comparison.layers import Comparison, LayerComparison, compare
from pimchip.runtime.comparison.suspects import Cause, Suspect

__all__ = ["Cause", "Comparison", "LayerComparison", "Suspect", "compare"]
