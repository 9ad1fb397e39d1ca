"""IDX files (the MNIST family's format), plain or gzip, read strictly.

Big-endian: two zero bytes, a type code, the number of dimensions, each dimension as uint32, then the values.
Source: the description at http://yann.lecun.com/exdb/mnist/ ("The IDX file format").
"""

from __future__ import annotations

import gzip
import math
import struct
import zlib
from io import BufferedReader
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pimchip.errors import InputError

UNSIGNED_BYTE = 0x08
MOST_BYTES = 1 << 30  # a gzip file can promise anything; no set of this family is near a GiB


def read_idx(path: Path, dimensions: int) -> NDArray[np.uint8]:
    """Return the values of an IDX file of unsigned bytes, uint8 with `dimensions` axes, writable.

    A name that ends in .gz is read through gzip. Nothing is read past what the header promises plus one byte, so a
    small file cannot unpack to a large one. InputError on another magic, type or number of dimensions, an empty
    axis, more than 1 GiB, and where the file is shorter or longer than its header says.
    """
    try:
        if path.suffix == ".gz":
            with gzip.open(path) as stream:
                return _parse(stream, path, dimensions)
        with path.open("rb") as plain:
            return _parse(plain, path, dimensions)
    except (OSError, zlib.error) as error:
        raise InputError(f"{path}: cannot be read: {error}") from None


def _parse(stream: gzip.GzipFile | BufferedReader, path: Path, dimensions: int) -> NDArray[np.uint8]:
    header_bytes = 4 + 4 * dimensions
    header = _read(stream, header_bytes)
    if len(header) >= 4 and header[:4] != bytes((0, 0, UNSIGNED_BYTE, dimensions)):
        raise InputError(
            f"{path}: magic is 0x{header[:4].hex()}, wanted 0x{UNSIGNED_BYTE << 8 | dimensions:08x} "
            f"(IDX of unsigned bytes, dimensions: {dimensions})"
        )
    if len(header) < header_bytes:
        raise InputError(f"{path}: truncated: wanted a header of {header_bytes} bytes, has {len(header)}")
    shape = struct.unpack(f">{dimensions}I", header[4:])
    promised = math.prod(shape)
    if promised == 0:
        raise InputError(f"{path}: empty: its header says {list(shape)}")
    if promised > MOST_BYTES:
        raise InputError(f"{path}: its header says {list(shape)}, {promised} bytes; more than 1 GiB is not read")
    if path.suffix != ".gz":
        _check_length(path, header_bytes + promised, path.stat().st_size)
    values = _read(stream, promised + 1)
    _check_length(path, header_bytes + promised, header_bytes + len(values))
    return np.frombuffer(values, np.uint8).reshape(shape)


def _check_length(path: Path, wanted: int, actual: int) -> None:
    if actual < wanted:
        raise InputError(f"{path}: truncated: wanted {wanted} bytes, has {actual}; fetch it again")
    if actual > wanted:
        raise InputError(f"{path}: longer than its header says: wanted {wanted} bytes, has {actual} or more")


def _read(stream: gzip.GzipFile | BufferedReader, most: int) -> bytearray:
    """Read until `most` bytes or the end, also an end in the middle of a gzip stream; grows with what is there."""
    values = bytearray()
    while len(values) < most:
        try:
            # read1, because read() would drop what it had gathered when the stream breaks off
            chunk = stream.read1(min(most - len(values), 1 << 20))
        except EOFError:
            break
        if not chunk:
            break
        values += chunk
    return values
