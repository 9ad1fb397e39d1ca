"""Every error a caller may meet, and the exit code the command line gives each.

A message names the thing that is wrong and the mend, in one line. The library never prints and never exits.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from difflib import get_close_matches


class PimchipError(Exception):
    """Base of all errors raised on purpose."""

    exit_code = 2


class InputError(PimchipError):
    """Wrong usage or a bad file, value or shape; nothing was changed."""


class WidthError(InputError):
    """A result that does not fit its width: a sum beyond 63 bits, an accumulator beyond 32 or what it was planned for."""


class CompileError(InputError):
    """A network that cannot be put on the chip: the message names the module and where it stands."""


class BadResult(PimchipError):
    """The work ran to its end and the answer is bad (verification failed, a limit missed)."""

    exit_code = 1


class VerifyError(BadResult):
    """Cells read back differ from what was programmed."""


class DeviceError(PimchipError):
    """The board refused, failed or is gone."""

    exit_code = 3


class FullError(DeviceError):
    """The board's memory does not hold it."""


class LinkError(DeviceError):
    """The link to the board is down, silent or belongs to another host; the message has its statistics."""


class OwnedError(LinkError):
    """Another process has the board: the message names it."""


class LongFrameError(LinkError):
    """The link carries short frames and loses long ones again and again."""


class RestartedError(LinkError):
    """The board restarted: what it held is gone, and nothing of the call is known to have been done."""


class TransferError(DeviceError):
    """The board does not keep what is sent to it."""


class ProtocolError(DeviceError):
    """The board breaks the protocol: what it sent is not what was agreed on."""


class ReplayError(DeviceError):
    """A recorded session is asked for something else than was recorded: the message names the request and the byte."""


class ChipError(DeviceError):
    """The chip on the board failed, as the board reports."""


class PimchipWarning(UserWarning):
    """Something was asked for that does nothing, or a result holds under other conditions: the work goes on.

    The library issues it through Python's warnings; the command line prints it as one line on stderr.
    """


def few(texts: Sequence[str], shown: int, joint: str = ", ") -> str:
    """The first of several, and how many there are beside them."""
    more = f" and {len(texts) - shown} more" if len(texts) > shown else ""
    return joint.join(texts[:shown]) + more


def counted(number: int, noun: str) -> str:
    """'1 tile', '1,200 tiles', '2 passes'."""
    ending = "" if number == 1 else "es" if noun.endswith(("s", "ch")) else "s"
    return f"{number:,} {noun}{ending}"


def unknown(kind: str, name: object, known: Iterable[str]) -> str:
    """Say that `name` is no `kind`, with the nearest names first and all of them after."""
    names = sorted(known)
    near = get_close_matches(str(name).lower(), names, n=3, cutoff=0.4)
    hint = f"did you mean {' or '.join(repr(n) for n in near)}? " if near else ""
    return f"unknown {kind} {name!r}: {hint}known: {', '.join(names)}"
