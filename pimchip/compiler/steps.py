"""From the steps of a graph to those of a program's manifest."""

from __future__ import annotations

from collections.abc import Mapping

from pimchip.compiler.host_steps import (
    ArrangeStep,
    ConstantStep,
    HostStep,
    JoinStep,
    LookupStep,
    MatmulStep,
    MultiplyStep,
    NormalizeStep,
    SoftmaxStep,
)
from pimchip.compiler.ir import (
    Along,
    Constant,
    IntegerOp,
    Integers,
    Join,
    Lookup,
    Moved,
    Product,
    Rescale,
    Sum,
    Times,
    Window,
)
from pimchip.compiler.records import AddStep, DigitalStep, PimStep, PoolStep, RequantizeStep, Step


def step(op: IntegerOp, graph: Integers, buffers: Mapping[str, int]) -> Step:
    """What a board or the host executes. Buffers are numbered in the order of the steps; the image is in the first."""
    detail, out, dst = op.detail, op.type, buffers[op.name]
    if op.kind == "pim":
        return PimStep(layer=op.layer, src=buffers[op.inputs[0]], dst=dst)
    if op.kind == "digital":
        return DigitalStep(layer=op.layer, src=buffers[op.inputs[0]], dst=dst)
    if isinstance(detail, Window):
        return PoolStep(
            kind=detail.kind,
            src=buffers[op.inputs[0]],
            dst=dst,
            kernel=detail.kernel,
            stride=detail.stride,
            padding=detail.padding,
        )
    if isinstance(detail, Sum):
        a, b = (buffers[name] for name in op.inputs)
        return AddStep(a=a, b=b, dst=dst, factors=detail.factors, shift=detail.shift, low=out.low, high=out.high)
    if not isinstance(detail, Rescale):
        return host_step(op, buffers)
    source = graph.types[op.inputs[0]]
    return RequantizeStep(
        norm=detail.norm,
        src=buffers[op.inputs[0]],
        dst=dst,
        unit=source.scale * abs(detail.factor),
        scale=out.scale,
        low=out.low,
        high=out.high,
        acc_max=source.peak,
        channels=source.shape[0],
        zero=out.zero,
        negative=detail.factor < 0,
    )


def host_step(op: IntegerOp, buffers: Mapping[str, int]) -> HostStep:
    """What the host executes."""
    detail, out, dst = op.detail, op.type, buffers[op.name]
    if isinstance(detail, Constant):
        return ConstantStep(name=detail.name, dst=dst)
    src = buffers[op.inputs[0]]
    if isinstance(detail, Moved):
        return ArrangeStep(src=src, dst=dst, split=detail.split, cut=detail.cut, order=detail.order, shape=out.shape)
    if isinstance(detail, Along) and detail.table:
        return SoftmaxStep(src=src, dst=dst, axis=detail.axis, table=detail.table, shift=detail.shift, mask=detail.mask)
    if isinstance(detail, Along):
        return NormalizeStep(src=src, dst=dst, axis=detail.axis, epsilon=detail.epsilon)
    if isinstance(detail, Lookup):
        return LookupStep(
            src=src,
            dst=dst,
            table=detail.table,
            first=detail.first,
            shift=detail.shift,
            ends=detail.ends,
            low=out.low,
            high=out.high,
        )
    if isinstance(detail, Times):
        return MultiplyStep(a=src, b=buffers[op.inputs[1]], dst=dst, shift=detail.shift, low=out.low, high=out.high)
    if isinstance(detail, Product):
        return MatmulStep(a=src, b=buffers[op.inputs[1]], dst=dst, shift=detail.shift, low=out.low, high=out.high)
    assert isinstance(detail, Join)
    return JoinStep(maps=tuple(buffers[name] for name in op.inputs), dst=dst, axis=detail.axis)
