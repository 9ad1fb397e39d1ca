"""deploy: put a program on a board, verify it, calibrate BN there and say how well it works."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from typing import Any, Literal

from pimchip.board import Board
from pimchip.board.conditions import differences
from pimchip.board.restarts import through_restarts
from pimchip.board.trims import set_trim, trim_codes
from pimchip.characterize.journal import Arrays
from pimchip.compiler import check_profile
from pimchip.compiler.program import Program
from pimchip.errors import InputError, PimchipWarning, few
from pimchip.profile import Profile
from pimchip.qat import given
from pimchip.qat.data import Dataset
from pimchip.runtime.calibrate import Plan
from pimchip.runtime.copies import check_corrected
from pimchip.runtime.corrections import corrections_of
from pimchip.runtime.deployed import Deployed
from pimchip.runtime.executor import BEFORE_RUN, INFERENCE_RUN, Executor
from pimchip.runtime.results import Chip, calibrated_on, correcting, evaluated, fresh, levels_of, predicted
from pimchip.runtime.steps import Parts, Result, Steps, digest, text_digest

NO_BN = (
    "the network has no BN to calibrate, so what the die's offsets and curves add to its sums stays there: train it at "
    "searched ranges (--range-divisor auto) and on the measured die (--on-die), or put a BN after each layer"
)
"""Told where a person expects the calibration."""
ADCS_SHOWN = 8
"""Converters that a warning names; of more, how many they are is said."""

OnProgress = Callable[[str, int, int], None]
"""(what, done, total)"""


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
    sign_repeats: int = 1,
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
    tolerate_cells: of the program's cells, so many may read back wrong. sign_repeats: conversions of sign planes that are
    averaged (pimchip.runtime.repeats). stale_profile: go on where board and profile are
    under other conditions, with a warning. linearize: correct codes by the profile before they are added up, on the board
    where it can hold tables, else on the host; the profile is then checked against the die first, and refused where it is
    stale, whatever stale_profile. steps: keeps a record of each step, and skips those that still hold. origin: what
    results depend on beside board, program and data, such as the seed of an emulated board's noise.
    Warns (PimchipWarning) where nothing can be predicted, where the program was compiled under another profile, and where
    it has no BN to calibrate.
    Raises VerifyError when more cells read back wrong, InputError when profile, program and board do not belong together,
    where the profile is stale, or where a program with copies of layers is not linearized.
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
    check_corrected(program, corrected=linearize)
    info = board.info()
    if linearize and profile is None:
        raise InputError("codes are corrected by a profile of this die: name it (--profile), or leave --linearize out")
    corrections = corrections_of(program, profile) if linearize and profile is not None else ()
    executor = Executor(
        program, board, tolerate_cells=tolerate_cells, corrections=corrections, sign_repeats=sign_repeats
    )
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
    _program(executor, steps, tell("programming"))
    deployed = Deployed(program, info.uid, None if profile is None else profile.hash, executor=executor)
    deployed.trim, deployed.programmed = through_restarts(lambda: trim_codes(board)), executor.report
    deployed.tolerate_cells, deployed.corrections = tolerate_cells, executor.corrections
    deployed.sign_repeats = sign_repeats
    if profile is not None:
        deployed.holds, deployed.measured = profile.holds, profile.measured
    if data is None:
        return deployed
    deployed.data = data.name
    if program.tiles and not program.calibrates:
        warnings.warn(NO_BN, PimchipWarning, stacklevel=2)
    changes = correcting(executor.corrections, sign_repeats)
    on = Chip(board, deployed.trim, executor.report, dict(origin or {}) | changes)
    deployed.before = evaluated(steps, "evaluate-before", executor, on, data, BEFORE_RUN, tell("accuracy before"))
    calibrated, deployed.calibration = calibrated_on(steps, executor, on, data, plan, tell("BN calibration"))
    deployed.program = calibrated
    deployed.executor = executor.with_program(calibrated)
    deployed.after = evaluated(steps, "evaluate", deployed.executor, on, data, INFERENCE_RUN, tell("accuracy after"))
    deployed.levels = levels_of(steps, deployed.executor, on, data, plan)
    steps.amend("program", **_standing(deployed.executor))
    if profile is not None:
        deployed.unmodelled_adcs = unmodelled_adcs(program, profile)
        odd = [f"ADC {adc} ({', '.join(flags)})" for adc, flags in deployed.unmodelled_adcs.items()]
        if odd:
            text = f"no prediction: profile {profile.path} has no usable curve of {few(odd, ADCS_SHOWN)}"
            warnings.warn(text, PimchipWarning, stacklevel=2)
        else:
            deployed.predicted = predicted(
                steps, program, profile, data, plan, tell("prediction"), executor.corrections, sign_repeats
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
