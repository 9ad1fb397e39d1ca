"""What commands say of a die's health, of a profile's being true still, and of two profiles beside each other."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from pimchip.cli.common import Reply, table

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pimchip.characterize.correction import CorrectionGain
    from pimchip.characterize.recheck import Recheck
    from pimchip.profile import Health
    from pimchip.profile.comparison import Comparison
    from pimchip.profile.health import FaultKind

SHOWN = 20
"""Lines of a kind that are shown; of more, how many there are is said."""


def show_health(reply: Reply, health: Health) -> None:
    """A line a fault, and what the test could have found."""
    from pimchip.profile.health import MEANINGS, with_unit

    rows = [
        [
            str(f.kind),
            f.place,
            _detail(f.detail),
            "-" if f.size is None else with_unit(f.kind, f.size),
            MEANINGS[f.kind],
        ]
        for f in health.faults[:SHOWN]
    ]
    if rows:
        mild = len(health.faults) - len(health.severe)
        title = f"health: {len(health.faults)} faults, {mild} of them mild"
        reply.show(table(title, ["fault", "where", "which", "size", "what it is"], rows))
    else:
        reply.show("health: no fault found")
    if len(health.faults) > SHOWN:
        reply.show(f"and {len(health.faults) - SHOWN} more; all are in the profile")
    for text in health.untested:
        reply.show(f"not tested: {text}")
    finds = ", ".join(f"{name} {with_unit(_kind(name), value)}" for name, value in sorted(health.finds.items()))
    reply.show(f"found with 99 %: {finds}; a sound die shows any of this with {100 * health.alpha:g} % at most")


def health_keys(health: Health) -> dict[str, Any]:
    """The same for JSON."""
    from dataclasses import asdict

    return {
        "ok": health.ok,
        "faults": [asdict(fault) | {"kind": str(fault.kind)} for fault in health.faults],
        "avoid": [asdict(macro) for macro in health.avoided()],
        "finds": dict(health.finds),
        "alpha": health.alpha,
        "untested": list(health.untested),
        "cycles": health.cycles,
    }


def show_correction(reply: Reply, gains: Sequence[CorrectionGain]) -> None:
    """A line an operating point."""
    rows = [
        [f"1/{g.mac.range_divisor}", f"{g.raw:.3f}", f"{g.affine:.3f}", f"{g.table:.3f}", f"{g.products:,}"]
        for g in gains
    ]
    names = ["range", "codes as they are", "gain and offset", "table", "products"]
    reply.show(table("rms error of fresh products, LSB, by how codes are corrected", names, rows))


def correction_keys(gains: Sequence[CorrectionGain]) -> list[dict[str, Any]]:
    """The same for JSON."""
    return [
        {
            "range_divisor": g.mac.range_divisor,
            "raw_lsb": g.raw,
            "affine_lsb": g.affine,
            "table_lsb": g.table,
            "products": g.products,
        }
        for g in gains
    ]


def show_recheck(reply: Reply, found: Recheck, uid: str, seconds: float) -> None:
    """Which converters are not as their profile says."""
    if found.shifted:
        rows = [
            [
                str(s.adc),
                f"1/{s.mac.range_divisor}",
                "one code" if math.isnan(s.shift) else f"{s.shift:+.2f}",
                f"{s.p:.1g}",
            ]
            for s in found.shifted[:SHOWN]
        ]
        reply.show(table(f"die {uid}: converters that moved", ["ADC", "range", "by, LSB", "p"], rows))
        if len(found.shifted) > SHOWN:
            reply.show(f"and {len(found.shifted) - SHOWN} more")
    reply.show(f"all share: {found.middle} LSB in the middle of the range, {found.gain} of gain")
    reply.show(
        f"{'stale' if found.stale else 'still true'}: {len({s.adc for s in found.shifted})} of {found.converters} converters "
        f"moved{', and all together' if found.drifted else ''}; found with 99 %: {found.finds:.2f} LSB of one, "
        f"{found.finds_common:.2f} LSB of all; {found.cycles} array cycles, {seconds:.1f} s"
    )


def recheck_keys(found: Recheck) -> dict[str, Any]:
    """The same for JSON."""
    return {
        "stale": found.stale,
        "passed": not found.stale,
        "moved_adcs": sorted({s.adc for s in found.shifted}),
        "moved": [
            {"adc": s.adc, "range_divisor": s.mac.range_divisor, "shift_lsb": s.shift, "p": s.p} for s in found.shifted
        ],
        "drifted": found.drifted,
        "middle_change_lsb": found.middle.value,
        "middle_half_width_lsb": found.middle.half_width,
        "gain_change": found.gain.value,
        "gain_half_width": found.gain.half_width,
        "finds_lsb": found.finds,
        "finds_common_lsb": found.finds_common,
        "adcs": found.converters,
        "unchecked_adcs": list(found.unchecked),
        "cycles": found.cycles,
    }


def show_comparison(reply: Reply, found: Comparison) -> None:
    """A line an operating point, the converters that moved, and the verdict."""
    rows = [
        [
            f"1/{p.mac.range_divisor}, {p.mac.adc_bits} b",
            str(p.converters),
            str(p.middle),
            str(p.gain),
            "yes" if p.drifted else "no",
            str(len(p.moved)),
            str(len(p.lost) + len(p.gained)),
        ]
        for p in found.points
    ]
    names = ["point", "ADCs", "middle, LSB", "gain", "drifted", "moved", "lost or gained"]
    reply.show(table("changes that all converters share, and those of single ones", names, rows))
    moved = (
        []
        if found.same is False
        else [  # of another die every one is elsewhere
            [str(m.adc), f"1/{p.mac.range_divisor}", f"{m.middle:+.3f}", f"{m.gain:+.4f}", f"{m.p:.1g}"]
            for p in found.points
            for m in p.moved
        ]
    )
    if moved:
        title = "converters that moved, beside the others"
        reply.show(table(title, ["ADC", "range", "middle, LSB", "gain", "p"], moved[:SHOWN]))
    if len(moved) > SHOWN:
        reply.show(f"and {len(moved) - SHOWN} more")
    told = {True: "the same die", False: "another die", None: "too few converters to tell whether it is the same die"}
    reply.show(
        f"{told[found.same]}: correlation {found.correlation:.4f}, unrelated dies are as alike with p = {found.p_unrelated:.1g}"
    )
    if found.retrimmed is None:
        reply.show("the profiles do not state the same trim registers: trim is taken to be as it was")
    elif found.retrimmed:
        reply.show(f"{found.retrimmed} converters hold other trim codes, taken out: a code is worth {_worth(found)}")
    together = "; all moved together" if found.drifted else ""
    reply.show(
        f"{len(found.moved)} of {found.converters} converters moved by themselves, or lost or gained a curve{together}"
    )


def _worth(found: Comparison) -> str:
    """What trim codes were found to be worth, by point, or that nothing could tell."""
    told = [
        f"{worth:.4f} of its {kind} step at 1/{p.mac.range_divisor}, {p.mac.adc_bits} b"
        for p in found.points
        for kind, worth in (("offset", p.offset_worth), ("gain", p.gain_worth))
        if worth is not None
    ]
    return ", ".join(told) or "its nominal step, as no two were moved by different amounts"


def comparison_keys(found: Comparison) -> dict[str, Any]:
    """The same for JSON."""
    from dataclasses import asdict

    points = []
    for point in found.points:
        held = asdict(point)
        held["mac"] = point.mac.describe()
        points.append(held)
    return {
        "same_die": found.same,
        "correlation": found.correlation,
        "p_unrelated": found.p_unrelated,
        "drifted": found.drifted,
        "moved_adcs": list(found.moved),
        "unchanged": found.unchanged,
        "converters": found.converters,
        "retrimmed": found.retrimmed,
        "points": points,
    }


def _detail(value: int | None) -> str:
    return "-" if value is None else str(value)


def _kind(name: str) -> FaultKind:
    """The kind whose size `finds` gives under a name, which may say that it is what all converters share."""
    from pimchip.profile.health import FaultKind

    return FaultKind(name.removeprefix("common "))
