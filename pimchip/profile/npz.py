"""Reading .npz without trust: each array's type and shape are compared with what is expected before it is read."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pimchip.errors import InputError

Layout = dict[str, tuple[np.dtype[Any], tuple[int, ...]]]
"""Type and shape by array name."""


def load(data: bytes, layout: Mapping[str, tuple[np.dtype[Any], tuple[int, ...]]]) -> dict[str, NDArray[Any]]:
    """The arrays of an .npz file's bytes, in the layout's order. Raises InputError where file and layout differ."""
    arrays: dict[str, NDArray[Any]] = {}
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        found = {name.removesuffix(".npy") for name in archive.namelist()}
        if found != set(layout):
            odd = sorted(found ^ set(layout))
            raise InputError(f"array {odd[0]} is {'missing' if odd[0] in layout else 'not expected'}")
        for name, (dtype, shape) in layout.items():
            size = int(np.prod(shape, dtype=object)) * dtype.itemsize
            _check_header(archive, name, dtype, shape, size)
            with archive.open(f"{name}.npy") as file:
                arrays[name] = np.lib.format.read_array(file, allow_pickle=False)
    return arrays


def _check_header(archive: zipfile.ZipFile, name: str, dtype: np.dtype[Any], shape: tuple[int, ...], size: int) -> None:
    with archive.open(f"{name}.npy") as file:
        version = np.lib.format.read_magic(file)
        if version != (1, 0):
            raise InputError(f"array {name} has format {version}, want (1, 0)")
        held_shape, fortran, held_dtype = np.lib.format.read_array_header_1_0(file)
        header = file.tell()
    if held_dtype != dtype or held_shape != shape or (fortran and len(shape) > 1):
        raise InputError(f"array {name} is {held_dtype} {list(held_shape)}, want {dtype} {list(shape)}")
    if archive.getinfo(f"{name}.npy").file_size != header + size:
        raise InputError(f"array {name} has the wrong length")
