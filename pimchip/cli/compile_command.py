"""pimchip compile."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from pimchip.cli.common import Command, Reply, check_out, command_options, load_factory, table
from pimchip.errors import InputError

if TYPE_CHECKING:
    from pimchip.chip import ChipSpec
    from pimchip.workflows.fitted import Fitted

PASS = "PASS"


@click.command("compile", cls=Command)
@click.argument("model", type=click.Path(path_type=Path))
@click.option("--chip", help="A built-in chip or a TOML file.  [default: the model's]")
@click.option("--profile", type=click.Path(path_type=Path), help="Profile of the die it is meant for.")
@click.option(
    "--noise-aware",
    is_flag=True,
    help="With --profile: put channels in an order in which those that hurt most meet the quietest converters.",
)
@click.option(
    "--ranges",
    type=click.Choice(["trained", "profile"]),
    default="trained",
    show_default=True,
    help="Each layer's range and ADC bits: as trained, or those measured in --profile that suit it best on the die.",
)
@click.option("--data", help="Data set whose training images the two rest on.  [default: the model's]")
@click.option("--data-dir", type=click.Path(path_type=Path), help="Where the data set's files are.")
@click.option(
    "--factory", metavar="MODULE:CALLABLE", help="Your own network's maker, as given to train. Runs your code."
)
@click.option("--out", type=click.Path(path_type=Path), help="The program.  [default: MODEL with .pim]")
@click.option(
    "--dump-after",
    metavar=PASS,
    multiple=True,
    help="Print the graph after a pass: trace, shapes, simplify, fold, lower, order, place, or all. May be given again.",
)
@click.option("--stop-after", metavar=PASS, help="Do only the passes up to this one, and write no program.")
@click.option(
    "--check",
    is_flag=True,
    help="After every pass, compute two example images and compare with the network and the integer reference. Exit code "
    "1 if they differ.",
)
@click.option(
    "--explain",
    is_flag=True,
    help="Say first what runs on the chip, on the board's processor and on the host, and all that is refused; then what "
    "each layer costs, and which will hurt most.",
)
@click.option(
    "--floorplan",
    type=click.Path(path_type=Path, file_okay=False),
    metavar="DIR",
    help="Draw which cells hold which layer, a picture a residency pass, with the faults of --profile.",
)
@command_options
def command(
    reply: Reply,
    *,
    model: Path,
    chip: str | None,
    profile: Path | None,
    noise_aware: bool,
    ranges: str,
    data: str | None,
    data_dir: Path | None,
    factory: str | None,
    out: Path | None,
    dump_after: tuple[str, ...],
    stop_after: str | None,
    check: bool,
    explain: bool,
    floorplan: Path | None,
) -> None:
    """Turn a trained MODEL (model.pt) into a program for a chip (model.pim)."""
    target = out or model.with_suffix(".pim")
    check_out(target, keep={"the model": model if out else None})

    from pimchip.chip import load_chip
    from pimchip.compiler.passes import named
    from pimchip.workflows.compiling import Watch
    from pimchip.workflows.fitted import POINT_COLUMNS
    from pimchip.workflows.models import compile_model, run_passes_of

    dumps: dict[str, str] = {}

    def show(name: str, text: str) -> None:
        dumps[name] = text
        reply.show(text)

    start = time.perf_counter()
    watch = Watch(dump_after, check, reply.seed, show)
    spec, maker = None if chip is None else load_chip(chip), load_factory(factory)
    explained = _survey(reply, model, spec, maker) if explain else {}
    seen: dict[str, Any] = {**explained, "checks": watch.checks, "dumps": dumps}
    if stop_after is not None:
        run_passes_of(model, named(stop_after), chip=spec, factory=maker, observer=watch)
        _show_checks(reply, watch.checks)
        reply.show(f"stopped after {stop_after}; no program was written")
        reply.done({"program": None, "stopped_after": stop_after, "seconds": time.perf_counter() - start, **seen})
        return
    fitted = _fitted(profile, noise_aware, ranges == "profile", data, data_dir)
    program, measured = compile_model(model, chip=spec, profile=profile, factory=maker, observer=watch, fitted=fitted)
    program.save(target)
    seconds = time.perf_counter() - start
    _show_checks(reply, watch.checks)
    if fitted is not None:
        seen |= fitted.keys()
        if fitted.points:
            title = "operating points by the profile, and the share of the codes' variance that no line explains"
            reply.show(table(title, POINT_COLUMNS, fitted.rows()))
    if explain:
        from pimchip.cli.costs import show_costs
        from pimchip.workflows.explained import costs

        seen |= costs(program, measured, reply.seed)
        show_costs(reply, seen)
    rows = [
        [
            name,
            layer.kind,
            f"{layer.in_channels}→{layer.out_channels} {layer.kernel[0]}x{layer.kernel[1]}",
            str(len(layer.tiles)),
            str(sum(t.rows * t.columns for t in layer.tiles)),
            "-" if layer.kind == "digital" else f"1/{layer.operating_point().range_divisor}",
        ]
        for name, layer in program.manifest.layers.items()
    ]
    reply.show(
        table(
            f"{program.manifest.name} for {program.spec.name}",
            ["layer", "runs in", "shape", "tiles", "cells", "range"],
            rows,
        )
    )
    if floorplan is not None:
        from pimchip.cli.costs import show_floors

        seen["floorplan"] = show_floors(reply, program, floorplan, measured)
    reply.show(
        f"{program.tiles} tiles in {program.manifest.passes} passes, {program.conversions_per_image:,} conversions an image; "
        f"written to {target}"
    )
    reply.done(
        {
            "program": str(target),
            "tiles": program.tiles,
            "passes": program.manifest.passes,
            "utilization_of_bound": program.utilization_of_bound,
            "conversions_per_image": program.conversions_per_image,
            "cells": program.cells_used,
            "seconds": seconds,
            **seen,
        },
        hashes={
            "model": program.manifest.model_hash,
            "chip": program.spec.hash,
            "profile": program.manifest.profile_hash,
        },
    )


def _fitted(
    profile: Path | None, noise_aware: bool, ranges: bool, data: str | None, data_dir: Path | None
) -> Fitted | None:
    """What is to be fitted to the profile's die; InputError where there is none."""
    from pimchip.workflows.fitted import Fitted

    asked = {"--noise-aware": noise_aware, "--ranges profile": ranges}
    named = next((name for name, wanted in asked.items() if wanted), None)
    if named is None:
        return None
    if profile is None:
        raise InputError(f"{named} rests on a measured die: name its profile with --profile")
    return Fitted(noise_aware, ranges, data, data_dir)


def _survey(reply: Reply, model: Path, spec: ChipSpec | None, maker: Any) -> dict[str, Any]:
    """Say what runs where. Raises CompileError, after all was told, where something is refused."""
    from pimchip.compiler.survey import survey
    from pimchip.errors import CompileError
    from pimchip.workflows.explained import SURVEY_COLUMNS, survey_keys, survey_tables
    from pimchip.workflows.models import read_model

    file = read_model(model)
    found = survey(file.build(maker), spec or file.chip, file.image_shape)
    for title, rows in survey_tables(found):
        reply.show(table(title, SURVEY_COLUMNS, rows))
    if found.refused:
        reply.show(table("refused", ["", ""], [[str(n), line] for n, line in enumerate(found.refused, start=1)]))
        raise CompileError(f"{model}: {len(found.refused)} refused, the first: {found.refused[0]}")
    reply.show("nothing is refused")
    return survey_keys(found)


def _show_checks(reply: Reply, checks: dict[str, str]) -> None:
    if checks:
        reply.show(
            table("checked on two example images", ["after", ""], [[name, said] for name, said in checks.items()])
        )
