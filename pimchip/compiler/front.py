"""The pass `trace`: which front end reads a network.

torch.fx where it takes all of it: it needs nothing but the modules, and a network of them is read in milliseconds. Else
torch.export (pimchip.compiler.exported), which understands functions of torch's, views and control flow on shapes, and takes
a second to import.
"""

from __future__ import annotations

from torch import nn

from pimchip.compiler.ir import Image, Network
from pimchip.compiler.trace import TooManyInputs, trace
from pimchip.errors import CompileError


def read(network: nn.Module, image: Image, refused: list[str] | None = None) -> Network:
    """The network's operations. Raises CompileError naming what is not supported and where it stands.

    refused: takes such lines instead, and what they are about is left out.
    """
    found: list[str] = []
    try:
        graph = trace(network, found)
        if not found:
            return graph
    except TooManyInputs:
        raise
    except CompileError:
        pass
    from pimchip.compiler.exported import export

    return export(network, image, refused)
