"""Which layers keep the scale of their float weights: those whose output nothing brings to a scale of its own.

The scale adjustment (Jin et al., arXiv 1912.09666) gives every layer's quantized weights the deviation 1 / sqrt(fan),
whatever that of the float weights was. A normalization after the layer takes this out again, and a quantized ReLU,
whose grid ends at 1, wants outputs of about 1. Where the output goes elsewhere, into a residual sum, an attention's
softmax or product, it changes the function: there the quantized weights keep the float weights' root mean square.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Any, Literal, get_args

import torch.nn.functional as F
from torch import fx, nn

from pimchip.errors import InputError, unknown
from pimchip.qat.graph import LAYERS, NORMS, asks, handed, is_relu, module_of, names_of, passes, trace

WeightScale = Literal["auto", "adjusted", "kept"]

_NORM_CALLS: frozenset[Callable[..., Any] | str] = frozenset((F.batch_norm, F.layer_norm, F.group_norm))


def kept(network: nn.Module, names: Collection[str], wanted: str | Mapping[str, str]) -> set[str]:
    """Names of the layers, of `names` in their order, that keep the scale of their float weights.

    network: float, before its layers are replaced. wanted: for all layers, or by name, the others adjusted. auto: where
    the output reaches, through pooling and the like, anything but normalizations and ReLUs; the last layer, which nothing
    follows, where one of the others does or where it reads something else than images or a ReLU's grid, as behind a GELU:
    its inputs are as large as they were, so adjusted weights would only make the logits steeper. A network whose forward
    cannot be traced by torch.fx is adjusted, and so is what it does not call. Raises InputError for an unknown choice or layer.
    """
    by_name = isinstance(wanted, Mapping)
    known = [choice for choice in get_args(WeightScale) if choice != "auto" or not by_name]
    for choice in wanted.values() if isinstance(wanted, Mapping) else [wanted]:
        if choice not in known:
            raise InputError(unknown("weight_scale", str(choice), known))
    if isinstance(wanted, Mapping):
        for name in wanted:
            if name not in names:
                raise InputError(unknown("layer", name, names))
        return {name for name, choice in wanted.items() if choice == "kept"}
    if wanted != "auto":
        return set(names) if wanted == "kept" else set()
    graph = trace(network)
    if graph is None:
        return set()
    *others, last = names
    free = set(_free(network, graph))
    found = {name for name in others if name in free}
    return found | {last} if found or _reads_off_grid(network, graph, last) else found


def _reads_off_grid(network: nn.Module, graph: fx.Graph, layer: str) -> bool:
    """Whether a layer reads what is neither images nor behind a ReLU, through pooling and the like."""
    modules, first = names_of(network)
    for node in graph.nodes:
        module = module_of(node, modules)
        if isinstance(module, LAYERS) and first[id(module)] == layer:
            source = handed(node)
            while passes(source, modules):
                source = handed(source)
            if source.op != "placeholder" and not is_relu(source, modules):
                return True
    return False


def _free(network: nn.Module, graph: fx.Graph, relu_ends: bool = True) -> Iterator[str]:
    """Layers of which an output goes on at its own scale; unless relu_ends, to a ReLU too."""
    modules, first = names_of(network)
    for node in graph.nodes:
        module = module_of(node, modules)
        if isinstance(module, LAYERS) and any(_is_free(user, modules, relu_ends) for user in node.users):
            yield first[id(module)]


def _is_free(node: fx.Node, modules: Mapping[str, nn.Module], relu_ends: bool) -> bool:
    """Whether a value that this node reads goes on at its own scale."""
    module = module_of(node, modules)
    if isinstance(module, NORMS) or node.target in _NORM_CALLS or asks(node):
        return False
    if is_relu(node, modules):
        return not relu_ends
    return not passes(node, modules) or any(_is_free(user, modules, relu_ends) for user in node.users)


def without_norm(network: nn.Module) -> set[str]:
    """Names of a float network's layers whose outputs come to ReLUs, and to one with no normalization before it."""
    graph = trace(network)
    return set() if graph is None else set(_free(network, graph, relu_ends=False)) - set(_free(network, graph))
