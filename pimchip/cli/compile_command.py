"""pimchip compile."""

from __future__ import annotations

import time
from pathlib import Path

import click

from pimchip.cli.common import Command, Reply, check_out, command_options, load_factory, table


@click.command("compile", cls=Command)
@click.argument("model", type=click.Path(path_type=Path))
@click.option("--chip", help="A built-in chip or a TOML file.  [default: the model's]")
@click.option("--profile", type=click.Path(path_type=Path), help="Profile of the die it is meant for.")
@click.option(
    "--factory", metavar="MODULE:CALLABLE", help="Your own network's maker, as given to train. Runs your code."
)
@click.option("--out", type=click.Path(path_type=Path), help="The program.  [default: MODEL with .pim]")
@command_options
def command(
    reply: Reply, *, model: Path, chip: str | None, profile: Path | None, factory: str | None, out: Path | None
) -> None:
    """Turn a trained MODEL (model.pt) into a program for a chip (model.pim)."""
    target = out or model.with_suffix(".pim")
    check_out(target, keep={"the model": model if out else None})

    from pimchip.chip import load_chip
    from pimchip.workflows.models import compile_model

    start = time.perf_counter()
    program, _ = compile_model(
        model, chip=None if chip is None else load_chip(chip), profile=profile, factory=load_factory(factory)
    )
    program.save(target)
    seconds = time.perf_counter() - start
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
        },
        hashes={
            "model": program.manifest.model_hash,
            "chip": program.spec.hash,
            "profile": program.manifest.profile_hash,
        },
    )
