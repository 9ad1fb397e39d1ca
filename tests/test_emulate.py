"""`pimchip emulate`: what it says, whom it lets in, how it ends."""

from __future__ import annotations

import json
import socket
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from serving import emulated

from pimchip.board import open_board
from pimchip.board.serving import serve_board
from pimchip.chip import Tile
from pimchip.cli.main import cli
from pimchip.emulator.serve import MOST_LINES
from pimchip.errors import InputError, LinkError


def call(*arguments: str) -> tuple[int, dict[str, Any], str]:
    result = CliRunner().invoke(cli, [*arguments, "--json"])
    return result.exit_code, json.loads(result.stdout), result.stderr


def codes(url: str) -> np.ndarray:
    with open_board(url) as board:
        tile = Tile(1, 0, 0, 144, 64)
        board.program(tile, np.ones((144, 64), np.int8))
        return board.convert(tile, np.full((20, 144), 7), 3)


@pytest.mark.parametrize("listen", ["tcp://127.0.0.1:0", "pty"])
def test_a_served_board_gives_the_codes_of_the_die(listen: str) -> None:
    with emulated("--listen", listen, "--die", "3", "--seed", "5") as url:
        assert np.array_equal(codes(url), codes("emulator:sram65?die=3&seed=5"))
        assert np.array_equal(codes(url), codes("emulator:sram65?die=3&seed=5"))


def test_hosts_come_and_go_and_a_device_url_says_all_of_a_board() -> None:
    device = "emulator:sram65?die=2&noise=off&temperature=60"
    with emulated("--listen", "tcp://127.0.0.1:0", "--device", device) as url:
        for _ in range(3):
            assert np.array_equal(codes(url), codes(device))
        code, found, _ = call("info", url)
        assert code == 0 and found["temperature"] == 60 and found["uid"].endswith("-0002")
        assert found["link"]["requests"] > 0 and found["link"]["bad_frames"] == 0


def test_only_who_knows_the_token_is_let_in(monkeypatch: pytest.MonkeyPatch) -> None:
    with emulated("--listen", "tcp://127.0.0.1:0", "--token", "s3cret") as url:
        for wrong in ("", "?token=secret"):
            with pytest.raises(LinkError, match="refuses: TOKEN; give the token"):
                open_board(url + wrong)
        with open_board(f"{url}?token=s3cret") as board:
            assert "s3cret" not in board.info().url
        code, found, _ = call("info", f"{url}?token=s3cret")
        assert code == 0 and "s3cret" not in json.dumps(found)
        monkeypatch.setenv("PIMCHIP_TOKEN", "s3cret")
        open_board(url).close()


def test_a_bad_line_changes_no_code() -> None:
    faults = "7:drop=0.02,flip=0.00002,duplicate=0.02,reorder=0.02,split=0.02,delay=0.02"
    with emulated("--listen", "tcp://127.0.0.1:0", "--faults", faults) as url:
        assert np.array_equal(codes(url), codes("emulator:sram65"))


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["--listen", "tcp://0.0.0.0:0"], "whoever reaches 0.0.0.0 controls the board"),
        (["--listen", "tcp://:0"], "--expose-to-network"),
        (["--listen", "tcp://127.0.0.1"], "want tcp://127.0.0.1:PORT"),
        (["--listen", "tcp://127.0.0.1:99999"], "want tcp://127.0.0.1:PORT"),
        (["--listen", "udp://127.0.0.1:1"], "want tcp://127.0.0.1:PORT"),
        (["--faults", "7:dorp=0.1"], "did you mean 'drop'"),
        (["--chip", "sram56"], "did you mean 'sram65'"),
        (["--chip", "sram65?die=3"], "--device emulator:CHIP?NAME=VALUE"),
        (["--die", "-1"], "no number of a die"),
        (["--die", "3", "--device", "emulator:sram65"], "leave out --chip and --die"),
        (["--device", "tcp://127.0.0.1:1"], "only emulated boards"),
        (["--small"], "name the file"),
        (["--export-die", "absent/x", "--for", "absent.pim"], "absent.pim"),
    ],
)
def test_wrong_options_are_named(arguments: list[str], named: str) -> None:
    code, found, _ = call("emulate", *arguments)
    assert code == 2 and named in found["error"]


def test_silent_connections_take_the_board_from_nobody() -> None:
    with emulated("--listen", "tcp://127.0.0.1:0") as url, open_board(url) as board, ExitStack() as open_lines:
        place = ("127.0.0.1", int(url.rpartition(":")[2]))
        for _ in range(3 * MOST_LINES):
            open_lines.enter_context(socket.create_connection(place, 5))
            assert board.temperature() == 25.0
        statistics = board.link_statistics()
        assert statistics is not None and statistics["reconnects"] == 0


def test_a_port_in_use_is_named() -> None:
    with emulated("--listen", "tcp://127.0.0.1:0") as url:
        code, found, _ = call("emulate", "--listen", url)
        assert code == 2 and url in found["error"] and "in use" in found["error"]


@pytest.mark.parametrize(
    "url",
    [
        "tcp://127.0.0.1:0?token=sesame", "tcp://127.0.0.1:1?token=sesame&colour=2", "tcp://127.0.0.1:1?sesame",
        "tcp://127.0.0.1:1?token=sesame&token=sesame", "serial:?token=sesame", "tpc://127.0.0.1:1?token=sesame",
        "serial:///dev/ttyS0?baud=fast&Token=sesame", "serial:///dev/ttyS0?baud=fast&token=sesame",
        "tcp://127.0.0.1:1?token=sesame&noise", "tcp://127.0.0.1:x?%74oken=sesame", "tcp://127.0.0.1:x?a=1&TO%4bEN=sesame",
    ],
)  # fmt: skip
def test_a_wrong_url_does_not_tell_its_token(url: str) -> None:
    with pytest.raises(InputError) as error:
        open_board(url)
    assert "sesame" not in str(error.value) and "device '" in str(error.value)


@pytest.mark.parametrize("port", ["123456", "65536", "99999999999999999999", "1e3", "-1", "²", ""])
def test_a_port_that_cannot_be_is_named(port: str) -> None:
    with pytest.raises(InputError, match="with a port from 1 to 65535"):
        open_board(f"tcp://127.0.0.1:{port}")
    with pytest.raises(InputError, match="want tcp://127.0.0.1:PORT"):
        serve_board("emulator:sram65", f"tcp://127.0.0.1:{port}")


def test_a_host_name_that_cannot_be_is_an_error_with_a_mend() -> None:
    with pytest.raises(LinkError, match="no name of a host; check the name"):
        open_board(f"tcp://{'x' * 70}:80")


@pytest.mark.parametrize("url", ["tcp://127.0.0.1:1", "serial:socket://127.0.0.1:1"])
def test_no_board_there_is_one_error_at_once(url: str) -> None:
    code, found, _ = call("info", url)
    assert code == 3 and "check the name, its power and cable" in found["error"]


def test_a_die_is_written_with_the_points_of_programs(tmp_path: Path) -> None:
    path = tmp_path / "die"
    code, found, _ = call("emulate", "--die", "3", "--export-die", str(path))
    assert code == 0 and found["bytes"] == path.stat().st_size and len(found["points"]) == 4
    assert path.read_bytes()[:6] == b"PIMDIE"
    again = tmp_path / "again"
    call("emulate", "--die", "3", "--export-die", str(again), "--seed", "1")
    assert again.read_bytes() != path.read_bytes()
