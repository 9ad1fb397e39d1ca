"""Emulated boards as their URLs describe them: emulator:CHIP?die=...&noise=... ."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import NamedTuple

from pimchip.board.api import CAPABILITIES, Board, Capability
from pimchip.board.inprocess import InProcessBoard
from pimchip.board.options import integer, number, options_of
from pimchip.chip import ChipSpec, load_chip
from pimchip.chip.effects import Effect, effects
from pimchip.chip.parts import REFERENCE_TEMPERATURE
from pimchip.emulator.die import Die, IdealDie, TransferSource
from pimchip.emulator.requests import BoardRequests
from pimchip.emulator.state import Surrounding
from pimchip.emulator.twin import ProfileDie
from pimchip.emulator.virtual import SUPPLY_SPAN, VirtualBoard
from pimchip.errors import InputError, unknown
from pimchip.link.server import Server
from pimchip.profile import Profile

_OPTIONS = ("die", "noise", "temperature", "supply", "age", "seed", "profile", "lacks")
TWIN_LACKS: frozenset[Capability] = frozenset(("trim",))
"""What a die that is its profile cannot do: the registers hold what they held when it was measured."""
AGE_MAX = 876_600
"""Hours of a century."""


class Surroundings(NamedTuple):
    """Degrees Celsius, volts, hours since programming."""

    temperature: float
    supply: float
    age: float


@dataclass(frozen=True)
class Emulated:
    """An emulated board to be made. noise_seed: None for a silent one. idle: what was asked for and does nothing. follows:
    what its temperature and supply are from moment to moment, instead of `at`."""

    spec: ChipSpec
    source: TransferSource
    at: Surroundings
    noise_seed: int | None
    profile: Profile | None = None
    lacks: frozenset[Capability] = frozenset()
    idle: tuple[str, ...] = ()
    follows: Surrounding | None = None

    @property
    def trim(self) -> tuple[int, ...]:
        """Codes in the trim registers, as when the profile was measured; () for the middle."""
        return () if self.profile is None else tuple(self.profile.trim)

    @property
    def profile_path(self) -> str:
        """Where the profile is; "" for a drawn die."""
        return "" if self.profile is None else str(self.profile.path)

    def board(self) -> VirtualBoard:
        """One such board, as after power-on."""
        return VirtualBoard(
            self.spec,
            self.source,
            noise_seed=self.noise_seed,
            trim=self.trim,
            follows=self.follows,
            **self.at._asdict(),
        )

    def server(self, token: bytes = bytes(32)) -> Server:
        """One as a device of the protocol. token: SHA-256 of the shared token, zeros for none."""
        return Server(BoardRequests(self.board, self.lacks, self.profile_path), token)


def emulated(url: str, *, seed: int = 0, follows: Surrounding | None = None) -> Emulated:
    """What a URL of kind emulator or emulator+link describes. InputError for a wrong URL, naming the part.

    seed: of the noise, where the URL names none. follows: see Emulated; then the URL names no temperature and supply.
    """
    place, _, query = url.partition(":")[2].partition("?")
    options = options_of(url, query, _OPTIONS)
    spec = load_chip(place or "sram65")
    source: TransferSource
    profile = None
    if "profile" in options:
        if "die" in options:
            raise InputError(f"device {url!r}: give die or profile, not both")
        profile = Profile.load(options["profile"])
        source = ProfileDie(profile, spec)
    elif options.get("die") == "ideal":
        source = IdealDie(spec)
    else:
        source = Die(spec, integer(url, options, "die", 1 << 32))
    fixed = [name for name in ("temperature", "supply") if name in options and follows is not None]
    if fixed:
        raise InputError(f"device {url!r}: its {fixed[0]} follows the bench; leave {fixed[0]} out")
    noise = options.get("noise", "on")
    if noise not in ("on", "off"):
        raise InputError(f"device {url!r}: noise is on or off, not {noise!r}")
    if "seed" in options:
        seed = integer(url, options, "seed", 1 << 64)
    default = _default_surroundings(spec, profile)
    nominal = spec.supply.volts
    at = Surroundings(
        number(url, options, "temperature", "degrees Celsius", default.temperature, -55, 150),
        number(url, options, "supply", "volts", default.supply, *(share * nominal for share in SUPPLY_SPAN)),
        number(url, options, "age", "hours", default.age, 0, AGE_MAX),
    )
    lacks = _lacks(url, options.get("lacks", "")) | (TWIN_LACKS if profile else frozenset())
    noise_seed = seed if noise == "on" else None
    possible = effects(spec, drawn=source.cell_draws is not None, noisy=noise_seed is not None)
    idle = tuple(_idle(options, spec, possible, default))
    return Emulated(spec, source, at, noise_seed, profile, lacks, idle, follows)


def open_twin(profile: Profile, *, seed: int = 0, used: Collection[int] | None = None) -> Board:
    """An emulated board whose converters are a profile's; for predictions. used: converters that will be asked, None for all."""
    spec = profile.spec
    twin = Emulated(spec, ProfileDie(profile, spec, used), _default_surroundings(spec, profile), seed, profile)
    url = f"emulator:{profile.chip}?profile={profile.path}"
    return InProcessBoard(twin.board(), url, TWIN_LACKS, profile=twin.profile_path)


def open_ideal(spec: ChipSpec) -> Board:
    """An emulated board of a chip whose converters and cells are perfect and silent: what emulator:CHIP?die=ideal opens."""
    ideal = Emulated(spec, IdealDie(spec), _default_surroundings(spec, None), None)
    return InProcessBoard(ideal.board(), "")


def _default_surroundings(spec: ChipSpec, profile: Profile | None) -> Surroundings:
    """Where nothing else is asked for: those of the measurement, as far as it recorded them, else the spec's own."""
    if profile is None:
        return Surroundings(REFERENCE_TEMPERATURE, spec.supply.volts, 0.0)
    supply = spec.supply.volts if profile.supply is None else profile.supply
    return Surroundings(profile.temperature, supply, profile.age or 0.0)


def _idle(
    options: dict[str, str], spec: ChipSpec, possible: Collection[Effect], default: Surroundings
) -> Iterator[str]:
    """What was asked for and does nothing on this die, each with the reason."""
    for name, neutral in default._asdict().items():
        of_it = [e for e in possible if e.depends_on == name]
        if name not in options or float(options[name]) == neutral or any(e.on for e in of_it):
            continue
        keys = ", ".join(e.name for e in of_it)
        why = f"no effect of chip {spec.name} that is on depends on it ({keys}; pimchip info lists them)"
        if options.get("die") == "ideal":
            why = "an ideal die has no effects"
        elif "profile" in options:
            why = "this die is as its profile measured it"
        yield f"{name} = {options[name]} does nothing: {why}"


def _lacks(url: str, text: str) -> frozenset[Capability]:
    """Capabilities to switch off, to see what the host then does instead."""
    wanted = [name for name in text.split(",") if name]
    for name in wanted:
        if name not in CAPABILITIES:
            raise InputError(f"device {url!r}: {unknown('capability', name, CAPABILITIES)}")
    return frozenset(c for c in CAPABILITIES if c in wanted)
