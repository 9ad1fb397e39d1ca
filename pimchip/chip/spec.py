"""ChipSpec: what a kind of chip is, read from TOML. One die of it is the emulator's or the bench's business.

Errors and noise are given in LSB of the converter at its full resolution (`adc.bits`) and range divisor 1.
"""

from __future__ import annotations

import hashlib
import json
import tomllib
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from pimchip.chip.mac import Mac, Scheme
from pimchip.errors import InputError, unknown

SPECS = Path(__file__).with_name("specs")

Lsb = Annotated[float, Field(ge=0, le=64)]


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class Array(_Part):
    """The crossbars. A macro is one array with its own ADCs."""

    macros: Annotated[int, Field(ge=1, le=4096)]
    rows: Annotated[int, Field(ge=1, le=16384, description="wordlines of a macro")]
    columns: Annotated[int, Field(ge=1, le=16384, description="bitlines of a macro")]
    weight_bits: Annotated[int, Field(ge=2, le=8, description="widest weight a cell (or its planes) can hold, bits")]


class Dac(_Part):
    """The row drivers."""

    bits: Annotated[int, Field(ge=1, le=8, description="widest slice, bits")]


class Adc(_Part):
    """The column converters and what their mismatch does."""

    bits: Annotated[int, Field(ge=2, le=14, description="full resolution, bits; fewer can be chosen")]
    per_macro: Annotated[int, Field(ge=1, le=16384, description="converters a macro; its columns share them")]
    interleave: Annotated[
        bool, Field(description="false: neighbours share a converter; true: column c uses c mod per_macro")
    ] = False
    range_divisors: Annotated[tuple[Annotated[int, Field(ge=1, le=256)], ...], Field(min_length=1)] = (1,)
    gain_sigma: Annotated[float, Field(ge=0, le=0.2, description="spread of the gain, relative")] = 0
    offset_array_sigma: Annotated[
        Lsb, Field(description="spread of the offset of the array, in volts: LSB at full range")
    ] = 0
    offset_sigma: Annotated[Lsb, Field(description="spread of the converter's own offset, LSB at any setting")] = 0
    trim_bits: Annotated[int, Field(ge=0, le=12, description="width of the offset trim register, bits; 0: none")] = 0
    trim_step: Annotated[Lsb, Field(description="LSB a trim code")] = 0
    inl_master: Annotated[Lsb, Field(description="peak of the curve common to a die's converters, LSB")] = 0
    inl_residual: Annotated[Lsb, Field(description="rms of each converter's own curve, LSB")] = 0
    gain_drift_sigma: Annotated[
        float, Field(ge=0, le=0.01, description="spread of the gain's temperature coefficient, 1/K")
    ] = 0
    offset_drift_sigma: Annotated[Lsb, Field(description="spread of the offset's temperature coefficient, LSB/K")] = 0


class Noise(_Part):
    """Random from conversion to conversion."""

    array_sigma: Annotated[Lsb, Field(description="of the array, in volts: LSB at full range and resolution")] = 0
    adc_sigma: Annotated[Lsb, Field(description="of the converter, LSB at any setting")] = 0
    spread: Annotated[float, Field(ge=0, le=0.5, description="relative spread of both over converters")] = 0


class BoardMemory(_Part):
    """What the board around the chip has."""

    feature_memory: Annotated[int, Field(ge=1024, le=1 << 40, description="bytes for feature maps")]


class Operating(_Part):
    """The operating point taken where nothing else is asked for."""

    scheme: Literal["native", "differential", "bit_serial"]
    rows: Annotated[int, Field(ge=1, le=16384)]
    weight_bits: Annotated[int, Field(ge=2, le=8)] = 4
    act_bits: Annotated[int, Field(ge=1, le=8)] = 4
    dac_bits: Annotated[int, Field(ge=1, le=8)] = 4
    range_divisor: Annotated[int, Field(ge=1, le=256)] = 1


class ChipSpec(_Part):
    """A kind of chip. Built from TOML by load_chip; immutable; equal specs have equal hashes."""

    name: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_.-]{0,63}$")]
    description: str
    array: Array
    dac: Dac
    adc: Adc
    noise: Noise = Noise()
    board: BoardMemory
    operating: Operating

    @model_validator(mode="after")
    def _fits(self) -> ChipSpec:
        if self.array.columns % self.adc.per_macro:
            raise ValueError(
                f"array.columns = {self.array.columns} is no multiple of adc.per_macro = {self.adc.per_macro}"
            )
        if 1 not in self.adc.range_divisors or len(set(self.adc.range_divisors)) != len(self.adc.range_divisors):
            raise ValueError("adc.range_divisors must hold 1 and no value twice")
        try:
            self.mac()
        except InputError as error:
            raise ValueError(f"operating: {error}") from None
        return self

    @cached_property
    def hash(self) -> str:
        """SHA-256 of the canonical content, hex."""
        return hashlib.sha256(json.dumps(self.model_dump(mode="json"), sort_keys=True).encode()).hexdigest()

    @property
    def columns_per_adc(self) -> int:
        """Columns that share a converter."""
        return self.array.columns // self.adc.per_macro

    def adc_of(self, macro: int, column: int) -> int:
        """The converter of a column, counted over all macros."""
        within = column % self.adc.per_macro if self.adc.interleave else column // self.columns_per_adc
        return macro * self.adc.per_macro + within

    def mac(
        self,
        *,
        scheme: str | None = None,
        rows: int | None = None,
        weight_bits: int | None = None,
        act_bits: int | None = None,
        dac_bits: int | None = None,
        adc_bits: int | None = None,
        range_divisor: int | None = None,
    ) -> Mac:
        """An operating point of this chip: its own defaults where None. Raises InputError for what it cannot do."""
        own = self.operating
        activation = own.act_bits if act_bits is None else act_bits
        mac = Mac(
            Scheme.parse(own.scheme if scheme is None else scheme),
            own.rows if rows is None else rows,
            own.weight_bits if weight_bits is None else weight_bits,
            activation,
            min(own.dac_bits, activation) if dac_bits is None else dac_bits,
            self.adc.bits if adc_bits is None else adc_bits,
            own.range_divisor if range_divisor is None else range_divisor,
        )
        self.check(mac)
        return mac

    def check(self, mac: Mac) -> None:
        """Raise InputError, naming every limit missed, if this chip cannot work at `mac`."""
        wrong = [
            f"{name} = {value} is more than the chip's {limit}"
            for name, value, limit in (
                ("rows", mac.rows, self.array.rows),
                ("weight_bits", mac.weight_bits, self.array.weight_bits),
                ("dac_bits", mac.dac_bits, self.dac.bits),
                ("adc_bits", mac.adc_bits, self.adc.bits),
                ("columns an output", mac.planes, self.array.columns),
            )
            if value > limit
        ]
        if mac.range_divisor not in self.adc.range_divisors:
            offered = ", ".join(map(str, self.adc.range_divisors))
            wrong.append(f"range_divisor = {mac.range_divisor} is none of the chip's {offered}")
        if wrong:
            raise InputError(f"chip {self.name}: {'; '.join(wrong)}")

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for files; ChipSpec.from_dict reads them back."""
        return self.model_dump(mode="json")

    @classmethod
    def from_dict(cls, data: object, source: str = "chip spec") -> ChipSpec:
        """Validate plain values; InputError names `source` and the field."""
        try:
            return cls.model_validate(data)
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(str(part) for part in first["loc"]) or "chip"
            raise InputError(f"{source}: {where}: {first['msg'].removeprefix('Value error, ')}") from None


def known_chips() -> list[str]:
    """Names of the built-in chips."""
    return sorted(path.stem for path in SPECS.glob("*.toml"))


def load_chip(name_or_path: str | Path) -> ChipSpec:
    """A built-in chip by name, or one of your own from a TOML file. Raises InputError with near matches."""
    text = str(name_or_path)
    path = SPECS / f"{text}.toml" if text in known_chips() else Path(text)
    if path.suffix != ".toml" or not path.is_file():
        if path.suffix == ".toml":
            raise InputError(f"chip file {text} is not there; name a TOML file or one of {', '.join(known_chips())}")
        raise InputError(unknown("chip", text, known_chips()) + "; or name a .toml file")
    try:
        data = tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, OSError) as error:
        raise InputError(f"chip file {path}: {error}") from None
    return ChipSpec.from_dict(data, f"chip file {path.name}")
