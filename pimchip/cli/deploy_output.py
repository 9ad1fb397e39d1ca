"""What `pimchip deploy` says."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pimchip.cli.common import Reply, table
from pimchip.errors import counted, few

if TYPE_CHECKING:
    from pimchip.profile import Profile
    from pimchip.runtime import Deployed
    from pimchip.runtime.calibrate import Calibrated
    from pimchip.runtime.soak import Soak
    from pimchip.runtime.steps import Done
    from pimchip.runtime.watch import Watcher
    from pimchip.workflows.modelled import PerImage

LAYERS_SHOWN = 4
"""Of those that are held several times."""


def show_deployed(
    reply: Reply, result: Deployed, target: Path, measured: Profile | None, modelled: PerImage, *, auto: bool
) -> None:
    """Accuracies, and what programming came to. auto: the number of calibration batches was left open."""
    from pimchip.board.defects import describe

    program = result.program
    assert result.before is not None and result.after is not None
    rows = [["before BN calibration", str(result.before)], ["after BN calibration", str(result.after)]]
    if not program.calibrates:
        rows = [["no BN to calibrate", str(result.after)]]
    if result.predicted is not None:
        rows.append(["predicted from the profile", str(result.predicted)])
    reply.show(
        table(
            f"{program.manifest.name} on {result.uid}: {counted(result.after.images, 'image')}", ["accuracy", ""], rows
        )
    )
    if auto:
        _show_calibration(reply, result.calibration)
    took = result.programmed
    again = f", further pulses {counted(took.repulsed, 'time')}" if took.repulsed else ""
    reply.show(
        f"{counted(program.tiles, 'tile')} in {counted(program.manifest.passes, 'pass')}, verified with "
        f"{counted(result.verify_errors, 'error')}{again}; "
        f"written to {target}"
    )
    if took.wrong_cells:
        share = 100 * took.wrong_cells / program.cells_used
        reply.show(
            f"{took.wrong_cells:,} of {program.cells_used:,} cells ({share:.2g} %) do not hold what was programmed: "
            f"{describe(took.where)}"
        )
        if result.predicted is not None:
            reply.warn("the prediction knows the converters alone: cells that do not hold are not in it")
    if measured is not None:
        reply.show(f"profile {measured.path}, measured {measured.measured or measured.created}")
    if result.corrections and result.executor is not None:
        where = "on the board" if "correct" in result.executor.board.info().capabilities else "on the host"
        reply.show(f"codes are corrected by the profile, {where}")
    if program.replicated:
        copies = few([f"{name} {count} times" for name, count in program.replicated.items()], LAYERS_SHOWN)
        reply.show(f"held several times: {copies}")
    reply.show(str(modelled))


def deployed_keys(result: Deployed, target: Path, measured: Profile | None, modelled: PerImage) -> dict[str, Any]:
    """The same for JSON."""
    program, took, bn = result.program, result.programmed, result.calibration
    assert result.before is not None and result.after is not None
    return {
        **result.before.keys("accuracy_before_bn"),
        **result.after.keys("accuracy_after_bn"),
        **(result.predicted.keys("predicted_accuracy") if result.predicted else {"predicted_accuracy": None}),
        "profile": None if measured is None else str(measured.path),
        "profile_measured": None if measured is None else measured.measured or measured.created,
        "profile_temperature": None if measured is None else measured.temperature,
        "profile_supply": None if measured is None else measured.supply,
        "profile_age": None if measured is None else measured.age,
        "linearized": bool(result.corrections),
        "copies": program.replicated,
        "unmodelled_adcs": list(result.unmodelled_adcs),
        "data": result.data,
        "images": result.after.images,
        **modelled.keys,
        "tiles": program.tiles,
        "passes": program.manifest.passes,
        "verify_errors": result.verify_errors,
        "extra_pulses": took.extra_pulses,
        "tiles_repulsed": took.repulsed,
        "cells": program.cells_used,
        "tolerate_cells": result.tolerate_cells,
        "sign_repeats": result.sign_repeats,
        "wrong_cells": took.wrong_cells,
        "wrong_cells_at": [asdict(macro) for macro in took.where],
        "deployed": str(target),
        "bn_batches": bn.batches if bn else None,
        "bn_standard_error": bn.standard_error if bn else None,
        "bench": result.bench,
    }


def _show_calibration(reply: Reply, found: Calibrated | None) -> None:
    """What BN calibration came to."""
    if found is None or found.standard_error is None:
        return
    error = f"standard error {100 * found.standard_error:.1f} % of the deviation"
    reply.show(f"BN from {counted(found.batches, 'batch')}: {error}")
    if not found.enough:
        reply.warn(f"BN calibration has taken all training images: {error}, more than --bn-tolerance wants")


def show_steps(reply: Reply, done: Sequence[Done]) -> None:
    """Which steps were skipped, where some were that take long."""
    kept = [step.name for step in done if step.state == "kept"]
    resumed = [step.name for step in done if step.state == "resumed"]
    if set(kept) | set(resumed) <= {"compile", "trim"}:
        return
    reply.show(f"still held: {', '.join(kept) or 'nothing'}")
    if resumed:
        reply.show(f"resumed: {', '.join(resumed)}")
    anew = [f"{step.name} ({step.why})" for step in done if step.why]
    if anew:
        reply.show(f"done anew: {', '.join(anew)}")


def show_soak(reply: Reply, found: Soak) -> None:
    """Whether the chip repeats itself."""
    worst = found.worst
    reply.show(
        f"soak: {found.images} images {len(found.rounds)} times after other work, furthest {worst.ratio:.2f} times the noise "
        f"of {found.noise:.3g} a logit (p {worst.p:.2g}); {100 * worst.agree:.1f} % the same class, with nothing between "
        f"{100 * found.agree:.1f} %: {'within the noise' if found.passed else 'not repeatable'}"
    )


def watching(
    reply: Reply,
    watcher: Watcher,
    every: float,
    checks: int | None,
    save: Callable[[], None],
    sleep: Callable[[float], None],
) -> None:
    """Look every so many seconds, so many times or until Ctrl-C; what was calibrated anew is saved."""
    try:
        while checks is None or len(watcher.checks) < checks:
            sleep(every)
            check = watcher.check()
            said = f"check {check.number}: {check.temperature:.1f} °C, shift {100 * check.shift:.1f} % of the deviation"
            if check.left is not None:
                save()
                said += f" at {check.layer}: BN calibrated anew, {100 * check.left:.1f} % left"
            reply.show(said)
    except KeyboardInterrupt:
        reply.show(f"watched {counted(len(watcher.checks), 'time')}")
