"""pimchip check-board."""

from __future__ import annotations

import click

from pimchip.cli.common import Command, Reply, command_options, device_options, table


@click.command("check-board", cls=Command)
@click.argument("url", required=False)
@command_options
@device_options
def command(reply: Reply, *, url: str | None) -> None:
    """Check that the board at device URL does all that pimchip asks of boards, and say what it lacks or does wrongly.

    For boards and drivers in the making: whether a chip's parts work is what `pimchip info URL --self-test` tells. Works in
    cells and buffers, which are overwritten, and puts trim registers back. Exit code 1 if something is done wrongly.
    """
    from pimchip.board import default_device, open_board
    from pimchip.board.conformance import Outcome, check_board

    device = url or default_device()
    with reply.progress("checks") as tell:
        found = check_board(lambda: open_board(device, seed=reply.seed), tell)
    rows = [[result.name, result.outcome.value, result.text] for result in found.results]
    reply.show(table(f"{found.uid} at {device.partition('?')[0]}", ["it", "", ""], rows))
    counts = {outcome: sum(r.outcome is outcome for r in found.results) for outcome in Outcome}
    reply.show(", ".join(f"{count} {outcome.value}" for outcome, count in counts.items() if count))
    checks = [{"name": r.name, "outcome": r.outcome.value, "text": r.text} for r in found.results]
    result = {"passed": found.passed, "checks": checks, "lacks": list(found.lacks)}
    reply.done(result, uid=found.uid, ok=found.passed)
