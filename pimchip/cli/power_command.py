"""pimchip power."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from pimchip.cli.common import Command, Reply, command_options, table
from pimchip.cli.power_energy import energy
from pimchip.cli.with_bench import OFF, bench_hash, bench_options

if TYPE_CHECKING:
    from pimchip.instruments.bench import Bench

TWIN = (
    "Rehearse on emulated instruments of the same models around an emulated, idle chip; nothing real is touched. The twin "
    "lives as long as the command."
)


@click.group("power")
def command() -> None:
    """Power a chip's bench up and down in order, and read it.

    The bench file names instruments, rails, limits and order; `pimchip power example` prints one to begin with.
    """


command.add_command(energy)


def idle_bench_options(function: Callable[..., None]) -> Callable[..., None]:
    """Add --bench, --twin and --chip."""
    function = click.option(
        "--chip", default="sram65", show_default=True, help="With --twin: the chip that is powered."
    )(function)
    return bench_options(TWIN, required=True)(function)


@contextmanager
def _opened(path: Path, twin: bool, chip: str, seed: int) -> Iterator[Bench]:
    """The bench, opened but not entered."""
    from pimchip.instruments.bench import open_bench
    from pimchip.instruments.benchfile import load_bench

    spec, clock = load_bench(path), None
    with ExitStack() as held:
        if twin:
            from pimchip.chip import load_chip
            from pimchip.instruments.twin import idle_twin

            made = held.enter_context(idle_twin(spec, load_chip(chip), seed))
            spec, clock = made.spec, made.clock
        bench = open_bench(spec, clock=clock)
        held.callback(bench.close)
        yield bench


@command.command("example", cls=Command)
@command_options
def example(reply: Reply) -> None:
    """Print a bench file to begin with: three rails, a source-meter, multimeters, a generator and a thermocouple."""
    from pimchip.instruments.benchfile import example_text

    text = example_text()
    if not reply.as_json:
        click.echo(text, nl=False)
    reply.done({"example": text})


@command.command("up", cls=Command)
@idle_bench_options
@command_options
def up(reply: Reply, *, bench_path: Path, twin: bool, chip: str) -> None:
    """Power the rails up in order, each settled before the next, and leave them on.

    Whatever is on is switched off first. Where a rail does not settle or an instrument fails, everything is switched off.
    """
    reply.interrupted = OFF
    with _opened(bench_path, twin, chip, reply.seed) as bench, bench:
        bench.power_up()
        found = bench.snapshot()
        bench.leave_on()
    _show(reply, f"{found['bench']}: up", found)
    if twin:
        reply.show("a rehearsal on emulated instruments: nothing real is on")
    reply.done({"state": "up", "twin": twin, **found}, hashes=bench_hash(bench_path))


@command.command("read", cls=Command)
@idle_bench_options
@command_options
def read(reply: Reply, *, bench_path: Path, twin: bool, chip: str) -> None:
    """Read rails, temperatures and settings; outputs stay as they are."""
    with _opened(bench_path, twin, chip, reply.seed) as bench:
        bench.configure_meters()
        found = bench.snapshot()
    _show(reply, str(found["bench"]), found)
    on = [name for name, rail in found["rails"].items() if rail and rail["on"]]
    reply.done({"on": on, "twin": twin, **found}, hashes=bench_hash(bench_path), ok=not found["errors"])


@command.command("down", cls=Command)
@idle_bench_options
@command_options
def down(reply: Reply, *, bench_path: Path, twin: bool, chip: str) -> None:
    """Power down in reverse order with the file's delays, and see that every output is off."""
    reply.interrupted = OFF
    with _opened(bench_path, twin, chip, reply.seed) as bench, bench:
        bench.power_down()
    _done_off(reply, bench, bench_path, twin)


@command.command("off", cls=Command)
@idle_bench_options
@command_options
def off(reply: Reply, *, bench_path: Path, twin: bool, chip: str) -> None:
    """Emergency: send every off command at once, then see that every output is off."""
    reply.interrupted = OFF
    with _opened(bench_path, twin, chip, reply.seed) as bench, bench:
        for failure in bench.emergency_off():
            reply.warn(failure)
        bench.shutdown()
    _done_off(reply, bench, bench_path, twin)


def _done_off(reply: Reply, bench: Bench, bench_path: Path, twin: bool) -> None:
    reply.show(f"{bench.spec.name}: every output is off")
    reply.done({"state": "off", "twin": twin, "bench": bench.spec.name}, hashes=bench_hash(bench_path))


def _show(reply: Reply, title: str, found: dict[str, Any]) -> None:
    rows = [[name, *_cells(rail)] for name, rail in found["rails"].items()]
    reply.show(table(title, ["rail", "", "set, V", "V", "mA", "mW"], rows))
    for name, degrees in found["temperatures"].items():
        reply.show(f"{name}: {'unknown' if degrees is None else f'{degrees:.1f} °C'}")
    for where, said in found["errors"].items():
        reply.warn(f"{where}: {said}")


def _cells(rail: dict[str, Any] | None) -> list[str]:
    if rail is None:
        return ["unknown", "", "", "", ""]
    state = "tripped" if rail["tripped"] else "on" if rail["on"] else "off"
    if rail["volts"] is None:
        return [state, f"{rail['set_volts']:g}", "-", "-", "-"]
    volts, milliamperes = rail["volts"], rail["amperes"] * 1e3
    return [state, f"{rail['set_volts']:g}", f"{volts:.4f}", f"{milliamperes:.4f}", f"{volts * milliamperes:.4f}"]
