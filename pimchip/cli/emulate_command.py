"""pimchip emulate."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from pimchip.cli.common import Command, Reply, check_out, command_options
from pimchip.errors import InputError

if TYPE_CHECKING:
    from pimchip.board.serving import BoardServer

LISTEN = "tcp://127.0.0.1:7450"
FAULTS = (
    "Put a bad line between, for example 7:drop=0.001,flip=1e-5. A seed and chances, of a byte: flip, lose; of a frame: "
    "drop, duplicate, split, delay, reorder, stall, disconnect, and kill, which restarts the board."
)


@click.command("emulate", cls=Command)
@click.option(
    "--listen", default=LISTEN, show_default=True, help="tcp://HOST:PORT, where port 0 takes a free one, or pty."
)
@click.option("--chip", help="Built-in chip or chip file.  [default: sram65]")
@click.option("--die", help="Number of the die, or ideal.  [default: 0]")
@click.option(
    "--device", metavar="URL", help="All of the board as emulator:CHIP?NAME=VALUE&..., in place of --chip and --die."
)
@click.option("--faults", metavar="SEED:KIND=RATE,...", help=FAULTS)
@click.option(
    "--token",
    envvar="PIMCHIP_TOKEN",
    help="Hosts must know this text: ...?token=TEXT in their device URL, or $PIMCHIP_TOKEN, where it is looked for here too.",
)
@click.option(
    "--expose-to-network",
    "expose",
    is_flag=True,
    help="Let --listen name another address than this machine's own: whoever reaches it and knows the token can read, "
    "program and reset the board. Nothing that is sent is encrypted, the token's hash included.",
)
@click.option(
    "--export-die",
    "export",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Write the die as a file for the C firmware and end.",
)
@click.option(
    "--for",
    "programs",
    type=click.Path(path_type=Path),
    multiple=True,
    metavar="MODEL",
    help="With --export-die: a model.pt or model.pim, whose operating points it shall have too; repeatable.",
)
@click.option(
    "--all-trims",
    is_flag=True,
    help="With --export-die: tables for every trim code, so that it can be trimmed, gains only where the file stays below 512 MiB.",
)
@click.option("--small", is_flag=True, help="With --export-die: for a board of little memory, as the Cortex-M image.")
@command_options
def command(
    reply: Reply,
    *,
    listen: str,
    chip: str | None,
    die: str | None,
    device: str | None,
    faults: str | None,
    token: str | None,
    expose: bool,
    export: Path | None,
    programs: tuple[Path, ...],
    all_trims: bool,
    small: bool,
) -> None:
    """Serve an emulated board over the protocol, on TCP or a pseudo-terminal, until Ctrl-C.

    Says `listening URL` when it does; commands take that URL as their --device. With --json the object comes then too, and
    nothing after it. One host at a time has the board.
    """
    url = _url(chip, die, device)
    if export is not None:
        _export(reply, url, export, programs, all_trims, small)
        return
    if programs or all_trims or small:
        raise InputError("--for, --all-trims and --small say what --export-die FILE writes; name the file")

    from pimchip.board.discovery import announcing
    from pimchip.board.serving import serve_board
    from pimchip.link.faults import parse_faults

    bad = None if faults is None else parse_faults(faults)
    server = serve_board(url, listen, seed=reply.seed, token=token or "", expose=expose, faults=bad)
    try:
        if expose and not token:
            reply.warn("exposed to the network without a token: whoever reaches it has the board; add --token")
        with announcing(server.url, server.uid):  # before it is said: who is told may look for it at once
            reply.show(f"listening {server.url}")
            reply.done(
                {"listening": server.url, "chip_uid": server.uid, "faults": faults, "token": bool(token)},
                uid=server.uid,
            )
            sys.stdout.flush()  # who started this waits for it
            server.run()
    except KeyboardInterrupt:
        pass  # how a server ends
    finally:
        server.close()
        _farewell(server)


def _url(chip: str | None, die: str | None, device: str | None) -> str:
    if device is not None:
        if chip is not None or die is not None:
            raise InputError("--device names chip and die: leave out --chip and --die")
        return device
    if chip is not None and "?" in chip:
        raise InputError(f"--chip {chip!r}: options go into --device emulator:CHIP?NAME=VALUE")
    if die is not None and not die.isalnum():
        raise InputError(f"--die {die!r} is no number of a die, nor ideal")
    return f"emulator:{chip or 'sram65'}" + (f"?die={die}" if die is not None else "")


def _export(reply: Reply, url: str, path: Path, programs: tuple[Path, ...], all_trims: bool, small: bool) -> None:
    check_out(path, option="--export-die")

    from pimchip.board.serving import write_die_file
    from pimchip.workflows.models import load_program

    wanted = [mac for program in programs for mac in load_program(program)[0].adcs_used()]
    points = write_die_file(url, path, seed=reply.seed, points=wanted, all_trims=all_trims, small=small)
    size = path.stat().st_size
    reply.show(f"{path}: {size:,} bytes, tables of {len(points)} operating points")
    reply.done({"listening": None, "die_file": str(path), "bytes": size, "points": [mac.describe() for mac in points]})


def _farewell(server: BoardServer) -> None:
    """What was done, on stderr: who reads stdout wants no more."""
    told = "".join(f", {count} x {kind}" for kind, count in sorted(server.faults.items()))
    click.echo(f"closed; {server.executed} requests were executed{told}", err=True)
