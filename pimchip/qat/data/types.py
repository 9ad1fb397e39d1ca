"""Split and Dataset: checked arrays of images and labels, and the digest that names them in provenance."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from pimchip.errors import InputError

Augment = Literal["none", "crop", "crop-flip"]
ImageShape = tuple[int, int, int]
"""(channels, height, width)"""


def shape_text(shape: tuple[int, ...]) -> str:
    """`1x28x28`, as messages write a shape."""
    return "x".join(map(str, shape))


@dataclass(frozen=True, eq=False)
class Split:
    """Images and what they show.

    images: uint8 [n, channels, height, width], C order; labels: int64 [n], each an index into the classes.
    InputError on any other dtype or shape, and on an empty split.
    """

    images: NDArray[np.uint8]
    labels: NDArray[np.int64]

    def __post_init__(self) -> None:
        if self.images.dtype != np.uint8 or self.images.ndim != 4:
            raise InputError(f"images must be uint8 [n, c, h, w], not {self.images.dtype} {list(self.images.shape)}")
        if self.labels.dtype != np.int64 or self.labels.shape != self.images.shape[:1]:
            found = f"{self.labels.dtype} {list(self.labels.shape)}"
            raise InputError(f"labels must be int64 [{len(self.images)}], one an image, not {found}")
        if 0 in self.images.shape:
            raise InputError(f"no image, or empty images: {list(self.images.shape)}")

    def __len__(self) -> int:
        return len(self.images)

    @property
    def image_shape(self) -> ImageShape:
        """(channels, height, width)"""
        _, channels, height, width = self.images.shape
        return channels, height, width

    def first(self, limit: int | None) -> Split:
        """Return the first `limit` images, all without a limit; a copy, so that the rest can be freed."""
        if limit is None or limit >= len(self):
            return self
        return Split(self.images[:limit].copy(), self.labels[:limit].copy())


@dataclass(frozen=True, eq=False)
class Dataset:
    """A training and a test split over the same classes.

    augment is what suits the set's training, for `augment()`. InputError where a label has no class, a class has no
    name of its own, or the splits differ in image shape.
    """

    name: str
    classes: tuple[str, ...]
    train: Split
    test: Split
    augment: Augment

    def __post_init__(self) -> None:
        if len(set(self.classes)) != len(self.classes):
            twice = next(name for name in self.classes if self.classes.count(name) > 1)
            raise InputError(f"{self.name}: two classes are called {twice!r}")
        for part, split in (("train", self.train), ("test", self.test)):
            low, high = int(split.labels.min()), int(split.labels.max())
            if low < 0 or high >= len(self.classes):
                raise InputError(f"{self.name} {part}: labels {low}..{high}, but there are {len(self.classes)} classes")
        if self.train.image_shape != self.test.image_shape:
            raise InputError(
                f"{self.name}: train images are {shape_text(self.train.image_shape)}, "
                f"test images {shape_text(self.test.image_shape)}"
            )

    @property
    def image_shape(self) -> ImageShape:
        """(channels, height, width)"""
        return self.train.image_shape

    @cached_property
    def digest(self) -> str:
        """SHA-256, hex, over both splits: shape (int64), labels (int64), pixels, little-endian, train first.

        Limits change it; the set's name does not enter.
        """
        digest = hashlib.sha256()
        for split in (self.train, self.test):
            digest.update(np.asarray(split.images.shape, "<i8").tobytes())
            digest.update(np.ascontiguousarray(split.labels, "<i8").data)
            digest.update(np.ascontiguousarray(split.images).data)
        return digest.hexdigest()
