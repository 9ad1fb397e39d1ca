"""What a PIM chip is: specs, the three schemes and the integer chip model. Pure arithmetic, no torch."""

from pimchip.chip.adc import AdcTables, ideal_tables
from pimchip.chip.layers import Geometry, PimLayer, Placement, Requant, Run, Tile
from pimchip.chip.mac import Mac, Scheme
from pimchip.chip.spec import ChipSpec, known_chips, load_chip

__all__ = [
    "AdcTables",
    "ChipSpec",
    "Geometry",
    "Mac",
    "PimLayer",
    "Placement",
    "Requant",
    "Run",
    "Scheme",
    "Tile",
    "ideal_tables",
    "known_chips",
    "load_chip",
]
