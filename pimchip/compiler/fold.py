"""The passes `simplify` and `fold`: what does nothing goes, and normalizations go into the layers they follow."""

from __future__ import annotations

from dataclasses import replace

from torch import nn

from pimchip.compiler.ir import Network, NetworkOp
from pimchip.errors import CompileError
from pimchip.qat.layers import QuantizedLayer


def simplify(network: Network) -> Network:
    """Without identities, and without what does not lead to the output. The image's map stays."""
    named = {op.name: op for op in network.ops}

    def real(name: str) -> str:
        while named[name].kind == "identity":
            name = named[name].inputs[0]
        return name

    wanted: set[str] = set()
    kept: list[NetworkOp] = []
    for op in reversed(network.ops):
        if op.kind == "output" or op.name in wanted or op.kind == "input":
            op = replace(op, inputs=tuple(real(name) for name in op.inputs))
            wanted.update(op.inputs)
            kept.append(op)
    return Network(tuple(reversed(kept)))


def fold(network: Network) -> Network:
    """Each normalization in its layer. Raises CompileError for one that follows no layer, or one that others read too."""
    named = {op.name: op for op in network.ops}
    moved = {op.name: op.inputs[0] for op in network.ops if op.kind == "norm"}
    norms: dict[str, nn.Module] = {}
    for op in network.ops:
        if op.kind == "norm":
            assert op.module is not None
            norms[_layer(op, network, named)] = op.module
    ops = [
        replace(op, inputs=tuple(moved.get(name, name) for name in op.inputs), norm=norms.get(op.name))
        for op in network.ops
        if op.kind != "norm"
    ]
    return Network(tuple(ops))


def _layer(norm: NetworkOp, network: Network, named: dict[str, NetworkOp]) -> str:
    """The layer that a normalization goes into. Flattening may lie between; nothing else may read what does."""
    module, source = norm.module, named[norm.inputs[0]]
    assert isinstance(module, nn.BatchNorm2d | nn.BatchNorm1d)
    while True:
        if sum(op.inputs.count(source.name) for op in network.ops) > 1:
            raise CompileError(f"{norm.where} the layer before it also feeds something else without normalization")
        if source.kind != "flatten":
            break
        source = named[source.inputs[0]]
    if source.kind != "layer":
        mend = ": put it after the first layer, which takes out the images' mean and scale as well"
        raise CompileError(
            f"{norm.where} must follow a layer directly, to be folded into its requantization{mend * (source.kind == 'input')}"
        )
    if isinstance(source.module, QuantizedLayer) and source.module.linear and source.type.shape[1:] != (1, 1):  # type: ignore[index]
        raise CompileError(f"{norm.where} normalizes tokens by their number, not by their features")
    if module.running_mean is None or source.type.shape is None or module.num_features != source.type.shape[0]:
        raise CompileError(f"{norm.where} has no running statistics or another number of channels")
    return source.name
