"""A training run's figures as JSON lines: one object an epoch, of which none is lost or doubled when a run is resumed."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pimchip.errors import InputError
from pimchip.files import replacing
from pimchip.json_values import finite


class TrainingLog:
    """A file with one JSON object an epoch, which must hold "epoch". Made for a run, it begins with `history`.

    A log of an earlier run at that place is replaced, as a checkpoint is; a resumed run hands over the epochs it goes
    on from, so the file is whole even if the last one broke off within a line. Raises InputError where the place cannot
    be written or holds something that is no such log.
    """

    def __init__(self, path: Path, history: Sequence[Mapping[str, Any]] = ()) -> None:
        self.path = path
        self._refuse_foreign()
        with replacing(path, "--log") as temporary:
            temporary.write_text("".join(map(_line, history)), encoding="utf-8")

    def append(self, record: Mapping[str, Any]) -> None:
        """Add an epoch. Raises InputError if the disk is full or the file is gone."""
        try:
            with self.path.open("a", encoding="utf-8") as out:
                out.write(_line(record))
        except OSError as error:
            raise self._failed(error) from None

    def _failed(self, error: OSError) -> InputError:
        return InputError(f"cannot write --log {self.path}: {error.strerror or error}; free space or name another file")

    def _refuse_foreign(self) -> None:
        try:
            with self.path.open("rb") as held:
                first = held.readline(1 << 20)
        except FileNotFoundError:
            return
        except OSError as error:
            raise self._failed(error) from None
        try:
            known = not first or "epoch" in json.loads(first)
        except (ValueError, TypeError):
            known = False
        if not known:
            raise InputError(f"--log {self.path} holds something else than a training log; name another file")


def _line(record: Mapping[str, Any]) -> str:
    return json.dumps(finite(record), allow_nan=False) + "\n"
