"""What must hold of layers, tensors and tiles, in the compiler's graphs and in programs that are read from files."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pimchip.chip import ChipSpec
from pimchip.compiler.records import LayerRecord, NormRecord, TileRecord
from pimchip.errors import InputError

NORM_TENSORS = ("gamma", "beta", "mean", "var", "bias")
LARGEST = 1 << 26
"""Values of a constant or a table."""
Tensors = Mapping[str, NDArray[Any]]
Corners = tuple[int, int, int, int]
"""Of a tile: its first row and the one after its last, its first column and the one after its last."""


def check_tensors(
    layers: Mapping[str, LayerRecord], norms: Mapping[str, NormRecord], tensors: Tensors, spec: ChipSpec
) -> None:
    """Weights and normalizations of the right names, types, shapes and ranges, and nothing else. Raises InputError."""
    wanted = set[str]()
    for name, layer in layers.items():
        shape: tuple[int, ...] = (layer.out_channels, layer.in_channels, *layer.kernel)
        if layer.kind == "pim":
            shape = (layer.geometry().depth, layer.out_channels)
        wanted.add(_expect(tensors, f"weight.{name}", np.int8, shape))
        if layer.in_channels % layer.groups or layer.out_channels % layer.groups:
            raise InputError(f"layer {name}: {layer.groups} groups do not divide its channels")
        if layer.kind == "pim":
            spec.check(layer.operating_point())
            layer.operating_point().check_weights(tensors[f"weight.{name}"])
            if layer.groups > 1:
                _check_between_groups(name, layer, tensors[f"weight.{name}"])
    for name, norm in norms.items():
        if norm.channels is None and norm.layer not in layers:
            raise InputError(f"normalization {name} is of no layer")
        channels = norm.channels or layers[norm.layer].out_channels
        for key in NORM_TENSORS:
            wanted.add(_expect(tensors, f"norm.{name}.{key}", np.float64, (channels,)))
            if not np.all(np.isfinite(tensors[f"norm.{name}.{key}"])):
                raise InputError(f"normalization {name}: {key} is not finite")
    for name, tensor in tensors.items():
        if name.startswith(("constant.", "table.")):
            wanted.add(_expect(tensors, name, np.int32, tensor.shape))
            if not 0 < tensor.size <= LARGEST or (name.startswith("table.") and (tensor.ndim != 1 or len(tensor) < 2)):
                raise InputError(f"tensor {name} is {list(tensor.shape)}")
    if wanted != tensors.keys():
        raise InputError(f"unexpected tensors {sorted(tensors.keys() - wanted)}")


def _check_between_groups(name: str, layer: LayerRecord, weights: NDArray[Any]) -> None:
    """Weights between channels of two groups are zero."""
    each, outputs = weights.shape[0] // layer.groups, layer.out_channels // layer.groups
    inside = sum(
        np.count_nonzero(weights[g * each : (g + 1) * each, g * outputs : (g + 1) * outputs])
        for g in range(layer.groups)
    )
    if inside != np.count_nonzero(weights):
        raise InputError(f"layer {name}: weights between two of its {layer.groups} groups are not zero")


def _expect(tensors: Tensors, name: str, dtype: type[Any], shape: tuple[int, ...]) -> str:
    tensor = tensors.get(name)
    if tensor is None or tensor.dtype != dtype or tensor.shape != shape:
        seen = "missing" if tensor is None else f"{tensor.dtype} {list(tensor.shape)}"
        raise InputError(f"tensor {name} is {seen}, want {np.dtype(dtype)} {list(shape)}")
    return name


def check_cover(layers: Mapping[str, LayerRecord]) -> None:
    """Each copy of a layer holds each of its row groups and columns once, in the same passes. Raises InputError."""
    for name, layer in layers.items():
        if layer.kind == "digital":
            continue
        mac, depth = layer.operating_point(), layer.geometry().depth
        wanted = np.zeros((mac.groups(depth), layer.out_channels * mac.planes), np.int32)
        for block in layer.blocks():
            wanted[block.group, block.first * mac.planes : (block.first + block.outputs) * mac.planes] = 1
        by_copy = defaultdict[int, list[TileRecord]](list)
        for t in layer.tiles:
            by_copy[t.copy_number].append(t)
        if by_copy and sorted(by_copy) != list(range(len(by_copy))):
            raise InputError(f"layer {name}: its copies have other numbers than 0 to {len(by_copy) - 1}")
        where = None
        for copy in range(max(1, len(by_copy))):
            covered, passes = np.zeros_like(wanted), np.zeros_like(wanted)
            for t in by_copy[copy]:
                columns = slice(t.first_column, t.first_column + t.columns)
                if t.group >= len(covered) or columns.stop > covered.shape[1]:
                    raise InputError(f"layer {name}: a tile lies outside the layer")
                if t.rows != min(mac.rows, depth - t.group * mac.rows):
                    raise InputError(f"layer {name}: a tile has another number of rows than its row group")
                covered[t.group, columns] += 1
                passes[t.group, columns] = min(t.residency, np.iinfo(np.int32).max)
            if np.any(covered != wanted):
                of = f" of copy {copy}" if copy else ""
                raise InputError(f"layer {name}: its tiles{of} do not cover it once")
            if where is not None and np.any(passes != where):
                raise InputError(f"layer {name}: copy {copy} is in other passes than the layer")
            where = passes


def check_tiles(layers: Mapping[str, LayerRecord], passes: int, spec: ChipSpec) -> None:
    """Tiles lie on the chip, within a pass none over another, and those of further copies over none of any pass: copies are
    never reprogrammed. No pass is empty. Raises InputError."""
    array, places = spec.array, defaultdict[tuple[int, int], list[Corners]](list)
    by_macro, copies = defaultdict[int, list[Corners]](list), defaultdict[int, list[Corners]](list)
    for name, layer in layers.items():
        for t in layer.tiles:
            if t.macro >= array.macros or t.row + t.rows > array.rows or t.column + t.columns > array.columns:
                raise InputError(f"layer {name}: a tile lies outside the chip")
            if t.residency >= passes:
                raise InputError(f"layer {name}: a tile is in pass {t.residency} of {passes}")
            corners = (t.row, t.row + t.rows, t.column, t.column + t.columns)
            places[t.residency, t.macro].append(corners)
            by_macro[t.macro].append(corners)
            if t.copy_number:
                copies[t.macro].append(corners)
    filled = len({residency for residency, _ in places})
    if filled != passes:
        raise InputError(f"it takes {passes} passes, and tiles are in {filled}")
    for (residency, macro), held in places.items():
        if _overlaps(held, held) > len(held):  # each lies over itself
            raise InputError(f"macro {macro} in pass {residency}: a tile lies over another")
    for macro, held in copies.items():  # these alone are compared over passes, of which there may be many
        if _overlaps(held, by_macro[macro]) > len(held):
            raise InputError(f"macro {macro}: a tile of a copy lies where another pass has one")


def _overlaps(some: Sequence[Corners], others: Sequence[Corners]) -> int:
    """How many pairs of one of each lie over one another."""
    top, bottom, left, right = np.array(some).T[:, :, None]
    top_2, bottom_2, left_2, right_2 = np.array(others).T
    return int(((top < bottom_2) & (top_2 < bottom) & (left < right_2) & (left_2 < right)).sum())
