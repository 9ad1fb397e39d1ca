"""Counts that were taken elsewhere, by a lab's own scripts: one plain .npz, fitted and kept as a profile.

calibration_data/README.md documents the arrays. Nothing in the file is trusted: unknown names, types, shapes and values
out of range are errors that name the array.
"""

from __future__ import annotations

import zipfile
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pimchip.characterize.fit import fit
from pimchip.characterize.ladder import models_of
from pimchip.chip import ChipSpec, Mac, load_chip
from pimchip.chip.parts import REFERENCE_TEMPERATURE
from pimchip.errors import InputError
from pimchip.profile import Counts, Profile, Record

TEXTS = ("chip", "uid", "scheme")
POINT = ("rows", "weight_bits", "act_bits", "dac_bits", "adc_bits", "range_divisor")
CONDITIONS = ("temperature", "supply", "age")
KNOWN = ("levels", "codes", "histogram", "adcs", "cycles", *TEXTS, *POINT, *CONDITIONS)
_LARGEST = 1 << 32
"""Bytes of one array."""

Arrays = dict[str, NDArray[Any]]


def profile_of_counts(path: Path, out: Path, *, models: bool = False, seed: int = 0) -> Profile:
    """Fit the counts of a file, write them as a profile under `out`; models, seed: see refit. InputError names file and array."""
    try:
        return _profile(_read(path), out, models, seed)
    except InputError as error:
        raise InputError(f"counts {path}: {error}") from None


def _read(path: Path) -> Arrays:
    try:
        with zipfile.ZipFile(path) as archive:
            for entry in archive.infolist():
                name = entry.filename.removesuffix(".npy")
                if name not in KNOWN:
                    raise InputError(f"array {name!r} is unknown; known: {', '.join(KNOWN)}")
                if entry.file_size > _LARGEST:
                    raise InputError(f"array {name} has more than {_LARGEST} bytes")
        with np.load(path, allow_pickle=False) as held:
            return {name: held[name] for name in held.files}
    except (OSError, zipfile.BadZipFile, ValueError, EOFError) as error:
        raise InputError(f"is no .npz of plain arrays ({error})") from None


def _profile(held: Arrays, out: Path, models: bool, seed: int) -> Profile:
    spec = load_chip(_text(held, "chip"))
    uid = _text(held, "uid")
    given = {name: int(_number(held, name, whole=True)) for name in POINT if name in held}
    scheme = {"scheme": _text(held, "scheme")} if "scheme" in held else {}
    mac = spec.mac(**given, **scheme)  # type: ignore[arg-type]
    counts = _counts(spec, mac, held)
    at = {name: float(_number(held, name)) for name in CONDITIONS if name in held}
    now, found = datetime.now(UTC), fit(counts)
    record = Record(
        uid=uid,
        spec=spec,
        temperature=at.get("temperature", REFERENCE_TEMPERATURE),
        seed=0,
        created=now.date().isoformat(),
        method={"stimulus": "taken elsewhere", "confidence": 0.95, "trim": []},
        points=(found,),
        models=models_of([found], [counts], seed) if models else None,
        supply=at.get("supply"),
        age=at.get("age"),
        measured=now.isoformat(timespec="milliseconds"),
    )
    return Profile.save(out, record, [counts])


def _counts(spec: ChipSpec, mac: Mac, held: Arrays) -> Counts:
    levels = _whole(held, "levels", 1)
    total = spec.array.macros * spec.adc.per_macro
    if ("codes" in held) == ("histogram" in held):
        raise InputError("give either codes [converters, levels, reads] or histogram [converters, levels, codes]")
    data = _whole(held, "codes" if "codes" in held else "histogram", 3)
    adcs = _whole(held, "adcs", 1) if "adcs" in held else np.arange(len(data))
    if len(adcs) != len(data) or len(np.unique(adcs)) != len(adcs) or adcs.min() < 0 or adcs.max() >= total:
        raise InputError(
            f"adcs names {len(adcs)} converters for {len(data)} rows of data: want one of 0..{total - 1} for each, none twice"
        )
    if data.shape[1] != len(levels):
        raise InputError(f"{data.shape[1]} levels of data do not fit the {len(levels)} in levels")
    order = np.argsort(levels)
    codes = mac.code_max - mac.code_min + 1
    if "codes" in held:
        if data.min() < mac.code_min or data.max() > mac.code_max:
            raise InputError(
                f"codes in {data.min()}..{data.max()}: want {mac.code_min}..{mac.code_max} ({mac.describe()})"
            )
        key = data - mac.code_min + np.arange(data.shape[0] * data.shape[1]).reshape(*data.shape[:2], 1) * codes
        data = np.bincount(key.ravel(), minlength=data.shape[0] * data.shape[1] * codes).reshape(*data.shape[:2], codes)
    elif data.shape[2] != codes or data.min() < 0:
        raise InputError(f"histogram has {data.shape[2]} codes: want counts of {codes}, from code {mac.code_min} on")
    if data.sum(axis=2).max() >= 1 << 32:
        raise InputError(f"a level holds {data.sum(axis=2).max()} reads of a converter: want less than 2^32")
    histogram = np.zeros((total, len(levels), codes), np.uint32)
    histogram[adcs] = data[:, order]
    base = np.full((total, len(levels)), mac.code_min, np.int32)
    reads = int(histogram.sum(axis=2).max())
    cycles = int(_number(held, "cycles", whole=True)) if "cycles" in held else -(-reads // spec.columns_per_adc)
    return Counts(mac, np.ascontiguousarray(levels[order]), reads, cycles, *_narrowed(base, histogram))


def _narrowed(base: NDArray[np.int32], histogram: NDArray[np.uint32]) -> tuple[NDArray[np.int32], NDArray[np.uint32]]:
    """Each row from its lowest code on, as wide as the widest."""
    seen = histogram > 0
    first = np.where(seen.any(axis=2), seen.argmax(axis=2), 0)
    last = np.where(seen.any(axis=2), seen.shape[2] - 1 - seen[:, :, ::-1].argmax(axis=2), 0)
    span = int((last - first).max()) + 1
    at = np.minimum(first[:, :, None] + np.arange(span), seen.shape[2] - 1)
    kept = np.take_along_axis(histogram, at, axis=2)
    kept[first[:, :, None] + np.arange(span) > last[:, :, None]] = 0
    return (base + first).astype(np.int32), np.ascontiguousarray(kept)


def _text(held: Arrays, name: str) -> str:
    array = held.get(name)
    if array is None or array.dtype.kind != "U" or array.ndim or not str(array):
        raise InputError(
            f"{name} is {'missing' if array is None else 'no text'}: a text is wanted, as numpy.array('sram65')"
        )
    return str(array)


def _number(held: Arrays, name: str, whole: bool = False) -> float:
    array = held[name]
    if array.ndim or array.dtype.kind not in ("iu" if whole else "iuf") or not np.isfinite(array):
        raise InputError(f"{name} is {array.dtype} {list(array.shape)}: want one {'integer' if whole else 'number'}")
    return float(array)


def _whole(held: Arrays, name: str, axes: int) -> NDArray[np.int64]:
    array = held.get(name)
    if array is None:
        raise InputError(f"array {name} is missing")
    if array.dtype.kind not in "iu" or array.ndim != axes or not array.size:
        raise InputError(f"{name} is {array.dtype} {list(array.shape)}: want integers with {axes} axes")
    if array.dtype == np.uint64 and array.max() >= 1 << 63:
        raise InputError(f"{name} holds values beyond 63 bits")
    return array.astype(np.int64)
