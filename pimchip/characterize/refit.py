"""Fit a profile's raw counts again, or counts that were taken elsewhere and stored as a profile."""

from __future__ import annotations

from pathlib import Path

from pimchip.characterize.fit import fit
from pimchip.characterize.taken import profile_of_counts
from pimchip.profile import Profile, Record


def refit(source: Path, out: Path) -> Profile:
    """Read a profile's counts, or a file of counts taken elsewhere (taken.py), fit them with this version's estimators and
    write the result under `out`."""
    if source.suffix == ".npz":
        return profile_of_counts(source, out)
    held = Profile.load(source)
    counts = held.raw()
    record = Record(
        uid=held.uid,
        spec=held.spec,
        temperature=held.temperature,
        seed=held.seed,
        created=held.created,
        method=dict(held.method),
        points=tuple(fit(c) for c in counts),
        supply=held.supply,
        age=held.age,
        measured=held.measured,
        health=held.health,
        array=held.array,
        bench=held.bench,
    )
    return Profile.save(out, record, counts)
