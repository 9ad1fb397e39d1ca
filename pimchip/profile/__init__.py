"""What was measured of a die: data classes, the file format, and the tables others compute with. No measuring."""

from pimchip.profile.array import ArraySection
from pimchip.profile.health import Fault, FaultKind, Health, MacroFaults
from pimchip.profile.model import FLAGS, Counts, PointResult, Record
from pimchip.profile.profile import Profile

__all__ = [
    "FLAGS",
    "ArraySection",
    "Counts",
    "Fault",
    "FaultKind",
    "Health",
    "MacroFaults",
    "PointResult",
    "Profile",
    "Record",
]
