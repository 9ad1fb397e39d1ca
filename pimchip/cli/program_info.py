"""What `pimchip info` says of a program, or of what was deployed."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from pimchip.cli.common import Reply
from pimchip.errors import counted

if TYPE_CHECKING:
    from pimchip.compiler import Program
    from pimchip.compiler.records import LayerRecord
    from pimchip.profile import Profile
    from pimchip.runtime import Deployed


def program_of(path: Path, seed: int, profile: Path | None) -> tuple[str, dict[str, Any]]:
    """("program" or "deployed", everything about it). profile: of the die it is meant for."""
    from pimchip.compiler.bound import passes_bound
    from pimchip.compiler.estimate import estimate
    from pimchip.workflows.explained import costs
    from pimchip.workflows.modelled import items, per_image

    held, program = _read(path)
    m = program.manifest
    pim = [layer for layer in m.layers.values() if layer.kind == "pim"]
    points = sorted({layer.operating_point().describe() for layer in pim})
    found: dict[str, Any] = {
        "name": m.name,
        "chip": program.spec.name,
        "input": list(m.input_shape),
        "classes": list(m.classes),
        "data": m.data,
        "layers": {name: _layer(layer) for name, layer in m.layers.items()},
        "layers_in_array": len(pim),
        "layers_on_processor": len(m.layers) - len(pim),
        "steps": len(m.steps),
        "weights": sum(tensor.size for name, tensor in program.tensors.items() if name.startswith("weight.")),
        "operating_points": points,
        "tiles": program.tiles,
        "cells": program.cells_used,
        "copies": program.replicated,
        "passes": m.passes,
        "passes_bound": passes_bound(m.layers.values(), program.spec),
        "utilization_of_bound": program.utilization_of_bound,
        "conversions_per_image": program.conversions_per_image,
        **per_image(program, 1).keys,
        "calibrates": program.calibrates,
        "compiled_with_profile": m.profile_hash,
        "model_hash": m.model_hash,
        "chip_hash": m.spec_hash,
        "file_version": m.version,
        "file_bytes": path.stat().st_size,
        "estimate": items(estimate(program)),
        "costs": costs(program, _measured(program, profile), seed),
    }
    if held:
        found |= {"uid": held.uid, "profile_hash": held.profile_hash, "calibrated_on": held.data}
        found |= {"holds": None if held.holds is None else str(held.holds), "linearized": bool(held.corrections)}
        for name, value in (("before", held.before), ("after", held.after), ("predicted", held.predicted)):
            found |= value.keys(f"accuracy_{name}") if value else {}
    return "deployed" if held else "program", found


def _layer(layer: LayerRecord) -> str:
    copies = f" in {layer.copies} copies" if layer.copies > 1 else ""
    return f"({layer.kind}, {counted(len(layer.tiles), 'tile')}{copies})"


def floors_of(reply: Reply, path: Path, folder: Path, profile: Path | None) -> list[str]:
    """Draw the floor plans of a program's file; their paths."""
    from pimchip.cli.costs import show_floors

    _, program = _read(path)
    return show_floors(reply, program, folder, _measured(program, profile))


def _read(path: Path) -> tuple[Deployed | None, Program]:
    from pimchip.compiler import Program
    from pimchip.runtime import Deployed

    if path.suffix != ".deployed":
        return None, Program.load(path)
    held = Deployed.load(path)
    return held, held.program


def _measured(program: Program, path: Path | None) -> Profile | None:
    """The profile; of a die's folder, the last that serves the program. InputError where it is of another chip."""
    from pimchip.compiler import check_profile
    from pimchip.profile import Profile

    if path is None:
        return None
    profile = Profile.load(path, serving=list(program.adcs_used()))
    check_profile(program, profile)
    return profile
