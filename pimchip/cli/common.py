"""What every command shares: --json, --seed and --debug, errors to exit codes, progress, provenance."""

from __future__ import annotations

import functools
import json
import math
import os
import sys
import time
import traceback
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import click

from pimchip._version import __version__
from pimchip.errors import InputError, PimchipError, PimchipWarning
from pimchip.json_values import finite

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from rich.console import Console, RenderableType

PROGRESS_AFTER = 2.0
"""Seconds a task runs before its progress is shown."""
ALIKE = 0.8
"""How alike an unknown option and a known one must be for it to be suggested."""
PIPED_WIDTH = 110
"""Columns of tables that go to no terminal."""
INTERRUPTED = 130
FAULT = 70
"""Exit code of an error that nobody raised on purpose (sysexits.h: EX_SOFTWARE)."""


class Command(click.Command):
    """A command that refuses an option given twice, unless it says that it may be.

    hints: what to say of an option that it does not have, but that may well be looked for here.
    """

    def __init__(self, *args: Any, hints: Mapping[str, str] | None = None, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._hints = dict(hints or {})

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        if not ctx.resilient_parsing:  # half a command line, of which completions are wanted
            try:
                _, _, order = self.make_parser(ctx).parse_args(list(args))
            except click.NoSuchOption as error:
                if error.option_name in self._hints:
                    ctx.fail(f"there is no {error.option_name} here: {self._hints[error.option_name]}")
                near = get_close_matches(error.option_name, error.possibilities or (), cutoff=ALIKE)
                raise click.NoSuchOption(error.option_name, possibilities=near, ctx=ctx) from None
            for option in order:
                single = isinstance(option, click.Option) and not (option.multiple or option.is_flag or option.count)
                if single and order.count(option) > 1:
                    ctx.fail(f"{option.opts[0]} is given twice; it takes one value")
        return super().parse_args(ctx, args)


class Reply:
    """A command's way to speak: text for people while it runs, one JSON object at its end.

    interrupted: what Ctrl-C is answered with. silent: for processes beside the first of a run of several, which say
    nothing but what they failed of.
    """

    def __init__(self, as_json: bool, seed: int) -> None:
        self.as_json = as_json
        self.seed = seed
        self.exit_code = 0
        self.silent = False
        self.as_text = True
        """False where stdout is a command's data: text for people then goes to stderr."""
        self.warnings: list[str] = []
        self.interrupted = "interrupted; files are whole, the device is closed"

    def warn(self, text: str) -> None:
        """One line on stderr, once, and in the JSON."""
        line = " ".join(text.split())
        if line not in self.warnings:
            self.warnings.append(line)
            if self.silent:
                return
            click.echo(f"pimchip: warning: {line}", err=True)

    @contextmanager
    def warned(self) -> Iterator[None]:
        """What the library warns of within is shown as the command's own; other warnings go where they go."""
        with warnings.catch_warnings():
            others = warnings.showwarning

            def show(message: Warning | str, category: type[Warning], *rest: Any, **named: Any) -> None:
                if issubclass(category, PimchipWarning):
                    self.warn(str(message))
                else:
                    others(message, category, *rest, **named)

            warnings.simplefilter("always", PimchipWarning)
            warnings.showwarning = show
            yield

    def show(self, what: RenderableType) -> None:
        """A line or table for people: stdout, or stderr with --json."""
        if self.silent:
            return
        console = self.console(soft_wrap=isinstance(what, str))
        console.print(what, markup=False) if isinstance(what, str) else console.print(what)

    def console(self, soft_wrap: bool = False) -> Console:
        """Where text for people goes."""
        from rich.console import Console

        aside = self.as_json or not self.as_text
        console = Console(stderr=aside, highlight=False, soft_wrap=soft_wrap)
        if not console.is_terminal:
            console = Console(stderr=aside, highlight=False, soft_wrap=soft_wrap, width=PIPED_WIDTH)
        return console

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
        if self.as_json and not self.silent:
            print_json({**result, "warnings": self.warnings, "provenance": provenance(self.seed, uid, hashes)})

    @contextmanager
    def progress(self, what: str) -> Iterator[Callable[[int, int | None], None]]:
        """A bar with rate and time left, on a terminal and only for what takes longer than two seconds."""
        with self.stages() as tell:
            yield lambda done, total: tell(what, done, total)

    @contextmanager
    def stages(self) -> Iterator[Callable[[str, int, int | None], None]]:
        """The same for work in named stages: call with (what, done, total); total None where it is not known."""
        if self.silent or not sys.stderr.isatty():
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
            redirect_stdout=sys.stdout.isatty(),  # what goes to a file or pipe must not come out at the bar
        )
        tasks: dict[str, Any] = {}
        begun: dict[str, tuple[float, int]] = {}
        start = time.monotonic()

        def tell(what: str, done: int, total: int | None) -> None:
            now = time.monotonic()
            since, first = begun.setdefault(what, (now, done))
            if not bar.live.is_started:
                if now - start < PROGRESS_AFTER:
                    return
                bar.start()
            if what not in tasks:
                tasks[what] = bar.add_task(what, total=total, completed=first, rate="")
            rate = f"{(done - first) / (now - since):,.3g}/s" if done > first and now > since else ""
            bar.update(tasks[what], completed=done, total=total, rate=rate)

        try:
            yield tell
        finally:
            if bar.live.is_started:
                bar.stop()


def provenance(seed: int, uid: str | None, hashes: Mapping[str, str | None] | None) -> dict[str, Any]:
    """Where a result comes from. The command is as typed, which LazyGroup.main notes in the context."""
    context = click.get_current_context(silent=True)
    typed = context.find_root().obj if context else None
    return {
        "version": __version__,
        "seed": seed,
        "device_uid": uid,
        "hashes": dict(hashes or {}),
        "command": ["pimchip", *_without_token(sys.argv[1:] if typed is None else typed)],
        "processors": os.cpu_count(),
    }


def _without_token(typed: Sequence[str]) -> list[str]:
    """A command line that may be kept with a result: tokens of boards are nobody's business."""
    from pimchip.link.token import without_token

    hidden = [without_token(argument) for argument in typed]
    return ["..." if before == "--token" else argument for before, argument in zip(["", *typed], hidden, strict=False)]


def print_json(result: Mapping[str, Any]) -> None:
    """One object on stdout; what is not known is null."""
    sys.stdout.write(json.dumps(finite(result), allow_nan=False) + "\n")
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
            _check_numbers(arguments)
            with reply.warned():
                function(reply, **arguments)
        except KeyboardInterrupt:
            if reply.silent:
                raise SystemExit(INTERRUPTED) from None
            fail(reply.interrupted, INTERRUPTED, as_json, seed)
        except BrokenPipeError:
            sys.stdout = open(os.devnull, "w")  # noqa: SIM115 - the interpreter flushes it when it ends
            raise SystemExit(1) from None  # whoever read is gone: nobody is left to tell
        except Exception as error:
            if debug:
                traceback.print_exc()
            message, code = _said(error)
            if reply.silent:
                fail(f"process {os.environ.get('RANK')}: {message}", code, False)
            fail(message, code, as_json, seed, warned=reply.warnings)
        if reply.exit_code:
            raise SystemExit(reply.exit_code)

    return run


def _check_numbers(arguments: Mapping[str, Any]) -> None:
    """InputError for an option in a range that is no number, or without end: click's ranges let NaN through."""
    for option in click.get_current_context().command.params:
        value = arguments.get(option.name or "")
        if isinstance(option.type, click.FloatRange) and isinstance(value, float) and not math.isfinite(value):
            raise InputError(f"{option.opts[-1]} {value}: want a finite number")


def _trace_option(function: Callable[..., None]) -> Callable[..., None]:
    """Add --trace."""

    @click.option(
        "--trace",
        is_flag=True,
        help="Print each request, each reply and their bytes on stderr; not of emulator: devices.",
    )
    @functools.wraps(function)
    def run(reply: Reply, *, trace: bool, **arguments: Any) -> None:
        if not trace:
            function(reply, **arguments)
            return
        from pimchip.link.trace import tracing

        told = 0

        def tell(line: str) -> None:
            nonlocal told
            told += 1
            click.echo(line, err=True)

        with tracing(tell):
            function(reply, **arguments)
        if not told:
            reply.warn("--trace: there was no line; emulator: devices have none, emulator+link: devices do")

    return run


def device_options(function: Callable[..., None]) -> Callable[..., None]:
    """Add --trace and --record, for commands that open a device; stands below command_options."""

    @click.option(
        "--record",
        type=click.Path(path_type=Path),
        metavar="FILE",
        help="Write every request and reply to FILE.pimlog; --device replay:FILE.pimlog answers the same again.",
    )
    @functools.wraps(function)
    def run(reply: Reply, *, record: Path | None, **arguments: Any) -> None:
        if record is None:
            function(reply, **arguments)
            return
        from pimchip.link.recording import recording

        check_out(record, option="--record")
        with recording(record) as boards:
            function(reply, **arguments)
        if not boards():
            reply.warn("--record: no device was opened, so nothing was recorded")

    return _trace_option(run)


def _said(error: Exception) -> tuple[str, int]:
    """The line and the exit code of an error."""
    if isinstance(error, PimchipError):
        return str(error), error.exit_code
    if isinstance(error, MemoryError):
        return "out of memory; use a smaller batch or model", 2
    if isinstance(error, OSError):
        where = f" ({error.filename})" if error.filename else ""
        return f"{error.strerror or error}{where}", 2
    text = f"{type(error).__name__}: {error}".rstrip(": ")
    return f"a fault in pimchip: {text}; run it with --debug and report what it shows", FAULT


def fail(
    message: str,
    code: int,
    as_json: bool,
    seed: int | None = None,
    typed: Sequence[str] | None = None,
    warned: Sequence[str] = (),
) -> NoReturn:
    """One line on stderr, and with --json an object that says the same. typed: the command, where no context knows it."""
    line = " ".join(message.split())
    click.echo(f"pimchip: {line}", err=True)
    if as_json:
        origin = provenance(seed or 0, None, None)
        if typed is not None:
            origin["command"] = ["pimchip", *_without_token(typed)]
        print_json({"error": line, "exit_code": code, "warnings": list(warned), "provenance": origin})
    raise SystemExit(code)


def check_out(
    path: Path, *, folder: bool = False, keep: Mapping[str, Path | None] | None = None, option: str = "--out"
) -> None:
    """Raise InputError now, not after the work, if `option` cannot be written. keep: inputs by name that it would replace."""
    for name, held in (keep or {}).items():
        if held is not None and path.resolve() == held.resolve():
            raise InputError(f"{option} {path} would replace {name}; name another file")
    if not folder and path.is_dir():
        raise InputError(f"{option} {path} is a folder; name a file in it")
    place = path if folder else path.parent
    while not place.exists() and place != place.parent:
        place = place.parent
    if not place.is_dir():
        raise InputError(f"{option} {path}: {place} is a file, not a folder; name another place")
    if not os.access(place, os.W_OK | os.X_OK):
        raise InputError(f"{option} {path}: {place} cannot be written to; name another place")


NO_CHIP = (
    "--device names chip and die, such as emulator:X.toml?die=0; for another chip than the model's, first "
    "`pimchip compile model.pt --chip X.toml`"
)
"""For commands that work on a device and are asked for --chip."""


def load_factory(text: str | None) -> Any:
    """The callable that --factory package.module:callable names; None for None. Importing it runs the user's code."""
    if text is None:
        return None
    from importlib import import_module

    module, separator, attribute = text.partition(":")
    if not separator or not attribute or not module.strip("."):
        raise InputError(f"--factory {text!r} is not package.module:callable")
    sys.path.insert(0, os.getcwd())
    try:
        found = getattr(import_module(module), attribute)
    except Exception as error:
        from pimchip.qat.models import failure

        raise InputError(f"--factory {text!r}: {failure(error)}") from error
    finally:
        sys.path.pop(0)
    if not callable(found):
        raise InputError(
            f"--factory {text!r} is {type(found).__name__}, not a callable (image shape, number of classes) -> module"
        )

    def make(image_shape: tuple[int, int, int], classes: int) -> Any:
        from pimchip.qat.models import made_by

        return made_by(found, image_shape, classes, f"--factory {text!r}")

    return make


def table(title: str, columns: list[str], rows: list[list[str]]) -> RenderableType:
    """A table for people: first column left, the rest right. Columns all unnamed: names and values, no header."""
    from rich import box
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    named = any(columns)
    made = Table(
        box=box.SIMPLE_HEAD if named else box.SIMPLE,
        pad_edge=False,
        show_header=named,
    )
    for index, name in enumerate(columns):
        made.add_column(name, justify="right" if index and named else "left", overflow="fold", no_wrap=not index)
    for row in rows:
        made.add_row(*(Text(cell) for cell in row))  # Text: names with brackets are no markup
    return Group(Text(title, style="bold"), made)  # a title of the table itself is folded to its width
