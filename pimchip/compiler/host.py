"""The steps of a program that the host does, on real maps of integers."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from pimchip.chip import Requant
from pimchip.chip.mac import Int32
from pimchip.compiler.host_steps import (
    ArrangeStep,
    ConstantStep,
    HostStep,
    JoinStep,
    LookupStep,
    MatmulStep,
    NormalizeStep,
)
from pimchip.compiler.program import Program
from pimchip.kernels import integer, tokens


def host(step: HostStep, read: list[NDArray[np.integer]], program: Program, images: int) -> Int32:
    """What a step gives, int32 [n, ...]. read: what it reads, integers [n, ...]; images: n."""
    if isinstance(step, ConstantStep):
        held: Int32 = program.tensors[f"constant.{step.name}"]
        return np.ascontiguousarray(np.broadcast_to(held, (images, *held.shape)))
    x = read[0]
    if isinstance(step, ArrangeStep):
        return tokens.arrange(x, step.split, step.cut, step.order, step.shape)
    if isinstance(step, NormalizeStep):
        return tokens.normalize(x, step.axis, step.epsilon)
    if isinstance(step, MatmulStep):
        return tokens.matmul(x, read[1], step.shift, step.low, step.high)
    if isinstance(step, JoinStep):
        return np.concatenate(read, axis=step.axis + 1, dtype=np.int32)
    table = program.tensors[f"table.{step.table}"]
    if isinstance(step, LookupStep):
        return np.clip(tokens.lookup(x, table, step.first, step.shift), step.low, step.high).astype(np.int32)
    return tokens.softmax(x, step.axis, table, step.shift)


def requantized(x: Int32, requant: Requant) -> Int32:
    """A requantization of a map [n, c, ...] with any number of axes."""
    out: Int32 = integer.requantize(x.reshape(*x.shape[:2], -1, 1), requant).reshape(x.shape)
    return out
