"""pimchip: put a trained network on a processing-in-memory chip, and know how well it works there.

The names below are imported when first used, so that `import pimchip` is cheap.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from pimchip._version import __version__

if TYPE_CHECKING:
    from pimchip.board import Board, open_board
    from pimchip.chip import ChipSpec, load_chip
    from pimchip.compiler import Program, compile
    from pimchip.profile import Profile
    from pimchip.runtime import Deployed, deploy

_WHERE = {
    "Board": "board",
    "ChipSpec": "chip",
    "Deployed": "runtime",
    "Profile": "profile",
    "Program": "compiler",
    "compile": "compiler",
    "deploy": "runtime",
    "load_chip": "chip",
    "open_board": "board",
}
_PACKAGES = ("board", "characterize", "chip", "compiler", "emulator", "kernels", "profile", "qat", "report", "runtime")

__all__ = [
    "Board",
    "ChipSpec",
    "Deployed",
    "Profile",
    "Program",
    "__version__",
    "compile",
    "deploy",
    "load_chip",
    "open_board",
]


def __getattr__(name: str) -> Any:
    if name in _WHERE:
        return getattr(import_module(f"pimchip.{_WHERE[name]}"), name)
    if name in _PACKAGES:
        return import_module(f"pimchip.{name}")
    raise AttributeError(f"module 'pimchip' has no attribute {name!r}")
