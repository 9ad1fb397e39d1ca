"""pimchip info."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from pimchip._version import __version__
from pimchip.cli.common import Command, Reply, command_options, table


@click.command("info", cls=Command)
@click.argument("what", required=False)
@command_options
def command(reply: Reply, *, what: str | None) -> None:
    """Say what WHAT is: a chip, model.pt, model.pim, .deployed, profile folder or device URL. Alone: this installation."""
    kind, found = _describe(what)
    rows = [[name, _text(value)] for name, value in found.items() if name != "estimate"]
    reply.show(table(f"{kind} {what or ''}".strip(), ["", ""], rows))
    if "estimate" in found:
        from pimchip.workflows.modelled import ITEM_COLUMNS, item_rows

        reply.show(table("modelled, one image at a time", ITEM_COLUMNS, item_rows(found["estimate"])))
    hashes = {kind: found["hash"]} if "hash" in found else {"profile": found.get("profile_hash")}
    reply.done({"kind": kind, **found}, uid=found.get("uid"), hashes=hashes)


def _text(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(map(_text, value))
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, dict):
        return "; ".join(f"{k} {v}" for k, v in value.items())
    return str(value)


def _describe(what: str | None) -> tuple[str, dict[str, Any]]:
    from pimchip.chip import known_chips

    if what is None:
        return _installation(known_chips())
    path = Path(what)
    if what in known_chips() or path.suffix == ".toml" and path.name != "manifest.toml":
        return _chip(what)
    if path.suffix in (".pim", ".deployed"):
        return _program(path)
    if path.is_dir() or path.name == "manifest.toml":
        return _profile(path)
    if path.is_file() or path.suffix == ".pt":
        return _model(path)
    if ":" in what:
        return _device(what)
    return _chip(what)  # its error lists what is known


def _installation(chips: list[str]) -> tuple[str, dict[str, Any]]:
    import platform

    import numpy
    import torch

    from pimchip.board import default_device

    return "pimchip", {
        "version": __version__,
        "default_device": default_device(),
        "chips": chips,
        "python": platform.python_version(),
        "torch": str(torch.__version__),
        "numpy": numpy.__version__,
        "threads": torch.get_num_threads(),
    }


def _chip(name: str) -> tuple[str, dict[str, Any]]:
    from pimchip.chip import load_chip
    from pimchip.chip.energy import peak

    spec = load_chip(name)
    most = peak(spec)
    return "chip", {
        "name": spec.name,
        "description": spec.description,
        "array": f"{spec.array.macros} macros of {spec.array.rows} x {spec.array.columns}",
        "adcs": spec.array.macros * spec.adc.per_macro,
        "adc_bits": spec.adc.bits,
        "range_divisors": list(spec.adc.range_divisors),
        "operating_point": spec.mac().describe(),
        "energy": None if spec.energy is None else spec.energy.source,
        "timing": None if spec.timing is None else spec.timing.source,
        "peak_ops_per_second": None if most is None else most.ops_per_second,
        "peak_ops_per_joule": None if most is None else most.ops_per_joule,
        "hash": spec.hash,
    }


def _program(path: Path) -> tuple[str, dict[str, Any]]:
    from pimchip.compiler import Program
    from pimchip.compiler.estimate import estimate
    from pimchip.runtime import Deployed
    from pimchip.workflows.modelled import items, per_image

    held = Deployed.load(path) if path.suffix == ".deployed" else None
    program = held.program if held else Program.load(path)
    m = program.manifest
    found: dict[str, Any] = {
        "name": m.name,
        "chip": program.spec.name,
        "input": list(m.input_shape),
        "classes": list(m.classes),
        "layers": {name: f"({layer.kind}, {len(layer.tiles)} tiles)" for name, layer in m.layers.items()},
        "passes": m.passes,
        "conversions_per_image": program.conversions_per_image,
        "data": m.data,
        **per_image(program, 1).keys,
        "estimate": items(estimate(program)),
    }
    if held:
        found |= {"uid": held.uid, "profile_hash": held.profile_hash}
        for name, value in (("before", held.before), ("after", held.after), ("predicted", held.predicted)):
            found |= value.keys(f"accuracy_{name}") if value else {}
    return "deployed" if held else "program", found


def _profile(path: Path) -> tuple[str, dict[str, Any]]:
    from pimchip.profile import Profile

    profile = Profile.load(path)
    return "profile", {
        "uid": profile.uid,
        "chip": profile.chip,
        "created": profile.created,
        "temperature": profile.temperature,
        "points": [p.mac.describe() for p in profile.points],
        "hash": profile.hash,
    }


def _model(path: Path) -> tuple[str, dict[str, Any]]:
    from pimchip.qat import load_model

    file = load_model(path)
    last = (file.resume or {}).get("history", [])[-1:]
    return "model", {
        "model": file.model,
        "chip": file.chip.name,
        "options": file.options,
        "input": list(file.image_shape),
        "classes": list(file.classes),
        "parameters": sum(t.numel() for t in file.state.values()),
        "training": file.training,
        "epochs": last[0]["epoch"] if last else 0,
    }


def _device(url: str) -> tuple[str, dict[str, Any]]:
    from pimchip.board import open_board

    with open_board(url) as board:
        info = board.info()
        return "device", {
            "uid": info.uid,
            "chip": info.spec.name,
            "firmware": info.firmware,
            "capabilities": sorted(info.capabilities),
            "feature_memory": info.feature_memory,
            "temperature": board.temperature(),
        }
