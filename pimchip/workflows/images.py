"""What `infer` and `compare` read: a data set's test images with labels, or files."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pimchip.compiler.records import Manifest
from pimchip.errors import InputError
from pimchip.qat.data import DATASETS, Dataset, Split, load_dataset
from pimchip.workflows.streams import STDIN, Source, of_arrays, of_files


def source_for(
    manifest: Manifest, sources: Sequence[str], data_dir: Path | None, limit: int | None, *, default: str = ""
) -> tuple[Source, str]:
    """What `infer` reads, and the data set's name, "" for files.

    default: the data set where no source is named; empty: the program's. Raises InputError naming a file of a wrong shape.
    """
    default = default or manifest.data
    chosen = list(sources) or ([default] if default else [])
    if not chosen:
        raise InputError("the program names no data set; give --data NAME or image files")
    if len(chosen) == 1 and _is_data(chosen[0]):
        data = load_matching(manifest, chosen[0], data_dir, limit)
        return of_arrays(data.test.images, data.test.labels), chosen[0]
    for name in chosen:
        if name in DATASETS:
            raise InputError(f"--data {name} is a data set and stands alone; name one data set, or image files")
    return of_files([Path(name) for name in chosen], manifest.input_shape, limit), ""


def _is_data(name: str) -> bool:
    """A data set's name, or a folder with one folder a class; not stdin, nor a folder of images."""
    if name == STDIN:
        return False
    if name in DATASETS or not Path(name).is_dir():
        return name in DATASETS or not Path(name).suffix
    return any(path.is_dir() and not path.name.startswith(".") for path in Path(name).iterdir())


def images_of(
    manifest: Manifest, name: str | None, data_dir: Path | None, limit: int | None, *, default: str = ""
) -> NDArray[np.uint8]:
    """A data set's test images, or a file's, in memory: uint8 [n, c, h, w]; see source_for."""
    source, _ = source_for(manifest, [name] if name else [], data_dir, limit, default=default)
    return np.concatenate([block.images for block in source.blocks(1 << 16)])


def other_data(name: str, known: str) -> str | None:
    """What to tell of a data set that is another than the one `known` to a file, as far as names tell; None where none is."""
    same = name == known or (not {name, known} & set(DATASETS) and Path(name).resolve() == Path(known).resolve())
    # A folder's data set is known by the folder's name where no command read it.
    if not known or same or (Path(name).is_dir() and Path(name).resolve().name == known):
        return None
    return f"--data {name} is another data set than {known}"


def load_matching(manifest: Manifest, name: str, data_dir: Path | None, limit: int | None) -> Dataset:
    """A data set whose labels mean what the network's outputs mean; classes in another order are put in order.

    Raises InputError where images are of another shape or a class is not among the network's, naming it.
    """
    data = load_dataset(name, data_dir, limit_test=limit)
    if data.image_shape != manifest.input_shape:
        raise InputError(
            f"data {name} has images {list(data.image_shape)}; the network takes {list(manifest.input_shape)}"
        )
    if data.classes == manifest.classes:
        return data
    strange = sorted(set(data.classes) - set(manifest.classes))
    missing = sorted(set(manifest.classes) - set(data.classes))
    if strange or missing:
        named = ", ".join(repr(c) for c in (strange[:1] or ["nothing more"]) + missing[:1])
        raise InputError(
            f"data {name} and the network do not have the same classes (data against network: {named}); "
            "rename the folders, or train on this data"
        )
    order = np.array([manifest.classes.index(c) for c in data.classes], np.int64)
    train, test = (Split(part.images, order[part.labels]) for part in (data.train, data.test))
    return Dataset(data.name, manifest.classes, train, test, data.augment)
