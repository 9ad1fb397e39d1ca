"""pimchip demo."""

from __future__ import annotations

from pathlib import Path

import click

from pimchip.cli.common import Command, Reply, check_out, command_options, table


@click.command("demo", cls=Command)
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    default=Path("demo"),
    show_default=True,
    help="Folder for model, profile and report.",
)
@click.option("--die", type=click.IntRange(0), default=3, show_default=True, help="Number of the emulated die.")
@command_options
def command(reply: Reply, *, out: Path, die: int) -> None:
    """The whole story in under two minutes: train, measure an emulated die, deploy, calibrate, predict."""
    check_out(out, folder=True)

    from pimchip.workflows.demo import CHIP, run_demo
    from pimchip.workflows.demo_report import outcomes, write_demo_report

    with reply.stages() as tell:
        story = run_demo(out, reply.seed, die, tell)
    report = write_demo_report(story, out / "report.html")
    direct, deployed = story.on_die.direct, story.on_die.deployed
    assert direct.before and direct.after and deployed.before and deployed.after and deployed.predicted
    rows = [[label, str(value)] for label, value in outcomes(story)]
    reply.show(table(f"Digits on die {deployed.uid}", ["", "accuracy (95 % interval)"], rows))
    reply.show(f"Operating point: {story.mac}.")
    reply.show(
        "A point where the method matters: at 6 of the converters' 7 bits, a die's offsets, curves and noise cost a network\n"
        "that was trained without the chip a large part of its accuracy. Dies differ: --die picks another."
    )
    reply.show(f"Every number is of {story.digital.images} test images. {story.seconds:.0f} s. Report: {report}")
    reply.done(
        {
            **story.digital.keys("digital_accuracy"),
            **direct.before.keys("direct_accuracy"),
            **direct.after.keys("direct_bn_accuracy"),
            **story.pim_qat.keys("pim_qat_accuracy"),
            **deployed.before.keys("before_bn_calibration"),
            **deployed.after.keys("after_bn_calibration"),
            **deployed.predicted.keys("predicted_accuracy"),
            "seconds": story.seconds,
            "report": str(report),
            "profile": str(story.on_die.profile.path),
            "model": str(story.model),
            "operating_point": story.mac,
            "chip": CHIP,
        },
        uid=deployed.uid,
        hashes={
            "model": deployed.program.manifest.model_hash,
            "chip": deployed.program.spec.hash,
            "profile": story.on_die.profile.hash,
        },
    )
