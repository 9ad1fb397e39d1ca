"""Characterization under what goes wrong around it: damaged steps, a full disk, Ctrl-C at any moment, other dies."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from planted import board_of, small

from pimchip.board.inprocess import InProcessBoard
from pimchip.characterize import characterize
from pimchip.characterize.journal import FOLDER
from pimchip.chip import ChipSpec
from pimchip.cli.main import cli
from pimchip.errors import InputError
from pimchip.profile import Profile
from pimchip.profile.manifest import to_toml

SPEC = small("sram65", array={"macros": 2})


def run(out: Path, spec: ChipSpec = SPEC, **more: Any) -> Profile:
    with board_of(spec, 5) as board:
        return characterize(board, points=[spec.mac()], half_width=0.12, out=out, **more)


def cut(out: Path) -> list[Path]:
    """A measurement that was interrupted after its first macro; its steps."""

    def progress(done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(out, progress=progress)
    steps = sorted(out.glob(f"{FOLDER}/*/*.npz"))
    assert len(steps) > 2
    return steps


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Profile:
    return run(tmp_path_factory.mktemp("whole"))


@pytest.mark.parametrize("damage", ["flipped", "short", "empty", "gone", "foreign"])
def test_damaged_steps_are_measured_again(damage: str, whole: Profile, tmp_path: Path) -> None:
    for step in cut(tmp_path)[1:]:
        data = step.read_bytes()
        if damage == "flipped":
            step.write_bytes(data[:200] + bytes([data[200] ^ 1]) + data[201:])
        elif damage == "short":
            step.write_bytes(data[: len(data) // 2])
        elif damage == "empty":
            step.write_bytes(b"")
        elif damage == "gone":
            step.unlink()
        else:
            step.write_bytes(os.urandom(300))
    assert run(tmp_path).hash == whole.hash
    assert not (tmp_path / FOLDER).exists()


def test_a_step_that_is_a_folder_is_named(tmp_path: Path) -> None:
    step = cut(tmp_path)[1]
    step.unlink()
    step.mkdir()
    with pytest.raises(InputError, match=r"\.npz cannot be read"):
        run(tmp_path)


class TestAFullDisk:
    """The write that fails is named, what was read stays, and the next call writes the same profile."""

    @pytest.mark.parametrize("which", [0, 1, 2])
    def test_while_the_profile_is_written(
        self, which: int, whole: Profile, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        calls: Iterator[int] = iter(range(100))
        real = os.fsync

        def full(handle: int) -> None:
            if next(calls) == which:
                raise OSError(errno.ENOSPC, "No space left on device")
            real(handle)

        with monkeypatch.context() as patched:
            patched.setattr(os, "fsync", full)
            with pytest.raises(InputError, match="cannot be written: No space left on device"):
                run(tmp_path)
        assert not list(tmp_path.glob("emu*/*/manifest.toml")) and not list(tmp_path.glob("emu*/.unfinished-*"))
        assert list(tmp_path.glob(f"{FOLDER}/*/*.npz"))
        assert run(tmp_path).hash == whole.hash

    def test_while_the_time_of_an_equal_one_is_noted(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        first = run(tmp_path)

        def full(handle: int) -> None:
            raise OSError(errno.ENOSPC, "No space left on device")

        monkeypatch.setattr(os, "fsync", full)
        with pytest.raises(InputError, match="No space left"):
            run(tmp_path)
        assert Profile.load(first.path).hash == first.hash

    def test_while_steps_are_kept(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        real = Path.write_bytes

        def full(self: Path, data: bytes) -> int:
            if self.name.endswith(".part"):
                raise OSError(errno.ENOSPC, "No space left on device")
            return real(self, data)

        monkeypatch.setattr(Path, "write_bytes", full)
        with pytest.raises(InputError, match="cannot write --out .*No space left"):
            run(tmp_path)


@pytest.mark.parametrize("after", [0, 1, 2, 3, 5])
def test_ctrl_c_at_any_conversion_and_then_the_same_profile(
    after: int, whole: Profile, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, left = InProcessBoard.convert, [after]

    def pressed(self: InProcessBoard, *args: Any, **named: Any) -> Any:
        left[0] -= 1
        if left[0] < 0:
            raise KeyboardInterrupt
        return real(self, *args, **named)

    with monkeypatch.context() as patched:
        patched.setattr(InProcessBoard, "convert", pressed)
        with pytest.raises(KeyboardInterrupt):
            run(tmp_path)
    assert run(tmp_path).hash == whole.hash


class TestCommands:
    """One line, the right exit code, no traceback."""

    @pytest.fixture
    def device(self, tmp_path: Path) -> str:
        (tmp_path / "chip.toml").write_text(to_toml(SPEC.to_dict()), encoding="utf-8")
        return f"emulator:{tmp_path / 'chip.toml'}?die=5"

    @staticmethod
    def call(*arguments: str) -> str:
        found = CliRunner().invoke(cli, ["characterize", *arguments])
        assert found.exit_code == 2 and "Traceback" not in found.output, found.output
        return found.stderr

    def test_check_of_another_die_s_profile(self, whole: Profile, device: str) -> None:
        other = device.replace("die=5", "die=6")
        assert "this board is die" in self.call("--check", str(whole.path), "--device", other)

    @pytest.mark.parametrize("name", ["manifest.toml", "counts.npz", "result.npz"])
    @pytest.mark.parametrize("share", [0.0, 0.5, 0.99])
    def test_a_truncated_profile(self, whole: Profile, device: str, tmp_path: Path, name: str, share: float) -> None:
        place = tmp_path / "copy"
        place.mkdir()
        for file in whole.path.iterdir():
            data = file.read_bytes()
            (place / file.name).write_bytes(data[: int(share * len(data))] if file.name == name else data)
        for arguments in (("--check", str(place), "--device", device), ("--from", str(place), "--out", str(tmp_path))):
            assert name in self.call(*arguments)

    def test_linearize_without_a_converter(self, device: str, tmp_path: Path) -> None:
        text = (tmp_path / "chip.toml").read_text(encoding="utf-8")
        (tmp_path / "dead.toml").write_text(text.replace("dead = 0.0", "dead = 1.0"), encoding="utf-8")
        said = self.call(
            "--linearize",
            "--range-divisor",
            "1",
            "--device",
            f"emulator:{tmp_path / 'dead.toml'}",
            "--out",
            str(tmp_path),
        )
        assert "no converter has a curve" in said

    @pytest.mark.parametrize("more", [["--measure", "all"], ["--valid-days", "3"], ["--plan"], ["--even"], ["--trim"]])
    def test_options_that_would_do_nothing(self, more: list[str], whole: Profile, tmp_path: Path) -> None:
        assert more[0] in self.call("--from", str(whole.path), "--out", str(tmp_path), *more)
        assert more[0] in self.call("--check", str(whole.path), *more)
        assert "--models" in self.call("--check", str(whole.path), "--models")

    def test_days_that_are_none(self, device: str, tmp_path: Path) -> None:
        said = self.call(
            "--valid-days", "nan", "--device", device, "--range-divisor", "1", "--out", str(tmp_path / "out")
        )
        assert "--valid-days nan" in said and not (tmp_path / "out").exists()
