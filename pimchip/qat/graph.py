"""What follows what in a float network, by torch.fx, before its layers are replaced."""

from __future__ import annotations

import copy
import operator
import warnings
from collections.abc import Callable, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn
from torch.nn.modules.batchnorm import _NormBase

LAYERS = (nn.Conv2d, nn.Linear)
NORMS = (_NormBase, nn.LayerNorm, nn.GroupNorm, nn.RMSNorm)

_Calls = frozenset[Callable[..., Any] | str]
_PASSES = (
    (nn.Identity, nn.Dropout, nn.Dropout2d, nn.Flatten, nn.Unflatten, nn.Upsample, nn.ZeroPad2d, nn.PixelShuffle)
    + (nn.MaxPool2d, nn.AvgPool2d, nn.AdaptiveAvgPool2d, nn.AdaptiveMaxPool2d)
)  # fmt: skip
_PASS_CALLS: _Calls = frozenset(
    (torch.flatten, torch.mean, torch.squeeze, torch.unsqueeze, torch.reshape, torch.transpose, torch.permute)
    + (F.dropout, F.max_pool2d, F.avg_pool2d, F.adaptive_avg_pool2d, F.adaptive_max_pool2d, F.interpolate, F.pad)
    + (operator.getitem, torch.chunk, torch.split, "chunk", "split", "expand", "clone", "unflatten")
    + ("flatten", "mean", "squeeze", "unsqueeze", "reshape", "view", "contiguous", "transpose", "permute")
)
_PRODUCTS: _Calls = frozenset((operator.mul, operator.imul, torch.mul, "mul", "mul_"))
_QUOTIENTS: _Calls = frozenset((operator.truediv, torch.div, "div", "div_"))
_IN_PROPORTION: _Calls = frozenset(
    (operator.neg, torch.neg, torch.abs, torch.sum, torch.amax, F.leaky_relu, "neg", "abs", "sum", "amax")
)
_QUESTIONS = ("size", "dim", "numel", "shape", "ndim", "dtype", "device")
"""Methods and attributes of a tensor that say nothing of its values."""
_RELU_CALLS: _Calls = frozenset((F.relu, F.relu6, torch.relu, "relu", "relu_"))
_SUMS: _Calls = frozenset(
    (operator.add, operator.iadd, torch.add, "add", "add_", operator.sub, operator.isub, torch.sub, "sub", "sub_")
    + (torch.maximum, torch.minimum)
)
_JOINS: _Calls = frozenset((torch.cat, torch.concat, torch.stack))


class _Tracer(fx.Tracer):
    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return isinstance(m, LAYERS + NORMS) or super().is_leaf_module(m, module_qualified_name)


def trace(network: nn.Module) -> fx.Graph | None:
    """The graph of its forward; None where torch.fx cannot follow it. The network is left as it is."""
    shared: dict[int, Tensor] = {id(p): p for p in (*network.parameters(), *network.buffers())}
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            # Of a copy, as a forward may store things in its module.
            return _Tracer().trace(copy.deepcopy(network, shared))
    except Exception:  # any failure inside the user's forward
        return None


def names_of(network: nn.Module) -> tuple[dict[str, nn.Module], dict[int, str]]:
    """Modules by every name they have, and the first name of each by its id: that of a module under several."""
    modules = dict(network.named_modules(remove_duplicate=False))
    return modules, {id(module): name for name, module in reversed(list(modules.items()))}


def module_of(node: fx.Node, modules: Mapping[str, nn.Module]) -> nn.Module | None:
    """The module that a node calls, if it calls one."""
    return modules.get(str(node.target)) if node.op == "call_module" else None


def passes(node: fx.Node, modules: Mapping[str, nn.Module]) -> bool:
    """Whether a node hands its input on at the same scale, pooled or in another form at most."""
    module = module_of(node, modules)
    if node.target is F.pad:
        return (node.kwargs.get("value") or (node.args[3] if len(node.args) > 3 else None)) in (None, 0)
    return isinstance(module, _PASSES) if module is not None else node.target in _PASS_CALLS


def handed(node: fx.Node) -> fx.Node:
    """What a node that passes() hands on: its other inputs are sizes."""
    first = node.args[0] if node.args else None
    return first if isinstance(first, fx.Node) else node.all_input_nodes[0]


def asks(node: fx.Node) -> bool:
    """Whether a node asks for a tensor's shape or the like, and not for its values."""
    if node.op == "call_method":
        return node.target in _QUESTIONS
    return node.target is getattr and node.args[1] in _QUESTIONS


def in_proportion(node: fx.Node, modules: Mapping[str, nn.Module]) -> bool:
    """Whether a node, other than those of passes() and is_relu(), gives twice as much for twice its input."""
    module = module_of(node, modules)
    if module is not None:
        return isinstance(module, nn.LeakyReLU | nn.PReLU)
    if node.target in _PRODUCTS or node.target in _QUOTIENTS:
        maps = [isinstance(each, fx.Node) for each in node.args[:2]]
        return maps == [True, False] or (maps == [False, True] and node.target in _PRODUCTS)
    return node.target in _IN_PROPORTION


def is_relu(node: fx.Node, modules: Mapping[str, nn.Module]) -> bool:
    """Whether a node is a ReLU, as a module or a function."""
    module = module_of(node, modules)
    return isinstance(module, nn.ReLU | nn.ReLU6) if module is not None else node.target in _RELU_CALLS


def is_sum(node: fx.Node) -> bool:
    """Whether a node adds maps, no constants, or joins them."""
    if node.op not in ("call_function", "call_method"):
        return False
    added = [*node.args, *(value for name, value in node.kwargs.items() if name != "alpha")]
    return node.target in _JOINS or (node.target in _SUMS and all(isinstance(each, fx.Node) for each in added))


def layers_before_views(network: nn.Module) -> set[str]:
    """Names of the modules whose maps come, through functions at most, to a view(), which wants memory in torch's order."""
    graph = trace(network)
    modules, first = names_of(network)
    found: set[str] = set()

    def look(node: fx.Node) -> None:
        module = module_of(node, modules)
        if module is not None:
            found.add(first[id(module)])
        elif node.op in ("call_function", "call_method"):
            for source in node.all_input_nodes:
                look(source)

    for node in graph.nodes if graph is not None else ():
        if node.op == "call_method" and node.target == "view":
            look(handed(node))
    return found


def order_of_layers(network: nn.Module) -> list[str]:
    """First names of its layers in the order in which they first run; empty where the forward cannot be traced."""
    graph = trace(network)
    modules, first = names_of(network)
    calls = [module_of(node, modules) for node in graph.nodes] if graph is not None else []
    return list(dict.fromkeys(first[id(module)] for module in calls if isinstance(module, LAYERS)))


def reads_images(network: nn.Module, layer: str) -> bool:
    """Whether a layer is given what the network is given, through pooling and the like; True where that is not known."""
    graph = trace(network)
    modules, first = names_of(network)
    for node in graph.nodes if graph is not None else ():
        module = module_of(node, modules)
        if isinstance(module, LAYERS) and first[id(module)] == layer:
            source = handed(node)
            while source.op != "placeholder":
                if not passes(source, modules):
                    return False
                source = handed(source)
    return True
