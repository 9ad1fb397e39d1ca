"""torch's operators that compute: what each is of the network's operations."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, fx, nn

from pimchip.compiler.functions import ATEN, function
from pimchip.compiler.ir import NetworkKind
from pimchip.compiler.views import Masked, Ref, Repeated
from pimchip.errors import CompileError

if TYPE_CHECKING:
    from pimchip.compiler.exported import Reading

Handler = Callable[["Reading", fx.Node], Ref | Repeated | Masked]
MASKING = -1e4
"""What is filled with so little, or less, has no share of a softmax."""


def _options(node: fx.Node, names: str) -> dict[str, Any]:
    """What a node is given, by the names of its operator's arguments; those that are left out are as the operator has them."""
    schema = node.target._schema  # type: ignore[union-attr]
    found = {a.name: a.default_value for a in schema.arguments if a.has_default_value()}
    found |= {a.name: value for a, value in zip(schema.arguments, node.args, strict=False)}
    found |= node.kwargs
    return {name: found.get(name) for name in names.split()}


def _add(reading: Reading, node: fx.Node) -> Ref | Masked:
    given = _options(node, "self other alpha")
    if given["alpha"] not in (1, None):
        raise CompileError(f"{reading.where(node)} has further arguments; a plain sum is supported")
    for scores, other in ((given["self"], given["other"]), (given["other"], given["self"])):
        added = _constant(reading, other)
        if added is not None and bool(torch.isneginf(added).any()):
            return _masked(reading, node, scores, _kept(reading, node, added), -math.inf)
    return reading.made(node, "add", _two(reading, node, given["self"], given["other"]), reading.where(node))


def _sub(reading: Reading, node: fx.Node) -> Ref:
    given = _options(node, "self other alpha")
    other, where = _constant(reading, given["other"]), reading.where(node)
    if given["alpha"] not in (1, None):
        raise CompileError(f"{where} has further arguments; a plain difference is supported")
    if other is not None:
        return reading.made(node, "add", _two(reading, node, given["self"], -other), where)
    (subtracted,) = _two(reading, node, given["other"])
    negative = reading.made(
        given["other"], "scale", (subtracted,), where, name=f"{node.name}.minus", detail=-1.0, run=torch.neg
    )
    first = _two(reading, node, given["self"])[0]
    return reading.made(node, "add", (first, negative.op), where)


def _two(reading: Reading, node: fx.Node, *given: Any) -> tuple[str, ...]:
    """The operations that give both, of numbers and constants one that gives a constant."""
    names = []
    for each in given:
        constant = _constant(reading, each)
        if constant is not None:
            names.append(reading.constant(constant, node, tuple(node.meta["val"].shape)))
            continue
        names.append(reading.read_by(node, each))
    return tuple(names)


def _constant(reading: Reading, given: Any) -> Tensor | None:
    """A number or what does not depend on the image, as a tensor."""
    if isinstance(given, fx.Node):
        found = reading.found[given]
        return found if isinstance(found, Tensor) else None
    return torch.tensor(float(given))


def _scale(reading: Reading, node: fx.Node, *, inverse: bool = False) -> Ref:
    given = _options(node, "self other")
    first, factor = given["self"], _constant(reading, given["other"])
    if factor is None and not inverse:
        first, factor = given["other"], _constant(reading, given["self"])
    if factor is None or factor.numel() != 1:
        does = "divides" if inverse else "multiplies"
        raise CompileError(f"{reading.where(node)} {does} by something else than one number, which is not supported")
    by = float(factor)
    if by == 0 or (inverse and not abs(1 / by) > 0):
        raise CompileError(f"{reading.where(node)} is by {by}")
    real: Callable[[Tensor], Tensor] = (lambda x: x / factor) if inverse else (lambda x: x * factor)
    return reading.made(
        node, "scale", (reading.read_by(node, first),), reading.where(node), detail=1 / by if inverse else by, run=real
    )


def _multiply(reading: Reading, node: fx.Node) -> Ref:
    """By a number, or by a map value by value."""
    given = _options(node, "self other")
    constants = [_constant(reading, each) for each in given.values()]
    if any(each is not None and each.numel() == 1 for each in constants):
        return _scale(reading, node)
    names = []
    for each, constant in zip(given.values(), constants, strict=True):
        shape = tuple(node.meta["val"].shape)
        names.append(reading.read_by(node, each) if constant is None else reading.constant(constant, node, shape))
    return reading.made(node, "product", tuple(names), reading.where(node), run=torch.mul)


def _divide(reading: Reading, node: fx.Node) -> Ref:
    if _options(node, "rounding_mode")["rounding_mode"] is not None:
        raise CompileError(f"{reading.where(node)} rounds, which is not supported")
    return _scale(reading, node, inverse=True)


def _relu(reading: Reading, node: fx.Node) -> Ref:
    return reading.made(node, "relu", (reading.input(node, 0),), reading.where(node))


def _cat(reading: Reading, node: fx.Node) -> Ref:
    given = _options(node, "tensors dim")
    shape = tuple(node.meta["val"].shape)
    dim, names = int(given["dim"] or 0) % len(shape), []
    if dim == 0:
        raise CompileError(f"{reading.where(node)} joins images")
    for each in given["tensors"]:
        names.append(reading.read_by(node, each))
    channels = len(shape) == 4 and dim == 1
    where = reading.where(node)
    return reading.made(node, "concat" if channels else "join", tuple(names), where, detail=dim - 1)


def _matmul(reading: Reading, node: fx.Node) -> Ref:
    names = reading.input(node, 0), reading.input(node, 1)
    shapes = [tuple(node.args[at].meta["val"].shape) for at in (0, 1)]  # type: ignore[union-attr]
    if len(shapes[0]) != len(shapes[1]) or len(shapes[0]) < 3 or shapes[0][:-2] != shapes[1][:-2]:
        raise CompileError(f"{reading.where(node)} multiplies tensors of {list(shapes[0])} and {list(shapes[1])}")
    return reading.made(node, "matmul", names, reading.where(node), run=torch.matmul)


def _softmax(reading: Reading, node: fx.Node) -> Ref:
    axis = int(_options(node, "dim")["dim"]) % node.meta["val"].ndim
    if axis == 0:
        raise CompileError(f"{reading.where(node)} is over images")
    return reading.shares(node, axis, lambda x: x.softmax(axis))


def _masked_fill(reading: Reading, node: fx.Node) -> Masked:
    given = _options(node, "self mask value")
    mask, fill = (_constant(reading, given[name]) for name in ("mask", "value"))
    if mask is None or fill is None or float(fill) > MASKING:
        raise CompileError(f"{reading.where(node)} masks by what is computed, or with more than {MASKING:g}")
    return _masked(reading, node, given["self"], ~mask, float(fill))


def _masked(reading: Reading, node: fx.Node, scores: fx.Node, kept: Tensor, fill: float) -> Masked:
    """Scores of which some are kept, by a mask of any shape that they have."""
    found = reading.found[scores]
    if not isinstance(found, Ref):
        raise CompileError(f"{reading.where(node)} masks what is masked or repeated already")
    one = reading.one(kept, node, tuple(node.meta["val"].shape))
    return Masked(found, _once(one), fill)


def _once(values: Tensor) -> Tensor:
    """With one value along each axis along which all are the same."""
    for axis in range(values.ndim):
        first = values.narrow(axis, 0, 1)
        if torch.equal(first.expand_as(values), values):
            values = first
    return values.contiguous()


def _kept(reading: Reading, node: fx.Node, mask: Tensor) -> Tensor:
    """What a mask leaves: of bool where it is true, of numbers to add where they are 0 and not far below."""
    if mask.dtype == torch.bool:
        return mask
    kept = mask > MASKING
    if bool(mask[kept].any()):
        raise CompileError(f"{reading.where(node)} adds something else than 0 or minus infinity to its scores")
    return kept


def _attention(reading: Reading, node: fx.Node) -> Ref:
    given = _options(node, "attn_mask is_causal dropout_p scale enable_gqa")
    mask = None if given["attn_mask"] is None else _constant(reading, given["attn_mask"])
    if given["enable_gqa"] or (given["attn_mask"] is not None and mask is None):
        raise CompileError(
            f"{reading.where(node)} has grouped heads, or a mask that is computed, which is not supported"
        )
    names = tuple(reading.input(node, at) for at in (0, 1, 2))
    width = int(node.args[0].meta["val"].shape[-1])  # type: ignore[union-attr]
    scale, causal, kept = given["scale"] or width**-0.5, bool(given["is_causal"]), None
    query, key = (tuple(node.args[at].meta["val"].shape) for at in (0, 1))  # type: ignore[union-attr]
    if mask is not None:
        mask = mask[:1] if mask.ndim == len(query) else mask
        kept = _once(reading.one(_kept(reading, node, mask), node, (*query[:-1], key[-2])))
    elif causal:
        kept = (
            torch.ones(query[-2], key[-2], dtype=torch.bool).tril().reshape(*[1] * (len(query) - 3), query[-2], key[-2])
        )

    def real(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return nn.functional.scaled_dot_product_attention(q, k, v, mask, is_causal=causal, scale=given["scale"])

    return reading.made(node, "attention", names, reading.where(node), detail=(scale, kept), run=real)


def _layer_norm(reading: Reading, node: fx.Node) -> Ref:
    given = _options(node, "normalized_shape weight bias eps")
    module = nn.LayerNorm(list(given["normalized_shape"]), given["eps"], elementwise_affine=False)
    return _with_affine(reading, node, module, "layer_norm")


def _with_affine(reading: Reading, node: fx.Node, module: nn.Module, kind: NetworkKind) -> Ref:
    """A normalization with the gammas and betas that the node is given."""
    given = _options(node, "weight bias")
    for name in ("weight", "bias"):
        value = None if given[name] is None else _constant(reading, given[name])
        if given[name] is not None and value is None:
            raise CompileError(f"{reading.where(node)} has a {name} that is computed")
        if value is not None:
            setattr(module, name, nn.Parameter(value))
    return reading.made(node, kind, (reading.input(node, 0),), reading.where(node), module=module.eval())


def _group_norm(reading: Reading, node: fx.Node) -> Ref:
    given = _options(node, "num_groups weight bias eps")
    first: Any = node.args[0]
    module = nn.GroupNorm(given["num_groups"], int(first.meta["val"].shape[1]), given["eps"], affine=False)
    return _with_affine(reading, node, module, "group_norm")


def _expand(reading: Reading, node: fx.Node) -> Repeated:
    """A map whose values are repeated: only a product takes it, which repeats them itself."""
    first: Any = node.args[0]
    found = reading.found[first]
    if not isinstance(found, Ref) or found.layout.shape[0] != node.meta["val"].shape[0]:
        raise CompileError(f"{reading.where(node)} repeats something else than a map's values")
    return Repeated(found)


def _function(reading: Reading, node: fx.Node) -> Ref:
    name = node.target._schema.name.partition("::")[2]  # type: ignore[union-attr]
    real = function(name, *node.args[1:], **node.kwargs)
    return reading.made(node, "function", (reading.input(node, 0),), reading.where(node), detail=name, run=real)


def _mean(reading: Reading, node: fx.Node) -> Ref:
    given = _options(node, "dim keepdim")
    first: Any = node.args[0]
    ndim = first.meta["val"].ndim
    dims = tuple(sorted(int(dim) % ndim for dim in given["dim"] or range(ndim)))
    keep = bool(given["keepdim"])
    if (ndim, dims) not in ((4, (2, 3)), (3, (1,))):
        raise CompileError(f"{reading.where(node)} is over something else than positions or tokens")
    source = (reading.input(node, 0),)
    run: Callable[[Tensor], Tensor] = lambda x: x.mean(dims, keep)  # noqa: E731
    return reading.made(node, "mean", source, reading.where(node), detail=dims, run=run)


def _pool(reading: Reading, node: fx.Node) -> Ref:
    name = node.target._schema.name.partition("::")[2]  # type: ignore[union-attr]
    where, source = reading.where(node), (reading.input(node, 0),)
    if name == "adaptive_avg_pool2d":
        size = tuple(_options(node, "output_size")["output_size"])
        return reading.made(node, "global_pool", source, where, module=nn.AdaptiveAvgPool2d(size))
    if name == "max_pool2d":
        given = _options(node, "kernel_size stride padding dilation ceil_mode")
        return reading.made(node, "max_pool", source, where, module=nn.MaxPool2d(**_pairs(given)))
    given = _options(node, "kernel_size stride padding ceil_mode count_include_pad divisor_override")
    return reading.made(node, "avg_pool", source, where, module=nn.AvgPool2d(**_pairs(given)))


def _pairs(given: dict[str, Any]) -> dict[str, Any]:
    """Lists of torch's operators as its modules take them."""
    pairs = {k: (tuple(v) * (3 - len(v)) if isinstance(v, list | tuple) and v else v) for k, v in given.items()}
    return {k: v for k, v in pairs.items() if v is not None and v != []}


def _not_quantized(reading: Reading, node: fx.Node) -> Ref:
    raise CompileError(
        f"{reading.where(node)} is not quantized; make it a module, run pimchip.qat.convert on the network and train it first"
    )


HANDLERS: dict[str, Handler] = {
    "add": _add,
    "add_": _add,
    "sub": _sub,
    "sub_": _sub,
    "mul": _multiply,
    "mul_": _multiply,
    **dict.fromkeys(("expand", "expand_as"), _expand),
    "group_norm": _group_norm,
    "div": _divide,
    "relu": _relu,
    "relu_": _relu,
    "cat": _cat,
    **dict.fromkeys(("matmul", "bmm"), _matmul),
    **dict.fromkeys(("softmax", "_softmax"), _softmax),
    **dict.fromkeys(("masked_fill", "masked_fill_"), _masked_fill),
    "scaled_dot_product_attention": _attention,
    "layer_norm": _layer_norm,
    "mean": _mean,
    **dict.fromkeys(("adaptive_avg_pool2d", "max_pool2d", "avg_pool2d"), _pool),
    **dict.fromkeys(("linear", "conv2d", "addmm", "mm", "conv_transpose2d"), _not_quantized),
    **dict.fromkeys(ATEN, _function),
}
