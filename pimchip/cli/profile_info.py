"""What `pimchip info` says of a profile."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from math import isfinite
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pimchip.profile import Profile


def profile_keys(path: Path) -> tuple[str, dict[str, Any]]:
    """What `info` says of a profile."""
    from pimchip.profile import Profile

    profile = Profile.load(path)
    return "profile", {
        "uid": profile.uid,
        "chip": profile.chip,
        "path": str(profile.path),
        "created": profile.created,
        "measured": profile.measured,
        "temperature": profile.temperature,
        "supply": profile.supply,
        "age": profile.age,
        "holds": str(profile.holds),
        "converters": _converters(profile),
        "trim": _trimmed(profile),
        "models": None if profile.models is None else dict(map(_modelled, profile.models)),
        "points": [p.mac.describe() for p in profile.points],
        "faults": None if profile.health is None else [str(fault) for fault in profile.health.faults],
        "hash": profile.hash,
    }


def _converters(profile: Profile) -> dict[str, Any]:
    """How many a chip has, how many have a result at each point that was measured, and how many carry a flag anywhere."""
    flagged = Counter(
        flag for each in zip(*(p.flags for p in profile.points), strict=True) for flag in set().union(*each)
    )
    return {
        "of": len(profile.points[0].gain),
        "with_result": sum(all(each) for each in zip(*(map(isfinite, p.gain) for p in profile.points), strict=True)),
        "flags": dict(sorted(flagged.items())),
    }


def said(name: str, value: Any) -> str:
    """A value in words, where its fields alone would not tell a person; else nothing."""
    if name == "converters":
        flags = "".join(f"; {count} {flag}" for flag, count in value["flags"].items())
        several = " (one may carry several)" if len(value["flags"]) > 1 else ""
        return f"{value['with_result']} of {value['of']} with a result at every point{flags}{several}"
    if name == "faults":
        return "not looked for (characterize --health)" if value is None else "" if value else "none found"
    if name == "models" and value is None:
        return "not fitted (characterize --models)"
    return _trim_text(value) if name == "trim" else ""


def _trimmed(profile: Profile) -> dict[str, dict[str, int]]:
    """Of each kind of trim register that the chip has: where its codes lie and how many are not in the middle."""
    adc, count, codes = profile.spec.adc, profile.spec.array.macros * profile.spec.adc.per_macro, profile.trim
    wanted = len(profile.spec.trim_widths)
    if len(codes) != wanted:  # of a board that does not show all: which codes are whose is not known
        return {"registers": {"kept": len(codes), "of": wanted}} if codes else {}
    kinds = {"offset": (codes[:count], adc.trim_bits), "gain": (codes[count:], adc.gain_trim_bits)}
    return {
        kind: {
            "registers": len(held),
            "moved": sum(code != (1 << bits) >> 1 for code in held),
            "middle": (1 << bits) >> 1,
            "lowest": min(held),
            "highest": max(held),
            "largest": (1 << bits) - 1,
        }
        for kind, (held, bits) in kinds.items()
        if held and bits
    }


def _trim_text(found: Mapping[str, Mapping[str, int]]) -> str:
    """What _trimmed gives, in words."""
    said = []
    for kind, held in found.items():
        if "kept" in held:
            said.append(f"{held['kept']} codes kept, of {held['of']} registers")
            continue
        moved = f"{held['moved']} of {held['registers']} registers moved from {held['middle']}"
        if held["moved"]:
            moved += f", codes {held['lowest']} to {held['highest']} of 0 to {held['largest']}"
        said.append(f"{kind} {moved}")
    return "; ".join(said)


def _modelled(found: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    """A point's name, and of the model chosen there its share of the curves' variance and held-out loss."""
    chosen, shares, losses = found.get("chosen"), found.get("explained"), found.get("held_out_loss")
    share = shares.get(chosen) if isinstance(shares, Mapping) else None
    loss = losses.get(chosen) if isinstance(losses, Mapping) else None
    name = f"{found.get('adc_bits')} b, 1/{found.get('range_divisor')}"
    return name, {"chosen": chosen, "explained": share, "held_out_loss": loss}
