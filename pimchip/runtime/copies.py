"""Which boards and which deployments may run programs whose layers the array holds several times.

Copies of a layer meet different converters, whose gains, offsets and curves differ, while a channel has one BN: calibration on
the chip takes out what its vectors have in common, and what differs from copy to copy stays in. So codes are corrected
converter by converter, by a profile, before they are added up.
"""

from __future__ import annotations

from collections.abc import Sequence

from pimchip.board.api import Capability
from pimchip.chip.correction import Correction
from pimchip.compiler.program import Program
from pimchip.errors import InputError, few

NEEDS: Capability = "copies"
_NAMED = 3


def check_board(program: Program, uid: str, able: frozenset[Capability]) -> None:
    """InputError where a program has copies and a board of these capabilities knows none."""
    if program.replicated and NEEDS not in able:
        raise InputError(
            f"the program holds {_said(program)}, and board {uid} cannot share vectors between copies (no '{NEEDS}'): compile "
            "without --replicas, or use a board whose firmware can"
        )


def check_corrected(program: Program, *, corrected: bool) -> None:
    """InputError where a program has copies and codes are taken as they are."""
    if program.replicated and not corrected:
        raise InputError(
            f"the program holds {_said(program)}: copies meet converters that differ, which BN calibration cannot take out, so "
            "codes must be corrected: deploy with --linearize and a --profile of this die (linearize=True in Python), or "
            "compile without --replicas"
        )


def check_corrections(program: Program, corrections: Sequence[Correction], source: str) -> None:
    """InputError, naming the source, where codes of a layer with copies have no correction."""
    for name in program.replicated:
        mac = program.manifest.layers[name].operating_point()
        if not any(each.serves(mac) for each in corrections):
            raise InputError(
                f"{source}: layer {name} is held several times and its codes are not corrected; deploy again with --linearize"
            )


def refuse(program: Program, what: str) -> None:
    """InputError for what does not know copies, where a program has some."""
    if program.replicated:
        raise InputError(f"the program holds {_said(program)}, and {what} knows no copies: compile without --replicas")


def _said(program: Program) -> str:
    return "layers several times (" + few([f"{name} {n} times" for name, n in program.replicated.items()], _NAMED) + ")"
