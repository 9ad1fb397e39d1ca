"""Float networks that know something of their data, for what is tested of their conversion."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pimchip.qat.data import Dataset, load_dataset


def gathered(network: nn.Module) -> tuple[nn.Module, Tensor]:
    """With statistics of random images, weights of unequal sizes and BNs that do more than normalize."""
    torch.manual_seed(1)
    x = torch.rand(64, 1, 8, 8)
    with torch.no_grad():
        for k, module in enumerate(network.modules()):
            if isinstance(module, nn.Conv2d | nn.Linear):
                module.weight.mul_(0.3 + 0.5 * (k % 4))
            if isinstance(module, nn.BatchNorm2d):
                module.momentum = None
                if module.affine:
                    module.weight.uniform_(0.5, 1.0)
                    module.bias.uniform_(-0.3, 0.3)
        network.train()(x)
    return network.eval(), x


def alike(got: Tensor, wanted: Tensor) -> float:
    return float(torch.corrcoef(torch.stack([got.flatten(), wanted.flatten()]))[0, 1])


def trained(*layers: nn.Module) -> tuple[nn.Module, Dataset]:
    """On digits, in floating point."""
    data = load_dataset("digits")
    torch.manual_seed(0)
    for layer in layers:
        if isinstance(layer, nn.Conv2d | nn.Linear):
            layer.reset_parameters()
    network = nn.Sequential(*layers)
    images, labels = torch.from_numpy(data.train.images).float() / 255, torch.from_numpy(data.train.labels)
    optimizer = torch.optim.Adam(network.parameters())
    for _ in range(10):
        for part in torch.randperm(len(images)).split(64):
            optimizer.zero_grad()
            F.cross_entropy(network(images[part]), labels[part]).backward()
            optimizer.step()
    return network.eval(), data
