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


class TwoLayers(nn.Module):
    """Registered against the order in which they run, and with a BN that does not."""

    def __init__(self) -> None:
        super().__init__()
        self.second, self.first = nn.BatchNorm1d(3), nn.BatchNorm1d(4)
        self.b, self.a = nn.Linear(4, 3), nn.Linear(50, 4)
        self.unused = nn.BatchNorm1d(2)
        self.seen = 0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        hidden = self.first(self.a(x.flatten(1)))
        self.seen += len(x)
        out: torch.Tensor = self.second(self.b(torch.relu(hidden)))
        return out


def test_sequential_takes_each_pass_only_as_far_as_it_must_and_leaves_what_no_image_reaches() -> None:
    torch.manual_seed(2)
    network = TwoLayers()
    with torch.no_grad():
        network.unused.running_mean.fill_(7.0)  # type: ignore[union-attr]
    calibrate_bn(network, images(60), batches=4, batch_size=15, mode="sequential")
    assert network.seen == 2 + 60  # the order's two images; those for `first` go no further than it
    flat = images(60).double().div(255).flatten(1).split(15)
    with torch.no_grad():
        inner = [part @ network.a.weight.double().T + network.a.bias.double() for part in flat]
        mean, var = (torch.stack(v).mean(0) for v in ([p.mean(0) for p in inner], [p.var(0) for p in inner]))
        torch.testing.assert_close(network.first.running_mean.double(), mean, rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(network.first.running_var.double(), var, rtol=1e-5, atol=1e-6)
        hidden = [((p - mean) / (var + 1e-5).sqrt()).relu() for p in inner]
        outer = [h @ network.b.weight.double().T + network.b.bias.double() for h in hidden]
    mean, var = (torch.stack(v).mean(0) for v in ([p.mean(0) for p in outer], [p.var(0) for p in outer]))
    torch.testing.assert_close(network.second.running_mean.double(), mean, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(network.second.running_var.double(), var, rtol=1e-5, atol=1e-6)
    assert network.unused.running_mean.tolist() == [7.0, 7.0]


def test_one_norm_in_two_places_takes_both_in() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm = nn.BatchNorm2d(2)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            out: torch.Tensor = self.norm(self.norm(x) * 2 + 3)
            return out

    network = Twice()
    calibrate_bn(network, images(), batches=1, batch_size=50, mode="sequential")
    x = images().double() / 255
    center = x - x.mean((0, 2, 3), keepdim=True)
    inner = center / (x.var((0, 2, 3), correction=0, keepdim=True) + 1e-5).sqrt() * 2 + 3
    for found, of in ((network.norm.running_mean, torch.mean), (network.norm.running_var, torch.var)):
        torch.testing.assert_close(found.double(), (of(x, (0, 2, 3)) + of(inner, (0, 2, 3))) / 2, rtol=1e-5, atol=1e-6)


def test_noise_and_eta_of_training_stay_out_and_an_error_leaves_the_momentum() -> None:
    network = convert(net(), "sram65", adc_bits=5, noise_lsb=0.5, eta="auto", pim_skip=("first",))
    first = copy.deepcopy(network)
    calibrate_bn(network, images(), batches=2, batch_size=20)
    calibrate_bn(first, images(), batches=2, batch_size=20)
    assert all(
        torch.equal(a, b) for a, b in zip(network.state_dict().values(), first.state_dict().values(), strict=True)
    )
    assert int(network[3].eta_batches) == 0
    network[3].register_forward_hook(lambda module, x, y: 1 / 0 if len(x[0]) > 2 else None)
    with pytest.raises(ZeroDivisionError):
        calibrate_bn(network, images(), batches=2, batch_size=20)
    assert network[1].momentum == 0.1 and not network[1].training and not network[1]._forward_hooks


@pytest.mark.parametrize("wrong", [{"batches": 0}, {"batch_size": 1}, {"mode": "serial"}])
def test_wrong_requests_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(InputError):
        calibrate_bn(net(), images(), **wrong)
    with pytest.raises(InputError, match="wants images"):
        calibrate_bn(net(), images(0))


def test_what_cannot_be_calibrated_is_refused() -> None:
    with pytest.raises(InputError, match="no BN"):
        calibrate_bn(nn.Sequential(nn.Flatten(), nn.Linear(50, 2)), images())
    with pytest.raises(InputError, match="use a larger batch"):  # 41 images: one is left for the last batch
        calibrate_bn(nn.Sequential(nn.Flatten(), nn.BatchNorm1d(50)), images(41), batches=3, batch_size=20)
    with pytest.raises(InputError, match=r"does not take images of shape \[3, 5, 5\]"):
        calibrate_bn(net(), torch.zeros(4, 3, 5, 5))


@pytest.mark.parametrize(
    ("network", "given", "more", "told"),
    [
        (net(), images().numpy(), {}, r"images is a numpy array; .* torch\.from_numpy\(images\)"),
        (net(), images().long(), {}, "images are int64"),
        (net(), None, {}, "images is None"),
        ("net", images(), {}, "the network is a str"),
        (net(), images(), {"batches": 1.5}, "batches is a float"),
    ],
)
def test_what_is_of_another_kind_is_told(network: Any, given: Any, more: dict[str, Any], told: str) -> None:
    with pytest.raises(InputError, match=told):
        calibrate_bn(network, given, **more)
