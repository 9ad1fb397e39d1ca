"""The command group. Commands load when they are called, so `pimchip --help` imports nothing heavy."""

from __future__ import annotations

import os
from importlib import import_module

import click

from pimchip._version import __version__

COMMANDS = {
    "demo": "The whole story on an embedded data set and an emulated die.",
    "train": "Train a network for a chip: PIM-QAT, or conventionally with --digital.",
    "characterize": "Measure a die's converters and write its profile.",
    "compile": "Turn a trained model into a program for a chip.",
    "deploy": "Put a model on a board, calibrate BN there and evaluate it.",
    "infer": "Classify images with what was deployed.",
    "info": "Say what a chip, file, profile or device is.",
}


class LazyGroup(click.Group):
    """Knows its commands' names and one-liners; imports a command's file when it is wanted."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        command = import_module(f"pimchip.cli.{cmd_name}_command").command
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


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="pimchip", message="%(prog)s %(version)s")
def cli() -> None:
    """Put a trained network on a processing-in-memory chip, and know how well it works there.

    Every command takes --json for machines and --seed. Exit codes: 0 done, 1 the answer is bad, 2 wrong input, 3 the
    device failed. Shell completion: eval "$(_PIMCHIP_COMPLETE=bash_source pimchip)", or zsh_source, fish_source.
    """


def main() -> None:
    """Entry point of the console script."""
    # Two thread pools (torch's and numba's) that spin while they wait slow each other, and everything else on the
    # machine, tenfold; must be set before either loads.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    cli(prog_name="pimchip")
