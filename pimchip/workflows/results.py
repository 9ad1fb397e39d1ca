"""Where predictions go: JSON lines and CSV as they come, npz at the end; none of them is held in memory."""

from __future__ import annotations

import csv
import json
import sys
import tempfile
import zipfile
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from pimchip.errors import InputError
from pimchip.files import replacing
from pimchip.workflows.streams import Block

FORMATS = ("jsonl", "csv", "npz")
STDOUT = "-"


class Writer(ABC):
    """Takes predictions block by block."""

    @abstractmethod
    def add(self, block: Block, predictions: NDArray[np.int64], logits: NDArray[np.float32]) -> None:
        """predictions: classes by number [n]; logits: real [n, classes]."""


class Nowhere(Writer):
    """Drops them."""

    def add(self, block: Block, predictions: NDArray[np.int64], logits: NDArray[np.float32]) -> None:
        pass


def format_of(out: Path, wanted: str | None) -> str:
    """The format of a file: as asked for, else by the end of its name, JSON lines on stdout. InputError for none."""
    found = wanted or ("jsonl" if str(out) == STDOUT else out.suffix.lower().removeprefix("."))
    if found not in FORMATS:
        raise InputError(f"--out {out}: want a name that ends in .jsonl, .csv or .npz, or say --format")
    if found == "npz" and str(out) == STDOUT:
        raise InputError("--format npz needs a file; JSON lines and CSV go to stdout")
    return found


@contextmanager
def writing(out: Path | None, wanted: str | None, classes: tuple[str, ...]) -> Iterator[Writer]:
    """A writer to a file; None: nowhere. Lines are whole whatever happens; a .npz is whole or not there."""
    if out is None:
        yield Nowhere()
        return
    form = format_of(out, wanted)
    if form == "npz":
        with replacing(out, "--out") as path, _Arrays(path, classes) as arrays:
            yield arrays
        return
    kind = _Lines if form == "jsonl" else _Table
    if str(out) == STDOUT:
        yield kind(sys.stdout, classes)
        return
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        with out.open("w", encoding="utf-8", newline="") as file:
            yield kind(file, classes)
    except OSError as error:
        raise InputError(f"cannot write --out {out}: {error}; free space or name another place") from None


class _Lines(Writer):
    """One JSON object an image."""

    def __init__(self, file: IO[str], classes: tuple[str, ...]) -> None:
        self._file, self._classes = file, classes

    def add(self, block: Block, predictions: NDArray[np.int64], logits: NDArray[np.float32]) -> None:
        lines = []
        for i, prediction in enumerate(predictions.tolist()):
            row: dict[str, Any] = {"index": block.first + i}
            if block.names:
                row["name"] = block.names[i]
            row |= {"prediction": prediction, "class": self._classes[prediction]}
            if block.labels is not None:
                row["label"] = int(block.labels[i])
            row["logits"] = [float(f"{value:.7g}") for value in logits[i].tolist()]
            lines.append(json.dumps(row, allow_nan=False) + "\n")
        self._file.write("".join(lines))
        self._file.flush()


class _Table(Writer):
    """A line of CSV an image, after a header."""

    def __init__(self, file: IO[str], classes: tuple[str, ...]) -> None:
        self._file, self._classes = file, classes
        self._rows = csv.writer(file, lineterminator="\n")
        self._rows.writerow(["index", "name", "prediction", "class", "label"])

    def add(self, block: Block, predictions: NDArray[np.int64], logits: NDArray[np.float32]) -> None:
        for i, prediction in enumerate(predictions.tolist()):
            name = block.names[i] if block.names else ""
            label = "" if block.labels is None else int(block.labels[i])
            self._rows.writerow([block.first + i, name, prediction, self._classes[prediction], label])
        self._file.flush()


class _Arrays(Writer):
    """Arrays predictions int64 [n], logits float32 [n, classes], labels int64 [n] where all are known, classes; spooled to
    files, put together at the end."""

    def __init__(self, path: Path, classes: tuple[str, ...]) -> None:
        self._path, self._classes = path, classes
        self._spools: dict[str, IO[bytes]] = {}
        self._count, self._labelled = 0, True

    def __enter__(self) -> _Arrays:
        for name in ("predictions", "logits", "labels"):
            self._spools[name] = tempfile.TemporaryFile()
        return self

    def __exit__(self, kind: type[BaseException] | None, *rest: object) -> None:
        try:
            if kind is None:
                self._finish()
        finally:
            for spool in self._spools.values():
                spool.close()

    def add(self, block: Block, predictions: NDArray[np.int64], logits: NDArray[np.float32]) -> None:
        self._spools["predictions"].write(predictions.astype("<i8").tobytes())
        self._spools["logits"].write(logits.astype("<f4").tobytes())
        self._labelled &= block.labels is not None
        if block.labels is not None:
            self._spools["labels"].write(block.labels.astype("<i8").tobytes())
        self._count += len(predictions)

    def _finish(self) -> None:
        shapes = {"predictions": ("<i8", (self._count,)), "logits": ("<f4", (self._count, len(self._classes)))}
        if self._labelled:
            shapes["labels"] = ("<i8", (self._count,))
        with zipfile.ZipFile(self._path, "w", zipfile.ZIP_DEFLATED) as archive:
            for name, (dtype, shape) in shapes.items():
                with archive.open(f"{name}.npy", "w", force_zip64=True) as file:
                    header = {"descr": dtype, "fortran_order": False, "shape": shape}
                    np.lib.format.write_array_header_1_0(file, header)
                    self._spools[name].seek(0)
                    while part := self._spools[name].read(1 << 20):
                        file.write(part)
            with archive.open("classes.npy", "w") as file:
                np.lib.format.write_array(file, np.array(self._classes), allow_pickle=False)
