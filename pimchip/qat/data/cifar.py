"""CIFAR-10 and CIFAR-100: 50000 training and 10000 test colour images of 32x32, in 10 or 100 classes.

Source: A. Krizhevsky, "Learning Multiple Layers of Features from Tiny Images", 2009, and the description of both file
layouts at https://www.cs.toronto.edu/~kriz/cifar.html
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from pimchip.errors import InputError
from pimchip.qat.data.archive import read_files
from pimchip.qat.data.pickled import loads
from pimchip.qat.data.places import places
from pimchip.qat.data.types import Dataset, Split

SOURCE = "https://www.cs.toronto.edu/~kriz/cifar.html"
SHAPE = (3, 32, 32)
_PIXELS = 3 * 32 * 32
_T = TypeVar("_T")

Batch = tuple[NDArray[np.int64], NDArray[np.uint8]]
"""labels [n] and pixels [n, 3072], the red, green and blue planes one after the other"""


@dataclass(frozen=True)
class _Kind:
    """What differs between the two sets, whatever the layout."""

    label_columns: tuple[int, ...]
    """classes of each label byte before the pixels of a binary record; the last is the one used (fine labels)"""
    labels_key: str
    names_key: str

    @property
    def classes(self) -> int:
        return self.label_columns[-1]


@dataclass(frozen=True)
class _Layout:
    """Where one of the official versions keeps what."""

    folder: str
    archive: str
    train: tuple[str, ...]
    test: str
    names: str
    read_batch: Callable[[bytes, str, _Kind], Batch]
    read_names: Callable[[bytes, str, _Kind], tuple[str, ...]]

    def find(self, data_dir: Path | None) -> Path | None:
        """Return the folder with the files, else the archive, else nothing."""
        folder, root = places(data_dir, self.folder)
        if folder.is_dir():
            return folder
        if (root / self.test).is_file() and (root / self.names).is_file():
            return root
        archive = root / self.archive
        return archive if archive.is_file() else None


def load_cifar(name: str, data_dir: Path | None) -> Dataset:
    """Return "cifar10" or "cifar100" (fine labels), uint8 [n, 3, 32, 32].

    The binary version is preferred to the Python version, and of each the folder to the .tar.gz it came in, which
    need not be unpacked. A file may hold fewer images than the official one, but whole ones, and the five training
    files of CIFAR-10 as many each. InputError where no version is found, and where a file of the one found is missing
    or wrong.
    """
    kind, layouts = _SETS[name]
    for layout in layouts:
        place = layout.find(data_dir)
        if place is not None:
            return _load(name, kind, layout, place)
    _, root = places(data_dir, "")
    wanted = " or ".join(part for layout in layouts for part in (f"{layout.folder}/", layout.archive))
    raise InputError(
        f"{name} wants {wanted} from {SOURCE} in {root}; name another folder with --data-dir or PIMCHIP_DATA"
    )


def _load(name: str, kind: _Kind, layout: _Layout, place: Path) -> Dataset:
    batches: dict[str, Batch] = {}
    classes: tuple[str, ...] = ()
    for file, source, raw in read_files(place, layout.folder, (*layout.train, layout.test, layout.names)):
        if file == layout.names:
            classes = layout.read_names(raw, source, kind)
        else:
            batches[file] = layout.read_batch(raw, source, kind)
    for file in layout.train[1:]:
        first, count = len(batches[layout.train[0]][0]), len(batches[file][0])
        if count != first:
            # the official ones have 10000 each; a file cut between two records shows in nothing else
            raise InputError(f"{place}: {file} has {count} images, {layout.train[0]} {first}; fetch it again")
    train = _split([batches[file] for file in layout.train])
    return Dataset(name, classes, train, _split([batches[layout.test]]), "crop-flip")


def _split(batches: list[Batch]) -> Split:
    pixels = np.concatenate([pixels for _, pixels in batches])
    return Split(pixels.reshape(-1, *SHAPE), np.concatenate([labels for labels, _ in batches]))


def _no_such_label(source: str, image: int, label: int, classes: int) -> InputError:
    return InputError(f"{source}: image {image} has label {label}, of {classes} classes")


def _binary_batch(raw: bytes, source: str, kind: _Kind) -> Batch:
    record = len(kind.label_columns) + _PIXELS
    if not raw or len(raw) % record:
        raise InputError(
            f"{source}: has {len(raw)} bytes, wanted a multiple of {record}, one record an image; fetch it again"
        )
    records = np.frombuffer(raw, np.uint8).reshape(-1, record)
    for column, classes in enumerate(kind.label_columns):
        wrong = np.flatnonzero(records[:, column] >= classes)
        if wrong.size:
            raise _no_such_label(source, int(wrong[0]), int(records[wrong[0], column]), classes)
    return records[:, len(kind.label_columns) - 1].astype(np.int64), records[:, len(kind.label_columns) :]


def _binary_names(raw: bytes, source: str, kind: _Kind) -> tuple[str, ...]:
    try:
        lines = [line.strip() for line in raw.decode().splitlines()]
    except ValueError:
        raise InputError(f"{source}: is no text") from None
    return _names([line for line in lines if line], source, kind)


def _names(names: list[str], source: str, kind: _Kind) -> tuple[str, ...]:
    if len(names) != kind.classes or len(set(names)) != len(names):
        raise InputError(
            f"{source}: has {len(set(names))} different class names in {len(names)}, wanted {kind.classes}"
        )
    return tuple(names)


def _python_batch(raw: bytes, source: str, kind: _Kind) -> Batch:
    batch = loads(raw, source)
    labels, pixels = _entry(batch, kind.labels_key, list, source), _entry(batch, "data", np.ndarray, source)
    if pixels.shape != (len(labels), _PIXELS) or not labels:
        raise InputError(f"{source}: data is {list(pixels.shape)} for {len(labels)} labels, wanted [n, {_PIXELS}]")
    for image, label in enumerate(labels):
        if type(label) is not int:
            raise InputError(f"{source}: image {image} has a {type(label).__name__} for a label, wanted an int")
        if not 0 <= label < kind.classes:
            raise _no_such_label(source, image, label, kind.classes)
    return np.array(labels, np.int64), pixels


def _python_names(raw: bytes, source: str, kind: _Kind) -> tuple[str, ...]:
    entries = _entry(loads(raw, source), kind.names_key, list, source)
    names = [entry.decode("utf-8", "replace") if isinstance(entry, bytes) else entry for entry in entries]
    if not all(isinstance(name, str) for name in names):
        raise InputError(f"{source}: {kind.names_key} holds something that is no name")
    return _names(names, source, kind)


def _entry(batch: dict[str, object], key: str, kind: type[_T], source: str) -> _T:
    value = batch.get(key)
    if not isinstance(value, kind):
        found = f"is a {type(value).__name__}" if key in batch else "is missing"
        raise InputError(f"{source}: {key!r} {found}, wanted a {kind.__name__}")
    return value


_SETS = {
    "cifar10": (
        _Kind((10,), "labels", "label_names"),
        (
            _Layout(
                "cifar-10-batches-bin",
                "cifar-10-binary.tar.gz",
                tuple(f"data_batch_{number}.bin" for number in range(1, 6)),
                "test_batch.bin",
                "batches.meta.txt",
                _binary_batch,
                _binary_names,
            ),
            _Layout(
                "cifar-10-batches-py",
                "cifar-10-python.tar.gz",
                tuple(f"data_batch_{number}" for number in range(1, 6)),
                "test_batch",
                "batches.meta",
                _python_batch,
                _python_names,
            ),
        ),
    ),
    "cifar100": (
        _Kind((20, 100), "fine_labels", "fine_label_names"),
        (
            _Layout(
                "cifar-100-binary",
                "cifar-100-binary.tar.gz",
                ("train.bin",),
                "test.bin",
                "fine_label_names.txt",
                _binary_batch,
                _binary_names,
            ),
            _Layout(
                "cifar-100-python",
                "cifar-100-python.tar.gz",
                ("train",),
                "test",
                "meta",
                _python_batch,
                _python_names,
            ),
        ),
    ),
}
