"""BN calibration of a network in software: running statistics measured anew, weights, gamma and beta left as they are.

On a chip the runtime does this with the chip's own sums (pimchip.runtime.calibrate); here the network computes, on ideal
converters or on the dies that were put behind its layers. As PIM-QAT does it: statistics are reset, training data goes
forward with cumulative averages, then back to evaluation.
"""

from __future__ import annotations

from typing import Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from pimchip.errors import InputError, unknown
from pimchip.qat.visit import before_each

Mode = Literal["parallel", "sequential"]


@torch.no_grad()
def calibrate_bn(
    network: nn.Module, images: Tensor, *, batches: int = 10, batch_size: int = 100, mode: Mode = "parallel"
) -> None:
    """Measure the running statistics of every BN on the first batches * batch_size images; leaves eval mode.

    images: uint8 [n, c, h, w], or floats as the network takes them. parallel: all BNs in one pass over the data, each
    normalizing by its batch meanwhile. sequential: one after another in the order in which they run, each on outputs of
    those before it as they were just calibrated; a pass over the data for each. Raises InputError without images, or for
    a batch of one.
    """
    if mode not in get_args(Mode):
        raise InputError(unknown("mode", mode, get_args(Mode)))
    if not len(images) or batches < 1 or batch_size < 2:
        raise InputError(f"BN calibration wants images and batches of 2 or more, got {batches} of {batch_size}")
    norms = _in_order(network, _floats(images[:2]))
    for stage in [norms] if mode == "parallel" else [[norm] for norm in norms]:
        kept = [norm.momentum for norm in stage]
        network.eval()
        for norm in stage:
            norm.reset_running_stats()
            norm.momentum = None  # cumulative
            norm.train()
        for first in range(0, min(batches * batch_size, len(images)), batch_size):
            network(_floats(images[first : first + batch_size]))
        for norm, momentum in zip(stage, kept, strict=True):
            norm.momentum = momentum
    network.eval()


def _floats(images: Tensor) -> Tensor:
    return images if images.is_floating_point() else images.float() / 255


def _in_order(network: nn.Module, images: Tensor) -> list[_BatchNorm]:
    """The network's BNs in the order in which they run."""
    order: dict[_BatchNorm, None] = {}
    before_each(network, images, _BatchNorm, lambda name, norm, x: order.setdefault(norm))
    return list(order)
