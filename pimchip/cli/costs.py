"""What layers cost, as compile and info show it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from pimchip.cli.common import Reply, table

if TYPE_CHECKING:
    from pimchip.compiler import Program
    from pimchip.profile import Profile


def show_costs(reply: Reply, found: dict[str, Any]) -> None:
    """Two tables and some lines, of what pimchip.workflows.explained.costs gives."""
    from pimchip.workflows.explained import PLACE_COLUMNS, WORK_COLUMNS, place_rows, summary, work_rows

    reply.show(table("on the chip", PLACE_COLUMNS, place_rows(found["layers"])))
    reply.show(table("for one image, and what converters cost", WORK_COLUMNS, work_rows(found["layers"])))
    for line in summary(found):
        reply.show(line)


def show_floors(reply: Reply, program: Program, folder: Path, profile: Profile | None) -> list[str]:
    """Draw a program's floor plans, with the faults of a measured die; their paths."""
    from pimchip.compiler.faults import faults_of
    from pimchip.workflows.floors import draw_floors

    with reply.stages() as tell:
        faults = None if profile is None else faults_of(profile)
        paths = [str(path) for path in draw_floors(program, folder, faults, lambda *at: tell("drawing", *at))]
    if paths:
        more = f" to {Path(paths[-1]).name}" if len(paths) > 1 else ""
        reply.show(f"floor plans, a picture a pass: {paths[0]}{more}")
    return paths
