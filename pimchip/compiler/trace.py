"""The front end that torch.fx is: a torch module to a graph of the network's operations, or a clear refusal."""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

import torch
from torch import fx, nn

from pimchip.compiler import inplace
from pimchip.compiler.functions import FUNCTIONS
from pimchip.compiler.ir import Network, NetworkKind, NetworkOp, Real
from pimchip.errors import CompileError
from pimchip.qat.imported import GridQuant
from pimchip.qat.layers import QuantizedLayer
from pimchip.qat.quantizers import ActQuant

SUPPORTED = (
    "PimConv2d, PimLinear, DigitalConv2d, DigitalLinear, BatchNorm, LayerNorm, GroupNorm, ActQuant, ReLU, GELU and other functions of "
    "single values, MaxPool2d, AvgPool2d, AdaptiveAvgPool2d(1), Flatten, Identity, Dropout, addition, concatenation, "
    "views, softmax, products of two maps, by matrices or by elements, attention, a number times a map, the mean over positions or tokens"
)

MODULES: tuple[tuple[tuple[type[nn.Module], ...], NetworkKind], ...] = (
    ((QuantizedLayer,), "layer"),
    ((nn.BatchNorm2d, nn.BatchNorm1d), "norm"),
    ((ActQuant, GridQuant), "quantize"),
    ((nn.ReLU,), "relu"),
    ((nn.MaxPool2d,), "max_pool"),
    ((nn.AvgPool2d,), "avg_pool"),
    ((nn.AdaptiveAvgPool2d,), "global_pool"),
    ((nn.Flatten,), "flatten"),
    ((nn.Identity, nn.Dropout, nn.Dropout2d), "identity"),
    ((nn.LayerNorm,), "layer_norm"),
    ((nn.GroupNorm,), "group_norm"),
    (FUNCTIONS, "function"),
)
_FUNCTIONS: dict[Callable[..., Any], NetworkKind] = {
    operator.add: "add",
    operator.iadd: "add",
    torch.add: "add",
    torch.relu: "relu",
    torch.nn.functional.relu: "relu",
    torch.flatten: "flatten",
    torch.cat: "concat",
    torch.concat: "concat",
}
_METHODS: dict[str, NetworkKind] = {"add": "add", "relu": "relu", "flatten": "flatten"}


class TooManyInputs(CompileError):
    """No front end can help it."""


class _Tracer(fx.Tracer):
    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return isinstance(m, QuantizedLayer | ActQuant | GridQuant) or super().is_leaf_module(m, module_qualified_name)


def trace(network: nn.Module, refused: list[str] | None = None) -> Network:
    """Its operations in the order they run. Raises CompileError naming what is not supported and where it stands.

    refused: takes such lines instead, and what they are about is left out.
    """
    try:
        graph = _Tracer().trace(network)
    except Exception as error:  # any failure inside the user's forward
        raise CompileError(
            f"the network's forward cannot be traced: {str(error).splitlines()[0] or type(error).__name__}"
        ) from error
    modules = dict(network.named_modules())
    ops: list[NetworkOp] = []
    called = {node: modules.get(str(node.target)) for node in graph.nodes if node.op == "call_module"}
    inplace.check(graph, called.get, lambda node: _where(node, modules), refused)
    for node in graph.nodes:
        if node.op == "placeholder":
            if any(op.kind == "input" for op in ops):
                raise TooManyInputs(
                    f"the network takes more than one input ({node.name}); one image tensor is supported"
                )
            ops.append(NetworkOp(node.name, "input", (), Real(), "the input"))
        elif node.op == "output":
            if not isinstance(node.args[0], fx.Node):
                raise CompileError("the network returns something other than one tensor")
            ops.append(NetworkOp(node.name, "output", (node.args[0].name,), Real(), "the output"))
        else:
            try:
                ops.append(_op(node, modules))
            except CompileError as error:
                if refused is None:
                    raise
                refused.append(str(error))
    return Network(tuple(ops))


def _op(node: fx.Node, modules: dict[str, nn.Module]) -> NetworkOp:
    module = modules.get(str(node.target)) if node.op == "call_module" else None
    kind: NetworkKind | None = None
    if module is not None:
        kind = next((k for types, k in MODULES if isinstance(module, types)), None)
    elif node.op == "call_function":
        kind = _FUNCTIONS.get(node.target)  # type: ignore[arg-type]
    elif node.op == "call_method":
        kind = _METHODS.get(str(node.target))
    where = _where(node, modules)
    if kind is None:
        if isinstance(module, nn.Conv2d | nn.Linear):
            raise CompileError(f"{where} is not quantized; run pimchip.qat.convert on the network and train it first")
        raise CompileError(f"{where} is not supported; supported are {SUPPORTED}")
    if kind == "concat":
        return NetworkOp(node.name, kind, _joined(node, where), Real(), where)
    inputs = [a for a in node.args if isinstance(a, fx.Node)]
    if len(inputs) != (2 if kind == "add" else 1):
        raise CompileError(
            f"{where} mixes a tensor with something else; two tensors are added, other operations take one"
        )
    if kind == "add" and (len(node.args) != 2 or node.kwargs):
        raise CompileError(f"{where} has further arguments; a plain sum is supported")
    if kind == "flatten" and not _is_full_flatten(node, module):
        raise CompileError(f"{where} flattens only some dimensions; flatten from dimension 1 to the end")
    return NetworkOp(node.name, kind, tuple(n.name for n in inputs), Real(), where, module)


def _joined(node: fx.Node, where: str) -> tuple[str, ...]:
    """The maps that a concatenation joins."""
    maps = node.args[0] if node.args else node.kwargs.get("tensors")
    dim = node.args[1] if len(node.args) > 1 else node.kwargs.get("dim", node.kwargs.get("axis", 0))
    if not isinstance(maps, list | tuple) or not all(isinstance(each, fx.Node) for each in maps) or dim not in (1, -3):
        raise CompileError(f"{where} joins something else than channels; concatenate maps along dimension 1")
    return tuple(each.name for each in maps if isinstance(each, fx.Node))


def _is_full_flatten(node: fx.Node, module: nn.Module | None) -> bool:
    if isinstance(module, nn.Flatten):
        return (module.start_dim, module.end_dim) == (1, -1)
    start = node.args[1] if len(node.args) > 1 else node.kwargs.get("start_dim", 0)
    end = node.args[2] if len(node.args) > 2 else node.kwargs.get("end_dim", -1)
    return (start, end) == (1, -1)


def _where(node: fx.Node, modules: dict[str, nn.Module]) -> str:
    """'module layers.3 (GELU), between layers.2 (BatchNorm1d) and layers.4 (PimLinear)'."""

    def label(n: fx.Node) -> str:
        if n.op == "call_module":
            return f"{n.target} ({type(modules[str(n.target)]).__name__})"
        if n.op in ("placeholder", "output"):
            return f"the {'input' if n.op == 'placeholder' else n.op}"
        return f"{getattr(n.target, '__name__', n.target)}()"

    kind = "module" if node.op == "call_module" else "operation"
    before = next((label(a) for a in node.args if isinstance(a, fx.Node)), "nothing")
    after = next((label(u) for u in node.users), "nothing")
    return f"{kind} {label(node)}, between {before} and {after},"
