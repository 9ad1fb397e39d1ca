"""What the studies share: results as JSON lines that a later run goes on from, and intervals over seeds."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from scipy.stats import t as student

Work = Callable[[], dict[str, Any]]


def run_cases(out: Path, seed: int, cases: Iterable[tuple[str, Work]], only: str = "") -> None:
    """Run every case whose result for this seed is not in the file yet; each returns what to note, "accuracy" with it.

    only: a word of the cases' names; "digital", which the others start from, runs whatever it is.
    """
    done = {(row["case"], row["seed"]) for row in rows(out)} if out.exists() else set()
    for case, work in cases:
        if (case, seed) in done or (only not in case and case != "digital"):
            continue
        start = time.perf_counter()
        found = work()
        noted = {"case": case, "seed": seed, "seconds": round(time.perf_counter() - start, 1), **found}
        with out.open("a") as file:
            file.write(json.dumps(noted) + "\n")
        print(seed, case, f"{100 * found['accuracy']:.2f}", file=sys.stderr, flush=True)


def rows(path: Path) -> list[dict[str, Any]]:
    """Every result noted in a file."""
    return [json.loads(line) for line in path.read_text().splitlines()]


def interval(values: list[float]) -> str:
    """Mean and 95 % interval over seeds, in per cent."""
    if len(values) < 2:
        return f"{100 * values[0]:.2f}"
    half = student.ppf(0.975, len(values) - 1) * stdev(values) / len(values) ** 0.5
    return f"{100 * mean(values):.2f} +- {100 * half:.2f}"
