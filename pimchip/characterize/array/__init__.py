"""What is measured of an array and of its noise beside the converters' curves: cells, rows, DAC, load, and where noise comes from.

A measurement is a module; each gives data classes of estimates with standard errors and 95 % intervals, and refuses by
name what the chip or the data do not tell, with what would.
"""

from pimchip.characterize.array.components import Components, components
from pimchip.characterize.array.dac import DacResult, measure_dac
from pimchip.characterize.array.estimate import Estimate
from pimchip.characterize.array.flicker import FlickerResult, measure_flicker
from pimchip.characterize.array.load import LoadResult, measure_load, range_load
from pimchip.characterize.array.noise import NoiseByCode, noise_by_code
from pimchip.characterize.array.origins import Origins, origins
from pimchip.characterize.array.rows import RowsResult, measure_rows
from pimchip.characterize.array.run import MEASUREMENTS, ArrayResult, check_told, measure_array, parse_measurements

__all__ = [
    "MEASUREMENTS",
    "ArrayResult",
    "Components",
    "DacResult",
    "Estimate",
    "FlickerResult",
    "LoadResult",
    "NoiseByCode",
    "Origins",
    "RowsResult",
    "components",
    "check_told",
    "measure_array",
    "measure_dac",
    "measure_flicker",
    "measure_load",
    "measure_rows",
    "noise_by_code",
    "origins",
    "parse_measurements",
    "range_load",
]
