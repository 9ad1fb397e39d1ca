"""What commands share that take a bench: --bench and --twin."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import click

from pimchip.errors import InputError

if TYPE_CHECKING:
    from pimchip.board import Board
    from pimchip.instruments.bench import Bench

OFF = "interrupted; every output of the bench was switched off"


def bench_options(twin: str, *, required: bool) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Add --bench, as `bench_path`, and --twin, whose help is given."""

    def add(function: Callable[..., None]) -> Callable[..., None]:
        function = click.option("--twin", is_flag=True, help=twin)(function)
        told = "The bench file (TOML)." if required else "A bench file (TOML): what it reads is kept with the result."
        return click.option(
            "--bench", "bench_path", type=click.Path(path_type=Path, dir_okay=False), required=required, help=told
        )(function)

    return add


def bench_hash(path: Path | None) -> dict[str, str | None]:
    """The bench file's, for provenance; nothing where there is none."""
    return {} if path is None else {"bench": hashlib.sha256(path.read_bytes()).hexdigest()}


def driver(bench: Bench | None) -> Callable[[float, float, float], None] | None:
    """What drives the converters' test input with a sine: the bench's only input, or the one named test; None for neither."""
    if bench is None or not bench.spec.inputs:
        return None
    names = list(bench.spec.inputs)
    return partial(bench.drive_sine, names[0] if len(names) == 1 else "test")


@contextmanager
def board_beside(
    url: str | None, bench_path: Path | None, twin: bool, seed: int
) -> Iterator[tuple[Board, Bench | None]]:
    """The board, and the bench around it where one is named: read, with outputs left as they are."""
    if bench_path is None:
        if twin:
            raise InputError("--twin rehearses a bench; name its file with --bench")
        from pimchip.board import default_device, open_board

        with open_board(url or default_device(), seed=seed) as board:
            yield board, None
        return
    from pimchip.instruments.benchfile import load_bench
    from pimchip.workflows.wired import beside

    with beside(load_bench(bench_path), url, twin=twin, seed=seed) as wired:
        yield wired.board, wired.bench
