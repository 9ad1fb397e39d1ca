"""Measures a die through its board: plans, staircases, estimators. Never sees what an emulated die was drawn from."""

from pimchip.characterize.api import characterize, default_points, measure_point
from pimchip.characterize.fit import fit
from pimchip.characterize.limits import check_limits, load_limits, parse_adcs
from pimchip.characterize.measure import measure
from pimchip.characterize.plan import Plan, plan
from pimchip.characterize.refit import refit
from pimchip.characterize.summary import Summary, adcs_text, summarize
from pimchip.characterize.trimming import TrimPoint, TrimResult, trim_converters

__all__ = [
    "Plan",
    "Summary",
    "TrimPoint",
    "TrimResult",
    "adcs_text",
    "characterize",
    "check_limits",
    "default_points",
    "fit",
    "load_limits",
    "measure",
    "measure_point",
    "parse_adcs",
    "plan",
    "refit",
    "summarize",
    "trim_converters",
]
