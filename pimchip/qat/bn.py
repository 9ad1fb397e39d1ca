"""BN calibration of a network in software: running statistics measured anew, weights, gamma and beta left as they are.

On a chip the runtime does this with the chip's own sums (pimchip.runtime.calibrate); here the network computes, on ideal
converters or on the dies that were put behind its layers. As PIM-QAT does it (arXiv 2209.08617): statistics are reset,
training data goes forward with cumulative averages, then back to evaluation.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from typing import Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from pimchip.errors import InputError, unknown
from pimchip.qat import given
from pimchip.qat.feeding import fitting, floats, in_range
from pimchip.qat.visit import before_each

Mode = Literal["parallel", "sequential"]


@torch.no_grad()
def calibrate_bn(
    network: nn.Module, images: Tensor, *, batches: int = 10, batch_size: int = 100, mode: Mode = "parallel"
) -> None:
    """Measure the running statistics of every BN on the first batches * batch_size images; leaves eval mode.

    images: uint8 [n, c, h, w], or floats as the network takes them, in 0..1 where a converted one's first layer clips them
    to that. parallel: all BNs in one pass over the data, each normalizing by its batch meanwhile. sequential: one after
    another in the order in which they run, each on outputs of those before it as they were just calibrated; a pass over
    the data for each, up to that BN. Only BNs are in training mode, so neither dropout nor noise in training takes part;
    one that no image reaches keeps its statistics. Raises InputError without images, for a batch of one, for images that
    the network does not take, and where there is no BN to calibrate.
    """
    given.module(network)
    if mode not in get_args(Mode):
        raise InputError(unknown("mode", mode, get_args(Mode)))
    for name, number in (("batches", batches), ("batch_size", batch_size)):
        given.an(int, number, name, "a whole number is wanted")
    given.tensor(images)
    in_range(network, images)
    if not images.ndim or not len(images) or batches < 1 or batch_size < 2:
        raise InputError(f"BN calibration wants images and batches of 2 or more, got {batches} of {batch_size}")
    calls = _calls(network, floats(network, images[:2]))
    if not calls:
        raise InputError("the network has no BN with running statistics to calibrate")
    parts = torch.split(images[: batches * batch_size], batch_size)
    network.eval()
    if mode == "parallel":
        _measure(network, list(calls), parts)
    else:
        for norm, count in calls.items():
            _measure(network, [norm], parts, count)


def _calls(network: nn.Module, images: Tensor) -> dict[_BatchNorm, int]:
    """How often a pass runs each BN with running statistics, in the order of their first run."""
    calls: dict[_BatchNorm, int] = {}

    def count(name: str, norm: _BatchNorm, x: Tensor) -> None:
        if norm.running_mean is not None:
            calls[norm] = calls.get(norm, 0) + 1

    with fitting(images):
        before_each(network, images, _BatchNorm, count)
    return calls


class _FarEnough(Exception):
    """Ends a pass whose rest is not wanted."""


def _measure(network: nn.Module, norms: Sequence[_BatchNorm], parts: Sequence[Tensor], calls: int = 0) -> None:
    """Cumulative statistics of these BNs. calls: each pass ends after so many runs of them; 0: it runs to its end."""
    before = [norm.momentum for norm in norms]
    seen = 0

    def stop(module: nn.Module, inputs: object, output: object) -> None:
        nonlocal seen
        seen += 1
        if seen == calls:
            raise _FarEnough

    hooks = [norm.register_forward_hook(stop) for norm in norms if calls]
    try:
        for norm in norms:
            norm.reset_running_stats()
            norm.momentum = None  # cumulative
            norm.train()
        for part in parts:
            seen = 0
            with suppress(_FarEnough):
                network(floats(network, part))
    except ValueError as error:  # torch's, of one value a channel
        raise InputError(f"BN calibration: {error}; use a larger batch") from None
    finally:
        for hook in hooks:
            hook.remove()
        for norm, momentum in zip(norms, before, strict=True):
            norm.momentum = momentum
            norm.eval()
