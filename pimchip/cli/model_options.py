"""What commands share that take a model.pt: which network it is of, and how it is compiled."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from pimchip.cli.common import Reply, load_factory, table
from pimchip.errors import InputError

if TYPE_CHECKING:
    from pimchip.compiler import Program
    from pimchip.workflows.fitted import Fitted
    from pimchip.workflows.models import Compilation

COMPILED = ".pim"
REPLICAS_MOST = 256


def model_options(*, profile: str, data: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Add --profile and --data, whose help is given, --data-dir and --factory."""

    def add(function: Callable[..., None]) -> Callable[..., None]:
        for option in (
            click.option(
                "--factory",
                metavar="MODULE:CALLABLE",
                help="Your own network's maker, as given to train. Runs your code.",
            ),
            click.option("--data-dir", type=click.Path(path_type=Path), help="Where the data set's files are."),
            click.option("--data", help=data),
            click.option("--profile", type=click.Path(path_type=Path), help=profile),
        ):
            function = option(function)
        return function

    return add


@dataclass(frozen=True)
class ModelOptions:
    """The options of compiling_options, as they were given."""

    profile: Path | None
    data: str | None
    data_dir: Path | None
    factory: str | None
    noise_aware: bool
    ranges: str
    replicas: int

    def compilation(self, chip: str | None = None) -> Compilation:
        """What they ask for. chip: name or file; None: the model's. Raises InputError for what does not go together."""
        from pimchip.chip import load_chip
        from pimchip.workflows.models import Compilation

        spec = None if chip is None else load_chip(chip)
        factory = load_factory(self.factory)
        return Compilation(
            spec, self.profile, factory, self.data, self.data_dir, self._fitted(), replicas=self.replicas
        )

    def fits(self) -> list[str]:
        """Those that fit a program to a die."""
        given = {"--noise-aware": self.noise_aware, "--ranges profile": self.ranges == "profile"}
        return [name for name, wanted in given.items() if wanted]

    def asked(self) -> list[str]:
        """Those that say how to compile, which a compiled program takes no more."""
        return self.fits() + ["--replicas"] * (self.replicas > 1)

    def check(self, model: Path) -> None:
        """InputError where MODEL is compiled already, and was to be compiled otherwise."""
        if model.suffix == COMPILED and self.asked():
            raise InputError(f"{self.asked()[0]} is of compiling, and {model} is compiled already: name the model.pt")

    def _fitted(self) -> Fitted | None:
        """What is to be fitted to the profile's die; InputError where there is none."""
        from pimchip.workflows.fitted import Fitted

        if not self.fits():
            return None
        if self.profile is None:
            raise InputError(f"{self.fits()[0]} rests on a measured die: name its profile with --profile")
        return Fitted(self.noise_aware, self.ranges == "profile", self.data, self.data_dir)


def compiling_options(*, profile: str, data: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """model_options, and those of how a model.pt is compiled; all of them are handed on as `options`, a ModelOptions."""

    def add(function: Callable[..., None]) -> Callable[..., None]:
        @click.option(
            "--noise-aware",
            is_flag=True,
            help="With --profile: put channels in an order in which those that hurt most meet the quietest converters.",
        )
        @click.option(
            "--ranges",
            type=click.Choice(["trained", "profile"]),
            default="trained",
            show_default=True,
            help="Each layer's range and ADC bits: as trained, or those measured in --profile that suit it best on the die.",
        )
        @click.option(
            "--replicas",
            type=click.IntRange(1, REPLICAS_MOST),
            metavar="N",
            default=1,
            show_default=True,
            help="Hold a layer up to N times where there is room, and compute its positions side by side; to deploy it, codes "
            "are corrected by a profile (deploy --linearize).",
        )
        @functools.wraps(function)
        def run(
            *,
            profile: Path | None,
            data: str | None,
            data_dir: Path | None,
            factory: str | None,
            noise_aware: bool,
            ranges: str,
            replicas: int,
            **rest: Any,
        ) -> None:
            options = ModelOptions(profile, data, data_dir, factory, noise_aware, ranges, replicas)
            function(options=options, **rest)

        return model_options(profile=profile, data=data)(run)

    return add


def show_fitted(reply: Reply, fitted: Fitted | None) -> dict[str, Any]:
    """Say which operating points were chosen, once something was compiled; the same for JSON."""
    from pimchip.workflows.fitted import POINT_COLUMNS

    if fitted is None:
        return {}
    if fitted.points:
        title = "operating points by the profile, and the share of the codes' variance that no line explains"
        reply.show(table(title, POINT_COLUMNS, fitted.rows()))
    return fitted.keys()


def show_replicas(reply: Reply, program: Program) -> dict[str, Any]:
    """Say which layers are held several times and what that saves; the same for JSON."""
    from pimchip.compiler.cost import cost
    from pimchip.workflows.modelled import si

    found, held = cost(program), program.replicated
    if held:
        rows = [
            [each.name, str(each.copies), si(each.seconds_alone, "s"), si(each.seconds, "s")]
            for each in found.layers
            if each.copies > 1
        ]
        reply.show(table("held several times, and the time for an image", ["", "copies", "held once", "now"], rows))
        once, now = si(found.compute_seconds_alone, "s"), si(found.compute_seconds, "s")
        reply.show(
            f"an image computes for {now}, for {once} were each layer held once; deploy wants --profile, --linearize"
        )
    else:
        reply.show("no layer is held several times: no pass leaves room in which a copy would save time")
    return {
        "copies": held,
        "compute_seconds_per_image": found.compute_seconds,
        "compute_seconds_per_image_alone": found.compute_seconds_alone,
    }
