"""Fit a profile's raw counts again, or counts that were taken elsewhere and stored as a profile."""

from __future__ import annotations

from pathlib import Path

from pimchip.characterize.fit import fit
from pimchip.characterize.ladder import models_of
from pimchip.characterize.taken import profile_of_counts
from pimchip.profile import Profile, Record


def refit(source: Path, out: Path, *, models: bool = False, seed: int = 0) -> Profile:
    """Read a profile's counts, or a file of counts taken elsewhere (taken.py), fit them with this version's estimators and
    write the result under `out`. models: fit the ladder of models too and keep what comes of it; seed: of its held-out reads."""
    if source.suffix == ".npz":
        return profile_of_counts(source, out, models=models, seed=seed)
    held = Profile.load(source)
    counts = held.raw()
    points = tuple(fit(c) for c in counts)
    record = Record(
        uid=held.uid,
        spec=held.spec,
        temperature=held.temperature,
        seed=held.seed,
        created=held.created,
        method=dict(held.method),
        points=points,
        supply=held.supply,
        age=held.age,
        measured=held.measured,
        health=held.health,
        array=held.array,
        bench=held.bench,
        validity=held.validity,
        models=models_of(points, counts, seed) if models else None,
    )
    return Profile.save(out, record, counts)
