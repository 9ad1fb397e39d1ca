"""One process owns a board: who comes second is told who has it."""

from __future__ import annotations

import getpass
import hashlib
import json
import os
import shlex
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path
from typing import Any

from filelock import BaseFileLock, FileLock, Timeout
from platformdirs import user_runtime_path

from pimchip.errors import OwnedError, PimchipWarning
from pimchip.files import replacing
from pimchip.link.texts import readable
from pimchip.link.token import without_token

FOLDER = "PIMCHIP_RUNTIME"
"""Names another folder for locks than the user's runtime folder."""


def runtime_folder() -> Path:
    """Where locks, and what is served, are noted: the user's own, gone after a restart of the machine."""
    named = os.environ.get(FOLDER)
    if named:
        return Path(named)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a system without $XDG_RUNTIME_DIR: another folder does as well
        return user_runtime_path("pimchip", ensure_exists=True)


@contextmanager
def owning(place: str, name: str) -> Iterator[None]:
    """Own the line at `place` (port or address) until the context ends, as also the process's death ends it.

    name: of the board, for the error. Raises OwnedError where another process of this user has it, or this one has it
    already. Warns (PimchipWarning) where no lock can be made; the board is used without then.
    """
    try:
        lock, note = _files(place)
        note.parent.mkdir(parents=True, exist_ok=True)
        lock.acquire(blocking=False)
    except Timeout:
        raise OwnedError(f"{name} is in use by {_said(note)}; end that, or wait for it") from None
    except _NO_LOCK as error:
        warnings.warn(f"{name} is not locked against other processes: {error}", PimchipWarning, stacklevel=4)
        yield
        return
    try:
        with suppress(Exception), replacing(note) as part:  # what is said of the owner may lack; the lock may not
            part.write_text(json.dumps(_self(place)), encoding="utf-8")
        yield
    finally:
        with suppress(OSError):
            note.unlink()
        lock.release()


def owner_of(place: str) -> str | None:
    """Who owns the line at `place`, in words; None for nobody."""
    try:
        lock, note = _files(place)
        if not Path(lock.lock_file).exists():
            return None
        lock.acquire(blocking=False)
    except Timeout:
        return _said(note)
    except _NO_LOCK:
        return None
    lock.release()
    return None


_NO_LOCK = (OSError, NotImplementedError)
"""What making a lock raises where there can be none; the latter by filelock, on file systems without locks."""


def _files(place: str) -> tuple[BaseFileLock, Path]:
    """The lock of a line, and the note of who has it."""
    name = hashlib.sha256(place.encode()).hexdigest()[:16]
    folder = runtime_folder() / "boards"
    return FileLock(folder / f"{name}.lock"), folder / f"{name}.json"


def _self(place: str) -> dict[str, Any]:
    user = ""
    with suppress(Exception):  # an account without a name
        user = getpass.getuser()
    command = shlex.join(without_token(word) for word in [Path(sys.argv[0]).name or "python", *sys.argv[1:]])
    since = datetime.now().astimezone().isoformat(timespec="seconds")
    return {"pid": os.getpid(), "user": user, "command": command, "since": since, "place": place}


def _said(note: Path) -> str:
    try:
        told = json.loads(note.read_text(encoding="utf-8"))
        own = " (this process)" if told["pid"] == os.getpid() else ""
        what = f"process {told['pid']}{own} of {told['user'] or 'this user'}: {told['command']}, since {told['since']}"
    except (OSError, ValueError, KeyError, TypeError):
        return "another process, which does not say who it is"
    return readable(what)
