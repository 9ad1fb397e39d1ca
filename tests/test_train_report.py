"""What a training run leaves and shows: JSON lines, a picture, a table on a terminal, warnings with their mend."""

from __future__ import annotations

import errno
import io
import json
import os
import pty
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from rich.console import Console
from test_cli import TRAIN, call, here, one_line, shown_on, small  # noqa: F401 - fixtures

from pimchip.errors import InputError
from pimchip.report import training_plot
from pimchip.report.plots import new_axes
from pimchip.report.training_log import TrainingLog
from pimchip.report.training_plot import save_training
from pimchip.report.training_table import HEADER, EpochTable, plain_line, row

EPOCH = {
    "epoch": 1, "loss": 2.5, "accuracy": 0.25, "learning_rate": 0.1, "seconds": 1.5, "validation": None,
    "images_per_second": 1234.5, "xi": {"a": 1.0, "b": 1.25}, "dead": [], "saturated": {"a": 0.0, "b": 0.5},
}  # fmt: skip


def history(count: int, **changes: Any) -> list[dict[str, Any]]:
    return [{**EPOCH, "epoch": i + 1, **changes} for i in range(count)]


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


class TestLog:
    def test_one_object_an_epoch_and_no_nan(self, tmp_path: Path) -> None:
        log = TrainingLog(tmp_path / "deep" / "log.jsonl")
        for entry in history(3, loss=float("nan"), xi={"a": float("inf")}):
            log.append(entry)
        assert [e["epoch"] for e in lines(log.path)] == [1, 2, 3]
        assert lines(log.path)[0] == {**EPOCH, "loss": None, "xi": {"a": None}}

    def test_a_resumed_run_goes_on_without_gaps_or_doubles(self, tmp_path: Path) -> None:
        path = tmp_path / "log.jsonl"
        whole = "".join(json.dumps(e) + "\n" for e in history(3))
        for torn in ("", whole[: len(whole) // 2], whole, whole + whole[:30]):
            path.write_text(torn)
            log = TrainingLog(path, history(2))
            log.append(history(3)[-1])
            assert lines(path) == history(3)
        assert [p.name for p in tmp_path.iterdir()] == ["log.jsonl"]

    @pytest.mark.parametrize("content", [b"my notes\n", b"[1]\n", b'{"loss": 1}\n', b"7", b"\xff\xfe", b"null\n"])
    def test_another_file_is_not_replaced(self, tmp_path: Path, content: bytes) -> None:
        path = tmp_path / "notes"
        path.write_bytes(content)
        with pytest.raises(InputError, match="notes holds something else than a training log; name another file"):
            TrainingLog(path)
        assert path.read_bytes() == content

    @pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no /dev/full")
    def test_a_full_disk_is_one_clear_error(self, tmp_path: Path) -> None:
        log = TrainingLog(tmp_path / "log")
        log.path = Path("/dev/full")
        with pytest.raises(InputError, match="cannot write --log /dev/full: No space left on device; free space or"):
            log.append(EPOCH)

    def test_a_place_that_cannot_be_written_is_one_clear_error(self, tmp_path: Path) -> None:
        (tmp_path / "file").write_text("")
        with pytest.raises(InputError, match="cannot write --log .*file/log"):
            TrainingLog(tmp_path / "file" / "log")


class TestPicture:
    @pytest.mark.parametrize("layers", [0, 2, 30])
    @pytest.mark.parametrize("kind", ["png", "svg"])
    def test_it_is_drawn_anew_whatever_was_there(self, tmp_path: Path, kind: str, layers: int) -> None:
        path = tmp_path / "deep" / f"run.{kind}"
        for count in (1, 12):
            xi = {f"layer{i}": 1 + i / 10 for i in range(layers)}
            save_training(path, history(count, xi=xi, validation=0.5 if layers else None))
            if kind == "png":
                with Image.open(path) as image:
                    assert image.width > 800
            else:
                assert path.read_text().rstrip().endswith("</svg>")
        assert [p.name for p in path.parent.iterdir()] == [path.name]

    @pytest.mark.parametrize("count", [1, 2, 3, 7, 40])
    def test_epochs_are_whole_numbers_on_the_axis(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, count: int
    ) -> None:
        drawn: list[Any] = []
        monkeypatch.setattr(training_plot, "new_axes", lambda *size: drawn.append(new_axes(*size)) or drawn[-1])
        save_training(tmp_path / "run.svg", history(count), "on die")
        ((_, three),) = drawn
        assert three[1].get_ylabel() == "accuracy on die, %"
        for axes in three:
            low, high = axes.get_xlim()
            ticks = [tick for tick in axes.get_xticks() if low <= tick <= high]
            assert ticks and all(tick == round(tick) >= 1 for tick in ticks)
            assert not any("." in label.get_text() for label in axes.get_xticklabels())

    @pytest.mark.parametrize("kind", ["png", "svg", "pdf"])
    def test_the_same_run_gives_the_same_bytes(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
    ) -> None:
        found = []
        for date in ("1000000000", "1500000000"):
            monkeypatch.setenv("SOURCE_DATE_EPOCH", date)  # which matplotlib takes for now
            save_training(tmp_path / f"run.{kind}", history(2))
            found.append((tmp_path / f"run.{kind}").read_bytes())
        assert found[0] == found[1]

    def test_a_failed_write_leaves_the_old_one(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        path = tmp_path / "run.svg"
        path.write_text("old")

        def full(source: Any, target: Any) -> None:
            raise OSError(errno.ENOSPC, "No space left on device")

        monkeypatch.setattr(os, "replace", full)
        with pytest.raises(InputError, match=r"cannot write --plot .*run.svg: .*No space left on device; free"):
            save_training(path, history(2))
        assert [(p.name, p.read_text()) for p in tmp_path.iterdir()] == [("run.svg", "old")]

    def test_another_kind_is_refused(self, tmp_path: Path) -> None:
        with pytest.raises(InputError, match=r"run.gif: name a file that ends in .png, .svg or .pdf"):
            save_training(tmp_path / "run.gif", history(2))


class TestTable:
    def test_rows_stand_below_their_names(self) -> None:
        found = row({**EPOCH, "epoch": 12, "validation": 0.5}, 300)
        assert found.split() == ["12/300", "2.500", "25.0", "%", "50.0", "%", "0.1", "1.00..1.25", "1,234", "1.5", "s"]
        ends = [
            HEADER.index(name) + len(name)
            for name in ("loss", "accuracy", "validation", "rate", "xi", "images/s", "time")
        ]
        assert all(found[end - 1] != " " and found[end : end + 1] in (" ", "") for end in ends)
        assert len(row(EPOCH, 5)) == len(HEADER) == len(found) < 80
        assert row({**EPOCH, "xi": {}}, 5).split()[-4] == "-"

    def test_a_plain_line_explains_itself(self) -> None:
        assert plain_line(EPOCH, 10) == "epoch   1/10  loss 2.500  accuracy  25.0 %  xi 1.00..1.25  1.5 s"
        held = plain_line({**EPOCH, "validation": 0.5, "xi": {}}, 10)
        assert held == "epoch   1/10  loss 2.500  accuracy  25.0 %  validation  50.0 %  1.5 s"

    def test_a_terminal_sees_rows_above_the_running_epoch(self) -> None:
        out = io.StringIO()
        console = Console(file=out, force_terminal=True, width=120, color_system=None)
        with EpochTable(console, 2) as shown:
            for epoch in range(2):
                for step in range(3):
                    shown.step(epoch, step + 1, 3, 2.5)
                    shown._bar.refresh()
                shown.done({**EPOCH, "epoch": epoch + 1})
            shown.say("  warning: [brackets] are no markup")
        text = out.getvalue()
        order = [text.index(part) for part in (HEADER, row(EPOCH, 2), row({**EPOCH, "epoch": 2}, 2), "[brackets]")]
        assert order == sorted(order)
        assert "  1/2      2.500" in text and "5/6" in text

    def test_the_command_shows_it_on_a_terminal_only(self, here: Path, tmp_path: Path) -> None:  # noqa: F811
        command = [sys.executable, "-m", "pimchip", *TRAIN, "--epochs", "2", "--out", str(tmp_path / "a.pt")]
        piped = subprocess.run(command, capture_output=True, text=True)
        assert piped.stdout.startswith("epoch   1/2  loss") and "images/s" not in piped.stdout
        terminal, other_end = pty.openpty()
        environment = {**os.environ, "TERM": "xterm", "COLUMNS": "120"}
        process = subprocess.Popen(command, stdout=other_end, stderr=other_end, env=environment)
        os.close(other_end)
        text = shown_on(terminal)
        assert process.wait() == 0
        assert text.count("images/s") == 1
        assert "epoch   1/2  loss" not in text
        found = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]|\r", "\n", text).splitlines()
        for epoch in (1, 2):
            assert any(re.fullmatch(rf"\s+{epoch}/2 .* % .*\d s", line) for line in found), text


class TestCommand:
    def test_log_and_picture_follow_the_run_and_its_resumption(self, here: Path, tmp_path: Path) -> None:  # noqa: F811
        files = [part for name in ("out", "log", "plot") for part in (f"--{name}", str(tmp_path / f"{name}.svg"))]
        extra = [
            "--ema",
            "0.9",
            "--early-stop",
            "5",
            "--validation",
            "0.2",
            "--schedule",
            "one-cycle",
            "--clip-gradient",
            "1",
        ]
        code, _, stderr = call(*TRAIN, *files, *extra, "--epochs", "1")
        assert code == 0, stderr
        (tmp_path / "plot.svg").unlink()
        code, result, stderr = call(*TRAIN, *files, *extra, "--epochs", "3", "--resume", str(tmp_path / "out.svg"))
        assert code == 0, stderr
        logged = lines(tmp_path / "log.svg")
        assert logged == result["history"]
        assert [entry["epoch"] for entry in logged] == [1, 2, 3]
        assert logged[0].keys() == EPOCH.keys()
        assert (tmp_path / "plot.svg").read_text().rstrip().endswith("</svg>")
        validation = [entry["validation"] for entry in logged]
        assert result["best_epoch"] == validation.index(max(validation)) + 1
        assert result["accuracy"] == logged[result["best_epoch"] - 1]["accuracy"]
        assert not result["stopped_early"]
        assert f"holds epoch {result['best_epoch']}, the best of the images held out" in stderr

    def test_bad_layers_are_named_with_the_mend(self, here: Path, tmp_path: Path) -> None:  # noqa: F811
        out = ["--epochs", "2", "--out", str(tmp_path / "a.pt")]
        code, result, stderr = call(*TRAIN, *out, "--adc-bits", "1")
        assert (code, result["history"][0]["dead"]) == (0, ["3"])
        assert "warning: layer 3 is dead, every code is the same: train with more --adc-bits, a larger" in stderr
        code, result, stderr = call(*TRAIN, *out, "--range-divisor", "8", "--rows", "8")
        assert result["history"][1]["saturated"]["3"] > 0.05, result
        assert "warning: layer 3: " in stderr and "use a smaller --range-divisor than 8" in stderr
        assert "warning" not in call(*TRAIN, *out)[2]

    @pytest.mark.parametrize(
        ("arguments", "words"),
        [
            (["--log", "model.pt"], "--log model.pt would replace"),
            (["--log", "small.toml"], "small.toml holds something else"),
            (["--log", "small.toml/x"], "small.toml is a file, not a folder"),
            (["--log", "a.jsonl", "--plot", "a.jsonl"], "--plot a.jsonl would replace --log"),
            (["--plot", "."], "--plot . is a folder"),
            (["--plot", "a.gif"], "a.gif: name a file that ends in .png, .svg or .pdf"),
            (["--schedule", "multistep", "--milestones", "5,x"], "'5,x': want numbers of epochs with commas"),
            (["--milestones", "5"], "milestones are for the multistep schedule"),
            (["--early-stop", "2", "--validation", "0"], "hold some out"),
            (["--ema", "1"], "--ema"),
            (["--validation", "0.9999"], "leaves too few"),
        ],
    )
    def test_bad_options_are_one_line(self, here: Path, arguments: list[str], words: str) -> None:  # noqa: F811
        before = {p.name: p.read_bytes() for p in here.iterdir() if p.is_file()}
        assert words in one_line(*TRAIN, "--epochs", "1", "--init", "model.pt", "--out", "never.pt", *arguments)
        assert {p.name: p.read_bytes() for p in here.iterdir() if p.is_file()} == before
