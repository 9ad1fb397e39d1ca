"""A training step's time and memory: PIM-QAT on every scheme against plain quantization-aware training and float32.

The plain step is what a user would write in torch without a chip: float convolutions with fake quantization of weights
and activations to 4 bits, straight-through gradients, first layer and shortcuts at 8 bits. It shares no code with
pimchip.qat. It is also timed on channels-last maps, which pimchip keeps and which torch's convolutions like better here.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pimchip.qat import build_model, convert
from pimchip.workflows.bench_clock import OnProgress, Spread, in_turns, machine
from pimchip.workflows.bench_process import in_process, peak_bytes

SHAPE, CLASSES, CHIP = (3, 32, 32), 10, "sram65"
SCHEMES = ("native", "differential", "bit_serial")
FLOAT, PLAIN, PLAIN_LAST = "float32", "plain", "plain channels-last"
KINDS = (FLOAT, PLAIN, PLAIN_LAST, *SCHEMES)


def fake(x: Tensor, low: float, high: float, steps: int) -> Tensor:
    """x clipped and rounded to `steps` levels above 0, straight through."""
    clipped = x.clamp(low, high)
    return clipped + (torch.round(clipped * steps) / steps - clipped).detach()


class PlainConv(nn.Conv2d):
    """Convolution with weights of `bits` bits."""

    bits = 4

    def forward(self, x: Tensor) -> Tensor:
        """x: [n, c, h, w]."""
        squashed = torch.tanh(self.weight)
        w = fake(squashed / squashed.detach().abs().max(), -1, 1, (1 << (self.bits - 1)) - 1)
        scale = 1 / (self.weight.shape[0] * w[0, 0].numel() * w.detach().var()).sqrt()
        y: Tensor = self._conv_forward(x, w * scale, None)
        return y


class PlainAct(nn.Module):
    """ReLU clipped at 1, of 4 bits."""

    def forward(self, x: Tensor) -> Tensor:
        """x: any shape."""
        return fake(x, 0, 1, 15)


def plain(network: nn.Module) -> nn.Module:
    """A network of the zoo with fake quantization in its convolutions and activations."""
    convolutions = [m for m in network.modules() if isinstance(m, nn.Conv2d)]
    for index, module in enumerate(convolutions):
        module.__class__ = PlainConv
        module.bits = 8 if index == 0 or module.kernel_size == (1, 1) else 4  # type: ignore[assignment]
    for parent in list(network.modules()):
        for name, child in list(parent._modules.items()):
            if isinstance(child, nn.ReLU):
                setattr(parent, name, PlainAct())
    return network


def stepper(kind: str, model: str, batch: int, seed: int) -> Callable[[], object]:
    """A function that takes one training step on random images, with weights drawn from `seed` in all kinds."""
    network = build_model(model, SHAPE, CLASSES, seed)
    if kind in (PLAIN, PLAIN_LAST):
        network = plain(network)
    elif kind != FLOAT:
        network = convert(network, CHIP, scheme=kind)
    generator = torch.Generator().manual_seed(seed)
    x = torch.rand(batch, *SHAPE, generator=generator)
    labels = torch.randint(0, CLASSES, (batch,), generator=generator)
    if kind == PLAIN_LAST:
        network, x = network.to(memory_format=torch.channels_last), x.contiguous(memory_format=torch.channels_last)  # type: ignore[call-overload]
    network.train()
    optimizer = torch.optim.SGD(network.parameters(), 0.01, momentum=0.9, nesterov=True, weight_decay=1e-4)

    def step() -> None:
        loss = F.cross_entropy(network(x), labels)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()

    return step


def step_memory(kind: str, model: str, batch: int, seed: int) -> dict[str, int]:
    """Bytes that this process's peak grows by over two steps, after a small one has loaded and compiled what it needs."""
    stepper(kind, model, 2, seed)()
    step = stepper(kind, model, batch, seed)
    before = peak_bytes()
    step()
    step()
    return {"bytes": peak_bytes() - before}


def bench_training(model: str, batch: int, rounds: int, seed: int, tell: OnProgress) -> dict[str, Any]:
    """Figures for JSON: seconds, memory, and their ratios by scheme, each ratio the median over rounds taken in turn."""
    steps = {kind: stepper(kind, model, batch, seed) for kind in KINDS}
    seconds = in_turns(steps, rounds, lambda done, total: tell("training steps", done, total))
    del steps
    memory = {}
    for done, kind in enumerate(KINDS, start=1):
        memory[kind] = in_process("training", kind, model, str(batch), str(seed))["bytes"]
        tell("memory", done, len(KINDS))
    found: dict[str, Any] = {"model": model, "batch": batch, "rounds": rounds, **machine()}
    found["seconds"] = {kind: Spread.of(seconds[kind]).middle for kind in KINDS}
    found["memory_bytes"] = memory
    for key, base in (("qat", PLAIN), ("qat_channels_last", PLAIN_LAST), ("float", FLOAT)):
        spreads = {
            kind: Spread.of([a / b for a, b in zip(seconds[kind], seconds[base], strict=True)])
            for kind in (FLOAT, *SCHEMES)
        }
        found[f"step_ratio_to_{key}"] = {kind: spread.middle for kind, spread in spreads.items()}
        found[f"step_ratio_to_{key}_range"] = {kind: [spread.low, spread.high] for kind, spread in spreads.items()}
    found["memory_ratio"] = {
        kind: memory[kind] / memory[PLAIN] if memory[PLAIN] else None for kind in (FLOAT, *SCHEMES)
    }
    return found
