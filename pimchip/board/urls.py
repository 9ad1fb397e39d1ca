"""Device URLs: text to an open board.

emulator:sram65?die=0&noise=on&temperature=25&seed=0       a die in this process (these are the defaults)
emulator:sram65?supply=0.95&age=1000                       at another supply, volts; hours since programming
emulator:my-chip.toml?die=ideal                            perfect converters of a chip of your own
emulator:sram65?profile=PATH                               a die that behaves as a measured one
emulator+link:...                                          the same, through the frames of the protocol, in this process
tcp://HOST:PORT?token=TEXT                                 a board behind TCP; the token if it asks for one
serial:///dev/ttyACM0?baud=3000000&token=TEXT              a board on a serial port
serial:socket://HOST:PORT                                  or whatever else pyserial opens by such a name
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Collection
from functools import partial
from typing import NamedTuple
from urllib.parse import parse_qsl

from pimchip.board.api import CAPABILITIES, Board, Capability
from pimchip.board.inprocess import InProcessBoard
from pimchip.board.linked import LinkBoard
from pimchip.chip import ChipSpec, load_chip
from pimchip.emulator.die import Die, IdealDie, TransferSource
from pimchip.emulator.requests import BoardRequests
from pimchip.emulator.twin import ProfileDie
from pimchip.emulator.virtual import VirtualBoard
from pimchip.errors import InputError, PimchipWarning, unknown
from pimchip.link.inprocess import InProcessTransport
from pimchip.link.link import Link
from pimchip.link.server import Server
from pimchip.link.transports import SerialTransport, TcpTransport
from pimchip.profile import Profile

DEFAULT_DEVICE = "emulator:sram65"
ENVIRONMENT = "PIMCHIP_DEVICE"
SCHEMES = ("emulator", "emulator+link", "tcp", "serial")
BAUD = 3_000_000
_LINE_OPTIONS = {"tcp": ("token",), "serial": ("baud", "token")}
_OPTIONS = ("die", "noise", "temperature", "supply", "age", "seed", "profile", "lacks")
SUPPLY_SPAN = (0.5, 1.5)
"""Supplies that can be asked for, as shares of the nominal one."""
TWIN_LACKS: frozenset[Capability] = frozenset(("trim",))
"""What a die that is its profile cannot do: the registers hold what they held when it was measured."""
AGE_MAX = 876_600
"""Hours of a century."""


def default_device() -> str:
    """The device of commands without --device: $PIMCHIP_DEVICE, else an emulated chip."""
    return os.environ.get(ENVIRONMENT) or DEFAULT_DEVICE


def open_board(url: str | None = None, *, seed: int = 0) -> Board:
    """Open the board at a device URL (None: the default device). Raises InputError for a wrong URL, naming the part.

    seed: of the emulated noise, where the URL names none. Warns (PimchipWarning) of a temperature, supply or age that
    does nothing on this die.

    Emulate in worker processes only where these are started afresh (multiprocessing's "spawn" or "forkserver"): torch's
    threads do not survive a fork, and the child of a process that used them can wait for them forever.
    """
    text = url or default_device()
    kind, separator, rest = text.partition(":")
    if not separator or kind not in SCHEMES:
        raise InputError(
            f"device {text!r}: {unknown('kind of device', kind, SCHEMES)}; for example {DEFAULT_DEVICE}?die=3"
        )
    place, _, query = rest.partition("?")
    if kind in ("tcp", "serial"):
        return _open_line(text, kind, place, _options(text, query, _LINE_OPTIONS[kind]))
    given = _emulated(text, place, _options(text, query, _OPTIONS), seed)
    for idle in given.idle:
        warnings.warn(f"device {text!r}: {idle}", PimchipWarning, stacklevel=2)
    if kind == "emulator":
        return InProcessBoard(given.make(), text, given.lacks, profile=given.profile)
    server = Server(BoardRequests(given.make, given.lacks, given.profile))
    return LinkBoard(Link(InProcessTransport(server), text), text)


def board_requests(url: str, *, seed: int = 0) -> BoardRequests:
    """The emulated board of an emulator: URL as a device of the protocol, to be served."""
    kind, _, rest = url.partition(":")
    if kind != "emulator":
        raise InputError(f"device {url!r}: only emulator:CHIP can be served")
    place, _, query = rest.partition("?")
    given = _emulated(url, place, _options(url, query, _OPTIONS), seed)
    return BoardRequests(given.make, given.lacks, given.profile)


class _Emulated(NamedTuple):
    """What an emulator: URL asks for. make: gives the board, as often as it is called."""

    make: Callable[[], VirtualBoard]
    lacks: frozenset[Capability]
    profile: str
    idle: list[str]


def _options(url: str, query: str, known: tuple[str, ...]) -> dict[str, str]:
    try:
        # A plus is a plus, as in paths, not a space as in web forms.
        pairs = parse_qsl(query.replace("+", "%2B"), keep_blank_values=True, strict_parsing=True) if query else []
    except ValueError:
        raise InputError(f"device {url!r}: {query!r} is not name=value&name=value") from None
    options = dict(pairs)
    for name in options:
        if name not in known:
            raise InputError(f"device {url!r}: {unknown('option', name, known)}")
    if len(options) != len(pairs):
        raise InputError(f"device {url!r}: an option is given twice")
    return options


def _open_line(url: str, kind: str, place: str, options: dict[str, str]) -> Board:
    name = f"board {url.partition('?')[0]}"  # without the token
    token = options.get("token", "")
    if kind == "serial":
        port = place if place.startswith("socket://") else place.removeprefix("//")
        baud = _integer(url, options, "baud", 1 << 27) or BAUD
        if not port:
            raise InputError(f"device {url!r}: want serial:///dev/NAME or serial:COM3")
        return LinkBoard(Link(SerialTransport(port, baud), name, token=token), url.partition("?")[0])
    host, separator, number = place.removeprefix("//").rpartition(":")
    if not separator or not host or not (number.isascii() and number.isdigit()) or not 0 < int(number[:6]) < 1 << 16:
        raise InputError(f"device {url!r}: want tcp://HOST:PORT, with a port from 1 to 65535")
    return LinkBoard(Link(TcpTransport(host.strip("[]"), int(number)), name, token=token), url.partition("?")[0])


def _emulated(text: str, chip: str, options: dict[str, str], seed: int) -> _Emulated:
    spec = load_chip(chip or "sram65")
    source: TransferSource
    profile = None
    if "profile" in options:
        if "die" in options:
            raise InputError(f"device {text!r}: give die or profile, not both")
        profile = Profile.load(options["profile"])
        source = ProfileDie(profile, spec)
    elif options.get("die") == "ideal":
        source = IdealDie(spec)
    else:
        source = Die(spec, _integer(text, options, "die", 1 << 32))
    noise = options.get("noise", "on")
    if noise not in ("on", "off"):
        raise InputError(f"device {text!r}: noise is on or off, not {noise!r}")
    if "seed" in options:
        seed = _integer(text, options, "seed", 1 << 64)
    default = _conditions(spec, profile)
    nominal = spec.supply.volts
    temperature = _number(text, options, "temperature", "degrees Celsius", default.temperature, -55, 150)
    supply = _number(text, options, "supply", "volts", default.supply, *(share * nominal for share in SUPPLY_SPAN))
    age = _number(text, options, "age", "hours", default.age, 0, AGE_MAX)
    noise_seed = seed if noise == "on" else None
    make = partial(_virtual, spec, source, _Conditions(temperature, supply, age), noise_seed, profile)
    lacks = _lacks(text, options.get("lacks", "")) | (TWIN_LACKS if profile else frozenset())
    return _Emulated(make, lacks, "" if profile is None else str(profile.path), _idle(options, make(), default))


def open_twin(profile: Profile, *, seed: int = 0, used: Collection[int] | None = None) -> Board:
    """An emulated board whose converters are a profile's; for predictions. used: converters that will be asked, None for all."""
    source, at = ProfileDie(profile, profile.spec, used), _conditions(profile.spec, profile)
    virtual = _virtual(profile.spec, source, at, seed, profile)
    url = f"emulator:{profile.chip}?profile={profile.path}"
    return InProcessBoard(virtual, url, TWIN_LACKS, profile=str(profile.path))


class _Conditions(NamedTuple):
    temperature: float
    supply: float
    age: float


def _conditions(spec: ChipSpec, profile: Profile | None) -> _Conditions:
    """Where nothing else is asked for: those of the measurement, as far as it recorded them, else the spec's own."""
    if profile is None:
        return _Conditions(25.0, spec.supply.volts, 0.0)
    supply = spec.supply.volts if profile.supply is None else profile.supply
    return _Conditions(profile.temperature, supply, profile.age or 0.0)


def _virtual(
    spec: ChipSpec, source: TransferSource, at: _Conditions, noise_seed: int | None, profile: Profile | None
) -> VirtualBoard:
    """A virtual board under these conditions; its trim registers hold what a profile's did when it was measured."""
    trim = () if profile is None else profile.trim
    return VirtualBoard(
        spec, source, noise_seed=noise_seed, temperature=at.temperature, supply=at.supply, age=at.age, trim=trim
    )


def _idle(options: dict[str, str], virtual: VirtualBoard, default: _Conditions) -> list[str]:
    """What was asked for and does nothing on this die, each with the reason."""
    found = []
    for name, neutral in default._asdict().items():
        effects = [e for e in virtual.effects if e.depends_on == name]
        if name not in options or float(options[name]) == neutral or any(e.on for e in effects):
            continue
        keys = ", ".join(e.name for e in effects)
        why = f"no effect of chip {virtual.spec.name} that is on depends on it ({keys}; pimchip info lists them)"
        if options.get("die") == "ideal":
            why = "an ideal die has no effects"
        elif "profile" in options:
            why = "this die is as its profile measured it"
        found.append(f"{name} = {options[name]} does nothing: {why}")
    return found


def _integer(url: str, options: dict[str, str], name: str, limit: int) -> int:
    value = options.get(name, "0")
    if not (value.isascii() and value.isdigit()) or len(value) > 20 or int(value) >= limit:
        raise InputError(f"device {url!r}: {name} = {value!r} is no whole number from 0 to {limit - 1}")
    return int(value)


def _number(url: str, options: dict[str, str], name: str, unit: str, default: float, low: float, high: float) -> float:
    value = options.get(name)
    if value is None:
        return float(default)
    try:
        number = float(value)
    except ValueError:
        number = float("nan")
    if not low <= number <= high:
        raise InputError(f"device {url!r}: {name} = {value!r} is no number of {unit} from {low:g} to {high:g}")
    return number


def _lacks(url: str, text: str) -> frozenset[Capability]:
    """Capabilities to switch off, to see what the host then does instead."""
    wanted = [name for name in text.split(",") if name]
    for name in wanted:
        if name not in CAPABILITIES:
            raise InputError(f"device {url!r}: {unknown('capability', name, CAPABILITIES)}")
    return frozenset(c for c in CAPABILITIES if c in wanted)
