"""pimchip info."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from pimchip._version import __version__
from pimchip.cli.common import Command, Reply, command_options, device_options, table
from pimchip.cli.profile_info import profile_keys, said
from pimchip.errors import InputError, unknown

if TYPE_CHECKING:
    from pimchip.chip.effects import Effect


SEPARATE = ("estimate", "effects", "self_test", "costs", "layers", "floorplan")
"""What is shown apart from the table of names and values."""
PROGRAMS = (".pim", ".deployed")
UNITS = {
    "temperature": "°C",
    "supply": "V",
    "age": "hours",
    "modelled_joules_per_image": "J",
    "modelled_seconds_per_image": "s",
    "file_bytes": "bytes",
    "feature_memory": "bytes",
    **dict.fromkeys(("weights", "cells", "conversions_per_image"), "count"),
}


@click.command("info", cls=Command)
@click.argument("what", required=False)
@click.option(
    "--self-test",
    is_flag=True,
    help="Of a device: write and read every cell, try every converter, and say what is broken. Overwrites all cells. "
    "Exit code 1 if something is.",
)
@click.option(
    "--compare",
    type=click.Path(path_type=Path),
    metavar="PROFILE",
    help="Of a profile: whether PROFILE, a later one, is of the same die, and what changed. Exit code 1 if something did.",
)
@click.option(
    "--floorplan",
    type=click.Path(path_type=Path, file_okay=False),
    metavar="DIR",
    help="Of a program: draw which cells hold which layer, a picture a residency pass.",
)
@click.option(
    "--profile",
    type=click.Path(path_type=Path),
    help="Of a program: the die's, for what its converters cost and for the faults that a floor plan marks.",
)
@command_options
@device_options
def command(
    reply: Reply,
    *,
    what: str | None,
    self_test: bool,
    compare: Path | None,
    floorplan: Path | None,
    profile: Path | None,
) -> None:
    """Say what WHAT is: a chip, model.pt, model.pim, .deployed, profile folder or device URL. Alone: this installation."""
    if compare is not None:
        if floorplan is not None or profile is not None:
            raise InputError("--compare is of two profiles: leave --floorplan and --profile out")
        _compare(reply, what, compare, self_test)
        return
    if self_test:
        what = _named_device(what)
    asked = {"--floorplan": floorplan, "--profile": profile}
    named = next((name for name, given in asked.items() if given is not None), None)
    if named and (self_test or what is None or Path(what).suffix not in PROGRAMS):
        raise InputError(f"{named} is of a program: pimchip info model.pim {named} {asked[named]}")
    kind, found = _describe(what, reply.seed, self_test, profile)
    rows = [
        [name, (kind == "profile" and said(name, value)) or _text(value, UNITS.get(name, ""))]
        for name, value in found.items()
        if name not in SEPARATE and value != {}
    ]
    reply.show(table(f"{kind} {what or ''}".strip(), ["", ""], rows))
    if "effects" in found:
        _show_effects(reply, found["effects"])
    if self_test:
        _show_self_test(reply, found["self_test"])
    if "estimate" in found:
        from pimchip.workflows.modelled import ITEM_COLUMNS, item_rows

        reply.show(table("modelled, one image at a time", ITEM_COLUMNS, item_rows(found["estimate"])))
    if "costs" in found:
        from pimchip.cli.costs import show_costs

        show_costs(reply, found["costs"])
    if floorplan is not None and what is not None:
        from pimchip.cli.program_info import floors_of

        found["floorplan"] = floors_of(reply, Path(what), floorplan, profile)
    hashes = {kind: found["hash"]} if "hash" in found else {"profile": found.get("profile_hash")}
    ok = not self_test or found["self_test"]["passed"]
    reply.done({"kind": kind, **found}, uid=found.get("uid"), hashes=hashes, ok=ok)


def _compare(reply: Reply, what: str | None, other: Path, self_test: bool) -> None:
    """Two profiles beside each other."""
    from pimchip.cli.die_output import comparison_keys, show_comparison
    from pimchip.profile import Profile

    if what is None or self_test:
        raise InputError("--compare wants two profiles: pimchip info PROFILE --compare LATER")
    before, after = Profile.load(Path(what)), Profile.load(other)
    found = before.compare(after)
    show_comparison(reply, found)
    hashes = {"profile": before.hash, "compared": after.hash}
    keys = {"kind": "comparison", "profile": str(before.path), "compared": str(after.path)}
    reply.done({**keys, **comparison_keys(found)}, uid=before.uid, hashes=hashes, ok=found.unchanged)


def _named_device(what: str | None) -> str:
    """WHAT, or the default device; InputError for what is no device URL."""
    from pimchip.board import default_device

    if what is None:
        return default_device()
    if ":" not in what or Path(what).exists():
        raise InputError(f"--self-test wants a device, such as emulator:sram65?die=3, not {what}")
    return what


def _is_device(what: str) -> bool:
    if ":" not in what:  # so that a chip is told without loading what opens boards
        return False
    from pimchip.board.urls import is_device_url

    return is_device_url(what)


def _show_effects(reply: Reply, effects: dict[str, dict[str, Any]]) -> None:
    on = {name: effect for name, effect in effects.items() if effect["on"]}
    if on:
        rows = [[name, effect["amount"], effect["description"]] for name, effect in on.items()]
        reply.show(table("physical effects that are on", ["effect", "value", "what it is"], rows))
    elif effects:
        reply.show("no physical effect of the chip's file is on; a measured die behaves as its profile says")
    off = ", ".join(name for name in effects if name not in on)
    if off:
        reply.show(f"off: {off}")


def _show_self_test(reply: Reply, found: dict[str, Any]) -> None:
    wrong = {name: text for name, text in found["results"].items() if text}
    for name, text in wrong.items():
        reply.show(f"{name}: {text}")
    parts = f"{found['stuck_cells']} stuck cells, {len(found['bad_adcs'])} bad converters"
    reply.show(f"self-test {'passed' if found['passed'] else 'failed'}: {parts}, {len(found['results'])} checks")


def _text(value: Any, unit: str = "") -> str:
    if value is None:
        return "-"
    if unit == "count":
        return f"{value:,}"
    if unit in ("J", "s"):
        from pimchip.workflows.modelled import si

        return si(value, unit)
    if unit:
        return f"{value:,} {unit}" if isinstance(value, int) else f"{value:,g} {unit}"
    if isinstance(value, list):
        said = [_text(each) for each in value]
        return ("; " if any(", " in each for each in said) else ", ").join(said)
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, dict):
        return "; ".join(f"{k} {_inner(v)}" for k, v in value.items())
    return str(value)


def _inner(value: Any) -> str:
    """A value within a value: by layer, for example."""
    return ", ".join(f"{k} {v}" for k, v in value.items()) if isinstance(value, dict) else _text(value)


def _describe(what: str | None, seed: int, self_test: bool, profile: Path | None) -> tuple[str, dict[str, Any]]:
    from pimchip.chip import known_chips

    if what is None:
        return _installation(known_chips())
    if self_test or _is_device(what):  # which may end in .toml
        return _device(what, seed, self_test)
    path = Path(what)
    if what in known_chips() or path.suffix == ".toml" and path.name != "manifest.toml":
        return _chip(what)
    if path.suffix in PROGRAMS:
        from pimchip.cli.program_info import program_of

        return program_of(path, seed, profile)
    if path.is_dir() or path.name == "manifest.toml":
        return profile_keys(path)
    if path.is_file() or path.suffix == ".pt":
        return _model(path)
    if ":" in what:
        return _device(what, seed, self_test)
    near = unknown("built-in chip", what, known_chips())
    raise InputError(f"{what}: there is no such file, it is no device (as emulator:sram65), and {near}")


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
    from pimchip.chip.effects import effects
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
        "peak_cell_ops_per_second": None if most is None else most.cell_ops_per_second,
        "peak_cell_ops_per_joule": None if most is None else most.cell_ops_per_joule,
        "hash": spec.hash,
        "effects": _effects(effects(spec)),
    }


def _effects(found: Sequence[Effect]) -> dict[str, dict[str, Any]]:
    return {
        e.name: {
            "on": e.on,
            "value": e.value,
            "unit": e.unit,
            "amount": e.amount,
            "shaped_by": dict(e.shaped_by),
            "depends_on": e.depends_on,
            "description": e.description,
        }
        for e in found
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


def _device(url: str, seed: int, self_test: bool) -> tuple[str, dict[str, Any]]:
    from pimchip.board import open_board
    from pimchip.board.restarts import conditions, through_restarts

    with open_board(url, seed=seed) as board:
        temperature, supply, age = conditions(board)
        info = board.info()
        found: dict[str, Any] = {
            "uid": info.uid,
            "chip": info.spec.name,
            "firmware": info.firmware,
            "capabilities": sorted(info.capabilities),
            "feature_memory": info.feature_memory,
            "temperature": temperature,
            "supply": supply,
            "age": age,
            "profile": info.profile or None,
            "effects": _effects(info.effects),
        }
        link = board.link_statistics()
        if link is not None:
            found["link"] = dict(link)
        if self_test:
            test = through_restarts(board.selftest)
            found["self_test"] = {
                "passed": test.ok,
                "results": test.results,
                "stuck_cells": sum(macro.cells for macro in test.cells),
                "stuck_cells_at": [asdict(macro) for macro in test.cells],
                "bad_adcs": {str(adc): fault for adc, fault in test.adcs.items()},
            }
        return "device", found
