"""What `pimchip characterize --measure` shows of the array and of noise."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from pimchip.cli.common import table

if TYPE_CHECKING:
    from rich.console import RenderableType

    from pimchip.profile import ArraySection

Values = Mapping[str, Any]
Rows = Iterator[tuple[str, str]]


def array_table(section: ArraySection) -> RenderableType:
    """One table over all that was measured, values with 95 % intervals."""
    rows = [
        list(row) for name, shown in _SHOWN.items() if name in section.values for row in shown(section.values[name])
    ]
    rows += [list(row) for row in _by_input(section.arrays)]
    return table("array and noise (95 % interval)", ["", ""], rows)


def _by_input(arrays: Mapping[str, Any]) -> Rows:
    """Of each converter's figures the middle one and the worst."""
    if "input.enob" in arrays:
        import numpy as np

        inl, dnl = (np.nanmax(np.abs(arrays[f"input.{name}"]), axis=1) for name in ("inl", "dnl"))
        bits = arrays["input.enob"]
        yield "  effective bits", f"{np.nanmedian(bits):.2f}, the worst {np.nanmin(bits):.2f}"
        yield "  largest INL", f"{np.nanmedian(inl):.3f} LSB, the worst {np.nanmax(inl):.3f}"
        yield "  largest DNL", f"{np.nanmedian(dnl):.3f} LSB, the worst {np.nanmax(dnl):.3f}"


def refused_lines(section: ArraySection) -> Iterator[str]:
    """A line for each measurement of which nothing can be told."""
    for name, text in section.values.get("refused", {}).items():
        yield f"not told, {name}: {text}"


def _estimate(value: Values, digits: int = 3, unit: str = " LSB", factor: float = 1.0) -> str:
    """Value and interval, or a dash; what is not known is not there."""
    if "value" not in value:
        return "-"
    shown = [f"{value[key] * factor:.{digits}f}" for key in ("value", "low", "high") if key in value]
    return f"{shown[0]}{unit}" + (f" ({shown[1]} to {shown[2]})" if len(shown) == 3 else "")


def _percent(value: Values) -> str:
    return _estimate(value, 2, " %", 100)


def _chance(p: float) -> str:
    return f"p {p:.2g}" if p >= 1e-4 else "p < 0.0001"


def _rows(v: Values) -> Rows:
    yield "scatter of cells", _percent(v["cell_sigma"])
    yield "scatter of rows", _percent(v["row_sigma"])
    yield "largest curve error they make", f"{v['own_order_inl']:.3f} LSB, rows in order"
    yield f"  with {v['sets']} random sets of rows", f"{v['random_inl']:.3f} LSB"


def _components(v: Values) -> Rows:
    names = {
        "adc": "codes scatter between converters",
        "column": "  columns of a converter",
        "rows": "  sets of rows, all columns alike",
        "cells": "  sets of rows, in a column",
        "noise": "  repeats",
    }
    for key, name in names.items():
        if key not in v["refused"]:
            yield name, _estimate(v[key])
    for key, text in v["refused"].items():
        yield f"  {key}", f"not told: {text}"


def _dac(v: Values) -> Rows:
    yield "largest error of a DAC code", _estimate(v["max_error"], 3, " steps")
    macro, row, code = v["worst_driver"]
    yield f"  a driver's own: macro {macro}, row {row}, code {code}", _chance(v["worst_driver_p"])
    if "superposition_p" in v:
        yield "rows do not add up by", f"{_estimate(v['superposition'])}, {_chance(v['superposition_p'])}"


def _load(v: Values) -> Rows:
    yield f"{v['few']} rows against {v['many']}, same sum", _estimate(v["few_many"])
    yield "lost by the farthest row in use", _percent(v["far"])


def _range_load(v: Values) -> Rows:
    yield "lost at full scale by the current", _percent(v["loss"])


def _noise(v: Values) -> Rows:
    yield "noise grows over the codes by", f"{_estimate(v['grows'], 1, ' %', 100)}, {_chance(v['p'])}"


def _flicker(v: Values) -> Rows:
    first, last = v["allan"][0], v["allan"][-1]
    yield "Allan deviation, 1 cycle", _estimate(first, 4)
    yield f"  {v['taus'][-1]} cycles", _estimate(last, 4)
    yield "slow noise of converters", _estimate(v["slow"])
    white = v["p"] >= 0.01
    yield (
        "  averages over time",
        "fall as those of independent reads"
        if white
        else (f"do not fall as those of independent reads: errors {v['inflation']:.1f} times as large"),
    )


def _origins(v: Values) -> Rows:
    yield "noise of the array", _estimate(v["noise_array"])
    yield "noise of the converters", _estimate(v["noise_adc"])
    yield "spread of offsets, array", _estimate(v["offset_array"])
    yield "spread of offsets, converters", _estimate(v["offset_adc"])


def _memory(v: Values) -> Rows:
    yield (
        "code after a large sum, against a small one",
        f"{_estimate(v['largest'])}, ADC {v['worst']}, {_chance(v['p'])}",
    )


def _input(v: Values) -> Rows:
    yield "converters, by a sine there", f"{v['hertz']:.4g} Hz, {v['records']} records of {v['samples']:,} samples"


_SHOWN: dict[str, Callable[[Values], Rows]] = {
    "rows": _rows,
    "components": _components,
    "dac": _dac,
    "load": _load,
    "range_load": _range_load,
    "noise": _noise,
    "flicker": _flicker,
    "origins": _origins,
    "memory": _memory,
    "input": _input,
}
