"""How the demo's figures spread over dies and seeds.

    python tools/demo_spread.py [--dies 10] [--seeds 0 1 2]

Trains the demo's two networks once a seed and puts both on every die. Prints a row a die, then mean and range.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

from pimchip.workflows.demo import ideal_accuracy, train_networks, try_die

COLUMNS = ("direct", "direct + BN", "PIM-QAT", "PIM-QAT + BN", "predicted")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dies", type=int, default=10)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    arguments = parser.parse_args()
    rows: list[list[float]] = []
    for seed in arguments.seeds:
        networks = train_networks(seed, lambda what, done, total: None)
        digital, pim = (ideal_accuracy(n, networks.data).value for n in (networks.digital, networks.pim))
        print(f"seed {seed}: digital {100 * digital:.1f} %, PIM-QAT on ideal converters {100 * pim:.1f} %", flush=True)
        print(f"{'die':>6} " + " ".join(f"{c:>13}" for c in COLUMNS))
        for die in range(arguments.dies):
            with tempfile.TemporaryDirectory() as folder:
                found = try_die(networks, die, seed, Path(folder), lambda what, done, total: None)
            results = (
                found.direct.before, found.direct.after, found.deployed.before, found.deployed.after, found.deployed.predicted
            )  # fmt: skip
            rows.append([100 * r.value for r in results if r is not None])
            print(f"{die:>6} " + " ".join(f"{v:>13.1f}" for v in rows[-1]), flush=True)
    for name, values in zip(COLUMNS, zip(*rows, strict=True), strict=True):
        print(
            f"{name}: mean {statistics.mean(values):.1f} %, {min(values):.1f} to {max(values):.1f} over {len(values)} runs"
        )


if __name__ == "__main__":
    main()
