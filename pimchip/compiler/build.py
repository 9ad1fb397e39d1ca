"""A converted network made a program: traced, lowered node by node, put together with its manifest."""

from __future__ import annotations

import copy
import hashlib

import torch
from torch import nn

from pimchip.chip import ChipSpec
from pimchip.compiler.lower import Lowering
from pimchip.compiler.mapping import Mapper
from pimchip.compiler.program import Program
from pimchip.compiler.records import Manifest
from pimchip.compiler.trace import Node, trace
from pimchip.compiler.values import Result, Shape, Value
from pimchip.errors import CompileError
from pimchip.qat.pim import PimLayerModule
from pimchip.qat.quantizers import ActQuant


def compile_network(
    network: nn.Module,
    spec: ChipSpec,
    image_shape: Shape,
    classes: tuple[str, ...] | None,
    *,
    name: str = "network",
    profile_hash: str | None = None,
    data: str = "",
) -> Program:
    """Lower a converted network as it is in eval mode. classes: their names; None: numbers, one a logit.

    Deterministic: one thread, float64 only where reals are left.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # quantized weights must not depend on how torch splits a reduction
    try:
        return _compile(copy.deepcopy(network).eval(), spec, image_shape, classes, name, profile_hash, data)
    finally:
        torch.set_num_threads(threads)


def _compile(
    network: nn.Module,
    spec: ChipSpec,
    image_shape: Shape,
    classes: tuple[str, ...] | None,
    name: str,
    profile_hash: str | None,
    data: str,
) -> Program:
    nodes = trace(network)
    bits = [m.bits for m in network.modules() if isinstance(m, ActQuant)]
    bits += [m.mac.act_bits for m in network.modules() if isinstance(m, PimLayerModule)]
    state = Lowering(spec, Mapper(spec), max(bits, default=8))
    results: dict[str, Result] = {}
    out: Value | None = None
    for node in nodes:
        sources = [results[i] for i in node.inputs]
        if node.kind == "input":
            results[node.name] = Value(0, image_shape, 1 / 255, 0, 255)
        elif node.kind == "output":
            out = state.output(node, sources[0])
        elif node.kind == "layer":
            results[node.name] = state.layer(node, sources[0])
        elif node.kind == "norm":
            _refuse_shared(node, nodes)
            results[node.name] = state.norm(node, sources[0])
        elif node.kind == "quantize":
            assert isinstance(node.module, ActQuant)
            results[node.name] = state.activations(sources[0], node.module.bits, node)
        elif node.kind == "relu":
            results[node.name] = state.relu(node, sources[0])
        elif node.kind == "add":
            results[node.name] = state.add(node, sources[0], sources[1])
        elif node.kind in ("max_pool", "avg_pool", "global_pool"):
            results[node.name] = state.pool(node, sources[0])
        else:  # flatten, identity: the same integers, read another way
            results[node.name] = sources[0]
    assert out is not None
    if classes is None and out.shape[1:] == (1, 1):
        classes = tuple(map(str, range(out.shape[0])))
    if classes is None:
        raise CompileError(f"the network gives {list(out.shape)} for an image, no vector of logits")
    if out.shape != (len(classes), 1, 1):
        raise CompileError(f"the network gives {list(out.shape)} for an image, not {len(classes)} logits")
    manifest = Manifest(
        name=name,
        chip=spec.to_dict(),
        spec_hash=spec.hash,
        input_shape=image_shape,
        classes=classes,
        layers=state.layers,
        norms=state.norms,
        steps=tuple(state.steps),
        input=0,
        output=out.buffer,
        logit_scale=out.scale,
        passes=state.mapper.passes,
        model_hash=_model_hash(network),
        profile_hash=profile_hash,
        data=data,
    )
    return Program(manifest, spec, state.tensors)


def _refuse_shared(norm: Node, nodes: list[Node]) -> None:
    """Refuse a normalization whose layer is also read without it: folded, it would apply to every reader."""
    named = {node.name: node for node in nodes}
    node = norm
    while True:
        source = node.inputs[0]
        if sum(n.inputs.count(source) for n in nodes) > 1:
            raise CompileError(f"{norm.where} the layer before it also feeds something else without normalization")
        node = named[source]
        if node.kind not in ("flatten", "identity"):
            return


def _model_hash(network: nn.Module) -> str:
    """SHA-256 over the weights, names and shapes."""
    digest = hashlib.sha256()
    for name, tensor in sorted(network.state_dict().items()):
        digest.update(f"{name}{list(tensor.shape)}".encode() + tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()
