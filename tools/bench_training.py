"""Time of a training step and its memory: PIM-QAT against a plain quantization-aware step and float32, in one run.

python tools/bench_training.py [--model resnet20] [--batch 64] [--rounds 12] [--threads N] [--json]

The plain step is what a user would write in torch without a chip: float convolutions with fake quantization of weights
and activations to 4 bits, straight-through gradients, first and last layer at 8 bits. It shares no code with
pimchip.qat; it runs in torch's own layout of maps, and in the one that is faster here. Every kind takes one step in
each round, in turn; ratios are to the plain step of the same round. Memory is the growth of a process's peak over
one step, each kind in a process of its own.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pimchip.qat import build_model, convert

SHAPE, CLASSES = (3, 32, 32), 10
SCHEMES = ("native", "differential", "bit_serial")
KINDS = ("float32", "plain", "plain, channels-last", *SCHEMES)


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
        return self._conv_forward(x, w * scale, None)


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


def build(kind: str, model: str) -> nn.Module:
    """The network of one kind, with the same initial weights in all."""
    network = build_model(model, SHAPE, CLASSES, 0)
    if kind == "plain":
        return plain(network)
    if kind == "plain, channels-last":
        return plain(network).to(memory_format=torch.channels_last)
    return network if kind == "float32" else convert(network, "sram65", scheme=kind)


def stepper(kind: str, model: str, batch: int) -> Callable[[], float]:
    """A function that takes one training step and returns its seconds."""
    torch.manual_seed(0)
    network = build(kind, model).train()
    optimizer = torch.optim.SGD(network.parameters(), 0.01, momentum=0.9, nesterov=True, weight_decay=1e-4)
    x, labels = torch.rand(batch, *SHAPE), torch.randint(0, CLASSES, (batch,))
    if kind.endswith("channels-last"):
        x = x.to(memory_format=torch.channels_last)

    def step() -> float:
        start = time.perf_counter()
        loss = F.cross_entropy(network(x), labels)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        return time.perf_counter() - start

    return step


def memory(kind: str, model: str, batch: int) -> float:
    """MiB that a process's peak grows by over two steps, after a small one has loaded and compiled all it needs."""
    stepper(kind, model, 2)()
    step = stepper(kind, model, batch)
    before = peak()
    step()
    step()
    return peak() - before


def peak() -> float:
    """This process's peak memory in MiB; of getrusage's a child inherits its parent's."""
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) / 1024


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--model", default="resnet20")
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=12)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--memory-of", choices=KINDS, help=argparse.SUPPRESS)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    if given.memory_of:
        print(memory(given.memory_of, given.model, given.batch))
        return
    steps = {kind: stepper(kind, given.model, given.batch) for kind in KINDS}
    times: dict[str, list[float]] = {kind: [] for kind in KINDS}
    for number in range(given.rounds + 2):
        for kind, step in steps.items():
            seconds = step()
            if number >= 2:
                times[kind].append(seconds)
    rows = {}
    for kind in KINDS:
        ratios = sorted(a / b for a, b in zip(times[kind], times["plain"], strict=True))
        command = [sys.executable, __file__, "--memory-of", kind, "--model", given.model, "--batch", str(given.batch)]
        mib = float(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
        rows[kind] = {
            "seconds": statistics.median(times[kind]),
            "ratio": statistics.median(ratios),
            "ratio_range": [ratios[0], ratios[-1]],
            "memory_mib": mib,
        }
    for row in rows.values():
        row["memory_ratio"] = row["memory_mib"] / rows["plain"]["memory_mib"]
    if given.json:
        print(json.dumps({"model": given.model, "batch": given.batch, "threads": given.threads, "steps": rows}))
        return
    print(
        f"{given.model}, batch {given.batch}, {given.threads} threads, {given.rounds} rounds; ratios to the plain step"
    )
    for kind, row in rows.items():
        low, high = row["ratio_range"]
        print(
            f"{kind:<21} {row['seconds'] * 1e3:7.0f} ms  {row['ratio']:.2f}x ({low:.2f}-{high:.2f})"
            f"  {row['memory_mib']:6.0f} MiB  {row['memory_ratio']:.2f}x"
        )


if __name__ == "__main__":
    main()
