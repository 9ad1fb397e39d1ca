"""Each layer's range and ADC resolution, chosen on calibration images behind the die's measured converters.

Training chose for the chip's typical converter, or did not choose at all. A die's own noise and curves may want another
range: a divided one has finer steps, but array noise grows with it and large sums clip. What is compared is what BN cannot
take out of a layer's outputs (pimchip.qat.ranges), with every column behind the converter that it will meet.
"""

from __future__ import annotations

import copy
from dataclasses import replace

import torch
from torch import nn

from pimchip.chip import ChipSpec, Mac
from pimchip.compiler.build import compile_network
from pimchip.compiler.faults import faults_of
from pimchip.compiler.order import Knowledge
from pimchip.compiler.twins import converters
from pimchip.errors import InputError
from pimchip.kernels.converters import Converters
from pimchip.qat.convert import pim_layers
from pimchip.qat.pim import PimLayerModule
from pimchip.qat.ranges import LayerPoints, search_points

TOLERANCE = 0.02
"""By which share an error may be larger for the sake of fewer bits, each of which saves energy in every conversion."""


def measured_points(network: nn.Module, spec: ChipSpec, known: Knowledge) -> tuple[nn.Module, list[LayerPoints]]:
    """A copy of a converted network with the operating points that suit a measured die best, of those its profile has, and
    what was found of each layer. Raises InputError where the profile lacks a layer's own, or layers are digital."""
    profile, image = known.profile, known.images.shape[1:]
    chosen = copy.deepcopy(network).eval()
    digital = next((name for name, layer in pim_layers(chosen).items() if layer.options.digital), None)
    if digital is not None:
        raise InputError(f"layer {digital} is digital and meets no converter of a die: convert without digital=True")
    program = compile_network(network, spec, (image[0], image[1], image[2]), None, faults=faults_of(profile))
    held: dict[tuple[str, Mac], Converters] = {}

    def offered(name: str, mac: Mac) -> list[Mac]:
        profile.serving(mac)
        points = (replace(mac, adc_bits=p.mac.adc_bits, range_divisor=p.mac.range_divisor) for p in profile.points)
        return [point for point in dict.fromkeys(points) if profile.covers(point)]

    def behind(name: str, layer: PimLayerModule, mac: Mac, group: int) -> Converters:
        if (name, mac) not in held:
            held[name, mac] = converters(program, name, profile, mac)
        return layer.of_group(held[name, mac], mac, group)

    return chosen, search_points(chosen, torch.from_numpy(known.images), offered, behind, TOLERANCE)
