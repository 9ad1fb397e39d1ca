"""Write pimchip/chip/gauss_table.npy: quantiles of |Z| on an octave grid, for pimchip.chip.gauss.

python tools/generate_gauss.py [--check]      --check: fail if the file differs from what would be written
"""

from __future__ import annotations

import io
import sys
from pathlib import Path

import numpy as np
from scipy.special import ndtri

TARGET = Path(__file__).resolve().parent.parent / "pimchip" / "chip" / "gauss_table.npy"
OCTAVES, SEGMENTS = 24, 64


def table() -> np.ndarray:
    """uint32 [1536]: z at each segment's start in 2^-16 (20 bits), and its fall to the next start (12 bits)."""
    octave, segment = np.divmod(np.arange(OCTAVES * SEGMENTS + 1), SEGMENTS)
    odds = 2.0**octave * (1 + segment / SEGMENTS)  # P(|Z| > z) = odds / 2^24
    z16 = np.rint(-ndtri(odds / 2.0**25) * 65536).astype(np.int64)
    fall = z16[:-1] - z16[1:]
    if fall.min() < 0 or fall.max() >= 1 << 12 or z16.max() >= 1 << 20:
        raise SystemExit("the quantiles do not fit their fields")
    return ((z16[:-1] << 12) | fall).astype(np.uint32)


def main() -> None:
    buffer = io.BytesIO()
    np.save(buffer, table(), allow_pickle=False)
    if "--check" not in sys.argv:
        TARGET.write_bytes(buffer.getvalue())
    elif TARGET.read_bytes() != buffer.getvalue():
        raise SystemExit(f"{TARGET.name} differs from what {Path(__file__).name} writes: run it and commit the file")


if __name__ == "__main__":
    main()
