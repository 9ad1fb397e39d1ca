"""Operations in place, which a graph of values does not show: whoever still has what was written over reads it as it was."""

from __future__ import annotations

import operator
from collections.abc import Callable

import torch
from torch import fx, nn

from pimchip.errors import CompileError

Module = Callable[[fx.Node], nn.Module | None]

_PASSING = (nn.Identity, nn.Dropout, nn.Dropout2d, nn.Flatten)
_SHARING = (operator.getitem, torch.flatten, "flatten", "aten::dropout", "aten::feature_dropout")
_NO_READS = ("_assert", "sym_size")
MEND = "let it work out of place (inplace=False; x = x + y in place of x += y)"


def check(graph: fx.Graph, module_of: Module, where: Callable[[fx.Node], str], refused: list[str] | None) -> None:
    """CompileError where something is read that was written over. refused: takes that line instead. where: names a node."""
    found = _overwritten(graph, module_of)
    if found is None:
        return
    said = f"{where(found[0])} writes over what {found[1].name} reads later: {MEND}"
    if refused is None:
        raise CompileError(said)
    refused.append(said)


def _overwritten(graph: fx.Graph, module_of: Module) -> tuple[fx.Node, fx.Node] | None:
    """The first operation in place of which something that it writes over, or a view of that, is read later on other ways than
    by its result; and who reads it."""
    order = {node: number for number, node in enumerate(graph.nodes)}
    roots = dict[fx.Node, fx.Node]()  # whose memory a node's tensor has, since that was written last
    for node in graph.nodes:
        module = module_of(node)
        first = node.args[0] if node.args and isinstance(node.args[0], fx.Node) else None
        roots[node] = node
        if first is None:
            continue
        if _writes(node, module):
            held = [each for each, root in roots.items() if root is roots[first] and each is not node]
            for user in (user for each in held for user in each.users):
                if order[user] > order[node] and not user.name.startswith(_NO_READS):
                    return node, user
        elif _shares(node, module):
            roots[node] = roots[first]
    return None


def _writes(node: fx.Node, module: nn.Module | None) -> bool:
    """Whether a node writes over its first argument."""
    if module is not None:
        return bool(getattr(module, "inplace", False)) and not isinstance(module, _PASSING)
    schema = getattr(node.target, "_schema", None)
    if schema is not None:
        return any(each.alias_info is not None and each.alias_info.is_write for each in schema.arguments)
    return (
        node.target is operator.iadd or bool(node.kwargs.get("inplace")) or any(each is True for each in node.args[1:])
    )


def _shares(node: fx.Node, module: nn.Module | None) -> bool:
    """Whether what a node gives may lie in its first argument's memory."""
    if module is not None:
        return isinstance(module, _PASSING)
    schema = getattr(node.target, "_schema", None)
    if schema is None:
        return node.target in _SHARING
    return schema.name in _SHARING or any(each.alias_info is not None for each in schema.returns)
