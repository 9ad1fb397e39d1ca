"""The golden check's part of what the host does: plain arithmetic of whole numbers without bounds, and of reals.

Slow on purpose, and without a line of pimchip.kernels.tokens: whole numbers are Python's, one value after another.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from pimchip.chip.mac import Int64
from pimchip.compiler.ir import Along, IntegerOp, Integers, Join, Lookup, Moved, Network, NetworkOp, Product, Times
from pimchip.errors import BadResult

Float = NDArray[np.float64]


def slack(op: IntegerOp, graph: Integers) -> float:
    """Steps by which a step of the host may be off beyond its own rounding: of its tables, of 24 bits of a normalization."""
    detail = op.detail
    if isinstance(detail, Lookup):
        return 0.75
    if isinstance(detail, Along):
        count = graph.types[op.inputs[0]].shape[detail.axis]
        return 0.5 if detail.table else math.sqrt(count) * 2.0 ** (21 - _kept(count))
    return 0.0


def host_real(op: IntegerOp, read: list[Float], network: Network) -> Float:
    """What a step of the host's means, of the reals that it read."""
    detail = op.detail
    if isinstance(detail, Product | Times):
        product: Float = read[0] @ read[1] if isinstance(detail, Product) else read[0] * read[1]
        return product
    x = torch.from_numpy(read[0])
    if isinstance(detail, Lookup):
        source = next(each for each in network.ops if each.name == op.of)
        function = source.module or source.run
        assert function is not None
        with torch.no_grad():
            made: Float = function(x).numpy()
        return made
    assert isinstance(detail, Along)
    source = next(each for each in network.ops if each.name == op.of)
    if detail.table:
        kept = source.detail[1]
        if kept is not None:
            x = x.masked_fill(~(kept.T[..., None] if kept.ndim == 2 else kept), -math.inf)
        return torch.softmax(x, detail.axis + 1).numpy()
    assert isinstance(source.module, nn.LayerNorm | nn.GroupNorm)
    centred = x - x.mean(detail.axis + 1, keepdim=True)
    variance = (centred * centred).mean(detail.axis + 1, keepdim=True)
    return (centred / torch.sqrt(variance + source.module.eps)).numpy()


def normalized(source: NetworkOp, x: Float) -> Float:
    """Gammas and betas of a normalization of tokens or of groups of channels, on [n, features, ...]."""
    module = source.module
    assert isinstance(module, nn.LayerNorm | nn.GroupNorm)
    sides = (1, -1, *[1] * (x.ndim - 2))
    weight, bias = (
        None if p is None else p.detach().double().numpy().reshape(sides) for p in (module.weight, module.bias)
    )
    y: Float = x if weight is None else x * weight
    shifted: Float = y if bias is None else y + bias
    return shifted


def host_integers(op: IntegerOp, read: list[Int64], graph: Integers) -> Int64:
    """What a step of the host's gives for the integers that it read."""
    detail, t, x = op.detail, op.type, read[0]
    if isinstance(detail, Moved):
        parts = x.reshape(len(x), *detail.split)
        for axis, (start, stop) in enumerate(detail.cut):
            parts = np.take(parts, range(start, stop), axis + 1)
        return np.transpose(parts, (0, *(axis + 1 for axis in detail.order))).reshape(len(x), *detail.shape)
    if isinstance(detail, Join):
        return np.concatenate(read, detail.axis + 1)
    if isinstance(detail, Product | Times):
        factors = x.astype(object), read[1].astype(object)
        total = np.matmul(*factors) if isinstance(detail, Product) else np.multiply(*factors)
        half = (1 << detail.shift) >> 1
        return _each(total, lambda v: min(max((v + half) >> detail.shift, t.low), t.high))
    if isinstance(detail, Lookup):
        nodes = graph.tensors[f"table.{detail.table}"].tolist()
        return _each(x, lambda v: min(max(_function(nodes, v, detail), t.low), t.high))
    if not isinstance(detail, Along):
        raise BadResult(f"{op.name}: no reference computes it")
    rows = np.moveaxis(x, detail.axis + 1, -1)
    nodes = graph.tensors[f"table.{detail.table}"].tolist() if detail.table else []
    kept = np.broadcast_to(graph.tensors[f"constant.{detail.mask}"] if detail.mask else 1, x.shape)
    shares = np.moveaxis(kept, detail.axis + 1, -1).reshape(-1, rows.shape[-1]).tolist()
    out = [
        _shares(row, some, nodes, detail.shift) if nodes else _normal(row, detail.epsilon)
        for row, some in zip(rows.reshape(-1, rows.shape[-1]).tolist(), shares, strict=True)
    ]
    return np.moveaxis(np.array(out, np.int64).reshape(rows.shape), -1, detail.axis + 1)


def _each(x: NDArray[Any], function: Callable[[int], int]) -> Int64:
    found: Int64 = np.vectorize(function, otypes=[np.int64])(x.astype(object))
    return found


def _line(nodes: list[int], at: int, shift: int) -> int:
    """On the straight lines through nodes that are 2^shift apart."""
    i = min(max(at >> shift, 0), len(nodes) - 2)
    return nodes[i] + (((nodes[i + 1] - nodes[i]) * (at - (i << shift)) + ((1 << shift) >> 1)) >> shift)


def _function(nodes: list[int], x: int, detail: Lookup) -> int:
    """A function by its table, or beyond it on the way to what it is at the ends of all integers."""
    last = detail.first + ((len(nodes) - 1) << detail.shift)
    if detail.first <= x <= last:
        return _line(nodes, x - detail.first, detail.shift)
    edge, node, end = (detail.first, nodes[0], detail.ends[0]) if x < 0 else (last, nodes[-1], detail.ends[1])
    span = (1 << 30) - abs(edge)
    return node + ((end - node) * abs(x - edge) + span // 2) // span


def _shares(row: list[int], kept: list[int], nodes: list[int], shift: int) -> list[int]:
    most, last = max(v for v, one in zip(row, kept, strict=True) if one), (len(nodes) - 1) << shift
    e = [_line(nodes, min(most - v, last), shift) if one else 0 for v, one in zip(row, kept, strict=True)]
    return [((v << 20) + sum(e) // 2) // sum(e) for v in e]


def _kept(count: int) -> int:
    """Bits that each of so many values keeps while they are normalized."""
    return next(bits for bits in range(24, 0, -1) if count.bit_length() + 2 * bits <= 61)


def _normal(row: list[int], epsilon: int) -> list[int]:
    count = len(row)
    d = [count * v - sum(row) for v in row]
    k = max(max(map(abs, d)).bit_length() - _kept(count), 0)
    e = [(v + ((1 << k) >> 1)) >> k for v in d]
    a = max(sum(v * v for v in e) + (epsilon >> min(2 * k, 62)), 1)
    s = (62 - a.bit_length()) // 2
    root = math.isqrt((a << (2 * s)) // count)
    return [((v << (s + 20)) + root // 2) // root for v in e]
