"""pimchip devices."""

from __future__ import annotations

from dataclasses import asdict

import click

from pimchip.cli.common import Command, Reply, command_options, table


@click.command("devices", cls=Command)
@click.option(
    "--ask/--no-ask",
    default=True,
    show_default=True,
    help="Open USB ports and boards served on this machine, and ask who they are.",
)
@command_options
def command(reply: Reply, *, ask: bool) -> None:
    """List serial ports, boards served on this machine, emulated chips and other drivers, by the URL that opens each.

    A port that is in use is not touched; its owner is named. USB devices have a URL that stays when they are plugged in
    elsewhere.
    """
    from pimchip.board.discovery import devices

    found = []
    with reply.progress("ports") as tell:
        for number, device in enumerate(devices(ask)):
            found.append(device)
            tell(number + 1, number + 2)
    rows = [
        [device.url, device.kind, device.product, device.uid or "", device.chip or "", device.firmware or ""]
        for device in found
    ]
    reply.show(table("devices", ["--device", "kind", "what", "uid", "chip", "firmware"], rows))
    for device in found:
        if device.owner:
            reply.show(f"{device.url}: in use by {device.owner}")
        if device.problem:
            reply.show(f"{device.url}: {device.problem}")
    reply.done({"devices": [asdict(device) for device in found]})
