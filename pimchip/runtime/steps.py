"""Named steps of a deployment, each with a record in a folder: a second run skips what still holds.

A step is done from its inputs: plain values on which its result depends, hashes of files and of the steps before among
them. Its record holds the inputs, the result and the hash of its arrays, and is written last, so that a step is either
done or not. A step that is cut short keeps its parts (pimchip.characterize.journal) and goes on after them.
"""

from __future__ import annotations

import hashlib
import io
import json
import time
import zipfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from pimchip._version import __version__
from pimchip.characterize.journal import Arrays, Journal
from pimchip.errors import InputError
from pimchip.files import replacing
from pimchip.json_values import finite

VERSION = f"{__version__}/2"
"""Of records: those of another pimchip are not used."""
Result = dict[str, Any]
"""Plain values."""
Work = Callable[["Parts"], tuple[Result, Arrays]]


@dataclass(frozen=True)
class Done:
    """What became of a step. why: it ran although there was a record, in words; "" otherwise."""

    name: str
    state: Literal["done", "kept", "resumed"]
    seconds: float
    why: str = ""

    def __str__(self) -> str:
        said = {
            "done": f"{self.seconds:.1f} s",
            "kept": "still holds, skipped",
            "resumed": f"resumed, {self.seconds:.1f} s",
        }
        return f"{self.name}: {said[self.state]}" + (f" ({self.why})" if self.why else "")


class Parts:
    """Parts of a step under way, kept where there is a folder for them."""

    def __init__(self, journal: Journal | None) -> None:
        self._journal = journal

    def part(self, name: str, work: Callable[[], Arrays]) -> Arrays:
        """The arrays of a part: those of an earlier run that was cut short, else what `work` gives."""
        return work() if self._journal is None else self._journal.step(name, work)

    def start(self, now: Result, holds: Callable[[Result], str]) -> Result:
        """Under what the step was begun: `now`, or what an earlier run said, whose parts are dropped where that does not hold."""
        if self._journal is None:
            return now
        parts = self._journal.resumed
        said = self._journal.step("start", lambda: _text(now))
        self._journal.resumed = parts  # nothing was measured for it
        then: Result = json.loads(str(said["text"]))
        if not holds(then):
            return then
        self._journal.done()
        self._journal.step("start", lambda: _text(now))
        return now

    @property
    def resumed(self) -> bool:
        """Whether an earlier run had done some."""
        return self._journal is not None and self._journal.resumed > 0


class Steps:
    """Steps under a folder; None: nothing is kept. told: of each step that is over."""

    def __init__(self, folder: Path | None = None, told: Callable[[Done], None] = lambda done: None) -> None:
        self.folder = folder
        self.done: list[Done] = []
        self._told = told

    def step(
        self, name: str, inputs: Mapping[str, Any], work: Work, holds: Callable[[Result], str] = lambda result: ""
    ) -> tuple[Result, Arrays]:
        """Result and arrays of a step: of its record where that is of the same inputs and `holds`, else of `work`, recorded.

        holds: says of a recorded result why it holds no longer; "" where it does. Raises InputError where nothing can be
        written.
        """
        start, wanted = time.monotonic(), _plain(inputs)
        record = self._record(name)
        why = ""
        if record is not None:
            why = _differing(record["inputs"], wanted) or holds(record["result"])
            arrays = None if why else self._arrays(name, record)
            if arrays is not None:
                self._over(Done(name, "kept", time.monotonic() - start))
                return record["result"], arrays
            why = why or "its file is damaged"
        parts = Parts(None if self.folder is None else Journal(self.folder, {"step": name} | wanted, kind=name))
        result, arrays = work(parts)
        result = _plain(result)
        if self.folder is not None:
            self._write(name, wanted, result, arrays, time.monotonic() - start)
            assert parts._journal is not None
            parts._journal.drop_others()
            parts._journal.done()
        self._over(Done(name, "resumed" if parts.resumed else "done", time.monotonic() - start, why))
        return result, arrays

    def forget(self, name: str) -> None:
        """The step is to be done anew: what it left is being changed."""
        if self.folder is not None:
            (self.folder / f"{name}.json").unlink(missing_ok=True)

    def recorded(self, name: str) -> Result | None:
        """The result in a step's record, whatever its inputs; None without one."""
        record = self._record(name)
        return None if record is None else dict(record["result"])

    @contextmanager
    def always(self, name: str) -> Iterator[Result]:
        """A step that is done each time, since asking whether it still holds is as much work. Yields the result to fill."""
        start, result = time.monotonic(), Result()
        yield result
        if self.folder is not None:
            self._write(name, {}, _plain(result), {}, time.monotonic() - start)
        self._over(Done(name, "done", time.monotonic() - start))

    def amend(self, name: str, **changes: Any) -> None:
        """Change values in a step's recorded result, where there is one."""
        record = self._record(name)
        if record is not None and self.folder is not None:
            record["result"] |= changes
            self._save(name, record)

    def kept(self, name: str) -> None:
        """Tell of a step that needed nothing."""
        self._over(Done(name, "kept", 0.0))

    def _over(self, done: Done) -> None:
        self.done.append(done)
        self._told(done)

    def _record(self, name: str) -> dict[str, Any] | None:
        """A readable record of this version; None otherwise."""
        if self.folder is None:
            return None
        try:
            found = json.loads((self.folder / f"{name}.json").read_text(encoding="utf-8"))
        except FileNotFoundError:
            return None
        except (OSError, ValueError):
            return None  # half written, as when the machine lost power: done again
        if not isinstance(found, dict) or found.get("version") != VERSION:
            return None
        whole = isinstance(found.get("inputs"), dict) and isinstance(found.get("result"), dict)
        return found if whole else None

    def _arrays(self, name: str, record: Mapping[str, Any]) -> Arrays | None:
        """What a record's step left; None where that is damaged."""
        assert self.folder is not None
        digest = record.get("arrays")
        if digest is None:
            return {}
        try:
            data = (self.folder / f"{name}.npz").read_bytes()
            if hashlib.sha256(data).hexdigest() != digest:
                return None
            with np.load(io.BytesIO(data), allow_pickle=False) as file:
                return dict(file)
        except (OSError, ValueError, zipfile.BadZipFile):
            return None

    def _write(self, name: str, inputs: Result, result: Result, arrays: Arrays, seconds: float) -> None:
        assert self.folder is not None
        digest = None
        self.forget(name)  # so that no old record stands beside new arrays
        if arrays:
            buffer = io.BytesIO()
            np.savez(buffer, allow_pickle=False, **arrays)
            digest = hashlib.sha256(buffer.getvalue()).hexdigest()
            with replacing(self.folder / f"{name}.npz", "record") as temporary:
                temporary.write_bytes(buffer.getvalue())
        record = {
            "version": VERSION,
            "step": name,
            "inputs": inputs,
            "result": result,
            "arrays": digest,
            "finished": datetime.now(UTC).isoformat(timespec="seconds"),
            "seconds": round(seconds, 3),
        }
        self._save(name, record)

    def _save(self, name: str, record: Mapping[str, Any]) -> None:
        assert self.folder is not None
        with replacing(self.folder / f"{name}.json", "record") as temporary:
            temporary.write_text(json.dumps(record, indent=1, allow_nan=False), encoding="utf-8")


def folder_of(target: Path) -> Path:
    """Where the records of a deployment to this file are."""
    return target.with_name(f"{target.name}.steps")


def _text(values: Result) -> Arrays:
    return {"text": np.array(json.dumps(values))}


def digest(*arrays: NDArray[Any]) -> str:
    """SHA-256 over types, shapes and bytes."""
    made = hashlib.sha256()
    for array in arrays:
        made.update(f"{array.dtype.str}{array.shape}".encode())
        made.update(np.ascontiguousarray(array).tobytes())
    return made.hexdigest()


def _plain(values: Mapping[str, Any]) -> Result:
    """As JSON gives it back."""
    try:
        found: Result = json.loads(json.dumps(finite(values), allow_nan=False))
    except (TypeError, ValueError) as error:
        raise InputError(f"a step's record cannot hold {values}: {error}") from None
    return found


def _differing(before: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """What inputs differ in, in words; "" for nothing."""
    names = [name for name in sorted({*before, *now}) if before.get(name) != now.get(name)]
    return f"changed: {', '.join(names)}" if names else ""


def text_digest(*texts: str) -> str:
    """SHA-256 of texts, each with its length."""
    made = hashlib.sha256()
    for text in texts:
        made.update(f"{len(text)}:{text}".encode())
    return made.hexdigest()
