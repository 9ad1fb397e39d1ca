"""Functions of single values, as tables of integers: what a network's GELU and the like become.

A table has a node every STEP of a map's wide integers, which are 2^-16 of an activation step, from about -8.5 to 8.5; between
nodes, and beyond, lines are straight. With four bits an activation, that is a node every 1/960: lines are within 1.1e-7 of a
GELU, a tenth of what a wide integer is worth.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np
import torch
from torch import Tensor, nn

from pimchip.chip.mac import Int32
from pimchip.kernels.tokens import EXP_BITS

FUNCTIONS = (
    nn.GELU, nn.SiLU, nn.Sigmoid, nn.Tanh, nn.Hardswish, nn.Hardsigmoid, nn.LeakyReLU, nn.ELU, nn.SELU, nn.Softplus, nn.Mish,
    nn.Hardtanh, nn.ReLU6, nn.Softsign,
)  # fmt: skip
"""Modules that are functions of single values."""
ATEN = {
    "gelu": torch.ops.aten.gelu.default,
    "silu": torch.ops.aten.silu.default,
    "sigmoid": torch.ops.aten.sigmoid.default,
    "tanh": torch.ops.aten.tanh.default,
    "hardswish": torch.ops.aten.hardswish.default,
    "hardsigmoid": torch.ops.aten.hardsigmoid.default,
    "leaky_relu": torch.ops.aten.leaky_relu.default,
    "elu": torch.ops.aten.elu.default,
    "softplus": torch.ops.aten.softplus.default,
    "mish": torch.ops.aten.mish.default,
    "hardtanh": torch.ops.aten.hardtanh.default,
}
"""The same as operations of torch's."""
SHIFT = 10
ENTRIES = 1 << 14
"""Steps of a table; there is one node more."""
EXP_STEP = 1 / 512
"""exp has a node at least as often."""

Function = Callable[[Tensor], Tensor]


def function(name: str, *args: object, **options: object) -> Function:
    """An operation of torch's with what it is given beside its tensor."""
    return partial(_called, ATEN[name], args, options)


def _called(target: Callable[..., Tensor], args: tuple[object, ...], options: dict[str, object], x: Tensor) -> Tensor:
    return target(x, *args, **options)


@torch.no_grad()
def table(function: Function, unit: float) -> tuple[Int32, int]:
    """The nodes, int32 [ENTRIES + 1] worth `unit` each as its arguments are, and the argument of the first."""
    first = -(ENTRIES // 2) << SHIFT
    at = (first + (np.arange(ENTRIES + 1, dtype=np.int64) << SHIFT)).astype(np.float64) * unit
    y = function(torch.from_numpy(at)).numpy() / unit
    return np.rint(y).astype(np.int32), first


def exp_table(unit: float) -> tuple[Int32, int]:
    """exp of 0, -1, -2 .. times 2^shift units until nothing is left of it, worth 2^-EXP_BITS each, and the shift."""
    shift = max(0, int(np.floor(np.log2(EXP_STEP / unit))))
    count = int(np.ceil((EXP_BITS + 1) * np.log(2) / (unit * 2.0**shift))) + 1
    nodes = np.rint(np.exp(-np.arange(count + 1) * (unit * 2.0**shift)) * 2.0**EXP_BITS)
    return nodes.astype(np.int32), shift
