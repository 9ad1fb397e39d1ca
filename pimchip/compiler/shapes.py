"""The pass `shapes`: every map's (channels, height, width), or a refusal that names the operation that does not fit."""

from __future__ import annotations

from dataclasses import replace
from math import prod

from torch import nn

from pimchip.compiler.host_steps import repeated
from pimchip.compiler.ir import Arrange, Image, Network, NetworkOp, Real, Shape, Window
from pimchip.errors import CompileError, InputError
from pimchip.qat.layers import QuantizedLayer


def shapes(network: Network, image: Image) -> Network:
    """The same operations with the shapes of their results. Raises CompileError."""
    found: dict[str, Shape] = {}
    ops = []
    for op in network.ops:
        found[op.name] = image if op.kind == "input" else _shape(op, [found[name] for name in op.inputs])
        if op.type.shape not in (None, found[op.name]):
            raise CompileError(
                f"{op.where} gives {list(found[op.name])}, in torch.export's graph {list(op.type.shape or ())}"
            )
        ops.append(replace(op, type=Real(found[op.name])))
    return Network(tuple(ops))


def _shape(op: NetworkOp, sources: list[Shape]) -> Shape:
    if op.kind == "constant":
        return as_map(tuple(op.detail.shape))
    first = sources[0]
    if op.kind == "layer":
        assert isinstance(op.module, QuantizedLayer)
        if op.module.linear and not is_vector(first):
            if first[-1] != op.module.geometry.in_channels:
                raise CompileError(f"{op.where} takes [..., {op.module.geometry.in_channels}], not {list(first)}")
            return *first[:-1], op.module.geometry.out_channels
        try:
            return op.module.whole.output_shape(first)
        except (InputError, ValueError) as error:
            raise CompileError(f"{op.where} {error}") from None
    if op.kind == "add" and first != sources[1]:
        raise CompileError(f"{op.where} adds maps of shapes {list(first)} and {list(sources[1])}")
    if op.kind == "product":
        found = repeated(first, sources[1])
        if found is None:
            raise CompileError(f"{op.where} multiplies maps of shapes {list(first)} and {list(sources[1])}")
        return found
    if op.kind == "flatten":
        return prod(first), 1, 1
    if op.kind in ("arrange", "matmul", "attention", "mean", "join"):
        return _of_tokens(op, sources)
    if op.kind == "concat":
        if any(source[1:] != first[1:] for source in sources):
            raise CompileError(f"{op.where} joins maps of shapes {', '.join(str(list(s)) for s in sources)}")
        return sum(source[0] for source in sources), *first[1:]
    if op.kind in ("max_pool", "avg_pool", "global_pool"):
        w = window(op, first)
        across = zip(first[1:], w.kernel, w.stride, w.padding, strict=True)
        height, width = ((size + 2 * p - k) // s + 1 for size, k, s, p in across)
        if min(first[0], height, width) < 1:
            raise CompileError(f"{op.where} does not fit a map of {first[1]}x{first[2]}")
        return first[0], height, width
    return first


def is_vector(shape: Shape) -> bool:
    """Whether a map is one value a channel."""
    return len(shape) == 3 and shape[1:] == (1, 1)


def as_map(shape: Shape) -> Shape:
    """The shape of a vector, as maps have it; others as they are."""
    return (*shape, 1, 1) if len(shape) == 1 else shape


def _of_tokens(op: NetworkOp, sources: list[Shape]) -> Shape:
    first = sources[0]
    if op.kind == "arrange":
        assert isinstance(op.detail, Arrange)
        return as_map(op.detail.shape)
    if op.kind == "matmul":
        return *first[:-1], sources[1][-1]
    if op.kind == "attention":
        return *first[:-1], sources[2][-1]
    if op.kind == "mean":
        if len(first) == 2 and op.type.shape == (1, first[1]):  # one token is kept
            return 1, first[1]
        return (first[0], 1, 1) if len(first) == 3 else (first[1], 1, 1)
    axis = op.detail
    rest = {(*s[:axis], *s[axis + 1 :]) for s in sources}
    if len(rest) > 1:
        raise CompileError(f"{op.where} joins maps of shapes {', '.join(str(list(s)) for s in sources)}")
    return *first[:axis], sum(s[axis] for s in sources), *first[axis + 1 :]


def window(op: NetworkOp, shape: Shape) -> Window:
    """What a pooling of a map of `shape` does. Raises CompileError for what the processor cannot do exactly."""
    module = op.module
    if len(shape) != 3:
        raise CompileError(f"{op.where} is of a map of {list(shape)}; pooling is of [channels, height, width]")
    _, h, w = shape
    if isinstance(module, nn.AdaptiveAvgPool2d):
        if module.output_size not in (1, (1, 1)):
            raise CompileError(f"{op.where} has output_size {module.output_size}; 1 is supported")
        return Window("sum", (h, w), (h, w), (0, 0))
    assert isinstance(module, nn.MaxPool2d | nn.AvgPool2d)
    kernel, padding = _pair(module.kernel_size), _pair(module.padding)
    if not all(0 <= p <= k // 2 for p, k in zip(padding, kernel, strict=True)):  # torch, too, refuses to run it
        raise CompileError(
            f"{op.where} has padding {padding} for a kernel of {kernel[0]}x{kernel[1]}; up to half of it is wanted"
        )
    plain = getattr(module, "dilation", 1) in (1, (1, 1)) and not module.ceil_mode
    plain = plain and not getattr(module, "return_indices", False)
    if isinstance(module, nn.AvgPool2d):
        plain = plain and module.divisor_override is None and (module.count_include_pad or padding == (0, 0))
    if not plain:
        raise CompileError(
            f"{op.where} has dilation, ceil_mode, a divisor, indices or excludes padding; use plain pooling"
        )
    return Window("max" if isinstance(module, nn.MaxPool2d) else "sum", kernel, _pair(module.stride), padding)


def _pair(value: int | tuple[int, ...]) -> tuple[int, int]:
    return (value, value) if isinstance(value, int) else (value[0], value[1])
