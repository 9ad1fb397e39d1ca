"""BN calibration in software against statistics by NumPy."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from pimchip.errors import InputError
from pimchip.qat import build_model, calibrate_bn, convert


def net() -> nn.Sequential:
    torch.manual_seed(0)
    layers = (nn.Conv2d(2, 3, 1), nn.BatchNorm2d(3), nn.ReLU(), nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4))
    return nn.Sequential(*layers)


def images(n: int = 50) -> torch.Tensor:
    return torch.randint(0, 256, (n, 2, 5, 5), generator=torch.Generator().manual_seed(1)).to(torch.uint8)


def moments(maps: list[torch.Tensor]) -> tuple[np.ndarray, np.ndarray]:
    """Means over batches of a batch's mean and unbiased variance."""
    flat = [m.double().numpy().transpose(1, 0, 2, 3).reshape(m.shape[1], -1) for m in maps]
    return np.mean([f.mean(1) for f in flat], axis=0), np.mean([f.var(1, ddof=1) for f in flat], axis=0)


def holds(norm: nn.Module, maps: list[torch.Tensor]) -> None:
    mean, variance = moments(maps)
    assert isinstance(norm, nn.BatchNorm2d) and norm.running_mean is not None and norm.running_var is not None
    np.testing.assert_allclose(norm.running_mean, mean, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(norm.running_var, variance, rtol=1e-4)


@torch.no_grad()
def test_parallel_normalizes_by_the_batch_and_sequential_by_what_was_calibrated() -> None:
    data = [part.float() / 255 for part in images().split(20)]
    for mode in ("parallel", "sequential"):
        network = net()
        before = copy.deepcopy(network.state_dict())
        calibrate_bn(network, images(), batches=3, batch_size=20, mode=mode)  # type: ignore[arg-type]
        first = [network[0](x) for x in data]
        holds(network[1], first)
        if mode == "parallel":
            own = nn.BatchNorm2d(3).train()
            second = [network[3](torch.relu(own(x))) for x in first]
        else:
            mean, variance = (torch.from_numpy(v).float()[None, :, None, None] for v in moments(first))
            second = [network[3](torch.relu((x - mean) / torch.sqrt(variance + 1e-5))) for x in first]
        holds(network[4], second)
        assert not network.training and network[1].momentum == 0.1
        for name, tensor in network.state_dict().items():
            if "running" not in name and "tracked" not in name:
                assert torch.equal(tensor, before[name]), name


def test_of_a_pim_network_the_order_is_that_of_running() -> None:
    network = convert(build_model("resnet8", (3, 8, 8), 4), "sram65", adc_bits=5)
    x = torch.randint(0, 256, (40, 3, 8, 8)).to(torch.uint8)
    calibrate_bn(network, x, batches=2, batch_size=20, mode="sequential")
    again = copy.deepcopy(network)
    calibrate_bn(again, x, batches=2, batch_size=20, mode="sequential")
    assert all(
        torch.equal(a, b) for a, b in zip(network.state_dict().values(), again.state_dict().values(), strict=True)
    )
    assert all(int(m.num_batches_tracked) == 2 for m in network.modules() if isinstance(m, nn.BatchNorm2d))


@pytest.mark.parametrize("wrong", [{"batches": 0}, {"batch_size": 1}, {"mode": "serial"}])
def test_wrong_requests_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(InputError):
        calibrate_bn(net(), images(), **wrong)
    with pytest.raises(InputError, match="wants images"):
        calibrate_bn(net(), images(0))
