"""An order of samples that depends on nothing but the samples: no seed, no generator of any library."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray


def hashed(name: str) -> bytes:
    """Return the SHA-256 of a sample's name, the key `spread` takes."""
    return hashlib.sha256(name.encode("utf-8", "surrogateescape")).digest()


def spread(labels: Sequence[int], keys: Sequence[bytes]) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Order samples so that every stretch holds the classes in proportion, to within about one sample a class.

    labels [n]; keys [n], distinct. The r-th of the s samples of a class, in the order of their keys, gets the place
    (r + 1/2) / s; all samples are then sorted by place, equal ones by key.
    Returns the indices into `labels` in that order, int64 [n], and their places, float64 [n], rising.
    """
    members: dict[int, list[int]] = {}
    for index in sorted(range(len(keys)), key=keys.__getitem__):
        members.setdefault(labels[index], []).append(index)
    placed = sorted(
        ((2 * rank + 1) / (2 * len(indices)), keys[index], index)
        for indices in members.values()
        for rank, index in enumerate(indices)
    )
    return np.array([index for *_, index in placed], np.int64), np.array([place for place, *_ in placed], np.float64)
