"""Trim as pimchip characterize does and shows it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from pimchip.cli.common import Reply

if TYPE_CHECKING:
    from pimchip.board import Board
    from pimchip.characterize import TrimResult
    from pimchip.chip import Mac


def trim(
    board: Board, mac: Mac, adcs: list[int] | None, seed: int, tell: Callable[[str, int, int], None]
) -> dict[str, TrimResult]:
    """Trim what the board can trim, with progress."""
    from pimchip.characterize import trim_converters

    return trim_converters(board, mac, adcs=adcs, seed=seed, progress=lambda done, total: tell("trimming", done, total))


def show_trim(reply: Reply, found: Mapping[str, TrimResult]) -> None:
    """What came of it: spreads over the converters, and which could not be trimmed."""
    from pimchip.characterize import adcs_text

    for name, result in found.items():
        unit = " LSB" if name == "offset" else ""
        before, after = _spreads(result)
        reply.show(f"{name} trim: spread {before:.3f} → {after:.3f}{unit}, {result.step:.3g}{unit} a code")
        if result.short:
            reply.show(f"the register's end is not enough for the {name} of {adcs_text(result.short)}")
    untrimmed = _untrimmed(found)
    if untrimmed:
        reply.show(f"not trimmed, as no offset was found: {adcs_text(untrimmed)}")


def trim_keys(found: Mapping[str, TrimResult]) -> dict[str, Any]:
    """For the JSON."""
    keys: dict[str, Any] = {"offset_trim": None, "gain_trim": None, "untrimmed_adcs": _untrimmed(found)}
    for name, result in found.items():
        unit = "_lsb" if name == "offset" else ""
        before, after = _spreads(result)
        keys[f"{name}_trim"] = {f"before{unit}": before, f"after{unit}": after, f"step{unit}": result.step}
        keys[f"{name}_trim"]["short_adcs"] = list(result.short)
    return keys


def _untrimmed(found: Mapping[str, TrimResult]) -> list[int]:
    return sorted({adc for result in found.values() for adc in result.untrimmed})


def _spreads(result: TrimResult) -> tuple[float, float]:
    import numpy as np

    return float(np.nanstd(result.before)), float(np.nanstd(result.after))
