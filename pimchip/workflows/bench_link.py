"""`bench link`: how much of a line the protocol uses, how fast it is where the line is no limit, and what a network costs."""

from __future__ import annotations

import tempfile
import time
import tracemalloc
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

import pimchip
from pimchip.board import TileCells
from pimchip.board.bench import linked, served
from pimchip.chip import Tile
from pimchip.errors import BadResult
from pimchip.link import messages as m
from pimchip.link.constants import Op, Region
from pimchip.link.link import Link
from pimchip.link.requests import Requests
from pimchip.link.transfers import write_region
from pimchip.link.transports import TcpTransport
from pimchip.qat import build_model, convert
from pimchip.runtime import Executor
from pimchip.workflows.bench_clock import OnProgress, Spread, machine
from pimchip.workflows.bench_network import CHIP, CLASSES, MODEL, SHAPE, random_images
from pimchip.workflows.link_peer import PYTHON, TWIN, lacking, peer, write_large_chip, write_wide_chip
from pimchip.workflows.paced_line import BITS, PacedLine

BAUD = 12_000_000
LATENCIES_MS = (1, 16)
PASSES = 3
"""Of the reference chip, programmed one after the other."""
NETWORK_BAUD = 3_000_000
NETWORK_LATENCY = 0.001
"""Seconds each way, of the line that the network is run over."""


@dataclass(frozen=True)
class Sizes:
    """size: bytes of a transfer. repetitions: of the one over loopback. images: of a batch of ResNet-20, of two sizes."""

    size: int
    repetitions: int
    images: tuple[int, int]


FULL = Sizes(10_000_000, 7, (8, 16))
QUICK = Sizes(200_000, 2, (1, 2))


def bench_link(sizes: Sizes, seed: int, tell: OnProgress, *, firmware: bool = True) -> dict[str, Any]:
    """Everything for JSON. firmware: over loopback to the C twin where it can be built, else to the Python server."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        rows, columns = write_wide_chip(folder / "wide.toml", sizes.size)
        url, tile = f"emulator:{folder / 'wide.toml'}?die=ideal&noise=off", m.Tile(0, 0, 0, rows, columns)
        cells = np.random.default_rng(seed).integers(0, 2, rows * columns, np.uint8).tobytes()
        large = f"emulator:{write_large_chip(folder / 'large.toml', sizes.size)}?die=ideal&noise=off"
        fraction, fraction_large, fraction_tiles = dict[str, float](), dict[str, float](), dict[str, float]()
        for done, latency in enumerate(LATENCIES_MS):
            tell("paced line", done, len(LATENCIES_MS))
            fraction[str(latency)] = _paced(url, latency, tile, cells)
            fraction_large[str(latency)] = _paced_tiles(large, latency, 1, seed)
            fraction_tiles[str(latency)] = _paced_tiles(f"emulator:{CHIP}?die=ideal&noise=off", latency, PASSES, seed)
        without = lacking() if firmware else "not wanted"
        found = _loopback(PYTHON if without else TWIN, url, tile, cells, sizes.repetitions, folder, tell)
    network = _network(sizes.images, seed, tell)
    return {
        "line_fraction": fraction,
        "line_fraction_large": fraction_large,
        "line_fraction_tiles": fraction_tiles,
        "line_baud": BAUD,
        "line_bytes": len(cells),
        "line_allowance": "payload bytes at 10 bits each; framing and round trips count against us",
        **found,
        "loopback_twin_missing": without or None,
        **network,
        **machine(),
    }


# ------------------------------------------------------------------------------------------------------------ programming


def _program(link: Requests, tile: m.Tile, cells: bytes) -> None:
    write_region(link, Region.CELLS, 0, cells)
    link.request(Op.PROGRAM, m.ProgramRequest(tile, 1).pack())


def _paced(url: str, latency_ms: int, tile: m.Tile, cells: bytes) -> float:
    """Programs a tile by one transfer. Returns what was moved, of what the line's rate allows: a share. The device takes no
    time."""
    line = PacedLine(served(url), BAUD, latency_ms / 1000)
    begun = line.now
    _program(line, tile, cells)
    return len(cells) * BITS / BAUD / (line.now - begun)


def _paced_tiles(url: str, latency_ms: int, passes: int, seed: int) -> float:
    """Programs and verifies all macros of a chip, so often over, as `deploy` does it for each pass. Returns the same."""
    line, rng = PacedLine(served(url), BAUD, latency_ms / 1000), np.random.default_rng(seed)
    with linked(line, url) as board:
        array = board.info().spec.array
        begun, sent = line.now, 0
        for _ in range(passes):
            tiles = [Tile(macro, 0, 0, array.rows, array.columns) for macro in range(array.macros)]
            content = [TileCells(t, rng.integers(0, 2, (t.rows, t.columns), np.int8)) for t in tiles]
            if not all(done.report.ok for done in board.program_tiles(content)):
                raise BadResult("cells that were programmed over the paced line read back wrong")
            sent += sum(part.cells.size for part in content)
        return sent * BITS / BAUD / (line.now - begun)


def _loopback(
    kind: str, url: str, tile: m.Tile, cells: bytes, repetitions: int, folder: Path, tell: OnProgress
) -> dict[str, Any]:
    """Bytes programmed a second over loopback TCP, and what the host takes up meanwhile, in a run that is not timed."""
    with peer(kind, url, folder) as (host, port, _):
        link = Link(TcpTransport(host, port), f"board tcp://{host}:{port}")
        try:
            rates = []
            for done in range(repetitions):
                tell("loopback", done, repetitions)
                flipped = bytes(len(cells)) if done % 2 else cells
                begin = time.perf_counter()
                _program(link, tile, flipped)
                rates.append(len(cells) / (time.perf_counter() - begin))
                found = m.VerifyReply.unpack(link.request(Op.VERIFY, m.TileRequest(tile).pack()))
                if found.crc != zlib.crc32(flipped):
                    raise BadResult(f"the {kind}'s cells are not what was sent: CRC {found.crc:#010x}")
            tracemalloc.start()
            begun, _ = tracemalloc.get_traced_memory()
            _program(link, tile, cells)
            _, peak = tracemalloc.get_traced_memory()
            tracemalloc.stop()
            window = link.hello.window_bytes
        finally:
            link.close()
    return {
        **Spread.of(rates).keys("loopback_bytes_per_second"),
        "loopback_device": kind,
        "loopback_bytes": len(cells),
        "loopback_retransmits": link.statistics.retransmits,
        "host_memory_bytes": peak - begun,
        "window_bytes": window,
    }


# ---------------------------------------------------------------------------------------------------------------- network


def _network(images: tuple[int, int], seed: int, tell: OnProgress) -> dict[str, Any]:
    """ResNet-20 with its maps on the board: what a batch moves over the line, and how long that takes at NETWORK_BAUD.

    Two batches of different size tell what each image takes from what every batch takes, which is to program the passes
    anew, as the network is larger than the chip. The board takes no time.
    """
    tell(MODEL, 0, 1)
    network = build_model(MODEL, SHAPE, CLASSES, seed).eval()
    chip_network = convert(network, CHIP, pim_skip=("first", "last", "shortcut")).eval()
    program = pimchip.compile(chip_network, torch.zeros(1, *SHAPE), CHIP, name=MODEL)
    url = f"emulator:{CHIP}?die=0&noise=on"
    line = PacedLine(served(url), NETWORK_BAUD, NETWORK_LATENCY)
    with linked(line, url) as board:
        executor = Executor(program, board)
        executor.logits(random_images(SHAPE, 1, seed))  # layers and requantizations stay on the board
        few, many = (_batch(executor, line, random_images(SHAPE, count, seed)) for count in images)
    each = {name: (many[name] - few[name]) / (images[1] - images[0]) for name in few}
    return {
        "resnet20_bytes_per_image": each["bytes"],
        "resnet20_requests_per_image": each["requests"],
        "resnet20_seconds_per_image": each["seconds"],
        "resnet20_bytes_per_batch": few["bytes"] - images[0] * each["bytes"],
        "resnet20_requests_per_batch": few["requests"] - images[0] * each["requests"],
        "resnet20_seconds_per_batch": few["seconds"] - images[0] * each["seconds"],
        "resnet20_passes": program.manifest.passes,
        "resnet20_baud": NETWORK_BAUD,
        "resnet20_latency_ms": NETWORK_LATENCY * 1000,
        "resnet20_batches": list(images),
    }


def _batch(executor: Executor, line: PacedLine, images: Any) -> dict[str, float]:
    """What running a batch moves and takes."""
    before = _so_far(line)
    executor.logits(images)
    return {name: value - before[name] for name, value in _so_far(line).items()}


def _so_far(line: PacedLine) -> dict[str, float]:
    moved = line.statistics.bytes_in + line.statistics.bytes_out
    return {"bytes": moved, "requests": line.statistics.requests, "seconds": line.now}
