"""The line is cut at random moments of a characterization and of a deployment: the run goes on and gives the same."""

from __future__ import annotations

import os
import random
import select
import socket
import threading
import tty
import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flows import DIE, Case, small_case

from pimchip.board import open_board
from pimchip.board.lines import open_line
from pimchip.board.serving import serve_board
from pimchip.characterize import characterize, default_points
from pimchip.compiler.program import Program
from pimchip.errors import LinkError, PimchipWarning
from pimchip.runtime import deploy
from pimchip.workflows.images import load_matching


@pytest.fixture(scope="module")
def mlp(tmp_path_factory: pytest.TempPathFactory) -> Case:
    return small_case(tmp_path_factory.mktemp("mlp"))


class Cable(ABC):
    """What lies between a host and a board on TCP, and is cut once after so many bytes from the host; plugged in again at once.

    Subclasses make the host's end, anew after each cut.
    """

    url: str

    def __init__(self, board: str, cut_after: int) -> None:
        self.left, self.cuts, self.passed = cut_after, 0, 0
        self.board = ("127.0.0.1", int(board.rpartition(":")[2]))
        self.over = threading.Event()

    def run(self) -> None:
        while not self.over.is_set():
            there = self.plugged_in()
            if there is None:
                continue
            with socket.create_connection(self.board) as line:
                line.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                with suppress(OSError):
                    self.carry(there, line)
            self.unplug(there)

    def carry(self, there: int, line: socket.socket) -> None:
        while not self.over.is_set():
            for ready in select.select([there, line], [], [], 0.05)[0]:
                if ready is line:
                    data = line.recv(65536)
                    if not data:
                        return
                    self.write(there, data)
                    continue
                data = os.read(there, 65536)
                if not data:
                    return
                self.passed += len(data)
                if 0 <= self.left < len(data):
                    line.sendall(data[: self.left])
                    self.left, self.cuts = -1, self.cuts + 1
                    return
                self.left -= len(data) if self.left >= 0 else 0
                line.sendall(data)

    def write(self, there: int, data: bytes) -> None:
        while data:
            select.select([], [there], [], 1.0)
            data = data[os.write(there, data) :]

    @abstractmethod
    def plugged_in(self) -> int | None:
        """The host's end, None where there is none yet."""

    def unplug(self, there: int) -> None:
        os.close(there)


class Socket(Cable):
    """The host's end is a socket, which is closed."""

    def __init__(self, board: str, cut_after: int, folder: Path) -> None:
        super().__init__(board, cut_after)
        self.listening = socket.create_server(("127.0.0.1", 0))
        self.listening.settimeout(0.1)
        self.url = f"tcp://127.0.0.1:{self.listening.getsockname()[1]}"

    def plugged_in(self) -> int | None:
        try:
            client, _ = self.listening.accept()
        except TimeoutError:
            return None
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return client.detach()


class Pty(Cable):
    """The host's end is a pseudo-terminal under a name that stays, as udev gives one; it is gone, and comes back as another."""

    def __init__(self, board: str, cut_after: int, folder: Path) -> None:
        super().__init__(board, cut_after)
        self.name = folder / f"board{random.getrandbits(40):x}"
        self.url = f"serial://{self.name}"
        self.next = self.made()

    def made(self) -> int:
        here, there = os.openpty()
        tty.setraw(there)
        new = self.name.with_suffix(".new")
        new.symlink_to(os.ttyname(there))
        os.replace(new, self.name)
        self.other = there
        return here

    def plugged_in(self) -> int | None:
        here, self.next = self.next, -1
        return here

    def unplug(self, there: int) -> None:
        os.close(self.other)
        os.close(there)
        if not self.over.is_set():
            self.next = self.made()


@contextmanager
def cable(kind: type[Cable], case: Case, folder: Path, cut_after: int) -> Iterator[Any]:
    """A board behind a cable."""
    server, over = serve_board(f"emulator:{case.chip}?{DIE}", "tcp://127.0.0.1:0"), threading.Event()
    made = kind(server.url, cut_after, folder)  # type: ignore[call-arg]
    threads = [threading.Thread(target=server.run, args=(over.is_set,)), threading.Thread(target=made.run)]
    for thread in threads:
        thread.start()
    try:
        yield made
    finally:
        made.over.set()
        over.set()
        with suppress(OSError), socket.create_connection(made.board, 1):
            pass  # wakes the server
        for thread in threads:
            thread.join(10)
        server.close()
        if isinstance(made, Socket):
            made.listening.close()


def characterized(case: Case, url: str, folder: Path) -> dict[str, np.ndarray]:
    with open_board(url) as board:
        points = default_points(board.info().spec, adc_bits=None, range_divisors=[1])
        found = characterize(board, points=points, half_width=0.2, reads=8, adcs=[0, 40], seed=3, out=folder)
    with np.load(found.path / "counts.npz") as held:
        return {key: held[key] for key in held.files}


def deployed(case: Case, url: str, folder: Path) -> dict[str, np.ndarray]:
    program = Program.load(case.program)
    data = load_matching(program.manifest, "digits", None, 40)
    with open_board(url) as board:
        found = deploy(program, board, data, bn_batches=2, bn_batch_size=20)
        assert found.executor is not None and found.before is not None and found.after is not None
        logits = found.executor.logits(data.test.images)
    return {"logits": logits, "accuracy": np.array([found.before.value, found.after.value])}


WORK: dict[str, Callable[[Case, str, Path], dict[str, np.ndarray]]] = {
    "characterize": characterized,
    "deploy": deployed,
}


def cut_at_random(kind: type[Cable], work: str, case: Case, folder: Path, cuts: int) -> None:
    """The same result as without a cut, after each of so many."""
    with cable(kind, case, folder, -1) as whole:
        wanted = WORK[work](case, whole.url, folder / "whole")
    rng, passed, done, tries = random.Random(1), whole.passed, 0, 0
    while done < cuts:
        tries += 1
        with cable(kind, case, folder, rng.randrange(200, passed)) as cut, warnings.catch_warnings():
            warnings.simplefilter("error", PimchipWarning)  # nothing was lost, so nothing is to be said
            found = WORK[work](case, cut.url, folder / f"cut{tries}")
        assert found.keys() == wanted.keys() and all(np.array_equal(found[key], wanted[key]) for key in wanted)
        done += cut.cuts
        if not cut.cuts:  # what a slow machine made the host send twice is not sent every time
            passed = min(passed, cut.passed)
        assert tries < 2 * cuts + 5


@pytest.mark.parametrize("work", WORK)
@pytest.mark.parametrize("kind", [Socket, Pty])
def test_a_cut_changes_nothing(kind: type[Cable], work: str, mlp: Case, tmp_path: Path) -> None:
    cut_at_random(kind, work, mlp, tmp_path, 3)


@pytest.mark.study
@pytest.mark.parametrize("work", WORK)
@pytest.mark.parametrize("kind", [Socket, Pty])
def test_a_hundred_cuts_change_nothing(kind: type[Cable], work: str, mlp: Case, tmp_path: Path) -> None:
    cut_at_random(kind, work, mlp, tmp_path, 100)


def test_a_line_that_stays_cut_ends_in_an_error_that_says_so(mlp: Case, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setitem(open_line.__kwdefaults__, "patience", 0.5)
    with cable(Socket, mlp, tmp_path, 20_000) as cut:
        monkeypatch.setattr(cut, "unplug", lambda there: (os.close(there), cut.listening.close(), cut.over.set()))
        with pytest.raises(LinkError, match=r"the link is down: .*check its power and cable \(link: \d+ requests"):
            deployed(mlp, cut.url, tmp_path)
