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

_PASSES = (nn.Identity, nn.Dropout, nn.Dropout2d, nn.Flatten, nn.MaxPool2d, nn.AvgPool2d, nn.AdaptiveAvgPool2d)
_PASS_CALLS: frozenset[Callable[..., Any] | str] = frozenset(
    (torch.flatten, torch.mean, torch.squeeze, F.dropout, F.max_pool2d, F.avg_pool2d, F.adaptive_avg_pool2d)
    + ("flatten", "mean", "squeeze", "reshape", "view", "contiguous", "transpose", "permute")
)
_RELU_CALLS: frozenset[Callable[..., Any] | str] = frozenset((F.relu, F.relu6, torch.relu, "relu", "relu_"))
_SUMS: frozenset[Callable[..., Any] | str] = frozenset(
    (operator.add, operator.iadd, torch.add, "add", "add_", torch.cat)
)


class _Tracer(fx.Tracer):
    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return isinstance(m, LAYERS) or super().is_leaf_module(m, module_qualified_name)


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
    return isinstance(module, _PASSES) if module is not None else node.target in _PASS_CALLS


def is_relu(node: fx.Node, modules: Mapping[str, nn.Module]) -> bool:
    """Whether a node is a ReLU, as a module or a function."""
    module = module_of(node, modules)
    return isinstance(module, nn.ReLU | nn.ReLU6) if module is not None else node.target in _RELU_CALLS


def is_sum(node: fx.Node) -> bool:
    """Whether a node adds maps, no constants, or joins them."""
    if node.op not in ("call_function", "call_method"):
        return False
    adds = node.target in _SUMS and not node.kwargs and all(isinstance(each, fx.Node) for each in node.args)
    return adds or node.target is torch.cat
