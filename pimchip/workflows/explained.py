"""What a program will cost, and where what of a network runs, for people and for JSON."""

from __future__ import annotations

from dataclasses import asdict
from math import isfinite
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from pimchip.compiler.cost import cost
from pimchip.compiler.golden import example
from pimchip.compiler.impact import impacts, worst
from pimchip.compiler.program import Program
from pimchip.compiler.survey import Survey
from pimchip.errors import InputError
from pimchip.workflows.modelled import si

if TYPE_CHECKING:
    from pimchip.profile import Profile

PLACE_COLUMNS = ["", "runs in", "ADC", "tiles", "passes", "rows", "columns", "cells written", "bytes"]
WORK_COLUMNS = ["", "conversions", "MACs", "energy", "time", "SNR", "SNR of logits"]
SURVEY_COLUMNS = ["", "is", "why"]
HEADINGS = {
    "chip": "runs on the chip",
    "processor": "runs on the board's processor (what a board lacks of this, the host does)",
    "host": "runs on the host",
    "nowhere": "costs nothing",
}
IMAGES = 32
"""Images of which SNRs are predicted."""


def survey_tables(found: Survey) -> list[tuple[str, list[list[str]]]]:
    """(title, rows with SURVEY_COLUMNS) of each place that has something."""
    return [
        (title, [[entry.name, entry.does, entry.why] for entry in found.at(place)])  # type: ignore[arg-type]
        for place, title in HEADINGS.items()
        if found.at(place)  # type: ignore[arg-type]
    ]


def survey_keys(found: Survey) -> dict[str, Any]:
    """For JSON."""
    return {"entries": [asdict(entry) for entry in found.entries], "refused": list(found.refused)}


def pictures(program: Program, seed: int) -> tuple[NDArray[np.uint8], str]:
    """Images uint8 to predict with, and what they are: of the data set trained on where it is here, else made up."""
    from pimchip.qat.data import load_dataset

    shape, name = program.manifest.input_shape, program.manifest.data
    try:
        data = load_dataset(name, limit_train=IMAGES)
        if data.image_shape == shape:
            return data.train.images, f"{len(data.train.images)} training images of {name}"
    except InputError:
        pass  # no such data here
    return example(shape, IMAGES, seed), f"{IMAGES} made-up images"


def costs(program: Program, profile: Profile | None, seed: int) -> dict[str, Any]:
    """What each layer takes, for JSON and for the tables below. layers: the fields of LayerCost, and what converters cost
    the layer, dB (see pimchip.compiler.impact). worst_layer: the one that costs the logits most. snr_rests_on: on which
    images and converters that was predicted."""
    found = cost(program)
    images, said = pictures(program, seed)
    losses = impacts(program, images, profile, seed)
    by_name = {each.layer: each for each in losses}
    layers = []
    for layer in found.layers:
        loss = by_name.get(layer.name)
        both = {"snr_db": loss.snr if loss else None, "logits_snr_db": loss.logits if loss else None}
        layers.append({**asdict(layer), **both})
    converters = "ideal converters with the chip's nominal noise" if profile is None else f"profile {profile.path}"
    return {
        "layers": layers,
        "worst_layer": worst(losses),
        "snr_rests_on": f"{said}, {converters}",
        "reload_seconds": found.reload_seconds,
        "compute_seconds_per_image": found.compute_seconds,
        "compute_seconds_per_image_alone": found.compute_seconds_alone,
        "break_even_batch": found.break_even_batch,
    }


def place_rows(layers: list[dict[str, Any]]) -> list[list[str]]:
    """Cells of a table with PLACE_COLUMNS: what each layer takes of the chip, and to program it once."""
    names = ("rows", "columns", "cell_writes", "bytes")
    return [
        [
            each["name"],
            each["kind"],
            each["adc"],
            str(each["tiles"]) + f" ({each['copies']}x)" * (each["copies"] > 1),
            _passes(each["passes"]),
            *(_count(each[n]) for n in names),
        ]
        for each in layers
    ]


def work_rows(layers: list[dict[str, Any]]) -> list[list[str]]:
    """Cells of a table with WORK_COLUMNS: what one image takes, and what converters cost it."""
    return [
        [
            each["name"],
            _count(each["conversions"]),
            _count(each["macs"]),
            si(each["joules"], "J"),
            si(each["seconds"], "s"),
            _db(each["snr_db"]),
            _db(each["logits_snr_db"]),
        ]
        for each in layers
    ]


def summary(found: dict[str, Any]) -> list[str]:
    """Lines below the tables."""
    lines = []
    for each in found["layers"]:
        if each["name"] == found["worst_layer"]:
            lines.append(
                f"layer {each['name']} will hurt most: with it alone on real converters the logits keep "
                f"{_db(each['logits_snr_db'])}, its own outputs {_db(each['snr_db'])}"
            )
            lines.append(f"SNR: each layer on ideal inputs, after BN calibration; {found['snr_rests_on']}")
    if any(each["copies"] > 1 for each in found["layers"]):
        once, now = found["compute_seconds_per_image_alone"], found["compute_seconds_per_image"]
        lines.append(f"an image computes for {si(now, 's')}; were each layer held once, for {si(once, 's')}")
    batch = found["break_even_batch"]
    if batch:
        lines.append(
            f"a batch reprograms for {si(found['reload_seconds'], 's')}, an image computes for "
            f"{si(found['compute_seconds_per_image'], 's')}: from {batch:,} images a batch on, computing takes longer"
        )
    elif batch == 0:
        lines.append("nothing is reprogrammed between batches")
    return lines


def _passes(passes: tuple[int, ...]) -> str:
    return "-" if not passes else f"{passes[0]}" if len(passes) == 1 else f"{passes[0]} to {passes[-1]}"


def _count(number: int) -> str:
    return f"{number:,}" if number else "-"


def _db(value: float | None) -> str:
    return (
        "-" if value is None else f"{value:.1f} dB" if isfinite(value) else "lossless" if value > 0 else "nothing left"
    )
