"""Chip files as people write them: effects switched on, keys mistyped, values that do nothing or contradict."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from click.testing import CliRunner

from pimchip.chip import ChipSpec, known_chips, load_chip
from pimchip.chip.parts import NEEDS, Adc, Cells, Noise, Supply
from pimchip.chip.spec import SPECS, chip_text
from pimchip.cli.main import cli
from pimchip.errors import InputError

EFFECTS = {"adc": Adc, "noise": Noise, "supply": Supply, "cells": Cells}
OFF = re.compile(r"^# (\w+ = .*)$", re.M)
"""A line of a chip file that is an effect to be switched on."""
HASHES = {
    "cap-ram": "970217e3279014f5586a53ce76ef9fe3a07c0636507dcdef57a9a0591d0be00a",
    "charge-native": "718dfbc500068607bece72db06969d5dc523ea44cdfe42c1575bf1ea616873f8",
    "rram130-differential": "9b0af581b59ec4437512a720264cf38f34e9dc325d43c4197ee78e1dbbee94df",
    "sram65": "97d42ebe604187982878ef62994fb0244e6d032475fedc1d39765f426c31fa2a",
}
"""As released: profiles and deployed networks name them."""


def load(tmp_path: Path, text: str) -> ChipSpec:
    path = tmp_path / "own.toml"
    path.write_text(text, encoding="utf-8")
    return load_chip(path)


def refused(tmp_path: Path, text: str) -> str:
    with pytest.raises(InputError) as caught:
        load(tmp_path, text)
    line = str(caught.value)
    assert line.startswith("chip file own.toml: ") and "\n" not in line
    return line


def with_lines(section: str, *lines: str) -> str:
    """sram65.toml with lines added at the head of a section."""
    text = chip_text("sram65")
    assert text.count(f"[{section}]\n") == 1
    return text.replace(f"[{section}]\n", "\n".join([f"[{section}]", *lines, ""]))


def test_built_in_chips_keep_their_hashes() -> None:
    assert {name: load_chip(name).hash for name in known_chips()} == HASHES


class TestEffectsInComments:
    def test_all_of_them_switched_on_make_a_chip(self, tmp_path: Path) -> None:
        spec = load(tmp_path, OFF.sub(r"\1", chip_text("sram65")))
        assert spec.name == "sram65" and spec.hash != HASHES["sram65"]
        plain = load_chip("sram65")
        same = [
            f"{section}.{key}"
            for section, part in EFFECTS.items()
            for key in part.model_fields
            if getattr(getattr(spec, section), key) == part.model_fields[key].default
        ]
        assert same == ["adc.interleave", "noise.flicker_octaves", "supply.volts"], "each has a size that is not off"
        assert spec.adc.gain_sigma == plain.adc.gain_sigma and spec.operating == plain.operating

    @pytest.mark.parametrize("line", OFF.findall(chip_text("sram65")))
    def test_each_alone_makes_a_chip_or_is_told_what_it_lacks(self, line: str, tmp_path: Path) -> None:
        text = chip_text("sram65").replace(f"# {line}", line)
        key = line.split()[0]
        lacking = {k: others for needs in NEEDS.values() for k, others in needs.items()}.get(key, ())
        if any(f"# {other} = " in text for other in lacking):
            assert lacking[0] in refused(tmp_path, text)
        else:
            assert load(tmp_path, text).hash != HASHES["sram65"] or key == "volts"

    def test_every_key_of_an_effect_is_in_the_file_with_a_value_or_to_be_switched_on(self) -> None:
        section, found = "", set()
        for line in chip_text("sram65").splitlines():
            if line.startswith("["):
                section = line.strip("[]")
            elif match := re.match(r"(?:# )?(\w+) = ", line):
                found.add((section, match[1]))
        assert {(name, key) for name, part in EFFECTS.items() for key in part.model_fields} <= found

    def test_other_files_have_none_that_fails(self, tmp_path: Path) -> None:
        for name in known_chips():
            load(tmp_path, OFF.sub(r"\1", chip_text(name)))


class TestWhatDoesNothing:
    @pytest.mark.parametrize(
        ("section", "lines", "wanted"),
        [
            ("cells", ["weak_rows = 0.1"], "cells.weak_rows is given without weak_row_loss and would do nothing"),
            ("cells", ["weak_row_loss = 0.1"], "give weak_rows too, or leave weak_row_loss out"),
            ("cells", ["retention_spread = 0.1"], "without retention_loss"),
            ("noise", ["flicker_octaves = 12"], "noise.flicker_octaves is given without flicker_sigma"),
        ],
    )
    def test_a_key_without_what_it_acts_on_is_refused(
        self, section: str, lines: list[str], wanted: str, tmp_path: Path
    ) -> None:
        assert wanted in refused(tmp_path, with_lines(section, *lines))

    def test_so_are_noise_s_shape_without_noise_and_half_a_trim(self, tmp_path: Path) -> None:
        text = chip_text("sram65")
        quiet = re.sub(r"^(array|adc)_sigma = .*\n", "", text, flags=re.M)
        assert "noise.spread is given without array_sigma or adc_sigma or flicker_sigma" in refused(tmp_path, quiet)
        assert "adc.trim_bits" in refused(tmp_path, re.sub(r"^trim_step = .*\n", "", text, flags=re.M))
        assert "adc.trim_step" in refused(tmp_path, re.sub(r"^trim_bits = .*\n", "", text, flags=re.M))

    def test_so_is_a_trim_that_moves_nothing(self, tmp_path: Path) -> None:
        text = re.sub(r"^trim_step = .*$", "trim_step = 0.0", chip_text("sram65"), flags=re.M)
        assert "adc.trim_bits = 5 with adc.trim_step = 0: trim codes would move nothing" in refused(tmp_path, text)

    def test_range_divisors_are_numbers(self, tmp_path: Path) -> None:
        for value in ('[1, "4"]', "[1, 2.0]", "[true, 2]"):
            text = chip_text("sram65").replace("range_divisors = [1, 2, 4, 8]", f"range_divisors = {value}")
            assert "adc.range_divisors" in refused(tmp_path, text)

    def test_what_is_named_and_off_is_as_good_as_not_named(self, tmp_path: Path) -> None:
        for lines in (["weak_rows = 0"], ["weak_rows = 0.1", "weak_row_loss = 0"], ["retention_spread = 0.0"]):
            assert load(tmp_path, with_lines("cells", *lines)).cells.weak_row_loss == 0

    def test_a_spec_written_out_whole_is_read_again(self) -> None:
        for name in known_chips():
            assert ChipSpec.from_dict(load_chip(name).to_dict()) == load_chip(name)


class TestStuckCells:
    def test_chances_beyond_one_are_refused_with_both_names(self, tmp_path: Path) -> None:
        line = refused(tmp_path, with_lines("cells", "stuck_zero = 0.6", "stuck_full = 0.5"))
        assert "cells: stuck_zero = 0.6 and stuck_full = 0.5" in line and "add up to 1.1" in line

    @pytest.mark.parametrize("zero", [0.0, 0.1, 0.3, 0.7, 0.9, 1.0])
    def test_one_in_all_is_allowed(self, zero: float, tmp_path: Path) -> None:
        load(tmp_path, with_lines("cells", f"stuck_zero = {zero}", f"stuck_full = {1 - zero}"))


class TestMistypedKeys:
    @pytest.mark.parametrize(
        ("section", "line", "wanted"),
        [
            ("noise", "flicker_sgima = 0.1", "noise: unknown key 'flicker_sgima': did you mean 'flicker_sigma'"),
            ("noise", "sar_sigma = 0.1", "sar_sigma belongs in [adc]"),
            ("noise", "gain_sigma = 0.1", "gain_sigma belongs in [adc] or [supply]"),
            ("operating", 'description = "x"', "description belongs in the top of the file"),
            ("energy", "convertion = 1", "did you mean 'conversion'"),
            ("timing", "colour = 1", "known: conversion, digital_mac, io_byte, row_write, settle, source"),
        ],
    )
    def test_are_met_with_near_ones_and_all_of_the_section(
        self, section: str, line: str, wanted: str, tmp_path: Path
    ) -> None:
        assert wanted in refused(tmp_path, with_lines(section, line))

    def test_at_the_top_and_sections(self, tmp_path: Path) -> None:
        text = chip_text("sram65")
        assert "top of the file: unknown key 'nmae': did you mean 'name'? known: description, name" in refused(
            tmp_path, f'nmae = "x"\n{text}'
        )
        assert "top of the file: unknown key 'rows'" in refused(tmp_path, f"rows = 3\n{text}")
        assert "rows belongs in [array] or [operating]" in refused(tmp_path, f"rows = 3\n{text}")
        assert "unknown section 'celss': did you mean 'cells'" in refused(tmp_path, f"{text}\n[celss]\nir_drop = 0.1\n")

    def test_goes_before_the_key_that_is_missing_for_it(self, tmp_path: Path) -> None:
        text = chip_text("sram65").replace("feature_memory = ", "feature_memroy = ")
        assert "did you mean 'feature_memory'" in refused(tmp_path, text)

    def test_ends_a_command_with_exit_code_2_and_one_line(self, tmp_path: Path) -> None:
        path = tmp_path / "own.toml"
        for line, named in (("wak_rows = 0.1", "'weak_rows'"), ("weak_rows = 0.1", "weak_row_loss")):
            path.write_text(with_lines("cells", line), encoding="utf-8")
            run = CliRunner().invoke(cli, ["info", str(path), "--json"])
            assert run.exit_code == 2 and len(run.stderr.splitlines()) == 1
            assert named in json.loads(run.stdout)["error"]


def test_the_text_of_a_chip_is_its_file_and_others_are_named() -> None:
    for name in known_chips():
        assert chip_text(name) == (SPECS / f"{name}.toml").read_text(encoding="utf-8")
    with pytest.raises(InputError, match="did you mean 'sram65'"):
        chip_text("sram66")


@pytest.mark.parametrize("text", ["name = " + "[" * 5000, "schema = " + "9" * 5000])
def test_toml_that_breaks_its_reader_is_one_error(text: str, tmp_path: Path) -> None:
    path = tmp_path / "hostile.toml"
    path.write_text(text)
    with pytest.raises(InputError, match="hostile.toml"):
        load_chip(str(path))
