"""Codes corrected by a profile before they are added up: the integers of it, on the board and on the host, and its refusals."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from test_exactness import IMAGE, Mixed, prepared, some_images
from test_runtime import IMAGE as LITTLE
from test_runtime import Net, chip, dataset
from torch import nn

import pimchip
from pimchip.board import Board, open_board
from pimchip.characterize import characterize, default_points
from pimchip.chip import ChipSpec, Geometry, Mac, PimLayer, Placement, Run, Tile, load_chip
from pimchip.chip.correction import Correction, widest
from pimchip.cli.main import cli
from pimchip.compiler import Program, compile_network
from pimchip.errors import DeviceError, InputError, PimchipWarning
from pimchip.kernels import integer
from pimchip.profile import Profile
from pimchip.profile.manifest import to_toml
from pimchip.qat import convert
from pimchip.runtime import Deployed, Executor
from pimchip.runtime.corrections import conv_on_host

CLASSES = tuple("abcde")
CHIPS = ("sram65", "charge-native", "rram130-differential")


def table(spec: ChipSpec, mac: Mac, seed: int = 0, scatter: float = 3.0) -> Correction:
    """Values that scatter about the codes by LSB."""
    bits, adcs = widest(mac), spec.array.macros * spec.adc.per_macro
    codes = np.arange(mac.code_min, mac.code_max + 1)
    apart = np.random.default_rng(seed).normal(0, scatter, (adcs, len(codes)))
    return Correction(mac, bits, np.rint((codes + apart) * 2.0**bits).astype(np.int16))


def two_groups(spec: ChipSpec, mac: Mac, correction: Correction | None) -> PimLayer:
    """A 3 x 3 convolution of 24 channels in two groups of rows, one on two tiles, on two macros."""
    geometry = Geometry(24, 3, (3, 3), (1, 1), (1, 1))
    first, columns = mac.rows, 3 * mac.planes
    rest, half = geometry.depth - first, 2 * mac.planes
    return PimLayer(
        "two",
        mac,
        geometry,
        (
            Placement(Tile(0, 0, 0, first, columns), 0, 0),
            Placement(Tile(1, 3, 8, rest, half), 1, 0),
            Placement(Tile(1, 3, 40, rest, columns - half), 1, half),
        ),
        correction,
    )


def set_up(board: Board, layer: PimLayer, seed: int) -> np.ndarray:
    """Random cells in a layer's tiles, and a map in buffer 0, which is returned."""
    rng = np.random.default_rng(seed)
    low = -layer.mac.cell_max if layer.mac.signed else 0
    for p in layer.placements:
        cells = rng.integers(low, layer.mac.cell_max, (p.tile.rows, p.tile.columns), endpoint=True)
        board.program(p.tile, cells.astype(np.int8), mac=layer.mac)
    x = rng.integers(0, 1 << layer.mac.act_bits, (2, 24, 3, 4))
    board.upload(0, x)
    return x


def by_hand(board: Board, layer: PimLayer, x: np.ndarray) -> np.ndarray:
    """Python integers, one output at a time, from the codes of single conversions."""
    c, mac, spec = layer.correction, layer.mac, board.info().spec
    assert c is not None
    n, _, height, width = x.shape
    padded = np.pad(x, ((0, 0), (0, 0), (1, 1), (1, 1)))
    out = np.zeros((n, 3, height, width), np.int64)
    weights = {"native": [1], "differential": [1, -1]}.get(str(mac.scheme))
    if weights is None:
        weights = [1 << p for p in range(mac.weight_bits - 1)] + [-(1 << (mac.weight_bits - 1))]
    most = (1 << mac.adc_bits - mac.signed) if mac.signed else (1 << mac.adc_bits) - 1
    digits = sum(1 << mac.dac_bits * s for s in range(mac.slices))
    largest = 2 * digits * sum(abs(w) for w in weights) * max(mac.levels, most)
    for i in range(n):
        for y in range(height):
            for z in range(width):
                window = padded[i, :, y : y + 3, z : z + 3].reshape(-1)
                total = [0, 0, 0]
                for p in layer.placements:
                    rows = window[p.group * mac.rows : p.group * mac.rows + p.tile.rows]
                    for s in range(mac.slices):
                        digit = (rows >> (mac.dac_bits * s)) & ((1 << mac.dac_bits) - 1)
                        codes = board.convert(p.tile, digit[None], mac=mac)[0, 0].tolist()
                        for column, (code, adc) in enumerate(zip(codes, spec.adcs_of(p.tile), strict=True)):
                            output, plane = divmod(p.first_column + column, len(weights))
                            value = int(c.values[adc, code - mac.code_min])
                            total[output] += weights[plane] * (1 << mac.dac_bits * s) * value
                for output, value in enumerate(total):
                    rounded = (value + (1 << c.fraction_bits) // 2) // (1 << c.fraction_bits)
                    out[i, output, y, z] = max(-largest, min(largest, rounded))
    return out


@pytest.mark.parametrize("name", CHIPS)
def test_what_is_added_up_is_the_documented_integer_on_board_and_host(name: str) -> None:
    spec = load_chip(name)
    mac = spec.mac()
    layer = two_groups(spec, mac, table(spec, mac))
    with open_board(f"emulator:{name}?die=1&noise=off") as board:
        x = set_up(board, layer, 3)
        wanted = by_hand(board, layer, x)
        board.conv(layer, 0, 1)
        conv_on_host(board, layer, 0, 2, accumulate=False, run=Run())
        assert np.array_equal(board.download(1), wanted)
        assert np.array_equal(board.download(2), wanted)
        conv_on_host(board, layer, 0, 2, accumulate=True, run=Run())
        board.conv(layer, 0, 1, accumulate=True)
        assert np.array_equal(board.download(1), 2 * wanted)
        assert np.array_equal(board.download(2), 2 * wanted)


@pytest.mark.parametrize("name", CHIPS)
def test_a_table_of_the_codes_themselves_changes_nothing_noise_included(name: str) -> None:
    spec = load_chip(name)
    mac = spec.mac()
    same = table(spec, mac, scatter=0.0)
    plain, layer = two_groups(spec, mac, None), two_groups(spec, mac, same)
    with open_board(f"emulator:{name}?die=1&seed=4") as board:
        set_up(board, layer, 5)
        board.conv(plain, 0, 1, run=Run(7, 9))
        board.conv(layer, 0, 2, run=Run(7, 9))
        assert np.array_equal(board.download(1), board.download(2))


def test_a_link_carries_it_bit_for_bit() -> None:
    spec = load_chip("sram65")
    layer = two_groups(spec, spec.mac(), table(spec, spec.mac()))
    found = []
    for url in ("emulator:sram65?die=1&seed=4", "emulator+link:sram65?die=1&seed=4"):
        with open_board(url) as board:
            set_up(board, layer, 5)
            board.conv(layer, 0, 1, run=Run(2, 3))
            found.append(board.download(1))
    assert np.array_equal(*found)


def test_tables_that_cannot_be_are_refused() -> None:
    spec = load_chip("sram65")
    mac = spec.mac()
    good = table(spec, mac)
    with pytest.raises(InputError, match="fraction_bits = 9"):
        Correction(mac, 9, good.values)
    with pytest.raises(InputError, match="values int64"):
        Correction(mac, 6, good.values.astype(np.int64))
    with pytest.raises(InputError, match="twice|2 times"):
        Correction(mac, 0, good.values)
    with pytest.raises(InputError, match="is none of codes at"):
        two_groups(spec, spec.mac(range_divisor=2), good)
    layer = two_groups(spec, mac, Correction(mac, 6, good.values[:5]))
    for url in ("emulator:sram65", "emulator+link:sram65"):
        with open_board(url) as board:
            set_up(board, layer, 1)
            with pytest.raises(InputError, match="5 converters"):
                board.conv(layer, 0, 1)
        with open_board(f"{url}?lacks=correct") as board:
            set_up(board, layer, 1)
            with pytest.raises(DeviceError, match="lacks correct"):
                board.conv(two_groups(spec, mac, good), 0, 1)


def compiled(spec: ChipSpec) -> Program:
    torch.manual_seed(0)
    return compile_network(convert(Net(), spec, activation_scale=1.0).eval(), spec, LITTLE, tuple("abcd"))


def several_passes(spec: ChipSpec) -> Program:
    program = compile_network(convert(prepared(Mixed, 0), spec), spec, IMAGE, CLASSES)
    assert program.manifest.passes > 1
    return program


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, ChipSpec]:
    spec = chip(rows=36, adc={"bits": 7, "inl_master": 2.0}, operating={"rows": 36, "dac_bits": 4})
    path = tmp_path_factory.mktemp("chip") / "little.toml"
    path.write_text(to_toml(spec.to_dict()), encoding="utf-8")
    return path, spec


def test_executors_give_the_same_on_a_silent_board_that_can_and_one_that_cannot(small: tuple[Path, ChipSpec]) -> None:
    path, spec = small
    program = several_passes(spec)
    tables = tuple(table(spec, mac, i) for i, mac in enumerate(program.adcs_used()))
    images, found = some_images(5), []
    for lacks in ("", "&lacks=correct", "&lacks=correct,requantize,conv"):
        with open_board(f"emulator:{path}?die=2&noise=off{lacks}") as board:
            found.append(Executor(program, board, corrections=tables).logits(images))
            plain = None if "conv" in lacks else Executor(program, board).logits(images)
    assert np.array_equal(found[0], found[1]) and np.array_equal(found[0], found[2])
    with open_board(f"emulator:{path}?die=2&noise=off") as board:
        plain = Executor(program, board).logits(images)
    assert not np.array_equal(found[0], plain)


def test_images_draw_the_same_noise_whatever_the_batch_also_on_the_host(small: tuple[Path, ChipSpec]) -> None:
    path, spec = small
    program = compiled(spec)
    tables = tuple(table(spec, mac) for mac in program.adcs_used())
    images = np.random.default_rng(0).integers(0, 256, (6, 2, 6, 6)).astype(np.uint8)
    for lacks in ("", "&lacks=correct"):
        with open_board(f"emulator:{path}?die=2{lacks}") as board:
            whole = Executor(program, board, corrections=tables).logits(images)
            parts = Executor(program, board, corrections=tables)
            split = [parts.logits(images[:2]), parts.logits(images[2:], first_image=2)]
        assert np.array_equal(whole, np.concatenate(split))


# -- with a profile ---------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def measured(small: tuple[Path, ChipSpec], tmp_path_factory: pytest.TempPathFactory) -> Profile:
    path, spec = small
    with open_board(f"emulator:{path}?die=2") as board:
        points = default_points(spec, range_divisors=[1])
        return characterize(board, points=points, half_width=0.15, out=tmp_path_factory.mktemp("cal"))


def test_sums_come_nearer_to_the_ideal_ones(small: tuple[Path, ChipSpec], measured: Profile) -> None:
    """Beside the exact sums: an independent judge, which knows no table."""
    path, spec = small
    program = compiled(spec)
    name, record = next((n, r) for n, r in program.manifest.layers.items() if r.kind == "pim")
    weights = program.tensors[f"weight.{name}"].astype(np.int64)
    geometry, mac = record.geometry(), record.operating_point()
    x = np.random.default_rng(3).integers(0, 1 << mac.act_bits, (20, geometry.in_channels, 6, 6))
    left = []
    with open_board(f"emulator:{path}?die=2") as board:
        for linearize in (False, True):
            deployed = pimchip.deploy(program, board, profile=measured, linearize=linearize)
            board.upload(90, x)
            assert deployed.executor is not None
            runs = []
            for number in range(24):  # what noise does to one conversion is not what a table mends
                deployed.executor.run_layer(name, 90, 91, run=0, first_image=20 * number)
                runs.append(board.download(91))
            got = np.mean(runs, axis=0)
            exact = integer.digital_conv(
                x.astype(np.int32),
                weights.T.reshape(geometry.out_channels, geometry.in_channels, 3, 3).astype(np.int8),
                geometry,
            )
            left.append(float(np.sqrt(np.mean((got - exact / mac.scale) ** 2))))
    assert left[1] < 0.6 * left[0]


def test_deployed_files_keep_the_tables_and_the_range(
    small: tuple[Path, ChipSpec], measured: Profile, tmp_path: Path
) -> None:
    path, spec = small
    program, url = compiled(spec), f"emulator:{path}?die=2"
    data = dataset()
    with open_board(url) as board:
        made = pimchip.deploy(program, board, data, profile=measured, linearize=True, bn_batches=2, bn_batch_size=20)
        assert made.after is not None and made.predicted is not None and made.corrections
        made.save(tmp_path / "x.deployed")
        assert made.executor is not None
        wanted = made.executor.logits(data.test.images)
    held = Deployed.load(tmp_path / "x.deployed")
    assert held.holds == measured.holds and held.measured == measured.measured
    assert all(np.array_equal(a.values, b.values) for a, b in zip(held.corrections, made.corrections, strict=True))
    with open_board(url) as board:
        assert np.array_equal(held.attach(board).logits(data.test.images), wanted)
    with (
        open_board(f"{url}&temperature=60") as board,
        pytest.raises(InputError, match="at 60 °C, its profile holds for 20"),
    ):
        held.attach(board)
    held.corrections = ()
    with open_board(f"{url}&temperature=60") as board, pytest.warns(PimchipWarning, match="at 60 °C.*deploy again"):
        held.attach(board)


def test_it_is_refused_without_a_profile_and_where_that_is_stale(
    small: tuple[Path, ChipSpec], measured: Profile
) -> None:
    path, spec = small
    program = compiled(spec)
    with open_board(f"emulator:{path}?die=2") as board, pytest.raises(InputError, match="by a profile of this die"):
        pimchip.deploy(program, board, linearize=True)
    with open_board(f"emulator:{path}?die=3") as board, pytest.raises(InputError, match="this board is die"):
        pimchip.deploy(program, board, profile=measured, linearize=True)
    with (
        open_board(f"emulator:{path}?die=2&temperature=45") as board,
        pytest.raises(InputError, match="--linearize out"),
    ):
        pimchip.deploy(program, board, profile=measured, linearize=True)


def test_the_command_says_where_codes_are_corrected(
    small: tuple[Path, ChipSpec], measured: Profile, tmp_path: Path
) -> None:
    path, spec = small
    torch.manual_seed(0)
    layers = nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(144, 4)
    network = convert(nn.Sequential(*layers), spec, activation_scale=1.0, pim_skip=()).eval()
    compile_network(network, spec, (1, 6, 6), tuple("abcd")).save(tmp_path / "net.pim")
    folder = tmp_path / "images"
    _write(folder, dataset())
    said = {}
    for lacks in ("", "&lacks=correct"):
        arguments = [
            "deploy", str(tmp_path / "net.pim"), "--device", f"emulator:{path}?die=2{lacks}", "--profile", str(measured.path),
            "--linearize", "--data", str(folder), "--bn-batches", "2", "--bn-batch-size", "10", "--out", str(tmp_path / "x"),
        ]  # fmt: skip
        result = CliRunner().invoke(cli, [*arguments, "--json"])
        assert result.exit_code == 0, result.stderr
        found: dict[str, Any] = json.loads(result.stdout)
        assert found["linearized"]
        said[lacks] = re.findall(r"corrected by the profile, (on the \w+)", result.stderr)
    assert said == {"": ["on the board"], "&lacks=correct": ["on the host"]}


def _write(folder: Path, data: Any) -> None:
    from PIL import Image

    for split, part in (("train", data.train), ("test", data.test)):
        for number, (image, label) in enumerate(zip(part.images, part.labels, strict=True)):
            place = folder / split / "abcd"[label]
            place.mkdir(parents=True, exist_ok=True)
            Image.fromarray(image[0]).save(place / f"{number}.png")
