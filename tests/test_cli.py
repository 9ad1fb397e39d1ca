"""The command line itself: wrong usage, help, completion, progress, exit codes, and files that must not be lost."""

from __future__ import annotations

import json
import os
import pty
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from PIL import Image

from pimchip import __version__
from pimchip.chip.spec import SPECS
from pimchip.cli.common import Reply, check_out, table
from pimchip.cli.main import COMMANDS, cli
from pimchip.emulator.virtual import VirtualBoard
from pimchip.errors import InputError
from pimchip.qat.data import load_dataset

PIMCHIP = [sys.executable, "-m", "pimchip"]
NETWORK = """
from torch import nn
def build(shape, classes):
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.ReLU(), nn.Linear(16, 16), nn.BatchNorm1d(16), nn.ReLU(),
        nn.Linear(16, classes))
"""


def call(*arguments: str) -> tuple[int, dict[str, Any], str]:
    """(exit code, the one JSON object on stdout, stderr) of a command with --json, in this process."""
    result = CliRunner().invoke(cli, [*arguments, "--json"])
    return result.exit_code, json.loads(result.stdout), result.stderr


def shown_on(terminal: int, watch: Callable[[bytearray], None] = lambda seen: None) -> str:
    """What processes write to the other end of a terminal until they close it. watch: sees all so far after each part."""
    seen = bytearray()
    while True:
        try:
            part = os.read(terminal, 65536)
        except OSError:  # the other end was closed
            break
        if not part:
            break
        seen += part
        watch(seen)
    os.close(terminal)
    return seen.decode()


def one_line(*arguments: str, code: int = 2) -> str:
    """The one line of a failure, which is in the JSON too."""
    found, result, stderr = call(*arguments)
    (line,) = stderr.splitlines()
    assert found == result["exit_code"] == code, line
    assert line == f"pimchip: {result['error']}"
    assert result["provenance"]["command"] == ["pimchip", *arguments, "--json"]
    return line


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with small.toml, sram65 of one macro, and a network trained for it by a factory of net.py."""
    folder = tmp_path_factory.mktemp("small")
    text = (SPECS / "sram65.toml").read_text(encoding="utf-8")
    (folder / "small.toml").write_text(text.replace('"sram65"', '"small"').replace("macros = 8", "macros = 1"))
    (folder / "narrow.toml").write_text(text.replace('"sram65"', '"narrow"').replace("bits = 7 ", "bits = 5 "))
    (folder / "smallnet.py").write_text(NETWORK)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        train = ["train", "--factory", "smallnet:build", "--chip", "small.toml", "--batch-size", "256"]
        code, result, stderr = call(*train, "--epochs", "2", "--out", "model.pt")
        assert (code, result["epochs"]) == (0, 2), stderr
    return folder


@pytest.fixture
def here(small: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(small)
    return small


TRAIN = ["train", "--factory", "smallnet:build", "--chip", "small.toml", "--batch-size", "256"]
MODEL = ["model.pt", "--factory", "smallnet:build"]
DEVICE = ["--device", "emulator:small.toml?die=3"]
MEASURE = ["characterize", *DEVICE, "--range-divisor", "1", "--reads", "64"]

# -- usage ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["trian"], "did you mean 'train'"),
        (["train", "--epoch", "3"], "--epochs"),
        (["train", "--epochs", "many"], "'many'"),
        (["train", "--schedule", "cos"], "'cosine', 'multistep', 'one-cycle', 'constant'"),
        (["train", "--learning-rate", "0"], "--learning-rate"),
        (["train", "--data", "digits", "--data", "digits"], "--data is given twice"),
        (["train", "--seed", "-1"], "--seed"),
        (["train", "--scheme", "bitserial"], "did you mean 'bit_serial'"),
        (["train", "--noise", "nan"], "noise_lsb"),
        (["train", "--eta", "best"], "eta"),
        (["train", "--factory", "smallnet"], "package.module:callable"),
        (["train", "--factory", "absent_module:build"], "absent_module"),
        (["train", "--profile", "p"], "--train-adc-bits auto"),
        (["train", "--init", "a.pt", "--resume", "b.pt"], "--init"),
        (["train", "--chip", "gone.toml"], "gone.toml"),
        (["deploy"], "MODEL"),
        (["info", "a", "b"], "(b)"),
        (["info", "sram56"], "did you mean 'sram65'"),
        (["info", "cable:tty"], "emulator"),
        (["characterize", "--adcs", "0-999"], "0-999"),
        (["characterize", "--from", "p", "--trim"], "--from"),
        (["characterize", "--half-width", "0"], "half_width"),
        (["characterize", "--limits", "gone.toml"], "gone.toml"),
        (["characterize", "--device", "emulator:sram65?temperature=hot"], "temperature = 'hot'"),
    ],
)
def test_wrong_usage_is_one_line_that_names_it(
    arguments: list[str], named: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert named in one_line(*arguments)
    assert not list(tmp_path.iterdir())


def test_an_option_without_its_value_is_named() -> None:
    result = CliRunner().invoke(cli, ["train", "--json", "--epochs"])
    assert result.exit_code == json.loads(result.stdout)["exit_code"] == 2
    assert result.stderr == "pimchip: train: Option '--epochs' requires an argument; see pimchip train --help\n"


def test_alone_it_shows_help_and_its_version() -> None:
    runner = CliRunner()
    alone = runner.invoke(cli, [])
    assert alone.exit_code == 0
    assert all(name in alone.stdout for name in COMMANDS)
    for option in ("-V", "--version"):
        assert runner.invoke(cli, [option]).stdout == f"pimchip {__version__}\n"


def test_help_of_no_command_loads_what_is_slow() -> None:
    code = f"""
import sys
from click.testing import CliRunner
from pimchip.cli.main import cli
for name in {list(COMMANDS)}:
    assert CliRunner().invoke(cli, [name, "--help"]).exit_code == 0
print([name for name in ("torch", "numpy", "pydantic", "numba", "rich") if name in sys.modules])
"""
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


@pytest.mark.parametrize("module", ["pimchip", "pimchip.cli.main"])
def test_as_a_module_it_is_the_same_command(module: str) -> None:
    def run(*arguments: str) -> tuple[int, str, str]:
        done = subprocess.run([sys.executable, "-m", module, *arguments], capture_output=True, text=True)
        return done.returncode, done.stdout, done.stderr

    assert run("--version") == (0, f"pimchip {__version__}\n", "")
    code, stdout, _ = run("info", "sram65", "--json")
    assert code == 0 and json.loads(stdout)["provenance"]["command"][:2] == ["pimchip", "info"]
    assert run("infer", "--bogus") == (2, "", "pimchip: infer: No such option '--bogus'; see pimchip infer --help\n")


@pytest.mark.parametrize(
    ("words", "wanted"),
    [
        ("pimchip d", {"demo", "deploy", "devices"}),
        ("pimchip train --ep", {"--epochs"}),
        ("pimchip train --schedule m", {"multistep"}),
    ],
)
def test_completion(words: str, wanted: set[str]) -> None:
    environment = {"_PIMCHIP_COMPLETE": "bash_complete", "COMP_WORDS": words, "COMP_CWORD": str(words.count(" "))}
    result = CliRunner().invoke(cli, [], prog_name="pimchip", env=environment)
    assert {line.partition(",")[2] for line in result.stdout.splitlines()} == wanted


def test_completion_script_is_bash() -> None:
    script = CliRunner().invoke(cli, [], prog_name="pimchip", env={"_PIMCHIP_COMPLETE": "zsh_source"}).stdout
    assert "_PIMCHIP_COMPLETE=zsh_complete pimchip" in script


def test_the_demo_command_and_the_demo_agree_on_the_die() -> None:
    from pimchip.cli.demo_command import command
    from pimchip.workflows.demo import DIE

    assert next(p.default for p in command.params if p.name == "die") == DIE


# -- what is said -----------------------------------------------------------------------------------------------------


def test_an_error_nobody_raised_on_purpose_is_told_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(name: object) -> None:
        raise RuntimeError("first\nsecond")

    monkeypatch.setattr("pimchip.chip.load_chip", broken)
    assert "a fault in pimchip: RuntimeError: first second" in one_line("info", "sram65", code=70)
    monkeypatch.setattr("pimchip.chip.load_chip", lambda name: (_ for _ in ()).throw(MemoryError()))
    assert "out of memory" in one_line("info", "sram65")


def test_ctrl_c_anywhere_is_one_line_and_exit_code_130(monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(*arguments: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("pimchip.chip.load_chip", stop)
    assert "interrupted" in one_line("info", "sram65", code=130)


def test_a_nan_is_null_in_json(capsys: pytest.CaptureFixture[str]) -> None:
    Reply(True, 0).done({"a": float("nan"), "b": [1.5, float("inf")], "c": {"d": (float("-inf"), "x")}})
    found = json.loads(capsys.readouterr().out)
    assert (found["a"], found["b"], found["c"]) == (None, [1.5, None], {"d": [None, "x"]})


def test_tables_keep_every_cell_where_there_is_no_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    cells = [f"column {i} of a wide table" for i in range(4)]
    Reply(False, 0).show(table("wide", cells, [cells[::-1]]))
    text = capsys.readouterr().out
    assert all(text.count(cell) == 2 for cell in cells)


def test_progress_is_on_a_terminal_only_and_keeps_out_of_files(here: Path, tmp_path: Path) -> None:
    """A bar with rate and time left on the terminal, epochs in the file, and without a terminal nothing at all."""
    epochs = 300
    arguments = [*PIMCHIP, *TRAIN, "--epochs", str(epochs), "--out", str(tmp_path / "a.pt")]
    environment = {**os.environ, "TERM": "xterm", "COLUMNS": "120"}
    terminal, other_end = pty.openpty()
    with (tmp_path / "out.txt").open("wb") as out:
        process = subprocess.Popen(arguments, stdout=out, stderr=other_end, env=environment)
        os.close(other_end)

        def enough(seen: bytearray) -> None:
            if b"/s" in seen and b"0:0" in seen:
                process.terminate()

        text = shown_on(terminal, enough)
        process.wait()
    assert "training" in text and f"/{epochs * 4}" in text and "/s" in text and "0:0" in text
    assert "loss" not in text  # that of epochs
    told = (tmp_path / "out.txt").read_text()
    assert not told or told.startswith("epoch   1/300  loss")
    assert "training" not in told


def test_without_a_terminal_stderr_is_silent(here: Path) -> None:
    with Reply(False, 0).progress("work") as tell:
        tell(1, 2)
    run = subprocess.run([*PIMCHIP, "info", "small.toml"], capture_output=True, text=True)
    assert (run.returncode, run.stderr) == (0, "")


# -- exit codes and files ---------------------------------------------------------------------------------------------


def test_cells_that_read_back_wrong_are_exit_code_1_and_nothing_is_deployed(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = VirtualBoard.read_cells

    def one_bit_wrong(board: VirtualBoard, tile: Any) -> Any:
        cells = read(board, tile)
        cells[3, 0] ^= 1
        return cells

    monkeypatch.setattr(VirtualBoard, "read_cells", one_bit_wrong)
    line = one_line("deploy", *MODEL, *DEVICE, "--out", "never.deployed", code=1)
    assert "rows [3]" in line and "layer 3" in line
    assert not Path("never.deployed").exists()


@pytest.mark.parametrize("command", [TRAIN, ["compile", *MODEL], ["deploy", *MODEL, *DEVICE], MEASURE, ["demo"]])
def test_out_is_checked_before_the_work(
    here: Path, command: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pimchip.qat.load_model", lambda path: pytest.fail("work was begun"))
    monkeypatch.setattr("pimchip.board.open_board", lambda *a, **k: pytest.fail("work was begun"))
    monkeypatch.setattr("pimchip.qat.data.load_dataset", lambda *a, **k: pytest.fail("work was begun"))
    (tmp_path / "file").write_text("kept")
    assert str(tmp_path / "file") in one_line(*command, "--out", str(tmp_path / "file" / "x.pt"))
    wrong = tmp_path / "file" if command[0] in ("characterize", "demo") else tmp_path
    assert str(wrong) in one_line(*command, "--out", str(wrong))
    assert [p.read_text() for p in tmp_path.iterdir()] == ["kept"]


@pytest.mark.parametrize(
    "command", [["compile", *MODEL], ["deploy", *MODEL, *DEVICE], [*TRAIN, "--epochs", "0", "--init", "model.pt"]]
)
def test_an_input_is_never_replaced_by_the_output(here: Path, command: list[str]) -> None:
    before = Path("model.pt").read_bytes()
    assert "would replace" in one_line(*command, "--out", "./model.pt")
    assert Path("model.pt").read_bytes() == before


def test_a_place_that_cannot_be_written_to(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    with pytest.raises(InputError, match="cannot be written to"):
        check_out(tmp_path / "deep" / "x.pt")


# -- training ---------------------------------------------------------------------------------------------------------


def test_resuming_another_run_is_refused_with_what_differs(here: Path, tmp_path: Path) -> None:
    out = ["--out", str(tmp_path / "b.pt"), "--resume", "model.pt"]
    for changed, named in (
        (["--adc-bits", "6"], "adc_bits = 7"),
        (["--digital"], "digital = False"),
        (["--noise", "0.5"], "noise_lsb = 0.0"),
        (["--train-adc-bits", "5"], "train_adc_bits = 7"),
        (["--learning-rate", "0.2"], "learning_rate"),
        (["--seed", "3"], "seed"),
    ):
        assert named in one_line(*TRAIN, *out, *changed)
    assert "model = factory:smallnet:build" in one_line("train", "--model", "mlp", "--chip", "small.toml", *out)
    assert not list(tmp_path.iterdir())


def test_a_checkpoint_without_training_state_cannot_be_resumed_but_starts_a_run(here: Path, tmp_path: Path) -> None:
    held = torch.load("model.pt", weights_only=True)
    torch.save({**held, "resume": None}, tmp_path / "bare.pt")
    out = ["--epochs", "0", "--out", str(tmp_path / "b.pt")]
    assert "--init" in one_line(*TRAIN, *out, "--resume", str(tmp_path / "bare.pt"))
    code, _, stderr = call(*TRAIN, *out, "--init", str(tmp_path / "bare.pt"))
    assert code == 0, stderr
    made = torch.load(tmp_path / "b.pt", weights_only=True)["state"]
    assert all(torch.equal(made[name], held["state"][name]) for name in made)


def test_the_seed_fixes_the_weights_of_a_factory_too(here: Path, tmp_path: Path) -> None:
    states = []
    for seed, name in (("1", "a"), ("1", "b"), ("2", "c")):
        torch.randn(1)  # whatever was drawn before
        code, _, stderr = call(*TRAIN, "--epochs", "0", "--seed", seed, "--out", str(tmp_path / name))
        assert code == 0, stderr
        states.append(torch.load(tmp_path / name, weights_only=True)["state"]["3.weight"])
    assert torch.equal(states[0], states[1])
    assert not torch.equal(states[0], states[2])


@pytest.mark.parametrize(
    ("body", "named"),
    [
        ("raise ZeroDivisionError('of yours')", "ZeroDivisionError: of yours"),
        ("return shape", "returned tuple"),
        ("return __import__('torch').nn.Flatten()", "no Conv2d or Linear"),
    ],
)
def test_a_failing_factory_is_named(body: str, named: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    module = f"net_{abs(hash(body))}"
    (tmp_path / f"{module}.py").write_text(f"def build(shape, classes):\n    {body}\n")
    assert named in one_line("train", "--factory", f"{module}:build")
    assert not (tmp_path / "model.pt").exists()


# -- measuring, deploying, inferring ----------------------------------------------------------------------------------


def test_some_adcs_alone_are_measured_and_a_program_that_needs_others_is_not_predicted(
    here: Path, tmp_path: Path
) -> None:
    code, result, stderr = call(*MEASURE, "--adcs", "0,5-7", "--out", str(tmp_path))
    assert (code, result["adcs"], result["passed"]) == (0, 4, True), stderr
    assert result["flags"].keys() <= {"not-measured"}
    out = ("--limit", "50", "--bn-batches", "1", "--out", str(tmp_path / "x"))
    code, found, stderr = call("deploy", *MODEL, *DEVICE, "--profile", result["profile"], *out)
    assert (code, found["predicted_accuracy"]) == (0, None), stderr
    assert "no usable curve of ADC 1 (not-measured)" in stderr


def test_a_chip_whose_adc_is_too_small_is_refused_by_name(here: Path) -> None:
    line = one_line("compile", *MODEL, "--chip", "narrow.toml", "--out", "never.pim")
    assert "narrow" in line and "adc_bits = 7 is more than the chip's 5" in line
    assert not Path("never.pim").exists()


def test_compiled_files_are_told_from_models(here: Path, tmp_path: Path) -> None:
    program, deployed = str(tmp_path / "m.pim"), str(tmp_path / "m.deployed")
    assert call("compile", *MODEL, "--out", program)[0] == 0
    code, whole, stderr = call("deploy", program, *DEVICE, "--limit", "50", "--bn-batches", "1", "--out", deployed)
    assert (code, whole["images"], whole["predicted_accuracy"]) == (0, 50, None), stderr
    assert "is a compiled program" in one_line("compile", program)
    assert "pimchip infer" in one_line("deploy", deployed, *DEVICE)
    assert "program file" in one_line("infer", program, *DEVICE)


def test_infer_names_images_takes_several_sources_and_refuses_a_mixture(here: Path, tmp_path: Path) -> None:
    images = load_dataset("digits").test.images[:6]
    np.save(tmp_path / "four.npy", images[:4])
    for index in (4, 5):
        Image.fromarray(images[index, 0]).save(tmp_path / f"{index}.png")
    code, result, stderr = call(
        "deploy", *MODEL, *DEVICE, "--bn-batches", "1", "--limit", "6", "--out", str(tmp_path / "d")
    )
    assert code == 0, stderr
    infer = ["infer", str(tmp_path / "d"), *DEVICE]
    wanted = call(*infer, "--limit", "6")[1]
    assert wanted["accuracy"] == result["accuracy_after_bn"]
    sources = [f"{tmp_path}/{name}" for name in ("four.npy", "4.png", "5.png")]
    for spelled in ([a for source in sources for a in ("--data", source)], sources):
        shown = CliRunner().invoke(cli, [*infer, *spelled]).stdout
        assert all(name in shown.replace("\n", "") for name in ("four.npy 3", "4.png", "5.png"))
        assert call(*infer, *spelled)[1]["predictions"] == wanted["predictions"]
    assert call(*infer, *sources, "--limit", "2")[1]["predictions"] == wanted["predictions"][:2]
    assert " on 1 image, die " in CliRunner().invoke(cli, [*infer, "--limit", "1"]).stdout
    assert CliRunner().invoke(cli, [*infer, sources[1]]).stdout.startswith("1 image on emu-small-")
    assert "stands alone" in one_line(*infer, "--data", "digits", "--data", sources[0])
    (tmp_path / "notes.txt").write_text("3")
    np.save(tmp_path / "wrong.npy", images[:, :, :7])
    np.save(tmp_path / "real.npy", images / 255)
    for name in ("notes.txt", "wrong.npy", "real.npy", "gone.png"):
        assert name in one_line(*infer, str(tmp_path / name))
    assert "digits" in one_line(*infer, "--data", "didgits")
    line = one_line("infer", str(tmp_path / "d"), "--device", "emulator:small.toml?die=4")
    assert "-0003" in line and "-0004" in line


def test_infer_on_a_trimmed_die_is_what_deploy_saw(here: Path, tmp_path: Path) -> None:
    code, measured, stderr = call(*MEASURE, "--trim", "--out", str(tmp_path))
    assert code == 0, stderr
    trim = measured["offset_trim"]
    assert trim["after_lsb"] < trim["before_lsb"] / 2
    deploy = ["deploy", *MODEL, *DEVICE, "--profile", measured["profile"], "--bn-batches", "2"]
    code, result, stderr = call(*deploy, "--out", str(tmp_path / "d"))
    assert code == 0, stderr
    assert call("infer", str(tmp_path / "d"), *DEVICE)[1]["accuracy"] == result["accuracy_after_bn"]
