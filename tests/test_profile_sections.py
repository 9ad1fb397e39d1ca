"""What a profile says of where it holds and of what its curves are made of, and what a measurement goes on from."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from planted import board_of, small

from pimchip.board.conditions import differences
from pimchip.board.inprocess import InProcessBoard
from pimchip.characterize import characterize, refit
from pimchip.cli.main import cli
from pimchip.errors import InputError
from pimchip.profile import Profile
from pimchip.profile.validity import Validity


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Profile:
    spec = small("sram65")
    with board_of(spec, 5) as board:
        return characterize(
            board, points=[spec.mac()], half_width=0.2, out=tmp_path_factory.mktemp("cal"), models=True, valid_days=30
        )


class TestValidity:
    def test_is_stated_kept_and_covered_by_the_hash(self, kept: Profile, tmp_path: Path) -> None:
        again = Profile.load(kept.path)
        assert again.validity == kept.validity == Validity((20.0, 30.0), (0.99, 1.01), (0.0, 0.259), 30.0)
        other = replace(kept.validity, temperature=(0.0, 85.0))
        wider = Profile.save(tmp_path, replace(kept, validity=other), kept.raw())
        assert wider.hash != kept.hash and Profile.load(wider.path).validity == other

    def test_each_condition_outside_is_told_and_none_inside(self) -> None:
        holds = Validity((20.0, 30.0), (0.99, 1.01), (0.0, 0.259), 30.0)
        measured = datetime(2026, 1, 1, tzinfo=UTC)
        inside = holds.outside(20.0, 1.01, 0.2, measured.isoformat(), measured + timedelta(days=29))
        assert inside == []
        assert holds.outside(25.0, None, None, None) == []
        told = holds.outside(19.9, 1.011, 1.0, measured.isoformat(), measured + timedelta(days=31))
        assert [text.split(",")[0] for text in told] == [
            "the die is at 19.9 °C",
            "the die's supply is 1.011 V",
            "the die's cells have the age of 1 hours",
            "the profile was measured 31.0 days ago",
        ]

    def test_a_stated_range_goes_before_the_usual_one(self, kept: Profile, tmp_path: Path) -> None:
        assert kept.validity is not None
        wide = replace(kept.validity, temperature=(0.0, 85.0), days=None)
        profile = Profile.save(tmp_path, replace(kept, validity=wide), kept.raw())
        with board_of(small("sram65"), 5, temperature=80.0) as board:
            assert differences(board, profile) == []
            assert len(differences(board, kept)) == 1

    @pytest.mark.parametrize(
        "wrong",
        [
            {"temperature_celsius": [30.0, 20.0]},
            {"temperature_celsius": [1.0]},
            {"supply_volts": "1"},
            {"days": -1.0},
            {"more": 1},
        ],
    )
    def test_what_is_no_range_is_refused(self, wrong: dict[str, Any]) -> None:
        good = Validity((20.0, 30.0), (0.99, 1.01), (0.0, 0.259)).to_dict()
        with pytest.raises(InputError, match="validity"):
            Validity.of(good | wrong)


class TestModels:
    def test_are_kept_and_shown(self, kept: Profile) -> None:
        held = Profile.load(kept.path).models
        assert held is not None and len(held) == 1
        assert held[0]["chosen"] in ("master", "residual", "table", "sar", "line")
        assert {"line", "master", "residual", "sar", "table"} == set(held[0]["held_out_loss"])
        said = CliRunner().invoke(cli, ["info", str(kept.path), "--json"])
        assert said.exit_code == 0, said.stderr
        found = json.loads(said.stdout)["models"]
        assert [each["chosen"] for each in found.values()] == [held[0]["chosen"]]

    def test_a_refit_gives_the_same_and_none_unless_asked(self, kept: Profile, tmp_path: Path) -> None:
        again = refit(kept.path, tmp_path / "a", models=True)
        assert again.models == Profile.load(kept.path).models and again.hash == kept.hash
        plain = refit(kept.path, tmp_path / "b")
        assert plain.models is None and plain.validity == kept.validity


class TestGoingOn:
    """A board that cannot tell its supply: the bench's setting tells measurements apart."""

    def test_another_setting_of_the_bench_begins_anew(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        spec = small("sram65", array={"macros": 2}, supply={"offset_sigma": 20.0})
        monkeypatch.setattr(InProcessBoard, "supply", lambda self: None)

        def bench(volts: float) -> Callable[[], dict[str, Any]]:
            return lambda: {"bench": "b", "supply": volts + 1e-4, "rails": {"analog": {"on": True, "set_volts": volts}}}

        def run(volts: float, out: Path, stop: bool = False) -> Profile:
            def progress(done: int, total: int) -> None:
                if stop:
                    raise KeyboardInterrupt

            with board_of(spec, 5, supply=volts) as board:
                points = [spec.mac()]
                return characterize(
                    board, points=points, half_width=0.2, out=out, bench=bench(volts), progress=progress
                )

        with pytest.raises(KeyboardInterrupt):
            run(1.0, tmp_path / "a", stop=True)
        assert any((tmp_path / "a" / ".unfinished").iterdir())
        other, fresh = run(1.1, tmp_path / "a"), run(1.1, tmp_path / "b")
        assert other.supply == pytest.approx(1.1001)
        assert all(np.array_equal(a.histogram, b.histogram) for a, b in zip(other.raw(), fresh.raw(), strict=True))
        before = run(1.0, tmp_path / "a")  # goes on where it was cut, at its own setting
        assert not np.array_equal(before.raw()[0].histogram, other.raw()[0].histogram)
