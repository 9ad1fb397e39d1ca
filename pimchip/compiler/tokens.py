"""Lowering of what the host does between layers: attention, normalization, functions, products, and values moved about.

A map of tokens, [tokens, features] in the network, is held as channels = features, height = tokens, width = 1, so that a
linear layer is a 1 x 1 convolution on it and a normalization has its gammas by channel. Others are held as they are.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from pimchip.compiler.functions import exp_table, table
from pimchip.compiler.ir import (
    Along,
    Arrange,
    Constant,
    IntegerOp,
    Ints,
    Join,
    Lookup,
    Moved,
    NetworkOp,
    Product,
    Rescale,
    Shape,
    Times,
    Window,
)
from pimchip.compiler.shapes import is_vector
from pimchip.errors import CompileError
from pimchip.kernels import tokens

if TYPE_CHECKING:
    from pimchip.compiler.forms import Forms, Result, Value

FACTOR_LIMIT = 1 << 24
"""Magnitude of the integers that matrices of activations are multiplied as."""
NORMAL = 2.0**-tokens.NORMAL_BITS
SHARE = 2.0**-tokens.SHARE_BITS


def held(shape: Shape) -> Shape:
    """The shape under which the network's tensor is held."""
    return (shape[1], shape[0], 1) if len(shape) == 2 else shape


def arrange(state: Forms, op: NetworkOp, source: Result, given: Shape) -> Value:
    """A view that moves values."""
    assert isinstance(op.detail, Arrange)
    return move(state, state.stored(source, op), _as_held(op.detail, given), op.name)


def _as_held(view: Arrange, given: Shape) -> Moved:
    """What a view of a tensor of shape `given` does to it as it is held."""
    count = len(view.split)
    order = list(range(count))
    if len(given) == 2:  # the parts of the features come first
        tokens_, size = 0, 1
        while size < given[0]:
            size, tokens_ = size * view.split[tokens_], tokens_ + 1
        order = [*range(tokens_, count), *range(tokens_)]
    dims = list(view.dims)
    shape = view.shape
    if len(shape) == 2:
        dims = dims[::-1]
    out = held(shape) if len(shape) > 1 else (shape[0], 1, 1)
    at = {part: number for number, part in enumerate(order)}
    return Moved(
        tuple(view.split[part] for part in order),
        tuple(view.cut[part] for part in order),
        tuple(at[part] for dim in dims for part in dim),
        out,
    )


def move(state: Forms, value: Value, moved: Moved, name: str) -> Value:
    """A step that moves values, where they move."""
    if moved.idle and moved.shape == value.type.shape:
        return value
    made = replace(value.type, shape=moved.shape)
    return state.step(IntegerOp(state.free(f"{name}.moved"), "arrange", (value.op,), made, detail=moved))


def _turned(state: Forms, value: Value, given: Shape, order: tuple[int, ...], shape: Shape, name: str) -> Value:
    """The axes `given` in another order."""
    return move(state, value, Moved(given, tuple((0, size) for size in given), order, shape), name)


def features_first(state: Forms, value: Value, shape: Shape, name: str) -> Value:
    """A tensor of `shape` [.., features] with its features as channels."""
    if len(shape) != 3 or is_vector(shape):
        return value
    return _turned(state, value, shape, (2, 0, 1), (shape[2], *shape[:2]), name)


def features_last(state: Forms, value: Value, shape: Shape, name: str) -> Value:
    """The way back, to `shape`."""
    if len(shape) != 3 or is_vector(shape):
        return value
    return _turned(state, value, (shape[2], *shape[:2]), (1, 2, 0), shape, name)


def _axis(axis: int, shape: Shape) -> int:
    """An axis of the network's tensor as it is held."""
    return 1 - axis if len(shape) == 2 else axis


def constant(state: Forms, op: NetworkOp) -> Value:
    """What is the same for every image, wide."""
    values = op.detail.to(torch.float64).numpy()
    limit = state.wide_limit
    q = np.rint(values / state.wide_scale)
    if not np.isfinite(q).all() or np.abs(q).max(initial=0) > limit:
        raise CompileError(f"{op.where} holds a constant up to {np.abs(values).max():.3g}, which is too large")
    q = _array_as_held(q.astype(np.int32))
    name = state.free(op.name)
    state.tensors[f"constant.{name}"] = q
    made = Ints(q.shape, state.wide_scale, int(q.min()), int(q.max()))
    return state.step(IntegerOp(name, "constant", (), made, detail=Constant(name)))


def _array_as_held(values: NDArray[np.int32]) -> NDArray[np.int32]:
    """Of the network's tensor of one image."""
    turned = {1: values.reshape(-1, 1, 1), 2: values.T[..., None]}
    return np.ascontiguousarray(turned.get(values.ndim, values))


def join(state: Forms, op: NetworkOp, sources: list[Result]) -> Value:
    """Tokens, or whatever an axis counts, one after another."""
    assert op.type.shape is not None
    axis = _axis(op.detail, op.type.shape)
    maps = [state.stored(source, op) for source in sources]
    if len({v.type.scale for v in maps}) > 1:
        maps = [state.exactly_wide(source, op) for source in sources]
    low, high = min(v.type.low for v in maps), max(v.type.high for v in maps)
    made = Ints(held(op.type.shape), maps[0].type.scale, low, high)
    return state.step(IntegerOp(state.free(op.name), "join", tuple(v.op for v in maps), made, detail=Join(axis)))


def layer_norm(state: Forms, op: NetworkOp, source: Result) -> Result:
    """Mean and deviation of each token by the host; gammas and betas are of the requantization after it."""
    module, shape = op.module, op.type.shape
    assert isinstance(module, nn.LayerNorm) and shape is not None
    count = shape[0] if is_vector(shape) else shape[-1]
    if tuple(module.normalized_shape) != (count,) or count > tokens.FEATURES_MAX or len(shape) > 3:
        raise CompileError(
            f"{op.where} normalizes over {list(module.normalized_shape)} of {list(shape)}; the last axis, of up to "
            f"{tokens.FEATURES_MAX}, is supported"
        )
    x = features_first(state, state.exactly_wide(source, op), shape, op.name)
    epsilon = round(count**3 * module.eps / x.type.scale**2)
    if epsilon >= tokens.EPSILON_LIMIT:
        raise CompileError(f"{op.where} has eps = {module.eps}, which is too large for {count} features")
    bound = (math.isqrt(count) + 1) << tokens.NORMAL_BITS
    name = state.free(op.name)
    made = Ints(x.type.shape, NORMAL, -bound, bound)
    step = state.step(IntegerOp(name, "normalize", (x.op,), made, detail=Along(0, epsilon), of=op.name))
    state.affine(name, count, NORMAL, module.weight, module.bias)
    pending = state.pending(step, name)
    if len(shape) != 3 or is_vector(shape):
        return pending
    return features_last(state, state.wide(pending, op), shape, f"{op.name}.back")


def group_norm(state: Forms, op: NetworkOp, source: Result) -> Result:
    """Mean and deviation of each group of channels by the host; gammas and betas are of the requantization after it."""
    module, shape = op.module, op.type.shape
    assert isinstance(module, nn.GroupNorm) and shape is not None
    count = math.prod(shape) // module.num_groups
    if len(shape) != 3 or count > tokens.FEATURES_MAX:
        raise CompileError(
            f"{op.where} normalizes {count} values of {list(shape)} together; up to {tokens.FEATURES_MAX} of a map [channels, "
            "height, width] are supported"
        )
    x = state.exactly_wide(source, op)
    # In the units of normalize(), eps of many values outgrows 60 bits: coarser integers hold it.
    most = (tokens.EPSILON_LIMIT / (count**3 * module.eps)) ** 0.5 if module.eps else math.inf
    shift = max(0, -math.floor(math.log2(most * x.type.scale))) if most < math.inf else 0
    x = state.narrowed(x, max(x.type.peak >> shift, 1), op)
    grouped = (module.num_groups, count, 1)
    x = _read_as(state, x, grouped, f"{op.name}.groups")
    bound = (math.isqrt(count) + 1) << tokens.NORMAL_BITS
    name = state.free(op.name)
    made = Ints(grouped, NORMAL, -bound, bound)
    epsilon = round(count**3 * module.eps / x.type.scale**2)
    state.step(IntegerOp(name, "normalize", (x.op,), made, detail=Along(1, epsilon), of=op.name))
    back = Moved(grouped, tuple((0, size) for size in grouped), (0, 1, 2), shape)
    of_map = replace(made, shape=shape)
    step = state.step(IntegerOp(state.free(f"{name}.back"), "arrange", (name,), of_map, detail=back, of=op.name))
    state.affine(name, shape[0], NORMAL, module.weight, module.bias)
    return state.pending(step, name)


def _read_as(state: Forms, value: Value, shape: Shape, name: str) -> Value:
    """The same values in the same order, as another shape."""
    now = value.type.shape
    return move(state, value, Moved(now, tuple((0, size) for size in now), tuple(range(len(now))), shape), name)


def product(state: Forms, op: NetworkOp, sources: list[Result], shapes: list[Shape]) -> Value:
    """Of two maps, value by value; a map of one value a channel, or along another axis, is repeated."""
    first, second = (
        _read_as(
            state, state.narrowed(state.stored(source, op), state.wide_limit, op), held(shape), f"{op.name}.{number}"
        )
        for number, (source, shape) in enumerate(zip(sources, shapes, strict=True))
    )
    x, y = first.type, second.type
    unit = x.scale * y.scale
    shift = max(0, math.floor(math.log2(state.wide_scale / unit)))
    limit = min(state.wide_limit, (x.peak * y.peak >> shift) + 1)
    assert op.type.shape is not None
    made = Ints(held(op.type.shape), unit * 2.0**shift, 0 if min(x.low, y.low) >= 0 else -limit, limit)
    inputs = (first.op, second.op)
    return state.step(IntegerOp(state.free(op.name), "multiply", inputs, made, detail=Times(shift)))


def function(state: Forms, op: NetworkOp, source: Result) -> Value:
    """A function of single values, by a table."""
    real = op.run if op.run is not None else op.module
    assert real is not None
    x, unit = state.exactly_wide(source, op), state.wide_scale
    called = op.detail if op.module is None else type(op.module).__name__.lower()
    made_of = table(real, unit)
    name = state.shared("table", called, made_of.nodes)
    ends = tokens.lookup(np.array([x.type.low, x.type.high]), *made_of)
    reached = np.concatenate([ends, made_of.nodes])
    limit = state.wide_limit
    made = Ints(x.type.shape, unit, max(int(reached.min()), -limit), min(int(reached.max()), limit))
    detail = Lookup(name, made_of.first, made_of.shift, made_of.ends)
    return state.step(IntegerOp(state.free(op.name), "lookup", (x.op,), made, detail=detail, of=op.name))


def softmax(state: Forms, op: NetworkOp, source: Result, axis: int, shape: Shape, kept: torch.Tensor | None) -> Value:
    """Shares of what lies along an axis of a tensor of `shape`. kept: what has one, where not all has."""
    x = state.stored(source, op)
    nodes, shift = exp_table(x.type.scale)
    name = state.shared("table", "exp", nodes)
    made = Ints(x.type.shape, SHARE, 0, 1 << tokens.SHARE_BITS)
    along, mask = _axis(axis, shape), ""
    if kept is not None:
        held_mask = _array_as_held(kept.numpy().astype(np.int32))
        if held_mask.max(along).min() < 1:
            raise CompileError(f"{op.where} masks all there is to share of some rows")
        mask = state.shared("constant", "mask", held_mask)
    detail = Along(along, 0, name, shift, mask)
    return state.step(IntegerOp(state.free(f"{op.name}.softmax"), "softmax", (x.op,), made, detail=detail, of=op.name))


def matmul(state: Forms, op: NetworkOp, a: Result, b: Result, shapes: tuple[Shape, Shape], name: str) -> Value:
    """The product of two maps [.., m, k] and [.., k, n]."""
    pairs = zip((a, b), shapes, strict=True)
    first, second = (
        _plain(state, state.narrowed(state.stored(source, op), FACTOR_LIMIT, op), shape, f"{name}.{number}")
        for number, (source, shape) in enumerate(pairs)
    )
    x, y = first.type, second.type
    bound = x.peak * y.peak * shapes[0][-1]
    if bound >= tokens.PRODUCT_LIMIT:
        raise CompileError(f"{op.where} multiplies {shapes[0][-1]} pairs of values; their sum could pass 64 bits")
    unit = x.scale * y.scale
    shift = max(0, math.floor(math.log2(state.wide_scale / unit)))
    limit = min(state.wide_limit, (bound >> shift) + 1)
    out = (*shapes[0][:-1], shapes[1][-1])
    made = Ints(out, unit * 2.0**shift, -limit, limit)
    value = state.step(IntegerOp(state.free(name), "matmul", (first.op, second.op), made, detail=Product(shift)))
    return _turned(state, value, out, (1, 0), held(out), f"{name}.back") if len(out) == 2 else value


def _plain(state: Forms, value: Value, shape: Shape, name: str) -> Value:
    """As the network has it."""
    return _turned(state, value, (shape[1], shape[0]), (1, 0), shape, name) if len(shape) == 2 else value


def attention(state: Forms, op: NetworkOp, sources: list[Result], shapes: list[Shape]) -> Value:
    """softmax(q k^T scale) v."""
    (q, k, v), (scale, kept) = sources, op.detail
    shape = shapes[1]
    turned = (*range(len(shape) - 2), len(shape) - 1, len(shape) - 2)
    back = tuple(shape[axis] for axis in turned)
    key = _plain(state, state.stored(k, op), shape, f"{op.name}.k")
    key = _turned(state, key, shape, turned, back, f"{op.name}.kT")
    if len(back) == 2:  # matmul() takes such as they are held
        key = _turned(state, key, back, (1, 0), held(back), f"{op.name}.kT")
    scores = matmul(state, op, scaled(state, op, q, scale), key, (shapes[0], back), f"{op.name}.scores")
    score_shape = (*shapes[0][:-1], shape[-2])
    shares = softmax(state, op, scores, len(score_shape) - 1, score_shape, kept)
    return matmul(state, op, shares, v, (score_shape, shapes[2]), op.name)


def scaled(state: Forms, op: NetworkOp, source: Result, factor: float) -> Value:
    """A map times a number, wide."""
    x = state.stored(source, op)
    limit = min(state.wide_limit, math.ceil(x.type.peak * x.type.scale * abs(factor) / state.wide_scale) + 1)
    made = Ints(x.type.shape, state.wide_scale, -limit, limit)
    detail = Rescale(None, factor)
    return state.step(IntegerOp(state.free(f"{op.name}.scaled"), "requantize", (x.op,), made, detail=detail))


def mean(state: Forms, op: NetworkOp, source: Result, shape: Shape) -> Value:
    """Over all positions, or all tokens."""
    _, h, w = held(shape)
    x = state.narrowed(state.stored(source, op), ((1 << 31) - 1) // (h * w), op)
    made = Ints((x.type.shape[0], 1, 1), x.type.scale / (h * w), x.type.low * h * w, x.type.high * h * w)
    detail = Window("sum", (h, w), (h, w), (0, 0))
    return state.step(IntegerOp(state.free(op.name), "pool", (x.op,), made, detail=detail))
