"""Activations that fit their grid: what normalizations give, made smaller before a network is quantized.

The grid of a quantized ReLU ends at 1, and what a normalization as it is made gives has a standard deviation of 1: a third
of what is positive would be clipped. So gammas and betas are multiplied by activation_scale; normalizations without any
(affine=False) get a constant gamma, which is not trained.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Literal

import torch
from torch import Tensor, fx, nn
from torch.nn.modules.batchnorm import _BatchNorm

from pimchip.qat.graph import LAYERS, NORMS, asks, in_proportion, is_relu, is_sum, module_of, names_of, passes, trace

Reader = Literal["relu", "layer", "norm", "output", "other"]
_LEAKY = (nn.LeakyReLU, nn.PReLU)


@torch.no_grad()
def fit(network: nn.Module, factor: float, *, trained: bool) -> set[str]:
    """Make a float network's normalizations give `factor` times as much where a grid reads it; names of those.

    network: before its layers are replaced; changed in place. BNs with gammas, all of them, but in a trained network those
    whose values come to what is not in proportion to them, such as a GELU, and would be changed by it. Other
    normalizations, and BNs without gammas, where values come to a ReLU, through pooling and sums at most, and to nothing
    else but layers and normalizations: in front of an attention they stay. BNs with gammas alone where torch.fx cannot
    trace the forward.
    """
    readers = _readers(network)
    norms = {id(m): (name, m) for name, m in reversed(list(network.named_modules())) if isinstance(m, NORMS)}
    fitted = {
        name: norm
        for name, norm in norms.values()
        if _wants(norm, None if readers is None else readers.get(name), trained)
    }
    held = {id(p): p for norm in fitted.values() for p in (norm.weight, getattr(norm, "bias", None)) if p is not None}
    for each in held.values():  # norms may share them
        each.mul_(factor)
    for norm in fitted.values():
        if norm.weight is None:
            _give_gamma(norm, factor, network)
    return set(fitted)


def _wants(norm: nn.Module, readers: set[Reader] | None, trained: bool) -> bool:
    """readers: who reads what it gives; None where that is not known, or it is not called."""
    if isinstance(norm, _BatchNorm) and norm.affine:
        return not (trained and readers and "other" in readers)
    return readers is not None and "relu" in readers and not readers & {"output", "other"}


def _give_gamma(norm: nn.Module, factor: float, network: nn.Module) -> None:
    """A constant gamma, and a beta of 0 where the kind has one: buffers, which the state holds and nothing trains."""
    shape = next(
        getattr(norm, name) for name in ("num_features", "num_channels", "normalized_shape") if hasattr(norm, name)
    )
    like = next(network.parameters())  # there is one of a layer
    for name, value in (("weight", factor), ("bias", 0.0)):
        if name in norm._parameters:
            del norm._parameters[name]
            norm.register_buffer(name, torch.full([shape] if isinstance(shape, int) else shape, value).to(like))


def as_before(network: nn.Module, held: Collection[str]) -> dict[str, Tensor]:
    """What an older version's checkpoint of a converted network lacks, by name: gammas that fit() gives, as the ones they were.

    held: names of the checkpoint's tensors. Empty where it has one of these, or there are none.
    """
    lacking = {
        f"{prefix}.{name}": torch.full_like(tensor, 1.0 if name == "weight" else 0.0)
        for prefix, norm in network.named_modules()
        if isinstance(norm, NORMS)
        for name, tensor in norm.named_buffers(recurse=False)
        if name in ("weight", "bias")
    }
    return {} if lacking.keys() & held else lacking


def _readers(network: nn.Module) -> dict[str, set[Reader]] | None:
    """Who reads what each normalization gives, through all that keeps its scale; by its first name, of all its calls."""
    graph = trace(network)
    if graph is None:
        return None
    modules, first = names_of(network)
    found: dict[str, set[Reader]] = {}
    for node in graph.nodes:
        module = module_of(node, modules)
        if isinstance(module, NORMS):
            found.setdefault(first[id(module)], set()).update(_of(node, modules, {}))
    return found


def _of(node: fx.Node, modules: dict[str, nn.Module], seen: dict[fx.Node, set[Reader]]) -> set[Reader]:
    if node not in seen:
        seen[node] = set().union(*(_reads(user, modules, seen) for user in node.users)) if node.users else set()
    return seen[node]


def _reads(node: fx.Node, modules: dict[str, nn.Module], seen: dict[fx.Node, set[Reader]]) -> set[Reader]:
    module = module_of(node, modules)
    if node.op == "output":
        return {"output"}
    if asks(node):
        return set()
    if is_relu(node, modules) or isinstance(module, _LEAKY):
        return {"relu"}
    if isinstance(module, LAYERS):
        return {"layer"}
    if isinstance(module, NORMS):
        return {"norm"}
    if passes(node, modules) or is_sum(node) or in_proportion(node, modules):
        return _of(node, modules, seen)
    return {"other"}
