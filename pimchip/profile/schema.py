"""What manifest.toml must say, and how a point's description and summary are put there."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any

import numpy as np
from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from pimchip.chip import Mac, Scheme
from pimchip.profile.model import FLAGS, Float, PointResult

VERSION = 6
"""2 added supply, age, time of day and the flag stuck-bit; 3 the sections on health, array and bench, bands, DNL and numbers
of reads that differ between levels; 4 the sections on validity and models, 5 the curve beyond the outermost transitions, 6
when levels were read. Earlier ones are read, and written where nothing is known that they cannot say."""
VERSIONS = (1, 2, 3, 4, 5, VERSION)
MEASURED = r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}\+00:00$"


def _a_time(text: str) -> str:
    """The text of a date, or of a date and time. Raises ValueError where there is no such day, hour or minute."""
    datetime.fromisoformat(text)
    return text


_Hash = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
_Count = Annotated[int, Field(ge=1, le=1 << 32)]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


class File(_Strict):
    """A file beside the manifest."""

    name: str
    bytes: Annotated[int, Field(ge=0, le=1 << 34)]
    sha256: _Hash


class Operating(_Strict):
    """An operating point: the fields of Mac."""

    scheme: str
    rows: int
    weight_bits: int
    act_bits: int
    dac_bits: int
    adc_bits: int
    range_divisor: int

    def mac(self) -> Mac:
        """The operating point; InputError if out of range."""
        return Mac(
            Scheme.parse(self.scheme),
            self.rows,
            self.weight_bits,
            self.act_bits,
            self.dac_bits,
            self.adc_bits,
            self.range_divisor,
        )


class Point(Operating):
    """One measured operating point: the fields of Mac, and the staircase."""

    reads: _Count
    cycles: _Count
    levels: Annotated[int, Field(ge=3, le=1 << 24)]
    step_lsb: Annotated[float, Field(gt=0)]
    span: Annotated[int, Field(ge=1, le=1 << 16)]
    array_cycles: Annotated[int, Field(ge=0, le=1 << 48)] = 0
    all_reads: Annotated[int, Field(ge=0, le=1 << 56)] = 0
    summary: dict[str, Any] = {}


class Manifest(_Strict):
    """The whole manifest."""

    schema_version: int
    uid: Annotated[str, Field(min_length=1, max_length=200)]
    chip: str
    spec_hash: _Hash
    temperature: Annotated[float, Field(ge=-273.15, le=1000)]
    supply: Annotated[float, Field(gt=0, le=1000)] | None = None
    age: Annotated[float, Field(ge=0, le=1e9)] | None = None
    seed: Annotated[int, Field(ge=0, lt=1 << 64)]
    method: dict[str, Any]
    spec: dict[str, Any]
    health: dict[str, Any] | None = None
    array: dict[str, Any] | None = None
    validity: dict[str, Any] | None = None
    models: Annotated[list[dict[str, Any]], Field(max_length=4096)] | None = None
    points: Annotated[list[Point], Field(min_length=1, max_length=4096)]
    created: Annotated[str, Field(pattern=r"^\d{4}-\d\d-\d\d$"), AfterValidator(_a_time)]
    measured: Annotated[str, Field(pattern=MEASURED), AfterValidator(_a_time)] | None = None
    bench: dict[str, Any] | None = None
    hash: _Hash
    files: Annotated[list[File], Field(max_length=16)]

    def core(self) -> dict[str, Any]:
        """What the profile's hash covers."""
        data = self.model_dump(exclude={"created", "measured", "bench", "hash", "files"})
        for name in ("supply", "age", "health", "array", "validity", "models"):
            if data[name] is None:  # as before there were such fields
                del data[name]
        for point in data["points"]:
            del point["summary"]
            if self.schema_version < 3:
                del point["array_cycles"], point["all_reads"]
        return data


def describe(point: PointResult, span: int, version: int = VERSION) -> dict[str, Any]:
    """A point's entry in the manifest; span: codes a histogram row holds."""
    mac = point.mac
    added = {"array_cycles": point.array_cycles, "all_reads": point.all_reads} if version >= 3 else {}
    return added | {
        "scheme": str(mac.scheme),
        "rows": mac.rows,
        "weight_bits": mac.weight_bits,
        "act_bits": mac.act_bits,
        "dac_bits": mac.dac_bits,
        "adc_bits": mac.adc_bits,
        "range_divisor": mac.range_divisor,
        "reads": point.reads,
        "cycles": point.cycles,
        "levels": point.levels,
        "step_lsb": point.step,
        "span": span,
    }


def summary(point: PointResult) -> dict[str, Any]:
    """What a person wants to see of a point without opening the arrays; figures are left out where none is known."""
    flags = {flag: int(point.flagged(flag).sum()) for flag in FLAGS}
    figures = {
        "gain_median": _of(np.median, point.gain),
        "offset_median_lsb": _of(np.median, point.offset),
        "noise_median_lsb": _of(np.median, point.noise_lsb),
        "max_inl_lsb": _of(np.max, point.max_inl),
        "half_width_rms_lsb": _of(np.mean, point.half_width**2) ** 0.5,
        "half_width_max_lsb": _of(np.max, point.half_width),
    }
    kept: dict[str, Any] = {name: round(value, 6) for name, value in figures.items() if np.isfinite(value)}
    return kept | {"flags": {flag: count for flag, count in flags.items() if count}}


def _of(function: Any, values: Float) -> float:
    known = values[np.isfinite(values)]
    return float(function(known)) if len(known) else float("nan")
