"""The pass `order`: which output meets which converter. Outputs that hurt most get the quietest and straightest ones.

A placement says where the outputs of a layer are; which output is first is free, as long as all that read them follow.
So the channels of maps are put in another order: for every layer in the array the error that each of its outputs would
have at each place is predicted from the measured curves and noise, weighted with how much that output's errors move the
logits (pimchip.compiler.hurt), and the cheapest assignment is taken. It costs no tile, no pass and no time, and the network
computes the same integers on ideal converters: channels are never carried from one row group of a reader to another.

Maps that are added have one order. It stays as it is where channels are in groups, of the image, of the logits, and of
maps of more than LARGEST channels.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment
from torch import nn

from pimchip.chip import ChipSpec, Mac
from pimchip.chip.adc import LSB_BITS
from pimchip.compiler.checks import NORM_TENSORS
from pimchip.compiler.host_steps import HOST_OPS
from pimchip.compiler.hurt import Seen, look
from pimchip.compiler.ir import Integers
from pimchip.compiler.records import LayerRecord
from pimchip.profile import Profile
from pimchip.profile.model import ideal_inputs

Float = NDArray[np.float64]
Order = NDArray[np.int64]
"""Of a map's channels: which of before is at each place."""
LARGEST = 1024
"""Channels of a map up to which assignments are looked for: they take their square in memory, their cube in time."""


@dataclass(frozen=True)
class Knowledge:
    """What order and ranges rest on: a measured die, and images uint8 [n, c, h, w] as the network will see."""

    profile: Profile
    images: NDArray[np.uint8]


def quietest(profile: Profile) -> list[int]:
    """Macros, those with the smallest errors of their converters at the first point measured before others."""
    point, per_macro = profile.points[0], profile.spec.adc.per_macro
    errors = np.nan_to_num(point.noise_lsb) ** 2 + np.nanmean(point.inl**2, axis=1, where=~np.isnan(point.inl))
    by_macro = np.nan_to_num(errors, nan=0.0).reshape(-1, per_macro).mean(axis=1)
    return [int(macro) for macro in np.argsort(by_macro, kind="stable")]


def order(graph: Integers, placed: Integers, spec: ChipSpec, network: nn.Module, known: Knowledge) -> Integers:
    """The same graph with its channels in another order. placed: the graph as it would be placed."""
    norms = [norm for norm in graph.norms.values() if norm.layer in graph.layers]
    units = {norm.layer: norm.unit for norm in norms if graph.layers[norm.layer].kind == "pim"}
    seen = look(network, known.images, units)
    maps = _classes(graph)
    costs: dict[str, Float] = {}
    for op in graph.ops:
        if op.kind == "pim" and seen.get(op.layer) and seen[op.layer].vectors is not None:
            name = maps[op.name]
            if len(seen[op.layer].hurt) <= LARGEST:
                found = _costs(
                    placed.layers[op.layer], graph.tensors[f"weight.{op.layer}"], seen[op.layer], spec, known
                )
                costs[name] = costs.get(name, 0.0) + found
    labels = _labels(graph, maps)
    orders = {name: _cheapest(cost, labels[name]) for name, cost in costs.items()}
    moved = {name: o for name, o in orders.items() if not np.array_equal(o, np.arange(len(o)))}
    return _applied(graph, {op.name: moved[maps[op.name]] for op in graph.ops if maps[op.name] in moved})


def _classes(graph: Integers) -> dict[str, str]:
    """For every map, one that stands for all that have the order of its channels."""
    parent = {op.name: op.name for op in graph.ops}

    def root(name: str) -> str:
        while parent[name] != name:
            name = parent[name]
        return name

    for op in graph.ops:
        if op.kind in ("requantize", "add", "pool", "lookup"):
            for source in op.inputs:
                parent[root(source)] = root(op.name)
    return {name: root(name) for name in parent}


def _labels(graph: Integers, maps: dict[str, str]) -> dict[str, list[tuple[object, ...]]]:
    """By class, a label for each channel: those of one label may change places."""
    labels: dict[str, list[tuple[object, ...]]] = {}
    for op in graph.ops:
        labels[maps[op.name]] = [(c,) if op.kind == "input" else () for c in range(op.type.shape[0])]
    for c, label in enumerate(labels[maps[graph.output]]):
        labels[maps[graph.output]][c] = (*label, c)
    for op in graph.ops:
        if op.kind in HOST_OPS and op.kind != "lookup":  # which channel is which matters to what it does
            for name in {maps[each] for each in (*op.inputs, op.name)}:
                labels[name] = [(*label, c) for c, label in enumerate(labels[name])]
        if not op.layer:
            continue
        layer, source = graph.layers[op.layer], maps[op.inputs[0]]
        for name in (source, maps[op.name]) if layer.groups > 1 else ():
            labels[name] = [(*label, c) for c, label in enumerate(labels[name])]
        if layer.kind == "pim":
            rows, depth = layer.operating_point().rows, layer.geometry().depth
            each = depth // len(labels[source])
            for c, label in enumerate(labels[source]):
                first, last = c * each // rows, ((c + 1) * each - 1) // rows
                labels[source][c] = (*label, (first,) if first == last else (first, last, c))
    return labels


def _costs(layer: LayerRecord, weights: NDArray[np.int8], seen: Seen, spec: ChipSpec, known: Knowledge) -> Float:
    """float64 [outputs, places]: what each output would add to the logits' mean square error at the place of each."""
    mac, outputs = layer.operating_point(), layer.out_channels
    adc = np.zeros((mac.groups(layer.geometry().depth), outputs * mac.planes), np.int64)
    for t in layer.tiles:
        adc[t.group, t.first_column : t.first_column + t.columns] = spec.adcs_of(t.placement().tile)
    used, at = np.unique(adc, return_inverse=True)
    curves = Curves.of(known.profile, mac, used, alone=len(adc) == 1)
    cells, total = mac.cells(weights), np.zeros((outputs, outputs))
    assert seen.vectors is not None
    places = at.reshape(len(adc), outputs, mac.planes)
    for group in range(len(adc)):
        rows = slice(group * mac.rows, (group + 1) * mac.rows)
        x, held = seen.vectors[:, rows].astype(np.int64), cells[rows].astype(np.float32)
        for index in range(mac.slices):
            digit = (x // mac.digit**index % mac.digit).astype(np.float32)
            errors = curves.errors(digit @ held).reshape(outputs, mac.planes, -1)  # [output, plane, ADC]
            for plane, weight in enumerate(mac.plane_weights):
                total += (float(weight) * mac.digit**index) ** 2 * errors[:, plane][:, places[group, :, plane]]
    return total * seen.hurt[:, None]


@dataclass(frozen=True)
class Curves:
    """Converters over the codes' axis. error: float64 [points, adcs], mean code less the line that BN takes out, LSB;
    variance: the noise's; first, step: sums of the points."""

    mac: Mac
    error: Float
    variance: Float

    @classmethod
    def of(cls, profile: Profile, mac: Mac, used: NDArray[np.int64], *, alone: bool) -> Curves:
        """Of the converters `used`. alone: a column's sum is an output's, whose gain BN takes out; else it is added to those
        of other converters, and only their common gain is."""
        tables = profile.tables(mac, used.tolist())
        sums = np.arange(mac.sum_min, mac.sum_max + 1)
        codes = np.clip(tables.transfer[used] / 2.0**LSB_BITS, mac.code_min, mac.code_max)  # what noise adds is apart
        gain = np.nan_to_num(profile.serving(mac).gain[used], nan=0.0)
        line = gain if alone else np.full(len(gain), gain.mean())
        sigma = tables.sigma[used] / 2.0**LSB_BITS
        spread = np.broadcast_to((sigma if sigma.ndim > 1 else sigma[:, None]) ** 2, codes.shape)
        return cls(mac, (codes - line[:, None] * ideal_inputs(sums, mac)).T, spread.T)

    def errors(self, sums: NDArray[np.float32]) -> Float:
        """Variance of the error, LSB^2, of every column of sums [M, columns] behind every converter: [columns, adcs]."""
        count = len(self.error)
        columns = sums.shape[1]
        index = sums.astype(np.int64) - self.mac.sum_min + count * np.arange(columns)
        share = np.bincount(index.ravel(), minlength=count * columns).reshape(columns, count) / len(sums)
        mean = share @ self.error
        found: Float = np.maximum(share @ (self.error**2 + self.variance) - mean**2, 0.0)
        return found


def _cheapest(cost: Float, labels: list[tuple[object, ...]]) -> Order:
    """The order of least cost in which no channel leaves those of its label."""
    alike = defaultdict[tuple[object, ...], list[int]](list)
    for channel, label in enumerate(labels):
        alike[label].append(channel)
    found = np.arange(len(cost))
    for members in alike.values():
        where = np.array(members)
        outputs, places = linear_sum_assignment(cost[np.ix_(where, where)])
        found[where[places]] = where[outputs]
    return found


def _applied(graph: Integers, orders: dict[str, Order]) -> Integers:
    """Weights and normalizations as of channels in these orders, by map."""
    tensors = dict(graph.tensors)
    for op in graph.ops:
        if not op.layer:
            continue
        layer, name = graph.layers[op.layer], f"weight.{op.layer}"
        w, source = tensors[name], orders.get(op.inputs[0])
        if source is not None:  # inputs are channel-major in the array; of flattened maps all positions of a channel
            by_channel = (
                w.reshape(len(source), -1, w.shape[1]) if layer.kind == "pim" else w.reshape(len(w), len(source), -1)
            )
            w = np.take(by_channel, source, axis=0 if layer.kind == "pim" else 1).reshape(w.shape)
        if op.name in orders:
            w = np.take(w, orders[op.name], axis=1 if layer.kind == "pim" else 0)
            for norm, record in graph.norms.items():
                if record.layer == op.layer:
                    for key in NORM_TENSORS:
                        tensors[f"norm.{norm}.{key}"] = tensors[f"norm.{norm}.{key}"][orders[op.name]]
        tensors[name] = np.ascontiguousarray(w)
    return replace(graph, tensors=tensors, orders=orders)
