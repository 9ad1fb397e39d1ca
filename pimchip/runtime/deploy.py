"""deploy: put a program on a board, verify it, calibrate BN there and say how well it works."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pimchip.board import Board, open_twin
from pimchip.board.restarts import through_restarts
from pimchip.board.trims import set_trim, trim_codes
from pimchip.compiler import check_profile
from pimchip.compiler.container import read_container, write_container
from pimchip.compiler.program import Program
from pimchip.errors import InputError, PimchipWarning, few
from pimchip.profile import Profile
from pimchip.qat import given
from pimchip.qat.data import Dataset, calibration_images
from pimchip.runtime.calibrate import calibrate
from pimchip.runtime.conditions import differences
from pimchip.runtime.evaluate import Accuracy, accuracy
from pimchip.runtime.executor import BEFORE_RUN, Executor, ProgramReport

if TYPE_CHECKING:
    from torch import Tensor

KIND = "deployed"
TWIN_SEED = 0x7E57
"""Noise seed of the twin that predicts: not the die's, or the prediction would know the die's noise."""

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
    bench: dict[str, Any] | None = None
    """What stood around the board after evaluation (pimchip.instruments.bench.Bench.snapshot), where one was given."""
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

        InputError if it is another die than the one this was calibrated for, DeviceError where it cannot be trimmed.
        """
        uid = board.info().uid
        if uid != self.uid:
            raise InputError(
                f"this was calibrated for die {self.uid}, the board is {uid}; run `pimchip deploy` on this board"
            )
        set_trim(board, self.trim)
        self.executor = Executor(self.program, board, tolerate_cells=self.tolerate_cells)
        self.programmed = self.executor.report
        return self.executor

    def save(self, path: Path | str) -> None:
        """Write a .deployed file."""
        results = {
            name: None if a is None else [a.right, a.images]
            for name, a in (("before", self.before), ("after", self.after), ("predicted", self.predicted))
        }
        manifest = {
            "program": self.program.manifest.model_dump(mode="json"),
            "uid": self.uid,
            "profile_hash": self.profile_hash,
            "results": results,
            "trim": list(self.trim),
            "tolerate_cells": self.tolerate_cells,
            "data": self.data,
            "bench": self.bench,
        }
        write_container(Path(path), KIND, manifest, self.program.tensors)

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
        program = Program.from_parts(manifest.get("program"), tensors, f"deployed file {path}")
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
    bn_batches: int = 10,
    bn_batch_size: int = 100,
    tolerate_cells: int = 0,
    on_progress: OnProgress | None = None,
) -> Deployed:
    """Program, verify, and with data: accuracy before, BN calibration on the chip, accuracy after.

    profile: must be of this die; with it the accuracy is also predicted, on a twin made from nothing but the profile,
    unless converters of the profile have no curve. tolerate_cells: of the program's cells, so many may read back wrong.
    Warns (PimchipWarning) where board and profile are under other conditions, where nothing can be predicted, where the
    program was compiled under another profile, and where it has no BN to calibrate.
    Raises VerifyError when more cells read back wrong, InputError when profile, program and board do not belong together.
    """

    def tell(what: str) -> Callable[[int, int], None]:
        return lambda done, total: on_progress(what, done, total) if on_progress else None

    given.an(Program, program, "program", "a Program is wanted: pimchip.compile(network, ...) or Program.load(path)")
    given.an(Board, board, "board", "a Board is wanted: pimchip.open_board(url)")  # type: ignore[type-abstract]
    if data is not None:
        given.an(Dataset, data, "data", "a Dataset is wanted: pimchip.qat.data.load_dataset(name) reads one")
    if profile is not None:
        given.an(Profile, profile, "profile", "a Profile is wanted: pimchip.Profile.load(folder)")
    info = board.info()
    executor = Executor(program, board, tolerate_cells=tolerate_cells)
    if profile is not None:
        profile.check_board(info.uid, info.spec)
        check_profile(program, profile)
        for difference in differences(board, profile):
            warnings.warn(f"{difference}; the prediction holds for the latter", PimchipWarning, stacklevel=2)
        if program.manifest.profile_hash not in (None, profile.hash):
            text = (
                f"the program was compiled under another profile ({program.manifest.profile_hash[:8]}) than "
                f"{profile.path} ({profile.hash[:8]}): the latter counts"
            )
            warnings.warn(text, PimchipWarning, stacklevel=2)
        load_trim(board, profile)
    if program.manifest.passes:
        through_restarts(lambda: executor.load_pass(0, tell("programming")))
    deployed = Deployed(program, info.uid, None if profile is None else profile.hash, executor=executor)
    deployed.trim, deployed.programmed = through_restarts(lambda: trim_codes(board)), executor.report
    deployed.tolerate_cells = tolerate_cells
    if data is None:
        return deployed
    deployed.data = data.name
    if program.tiles and not program.calibrates:
        warnings.warn(NO_BN, PimchipWarning, stacklevel=2)
    logits = executor.logits(data.test.images, run=BEFORE_RUN, progress=tell("accuracy before"))
    deployed.before = accuracy(logits, data.test.labels)
    calibrated = _calibrated(executor, data, bn_batches, bn_batch_size, tell("BN calibration"))
    deployed.program = calibrated
    deployed.executor = executor.with_program(calibrated)
    logits = deployed.executor.logits(data.test.images, progress=tell("accuracy after"))
    deployed.after = accuracy(logits, data.test.labels)
    if profile is not None:
        deployed.unmodelled_adcs = unmodelled_adcs(program, profile)
        odd = [f"ADC {adc} ({', '.join(flags)})" for adc, flags in deployed.unmodelled_adcs.items()]
        if odd:
            text = f"no prediction: profile {profile.path} has no usable curve of {few(odd, ADCS_SHOWN)}"
            warnings.warn(text, PimchipWarning, stacklevel=2)
        else:
            deployed.predicted = predict_accuracy(program, profile, data, bn_batches, bn_batch_size, tell("prediction"))
    return deployed


def unmodelled_adcs(program: Program, profile: Profile) -> dict[int, tuple[str, ...]]:
    """Converters that the program uses, with their flags, of which the profile has no curve at its operating points."""
    found: dict[int, tuple[str, ...]] = {}
    for mac, used in program.adcs_used().items():
        found |= {adc: flags for adc, flags in profile.unmodelled(mac).items() if adc in used}
    return dict(sorted(found.items()))


def load_trim(board: Board, profile: Profile) -> None:
    """Program the trim codes that the profile was measured with. DeviceError where the board cannot."""
    set_trim(board, profile.trim)


def predict_accuracy(
    program: Program,
    profile: Profile,
    data: Dataset,
    bn_batches: int = 10,
    bn_batch_size: int = 100,
    progress: Callable[[int, int], None] | None = None,
) -> Accuracy:
    """Accuracy after BN calibration on a twin of the measured die."""
    used = set[int]().union(*program.adcs_used().values())
    with open_twin(profile, seed=TWIN_SEED, used=used) as twin:
        executor = Executor(program, twin)
        calibrated = _calibrated(executor, data, bn_batches, bn_batch_size, None)
        logits = executor.with_program(calibrated).logits(data.test.images, progress=progress)
    return accuracy(logits, data.test.labels)


def _calibrated(
    executor: Executor, data: Dataset, batches: int, batch_size: int, progress: Callable[[int, int], None] | None
) -> Program:
    if not executor.program.calibrates:
        return executor.program
    images = calibration_images(data, batches * batch_size)
    return calibrate(executor, images, batches=batches, batch_size=batch_size, progress=progress)
