"""What of a program is fitted to the die of a profile: the order of channels, and ranges."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pimchip.compiler.order import Knowledge
from pimchip.compiler.points import measured_points
from pimchip.errors import InputError
from pimchip.qat.data import calibration_images, load_dataset
from pimchip.runtime.steps import digest

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from torch import nn

    from pimchip.chip import ChipSpec
    from pimchip.profile import Profile
    from pimchip.qat.checkpoint import ModelFile
    from pimchip.qat.ranges import LayerPoints

IMAGES = 128
"""Training images that it rests on."""
WHEN = ("trained", "chosen")
POINT_COLUMNS = ["", "trained at", "chosen", "unexplained as trained", "as chosen"]


@dataclass
class Fitted:
    """noise_aware: channels that hurt most on the quietest converters. ranges: operating points chosen on the die. data, data_dir:
    the images' data set, and where its files are; None: the model's. points: what was found of each layer, in plain values,
    once `to` ran."""

    noise_aware: bool
    ranges: bool
    data: str | None = None
    data_dir: Path | None = None
    points: list[dict[str, Any]] = field(default_factory=list)

    def images(self, model: ModelFile) -> NDArray[np.uint8]:
        """What it rests on, [n, channels, height, width]. InputError without a data set, or where its images do not fit."""
        name = self.data or str(model.training.get("data", ""))
        if not name:
            raise InputError(
                "the model names no data set, and what is fitted to a die rests on images: name one with --data"
            )
        data = load_dataset(name, self.data_dir)
        if data.image_shape != model.image_shape:
            raise InputError(
                f"data {name} has images {list(data.image_shape)}; the network takes {list(model.image_shape)}"
            )
        return calibration_images(data, IMAGES)

    def inputs(self, model: ModelFile) -> dict[str, Any]:
        """On what the result depends beside model and profile."""
        return {"noise_aware": self.noise_aware, "ranges": self.ranges, "images": digest(self.images(model))}

    def to(self, profile: Profile, network: nn.Module, model: ModelFile, spec: ChipSpec) -> tuple[nn.Module, Knowledge]:
        """The network, with operating points as wanted, and what is known. InputError without images, or where they do not fit."""
        known = Knowledge(profile, self.images(model))
        if self.ranges:
            network, found = measured_points(network, spec, known)
            self.points = [_plain(point) for point in found]
        return network, known

    def rows(self) -> list[list[str]]:
        """Cells of a table with POINT_COLUMNS."""
        return [
            [
                p["layer"],
                *(f"1/{p[f'range_divisor_{when}']}, {p[f'adc_bits_{when}']} b" for when in WHEN),
                *(f"{100 * p[f'unexplained_{when}']:.1f} %" for when in WHEN),
            ]
            for p in self.points
        ]

    def keys(self) -> dict[str, Any]:
        """For JSON."""
        return {"noise_aware": self.noise_aware, "points": self.points}


def _plain(point: LayerPoints) -> dict[str, Any]:
    found: dict[str, Any] = {"layer": point.layer}
    for when, mac in zip(WHEN, (point.trained, point.chosen), strict=True):
        found[f"range_divisor_{when}"] = mac.range_divisor
        found[f"adc_bits_{when}"] = mac.adc_bits
        found[f"unexplained_{when}"] = point.errors[mac]
    return found
