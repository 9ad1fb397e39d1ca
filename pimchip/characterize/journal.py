"""What a measurement has read so far, kept in a folder: one that was cut short goes on from there.

A measurement is a row of steps, each of which depends on its seed and on what the steps before it read, and on nothing
else. So a step that is in the folder is read from there, and the rest is measured: the profile is the same, bit for bit.
"""

from __future__ import annotations

import hashlib
import io
import json
import shutil
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from pimchip.errors import InputError
from pimchip.files import replacing

Arrays = dict[str, NDArray[Any]]
FOLDER = ".unfinished"


class Steps(Protocol):
    """What a measurement asks for its steps."""

    def step(self, name: str, work: Callable[[], Arrays]) -> Arrays:
        """The arrays of a step."""


class Unkept:
    """Steps that nothing keeps."""

    def step(self, name: str, work: Callable[[], Arrays]) -> Arrays:
        """What `work` gives."""
        return work()


class Journal:
    """Steps by name, under OUT/.unfinished/<hash of what is measured>/. what: all that the reads depend on, plain values;
    a measurement that differs in any of it has another folder. kind: begins the folder's name, for `drop_others`."""

    def __init__(self, out: Path, what: Mapping[str, Any], kind: str = "") -> None:
        self._said = json.dumps(what, sort_keys=True)
        self._kind = f"{kind}-" if kind else ""
        self.folder = out / FOLDER / (self._kind + hashlib.sha256(self._said.encode()).hexdigest()[:16])
        self.resumed = 0
        """Steps that were there."""

    def step(self, name: str, work: Callable[[], Arrays]) -> Arrays:
        """The arrays of a step: what the folder holds, else what `work` gives, kept."""
        path = self.folder / f"{name}.npz"
        held = self._read(path)
        if held is not None:
            self.resumed += 1
            return held
        found = work()
        buffer = io.BytesIO()
        np.savez(buffer, allow_pickle=False, **found)
        packed = buffer.getvalue()
        with replacing(path, "--out") as temporary:
            temporary.write_bytes(hashlib.sha256(packed).digest() + packed)
        return found

    def done(self) -> None:
        """Forget the steps: the profile is written."""
        shutil.rmtree(self.folder, ignore_errors=True)
        try:
            self.folder.parent.rmdir()
        except OSError:  # others measure there too
            return

    def drop_others(self) -> None:
        """Forget what was begun of the same kind and differs: nothing will go on there."""
        ends = "?" * (len(self.folder.name) - len(self._kind))  # "evaluate" is no other "evaluate-before"
        for folder in self.folder.parent.glob(f"{self._kind}{ends}") if self._kind else ():
            if folder != self.folder:
                shutil.rmtree(folder, ignore_errors=True)

    @staticmethod
    def _read(path: Path) -> Arrays | None:
        try:
            data = path.read_bytes()
        except FileNotFoundError:
            return None
        except OSError as error:
            raise InputError(f"{path} cannot be read: {error.strerror or error}") from None
        if hashlib.sha256(data[32:]).digest() != data[:32]:
            return None  # half written, as when the machine lost power: measured again
        try:
            with np.load(io.BytesIO(data[32:]), allow_pickle=False) as file:
                return dict(file)
        except (ValueError, OSError, zipfile.BadZipFile):
            return None
