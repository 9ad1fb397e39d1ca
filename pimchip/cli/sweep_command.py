"""pimchip sweep."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from pimchip.cli.common import Command, Reply, check_out, command_options, device_options, table
from pimchip.cli.with_bench import bench_hash, bench_options
from pimchip.errors import InputError

if TYPE_CHECKING:
    from pimchip.workflows.coefficients import Lines

TWIN = (
    "Rehearse on emulated instruments around an emulated board, emulator:..., whose codes follow them; temperatures are set "
    "as a chamber would."
)
UNITS = {"gain": {"per_kelvin": (1e6, "ppm/K"), "per_volt": (1e2, "%/V")}} | {
    "offset": {"per_kelvin": (1e3, "mLSB/K"), "per_volt": (1.0, "LSB/V")}
}


def _numbers(name: str, text: str | None) -> list[float]:
    """ "0.9,1.0" as numbers."""
    try:
        return [float(part) for part in text.split(",")] if text else []
    except ValueError:
        raise InputError(f"{name} {text!r}: want numbers with commas between, such as 0.9,1.0,1.1") from None


@click.command("sweep", cls=Command)
@bench_options(TWIN, required=True)
@click.option("--supply", metavar="V,V,...", help="Voltages of the rail that feeds the converters.")
@click.option("--temperature", metavar="C,C,...", help="Temperatures, each waited for: set the chamber meanwhile.")
@click.option("--rail", help="Rail whose voltage is set.  [default: the one that feeds analog]")
@click.option("--sensor", help="Sensor that tells the temperature.  [default: the bench's first, else the board's own]")
@click.option("--tolerance", type=float, default=2.0, show_default=True, help="Kelvin off a temperature that will do.")
@click.option(
    "--hold-seconds", type=float, default=30.0, show_default=True, help="Seconds for which it must stay there."
)
@click.option(
    "--settle-seconds", type=float, default=3600.0, show_default=True, help="Seconds to wait for a temperature."
)
@click.option("--device", help="Device URL.  [default: $PIMCHIP_DEVICE, else emulator:sram65]")
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    default=Path("sweep"),
    show_default=True,
    help="Folder of profiles and sweep.json. A sweep that is in it goes on.",
)
@click.option(
    "--half-width",
    type=click.FloatRange(0.001, 10),
    default=0.1,
    show_default=True,
    help="Wanted 95 % half-width of a transition level, LSB.",
)
@click.option(
    "--reads", type=click.IntRange(2, 1_000_000), help="Reads a level, instead of planning them from --half-width."
)
@click.option("--adcs", help="Converters to measure: 0,3,8-15.  [default: all]")
@click.option("--adc-bits", type=int, help="Operating point: resolution.  [default: the chip's]")
@click.option(
    "--range-divisor", "range_divisors", type=int, multiple=True, help="Ranges to measure; repeatable.  [default: all]"
)
@command_options
@device_options
def command(
    reply: Reply,
    *,
    bench_path: Path,
    twin: bool,
    supply: str | None,
    temperature: str | None,
    rail: str | None,
    sensor: str | None,
    tolerance: float,
    hold_seconds: float,
    settle_seconds: float,
    device: str | None,
    out: Path,
    half_width: float,
    reads: int | None,
    adcs: str | None,
    adc_bits: int | None,
    range_divisors: tuple[int, ...],
) -> None:
    """Characterize a die at every supply and temperature, and find how gain and offset depend on them.

    Powers the bench up, sets each point within the bench file's limits, waits for it, measures, and switches everything
    off in the end. Each point leaves a profile with what stood on the bench. Stopped, it goes on when asked the same again.
    """
    check_out(out, folder=True)
    supplies, temperatures = _numbers("--supply", supply), _numbers("--temperature", temperature)
    from pimchip.characterize import default_points, parse_adcs
    from pimchip.instruments.benchfile import load_bench
    from pimchip.workflows.sweep import Settling, sweep, swept_rail, swept_sensor, targets
    from pimchip.workflows.wired import powered

    start, spec = time.perf_counter(), load_bench(bench_path)
    planned = targets(temperatures, supplies)
    swept_rail(spec, rail, supplies)
    swept_sensor(spec, sensor)
    settling = Settling(tolerance=tolerance, hold=hold_seconds, limit=settle_seconds)
    reply.interrupted = f"interrupted; every output of the bench was switched off; the same command goes on with {out}"
    with powered(spec, device, twin=twin, seed=reply.seed) as wired, reply.stages() as tell:
        if temperatures and wired.twin is None:
            reply.show(f"waiting for each of {temperature} °C: set the chamber")
        chip = wired.board.info().spec
        found = sweep(
            wired.bench,
            wired.board,
            supplies=supplies,
            temperatures=temperatures,
            rail=rail,
            sensor=sensor,
            set_temperature=wired.twin.set_ambient if wired.twin else None,
            settling=settling,
            points=default_points(chip, adc_bits=adc_bits, range_divisors=range_divisors or None),
            half_width=half_width,
            reads=reads,
            adcs=parse_adcs(adcs, chip.array.macros * chip.adc.per_macro) if adcs else None,
            seed=reply.seed,
            out=out,
            tell=tell,
        )
    rows = [
        [
            str(v.target),
            f"{v.temperature:.2f}",
            "-" if v.supply is None else f"{v.supply:.4f}",
            f"{v.moved:+.2f}",
            v.profile,
        ]
        for v in found.points
    ]
    reply.show(table(f"die {found.uid}", ["point", "°C", "V", "moved, K", "profile"], rows))
    rows = [
        [f"1/{p.mac.range_divisor}", what, *_dependence(what, lines)]
        for p in found.lines
        for what, lines in (("gain", p.gain), ("offset", p.offset))
    ]
    columns = ["range", "", "with temperature", "with supply", "scatter / expected"]
    reply.show(table("Dependence: mean ± spread of the converters (95 % ± of one)", columns, rows))
    if any(line.ratio is None for p in found.lines for line in (p.gain, p.offset)):
        reply.show("no more points than terms: nothing checks that the dependence is linear")
    there = len(planned) - found.fresh
    reply.show(
        f"{len(planned)} points" + (f", {there} of them were there" if there else "") + f"; {out / 'sweep.json'}"
    )
    if twin:
        reply.show("a rehearsal: emulated instruments around an emulated die")
    reply.done(
        {
            **found.to_dict(),
            "out": str(out),
            "fresh": found.fresh,
            "twin": twin,
            "seconds": time.perf_counter() - start,
        },
        uid=found.uid,
        hashes={"chip": chip.hash, **bench_hash(bench_path)},
    )


def _dependence(what: str, lines: Lines) -> list[str]:
    """Cells of a quantity: its terms, and how far it scatters about the line."""
    cells = []
    for term, (scale, unit) in UNITS[what].items():
        cells.append("-" if term not in lines.estimates else _spread(lines, term, scale, unit))
    return [*cells, "-" if lines.ratio is None else f"{lines.ratio:.2f}"]


def _spread(lines: Lines, term: str, scale: float, unit: str) -> str:
    import numpy as np

    values: Any = scale * lines.estimates[term]
    if not np.isfinite(values).any():
        return "-"
    width = scale * float(np.nanmedian(lines.half_widths[term]))
    return f"{np.nanmean(values):+.3g} ± {np.nanstd(values):.3g} {unit} (± {width:.2g})"
