"""What a board says of itself over a link: the capability blob, read, checked and made into what BoardInfo holds."""

from __future__ import annotations

import zlib
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from pimchip.board.api import CAPABILITIES, Capability
from pimchip.chip import ChipSpec
from pimchip.chip.effects import Effect
from pimchip.errors import InputError, ProtocolError
from pimchip.link.blob import unpack_blob
from pimchip.link.constants import MAX_BLOB, MAX_CHUNKS, Op, Region
from pimchip.link.requests import Requests
from pimchip.link.transfers import read_region


def _printable(text: str) -> str:
    if not text.isprintable():  # it ends on terminals
        raise ValueError("characters that cannot be printed")
    return text


_Text = Annotated[str, Field(max_length=255), AfterValidator(_printable)]
_Names = Annotated[list[_Text], Field(max_length=1 << 16)]
_Handles = Annotated[int, Field(ge=1, le=1 << 16)]
_Bytes = Annotated[int, Field(ge=1, le=MAX_CHUNKS * 4096)]
BUDGET_MAX = 3_600_000
"""Milliseconds that a board may ask a host to wait for an op, at most."""
_held: dict[tuple[int, int], Description] = {}


class _Part(BaseModel):
    """Unknown keys are left alone: a newer board may say more."""

    model_config = ConfigDict(strict=True, frozen=True, allow_inf_nan=False)


class Limits(_Part):
    """How much of each a board takes. Handles; bytes of one CONVERT; bytes of CELLS, 0 where it takes one tile at a time."""

    layers: _Handles = 16
    requants: _Handles = 16
    weights: _Handles = 16
    cells: Annotated[int, Field(ge=0, le=1 << 40)] = 0
    inputs: _Bytes = 1 << 16
    codes: _Bytes = 1 << 16


class _Effect(_Part):
    name: _Text
    value: bool | float
    unit: _Text
    meaning: _Text
    kind: Literal["converters", "noise", "cells"]
    on: bool
    shaped_by: Annotated[list[Annotated[tuple[_Text, float], Field(strict=False)]], Field(max_length=64)] = []
    depends_on: Literal["temperature", "supply", "age"] | None = None

    def effect(self) -> Effect:
        return Effect(**{**dict(self), "shaped_by": tuple(self.shaped_by)})


class Description(_Part):
    """The blob's content. chip: a chip's description as ChipSpec.to_dict; budgets: ms by op, in lower case."""

    uid: _Text
    chip: dict[str, Any]
    firmware: _Text
    capability_names: Annotated[list[_Text], Field(alias="capabilities", max_length=64)]
    feature_memory: Annotated[int, Field(ge=0, le=1 << 40)]
    effect_list: Annotated[list[_Effect], Field(alias="effects", max_length=256)] = []
    profile: Annotated[str, Field(max_length=4096), AfterValidator(_printable)] = ""
    registers: _Names = []
    counters: _Names = []
    limits: Limits = Limits()
    budgets: dict[_Text, Annotated[int, Field(ge=0, le=BUDGET_MAX)]] = {}
    blob_crc: int = 0

    @property
    def capabilities(self) -> frozenset[Capability]:
        """Those that this host knows."""
        return frozenset(c for c in CAPABILITIES if c in self.capability_names)

    @property
    def op_budgets(self) -> dict[Op, float]:
        """Seconds by op, of those that this host knows."""
        return {op: self.budgets[op.name.lower()] / 1000 for op in Op if op.name.lower() in self.budgets}

    @property
    def effects(self) -> tuple[Effect, ...]:
        """Of an emulated die."""
        return tuple(effect.effect() for effect in self.effect_list)

    @property
    def spec(self) -> ChipSpec:
        """The chip."""
        return ChipSpec.from_dict(self.chip, "the board's chip")


def read_description(link: Requests) -> Description:
    """Ask a board what it is. ProtocolError where what it says cannot be, or does not agree with its HELLO."""
    hello = link.hello
    key = hello.blob_crc, hello.blob_size
    if key not in _held:
        if not 1 <= hello.blob_size <= MAX_BLOB:
            raise ProtocolError(f"{link.name}: capabilities of {hello.blob_size} bytes, want 1 to {MAX_BLOB}")
        data = read_region(link, Region.BLOB, 0, hello.blob_size)
        if zlib.crc32(data) != hello.blob_crc:
            raise ProtocolError(f"{link.name}: the capabilities are not those that HELLO has the CRC of")
        try:
            found = Description.model_validate(unpack_blob(data) | {"blob_crc": hello.blob_crc})
            spec_hash = found.spec.hash
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(map(str, first["loc"]))
            raise ProtocolError(f"{link.name}: its capabilities are wrong at {where}: {first['msg']}") from None
        except (InputError, ProtocolError) as error:
            raise ProtocolError(f"{link.name}: {error}") from None
        if bytes.fromhex(spec_hash) != hello.spec_hash:
            raise ProtocolError(
                f"{link.name}: its chip's description has hash {spec_hash[:8]}, HELLO said {hello.spec_hash.hex()[:8]}"
            )
        if len(set(found.registers)) != len(found.registers) or len(set(found.counters)) != len(found.counters):
            raise ProtocolError(f"{link.name}: a register or counter is named twice")
        if len(_held) >= 16:
            _held.clear()
        _held[key] = found
    elif bytes.fromhex(_held[key].spec.hash) != hello.spec_hash:
        raise ProtocolError(f"{link.name}: capabilities and HELLO speak of different chips")
    return _held[key]
