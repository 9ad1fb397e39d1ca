"""How much the converters cost each layer, and the logits through it: predicted before anything is programmed.

For each layer in the array, on what it reads when all others are ideal:

    snr       of its outputs: what a straight line in the exact integer product explains over what it does not, each
              channel fitted by itself, since BN calibration takes out a gain and an offset of a channel. Channels count
              equally, as BN makes them. The ADC's resolution, clipping, curves and noise are all in what is left.
    logits    the same of the logits, with this layer behind the die's converters and all others ideal, against all ideal

With a profile the converters are the die's measured ones, without one ideal ones with the chip's nominal noise.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from pimchip.characterize.plan import nominal_noise
from pimchip.compiler.program import Program
from pimchip.compiler.records import PimStep
from pimchip.compiler.simulate import Simulation
from pimchip.compiler.twins import converters
from pimchip.kernels.converters import Converters, ideal
from pimchip.kernels.maps import FeatureMap
from pimchip.profile import Profile


@dataclass(frozen=True)
class Impact:
    """Of one layer, in dB; infinite where nothing is lost. logits: None where they do not change at all from image to image."""

    layer: str
    snr: float
    logits: float | None


def impacts(program: Program, images: NDArray[np.uint8], profile: Profile | None = None, seed: int = 0) -> list[Impact]:
    """Of every layer in the array, in the order they run. images: uint8 [n, c, h, w]."""
    simulation = Simulation(program)
    ideal = simulation.run(simulation.start(images))
    out, found = ideal[program.manifest.output], []
    wanted = out.values.reshape(len(images), -1).astype(np.float64)
    for index, step in enumerate(program.manifest.steps):
        if not isinstance(step, PimStep):
            continue
        at = _converters(program, step.layer, profile, seed)
        x = ideal[step.src]
        real = simulation.in_array(step.layer, x, at)
        snr = explained(simulation.product(step.layer, x).rows, real.rows)
        after = simulation.run(ideal | {step.dst: real}, index + 1)[program.manifest.output]
        found.append(Impact(step.layer, snr, _logits(wanted, after)))
    return found


def worst(found: list[Impact]) -> str | None:
    """The layer that costs the logits most, or None of no layers."""
    known = [each for each in found if each.logits is not None]
    return min(known, key=lambda each: (each.logits or 0.0, each.snr)).layer if known else None


def explained(exact: NDArray[np.integer], real: NDArray[np.integer]) -> float:
    """dB of what a line in `exact` explains of `real` over the rest, [vectors, channels]; channels count equally."""
    a, b = exact.astype(np.float64), real.astype(np.float64)
    a, b = a - a.mean(0), b - b.mean(0)
    power = (a * a).sum(0) * (b * b).sum(0)
    live = (a * a).sum(0) > 0  # of a channel whose product never moves nothing can be lost
    share = np.divide((a * b).sum(0) ** 2, power, out=np.zeros_like(power), where=power > 0)[live]
    return _db(float(share.sum()), float((1 - share).clip(min=0).sum()))


def _logits(wanted: NDArray[np.float64], after: FeatureMap) -> float | None:
    """dB of the logits' variance over that of their change; a change of all classes alike is none."""
    real = after.values.reshape(wanted.shape).astype(np.float64)
    change = real - wanted
    change -= change.mean(axis=1, keepdims=True)
    signal = wanted - wanted.mean(axis=0) if len(wanted) > 1 else wanted
    signal = signal - signal.mean(axis=1, keepdims=True)
    power = float((signal**2).sum())
    return _db(power, float((change**2).sum())) if power else None


def _db(signal: float, noise: float) -> float:
    if signal <= 0:
        return -math.inf
    return math.inf if noise <= 0 else 10 * math.log10(signal / noise)


def _converters(program: Program, name: str, profile: Profile | None, seed: int) -> Converters:
    if profile is not None:
        return converters(program, name, profile)
    record = program.manifest.layers[name]
    mac = record.operating_point()
    noise = nominal_noise(program.spec, mac)
    groups, columns = mac.groups(record.geometry().depth), record.out_channels * mac.planes
    at = ideal(mac, groups, columns, noise, seed)
    present = np.zeros((groups, columns), bool)
    for block in record.blocks():
        present[block.group, block.first * mac.planes : (block.first + block.outputs) * mac.planes] = True
    return at if present.all() else replace(at, present=present)
