"""The fewest array cycles with which any plan can reach a half-width, from the hidden truth: what adaptive runs are held against.

A read at level l tells of the transitions of converter j what its codes do: a Fisher information matrix I_jl over the T_k, each
free (Cramer and Rao; codes are multinomial, so the matrix is tridiagonal). With a share w_l of all reads R at level l, the
mean variance of unbiased estimates is phi_j(w) / R at least, phi_j = mean diag (sum_l w_l I_jl)^-1. For every other plan w*
and any weights lambda_j of sum 1, by Cauchy and Schwarz

    (sum lambda_j phi_j(w))^2 <= sum lambda_j phi_j(w*) max_l g_l,  g_l = sum lambda_j tr(C_j I_jl C_j) / K_j,  C_j = I_j(w)^-1

so that R >= (sum lambda_j phi_j(w))^2 / (max g v) for a half-width that asks for the variance v of every converter. It holds
for all plans in which converters of a macro share their levels, whatever w and lambda are; both are only sought to make it
large.
"""

from __future__ import annotations

import math

import numpy as np
from scipy.special import ndtr

from pimchip.chip import AdcTables

_NOISIEST = 10
"""Converters of a macro that are looked at; leaving others out makes the bound lower, not wrong."""
_ROUNDS = 40
_ENOUGH = 0.985


class Information:
    """What a read at each level tells of a converter: transfer [levels], LSB, at inputs u [levels]; sigma, LSB."""

    def __init__(self, transfer: np.ndarray, u: np.ndarray, sigma: float, codes: int) -> None:
        k = np.arange(1, codes) - 0.5
        places = np.interp(k, transfer, u, np.nan, np.nan)
        shown = np.isfinite(places) & (places - u[0] > 3 * sigma) & (u[-1] - places > 3 * sigma)
        k, places = k[shown], places[shown]
        z = (transfer[:, None] - k) / sigma
        per_lsb = np.interp(places, u, np.gradient(transfer, u)) / sigma
        density = np.exp(-z * z / 2) / math.sqrt(2 * math.pi) * per_lsb
        passed = np.concatenate([np.ones((len(u), 1)), ndtr(z), np.zeros((len(u), 1))], axis=1)
        chance = np.maximum(-np.diff(passed, axis=1), 1e-200)
        density = np.where(density > 1e-9, density, 0.0)
        self.diagonal = density**2 * (1 / chance[:, :-1] + 1 / chance[:, 1:])
        self.beside = -density[:, :-1] * density[:, 1:] / chance[:, 1:-1]
        self.count = len(k)

    def variance(self, share: np.ndarray) -> tuple[float, np.ndarray]:
        """phi(w), and g of this converter alone [levels]."""
        beside = share @ self.beside
        total = np.diag(share @ self.diagonal) + np.diag(beside, 1) + np.diag(beside, -1)
        inverse = np.linalg.inv(total)  # symmetric, so the square's entries are products of its rows
        along, beside = (inverse * inverse).sum(axis=1), (inverse[:-1] * inverse[1:]).sum(axis=1)
        gain = self.diagonal @ along + 2 * self.beside @ beside
        return float(np.trace(inverse)) / self.count, gain / self.count


def reads_at_least(converters: list[Information], levels: int) -> float:
    """Reads of each converter, times the variance wanted of the mean of its transitions."""
    share, weight, best = np.full(levels, 1 / levels), np.full(len(converters), 1 / len(converters)), 0.0
    for _ in range(_ROUNDS):
        found = [each.variance(share) for each in converters]
        phi = np.array([variance for variance, _ in found])
        weight = weight * (phi / phi.max()) ** 4
        weight /= weight.sum()
        gain = (weight[:, None] * np.stack([g for _, g in found])).sum(axis=0)
        best = max(best, float(weight @ phi) ** 2 / float(gain.max()))
        if best > _ENOUGH * phi.max():
            break
        share = share * np.sqrt(gain)
        share /= share.sum()
    return best


def cycles_at_least(t: AdcTables, u: np.ndarray, per_macro: int, columns: int, half_width: float) -> float:
    """Array cycles of all macros, for pooled pointwise half-widths of `half_width` LSB. u: of every column sum, LSB."""
    sigma, total = t.sigma / 65536, 0.0
    codes = t.mac.code_max - t.mac.code_min + 1
    for first in range(0, len(sigma), per_macro):
        noisiest = first + np.argsort(sigma[first : first + per_macro])[-_NOISIEST:]
        converters = [Information(t.transfer[j] / 65536, u, float(sigma[j]), codes) for j in noisiest]
        total += reads_at_least(converters, len(u)) / (half_width / 1.96) ** 2 / columns
    return total
