"""How a staircase is laid out: which levels, how far apart, how many reads."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pimchip.characterize.curve import widening
from pimchip.characterize.estimators import BIAS_SHARE, Z95, reads_per_lsb, step_bias
from pimchip.chip import ChipSpec, Mac
from pimchip.errors import InputError

FEWEST_READS = 4
"""Of a converter at a level; below that the scatter of the reads is no measure of their error."""
LARGEST_STRIDE = 64


@dataclass(frozen=True)
class Plan:
    """A staircase. levels: int64, column sums at distance stride * cell_max. cycles: array cycles a level, each of
    which reads a converter once through each of its columns. sigma: the noise it was laid out for, LSB."""

    mac: Mac
    levels: NDArray[np.int64]
    stride: int
    cycles: int
    sigma: float

    @property
    def step(self) -> float:
        """Distance of levels, LSB."""
        return self.stride * unit(self.mac)


def unit(mac: Mac) -> float:
    """The smallest distance of two levels, one input count in full cells, LSB."""
    return mac.cell_max * (mac.levels * mac.range_divisor) / mac.sum_max


def nominal_noise(spec: ChipSpec, mac: Mac) -> float:
    """What the chip's description expects, LSB: where planning starts before anything is measured."""
    volts = mac.range_divisor * 2.0 ** (mac.adc_bits - spec.adc.bits)
    return math.hypot(spec.noise.array_sigma * volts, spec.noise.adc_sigma)


def levels(spec: ChipSpec, mac: Mac, stride: int, sigma: float) -> NDArray[np.int64]:
    """Column sums from the bottom up to where the last code of any likely converter is passed; int64.

    Signed converters get both halves. "Likely" is three sigma of gain and offset, the curve and four sigma of noise.
    """
    adc, volts = spec.adc, mac.range_divisor * 2.0 ** (mac.adc_bits - spec.adc.bits)
    offset = math.hypot(adc.offset_array_sigma * volts, adc.offset_sigma)
    margin = 4 * sigma + 3 * offset + 3 * adc.gain_sigma * mac.levels + adc.inl_master
    last = min(math.ceil((mac.levels + margin) / unit(mac)), mac.rows * (mac.digit - 1)) // stride
    if last < 2:
        raise InputError(f"{mac.describe()}: fewer than three levels of input: use more DAC bits or rows")
    return np.arange(-last if mac.signed else 0, last + 1, dtype=np.int64) * (stride * mac.cell_max)


def pilot(spec: ChipSpec, mac: Mac, columns: int, sigma: float) -> Plan:
    """A first look with few reads at fine steps. columns: of a converter. sigma: noise expected, LSB."""
    stride = min(max(int(sigma / 2 / unit(mac)), 1), LARGEST_STRIDE)
    return Plan(mac, levels(spec, mac, stride, sigma), stride, -(-2 * FEWEST_READS // columns), sigma)


def plan(
    spec: ChipSpec, mac: Mac, columns: int, mean: float, smallest: float, half_width: float, reads: int | None
) -> Plan:
    """The cheapest staircase whose thresholds have 95 % intervals of +-half_width LSB, mean square over converters.

    columns: of a converter. mean, smallest: noise over converters, LSB. reads: at a level, instead of half_width.
    Steps are no wider than the smallest noise, where their bias is below 1e-9 LSB.
    """
    widest = min(max(int(smallest / unit(mac)), 1), LARGEST_STRIDE)
    if reads is not None:
        stride, cycles = widest, -(-max(reads, FEWEST_READS) // columns)
    else:
        wanted = reads_per_lsb(mean, half_width / float(widening(mean))) * unit(mac) / columns
        least = -(-FEWEST_READS // columns)
        cost = {n: max(math.ceil(wanted * n), least) for n in range(1, widest + 1)}
        stride = min(cost, key=lambda n: (cost[n] / n, -n))
        cycles = cost[stride]
    return Plan(mac, levels(spec, mac, stride, mean), stride, cycles, mean)


def check_steps(mac: Mac, step: float, sigma: float, se: float) -> None:
    """Raise InputError where steps bias thresholds by more than a fifth of their standard error, all in LSB."""
    bias = float(step_bias(step, np.array(sigma)))
    if bias > BIAS_SHARE * se:
        raise InputError(
            f"{mac.describe()}: levels are {step:.2f} LSB apart and the noise is {sigma:.2f} LSB, so thresholds would "
            f"be off by up to {bias:.3f} LSB: finer steps are wanted: fewer ADC bits, or a chip file "
            "with more [dac] bits or [operating] rows (the curve serves fewer DAC bits too)"
        )


def expected_se(half_width: float) -> float:
    """Standard error that belongs to a 95 % half-width."""
    return half_width / Z95
