"""What `pimchip compile` shows of its passes: dumps, and the golden check."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from pimchip.compiler.golden import Golden, example
from pimchip.compiler.ir import Graph
from pimchip.compiler.passes import Job, Pass, named
from pimchip.compiler.printer import text

CHECKED_IMAGES = 2
"""Images of a golden check: each takes about a second for a ResNet-20."""


class Watch:
    """An observer of compilation. dump_after: passes by name, or "all". check: compute example images after every pass.

    show: takes each dump, with the name of its pass. checks: what the golden check said, by pass.
    """

    def __init__(self, dump_after: Sequence[str], check: bool, seed: int, show: Callable[[str, str], None]) -> None:
        self._dumped = {name if name == "all" else named(name) for name in dump_after}
        self._check, self._seed, self._show = check, seed, show
        self._golden: Golden | None = None
        self.checks: dict[str, str] = {}

    def __call__(self, done: Pass, graph: Graph, job: Job) -> None:
        if self._dumped & {"all", done.name}:
            self._show(done.name, text(graph, f"after {done.name}, for {job.spec.name}"))
        if self._check:
            self._golden = self._golden or Golden(example(job.image, CHECKED_IMAGES, self._seed))
            self._golden(done, graph, job)
            self.checks.update(self._golden.said)
