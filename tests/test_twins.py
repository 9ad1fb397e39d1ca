"""Training on measured dies: what a layer computes there is what the same die computes on a board."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from pimchip.board import open_board, open_twin
from pimchip.characterize import characterize
from pimchip.chip import ChipSpec, load_chip
from pimchip.compiler import compile_network
from pimchip.compiler.twins import put_on_dies
from pimchip.errors import InputError
from pimchip.profile import Profile
from pimchip.qat import build_model, convert, pim_layers
from pimchip.runtime import Executor

SHAPE = (2, 6, 6)
POINT = {"rows": 27, "adc_bits": 4, "range_divisor": 4}


def small_spec() -> ChipSpec:
    """sram65 with few converters, so that a die is measured in a moment."""
    data = load_chip("sram65").to_dict()
    data["array"] |= {"macros": 2, "rows": 27, "columns": 32}
    data["adc"] |= {"per_macro": 4}
    data["operating"] |= {"rows": 27}
    return ChipSpec.from_dict(data)


@pytest.fixture(scope="module")
def spec() -> ChipSpec:
    return small_spec()


@pytest.fixture(scope="module")
def profiles(spec: ChipSpec, tmp_path_factory: pytest.TempPathFactory) -> list[Profile]:
    """Two dies as measured."""
    folder = tmp_path_factory.mktemp("chip")
    path = folder / "small.toml"
    path.write_text(to_toml(spec))
    found = []
    for die in (1, 2):
        with open_board(f"emulator:{path}?die={die}", seed=0) as board:
            found.append(characterize(board, points=[spec.mac(**POINT)], seed=0, out=folder / str(die)))
    return found


def to_toml(spec: ChipSpec) -> str:
    """Sections of plain values."""
    lines: list[str] = []
    data = spec.to_dict()
    plain = {k: v for k, v in data.items() if not isinstance(v, dict) and v is not None}
    for name, section in {"": plain, **{k: v for k, v in data.items() if isinstance(v, dict)}}.items():
        lines += [f"[{name}]"] if name else []
        for key, value in section.items():
            if value is not None:
                lines.append(f"{key} = {str(value).lower() if isinstance(value, bool) else repr(value)}")
    return "\n".join(lines)


def silent(profile: Profile) -> Profile:
    """The same converters without noise."""
    points = tuple(replace(p, noise_lsb=np.zeros_like(p.noise_lsb)) for p in profile.points)
    return replace(profile, points=points)


def test_a_layer_on_a_measured_die_computes_what_its_twin_board_does(spec: ChipSpec, profiles: list[Profile]) -> None:
    torch.manual_seed(0)
    network = convert(build_model("resnet8", SHAPE, 3), spec, **POINT)
    for _ in range(3):
        network(torch.rand(32, *SHAPE))
    network.eval()
    images = np.random.default_rng(0).integers(0, 256, (40, *SHAPE)).astype(np.uint8)
    x = torch.from_numpy(images).float() / 255
    ideal = network(x).detach()
    profile = silent(profiles[0])
    put_on_dies(network, spec, SHAPE, [profile])
    with torch.no_grad():
        on_die = network(x)
    program = compile_network(network, spec, SHAPE, ("a", "b", "c"))
    with open_twin(profile) as board:
        logits = Executor(program, board).logits(images) * program.manifest.logit_scale
    # Requantization rounds like the network up to ties of float32; a tie moves a logit by far less than the die does.
    apart = np.abs(on_die.numpy() - logits)
    assert np.median(apart) < 1e-5 and np.quantile(apart, 0.9) < 0.02 * float(ideal.std())
    assert float((on_die - ideal).abs().median()) > 0.05 * float(ideal.std())


def test_layers_of_channels_in_groups_compute_on_a_measured_die_what_its_twin_board_does(
    spec: ChipSpec, profiles: list[Profile]
) -> None:
    """Row groups of 27: three channels of a depthwise layer share one, a group of 3 channels is one, of 6 channels two."""

    def unit(inputs: int, outputs: int, groups: int) -> list[nn.Module]:
        return [nn.Conv2d(inputs, outputs, 3, 1, 1, groups=groups, bias=False), nn.BatchNorm2d(outputs), nn.ReLU()]

    torch.manual_seed(0)
    layers = [*unit(2, 12, 1), *unit(12, 12, 12), *unit(12, 8, 4), *unit(8, 12, 1), *unit(12, 10, 2)]
    plain = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(10, 3))
    network = convert(plain, spec, **POINT)
    assert [layer.groups for layer in pim_layers(network).values()] == [12, 4, 1, 2]
    for _ in range(3):
        network(torch.rand(32, *SHAPE))
    network.eval()
    images = np.random.default_rng(0).integers(0, 256, (40, *SHAPE)).astype(np.uint8)
    x = torch.from_numpy(images).float() / 255
    ideal, program = network(x).detach(), compile_network(network, spec, SHAPE, ("a", "b", "c"))
    scale = program.manifest.logit_scale
    for number, profile in enumerate(map(silent, profiles)):
        put_on_dies(network, spec, SHAPE, [profile])
        with torch.no_grad():
            on_die = network(x)
        with open_twin(profile) as board:
            logits = Executor(program, board).logits(images) * scale
        apart = np.abs(on_die.numpy() - logits)
        assert np.median(apart) < 1e-5 and np.quantile(apart, 0.9) < 0.02 * float(ideal.std()), number
        assert float((on_die - ideal).abs().median()) > 0.05 * float(ideal.std())


def test_groups_of_channels_are_on_one_die_in_a_pass(spec: ChipSpec, profiles: list[Profile]) -> None:
    layer = convert(
        nn.Sequential(
            nn.Conv2d(2, 4, 1), nn.ReLU(), nn.Conv2d(4, 8, 3, groups=4), nn.ReLU(), nn.Flatten(), nn.Linear(128, 3)
        ),
        spec,
        **POINT,
    ).eval()
    x = torch.randint(0, 16, (16, 4, 6, 6)) / 15
    (grouped,) = (each for each in pim_layers(layer).values() if each.groups == 4)
    each = []
    for profile in profiles:
        put_on_dies(layer, spec, SHAPE, [silent(profile)])
        each.append(grouped(x).detach().numpy().tobytes())
    put_on_dies(layer, spec, SHAPE, [silent(p) for p in profiles])
    torch.manual_seed(0)
    seen = {grouped(x).detach().numpy().tobytes() for _ in range(20)}
    assert seen == set(each) and len(set(each)) == 2


def test_an_ensemble_draws_a_die_for_each_pass(spec: ChipSpec, profiles: list[Profile]) -> None:
    network = convert(build_model("mlp", (1, 4, 4), 3), spec, **POINT).eval()
    x = torch.rand(8, 1, 4, 4)
    (layer, *_) = pim_layers(network).values()
    inputs = torch.randint(0, 16, (16, 128)) / 15
    each = []
    for profile in profiles:
        put_on_dies(network, spec, (1, 4, 4), [silent(profile)])
        each.append(layer(inputs).detach().numpy().tobytes())
    put_on_dies(network, spec, (1, 4, 4), [silent(p) for p in profiles])
    torch.manual_seed(0)
    seen = [layer(inputs).detach().numpy().tobytes() for _ in range(20)]
    assert set(seen) == set(each) and len(set(each)) == 2
    put_on_dies(network, spec, (1, 4, 4), [])
    assert layer(inputs).detach().numpy().tobytes() not in each
    assert network(x).shape == (8, 3)


def test_noise_of_a_measured_die_follows_torch_s_seed(spec: ChipSpec, profiles: list[Profile]) -> None:
    network = convert(build_model("mlp", (1, 4, 4), 3), spec, **POINT).train()
    put_on_dies(network, spec, (1, 4, 4), profiles[:1])
    (layer, *_) = pim_layers(network).values()
    inputs = torch.randint(0, 16, (16, 128)) / 15
    torch.manual_seed(5)
    first, second = layer(inputs), layer(inputs)
    torch.manual_seed(5)
    assert torch.equal(layer(inputs), first) and not torch.equal(first, second)


def test_profiles_of_another_chip_or_point_are_refused(spec: ChipSpec, profiles: list[Profile]) -> None:
    network = convert(build_model("mlp", (1, 4, 4), 3), spec, **(POINT | {"adc_bits": 5}))
    with pytest.raises(InputError, match="characterize --adc-bits 5"):
        put_on_dies(network, spec, (1, 4, 4), profiles)
    other = convert(build_model("mlp", (1, 4, 4), 3), "sram65")
    with pytest.raises(InputError, match="not of sram65"):
        put_on_dies(other, load_chip("sram65"), (1, 4, 4), profiles)
    digital = convert(build_model("mlp", (1, 4, 4), 3), spec, **POINT, digital=True)
    with pytest.raises(InputError, match=r"layers\.\d+ is digital .* no converter"):
        put_on_dies(digital, spec, (1, 4, 4), profiles)


def test_the_small_chip_s_file_is_the_small_chip(tmp_path: Path, spec: ChipSpec) -> None:
    (tmp_path / "x.toml").write_text(to_toml(spec))
    assert load_chip(str(tmp_path / "x.toml")).hash == spec.hash
