"""pimchip compile."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from pimchip.cli.common import Command, Reply, check_out, command_options, table
from pimchip.cli.model_options import ModelOptions, compiling_options, show_fitted, show_replicas
from pimchip.errors import counted

if TYPE_CHECKING:
    from pimchip.workflows.models import Compilation

PASS = "PASS"


@click.command("compile", cls=Command)
@click.argument("model", type=click.Path(path_type=Path))
@click.option("--chip", help="A built-in chip or a TOML file.  [default: the model's]")
@compiling_options(
    profile="Profile of the die it is meant for.",
    data="Data set of the training images that --noise-aware and --ranges rest on, and of what a plain state dict is for.  "
    "[default: the model's]",
)
@click.option("--out", type=click.Path(path_type=Path), help="The program.  [default: MODEL with .pim]")
@click.option(
    "--dump-after",
    metavar=PASS,
    multiple=True,
    help="Print the graph after a pass: trace, shapes, simplify, fold, lower, order, place, replicate, or all. May be given again.",
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
    options: ModelOptions,
    chip: str | None,
    out: Path | None,
    dump_after: tuple[str, ...],
    stop_after: str | None,
    check: bool,
    explain: bool,
    floorplan: Path | None,
) -> None:
    """Turn a trained MODEL (model.pt) into a program for a chip (model.pim).

    With --factory and --data, MODEL may be the plain state dict of a network that Brevitas trained.
    """
    target = out or model.with_suffix(".pim")
    check_out(target, keep={"the model": model if out else None})

    from pimchip.compiler.passes import named
    from pimchip.workflows.compiling import Watch
    from pimchip.workflows.models import compile_model, run_passes_of

    dumps: dict[str, str] = {}

    def show(name: str, text: str) -> None:
        dumps[name] = text
        reply.show(text)

    start = time.perf_counter()
    watch = Watch(dump_after, check, reply.seed, show)
    how = options.compilation(chip)
    explained = _survey(reply, model, how) if explain else {}
    seen: dict[str, Any] = {**explained, "checks": watch.checks, "dumps": dumps}
    if stop_after is not None:
        run_passes_of(model, how, named(stop_after), watch)
        _show_checks(reply, watch.checks)
        reply.show(f"stopped after {stop_after}; no program was written")
        reply.done({"program": None, "stopped_after": stop_after, "seconds": time.perf_counter() - start, **seen})
        return
    program, measured = compile_model(model, how, watch)
    program.save(target)
    seconds = time.perf_counter() - start
    _show_checks(reply, watch.checks)
    seen |= show_fitted(reply, how.fitted)
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
            f"{sum(t.rows * t.columns for t in layer.tiles):,}",
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
    if how.replicas > 1:
        seen |= show_replicas(reply, program)
    reply.show(
        f"{counted(program.tiles, 'tile')} in {counted(program.manifest.passes, 'pass')}, "
        f"{counted(program.conversions_per_image, 'conversion')} an image; "
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


def _survey(reply: Reply, model: Path, how: Compilation) -> dict[str, Any]:
    """Say what runs where. Raises CompileError, after all was told, where something is refused."""
    from pimchip.compiler.survey import survey
    from pimchip.errors import CompileError
    from pimchip.workflows.explained import SURVEY_COLUMNS, survey_keys, survey_tables

    file = how.read(model)
    found = survey(file.build(how.factory), how.chip or file.chip, file.image_shape)
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
