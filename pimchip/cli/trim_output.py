"""Trim as pimchip characterize does and shows it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from pimchip.cli.common import Reply

if TYPE_CHECKING:
    from pimchip.board import Board
    from pimchip.characterize import TrimPoint, TrimResult
    from pimchip.chip import Mac

AIMS = {"offset": 0.0, "gain": 1.0}


def trim(
    board: Board, points: Sequence[Mac], adcs: list[int] | None, seed: int, tell: Callable[[str, int, int], None]
) -> dict[str, TrimResult]:
    """Trim what the board can trim for all operating points, with progress."""
    from pimchip.characterize import trim_converters

    return trim_converters(
        board, points, adcs=adcs, seed=seed, progress=lambda done, total: tell("trimming", done, total)
    )


def show_trim(reply: Reply, found: Mapping[str, TrimResult]) -> None:
    """What came of it at each point: spreads over the converters, what is left, and which could not be trimmed."""
    from pimchip.characterize import adcs_text

    for name, result in found.items():
        unit = " LSB" if name == "offset" else ""
        for point in result.points:
            told = _point(name, point)
            where = "" if len(result.points) == 1 else f", range 1/{point.mac.range_divisor}, {point.mac.adc_bits} b"
            reply.show(
                f"{name} trim{where}: spread {told['before']:.3f} → {told['after']:.3f}{unit}, {told['step']:.3g}{unit} a code, "
                f"at most {told['left']:.3f}{unit} left"
            )
        worse = [(p.mac, told) for p in result.points if (told := _point(name, p))["after"] > told["before"]]
        if worse and len(result.points) > 1:
            reply.show(
                f"one register serves all of these: the {name} scatters more than before at range "
                f"{' and '.join(dict.fromkeys(f'1/{mac.range_divisor}' for mac, _ in worse))}; where one range is in use, trim at "
                "it alone (--range-divisor)"
            )
        if result.short:
            reply.show(f"the register's end is not enough for the {name} of {adcs_text(result.short)}")
    untrimmed = _untrimmed(found)
    if untrimmed:
        reply.show(f"not trimmed, as no offset was found: {adcs_text(untrimmed)}")


def trim_keys(found: Mapping[str, TrimResult]) -> dict[str, Any]:
    """For the JSON: figures over all points (root mean squares, and the largest that is left), and of each."""
    import numpy as np

    keys: dict[str, Any] = {"offset_trim": None, "gain_trim": None, "untrimmed_adcs": _untrimmed(found)}
    for name, result in found.items():
        unit = "_lsb" if name == "offset" else ""
        points = [_point(name, point) for point in result.points]
        over_all = {k: float(np.sqrt(np.mean([p[k] ** 2 for p in points]))) for k in ("before", "after", "step")}
        over_all["left"] = max(p["left"] for p in points)
        keys[f"{name}_trim"] = {f"{k}{unit}": v for k, v in over_all.items()}
        keys[f"{name}_trim"]["short_adcs"] = list(result.short)
        keys[f"{name}_trim"]["points"] = [
            {"range_divisor": point.mac.range_divisor, "adc_bits": point.mac.adc_bits}
            | {f"{k}{unit}": v for k, v in told.items()}
            for point, told in zip(result.points, points, strict=True)
        ]
    return keys


def _untrimmed(found: Mapping[str, TrimResult]) -> list[int]:
    return sorted({adc for result in found.values() for adc in result.untrimmed})


def _point(name: str, point: TrimPoint) -> dict[str, float]:
    """Spreads over the converters, what a code does, and the largest distance from the aim that is left."""
    import numpy as np

    left = float(np.nanmax(np.abs(point.after - AIMS[name])))
    return {
        "before": float(np.nanstd(point.before)),
        "after": float(np.nanstd(point.after)),
        "step": point.step,
        "left": left,
    }
