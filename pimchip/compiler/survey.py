"""What of a network runs on the chip, what on the board's processor, what on the host, and all that is refused, before
anything is compiled."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from torch import nn

from pimchip.chip import ChipSpec
from pimchip.compiler.front import read
from pimchip.compiler.ir import Image, Network, NetworkOp
from pimchip.compiler.passes import PASSES, run_passes
from pimchip.errors import InputError
from pimchip.qat.layers import QuantizedLayer
from pimchip.qat.pim import PimLayerModule

HOST = {
    "constant": "the same integers for every image",
    "arrange": "values moved, none changed",
    "join": "maps one after another",
    "layer_norm": "mean and deviation of each token in integers; gammas and betas are a requantization",
    "group_norm": "mean and deviation of each group in integers; gammas and betas are a requantization",
    "product": "products in 64-bit integers, value by value",
    "function": "a table of integers and straight lines between them",
    "softmax": "in integers, exp by a table; what is masked has no share",
    "matmul": "sums of products in 64-bit integers",
    "attention": "q k, softmax and its product with v, each in integers",
}
"""What no board does, and how the host does it."""
Place = Literal["chip", "processor", "host", "nowhere"]


@dataclass(frozen=True)
class Entry:
    """An operation: where it runs, and why there or how."""

    name: str
    does: str
    place: Place
    why: str


@dataclass(frozen=True)
class Survey:
    """entries: of what can be compiled, in the order it runs. refused: a line for each thing that cannot, naming it."""

    entries: tuple[Entry, ...]
    refused: tuple[str, ...]

    def at(self, place: Place) -> tuple[Entry, ...]:
        """The entries of one place."""
        return tuple(entry for entry in self.entries if entry.place == place)


def survey(network: nn.Module, spec: ChipSpec, image: Image) -> Survey:
    """Of a converted network. Refusals of the front end are all told; of a later pass, its first."""
    refused: list[str] = []
    try:
        graph = read(network, image, refused)
    except InputError as error:
        return Survey((), (*refused, str(error)))
    for op in graph.ops:
        if isinstance(op.module, QuantizedLayer) and op.module.training_only:
            refused.append(
                f"layer {op.where.split()[1]}: {', '.join(op.module.training_only)}: no program holds this yet"
            )
    if not refused:
        try:
            run_passes(network, spec, image, stop_after=PASSES[-1].name)
        except InputError as error:
            refused.append(str(error))
    entries = [_entry(op, graph) for op in graph.ops if op.kind not in ("input", "output")]
    host = Entry("images", "uint8 to the board; logits times their scale", "host", "the network's ends are the host's")
    return Survey((*(e for e in entries if e is not None), host), tuple(dict.fromkeys(refused)))


def _entry(op: NetworkOp, graph: Network) -> Entry:
    name = op.where.split()[1] if op.module is not None else op.name
    module = op.module
    if isinstance(module, PimLayerModule):
        mac = module.mac
        point = f"{mac.scheme}, {mac.slices} slice{'s' * (mac.slices > 1)}, ADC {mac.adc_bits} b, range 1/{mac.range_divisor}"
        return Entry(name, type(module).__name__, "chip", point)
    if isinstance(module, QuantizedLayer):
        return Entry(
            name, type(module).__name__, "processor", f"kept off the array (pim_skip), {module.weight_bits}-bit weights"
        )
    does = type(module).__name__ if module is not None else op.kind
    if op.kind in ("flatten", "identity"):
        return Entry(
            name, does, "nowhere", "the same integers, read another way" if op.kind == "flatten" else "does nothing"
        )
    if op.kind in HOST:
        return Entry(name, does, "host", HOST[op.kind])
    why = {
        "norm": "folded into the requantization of its layer",
        "quantize": "a requantization, with the norm before it",
        "relu": "the lower clip of a requantization",
        "add": "integers on one scale, added",
        "scale": "a requantization",
        "mean": "a sum over positions or tokens",
        "concat": "each map's channels put in their place by a matrix of 0 and 1, then added",
    }.get(op.kind, "integers over windows")
    return Entry(name, does, "processor", why)
