"""What layers cost, as compile and info show it."""

from __future__ import annotations

from typing import Any

from pimchip.cli.common import Reply, table


def show_costs(reply: Reply, found: dict[str, Any]) -> None:
    """Two tables and some lines, of what pimchip.workflows.explained.costs gives."""
    from pimchip.workflows.explained import PLACE_COLUMNS, WORK_COLUMNS, place_rows, summary, work_rows

    reply.show(table("on the chip", PLACE_COLUMNS, place_rows(found["layers"])))
    reply.show(table("for one image, and what converters cost", WORK_COLUMNS, work_rows(found["layers"])))
    for line in summary(found):
        reply.show(line)
