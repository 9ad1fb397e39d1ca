"""The optimizer's momentum in a checkpoint: written whole, and checked before a run goes on with it.

Rate, decay and the like are those of the settings, which must be the same (TrainState.check); a file's own are not used.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from pimchip.errors import InputError

_BUFFER = "momentum_buffer"


def held_momentum(optimizer: torch.optim.SGD) -> dict[str, Any]:
    """The optimizer's state for a checkpoint, with zeros for what never had a gradient: what is missing is then damage."""
    state: dict[str, Any] = optimizer.state_dict()
    if _has_momentum(optimizer):
        held = {}
        for index, parameter in enumerate(_parameters(optimizer)):
            found = state["state"].get(index, {}).get(_BUFFER)
            held[index] = {_BUFFER: torch.zeros_like(parameter) if found is None else found}
        state["state"] = held
    return state


def load_momentum(optimizer: torch.optim.SGD, state: dict[str, Any]) -> None:
    """Give the optimizer the momentum of a checkpoint; InputError names the first tensor that is missing or does not fit."""
    if not _has_momentum(optimizer):
        return
    wanted, held = _parameters(optimizer), state.get("state")
    if not isinstance(held, dict):
        raise _wrong("it holds none")
    if held.keys() != set(range(len(wanted))):
        raise _wrong(f"it is of {len(held)} parameters, the network has {len(wanted)}")
    for index, parameter in enumerate(wanted):
        found = held[index].get(_BUFFER) if isinstance(held[index], dict) else None
        if not isinstance(found, Tensor):
            raise _wrong(f"that of parameter {index} is missing")
        if found.shape != parameter.shape or found.dtype != parameter.dtype or found.layout != parameter.layout:
            raise _wrong(f"that of parameter {index} is {list(found.shape)}, {list(parameter.shape)} is wanted")
        if not torch.isfinite(found).all():
            raise _wrong(f"that of parameter {index} holds NaN or infinite values")
        optimizer.state[parameter][_BUFFER] = found.detach().clone()


def _parameters(optimizer: torch.optim.SGD) -> list[Tensor]:
    """In the order in which a state numbers them."""
    return [parameter for group in optimizer.param_groups for parameter in group["params"]]


def _has_momentum(optimizer: torch.optim.SGD) -> bool:
    return any(group["momentum"] for group in optimizer.param_groups)


def _wrong(what: str) -> InputError:
    return InputError(f"the checkpoint's optimizer state does not fit the network: of its momentum, {what}")
