"""Supply domains of a chip: which parts of its energy account a rail feeds.

The domains of pimchip.chip.energy's parts. How idle power divides over them is assumed, as idle_watts itself is.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Final

from pimchip.chip.energy import Account

DOMAINS: Final[Mapping[str, tuple[str, ...]]] = {
    "analog": ("conversions", "row_drivers", "cells"),
    "digital": ("programming", "processor"),
    "io": ("io",),
}
"""Parts of an account by domain; idle power is apart."""
IDLE_SHARES: Final[Mapping[str, float]] = {"analog": 0.3, "digital": 0.6, "io": 0.1}
"""Assumed: of idle power."""


def domain_joules(spent: Account, domains: Collection[str]) -> tuple[float, float]:
    """Joules of what some domains did, and of their idling. Parts that are unknown count as nothing."""
    active = sum(spent.parts[part] or 0.0 for domain in domains for part in DOMAINS[domain])
    idle = (spent.parts["idle"] or 0.0) * sum(IDLE_SHARES[domain] for domain in domains)
    return active, idle
