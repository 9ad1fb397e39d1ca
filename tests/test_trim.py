"""Trim registers of offsets and of gains: found, programmed, proved, kept and loaded again."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from planted import board_of, small

from pimchip.board import Board, open_board
from pimchip.board.conformance.run import check_board
from pimchip.board.emulated import emulated
from pimchip.board.inprocess import InProcessBoard
from pimchip.board.trims import set_trim, trim_codes
from pimchip.board.walk import walk_trims
from pimchip.characterize import characterize, default_points, measure_point, trim_converters
from pimchip.characterize.recheck import recheck
from pimchip.characterize.trimming import _Kind
from pimchip.chip import ChipSpec, load_chip
from pimchip.cli.main import cli
from pimchip.emulator.die import Die
from pimchip.emulator.state import Conditions
from pimchip.errors import DeviceError, InputError
from pimchip.profile import Profile
from pimchip.profile.manifest import to_toml

GAINS = {"gain_sigma": 0.02, "gain_trim_bits": 6, "gain_trim_step": 0.003, "inl_master": 0.5}
COUNT = 8


def chip(**adc: object) -> ChipSpec:
    return small("sram65", adc=GAINS | adc)


@pytest.mark.parametrize("number", [1, 2, 3])
def test_gain_and_offset_come_to_within_a_step_of_the_ideal(number: int) -> None:
    spec = chip()
    with board_of(spec, number) as board:
        found = trim_converters(board, [spec.mac()], seed=5)
        after = measure_point(board, spec.mac(), half_width=0.05, seed=99)
        held = trim_codes(board)
    offset, gain = found["offset"], found["gain"]
    assert offset.points[0].step == pytest.approx(0.25, rel=0.1) and gain.points[0].step == pytest.approx(
        0.003, rel=0.15
    )
    assert held == (*offset.codes.tolist(), *gain.codes.tolist())
    # Half a step, and what measuring to 0.2 LSB leaves: of the gain about 0.001.
    assert np.abs(after.gain - 1).max() < 0.0015 + 0.0015
    assert np.abs(after.offset).max() < 0.125 + 0.2
    assert np.nanstd(gain.points[0].after) < np.nanstd(gain.points[0].before) / 4


def test_the_die_s_own_parameters_say_the_same() -> None:
    """Independent of any measurement: the line through the tables of the trimmed die."""
    spec, die = chip(inl_master=0.0, inl_residual=0.0), 4
    mac = spec.mac()
    with board_of(spec, die) as board:
        trim_converters(board, [mac], seed=1)
        codes = np.array(trim_codes(board), np.int64)
    hidden = Die(spec, die)
    t = hidden.tables(mac, codes, Conditions()).transfer / 2.0**16
    slope = (t[:, -1] - t[:, 0]) / mac.levels
    assert np.abs(slope - 1).max() < 0.003
    middle = (1 << np.array(spec.trim_widths)) >> 1
    before = hidden.tables(mac, middle, Conditions()).transfer / 2.0**16
    assert np.abs((before[:, -1] - before[:, 0]) / mac.levels - 1).max() > 0.01


def test_what_a_register_does_not_reach_is_named() -> None:
    spec = chip(gain_trim_bits=3, inl_master=0.0, inl_residual=0.0)
    with board_of(spec, 1) as board:
        found = trim_converters(board, [spec.mac()], seed=5)["gain"]
    hidden = Die(spec, 1).parameters.gain
    # Codes 0..7 about 4: from 3 up to 4 down, and one step more is none that is missed.
    assert set(found.short) == set(np.flatnonzero((hidden > 1 + 5 * 0.003) | (hidden < 1 - 4 * 0.003)).tolist())


def test_profiles_keep_both_and_what_follows_loads_them(tmp_path: Path) -> None:
    spec = chip()
    with board_of(spec, 2) as board:
        trim_converters(board, [spec.mac()], seed=5)
        profile = characterize(board, points=[spec.mac()], half_width=0.15, out=tmp_path)
        codes = trim_codes(board)
    assert profile.trim == codes and len(codes) == 2 * COUNT
    with board_of(spec, 2) as board:
        assert trim_codes(board) == (16,) * COUNT + (32,) * COUNT
        assert not recheck(board, profile).stale
        assert trim_codes(board) == codes


def test_comparing_takes_known_trims_out(tmp_path: Path) -> None:
    spec = chip(inl_master=0.0, inl_residual=0.0)  # a curve seen elsewhere has another line
    with board_of(spec, 2) as board:
        before = characterize(board, points=[spec.mac()], half_width=0.15, out=tmp_path)
        set_trim(board, (*range(12, 20), *range(20, 44, 3)))
        after = characterize(board, points=[spec.mac()], half_width=0.15, out=tmp_path, seed=3)
    found = before.compare(after)
    assert found.unchanged, found
    assert np.abs(after.points[0].gain - before.points[0].gain).max() > 0.01


def test_a_gain_register_moves_one_converter_s_gain_alone() -> None:
    spec = chip(inl_master=0.0, inl_residual=0.0)
    mac, middle = spec.mac(), (1 << np.array(spec.trim_widths)) >> 1
    moved = middle.copy()
    moved[COUNT + 3] += 10
    a, b = (Die(spec, 1).tables(mac, codes, Conditions()).transfer for codes in (middle, moved))
    same = (a == b).all(axis=1)
    assert same.tolist() == [j != 3 for j in range(COUNT)]
    assert (b[3, -1] - a[3, -1]) / 2.0**16 == pytest.approx(10 * 0.003 * mac.levels, rel=0.05)
    assert abs(b[3, 0] - a[3, 0]) < 0.02 * 2**16  # at an input of nothing


def test_links_carry_it_and_boards_pass_their_check(tmp_path: Path) -> None:
    path = tmp_path / "gains.toml"
    path.write_text(to_toml(chip().to_dict()), encoding="utf-8")
    for kind in ("emulator", "emulator+link"):
        with open_board(f"{kind}:{path}?die=1") as board:
            board.trim(COUNT + 1, 63)
            assert board.registers()[f"trim{COUNT + 1}"] == 63
            for wrong in ((2 * COUNT, 0), (COUNT, 64), (0, 32), (-1, 0)):
                with pytest.raises((InputError, DeviceError)):
                    board.trim(*wrong)
    result = check_board(lambda: open_board(f"emulator:{path}?die=1"))
    assert result.passed, [r for r in result.results if r.text]


def test_the_command_shows_both(tmp_path: Path) -> None:
    path = tmp_path / "gains.toml"
    path.write_text(to_toml(chip().to_dict()), encoding="utf-8")
    arguments = ["characterize", "--device", f"emulator:{path}?die=1", "--range-divisor", "1", "--trim"]
    result = CliRunner().invoke(cli, [*arguments, "--half-width", "0.2", "--out", str(tmp_path), "--json"])
    assert result.exit_code == 0, result.stderr
    told = json.loads(result.stdout)
    assert told["gain_trim"]["after"] < told["gain_trim"]["before"] / 3
    assert told["offset_trim"]["after_lsb"] < told["offset_trim"]["before_lsb"] / 2
    assert "gain trim: spread 0.0" in result.stderr and "offset trim: spread" in result.stderr
    written = CliRunner().invoke(cli, ["info", told["profile"], "--json"])
    assert written.exit_code == 0, written.stderr
    registers = Profile.load(Path(told["profile"])).trim
    for kind, codes, middle in (("offset", registers[:COUNT], 16), ("gain", registers[COUNT:], 32)):
        shown = json.loads(written.stdout)["trim"][kind]
        assert shown["registers"] == len(codes) == COUNT and shown["middle"] == middle == (shown["largest"] + 1) / 2
        assert (shown["lowest"], shown["highest"]) == (min(codes), max(codes))
        assert shown["moved"] == COUNT - codes.count(middle) > 0
        assert (
            f"{kind} {shown['moved']} of 8 registers moved from {middle}, codes {min(codes)} to {max(codes)} of"
            in " ".join(written.stderr.split())
        )


def test_info_shows_no_registers_that_the_chip_has_not(tmp_path: Path) -> None:
    for bits, shown in (({"gain_trim_bits": 0, "gain_trim_step": 0.0}, {"offset"}), ({"trim_bits": 0}, {"gain"})):
        spec = chip(**bits)
        profile = characterize(board_of(spec, 1), points=[spec.mac()], reads=8, out=tmp_path)
        run = CliRunner().invoke(cli, ["info", str(profile.path), "--json"])
        assert run.exit_code == 0 and set(json.loads(run.stdout)["trim"]) == shown, run.stderr


def test_the_self_test_of_a_board_with_registers_of_offsets_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    with board_of(chip(), 1) as board:
        assert walk_trims(board) is None
        every = type(board).registers
        monkeypatch.setattr(type(board), "registers", lambda self: dict(list(every(self).items())[: 1 + COUNT]))
        assert walk_trims(board) is None
        assert set(trim_converters(board, [chip().mac()])) == {"offset"}


class TestSeveralPoints:
    """One register serves all points that are measured."""

    def offsets(self, spec: ChipSpec, number: int, codes: np.ndarray) -> np.ndarray:
        """What a die's own tables say at each range: the transfer of no input, LSB [ranges, converters]."""
        points = default_points(spec)
        return np.stack([Die(spec, number).tables(m, codes, Conditions()).transfer[:, 0] / 2.0**16 for m in points])

    def test_the_code_is_the_best_of_all_by_the_die_s_own_tables(self) -> None:
        """Every code of every converter tried on the hidden die: the one that was chosen is the best, or beside it."""
        spec, number = (
            chip(inl_master=0.0, inl_residual=0.0, offset_array_sigma=1.0, gain_trim_bits=0, gain_trim_step=0),
            5,
        )
        points = default_points(spec)
        assert len(points) > 2
        with board_of(spec, number) as board:
            found = trim_converters(board, points, seed=5)["offset"]
            held = np.array(trim_codes(board), np.int64)
        assert held.tolist() == found.codes.tolist()
        middle = (1 << np.array(spec.trim_widths, np.int64)) >> 1
        every = np.stack([self.offsets(spec, number, np.full_like(middle, code)) for code in range(32)])
        cost = (every**2).sum(1)  # [codes, converters]
        best = cost.argmin(0)
        # Offsets are known to 0.2 LSB at each point, 0.1 of the mean of four, and a code is 0.25.
        assert np.abs(found.codes - best).max() <= 1 and (found.codes == best).sum() >= COUNT // 2
        own = self.offsets(spec, number, held)
        for k, point in enumerate(found.points):
            assert point.mac == points[k]
            np.testing.assert_allclose(point.after, own[k], atol=0.3)
            np.testing.assert_allclose(point.before, self.offsets(spec, number, middle)[k], atol=0.3)
        # The first point alone: best there, and worse over all.
        first = np.abs(every[:, 0]).argmin(0)
        assert (cost[found.codes, range(COUNT)]).sum() < 0.8 * (cost[first, range(COUNT)]).sum()

    @pytest.mark.parametrize("name", ["offset", "gain"])
    def test_the_codes_are_those_of_a_search(self, name: str) -> None:
        """Steps and what is left at random: no other code of the register leaves less."""
        rng = np.random.default_rng(0)
        spec = load_chip("sram65")
        macs = [spec.mac(range_divisor=1), spec.mac(range_divisor=4), spec.mac(adc_bits=5)]
        kind = _Kind(name, 5, 0, 1.0 if name == "gain" else 0.0, 0.0)
        lsb = np.array([[127.0], [127.0], [31.0]]) if name == "gain" else np.ones((3, 1))
        scale = 0.004 if name == "gain" else 0.25
        steps = scale * rng.uniform(0.5, 2, 3)
        found = kind.aim + scale * rng.normal(0, 8, (3, 200))
        found[0, :20] = np.nan
        found[:, 20] = np.nan
        codes = kind.moved(np.full(200, kind.middle), kind.apart(macs, found, steps), 0.0)
        tried = np.arange(32)[:, None, None] - kind.middle
        left = (found - kind.aim + steps[:, None] * tried) * lsb
        cost = np.nansum(left**2, axis=1)
        known = np.arange(200) != 20
        assert (codes == cost.argmin(0))[known].all() and codes[20] == kind.middle

    def test_the_command_shows_every_point_and_what_is_left(self, tmp_path: Path) -> None:
        path = tmp_path / "gains.toml"
        path.write_text(to_toml(chip(offset_array_sigma=1.0).to_dict()), encoding="utf-8")
        arguments = [
            "characterize",
            "--device",
            f"emulator:{path}?die=1",
            "--range-divisor",
            "1",
            "--range-divisor",
            "4",
        ]
        arguments += ["--trim", "--half-width", "0.2", "--out", str(tmp_path), "--json"]
        result = CliRunner().invoke(cli, arguments)
        assert result.exit_code == 0, result.stderr
        told = json.loads(result.stdout)
        offsets, gains = told["offset_trim"]["points"], told["gain_trim"]["points"]
        assert [p["range_divisor"] for p in offsets] == [p["range_divisor"] for p in gains] == [1, 4]
        assert told["offset_trim"]["left_lsb"] == max(p["left_lsb"] for p in offsets)
        assert all(p["after"] < p["before"] / 2 for p in gains)
        assert told["offset_trim"]["after_lsb"] < told["offset_trim"]["before_lsb"]
        # What the profile measures afterwards, with noise of its own, is what was told.
        for point, summary in zip(offsets, told["points"], strict=True):
            assert summary["offset_spread"] == pytest.approx(point["after_lsb"], abs=0.2)
        assert "offset trim, range 1/4, 7 b: spread" in result.stderr and "gain trim, range 1/1, 7 b" in result.stderr
        worse = any(p["after_lsb"] > p["before_lsb"] for p in offsets)
        assert ("one register serves all of these: the offset scatters more than before" in result.stderr) == worse

    def test_none(self) -> None:
        with board_of(chip(), 1) as board, pytest.raises(InputError, match="name at least one"):
            trim_converters(board, [])


class TestRefusals:
    def test_a_board_that_lacks_it(self) -> None:
        spec = chip()
        given = emulated("emulator:sram65?lacks=trim")
        with (
            InProcessBoard(given.board(), "x", given.lacks) as board,
            pytest.raises(InputError, match="cannot trim; leave --trim out"),
        ):
            trim_converters(board, [spec.mac()])

    def test_a_chip_without_registers(self) -> None:
        spec = small("sram65", adc={"trim_bits": 0, "trim_step": 0})
        with board_of(spec, 1) as board, pytest.raises(InputError, match="has no trim registers of offset or gain"):
            trim_converters(board, [spec.mac()])

    def test_registers_that_do_nothing(self, monkeypatch: pytest.MonkeyPatch) -> None:
        spec = chip()
        with board_of(spec, 1) as board:
            only = board.trim

            def deaf(self: Board, adc: int, code: int) -> None:
                if adc < COUNT:
                    only(adc, code)

            monkeypatch.setattr(type(board), "trim", deaf)
            with pytest.raises(DeviceError, match="move the gains by .*; the trim does nothing"):
                trim_converters(board, [spec.mac()])

    def test_half_a_description(self) -> None:
        data = load_chip("sram65").to_dict()
        data["adc"] |= {"gain_trim_bits": 4}
        with pytest.raises(
            InputError, match="adc.gain_trim_bits = 4 with adc.gain_trim_step = 0.*a share of one a code"
        ):
            ChipSpec.from_dict(data)
