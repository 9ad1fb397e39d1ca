"""Column sums, codes and recombined codes of a crossbar on torch tensors: which kernel does what.

On the CPU, exact cells behind converters of table, noise, rounding and clipping go through pimchip.kernels.layers. All
else is a float matrix product a block of vectors at a time, exact because its integers stay below the mantissa, and
then a conversion of the block: pimchip.kernels.general on the CPU, pimchip.kernels.portable on other devices. Memory
beside inputs and outputs is bounded by a block. Training takes the same way, with ideal converters (`ideal`) or a die's.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import lru_cache
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

from pimchip.chip.adc import AdcTables
from pimchip.chip.correction import REACH, rounded
from pimchip.chip.layers import Geometry
from pimchip.chip.mac import Int8, Int32, Int64, Mac
from pimchip.errors import InputError
from pimchip.kernels import integer, portable, training
from pimchip.kernels.converters import Converters, Place, ideal
from pimchip.kernels.layers import Layer, prepare, run_fused
from pimchip.kernels.maps import WORD, FeatureMap
from pimchip.kernels.training import Moments

Tensor = torch.Tensor

EXACT = 1 << 24
"""Integers below this are exact in float32."""
BLOCK = 1 << 18
"""Column sums held at once."""
UNFOLDED = 1 << 23
"""Inputs of unfolded windows held at once."""


def _check_sums(mac: Mac) -> None:
    if mac.sum_max >= EXACT:
        raise InputError(f"column sums to {mac.sum_max} pass 24 bits: use fewer rows or bits than {mac.describe()}")


def _cell_type(cells: Tensor, mac: Mac, converters: Converters) -> torch.dtype:
    """The float type in which every column sum of these cells, errors included, is exact."""
    if converters.fraction_bits == 0:
        return torch.float32
    largest = float(cells.to(torch.float64).abs().max()) * mac.rows * (mac.digit - 1) if cells.numel() else 0.0
    if largest >= 1 << 53:
        raise InputError(f"column sums with cell errors pass 53 bits: use smaller errors than {largest:.3g} in all")
    return torch.float32 if largest < EXACT else torch.float64


def _exact_type(mac: Mac, groups: int, tables: AdcTables | None = None) -> torch.dtype:
    """The float type that holds every recombined code of `groups` row groups exactly, of converters that correct theirs too."""
    fraction = None if tables is None else tables.corrected
    largest = mac.largest_output(groups) * (1 if fraction is None else REACH << fraction)
    return torch.float32 if largest < EXACT else torch.float64


def unfold(x: Tensor, geometry: Geometry) -> Tensor:
    """The vectors of a convolution. x: [n, c, h, w] float32 of small integers; returns [n * positions, K]."""
    n = x.shape[0]
    x = x.reshape(n, *geometry.input_shape(tuple(x.shape[1:])))
    if geometry.kernel == (1, 1) and geometry.padding == (0, 0):
        x = x[:, :, :: geometry.stride[0], :: geometry.stride[1]]
        return x.permute(0, 2, 3, 1).reshape(-1, geometry.in_channels)
    columns = F.unfold(x, geometry.kernel, geometry.dilation, geometry.padding, geometry.stride)
    return columns.transpose(1, 2).reshape(-1, geometry.depth)


def cells(weights: Tensor, mac: Mac) -> Tensor:
    """Mac.cells on a tensor: weights [K, N] of integers within weight_bits; returns int8 [K, N * planes]."""
    each = _cells_of(mac)
    if weights.device.type == "cpu":  # all planes of a weight as one value, twice as fast as torch's rows
        whole = each.reshape(-1).view(f"V{mac.planes}")
        held = torch.from_numpy(whole.take(weights.numpy().astype(np.intp) - mac.weight_min).view(np.int8))
    else:
        held = torch.from_numpy(each).to(weights.device)[weights.long() - mac.weight_min]
    return held.reshape(weights.shape[0], weights.shape[1] * mac.planes)


@lru_cache(maxsize=64)
def _cells_of(mac: Mac) -> Int8:
    """The cells of every weight from the smallest to the largest, [weights, planes]."""
    return mac.cells(np.arange(mac.weight_min, mac.weight_max + 1)[None]).reshape(-1, mac.planes)


def _blocks(vectors: int, columns: int) -> Iterator[slice]:
    step = max(1, BLOCK // max(columns, 1))
    for first in range(0, vectors, step):
        yield slice(first, min(first + step, vectors))


def _codes(sums: Tensor, mac: Mac, converters: Converters, at: Place) -> Tensor:
    """Codes, float32 [m, columns], of one block of sums, which may be overwritten."""
    if sums.device.type != "cpu":
        return portable.codes(sums, mac, converters, at)
    from pimchip.kernels import general  # loading compiled code takes a moment, and the fused kernel does without

    return general.codes(sums, mac, converters, at)


def pim_matmul(
    x: Tensor,
    cells: Tensor,
    mac: Mac,
    converters: Converters | None = None,
    *,
    analog: bool = False,
) -> tuple[Tensor, Tensor | None]:
    """Recombined codes and, if asked for, the recombined analog sums before the ADC (which are exactly x @ w).

    x: [M, K] of integers 0..2^act_bits - 1, any dtype; cells: [K, columns] of integers from mac.cells, as prepare wants
    them of copies; both on one device. Returns floats [M, N] holding integers, and the same or None: float32, or float64
    where the codes pass 24 bits; with analog, which is training's, always float32, rounded there. converters None: ideal ADCs.
    """
    _check_sums(mac)
    depth, columns = x.shape[1], cells.shape[1]
    outputs = columns // mac.planes
    if cells.shape[0] not in (depth, depth * (1 if converters is None else converters.copies)) or columns % mac.planes:
        raise InputError(
            f"x {list(x.shape)} and cells {list(cells.shape)} do not multiply at {mac.planes} columns an output"
        )
    at = converters or ideal(mac, mac.groups(depth), columns)
    if x.device.type == "cpu" and cells.numel():
        layer = prepare(cells.detach().numpy(), mac, Geometry(depth, outputs), at)
        if layer.packed is not None:
            return _fused_matmul(x, layer, analog)
    return _matmul_by_blocks(x, cells, mac, at, analog=analog)


def _matmul_by_blocks(
    x: Tensor, cells: Tensor, mac: Mac, converters: Converters, *, analog: bool
) -> tuple[Tensor, Tensor | None]:
    """pim_matmul by float products and conversions of blocks of vectors; sums within 24 bits are the caller's care."""
    vectors, depth = x.shape
    outputs, groups = cells.shape[1] // mac.planes, mac.groups(depth)
    exact_type = torch.float32 if analog else _exact_type(mac, groups, converters.tables)
    cells = cells.to(_cell_type(cells, mac, converters))
    y = torch.zeros((vectors, outputs), dtype=exact_type, device=x.device)
    exact = torch.zeros_like(y) if analog else None
    for copy in range(copies := converters.copies):
        first = (copy - converters.first_vector) % copies
        own = slice(first, None, copies)
        held = cells[copy * depth : (copy + 1) * depth] if len(cells) > depth else cells
        to = y[own], None if exact is None else exact[own]
        _add_blocks(x[own], held, mac, converters.of_copy(copy), first, copies, *to)
    return y, exact


def _add_blocks(
    x: Tensor, cells: Tensor, mac: Mac, converters: Converters, first: int, step: int, y: Tensor, exact: Tensor | None
) -> None:
    """Add recombined codes, and sums where asked for, of vectors first, first + step, ... of a call, by one copy of a layer."""
    vectors, depth = x.shape
    columns = cells.shape[1]
    outputs, groups = columns // mac.planes, mac.groups(depth)
    planes = torch.from_numpy(mac.plane_weights).to(y.device, y.dtype)
    unit = 1 << converters.fraction_bits
    for block in _blocks(vectors, columns):
        part = x[block].to(cells.dtype)
        vector = first + block.start * step
        for group in range(groups):
            mask = None if converters.present is None else converters.present[group]
            if mask is not None and not mask.any():
                continue
            rows = slice(group * mac.rows, min((group + 1) * mac.rows, depth))
            inputs = part[:, rows]
            for index in range(mac.slices):
                digit, inputs = _digit(inputs, mac, index)
                sums = digit @ cells[rows]
                factor = planes * float(mac.digit**index)
                if exact is not None:
                    exact[block] += _recombine(sums / unit, factor, outputs)
                codes = _codes(sums, mac, converters, Place(vector, group, index, groups * mac.slices, step))
                if mask is not None:
                    codes *= torch.from_numpy(mask).to(codes.device)
                y[block] += _recombine(codes, factor, outputs)


def unfolded(layer: Layer, x: FeatureMap, epoch: int, first_vector: int) -> FeatureMap:
    """layers.run where the fused kernel does not do, without requantization: by the matrix product of a few images' windows at a time."""
    _check_sums(layer.mac)
    images, height, width, channels = x.shape
    out_c, out_h, out_w = layer.geometry.output_shape((channels, height, width))
    present, fraction = layer.converters.of_copy(0).present, layer.converters.tables.corrected
    groups = layer.mac.groups(layer.geometry.depth) if present is None else int(present.any(axis=1).sum())
    largest = layer.mac.largest_output(groups)
    y = FeatureMap.empty((images, out_h, out_w, out_c), (-largest, largest) if largest < 1 << 31 else WORD)
    cells = _tensor(layer.cells)
    step = max(1, UNFOLDED // (out_h * out_w * layer.geometry.depth))
    for first in range(0, images, step):
        vectors = torch.from_numpy(integer.unfold(x.values[first : first + step], layer.geometry)).to(torch.float32)
        at = replace(layer.converters, epoch=epoch, first_vector=first_vector + first * out_h * out_w)
        out, _ = _matmul_by_blocks(vectors, cells, layer.mac, at, analog=False)
        rows = slice(first * out_h * out_w, first * out_h * out_w + len(vectors))
        total: Int64 | NDArray[np.float64] = out.numpy().astype(np.float64)
        if fraction is not None:
            total = rounded(total.astype(np.int64), fraction, largest)
        y.rows[rows] = integer.to_int32(total, "accumulators")
    return y


def converted(layer: Layer, x: NDArray[np.uint8], epoch: int, first_vector: int) -> Int32:
    """layers.convert where the fused kernel does not do."""
    at = replace(layer.converters, epoch=epoch, first_vector=first_vector)
    return codes(torch.from_numpy(x.astype(np.float32)), _tensor(layer.cells), layer.mac, at).numpy()


def _tensor(cells: NDArray[Any]) -> Tensor:
    return torch.from_numpy(np.require(cells, requirements=["C", "W"]))


def _bytes_map(x: Tensor) -> FeatureMap:
    held = FeatureMap.empty((x.shape[0], 1, 1, x.shape[1]), (0, 255))
    torch.from_numpy(held.rows).copy_(x)
    return held


def _fused_matmul(x: Tensor, layer: Layer, analog: bool) -> tuple[Tensor, Tensor | None]:
    at = layer.converters
    y, exact = run_fused(layer, _bytes_map(x), at.epoch, at.first_vector, analog=analog)
    kind = torch.float32 if analog else _exact_type(layer.mac, layer.mac.groups(x.shape[1]))
    return torch.from_numpy(y.rows).to(kind), None if exact is None else torch.from_numpy(exact).to(torch.float32)


def scaled_and_measured(layer: Layer, x: FeatureMap, gain: NDArray[np.float32]) -> tuple[Tensor, Moments] | None:
    """A layer's recombined codes times gain, and the moments of codes and sums before the ADC, in one pass.

    x: integers [images, height, width, channels]; gain: float32 [outputs]. Returns float32 [n, outputs, h, w],
    channels-last in memory; None where the fused kernel does not do, or moments could pass 63 bits.
    """
    if layer.packed is None or layer.bank is None:
        return None
    from pimchip.kernels import fused

    x, at = x.feeding(layer.geometry.in_channels), layer.converters
    n, h, w, outputs = layer.packed.output_map(x)
    if not layer.packed.measurable(n * h * w):
        return None
    y = training.empty_map((n, outputs, h, w))
    found = fused.run_measured(
        x,
        layer.packed,
        layer.bank,
        gain,
        training.flat(y),
        seed=at.seed,
        epoch=at.epoch,
        first_vector=at.first_vector,
    )
    return y, Moments(n * h * w, *found.astype(np.float64))


def _digit(inputs: Tensor, mac: Mac, index: int) -> tuple[Tensor, Tensor]:
    """The current slice of the inputs and what is left of them after it."""
    if index == mac.slices - 1:
        return inputs, inputs
    rest = torch.floor(inputs / mac.digit)
    return inputs - rest * mac.digit, rest


def _recombine(values: Tensor, factor: Tensor, outputs: int) -> Tensor:
    values = values.to(factor.dtype)
    if len(factor) == 1:
        return values * factor
    return values.view(len(values), outputs, len(factor)) @ factor


def codes(x: Tensor, cells: Tensor, mac: Mac, converters: Converters | None = None) -> Tensor:
    """Codes of one conversion a column: x int [M, rows] of one DAC slice, cells [rows, columns]; int32 [M, columns]."""
    if x.shape[1] != cells.shape[0] or x.shape[1] > mac.rows:
        raise InputError(f"x {list(x.shape)} and cells {list(cells.shape)} do not fit {mac.rows} rows")
    _check_sums(mac)
    at = converters or ideal(mac, 1, cells.shape[1])
    if x.device.type == "cpu" and cells.numel():
        layer = prepare(cells.detach().numpy(), mac, Geometry(x.shape[1], cells.shape[1]), at, raw=True)
        if layer.packed is not None:
            y, _ = run_fused(layer, _bytes_map(x), at.epoch, at.first_vector)
            return torch.from_numpy(y.rows)
    out = torch.empty((x.shape[0], cells.shape[1]), dtype=torch.int32, device=x.device)
    cells = cells.to(_cell_type(cells, mac, at))
    for block in _blocks(x.shape[0], cells.shape[1]):
        sums = x[block].to(cells.dtype) @ cells
        out[block] = _codes(sums, mac, at, Place(block.start, 0, 0, 1)).to(torch.int32)
    return out
