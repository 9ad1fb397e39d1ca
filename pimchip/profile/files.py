"""A profile on disk: OUT/<uid>/<date>-<hash8>/ with manifest.toml, counts.npz and result.npz.

A reader trusts nothing: the manifest's checksum, the schema version, every file's size and SHA-256, every array's
type and shape before it is read, the values' ranges, and at last the hash of the whole content.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import re
import shutil
import tempfile
import warnings
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError

from pimchip.chip import ChipSpec, Mac
from pimchip.errors import InputError, PimchipWarning
from pimchip.files import replacing
from pimchip.profile import manifest, npz
from pimchip.profile.array import PREFIX, ArraySection
from pimchip.profile.health import Health
from pimchip.profile.model import FLAGS, Counts, PointResult, Record, result_arrays, result_shape
from pimchip.profile.schema import VERSION, VERSIONS, Manifest, Point, describe, summary
from pimchip.profile.tables import serves
from pimchip.profile.validity import Validity

MANIFEST, COUNTS, RESULT = "manifest.toml", "counts.npz", "result.npz"
Arrays = dict[str, NDArray[Any]]

_MEND = "copy it again from its source, or measure again (pimchip characterize)"
_MANIFEST_BYTES = 1 << 24
_COMPRESSION = 3


def write(out: Path, record: Record, counts: Sequence[Counts]) -> tuple[Path, str]:
    """Write a profile; returns its folder and its hash. An identical folder that is there is kept, and notes when its
    content was measured last.

    Raises InputError if the folder's place is taken by something else or cannot be written.
    """
    version = _version(record, counts)
    results = _result_arrays(record.points, version) | _array_arrays(record)
    arrays = {COUNTS: _count_arrays(counts, version), RESULT: results}
    core = _core(record, counts)
    digest = _digest(core, arrays)
    folder = out / _file_name(record.uid) / f"{record.created}-{digest[:8]}"
    if folder.exists():
        held, found, _ = read(folder)
        if found != digest:
            raise InputError(f"{folder} holds another profile; name another --out")
        if record.measured is not None and (held.measured or "") < record.measured:
            _note_time(folder, record.measured)
        return folder, digest
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=".unfinished-", dir=folder.parent))
        try:
            _write_files(temporary, core, record, digest, arrays)
            temporary.chmod(0o755)  # mkdtemp keeps others out; a profile is to be read
            os.replace(temporary, folder)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
    except OSError as error:
        raise InputError(f"profile {folder} cannot be written: {error.strerror or error}") from None
    return folder, digest


def read(path: Path) -> tuple[Record, str, Path]:
    """Record, hash and folder of a profile, by its folder or manifest. Checks both array files; raises InputError."""
    folder = path.parent if path.name == MANIFEST else path
    said = _read_manifest(folder)
    spec = _spec(folder, said)
    adcs = spec.array.macros * spec.adc.per_macro
    arrays = {COUNTS: _read_arrays(folder, COUNTS, said, adcs), RESULT: _read_arrays(folder, RESULT, said, adcs)}
    with _named(folder / RESULT):
        points = tuple(_point(arrays[RESULT], i, p, said.schema_version) for i, p in enumerate(said.points))
    with _named(folder / COUNTS):
        for i, p in enumerate(said.points):
            _counts(arrays[COUNTS], i, p)
    with _named(folder / MANIFEST):
        health = None if said.health is None else Health.from_dict(said.health)
        array = None if said.array is None else ArraySection.of(said.array, arrays[RESULT])
        validity = None if said.validity is None else Validity.of(said.validity)
        if said.models is not None and len(said.models) != len(points):
            raise InputError(f"{len(said.models)} models do not fit {len(points)} points")
    record = Record(
        uid=said.uid,
        spec=spec,
        temperature=said.temperature,
        seed=said.seed,
        created=said.created,
        method=said.method,
        points=points,
        supply=said.supply,
        age=said.age,
        measured=said.measured,
        health=health,
        array=array,
        bench=said.bench,
        validity=validity,
        models=None if said.models is None else tuple(said.models),
    )
    if _digest(said.core(), arrays) != said.hash:
        raise InputError(f"{folder / MANIFEST} does not describe the files beside it (hash differs): {_MEND}")
    return record, said.hash, folder


def read_counts(folder: Path) -> tuple[Counts, ...]:
    """The raw counts of a profile's folder, in the order of its points."""
    said = _read_manifest(folder)
    spec = _spec(folder, said)
    arrays = _read_arrays(folder, COUNTS, said, spec.array.macros * spec.adc.per_macro)
    with _named(folder / COUNTS):
        return tuple(_counts(arrays, i, p) for i, p in enumerate(said.points))


def latest(folder: Path, serving: Sequence[Mac] = ()) -> Path:
    """The profile in a die's folder that was measured last, by the time that its manifest states; `folder` if none is there.

    serving: the last of those that measured all of these operating points. A profile that states only a date, as version
    1 did, counts as of that day's beginning. Files' own times are not looked at, as they change when a folder is copied.
    Raises InputError where none serves, saying what the last of all lacks, where the latest two state the same time, so
    that which is meant cannot be known, and for a folder of dies' folders.
    """
    found: list[tuple[str, Path]] = []
    lacking: list[tuple[str, Path, Mac]] = []
    for path in sorted(folder.glob(f"*/{MANIFEST}")):
        if path.parent.name.startswith("."):  # being written, or left unfinished
            continue
        try:
            said = _read_manifest(path.parent)
        except InputError as error:  # must not keep anyone from the good ones beside it
            warnings.warn(f"passed over: {error}", PimchipWarning, stacklevel=3)
            continue
        time, measured = said.measured or said.created, [point.mac() for point in said.points]
        missing = [mac for mac in serving if not any(serves(own, mac) for own in measured)]
        if missing:
            lacking.append((time, path.parent, missing[0]))
        else:
            found.append((time, path.parent))
    if not found and lacking:
        _, last, mac = max(lacking, key=lambda each: each[0])
        raise InputError(
            f"{folder}: none of its {len(lacking)} profiles measured all that is wanted; the latest, {last.name}, lacks "
            f"{mac.describe()}: run pimchip characterize --adc-bits {mac.adc_bits} --range-divisor {mac.range_divisor}"
        )
    if not found:
        below = sorted({path.parent.parent.name for path in folder.glob(f"*/*/{MANIFEST}")})
        if below:
            raise InputError(
                f"{folder / MANIFEST} is not there: it holds profiles of {', '.join(below[:8])}: name one of these folders "
                "in it"
            )
        return folder
    found.sort()
    if len(found) > 1 and found[-1][0] == found[-2][0]:
        names = " and ".join(place.name for _, place in found[-2:])
        raise InputError(f"{folder}: {names} both say that they are of {found[-1][0]}; name the one you mean")
    return found[-1][1]


def _note_time(folder: Path, measured: str) -> None:
    """Write another time into a manifest, which the hash does not cover; the whole file is replaced at once."""
    path = folder / MANIFEST
    data = manifest.unseal(path.read_bytes()) | {"measured": measured}
    with replacing(path) as temporary:
        _flush(temporary, manifest.seal(manifest.to_toml(data)).encode())


def _write_files(
    folder: Path, core: Mapping[str, Any], record: Record, digest: str, arrays: Mapping[str, Arrays]
) -> None:
    entries = []
    for name, content in arrays.items():
        packed = _packed(content)
        entries.append({"name": name, "bytes": len(packed), "sha256": hashlib.sha256(packed).hexdigest()})
        _flush(folder / name, packed)
    points = [dict(p) | {"summary": summary(r)} for p, r in zip(core["points"], record.points, strict=True)]
    time = {} if record.measured is None else {"measured": record.measured}
    data = dict(core) | {"created": record.created, **time, "hash": digest, "files": entries, "points": points}
    if record.bench is not None:
        data["bench"] = manifest.without_nothing(record.bench)
    try:
        Manifest.model_validate(data)  # what could not be read again is not written
    except ValidationError as error:
        first = error.errors()[0]
        raise InputError(f"a profile cannot say {'.'.join(map(str, first['loc']))}: {first['msg']}") from None
    _flush(folder / MANIFEST, manifest.seal(manifest.to_toml(data)).encode())


def _packed(content: Arrays) -> bytes:
    """As np.savez_compressed gives it, less tightly: a sixth larger, in a third of the time, which users wait for."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED, compresslevel=_COMPRESSION) as file:
        for name, array in content.items():
            with file.open(f"{name}.npy", "w", force_zip64=True) as entry:
                np.lib.format.write_array(entry, np.asarray(array), allow_pickle=False)
    return buffer.getvalue()


def _flush(path: Path, data: bytes) -> None:
    with path.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def _core(record: Record, counts: Sequence[Counts]) -> dict[str, Any]:
    """What the manifest says that the hash covers: all but date and time, the summaries and the file list."""
    if len(counts) != len(record.points):
        raise InputError(f"{len(record.points)} points and {len(counts)} sets of counts do not make a profile")
    conditions = {"temperature": record.temperature, "supply": record.supply, "age": record.age}
    version = _version(record, counts)
    return {
        "schema_version": version,
        "uid": record.uid,
        "chip": record.chip,
        "spec_hash": record.spec_hash,
        **{name: float(value) for name, value in conditions.items() if value is not None},
        "seed": record.seed,
        "method": dict(record.method),
        "spec": record.spec.to_dict(),
        **({} if record.health is None else {"health": record.health.to_dict()}),
        **({} if record.array is None else {"array": record.array.to_dict()}),
        **({} if record.validity is None else {"validity": record.validity.to_dict()}),
        **({} if record.models is None else {"models": [dict(each) for each in record.models]}),
        "points": [describe(p, c.histogram.shape[2], version) for p, c in zip(record.points, counts, strict=True)],
    }


def _version(record: Record, counts: Sequence[Counts]) -> int:
    """The first version that can say it all: what an old profile is refitted to has its hash."""
    if any(each.when.any() for each in counts):
        return 6
    if any(point.version >= 5 for point in record.points):
        return 5
    if record.validity is not None or record.models is not None:
        return 4
    told = any(part is not None for part in (record.health, record.array, record.bench))
    if told or any(point.version >= 3 or point.array_cycles for point in record.points):
        return 3
    new = any("stuck-bit" in flags for point in record.points for flags in point.flags)
    return 2 if new or any(v is not None for v in (record.supply, record.age, record.measured)) else 1


def _digest(core: Mapping[str, Any], arrays: Mapping[str, Arrays]) -> str:
    digest = hashlib.sha256(json.dumps(core, sort_keys=True).encode())
    for content in arrays.values():
        for name, array in content.items():
            digest.update(f"{name} {array.dtype.str} {array.shape}".encode())
            digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()


def _file_name(uid: str) -> str:
    name = re.sub(r"[^A-Za-z0-9._-]", "-", uid).lstrip(".")
    return name or "unnamed"


def _count_arrays(counts: Sequence[Counts], version: int) -> Arrays:
    arrays: Arrays = {}
    for i, c in enumerate(counts):
        arrays |= {f"{i}_levels": c.levels, f"{i}_base": c.base, f"{i}_histogram": c.histogram}
        arrays |= {f"{i}_drift": c.drift} if version >= 3 else {}
        arrays |= {f"{i}_when": c.when} if version >= 6 else {}
    return arrays


def _result_arrays(points: Sequence[PointResult], version: int) -> Arrays:
    arrays: Arrays = {}
    for i, p in enumerate(points):
        arrays |= {f"{i}_{name}": getattr(p, name) for name in result_arrays(version)}
        bits = [sum(1 << FLAGS.index(flag) for flag in set(flags)) for flags in p.flags]
        arrays[f"{i}_flags"] = np.array(bits, np.uint32)
    return arrays


def _array_arrays(record: Record) -> Arrays:
    return {} if record.array is None else {PREFIX + name: array for name, array in record.array.arrays.items()}


def _expected(file: str, said: Manifest, adcs: int) -> npz.Layout:
    layout: npz.Layout = {}
    for i, p in enumerate(said.points):
        if file == COUNTS:
            layout[f"{i}_levels"] = (np.dtype(np.int64), (p.levels,))
            layout[f"{i}_base"] = (np.dtype(np.int32), (adcs, p.levels))
            layout[f"{i}_histogram"] = (np.dtype(np.uint32), (adcs, p.levels, p.span))
            if said.schema_version >= 3:
                layout[f"{i}_drift"] = (np.dtype(np.float64), (adcs, 2))
            if said.schema_version >= 6:
                layout[f"{i}_when"] = (np.dtype(np.float64), (adcs, p.levels, 2))
            continue
        for name in result_arrays(said.schema_version):
            layout[f"{i}_{name}"] = (np.dtype(np.float64), result_shape(name, adcs, p.mac()))
        layout[f"{i}_flags"] = (np.dtype(np.uint32), (adcs,))
    if file == RESULT and said.array is not None:
        layout |= ArraySection.layout(said.array)
    return layout


def _point(arrays: Arrays, index: int, point: Point, version: int) -> PointResult:
    bits = arrays[f"{index}_flags"]
    if np.any(bits >> len(FLAGS)):
        raise InputError("flags holds values out of range")
    flags = tuple(tuple(flag for n, flag in enumerate(FLAGS) if int(b) >> n & 1) for b in bits)
    values = {name: arrays[f"{index}_{name}"] for name in result_arrays(version)}
    return PointResult(
        mac=point.mac(),
        flags=flags,
        reads=point.reads,
        cycles=point.cycles,
        levels=point.levels,
        step=point.step_lsb,
        array_cycles=point.array_cycles,
        all_reads=point.all_reads,
        **values,
    )


def _counts(arrays: Arrays, index: int, point: Point) -> Counts:
    levels, base, histogram = (arrays[f"{index}_{name}"] for name in ("levels", "base", "histogram"))
    drift = arrays.get(f"{index}_drift", np.empty(0))
    when = arrays.get(f"{index}_when", np.empty(0))
    return Counts(point.mac(), levels, point.reads, point.cycles, base, histogram, point.array_cycles, drift, when)


@contextmanager
def _named(path: Path) -> Iterator[None]:
    """Errors from within say which file they are about and what to do."""
    try:
        yield
    except InputError as error:
        raise InputError(f"{path}: {error}: {_MEND}") from None


def _bytes(path: Path, limit: int) -> bytes:
    try:
        if path.stat().st_size > limit:
            raise InputError(f"{path} is larger than the {limit} bytes it should have: {_MEND}")
        return path.read_bytes()
    except FileNotFoundError:
        if path.name != MANIFEST and path.with_name(MANIFEST).exists():
            raise InputError(f"{path} is not there, so the profile is not whole: {_MEND}") from None
        raise InputError(
            f"{path} is not there: name a profile's folder, or measure one (pimchip characterize)"
        ) from None
    except NotADirectoryError:
        raise InputError(
            f"{path.parent} is no profile: name a profile's folder, or measure one (pimchip characterize)"
        ) from None
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror or error}") from None


def _read_manifest(folder: Path) -> Manifest:
    path = folder / MANIFEST
    raw = _bytes(path, _MANIFEST_BYTES)
    with _named(path):
        data = manifest.unseal(raw)
    version = data.get("schema_version")
    if version not in VERSIONS:
        raise InputError(
            f"{path}: schema version {version!r}, this pimchip reads up to {VERSION}: "
            "use the pimchip that wrote it, or measure again"
        )
    try:
        return Manifest.model_validate(data)
    except ValidationError as error:
        first = error.errors()[0]
        raise InputError(f"{path}: {'.'.join(map(str, first['loc']))}: {first['msg']}: {_MEND}") from None


def _spec(folder: Path, said: Manifest) -> ChipSpec:
    path = folder / MANIFEST
    spec = ChipSpec.from_dict(said.spec, str(path))
    if spec.hash != said.spec_hash or spec.name != said.chip:
        raise InputError(f"{path}: its chip description does not match its hash: {_MEND}")
    with _named(path):
        for point in said.points:
            spec.check(point.mac())
    return spec


def _read_arrays(folder: Path, name: str, said: Manifest, adcs: int) -> Arrays:
    path = folder / name
    entry = next((f for f in said.files if f.name == name), None)
    if entry is None:
        raise InputError(f"{folder / MANIFEST} does not list {name}: {_MEND}")
    data = _bytes(path, entry.bytes)
    if len(data) != entry.bytes or hashlib.sha256(data).hexdigest() != entry.sha256:
        raise InputError(f"{path} is damaged ({len(data)} bytes; size or SHA-256 differs from the manifest): {_MEND}")
    try:
        return npz.load(data, _expected(name, said, adcs))
    except (InputError, ValueError, OSError, EOFError, zipfile.BadZipFile) as error:
        raise InputError(f"{path} is damaged ({error}): {_MEND}") from None
