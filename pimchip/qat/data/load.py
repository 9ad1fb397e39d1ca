"""The one door: a data set by its name, or a folder of images by its path."""

from __future__ import annotations

from pathlib import Path

from pimchip.errors import InputError, unknown
from pimchip.qat.data.cifar import load_cifar
from pimchip.qat.data.digits import load_digits
from pimchip.qat.data.fashion_mnist import load_fashion_mnist
from pimchip.qat.data.folder import load_folder
from pimchip.qat.data.types import Dataset

DATASETS = ("digits", "fashion-mnist", "cifar10", "cifar100")


def load_dataset(
    name: str, data_dir: Path | None = None, *, limit_train: int | None = None, limit_test: int | None = None
) -> Dataset:
    """Return a data set: one of DATASETS, or the path of a folder of images (see `load_folder`).

    data_dir: where files of the known sets are looked for; else `default_data_dir()`. The digits and folders need
    none. limit_train, limit_test: keep at most that many images, the first of the split's order (which is mixed over
    the classes in every set). A known name wins over a folder of that name; write ./digits for the folder.
    InputError where the name is neither, a limit is below 1, or a file is missing or wrong.
    """
    for option, limit in (("limit_train", limit_train), ("limit_test", limit_test)):
        if limit is not None and limit < 1:
            raise InputError(f"{option} is {limit}, wanted at least 1")
    if name not in DATASETS:
        if name and Path(name).is_dir():
            return load_folder(Path(name), limit_train, limit_test)
        raise InputError(f"{unknown('dataset', name, DATASETS)}, or the path of a folder of images")
    if name == "digits":
        whole = load_digits()
    elif name == "fashion-mnist":
        whole = load_fashion_mnist(data_dir)
    else:
        whole = load_cifar(name, data_dir)
    return Dataset(name, whole.classes, whole.train.first(limit_train), whole.test.first(limit_test), whole.augment)
