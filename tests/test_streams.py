"""Images from data sets, folders, arrays and stdin, block by block; predictions as JSON lines, CSV and npz as they come."""

from __future__ import annotations

import csv
import io
import json
import subprocess
import sys
import threading
import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from flows import DIE, Case, call, small_case
from PIL import Image
from serving import emulated

from pimchip.board import open_board
from pimchip.cli.main import cli
from pimchip.errors import InputError
from pimchip.qat.data import load_dataset
from pimchip.runtime import Deployed
from pimchip.workflows.streams import Block, ahead, of_files

SHAPE = (1, 8, 8)
IMAGES = load_dataset("digits").test.images[:30]
LABELS = load_dataset("digits").test.labels[:30]


def read(paths: list[Path], size: int, limit: int | None = None) -> tuple[np.ndarray, list[str], list[Block]]:
    blocks = list(of_files(paths, SHAPE, limit).blocks(size))
    assert [b.first for b in blocks] == np.cumsum([0, *(len(b.images) for b in blocks)])[:-1].tolist()
    return np.concatenate([b.images for b in blocks]), [name for b in blocks for name in b.names], blocks


class TestSources:
    @pytest.fixture(autouse=True)
    def files(self, tmp_path: Path) -> None:
        np.save(tmp_path / "a.npy", IMAGES)
        np.save(tmp_path / "grey.npy", IMAGES[:, 0])
        np.savez(tmp_path / "plain.npz", images=IMAGES)
        np.savez_compressed(tmp_path / "labelled.npz", images=IMAGES, labels=LABELS)
        (tmp_path / "many").mkdir()
        for index, image in enumerate(IMAGES):
            Image.fromarray(image[0]).save(tmp_path / "many" / f"{index:02}.png")

    @pytest.mark.parametrize("name", ["a.npy", "grey.npy", "plain.npz", "labelled.npz", "many"])
    @pytest.mark.parametrize("size", [1, 7, 30, 100])
    def test_each_gives_all_images_in_blocks(self, tmp_path: Path, name: str, size: int) -> None:
        images, names, blocks = read([tmp_path / name], size)
        assert np.array_equal(images, IMAGES) and len(set(names)) == 30
        assert [len(b.images) for b in blocks] == [size] * (30 // size) + [30 % size] * (30 % size > 0)
        for block in blocks:
            if name == "labelled.npz":
                assert np.array_equal(block.labels, LABELS[block.first : block.first + len(block.images)])
            else:
                assert block.labels is None

    def test_several_follow_each_other_and_small_ones_share_blocks(self, tmp_path: Path) -> None:
        paths = [tmp_path / "many", tmp_path / "a.npy", tmp_path / "many" / "03.png"]
        images, _, blocks = read(paths, 25)
        assert np.array_equal(images, np.concatenate([IMAGES, IMAGES, IMAGES[3:4]]))
        assert len(blocks) <= 4 and blocks[0].images.shape[0] == 25
        limited, names, _ = read(paths, 25, limit=32)
        assert np.array_equal(limited, images[:32]) and len(names) == 32
        assert of_files(paths, SHAPE).count == 61 and of_files(paths, SHAPE, 32).count == 32

    def test_memory_holds_a_block_and_no_more(self, tmp_path: Path) -> None:
        """Of 13 MB of images, in blocks of 64 kB."""
        big = np.lib.format.open_memmap(tmp_path / "big.npy", "w+", np.uint8, (200_000, *SHAPE))
        np.savez(tmp_path / "big.npz", images=big)
        del big
        for name in ("big.npy", "big.npz"):
            tracemalloc.start()
            count = sum(len(b.images) for b in of_files([tmp_path / name], SHAPE).blocks(1000))
            peak = tracemalloc.get_traced_memory()[1]
            tracemalloc.stop()
            assert count == 200_000 and peak < 2_000_000

    @pytest.mark.parametrize(
        ("make", "text"),
        [
            (lambda p: np.savez(p, labels=LABELS), "no array named images"),
            (lambda p: np.savez(p, images=IMAGES / 255), "dtype is float64, wanted uint8"),
            (lambda p: np.savez(p, images=IMAGES[:, :, :7]), "wanted nx1x8x8"),
            (lambda p: np.savez(p, images=np.asfortranarray(IMAGES)), "Fortran order"),
            (lambda p: np.savez(p, images=IMAGES, labels=LABELS[:3]), "wanted integers"),
            (lambda p: np.savez(p, images=np.array([{}], object), allow_pickle=True), "dtype is object"),
            (lambda p: p.write_bytes(b"PK nothing"), "cannot be read as .npz"),
            (lambda p: None, "no such file"),
        ],
    )
    def test_what_is_no_images_is_refused_by_name(self, tmp_path: Path, make: Any, text: str) -> None:
        make(tmp_path / "x.npz")
        with pytest.raises(InputError, match=text) as error:
            read([tmp_path / "x.npz"], 10)
        assert "x.npz" in str(error.value)

    def test_an_empty_folder_is_refused(self, tmp_path: Path) -> None:
        (tmp_path / "none").mkdir()
        with pytest.raises(InputError, match="no image in this folder"):
            of_files([tmp_path / "none"], SHAPE)

    def test_damaged_arrays_say_where_they_end(self, tmp_path: Path, monkeypatch: Any) -> None:
        whole = (tmp_path / "a.npy").read_bytes()
        for data, text in (
            (whole[:-100], "ends after 28 of 30 images"),
            (b"", "no image came"),
            (b"x", "no .npy array"),
        ):
            monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(data)))
            with pytest.raises(InputError, match=f"stdin: .*{text}|stdin: {text}"):
                read([Path("-")], 10)
        monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(whole + whole)))
        assert np.array_equal(read([Path("-")], 40)[0], np.concatenate([IMAGES, IMAGES]))


class TestReadingAhead:
    def test_gives_the_same_and_no_more_than_asked_ahead(self) -> None:
        taken = list[int]()

        def blocks() -> Iterator[Block]:
            for number in range(20):
                taken.append(number)
                yield Block(number, IMAGES[:1])

        found = ahead(blocks(), 2)
        assert next(found).first == 0
        deadline = threading.Event()
        deadline.wait(0.3)
        assert len(taken) <= 4  # one given, two ready, one in the reader's hand
        assert [b.first for b in found] == list(range(1, 20))

    def test_errors_of_the_reader_come_where_blocks_are_taken(self) -> None:
        def blocks() -> Iterator[Block]:
            yield Block(0, IMAGES[:1])
            raise InputError("gone")

        found = ahead(blocks())
        next(found)
        with pytest.raises(InputError, match="gone"):
            next(found)


@pytest.fixture(scope="module")
def case(tmp_path_factory: pytest.TempPathFactory) -> Case:
    return small_case(tmp_path_factory.mktemp("mlp"))


@pytest.fixture(scope="module")
def deployed(case: Case) -> Path:
    out = case.folder / "x.deployed"
    given = ["--bn-batches", "2", "--bn-batch-size", "50", "--limit", "60", "--out", str(out)]
    call("deploy", str(case.program), "--device", f"emulator:{case.chip}?{DIE}", *given)
    return out


class TestInfer:
    @pytest.fixture(autouse=True)
    def given(self, case: Case, deployed: Path) -> None:
        self.device = f"emulator:{case.chip}?{DIE}"
        self.infer = ["infer", str(deployed), "--device", self.device]

    def test_formats_hold_the_same(self, tmp_path: Path, deployed: Path) -> None:
        plain = call(*self.infer, "--limit", "60")
        for name in ("a.jsonl", "a.csv", "a.npz"):
            found = call(*self.infer, "--limit", "60", "--out", str(tmp_path / name))
            assert found["predictions"] is None and found["accuracy"] == plain["accuracy"] and found["images"] == 60
        rows = [json.loads(line) for line in (tmp_path / "a.jsonl").read_text().splitlines()]
        table = list(csv.DictReader((tmp_path / "a.csv").read_text().splitlines()))
        labels = load_dataset("digits").test.labels[:60].tolist()
        with np.load(tmp_path / "a.npz") as arrays:
            assert arrays["predictions"].tolist() == plain["predictions"] and arrays["labels"].tolist() == labels
            assert arrays["classes"].tolist() == plain["classes"] and arrays["logits"].shape == (60, 10)
            with open_board(self.device) as board:
                held = Deployed.load(deployed)
                held.attach(board)
                import torch

                logits = held(torch.from_numpy(load_dataset("digits").test.images[:60])).numpy()
            assert np.array_equal(arrays["logits"], logits)
            np.testing.assert_allclose([row["logits"] for row in rows], logits, rtol=1e-6)
        for number, (row, line) in enumerate(zip(rows, table, strict=True)):
            assert row["index"] == int(line["index"]) == number
            assert row["prediction"] == int(line["prediction"]) == plain["predictions"][number]
            assert row["class"] == line["class"] and row["label"] == int(line["label"]) == labels[number]

    def test_stdin_is_answered_as_it_comes(self, case: Case) -> None:
        """An array is sent only after the one before it has been answered."""
        command = [sys.executable, "-m", "pimchip", *self.infer, "-", "--out", "-"]
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        with subprocess.Popen(command, **pipes) as process:  # type: ignore[call-overload]
            rows = []
            for first in (0, 10):
                data = io.BytesIO()
                np.save(data, IMAGES[first : first + 10])
                process.stdin.write(data.getvalue())
                process.stdin.flush()
                rows += [json.loads(process.stdout.readline()) for _ in range(10)]
            process.stdin.close()
            assert process.wait(30) == 0 and process.stdout.read() == b""
            said = process.stderr.read().decode()
        assert [row["prediction"] for row in rows] == call(*self.infer, "--limit", "20")["predictions"]
        assert [row["index"] for row in rows] == list(range(20)) and "20 images on emu-bench" in said

    def test_a_broken_off_stream_leaves_whole_lines_and_no_npz(self, tmp_path: Path, monkeypatch: Any) -> None:
        data = io.BytesIO()
        np.save(data, IMAGES)
        for name in ("a.jsonl", "a.npz"):
            result = CliRunner().invoke(
                cli, [*self.infer, "-", "--out", str(tmp_path / name)], input=data.getvalue() + data.getvalue()[:-9]
            )
            assert result.exit_code == 2 and "stdin: ends after 29 of 30 images" in result.stderr
        lines = (tmp_path / "a.jsonl").read_text().splitlines()
        assert len(lines) == 30 and all(json.loads(line) for line in lines)
        assert sorted(p.name for p in tmp_path.iterdir()) == ["a.jsonl"]

    def test_labels_of_an_npz_give_an_accuracy(self, tmp_path: Path) -> None:
        np.savez(tmp_path / "a.npz", images=IMAGES, labels=LABELS)
        found, wanted = call(*self.infer, str(tmp_path / "a.npz")), call(*self.infer, "--limit", "30")
        assert found["accuracy"] == wanted["accuracy"] and found["predictions"] == wanted["predictions"]

    @pytest.mark.parametrize(
        ("options", "text"),
        [
            (["--format", "csv"], "--format is of --out"),
            (["--out", "x.txt"], "want a name that ends in .jsonl, .csv or .npz"),
            (["--out", "-", "--format", "npz"], "npz needs a file"),
            (["--out", "-", "--json"], "both want stdout"),
            (["--update"], "--update is of --watch"),
            (["--also", "x"], "--also is of a further --device"),
            (["--watch", "9", "--device", "emulator:sram65"], "--watch looks after one board"),
        ],
    )
    def test_options_that_do_not_go_together(self, options: list[str], text: str) -> None:
        result = CliRunner().invoke(cli, [*self.infer, *options])
        assert result.exit_code == 2 and text in result.stderr

    def test_watching_recalibrates_and_updates(self, tmp_path: Path, deployed: Path, monkeypatch: Any) -> None:
        own = tmp_path / "own.deployed"
        own.write_bytes(deployed.read_bytes())
        monkeypatch.setattr("pimchip.runtime.watch.TOLERANCE", 1e-9)
        monkeypatch.setattr("pimchip.runtime.watch.FLOORS", 0.0)
        infer = ["infer", str(own), "--device", self.device, "--limit", "60", "--watch", "25"]
        found = call(*infer)
        assert len(found["checks"]) == 2 and all(check["recalibrated"] for check in found["checks"])
        assert own.read_bytes() == deployed.read_bytes()
        call(*infer, "--update")
        assert own.read_bytes() != deployed.read_bytes()
        assert Deployed.load(own).levels is not None


class TestSeveralBoards:
    """Images divided over boards: each gives what it gives by itself."""

    def test_of_one_die_give_what_one_gives(self, case: Case, deployed: Path, monkeypatch: Any) -> None:
        monkeypatch.setattr("pimchip.runtime.executor.BATCH_MAX", 16)
        device = f"emulator:{case.chip}?{DIE}"
        wanted = call("infer", str(deployed), "--device", device, "--limit", "60")["predictions"]
        with emulated("--listen", "tcp://127.0.0.1:0", "--device", device) as there:
            found = call("infer", str(deployed), "--device", there, "--device", device, "--limit", "60")
        assert found["predictions"] == wanted
        assert [d["images"] for d in found["devices"]] == [32, 28]

    def test_of_several_dies_give_what_each_gives(self, case: Case, deployed: Path, monkeypatch: Any) -> None:
        monkeypatch.setattr("pimchip.runtime.executor.BATCH_MAX", 16)
        devices = [f"emulator:{case.chip}?{DIE}", f"emulator:{case.chip}?die=4&seed=5"]
        other = case.folder / "other.deployed"
        given = ["--bn-batches", "2", "--bn-batch-size", "16", "--limit", "60", "--out", str(other)]
        call("deploy", str(case.program), "--device", devices[1], *given)
        alone = [
            call("infer", str(held), "--device", url, "--limit", "60")["predictions"]
            for held, url in zip((deployed, other), devices, strict=True)
        ]
        assert alone[0] != alone[1]
        both = ["--device", devices[0], "--device", devices[1], "--limit", "60"]
        found = call("infer", str(deployed), "--also", str(other), *both)
        assert found["predictions"] == [alone[number // 16 % 2][number] for number in range(60)]
        assert [d["images"] for d in found["devices"]] == [32, 28] and len({d["uid"] for d in found["devices"]}) == 2
        result = CliRunner().invoke(cli, ["infer", str(deployed), *both])
        assert result.exit_code == 2 and "this was calibrated for die" in result.stderr
        assert "run `pimchip deploy` on this one" in result.stderr

    def test_one_that_fails_ends_the_run_with_its_error(self, case: Case, deployed: Path, monkeypatch: Any) -> None:
        device = f"emulator:{case.chip}?{DIE}"
        result = CliRunner().invoke(cli, ["infer", str(deployed), "--device", device, "--device", "tcp://127.0.0.1:1"])
        assert result.exit_code == 3 and "tcp://127.0.0.1:1" in result.stderr
