"""What `infer` classifies: a data set's test images with labels, or files without."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pimchip.compiler.program import Manifest
from pimchip.errors import InputError
from pimchip.qat.data import DATASETS, load_dataset, load_images


def images_for(
    manifest: Manifest, sources: Sequence[str], data_dir: Path | None, limit: int | None
) -> tuple[NDArray[np.uint8], NDArray[np.int64] | None, list[str]]:
    """(images uint8 [n, c, h, w], labels int64 [n] or None, names of images from files).

    Raises InputError naming a file of a wrong shape.
    """
    chosen = list(sources) or ([manifest.data] if manifest.data else [])
    if not chosen:
        raise InputError("the program names no data set; give --data NAME or image files")
    shape = manifest.input_shape
    if len(chosen) == 1 and (chosen[0] in DATASETS or Path(chosen[0]).is_dir() or not Path(chosen[0]).suffix):
        data = load_dataset(chosen[0], data_dir, limit_test=limit)
        if data.image_shape != shape:
            raise InputError(f"data {chosen[0]} has images {list(data.image_shape)}; the network takes {list(shape)}")
        if len(data.classes) != len(manifest.classes):
            raise InputError(
                f"data {chosen[0]} has {len(data.classes)} classes; the network has {len(manifest.classes)}"
            )
        return data.test.images, data.test.labels, []
    for name in chosen:
        if name in DATASETS:
            raise InputError(f"--data {name} is a data set and stands alone; name one data set, or image files")
    parts = [load_images([Path(name)], shape) for name in chosen]
    names = [
        name if len(p) == 1 else f"{name} {i}" for name, p in zip(chosen, parts, strict=True) for i in range(len(p))
    ]
    return np.concatenate(parts)[:limit], None, names[:limit]
