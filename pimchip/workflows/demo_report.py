"""The demo's page: what was found, and the measured die behind it."""

from __future__ import annotations

from pathlib import Path

from pimchip._version import __version__
from pimchip.profile.model import code_positions
from pimchip.report import Figure, Section, accuracy_bars, curve_family, histograms, lines, write_page
from pimchip.report.plots import ACCENT, FAINT, WARM
from pimchip.runtime import Accuracy
from pimchip.workflows.demo import Story


def outcomes(story: Story) -> list[tuple[str, Accuracy]]:
    """The demo's accuracies with their labels, in the order they are told."""
    direct, deployed = story.on_die.direct, story.on_die.deployed
    assert direct.before and direct.after and deployed.before and deployed.after and deployed.predicted
    return [
        ("quantized network, digital hardware", story.digital),
        ("  on the chip as it is", direct.before),
        ("  on the chip, BN calibrated there", direct.after),
        ("PIM-QAT, ideal converters", story.pim_qat),
        ("  on the chip as it is", deployed.before),
        ("  on the chip, BN calibrated there", deployed.after),
        ("  predicted from the measured profile", deployed.predicted),
    ]


def bars(story: Story) -> Figure:
    """The accuracies as a picture."""
    colours = [FAINT, WARM, WARM, ACCENT, ACCENT, ACCENT, FAINT]
    rows = [(label.strip(), a.value, a.interval) for label, a in outcomes(story)]
    return accuracy_bars(rows, f"Digits, {story.digital.images} test images. {story.mac}.", colours)


def curves(story: Story) -> Figure:
    """The measured curves as a picture."""
    (point,) = story.on_die.profile.points
    return curve_family(
        code_positions(point.mac),
        point.inl,
        ("code", "INL, LSB"),
        f"Integral non-linearity of {len(point.inl)} converters after gain and offset (grey), and their mean: the curve "
        "common to the die.",
    )


def write_demo_report(story: Story, path: Path) -> Path:
    """Write the page and return its path."""
    profile = story.on_die.profile
    (point,) = profile.points
    epochs = [float(h["epoch"]) for h in story.history]
    sections = [
        Section(
            "Accuracy",
            columns=["", "accuracy (95 % interval)"],
            rows=[[n, str(a)] for n, a in outcomes(story)],
            figures=[bars(story)],
        ),
        Section(
            "The die, as measured",
            text=[
                f"{profile.uid}, {profile.temperature:g} °C, {profile.created}. Thresholds are known to "
                f"{point.rms_half_width:.3f} LSB (95 %)."
            ],
            figures=[
                curves(story),
                histograms(
                    {"gain": point.gain, "offset, LSB": point.offset, "noise, LSB": point.noise_lsb},
                    "Gain, offset and noise of the converters.",
                ),
            ],
        ),
        Section(
            "Training",
            figures=[
                lines(
                    epochs,
                    {"test accuracy, %": [100 * h["accuracy"] for h in story.history]},
                    ("epoch of PIM-QAT", "accuracy, %"),
                    "PIM-QAT, started from the conventionally trained weights.",
                )
            ],
        ),
    ]
    return write_page(path, "pimchip demo: digits on a processing-in-memory chip", sections, f"pimchip {__version__}")
