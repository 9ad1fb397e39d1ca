"""Recorded sessions: they answer the same again, name what differs, and survive whatever kills the recorder."""

from __future__ import annotations

import json
import shutil
import warnings
import zlib
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import firmware
import numpy as np
import pytest
from click.testing import CliRunner
from flows import Case, call, small_case
from serving import twin
from simulated import Simulated

from pimchip.board import open_board
from pimchip.board.description import _held
from pimchip.board.emulated import emulated
from pimchip.board.linked import LinkBoard
from pimchip.chip import Tile
from pimchip.cli.main import cli
from pimchip.errors import InputError, LongFrameError, PimchipWarning, ReplayError, RestartedError
from pimchip.link.constants import Op
from pimchip.link.messages import ReadRequest
from pimchip.link.recording import Replay, recorded, recording
from pimchip.link.requests import Reply, Requests

WITHOUT = firmware.missing("gcc", "make")
TILE = Tile(1, 0, 0, 20, 16)
CELLS = np.random.default_rng(1).integers(0, 2, (20, 16)).astype(np.int8)
X = np.random.default_rng(2).integers(0, 16, (3, 20))


def work(url: str, cells: np.ndarray = CELLS, x: np.ndarray = X) -> np.ndarray:
    with open_board(url) as board:
        board.program(TILE, cells)
        assert board.verify(TILE).ok
        return board.convert(TILE, x, 2)


def record(path: Path, url: str = "emulator:sram65?die=2") -> np.ndarray:
    with recording(path):
        return work(url)


def lines(path: Path) -> list[dict[str, object]]:
    return [json.loads(line[9:]) for line in path.read_bytes().splitlines()]


def write(path: Path, content: list[dict[str, object]]) -> None:
    """Sound lines, whatever they say."""
    made = [json.dumps(line).encode() for line in content]
    path.write_bytes(b"".join(b"%08x %s\n" % (zlib.crc32(line), line) for line in made))


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("log") / "run.pimlog"
    record(path)
    return path


@pytest.mark.parametrize("url", ["emulator:sram65?die=2", "emulator+link:sram65?die=2"])
def test_a_recorded_session_is_answered_the_same(tmp_path: Path, url: str) -> None:
    path = tmp_path / "run.pimlog"
    codes = record(path, url)
    assert np.array_equal(codes, work("emulator:sram65?die=2"))
    for _ in range(2):
        assert np.array_equal(work(f"replay:{path}"), codes)
    with (
        open_board(f"replay:{path}") as board,
        open_board(url) as real,
        pytest.warns(PimchipWarning, match="not asked"),
    ):
        assert (board.info().uid, board.info().spec) == (real.info().uid, real.info().spec)
        board.close()


def test_what_is_asked_otherwise_is_named_to_the_byte(log: Path) -> None:
    other = CELLS.copy()
    other[3, 5] ^= 1
    with pytest.raises(ReplayError, match=r"request \d+ BEGIN has 0x.. at byte 16, recorded was 0x..; run the command"):
        work(f"replay:{log}", other)
    with pytest.raises(ReplayError, match=r"BEGIN has 0x28 at byte 8, recorded was 0x3c"):
        work(f"replay:{log}", x=X[:2])
    with open_board(f"replay:{log}") as board, pytest.raises(ReplayError, match="is TELEMETRY, recorded was BEGIN"):
        board.temperature()


def test_a_log_that_ends_says_so(log: Path, tmp_path: Path) -> None:
    with open_board(f"replay:{log}") as board:
        board.program(TILE, CELLS)
        board.verify(TILE)
        board.convert(TILE, X, 2)
        with pytest.raises(ReplayError, match=r"request \d+, TELEMETRY: the log ends here"):
            board.temperature()
    cut = tmp_path / "cut.pimlog"
    cut.write_bytes(log.read_bytes()[:-120])  # as a process leaves it that was killed
    with pytest.raises(ReplayError, match="the recording was cut short here"):
        work(f"replay:{cut}")


def test_a_host_that_is_killed_leaves_all_that_was_answered(tmp_path: Path) -> None:
    path = tmp_path / "run.pimlog"
    with recording(path):
        board = open_board("emulator:sram65?die=2")
        board.program(TILE, CELLS)
        held = path.read_bytes()  # nothing was closed or flushed
        board.close()
    assert held.count(b"\n") >= 4 and b'"PROGRAM"' in held


def test_a_restart_is_replayed(tmp_path: Path) -> None:
    path = tmp_path / "run.pimlog"

    def through(url: str) -> np.ndarray:
        with open_board(url) as board:
            for _ in range(50):
                try:
                    board.program(TILE, CELLS)
                    return board.convert(TILE, X)
                except RestartedError:
                    pass
        raise AssertionError("it never got through")

    from pimchip.board.serving import serve_board

    server = serve_board("emulator:sram65?die=2", "tcp://127.0.0.1:0", faults=(3, {"kill": 0.08}))
    import threading

    over = threading.Event()
    thread = threading.Thread(target=server.run, args=(over.is_set,))
    thread.start()
    try:
        with recording(path):
            codes = through(server.url)
    finally:
        over.set()
        thread.join(10)
        server.close()
    assert any(line.get("error") == "RestartedError" for line in lines(path))
    assert np.array_equal(through(f"replay:{path}"), codes)


class Odd(Simulated):
    """A board over simulated time that restarts at its n-th request, or carries so many bytes a frame from there on."""

    def __init__(self, *, restarts_at: int = 0, small_from: int | None = None, small: int = 0) -> None:
        given = emulated("emulator:sram65?die=2")
        super().__init__(server=given.server())
        self.restarts_at, self.small_from, self.small, self.count = restarts_at, small_from, small, 0
        self.request(Op.LINK)

    def ask_many(self, op: Op, items: Iterable[tuple[bytes, int]]) -> Iterator[Reply]:
        self.count += 1
        if self.count == self.restarts_at:
            self.server.restart()
        if self.small_from is not None and self.count >= self.small_from:
            items = list(items)
            for payload, _ in items:
                if (ReadRequest.unpack(payload).length if op is Op.READ else len(payload)) > self.small:
                    raise LongFrameError("nothing so long comes through")
        yield from super().ask_many(op, items)


def through_restarts(link: Requests) -> np.ndarray:
    with LinkBoard(link, "odd") as board:
        for _ in range(10):
            try:
                board.program(TILE, CELLS)
                assert board.verify(TILE).ok
                return board.convert(TILE, X)
            except RestartedError:
                pass
    raise AssertionError("it never got through")


def recorded_work(path: Path, link: Requests) -> np.ndarray:
    _held.clear()  # as in a process of its own, which has read no blob
    with recording(path):
        return through_restarts(recorded(link, "odd"))


@pytest.mark.parametrize("at", range(1, 14))
def test_a_restart_at_any_time_is_replayed(tmp_path: Path, at: int) -> None:
    """Also while the board is opened: before the blob is read, and while it is."""
    path = tmp_path / "run.pimlog"
    codes = recorded_work(path, Odd(restarts_at=at))
    for known in (False, True):
        if not known:
            _held.clear()
        assert np.array_equal(through_restarts(Replay(path)), codes)
    assert np.array_equal(codes, work("emulator:sram65?die=2")[:1])


def test_a_restart_that_nobody_was_told_of_is_replayed(tmp_path: Path) -> None:
    """The link notices by itself, as its line was cut, and the next call hears of it."""
    path = tmp_path / "run.pimlog"

    def interrupted(link: Requests, between: Callable[[], None]) -> np.ndarray:
        with LinkBoard(link, "odd") as board:
            board.program(TILE, CELLS)
            between()
            for _ in range(10):
                try:
                    if not board.holds(TILE):
                        board.program(TILE, CELLS)
                    return board.convert(TILE, X)
                except RestartedError:
                    pass
        raise AssertionError("it never got through")

    link = Odd()

    def restart() -> None:
        link.server.restart()
        link.cut()
        for _ in range(10):
            link.step(link.now + 0.1)
        assert link.boots == 1

    with recording(path):
        codes = interrupted(recorded(link, "odd"), restart)
    assert np.array_equal(interrupted(Replay(path), lambda: None), codes)
    assert np.array_equal(codes, work("emulator:sram65?die=2")[:1])


@pytest.mark.parametrize(("begins", "size"), [(0, 768), (0, 64), (4, 64), (6, 64)])
def test_a_line_that_takes_small_parts_alone_is_replayed(tmp_path: Path, begins: int, size: int) -> None:
    """From the start, before anything is recorded, or from a later request on."""
    path = tmp_path / "run.pimlog"
    codes = recorded_work(path, Odd(small_from=begins, small=size))
    assert ("part" in lines(path)[0]) == (begins == 0)
    assert begins == 0 or "LongFrameError" in {line.get("error") for line in lines(path)}
    for known in (False, True):
        if not known:
            _held.clear()
        assert np.array_equal(through_restarts(Replay(path)), codes)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda c: c[:3] + c[4:], "line 4: request 2 is missing"),
        (lambda c: [c[0], *c[1:3], c[2], *c[3:]], "line 4: request 2 is missing"),
        (lambda c: [{**c[0], "pimlog": 2}, *c[1:]], "a log of version 2, this pimchip reads 1"),
        (lambda c: [{**c[0], "hello": "00"}, *c[1:]], "line 1: it does not say what was recorded"),
        (lambda c: [c[0], {**c[1], "op": "FLY"}, *c[2:]], "line 2: it is no request"),
        (lambda c: [c[0], {**c[1], "sent": "xx"}, *c[2:]], "line 2: it is no request"),
        (lambda c: [c[0], {**c[1], "status": "FINE"}, *c[2:]], "line 2: it is no request"),
        (lambda c: [c[0], {**c[1], "arg": float("inf")}, *c[2:]], "line 2: it is no request"),
        (lambda c: [{**c[0], "hello": "00" * (len(str(c[0]["hello"])) // 2)}, *c[1:]], "line 1: it does not say"),
        (lambda c: [*c, c[1]], "it does not end where it says"),
        (lambda c: [*c[:-1], {"end": 3}], "it does not end where it says"),
        (lambda c: c[1:], "no recorded session"),
        (lambda c: [{**c[0], "part": 0}, *c[1:]], "line 1: it does not say what was recorded"),
        (lambda c: [{**c[0], "boots": "many"}, *c[1:]], "line 1: it does not say what was recorded"),
    ],
)
def test_a_log_that_cannot_be_is_one_error(log: Path, tmp_path: Path, change: object, said: str) -> None:
    bad = tmp_path / "bad.pimlog"
    write(bad, change(lines(log)))  # type: ignore[operator]
    with pytest.raises(InputError, match=said):
        work(f"replay:{bad}")
        open_board(f"replay:{bad}").close()


@pytest.mark.parametrize("content", [b"", b"\x00" * 5000, b"x" * 3_000_000, b"00000000 {}\n", b"[" * 100_000 + b"\n"])
def test_what_is_no_log_is_one_error(tmp_path: Path, content: bytes) -> None:
    bad = tmp_path / "bad.pimlog"
    bad.write_bytes(content)
    with pytest.raises(InputError, match="bad.pimlog is no"):
        open_board(f"replay:{bad}")


def test_a_flipped_bit_is_found(log: Path, tmp_path: Path) -> None:
    whole, bad = bytearray(log.read_bytes()), tmp_path / "bad.pimlog"
    for place in np.random.default_rng(0).integers(0, len(whole), 60).tolist():
        changed = whole.copy()
        changed[place] ^= 1
        bad.write_bytes(changed)
        with pytest.raises((InputError, ReplayError)), warnings.catch_warnings():
            warnings.simplefilter("error", PimchipWarning)
            work(f"replay:{bad}")


def test_a_recording_replaces_nothing(log: Path, tmp_path: Path) -> None:
    before = log.read_bytes()
    with pytest.raises(InputError, match="exists; name another file, or remove it"):
        record(log)
    assert log.read_bytes() == before
    with pytest.raises(InputError, match="replay:FILE"):
        open_board("replay:")
    for place in ("~no such user/x", "a\0b"):
        with pytest.raises(InputError, match="name"):
            open_board(f"replay:{place}")
    with pytest.raises(InputError, match=r"absent.pimlog: No such file"):
        open_board(f"replay:{tmp_path / 'absent.pimlog'}")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full")
def test_a_full_disk_ends_the_log_and_not_the_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from pimchip.link import pimlog

    path = tmp_path / "run.pimlog"
    put = pimlog.Writer.put

    def filling(self: pimlog.Writer, *given: object, **outcome: str) -> None:
        if self._number == 3:
            self._file.close()
            self._file = open("/dev/full", "wb", buffering=0)  # noqa: SIM115
        put(self, *given, **outcome)  # type: ignore[arg-type]

    monkeypatch.setattr(pimlog.Writer, "put", filling)
    with pytest.warns(PimchipWarning, match="No space left.*the log ends here, the work goes on; free space"):
        codes = record(path)
    assert np.array_equal(codes, work("emulator:sram65?die=2"))


def test_tokens_are_not_recorded(tmp_path: Path) -> None:
    from threading import Event, Thread

    from pimchip.board.serving import serve_board

    server, over = serve_board("emulator:sram65?die=2", "tcp://127.0.0.1:0", token="sesame"), Event()
    thread = Thread(target=server.run, args=(over.is_set,))
    thread.start()
    try:
        record(tmp_path / "run.pimlog", f"{server.url}?token=sesame")
    finally:
        over.set()
        thread.join(10)
        server.close()
    content = (tmp_path / "run.pimlog").read_text()
    import hashlib

    assert "sesame" not in content and hashlib.sha256(b"sesame").hexdigest() not in content
    assert lines(tmp_path / "run.pimlog")[0]["url"] == server.url


@pytest.fixture(scope="module")
def mlp(tmp_path_factory: pytest.TempPathFactory) -> Case:
    return small_case(tmp_path_factory.mktemp("mlp"))


@pytest.mark.skipif(bool(WITHOUT), reason=WITHOUT)
def test_commands_on_the_firmware_replay_to_the_same_profile_and_accuracy(
    mlp: Case, host_twin: Path, tmp_path: Path
) -> None:
    measured = ["--adcs", mlp.adcs, "--reads", "32", "--range-divisor", "1"]
    given = ["--bn-batches", "2", "--bn-batch-size", "30", "--limit", "60"]
    logs = {name: tmp_path / f"{name}.pimlog" for name in ("characterize", "deploy", "infer")}

    def run(url: str, where: Path, *more: str) -> tuple[dict[str, object], dict[str, np.ndarray], dict[str, object]]:
        def device(name: str) -> list[str]:
            return ["--device", url or f"replay:{logs[name]}", *(["--record", str(logs[name])] if url else [])]

        profile = call("characterize", *device("characterize"), *measured, "--out", str(where))
        with np.load(Path(str(profile["profile"])) / "counts.npz") as held:
            counts = {key: held[key] for key in held.files}
        deployed = where / "net.deployed"
        found = call("deploy", str(mlp.program), *device("deploy"), *given, "--out", str(deployed))
        named = call("infer", str(deployed), *device("infer"), "--data", "digits", "--limit", "20")
        keep = (
            "accuracy_before_bn",
            "accuracy_after_bn",
            "tiles",
            "predictions",
            "max_inl_lsb",
            "noise_lsb",
            "chip_uid",
        )
        return {k: v for each in (profile, found, named) for k, v in each.items() if k in keep}, counts, profile

    with twin(host_twin, mlp.die) as url:
        there, counts, _ = run(url, tmp_path / "there")
    again, same, _ = run("", tmp_path / "again")
    assert there == again and counts.keys() == same.keys()
    assert all(np.array_equal(counts[key], same[key]) for key in counts)
    shutil.rmtree(tmp_path / "again")


def test_the_option_is_on_every_command_that_opens_a_device(tmp_path: Path) -> None:
    path = tmp_path / "info.pimlog"
    assert CliRunner().invoke(cli, ["info", "emulator:sram65", "--record", str(path), "--json"]).exit_code == 0
    told = json.loads(CliRunner().invoke(cli, ["info", f"replay:{path}", "--json"]).stdout)
    assert told["chip"] == "sram65" and told["temperature"] == 25.0
    once_more = CliRunner().invoke(cli, ["info", "emulator:sram65", "--record", str(path), "--json"])
    assert once_more.exit_code == 2 and "exists" in json.loads(once_more.stdout)["error"]
    idle = CliRunner().invoke(cli, ["info", "sram65", "--record", str(tmp_path / "x"), "--json"])
    assert idle.exit_code == 0 and "nothing was recorded" in idle.stderr
