"""What every command shares: --json, --seed and --debug, errors to exit codes, progress, provenance."""

from __future__ import annotations

import functools
import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NoReturn, ParamSpec

import click

from pimchip._version import __version__
from pimchip.errors import InputError, PimchipError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from rich.console import RenderableType

P = ParamSpec("P")
PROGRESS_AFTER = 2.0
"""Seconds a task runs before its progress is shown."""
INTERRUPTED = 130
PIPED_WIDTH = 110
"""Columns of tables that go to no terminal."""


class Reply:
    """A command's way to speak: text for people while it runs, one JSON object at its end."""

    def __init__(self, as_json: bool, seed: int) -> None:
        self.as_json = as_json
        self.seed = seed
        self.exit_code = 0

    def show(self, what: RenderableType) -> None:
        """A line or table for people: stdout, or stderr with --json."""
        from rich.console import Console

        console = Console(stderr=self.as_json, highlight=False, soft_wrap=isinstance(what, str))
        if not console.is_terminal:
            console = Console(stderr=self.as_json, highlight=False, soft_wrap=isinstance(what, str), width=PIPED_WIDTH)
        console.print(what, markup=False) if isinstance(what, str) else console.print(what)

    def done(
        self,
        result: Mapping[str, Any],
        *,
        uid: str | None = None,
        hashes: Mapping[str, str | None] | None = None,
        ok: bool = True,
    ) -> None:
        """The result; printed as JSON if asked for. ok False: exit code 1."""
        self.exit_code = 0 if ok else 1
        if self.as_json:
            print_json({**result, "provenance": provenance(self.seed, uid, hashes)})

    @contextmanager
    def progress(self, what: str) -> Iterator[Callable[[int, int], None]]:
        """A bar with rate and time left, on a terminal and only for what takes longer than two seconds."""
        with self.stages() as tell:
            yield lambda done, total: tell(what, done, total)

    @contextmanager
    def stages(self) -> Iterator[Callable[[str, int, int], None]]:
        """The same for work in named stages: call with (what, done, total)."""
        if not sys.stderr.isatty():
            yield lambda what, done, total: None
            return
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[rate]}"),
            TimeRemainingColumn(),
            console=Console(stderr=True),
            transient=True,
        )
        tasks: dict[str, Any] = {}
        begun: dict[str, float] = {}
        start = time.monotonic()

        def tell(what: str, done: int, total: int) -> None:
            now = time.monotonic()
            begun.setdefault(what, now)
            if not bar.live.is_started and now - start < PROGRESS_AFTER:
                return
            if not bar.live.is_started:
                bar.start()
            if what not in tasks:
                tasks[what] = bar.add_task(what, total=total, rate="")
            rate = done / max(now - begun[what], 1e-9)
            bar.update(
                tasks[what], completed=done, total=total, rate=f"{rate:,.1f}/s" if rate < 1000 else f"{rate:,.0f}/s"
            )

        try:
            yield tell
        finally:
            if bar.live.is_started:
                bar.stop()


def provenance(seed: int, uid: str | None, hashes: Mapping[str, str | None] | None) -> dict[str, Any]:
    """Where a result comes from."""
    return {
        "version": __version__,
        "seed": seed,
        "device_uid": uid,
        "hashes": dict(hashes or {}),
        "command": ["pimchip", *sys.argv[1:]],
        "processors": os.cpu_count(),
    }


def print_json(result: Mapping[str, Any]) -> None:
    """One object on stdout; a NaN would be no JSON, so it is an error here rather than at the reader."""
    sys.stdout.write(json.dumps(result, allow_nan=False) + "\n")
    sys.stdout.flush()


def command_options(function: Callable[..., None]) -> Callable[..., None]:
    """Add --json, --seed and --debug; hand the function a Reply; turn errors into one line and an exit code."""

    @click.option("--json", "as_json", is_flag=True, help="Print one JSON object on stdout, everything else on stderr.")
    @click.option(
        "--seed",
        type=click.IntRange(0, (1 << 40) - 1),
        default=0,
        show_default=True,
        help="Fixes weights, plans and emulated noise.",
    )
    @click.option("--debug", is_flag=True, help="Show the traceback of an error.")
    @functools.wraps(function)
    def run(as_json: bool, seed: int, debug: bool, **arguments: Any) -> None:
        reply = Reply(as_json, seed)
        try:
            function(reply, **arguments)
        except PimchipError as error:
            if debug:
                raise
            fail(reply, str(error), error.exit_code)
        except KeyboardInterrupt:
            fail(reply, "interrupted; files are whole, the device is closed", INTERRUPTED)
        except MemoryError:
            fail(reply, "out of memory; use a smaller batch or model", 2)
        except OSError as error:
            if debug:
                raise
            where = f" ({error.filename})" if error.filename else ""
            fail(reply, f"{error.strerror or error}{where}", 2)
        if reply.exit_code:
            raise SystemExit(reply.exit_code)

    return run


def fail(reply: Reply, message: str, code: int) -> NoReturn:
    """One line on stderr, and with --json an object that says the same."""
    click.echo(f"pimchip: {' '.join(message.split())}", err=True)
    if reply.as_json:
        print_json({"error": message, "exit_code": code, "provenance": provenance(reply.seed, None, None)})
    raise SystemExit(code)


def load_factory(text: str | None) -> Any:
    """The callable that --factory package.module:callable names; None for None. Importing it runs the user's code."""
    if text is None:
        return None
    from importlib import import_module

    module, separator, attribute = text.partition(":")
    if not separator or not attribute:
        raise InputError(f"--factory {text!r} is not package.module:callable")
    sys.path.insert(0, os.getcwd())
    try:
        found = getattr(import_module(module), attribute)
    except (ImportError, AttributeError) as error:
        raise InputError(f"--factory {text!r}: {error}") from None
    finally:
        sys.path.pop(0)
    if not callable(found):
        raise InputError(f"--factory {text!r} is not callable")
    return found


def table(title: str, columns: list[str], rows: list[list[str]]) -> RenderableType:
    """A table for people: first column left, the rest right. Columns all unnamed: names and values, no header."""
    from rich import box
    from rich.table import Table

    named = any(columns)
    made = Table(
        title=title,
        title_justify="left",
        title_style="bold",
        box=box.SIMPLE_HEAD if named else box.SIMPLE,
        pad_edge=False,
        show_header=named,
    )
    for index, name in enumerate(columns):
        made.add_column(name, justify="right" if index and named else "left", overflow="fold", no_wrap=not index)
    for row in rows:
        made.add_row(*row)
    return made
