"""pimchip deploy."""

from __future__ import annotations

import hashlib
import shutil
import time
import warnings
from collections.abc import Callable
from dataclasses import asdict
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import click

from pimchip.cli.common import NO_CHIP, Command, Reply, check_out, command_options, device_options
from pimchip.cli.deploy_output import deployed_keys, show_deployed, show_soak, show_steps, watching
from pimchip.cli.model_options import ModelOptions, compiling_options, show_fitted
from pimchip.cli.with_bench import bench_hash, bench_options, board_beside
from pimchip.errors import InputError, PimchipError, PimchipWarning

if TYPE_CHECKING:
    from pimchip.qat.data import Dataset
    from pimchip.runtime import Deployed
    from pimchip.runtime.soak import Soak

BATCHES_MAX = 100_000
SOAK_IMAGES = 128


@click.command("deploy", cls=Command, hints={"--chip": NO_CHIP})
@click.argument("model", type=click.Path(path_type=Path))
@click.option("--device", help="Device URL.  [default: $PIMCHIP_DEVICE, else emulator:sram65]")
@compiling_options(
    profile="This die's profile: checked, and used to predict the accuracy. Of a die's folder, the one measured last.",
    data="Data set for calibration and accuracy, and for --noise-aware and --ranges.  [default: the model's]",
)
@click.option(
    "--linearize",
    is_flag=True,
    help="With --profile: correct codes by its curves before they are added up, on the board where it can, else on the host.",
)
@click.option(
    "--bn-batches",
    metavar="N|auto",
    default="20",
    show_default=True,
    help="Batches of BN calibration on the chip; auto: until the statistics are known as well as --bn-tolerance wants.",
)
@click.option(
    "--bn-batch-size", type=click.IntRange(1, 65536), default=100, show_default=True, help="Images a batch of it."
)
@click.option(
    "--bn-mode",
    type=click.Choice(["parallel", "sequential"]),
    default="parallel",
    show_default=True,
    help="All BN at once, each batch normalized by itself; or one BN after the other, those before it as they will be.",
)
@click.option(
    "--bn-tolerance",
    type=click.FloatRange(0.0, 1.0, min_open=True, max_open=True),
    default=0.02,
    show_default=True,
    help="With auto: the statistics' standard error, as a share of the sums' deviation.",
)
@click.option(
    "--stale-profile", is_flag=True, help="Go on with a profile that was measured under other conditions than now."
)
@click.option(
    "--fresh", is_flag=True, help="Do every step anew.  [default: those that still hold, by OUT.steps, are skipped]"
)
@click.option(
    "--tolerate-cells",
    metavar="N|P%",
    default="0",
    show_default=True,
    help="Go on when so many of the program's cells, or such a share, do not hold what was programmed.",
)
@click.option(
    "--sign-repeats",
    type=click.Choice(["1", "2", "4", "8", "16"]),
    default="1",
    show_default=True,
    help="Convert the sign plane of bit-plane weights so often and average: less noise, more conversions.",
)
@click.option(
    "--soak",
    type=click.FloatRange(0.0, min_open=True),
    metavar="MINUTES",
    help="Then repeat the same images for so long, with other work between: exit code 1 where more than noise differs.",
)
@click.option(
    "--watch",
    type=click.FloatRange(0.0),
    metavar="SECONDS",
    help="Then look so often whether the sums have drifted, and calibrate BN anew where they have; until Ctrl-C.",
)
@click.option("--checks", type=click.IntRange(1), help="Of --watch: stop after so many.")
@click.option(
    "--watch-tolerance",
    type=click.FloatRange(0.0, min_open=True),
    help="Of --watch: shift, as a share of the sums' deviation, that is none.  [default: 0.05, or 3 times the noise's]",
)
@click.option("--limit", type=click.IntRange(1), help="Test images to use.  [default: all]")
@click.option("--out", type=click.Path(path_type=Path), help="What was deployed.  [default: MODEL with .deployed]")
@bench_options(
    "With --bench: emulated instruments, powered up around an emulated board, whose codes follow them.", required=False
)
@command_options
@device_options
def command(
    reply: Reply,
    *,
    model: Path,
    options: ModelOptions,
    device: str | None,
    linearize: bool,
    bn_batches: str,
    bn_batch_size: int,
    bn_mode: Literal["parallel", "sequential"],
    bn_tolerance: float,
    stale_profile: bool,
    fresh: bool,
    tolerate_cells: str,
    sign_repeats: str,
    soak: float | None,
    watch: float | None,
    checks: int | None,
    watch_tolerance: float | None,
    limit: int | None,
    out: Path | None,
    bench_path: Path | None,
    twin: bool,
) -> None:
    """Put MODEL (model.pt or model.pim) on a board: program, verify, calibrate BN there, evaluate.

    Steps: compile, profile, trim, program, verify, evaluate-before, calibrate, evaluate, levels, predict, report. Each leaves a
    record in OUT.steps. The same command again skips what still holds, and goes on where it was cut short.
    """
    options.check(model)
    target = out or model.with_suffix(".deployed")
    check_out(target, keep={"the model": model if out else None})
    batches = _batches(bn_batches)
    for option, given in (("--checks", checks), ("--watch-tolerance", watch_tolerance)):
        if given is not None and watch is None:
            raise InputError(f"{option} is of --watch; give --watch SECONDS too")
    if options.replicas > 1 and not linearize:
        raise InputError(
            f"--replicas {options.replicas}: copies of a layer meet converters that differ, which BN calibration cannot take out: "
            "give --linearize and a --profile of this die, by which codes are corrected, or leave --replicas out"
        )

    from pimchip.board import default_device
    from pimchip.board.restarts import conditions
    from pimchip.runtime import deploy
    from pimchip.runtime.calibrate import Plan
    from pimchip.runtime.copies import check_corrected
    from pimchip.runtime.results import drifted
    from pimchip.runtime.steps import Steps, folder_of
    from pimchip.runtime.watch import Watcher
    from pimchip.workflows.images import load_matching, other_data
    from pimchip.workflows.modelled import per_image
    from pimchip.workflows.models import check_device, load_program, origin

    folder = folder_of(target)
    if fresh:
        shutil.rmtree(folder, ignore_errors=True)
    steps = Steps(folder)
    reply.interrupted = "interrupted; the device is closed, the same command goes on where it stopped"
    how = options.compilation()
    program, measured = load_program(model, how, steps)
    check_corrected(program, corrected=linearize)
    fitted = show_fitted(reply, how.fitted)
    tolerated = _tolerated(tolerate_cells, program.cells_used)
    name = options.data or program.manifest.data
    if not name:
        raise InputError(f"{model} names no data set; give one with --data")
    try:
        dataset = load_matching(program.manifest, name, options.data_dir, limit)
    except InputError as error:
        hint = f"; {name!r} is what {model} was trained on: name where it is, or another, with --data"
        raise InputError(f"{error}{'' if options.data else hint}") from None
    other = other_data(name, program.manifest.data)
    if other is not None:
        reply.warn(f"{other}, which the network was trained on: it is calibrated and judged on the former")
    url = device or default_device()
    with board_beside(url, bench_path, twin, reply.seed) as (board, bench), reply.stages() as tell:
        check_device(program, model, board.info().spec, url)
        at = conditions(board)
        result = deploy(
            program,
            board,
            dataset,
            profile=measured,
            bn_batches=batches,
            bn_batch_size=bn_batch_size,
            bn_mode=bn_mode,
            bn_tolerance=bn_tolerance,
            tolerate_cells=tolerated,
            sign_repeats=int(sign_repeats),
            stale_profile=stale_profile,
            linearize=linearize,
            steps=steps,
            origin=origin(url, reply.seed) | bench_hash(bench_path) | ({"twin": True} if twin else {}),
            on_progress=tell,
        )
        result.bench = bench.snapshot() if bench else None
        result.data = name
        _warn_of_another_die(target, result.uid)
        with steps.always("report") as said:
            result.save(target)
            said |= {"deployed": str(target), "sha256": hashlib.sha256(target.read_bytes()).hexdigest()}
        assert result.executor is not None and result.after is not None
        modelled = per_image(program, min(result.executor.batch_size(), result.after.images))
        show_deployed(reply, result, target, measured, modelled, auto=batches is None)
        show_steps(reply, steps.done)
        found = None
        if soak is not None:
            found = _soaked(result, dataset, soak * 60, reply.seed, lambda done, total: tell("soak", done, total))
            show_soak(reply, found)
        watcher = None
        if watch is not None:
            plan = Plan(batches, bn_batch_size, bn_mode, bn_tolerance)
            watcher = Watcher(result, dataset, plan, tolerance=watch_tolerance)

            def calibrated_anew() -> None:
                result.save(target)
                drifted(steps)  # or the next run would put the BN of before back

            watching(reply, watcher, watch, checks, calibrated_anew, time.sleep)
    reply.done(
        {
            **deployed_keys(result, target, measured, modelled),
            **at._asdict(),
            **fitted,
            "bn_mode": bn_mode,
            "steps": [asdict(done) for done in steps.done],
            "soak": None if found is None else asdict(found) | {"passed": found.passed},
            "checks": None if watcher is None else watcher.keys(),
        },
        uid=result.uid,
        hashes={
            "model": program.manifest.model_hash,
            "chip": program.spec.hash,
            "profile": result.profile_hash,
            "data": dataset.digest,
            **bench_hash(bench_path),
        },
        ok=found is None or found.passed,
    )


def _warn_of_another_die(target: Path, uid: str) -> None:
    """PimchipWarning where what is there, and is replaced, was deployed for another die."""
    from pimchip.runtime import Deployed

    if not target.exists():
        return
    try:
        before = Deployed.load(target).uid
    except PimchipError:  # what cannot be read is lost to nobody
        return
    if before != uid:
        said = f"{target} was deployed for die {before} and is replaced; --out keeps one file a die"
        warnings.warn(said, PimchipWarning, stacklevel=2)


def _soaked(result: Deployed, data: Dataset, seconds: float, seed: int, progress: Callable[[int, int], None]) -> Soak:
    """On the first test images, with training images between."""
    from pimchip.runtime.soak import soak

    assert result.executor is not None
    images, other = data.test.images[:SOAK_IMAGES], data.train.images[:SOAK_IMAGES]
    return soak(result.executor, images, other, seconds=seconds, seed=seed, progress=progress)


def _batches(text: str) -> int | None:
    """ "20" or "auto", which is None. Raises InputError for anything else."""
    if text == "auto":
        return None
    if not text.isascii() or not text.isdigit() or not 1 <= int(text) <= BATCHES_MAX:
        raise InputError(f"--bn-batches {text!r}: want a number from 1 to {BATCHES_MAX:,}, or auto")
    return int(text)


def _tolerated(text: str, cells: int) -> int:
    """ "12" or "0.1%" of so many cells, as a number of cells. Raises InputError for anything else."""
    number, percent, rest = text.strip().partition("%")
    try:
        value = Fraction(number) if percent else Fraction(int(number))  # 0.57 of a float would be less
    except ValueError:
        value = Fraction(-1)
    if rest or "_" in text or not 0 <= value <= (100 if percent else cells):
        raise InputError(
            f"--tolerate-cells {text!r}: want a number of cells up to the program's {cells:,}, or a share of them such as 0.1%"
        )
    return int(value * cells / 100) if percent else int(value)
