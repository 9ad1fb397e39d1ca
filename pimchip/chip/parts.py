"""The sections of a chip spec, as its TOML file has them. Every physical effect is off at its default.

Errors and noise are in LSB of the converter at its full resolution (`adc.bits`) and range divisor 1. What acts on a
cell is relative to what the cell contributes.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

Lsb = Annotated[float, Field(ge=0, le=64)]
Share = Annotated[float, Field(ge=0, le=1)]
Joules = Annotated[float, Field(ge=0, le=1)]
Seconds = Annotated[float, Field(ge=0, le=1)]

ROUNDING = 1e-9
"""What a sum of shares may be off by."""
REFERENCE_TEMPERATURE, REFERENCE_KELVIN = 25.0, 298.15
"""Degrees Celsius, and the same in kelvin, at which a spec's errors hold."""


def _as_tuple(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


class Part(BaseModel):
    """A section: unknown names are errors, values do not change and are what they are ("4" and true are no numbers)."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


class Array(Part):
    """The crossbars. A macro is one array with its own ADCs."""

    macros: Annotated[int, Field(ge=1, le=4096)]
    rows: Annotated[int, Field(ge=1, le=16384, description="wordlines of a macro")]
    columns: Annotated[int, Field(ge=1, le=16384, description="bitlines of a macro")]
    weight_bits: Annotated[int, Field(ge=2, le=8, description="widest weight a cell (or its planes) can hold, bits")]


class Cells(Part):
    """What the cells of the array do to the sum of a column, beside what they were programmed to."""

    mismatch_sigma: Annotated[Share, Field(description="spread of a cell's contribution, fixed for the die")] = 0
    program_sigma: Annotated[Share, Field(description="the same, drawn anew each time the cell is programmed")] = 0
    retention_loss: Annotated[Share, Field(description="lost a decade of time: times log10(1 + hours)")] = 0
    retention_spread: Annotated[Share, Field(description="spread of that loss over cells, relative to it")] = 0
    read_disturb: Annotated[Share, Field(description="lost a million array cycles since programming")] = 0
    ir_drop: Annotated[Share, Field(description="lost by the row farthest from the converter; linear along rows")] = 0
    ir_drop_load: Annotated[Share, Field(description="lost at full scale by the column's own current")] = 0
    weak_rows: Annotated[Share, Field(description="chance that a wordline is weak")] = 0
    weak_row_loss: Annotated[Share, Field(description="lost by the cells of a weak wordline")] = 0
    stuck_zero: Annotated[Share, Field(description="chance that a cell is stuck at 0")] = 0
    stuck_full: Annotated[Share, Field(description="chance that a cell is stuck at its largest value")] = 0
    write_failure: Annotated[Share, Field(description="chance that a pulse leaves a cell as it was")] = 0

    @model_validator(mode="after")
    def _stuck_once(self) -> Cells:
        """A cell is stuck at one value, so the two chances add up to one."""
        if self.stuck_zero + self.stuck_full > 1 + ROUNDING:
            raise ValueError(
                f"stuck_zero = {self.stuck_zero:g} and stuck_full = {self.stuck_full:g} are chances of the same cell "
                f"and add up to {self.stuck_zero + self.stuck_full:g}: make them 1 or less together"
            )
        return self


class Dac(Part):
    """The row drivers."""

    bits: Annotated[int, Field(ge=1, le=8, description="widest slice, bits")]


class Adc(Part):
    """The column converters and what their mismatch does."""

    bits: Annotated[int, Field(ge=2, le=14, description="full resolution, bits; fewer can be chosen")]
    per_macro: Annotated[int, Field(ge=1, le=16384, description="converters a macro; its columns share them")]
    interleave: Annotated[
        bool, Field(description="false: neighbours share a converter; true: column c uses c mod per_macro")
    ] = False
    range_divisors: Annotated[
        tuple[Annotated[int, Field(ge=1, le=256)], ...], Field(min_length=1), BeforeValidator(_as_tuple)
    ] = (1,)
    gain_sigma: Annotated[float, Field(ge=0, le=0.2, description="spread of the gain, relative")] = 0
    offset_array_sigma: Annotated[
        Lsb, Field(description="spread of the offset of the array, in volts: LSB at full range")
    ] = 0
    offset_sigma: Annotated[Lsb, Field(description="spread of the converter's own offset, LSB at any setting")] = 0
    trim_bits: Annotated[int, Field(ge=0, le=12, description="width of the offset trim register, bits; 0: none")] = 0
    trim_step: Annotated[Lsb, Field(description="LSB a trim code")] = 0
    gain_trim_bits: Annotated[int, Field(ge=0, le=12, description="width of the gain trim register, bits; 0: none")] = 0
    gain_trim_step: Annotated[float, Field(ge=0, le=0.1, description="gain a code of it, relative")] = 0
    inl_master: Annotated[Lsb, Field(description="peak of the curve common to a die's converters, LSB")] = 0
    inl_residual: Annotated[Lsb, Field(description="rms of each converter's own curve, LSB")] = 0
    sar_sigma: Annotated[
        float,
        Field(
            ge=0,
            le=0.5,
            description="spread of the SAR's unit capacitors, relative: bit k is off by it * sqrt(2^k) LSB",
        ),
    ] = 0
    gain_drift_sigma: Annotated[
        float, Field(ge=0, le=0.01, description="spread of the gain's temperature coefficient, 1/K")
    ] = 0
    offset_drift_sigma: Annotated[Lsb, Field(description="spread of the offset's temperature coefficient, LSB/K")] = 0
    dead: Annotated[Share, Field(description="chance that a converter gives its lowest code whatever comes")] = 0
    stuck_bit: Annotated[Share, Field(description="chance that one bit of a converter's codes is stuck")] = 0


class Noise(Part):
    """Random from conversion to conversion."""

    array_sigma: Annotated[Lsb, Field(description="of the array, in volts: LSB at full range and resolution")] = 0
    adc_sigma: Annotated[Lsb, Field(description="of the converter, LSB at any setting")] = 0
    spread: Annotated[float, Field(ge=0, le=0.5, description="relative spread of both over converters")] = 0
    code_slope: Annotated[
        float, Field(ge=-1, le=10, description="sigma grows by this share from a sum of zero to full scale")
    ] = 0
    thermal: Annotated[bool, Field(description="array_sigma holds at 25 degrees and grows with sqrt(kelvin)")] = False
    flicker_sigma: Annotated[
        Lsb, Field(description="rms of the slow (1/f) noise of a converter, LSB at any setting")
    ] = 0
    flicker_octaves: Annotated[int, Field(ge=1, le=16, description="octaves of array cycles that it spans")] = 12


class Supply(Part):
    """The analog supply and what depends on it."""

    volts: Annotated[float, Field(gt=0, le=10, description="nominal; errors hold there")] = 1.0
    gain_sigma: Annotated[float, Field(ge=0, le=1, description="spread of the gain's supply coefficient, 1/V")] = 0
    offset_sigma: Annotated[Lsb, Field(description="spread of the offset's supply coefficient, LSB/V")] = 0


class Energy(Part):
    """Joules of the chip's elementary steps, at nominal supply. Whether they are measured or assumed is in the file."""

    source: Annotated[str, Field(description="where the figures are from: measured, published or assumed")]
    conversion: Annotated[Joules, Field(description="of one ADC at full resolution")]
    conversion_bit_factor: Annotated[
        float, Field(ge=1, le=4, description="energy of a conversion shrinks by this for each bit less")
    ] = 1.0
    dac_step: Annotated[Joules, Field(description="of driving one row for one slice")] = 0
    cell_mac: Annotated[Joules, Field(description="of one cell in one array cycle")] = 0
    cell_write: Annotated[Joules, Field(description="of programming one cell")] = 0
    digital_mac: Annotated[Joules, Field(description="of one multiply-accumulate of the processor")] = 0
    io_byte: Annotated[Joules, Field(description="of moving one byte in or out")] = 0
    idle_watts: Annotated[float, Field(ge=0, le=1000, description="drawn all the time")] = 0


class Timing(Part):
    """Seconds of the chip's elementary steps."""

    source: Annotated[str, Field(description="where the figures are from: measured, published or assumed")]
    settle: Annotated[Seconds, Field(description="of one array cycle before its conversions: drive and accumulate")]
    conversion: Annotated[Seconds, Field(description="of one conversion; columns of one ADC take turns")]
    row_write: Annotated[Seconds, Field(description="of programming one row of a macro")] = 0
    digital_mac: Annotated[Seconds, Field(description="of one multiply-accumulate of the processor")] = 0
    io_byte: Annotated[Seconds, Field(description="of moving one byte in or out")] = 0


class BoardMemory(Part):
    """What the board around the chip has."""

    feature_memory: Annotated[int, Field(ge=1024, le=1 << 40, description="bytes for feature maps")]


class Operating(Part):
    """The operating point taken where nothing else is asked for."""

    scheme: Literal["native", "differential", "bit_serial"]
    rows: Annotated[int, Field(ge=1, le=16384)]
    weight_bits: Annotated[int, Field(ge=2, le=8)] = 4
    act_bits: Annotated[int, Field(ge=1, le=8)] = 4
    dac_bits: Annotated[int, Field(ge=1, le=8)] = 4
    range_divisor: Annotated[int, Field(ge=1, le=256)] = 1


NEEDS: dict[str, dict[str, tuple[str, ...]]] = {
    "adc": {
        "trim_bits": ("trim_step",),
        "trim_step": ("trim_bits",),
        "gain_trim_bits": ("gain_trim_step",),
        "gain_trim_step": ("gain_trim_bits",),
    },
    "noise": {
        "spread": ("array_sigma", "adc_sigma", "flicker_sigma"),
        "code_slope": ("array_sigma", "adc_sigma"),
        "thermal": ("array_sigma",),
        "flicker_octaves": ("flicker_sigma",),
    },
    "cells": {
        "retention_spread": ("retention_loss",),
        "weak_rows": ("weak_row_loss",),
        "weak_row_loss": ("weak_rows",),
    },
}
"""By section: keys that do nothing unless one of the others is there."""
