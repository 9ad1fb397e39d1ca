"""Named files out of a folder or of a .tar.gz that was never unpacked; nothing is written to disk."""

from __future__ import annotations

import gzip
import tarfile
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path

from pimchip.errors import InputError

MOST_FILE = 1 << 28  # bytes; the largest official CIFAR file has 185 million
MOST_ARCHIVE = 1 << 29  # bytes unpacked; the largest official archive has 187 million


def read_files(place: Path, folder: str, names: Sequence[str]) -> Iterator[tuple[str, str, bytes]]:
    """Yield (name, source, content) of each named file: of the folder `place`, or of `folder`/ in the archive `place`.

    source names the file in messages. The order is the archive's, whatever it is. InputError where a file is missing,
    larger than 256 MiB or unreadable, and where an archive is damaged or unpacks to more than 512 MiB.
    """
    return _from_folder(place, names) if place.is_dir() else _from_archive(place, folder, names)


def _from_folder(place: Path, names: Sequence[str]) -> Iterator[tuple[str, str, bytes]]:
    for name in names:
        path = place / name
        if not path.is_file():
            raise InputError(f"{place}: has no {name}; unpack the whole archive there")
        _check_size(str(path), path.stat().st_size)
        try:
            content = path.read_bytes()
        except OSError as error:
            raise InputError(f"{path}: cannot be read: {error}") from None
        yield name, str(path), content


def _from_archive(place: Path, folder: str, names: Sequence[str]) -> Iterator[tuple[str, str, bytes]]:
    missing = {f"{folder}/{name}": name for name in names}
    try:
        with _Bounded(place) as stream:
            # r| reads forward only and in small blocks, so a header that lies about a size costs no memory
            with tarfile.open(fileobj=stream, mode="r|") as tar:
                for member in tar:
                    inside = member.name.removeprefix("./")
                    if inside not in missing:
                        continue
                    source = f"{place}:{inside}"
                    if not member.isreg() or member.issparse():
                        raise InputError(f"{source}: is no regular file")
                    _check_size(source, member.size)
                    content = tar.extractfile(member)
                    assert content is not None  # regular files have a content
                    raw = content.read()
                    if len(raw) != member.size:
                        raise InputError(f"{source}: truncated: wanted {member.size} bytes, has {len(raw)}")
                    yield missing.pop(inside), source, raw
            while stream.read(1 << 20):  # to the end, where gzip's checksum is
                pass
    except (tarfile.TarError, EOFError, OSError, zlib.error, ValueError, OverflowError) as error:
        raise InputError(f"{place}: cannot be read as a .tar.gz: {error}; fetch it again") from None
    if missing:
        raise InputError(f"{place}: has no {min(missing)}; fetch it again")


def _check_size(source: str, size: int) -> None:
    if size > MOST_FILE:
        raise InputError(f"{source}: has {size} bytes; no CIFAR file has more than {MOST_FILE}")


class _Bounded(gzip.GzipFile):
    """A gzip file that refuses to go on past MOST_ARCHIVE bytes."""

    def __init__(self, place: Path) -> None:
        super().__init__(place, "rb")
        self._place = place
        self._left = MOST_ARCHIVE

    def read(self, size: int | None = -1) -> bytes:
        chunk = super().read(size)
        self._left -= len(chunk)
        if self._left < 0:
            raise InputError(f"{self._place}: unpacks to more than {MOST_ARCHIVE} bytes; no CIFAR archive does")
        return chunk
