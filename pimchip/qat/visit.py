"""Seeing what a network's layers are given, while it runs."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import torch
from torch import Tensor, nn

M = TypeVar("M", bound=nn.Module)


@torch.no_grad()
def before_each(network: nn.Module, images: Tensor, kind: type[M], see: Callable[[str, M, Tensor], None]) -> None:
    """Run `images` through the network in eval mode; see(name, module, input) before each run of a module of that kind.

    What see changes in the module holds for this run already. The network's mode is put back.
    """

    def hook(name: str, module: M) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
        return lambda _, inputs: see(name, module, inputs[0])

    hooks = [
        module.register_forward_pre_hook(hook(name, module))
        for name, module in network.named_modules()
        if isinstance(module, kind)
    ]
    was_training = network.training
    try:
        network.eval()(images)
    finally:
        network.train(was_training)
        for handle in hooks:
            handle.remove()
