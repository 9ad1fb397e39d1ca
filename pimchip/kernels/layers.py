"""A layer of an emulated array on the CPU: its cells, what converts its column sums, and how it runs.

Exact cells behind converters of table, noise, rounding and clipping go through pimchip.kernels.fused, which knows nothing
of torch: loading that takes longer than many a measurement. All else goes through pimchip.kernels.crossbar, which does.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from pimchip.chip.adc import column_stride
from pimchip.chip.layers import Geometry, Requant
from pimchip.chip.mac import Int32, Mac
from pimchip.errors import InputError
from pimchip.kernels import integer
from pimchip.kernels.converters import Converters
from pimchip.kernels.maps import FeatureMap

if TYPE_CHECKING:
    from pimchip.kernels.packing import Bank, Packed


@dataclass(frozen=True)
class Layer:
    """A layer ready to run: its cells, its converters, and both as the fused kernel reads them, where it takes them."""

    cells: NDArray[Any]
    mac: Mac
    geometry: Geometry
    converters: Converters
    packed: Packed | None
    bank: Bank | None


def prepare(cells: NDArray[Any], mac: Mac, geometry: Geometry, converters: Converters, *, raw: bool = False) -> Layer:
    """Get a layer ready. cells: [depth, columns] of integers, with errors where converters.fraction_bits says so.

    Of a layer with copies: [copies * depth, columns], or once if all copies hold the same. raw: for `convert`, one conversion
    a column.
    """
    from pimchip.kernels import packing  # compiled code

    packed = bank = None
    if packing.takes(mac, converters, geometry):
        packed = packing.pack(cells.astype(np.int8), mac, geometry, raw=raw, copies=converters.copies)
        bank = packing.bank(packed, converters)
    return Layer(cells, mac, geometry, converters, packed, bank)


def run(
    layer: Layer, x: FeatureMap, *, epoch: int = 0, first_vector: int = 0, requant: Requant | None = None
) -> FeatureMap:
    """A layer on a map [images, height, width, channels]: int32 recombined codes, requantized where asked for."""
    images, height, width, channels = x.shape
    geometry = layer.geometry
    if requant is not None:
        requant.check_channels(geometry.out_channels)
    positions = int(np.prod(geometry.output_shape((channels, height, width))[1:]))
    groups, slices = layer.mac.groups(geometry.depth), layer.mac.slices
    if (first_vector + images * positions) * groups * slices * column_stride(layer.cells.shape[1]) > 1 << 63:
        raise InputError(f"noise index passes 63 bits: start at an earlier image than vector {first_vector}")
    x = x.feeding(geometry.in_channels)
    if layer.packed is None or layer.bank is None or not x.small:
        from pimchip.kernels import crossbar  # torch

        y = crossbar.unfolded(layer, x, epoch, first_vector)
        return y if requant is None else integer.requantize_map(y, requant)
    from pimchip.kernels import rescale

    inside = requant is not None and rescale.possible(requant, layer.packed.bounds[1])
    y, _ = run_fused(layer, x, epoch, first_vector, requant=requant if inside else None)
    return y if requant is None or inside else integer.requantize_map(y, requant)


def convert(layer: Layer, x: NDArray[np.uint8], *, epoch: int = 0, first_vector: int = 0) -> Int32:
    """Codes int32 [M, columns] of one conversion a column, of a layer prepared `raw`. x: [M, rows] of one DAC slice."""
    if layer.packed is None:
        from pimchip.kernels import crossbar  # torch

        return crossbar.converted(layer, x, epoch, first_vector)
    out = run(layer, FeatureMap.of(x[:, :, None, None], (0, 255)), epoch=epoch, first_vector=first_vector)
    return np.ascontiguousarray(out.rows, np.int32)


def run_fused(
    layer: Layer,
    x: FeatureMap,
    epoch: int,
    first_vector: int,
    *,
    requant: Requant | None = None,
    analog: bool = False,
) -> tuple[FeatureMap, Int32 | None]:
    """fused.run on a layer that it takes."""
    from pimchip.kernels import fused

    assert layer.packed is not None and layer.bank is not None
    seed = layer.converters.seed
    return fused.run(
        x, layer.packed, layer.bank, seed=seed, epoch=epoch, first_vector=first_vector, requant=requant, analog=analog
    )


def codes_and_sums(layer: Layer, x: FeatureMap) -> tuple[FeatureMap, Int32] | None:
    """A layer's recombined codes, and its recombined sums before the ADC, int32 [vectors, outputs], in one pass.

    x: integers [images, height, width, channels]. None where the fused kernel does not do.
    """
    if layer.packed is None:
        return None
    at = layer.converters
    codes, exact = run_fused(layer, x.feeding(layer.geometry.in_channels), at.epoch, at.first_vector, analog=True)
    assert exact is not None
    return codes, exact
