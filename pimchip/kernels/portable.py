"""Conversion in torch's own operations: every term of pimchip.chip.adc.convert, the same integers on any device."""

from __future__ import annotations

from typing import NamedTuple

import torch

from pimchip.chip.adc import LSB_BITS, MAP_BITS, AdcTables, column_stride
from pimchip.chip.gauss import FRACTION_BITS
from pimchip.chip.mac import Mac
from pimchip.kernels.converters import Converters, Place
from pimchip.kernels.random import noise_deviates, slow_deviates

Tensor = torch.Tensor

HELD = 16
"""Tables kept on a device between calls."""

_NOISE_HALF = 1 << (FRACTION_BITS - 1)
_ROUND_HALF = 1 << (LSB_BITS - 1)


class _DeviceTables(NamedTuple):
    """AdcTables' arrays on a device; sigma is [adcs, 1] where it does not depend on the sum."""

    source: AdcTables
    transfer: Tensor
    sigma: Tensor
    slow: Tensor | None
    code_map: Tensor | None


_device_tables: dict[int, _DeviceTables] = {}


def codes(sums: Tensor, mac: Mac, converters: Converters, at: Place) -> Tensor:
    """Codes of column sums, float [m, columns] of integers in 2^-fraction_bits counts; float32 [m, columns]."""
    if not sums.numel():
        return sums.to(torch.float32)
    q = converters.fraction_bits
    tables = _on_device(converters.tables, sums.device)
    adc = torch.from_numpy(converters.adc[at.group]).to(sums.device)
    v = sums.to(torch.int64).clamp_(mac.sum_min << q, mac.sum_max << q)
    place = (v >> q) - mac.sum_min
    t = tables.transfer[adc, place].to(torch.int64)
    if q:
        after = tables.transfer[adc, (place + 1).clamp_(max=tables.transfer.shape[1] - 1)].to(torch.int64)
        t += ((after - t) * (v & ((1 << q) - 1))) >> q
    if converters.seed is not None:
        t += _noise(tables, place, adc, mac, converters, at, converters.seed)
    fine = (t + _ROUND_HALF) >> (LSB_BITS - MAP_BITS)
    if tables.code_map is None:
        return (fine >> MAP_BITS).clamp_(mac.code_min, mac.code_max).to(torch.float32)
    entry = (fine - (mac.code_min << MAP_BITS)).clamp_(0, tables.code_map.shape[1] - 1)
    return tables.code_map[adc, entry].to(torch.float32)


def _noise(
    tables: _DeviceTables, place: Tensor, adc: Tensor, mac: Mac, converters: Converters, at: Place, seed: int
) -> Tensor:
    """Noise of a block of conversions, int64 [m, columns] in 2^-16 LSB; place: table entries [m, columns]."""
    row = torch.arange(len(place), dtype=torch.int64, device=place.device)
    vector = row * at.step + (converters.first_vector + at.vector)
    cycle = vector * at.per_vector + at.group * mac.slices + at.slice
    columns, epoch = place.shape[1], converters.epoch
    macros = converters.macro[at.group]
    macro = int(macros[0]) if (macros == macros[0]).all() else torch.from_numpy(macros).to(place.device)
    z = noise_deviates(cycle * column_stride(columns), columns, macro, seed=seed, epoch=epoch)
    sigma = tables.sigma[adc, 0] if tables.sigma.shape[1] == 1 else tables.sigma[adc, place]
    noise = (sigma.to(torch.int64) * z + _NOISE_HALF) >> FRACTION_BITS
    if tables.slow is not None:
        used, which = torch.unique(adc, return_inverse=True)
        held = slow_deviates(cycle, used, converters.tables.octaves, seed=seed, epoch=epoch)
        noise += ((tables.slow[used].to(torch.int64) * held + _NOISE_HALF) >> FRACTION_BITS)[:, which]
    return noise


def _on_device(tables: AdcTables, device: torch.device) -> _DeviceTables:
    """The tables on a device; a copy is kept for the next call."""
    held = _device_tables.get(id(tables))
    if held is None or held.source is not tables or held.transfer.device != device:
        if len(_device_tables) >= HELD:
            _device_tables.clear()
        slow, code_map = (
            None if array is None else torch.from_numpy(array).to(device) for array in (tables.slow, tables.code_map)
        )
        sigma = torch.from_numpy(tables.sigma.reshape(len(tables.transfer), -1)).to(device)
        held = _DeviceTables(tables, torch.from_numpy(tables.transfer).to(device), sigma, slow, code_map)
        _device_tables[id(tables)] = held
    return held
