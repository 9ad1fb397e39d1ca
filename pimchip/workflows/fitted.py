"""What of a program is fitted to the die of a profile: the order of channels, and ranges."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pimchip.compiler.order import Knowledge
from pimchip.compiler.points import measured_points
from pimchip.errors import InputError
from pimchip.qat.data import calibration_images, load_dataset

if TYPE_CHECKING:
    from torch import nn

    from pimchip.chip import ChipSpec
    from pimchip.profile import Profile
    from pimchip.qat.checkpoint import ModelFile
    from pimchip.qat.ranges import LayerPoints

IMAGES = 128
"""Training images that it rests on."""
POINT_COLUMNS = ["", "trained at", "chosen", "unexplained as trained", "as chosen"]


@dataclass
class Fitted:
    """noise_aware: channels that hurt most on the quietest converters. ranges: operating points chosen on the die. data, data_dir:
    the images' data set, and where its files are; None: the model's. points: what was found of each layer, once `to` ran."""

    noise_aware: bool
    ranges: bool
    data: str | None = None
    data_dir: Path | None = None
    points: list[LayerPoints] = field(default_factory=list)

    def to(self, profile: Profile, network: nn.Module, model: ModelFile, spec: ChipSpec) -> tuple[nn.Module, Knowledge]:
        """The network, with operating points as wanted, and what is known. InputError without images, or where they do not fit."""
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
        known = Knowledge(profile, calibration_images(data, IMAGES))
        if self.ranges:
            network, self.points = measured_points(network, spec, known)
        return network, known

    def rows(self) -> list[list[str]]:
        """Cells of a table with POINT_COLUMNS."""
        return [
            [
                p.layer,
                *(f"1/{mac.range_divisor}, {mac.adc_bits} b" for mac in (p.trained, p.chosen)),
                *(f"{100 * p.errors[mac]:.1f} %" for mac in (p.trained, p.chosen)),
            ]
            for p in self.points
        ]

    def keys(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "noise_aware": self.noise_aware,
            "points": [
                {
                    "layer": p.layer,
                    **{
                        f"{key}_{when}": value
                        for when, mac in (("trained", p.trained), ("chosen", p.chosen))
                        for key, value in (
                            ("range_divisor", mac.range_divisor),
                            ("adc_bits", mac.adc_bits),
                            ("unexplained", p.errors[mac]),
                        )
                    },
                }
                for p in self.points
            ],
        }
