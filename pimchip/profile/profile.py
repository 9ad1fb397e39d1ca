"""Profile: a die as it was measured, read from a folder, immutable."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from pimchip.chip import AdcTables, ChipSpec, Mac
from pimchip.errors import InputError
from pimchip.profile import files
from pimchip.profile.comparison import Comparison, compare_points
from pimchip.profile.model import Counts, PointResult, Record
from pimchip.profile.tables import constant_codes, covering, find, serves, tables_of, unmodelled

NOISE_LEVEL = 0.01
"""Noise depends on the code where the test of that it does not has a smaller p-value."""


@dataclass(frozen=True, eq=False, kw_only=True)
class Profile(Record):
    """A measured die. hash: SHA-256 of its content but the date, hex. path: its folder."""

    hash: str
    path: Path

    @classmethod
    def load(cls, path: str | Path, *, serving: Sequence[Mac] = ()) -> Self:
        """Read a profile's folder, or the manifest.toml in it; of a die's folder, the profile that was measured last.

        serving: of a die's folder, the last one that measured all of these. Raises InputError naming a damaged or missing
        file, two profiles of which either may be the last, or what the last one lacks where none serves.
        """
        folder = Path(path)
        if folder.is_dir() and not (folder / files.MANIFEST).exists():
            folder = files.latest(folder, serving)
        return cls._of(*files.read(folder))

    @classmethod
    def save(cls, out: str | Path, record: Record, counts: Sequence[Counts]) -> Self:
        """Write OUT/<uid>/<date>-<hash8>/ and return it as a profile. An identical folder that is there is kept,
        but for the time it was measured last."""
        folder, digest = files.write(Path(out), record, counts)
        return cls._of(record, digest, folder)

    @classmethod
    def _of(cls, record: Record, digest: str, folder: Path) -> Self:
        return cls(
            uid=record.uid,
            spec=record.spec,
            temperature=record.temperature,
            seed=record.seed,
            created=record.created,
            method=record.method,
            points=record.points,
            supply=record.supply,
            age=record.age,
            measured=record.measured,
            health=record.health,
            array=record.array,
            bench=record.bench,
            validity=record.validity,
            models=record.models,
            hash=digest,
            path=folder,
        )

    def raw(self) -> tuple[Counts, ...]:
        """The counts behind each point, read and checked again; fitting them gives the points bit for bit."""
        return files.read_counts(self.path)

    def tables(self, mac: Mac, used: Collection[int] | None = None) -> AdcTables:
        """The measured converters at an operating point.

        A point serves every operating point of its scheme, rows, ADC bits and range divisor with as many DAC bits or
        fewer. A converter that gave one code at every level gives it for every sum. used: converters that will be asked,
        None for all. Raises InputError where no point serves, saying what to measure, where one of them was left out, or
        has no curve (see unmodelled).
        """
        return tables_of(self.points, mac, f"profile {self.path}", self._constants, used)

    def noise_shape(self, mac: Mac) -> tuple[float, float, float] | None:
        """a, b, c of how noise depends on the code at `mac` (see noise_by_sum); None where it does not, beyond chance, or where
        that was not measured there (`characterize --measure noise` does, at the first range)."""
        found = self.array.values.get("noise") if self.array is not None else None
        if not isinstance(found, Mapping) or not serves(self.points[0].mac, mac):
            return None
        try:
            a, b, c = (float(found[name]["value"]) for name in ("a", "b", "c"))
            depends = float(found["p"]) < NOISE_LEVEL
        except (KeyError, TypeError, ValueError):
            raise InputError(f"profile {self.path}: its noise against code is damaged: measure again") from None
        return (a, b, c) if depends and a + b / 2 + c / 3 > 0 else None

    def serving(self, mac: Mac) -> PointResult:
        """The measured point behind tables(mac). Raises InputError where none serves, saying what to measure, or where
        ADCs were left out."""
        return covering(self.points, mac, f"profile {self.path}")

    def unmodelled(self, mac: Mac) -> dict[int, tuple[str, ...]]:
        """Converters by number, with their flags, that tables(mac) has no curve for. Raises as serving(mac) does."""
        return unmodelled(self.serving(mac))

    def _constants(self, point: PointResult) -> dict[int, int]:
        return constant_codes(point, self.raw()[self.points.index(point)])

    def covers(self, mac: Mac) -> bool:
        """True where a measured point serves `mac`."""
        return find(self.points, mac) is not None

    def compare(self, other: Profile) -> Comparison:
        """Whether `other`, the later one, is of the same die, whether that has drifted, and which converters moved.

        Raises InputError for another kind of chip, and where no operating point was measured in both.
        """
        other.check_chip(self.spec)
        found = compare_points(self.spec, self.points, other.points, (self.trim, other.trim))
        if not found.points:
            raise InputError(
                f"profiles {self.path} and {other.path} have no operating point in common: measure both at one "
                "(pimchip characterize --adc-bits, --range-divisor)"
            )
        return found

    def check_chip(self, spec: ChipSpec) -> None:
        """Raise InputError unless this is a profile of a die of chip `spec`."""
        if self.spec_hash != spec.hash:
            raise InputError(f"profile {self.path} is of chip {self.chip}, not of {spec.name}; characterize that chip")

    def check_board(self, uid: str, spec: ChipSpec) -> None:
        """Raise InputError unless this is a profile of the die `uid`, or of the die whose twin it is, of chip `spec`."""
        if uid not in (self.uid, f"{self.uid}-twin"):
            raise InputError(
                f"profile {self.path} is of die {self.uid}; this board is die {uid}: "
                "characterize it (pimchip characterize --device ...) or name its profile"
            )
        if spec.hash != self.spec_hash:
            raise InputError(
                f"profile {self.path} is of chip {self.chip} ({self.spec_hash[:8]}); this board says "
                f"{spec.name} ({spec.hash[:8]}): "
                "characterize it again (pimchip characterize --device ...)"
            )
