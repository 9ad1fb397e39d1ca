"""Data-parallel training by several processes, as torchrun starts them: gloo, on CPUs.

Every process holds the whole network and takes its share of every batch. What one process computes from a whole batch
is computed from the whole batch here too: gradients, the statistics of BN and InstanceNorm, and the moments behind xi are summed over
the processes. So the result is that of one process with the same batch, but for the order of sums of floats; where a
code equals its BN's mean, that order decides on which side of the activation's edge it comes to lie, so single
gradients may differ, mostly in the first step, when all BN biases are zero. (torch's DistributedDataParallel knows
neither xi nor BN on CPUs, hence sums written out.)

What is drawn for a whole pass, one of several dies or the bits of bit augmentation, the first process draws for all, as
one process alone would. Noise before conversions, and dropout, each process draws for its own images: as random, but
not what one process alone draws.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.instancenorm import _InstanceNorm

from pimchip.errors import BadResult, InputError
from pimchip.kernels.training import Moments

_active = False
"""Whether layers in training share their statistics: inside synchronized(), and with more than one process."""


@dataclass(frozen=True)
class Group:
    """The processes that train together, and which of them this is. Rank 0 alone prints and writes."""

    rank: int = 0
    size: int = 1

    def share(self, count: int) -> slice:
        """This process's part of `count` things: a stretch, no two parts differing by more than one."""
        return slice(self.rank * count // self.size, (self.rank + 1) * count // self.size)

    def total(self, value: float) -> float:
        """The sum of a number over all processes."""
        if self.size == 1:
            return value
        held = torch.tensor([value], dtype=torch.float64)
        dist.all_reduce(held)
        return float(held)

    def sum_gradients(self, network: nn.Module) -> None:
        """Replace every gradient by its sum over all processes, in one transfer."""
        if self.size == 1:
            return
        grads = [p.grad for p in network.parameters() if p.grad is not None]
        flat = torch.cat([g.reshape(-1) for g in grads])
        dist.all_reduce(flat)
        first = 0
        for grad in grads:
            grad.copy_(flat[first : first + grad.numel()].view_as(grad))
            first += grad.numel()

    def agree(self, what: str, facts: str) -> None:
        """Raise InputError in every process if `facts` are not the same in all of them."""
        if self.size == 1:
            return
        digest = int.from_bytes(hashlib.sha256(facts.encode()).digest()[:7], "big")
        held = torch.tensor([digest, -digest])
        dist.all_reduce(held, dist.ReduceOp.MAX)
        if int(held[0]) != -int(held[1]):
            raise InputError(f"the processes of this run differ in {what}; give every one the same options and files")

    def same_weights(self, network: nn.Module) -> None:
        """Give every process the weights and buffers of the first."""
        if self.size > 1:
            for tensor in network.state_dict().values():
                held = tensor.contiguous()  # channels-last weights are not
                dist.broadcast(held, 0)
                tensor.copy_(held)


def current() -> Group:
    """The processes of torch.distributed, or this one alone."""
    if dist.is_available() and dist.is_initialized():
        return Group(dist.get_rank(), dist.get_world_size())
    return Group()


@contextmanager
def joined() -> Iterator[Group]:
    """Join the other processes, if torchrun started several; leave them at the end.

    Raises InputError where the environment speaks of several processes but does not say how to meet them, BadResult
    where one of them is lost on the way.
    """
    size = os.environ.get("WORLD_SIZE", "1")
    if size == "1" or dist.is_initialized():
        yield current()
        return
    missing = [name for name in ("RANK", "MASTER_ADDR", "MASTER_PORT") if name not in os.environ]
    if missing:
        raise InputError(
            f"WORLD_SIZE is {size} but {', '.join(missing)} not set: start several processes with torchrun, "
            "or unset WORLD_SIZE for one"
        )
    from torch.distributed.rendezvous import rendezvous  # not in every build of torch

    try:
        store, rank, count = next(iter(rendezvous("env://")))
        dist.init_process_group("gloo", store=store, rank=rank, world_size=count)
    except (RuntimeError, ValueError) as error:
        where = f"{os.environ['MASTER_ADDR']}:{os.environ['MASTER_PORT']}"
        raise InputError(f"cannot meet the other {size} processes at {where}: {error}") from None
    try:
        yield current()
        dist.barrier()  # here, not below, is heard of a process that is lost
        _leave(store, rank, count)
    except RuntimeError as error:
        if "gloo" not in str(error):
            raise
        raise BadResult(f"lost the other processes ({error}); the first of their errors is the cause") from None
    finally:
        dist.destroy_process_group()


def _leave(store: Any, rank: int, size: int) -> None:
    """Wait until nobody is within a transfer any more, so that no process closes a connection that another still reads.

    Told through the store and not through gloo, whose own barrier is such a transfer. The first process, which may keep
    the store, leaves when the others have heard.
    """
    with suppress(RuntimeError):  # the work is done: who has gone already is no loss
        store.set(f"pimchip/done/{rank}", "")
        store.wait([f"pimchip/done/{other}" for other in range(size)])
        store.set(f"pimchip/heard/{rank}", "")
        if rank == 0:
            store.wait([f"pimchip/heard/{other}" for other in range(size)])


@contextmanager
def synchronized(network: nn.Module) -> Iterator[Group]:
    """Train together inside: same weights to begin with, and layers in training that see the whole batch."""
    global _active
    group = current()
    if group.size == 1:
        yield group
        return
    group.agree("network", repr(network))
    group.same_weights(network)
    norms = [m for m in network.modules() if isinstance(m, _BatchNorm | _InstanceNorm)]
    for norm in norms:
        whole = _normalize if isinstance(norm, _BatchNorm) else _normalize_each
        norm.forward = partial(whole, norm)  # type: ignore[arg-type,method-assign]
    _active = True
    try:
        yield group
    finally:
        _active = False
        for norm in norms:
            del norm.forward  # the instance's own, which hid the class's


def whole_batch(moments: Moments) -> Moments:
    """A product's moments over all processes, each of which has its part of the batch. With one process, its own.

    Called by PIM layers in training only: evaluation may take another number of batches in each process.
    """
    if not _active:
        return moments
    m = moments
    parts = torch.from_numpy(np.stack([m.codes, m.codes_squared, m.sums, m.sums_squared, m.products]))
    held = torch.cat([parts.reshape(-1), torch.tensor([float(m.count)], dtype=torch.float64)])
    dist.all_reduce(held)
    return Moments(round(float(held[-1])), *held[:-1].view_as(parts).numpy())


def extremes(x: Tensor) -> tuple[float, float]:
    """Smallest and largest value of a tensor, in training of all processes' parts of the batch."""
    held = torch.stack([-x.min(), x.max()]).double()
    if _active:
        dist.all_reduce(held, dist.ReduceOp.MAX)
    return -float(held[0]), float(held[1])


def choose(count: int) -> int:
    """One of 0..count - 1 by torch's generator, in training what the first process draws for all."""
    drawn = torch.randint(count, ())
    if _active:
        dist.broadcast(drawn, 0)
    return int(drawn)


def _normalize(norm: _BatchNorm, x: Tensor) -> Tensor:
    """BN's forward pass with statistics of the batch over all processes. x: [n, c, ...]."""
    use_batch = norm.training or norm.running_mean is None
    if not use_batch or not _active:
        return type(norm).forward(norm, x)
    y, mean, var, count = _Normalize.apply(x, norm.weight, norm.bias, norm.eps)  # type: ignore[no-untyped-call]
    if norm.training and norm.running_mean is not None and norm.running_var is not None:
        momentum = norm.momentum
        if norm.num_batches_tracked is not None:
            norm.num_batches_tracked.add_(1)
            if momentum is None:
                momentum = 1.0 / float(norm.num_batches_tracked)
        with torch.no_grad():
            n = float(count)
            norm.running_mean.lerp_(mean, momentum or 0.0)
            norm.running_var.lerp_(var * (n / (n - 1)), momentum or 0.0)
    return y  # type: ignore[no-any-return]


def _normalize_each(norm: _InstanceNorm, x: Tensor) -> Tensor:
    """InstanceNorm's forward pass: of each image alone, but its running statistics are of the whole batch. x: [n, c, ...].

    A batch's are the mean over its images, so those of all processes are their means, each counted by its images.
    """
    y: Tensor = type(norm).forward(norm, x)
    if _active and norm.training and norm.running_mean is not None and norm.running_var is not None:
        with torch.no_grad():
            count = len(x) if x.ndim == norm._get_no_batch_dim() + 1 else 1  # type: ignore[no-untyped-call]
            statistics = torch.stack([norm.running_mean, norm.running_var]).double()
            held = torch.cat([statistics.reshape(-1) * count, statistics.new_tensor([count])])
            dist.all_reduce(held)
            mean, var = (held[:-1] / held[-1]).view(2, -1)
            norm.running_mean.copy_(mean)
            norm.running_var.copy_(var)
    return y


class _Normalize(torch.autograd.Function):
    """BN over all processes: x [n, c, ...] -> (y, mean [c], biased variance [c], values a channel [])."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        axes = [axis for axis in range(x.ndim) if axis != 1]
        var, mean = torch.var_mean(x, axes, correction=0)
        n, mean, var = float(x.numel() // x.shape[1]), mean.double(), var.double()
        held = torch.cat([mean * n, (var + mean * mean) * n, torch.tensor([n], dtype=torch.float64)])
        dist.all_reduce(held)
        count = held[-1]
        if float(count) < 2:
            raise InputError("one value a channel gives BN no variance; train with a larger batch")
        mean, squares = held[:-1].view(2, -1) / count
        var = (squares - mean * mean).clamp_min(0)
        mean, var = mean.to(x.dtype), var.to(x.dtype)
        ctx.save_for_backward(x, mean, torch.rsqrt(var + eps), weight)
        ctx.axes, ctx.count = axes, float(count)
        y = F.batch_norm(x, mean, var, weight, bias, False, 0.0, eps)
        ctx.mark_non_differentiable(mean, var, count)
        return y, mean, var, count

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor | None, Tensor | None, None]:
        x, mean, scale, weight = ctx.saved_tensors
        g, shape = grads[0], [1, -1, *[1] * (x.ndim - 2)]
        normal = (x - mean.view(shape)) * scale.view(shape)
        to_bias, to_weight = g.sum(ctx.axes), (g * normal).sum(ctx.axes)
        held = torch.cat([to_bias, to_weight]).double()
        dist.all_reduce(held)
        level, slope = (held / ctx.count).to(x.dtype).view(2, -1)
        whole = scale if weight is None else scale * weight
        to_x = (g - level.view(shape) - normal * slope.view(shape)) * whole.view(shape)
        # Of a parameter each process gives its own part; sum_gradients adds them up.
        return to_x, None if weight is None else to_weight, None if weight is None else to_bias, None
