"""Conversion with every term of the chip model, compiled by numba; see pimchip.chip.adc.convert. Being written."""

from __future__ import annotations

import torch

from pimchip.chip.mac import Mac
from pimchip.kernels.converters import Converters, Place


def codes(sums: torch.Tensor, mac: Mac, converters: Converters, at: Place) -> torch.Tensor:
    """Codes of column sums, float [m, columns] on the CPU to float32 [m, columns]."""
    raise NotImplementedError
