"""Front end for what torch.fx does not follow: torch.export's graph to the network's operations.

torch.export runs the forward once on shapes alone, so control flow on shapes is resolved, and functions come out as torch's
own operators, few and with one meaning each. Modules that the compiler knows stay whole (pimchip.compiler.leaves). Views are
followed without moving anything (pimchip.compiler.layout); what does not depend on the image is computed here, once.
"""

from __future__ import annotations

import logging
import operator
import traceback
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, fx, nn

from pimchip.compiler import inplace
from pimchip.compiler.ir import Image, Network, NetworkKind, NetworkOp, Real
from pimchip.compiler.layout import Layout
from pimchip.compiler.leaves import stand_ins
from pimchip.compiler.operators import HANDLERS
from pimchip.compiler.shapes import as_map
from pimchip.compiler.trace import MODULES, SUPPORTED
from pimchip.compiler.views import SEVERAL, VIEWS, Masked, Move, Ref, Repeated, moved, parts_of
from pimchip.errors import CompileError

IMAGES = 11
"""Of the export: a prime that no other axis has, so that it is found again in shapes."""
_OWN = "/pimchip/compiler/"
_NOTHING = (
    "contiguous",
    "clone",
    "alias",
    "detach",
    "to",
    "_to_copy",
    "dropout",
    "lift_fresh_copy",
    "type_as",
    "feature_dropout",
)
_KNOWN = {*_NOTHING, "expand", *VIEWS, *SEVERAL, *HANDLERS}


Found = Ref | Repeated | Masked | Tensor | list[Any]


def export(network: nn.Module, image: Image, refused: list[str] | None = None) -> Network:
    """Its operations in the order they run. Raises CompileError naming what is not supported and where it stands.

    refused: takes such lines instead, and what they are about is left out.
    """
    with stand_ins(network) as leaves, _silent(), torch.no_grad():
        try:
            program = torch.export.export(network, (torch.zeros(IMAGES, *image),), strict=False)
            program = _known(program)
        except Exception as error:  # any failure inside the user's forward
            raise CompileError(f"the network's forward cannot be exported{_failure(error)}") from error
    return Reading(leaves, refused).read(program)


def _failure(error: Exception) -> str:
    """Where in the user's code an export failed, and why."""
    frames = [
        f for f in traceback.extract_tb(error.__traceback__) if _OWN not in f.filename and "/torch/" not in f.filename
    ]
    at = f" ({Path(frames[-1].filename).name}, line {frames[-1].lineno})" if frames else ""
    if "data-dependent" in str(error):
        return f"{at}: it decides by values of its tensors; it may by their shapes"
    said = str(error).strip().splitlines()
    return f"{at}: {said[0] if said else type(error).__name__}"


@contextmanager
def _silent() -> Iterator[None]:
    """Without what torch tells of shapes that it cannot follow: it is told in one line."""
    logger = logging.getLogger("torch.fx.experimental.symbolic_shapes")
    before, logger.disabled = logger.disabled, True
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.disabled = before


def _known(program: torch.export.ExportedProgram) -> torch.export.ExportedProgram:
    """With operations that are not known taken apart, where torch does that to nothing but known ones."""
    unknown = _unknown(program)
    if not unknown:
        return program
    table = torch.export.default_decompositions()
    if any(target not in table for target in unknown):
        return program
    apart = program.run_decompositions({target: table[target] for target in unknown})
    return program if _unknown(apart) else apart  # refused, it is called as its owner calls it


def _unknown(program: torch.export.ExportedProgram) -> set[Any]:
    return {
        node.target
        for node in program.graph.nodes
        if node.op == "call_function" and _aten(node) and _aten(node) not in _KNOWN
    }


def _aten(node: fx.Node) -> str:
    """The name of one of torch's operators, or nothing."""
    schema = getattr(node.target, "_schema", None)
    space, _, name = schema.name.partition("::") if schema is not None else ("", "", "")
    return name if space == "aten" else ""


@dataclass
class Reading:
    """State of one reading. leaves: modules by name."""

    leaves: Mapping[str, nn.Module]
    refused: list[str] | None
    ops: list[NetworkOp] = field(default_factory=list)
    found: dict[fx.Node, Found] = field(default_factory=dict)
    _made: dict[tuple[str, Layout], str] = field(default_factory=dict)
    _shapes: dict[str, tuple[int, ...]] = field(default_factory=dict)

    def read(self, program: torch.export.ExportedProgram) -> Network:
        """All of it."""
        signature = program.graph_signature
        held: dict[str, Any] = {**program.state_dict, **program.constants}
        lifted = {
            **signature.inputs_to_parameters,
            **signature.inputs_to_buffers,
            **signature.inputs_to_lifted_tensor_constants,
        }
        inplace.check(program.graph, self._leaf_of, self.where, self.refused)
        for node in program.graph.nodes:
            if node.op == "placeholder":
                if node.name in lifted:
                    self.found[node] = held[lifted[node.name]].detach()
                else:
                    self.found[node] = self.made(node, "input", (), "the input", name=node.name)
            elif node.op == "output":
                self._output(node)
            elif node.op == "call_function":
                try:
                    self.found[node] = self.node(node)
                except CompileError as error:
                    if self.refused is None:
                        raise
                    self.refused.append(str(error))
                    value = node.meta.get("val")
                    several = len(value) if isinstance(value, list | tuple) else 0
                    ref = Ref(node.name, Layout.of(_shape(node)))
                    self._shapes[node.name] = _shape(node)
                    self.found[node] = [ref] * several or ref
        return Network(tuple(self.ops))

    def _output(self, node: fx.Node) -> None:
        given = node.args[0]
        given = given[0] if isinstance(given, list | tuple) and len(given) == 1 else given
        ref = self.found.get(given) if isinstance(given, fx.Node) else None
        if not isinstance(ref, Ref):
            raise CompileError("the network returns something other than one tensor")
        assert isinstance(given, fx.Node)
        source = self.plain(ref, given)
        self.ops.append(NetworkOp("output", "output", (source,), Real(), "the output"))

    def made(
        self,
        node: fx.Node,
        kind: NetworkKind,
        inputs: tuple[str, ...],
        where: str,
        *,
        name: str | None = None,
        **fields: Any,
    ) -> Ref:
        """An operation, and the tensor that it gives."""
        shape = _shape(node)
        if kind != "input" and (not shape or shape[0] != IMAGES):
            raise CompileError(f"{where} gives {list(shape)} with the images elsewhere than in front")
        return self._append(name or node.name, kind, inputs, where, shape, **fields)

    def _append(
        self, name: str, kind: NetworkKind, inputs: tuple[str, ...], where: str, shape: tuple[int, ...], **fields: Any
    ) -> Ref:
        while name in self._shapes:
            name += "_"
        self._shapes[name] = shape
        self.ops.append(NetworkOp(name, kind, inputs, Real(as_map(shape[1:])), where, **fields))
        return Ref(name, Layout.of(shape))

    def plain(self, ref: Ref | Tensor, node: fx.Node) -> str:
        """The operation that gives a tensor as it is seen; where that is a view, one that moves its values."""
        if isinstance(ref, Tensor):
            return self.constant(ref, node, _shape(node))
        if ref.layout.plain:
            return ref.op
        if (ref.op, ref.layout) not in self._made:
            arrange = ref.layout.arranged()
            where = self.where(node)
            if arrange is None:
                raise CompileError(f"{where} mixes the images of a batch, which are computed one by one")
            straight = tuple(part for dim in arrange.dims for part in dim) == tuple(range(len(arrange.split)))
            whole = all(c == (0, size) for c, size in zip(arrange.cut, arrange.split, strict=True))
            flat = straight and whole and len(arrange.dims) == 1 and len(self._shapes[ref.op]) == 4
            kind: NetworkKind = "flatten" if flat else "arrange"
            made = self._append(
                f"{node.name}.view" if node.name in self._shapes else node.name,
                kind,
                (ref.op,),
                where,
                ref.layout.shape,
                detail=arrange,
                run=moved(ref.moves),
            )
            self._made[ref.op, ref.layout] = made.op
        return self._made[ref.op, ref.layout]

    def constant(self, value: Tensor, node: fx.Node, shape: tuple[int, ...]) -> str:
        """An operation that gives the same for every image."""
        one = self.one(value, node, shape)
        name = f"{node.name}.constant"
        return self._append(name, "constant", (), self.where(node), shape, detail=one).op

    # -- nodes ----------------------------------------------------------------------------------------------------

    def node(self, node: fx.Node) -> Found:
        """What a node gives."""
        given = [self.found[each] for each in node.all_input_nodes if each in self.found]
        if node.target is operator.getitem:
            several = self.found[node.args[0]]  # type: ignore[index]
            assert isinstance(several, list)
            return several[node.args[1]]  # type: ignore[index,no-any-return]
        name = _aten(node)
        if name.startswith("_assert"):
            return []
        if given and all(isinstance(each, Tensor | list) for each in given) and name and not _holds_ref(given):
            return self._computed(node)
        if not given and name:
            return self._computed(node)
        if not name:
            self._refuse_special(
                node, given, "softmax" if isinstance(self.leaves.get(str(node.args[1])), nn.Softmax) else ""
            )
            return self._leaf(node)
        first = self.found[node.args[0]] if isinstance(node.args[0], fx.Node) else None
        if name in _NOTHING or (
            name in ("expand", "expand_as") and isinstance(first, Ref) and first.layout.shape == _shape(node)
        ):
            assert first is not None
            return first
        self._refuse_special(node, given, name)
        if name in VIEWS:
            assert isinstance(first, Ref)
            return self._view(node, name, first)
        if name in SEVERAL:
            assert isinstance(first, Ref)
            return [self._part(node, first, axis, at) for axis, at in parts_of(node, name, first.layout.shape)]
        handler = HANDLERS.get(name)
        if handler is None:
            raise CompileError(f"{self.where(node)} is not supported; supported are {SUPPORTED}")
        return handler(self, node)

    def _computed(self, node: fx.Node) -> Found:
        """What does not depend on the image, with real tensors."""
        given: Any = fx.node.map_arg((node.args, node.kwargs), lambda n: cast(Any, self.found[n]))
        assert callable(node.target)
        out: Any = node.target(*given[0], **given[1])
        return list(out) if isinstance(out, list | tuple) else out

    def _leaf(self, node: fx.Node) -> Ref:
        where = self.where(node)
        if getattr(node.target, "__name__", "") not in ("leaf.default", "leaf"):
            raise CompileError(f"{where} is not supported; supported are {SUPPORTED}")
        name = str(node.args[1])
        module = self.leaves[name]
        kind: NetworkKind | None = next((k for types, k in MODULES if isinstance(module, types)), None)
        if isinstance(module, nn.Softmax):
            axis = (-1 if module.dim is None else module.dim) % len(_shape(node))
            if module.dim is None or axis == 0:
                raise CompileError(f"{where} is over images, or over no dimension that it names")
            return self.shares(node, axis, module)
        if kind is None:
            raise CompileError(f"{where} is not quantized; run pimchip.qat.convert on the network and train it first")
        return self.made(node, kind, (self.input(node, 0),), where, name=name.replace(".", "_"), module=module)

    def _refuse_special(self, node: fx.Node, given: list[Found], name: str) -> None:
        """Refuse readers of what is repeated or masked that cannot take it so."""
        if any(isinstance(each, Repeated) for each in given) and name not in ("mul", "mul_"):
            raise CompileError(f"{self.where(node)} reads a map whose values are repeated, which only a product may")
        if any(isinstance(each, Masked) for each in given) and name not in ("softmax", "_softmax"):
            raise CompileError(f"{self.where(node)} reads scores that are masked, which only a softmax may")

    def shares(self, node: fx.Node, axis: int, real: Callable[[Tensor], Tensor]) -> Ref:
        """A softmax along an axis, the images' counted, of all or of what a mask keeps. real: what it does without one."""
        source: Any = node.args[0]
        found = self.found[source]
        masked = found if isinstance(found, Masked) else None
        run = real if masked is None else lambda x: real(masked.filled(x))
        kept = None if masked is None else masked.kept
        return self.made(
            node, "softmax", (self.read_by(node, source),), self.where(node), detail=(axis - 1, kept), run=run
        )

    def one(self, value: Tensor, node: fx.Node, shape: tuple[int, ...]) -> Tensor:
        """Of a constant as a tensor of `shape` sees it, the one that all images share."""
        whole = value.detach().expand(shape)
        if not torch.equal(whole[:1].expand(shape), whole):
            raise CompileError(f"{self.where(node)} gives something else for each image of a batch")
        return whole[0].contiguous()

    def input(self, node: fx.Node, at: int) -> str:
        """The operation that gives an argument as it is seen."""
        given = node.args[at]
        if not isinstance(given, fx.Node):
            raise CompileError(
                f"{self.where(node)} mixes a tensor with something else; two tensors are added, other operations take one"
            )
        return self.read_by(node, given)

    def read_by(self, node: fx.Node, given: fx.Node) -> str:
        """The operation that gives what a node reads as it is seen; of what is repeated, what is repeated."""
        found = self.found[given]
        if isinstance(found, list):
            raise CompileError(f"{self.where(node)} reads several tensors")
        return self.plain(found.ref if isinstance(found, Repeated | Masked) else found, given)

    def _view(self, node: fx.Node, name: str, source: Ref) -> Ref:
        layout, move = VIEWS[name](node, source.layout, _shape(node))
        if layout is None:
            assert isinstance(node.args[0], fx.Node)
            op = self.plain(source, node.args[0])
            source = Ref(op, Layout.of(self._shapes[op]))
            layout, move = VIEWS[name](node, source.layout, _shape(node))
        if layout is None:
            raise CompileError(f"{self.where(node)} takes apart what it joined in one step; supported are {SUPPORTED}")
        return Ref(source.op, layout, (*source.moves, move))

    def _part(self, node: fx.Node, source: Ref, axis: int, at: tuple[int, int, bool, Move]) -> Ref:
        """start..stop of an axis, which goes where it is one place of it."""
        start, stop, drop, move = at
        layout = source.layout.narrowed(axis, start, stop)
        if layout is None:
            assert isinstance(node.args[0], fx.Node)
            op = self.plain(source, node.args[0])
            source = Ref(op, Layout.of(self._shapes[op]))
            layout = source.layout.narrowed(axis, start, stop)
        assert layout is not None
        if drop:
            shape = layout.shape
            found = layout.reshaped((*shape[:axis], *shape[axis + 1 :]))
            assert found is not None
            layout = found
        return Ref(source.op, layout, (*source.moves, move))

    def where(self, node: fx.Node) -> str:
        """'module layers.3 (GELU), between layers.2 (BatchNorm1d) and layers.4 (PimLinear),'."""
        kind = "module" if self._module(node) else "operation"
        before = next((self._label(n) for n in node.all_input_nodes if n in self.found), "nothing")
        after = next((self._label(user) for user in node.users), "nothing")
        return f"{kind} {self._label(node)}, between {before} and {after},"

    def _leaf_of(self, node: fx.Node) -> nn.Module | None:
        """The module that a node is a call of."""
        called = node.op == "call_function" and not _aten(node) and len(node.args) > 1
        return self.leaves.get(str(node.args[1])) if called else None

    def _module(self, node: fx.Node) -> str:
        """The module of torch's that a node is all or a part of, by name and type."""
        leaf = self._leaf_of(node)
        if leaf is not None:
            return f"{node.args[1]} ({type(leaf).__name__})"
        stack = list((node.meta.get("nn_module_stack") or {}).values())
        name, kind = stack[-1] if stack else ("", "")
        kind = kind if isinstance(kind, str) else f"{kind.__module__}.{kind.__qualname__}"
        return f"{name} ({kind.rpartition('.')[2]})" if name and kind.startswith("torch.nn.modules.") else ""

    def _label(self, node: fx.Node) -> str:
        if node.op in ("placeholder", "output"):
            return f"the {'input' if node.op == 'placeholder' else node.op}"
        name = _aten(node) or getattr(node.target, "__name__", str(node.target))
        return self._module(node) or f"{name.strip('_')}()"


def _holds_ref(given: list[Found]) -> bool:
    return any(
        isinstance(each, Ref | Repeated | Masked) or (isinstance(each, list) and _holds_ref(each)) for each in given
    )


def _shape(node: fx.Node) -> tuple[int, ...]:
    value = node.meta.get("val")
    return tuple(int(size) for size in value.shape) if isinstance(value, Tensor) else ()
