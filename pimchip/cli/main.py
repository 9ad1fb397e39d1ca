"""The command group. Commands load when they are called, so `pimchip --help` imports nothing heavy."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from importlib import import_module
from io import TextIOWrapper
from typing import Any

import click

from pimchip._version import __version__
from pimchip.cli.common import INTERRUPTED, fail
from pimchip.interrupts import take_endings

COMMANDS = {
    "demo": "The whole story on an embedded data set and an emulated die.",
    "train": "Train a network for a chip: PIM-QAT, or conventionally with --digital.",
    "characterize": "Measure a die's converters and write its profile.",
    "compile": "Turn a trained model into a program for a chip.",
    "deploy": "Put a model on a board, calibrate BN there and evaluate it.",
    "finetune": "Train a network on with a board in the loop.",
    "infer": "Classify images with what was deployed.",
    "compare": "Compare a deployed network layer by layer with what it should be.",
    "emulate": "Serve an emulated board over TCP or a pseudo-terminal.",
    "devices": "List what can be opened: ports, served boards, emulated chips.",
    "check-board": "Check that a board does all that pimchip asks of boards.",
    "power": "Power a chip's bench of instruments up and down, and read it.",
    "sweep": "Measure a die at several supplies and temperatures, with the bench.",
    "info": "Say what a chip, file, profile or device is.",
    "bench": "Measure how fast pimchip is on this machine.",
}


class LazyGroup(click.Group):
    """Knows its commands' names and one-liners; imports a command's file when it is wanted.

    A wrong command line is answered as any other error is: one line, exit code 2, JSON where it is asked for.
    """

    def main(
        self,
        args: Sequence[str] | None = None,
        prog_name: str | None = None,
        complete_var: str | None = None,
        standalone_mode: bool = True,
        windows_expand_args: bool = True,
        **extra: Any,
    ) -> Any:
        typed = list(sys.argv[1:] if args is None else args)
        as_json = "--json" in typed
        try:
            extra |= {"windows_expand_args": windows_expand_args, "obj": typed}
            code = super().main(typed, prog_name, complete_var, standalone_mode=False, **extra)
        except click.ClickException as error:
            context = getattr(error, "ctx", None)
            inner = context.command_path.partition(" ")[2] if context and context.parent else ""
            named = inner or next((a for a in typed if a in COMMANDS), "")
            where, path = (f"{named}: ", f"pimchip {named}") if named else ("", "pimchip")
            fail(f"{where}{error.format_message().rstrip('.')}; see {path} --help", 2, as_json, typed=typed)
        except (click.Abort, KeyboardInterrupt):
            fail("interrupted", INTERRUPTED, as_json, typed=typed)
        if standalone_mode:
            raise SystemExit(code or 0)
        return code

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        command = import_module(f"pimchip.cli.{cmd_name.replace('-', '_')}_command").command
        assert isinstance(command, click.Command)
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args and args[0] not in COMMANDS and not args[0].startswith("-"):
            from pimchip.errors import unknown

            ctx.fail(unknown("command", args[0], COMMANDS))
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))


@click.group(
    cls=LazyGroup,
    invoke_without_command=True,
    subcommand_metavar="COMMAND [ARGS]...",
    context_settings={"help_option_names": ["-h", "--help"]},
)
@click.version_option(__version__, "-V", "--version", prog_name="pimchip", message="%(prog)s %(version)s")
@click.pass_context
def cli(context: click.Context) -> None:
    """Put a trained network on a processing-in-memory chip, and know how well it works there.

    Every command takes --json for machines and --seed. Exit codes: 0 done, 1 the answer is bad, 2 wrong input, 3 the
    device failed, 70 a fault in pimchip itself, 130 interrupted. Shell completion: eval
    "$(_PIMCHIP_COMPLETE=bash_source pimchip)", or zsh_source, fish_source.
    """
    if context.invoked_subcommand is None:
        click.echo(context.get_help())


def main() -> None:
    """Entry point of the console script."""
    # A command that is told to end does so as by Ctrl-C: files whole, the board at rest and let go of.
    take_endings()
    # Torch's threads, if they spin while they wait, slow the kernels' and everything else on the machine, tenfold; must
    # be set before torch loads.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="replace")  # a narrow encoding must not cost a result
    cli(prog_name="pimchip")


if __name__ == "__main__":
    main()
