"""The steps of a program that the host does, on real maps of integers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

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
    MultiplyStep,
    NormalizeStep,
)
from pimchip.compiler.program import Program
from pimchip.compiler.records import BoardStep, PoolStep, RequantizeStep, sources
from pimchip.kernels import integer, tokens


def host(step: HostStep, read: Sequence[NDArray[np.integer]], program: Program, images: int) -> Int32:
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
    if isinstance(step, MultiplyStep):
        return tokens.multiply(x, read[1], step.shift, step.low, step.high)
    if isinstance(step, JoinStep):
        return np.concatenate(read, axis=step.axis + 1, dtype=np.int32)
    table = program.tensors[f"table.{step.table}"]
    if isinstance(step, LookupStep):
        return np.clip(tokens.lookup(x, table, step.first, step.shift, step.ends), step.low, step.high).astype(np.int32)
    kept = program.tensors[f"constant.{step.mask}"] if step.mask else None
    return tokens.softmax(x, step.axis, table, step.shift, kept)


def travels(program: Program) -> list[tuple[int, Literal["in", "out"]]]:
    """The maps that go over the link for the host's steps, in order: out to the host, or in to the board.

    As the runtime does it: each goes once each way at most, and a map that the host made is requantized there.
    """
    local, both = set[int](), set[int]()
    found = list[tuple[int, Literal["in", "out"]]]()
    for step in program.manifest.steps:
        read = sources(step)
        if not isinstance(step, BoardStep):
            found += [(buffer, "out") for buffer in dict.fromkeys(read) if buffer not in local]
            both |= set(read) - local
            local |= {*read, step.dst}
        elif isinstance(step, RequantizeStep) and step.src in local - both:
            local.add(step.dst)
        else:
            found += [(buffer, "in") for buffer in dict.fromkeys(read) if buffer in local - both]
            both |= set(read) & local
    return found


def narrow(program: Program) -> set[int]:
    """Buffers whose values are all in 0..255, which are held and sent as bytes."""
    found = {program.manifest.input}
    for step in program.manifest.steps:
        bounds = getattr(step, "low", -1), getattr(step, "high", 256)
        same = isinstance(step, ArrangeStep | JoinStep) or (isinstance(step, PoolStep) and step.kind == "max")
        if (bounds[0] >= 0 and bounds[1] <= 255) or (same and found.issuperset(sources(step))):
            found.add(step.dst)
    return found


def requantized(x: Int32, requant: Requant) -> Int32:
    """A requantization of a map [n, c, ...] with any number of axes."""
    out: Int32 = integer.requantize(x.reshape(*x.shape[:2], -1, 1), requant).reshape(x.shape)
    return out
