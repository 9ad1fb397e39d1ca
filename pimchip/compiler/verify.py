"""The verifier: what must hold of a graph after every pass. A graph that fails it is a fault of the compiler's, not of the
network's, and is told as one, with the pass and the operation."""

from __future__ import annotations

from math import isfinite

import numpy as np

from pimchip.chip import ChipSpec
from pimchip.chip.layers import Geometry
from pimchip.compiler.checks import check_cover, check_tensors, check_tiles
from pimchip.compiler.host_steps import host_shape
from pimchip.compiler.ir import (
    Along,
    Constant,
    Graph,
    IntegerOp,
    Integers,
    Ints,
    Join,
    Lookup,
    Moved,
    Network,
    Product,
    Rescale,
    Sum,
    Times,
    Window,
)
from pimchip.compiler.records import LayerRecord
from pimchip.compiler.steps import host_step
from pimchip.errors import InputError
from pimchip.kernels import tokens
from pimchip.qat.layers import QuantizedLayer

ARITY = {"input": 0, "add": 2, "constant": 0, "matmul": 2, "product": 2, "multiply": 2, "attention": 3}
"""Operations with another number of inputs than one."""
LAST_WITH_NORMS = ("trace", "shapes", "simplify")
WORD = 1 << 31


class BrokenGraph(Exception):
    """A pass left something that cannot be: the compiler's own fault."""


def verify(graph: Graph, spec: ChipSpec, *, after: str) -> None:
    """Raise BrokenGraph, naming pass and operation, unless the graph is sound."""
    try:
        _names(graph)
        if isinstance(graph, Network):
            _network(graph, after)
        else:
            _integers(graph, spec)
    except (_Wrong, InputError) as error:
        raise BrokenGraph(f"after {after}: {error}") from error


class _Wrong(Exception):
    pass


def _want(holds: bool, op: str, what: str) -> None:
    if not holds:
        raise _Wrong(f"{op}: {what}")


def _names(graph: Graph) -> None:
    """Every result has a name of its own and is read only after it was made; there is one input."""
    made: set[str] = set()
    for op in graph.ops:
        _want(op.name not in made, op.name, "is made twice")
        _want(made.issuperset(op.inputs), op.name, f"reads {sorted(set(op.inputs) - made)}, which nothing made before")
        _want(
            op.kind in ("concat", "join") or len(op.inputs) == ARITY.get(op.kind, 1),
            op.name,
            f"{op.kind} has {len(op.inputs)} inputs",
        )
        made.add(op.name)
    kinds = [op.kind for op in graph.ops]
    _want(kinds.count("input") == 1, "the graph", f"has {kinds.count('input')} inputs")
    out = graph.ops[-1].name if isinstance(graph, Network) else graph.output
    _want(out in made, out, "is the output, and nothing makes it")


def _network(graph: Network, after: str) -> None:
    for op in graph.ops:
        _want((op.kind == "layer") == isinstance(op.module, QuantizedLayer), op.name, "kind and module do not agree")
        _want(op.norm is None or op.kind == "layer", op.name, "has a norm and is no layer")
        _want(after == "trace" or op.type.shape is not None, op.name, "has no shape")
        _want(after in LAST_WITH_NORMS or op.kind != "norm", op.name, "was not folded")
    _want(graph.ops[-1].kind == "output", graph.ops[-1].name, "is last and no output")


def _integers(graph: Integers, spec: ChipSpec) -> None:
    types = graph.types
    for op in graph.ops:
        t = op.type
        _want(isfinite(t.scale) and t.scale > 0, op.name, f"has scale {t.scale}")
        _want(-WORD <= t.low <= t.high < WORD, op.name, f"holds {t.low}..{t.high}, more than 32 bits")
        _operation(op, graph, types)
    check_tensors(graph.layers, graph.norms, graph.tensors, spec)
    used = [op.layer for op in graph.ops if op.layer]
    _want(sorted(used) == sorted(graph.layers), "the layers", "are not each run once")
    if graph.passes is None:
        _want(not any(layer.tiles for layer in graph.layers.values()), "the layers", "have tiles and are not placed")
        return
    check_cover(graph.layers)
    check_tiles(graph.layers, graph.passes, spec)
    for name, layer in graph.layers.items():
        _planes(name, layer, spec)


def _planes(name: str, layer: LayerRecord, spec: ChipSpec) -> None:
    """All planes of an output are on one converter, where the geometry allows it."""
    share = spec.columns_per_adc
    planes = layer.operating_point().planes if layer.kind == "pim" else 1
    if spec.adc.interleave or planes > share:
        return
    for t in layer.tiles:
        _want(t.first_column % planes == t.columns % planes == 0, name, "has a tile with a part of an output")
        for column in range(t.column, t.column + t.columns, planes):
            one = column // share == (column + planes - 1) // share
            _want(one, name, f"has planes of an output on two converters, macro {t.macro}, column {column}")


def _operation(op: IntegerOp, graph: Integers, types: dict[str, Ints]) -> None:
    sources, t, detail = [types[name] for name in op.inputs], op.type, op.detail
    if op.kind in ("pim", "digital"):
        _layer(op, graph, sources[0])
    elif isinstance(detail, Rescale):
        _want(op.kind == "requantize" and t.shape == sources[0].shape, op.name, "changes its map's shape")
        norm = None if detail.norm is None else graph.norms.get(detail.norm)
        _want((norm is None) == (detail.norm is None), op.name, f"names no normalization: {detail.norm}")
        if norm is not None:
            channels = norm.channels or graph.layers[norm.layer].out_channels
            _want(channels == t.shape[0], op.name, "has another layer's normalization")
            _want(norm.unit == sources[0].scale, op.name, "normalizes accumulators of another unit")
    elif isinstance(detail, Sum):
        _want(all(s.shape == t.shape for s in sources), op.name, "adds maps of other shapes")
        for source, factor in zip(sources, detail.factors, strict=True):
            worth = source.scale * 2**detail.shift / factor
            _want(abs(worth - t.scale) <= 1e-9 * t.scale, op.name, "adds maps on another scale than its own")
    elif isinstance(detail, Window):
        geometry = Geometry(1, 1, detail.kernel, detail.stride, detail.padding)
        shape = (sources[0].shape[0], *geometry.output_shape((1, *sources[0].shape[1:]))[1:])
        _want(shape == t.shape, op.name, f"gives {list(shape)}, not {list(t.shape)}")
        size = detail.kernel[0] * detail.kernel[1] if detail.kind == "sum" else 1
        _want(t.low <= sources[0].low * size and t.high >= sources[0].high * size, op.name, "can pass its bounds")
    elif detail is not None:
        _host(op, graph, sources)
    else:
        _want(op.kind == "input", op.name, f"is a {op.kind} without detail")


def _host(op: IntegerOp, graph: Integers, sources: list[Ints]) -> None:
    """A step of the host's: shapes by the records' own rules, and scales and bounds that agree."""
    t, detail = op.type, op.detail
    constants = {
        name.removeprefix("constant."): held for name, held in graph.tensors.items() if name.startswith("constant.")
    }
    numbers = {name: at for at, name in enumerate((*op.inputs, op.name))}
    step = host_step(op, numbers)
    shape = host_shape(step, [source.shape for source in sources], constants)
    _want(shape == t.shape, op.name, f"gives {list(shape)}, not {list(t.shape)}")
    if isinstance(detail, Constant):
        held = graph.tensors[f"constant.{detail.name}"]
        _want(t.low <= held.min() and t.high >= held.max(), op.name, "can pass its bounds")
    elif isinstance(detail, Moved | Join):
        _want(all(s.scale == t.scale and s.zero == t.zero for s in sources), op.name, "changes its map's scale")
        _want(all(t.low <= s.low and t.high >= s.high for s in sources), op.name, "can pass its bounds")
    elif isinstance(detail, Product | Times):
        a, b = sources
        worth = a.scale * b.scale * 2.0**detail.shift
        _want(abs(worth - t.scale) <= 1e-9 * t.scale, op.name, "multiplies to another scale than its own")
        terms = a.shape[-1] if isinstance(detail, Product) else 1
        _want(a.peak * b.peak * terms < tokens.PRODUCT_LIMIT, op.name, "could pass 64 bits")
    elif isinstance(detail, Along | Lookup) and detail.table:
        held = graph.tensors.get(f"table.{detail.table}", np.zeros(0, np.int32))
        _want(held.dtype == np.int32 and held.ndim == 1 and len(held) > 1, op.name, f"names no table: {detail.table}")


def _layer(op: IntegerOp, graph: Integers, source: Ints) -> None:
    layer = graph.layers.get(op.layer)
    if layer is None or layer.kind != op.kind:
        raise _Wrong(f"{op.name}: names no {op.kind} layer: {op.layer}")
    shape = layer.geometry().output_shape(source.shape)
    _want(shape == op.type.shape, op.name, f"gives {list(shape)}, not {list(op.type.shape)}")
    _want(shape[1] * shape[2] == layer.positions, op.name, f"has {layer.positions} positions, its map others")
    if layer.kind == "digital":
        return
    mac = layer.operating_point()
    _want(source.low >= 0 and source.high < 1 << mac.act_bits, op.name, f"reads more than {mac.act_bits} bits")
    bound = mac.largest_output(mac.groups(layer.geometry().depth))
    _want(op.type.low <= -bound and op.type.high >= bound, op.name, "can pass its bounds")
