"""Boards in processes of their own, for tests: `pimchip emulate`, the firmware's host twin, QEMU."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

PIMCHIP = (sys.executable, "-m", "pimchip")


@contextmanager
def emulated(*options: str) -> Iterator[str]:
    """The URL of a board served by `pimchip emulate`, which Ctrl-C ends."""
    command = [*PIMCHIP, "emulate", "--json", *options]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            line = process.stdout.readline()
            assert line, process.communicate()
            yield json.loads(line)["listening"]
        finally:
            process.send_signal(signal.SIGINT)
            try:
                rest, said = process.communicate(timeout=30)
            finally:
                process.kill()
        assert process.returncode == 0 and rest == "", said


@contextmanager
def twin(program: Path, die: Path, where: str = "tcp://127.0.0.1:0", *options: str) -> Iterator[str]:
    """The URL of the firmware's host twin; what it says on standard error, as sanitizers do, fails the test."""
    command = [str(program), str(die), where, *options]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            line = process.stdout.readline()
            assert line.startswith("listening "), process.communicate()
            yield line.split()[1]
        finally:
            process.terminate()
            said = process.communicate(timeout=10)[1]
        assert said == ""


@contextmanager
def cortex_m(image: Path) -> Iterator[str]:
    """The URL of the firmware on an emulated Cortex-M3, whose UART is a TCP port."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    listen = ["-serial", f"tcp:127.0.0.1:{port},server=on,wait=on,nodelay=on"]
    machine = ["qemu-system-arm", "-M", "mps2-an385", "-kernel", str(image), "-display", "none", "-monitor", "none"]
    with subprocess.Popen([*machine, *listen], stderr=subprocess.PIPE, text=True, env=dict(os.environ)) as process:
        try:
            assert process.stderr is not None
            process.stderr.readline()  # "QEMU waiting for connection on: ...": from then on it listens
            yield f"serial:socket://127.0.0.1:{port}"
        finally:
            process.kill()
