"""Profiles on disk: what is written comes back bit for bit, and nothing damaged gets in."""

from __future__ import annotations

import hashlib
import io
import os
import re
import shutil
import tomllib
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pimchip.board import open_board
from pimchip.characterize import characterize, fit
from pimchip.chip import ChipSpec, Mac, load_chip
from pimchip.errors import InputError, PimchipWarning
from pimchip.profile import Profile, manifest
from pimchip.profile.model import RESULT_ARRAYS
from pimchip.profile.tables import _interpolate

REFERENCE = Path(__file__).resolve().parent.parent / "calibration_data/emu-sram65-97d42ebe-0000/2026-11-23-0ed811b1"
FILES = ("manifest.toml", "counts.npz", "result.npz")


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> Profile:
    folder = tmp_path_factory.mktemp("die")
    data = load_chip("sram65").to_dict()
    data["array"] |= {"macros": 1, "columns": 16}
    data["adc"] |= {"per_macro": 2, "range_divisors": [1, 2]}
    chip = folder / "chip.toml"
    chip.write_text(manifest.to_toml(data), encoding="utf-8")
    with open_board(f"emulator:{chip}?die=4") as board:
        return characterize(board, reads=8, out=folder / "out")


@pytest.fixture
def copy(measured: Profile, tmp_path: Path) -> Path:
    return Path(shutil.copytree(measured.path, tmp_path / "copy"))


def assert_same(a: Profile, b: Profile) -> None:
    assert (a.uid, a.spec, a.temperature, a.seed, a.created, dict(a.method), a.hash) == (
        b.uid, b.spec, b.temperature, b.seed, b.created, dict(b.method), b.hash,
    )  # fmt: skip
    assert (a.supply, a.age, a.measured) == (b.supply, b.age, b.measured)
    for p, q in zip(a.points, b.points, strict=True):
        assert (p.mac, p.flags, p.reads, p.cycles, p.levels, p.step) == (
            q.mac,
            q.flags,
            q.reads,
            q.cycles,
            q.levels,
            q.step,
        )
        for name in RESULT_ARRAYS:
            assert getattr(p, name).tobytes() == getattr(q, name).tobytes(), name


def reseal(folder: Path, change: tuple[str, str] | None = None) -> None:
    """Make the manifest agree with what the files are now, as someone who knows the format would."""
    text = (folder / "manifest.toml").read_text(encoding="utf-8").rsplit("# manifest_sha256", 1)[0]
    for name in FILES[1:]:
        if (folder / name).exists():
            data = (folder / name).read_bytes()
            entry = f'name = "{name}"\nbytes = {len(data)}\nsha256 = "{hashlib.sha256(data).hexdigest()}"'
            text = re.sub(rf'name = "{name}"\nbytes = \d+\nsha256 = "\w+"', entry, text)
    if change:
        assert change[0] in text
        text = text.replace(*change)
    (folder / "manifest.toml").write_text(manifest.seal(text), encoding="utf-8")


class TestRoundTrip:
    def test_what_is_written_is_read(self, measured: Profile) -> None:
        assert_same(measured, Profile.load(measured.path))
        assert_same(measured, Profile.load(measured.path / "manifest.toml"))
        assert_same(measured, Profile.load(str(measured.path)))

    def test_fitting_the_counts_of_the_file_gives_the_result_bit_for_bit(self, measured: Profile) -> None:
        for counts, point in zip(Profile.load(measured.path).raw(), measured.points, strict=True):
            again = fit(counts)
            assert again.flags == point.flags
            for name in RESULT_ARRAYS:
                assert getattr(again, name).tobytes() == getattr(point, name).tobytes(), name

    def test_the_folder_is_named_by_die_date_and_hash(self, measured: Profile) -> None:
        assert measured.path.name == f"{measured.created}-{measured.hash[:8]}"
        assert measured.path.parent.name == measured.uid
        assert sorted(p.name for p in measured.path.iterdir()) == sorted(FILES)
        assert [p.name for p in measured.path.parent.iterdir()] == [measured.path.name]

    def test_writing_the_same_again_keeps_what_is_there(self, measured: Profile) -> None:
        before = {p.name: p.stat().st_mtime_ns for p in measured.path.iterdir()}
        again = Profile.save(measured.path.parent.parent, measured, measured.raw())
        assert_same(again, measured)
        assert before == {p.name: p.stat().st_mtime_ns for p in measured.path.iterdir()}

    def test_a_damaged_folder_in_the_way_is_not_written_over(self, measured: Profile, tmp_path: Path) -> None:
        taken = Profile.save(tmp_path, measured, measured.raw()).path
        (taken / "counts.npz").write_bytes(b"")
        with pytest.raises(InputError, match="counts.npz"):
            Profile.save(tmp_path, measured, measured.raw())

    def test_arrays_cannot_be_changed(self, measured: Profile) -> None:
        with pytest.raises(ValueError, match="read-only"):
            measured.points[0].gain[0] = 2

    def test_a_twin_of_the_die_opens(self, measured: Profile, tmp_path: Path) -> None:
        chip = tmp_path / "chip.toml"
        chip.write_text(manifest.to_toml(measured.spec.to_dict()), encoding="utf-8")
        with open_board(f"emulator:{chip}?profile={measured.path}") as board:
            assert board.info().uid == f"{measured.uid}-twin"


class TestDamage:
    @pytest.mark.parametrize("name", FILES)
    def test_a_missing_file_is_named(self, copy: Path, name: str) -> None:
        (copy / name).unlink()
        with pytest.raises(InputError, match=rf"{re.escape(name)} is not there[:,] "):
            Profile.load(copy)

    @pytest.mark.parametrize("name", FILES)
    @pytest.mark.parametrize("share", [0.0, 0.3, 0.9, 1.0])
    def test_a_file_cut_short_is_named(self, copy: Path, name: str, share: float) -> None:
        data = (copy / name).read_bytes()
        (copy / name).write_bytes(data[: min(int(len(data) * share), len(data) - 1)])
        with pytest.raises(InputError, match=re.escape(name)):
            Profile.load(copy)

    @pytest.mark.parametrize("name", FILES)
    def test_a_flipped_bit_anywhere_is_found(self, copy: Path, name: str) -> None:
        data = (copy / name).read_bytes()
        for place in {0, 1, len(data) // 3, len(data) // 2, len(data) - 2, len(data) - 1}:
            (copy / name).write_bytes(data[:place] + bytes([data[place] ^ 4]) + data[place + 1 :])
            with pytest.raises(InputError, match=re.escape(name)):
                Profile.load(copy)

    def test_a_file_grown_is_refused_before_it_is_read(self, copy: Path) -> None:
        with (copy / "counts.npz").open("ab") as file:
            file.truncate(1 << 40)
        with pytest.raises(InputError, match="counts.npz is larger"):
            Profile.load(copy)

    def test_a_hand_edited_manifest_is_refused(self, copy: Path) -> None:
        path = copy / "manifest.toml"
        path.write_text(
            path.read_text(encoding="utf-8").replace("temperature = 25.0", "temperature = 85.0"), encoding="utf-8"
        )
        with pytest.raises(InputError, match="manifest.toml: was changed after it was written"):
            Profile.load(copy)

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            (("schema_version = 5", "schema_version = 7"), "schema version 7, this pimchip reads up to 6"),
            (("schema_version = 5", "schema_version = 1"), "0_drift is not expected"),
            (("supply = 1.0", "supply = 0.0"), "supply"),
            (("age = 0.0", "age = -1.0"), "age"),
            (("supply = 1.0\n", ""), "hash differs"),
            (('measured = "20', 'measured = "yesterday 20'), "measured"),
            (
                ("[method]", "[method]\nwhen = 2026-01-02T03:04:05Z"),
                "when is a datetime, and a manifest holds plain values",
            ),
            (("[method]", "[method]\nwhen = [[2026-01-02]]"), "when is a date, and a manifest holds plain values"),
            (("temperature = 25.0", "temperature = 85.0"), "hash differs"),
            (("temperature = 25.0", "temperature = nan"), "temperature"),
            (("temperature = 25.0", 'temperature = "warm"'), "temperature"),
            (("seed = 0", "seeds = 0"), "seed"),
            (("gain_sigma = 0.02", "gain_sigma = 0.03"), "chip description does not match"),
            (("levels = ", "levels = 1"), "is int64|want int64"),
            (("adc_bits = 7", "adc_bits = 99"), "adc_bits = 99"),
            (('name = "counts.npz"', 'name = "../counts.npz"'), "does not list counts.npz"),
        ],
    )
    def test_a_manifest_that_lies_is_refused(self, copy: Path, change: tuple[str, str], message: str) -> None:
        reseal(copy, change)
        with pytest.raises(InputError, match=message):
            Profile.load(copy)

    def test_an_array_of_objects_is_refused_without_unpickling(self, copy: Path) -> None:
        with np.load(copy / "result.npz", allow_pickle=False) as file:
            arrays = dict(file)
        arrays["0_gain"] = np.array([{"a": 1}, None], dtype=object)
        np.savez(copy / "result.npz", **arrays)
        reseal(copy)
        with pytest.raises(InputError, match="result.npz is damaged .*0_gain is object"):
            Profile.load(copy)

    @pytest.mark.parametrize(
        ("name", "value", "message"),
        [
            ("0_gain", np.array([np.inf, 1.0]), "gain holds values out of range"),
            ("0_gain", np.array([-1.0, 1.0]), "gain holds values out of range"),
            ("0_gain", np.ones(2, np.float32), "0_gain is float32"),
            ("0_gain", np.ones(3), r"0_gain is float64 \[3\]"),
            ("0_flags", np.array([1 << 20, 0], np.uint32), "flags holds values out of range"),
            ("0_noise_lsb", np.array([-1.0, 1.0]), "noise_lsb holds values out of range"),
            ("0_gain", np.array([1.0, 1.0]), "hash differs"),
            ("0_gain", None, "0_gain is missing"),
            ("extra", np.ones(2), "extra is not expected"),
        ],
    )
    def test_values_out_of_range_are_refused(
        self, copy: Path, name: str, value: np.ndarray | None, message: str
    ) -> None:
        with np.load(copy / "result.npz", allow_pickle=False) as file:
            arrays = dict(file) | {name: value}
        buffer = io.BytesIO()
        np.savez(buffer, **{k: v for k, v in arrays.items() if v is not None})
        (copy / "result.npz").write_bytes(buffer.getvalue())
        reseal(copy)
        with pytest.raises(InputError, match=message):
            Profile.load(copy)

    @pytest.mark.parametrize("change", ["reads", "codes", "levels"])
    def test_counts_that_cannot_be_are_refused(self, copy: Path, change: str) -> None:
        with np.load(copy / "counts.npz", allow_pickle=False) as file:
            arrays = dict(file)
        if change == "reads":
            arrays["0_histogram"][0, 3, 0] += 1
        elif change == "codes":
            arrays["0_base"][0, 3] = 500
        else:
            arrays["0_levels"][3] += 1
        np.savez(copy / "counts.npz", **arrays)
        reseal(copy)
        with pytest.raises(InputError, match="counts.npz: counts: "):
            Profile.load(copy)

    def test_nothing_there(self, tmp_path: Path) -> None:
        with pytest.raises(InputError, match="manifest.toml is not there: name a profile's folder"):
            Profile.load(tmp_path / "nowhere")


class TestUse:
    def test_another_die_is_refused(self, measured: Profile) -> None:
        measured.check_board(measured.uid, measured.spec)
        with pytest.raises(InputError, match=rf"is of die {measured.uid}; this board is die other: characterize it"):
            measured.check_board("other", measured.spec)
        with pytest.raises(InputError, match="this board says sram65"):
            measured.check_board(measured.uid, load_chip("sram65"))

    def test_a_wide_dac_serves_narrower_ones_and_other_weights(self, measured: Profile) -> None:
        spec = measured.spec
        wide, narrow = (measured.tables(spec.mac(dac_bits=bits)) for bits in (4, 1))
        # The sum v of 1-bit inputs and 15 v of 4-bit inputs are the same share of full scale.
        np.testing.assert_array_equal(narrow.transfer, wide.transfer[:, ::15])
        np.testing.assert_array_equal(measured.tables(spec.mac(weight_bits=8)).transfer, wide.transfer)

    @pytest.mark.parametrize(
        ("change", "hint"),
        [
            ({"adc_bits": 5}, "--adc-bits 5 --range-divisor 1"),
            ({"rows": 72}, "--adc-bits 7 --range-divisor 1"),
            ({"scheme": "native"}, "wanted native"),
        ],
    )
    def test_what_was_not_measured_is_refused_with_the_mend(
        self, measured: Profile, change: dict[str, object], hint: str
    ) -> None:
        mac = measured.spec.mac(**change)  # type: ignore[arg-type]
        assert not measured.covers(mac)
        with pytest.raises(InputError, match=rf"measured bit_serial.*{hint}"):
            measured.tables(mac)

    def test_the_transfer_goes_through_the_thresholds_and_on_with_the_gain(self) -> None:
        x, y = np.array([1.0, 2.0, 2.0, 4.0]), np.array([0.5, 1.5, 2.5, 3.5])
        u = np.array([-1.0, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0])
        np.testing.assert_allclose(_interpolate(u, x, y, 0.5), [-0.5, 0.5, 1.0, 2.5, 3.0, 3.5, 4.5])

    def test_counts_of_a_staircase_must_be_even(self, measured: Profile) -> None:
        counts = measured.raw()[0]
        assert counts.measured.all()
        assert counts.step == pytest.approx(counts.inputs[1] - counts.inputs[0])
        assert isinstance(counts.mac, Mac) and isinstance(measured.spec, ChipSpec)


def saved(measured: Profile, out: Path, seed: int, when: str | None, **changes: object) -> Profile:
    """The same measurement, said to be of another seed (so of another hash) and time."""
    record = replace(measured, seed=seed, measured=when, created=(when or "2026-01-02")[:10], **changes)
    return Profile.save(out, record, measured.raw())


class TestConditions:
    def test_supply_age_and_time_are_those_of_the_board_and_the_clock(self, measured: Profile, tmp_path: Path) -> None:
        assert (measured.supply, measured.age) == (1.0, 0.0)
        spec = measured.spec.to_dict()
        spec["supply"]["offset_sigma"], spec["cells"]["retention_loss"] = 0.5, 0.01
        chip = tmp_path / "chip.toml"
        chip.write_text(manifest.to_toml(spec), encoding="utf-8")
        before = datetime.now(UTC)
        with open_board(f"emulator:{chip}?die=4&supply=1.1&age=24&temperature=40") as board:
            found = characterize(board, points=[measured.spec.mac()], reads=8, out=tmp_path)
        assert (found.temperature, found.supply, found.age) == (40.0, 1.1, 24.0)
        assert found.measured is not None
        taken = datetime.fromisoformat(found.measured)
        assert before - timedelta(milliseconds=1) <= taken <= datetime.now(UTC)
        held = tomllib.loads((found.path / "manifest.toml").read_text(encoding="utf-8"))
        assert (held["schema_version"], held["supply"], held["age"]) == (5, 1.1, 24.0)
        assert_same(Profile.load(found.path), found)
        with open_board(f"emulator:{chip}?profile={found.path}") as twin:
            assert (twin.temperature(), twin.supply(), twin.age()) == (40.0, 1.1, 24.0)

    def test_conditions_are_part_of_the_hash_and_the_time_is_not(self, measured: Profile, tmp_path: Path) -> None:
        def digest(name: str, **changes: object) -> str:
            return Profile.save(tmp_path / name, replace(measured, **changes), measured.raw()).hash

        assert digest("time", measured="2026-01-02T03:04:05.678+00:00") == measured.hash
        assert len({digest("supply", supply=1.1), digest("age", age=1.0), measured.hash}) == 3

    def test_a_profile_of_version_1_loads_and_stays_one_when_fitted_again(self, tmp_path: Path) -> None:
        held = Profile.load(REFERENCE)
        assert "schema_version = 1" in (REFERENCE / "manifest.toml").read_text(encoding="utf-8")
        assert (held.supply, held.age, held.measured) == (None, None, None)
        assert held.hash.startswith(REFERENCE.name[-8:])
        again = Profile.save(tmp_path, held, held.raw())
        assert again.hash == held.hash
        assert (again.path / "manifest.toml").read_text(encoding="utf-8").startswith("schema_version = 1\n")


class TestTheLatest:
    TIMES = ("2026-03-01T23:59:59.999+00:00", "2026-03-02T00:00:00.000+00:00", "2026-03-02T00:00:00.001+00:00")

    def test_a_dies_folder_gives_what_was_measured_last_whatever_hashes_and_copying_say(
        self, measured: Profile, tmp_path: Path
    ) -> None:
        for shift in range(3):  # each time is once with each hash
            made = [saved(measured, tmp_path / str(shift), 10 + (i + shift) % 3, t) for i, t in enumerate(self.TIMES)]
            for age, profile in enumerate(made):  # the oldest was touched last
                os.utime(profile.path / "manifest.toml", (2e9 - age, 2e9 - age))
                os.utime(profile.path, (2e9 - age, 2e9 - age))
            die = made[0].path.parent
            assert Profile.load(die).path == made[2].path
            shutil.copytree(die, tmp_path / f"copy{shift}")
            assert Profile.load(tmp_path / f"copy{shift}").measured == self.TIMES[2]

    def test_what_is_unfinished_or_damaged_is_passed_over(self, measured: Profile, tmp_path: Path) -> None:
        good = saved(measured, tmp_path, 10, self.TIMES[0]).path
        later = saved(measured, tmp_path, 11, self.TIMES[2]).path
        shutil.copytree(later, later.with_name(".unfinished-x"))  # as a process that was killed leaves it
        (later / "manifest.toml").write_text((later / "manifest.toml").read_text() + "x")
        with pytest.warns(PimchipWarning, match="passed over: .*" + later.name):
            assert Profile.load(good.parent).path == good

    def test_the_time_of_an_identical_profile_moves_on_and_never_back(self, measured: Profile, tmp_path: Path) -> None:
        early, late = "2026-03-01T08:00:00.000+00:00", "2026-03-01T09:00:00.000+00:00"
        path = saved(measured, tmp_path, 10, early).path
        saved(measured, tmp_path, 11, "2026-03-01T08:30:00.000+00:00")
        assert Profile.load(path.parent).seed == 11
        assert saved(measured, tmp_path, 10, late).path == path
        assert Profile.load(path.parent).seed == 10
        assert Profile.load(path).measured == late
        saved(measured, tmp_path, 10, early)
        assert Profile.load(path).measured == late
        assert sorted(p.name for p in path.iterdir()) == sorted(FILES)
        assert len(list(path.parent.iterdir())) == 2

    def test_a_date_alone_is_the_beginning_of_its_day(self, measured: Profile, tmp_path: Path) -> None:
        old = saved(measured, tmp_path, 10, None, supply=None, age=None)
        assert Profile.load(old.path.parent).seed == 10
        saved(measured, tmp_path, 11, "2026-01-02T00:00:00.000+00:00")
        saved(measured, tmp_path, 12, "2026-01-01T23:59:59.999+00:00")
        assert Profile.load(old.path.parent).seed == 11

    def chip(self, measured: Profile, folder: Path) -> Path:
        path = folder / "chip.toml"
        path.write_text(manifest.to_toml(measured.spec.to_dict()), encoding="utf-8")
        return path

    def test_the_last_one_that_measured_what_is_wanted_is_taken(self, measured: Profile, tmp_path: Path) -> None:
        mac = measured.points[0].mac
        old = saved(measured, tmp_path, 10, self.TIMES[0])
        finer = replace(mac, adc_bits=6)
        with open_board(f"emulator:{self.chip(measured, tmp_path)}?die=4") as board:
            later = characterize(board, points=[finer], reads=8, out=tmp_path)
        die = old.path.parent
        assert Profile.load(die).path == later.path == Profile.load(die, serving=[finer]).path
        narrower = replace(mac, dac_bits=1)  # which a curve of a wider DAC serves
        assert Profile.load(die, serving=[mac]).path == Profile.load(die, serving=[narrower, mac]).path == old.path
        with pytest.raises(InputError, match=f"none of its 2 profiles .* latest, {later.path.name}, lacks .*ADC 7 b"):
            Profile.load(die, serving=[mac, finer])
        with pytest.raises(InputError, match="it holds profiles of " + die.name):
            Profile.load(tmp_path)

    @pytest.mark.parametrize("time", ["2026-13-01T08:00:00.000+00:00", "2026-02-30T08:00:00.000+00:00"])
    def test_a_time_that_no_calendar_has_is_refused(self, measured: Profile, tmp_path: Path, time: str) -> None:
        path = saved(measured, tmp_path, 10, self.TIMES[0]).path
        reseal(path, (self.TIMES[0], time))
        with pytest.raises(InputError, match="manifest.toml: measured: "):
            Profile.load(path)

    def test_two_that_may_both_be_the_last_are_refused_by_name(self, measured: Profile, tmp_path: Path) -> None:
        places = [saved(measured, tmp_path, seed, None, supply=None, age=None).path for seed in (10, 11)]
        with pytest.raises(InputError, match="both say that they are of 2026-01-02; name the one you mean") as caught:
            Profile.load(places[0].parent)
        assert all(place.name in str(caught.value) for place in places)


plain = st.recursive(
    st.booleans()
    | st.integers(-(1 << 63), (1 << 63) - 1)
    | st.floats(allow_nan=False)
    | st.text(st.characters(exclude_categories=["Cs"])),
    lambda inner: st.dictionaries(st.text(st.characters(exclude_categories=["Cs"])), inner, max_size=4),
    max_leaves=12,
)


@given(
    st.dictionaries(
        st.text(st.characters(exclude_categories=["Cs"])),
        plain | st.lists(st.integers(0, 9) | st.floats(0, 1)),
        max_size=5,
    )
)
def test_toml_reads_back_as_it_was(data: dict[str, object]) -> None:
    assert tomllib.loads(manifest.to_toml(data)) == data


@given(st.binary(max_size=200))
def test_no_bytes_break_the_manifest_reader(data: bytes) -> None:
    with pytest.raises(InputError):
        manifest.unseal(data)
