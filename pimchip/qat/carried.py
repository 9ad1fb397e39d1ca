"""What a trained float network knows of its scales, carried over to its converted layers.

Quantized weights have another scale than the float ones, and BN's gammas and betas are multiplied by activation_scale. So
the statistics that BN gathered in floating point, and biases, belong to sums of another size. Where the graph tells by how
much, they are multiplied by it: a converted network then computes what the float one did, but for quantization.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn
from torch.nn.modules.batchnorm import _BatchNorm, _NormBase
from torch.nn.modules.conv import _ConvNd

from pimchip.errors import PimchipWarning, few
from pimchip.qat.graph import (
    LAYERS,
    NORMS,
    asks,
    handed,
    in_proportion,
    is_relu,
    is_sum,
    module_of,
    names_of,
    passes,
    trace,
)
from pimchip.qat.layers import QuantizedLayer

ALIKE = 0.03
"""Scales that differ by this share count as one."""
SHOWN = 3
_NORM_CALLS = (F.layer_norm, F.group_norm, F.instance_norm)
_SOFTMAX, _SOFTMAX_CALLS = (nn.Softmax, nn.LogSoftmax), (torch.softmax, torch.log_softmax, F.softmax, F.log_softmax)
_SOFTMAX_METHODS = ("softmax", "log_softmax")
_MEND = "the network is another one until it is trained on; weight_scale = kept and activation_scale = 1 leave scales as they are"


def is_trained(norm: nn.Module) -> bool:
    """Whether a module is a BN, or an instance normalization, whose running statistics are no longer those that it is made with."""
    if not isinstance(norm, _NormBase) or norm.running_mean is None or norm.running_var is None:
        return False
    return bool((norm.running_mean != 0).any() or (norm.running_var != 1).any())


def looks_trained(network: nn.Module) -> bool:
    """Whether a float network has been trained, as far as that is seen.

    By BN's statistics and the gammas and betas of other normalizations; without any of these, by weights or biases beyond
    the 1 / sqrt(fan in) within which torch draws them.
    """
    norms = [m for m in network.modules() if isinstance(m, NORMS) and (*m.parameters(False), *m.buffers(False))]
    if norms:
        return any(is_trained(norm) or _has_moved(norm) for norm in norms)
    return any(_is_beyond_its_start(m) for m in network.modules() if isinstance(m, LAYERS))


def _has_moved(norm: nn.Module) -> bool:
    weight, bias = getattr(norm, "weight", None), getattr(norm, "bias", None)
    if isinstance(norm, _BatchNorm) or weight is None:  # BN's gammas often start at 0
        return False
    return bool((weight != 1).any()) or (bias is not None and bool((bias != 0).any()))


def _is_beyond_its_start(layer: nn.Conv2d | nn.Linear) -> bool:
    bound = 1.0001 / math.sqrt(layer.weight[0].numel())
    return any(bool((p.abs() > bound).any()) for p in (layer.weight, layer.bias) if p is not None)


@dataclass
class _Found:
    """By what the values of the converted network are larger than the float one's, None where that is not known."""

    times: dict[str, set[float | None]] = field(default_factory=dict)
    """By what the statistics or the bias of a module are to be multiplied, for each of its calls."""
    mixed: list[str] = field(default_factory=list)
    """Sums of maps on different scales."""
    bent: list[str] = field(default_factory=list)
    """What reads values of another scale and is not in proportion to them."""
    output: float = 1.0
    """Of an output of one number: of several, the largest stays the largest."""


@torch.no_grad()
def carry(source: nn.Module, network: nn.Module, factors: Mapping[str, float]) -> None:
    """Multiply biases and BN's running statistics of a converted network by what its sums are larger than the source's.

    source: the float network, with weights as they were. network: the same converted, changed in place. factors: by what
    normalizations give more, by name. A network that does not look trained is left alone: it is about to be. Warns (PimchipWarning) of BNs
    and biases whose sums the graph does not tell the scale of, which keep what does not fit, and of what is not the float
    network's at any scale.
    """
    if not looks_trained(source):
        return
    graph = trace(source)
    found = _Found() if graph is None else _walk(graph, source, network, factors)
    if found.mixed:
        _warn(f"maps are added that are on different scales now ({few(found.mixed, SHOWN)}): {_MEND}")
    if found.bent:
        _warn(
            f"values on another scale than in floating point enter {few(found.bent, SHOWN)}, where that changes more: {_MEND}"
        )
    if not _alike(found.output, 1.0):
        _warn(f"the output is {found.output:.3g} times that in floating point: {_MEND}")
    _apply(source, network, {name: _common(list(times)) for name, times in found.times.items()})


def _walk(graph: fx.Graph, source: nn.Module, network: nn.Module, factors: Mapping[str, float]) -> _Found:
    modules, first = names_of(source)
    found = _Found()
    scales: dict[fx.Node, float | None] = {}
    numbers: set[fx.Node] = set()  # sizes and what is computed of them

    def note(module: nn.Module, scale: float | None) -> None:
        found.times.setdefault(first[id(module)], set()).add(scale)

    for node in graph.nodes:
        read = node.all_input_nodes
        if asks(node) or (read and numbers.issuperset(read)):
            numbers.add(node)
            continue
        module = module_of(node, modules)
        inputs = [scales[each] for each in read if each not in numbers]
        given = scales[handed(node)] if passes(node, modules) else _common(inputs)
        if isinstance(module, LAYERS):
            if given is not None:
                given *= _ratio(module.weight, network.get_submodule(first[id(module)]))
            note(module, given)
        elif isinstance(module, _ConvNd):  # which stays as it is, but for its bias
            note(module, given)
        elif isinstance(module, NORMS):
            note(module, given)  # of which running statistics are multiplied
            given = factors.get(first[id(module)], 1.0)
        elif node.op in ("placeholder", "get_attr") or node.target in _NORM_CALLS:
            given = 1.0
        elif is_sum(node):
            if given is None and None not in inputs:
                found.mixed.append(node.name)
        elif node.op == "output":
            if given is not None and _is_one_number(node, modules):
                found.output = given
        elif not (passes(node, modules) or is_relu(node, modules) or in_proportion(node, modules)):
            # Where one is not known, what made it so was told.
            known = None not in inputs and not _ends_in_softmax(node, module)
            if known and not all(_alike(scale, 1.0) for scale in inputs if scale is not None):
                found.bent.append(node.name if module is None else str(node.target))
            given = 1.0 if given is not None and _alike(given, 1.0) else None
        scales[node] = given
    return found


def _alike(one: float, other: float) -> bool:
    return math.isclose(one, other, rel_tol=ALIKE)


def _common(scales: list[float | None]) -> float | None:
    """The scale that all of them have, about; None where one has none, or they differ."""
    known = [scale for scale in scales if scale is not None]
    if not known or len(known) < len(scales) or not all(_alike(scale, known[0]) for scale in known):
        return None
    return known[0]


def _is_one_number(output: fx.Node, modules: Mapping[str, nn.Module]) -> bool:
    """Whether what is given out comes from a layer of one output."""
    node = output.all_input_nodes[0]
    while passes(node, modules):
        node = handed(node)
    module = module_of(node, modules)
    return isinstance(module, LAYERS) and module.weight.shape[0] == 1


def _ends_in_softmax(node: fx.Node, module: nn.Module | None) -> bool:
    """Whether a node makes logits to chances that are given out: their order stays."""
    called = isinstance(module, _SOFTMAX) or node.target in (*_SOFTMAX_CALLS, *_SOFTMAX_METHODS)
    return called and all(user.op == "output" for user in node.users)


def _ratio(weight: Tensor, layer: nn.Module) -> float:
    """By what quantized weights are larger than the float ones: the factor of these that comes nearest to them.

    1 of those that keep their scale: what they are off by is of their rounding.
    """
    assert isinstance(layer, QuantizedLayer)
    if layer.scale_kept is not None:
        return 1.0
    q, ratios = layer.integers(), layer.ratios()
    new = (q * layer.scale(q) * (1.0 if ratios is None else ratios[:, None, None, None])).double().flatten()
    old = weight.double().flatten()
    squares = float(old @ old)
    return float(old @ new) / squares if squares else 1.0


def _apply(source: nn.Module, network: nn.Module, times: Mapping[str, float | None]) -> None:
    norms, biases = [], []
    for name, module in network.named_modules():
        scale = times.get(name)
        if isinstance(module, QuantizedLayer | _ConvNd) and module.bias is not None:
            if scale is not None:
                module.bias.mul_(scale)
            elif bool((module.bias != 0).any()) and (name in times or not times):
                biases.append(name)
        elif isinstance(module, _NormBase) and is_trained(module):
            assert module.running_mean is not None and module.running_var is not None
            if scale is None:
                norms.append(name)
            else:
                module.running_mean.mul_(scale)
                module.running_var.mul_(scale * scale)
    lost = "are not on the scale of their quantized sums, which the graph does not tell: "
    if norms:
        _warn(
            f"statistics of {few(norms, SHOWN)} {lost}run pimchip.qat.calibrate_bn on training images, or train on, before the "
            "network is evaluated, compiled or saved"
        )
    if biases:
        _warn(f"biases of {few(biases, SHOWN)} {lost}train on before the network is evaluated, compiled or saved")


def _warn(text: str) -> None:
    warnings.warn(text, PimchipWarning, stacklevel=4)
