"""Conversion in torch's own operations: the same integers as pimchip.kernels.native, on any device."""

from __future__ import annotations

import torch

from pimchip.chip.adc import LSB_BITS, AdcTables, column_stride
from pimchip.chip.gauss import FRACTION_BITS
from pimchip.chip.mac import Mac
from pimchip.kernels.converters import Converters, Place
from pimchip.kernels.random import noise_deviates

Tensor = torch.Tensor

HELD = 16
"""Tables kept on a device between calls."""
_device_tables: dict[int, tuple[AdcTables, Tensor]] = {}


def codes(sums: Tensor, mac: Mac, converters: Converters, at: Place) -> Tensor:
    """Codes of column sums, float32 [m, columns] to float32 [m, columns]."""
    adc = converters.adc[at.group].to(sums.device)
    transfer = _transfer(converters.tables, sums.device)
    t = transfer.view(-1)[(sums.to(torch.int64) - mac.sum_min) + adc * transfer.shape[1]].to(torch.int64)
    if converters.seed is not None:
        stride = column_stride(sums.shape[1])
        vector = torch.arange(len(sums), dtype=torch.int64, device=sums.device) + (converters.first_vector + at.vector)
        start = (vector * at.per_vector + at.group * mac.slices + at.slice) * stride
        macros = converters.macro[at.group]
        macro = int(macros[0]) if bool((macros == macros[0]).all()) else macros.to(sums.device)
        z = noise_deviates(start, sums.shape[1], macro, seed=converters.seed, epoch=converters.epoch)
        sigma = torch.from_numpy(converters.tables.sigma).to(sums.device, torch.int64)[adc]
        t += (sigma * z + (1 << (FRACTION_BITS - 1))) >> FRACTION_BITS
    return ((t + (1 << (LSB_BITS - 1))) >> LSB_BITS).clamp_(mac.code_min, mac.code_max).to(torch.float32)


def _transfer(tables: AdcTables, device: torch.device) -> Tensor:
    """The transfer tables on a device; a copy is kept for the next call."""
    held = _device_tables.get(id(tables))
    if held is None or held[0] is not tables or held[1].device != device:
        if len(_device_tables) >= HELD:
            _device_tables.clear()
        held = (tables, torch.from_numpy(tables.transfer).to(device))
        _device_tables[id(tables)] = held
    return held[1]
