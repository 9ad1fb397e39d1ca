"""Every network of the zoo compiles for every built-in chip, at the bound of its passes, and the encoder computes as trained."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from test_networks import check, ideal

import pimchip
from pimchip.chip import load_chip
from pimchip.compiler import Program, compile_network
from pimchip.compiler.bound import passes_bound
from pimchip.compiler.cost import cost
from pimchip.compiler.golden import example
from pimchip.compiler.impact import impacts
from pimchip.compiler.simulate import Simulation
from pimchip.compiler.survey import survey
from pimchip.qat import build_model, convert
from pimchip.qat.convert import as_if_seen
from pimchip.runtime import Executor

CHIPS = ("sram65", "rram130-differential", "charge-native")
MODELS = ("mlp", "mobile", "encoder", "resnet20", "resnet32", "resnet44", "resnet56")
SHAPE = (1, 8, 8)


@pytest.mark.parametrize("chip", CHIPS)
@pytest.mark.parametrize("model", MODELS)
def test_it_compiles_at_the_bound(model: str, chip: str) -> None:
    spec, image = load_chip(chip), (3, 32, 32)
    program = compile_network(as_if_seen(convert(build_model(model, image, 10), spec)), spec, image, None)
    assert program.manifest.passes == passes_bound(program.manifest.layers.values(), spec)
    assert program.utilization_of_bound >= 0.95


def encoder(chip: str = "sram65") -> torch.nn.Module:
    torch.manual_seed(0)
    network = convert(build_model("encoder", SHAPE, 10), chip)
    network.train()(torch.rand(16, *SHAPE))
    return network.eval()


@pytest.fixture(scope="module")
def program() -> Program:
    return compile_network(encoder(), load_chip("sram65"), SHAPE, None)


class TestEncoder:
    @pytest.mark.parametrize("chip", CHIPS)
    def test_it_gives_what_it_was_trained_to_on_ideal_converters(self, chip: str) -> None:
        """Within what the sums in float32 and the integers of 20 binary places are off by."""
        network, spec = encoder(chip), load_chip(chip)
        found = compile_network(network, spec, SHAPE, None)
        images = example(SHAPE, 16, 1)
        with ideal(spec) as board:
            got = Executor(found, board).logits(images) * found.manifest.logit_scale
        with torch.no_grad():
            wanted = network(torch.from_numpy(images).float() / 255).numpy()
        assert np.abs(wanted).max() > 0.1
        # An activation at a tie may go the other way; on most images none does.
        assert np.median(np.abs(got - wanted).max(axis=1)) < 1e-4
        assert (got.argmax(1) == wanted.argmax(1)).mean() >= 0.9

    def test_every_pass_holds_what_the_network_does(self) -> None:
        check(encoder(), load_chip("sram65"), SHAPE, 0)

    def test_predictions_are_the_same_on_every_way_to_the_die(self, program: Program) -> None:
        images = example(SHAPE, 5, 2)
        found = []
        for url in ("emulator:sram65?die=3", "emulator+link:sram65?die=3"):
            with pimchip.open_board(url) as board:
                found.append(Executor(program, board).logits(images))
        threads = torch.get_num_threads()
        try:
            torch.set_num_threads(1 if threads > 1 else 2)
            with pimchip.open_board("emulator:sram65?die=3") as board:
                one = Executor(program, board)
                found.append(np.concatenate([one.logits(images[k : k + 1], first_image=k) for k in range(len(images))]))
        finally:
            torch.set_num_threads(threads)
        assert all(np.array_equal(found[0], other) for other in found[1:])

    def test_the_simulation_is_an_ideal_die(self, program: Program) -> None:
        images, simulation = example(SHAPE, 3, 0), Simulation(program)
        found = simulation.run(simulation.start(images))[program.manifest.output]
        with ideal(program.spec) as board:
            assert np.array_equal(found.values[:, :, 0, 0], Executor(program, board).logits(images))

    def test_what_goes_over_the_link_is_what_was_predicted(self, program: Program) -> None:
        """With the weights in place: the board counts the bytes of maps that the host reads and makes."""
        with ideal(program.spec) as board:
            run = Executor(program, board)
            run.logits(example(SHAPE, 2, 0))
            before = board.counters()
            run.logits(example(SHAPE, 2, 0))
            after = board.counters()
        estimate = cost(program).estimate.counters(2, batches=1)
        for name in ("bytes_in", "bytes_out", "conversions", "digital_macs"):
            assert after[name] - before[name] == estimate[name], name

    def test_a_file_gives_the_same_program(self, program: Program, tmp_path: Path) -> None:
        program.save(tmp_path / "encoder.pim")
        again = Program.load(tmp_path / "encoder.pim")
        images = example(SHAPE, 2, 0)
        with ideal(program.spec) as board:
            assert np.array_equal(Executor(again, board).logits(images), Executor(program, board).logits(images))

    def test_everything_has_a_place_and_the_costs_name_every_layer(self, program: Program) -> None:
        found = survey(encoder(), load_chip("sram65"), SHAPE)
        assert found.refused == ()
        assert [e.name for e in found.at("chip")] == ["patches"] + [
            f"blocks.{b}.{layer}"
            for b in (0, 1)
            for layer in ("attention.q", "attention.k", "attention.v", "attention.out", "mlp1", "mlp2")
        ]
        host = {e.does for e in found.at("host")}
        assert {"LayerNorm", "GELU", "softmax", "matmul", "arrange", "constant"} <= host
        in_array = {n for n, layer in program.manifest.layers.items() if layer.kind == "pim"}
        assert {each.layer for each in impacts(program, example(SHAPE, 4, 0))} == in_array
