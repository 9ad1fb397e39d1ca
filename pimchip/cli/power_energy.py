"""pimchip power energy."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from pimchip.cli.common import Command, Reply, command_options, device_options, table
from pimchip.cli.with_bench import OFF, bench_hash, bench_options
from pimchip.errors import InputError

if TYPE_CHECKING:
    from pimchip.instruments.energy import RailEnergy
    from pimchip.instruments.uncertainty import Interval

TWIN = "Rehearse on emulated instruments around an emulated board, emulator:...; nothing real is touched."


@click.command("energy", cls=Command)
@click.argument("deployed", type=click.Path(path_type=Path))
@bench_options(TWIN, required=True)
@click.option("--data", help="Data set whose test images are run.  [default: the one it was deployed with]")
@click.option("--data-dir", type=click.Path(path_type=Path), help="Where the data set's files are.")
@click.option("--device", help="Device URL.  [default: $PIMCHIP_DEVICE, else emulator:sram65]")
@click.option("--limit", type=click.IntRange(1), help="Test images to run, over and over.  [default: all]")
@click.option("--batch", type=click.IntRange(1), help="Images at once.  [default: as many as the board holds]")
@click.option("--repeats", type=int, default=10, show_default=True, help="Repeats, idle and busy; 10 at least.")
@click.option(
    "--readings",
    type=click.IntRange(1, 10_000),
    default=5,
    show_default=True,
    help="Of each rail, in each state of each repeat.",
)
@command_options
@device_options
def energy(
    reply: Reply,
    *,
    deployed: Path,
    bench_path: Path,
    twin: bool,
    data: str | None,
    data_dir: Path | None,
    device: str | None,
    limit: int | None,
    batch: int | None,
    repeats: int,
    readings: int,
) -> None:
    """Measure joules an image of DEPLOYED (what `deploy` wrote) by rail, with and without idle power, with 95 % intervals.

    Powers the bench up, runs images on the board over and over while its rails are read, idle and busy in turns, and
    switches everything off again.
    """
    reply.interrupted = OFF
    from pimchip.instruments.benchfile import load_bench
    from pimchip.runtime import Deployed
    from pimchip.workflows.board_energy import energy_of
    from pimchip.workflows.images import load_matching
    from pimchip.workflows.modelled import si
    from pimchip.workflows.wired import powered

    held, spec = Deployed.load(deployed), load_bench(bench_path)
    name = data or held.data or held.program.manifest.data
    if not name:
        raise InputError(f"{deployed} names no data set; give one with --data")
    images = load_matching(held.program.manifest, name, data_dir, limit).test.images
    with powered(spec, device, twin=twin, seed=reply.seed) as wired, reply.progress("repeats") as tell:
        found = energy_of(wired, held, images, batch=batch, repeats=repeats, readings=readings, progress=tell)
    report = found.report

    def figures(one: RailEnergy) -> list[str]:
        return [_shown(one.with_idle), _shown(one.without_idle), si(one.idle_watts, "W"), si(one.modelled, "J")]

    rows = [[rail, *figures(one)] for rail, one in report.rails.items()] + [["all rails", *figures(report.total)]]
    columns = ["rail", "an image, with idle", "without idle", "idle", "modelled, with idle"]
    reply.show(table(f"{held.program.manifest.name} on {held.uid}: energy an image", columns, rows))
    if report.tops_per_watt is not None:
        value, low, high = report.tops_per_watt
        reply.show(
            f"{value:.3g} TOPS/W ({low:.3g} to {high:.3g}): {found.cost.operations:,} operations an image, two a "
            "multiply-accumulate of the network, over all rails with idle"
        )
    reply.show(
        f"{report.images:,} images in batches of {found.batch}, {si(report.seconds_per_image, 's')} each, in "
        f"{report.repeats} repeats; intervals are of 95 %"
    )
    if twin:
        reply.show("a rehearsal: emulated instruments, and the chip's modelled time an image")
    reply.done(
        {
            **report.to_dict(),
            "operations_per_image": found.cost.operations,
            "modelled_joules_per_image": report.total.modelled,
            "modelled_seconds_per_image": found.cost.seconds,
            "batch": found.batch,
            "data": name,
            "twin": twin,
        },
        uid=held.uid,
        hashes={
            "model": held.program.manifest.model_hash,
            "chip": held.program.spec.hash,
            "profile": held.profile_hash,
            **bench_hash(bench_path),
        },
    )


def _shown(one: Interval) -> str:
    """A value with its half-width."""
    from pimchip.workflows.modelled import si

    return f"{si(one.value, 'J')} ± {100 * one.half_width / abs(one.value):.2g} %" if one.value else "0 J"
