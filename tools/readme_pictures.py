"""Draw the README's pictures again from a run of the demo: python tools/readme_pictures.py"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

from pimchip.workflows.demo import run_demo
from pimchip.workflows.demo_report import bars, curves

PICTURES = Path(__file__).resolve().parent / "pictures"


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        story = run_demo(Path(folder), 0)
    PICTURES.mkdir(exist_ok=True)
    (PICTURES / "accuracy.svg").write_text(str(bars(story).svg), encoding="utf-8")
    (PICTURES / "curves.svg").write_text(str(curves(story).svg), encoding="utf-8")


if __name__ == "__main__":
    main()
