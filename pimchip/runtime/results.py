"""The long steps of a deployment: accuracy on the board, BN calibration there, and what the profile predicts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from pimchip.board import Board, open_twin
from pimchip.board.conditions import moved
from pimchip.board.restarts import Conditions, conditions
from pimchip.characterize.journal import Arrays
from pimchip.characterize.recheck import recheck
from pimchip.chip.correction import Correction
from pimchip.compiler.program import Program
from pimchip.errors import InputError
from pimchip.profile import Profile
from pimchip.qat.data import Dataset, calibration_images
from pimchip.runtime.calibrate import Calibrated, Plan, calibrated
from pimchip.runtime.evaluate import Accuracy, accuracy
from pimchip.runtime.executor import Executor
from pimchip.runtime.programmed import ProgramReport
from pimchip.runtime.steps import Parts, Result, Steps, digest, text_digest
from pimchip.runtime.watch import Levels, reference

TWIN_SEED = 0x7E57
"""Noise seed of the twin that predicts: not the die's, or the prediction would know the die's noise."""

ON_CHIP = ("evaluate-before", "calibrate", "evaluate", "levels")
"""Steps that hold while the die does."""

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Chip:
    """What results depend on beside program and data: the die under its trim, the cells that do not hold, and `origin`, such
    as the seed of an emulated board's noise."""

    board: Board
    trim: tuple[int, ...]
    report: ProgramReport
    origin: dict[str, Any] = field(default_factory=dict)

    def inputs(self) -> Result:
        """For a step's record."""
        wrong = sorted((r, str(tile), list(cells)) for (r, tile), cells in self.report.wrong.items())
        return {"uid": self.board.info().uid, "trim": list(self.trim), "wrong": wrong, "origin": self.origin}

    def conditions(self) -> Result:
        """Of now, for a step's result."""
        return conditions(self.board)._asdict()

    def holds(self, result: Result) -> str:
        """Why a result of before is none of now; "" where it is."""
        then = Conditions(*(result.get(name) for name in Conditions._fields))  # type: ignore[arg-type]
        if then.temperature is None:
            return "its conditions are not known"
        return moved(then, conditions(self.board), self.board.info().spec.supply.volts)


def drifted(steps: Steps) -> None:
    """The die was seen to give something else than when these were measured, whatever its conditions."""
    for name in ON_CHIP:
        steps.forget(name)


def evaluated(
    steps: Steps, name: str, executor: Executor, chip: Chip, data: Dataset, run: int, progress: Progress
) -> Accuracy:
    """Accuracy on the test images, a step."""
    images, labels = data.test.images, data.test.labels

    def work(parts: Parts) -> tuple[Result, Arrays]:
        at, size, right = parts.start(chip.conditions(), chip.holds), executor.batch_size(), 0
        for first in range(0, len(images), size):
            part = images[first : first + size]
            logits = parts.part(
                f"images{first}",
                lambda part=part, first=first: {"logits": executor.logits(part, run=run, first_image=first)},  # type: ignore[misc]
            )["logits"]
            right += accuracy(logits, labels[first : first + size]).right
            progress(first + len(part), len(images))
        return {"right": right, "images": len(images)} | at, {}

    inputs = {"program": program_digest(executor.program), "data": data.digest, "run": run, "images": len(images)}
    result, _ = steps.step(name, inputs | chip.inputs(), work, chip.holds)
    return Accuracy(int(result["right"]), int(result["images"]))


def calibrated_on(
    steps: Steps, executor: Executor, chip: Chip, data: Dataset, plan: Plan, progress: Progress
) -> tuple[Program, Calibrated | None]:
    """The program with BN of its chip, a step; None without a BN."""
    program = executor.program
    if not program.calibrates:
        return program, None
    images = _images(data, plan)

    def work(parts: Parts) -> tuple[Result, Arrays]:
        at = parts.start(chip.conditions(), chip.holds)
        found = calibrated(executor, images, plan, parts=parts, progress=progress)
        error = {"batches": found.batches, "standard_error": found.standard_error, "enough": found.enough}
        norms = {name: values for name, values in found.program.tensors.items() if name.startswith("norm.")}
        return error | at, norms

    inputs = {"program": program_digest(program), "images": digest(images), "plan": vars(plan)}
    result, norms = steps.step("calibrate", inputs | chip.inputs(), work, chip.holds)
    made = Program(program.manifest, program.spec, program.tensors | norms)
    return made, Calibrated(made, int(result["batches"]), result["standard_error"], bool(result["enough"]))


def levels_of(steps: Steps, executor: Executor, chip: Chip, data: Dataset, plan: Plan) -> Levels | None:
    """What sums come to each BN with a batch of calibration images, a step; None without a BN."""
    if not executor.program.calibrates:
        return None
    images = calibration_images(data, plan.batch_size)

    def work(parts: Parts) -> tuple[Result, Arrays]:
        at, found = chip.conditions(), reference(executor, images)
        return {"images": found.images, "floor": found.floor} | at, found.tensors()

    inputs = {"program": program_digest(executor.program), "images": digest(images)}
    result, found = steps.step("levels", inputs | chip.inputs(), work, chip.holds)
    return Levels.of(int(result["images"]), float(result["floor"]), found)


def correcting(corrections: Sequence[Correction], sign_repeats: int) -> Result:
    """Of what is put in place of codes, for a step's record; nothing where they are taken as they are."""
    tables = {"corrections": digest(*(each.values for each in corrections))} if corrections else {}
    return tables | ({"sign_repeats": sign_repeats} if sign_repeats > 1 else {})


def fresh(steps: Steps, program: Program, board: Board, profile: Profile, progress: Progress) -> None:
    """Check that the die is as its profile says at the points that a program uses, a step. InputError where it is not."""
    on = Chip(board, profile.trim, ProgramReport())

    def work(parts: Parts) -> tuple[Result, Arrays]:
        at = on.conditions()
        found = recheck(board, profile, macs=list(program.adcs_used()), progress=progress)
        if found.stale:
            moved = f"{len(found.shifted)} converters moved" if found.shifted else "all converters moved together"
            raise InputError(
                f"profile {profile.path} is no longer true of this die ({moved}): codes corrected by it would be wrong; "
                "characterize it again (pimchip characterize --check says more), or leave --linearize out"
            )
        return {"converters": found.converters, "finds": found.finds} | at, {}

    points = sorted(mac.describe() for mac in program.adcs_used())
    steps.step("check", {"profile": profile.hash, "points": points} | on.inputs(), work, on.holds)


def predicted(
    steps: Steps,
    program: Program,
    profile: Profile,
    data: Dataset,
    plan: Plan,
    progress: Progress,
    corrections: Sequence[Correction] = (),
    sign_repeats: int = 1,
) -> Accuracy:
    """Accuracy after BN calibration on a twin of the measured die, a step. corrections, sign_repeats: as on the die."""

    def work(parts: Parts) -> tuple[Result, Arrays]:
        found = _predict(program, profile, data, plan, progress, corrections, sign_repeats)
        return {"right": found.right, "images": found.images}, {}

    inputs = {
        "program": program_digest(program),
        "profile": profile.hash,
        "data": data.digest,
        "plan": vars(plan),
        "images": len(data.test.images),
    }
    result, _ = steps.step("predict", inputs | correcting(corrections, sign_repeats), work)
    return Accuracy(int(result["right"]), int(result["images"]))


def predict_accuracy(
    program: Program,
    profile: Profile,
    data: Dataset,
    bn_batches: int = 10,
    bn_batch_size: int = 100,
    progress: Progress | None = None,
) -> Accuracy:
    """Accuracy after BN calibration on a twin of the measured die."""
    return _predict(program, profile, data, Plan(bn_batches, bn_batch_size), progress)


def _predict(
    program: Program,
    profile: Profile,
    data: Dataset,
    plan: Plan,
    progress: Progress | None,
    corrections: Sequence[Correction] = (),
    sign_repeats: int = 1,
) -> Accuracy:
    used = set[int]().union(*program.adcs_used().values())
    with open_twin(profile, seed=TWIN_SEED, used=used) as twin:
        executor = Executor(program, twin, corrections=corrections, sign_repeats=sign_repeats)
        if program.calibrates:
            executor = executor.with_program(calibrated(executor, _images(data, plan), plan).program)
        logits = executor.logits(data.test.images, progress=progress)
    return accuracy(logits, data.test.labels)


def _images(data: Dataset, plan: Plan) -> Any:
    """uint8 [n, c, h, w], as many as the plan may take."""
    return calibration_images(data, plan.images(len(data.train.images)))


def program_digest(program: Program) -> str:
    """Of everything in it."""
    names = sorted(program.tensors)
    arrays = digest(*(program.tensors[name] for name in names))
    return text_digest(program.manifest.model_dump_json(), *names, arrays)
