"""ChipSpec: what a kind of chip is, read from TOML. One die of it is the emulator's or the bench's business.

Errors and noise are given in LSB of the converter at its full resolution (`adc.bits`) and range divisor 1.
"""

from __future__ import annotations

import hashlib
import json
import tomllib
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, ValidationError, model_validator

from pimchip.chip.mac import Mac, Scheme
from pimchip.chip.parts import Adc, Array, BoardMemory, Cells, Dac, Energy, Noise, Operating, Part, Supply, Timing
from pimchip.errors import InputError, unknown

SPECS = Path(__file__).with_name("specs")


SUM_LIMIT = 1 << 24
TABLE_LIMIT = 1 << 30
"""Entries of all converters' tables at one operating point, 4 GiB."""
CELL_LIMIT = 1 << 32
"""Cells of all macros."""


class ChipSpec(Part):
    """A kind of chip. Built from TOML by load_chip; immutable; equal specs have equal hashes."""

    name: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_.-]{0,63}$")]
    description: str
    array: Array
    dac: Dac
    adc: Adc
    noise: Noise = Noise()
    cells: Cells = Cells()
    supply: Supply = Supply()
    energy: Energy | None = None
    timing: Timing | None = None
    board: BoardMemory
    operating: Operating

    @model_validator(mode="after")
    def _fits(self) -> ChipSpec:
        if self.array.columns % self.adc.per_macro:
            raise ValueError(
                f"array.columns = {self.array.columns} is no multiple of adc.per_macro = {self.adc.per_macro}"
            )
        if self.array.macros * self.array.rows * self.array.columns > CELL_LIMIT:
            raise ValueError(f"array has more than {CELL_LIMIT} cells: use fewer macros, rows or columns")
        if 1 not in self.adc.range_divisors or len(set(self.adc.range_divisors)) != len(self.adc.range_divisors):
            raise ValueError("adc.range_divisors must hold 1 and no value twice")
        try:
            self.mac()
        except InputError as error:
            raise ValueError(f"operating: {error}") from None
        return self

    @cached_property
    def hash(self) -> str:
        """SHA-256 of what decides codes, hex: all but description, energy and timing.

        Values left at their defaults do not count, so a field added to the format later changes no hash.
        """
        content = self.model_dump(mode="json", exclude_defaults=True, exclude={"description", "energy", "timing"})
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()

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
        # Float32 holds sums below 2^24 exactly, and converters have a table entry for each.
        if mac.sum_max >= SUM_LIMIT:
            wrong.append(f"column sums reach {mac.sum_max}, more than {SUM_LIMIT - 1}: use fewer rows or bits")
        entries = (mac.sum_max - mac.sum_min + 1) * self.array.macros * self.adc.per_macro
        if entries > TABLE_LIMIT:
            wrong.append(
                f"converter tables have {entries} entries, more than {TABLE_LIMIT}: use fewer macros, rows or bits"
            )
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
