"""Images from anywhere, a block at a time: memory holds a few blocks, however many images there are."""

from __future__ import annotations

import queue
import sys
import threading
import zipfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from pimchip.errors import InputError
from pimchip.qat.data import load_images
from pimchip.qat.data.images import BAD_NPY, SUFFIXES, check_array, open_npy

Shape = tuple[int, int, int]
STDIN = "-"
AHEAD = 2
"""Blocks that are read while the board works."""
LONGEST = 1 << 40
"""Images that one array may have."""


@dataclass(frozen=True)
class Block:
    """Consecutive images, uint8 [n, c, h, w], the first of which is number `first`; labels int64 [n], and a name each, where
    there are any."""

    first: int
    images: NDArray[np.uint8]
    labels: NDArray[np.int64] | None = None
    names: tuple[str, ...] = ()


@dataclass(frozen=True)
class Source:
    """Blocks of at most `size` images by blocks(size), once. count: images, None where that is not known before."""

    count: int | None
    blocks: Callable[[int], Iterator[Block]]
    labelled: bool = False


def of_arrays(images: NDArray[np.uint8], labels: NDArray[np.int64] | None) -> Source:
    """What is in memory already."""

    def blocks(size: int) -> Iterator[Block]:
        for first in range(0, len(images), size):
            part = slice(first, first + size)
            yield Block(first, images[part], None if labels is None else labels[part])

    return Source(len(images), blocks, labels is not None)


def of_files(paths: Sequence[Path], shape: Shape, limit: int | None = None) -> Source:
    """Image files, folders of them, .npy and .npz arrays, and - for .npy arrays on stdin, one after the other.

    A .npz holds `images`, and `labels` where they are known. Raises InputError, naming a file: of another type or shape, as
    far as headers tell now, and in blocks() for what only shows when it is read.
    """
    parts = [part for path in paths for part in _parts(path, shape)]
    counts = [part.count for part in parts]
    known = None if any(count is None for count in counts) else sum(count or 0 for count in counts)
    if limit is not None:
        known = limit if known is None else min(known, limit)
    labelled = bool(parts) and all(part.labelled for part in parts)

    def blocks(size: int) -> Iterator[Block]:
        first = 0
        for images, labels, names in _together(parts, size):
            take = len(images) if limit is None else min(len(images), limit - first)
            if take <= 0:
                return
            yield Block(first, images[:take], labels[:take] if labelled else None, tuple(names[:take]))
            first += take
            if limit is not None and first >= limit:
                return

    return Source(known, blocks, labelled)


class _Read(NamedTuple):
    """Some images of a part, with their labels, -1 where there are none, and names."""

    images: NDArray[np.uint8]
    labels: NDArray[np.int64]
    names: Sequence[str]


def _unlabelled(images: NDArray[np.uint8], names: Sequence[str]) -> _Read:
    return _Read(images, np.full(len(images), -1, np.int64), names)


@dataclass(frozen=True)
class _Part:
    """count: None for a stream, whose images are not waited for."""

    count: int | None
    read: Callable[[int], Iterator[_Read]]
    labelled: bool = False


def _together(parts: Sequence[_Part], size: int) -> Iterator[_Read]:
    """All parts' images, those of small parts in one block."""
    held: list[_Read] = []
    for part in parts:
        room = size if part.count is None else max(min(size, part.count), 1)
        for read in part.read(room):
            if held and sum(len(r.images) for r in held) + len(read.images) > size:
                yield _joined(held)
                held = []
            held.append(read)
            if part.count is None or sum(len(r.images) for r in held) == size:
                yield _joined(held)
                held = []
    if held:
        yield _joined(held)


def _joined(held: Sequence[_Read]) -> _Read:
    if len(held) == 1:
        return held[0]
    images, labels = (np.concatenate([r[place] for r in held]) for place in (0, 1))
    return _Read(images, labels, [name for r in held for name in r.names])


def _parts(path: Path, shape: Shape) -> Iterator[_Part]:
    if str(path) == STDIN:
        yield _Part(None, lambda size: _stdin(sys.stdin.buffer, shape, size))
    elif path.is_dir():
        files = sorted(p for p in path.iterdir() if p.suffix.lower() in (*SUFFIXES, ".npy", ".npz"))
        if not files:
            raise InputError(f"{path}: no image in this folder; want {', '.join(SUFFIXES)}, .npy or .npz files")
        for file in files:
            yield from _parts(file, shape)
    elif path.suffix.lower() == ".npy":
        stored = open_npy(path, shape)
        yield _Part(len(stored), lambda size: _npy(path, stored, shape, size))
    elif path.suffix.lower() == ".npz":
        with _npz(path) as archive:
            count, labelled = _npz_count(path, archive, shape), "labels.npy" in archive.namelist()
        yield _Part(count, lambda size: _npz_blocks(path, shape, size), labelled)
    else:
        if not path.is_file():
            raise InputError(f"{path}: no such file")
        yield _Part(1, lambda size: iter([_unlabelled(load_images([path], shape), [str(path)])]))


def _npy(path: Path, stored: NDArray[np.uint8], shape: Shape, size: int) -> Iterator[_Read]:
    for first in range(0, len(stored), size):
        images = np.array(stored[first : first + size], order="C").reshape(-1, *shape)
        names = [f"{path} {first + i}" for i in range(len(images))]
        yield _unlabelled(images, names if len(stored) > 1 else [str(path)])


@contextmanager
def _npz(path: Path) -> Iterator[zipfile.ZipFile]:
    try:
        with zipfile.ZipFile(path) as archive:
            yield archive
    except FileNotFoundError:
        raise InputError(f"{path}: no such file") from None
    except (zipfile.BadZipFile, EOFError, NotImplementedError, *BAD_NPY) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{path}: cannot be read as .npz: {' '.join(str(error).split())}") from None


def _npz_count(path: Path, archive: zipfile.ZipFile, shape: Shape) -> int:
    if "images.npy" not in archive.namelist():
        raise InputError(f"{path}: has no array named images (and labels, where they are known)")
    with archive.open("images.npy") as file:
        return _header(file, f"{path}: images", shape)


def _npz_blocks(path: Path, shape: Shape, size: int) -> Iterator[_Read]:
    with _npz(path) as archive:
        count = _npz_count(path, archive, shape)
        labels = None
        if "labels.npy" in archive.namelist():
            with archive.open("labels.npy") as file:
                labels = np.lib.format.read_array(file, allow_pickle=False)
            if labels.shape != (count,) or not np.issubdtype(labels.dtype, np.integer):
                raise InputError(f"{path}: labels are {labels.dtype} {list(labels.shape)}, wanted integers [{count}]")
            labels = labels.astype(np.int64)
        with archive.open("images.npy") as file:
            _header(file, f"{path}: images", shape)
            for first, images in _read(file, f"{path}", count, shape, size):
                names = [f"{path} {first + i}" for i in range(len(images))]
                own = None if labels is None else labels[first : first + len(images)]
                yield _unlabelled(images, names) if own is None else _Read(images, own, names)


def _stdin(file: IO[bytes], shape: Shape, size: int) -> Iterator[_Read]:
    """Arrays until the end; each block as soon as it is there."""
    done = 0
    while magic := file.read(1):
        count = _header(_Pushed(magic, file), "stdin", shape)
        for _, images in _read(file, "stdin", count, shape, size):
            yield _unlabelled(images, [str(done + i) for i in range(len(images))])
            done += len(images)
    if not done:
        raise InputError("stdin: no image came; want .npy arrays, uint8 [n, c, h, w]")


class _Pushed:
    """A stream with some bytes before it."""

    def __init__(self, before: bytes, file: IO[bytes]) -> None:
        self._before, self._file = before, file

    def read(self, count: int = -1) -> bytes:
        head, self._before = self._before[:count], self._before[count:]
        return head + (self._file.read(count - len(head)) if count > len(head) else b"")


def _header(file: Any, source: str, shape: Shape) -> int:
    """Images of an array whose header comes next; InputError where it is no array of such images."""
    try:
        version = np.lib.format.read_magic(file)
        read = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
        held, fortran, dtype = read[version](file)
    except (KeyError, *BAD_NPY) as error:
        raise InputError(f"{source}: no .npy array: {' '.join(str(error).split())}") from None
    check_array(source, dtype, held, shape)
    if fortran and len(held) > 1:
        raise InputError(f"{source}: the array is in Fortran order; save it in C order")
    return int(held[0])


def _read(file: Any, source: str, count: int, shape: Shape, size: int) -> Iterator[tuple[int, NDArray[np.uint8]]]:
    """Blocks of an array whose header was read; (number of its first image, images)."""
    each = int(np.prod(shape))
    for first in range(0, count, size):
        wanted = min(size, count - first)
        data = bytearray()
        while len(data) < wanted * each:
            part = file.read(wanted * each - len(data))
            if not part:
                raise InputError(f"{source}: ends after {first + len(data) // each} of {count} images")
            data += part
        yield first, np.frombuffer(data, np.uint8).reshape(wanted, *shape)


def ahead(blocks: Iterable[Block], depth: int = AHEAD) -> Iterator[Block]:
    """The same blocks, read by another thread while whoever takes them is busy, up to `depth` of them."""
    ready: queue.Queue[Block | BaseException | None] = queue.Queue(depth)
    over = threading.Event()

    def put(item: Block | BaseException | None) -> bool:
        while not over.is_set():
            try:
                ready.put(item, timeout=0.1)
                return True
            except queue.Full:
                continue
        return False

    def read() -> None:
        try:
            for block in blocks:
                if not put(block):
                    return
            put(None)
        except BaseException as error:  # raised where the blocks are taken
            put(error)

    threading.Thread(target=read, name="pimchip-images", daemon=True).start()
    try:
        while (item := ready.get()) is not None:
            if isinstance(item, BaseException):
                raise item
            yield item
    finally:
        over.set()
