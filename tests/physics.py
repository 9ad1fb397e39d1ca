"""What the tests of a die's physics share: chips without errors, and the list of effects to switch on."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from pimchip.chip import ChipSpec, Mac, load_chip
from pimchip.emulator.die import Die, IdealDie
from pimchip.emulator.state import Conditions
from pimchip.emulator.virtual import VirtualBoard

Sections = dict[str, dict[str, Any]]

QUIET_ADC = dict.fromkeys(
    ["gain_sigma", "offset_array_sigma", "offset_sigma", "inl_master", "inl_residual", "gain_drift_sigma"], 0.0
) | {"offset_drift_sigma": 0.0}

EFFECTS: dict[str, Sections] = {
    "gain": {"adc": {"gain_sigma": 0.02}},
    "array offset": {"adc": {"offset_array_sigma": 0.8}},
    "offset": {"adc": {"offset_sigma": 0.6}},
    "common curve": {"adc": {"inl_master": 1.5}},
    "own curve": {"adc": {"inl_residual": 0.3}},
    "gain drift": {"adc": {"gain_drift_sigma": 1e-3}},
    "offset drift": {"adc": {"offset_drift_sigma": 0.05}},
    "SAR": {"adc": {"sar_sigma": 0.05}},
    "dead converters": {"adc": {"dead": 0.2}},
    "stuck bits": {"adc": {"stuck_bit": 0.2}},
    "array noise": {"noise": {"array_sigma": 0.4}},
    "noise": {"noise": {"adc_sigma": 0.3}},
    "slow noise": {"noise": {"flicker_sigma": 0.5}},
    "supply gain": {"supply": {"gain_sigma": 0.2}},
    "supply offset": {"supply": {"offset_sigma": 5.0}},
    "mismatch": {"cells": {"mismatch_sigma": 0.05}},
    "programming": {"cells": {"program_sigma": 0.05}},
    "retention": {"cells": {"retention_loss": 0.02, "retention_spread": 0.3}},
    "read disturb": {"cells": {"read_disturb": 0.5}},
    "IR drop": {"cells": {"ir_drop": 0.1}},
    "IR drop by load": {"cells": {"ir_drop_load": 0.1}},
    "weak rows": {"cells": {"weak_rows": 0.2, "weak_row_loss": 0.2}},
    "stuck at 0": {"cells": {"stuck_zero": 0.05}},
    "stuck full": {"cells": {"stuck_full": 0.05}},
    "write failure": {"cells": {"write_failure": 0.05}},
}
"""Each effect of a spec, at a size that any test sees."""

STRESS = Conditions(85.0, 1.1, 1000.0)
"""Conditions under which every effect shows."""


def merged(*parts: Sections) -> Sections:
    """Sections joined, value by value."""
    out: Sections = {}
    for part in parts:
        for name, values in part.items():
            out[name] = out.get(name, {}) | values
    return out


def chip(sections: Sections | None = None, scheme: str = "bit_serial") -> ChipSpec:
    """Four macros of 64 rows x 32 columns, a converter a column, 10 bits; no errors but those given."""
    data = load_chip("sram65").to_dict()
    data["noise"], data["cells"], data["supply"] = {}, {}, {}
    data["array"] |= {"macros": 4, "rows": 64, "columns": 32}
    data["adc"] |= QUIET_ADC | {"bits": 10, "per_macro": 32}
    data["operating"] |= {"scheme": scheme, "rows": 64}
    for name, values in (sections or {}).items():
        data[name] = data[name] | values
    return ChipSpec.from_dict(data)


def counting(sections: Sections | None = None, macros: int = 16) -> ChipSpec:
    """A chip on which a code is a count: 273 rows of one-bit cells driven by 0..15 add to 4095, and 12 bits."""
    own: Sections = {
        "array": {"macros": macros, "rows": 273, "columns": 64},
        "adc": {"bits": 12, "per_macro": 64},
        "operating": {"rows": 273},
    }
    return chip(merged(own, sections or {}))


def middle(spec: ChipSpec) -> np.ndarray:
    """Trim registers as they are at power-up."""
    return np.full(spec.array.macros * spec.adc.per_macro, (1 << spec.adc.trim_bits) >> 1, np.int64)


def board(spec: ChipSpec, die: int | None = 1, seed: int | None = None, at: Conditions | None = None) -> VirtualBoard:
    """A board; die None is the ideal one, seed None is silence."""
    at = at or Conditions()
    source = IdealDie(spec) if die is None else Die(spec, die)
    return VirtualBoard(spec, source, noise_seed=seed, temperature=at.temperature, supply=at.supply, age=at.age)


def axis(mac: Mac) -> np.ndarray:
    """What the ideal converter would give of each sum, LSB."""
    return np.arange(mac.sum_min, mac.sum_max + 1) * mac.levels * mac.range_divisor / mac.sum_max


def assert_spread(values: np.ndarray, sigma: float, mean: float = 0.0, independent: int | None = None) -> None:
    """Mean and standard deviation, to five standard errors of so many independent values."""
    n = independent or values.size
    assert abs(values.mean() - mean) < 5 * sigma / math.sqrt(n)
    assert abs(values.std() / sigma - 1) < 5 / math.sqrt(2 * n)


def assert_rate(hits: int, trials: int, chance: float) -> None:
    """A count of independent events, to five standard deviations of the binomial."""
    assert abs(hits - trials * chance) < 5 * math.sqrt(trials * chance * (1 - chance)), (hits, trials * chance)
