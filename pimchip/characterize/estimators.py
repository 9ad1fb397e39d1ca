"""Closed forms of a staircase: levels at step D in LSB, R reads each, p_jk the share at level j with code >= k.

Spearman-Kaerber gives a threshold without an optimizer and with 98 % of maximum likelihood's efficiency:

    T_k = u_max + D/2 - D sum_j p_jk          se^2 = D^2 sum_j p_jk (1 - p_jk) / (R - 1), about D sigma / (R sqrt(pi))

Sources: Miller, "Spearman-Karber", Biometrika 60 (1973); the bias of a sum over a grid is Poisson's summation formula.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr

Float = NDArray[np.float64]

Z95 = 1.959963984540054
"""Two-sided 95 % quantile of the normal distribution."""
BIAS_SHARE = 0.2
"""A threshold's bias from the steps may be this share of its standard error."""


def spearman_karber(share_sum: Float, top: float, step: float) -> Float:
    """Thresholds in LSB from sum_j p_jk (any shape), the highest level `top` and the step, both in LSB."""
    return top + step / 2 - step * share_sum


def spread(share_sum: Float, moment: Float, top: float, step: float) -> Float:
    """Variance of each transition, LSB^2, from sum_j p_jk and sum_j u_j p_jk: the second moment by the same rule.

    The sum over a grid adds D^2/12 to it (Sheppard), taken off here; so a transition narrower than the step comes out
    near or below zero.
    """
    end = top + step / 2
    mean = spearman_karber(share_sum, top, step)
    return np.asarray(end * end - 2 * step * moment - mean**2 - step**2 / 12)


def reads_per_lsb(sigma: float, half_width: float) -> float:
    """Reads of a converter per LSB of input for 95 % intervals of +-half_width on thresholds at noise sigma, LSB."""
    return Z95**2 * sigma / (math.sqrt(math.pi) * half_width**2)


def step_bias(step: float, sigma: Float) -> Float:
    """Largest bias of a threshold from steps of `step` at noise sigma: (D/pi) exp(-2 pi^2 sigma^2 / D^2), LSB."""
    return np.asarray(step / math.pi * np.exp(-2 * (math.pi * sigma / step) ** 2))


def cut_bias(distance: Float, sigma: Float) -> Float:
    """Bias of a threshold `distance` inside the last level, from the part of its transition beyond it; LSB."""
    z = distance / sigma
    return np.asarray(sigma * (np.exp(-z * z / 2) / math.sqrt(2 * math.pi) - z * ndtr(-z)))
