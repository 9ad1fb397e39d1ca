"""Files that are whole or not there: written beside their place, then renamed into it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from pimchip.errors import InputError


@contextmanager
def replacing(path: Path, name: str = "") -> Iterator[Path]:
    """A temporary path to write to, which takes the place of `path` at the end; after an error or Ctrl-C what was there stays.

    Makes the folder. name: of the option that asked for the file, for the error. Raises InputError where the writing
    raises OSError, as on a full disk.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        os.replace(temporary, path)
    except OSError as error:
        said = f"{name} {path}" if name else str(path)
        raise InputError(f"cannot write {said}: {error}; free space or name another place") from None
    finally:
        with suppress(OSError):
            temporary.unlink()
