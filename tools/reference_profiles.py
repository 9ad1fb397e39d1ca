"""Measures the profiles in calibration_data/ anew: python tools/reference_profiles.py [OUT]

What estimators give changes when they do; counts do not. Old folders are left for you to remove, and tests and pages that
name a folder by its hash want the new name. The profile of die 0 of sram65 is left alone: it is one of schema version 1,
which is written no more.
"""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
from pathlib import Path

from pimchip.chip.spec import chip_text

ROOT = Path(__file__).resolve().parent.parent
WORN = (
    ("^name = .*", 'name = "worn"'),
    ("^macros = .*", "macros = 1"),
    ("^# dead = .*", "dead = 0.05"),
    ("^# stuck_zero = .*", "stuck_zero = 1e-4"),
    (r"^# weak_row(s|_loss) = ([0-9.]*) .*", r"weak_row\1 = \2"),
    ("^# write_failure = .*", "write_failure = 1e-4"),
)
"""As docs/health.md makes worn.toml of sram65."""
OTHERS = {"charge-native": "4", "rram130-differential": "4", "cap-ram": "8"}
"""Chips and range divisors."""


def main() -> None:
    out = Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT / "calibration_data"
    for chip, divisor in OTHERS.items():
        characterize(f"emulator:{chip}?die=0", out, "--range-divisor", divisor, "--adcs", "0-3")
    with tempfile.TemporaryDirectory() as folder:
        text = chip_text("sram65")
        for pattern, value in WORN:
            text = re.sub(pattern, value, text, flags=re.M)
        path = Path(folder) / "worn.toml"
        path.write_text(text, encoding="utf-8")
        characterize(f"emulator:{path}?die=1", out, "--range-divisor", "1", "--health")


def characterize(device: str, out: Path, *options: str) -> None:
    command = [sys.executable, "-m", "pimchip", "characterize", "--device", device, "--out", str(out), *options]
    done = subprocess.run(command, check=False)
    if done.returncode > 1:  # a die with flags or faults gives 1
        raise SystemExit(done.returncode)


if __name__ == "__main__":
    main()
