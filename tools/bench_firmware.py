"""Times the host twin: conversions a second of the C model, and bytes a second of a transfer over loopback TCP; each by the
clock, and by the processor time that the twin took, which other programs disturb less.

python tools/bench_firmware.py [FOLDER]      builds into FOLDER, else into a temporary one
"""

from __future__ import annotations

import os
import struct
import subprocess
import sys
import tempfile
import threading
import time
import zlib
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tests"))

import numpy as np  # noqa: E402
import plain_frames as wire  # noqa: E402

from pimchip.chip import load_chip  # noqa: E402
from pimchip.emulator.die import Die  # noqa: E402
from pimchip.emulator.export import export_die, write_die  # noqa: E402
from pimchip.emulator.state import Conditions  # noqa: E402

SIZE = 1 << 25
VECTORS = 4000
WINDOW = 16


def main() -> None:
    """Build, start, time, stop."""
    with tempfile.TemporaryDirectory() as temporary:
        build = Path(sys.argv[1] if len(sys.argv) > 1 else temporary).resolve()
        folder = ROOT / "firmware_protocol" / "firmware"
        subprocess.run(["make", "-s", "-C", str(folder), f"BUILD={build}"], check=True)
        spec = load_chip("sram65")
        write_die(build / "bench.die", export_die(spec, Die(spec, 0), Conditions(), noise_seed=0))
        command = [str(build / "pimp-twin"), str(build / "bench.die"), "tcp://127.0.0.1:0"]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as twin:
            try:
                assert twin.stdout is not None
                client = wire.Client.to(int(twin.stdout.readline().rpartition(":")[2]), timeout=120)
                client.hello()
                for name, count, job in (("bytes", SIZE, transfer), ("conversions", VECTORS * 256, conversions)):
                    before = processor_seconds(twin.pid)
                    seconds = job(client)
                    own = processor_seconds(twin.pid) - before
                    print(f"{name:12} {count / seconds / 1e6:7.1f} M/s, {count / own / 1e6:7.1f} M a processor second")
            finally:
                twin.kill()


def processor_seconds(process: int) -> float:
    """What a process has used so far, of Linux."""
    fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def transfer(client: wire.Client) -> float:
    """Seconds of a transfer of SIZE bytes with WINDOW requests under way; frames are made before."""
    data = np.random.default_rng(0).integers(0, 256, SIZE, np.uint8).tobytes()
    client.begin(wire.R_MAP8, 0, data, (1, 1, 1, SIZE))
    chunks = range(0, SIZE, 4096)
    head = (1, 0, wire.WRITE, 0)
    frames = [
        wire.Frame(*head, (client.seq + 1 + n) & 0xFFFF, 0, client.key, at, data[at : at + 4096]).encoded()
        for n, at in enumerate(chunks)
    ]
    room = threading.Semaphore(WINDOW)

    def send() -> None:
        for frame in frames:
            room.acquire()
            client.link.sendall(frame)

    sender = threading.Thread(target=send)
    start = time.perf_counter()
    sender.start()
    left = len(frames)
    while left:
        count = client.link.recv(1 << 16).count(0)
        left -= count
        room.release(count) if count else None
    seconds = time.perf_counter() - start
    sender.join()
    client.seq += len(frames)
    client.call(wire.COMMIT)
    assert zlib.crc32(client.get(wire.R_MAP8, 0, 65536)) == zlib.crc32(data[:65536])
    return seconds


def conversions(client: wire.Client) -> float:
    """Seconds of VECTORS conversions of a whole macro, with noise."""
    rng = np.random.default_rng(0)
    client.put(wire.R_CELLS, 0, rng.integers(0, 2, 144 * 256, np.uint8).tobytes())
    where = struct.pack("<5I", 0, 0, 0, 144, 256)
    client.call(wire.PROGRAM, where + struct.pack("<i", 1))
    client.put(wire.R_INPUTS, 0, rng.integers(0, 16, VECTORS * 144, np.uint8).tobytes())
    start = time.perf_counter()
    client.call(wire.CONVERT, where + struct.pack("<6BHIIQII", 2, 4, 4, 4, 7, 0, 1, 144, 0, 0, VECTORS, 1))
    return time.perf_counter() - start


if __name__ == "__main__":
    main()
