"""The passes of the compiler by name, run one after another with the verifier after each."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from pimchip.chip import ChipSpec
from pimchip.compiler.faults import Faults
from pimchip.compiler.fold import fold, simplify
from pimchip.compiler.front import read
from pimchip.compiler.ir import Graph, Image, Integers
from pimchip.compiler.lower import lower
from pimchip.compiler.mapping import place
from pimchip.compiler.order import Knowledge, order, quietest
from pimchip.compiler.replicas import replicate
from pimchip.compiler.shapes import shapes
from pimchip.compiler.verify import verify
from pimchip.errors import InputError, unknown


@dataclass(frozen=True)
class Job:
    """What is compiled for what: a converted network in eval mode, a chip, an image's (channels, height, width), what of
    the die to keep away from, what is known of it by which outputs are given the better converters (None: they are not),
    and how often a layer may be held."""

    network: nn.Module
    spec: ChipSpec
    image: Image
    faults: Faults | None = None
    known: Knowledge | None = None
    replicas: int = 1

    @property
    def merit(self) -> list[int] | None:
        """Macros, those to fill first before others; None: by number."""
        return None if self.known is None else quietest(self.known.profile)


@dataclass(frozen=True)
class Pass:
    """A named step of compilation. run: from what the pass before gave (the first takes none)."""

    name: str
    does: str
    run: Callable[[Any, Job], Graph]


def _place(graph: Integers, job: Job) -> Integers:
    return place(graph, job.spec, job.faults, job.merit)


def _order(graph: Integers, job: Job) -> Integers:
    if job.known is None:
        return graph
    return order(graph, _place(graph, job), job.spec, job.network, job.known)


PASSES = (
    Pass("trace", "the network's forward as operations, or a refusal", lambda graph, job: read(job.network, job.image)),
    Pass("shapes", "the shape of every map", lambda graph, job: shapes(graph, job.image)),
    Pass("simplify", "identities and what leads nowhere go", lambda graph, job: simplify(graph)),
    Pass("fold", "normalizations into the layers they follow", lambda graph, job: fold(graph)),
    Pass("lower", "integers from the image to the logits", lambda graph, job: lower(graph, job.spec)),
    Pass(
        "order",
        "channels that hurt most on the quietest converters, if asked for",
        lambda graph, job: _order(graph, job),
    ),
    Pass("place", "tiles on macros, in residency passes", lambda graph, job: _place(graph, job)),
    Pass(
        "replicate",
        "copies of layers where there is room, if asked for",
        lambda graph, job: replicate(graph, job.spec, job.replicas, job.faults, job.merit),
    ),
)
NAMES = tuple(p.name for p in PASSES)
Observer = Callable[[Pass, Graph, Job], None]
"""Is called after each pass has been verified."""


def named(name: str) -> str:
    """The name of a pass; InputError with near matches otherwise."""
    if name not in NAMES:
        raise InputError(unknown("pass", name, NAMES))
    return name


def run_passes(
    network: nn.Module,
    spec: ChipSpec,
    image: Image,
    observer: Observer | None = None,
    stop_after: str = NAMES[-1],
    faults: Faults | None = None,
    known: Knowledge | None = None,
    replicas: int = 1,
) -> Graph:
    """What the passes up to `stop_after` make of a copy of the network in eval mode. replicas: a layer is held so often at
    most.

    Deterministic: one thread. Raises CompileError or InputError for what cannot be compiled, naming it.
    """
    named(stop_after)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # quantized weights must not depend on how torch splits a reduction
    try:
        job = Job(copy.deepcopy(network).eval(), spec, image, faults, known, replicas)
        graph: Graph | None = None
        for each in PASSES:
            graph = each.run(graph, job)
            verify(graph, spec, after=each.name)
            if observer is not None:
                observer(each, graph, job)
            if each.name == stop_after:
                break
        assert graph is not None
        return graph
    finally:
        torch.set_num_threads(threads)
