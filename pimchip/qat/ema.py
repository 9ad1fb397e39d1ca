"""A moving average of the weights, which is what is evaluated and saved where it is on.

After every step  a <- d a + (1 - d) w  with d = min(decay, (1 + t) / (10 + t)) in step t = 1, 2, ..., so that the
first steps are forgotten soon (Polyak and Juditsky 1992; the ramp is TensorFlow's). Averaged are all parameters and,
with the same d, the running means and variances of BN and of InstanceNorm: these then lag behind the training's as the averaged weights do
and stay their statistics, nearly. All else (counters, a frozen eta) is copied as it is.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase

from pimchip.errors import InputError

State = dict[str, Tensor]


def snapshot(network: nn.Module) -> State:
    """A copy of all weights and buffers by name."""
    return {name: tensor.detach().clone() for name, tensor in network.state_dict().items()}


class Average:
    """The averaged copy of a network. state: by the names of its state_dict; steps: how many were averaged."""

    def __init__(self, network: nn.Module, decay: float) -> None:
        self.decay = decay
        self.steps = 0
        self.state = snapshot(network)
        self._averaged = averaged_names(network)

    @torch.no_grad()
    def update(self, network: nn.Module) -> None:
        """Take in the network's weights after a step."""
        self.steps += 1
        share = 1 - min(self.decay, (1 + self.steps) / (10 + self.steps))
        for name, now in network.state_dict().items():
            if name in self._averaged:
                self.state[name].lerp_(now, share)
            else:
                self.state[name].copy_(now)

    def to_dict(self) -> dict[str, Any]:
        """Plain values for model.pt."""
        return {"steps": self.steps, "state": {name: tensor.clone() for name, tensor in self.state.items()}}

    def load(self, held: dict[str, Any]) -> None:
        """Go on from to_dict(). InputError if it is not of this network."""
        state = held["state"]
        for name in sorted(state.keys() ^ self.state.keys()):
            raise InputError(f"the checkpoint's averaged weights do not fit the network: {name}")
        for name, tensor in state.items():
            own = self.state[name]
            if tensor.shape != own.shape or tensor.dtype != own.dtype:
                raise InputError(f"the checkpoint's averaged weights do not fit the network: {name}")
            own.copy_(tensor)
        self.steps = held["steps"]


def averaged_names(network: nn.Module) -> set[str]:
    """Names of what is averaged: parameters, and running statistics of BN and of InstanceNorm."""
    names = {name for name, _ in network.named_parameters(remove_duplicate=False)}
    for prefix, module in network.named_modules(remove_duplicate=False):
        if isinstance(module, _NormBase) and module.track_running_stats:
            names |= {f"{prefix}.{part}" if prefix else part for part in ("running_mean", "running_var")}
    return names
