"""Training on measured dies: the converters that a network's layers would meet on a chip, put behind them in software.

Each layer is placed as the compiler would place it, so a column meets the same ADC in training as on the board. With
several dies, every forward pass of a layer draws one of them, and the network learns to do with any (an ensemble). It is
training with the chip in the loop (NeuRRAM; Wan et al., Nature 2022) on what was measured of it in the chip's place.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from torch import nn

from pimchip.chip import ChipSpec, Mac
from pimchip.compiler.build import compile_network
from pimchip.compiler.faults import faults_of
from pimchip.compiler.program import Program
from pimchip.errors import InputError
from pimchip.kernels.converters import Converters
from pimchip.profile import Profile
from pimchip.qat.convert import as_if_seen, pim_layers


def put_on_dies(
    network: nn.Module, spec: ChipSpec, image_shape: tuple[int, int, int], profiles: Sequence[Profile]
) -> None:
    """Train and evaluate the PIM layers of `network` on measured dies from now on; no profiles: on ideal converters.

    image_shape: (channels, height, width). Raises InputError for a profile of another chip, or one that did not measure a
    layer's operating point, and for digital layers. `folder`: of a profile that characterize wrote.

    >>> from pimchip.chip import load_chip
    >>> from pimchip.qat import build_model, convert
    >>> profile, spec = Profile.load(folder), load_chip("sram65")
    >>> network = convert(build_model("mlp", (1, 8, 8), 10), spec, range_divisor=1)
    >>> put_on_dies(network, spec, (1, 8, 8), [profile])  # train() and evaluate() are then on this die
    >>> [len(layer.dies) for layer in pim_layers(network).values()]
    [1, 1]
    >>> put_on_dies(network, spec, (1, 8, 8), [])  # back on ideal converters
    """
    layers = pim_layers(network)
    if not profiles:
        for layer in layers.values():
            layer.dies = ()
        return
    digital = next((name for name, layer in layers.items() if layer.options.digital), None)
    if digital is not None:
        raise InputError(f"layer {digital} is digital and meets no converter of a die: convert without digital=True")
    for profile in profiles:
        profile.check_chip(spec)
    programs = [
        compile_network(as_if_seen(network), spec, image_shape, None, faults=faults_of(profile)) for profile in profiles
    ]
    for name, layer in layers.items():
        layer.dies = [converters(p, name, profile) for p, profile in zip(programs, profiles, strict=True)]


def converters(program: Program, name: str, profile: Profile, mac: Mac | None = None) -> Converters:
    """A measured die's converters behind the columns of one layer of a program, of several copies the first. mac: at another
    operating point than its own, of as many planes."""
    spec, layer = program.spec, program.layer(name)
    shape = layer.mac.groups(layer.geometry.depth), layer.columns
    adc, macro, present = np.zeros(shape, np.int64), np.zeros(shape, np.int64), np.zeros(shape, bool)
    for p in layer.placements:
        if p.copy:
            continue
        columns = slice(p.first_column, p.first_column + p.tile.columns)
        adc[p.group, columns] = spec.adcs_of(p.tile)
        macro[p.group, columns] = p.tile.macro
        present[p.group, columns] = True
    used = set(np.unique(adc[present]).tolist())
    at = Converters(profile.tables(mac or layer.mac, used), adc, macro, seed=0)
    return at if present.all() else replace(at, present=present)
