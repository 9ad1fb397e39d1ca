"""Functions of single values, as tables of integers: what a network's GELU and the like become.

A table reaches from about -8.5 to 8.5, in nodes so near each other that straight lines between them are off by at most 0.15 of
what an integer is worth where the second derivative is 1: with four bits an activation, a node every 1/960. Beyond, lines lead
to what the function is at the ends of all wide integers, as all of these nearly do.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from pimchip.chip.mac import Int32
from pimchip.kernels.tokens import EXP_BITS, REACH

FUNCTIONS = (
    nn.GELU, nn.SiLU, nn.Sigmoid, nn.Tanh, nn.Hardswish, nn.Hardsigmoid, nn.LeakyReLU, nn.ELU, nn.Softplus, nn.Mish,
    nn.Hardtanh, nn.ReLU6,
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
TABLE_END = 8.53
"""Where a table ends at the earliest: what is left there of an exponential is 2e-4 of 1."""
LINE_ERROR = 0.15
EXP_STEP = 1 / 512
"""exp has a node at least as often."""

Function = Callable[[Tensor], Tensor]


class Table(NamedTuple):
    """nodes: int32 [count], of arguments 2^shift apart from `first` on; ends: of the function at -REACH and REACH."""

    nodes: Int32
    first: int
    shift: int
    ends: tuple[int, int]


def function(name: str, *args: object, **options: object) -> Function:
    """An operation of torch's with what it is given beside its tensor."""
    return partial(_called, ATEN[name], args, options)


def _called(target: Callable[..., Tensor], args: tuple[object, ...], options: dict[str, object], x: Tensor) -> Tensor:
    return target(x, *args, **options)


@torch.no_grad()
def table(function: Function, unit: float) -> Table:
    """The table of a function whose arguments and values are worth `unit` each."""
    shift = max(0, math.floor(math.log2(math.sqrt(8 * LINE_ERROR / unit))))
    half = math.ceil(TABLE_END / (unit * 2**shift))
    nodes = np.arange(-half, half + 1, dtype=np.int64) << shift
    at = np.concatenate([nodes, [-REACH, REACH]]).astype(np.float64) * unit
    y = np.rint(function(torch.from_numpy(at)).numpy() / unit).clip(-REACH, REACH)
    return Table(y[:-2].astype(np.int32), int(nodes[0]), shift, (int(y[-2]), int(y[-1])))


def exp_table(unit: float) -> tuple[Int32, int]:
    """exp of 0, -1, -2 .. times 2^shift units until nothing is left of it, worth 2^-EXP_BITS each, and the shift."""
    shift = max(0, int(np.floor(np.log2(EXP_STEP / unit))))
    count = int(np.ceil((EXP_BITS + 1) * np.log(2) / (unit * 2.0**shift))) + 1
    nodes = np.rint(np.exp(-np.arange(count + 1) * (unit * 2.0**shift)) * 2.0**EXP_BITS)
    return nodes.astype(np.int32), shift
