"""From network to Program: refusals, mapping, files that were tampered with, and the integers of requantization."""

from __future__ import annotations

import copy
import errno
import hashlib
import json
import os
import re
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.numpy import save as save_tensors
from torch import Tensor, nn

import pimchip
from pimchip.chip import ChipSpec, Geometry, Mac, load_chip
from pimchip.compiler import Program
from pimchip.compiler.mapping import place_layers
from pimchip.compiler.requant import requantization
from pimchip.compiler.room import Wanted
from pimchip.errors import CompileError, InputError
from pimchip.kernels import integer
from pimchip.qat import DigitalLinear, build_model, convert

# Networks here are smaller than those that a chip is of use for.
pytestmark = [pytest.mark.filterwarnings("ignore:no layer is on the chip:pimchip.errors.PimchipWarning")]

IMAGE = (3, 6, 6)


def chip(**changes: dict[str, Any]) -> ChipSpec:
    data = load_chip("sram65").to_dict()
    for section, values in changes.items():
        data[section] |= values
    return ChipSpec.from_dict(data)


def compiled(network: nn.Module, image: tuple[int, int, int] = IMAGE, spec: ChipSpec | str = "sram65") -> Program:
    return pimchip.compile(network, torch.zeros(1, *image), spec)


def head(*layers: nn.Module) -> nn.Module:
    """Layers between a first convolution and a classifier, converted."""
    body = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), *layers)
    network = nn.Sequential(*body, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 5))
    return convert(network, "sram65")


class Custom(nn.Module):
    """A network whose forward is a function of itself and the image."""

    def __init__(self, run: Callable[[Any, Tensor], Tensor]) -> None:
        super().__init__()
        self.run = run
        self.conv = nn.Conv2d(3, 4, 3, padding=1, bias=False)
        self.bn = nn.BatchNorm2d(4)
        self.act = nn.ReLU()
        self.conv2 = nn.Conv2d(4, 4, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(4)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.flatten = nn.Flatten()
        self.fc = nn.Linear(4, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.flatten(self.pool(self.run(self, x))))  # type: ignore[no-any-return]


def custom(run: Callable[[Any, Tensor], Tensor]) -> nn.Module:
    return convert(Custom(run), "sram65")


class TestRefusals:
    def refused(self, network: nn.Module, *words: str) -> None:
        with pytest.raises(CompileError) as caught:
            compiled(network)
        assert "\n" not in str(caught.value)
        for word in words:
            assert word in str(caught.value)

    def test_an_unknown_module_is_named_with_its_neighbours(self) -> None:
        self.refused(
            head(nn.InstanceNorm2d(4)),
            "3 (InstanceNorm2d)",
            "between 2 (ActQuant) and 4 (AdaptiveAvgPool2d)",
            "supported are",
        )

    @pytest.mark.parametrize(
        ("run", "words"),
        [
            (lambda m, x: torch.sin(m.conv(x)), "operation sin(), between conv (DigitalConv2d) and pool"),
            (lambda m, x: m.conv(x) / m.conv(x), "operation div(), between conv (DigitalConv2d) and pool"),
            (lambda m, x: torch.cat([m.conv(x), m.conv(x)]), "operation cat(), between"),
            (lambda m, x: m.act(m.bn(m.conv(x))).mean(2, keepdim=True), "operation mean()"),
            (lambda m, x: 1.0 / m.act(m.bn(m.conv(x))), "operation reciprocal(), between act"),
            (lambda m, x: torch.add(m.conv(x), m.conv(x), alpha=2), "further arguments"),
            (lambda m, x: torch.flatten(m.act(m.bn(m.conv(x))), 2), "layer fc takes [..., 4], got [1]"),
            (lambda m, x: m.act(m.bn(m.conv(x))) if x.sum() > 0 else x, "decides by values of its tensors"),
        ],
        ids=["sin", "quotient", "cat", "mean", "divide", "alpha", "flatten", "branch"],
    )
    def test_an_unsupported_operation_is_named(self, run: Callable[[Any, Tensor], Tensor], words: str) -> None:
        self.refused_with_classes(custom(run), words)

    def refused_with_classes(self, network: nn.Module, words: str) -> None:
        """Without running the network first, which may not run at all."""
        with pytest.raises(CompileError) as caught:
            pimchip.compile(network, torch.zeros(1, *IMAGE), "sram65", classes=tuple("abcde"))
        assert words in str(caught.value)

    def test_two_inputs(self) -> None:
        class Two(Custom):
            def forward(self, x: Tensor, y: Tensor) -> Tensor:  # type: ignore[override]
                return super().forward(x + y)

        self.refused_with_classes(convert(Two(lambda m, x: m.conv(x)), "sram65"), "more than one input (y)")

    def test_an_unconverted_layer_says_to_convert(self) -> None:
        network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(64, 5))
        self.refused(network, "module 0 (Conv2d), between the input and 1 (ReLU),", "pimchip.qat.convert")

    @pytest.mark.parametrize(
        "run",
        [
            lambda m, x: m.bn(m.act(m.conv(x))),
            lambda m, x: m.act(m.bn2(m.bn(m.conv(x)))),
            lambda m, x: m.act(m.bn(torch.relu(m.conv(x)))),
            lambda m, x: m.act(m.bn(m.conv(x) + m.conv2(m.act(m.conv(x))))),
        ],
        ids=["after-quantizer", "after-norm", "after-relu", "after-sum"],
    )
    def test_a_norm_that_follows_no_layer(self, run: Callable[[Any, Tensor], Tensor]) -> None:
        with pytest.raises(CompileError, match=r"BatchNorm2d.*must follow a layer directly|runs twice"):
            compiled(custom(run))

    @pytest.mark.parametrize("norm_first", [True, False])
    def test_a_layer_read_with_and_without_its_norm(self, norm_first: bool) -> None:
        def run(m: Any, x: Tensor) -> Tensor:
            y = m.conv(x)
            if norm_first:
                z = m.act(m.bn(y))
                return m.act(z + torch.relu(y))  # type: ignore[no-any-return]
            r = torch.relu(y)
            return m.act(r + m.act(m.bn(y)))  # type: ignore[no-any-return]

        self.refused(custom(run), "module bn (BatchNorm2d)", "also feeds something else without normalization")

    def test_a_layer_used_twice(self) -> None:
        def run(m: Any, x: Tensor) -> Tensor:
            y = m.act(m.bn(m.conv(x)))
            return m.act(m.conv2(m.act(m.conv2(y))))  # type: ignore[no-any-return]

        self.refused(custom(run), "module conv2 (PimConv2d)", "runs twice")

    def test_maps_of_two_shapes_do_not_add(self) -> None:
        def run(m: Any, x: Tensor) -> Tensor:
            y = m.act(m.bn(m.conv(x)))
            return y + m.pool(y)  # type: ignore[no-any-return]

        self.refused(custom(run), "operation add()", "[4, 6, 6] and [4, 1, 1]")

    @pytest.mark.parametrize(
        "pool",
        [
            nn.MaxPool2d(2, ceil_mode=True),
            nn.MaxPool2d(2, dilation=2),
            nn.AvgPool2d(2, padding=1, count_include_pad=False),
            nn.AvgPool2d(2, divisor_override=3),
            nn.AdaptiveAvgPool2d(2),
            nn.MaxPool2d(9, padding=1),
        ],
        ids=repr,
    )
    def test_uncommon_pooling(self, pool: nn.Module) -> None:
        with pytest.raises(CompileError, match=r"module 3 \((Max|Avg|AdaptiveAvg)Pool2d\)"):
            pimchip.compile(head(pool), torch.zeros(1, *IMAGE), "sram65", classes=tuple("abcde"))

    def test_a_wide_sum_that_could_overflow_is_of_fewer_bits(self) -> None:
        program = compiled(custom(lambda m, x: m.bn(m.conv(x))))
        steps = [(step.op, getattr(step, "high", 0)) for step in program.manifest.steps]
        at = [op for op, _ in steps].index("pool")
        assert steps[at - 1][0] == "requantize" and steps[at - 1][1] * 36 < 1 << 31 <= steps[at - 2][1] * 36

    def test_an_output_that_is_no_vector_of_logits(self) -> None:
        network = convert(nn.Sequential(nn.Conv2d(3, 4, 3)), "sram65")
        self.refused(network, "gives [4, 4, 4]")

    def test_a_chip_that_cannot_do_the_operating_point(self) -> None:
        wide: dict[str, Any] = {"range_divisor": 16, "pim_skip": ()}
        with pytest.raises(InputError, match="range_divisor = 16"):
            compiled(convert(nn.Sequential(nn.Flatten(), nn.Linear(108, 5)), "charge-native", **wide), spec="sram65")

    def test_a_norm_of_the_images_is_told_where_to_go(self) -> None:
        net = nn.Sequential(nn.BatchNorm2d(3), nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(64, 5))
        with pytest.raises(CompileError, match=r"module 0 \(BatchNorm2d\).* put it after the first layer"):
            pimchip.compile(convert(net, "sram65", pim_skip=()), torch.zeros(1, *IMAGE), "sram65")

    @pytest.mark.parametrize("padding", [2, (0, 2), -1])
    @pytest.mark.parametrize("pool", [nn.MaxPool2d, nn.AvgPool2d])
    def test_a_padding_that_no_pooling_can_have(self, pool: Any, padding: Any) -> None:
        net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), pool(3, 3, padding), nn.Flatten(), nn.Linear(4, 5))
        with pytest.raises(CompileError, match=r"module 2 \(\w+Pool2d\).* has padding .*up to half"):
            pimchip.compile(convert(net, "sram65", pim_skip=()), torch.zeros(1, *IMAGE), "sram65")

    def test_an_example_that_is_no_image(self) -> None:
        with pytest.raises(InputError, match=r"example is \[3, 6, 6\]"):
            pimchip.compile(head(), torch.zeros(*IMAGE), "sram65")

    @pytest.mark.parametrize(
        ("call", "told"),
        [
            (lambda net: pimchip.compile(net, np.zeros((1, *IMAGE)), "sram65"), r"torch\.from_numpy\(example\)"),
            (lambda net: pimchip.compile("net", torch.zeros(1, *IMAGE), "sram65"), "the network is a str"),
            (
                lambda net: pimchip.compile(net, torch.zeros(1, *IMAGE), lambda: None),
                "chip is a function; want a built-in",
            ),
            (
                lambda net: pimchip.compile(net, torch.zeros(1, 4, 6, 6), "sram65"),
                r"\[4, 6, 6\] does not feed a layer of 3",
            ),
            (lambda net: pimchip.compile(net, torch.zeros(1, *IMAGE), "sram65", "folder"), r"profile is a str; .*load"),
        ],
    )
    def test_arguments_of_another_kind(self, call: Any, told: str) -> None:
        with pytest.raises(InputError, match=told):
            call(head())

    def test_an_example_of_pixels_is_taken_as_training_takes_it(self) -> None:
        network = convert(nn.Sequential(nn.Flatten(), nn.Linear(108, 5)), "sram65", pim_skip=())
        bright = torch.full(
            (1, *IMAGE), 255, dtype=torch.uint8
        )  # as floats of 255 they would be told to be outside 0..1
        program = pimchip.compile(network, bright, "sram65")
        assert program.manifest.input_shape == IMAGE and len(program.manifest.classes) == 5

    @pytest.mark.parametrize("value", [float("nan"), float("inf")])
    @pytest.mark.parametrize(
        ("tensor", "named"),
        [("0.weight", "layer 0: its weights"), ("1.running_mean", "layer 0: normalization mean"), ("1.weight", "gamma"),
         ("3.bias", "layer 3: normalization bias")],
    )  # fmt: skip
    def test_values_that_are_not_finite_are_named(self, tensor: str, named: str, value: float) -> None:
        network = convert(
            nn.Sequential(nn.Conv2d(3, 4, 6), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 5, 1), nn.Flatten()), "sram65"
        )
        with torch.no_grad():
            network.state_dict()[tensor].flatten()[1] = value
        with pytest.raises(InputError, match=named):
            pimchip.compile(network, torch.zeros(1, *IMAGE), "sram65", classes=tuple("abcde"))

    def test_an_eta_that_is_not_positive(self) -> None:
        network = convert(nn.Sequential(nn.Flatten(), nn.Linear(108, 5)), "sram65", pim_skip=(), eta="learnable")
        with torch.no_grad():
            network.state_dict()["1.eta"].fill_(-1)
        with pytest.raises(InputError, match=r"layer 1: eta = -1\.0"):
            compiled(network)


class TestWhatIsCompiled:
    def test_the_network_given_stays_in_training(self) -> None:
        network = head().train()
        before = copy.deepcopy(network.state_dict())
        compiled(network)
        assert all(m.training for m in network.modules())
        assert all(torch.equal(v, before[k]) for k, v in network.state_dict().items())

    def test_the_same_network_gives_the_same_program_on_any_number_of_threads(self) -> None:
        network, before, programs = convert(build_model("tiny", IMAGE, 5), "sram65"), torch.get_num_threads(), []
        try:
            for threads in (1, 2):
                torch.set_num_threads(threads)
                programs.append(compiled(network))
        finally:
            torch.set_num_threads(before)
        assert programs[0].manifest == programs[1].manifest
        assert all(np.array_equal(v, programs[1].tensors[k]) for k, v in programs[0].tensors.items())

    def test_layers_and_norms_are_the_networks(self) -> None:
        network = convert(build_model("resnet8", IMAGE, 5), "sram65", range_divisor=2)
        program = compiled(network)
        layers = {name: m for name, m in network.named_modules() if hasattr(m, "integers")}
        assert list(program.manifest.layers) == [name for name in layers if name in program.manifest.layers]
        assert program.manifest.layers.keys() == layers.keys()
        for name, record in program.manifest.layers.items():
            q = layers[name].integers().detach().numpy()
            held = program.tensors[f"weight.{name}"]
            assert np.array_equal(held if record.kind == "digital" else held.T.reshape(q.shape), q)
            assert (record.kind == "pim") == ("Pim" in type(layers[name]).__name__)
        calibrated = {name for name, norm in program.manifest.norms.items() if norm.calibrated}
        assert calibrated == layers.keys() - {"fc"}

    def test_conversions_of_an_image_are_those_of_the_method(self) -> None:
        """ResNet-20 at 32 x 32, N = 144, one slice, without the shortcuts: published with the method."""
        for scheme, wanted in (("native", 278_528), ("differential", 557_056), ("bit_serial", 1_114_112)):
            network = convert(build_model("resnet20", (3, 32, 32), 10), "sram65", scheme=scheme)
            assert compiled(network, (3, 32, 32)).conversions_per_image == wanted

    def test_conversions_of_a_linear_layer_with_slices_by_hand(self) -> None:
        network = convert(
            nn.Sequential(nn.Flatten(), nn.Linear(108, 5)), "sram65", pim_skip=(), rows=50, dac_bits=1, weight_bits=3
        )
        assert compiled(network).conversions_per_image == 5 * 3 * 3 * 4  # outputs, planes, groups, slices

    def test_a_relu_before_the_output_is_kept(self) -> None:
        class Positive(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.flatten, self.fc = nn.Flatten(), nn.Linear(108, 5)

            def forward(self, x: Tensor) -> Tensor:
                return torch.relu(self.fc(self.flatten(x)))

        network = convert(Positive(), "sram65").eval()
        x = torch.randint(0, 256, (20, *IMAGE), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
        wanted = network(x.float() / 255).detach()
        assert (wanted == 0).any()
        assert (wanted > 0).any()
        with pimchip.open_board("emulator:sram65?die=ideal") as board:
            got = pimchip.deploy(compiled(network), board)(x)
        torch.testing.assert_close(got, wanted, rtol=1e-4, atol=1e-3)


CHIPS = st.builds(
    lambda macros, rows, share, adcs, interleave: chip(
        array={"macros": macros, "rows": rows, "columns": share * adcs, "weight_bits": 8},
        adc={"per_macro": adcs, "interleave": interleave},
        operating={"rows": rows, "scheme": "native"},
    ),
    st.integers(1, 3),
    st.integers(1, 40),
    st.integers(1, 12),
    st.integers(1, 6),
    st.booleans(),
)
LAYERS = st.lists(
    st.tuples(
        st.sampled_from(["native", "differential", "bit_serial"]),
        st.integers(1, 40),
        st.integers(2, 8),
        st.integers(1, 12),
        st.integers(1, 25),
        st.sampled_from([(1, 1), (3, 3), (1, 3)]),
    ),
    min_size=1,
    max_size=5,
)


class TestMapping:
    @given(CHIPS, LAYERS)
    @settings(max_examples=150)
    def test_tiles_cover_each_layer_once_and_never_lie_on_each_other(self, spec: ChipSpec, layers: list[Any]) -> None:
        array = spec.array
        wanted: list[Wanted] = []
        for number, (scheme, rows, weight_bits, inputs, outputs, kernel) in enumerate(layers, start=1):
            mac = Mac(scheme, min(rows, array.rows), weight_bits)
            if mac.planes > array.columns:
                with pytest.raises(CompileError, match="does not fit a macro"):
                    place_layers(spec, [Wanted("big", mac, Geometry(inputs, outputs, kernel))])
                continue
            wanted.append(Wanted(f"layer{number}", mac, Geometry(inputs, outputs, kernel)))
        tiles, passes = place_layers(spec, wanted)
        cells, last = 0, 0
        held: dict[int, np.ndarray] = {}
        for layer in wanted:
            mac, depth = layer.mac, layer.geometry.depth
            cover = np.zeros((depth, layer.geometry.out_channels * mac.planes), int)
            assert last <= min(t.residency for t in tiles[layer.name])  # passes follow the layers, each loaded once
            for t in tiles[layer.name]:
                last = max(last, t.residency)
                first = t.group * mac.rows
                assert t.rows == min(mac.rows, depth - first)
                assert t.first_column + t.columns <= cover.shape[1]
                cover[first : first + t.rows, t.first_column : t.first_column + t.columns] += 1
                assert t.macro < array.macros
                assert t.row + t.rows <= array.rows
                assert t.column + t.columns <= array.columns
                on_chip = held.setdefault(t.residency, np.zeros((array.macros, array.rows, array.columns), int))
                on_chip[t.macro, t.row : t.row + t.rows, t.column : t.column + t.columns] += 1
                assert t.first_column % mac.planes == 0  # an output is never cut
                assert t.columns % mac.planes == 0
                if not spec.adc.interleave and mac.planes <= spec.columns_per_adc:
                    for plane in range(0, t.columns, mac.planes):
                        ends = (t.column + plane, t.column + plane + mac.planes - 1)
                        assert len({spec.adc_of(t.macro, c) for c in ends}) == 1
            assert (cover == 1).all()
            cells += cover.size
        assert all(on_chip.max() == 1 for on_chip in held.values())
        assert sorted(held) == list(range(passes))
        assert passes >= -(-cells // (array.macros * array.rows * array.columns))

    @pytest.mark.parametrize("weight_bits", range(2, 9))
    def test_on_sram65_the_planes_of_an_output_share_a_converter(self, weight_bits: int) -> None:
        spec = load_chip("sram65")
        tiles, _ = place_layers(spec, [Wanted("x", spec.mac(weight_bits=weight_bits), Geometry(32, 70, (3, 3)))])
        for t in tiles["x"]:
            adcs = np.array([spec.adc_of(t.macro, t.column + c) for c in range(t.columns)]).reshape(-1, weight_bits)
            assert (adcs == adcs[:, :1]).all()

    def test_utilization_is_the_lower_bound_of_passes_over_the_passes(self) -> None:
        spec = chip(array={"macros": 1, "rows": 20, "columns": 16}, adc={"per_macro": 2}, operating={"rows": 20})
        network = nn.Sequential(nn.Flatten(), nn.Linear(108, 9, bias=False), nn.ReLU(), nn.Linear(9, 5))
        program = compiled(convert(network, spec, pim_skip=()), spec=spec)
        cells = 108 * 9 * 4 + 9 * 5 * 4
        assert program.cells_used == cells
        bound = -(-cells // (20 * 16))
        assert program.manifest.passes >= bound == 13
        assert program.utilization_of_bound == bound / program.manifest.passes
        # by hand: six groups (five of 20 rows, one of 8) of 36 columns on 16: two shelves of 16 and one of 4 each.
        # The rest of a shelf serves the next group; 5 groups x 36 columns on shelves of 20 rows take 12 passes.
        assert program.manifest.passes <= 15
        assert program.tiles == sum(len(layer.tiles) for layer in program.manifest.layers.values())

    def test_a_network_all_digital_needs_no_pass(self) -> None:
        program = compiled(convert(nn.Sequential(nn.Flatten(), nn.Linear(108, 5)), "sram65"))
        assert (program.manifest.passes, program.tiles, program.utilization_of_bound) == (0, 0, 1.0)


@pytest.fixture(scope="module")
def program() -> Program:
    network = convert(build_model("resnet8", IMAGE, 5), "sram65")
    return compiled(network)


@pytest.fixture(scope="module")
def good(program: Program, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("good") / "model.pim"
    program.save(path)
    return path.read_bytes()


def load_bytes(content: bytes, folder: Path) -> Program:
    path = folder / "model.pim"
    path.write_bytes(content)
    return Program.load(path)


def parts(content: bytes, folder: Path) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """(body, tensors) of a container, read with safetensors alone."""
    path = folder / "parts.pim"
    path.write_bytes(content)
    with safe_open(path, framework="np") as file:
        return json.loads(file.metadata()["pimchip"].partition(" ")[2]), {k: file.get_tensor(k) for k in file.keys()}  # noqa: SIM118


def sealed(body: Any, tensors: dict[str, np.ndarray], *, digest: bool = True) -> bytes:
    """A container with valid seals around any content."""
    if digest and isinstance(body, dict):
        body["tensors"] = {
            k: hashlib.sha256(f"{t.dtype.str}{t.shape}".encode() + t.tobytes()).hexdigest()
            for k, t in sorted(tensors.items())
        }
    text = json.dumps(body)
    return save_tensors(tensors, {"pimchip": f"{hashlib.sha256(text.encode()).hexdigest()} {text}"})


class TestFiles:
    def test_round_trip_is_bit_identical(self, program: Program, good: bytes, tmp_path: Path) -> None:
        read = load_bytes(good, tmp_path)
        assert read.manifest == program.manifest
        assert list(read.manifest.layers) == list(program.manifest.layers)  # order numbers the noise
        assert read.spec == program.spec
        assert read.tensors.keys() == program.tensors.keys()
        for name, tensor in program.tensors.items():
            assert read.tensors[name].dtype == tensor.dtype
            assert read.tensors[name].tobytes() == tensor.tobytes()
        read.save(tmp_path / "again.pim")
        assert (tmp_path / "again.pim").read_bytes() == good

    def test_missing(self, tmp_path: Path) -> None:
        with pytest.raises(InputError, match=r"none\.pim is not there"):
            Program.load(tmp_path / "none.pim")

    def test_truncated_anywhere(self, good: bytes, tmp_path: Path) -> None:
        header = int.from_bytes(good[:8], "little")
        for length in (0, 1, 7, 8, 9, header // 2, header + 7, header + 8, header + 9, len(good) // 2, len(good) - 1):
            with pytest.raises(InputError, match=r"model\.pim"):
                load_bytes(good[:length], tmp_path)

    @given(st.data())
    @settings(max_examples=150)
    def test_damaged_bytes_are_refused(
        self, good: bytes, tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
    ) -> None:
        header = int.from_bytes(good[:8], "little")
        regions = {"length": (0, 7), "header": (8, header + 7), "tensors": (header + 8, len(good) - 1)}
        broken = bytearray(good)
        for _ in range(data.draw(st.integers(1, 3))):
            place = data.draw(st.integers(*regions[data.draw(st.sampled_from(sorted(regions)))]))
            broken[place] ^= data.draw(st.integers(1, 255))
        if broken == good:
            return
        path = tmp_path_factory.getbasetemp() / "broken.pim"
        path.write_bytes(broken)
        try:
            loaded = Program.load(path)
        except InputError as error:
            assert "broken.pim" in str(error)
        else:  # only JSON's own freedom is left, such as in how a letter is written
            reference, folder = load_bytes(good, path.parent), path.parent
            assert loaded.manifest == reference.manifest
            assert parts(bytes(broken), folder)[0] == parts(good, folder)[0]
            assert all(np.array_equal(v, reference.tensors[k]) for k, v in loaded.tensors.items())

    def test_a_huge_header_is_refused_without_reading_it(self, good: bytes, tmp_path: Path) -> None:
        with pytest.raises(InputError):
            load_bytes((1 << 62).to_bytes(8, "little") + good[8:], tmp_path)

    def test_an_edited_manifest_is_refused(self, good: bytes, tmp_path: Path) -> None:
        assert good.count(b'\\"adc_bits\\":7') > 0
        with pytest.raises(InputError, match="damaged or was edited"):
            load_bytes(good.replace(b'\\"adc_bits\\":7', b'\\"adc_bits\\":6', 1), tmp_path)

    def test_swapped_tensors_are_refused(self, good: bytes, tmp_path: Path) -> None:
        body, tensors = parts(good, tmp_path)
        a, b = "weight.stages.2.0.conv2", "weight.stages.1.0.conv2"
        for one, other in ((a, b), ("norm.conv.gamma", "norm.conv.mean")):
            swapped = tensors | {one: tensors[other], other: tensors[one]}
            with pytest.raises(InputError, match="damaged or was edited"):
                load_bytes(sealed(body, swapped, digest=False), tmp_path)

    @pytest.mark.parametrize("value", [{"kind": "deployed"}, {"kind": None}, {"version": 7}, {"version": "1"}])
    def test_another_kind_or_version_is_named(self, good: bytes, tmp_path: Path, value: dict[str, Any]) -> None:
        body, tensors = parts(good, tmp_path)
        with pytest.raises(InputError, match="a program file is wanted here|this pimchip reads up to 6"):
            load_bytes(sealed(body | value, tensors), tmp_path)

    @pytest.mark.parametrize("key", ["kind", "version", "manifest", "tensors"])
    def test_a_sealed_file_without_a_part(self, good: bytes, tmp_path: Path, key: str) -> None:
        body, tensors = parts(good, tmp_path)
        body["tensors"] = None
        content = sealed({k: v for k, v in body.items() if k != key}, tensors, digest=key != "tensors")
        with pytest.raises(InputError, match=r"model\.pim"):
            load_bytes(content, tmp_path)

    @pytest.mark.parametrize("content", [[], 7, None, "text", {}, [{}]])
    def test_sealed_nonsense(self, tmp_path: Path, content: Any) -> None:
        with pytest.raises(InputError, match=r"model\.pim"):
            load_bytes(sealed(content, {"x": np.zeros(2)}, digest=False), tmp_path)

    def test_a_foreign_safetensors_file(self, tmp_path: Path) -> None:
        with pytest.raises(InputError, match="is no program file of pimchip"):
            load_bytes(save_tensors({"x": np.zeros(3)}), tmp_path)

    @given(st.data())
    @settings(max_examples=150)
    def test_a_sealed_manifest_with_one_value_changed_loads_or_is_an_input_error(
        self, good: bytes, tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
    ) -> None:
        folder = tmp_path_factory.getbasetemp()
        body, tensors = parts(good, folder)
        where: Any = body["manifest"]
        while True:
            key = data.draw(st.sampled_from(sorted(where) if isinstance(where, dict) else range(len(where))))
            if isinstance(where[key], dict | list) and len(where[key]) and data.draw(st.integers(0, 9)):
                where = where[key]
            else:
                break
        numbers = st.sampled_from([-1, 0, 1, 2, 3, 1 << 12, 1 << 23, 1 << 24, 1 << 31, 1 << 63, -0.5, 1e300])
        where[key] = data.draw(numbers | st.sampled_from([None, "", "x", "stages.0.0.conv1", [], {}, [1, 2], {"a": 1}]))
        try:
            load_bytes(sealed(body, tensors), folder)
        except InputError as error:
            assert "model.pim" in str(error)

    @pytest.mark.parametrize(
        ("change", "words"),
        [
            (lambda t: t.update(macro=8), "outside the chip"),
            (lambda t: t.update(row=144), "outside the chip"),
            (lambda t: t.update(residency=5), "pass 5 of"),
            (lambda t: t.update(group=t["group"] + 1), "a tile"),
            (lambda t: t.update(columns=t["columns"] * 2, first_column=0), "outside the layer"),
            (lambda t: t.update(rows=t["rows"] - 1), "another number of rows"),
        ],
    )
    def test_a_tile_that_does_not_fit_is_refused(
        self, good: bytes, tmp_path: Path, change: Callable[[dict[str, Any]], None], words: str
    ) -> None:
        body, tensors = parts(good, tmp_path)
        change(body["manifest"]["layers"]["stages.0.0.conv2"]["tiles"][-1])
        with pytest.raises(InputError, match=words):
            load_bytes(sealed(body, tensors), tmp_path)

    def test_tiles_over_each_other_are_refused(self, good: bytes, tmp_path: Path) -> None:
        body, tensors = parts(good, tmp_path)
        first = body["manifest"]["layers"]["stages.0.0.conv1"]["tiles"][0]
        other = body["manifest"]["layers"]["stages.0.0.conv2"]["tiles"][0]
        assert (first["rows"], first["columns"]) == (other["rows"], other["columns"])
        other.update({k: first[k] for k in ("macro", "row", "column", "residency")})
        with pytest.raises(InputError, match="a tile lies over another"):
            load_bytes(sealed(body, tensors), tmp_path)

    def test_a_layer_said_to_be_huge_is_refused_before_memory_is_taken(self, good: bytes, tmp_path: Path) -> None:
        body, tensors = parts(good, tmp_path)
        for key in ("in_channels", "out_channels"):
            body["manifest"]["layers"]["stages.0.0.conv2"][key] = 1 << 24
        body["manifest"]["layers"]["stages.0.0.conv2"]["kernel"] = [1 << 12, 1 << 12]
        with pytest.raises(InputError, match=r"tensor weight\.stages\.0\.0\.conv2 is int8"):
            load_bytes(sealed(body, tensors), tmp_path)

    def test_weights_out_of_range_are_refused(self, good: bytes, tmp_path: Path) -> None:
        body, tensors = parts(good, tmp_path)
        weights = tensors["weight.stages.0.0.conv1"].copy()
        weights[0, 0] = 100
        with pytest.raises(InputError, match=r"in -7\.\.100"):
            load_bytes(sealed(body, tensors | {"weight.stages.0.0.conv1": weights}), tmp_path)

    def test_norms_that_are_not_finite_are_refused(self, good: bytes, tmp_path: Path) -> None:
        body, tensors = parts(good, tmp_path)
        var = tensors["norm.conv.var"].copy()
        var[3] = np.nan
        with pytest.raises(InputError, match="normalization conv: var is not finite"):
            load_bytes(sealed(body, tensors | {"norm.conv.var": var}), tmp_path)

    @pytest.mark.parametrize(
        ("find", "change", "words"),
        [
            (
                lambda m: next(s for s in m["steps"] if s.get("norm") == "stages.0.0.conv1"),
                lambda s: s.update(channels=s["channels"] * 2),
                "layer stages.0.0.conv1: a requantization of 32 channels reads a map of 16",
            ),
            (
                lambda m: m["norms"]["stages.0.0.conv1"],
                lambda n: n.update(layer="stages.1.0.conv1"),
                "tensor norm.stages.0.0.conv1.gamma is float64 [16], want float64 [32]",
            ),
            (
                lambda m: next(s for s in m["steps"] if s.get("norm") == "stages.0.0.conv1"),
                lambda s: s.update(norm="stages.1.0.conv1"),
                "layer stages.1.0.conv1: its normalization of 32 channels is applied to a map of 16",
            ),
            (
                lambda m: m["layers"]["stages.0.0.conv1"],
                lambda r: r.update(positions=35),
                "layer stages.0.0.conv1: it says 35 positions, its map has 36",
            ),
            (
                lambda m: m,
                lambda m: m.update(input_shape=[4, 6, 6]),
                "layer conv: a map of shape [4, 6, 6] does not feed a layer of 3 input channels",
            ),
            (lambda m: m, lambda m: m.update(output=0), "the output is a map of [3, 6, 6], not 5 logits"),
            (
                lambda m: next(s for s in m["steps"] if s["op"] == "pool"),
                lambda s: s.update(kernel=[7, 7]),
                "step pool: windows of [7, 7] do not fit a map of [64, 2, 2]",
            ),
            (
                lambda m: next(s for s in m["steps"] if s["op"] == "add"),
                lambda s: s.update(a=0),
                "step add joins maps of [3, 6, 6] and [16, 6, 6]",
            ),
        ],
    )
    def test_steps_whose_channels_do_not_fit_are_refused_by_layer_and_number(
        self,
        good: bytes,
        tmp_path: Path,
        find: Callable[[dict[str, Any]], dict[str, Any]],
        change: Callable[[dict[str, Any]], None],
        words: str,
    ) -> None:
        body, tensors = parts(good, tmp_path)
        change(find(body["manifest"]))
        with pytest.raises(InputError) as caught:
            load_bytes(sealed(body, tensors), tmp_path)
        assert words in str(caught.value) and "compile it again" in str(caught.value)

    def test_a_full_disk_keeps_the_old_file(
        self, program: Program, good: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        path = tmp_path / "model.pim"
        path.write_bytes(good)

        def full(*arguments: Any) -> None:
            raise OSError(errno.ENOSPC, "No space left on device")

        monkeypatch.setattr(os, "replace", full)
        with pytest.raises(InputError, match="No space left"):
            program.save(path)
        assert path.read_bytes() == good
        assert [p.name for p in tmp_path.iterdir()] == ["model.pim"]

    def test_a_place_that_cannot_be_written_is_named(self, program: Program, tmp_path: Path) -> None:
        (tmp_path / "file").write_text("")
        with pytest.raises(InputError, match="cannot write"):
            program.save(tmp_path / "file" / "model.pim")


SLOPES = st.floats(-300, 300).map(lambda e: 2.0 ** (e / 10)) | st.floats(1e-12, 1e6)
SIGNS = st.sampled_from([-1.0, 1.0])


class TestRequantization:
    @given(SLOPES, SIGNS, st.floats(-1e6, 1e6), st.integers(1, (1 << 31) - 1), st.lists(st.floats(-1, 1), min_size=1))
    @settings(max_examples=300)
    def test_stays_within_the_stated_error_of_the_exact_value(
        self, slope: float, sign: float, intercept: float, acc_max: int, places: list[float]
    ) -> None:
        a = sign * slope
        try:
            r = requantization(
                np.array([a]), np.array([intercept]), low=-(1 << 31), high=(1 << 31) - 1, acc_max=acc_max
            )
        except CompileError:
            # refused only where the products would not fit 64 bits even without a binary place
            assert abs(a) * acc_max + abs(intercept) + 1 >= 2.0**61
            return
        m, o, s = (int(v[0]) for v in (r.multiplier, r.offset, r.shift))
        assert abs(m) * acc_max + abs(o) < 1 << 63
        bound = Fraction(1, 2) + Fraction(acc_max + 1, 1 << (s + 1))
        for acc in (acc_max, -acc_max, 0, *(int(p * acc_max) for p in places)):
            out = (acc * m + o) >> s  # before clipping
            assert abs(out - (Fraction(a) * acc + Fraction(intercept))) <= bound

    @given(
        st.floats(0, 900), SIGNS, st.floats(-1e6, 1e6), st.integers(-(1 << 31), 1 << 31),
        st.sampled_from([(0, 15), (-8, 7), (0, 1), (-255, 0), (3, 9), (-(1 << 15), (1 << 15) - 1)]),
        st.integers(1, (1 << 31) - 1),
    )  # fmt: skip
    @settings(max_examples=300)
    def test_a_slope_too_steep_for_the_board_crosses_the_range_at_the_same_place(
        self, power: float, sign: float, near: float, place: int, ends: tuple[int, int], acc_max: int
    ) -> None:
        """What a map that was 0 on all images is scaled by: random networks found it to be refused."""
        low, high = ends
        a = sign * (high - low + 2.0 + 2.0**power)
        b = near - a * (place % (2 * acc_max) - acc_max if place % 3 else 0)
        r = requantization(np.array([a]), np.array([b]), low=low, high=high, acc_max=acc_max)
        m, o, s = (int(v[0]) for v in (r.multiplier, r.offset, r.shift))
        assert abs(m) * acc_max + abs(o) < 1 << 63 and abs(m) < 1 << 31
        crossed = min(max(round(Fraction(-b) / Fraction(a)), -acc_max), acc_max)
        for acc in {
            -acc_max,
            -1,
            0,
            1,
            acc_max,
            *(crossed + i for i in (-2, -1, 0, 1, 2) if abs(crossed + i) <= acc_max),
        }:
            exact = Fraction(a) * acc + Fraction(b) + Fraction(1, 2)
            assert min(max((acc * m + o) >> s, low), high) == min(max(exact.numerator // exact.denominator, low), high)

    @given(st.floats(1e-6, 100), SIGNS, st.floats(-1e4, 1e4), st.integers(1, 1 << 24))
    def test_the_error_beyond_the_rounding_is_below_a_thousandth_where_outputs_are_activations(
        self, slope: float, sign: float, intercept: float, acc_max: int
    ) -> None:
        r = requantization(np.array([sign * slope]), np.array([intercept]), low=0, high=15, acc_max=acc_max)
        assert Fraction(acc_max + 1, 1 << (int(r.shift[0]) + 1)) <= max(
            Fraction(1, 1000), Fraction(slope) * acc_max * Fraction(1, 1 << 30)
        )

    @given(st.integers(-5000, 5000), st.integers(0, 8))
    def test_dyadic_slopes_are_exact_and_halves_round_up(self, acc: int, places: int) -> None:
        r = requantization(np.array([2.0**-places]), np.zeros(1), low=-(1 << 20), high=1 << 20, acc_max=5000)
        (out,) = integer.requantize(np.array([[[[acc]]]], np.int32), r).ravel()
        exact = Fraction(acc, 1 << places) + Fraction(1, 2)
        assert out == exact.numerator // exact.denominator

    def test_the_board_computes_these_integers_and_clips(self) -> None:
        rng = np.random.default_rng(0)
        a, b = rng.normal(0, 0.01, 6), rng.normal(0, 20, 6)
        r = requantization(a, b, low=0, high=15, acc_max=10_000)
        acc = rng.integers(-10_000, 10_001, (4, 6, 5, 5)).astype(np.int32)
        out = integer.requantize(acc, r)
        assert out.min() == 0
        assert out.max() == 15
        for n, c, y, x in np.ndindex(*acc.shape):
            exact = min(max(Fraction(a[c]) * int(acc[n, c, y, x]) + Fraction(b[c]), Fraction(0)), Fraction(15))
            assert abs(int(out[n, c, y, x]) - exact) <= Fraction(1, 2) + Fraction(1, 1000)

    def test_a_slope_of_nothing_leaves_the_offset(self) -> None:
        r = requantization(np.array([1e-300, 0.0]), np.array([3.2, -2.7]), low=-9, high=9, acc_max=1 << 20)
        acc = np.full((1, 2, 1, 1), 1 << 20, np.int32)
        assert integer.requantize(acc, r).ravel().tolist() == [3, -3]

    @pytest.mark.parametrize(
        ("a", "b"),
        [(np.nan, 0.0), (np.inf, 0.0), (1.0, np.nan), (1.0, -np.inf), (1.0, 1e19), (-2.5, 1e300)],
    )
    def test_what_does_not_fit_is_refused_by_channel(self, a: float, b: float) -> None:
        with pytest.raises(CompileError, match=re.escape(f"layer x: channel 1 has slope {a:.3g} and offset {b:.3g}")):
            requantization(np.array([1.0, a]), np.array([0.0, b]), low=0, high=9, acc_max=1 << 20, name="layer x")

    def test_accumulators_beyond_what_it_was_made_for_are_refused(self) -> None:
        r = requantization(np.ones(1), np.zeros(1), low=0, high=9, acc_max=10)
        with pytest.raises(InputError, match="pass the 10"):
            integer.requantize(np.full((1, 1, 1, 1), 11, np.int32), r)

    def test_a_dead_batch_norm_variance_is_named(self) -> None:
        network = nn.Sequential(nn.Flatten(), nn.Linear(108, 5), nn.BatchNorm1d(5, eps=0.0))
        with torch.no_grad():
            network[2].running_var.zero_()
        program = compiled(convert(network, "sram65"))
        with (
            pimchip.open_board("emulator:sram65?die=ideal") as board,
            pytest.raises(CompileError, match=r"layer 1: channel 0 .* is a BN variance zero"),
        ):
            pimchip.deploy(program, board)


def test_a_linear_layer_is_digital_only_when_asked_for() -> None:
    network = convert(nn.Sequential(nn.Flatten(), nn.Linear(108, 5)), "sram65")
    assert isinstance(network[1], DigitalLinear)  # type: ignore[index]
    assert compiled(network).manifest.layers["1"].kind == "digital"
