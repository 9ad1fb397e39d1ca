"""Networks of all the shapes that compile: groups, dilation, branches joined by sums and by concatenation."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from many import many
from safetensors import safe_open
from torch import Tensor, nn

import pimchip
from pimchip.board import Board
from pimchip.board.inprocess import InProcessBoard
from pimchip.chip import ChipSpec, load_chip
from pimchip.compiler import Program, compile_network
from pimchip.compiler.golden import Golden, evaluate, example
from pimchip.compiler.impact import impacts
from pimchip.compiler.ir import Integers
from pimchip.compiler.passes import NAMES
from pimchip.emulator.die import IdealDie
from pimchip.emulator.virtual import VirtualBoard
from pimchip.errors import CompileError, InputError
from pimchip.qat import convert
from pimchip.runtime import Executor

IMAGE = (3, 8, 8)
CHIPS = ("sram65", "rram130-differential", "charge-native")


def unit(inputs: int, outputs: int, kernel: int = 3, stride: int = 1, dilation: int = 1, groups: int = 1) -> nn.Module:
    """Convolution, BN and ReLU of a map's own size, but for the stride."""
    padding = dilation * (kernel - 1) // 2
    conv = nn.Conv2d(inputs, outputs, kernel, stride, padding, dilation, groups, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(outputs), nn.ReLU())


class Mobile(nn.Module):
    """Depthwise separable convolutions (MobileNet, arXiv 1704.04861), a dilated branch, a grouped layer."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = unit(3, 16)
        self.first = nn.Sequential(unit(16, 16, stride=2, groups=16), unit(16, 32, 1))
        self.second = nn.Sequential(unit(32, 32, groups=32), unit(32, 64, 1))
        self.wide = unit(32, 16, dilation=2)
        self.grouped = unit(80, 40, groups=5)
        self.pool, self.flatten, self.fc = nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(40, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(self.stem(x))
        x = self.grouped(torch.cat([self.second(x), self.wide(x)], 1))
        return self.fc(self.flatten(self.pool(x)))  # type: ignore[no-any-return]


def settled(network: nn.Module, image: tuple[int, int, int] = IMAGE) -> nn.Module:
    """BN's statistics of random images, so that activations live."""
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = None
    network.train()(torch.rand(16, *image))
    return network.eval()


def ideal(spec: ChipSpec) -> Board:
    return InProcessBoard(VirtualBoard(spec, IdealDie(spec), noise_seed=None), "ideal")


def check(network: nn.Module, spec: ChipSpec, image: tuple[int, int, int], seed: int, replicas: int = 1) -> Program:
    """Every pass holds what the network and the specification say, and an ideal die gives the same integers."""
    graphs: dict[str, Integers] = {}
    golden = Golden(example(image, 2, seed))

    def observe(done: Any, graph: Any, job: Any) -> None:
        golden(done, graph, job)
        graphs[done.name] = graph

    program = compile_network(network, spec, image, None, observer=observe, replicas=replicas)
    assert [name for name, _ in golden.said] == list(NAMES)
    with ideal(spec) as board:
        got = Executor(program, board).logits(golden.images)
    lowered = graphs["lower"]
    assert np.array_equal(evaluate(lowered, golden.images)[lowered.output][:, :, 0, 0], got)
    return program


class TestMobile:
    @pytest.mark.parametrize("chip", CHIPS)
    def test_it_runs_on_every_chip_as_trained(self, chip: str) -> None:
        torch.manual_seed(0)
        network, spec = settled(convert(Mobile(), chip)), load_chip(chip)
        program = check(network, spec, IMAGE, 0)
        images = example(IMAGE, 4, 1)
        with ideal(spec) as board:
            got = Executor(program, board).logits(images) * program.manifest.logit_scale
        with torch.no_grad():
            wanted = network(torch.from_numpy(images).float() / 255).numpy()
        assert np.abs(wanted).max() > 0.1
        assert np.abs(got - wanted).max() < 1e-5

    def test_each_output_may_have_a_scale_of_its_own(self) -> None:
        torch.manual_seed(0)
        check(settled(convert(Mobile(), "sram65", scales="column")), load_chip("sram65"), IMAGE, 0)

    def test_only_what_holds_weights_is_placed_and_converted(self) -> None:
        """Depthwise: 32 channels of 9 products are two row groups of 16 channels, each of 16 outputs x 4 planes."""
        program = compile_network(convert(Mobile(), "sram65"), load_chip("sram65"), IMAGE, None)
        layer = program.manifest.layers["second.0.0"]
        assert layer.groups == 32 and sorted((t.group, t.first_column, t.rows, t.columns) for t in layer.tiles) == [
            (0, 0, 144, 64), (1, 64, 144, 64)
        ]  # fmt: skip
        conversions = {m: program.manifest.layers[m] for m in program.manifest.layers}
        positions = 16  # 4 x 4
        by_hand = positions * 4 * (16 + 32 + 32 + 64 + 2 * 16 + 40)  # first, second, dilated (2 row groups), grouped
        assert program.conversions_per_image == by_hand
        assert conversions["first.0.0"].groups == 16

    @pytest.mark.parametrize("chip", CHIPS)
    def test_what_converters_cost_it_is_predicted(self, chip: str) -> None:
        torch.manual_seed(0)
        program = compile_network(settled(convert(Mobile(), chip)), load_chip(chip), IMAGE, None)
        found = impacts(program, example(IMAGE, 8, 0))
        assert {each.layer for each in found} == {n for n, r in program.manifest.layers.items() if r.kind == "pim"}

    def test_a_real_die_runs_it(self) -> None:
        torch.manual_seed(0)
        program = compile_network(settled(convert(Mobile(), "sram65")), load_chip("sram65"), IMAGE, None)
        with pimchip.open_board("emulator+link:sram65?die=3") as board:
            one = Executor(program, board).logits(example(IMAGE, 3, 0))
        with pimchip.open_board("emulator:sram65?die=3") as board:
            assert np.array_equal(Executor(program, board).logits(example(IMAGE, 3, 0)), one)

    def test_groups_that_row_groups_would_cut_are_refused_with_the_mend(self) -> None:
        network = nn.Sequential(
            unit(3, 8), unit(8, 8, 5, groups=8), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 5)
        )
        with pytest.raises(CompileError, match=r"layer 1\.0: row groups of 144 cut its 8 groups of 25 .*rows=125"):
            compile_network(convert(network, "sram65"), load_chip("sram65"), IMAGE, None)
        check(settled(convert(network, "sram65", rows=125)), load_chip("sram65"), IMAGE, 0)

    def test_rows_of_maps_are_joined_too(self) -> None:
        class Rows(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.conv, self.pool, self.flatten = unit(3, 4), nn.AdaptiveAvgPool2d(1), nn.Flatten()

            def forward(self, x: Tensor) -> Tensor:
                x = self.conv(x)
                return self.flatten(self.pool(torch.cat([x, x], 2)))  # type: ignore[no-any-return]

        network = settled(convert(Rows(), "sram65", pim_skip=("last",)))
        program = check(network, load_chip("sram65"), IMAGE, 0)
        assert [step.op for step in program.manifest.steps] == ["requantize", "pim", "requantize", "join", "pool"]


class TestFiles:
    def version(self, path: Path) -> int:
        with safe_open(path, framework="np") as file:
            found: int = json.loads(file.metadata()["pimchip"].partition(" ")[2])["version"]
            return found

    def test_groups_and_dilation_are_version_2_and_all_else_stays_1(self, tmp_path: Path) -> None:
        torch.manual_seed(0)
        plain = nn.Sequential(unit(3, 8), unit(8, 8), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 5))
        for network, version in ((Mobile(), 2), (plain, 1)):
            program = compile_network(convert(network, "sram65"), load_chip("sram65"), IMAGE, None)
            program.save(tmp_path / "model.pim")
            assert self.version(tmp_path / "model.pim") == version
            read = Program.load(tmp_path / "model.pim")
            assert read.manifest == program.manifest
            assert ("groups" in json.dumps(read.manifest.model_dump(mode="json"))) == (version == 2)

    def test_products_by_elements_are_version_5(self, tmp_path: Path) -> None:
        network = nn.Sequential(unit(3, 8), Squeeze(8), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 5))
        program = compile_network(settled(convert(network, "sram65")), load_chip("sram65"), IMAGE, None)
        program.save(tmp_path / "model.pim")
        assert self.version(tmp_path / "model.pim") == 5
        assert Program.load(tmp_path / "model.pim").manifest == program.manifest

    def test_weights_between_groups_are_refused(self) -> None:
        program = compile_network(convert(Mobile(), "sram65"), load_chip("sram65"), IMAGE, None)
        weights = program.tensors["weight.second.0.0"].copy()
        weights[0, 31] = 1
        with pytest.raises(InputError, match=r"second\.0\.0: weights between two of its 32 groups are not zero"):
            Program(program.manifest, program.spec, program.tensors | {"weight.second.0.0": weights})


class Squeeze(nn.Module):
    """Channels weighted by what two linear layers make of their means (squeeze-and-excitation, arXiv 1709.01507)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.one, self.act, self.two, self.gate = nn.Linear(width, 3), nn.ReLU(), nn.Linear(3, width), nn.Sigmoid()

    def forward(self, x: Tensor) -> Tensor:
        y = self.gate(self.two(self.act(self.one(x.mean((2, 3))))))
        return x * y[:, :, None, None]  # type: ignore[no-any-return]


class Drawn(nn.Module):
    """A stem, then blocks: plain, with a residual sum, two branches joined, channels weighted, or a GroupNorm; see BLOCKS."""

    def __init__(self, blocks: list[tuple[str, int, int, int, int, int]], rows: int) -> None:
        super().__init__()
        width = 4
        self.kinds, stages = [], [unit(3, width)]
        self.stem = stages.pop()
        for kind, outputs, kernel, stride, dilation, groups in blocks:
            if kind == "sum":
                outputs, stride = width, 1
            if kind == "pool":
                stages.append(nn.MaxPool2d(3, 2, 1) if kernel == 3 else nn.AvgPool2d(2, 1, 1))
            else:
                fits = width % groups == 0 and outputs % groups == 0
                depth = width // groups * kernel * kernel
                together = groups if outputs % groups == 0 else 1
                groups = groups if fits and (depth % rows == 0 or rows % depth == 0) else 1
                stages.append(unit(width, outputs, kernel, stride, dilation, groups))
                if kind == "norm":
                    stages[-1] = nn.Sequential(stages[-1][0], nn.GroupNorm(together, outputs), nn.ReLU())
                if kind == "squeeze":
                    stages[-1] = nn.Sequential(stages[-1], Squeeze(outputs))
            if kind == "join":
                stages.append(unit(width, outputs, 1, stride))
            self.kinds.append(kind)
            width = {"join": 2 * outputs, "pool": width}.get(kind, outputs)
        self.stages = nn.ModuleList(stages)
        self.acts = nn.ModuleList(nn.ReLU() for _ in blocks)
        self.pool, self.flatten, self.fc = nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, 5)

    def forward(self, x: Tensor) -> Tensor:
        x, at = self.stem(x), 0
        for kind, act in zip(self.kinds, self.acts, strict=True):
            y = self.stages[at](x)
            at += 1
            if kind == "join":
                y = torch.cat([y, self.stages[at](x)], 1)
                at += 1
            x = act(x + y) if kind == "sum" else y
        return self.fc(self.flatten(self.pool(x)))  # type: ignore[no-any-return]


BLOCKS = st.lists(
    st.tuples(
        st.sampled_from(["plain", "sum", "join", "pool", "squeeze", "norm"]),
        st.sampled_from([2, 4, 6, 8]),
        st.sampled_from([1, 3]),
        st.integers(1, 2),
        st.integers(1, 2),
        st.sampled_from([1, 2, 4, 8]),
    ),
    min_size=1,
    max_size=5,
)
SPECS = st.tuples(
    st.sampled_from(["native", "differential", "bit_serial"]),
    st.sampled_from([9, 18, 36]),
    st.integers(5, 8),
    st.integers(1, 4),
)


def small_chip(scheme: str, rows: int, bits: int, macros: int) -> ChipSpec:
    data = load_chip("sram65").to_dict()
    data["array"] |= {"macros": macros, "rows": rows + 4, "columns": 64}
    data["adc"] |= {"bits": bits, "per_macro": 8}
    data["operating"] |= {"scheme": scheme, "rows": rows}
    return ChipSpec.from_dict(data)


def case(blocks: list[tuple[str, int, int, int, int, int]], spec: tuple[str, int, int, int], seed: int) -> None:
    torch.manual_seed(seed)
    chip = small_chip(*spec)
    network = convert(Drawn(blocks, spec[1]), chip, pim_skip=("last",) if seed % 2 else ("first", "last"))
    check(settled(network, (3, 6, 6)), chip, (3, 6, 6), seed, replicas=1 + seed % 5)


@pytest.mark.filterwarnings("ignore:no layer is on the chip:pimchip.errors.PimchipWarning")  # of the smallest ones
class TestRandomNetworks:
    @given(BLOCKS, SPECS, st.integers(0, 2**16))
    @settings(max_examples=25, deadline=None)
    def test_an_ideal_die_gives_the_reference_and_the_reference_the_network(
        self, blocks: list[tuple[str, int, int, int, int, int]], spec: tuple[str, int, int, int], seed: int
    ) -> None:
        case(blocks, spec, seed)

    def test_a_map_that_is_0_on_all_images_compiles(self) -> None:
        """GroupNorm over single values gives 0, and a quantizer of that a scale of next to nothing."""
        blocks = [
            ("plain", 4, 3, 2, 1, 4),
            ("squeeze", 2, 1, 1, 1, 8),
            ("join", 8, 1, 2, 2, 1),
            *[("norm", 2, 1, 1, 1, 2)] * 2,
        ]
        case(blocks, ("native", 18, 7, 2), 55415)

    @pytest.mark.study
    @pytest.mark.parametrize("part", range(20))
    def test_ten_thousand_of_them(self, part: int) -> None:
        assert many(case, 500, part, BLOCKS, SPECS, st.integers(0, 2**16)) >= 500
