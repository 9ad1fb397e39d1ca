"""Write SPEC.md's worked trace: one exchange of the real session with the real emulated board, every frame of it.

python tools/trace_protocol.py [--check]      --check: fail if SPEC.md holds another one
"""

from __future__ import annotations

import json
import math
import re
import struct
import sys
import zlib
from dataclasses import replace
from pathlib import Path

import numpy as np

from pimchip.chip import Mac, Tile, load_chip
from pimchip.emulator import wire
from pimchip.emulator.die import IdealDie
from pimchip.emulator.requests import BoardRequests
from pimchip.emulator.virtual import VirtualBoard
from pimchip.link import messages as m
from pimchip.link.constants import Op, Region
from pimchip.link.server import Server
from pimchip.link.trace import Tracer
from pimchip.link.transfers import read_region, write_region
from pimchip.workflows.paced_line import PacedLine

SPEC = Path(__file__).resolve().parent.parent / "firmware_protocol" / "SPEC.md"
MARKED = re.compile(r"(?<=<!-- trace -->\n).*?(?=<!-- end of trace -->)", re.DOTALL)
FIRMWARE = "example"
SESSION, BOOT = 0x12345678, 0x0123456789ABCDEF
TILE, MAC = Tile(0, 0, 0, 4, 8), Mac("bit_serial", 144, 4, 4, 4, 7, 8)
CELLS = np.array(
    [[1, 0, 1, 1, 0, 0, 1, 0], [0, 1, 1, 0, 1, 0, 0, 1], [1, 1, 1, 1, 1, 1, 1, 1], [0, 0, 1, 0, 1, 1, 0, 1]]
)
INPUTS = np.array([[15, 7, 3, 12]])


def stored(content: bytes) -> bytes:
    """zlib's format without compression (RFC 1950, 1951): the same on every machine, and what a board may do too."""
    assert len(content) < 1 << 16
    head = b"\x78\x01\x01" + struct.pack("<HH", len(content), len(content) ^ 0xFFFF)
    return head + content + struct.pack(">I", zlib.adler32(content))


def trace() -> str:
    """The exchange, in text."""
    spec = load_chip("sram65")
    board = BoardRequests(lambda: VirtualBoard(spec, IdealDie(spec), noise_seed=None))
    board.identity = replace(board.identity, firmware=FIRMWARE)
    said = json.loads(zlib.decompress(board.blob))
    said = {name: value for name, value in said.items() if name not in ("effects", "profile")} | {"firmware": FIRMWARE}
    board.blob = stored(json.dumps(said, sort_keys=True, separators=(",", ":")).encode())
    lines: list[str] = []
    tracer = Tracer(lines.append)
    link = PacedLine(Server(board, boot_id=BOOT), math.inf, 0.001, identity=SESSION, tap=tracer.bytes_went)
    read_region(link, Region.BLOB, 0, link.hello.blob_size)
    write_region(link, Region.CELLS, 0, CELLS.astype(np.int8).tobytes())
    link.request(Op.PROGRAM, m.ProgramRequest(wire.tile_message(TILE), 1).pack())
    write_region(link, Region.INPUTS, 0, INPUTS.astype(np.uint8).tobytes())
    noise = wire.noise_message(None)
    asked = m.ConvertRequest(wire.tile_message(TILE), wire.mac_message(MAC), noise, len(INPUTS), 1)
    reply = m.ConvertReply.unpack(link.request(Op.CONVERT, asked.pack()))
    read_region(link, Region.CODES, 0, reply.length)
    link.request(Op.CLOSE)
    return "\n".join(["```text", *lines, "```", ""])


def main() -> None:
    text = SPEC.read_text(encoding="utf-8")
    assert len(MARKED.findall(text)) == 1, "SPEC.md wants exactly one <!-- trace --> and <!-- end of trace -->"
    made = MARKED.sub(lambda _: trace(), text)
    if "--check" not in sys.argv:
        SPEC.write_text(made, encoding="utf-8")
    elif made != text:
        raise SystemExit(f"SPEC.md's trace is not what is sent now: run {Path(__file__).name} and commit")


if __name__ == "__main__":
    main()
