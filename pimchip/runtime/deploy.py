"""deploy: put a program on a board, verify it, calibrate BN there and say how well it works."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from pimchip.board import Board
from pimchip.board.restarts import through_restarts
from pimchip.board.trims import set_trim, trim_codes
from pimchip.characterize.journal import Arrays
from pimchip.chip.correction import Correction
from pimchip.compiler import check_profile
from pimchip.compiler.container import read_container, write_container
from pimchip.compiler.program import Program
from pimchip.errors import InputError, PimchipWarning, few
from pimchip.profile import Profile
from pimchip.profile.validity import Validity
from pimchip.qat import given
from pimchip.qat.data import Dataset
from pimchip.runtime.calibrate import Calibrated, Plan
from pimchip.runtime.conditions import MEND, differences, outside
from pimchip.runtime.corrections import PREFIX, corrections_of, from_parts, to_parts
from pimchip.runtime.evaluate import Accuracy
from pimchip.runtime.executor import BEFORE_RUN, INFERENCE_RUN, Executor
from pimchip.runtime.programmed import ProgramReport
from pimchip.runtime.results import Chip, calibrated_on, correcting, evaluated, fresh, predicted
from pimchip.runtime.steps import Parts, Result, Steps, digest, text_digest

if TYPE_CHECKING:
    from torch import Tensor

KIND = "deployed"
NO_BN = (
    "the network has no BN to calibrate, so what the die's offsets and curves add to its sums stays there: train it at "
    "searched ranges (--range-divisor auto) and on the measured die (--on-die), or put a BN after each layer"
)
"""Told where a person expects the calibration."""
ADCS_SHOWN = 8
"""Converters that a warning names; of more, how many they are is said."""

OnProgress = Callable[[str, int, int], None]
"""(what, done, total)"""


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

        InputError if it is another die than the one this was calibrated for, or where codes are corrected and the board is
        outside the conditions in which their profile holds; of others that is a PimchipWarning. DeviceError where the board
        cannot be trimmed.
        """
        uid = board.info().uid
        if uid != self.uid:
            raise InputError(
                f"this was calibrated for die {self.uid}, the board is {uid}; run `pimchip deploy` on this board"
            )
        if self.holds is not None:
            told = outside(board, self.holds, self.measured)
            if told and self.corrections:
                raise InputError(f"{told[0]}, and codes are corrected by it: {MEND}; then deploy again")
            for difference in told:
                warnings.warn(f"{difference}: {MEND}; then deploy again", PimchipWarning, stacklevel=2)
        set_trim(board, self.trim)
        self.executor = Executor(self.program, board, tolerate_cells=self.tolerate_cells, corrections=self.corrections)
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
            "data": self.data,
            "bench": self.bench,
        }
        if self.holds is not None:
            manifest |= {"holds": self.holds.to_dict(), "measured": self.measured}
        heads, tables = to_parts(self.corrections)
        if heads:
            manifest["corrections"] = heads
        version = 3 if heads else self.program.manifest.version
        write_container(Path(path), KIND, manifest, self.program.tensors | tables, version)

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
        if not isinstance(profile_hash, str | None):
            raise InputError(f"deployed file {path}: its profile's hash is no text; deploy again")
        data = manifest.get("data", "")  # likewise
        if not isinstance(data, str):
            raise InputError(f"deployed file {path}: its data set's name is no text; deploy again")
        bench = manifest.get("bench")  # likewise
        if not isinstance(bench, dict | None):
            raise InputError(f"deployed file {path}: its bench is no record; deploy again")
        tables = {name: tensors.pop(name) for name in list(tensors) if name.startswith(PREFIX)}
        program = Program.from_parts(manifest.get("program"), tensors, f"deployed file {path}")
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
            data=data,
            bench=bench,
            corrections=from_parts(manifest.get("corrections", []), tables, program.spec, f"deployed file {path}"),
            holds=given,
            measured=measured,
        )


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


def deploy(
    program: Program,
    board: Board,
    data: Dataset | None = None,
    *,
    profile: Profile | None = None,
    bn_batches: int | None = 10,
    bn_batch_size: int = 100,
    bn_mode: Literal["parallel", "sequential"] = "parallel",
    bn_tolerance: float = 0.02,
    tolerate_cells: int = 0,
    stale_profile: bool = False,
    linearize: bool = False,
    steps: Steps | None = None,
    origin: Mapping[str, Any] | None = None,
    on_progress: OnProgress | None = None,
) -> Deployed:
    """Program, verify, and with data: accuracy before, BN calibration on the chip, accuracy after.

    profile: must be of this die; with it the accuracy is also predicted, on a twin made from nothing but the profile,
    unless converters of the profile have no curve. bn_batches: None for as many as it takes until the statistics' standard
    error is bn_tolerance of the deviation, within one pass over the training images (see pimchip.runtime.calibrate).
    tolerate_cells: of the program's cells, so many may read back wrong. stale_profile: go on where board and profile are
    under other conditions, with a warning. linearize: correct codes by the profile before they are added up, on the board
    where it can hold tables, else on the host; the profile is then checked against the die first, and refused where it is
    stale, whatever stale_profile. steps: keeps a record of each step, and skips those that still hold. origin: what
    results depend on beside board, program and data, such as the seed of an emulated board's noise.
    Warns (PimchipWarning) where nothing can be predicted, where the program was compiled under another profile, and where
    it has no BN to calibrate.
    Raises VerifyError when more cells read back wrong, InputError when profile, program and board do not belong together,
    or where the profile is stale.
    """

    def tell(what: str) -> Callable[[int, int], None]:
        return lambda done, total: on_progress(what, done, total) if on_progress else None

    given.an(Program, program, "program", "a Program is wanted: pimchip.compile(network, ...) or Program.load(path)")
    given.an(Board, board, "board", "a Board is wanted: pimchip.open_board(url)")  # type: ignore[type-abstract]
    if data is not None:
        given.an(Dataset, data, "data", "a Dataset is wanted: pimchip.qat.data.load_dataset(name) reads one")
    if profile is not None:
        given.an(Profile, profile, "profile", "a Profile is wanted: pimchip.Profile.load(folder)")
    plan, steps = Plan(bn_batches, bn_batch_size, bn_mode, bn_tolerance), steps or Steps()
    info = board.info()
    executor = Executor(program, board, tolerate_cells=tolerate_cells)
    if linearize and profile is None:
        raise InputError("codes are corrected by a profile of this die: name it (--profile), or leave --linearize out")
    if profile is not None:
        with steps.always("profile") as said:
            said |= {
                "profile": profile.hash,
                "differences": _checked(program, board, profile, stale_profile, linearize),
            }
        if load_trim(board, profile):
            with steps.always("trim") as said:
                said["codes"] = list(profile.trim)
        else:
            steps.kept("trim")
        if linearize:
            fresh(steps, program, board, profile, tell("checking the profile"))
            corrections = corrections_of(program, profile)
            executor = Executor(program, board, tolerate_cells=tolerate_cells, corrections=corrections)
    _program(executor, steps, tell("programming"))
    deployed = Deployed(program, info.uid, None if profile is None else profile.hash, executor=executor)
    deployed.trim, deployed.programmed = through_restarts(lambda: trim_codes(board)), executor.report
    deployed.tolerate_cells, deployed.corrections = tolerate_cells, executor.corrections
    if profile is not None:
        deployed.holds, deployed.measured = profile.holds, profile.measured
    if data is None:
        return deployed
    deployed.data = data.name
    if program.tiles and not program.calibrates:
        warnings.warn(NO_BN, PimchipWarning, stacklevel=2)
    on = Chip(board, deployed.trim, executor.report, dict(origin or {}) | correcting(executor.corrections))
    deployed.before = evaluated(steps, "evaluate-before", executor, on, data, BEFORE_RUN, tell("accuracy before"))
    calibrated, deployed.calibration = calibrated_on(steps, executor, on, data, plan, tell("BN calibration"))
    deployed.program = calibrated
    deployed.executor = executor.with_program(calibrated)
    deployed.after = evaluated(steps, "evaluate", deployed.executor, on, data, INFERENCE_RUN, tell("accuracy after"))
    steps.amend("program", **_standing(deployed.executor))
    if profile is not None:
        deployed.unmodelled_adcs = unmodelled_adcs(program, profile)
        odd = [f"ADC {adc} ({', '.join(flags)})" for adc, flags in deployed.unmodelled_adcs.items()]
        if odd:
            text = f"no prediction: profile {profile.path} has no usable curve of {few(odd, ADCS_SHOWN)}"
            warnings.warn(text, PimchipWarning, stacklevel=2)
        else:
            deployed.predicted = predicted(
                steps, program, profile, data, plan, tell("prediction"), executor.corrections
            )
    return deployed


def _checked(program: Program, board: Board, profile: Profile, stale: bool, linearize: bool) -> list[str]:
    """In what board and profile differ; raises InputError for what they must not."""
    info = board.info()
    profile.check_board(info.uid, info.spec)
    check_profile(program, profile)
    found = differences(board, profile)
    if found and (linearize or not stale):
        otherwise = "--stale-profile (stale_profile=True in Python) goes on with it"
        if linearize:
            otherwise = "codes are not corrected by it: leave --linearize out"
        raise InputError(
            f"the profile is stale: {'; '.join(found)}; `pimchip characterize` measures it again, {otherwise}"
        )
    for difference in found:
        warnings.warn(f"{difference}; the prediction holds for the latter", PimchipWarning, stacklevel=3)
    if program.manifest.profile_hash not in (None, profile.hash):
        text = (
            f"the program was compiled under another profile ({program.manifest.profile_hash[:8]}) than "
            f"{profile.path} ({profile.hash[:8]}): the latter counts"
        )
        warnings.warn(text, PimchipWarning, stacklevel=3)
    return found


def _program(executor: Executor, steps: Steps, progress: Callable[[int, int], None]) -> None:
    """The first pass on the board, programmed where it is not there yet, and read back."""
    program = executor.program
    if not program.manifest.passes:
        return

    def holds(result: Result) -> str:
        now = _standing(executor)
        if None in (now["boot"], now["state"]):
            return "the board cannot tell whether cells were written since"
        if result.get("boot") != now["boot"]:
            return "the board was restarted since"
        if result.get("state") != now["state"]:
            return "cells or trims were written since"
        held = result.get("residency")
        if not isinstance(held, int) or not 0 <= held < program.manifest.passes:
            return "no pass was complete"
        return "" if executor.recognize(held, progress) else "cells read back otherwise"

    def work(parts: Parts) -> tuple[Result, Arrays]:
        through_restarts(lambda: executor.load_pass(0, progress))
        report = executor.report
        return _standing(executor) | {"repulsed": report.repulsed, "extra_pulses": report.extra_pulses}, {}

    # Not by hash of the program: one of other BN has the same cells.
    tensors = [program.tensors[f"weight.{name}"] for name, layer in program.manifest.layers.items() if layer.tiles]
    tiles = [layer.model_dump_json() for layer in program.manifest.layers.values() if layer.tiles]
    inputs = {"uid": executor.board.info().uid, "weights": digest(*tensors), "tiles": text_digest(*tiles)}
    result, _ = steps.step("program", inputs, work, lambda result: through_restarts(lambda: holds(result)))
    executor.report.repulsed, executor.report.extra_pulses = int(result["repulsed"]), int(result["extra_pulses"])
    with steps.always("verify") as said:
        said |= {"tiles": executor.report.tiles, "errors": executor.report.errors}


def _standing(executor: Executor) -> Result:
    """What tells whether cells are still there: the board's boot, its count of writes, and whose pass is on it."""
    board = executor.board
    state = through_restarts(board.registers).get("state")
    return {"boot": board.boot(), "state": state, "residency": executor.residency}


def unmodelled_adcs(program: Program, profile: Profile) -> dict[int, tuple[str, ...]]:
    """Converters that the program uses, with their flags, of which the profile has no curve at its operating points."""
    found: dict[int, tuple[str, ...]] = {}
    for mac, used in program.adcs_used().items():
        found |= {adc: flags for adc, flags in profile.unmodelled(mac).items() if adc in used}
    return dict(sorted(found.items()))


def load_trim(board: Board, profile: Profile) -> int:
    """Program the trim codes that the profile was measured with; how many were written. DeviceError where the board cannot."""
    return set_trim(board, profile.trim)
