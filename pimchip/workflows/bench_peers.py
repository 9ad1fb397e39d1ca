"""Other simulators at the reference tile's shape, where they are installed. They emulate less or other things of a chip;
the comparison is of conversions a second only, and each note says what one does.

Peers are imported by name and never required: `pip install aihwkit`; CrossSim as its package `simulator`; ASiM's checkout
on PYTHONPATH as `module.asim_linear`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from typing import Any

import torch

from pimchip.chip import Mac

NOISE = 0.02
"""Output noise given to peers, of their full scale. Its size takes no time; that it is drawn does."""


@dataclass(frozen=True)
class Peer:
    """run: one call on the tile's inputs, or None with the reason in `note`. conversions: of one call."""

    run: Callable[[], object] | None
    conversions: int
    note: str


def peers(x: torch.Tensor, cells: torch.Tensor, mac: Mac) -> dict[str, Peer]:
    """By name. x: float32 [vectors, rows] of integers below mac.digit; cells: float32 [rows, columns] of 0 and 1."""
    conversions = x.shape[0] * cells.shape[1]
    makers: dict[str, tuple[str, str, Callable[[], Callable[[], object]]]] = {
        "aihwkit, C++ tile": (
            "aihwkit",
            "uniform ADC, output noise",
            lambda: _aihwkit("InferenceRPUConfig", x, cells, mac),
        ),
        "aihwkit, torch tile": (
            "aihwkit",
            "uniform ADC, output noise",
            lambda: _aihwkit("TorchInferenceRPUConfig", x, cells, mac),
        ),
        "CrossSim": ("simulator", "uniform ADC, no noise", lambda: _cross_sim(x, cells, mac)),
        "ASiM": ("module.asim_linear", "uniform ADC, output noise", lambda: _asim(x, cells, mac)),
    }
    return {name: _made(module, note, make, conversions) for name, (module, note, make) in makers.items()}


def _made(module: str, note: str, make: Callable[[], Callable[[], object]], conversions: int) -> Peer:
    try:
        there = find_spec(module) is not None
    except ModuleNotFoundError:  # the package around it is not there
        there = False
    if not there:
        return Peer(None, conversions, "not installed")
    try:
        run = make()
        run()
    except Exception as error:  # another project's fault must not end the benchmark
        return Peer(None, conversions, f"failed: {type(error).__name__}: {' '.join(str(error).split())[:120]}")
    return Peer(run, conversions, note)


def _without_gradients(call: Callable[[], object]) -> Callable[[], object]:
    def run() -> object:
        with torch.no_grad():
            return call()

    return run


def _aihwkit(config: str, x: torch.Tensor, cells: torch.Tensor, mac: Mac) -> Callable[[], object]:
    settings: Any = getattr(import_module("aihwkit.simulator.configs"), config)()
    settings.forward.inp_res = 1 / (mac.digit - 1)
    settings.forward.out_res = 1 / mac.levels
    settings.forward.out_noise = NOISE
    settings.mapping.max_input_size, settings.mapping.max_output_size = cells.shape
    layer = import_module("aihwkit.nn").AnalogLinear(*cells.shape, bias=False, rpu_config=settings).eval()
    layer.set_weights(cells.T.contiguous())
    scaled = x / (mac.digit - 1)
    return _without_gradients(lambda: layer(scaled))


def _cross_sim(x: torch.Tensor, cells: torch.Tensor, mac: Mac) -> Callable[[], object]:
    simulator = import_module("simulator")
    parameters = simulator.CrossSimParameters()
    parameters.core.style = "OFFSET"  # unsigned cells, a conversion a column
    parameters.core.rows_max, parameters.core.cols_max = cells.shape
    parameters.xbar.adc.mvm.model = "QuantizerADC"
    parameters.xbar.adc.mvm.bits = mac.adc_bits
    parameters.xbar.adc.mvm.adc_range_option = "MAX"
    core = simulator.AnalogCore(cells.T.contiguous().numpy(), params=parameters)
    columns = x.T.contiguous().numpy() / (mac.digit - 1)
    return lambda: core @ columns


def _asim(x: torch.Tensor, cells: torch.Tensor, mac: Mac) -> Callable[[], object]:
    outputs = cells.shape[1] // mac.planes
    layer = import_module("module.asim_linear").ASiMLinear(
        cells.shape[0],
        outputs,
        bias=False,
        wbit=mac.weight_bits,
        xbit=mac.act_bits,
        adc_prec=mac.adc_bits,
        nrow=mac.rows,
        rand_noise_sigma=100 * NOISE,
        act_enc=mac.dac_bits,
        signed_act=False,
        mode="Simulation",
    )
    return _without_gradients(lambda: layer(x))
