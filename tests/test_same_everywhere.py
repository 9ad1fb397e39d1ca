"""One die, one flow, many ways to reach it: characterize, deploy and infer give the same integers on all of them."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

import firmware
import numpy as np
import pytest
from flows import DIE, Case, small_case
from serving import cortex_m, emulated, twin

WITHOUT = firmware.missing("gcc", "make")
NO_QEMU = WITHOUT or firmware.missing("arm-none-eabi-gcc", "qemu-system-arm")
needs_gcc = pytest.mark.skipif(bool(WITHOUT), reason=WITHOUT)
needs_qemu = pytest.mark.skipif(bool(NO_QEMU), reason=NO_QEMU)
Reach = Callable[[str, Path], AbstractContextManager[str]]
"""From a chip's name or file, and its die as a file, to a device URL."""


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Case:
    return Case(tmp_path_factory.mktemp("tiny"), "sram65", "tiny", "0,5,40", 40)


@pytest.fixture(scope="module")
def mlp(tmp_path_factory: pytest.TempPathFactory) -> Case:
    return small_case(tmp_path_factory.mktemp("mlp"))


def linked(chip: str, die: Path) -> AbstractContextManager[str]:
    return nullcontext(f"emulator+link:{chip}?{DIE}")


def served(listen: str) -> Reach:
    return lambda chip, die: emulated("--listen", listen, "--device", f"emulator:{chip}?{DIE}")


@pytest.fixture
def reach(request: pytest.FixtureRequest) -> Reach:
    """By name: a way to the board."""
    name: str = request.param
    if name == "frames":
        return linked
    where = "pty" if name.endswith("pty") else "tcp://127.0.0.1:0"
    if name.startswith("python"):
        return served(where)
    program = request.getfixturevalue("sanitized" if "sanitized" in name else "host_twin")
    return lambda chip, die: twin(program, die, where)


WAYS = [
    "frames", "python on tcp", "python on pty",
    pytest.param("firmware on tcp", marks=needs_gcc), pytest.param("firmware on pty", marks=needs_gcc),
]  # fmt: skip


@pytest.mark.parametrize("reach", WAYS, indirect=True)
def test_a_residual_network(tiny: Case, reach: Reach, request: pytest.FixtureRequest) -> None:
    with reach(tiny.chip, tiny.die) as url:
        assert tiny.flow(url, request.node.name, tiny.images) == tiny.reference(tiny.images)


@pytest.mark.parametrize(
    "reach", ["frames", "python on tcp", pytest.param("sanitized firmware on tcp", marks=needs_gcc)], indirect=True
)
def test_a_small_network_on_a_small_chip(mlp: Case, reach: Reach, request: pytest.FixtureRequest) -> None:
    with reach(mlp.chip, mlp.die) as url:
        assert mlp.flow(url, request.node.name, mlp.images) == mlp.reference(mlp.images)


@needs_qemu
def test_a_small_network_on_a_cortex_m(mlp: Case, tmp_path_factory: pytest.TempPathFactory) -> None:
    image = firmware.made(tmp_path_factory, "mps2", "pimp-mps2.elf", f"DIE={mlp.die}")
    with cortex_m(image) as url:
        assert mlp.flow(url, "cortex-m", 2) == mlp.reference(2)


def test_another_seed_is_another_noise(tiny: Case) -> None:
    """Or the tests above would compare silence."""
    again = tiny.flow("emulator:sram65?die=3&seed=6", "other", tiny.images)
    wanted = tiny.reference(tiny.images)
    assert again["uid"] == wanted["uid"] and again["counts"] != wanted["counts"]
    assert np.any([again["norms"][key] != wanted["norms"][key] for key in wanted["norms"]])
