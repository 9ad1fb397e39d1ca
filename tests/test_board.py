"""Board, the one door to a chip: device URLs, programming and read-back, and what a closed or lesser board says."""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pimchip.board import Board, WrongCells, default_device, open_board
from pimchip.board.api import CAPABILITIES, ClosedError
from pimchip.board.inprocess import InProcessBoard
from pimchip.chip import ChipSpec, Geometry, PimLayer, Placement, Requant, Run, Tile, known_chips, load_chip
from pimchip.chip.correction import Correction
from pimchip.chip.spec import SPECS
from pimchip.emulator.die import Die
from pimchip.emulator.virtual import VirtualBoard
from pimchip.errors import DeviceError, InputError, PimchipError, PimchipWarning
from pimchip.profile.manifest import to_toml


def codes(board: Board, run: Run | None = None) -> np.ndarray:
    """Codes of one tile of ones, at mid scale."""
    tile = Tile(0, 0, 0, 144, 256)
    board.program(tile, np.ones((144, 256), np.int8))
    return board.convert(tile, np.full((4, 144), 7), run=run)


def codes_of(url: str, **kwargs: Any) -> np.ndarray:
    with open_board(url, **kwargs) as board:
        return codes(board)


def same(a: np.ndarray, b: np.ndarray) -> bool:
    return bool(np.array_equal(a, b))


class TestUrls:
    def test_the_defaults_are_die_0_noise_25_degrees_seed_0(self) -> None:
        wanted = codes_of("emulator:sram65")
        for url in (
            "emulator:",
            "emulator:sram65?",
            "emulator:sram65?die=0&noise=on&temperature=25&seed=0",
            "emulator:sram65?seed=0&die=0",
            f"emulator:{SPECS / 'sram65.toml'}",
        ):
            assert same(codes_of(url), wanted), url

    @pytest.mark.parametrize(
        "option", ["die=1", "die=ideal", "die=4294967295", "noise=off", "temperature=85", "temperature=-40.5", "seed=1"]
    )
    def test_each_option_makes_a_difference(self, option: str) -> None:
        assert not same(codes_of(f"emulator:sram65?{option}"), codes_of("emulator:sram65"))

    @pytest.mark.parametrize("option", ["supply=1.2", "age=1000", "age=0.5"])
    def test_supply_and_age_make_a_difference_where_the_chip_minds(self, option: str, tmp_path: Path) -> None:
        data = load_chip("sram65").to_dict()
        data["supply"]["offset_sigma"], data["cells"]["retention_loss"] = 5.0, 0.1
        mine = tmp_path / "mine.toml"
        mine.write_text(to_toml(data), encoding="utf-8")
        assert not same(codes_of(f"emulator:{mine}?{option}"), codes_of(f"emulator:{mine}"))
        assert same(codes_of(f"emulator:{mine}?supply=1.0&age=0"), codes_of(f"emulator:{mine}"))
        with pytest.warns(PimchipWarning, match=f"{option.replace('=', ' = ')} does nothing"):
            assert same(codes_of(f"emulator:sram65?{option}"), codes_of("emulator:sram65"))

    @pytest.mark.parametrize(
        ("option", "why"),
        [
            ("supply=0.9", r"no effect of chip sram65 .* \(supply\.gain_sigma, supply\.offset_sigma; "),
            ("age=3", r"no effect of chip sram65 .* \(cells\.retention_loss; "),
            ("die=ideal&temperature=30", "an ideal die has no effects"),
        ],
    )
    def test_a_condition_that_does_nothing_is_told_in_one_line(self, option: str, why: str) -> None:
        with pytest.warns(PimchipWarning, match=why) as caught:
            open_board(f"emulator:sram65?{option}")
        assert len(caught) == 1 and "\n" not in str(caught[0].message)
        assert caught[0].filename == __file__

    @pytest.mark.parametrize("option", ["supply=1.0", "age=0", "die=ideal&temperature=25", "temperature=80"])
    def test_what_does_something_or_is_as_ever_is_not_warned_of(self, option: str) -> None:
        open_board(f"emulator:sram65?{option}")  # warnings are errors here

    def test_a_board_tells_its_supply_and_age(self) -> None:
        with open_board("emulator:rram130-differential?age=12.5") as board:
            assert (board.temperature(), board.supply(), board.age()) == (25.0, 1.0, 12.5)

    def test_noise_off_is_silent_and_the_seed_then_means_nothing(self) -> None:
        still = codes_of("emulator:sram65?noise=off")
        assert np.all(still == still[:, :1])
        assert same(codes_of("emulator:sram65?noise=off&seed=9"), still)

    def test_the_seed_of_the_url_goes_before_the_caller_s(self) -> None:
        assert same(codes_of("emulator:sram65", seed=5), codes_of("emulator:sram65?seed=5"))
        assert same(codes_of("emulator:sram65?seed=6", seed=5), codes_of("emulator:sram65?seed=6"))
        assert same(codes_of("emulator:sram65?seed=18446744073709551615"), codes_of("emulator:sram65", seed=2**64 - 1))

    def test_a_board_says_who_it_is(self) -> None:
        with open_board("emulator:sram65?die=12&temperature=40.25") as board:
            info = board.info()
            assert info.uid.startswith("emu-sram65-") and info.uid.endswith("-0012")
            assert info.spec == load_chip("sram65")
            assert info.feature_memory == 64 << 20
            assert info.url == "emulator:sram65?die=12&temperature=40.25"
            assert info.capabilities == CAPABILITIES
            assert board.temperature() == 40.25
        with open_board("emulator:sram65?die=ideal") as board:
            assert board.info().uid.endswith("-ideal")

    @pytest.mark.parametrize("name", known_chips())
    def test_every_built_in_chip_opens(self, name: str) -> None:
        with open_board(f"emulator:{name}") as board:
            assert board.info().spec.name == name

    def test_a_chip_file_may_have_any_name(self, tmp_path: Path) -> None:
        folder = tmp_path / "a+b c"
        folder.mkdir()
        path = folder / "mine.toml"
        path.write_text((SPECS / "sram65.toml").read_text(encoding="utf-8").replace('"sram65"', '"mine"'), "utf-8")
        with open_board(f"emulator:{path}?die=2") as board:
            assert board.info().spec.name == "mine"

    @pytest.mark.parametrize(
        ("url", "message"),
        [
            ("emulater:sram65", "unknown kind of device 'emulater': did you mean 'emulator'"),
            ("sram65", "unknown kind of device 'sram65'.*for example emulator:sram65"),
            ("emulator:sram56", "unknown chip 'sram56': did you mean 'sram65'"),
            ("emulator:absent.toml", r"absent\.toml is not there"),
            ("emulator:sram65?dye=1", "unknown option 'dye': did you mean 'die'"),
            ("emulator:sram65?die=1&die=2", "an option is given twice"),
            ("emulator:sram65?die", "what follows its question mark is not name=value"),
            ("emulator:sram65?die=", "die = '' is no whole number from 0 to 4294967295"),
            ("emulator:sram65?die=-1", "die = '-1' is no whole number"),
            ("emulator:sram65?die=+1", r"die = '\+1' is no whole number"),
            ("emulator:sram65?die=1.0", "die = '1.0' is no whole number"),
            ("emulator:sram65?die=4294967296", "die = '4294967296' is no whole number"),
            ("emulator:sram65?die=²", "die = '²' is no whole number"),
            (
                "emulator:sram65?seed=18446744073709551616",
                "seed = .* is no whole number from 0 to 18446744073709551615",
            ),
            ("emulator:sram65?seed=x", "seed = 'x' is no whole number"),
            ("emulator:sram65?noise=yes", "noise is on or off, not 'yes'"),
            ("emulator:sram65?noise=", "noise is on or off, not ''"),
            ("emulator:sram65?temperature=hot", "temperature = 'hot' is no number of degrees"),
            ("emulator:sram65?temperature=nan", "temperature = 'nan' is no number of degrees"),
            ("emulator:sram65?temperature=inf", "temperature = 'inf' is no number of degrees"),
            ("emulator:sram65?temperature=151", "from -55 to 150"),
            ("emulator:sram65?supply=low", "supply = 'low' is no number of volts from 0.5 to 1.5"),
            ("emulator:sram65?supply=1.51", "supply = '1.51' is no number of volts"),
            ("emulator:sram65?supply=nan", "supply = 'nan' is no number of volts"),
            ("emulator:sram65?age=old", "age = 'old' is no number of hours from 0 to 876600"),
            ("emulator:sram65?age=-1", "age = '-1' is no number of hours"),
            ("emulator:sram65?age=876601", "age = '876601' is no number of hours"),
            ("emulator:sram65?age=", "age = '' is no number of hours"),
            ("emulator:sram65?lacks=conf", "unknown capability 'conf': did you mean 'conv'"),
            ("emulator:sram65?profile=absent", "absent"),
            ("emulator:sram65?profile=a+b", r"a\+b"),
            ("emulator:sram65?profile=x&die=1", "give die or profile, not both"),
        ],
    )
    def test_an_error_names_the_part_that_is_wrong(self, url: str, message: str) -> None:
        with pytest.raises(InputError, match=message) as caught:
            open_board(url)
        assert "\n" not in str(caught.value) and caught.value.exit_code == 2

    def test_the_default_device_is_the_environment_s(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.delenv("PIMCHIP_DEVICE", raising=False)
        assert default_device() == "emulator:sram65"
        monkeypatch.setenv("PIMCHIP_DEVICE", "")
        assert default_device() == "emulator:sram65"
        monkeypatch.setenv("PIMCHIP_DEVICE", "emulator:charge-native?die=9")
        assert default_device() == "emulator:charge-native?die=9"
        with open_board() as board:
            assert board.info().uid.startswith("emu-charge-native-") and board.info().uid.endswith("-0009")
        monkeypatch.setenv("PIMCHIP_DEVICE", "emulator:charge-native?dice=9")
        with pytest.raises(InputError, match="unknown option 'dice'"):
            open_board()


LAYER_TILE = Tile(0, 0, 0, 9, 8)
ONE = np.ones(1, np.int64)


def layer(board: Board, *tiles: Tile) -> PimLayer:
    placements = tuple(Placement(tile, 0, 0) for tile in tiles or (LAYER_TILE,))
    return PimLayer("conv1", board.info().spec.mac(), Geometry(9, 2), placements)


def twice(board: Board) -> PimLayer:
    placements = tuple(Placement(replace(LAYER_TILE, macro=copy), 0, 0, copy) for copy in range(2))
    return replace(layer(board), placements=placements)


def same_codes(board: Board) -> Correction:
    mac, adcs = board.info().spec.mac(), board.info().spec.array.macros * board.info().spec.adc.per_macro
    return Correction(mac, 0, np.repeat(np.arange(mac.code_max + 1, dtype=np.int16)[None], adcs, axis=0))


CALLS: dict[str, Callable[[Board], object]] = {
    "conv": lambda b: b.conv(layer(b), 0, 1),
    "digital": lambda b: b.digital(np.ones((2, 9, 1, 1), np.int8), Geometry(9, 2), 0, 1),
    "requantize": lambda b: b.requantize(0, 1, Requant(*(ONE.repeat(9),) * 3, 0, 15, 100)),
    "add": lambda b: b.add(0, 0, 1, (1, 1), 0, 0, 255),
    "pool": lambda b: b.pool(0, 1, "max", (1, 1), (1, 1), (0, 0)),
    "stats": lambda b: b.stats(0),
    "trim": lambda b: b.trim(0, 0),
    "correct": lambda b: b.conv(replace(layer(b), correction=same_codes(b)), 0, 1),
    "copies": lambda b: b.conv(twice(b), 0, 1),
}


class TestCapabilities:
    @pytest.mark.parametrize("lacking", sorted(CALLS))
    def test_what_is_switched_off_is_not_offered_and_refuses(self, lacking: str) -> None:
        with open_board(f"emulator:sram65?lacks={lacking}") as board:
            assert board.info().capabilities == CAPABILITIES - {lacking}
            board.upload(0, np.ones((2, 9, 1, 1), int))
            for name, call in CALLS.items():
                if name == lacking:
                    with pytest.raises(DeviceError, match=f"lacks {lacking}$"):
                        call(board)
                elif lacking != "conv" or name not in ("correct", "copies"):  # which are kinds of it
                    call(board)

    def test_several_can_be_switched_off(self) -> None:
        with open_board("emulator:sram65?lacks=stats,trim,pool") as board:
            assert board.info().capabilities == {"conv", "digital", "requantize", "add", "correct", "copies"}

    def test_every_capability_is_tried_here(self) -> None:
        assert set(CALLS) == CAPABILITIES


TILE = Tile(1, 10, 20, 6, 5)


def pattern(tile: Tile = TILE) -> np.ndarray:
    return (np.arange(tile.rows * tile.columns).reshape(tile.rows, tile.columns) % 2).astype(np.int8)


@pytest.fixture
def board() -> Board:
    return open_board("emulator:sram65")


class TestProgramming:
    def test_a_tile_reads_back_as_programmed(self, board: Board) -> None:
        assert not board.holds(TILE)
        board.program(TILE, pattern())
        report = board.verify(TILE)
        assert report.ok and report.rows == () and report.tile == TILE and board.holds(TILE)

    @pytest.mark.parametrize("bit", [1, -2, 64])
    def test_one_wrong_cell_is_found_by_its_row(self, board: Board, bit: int, monkeypatch: pytest.MonkeyPatch) -> None:
        board.program(TILE, pattern())
        read = InProcessBoard._read_cells

        def corrupted(self: InProcessBoard, tile: Tile) -> np.ndarray:
            cells = read(self, tile)
            cells[[1, 4], [3, 0]] ^= np.int8(bit)
            return cells

        monkeypatch.setattr(InProcessBoard, "_read_cells", corrupted)
        report = board.verify(TILE)
        assert not report.ok and report.rows == (1, 4)
        monkeypatch.undo()
        assert board.verify(TILE).ok

    def test_rows_read_back_in_the_wrong_order_are_found(self, board: Board, monkeypatch: pytest.MonkeyPatch) -> None:
        board.program(TILE, pattern())
        read = InProcessBoard._read_cells
        monkeypatch.setattr(InProcessBoard, "_read_cells", lambda self, tile: read(self, tile)[::-1])
        assert board.verify(TILE).rows == (0, 1, 2, 3, 4, 5)

    @pytest.mark.parametrize(
        ("other", "kept"),
        [
            (Tile(1, 10, 20, 6, 5), False), (Tile(1, 15, 24, 9, 9), False), (Tile(1, 0, 0, 144, 256), False),
            (Tile(1, 12, 0, 1, 256), False), (Tile(1, 0, 0, 11, 21), False),
            (Tile(1, 16, 20, 6, 5), True), (Tile(1, 10, 25, 6, 5), True), (Tile(1, 4, 20, 6, 5), True),
            (Tile(1, 10, 15, 6, 5), True), (Tile(0, 10, 20, 6, 5), True),
        ],
    )  # fmt: skip
    def test_programming_over_a_tile_forgets_it(self, board: Board, other: Tile, kept: bool) -> None:
        board.program(TILE, pattern())
        board.program(other, np.zeros((other.rows, other.columns), np.int8))
        assert board.holds(other)
        assert board.holds(TILE) is (kept or other == TILE)
        if kept:
            assert board.verify(TILE).ok
        elif other != TILE:
            with pytest.raises(InputError, match=re.escape(f"tile {TILE} is not programmed")):
                board.verify(TILE)

    def test_a_failed_write_leaves_nothing_held(self, board: Board, monkeypatch: pytest.MonkeyPatch) -> None:
        board.program(TILE, pattern())

        def broken(self: InProcessBoard, tile: Tile, cells: np.ndarray, full: int) -> None:
            raise DeviceError("programming stopped")

        monkeypatch.setattr(InProcessBoard, "_write_cells", broken)
        with pytest.raises(DeviceError, match="stopped"):
            board.program(TILE, pattern())
        assert not board.holds(TILE)

    @pytest.mark.parametrize(
        "tile",
        [
            Tile(8, 0, 0, 1, 1), Tile(-1, 0, 0, 1, 1), Tile(0, -1, 0, 1, 1), Tile(0, 0, -1, 1, 1), Tile(0, 0, 0, 0, 1),
            Tile(0, 0, 0, 1, 0), Tile(0, 0, 0, 145, 1), Tile(0, 0, 0, 1, 257), Tile(0, 144, 0, 1, 1),
            Tile(0, 0, 250, 1, 7), Tile(0, 140, 0, 5, 1),
        ],
    )  # fmt: skip
    def test_a_tile_outside_the_chip_is_refused_by_every_call(self, board: Board, tile: Tile) -> None:
        message = f"tile {re.escape(str(tile))} is outside the chip's 8 macros of 144 x 256"
        with pytest.raises(InputError, match=message):
            board.program(tile, np.zeros((max(tile.rows, 0), max(tile.columns, 0)), np.int8))
        with pytest.raises(InputError, match=message):
            board.convert(tile, np.zeros((1, tile.rows), int))
        board.upload(0, np.ones((2, 9, 1, 1), int))
        with pytest.raises(InputError, match=message):
            board.conv(layer(board, tile), 0, 1)

    @pytest.mark.parametrize(
        "cells", [np.zeros((6, 4), np.int8), np.zeros((5, 6), np.int8), np.zeros((6, 5), int), np.zeros((6, 5))]
    )
    def test_cells_that_do_not_fill_the_tile_are_refused(self, board: Board, cells: np.ndarray) -> None:
        with pytest.raises(InputError, match=r"do not fill tile .* want int8 \[6, 5\]"):
            board.program(TILE, cells)
        assert not board.holds(TILE)


class TestLife:
    def test_a_closed_board_says_so_whatever_is_asked(self) -> None:
        board = open_board("emulator:sram65?die=3")
        board.program(TILE, pattern())
        board.upload(0, np.ones((2, 9, 1, 1), int))
        board.close()
        board.close()
        more: list[Callable[[Board], object]] = [
            lambda b: b.registers(),
            lambda b: b.temperature(),
            lambda b: b.counters(),
            lambda b: b.program(TILE, pattern()),
            lambda b: b.verify(TILE),
            lambda b: b.convert(TILE, np.zeros((1, 6), int)),
            lambda b: b.upload(0, np.ones((2, 9, 1, 1), int)),
            lambda b: b.download(0),
            lambda b: b.free(0),
            lambda b: b.selftest(),
        ]
        for call in [*CALLS.values(), *more]:
            with pytest.raises(ClosedError, match=r"board emulator:sram65\?die=3 is closed; open it again") as caught:
                call(board)
            assert caught.value.exit_code == 3
            if call is more[3]:
                board._programmed[TILE] = pattern()  # so that verify reaches the board
        assert board.info().uid.endswith("-0003")

    def test_leaving_the_context_closes_even_after_an_error(self) -> None:
        with pytest.raises(ZeroDivisionError), open_board("emulator:sram65") as board:
            raise ZeroDivisionError
        with pytest.raises(ClosedError):
            board.counters()

    def test_boards_do_not_share_anything(self) -> None:
        with open_board("emulator:sram65") as one, open_board("emulator:sram65") as two:
            one.program(TILE, pattern())
            one.upload(0, np.ones((1, 1, 1, 1), int))
            one.trim(0, 3)
            assert not two.holds(TILE)
            with pytest.raises(InputError, match="buffer 0 is empty"):
                two.download(0)
            assert (one.registers()["trim0"], two.registers()["trim0"]) == (3, 16)

    def test_counters_are_a_snapshot(self, board: Board) -> None:
        before = board.counters()
        codes(board)
        assert before["conversions"] == 0
        assert board.counters()["conversions"] == 4 * 256 and board.counters()["cell_writes"] == 144 * 256

    def test_without_a_run_noise_is_epoch_0_from_index_0(self, board: Board) -> None:
        assert same(codes(board), codes(board, Run(0, 0)))
        assert not same(codes(board), codes(board, Run(1, 0)))


class TestSelfTest:
    @pytest.mark.parametrize("name", known_chips())
    def test_every_emulated_chip_passes(self, name: str, tmp_path: Path) -> None:
        text = (SPECS / f"{name}.toml").read_text(encoding="utf-8")
        (tmp_path / "few.toml").write_text(re.sub(r"macros = \d+", "macros = 2", text), encoding="utf-8")
        for die in range(3):
            with open_board(f"emulator:{tmp_path / 'few.toml'}?die={die}") as board:
                test = board.selftest()
                assert test.ok, test.results
                assert (
                    len(test.results) == 9 + ("trim" in board.info().capabilities) and not test.cells and not test.adcs
                )

    @pytest.mark.parametrize(
        "where",
        [
            "temperature=-40",
            "temperature=125",
            "supply=0.75",
            "supply=1.25",
            "age=876600",
            "temperature=125&age=100000",
        ],
    )
    @pytest.mark.parametrize("name", known_chips())
    def test_sound_dies_pass_far_off_nominal(self, name: str, where: str, tmp_path: Path) -> None:
        data = load_chip(name).to_dict()
        data["array"]["macros"], data["supply"] = 2, {**data["supply"], "gain_sigma": 0.3, "offset_sigma": 30.0}
        data["adc"] |= {"gain_drift_sigma": 2e-3, "offset_drift_sigma": 0.1}
        data["cells"] |= {"weak_rows": 0.1, "weak_row_loss": 0.5, "ir_drop": 0.1, "retention_loss": 0.05}
        (tmp_path / "far.toml").write_text(to_toml(data), encoding="utf-8")
        for die in range(4):
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", PimchipWarning)  # that it is outside the spec's range
                with open_board(f"emulator:{tmp_path / 'far.toml'}?die={die}&{where}") as board:
                    test = board.selftest()
            assert test.ok, test.results

    @pytest.mark.parametrize("share", [0.6, 0.8, 1.25, 1.5])
    def test_a_macro_whose_sums_are_off_fails_on_nominal_and_aged_dies(
        self, share: float, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        convert = VirtualBoard.convert

        def scaled(self: VirtualBoard, tile: Tile, *rest: Any) -> np.ndarray:
            codes = convert(self, tile, *rest)
            return np.minimum(np.rint(codes * share), 127).astype(codes.dtype) if tile.macro == 2 else codes

        monkeypatch.setattr(VirtualBoard, "convert", scaled)
        for url in ("emulator:sram65?die=1", "emulator:sram65?die=1&temperature=80"):
            with open_board(url) as board:
                results = board.selftest().results
            assert {name for name, text in results.items() if text} >= {"macro 2 converters"}
            assert all(text is None for name, text in results.items() if "macro 2" not in name)

    def test_a_corrupted_array_fails_by_macro_and_row(self, board: Board, monkeypatch: pytest.MonkeyPatch) -> None:
        read = VirtualBoard.read_cells

        def corrupted(self: VirtualBoard, tile: Tile) -> np.ndarray:
            cells = read(self, tile)
            if tile.macro == 5:
                cells[7, 7] = 0
            return cells

        monkeypatch.setattr(VirtualBoard, "read_cells", corrupted)
        test = board.selftest()
        assert not test.ok
        assert {name for name, wrong in test.results.items() if wrong} == {"macro 5 read back"}
        assert test.results["macro 5 read back"] == "1 cell, row 7, column 7: another value than was written"
        assert test.cells == (WrongCells(5, 1, (7,), (7,)),)

    def test_a_dead_macro_fails_its_known_product(self, board: Board, monkeypatch: pytest.MonkeyPatch) -> None:
        convert = VirtualBoard.convert

        def dead(self: VirtualBoard, tile: Tile, *rest: Any) -> np.ndarray:
            return convert(self, tile, *rest) * (tile.macro != 2)

        monkeypatch.setattr(VirtualBoard, "convert", dead)
        test = board.selftest()
        wrong = {name: text for name, text in test.results.items() if text}
        assert wrong.keys() == {"macro 2 converters", "macro 2 known product"}
        assert wrong["macro 2 known product"] == "no converter works"
        assert test.adcs == dict.fromkeys(range(64, 96), "dead, it gives code 0 whatever comes")

    def test_sums_that_are_all_too_low_fail_the_known_product(
        self, board: Board, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        convert = VirtualBoard.convert

        def lower(self: VirtualBoard, tile: Tile, *rest: Any) -> np.ndarray:
            return np.maximum(convert(self, tile, *rest) - 20 * (tile.macro == 2), 0)

        monkeypatch.setattr(VirtualBoard, "convert", lower)
        wrong = {name for name, text in board.selftest().results.items() if text}
        assert wrong == {"macro 2 converters", "macro 2 known product"}

    @pytest.mark.parametrize(
        "breaks",
        [
            lambda codes, noise: np.rint(codes * 0.3),
            lambda codes, noise: np.rint(codes * 0.05),
            lambda codes, noise: np.minimum(codes, 50),
            lambda codes, noise: np.rint(60 + noise),
            lambda codes, noise: np.clip(np.rint(63 + 40 * noise), 0, 127),
            lambda codes, noise: 127 - codes,
        ],
        ids=["gain 0.3", "gain 0.05", "saturates at 50", "open input", "random codes", "falling"],
    )
    def test_a_converter_broken_in_any_other_way_is_found(
        self, board: Board, breaks: Callable[[Any, Any], Any], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        convert, rng = VirtualBoard.convert, np.random.default_rng(0)

        def broken(self: VirtualBoard, tile: Tile, *rest: Any) -> np.ndarray:
            codes = convert(self, tile, *rest)
            if tile.macro == 2:  # its converter 6 has the columns from 48 on: number 70 over all macros
                part = codes[..., 48:56]
                part[...] = breaks(part, rng.normal(size=part.shape)).astype(codes.dtype)
            return codes

        monkeypatch.setattr(VirtualBoard, "convert", broken)
        test = board.selftest()
        assert list(test.adcs) == [70]
        assert {name for name, text in test.results.items() if text} == {"macro 2 converters"}

    @pytest.mark.parametrize(("row", "drive"), [(0, 0), (77, 0), (143, 0), (0, 15), (130, 15)])
    def test_a_row_that_is_never_or_always_driven_is_found(
        self, board: Board, row: int, drive: int, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        convert = VirtualBoard.convert

        def held(self: VirtualBoard, tile: Tile, inputs: np.ndarray, *rest: Any) -> np.ndarray:
            inputs = np.array(inputs)
            if tile.macro == 4:
                inputs[:, row] = drive
            return convert(self, tile, inputs, *rest)

        monkeypatch.setattr(VirtualBoard, "convert", held)
        results = board.selftest().results
        wanted = f"row {row}: driving it hardly changes the codes"
        assert {name: text for name, text in results.items() if text} == {"macro 4 rows": wanted}

    @pytest.mark.parametrize("name", known_chips())
    def test_small_arrays_with_few_sums_pass(self, name: str) -> None:
        rng = np.random.default_rng(0)
        for die in range(20):
            data, dac = load_chip(name).to_dict(), int(rng.choice([1, 2, 4]))
            rows, columns = int(rng.choice([2, 4, 8, 16, 32])), int(rng.choice([8, 16]))
            data["array"] |= {"macros": 1, "rows": rows, "columns": columns}
            data["adc"] |= {"bits": int(rng.integers(3, 9)), "per_macro": columns // 8}
            data["dac"]["bits"] = data["operating"]["dac_bits"] = dac
            data["operating"] |= {"rows": rows, "act_bits": 4}
            spec = ChipSpec.from_dict(data)
            test = InProcessBoard(VirtualBoard(spec, Die(spec, die), noise_seed=0), "x").selftest()
            assert test.ok, (data, test.results)

    @pytest.mark.parametrize("scheme", ["bit_serial", "differential", "native"])
    def test_exactly_the_stuck_cells_and_the_broken_converters_are_found(self, scheme: str) -> None:
        data = load_chip("sram65").to_dict()
        data["operating"]["scheme"] = scheme
        data["cells"] |= {"stuck_zero": 1e-4, "stuck_full": 1e-4, "write_failure": 1e-3}
        data["adc"] |= {"dead": 0.02, "stuck_bit": 0.05}
        spec = ChipSpec.from_dict(data)
        for number in range(2):
            die = Die(spec, number)
            virtual = VirtualBoard(spec, die, noise_seed=0)
            test = InProcessBoard(virtual, "x").selftest()
            stuck = [np.argwhere(virtual._cells._stuck_cells(macro)[0]) for macro in range(8)]
            assert sum(map(len, stuck)) > 20
            for macro in test.cells:
                rows, columns = stuck[macro.macro].T
                assert (macro.cells, macro.rows) == (len(rows), tuple(np.unique(rows).tolist()))
                assert macro.columns == tuple(np.unique(columns).tolist())
            assert [macro.macro for macro in test.cells] == [m for m in range(8) if len(stuck[m])]
            p = die.parameters
            wanted = {
                j: "dead" if p.dead[j] else f"bit {p.stuck_bit[j]} is stuck at {p.stuck_at[j]}"
                for j in np.flatnonzero(p.dead | (p.stuck_bit >= 0)).tolist()
            }
            assert {j: text.partition(",")[0] for j, text in test.adcs.items()} == wanted
            assert len(wanted) > 8

    @pytest.mark.parametrize("name", known_chips())
    @pytest.mark.parametrize("fault", ["noise", "dropped", "sound"])
    def test_a_converter_whose_reads_scatter_is_found(
        self, name: str, fault: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        data, rng = load_chip(name).to_dict(), np.random.default_rng(0)
        data["array"]["macros"] = 1
        spec = ChipSpec.from_dict(data)
        board = InProcessBoard(VirtualBoard(spec, Die(spec, 1), noise_seed=1), "x")
        convert = board.convert

        def bad(tile: Tile, drives: Any, repeats: int = 1, **more: Any) -> np.ndarray:
            codes, mac = convert(tile, drives, repeats, **more).astype(np.int64), more["mac"]
            own = np.array(spec.adcs_of(tile)) == 3
            if fault == "noise":  # with the mean that it should have
                codes[..., own] += np.rint(rng.normal(0, 5, codes[..., own].shape)).astype(np.int64)
            elif fault == "dropped":
                codes[..., own] *= rng.random(codes[..., own].shape) > 0.1
            return np.clip(codes, mac.code_min, mac.code_max).astype(np.int32)

        monkeypatch.setattr(board, "convert", bad)
        test = board.selftest()
        assert test.adcs.keys() == ({3} if fault != "sound" else set())
        if fault == "noise":
            sigma, sound = map(float, re.findall(r"by (?:up to )?([\d.]+)", test.adcs[3]))
            # Of 5 LSB and the converter's own; less where codes end.
            assert 3.5 < sigma < 5.5 and 2 < sound < 4

    def test_reads_that_disagree_are_told_from_stuck_cells(self, board: Board, monkeypatch: pytest.MonkeyPatch) -> None:
        read, count = VirtualBoard.read_cells, iter(range(10**6))

        def unsteady(self: VirtualBoard, tile: Tile) -> np.ndarray:
            cells = read(self, tile)
            cells[3, 3] ^= next(count) & 1 if tile.macro == 1 else 0
            return cells

        monkeypatch.setattr(VirtualBoard, "read_cells", unsteady)
        test = board.selftest()
        assert not test.cells and "the reading fails" in str(test.results["macro 1 read back"])


def test_errors_carry_the_exit_code_of_the_command_line() -> None:
    assert (InputError("x").exit_code, DeviceError("x").exit_code, ClosedError("x").exit_code) == (2, 3, 3)
    assert issubclass(ClosedError, PimchipError)
