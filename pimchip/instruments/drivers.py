"""Drivers by the name that a bench file gives them."""

from __future__ import annotations

from collections.abc import Mapping

from pimchip.errors import InputError, unknown
from pimchip.instruments.generators import Keysight33500, RigolDG1000Z
from pimchip.instruments.multimeters import KeithleyDMM6500, KeysightTruevolt
from pimchip.instruments.roles import Limit
from pimchip.instruments.scpi import ScpiInstrument
from pimchip.instruments.sourcemeters import Keithley2400, Keithley2450
from pimchip.instruments.supplies import KeysightE36300, RigolDP800
from pimchip.instruments.thermometers import Keysight34970A, LakeShore218
from pimchip.instruments.visa import Connect, LineOptions

DRIVERS: dict[str, type[ScpiInstrument]] = {
    "rigol-dp800": RigolDP800,
    "keysight-e36300": KeysightE36300,
    "keithley-2400": Keithley2400,
    "keithley-2450": Keithley2450,
    "keysight-truevolt": KeysightTruevolt,
    "keithley-dmm6500": KeithleyDMM6500,
    "keysight-33500": Keysight33500,
    "rigol-dg1000z": RigolDG1000Z,
    "keysight-34970a": Keysight34970A,
    "lakeshore-218": LakeShore218,
}


def driver_class(name: str) -> type[ScpiInstrument]:
    """The class of a driver; InputError with near names."""
    if name not in DRIVERS:
        raise InputError(unknown("driver", name, DRIVERS))
    return DRIVERS[name]


def open_instrument(
    driver: str,
    name: str,
    resource: str,
    limits: Mapping[int, Limit],
    connect: Connect,
    timeout: float = 5.0,
    library: str = "@py",
) -> ScpiInstrument:
    """Connect and identify. Raises DeviceError, also where another model answers; then the line is closed again."""
    kind = driver_class(driver)
    line = connect(name, resource, LineOptions(timeout, library, kind.TERMINATOR, kind.SERIAL))
    try:
        return kind(line, limits)
    except BaseException:
        line.close()
        raise
