"""What normalizations give is brought to the grid of activations; first layers read what a network makes of its images."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from floats import alike, gathered, trained
from torch import Tensor, nn

import pimchip
from pimchip.errors import CompileError, InputError, PimchipWarning
from pimchip.qat import (
    DigitalConv2d,
    DigitalLinear,
    PimConv2d,
    PimLinear,
    Settings,
    convert,
    evaluate,
    load_model,
    save_model,
    train,
)
from pimchip.qat.data import load_dataset

FINE = {"weight_bits": 8, "act_bits": 8, "digital": True}

KINDS: dict[str, Callable[[int], nn.Module]] = {
    "GroupNorm": lambda n: nn.GroupNorm(4, n),
    "GroupNorm of affine=False": lambda n: nn.GroupNorm(4, n, affine=False),
    "BatchNorm of affine=False": lambda n: nn.BatchNorm2d(n, affine=False),
    "InstanceNorm": lambda n: nn.InstanceNorm2d(n),
}


def normed(kind: str) -> list[nn.Module]:
    norm = KINDS[kind]
    body = [nn.Conv2d(1, 16, 3), norm(16), nn.ReLU(), nn.Conv2d(16, 32, 3), norm(32), nn.ReLU()]
    return [*body, nn.MaxPool2d(2), nn.Flatten(), nn.Linear(128, 10)]


@pytest.mark.parametrize("kind", KINDS)
def test_networks_of_every_normalization_keep_their_accuracy(kind: str) -> None:
    network, data = trained(*normed(kind))
    accuracy = evaluate(network, data.test)
    assert accuracy > 0.95
    with warnings.catch_warnings():
        warnings.simplefilter("error", PimchipWarning)
        assert evaluate(convert(network, "sram65", **FINE), data.test) > accuracy - 0.01  # type: ignore[arg-type]
        # As large as they are in floating point, a third of what is positive is beyond the grid.
        with pytest.warns(PimchipWarning, match="are above 1") if "False" not in kind else warnings.catch_warnings():
            warnings.simplefilter("ignore" if "False" in kind else "always", PimchipWarning)
            large = convert(network, "sram65", activation_scale=1, **FINE)  # type: ignore[arg-type]
            assert evaluate(large, data.test) < accuracy - 0.01


@torch.no_grad()
@pytest.mark.parametrize("kind", KINDS)
def test_what_a_grid_reads_is_smaller_by_the_factor(kind: str) -> None:
    """Compared with torch's own normalizations of the same kind and no gamma."""
    torch.manual_seed(0)
    network = convert(nn.Sequential(*normed(kind)), "sram65", activation_scale=0.3)
    x = torch.randn(8, 16, 6, 6)
    torch.testing.assert_close(network[1].train()(x), 0.3 * KINDS[kind](16).train()(x))  # type: ignore[index,operator]


def test_a_gamma_that_was_given_is_kept_and_not_trained(tmp_path: Path) -> None:
    data = load_dataset("digits", limit_train=64, limit_test=50)
    network = convert(nn.Sequential(*normed("BatchNorm of affine=False")), "sram65")
    assert {name for name, _ in network.named_parameters() if name.startswith("1.")} == set()
    train(network, data, Settings(epochs=1))
    torch.testing.assert_close(network[1].weight, torch.full((16,), 0.4))  # type: ignore[index]
    save_model(tmp_path / "model.pt", network)
    again = load_model(tmp_path / "model.pt").build(nn.Sequential(*normed("BatchNorm of affine=False")))
    x = torch.from_numpy(data.test.images[:8]) / 255
    assert torch.equal(again(x), network(x))
    pimchip.compile(network, x, "sram65")


def test_a_checkpoint_from_before_gammas_were_given_is_read_as_it_was(tmp_path: Path) -> None:
    """Such a network normalized and no more; its file has no gammas where there were none."""
    data = load_dataset("digits", limit_train=64, limit_test=50)
    network = convert(nn.Sequential(*normed("BatchNorm of affine=False")), "sram65", activation_scale=1)
    train(network, data, Settings(epochs=1))
    save_model(tmp_path / "now.pt", network)
    file = load_model(tmp_path / "now.pt")
    given = {f"{norm}.{name}" for norm in (1, 4) for name in ("weight", "bias")}
    file.state = {name: tensor for name, tensor in file.state.items() if name not in given}
    file.options["activation_scale"] = 0.4
    save_model(tmp_path / "before.pt", file)
    again = load_model(tmp_path / "before.pt").build(nn.Sequential(*normed("BatchNorm of affine=False")))
    x = torch.from_numpy(data.test.images) / 255
    assert torch.equal(again(x), network(x))
    file.state["1.weight"] = torch.ones(16)  # one of them alone is damage
    with pytest.raises(InputError, match=r"1\.bias is only in the network"):
        file.build(nn.Sequential(*normed("BatchNorm of affine=False")))


class Attention(nn.Module):
    """A LayerNorm in front of projections whose products enter a softmax, one behind them in front of a ReLU."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.q, self.k, self.v = nn.LayerNorm(8), nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(8, 8)
        self.second, self.relu, self.fc = nn.LayerNorm(8), nn.ReLU(), nn.Linear(8, 3)
        self.norms = nn.ModuleDict({"gelu": nn.LayerNorm(8), "end": nn.LayerNorm(3)})

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x.flatten(2).transpose(1, 2))
        x = torch.softmax(self.q(x) @ self.k(x).transpose(1, 2), -1) @ self.v(x)
        x = F.gelu(self.norms["gelu"](self.relu(self.second(x).reshape(x.shape))))
        return self.norms["end"](self.fc(x.mean(1)))  # type: ignore[no-any-return]


@torch.no_grad()
def test_only_what_comes_to_a_grid_is_made_smaller() -> None:
    network = convert(Attention(), "sram65", pim_skip=())
    gammas = {name: float(norm.weight[0]) for name, norm in network.named_modules() if isinstance(norm, nn.LayerNorm)}
    assert gammas == pytest.approx({"first": 1.0, "second": 0.4, "norms.gelu": 1.0, "norms.end": 1.0})


def gelu() -> nn.Module:
    return nn.Sequential(nn.Conv2d(1, 8, 3), nn.BatchNorm2d(8), nn.GELU(), nn.Flatten(), nn.Linear(288, 4))


@torch.no_grad()
def test_a_trained_batch_norm_in_front_of_what_bends_stays_as_it_is() -> None:
    network, x = gathered(gelu())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", PimchipWarning)  # nothing is on the chip
        converted, fresh = convert(network, "sram65", **FINE), convert(gelu(), "sram65")  # type: ignore[arg-type]
    assert torch.equal(converted[1].weight, network[1].weight)  # type: ignore[index]
    assert float(fresh[1].weight[0]) == pytest.approx(0.4)  # type: ignore[index]
    assert alike(converted(x), network(x)) > 0.999


class Normalized(nn.Module):
    """Images on another scale and around 0, however that is written, in front of the first layer, which has a border."""

    def __init__(self, before: nn.Module | Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.before = before
        self.conv, self.bn = nn.Conv2d(1, 8, 3, padding=1), nn.BatchNorm2d(8)
        self.mid, self.bn2, self.fc = nn.Conv2d(8, 8, 3), nn.BatchNorm2d(8), nn.Linear(288, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.bn2(self.mid(F.relu(self.bn(self.conv(self.before(x)))))))
        return self.fc(x.flatten(1))  # type: ignore[no-any-return]


NORMALIZED = [nn.BatchNorm2d(1), lambda x: (x - 0.3) / 0.25, lambda x: 2 * x - 1, nn.InstanceNorm2d(1)]


@torch.no_grad()
@pytest.mark.parametrize("before", NORMALIZED)
def test_a_first_layer_takes_normalized_images_as_they_come(before: nn.Module | Callable[[Tensor], Tensor]) -> None:
    network, x = gathered(Normalized(before))
    with warnings.catch_warnings():
        warnings.simplefilter("error", PimchipWarning)
        converted = convert(network, "sram65", activation_scale=0.2, **FINE)  # type: ignore[arg-type]
        assert alike(converted(x), network(x)) > 0.995
    x[0, 0, 0, 0] = torch.nan
    with pytest.raises(InputError, match=r"layer conv .*: 1 of the 64 images given hold NaN"):
        converted(x)


def test_what_no_program_can_hold_in_front_of_the_first_layer_is_refused_by_name() -> None:
    network = convert(Normalized(nn.BatchNorm2d(1)), "sram65").eval()
    with pytest.raises(CompileError, match=r"before \(BatchNorm2d\).* put it after the first layer"):
        pimchip.compile(network, torch.rand(1, 1, 8, 8), "sram65")


def test_a_first_layer_in_the_array_that_reads_normalized_images_wants_to_be_named() -> None:
    network, x = gathered(Normalized(nn.BatchNorm2d(1)))
    converted = convert(network, "sram65", pim_skip=())
    with pytest.warns(PimchipWarning, match=r"layer conv .*are negative.*convert\(signed_inputs=\{'conv': 'shift'\}"):
        converted(x)


class Backwards(nn.Module):
    """Layers registered in another order than that in which they run."""

    def __init__(self) -> None:
        super().__init__()
        self.fc, self.bn2, self.mid = nn.Linear(288, 4), nn.BatchNorm2d(8), nn.Conv2d(8, 8, 3, padding=1)
        self.bn, self.stem, self.pre = nn.BatchNorm2d(8), nn.Conv2d(1, 8, 3), nn.Linear(288, 288)
        self.relu = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.bn2(self.mid(F.relu(self.bn(self.stem(x))))))
        return self.fc(self.relu(self.pre(x.flatten(1))))  # type: ignore[no-any-return]


def test_the_first_layer_is_the_one_that_runs_first() -> None:
    network = convert(Backwards(), "sram65")
    kinds = {name: type(network.get_submodule(name)) for name in ("stem", "mid", "pre", "fc")}
    assert kinds == {"stem": DigitalConv2d, "mid": PimConv2d, "pre": PimLinear, "fc": DigitalLinear}
    pimchip.compile(network.eval(), torch.rand(1, 1, 8, 8), "sram65")
