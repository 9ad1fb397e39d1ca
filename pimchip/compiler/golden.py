"""The golden check: what a graph computes on example images, against a reference, after every pass.

    network           the traced operations give bit for bit what the network's own forward gives
    lower             every stored map is within half a step of the real value that the network's own modules give for the
                      integers that the step read; layers in the array give the integers of pimchip.chip.reference.pim_matmul
    order             the same integers as before, channels in their new order
    place             the cells of the tiles, read tile by tile, give the same integers as before
    replicate         so do those of the copies, each vector on its own

A step is checked on the integers that it read, so that a rounding at a tie is not carried on. Slow and plain on purpose.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray
from torch import Tensor, nn

from pimchip.chip import Geometry, Mac
from pimchip.chip.mac import Int64
from pimchip.chip.reference import pim_matmul
from pimchip.compiler.golden_tokens import host_integers, host_real, normalized, slack
from pimchip.compiler.ir import (
    Along,
    Constant,
    Graph,
    IntegerOp,
    Integers,
    Lookup,
    Network,
    NetworkOp,
    Product,
    Rescale,
    Sum,
    Times,
    Window,
)
from pimchip.compiler.passes import Job, Pass
from pimchip.compiler.records import LayerRecord
from pimchip.compiler.requant import affine, requantization
from pimchip.errors import BadResult
from pimchip.qat.layers import QuantizedLayer
from pimchip.qat.pim import PimLayerModule

HALF_STEP = 0.5 + 2.0**-10
"""Steps. The rounding that any quantizer does, and what 31-bit multipliers leave (pimchip.compiler.requant)."""
FLOAT32 = 1e-5
"""What the network's own float32 sums may be off by, relative to their value."""

EXACT_KINDS = ("input", "pim", "digital", "constant", "arrange", "join")
"""Steps that round nothing: what they give is checked where it is read, and after `place`."""

Maps = dict[str, Int64]


@dataclass
class Golden:
    """Checks one compilation pass by pass: an observer for run_passes. images: uint8 [n, c, h, w].

    said: a line for each pass checked. Raises BadResult, naming pass and operation, where a graph computes something else.
    """

    images: NDArray[np.uint8]

    def __post_init__(self) -> None:
        self.said: list[tuple[str, str]] = []
        self._network: Network | None = None
        self._maps: Maps | None = None

    def __call__(self, done: Pass, graph: Graph, job: Job) -> None:
        if isinstance(graph, Network):
            self._network = graph
            said = self._reals(done, graph, job)
        elif self._maps is None:
            assert self._network is not None
            self._maps = evaluate(graph, self.images, _whole)
            said = self._lowered(done, graph, self._network)
        else:
            placed = graph.passes is not None
            found = evaluate(graph, self.images, _by_tile if placed else _whole)
            for name, wanted in self._maps.items():
                if not np.array_equal(found[name], wanted[:, graph.orders[name]] if name in graph.orders else wanted):
                    raise BadResult(f"after {done.name}: {name} holds other integers than before")
            moved = f", {len(graph.orders)} with channels in another order" if graph.orders else ""
            said = f"{len(found)} maps hold the same integers as before{', read tile by tile' * placed}{moved}"
        self.said.append((done.name, said))

    def _reals(self, done: Pass, graph: Network, job: Job) -> str:
        x = torch.from_numpy(self.images).float() / 255
        with torch.no_grad():
            wanted, found = job.network(x), run_network(graph, x)
        if not torch.equal(found.reshape(wanted.shape), wanted):
            raise BadResult(f"after {done.name}: the operations give something else than the network's forward")
        return "the network's own outputs, bit for bit"

    def _lowered(self, done: Pass, graph: Integers, network: Network) -> str:
        assert self._maps is not None
        layers = {op.module.name or op.name: op for op in network.ops if isinstance(op.module, QuantizedLayer)}
        worst, count = 0.0, 0
        for op in graph.ops:
            if op.kind in EXACT_KINDS:
                continue
            real = _real(op, graph, self._maps, layers, network)
            steps = real / op.type.scale + op.type.zero
            off = np.abs(self._maps[op.name] - np.clip(steps, op.type.low, op.type.high))
            excess = off - FLOAT32 * (np.abs(np.clip(steps, op.type.low - 1, op.type.high + 1)) + _cancelled(op, graph))
            if excess.max() > HALF_STEP + slack(op, graph):
                raise BadResult(
                    f"after {done.name}: {op.name} is {off.max():.3g} steps off what the network gives for the same input"
                )
            worst, count = max(worst, float(excess.max())), count + 1
        return f"{count} maps within {worst:.4f} steps of the network's own values for the same inputs"


def _cancelled(op: IntegerOp, graph: Integers) -> NDArray[np.float64] | float:
    """Steps of what a layer with signed inputs adds for their zero, which its float32 sums are of the size of."""
    if not isinstance(op.detail, Rescale) or op.detail.norm is None:
        return 0.0
    norm = {key: graph.tensors[f"norm.{op.detail.norm}.{key}"] for key in ("gamma", "beta", "mean", "var", "bias")}
    a, b = affine(norm | {"mean": 0 * norm["mean"], "beta": 0 * norm["beta"]}, 1.0, graph.norms[op.detail.norm].eps)
    return np.abs(b)[None, :, None, None] / op.type.scale


def run_network(graph: Network, x: Tensor) -> Tensor:
    """What the operations give for images x, float32 [n, c, h, w] in 0..1."""
    values: dict[str, Tensor] = {}
    for op in graph.ops:
        if op.kind == "constant":
            values[op.name] = op.detail[None].expand(len(x), *op.detail.shape)
            continue
        values[op.name] = x if op.kind == "input" else _apply(op, [values[name] for name in op.inputs])
    return values[graph.ops[-1].name]


def _apply(op: NetworkOp, sources: list[Tensor]) -> Tensor:
    y = sources[0]
    if op.run is not None:
        return op.run(*sources)
    if op.module is not None:
        y = op.module(y)
        return y if op.norm is None else op.norm(y)  # type: ignore[no-any-return]
    return {
        "add": lambda: sources[0] + sources[1],
        "concat": lambda: torch.cat(sources, 1),
        "join": lambda: torch.cat(sources, op.detail + 1),
        "relu": lambda: torch.relu(y),
        "flatten": lambda: torch.flatten(y, 1),
    }.get(op.kind, lambda: y)()


def _real(
    op: IntegerOp, graph: Integers, maps: Maps, layers: dict[str, NetworkOp], network: Network
) -> NDArray[np.float64]:
    """The real value of what a step makes, by the network's own modules, of the integers that it read."""
    types = graph.types
    read = [(maps[name] - types[name].zero).astype(np.float64) * types[name].scale for name in op.inputs]
    detail = op.detail
    if isinstance(detail, Rescale) and detail.norm is not None:
        layer = next(o for o in graph.ops if o.name == op.inputs[0])
        if not layer.layer:
            return normalized(next(each for each in network.ops if each.name == layer.of), read[0])
        source = layers[layer.layer]
        assert isinstance(source.module, QuantizedLayer)
        fed = types[layer.inputs[0]]
        x = torch.from_numpy((maps[layer.inputs[0]] - fed.zero) * fed.scale)
        with torch.no_grad():
            y = _layer(source.module, x)
            if source.norm is not None:
                flat = isinstance(source.norm, nn.BatchNorm1d)
                y = copy.deepcopy(source.norm).double()(y.flatten(1) if flat else y)
        return y.numpy().reshape(maps[op.name].shape)
    if isinstance(detail, Sum):
        return read[0] + read[1]
    if isinstance(detail, Along | Lookup | Product | Times):
        return host_real(op, read, network)
    if isinstance(detail, Rescale):
        return read[0] * detail.factor
    if isinstance(detail, Window):
        x = torch.from_numpy(read[0])
        pool = F.max_pool2d if detail.kind == "max" else F.avg_pool2d
        made: NDArray[np.float64] = pool(x, detail.kernel, detail.stride, detail.padding).numpy()
        return made
    return read[0]


def _layer(module: QuantizedLayer, x: Tensor) -> Tensor:
    """A layer of reals x, float64 [n, c, h, w]: in the array the module's own forward, which is float32; on the processor
    the product in float64."""
    x = x.reshape(len(x), *module.whole.input_shape(tuple(x.shape[1:])))
    if isinstance(module, PimLayerModule):
        if module.linear:
            y: Tensor = module(x.float().movedim(1, -1)).movedim(-1, 1)
            return y.double()
        if module.inputs != "unsigned" and module.signed_range()[1]:  # the border is there already
            (top, left), (h, w) = module.geometry.padding, x.shape[2:]
            x = x[:, :, top : h - top, left : w - left]
        return module(x.float()).double()  # type: ignore[no-any-return]
    q, g = module.integers(), module.geometry
    y = F.conv2d(x, q.double(), None, g.stride, g.padding, g.dilation, module.groups) * module.scale(q)
    ratios = module.ratios()
    y = y if ratios is None else y * ratios.double()[None, :, None, None]
    return y if module.bias is None else y + module.bias.double()[None, :, None, None]


# -- integers ------------------------------------------------------------------------------------------------------

Matrix = Callable[[Int64, NDArray[np.int8], LayerRecord], Int64]
"""Vectors [M, K], weights [K, N] and the layer to recombined codes [M, N]."""


def evaluate(graph: Integers, images: NDArray[np.uint8], matrix: Matrix | None = None) -> Maps:
    """Every map of integers, int64 [n, c, h, w], for images uint8 [n, c, h, w]; plain NumPy, ideal converters."""
    maps: Maps = {}
    for op in graph.ops:
        if op.kind == "input":
            maps[op.name] = images.astype(np.int64)
        elif isinstance(op.detail, Constant):
            held = graph.tensors[f"constant.{op.detail.name}"].astype(np.int64)
            maps[op.name] = np.repeat(held[None], len(images), 0)
        else:
            maps[op.name] = _step(op, graph, maps, matrix or _whole)
    return maps


def _step(op: IntegerOp, graph: Integers, maps: Maps, matrix: Matrix) -> Int64:
    x, t, detail = maps[op.inputs[0]], op.type, op.detail
    if op.layer:
        layer, w = graph.layers[op.layer], graph.tensors[f"weight.{op.layer}"]
        vectors, (n, h, width) = patches(x, layer.geometry())
        y = matrix(vectors, w, layer) if layer.kind == "pim" else vectors @ w.reshape(len(w), -1).T.astype(np.int64)
        return y.reshape(n, h, width, -1).transpose(0, 3, 1, 2)
    if isinstance(detail, Sum):
        total = x * detail.factors[0] + maps[op.inputs[1]] * detail.factors[1] + ((1 << detail.shift) >> 1)
        added: Int64 = np.clip(total >> detail.shift, t.low, t.high)
        return added
    if isinstance(detail, Window):
        return _pooled(x, detail)
    if not isinstance(detail, Rescale):
        return host_integers(op, [maps[name] for name in op.inputs], graph)
    source = graph.types[op.inputs[0]]
    a, b = np.full(t.shape[0], source.scale * detail.factor), np.zeros(t.shape[0])
    if detail.norm is not None:
        norm = {key: graph.tensors[f"norm.{detail.norm}.{key}"] for key in ("gamma", "beta", "mean", "var", "bias")}
        a, b = affine(norm, source.scale, graph.norms[detail.norm].eps)
    r = requantization(a / t.scale, b / t.scale + t.zero, low=t.low, high=t.high, acc_max=source.peak, name=op.name)
    m, o, s = (v.reshape(1, -1, *[1] * (x.ndim - 2)) for v in (r.multiplier, r.offset, r.shift))
    out: Int64 = np.clip((x * m + o) >> s, t.low, t.high)
    return out


def patches(x: Int64, geometry: Geometry) -> tuple[Int64, tuple[int, int, int]]:
    """The vectors [M, K] that a layer reads of maps [n, c, h, w], and (n, height, width) of what it gives."""
    x = x.reshape(len(x), *geometry.input_shape(x.shape[1:]))
    (kh, kw), (ph, pw), (dh, dw) = geometry.extent, geometry.padding, geometry.dilation
    padded = np.pad(x, ((0, 0), (0, 0), (ph, ph), (pw, pw)))
    cut = sliding_window_view(padded, (kh, kw), (2, 3))[:, :, :: geometry.stride[0], :: geometry.stride[1], ::dh, ::dw]
    n, _, h, w = cut.shape[:4]
    return cut.transpose(0, 2, 3, 1, 4, 5).reshape(n * h * w, geometry.depth), (n, h, w)


def _pooled(x: Int64, window: Window) -> Int64:
    (ph, pw), fill = window.padding, 0 if window.kind == "sum" else np.iinfo(np.int64).min
    padded = np.pad(x, ((0, 0), (0, 0), (ph, ph), (pw, pw)), constant_values=fill)
    cut = sliding_window_view(padded, window.kernel, (2, 3))[:, :, :: window.stride[0], :: window.stride[1]]
    out: Int64 = cut.sum((4, 5)) if window.kind == "sum" else cut.max((4, 5))
    return out


def _whole(x: Int64, w: NDArray[np.int8], layer: LayerRecord) -> Int64:
    """By the specification."""
    mac = layer.operating_point()
    fields = ("scheme", "rows", "weight_bits", "act_bits", "dac_bits", "adc_bits", "range_divisor")
    return pim_matmul(x, w, **{name: getattr(mac, name) for name in fields})


def _by_tile(x: Int64, w: NDArray[np.int8], layer: LayerRecord) -> Int64:
    """What the cells of each tile convert to, with the weights that its place in the layer says; vector v on copy v mod R."""
    mac = layer.operating_point()
    columns = np.zeros((len(x), layer.out_channels * mac.planes), np.int64)
    cells = mac.cells(w).astype(np.int64)
    for t in layer.tiles:
        rows = slice(t.group * mac.rows, t.group * mac.rows + t.rows)
        at = slice(t.first_column, t.first_column + t.columns)
        own = slice(t.copy_number, None, layer.copies)
        for index in range(mac.slices):
            digit = x[own, rows] // mac.digit**index % mac.digit
            columns[own, at] += mac.digit**index * ideal_codes(digit @ cells[rows, at], mac)
    return columns.reshape(len(x), layer.out_channels, mac.planes) @ mac.plane_weights


def ideal_codes(v: Int64, mac: Mac) -> Int64:
    """Codes of column sums by an ideal ADC: floor(v * levels * divisor / full scale + 1/2), clipped."""
    full = mac.sum_max
    codes: Int64 = np.clip((2 * v * mac.levels * mac.range_divisor + full) // (2 * full), mac.code_min, mac.code_max)
    return codes


def example(image: tuple[int, int, int], images: int, seed: int) -> NDArray[np.uint8]:
    """Random images uint8 [n, c, h, w]: smooth ones, so that layers see sums as of pictures."""
    rng = np.random.default_rng(seed)
    coarse = torch.from_numpy(rng.random((images, image[0], 4, 4)))
    smooth = F.interpolate(coarse, size=image[1:], mode="bilinear", align_corners=False)
    made: NDArray[np.uint8] = (smooth.numpy() * 255).round().astype(np.uint8)
    return made
