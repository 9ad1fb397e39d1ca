"""Fashion-MNIST: 60000 training and 10000 test images of clothing, 28x28, grey.

Source: H. Xiao, K. Rasul, R. Vollgraf, "Fashion-MNIST", 2017, https://github.com/zalandoresearch/fashion-mnist
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from pimchip.errors import InputError
from pimchip.qat.data.idx import read_idx
from pimchip.qat.data.places import places
from pimchip.qat.data.types import Dataset, Split

CLASSES = (
    "T-shirt/top",
    "Trouser",
    "Pullover",
    "Dress",
    "Coat",
    "Sandal",
    "Shirt",
    "Sneaker",
    "Bag",
    "Ankle boot",
)
PACKAGE = "dataset-fashion-mnist"
PACKAGED = Path("/usr/share/datasets/fashion-mnist")  # where that Debian package puts its files
FILES = ("train-images-idx3-ubyte", "train-labels-idx1-ubyte", "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte")


def load_fashion_mnist(data_dir: Path | None) -> Dataset:
    """Return Fashion-MNIST, uint8 [n, 1, 28, 28], from the four IDX files, plain or .gz.

    They are looked for in the data directory, in its folder fashion-mnist, and where Debian's package puts them; the
    first place that has any of them must have all. InputError where one is missing or wrong.
    """
    train_images, train_labels, test_images, test_labels = _find(data_dir)
    return Dataset(
        "fashion-mnist", CLASSES, _split(train_images, train_labels), _split(test_images, test_labels), "crop-flip"
    )


def _find(data_dir: Path | None) -> list[Path]:
    searched = (*places(data_dir, "fashion-mnist"), PACKAGED)
    for place in searched:
        found = [_file(place, name) for name in FILES]
        if not any(found):
            continue
        for name, path in zip(FILES, found, strict=True):
            if path is None:
                raise InputError(f"{place}: holds part of Fashion-MNIST but no {name} (or {name}.gz)")
        return [path for path in found if path is not None]
    raise InputError(
        f"fashion-mnist wants {', '.join(FILES)} (each also as .gz) in {searched[1]}: "
        f"install Debian's package {PACKAGE}, or name their folder with --data-dir"
    )


def _file(place: Path, name: str) -> Path | None:
    return next((path for path in (place / name, place / f"{name}.gz") if path.is_file()), None)


def _split(images_path: Path, labels_path: Path) -> Split:
    images, labels = read_idx(images_path, 3), read_idx(labels_path, 1)
    if images.shape[1:] != (28, 28):
        raise InputError(f"{images_path}: images are {images.shape[1]}x{images.shape[2]}, wanted 28x28")
    if len(images) != len(labels):
        raise InputError(f"{labels_path}: {len(labels)} labels for the {len(images)} images in {images_path}")
    wrong = np.flatnonzero(labels >= len(CLASSES))
    if wrong.size:
        raise InputError(f"{labels_path}: image {wrong[0]} has label {labels[wrong[0]]}, of {len(CLASSES)} classes")
    return Split(images[:, None], labels.astype(np.int64))
