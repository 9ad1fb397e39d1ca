"""Converters measured by themselves, through their test input: histogram and sine tests."""

from pimchip.characterize.testinput.histogram import line_errors, ramp_transitions, sine_transitions
from pimchip.characterize.testinput.measure import Drive, InputResult, measure_input
from pimchip.characterize.testinput.sine import SineFit, fit_sine

__all__ = [
    "Drive",
    "InputResult",
    "SineFit",
    "fit_sine",
    "line_errors",
    "measure_input",
    "ramp_transitions",
    "sine_transitions",
]
