"""A converted network made a program: every pass of pimchip.compiler.passes, then the manifest around what they give."""

from __future__ import annotations

import hashlib

from torch import nn

from pimchip.chip import ChipSpec
from pimchip.compiler.faults import Faults
from pimchip.compiler.ir import Image, Integers
from pimchip.compiler.order import Knowledge
from pimchip.compiler.passes import Observer, run_passes
from pimchip.compiler.program import Program
from pimchip.compiler.records import Manifest
from pimchip.compiler.steps import step
from pimchip.errors import CompileError


def compile_network(
    network: nn.Module,
    spec: ChipSpec,
    image_shape: Image,
    classes: tuple[str, ...] | None,
    *,
    name: str = "network",
    profile_hash: str | None = None,
    data: str = "",
    observer: Observer | None = None,
    faults: Faults | None = None,
    known: Knowledge | None = None,
    replicas: int = 1,
) -> Program:
    """Lower a converted network as it is in eval mode. classes: their names; None: numbers, one a logit.

    observer: is told of every pass and the graph it gave. faults: of the die it is for. known: of that die, for outputs that
    hurt most to be given its quietest converters; None: outputs are in the network's order. replicas: a layer is held so
    often at most, where that saves time and there is room (pimchip.compiler.replicas). Deterministic: one thread, float64
    only where reals are left.
    """
    graph = run_passes(network, spec, image_shape, observer, faults=faults, known=known, replicas=replicas)
    assert isinstance(graph, Integers) and graph.passes is not None
    out = graph.types[graph.output]
    if classes is None and out.shape[1:] == (1, 1):
        classes = tuple(map(str, range(out.shape[0])))
    if classes is None:
        raise CompileError(f"the network gives {list(out.shape)} for an image, no vector of logits")
    if out.shape != (len(classes), 1, 1):
        raise CompileError(f"the network gives {list(out.shape)} for an image, not {len(classes)} logits")
    buffers = {op.name: number for number, op in enumerate(graph.ops)}
    manifest = Manifest(
        name=name,
        chip=spec.to_dict(),
        spec_hash=spec.hash,
        input_shape=image_shape,
        classes=classes,
        layers=graph.layers,
        norms=graph.norms,
        steps=tuple(step(op, graph, buffers) for op in graph.ops if op.kind != "input"),
        input=0,
        output=buffers[graph.output],
        logit_scale=out.scale,
        passes=graph.passes,
        model_hash=_model_hash(network),
        profile_hash=profile_hash,
        data=data,
    )
    return Program(manifest, spec, graph.tensors)


def _model_hash(network: nn.Module) -> str:
    """SHA-256 over the weights, names and shapes."""
    digest = hashlib.sha256()
    for name, tensor in sorted(network.state_dict().items()):
        digest.update(f"{name}{list(tensor.shape)}".encode() + tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()
