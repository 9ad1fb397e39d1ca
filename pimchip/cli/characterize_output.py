"""What pimchip characterize shows beside its table: a plan, models, plots."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pimchip.cli.common import Reply, table

if TYPE_CHECKING:
    from rich.console import RenderableType

    from pimchip.board import Board
    from pimchip.characterize.measuring import Forecast, Wanted
    from pimchip.characterize.summary import PointSummary
    from pimchip.chip import Mac
    from pimchip.profile import Profile

Tell = Callable[[str, int, int], None]


def planned(board: Board, points: Sequence[Mac], wanted: Wanted, out: Path, tell: Tell) -> list[Forecast]:
    """What measuring these points will take, from a look at the first macro."""
    from pimchip.characterize.journal import Journal
    from pimchip.characterize.measure import Clock
    from pimchip.characterize.measuring import forecast

    found, clock = [], Clock(wanted.seed)
    # A look is never gone on with: it keeps its steps apart and forgets them.
    journal = Journal(out, {"plan": [mac.describe() for mac in points], "seed": wanted.seed})
    try:
        for number, mac in enumerate(points):
            found.append(forecast(board, mac, wanted, clock, journal, f"{number}"))
            tell("looking", number + 1, len(points))
    finally:
        journal.done()
    return found


def show_plan(reply: Reply, found: Sequence[Forecast], beside: Sequence[str]) -> dict[str, Any]:
    """Print a plan; its JSON. beside: options whose own work is not in it."""
    rows = [
        [
            f"1/{f.mac.range_divisor}",
            f"{f.noise:.3f} to {f.largest_noise:.3f}",
            f"{f.half_width:.3f}",
            f"{f.simultaneous:.3f}",
            f"{f.reads_per_lsb:.0f}",
            str(f.cost.array_cycles),
            f"{f.cost.bytes / 1e6:.2f}",
            f"{f.cost.seconds:.1f}",
        ]
        for f in found
    ]
    head = ["range", "noise, LSB", "95 % ±, LSB", "band ±, LSB", "reads an LSB", "cycles", "MB", "s at 3 Mbaud"]
    reply.show(table("what measuring will take, from a look at the first macro", head, rows))
    if beside:
        reply.show(f"not counted: what {', '.join(beside)} will take")
    return {
        "array_cycles": sum(f.cost.array_cycles for f in found),
        "reads": sum(f.cost.reads for f in found),
        "bytes": sum(f.cost.bytes for f in found),
        "seconds_at_3_mbaud": sum(f.cost.seconds for f in found),
        "points": [
            {
                "adc_bits": f.mac.adc_bits,
                "range_divisor": f.mac.range_divisor,
                "noise_lsb": f.noise,
                "largest_noise_lsb": f.largest_noise,
                "half_width_lsb": f.half_width,
                "band_half_width_lsb": f.simultaneous,
                "reads_per_lsb": f.reads_per_lsb,
                "array_cycles": f.cost.array_cycles,
                "bytes": f.cost.bytes,
                "seconds_at_3_mbaud": f.cost.seconds,
            }
            for f in found
        ],
    }


def points_table(uid: str, points: Sequence[PointSummary]) -> RenderableType:
    """The converters of each point together."""
    rows = [
        [
            f"1/{p.range_divisor}",
            str(p.adcs - p.left_out),
            _shown(f"{p.gain:.4f} ± {p.gain_spread:.4f}"),
            _shown(f"{p.offset:+.3f} ± {p.offset_spread:.3f}"),
            _shown(f"{p.max_inl:.2f}"),
            _shown(f"{p.noise:.3f}"),
            _shown(f"{p.half_width:.3f}"),
            str(p.cycles),
        ]
        for p in points
    ]
    head = ["range", "ADCs", "gain", "offset, LSB", "INL, LSB", "noise, LSB", "95 % ±, LSB", "cycles"]
    return table(f"die {uid}: gain and offset are mean ± spread, INL is the largest", head, rows)


def _shown(text: str) -> str:
    """A figure as it is, or a dash where no converter gave one."""
    return "-" if "nan" in text else text


def wire(profile: Profile) -> dict[str, Any]:
    """What the measurement cost, or would have cost over a serial line."""
    from pimchip.characterize.cost import spent

    costs = [spent(profile.spec, point) for point in profile.points]
    total = costs[0]
    for each in costs[1:]:
        total = total + each
    return {
        "array_cycles": total.array_cycles,
        "reads": total.reads,
        "bytes": total.bytes,
        "seconds_at_3_mbaud": total.seconds,
    }


def show_models(reply: Reply, profile: Profile) -> list[dict[str, Any]] | None:
    """Print what the ladder of models came to; its JSON. None where nobody fitted it."""
    from pimchip.characterize.ladder import MODELS

    if profile.models is None:
        return None
    out, rows = [], []
    for each in profile.models:
        explained, loss = each["explained"], each["held_out_loss"]
        whole = {"explained": {m: explained.get(m) for m in MODELS}, "held_out_loss": {m: loss.get(m) for m in MODELS}}
        out.append({**each, **whole})
        shown = [f"{100 * explained[m]:.1f} %" if m in explained else "-" for m in MODELS]
        rows.append([f"1/{each['range_divisor']}", *shown, each["chosen"]])
    head = ["range", "line", "master", "+ residual", "+ SAR bits", "table", "chosen"]
    reply.show(table("share of the curves' variance that each model explains; chosen by held-out reads", head, rows))
    return out


def write_plots(reply: Reply, profile: Profile, folder: Path, tell: Tell) -> None:
    """Write the drawings."""
    from pimchip.report.profile_plots import write_profile_plots

    done = 0
    for done, total in write_profile_plots(profile, folder):
        tell("drawing", done, total)
    reply.show(f"{done} drawings in {folder}")
