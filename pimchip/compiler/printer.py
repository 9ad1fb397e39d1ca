"""Graphs as text, the same for the same graph: an operation a line, then layers, normalizations and tiles."""

from __future__ import annotations

from collections.abc import Iterator

from torch import nn

from pimchip.compiler.ir import (
    Along,
    Constant,
    Graph,
    IntegerOp,
    Ints,
    Join,
    Lookup,
    Moved,
    Network,
    NetworkOp,
    Product,
    Real,
    Rescale,
    Sum,
    Window,
    level,
)
from pimchip.compiler.records import LayerRecord
from pimchip.qat.layers import QuantizedLayer


def text(graph: Graph, title: str = "") -> str:
    """The graph as lines of text. title: a comment at its head."""
    return "\n".join([f"# {title}{', ' if title else ''}{level(graph)}", *_lines(graph)])


def _lines(graph: Graph) -> Iterator[str]:
    if isinstance(graph, Network):
        yield from map(_network_op, graph.ops)
        return
    for op in graph.ops:
        yield _integer_op(op)
    yield f"return %{graph.output}"
    for name, layer in graph.layers.items():
        yield from _layer(name, layer)
    for name, norm in graph.norms.items():
        of = f"{'BN' if norm.calibrated else 'bias'} of {norm.layer}" if norm.layer else f"{norm.channels} features"
        yield f"norm {name}: {of}, unit {norm.unit:.6g}, eps {norm.eps:g}"
    if graph.passes is not None:
        yield f"passes {graph.passes}"


def _network_op(op: NetworkOp) -> str:
    made = f"{_module(op.module)}" if op.module is not None else op.kind
    folded = "" if op.norm is None else f" then {_module(op.norm)}"
    shape = _real(op.type)
    return f"%{op.name} = {made}({_inputs(op.inputs)}){folded}{shape}"


def _module(module: nn.Module | None) -> str:
    name = type(module).__name__
    if isinstance(module, QuantizedLayer):
        g = module.geometry
        groups = f" in {module.groups} groups" if module.groups > 1 else ""
        return f"{name}[{module.whole.in_channels}→{module.whole.out_channels} {g.kernel[0]}x{g.kernel[1]}{groups}]"
    return name


def _real(type_: Real) -> str:
    return "" if type_.shape is None else f" : {_shape(type_.shape)}"


def _integer_op(op: IntegerOp) -> str:
    return f"%{op.name} = {op.kind}{_detail(op)}({_inputs(op.inputs)}) : {_ints(op.type)}"


def _detail(op: IntegerOp) -> str:
    d = op.detail
    if op.layer:
        return f"[{op.layer}]"
    if isinstance(d, Rescale):
        return f"[norm {d.norm}]" if d.norm is not None else f"[times {d.factor:.6g}]" * (d.factor != 1)
    if isinstance(d, Sum):
        return f"[{d.factors[0]} {d.factors[1]} >> {d.shift}]"
    if isinstance(d, Window):
        pad = f" pad {d.padding[0]}x{d.padding[1]}" if any(d.padding) else ""
        return f"[{d.kind} {d.kernel[0]}x{d.kernel[1]} by {d.stride[0]}x{d.stride[1]}{pad}]"
    if isinstance(d, Moved):
        kept = [
            f"{a}..{b - 1} of {s}" if (a, b) != (0, s) else str(s) for (a, b), s in zip(d.cut, d.split, strict=True)
        ]
        return f"[{' '.join(kept)} as {' '.join(map(str, d.order))}]"
    if isinstance(d, Along):
        return f"[axis {d.axis}, table {d.table}]" if d.table else f"[axis {d.axis}]"
    if isinstance(d, Lookup):
        return f"[table {d.table}]"
    if isinstance(d, Product):
        return f"[>> {d.shift}]"
    if isinstance(d, Join):
        return f"[axis {d.axis}]"
    return f"[{d.name}]" if isinstance(d, Constant) else ""


def _ints(t: Ints) -> str:
    zero = f" from {t.zero} on" if t.zero else ""
    return f"{_shape(t.shape)} in {t.low}..{t.high}, {t.scale:.6g} each{zero}"


def _layer(name: str, layer: LayerRecord) -> Iterator[str]:
    g = layer.geometry()
    where = "" if layer.kind == "digital" else f", {layer.operating_point().describe()}"
    pad = f" pad {g.padding[0]}x{g.padding[1]}" if any(g.padding) else ""
    pad += f" dilated {g.dilation[0]}x{g.dilation[1]}" if g.dilation != (1, 1) else ""
    pad += f" in {layer.groups} groups" if layer.groups > 1 else ""
    copies = f", {layer.copies} copies" if layer.copies > 1 else ""
    yield (
        f"layer {name}: {layer.kind} {g.in_channels}→{g.out_channels} {g.kernel[0]}x{g.kernel[1]} by "
        f"{g.stride[0]}x{g.stride[1]}{pad}, {layer.positions} positions{where}{copies}"
    )
    for t in layer.tiles:
        copy = f"copy {t.copy_number}, " if layer.copies > 1 else ""
        yield (
            f"  pass {t.residency} {t.placement().tile}: {copy}group {t.group}, columns "
            f"{t.first_column}..{t.first_column + t.columns - 1}"
        )


def _shape(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape))


def _inputs(names: tuple[str, ...]) -> str:
    return ", ".join(f"%{name}" for name in names)
