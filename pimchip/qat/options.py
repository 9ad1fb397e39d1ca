"""How PIM layers are trained: one immutable value that every layer of a network shares."""

from __future__ import annotations

from dataclasses import dataclass
from numbers import Integral, Real
from typing import Any, Literal, get_args

from pimchip.chip.mac import Coding
from pimchip.errors import InputError, unknown

Backward = Literal["gste", "ste", "lmmse"]
Xi = Literal["layer", "channel"]
Eta = Literal["const", "auto", "learnable"]
Scales = Literal["layer", "column"]
Range = Literal["fixed", "learned"]
Clip = Literal["fixed", "learned"]

_CHOICES: dict[str, Any] = {"backward": Backward, "xi": Xi, "eta": Eta, "scales": Scales, "range": Range, "clip": Clip}


def _is(kind: type, value: object) -> bool:
    return isinstance(value, kind) and not isinstance(value, bool)


@dataclass(frozen=True)
class PimOptions:
    """Raises InputError for a value that is none.

    backward: gradient through the ADC. gste: times xi = sqrt(VAR[y_PIM] / VAR[y]) (PIM-QAT, arXiv 2209.08617); ste: times
    1; lmmse: times rho * xi, the slope of the best linear estimate of y_PIM from y.
    xi: one factor a layer, or one a channel. After BN a channel's gradient shrinks by its own.
    eta: forward rescaling. auto: std(y) / std(y_PIM) of the first batches, then frozen.
    digital: no ADC at all, conventional quantization.
    noise_lsb: Gaussian noise before each conversion while training, LSB (noise injection, as Joshi et al., arXiv 1906.03138,
    do on analog weights).
    bit_aug: while training, each pass draws its ADC bits from the layer's -bit_aug .. +bit_aug at the same full scale
    (bit augmentation; RAOQ, ICML 2024).
    range: learned trains each layer's full scale by the step-size gradient of LSQ (arXiv 1902.08153);
    pimchip.qat.ranges.learned_ranges then takes the nearest that the chip offers.
    scales: column quantizes each output's weights on a scale of their own (column-wise quantization, DATE 2025).
    clip: learned trains the clip of every activation (PACT, arXiv 1805.06085).
    coding: of bit_serial's planes; see pimchip.chip.mac.Coding. plus_minus: weights are -1 or 1, whatever the chip's bits.
    """

    backward: Backward = "gste"
    eta: Eta = "const"
    digital: bool = False
    noise_lsb: float = 0.0
    xi: Xi = "layer"
    bit_aug: int = 0
    range: Range = "fixed"
    scales: Scales = "layer"
    clip: Clip = "fixed"
    coding: str = "twos_complement"

    def __post_init__(self) -> None:
        for name, kind in _CHOICES.items():
            if getattr(self, name) not in get_args(kind):
                raise InputError(unknown(name, getattr(self, name), get_args(kind)))
        Coding.parse(self.coding)
        if not isinstance(self.digital, bool):
            raise InputError(f"digital = {self.digital!r}: want True or False")
        if not _is(Real, self.noise_lsb) or not 0 <= self.noise_lsb <= 64:
            raise InputError(f"noise_lsb = {self.noise_lsb!r}: want a number in 0..64")
        if not _is(Integral, self.bit_aug) or not 0 <= self.bit_aug <= 8:
            raise InputError(f"bit_aug = {self.bit_aug!r}: want a whole number of bits in 0..8")

    @property
    def idle(self) -> list[str]:
        """Options of the ADC that were asked for and do nothing, as there is none."""
        of_the_adc = ("backward", "eta", "noise_lsb", "xi", "bit_aug", "range")
        return [name for name in of_the_adc if self.digital and getattr(self, name) != type(self).__dict__[name]]

    @property
    def training_only(self) -> list[str]:
        """Options whose networks a program for the chip cannot hold yet."""
        wrong = {"range": "fixed", "clip": "fixed", "coding": "twos_complement"}
        return [f"{name} = {getattr(self, name)}" for name, value in wrong.items() if getattr(self, name) != value]
