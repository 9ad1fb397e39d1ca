"""What a trained float network knows of its scales, carried over to its converted layers.

Quantized weights have another scale than the float ones, and BN's gammas and betas are multiplied by activation_scale. So
the statistics that BN gathered in floating point, and biases, belong to sums of another size. Where the graph tells by how
much, they are multiplied by it: a converted network then computes what the float one did, but for quantization.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping

import torch
from torch import Tensor, fx, nn
from torch.nn.modules.batchnorm import _BatchNorm

from pimchip.errors import PimchipWarning
from pimchip.qat.graph import LAYERS, NORMS, is_relu, is_sum, module_of, names_of, passes, trace
from pimchip.qat.layers import QuantizedLayer

ALIKE = 0.1
"""Scales that differ by this share count as one: few bits alone move a layer's by some percent."""
SHOWN = 3


def is_trained(norm: nn.Module) -> bool:
    """Whether a module is a BN whose running statistics are no longer those that it is made with."""
    if not isinstance(norm, _BatchNorm) or norm.running_mean is None or norm.running_var is None:
        return False
    return bool((norm.running_mean != 0).any() or (norm.running_var != 1).any())


@torch.no_grad()
def carry(source: nn.Module, network: nn.Module, factor: float) -> None:
    """Multiply biases and BN's running statistics of a converted network by what its sums are larger than the source's.

    source: the float network, with weights as they were. network: the same converted, changed in place. factor: of BN's
    gammas and betas. A network without trained BNs is left alone: it is about to be trained. Warns (PimchipWarning) of BNs
    and biases whose sums the graph does not tell the scale of: they keep what does not fit.
    """
    if not any(map(is_trained, source.modules())):
        return
    modules, first = names_of(source)
    graph = trace(source)
    times: dict[str, set[float | None]] = {}
    scales: dict[fx.Node, float | None] = {}
    mixed = []
    for node in graph.nodes if graph is not None else ():
        module = module_of(node, modules)
        inputs = [scales.get(each) for each in node.all_input_nodes]
        given = _common(inputs)
        scales[node] = given
        if is_sum(node) and given is None and None not in inputs:
            mixed.append(node.name)
        if isinstance(module, LAYERS):
            name = first[id(module)]
            if given is not None:
                scales[node] = given * _ratio(module.weight, network.get_submodule(name))
            times.setdefault(name, set()).add(scales[node])
        elif isinstance(module, _BatchNorm):
            times.setdefault(first[id(module)], set()).add(given)
            scales[node] = factor if module.affine else 1.0
        elif isinstance(module, NORMS) or node.op == "placeholder":
            scales[node] = 1.0
        elif not (passes(node, modules) or is_relu(node, modules) or is_sum(node)):
            scales[node] = None
    if mixed:
        _warn(
            f"maps are added that are on different scales now ({_few(mixed)}): the network is another one until it is trained "
            "on; weight_scale = kept and activation_scale = 1 leave scales as they are"
        )
    _apply(network, {name: _common(list(found)) for name, found in times.items()})


def _common(scales: list[float | None]) -> float | None:
    """The scale that all of them have, about; None where one has none, or they differ."""
    known = [scale for scale in scales if scale is not None]
    if not known or len(known) < len(scales) or not all(math.isclose(s, known[0], rel_tol=ALIKE) for s in known):
        return None
    return known[0]


def _ratio(weight: Tensor, layer: nn.Module) -> float:
    """By what quantized weights are larger than the float ones: the factor of these that comes nearest to them."""
    assert isinstance(layer, QuantizedLayer)
    q, ratios = layer.integers(), layer.ratios()
    new = (q * layer.scale(q) * (1.0 if ratios is None else ratios[:, None, None, None])).double().flatten()
    old = weight.double().flatten()
    squares = float(old @ old)
    return float(old @ new) / squares if squares else 1.0


def _apply(network: nn.Module, times: Mapping[str, float | None]) -> None:
    lost = []
    for name, module in network.named_modules():
        scale = times.get(name)
        if isinstance(module, QuantizedLayer) and module.bias is not None:
            if scale is None:
                lost.append(name)
            else:
                module.bias.mul_(scale)
        elif isinstance(module, _BatchNorm) and is_trained(module):
            assert module.running_mean is not None and module.running_var is not None
            if scale is None:
                lost.append(name)
            else:
                module.running_mean.mul_(scale)
                module.running_var.mul_(scale * scale)
    if lost:
        _warn(
            f"statistics or biases of {_few(lost)} are not on the scale of their quantized sums, which the graph does not "
            "tell: run pimchip.qat.calibrate_bn on training images, or train on, before the network is evaluated, compiled "
            "or saved"
        )


def _few(names: list[str]) -> str:
    return ", ".join(names[:SHOWN]) + (f" and {len(names) - SHOWN} more" if len(names) > SHOWN else "")


def _warn(text: str) -> None:
    warnings.warn(text, PimchipWarning, stacklevel=4)
