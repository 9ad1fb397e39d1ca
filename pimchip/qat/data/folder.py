"""A data set of one's own: a folder of images, one folder a class."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from pimchip.errors import InputError
from pimchip.qat.data.images import SUFFIXES, read_image
from pimchip.qat.data.order import hashed, spread
from pimchip.qat.data.types import Dataset, ImageShape, Split

TRAIN_SHARE = 0.8


@dataclass(frozen=True)
class _Images:
    """Files of one split and the class of each, in the order they will be loaded."""

    paths: list[Path]
    labels: list[int]

    def pick(self, indices: Sequence[int]) -> _Images:
        return _Images([self.paths[i] for i in indices], [self.labels[i] for i in indices])


def load_folder(root: Path, limit_train: int | None = None, limit_test: int | None = None) -> Dataset:
    """Return the images under `root`: train/CLASS/* and test/CLASS/*, or CLASS/* alone.

    PNG, JPEG or BMP, all of one shape and mode; classes are numbered in the order of their names. Files and folders
    whose name starts with a dot are passed over, and so is what lies beside the class folders (a readme, a licence)
    unless it is an image. The dataset is named after the folder.

    Without train/ and test/ the split is 80 to 20 within each class and never changes: the images of a class are
    ordered by the SHA-256 of their path below `root` (with forward slashes), and the r-th of s trains where
    (r + 1/2) / s < 0.8, so a class of one or two images is in the training alone. In either layout the images of a
    split stand in the order of `spread` over those hashes, so that a limit takes the classes in proportion; files
    past the limit are not opened.

    InputError: no images, a single class, an empty class, a test class missing in train, a file that is no image,
    a folder inside a class, images of differing shapes (both are named).
    """
    folders = {path.name for path in _entries(root) if path.is_dir()}
    if {"train", "test"} <= folders:
        classes, train = _classes(root, root / "train")
        test_classes, test = _classes(root, root / "test")
        for name in test_classes:
            if name not in classes:
                raise InputError(f"{root / 'test' / name}: class {name!r} has no folder in {root / 'train'}")
        test = _Images(test.paths, [classes.index(test_classes[label]) for label in test.labels])
    else:
        for present, absent in (("train", "test"), ("test", "train")):
            # a class may well be called train, but classes hold images, not folders
            if present in folders and any(path.is_dir() for path in _entries(root / present)):
                raise InputError(f"{root}: has {present}/ but no {absent}/; give both, or class folders alone")
        classes, both = _classes(root, root)
        order, places = spread(both.labels, _keys(root, both))
        cut = int(np.searchsorted(places, TRAIN_SHARE))
        train, test = both.pick(order[:cut].tolist()), both.pick(order[cut:].tolist())
    if len(classes) == 1:
        raise InputError(f"{root}: one class only ({classes[0]!r}); a classifier needs at least two")
    if not test.paths:
        raise InputError(f"{root}: too few images to set some apart for the test; a class needs at least 3")
    train, test = _spread(root, train, limit_train), _spread(root, test, limit_test)
    shape = read_image(train.paths[0]).shape
    first = (train.paths[0], (shape[0], shape[1], shape[2]))
    return Dataset(root.resolve().name, classes, _load(train, *first), _load(test, *first), "crop")


def _entries(folder: Path) -> list[Path]:
    try:
        return sorted((path for path in folder.iterdir() if not path.name.startswith(".")), key=lambda path: path.name)
    except OSError as error:
        raise InputError(f"{folder}: cannot be read: {error}") from None


def _classes(root: Path, folder: Path) -> tuple[tuple[str, ...], _Images]:
    """Return the class names of `folder`, sorted, and its images, unordered."""
    found = _Images([], [])
    names: list[str] = []
    for entry in _entries(folder):
        if entry.is_dir():
            images = _entries(entry)
            for path in images:
                _check_file(path)
            if not images:
                raise InputError(f"{entry}: a class without images; remove the folder or fill it")
            found.paths.extend(images)
            found.labels.extend([len(names)] * len(images))
            names.append(entry.name)
        elif entry.suffix.lower() in SUFFIXES:
            raise InputError(f"{entry}: image outside a class folder; its class is the folder it lies in")
    if not names:
        wanted = "CLASS/*.png" if folder != root else "train/CLASS/*.png and test/CLASS/*.png, or CLASS/*.png"
        raise InputError(f"{folder}: no images; wanted {wanted}")
    return tuple(names), found


def _check_file(path: Path) -> None:
    if path.is_dir():
        raise InputError(f"{path}: folder inside a class folder; a class holds images alone")
    if path.suffix.lower() not in SUFFIXES:
        raise InputError(f"{path}: is no image ({', '.join(SUFFIXES)}); take it out of the class folder")


def _keys(root: Path, images: _Images) -> list[bytes]:
    return [hashed(path.relative_to(root).as_posix()) for path in images.paths]


def _spread(root: Path, images: _Images, limit: int | None) -> _Images:
    order, _ = spread(images.labels, _keys(root, images))
    return images.pick(order[:limit].tolist())


def _load(images: _Images, first: Path, shape: ImageShape) -> Split:
    pixels = np.empty((len(images.paths), *shape), np.uint8)
    for index, path in enumerate(images.paths):
        pixels[index] = read_image(path, shape, f"but {first} is")
    return Split(pixels, np.array(images.labels, np.int64))
