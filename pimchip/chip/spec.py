"""ChipSpec: what a kind of chip is, read from TOML. One die of it is the emulator's or the bench's business.

Errors and noise are given in LSB of the converter at its full resolution (`adc.bits`) and range divisor 1.
"""

from __future__ import annotations

import hashlib
import json
import tomllib
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, get_args

from pydantic import Field, ValidationError, model_validator

from pimchip.chip.layers import Tile
from pimchip.chip.mac import Coding, Mac, Scheme
from pimchip.chip.parts import (
    NEEDS,
    Adc,
    Array,
    BoardMemory,
    Cells,
    Dac,
    Energy,
    Noise,
    Operating,
    Part,
    Supply,
    Timing,
)
from pimchip.errors import InputError, unknown

SPECS = Path(__file__).with_name("specs")


LATER = {"adc": ("gain_trim_bits", "gain_trim_step")}
"""By section: keys that came after profiles and dies had been written."""
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
        # Any whole numbers, as far as the arithmetic goes; but what takes the first for the full range, and the order in
        # which ranges are measured and told, want them rising from 1. A slip such as 44 for 4 mostly breaks the order.
        given = self.adc.range_divisors
        if given[0] != 1 or any(a >= b for a, b in zip(given, given[1:], strict=False)):
            raise ValueError(
                f"adc.range_divisors must hold 1 and no value twice, rising, not {list(given)}: "
                f"write {sorted({1, *given})} if these are meant"
            )
        for kind, unit in (("trim", "LSB"), ("gain_trim", "a share of one")):
            bits, step = getattr(self.adc, f"{kind}_bits"), getattr(self.adc, f"{kind}_step")
            if bits and not step:
                raise ValueError(
                    f"adc.{kind}_bits = {bits} with adc.{kind}_step = 0: trim codes would move nothing; give "
                    f"{kind}_step, {unit} a code, or make {kind}_bits 0"
                )
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
    def trim_widths(self) -> tuple[int, ...]:
        """Bits of each trim register: one for the offset of each converter, over all macros, and where the chip has them as
        many for the gains after these."""
        adcs = self.array.macros * self.adc.per_macro
        gains = (self.adc.gain_trim_bits,) * adcs if self.adc.gain_trim_bits else ()
        return (self.adc.trim_bits,) * adcs + gains

    @property
    def columns_per_adc(self) -> int:
        """Columns that share a converter."""
        return self.array.columns // self.adc.per_macro

    def adc_of(self, macro: int, column: int) -> int:
        """The converter of a column, counted over all macros."""
        within = column % self.adc.per_macro if self.adc.interleave else column // self.columns_per_adc
        return macro * self.adc.per_macro + within

    def adcs_of(self, tile: Tile) -> list[int]:
        """The converter of each column of a tile."""
        macro, per_macro, each = tile.macro, self.adc.per_macro, self.columns_per_adc
        columns = range(tile.column, tile.column + tile.columns)
        return [macro * per_macro + (c % per_macro if self.adc.interleave else c // each) for c in columns]

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
        if mac.coding is not Coding.TWOS_COMPLEMENT:
            wrong.append(f"coding = {mac.coding} is for training studies; the chip writes twos_complement")
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
        """Plain values, for files; ChipSpec.from_dict reads them back. Keys that came later are left out where they say
        nothing, so that what older files hold, and their hashes, stay as they are."""
        data = self.model_dump(mode="json")
        for section, keys in LATER.items():
            for key in keys:
                if data[section][key] == type(getattr(self, section)).model_fields[key].default:
                    del data[section][key]
        return data

    @classmethod
    def from_dict(cls, data: object, source: str = "chip spec") -> ChipSpec:
        """Validate plain values; InputError names `source` and the field."""
        try:
            return cls.model_validate(data)
        except ValidationError as error:
            raise InputError(f"{source}: {_said(error)}") from None


def _said(error: ValidationError) -> str:
    """The error to tell first. A mistyped key goes before a missing one, which it often is."""
    found = error.errors()
    first = next((e for e in found if e["type"] == "extra_forbidden"), found[0])
    if first["type"] == "extra_forbidden":
        return _unknown_key(*map(str, first["loc"]), is_section=isinstance(first["input"], dict))
    where = ".".join(str(part) for part in first["loc"]) or "chip"
    given = f", not {first['input']!r}" if isinstance(first["input"], str | int | float) else ""
    said = first["msg"].removeprefix("Value error, ").replace("valid tuple", "valid array")  # as TOML calls it
    return f"{where}: {said}{given}"


def _unknown_key(*where: str, is_section: bool) -> str:
    """Near names, the sections that have a key of this name, and all keys of the section."""
    *section, key = where
    sections = _sections()
    if not section and is_section:
        return unknown("section", key, sections)
    known = sections[section[0]].model_fields if section else ChipSpec.model_fields.keys() - sections.keys()
    text = unknown("key", key, known)
    homes = [f"[{name}]" for name, part in sections.items() if key in part.model_fields]
    homes += ["the top of the file"] if section and key in ChipSpec.model_fields else []
    text += f"; {key} belongs in {' or '.join(homes)}" if homes else ""
    return f"{section[0]}: {text}" if section else f"top of the file: {text}"


def _sections() -> dict[str, type[Part]]:
    found: dict[str, type[Part]] = {}
    for name, field in ChipSpec.model_fields.items():
        for kind in (field.annotation, *get_args(field.annotation)):
            if isinstance(kind, type) and issubclass(kind, Part):
                found[name] = kind
    return found


def _check_needs(spec: ChipSpec, source: str) -> None:
    """Raise InputError for a key that does nothing because what it acts on is not given.

    For files alone: a program that sweeps a value, and a spec written out whole, may have it at its default.
    """
    for section, needs in NEEDS.items():
        part = getattr(spec, section)
        for key, others in needs.items():
            given = part.model_fields_set
            if key in given and getattr(part, key) and given.isdisjoint(others):
                wanted = " or ".join(others)
                raise InputError(
                    f"{source}: {section}.{key} is given without {wanted} and would do nothing: "
                    f"give {wanted} too, or leave {key} out"
                )


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
    except (ValueError, RecursionError, OSError) as error:  # of TOML, UTF-8, numbers of thousands of digits, nesting
        raise InputError(f"chip file {path}: {error}") from None
    source = f"chip file {path.name}"
    spec = ChipSpec.from_dict(data, source)
    _check_needs(spec, source)
    return spec


def chip_text(name: str) -> str:
    """The TOML of a built-in chip with its comments, to make a chip of your own from. Raises InputError with near matches."""
    if name not in known_chips():
        raise InputError(unknown("chip", name, known_chips()))
    return (SPECS / f"{name}.toml").read_text(encoding="utf-8")
