"""A program calibrated for one die: what `.deployed` files hold, callable while its board is open."""

from __future__ import annotations

import warnings
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pimchip.board import Board
from pimchip.board.conditions import MEND, outside
from pimchip.board.trims import set_trim
from pimchip.characterize.journal import Arrays
from pimchip.chip.correction import Correction
from pimchip.compiler.container import read_container, write_container
from pimchip.compiler.program import Program
from pimchip.errors import InputError, PimchipWarning
from pimchip.profile.validity import Validity
from pimchip.qat import given
from pimchip.runtime.calibrate import Calibrated
from pimchip.runtime.copies import check_corrections
from pimchip.runtime.corrections import PREFIX, from_parts, to_parts
from pimchip.runtime.evaluate import Accuracy
from pimchip.runtime.executor import Executor
from pimchip.runtime.programmed import ProgramReport
from pimchip.runtime.repeats import CHOICES
from pimchip.runtime.watch import LEVELS, Levels

if TYPE_CHECKING:
    from torch import Tensor

KIND = "deployed"


@dataclass
class Deployed:
    """A program calibrated for one die. Callable like a module while its board is open."""

    program: Program
    uid: str
    profile_hash: str | None = None
    before: Accuracy | None = None
    after: Accuracy | None = None
    predicted: Accuracy | None = None
    programmed: ProgramReport = field(default_factory=ProgramReport)
    """What programming took, of all passes so far; not kept in the file."""
    trim: tuple[int, ...] = ()
    """Offset trim codes under which BN was calibrated, by converter; empty where the chip has none."""
    tolerate_cells: int = 0
    """So many of the program's cells may hold something else than was programmed, as when this was deployed."""
    data: str = ""
    """Name of the data set that BN was calibrated and accuracies were found on; empty where there was none."""
    unmodelled_adcs: dict[int, tuple[str, ...]] = field(default_factory=dict)
    """Converters, with their flags, for which the profile has no curve, so that nothing was predicted; not kept in the
    file."""
    sign_repeats: int = 1
    """Conversions of sign planes that are averaged; see pimchip.runtime.repeats."""
    levels: Levels | None = None
    """What sums come to each BN after its calibration, from which drift is told; None where there was none."""
    calibration: Calibrated | None = None
    """What BN calibration came to, where it was done now; not kept in the file."""
    bench: dict[str, Any] | None = None
    """What stood around the board after evaluation (pimchip.instruments.bench.Bench.snapshot), where one was given."""
    corrections: tuple[Correction, ...] = ()
    """What codes are put in place of, one table for each kind of codes; empty where they are taken as they are."""
    holds: Validity | None = None
    """The conditions in which the profile, and so what was calibrated and corrected by it, holds; None without one."""
    measured: str | None = None
    """When the profile was measured, ISO 8601."""
    executor: Executor | None = None

    @property
    def verify_errors(self) -> int:
        """Tiles whose cells did not read back as programmed."""
        return len(self.programmed.errors)

    def __call__(self, images: Tensor) -> Tensor:
        """Real logits float32 [n, classes]. images: uint8 [n, c, h, w], or float in 0..1 (taken to the nearest of 256 values).

        Raises InputError for anything else: another type or shape, floats outside 0..1, NaN and infinite values.
        """
        import torch

        if self.executor is None:
            raise InputError("this Deployed has no board; use attach(board) first")
        array = given.pixels(images).cpu().numpy()
        scale = self.program.manifest.logit_scale
        return torch.from_numpy(self.executor.logits(array).astype(np.float64) * scale).float()

    def attach(self, board: Board) -> Executor:
        """Use a board from now on, trimmed as for the calibration.

        InputError if it is another die than the one this was calibrated for, where codes of copies of a layer are not
        corrected, or where codes are corrected and the board is
        outside the conditions in which their profile holds; of others that is a PimchipWarning. DeviceError where the board
        cannot be trimmed.
        """
        uid = board.info().uid
        if uid != self.uid:
            raise InputError(
                f"this was calibrated for die {self.uid}, the board is {uid}: name that die's board (--device, PIMCHIP_DEVICE), or "
                "run `pimchip deploy` on this one"
            )
        check_corrections(self.program, self.corrections, "this Deployed")
        if self.holds is not None:
            told = outside(board, self.holds, self.measured)
            if told and self.corrections:
                raise InputError(f"{told[0]}, and codes are corrected by it: {MEND}; then deploy again")
            for difference in told:
                warnings.warn(f"{difference}: {MEND}; then deploy again", PimchipWarning, stacklevel=2)
        set_trim(board, self.trim)
        self.executor = Executor(
            self.program,
            board,
            tolerate_cells=self.tolerate_cells,
            corrections=self.corrections,
            sign_repeats=self.sign_repeats,
        )
        self.programmed = self.executor.report
        return self.executor

    def save(self, path: Path | str) -> None:
        """Write a .deployed file."""
        results = {
            name: None if a is None else [a.right, a.images]
            for name, a in (("before", self.before), ("after", self.after), ("predicted", self.predicted))
        }
        manifest: dict[str, Any] = {
            "program": self.program.manifest.model_dump(mode="json"),
            "uid": self.uid,
            "profile_hash": self.profile_hash,
            "results": results,
            "trim": list(self.trim),
            "tolerate_cells": self.tolerate_cells,
            "sign_repeats": self.sign_repeats,
            "data": self.data,
            "bench": self.bench,
            "levels": None if self.levels is None else [self.levels.images, self.levels.floor],
        }
        if self.holds is not None:
            manifest |= {"holds": self.holds.to_dict(), "measured": self.measured}
        heads, tables = to_parts(self.corrections)
        if heads:
            manifest["corrections"] = heads
        version = max(3 if heads else 1, self.program.manifest.version)
        levels = {} if self.levels is None else self.levels.tensors()
        write_container(Path(path), KIND, manifest, self.program.tensors | tables | levels, version)

    @classmethod
    def load(cls, path: Path | str) -> Deployed:
        """Read a .deployed file; InputError for a missing, damaged or foreign one."""
        manifest, tensors = read_container(Path(path), KIND)
        if not isinstance(manifest.get("uid"), str) or not isinstance(manifest.get("results"), dict):
            raise InputError(f"deployed file {path}: no die is named; deploy again")
        trim, profile_hash = manifest.get("trim"), manifest.get("profile_hash")
        if not isinstance(trim, list) or not all(isinstance(code, int) and code >= 0 for code in trim):
            raise InputError(f"deployed file {path}: its trim is no list of codes; deploy again")
        tolerated = manifest.get("tolerate_cells", 0)  # which files of before did not have
        if isinstance(tolerated, bool) or not isinstance(tolerated, int) or not 0 <= tolerated <= 1 << 40:
            raise InputError(f"deployed file {path}: its tolerate_cells is no number of cells; deploy again")
        averaged = manifest.get("sign_repeats", 1)  # likewise
        if isinstance(averaged, bool) or averaged not in CHOICES:
            raise InputError(f"deployed file {path}: its sign_repeats is no number of them; deploy again")
        if not isinstance(profile_hash, str | None):
            raise InputError(f"deployed file {path}: its profile's hash is no text; deploy again")
        data = manifest.get("data", "")  # likewise
        if not isinstance(data, str):
            raise InputError(f"deployed file {path}: its data set's name is no text; deploy again")
        bench = manifest.get("bench")  # likewise
        if not isinstance(bench, dict | None):
            raise InputError(f"deployed file {path}: its bench is no record; deploy again")
        tables = {name: tensors.pop(name) for name in list(tensors) if name.startswith(PREFIX)}
        own = {name: tensors.pop(name) for name in list(tensors) if name.startswith(LEVELS)}
        levels = _levels(manifest.get("levels"), own, path)
        source = f"deployed file {path}"
        program = Program.from_parts(manifest.get("program"), tensors, source)
        corrections = from_parts(manifest.get("corrections", []), tables, program.spec, source)
        check_corrections(program, corrections, source)
        holds, measured = manifest.get("holds"), manifest.get("measured")  # likewise
        try:
            given = None if holds is None else Validity.of(holds if isinstance(holds, dict) else {})
            if measured is not None:
                datetime.fromisoformat(measured)
        except (InputError, TypeError, ValueError) as error:
            raise InputError(f"deployed file {path}: {error}; deploy again") from None
        results = _results(manifest["results"], path)
        return cls(
            program,
            manifest["uid"],
            profile_hash,
            results["before"],
            results["after"],
            results["predicted"],
            trim=tuple(trim),
            tolerate_cells=tolerated,
            sign_repeats=averaged,
            data=data,
            bench=bench,
            corrections=corrections,
            holds=given,
            measured=measured,
            levels=levels,
        )


def _levels(said: object, tensors: Arrays, path: Path | str) -> Levels | None:
    """As a file has them; files of before have none."""
    if said is None and not tensors:
        return None
    try:
        match said:
            case [int(images), float(floor) | int(floor)] if images > 0 and 0 <= floor < 1e6:
                return Levels.of(images, float(floor), tensors)
    except InputError as error:
        raise InputError(f"deployed file {path}: {error}; deploy again") from None
    raise InputError(f"deployed file {path}: its levels are of no number of images; deploy again")


def _results(found: dict[str, Any], path: Path | str) -> dict[str, Accuracy | None]:
    out: dict[str, Accuracy | None] = {}
    for name in ("before", "after", "predicted"):
        pair = found.get(name)
        if pair is None:
            out[name] = None
        elif (
            isinstance(pair, list)
            and len(pair) == 2
            and all(isinstance(v, int) for v in pair)
            and 0 <= pair[0] <= pair[1] > 0
        ):
            out[name] = Accuracy(pair[0], pair[1])
        else:
            raise InputError(f"deployed file {path}: result {name} is no count; deploy again")
    return out
